"""Write a file of embeddings (`clipnull.stored`): one machine with a CLIP serves all that have none."""

import hashlib
import json
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import Images
from .embedding import embed
from .files import written
from .models import Clip, open_clip
from .pictures import SUFFIXES
from .prompts import embed_cells, embed_classes, embed_domains, kept_names
from .prototypes import cell_prototypes
from .stored import SUFFIX
from .wording import TEMPLATES, Vocabulary, format_prompt, words

CHUNK = 1024
"""Pictures embedded between two files: what an interruption can cost."""


def store(
    clip: Clip,
    images: Images,
    path: str | Path,
    other: str | Path | None = None,
    prototypes: bool = True,
    progress: bool = True,
    note: str = "",
) -> Path:
    """Write all that `clip` makes of `images` and of their names into a file that `load` and `load_images` take.

    What is embedded is kept beside the file, in `<path>.partial`, until all is done: the same call goes on from there.

    Parameters
    ----------
    clip : Clip
        With an encoder, and without edits.
    images : Images
        Broken ones are left out with a warning.
    path : str or Path
        Ends in ".npz"; appears whole or not at all.
    other : str or Path, optional
        A folder of unrelated pictures, in any layout: those on which collateral damage is measured.
    prototypes : bool
        Synthesize one for each cell: a second or so each on two cores with miniclip, minutes with a ViT-L.
    progress : bool
        Standard error tells what is done.
    note : str
        Added to what the file says of itself.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        For an edited model or stored embeddings, another ending, and a folder without pictures.
    OSError
        If the file or the folder beside it cannot be written.
    """
    path = Path(path)
    clip.validate_encoder()
    if images.stored is not None:
        raise ValueError(f"images: embeddings of {len(images)} pictures are stored already; expected pictures")
    if clip.edits:
        raise ValueError(f"clip: it carries {len(clip.edits)} edits; expected the unedited model, clip.base")
    if path.suffix != SUFFIX:
        raise ValueError(f"path: {str(path)!r} does not end in {SUFFIX}; expected a NumPy archive")
    unrelated = None if other is None else _pictures(Path(other), images.vocabulary)
    partial = path.with_name(path.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    z = in_chunks(clip, images, partial, "pictures", progress)
    kept = ~z.norm(dim=1).isnan()
    vocabulary = images.vocabulary
    made = {
        "images": z[kept],
        "classes": [vocabulary.classes[c] for c in images.classes[kept].tolist()],
        "domains": [vocabulary.domains[k] for k in images.domains[kept].tolist()],
        "class_names": vocabulary.classes,
        "domain_names": vocabulary.domains,
        "texts_build": embed_cells(clip, vocabulary),
        "texts_free": embed_classes(clip, vocabulary.names),
        "texts_domain": embed_cells(clip, vocabulary, "domain"),
        "domain_texts": embed_domains(clip, vocabulary.domains),
        "other_names": unrelated_words(vocabulary),
        "common_names": kept_names(clip),
        "model": clip.name,
        "fingerprint": clip.fingerprint,
        "note": f"build: {'; '.join(TEMPLATES['build'])}. free: {'; '.join(TEMPLATES['free'])}. {note}".rstrip(". "),
    }
    if clip.pretrained is not None:
        made["pretrained"] = clip.pretrained
    made["other_texts"] = embed_classes(clip, made["other_names"])
    made["common_texts"] = clip.embed_texts([format_prompt("{a}", name) for name in made["common_names"]])
    if unrelated is not None:
        rest = in_chunks(clip, unrelated, partial, "unrelated pictures", progress)
        made["other_images"] = rest[~rest.norm(dim=1).isnan()]
        made["image_mean"] = made["other_images"].mean(0)
    if prototypes:
        found = cell_prototypes(clip, vocabulary, progress=progress)
        made |= {"prototypes": found.embeddings, "prototype_mask": found.mask}
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in made.items()}
    with written(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    shutil.rmtree(partial)
    return path


def unrelated_words(vocabulary: Vocabulary) -> list[str]:
    """ImageNet's names, as open_clip has them, but for those that hold the name of a class or are held by it."""
    own = [words(name) for name in vocabulary.classes]
    found: dict[str, None] = {}
    for name in open_clip.IMAGENET_CLASSNAMES:
        said = words(name)
        if not any(f" {mine} " in f" {said} " or f" {said} " in f" {mine} " for mine in own):
            found.setdefault(said)
    return list(found)


def _pictures(folder: Path, vocabulary: Vocabulary) -> Images:
    """All pictures below `folder`, as if of the first cell: nobody asks what they show."""
    files = tuple(sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()))
    if not files:
        raise ValueError(f"other: {str(folder)!r} holds no pictures; expected a folder of them, in any layout")
    nowhere = torch.zeros(len(files), dtype=torch.int64)
    return Images(files, nowhere, nowhere, vocabulary)


def in_chunks(clip: Clip, images: Images, partial: Path, what: str, progress: bool) -> Tensor:
    """`embed`, with each chunk kept in `partial` under what it depends on: the model, and its files as they are."""
    start, done, chunks = time.time(), 0, []
    for first in range(0, len(images), CHUNK):
        place = torch.zeros(len(images), dtype=torch.bool)
        place[first : first + CHUNK] = True
        some = images.where(place)
        kept = partial / f"{_digest(clip, some.files)}.npy"
        if kept.is_file():
            z = torch.from_numpy(np.load(kept, allow_pickle=False))
        else:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                z = embed(clip, some)
            for warning in caught:
                warnings.warn(warning.message, stacklevel=3)
            with written(kept) as temporary, open(temporary, "wb") as file:
                np.save(file, z.numpy())
            done += len(some)
        chunks.append(z)
        if progress:
            rate = f", {done / (time.time() - start):.0f} a second" if done else ""
            print(f"embed: {first + len(some)} of {len(images)} {what}{rate}", file=sys.stderr, flush=True)
    return torch.cat(chunks)


def _digest(clip: Clip, files: Sequence[Path]) -> str:
    told = [clip.fingerprint, *([str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
