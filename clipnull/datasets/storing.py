"""Write a file of embeddings (`clipnull.stored`): one machine with a CLIP serves all that have none."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import printable
from ..files import written
from ..images import Images
from ..models import Clip, open_clip
from ..prompts import embed_cells, embed_classes, embed_domains, embed_forms, kept_names
from ..prototypes import cell_prototypes
from ..stored import SUFFIX
from ..vocabulary import TEMPLATES, Vocabulary, format_prompt, words
from .layouts import pictures, scan
from .shards import embed_shards


def store(
    clip: Clip,
    images: Images,
    path: str | Path,
    other: str | Path | None = None,
    prototypes: bool = True,
    progress: bool = True,
    note: str = "",
) -> Path:
    """Write the embeddings of `images` and of their names into a file that `load` and `load_images` take.

    Embeddings stay in shards in the cache folder (`clipnull.datasets.shards`): the same call goes on from there, and
    another one with the same model and pictures uses them.

    clip: with an encoder, and without edits. images: broken ones are left out with a warning; the file names the files
    of all rows (`files`) and of these (`dropped`), from the folder that holds them all. path: ends in ".npz";
    appears whole or not at all. other: a folder of unrelated pictures, in any layout, on which collateral damage is
    measured. prototypes: synthesize one for each cell, which takes a second or so each on two cores with miniclip,
    minutes with a ViT-L. note: added to what the file says of itself. Returns `path`.
    """
    path, vocabulary = Path(path), images.vocabulary
    if path.suffix != SUFFIX:
        raise ValueError(f"path: {str(path)!r} does not end in {SUFFIX}; expected a NumPy archive")
    unrelated = None if other is None else _pictures_below(Path(other), vocabulary)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):  # else the error would come after hours
        pass
    embeddings = embed_shards(clip, images, progress="pictures" if progress else "")
    whole, names = embeddings.whole.numpy(), np.array(_names(images.files))
    fields = _texts(clip, vocabulary) | {
        "images": torch.cat([*embeddings.chunks()])[embeddings.whole],
        "files": names[whole],
        "classes": np.array(vocabulary.classes)[images.classes.numpy()[whole]],
        "domains": np.array(vocabulary.domains)[images.domains.numpy()[whole]],
        "model": clip.name,
        "fingerprint": clip.fingerprint,
        "note": f"build: {'; '.join(TEMPLATES['build'])}. free: {'; '.join(TEMPLATES['free'])}. {note}".rstrip(". "),
        "dropped": None if whole.all() else names[~whole],
        "pretrained": clip.pretrained,
    }
    if unrelated is not None:
        others = embed_shards(clip, unrelated, progress="unrelated pictures" if progress else "")
        rows = torch.cat([*others.chunks()])[others.whole]
        fields |= {"other_images": rows, "image_mean": rows.double().mean(0).float()}
    if prototypes:
        made = cell_prototypes(clip, vocabulary, progress=progress)
        fields |= {"prototypes": made.embeddings, "prototype_mask": made.mask}
    arrays: Any = {name: np.asarray(value) for name, value in fields.items() if value is not None}
    with written(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return path


def _texts(clip: Clip, vocabulary: Vocabulary) -> dict[str, Any]:
    other, common = unrelated_words(vocabulary), kept_names(clip)
    return {
        "class_names": vocabulary.classes,
        "domain_names": vocabulary.domains,
        "texts_build": embed_cells(clip, vocabulary),
        "texts_free": embed_classes(clip, vocabulary.names),
        "texts_domain": embed_cells(clip, vocabulary, "domain"),
        "texts_forms": embed_forms(clip, vocabulary),
        "domain_texts": embed_domains(clip, vocabulary.domains),
        "other_names": other,
        "other_texts": embed_classes(clip, other),
        "common_names": common,
        "common_texts": clip.embed_texts([format_prompt("{a}", name) for name in common]),
    }


def unrelated_words(vocabulary: Vocabulary) -> list[str]:
    """ImageNet's names, as open_clip has them, but for those that hold the name of a class or are held by it."""
    classes = [f" {words(name)} " for name in vocabulary.classes]
    names = dict.fromkeys(words(name) for name in open_clip.IMAGENET_CLASSNAMES)
    return [name for name in names if not any(c in f" {name} " or f" {name} " in c for c in classes)]


def _names(files: Sequence[Path]) -> list[str]:
    """The paths of pictures in the folder that holds them all, with "/", as text that can be printed."""
    root = os.path.commonpath([file.parent for file in files])
    names = [Path(os.path.relpath(file, root)).as_posix() for file in files]
    return [name if printable(name) else ascii(name)[1:-1] for name in names]


def _pictures_below(folder: Path, vocabulary: Vocabulary) -> Images:
    """All pictures below `folder`, as if of the first cell: their labels are not used."""
    files = tuple(folder.joinpath(*path) for path in pictures(scan(folder)[0]))
    if not files:
        raise ValueError(f"other: {str(folder)!r} holds no pictures; expected a folder of them, in any layout")
    labels = torch.zeros(len(files), dtype=torch.int64)
    return Images(files, labels, labels, vocabulary)
