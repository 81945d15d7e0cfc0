"""Write files of embeddings (`clipnull.stored`), with which machines without a CLIP can run the course."""

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
    """Write the embeddings of `images` and of their names to a file for `load` and `load_images`; return `path`.

    Embeddings stay in the cache as `clipnull.datasets.shards`, so that a later call with the same model and pictures
    reuses them, even after an interruption.

    clip: a model with an encoder and without edits. images: broken ones are left out with a warning; the file lists the
    paths of used (`files`) and left-out (`dropped`) pictures, relative to their common folder. path: ends in ".npz";
    appears whole or not at all. other: a folder of unrelated pictures, in any layout, to measure collateral damage.
    prototypes: synthesize one per (class, domain) cell, about a second each on two cores with miniclip, minutes with a
    ViT-L. progress: show progress bars. note: text added to the description in the file.
    """
    path, vocabulary = Path(path), images.vocabulary
    if path.suffix != SUFFIX:
        raise ValueError(f"path: {str(path)!r} does not end in {SUFFIX}; expected a NumPy archive")
    unrelated = None if other is None else _pictures_below(Path(other), vocabulary)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):  # fail now rather than after hours
        pass
    shards = embed_shards(clip, images, progress="pictures" if progress else "")
    whole, names = shards.whole.numpy(), np.array(_names(images.files))
    fields = _embed_names(clip, vocabulary) | {
        "images": torch.cat([*shards.chunks()])[shards.whole],
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
        shards = embed_shards(clip, unrelated, progress="unrelated pictures" if progress else "")
        rows = torch.cat([*shards.chunks()])[shards.whole]
        fields |= {"other_images": rows, "image_mean": rows.double().mean(0).float()}
    if prototypes:
        cells = cell_prototypes(clip, vocabulary, progress=progress)
        fields |= {"prototypes": cells.embeddings, "prototype_mask": cells.mask}
    arrays: Any = {name: np.asarray(value) for name, value in fields.items() if value is not None}
    with written(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return path


def _embed_names(clip: Clip, vocabulary: Vocabulary) -> dict[str, Any]:
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
    """Return open_clip's ImageNet names, except those that contain a class name or are contained in one."""
    classes = [f" {words(name)} " for name in vocabulary.classes]
    names = dict.fromkeys(words(name) for name in open_clip.IMAGENET_CLASSNAMES)
    return [name for name in names if not any(c in f" {name} " or f" {name} " in c for c in classes)]


def _names(files: Sequence[Path]) -> list[str]:
    """Return the paths of pictures relative to their common folder, with "/" and escapes for unprintable text."""
    root = os.path.commonpath([file.parent for file in files])
    names = [Path(os.path.relpath(file, root)).as_posix() for file in files]
    return [name if printable(name) else ascii(name)[1:-1] for name in names]


def _pictures_below(folder: Path, vocabulary: Vocabulary) -> Images:
    """Load all pictures below `folder`, labelled as the first class and domain; the labels are not used."""
    files = tuple(folder.joinpath(*path) for path in pictures(scan(folder)[0]))
    if not files:
        raise ValueError(f"other: {str(folder)!r} holds no pictures; expected a folder of them, in any layout")
    labels = torch.zeros(len(files), dtype=torch.int64)
    return Images(files, labels, labels, vocabulary)
