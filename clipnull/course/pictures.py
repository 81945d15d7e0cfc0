"""The pictures of a lesson that can be read, and their embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.loading import load_images
from ..embedding import embed, readable
from ..errors import names
from ..images import Images
from ..models import Clip

if TYPE_CHECKING:
    from .lesson import Lesson


def open_pictures(
    clip: Clip,
    data: str = "",
    classes: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
    min_domains: int = 2,
    min_pictures: int = 2,
    split: str | None = None,
) -> tuple[Images, Tensor]:
    """The pictures of `data`, by default miniworld, and their embeddings (n, d).

    Broken pictures are named in a warning and left out. classes, domains: names that the lesson works with. Raises
    ValueError, before anything is embedded, for an unknown name, for fewer than `min_domains` domains, and for fewer
    than `min_pictures` of what is named, or of a class where nothing is.
    """
    images = load_images(data or None, split)
    if len(images.vocabulary.domains) < min_domains:
        raise ValueError(f"data: {data!r} has one domain; expected two or more, in folders <domain>/<class>/*")
    for kind, wanted in (("classes", classes), ("domains", domains)):
        if wanted:
            names(kind, wanted, getattr(images.vocabulary, kind))
    counts = images.select(classes, domains).counts().sum(1 if not (classes or domains) else None)
    if counts.min() < min_pictures:
        what = " in ".join(", ".join(part) for part in (classes, domains) if part) or "a class"
        raise ValueError(f"data: {int(counts.min())} pictures of {what}; expected at least {min_pictures}")
    return embed_whole(clip, images)


def embed_whole(clip: Clip, images: Images) -> tuple[Images, Tensor]:
    """The pictures that can be read, and their embeddings (n, d). Broken ones are named in a warning and left out."""
    whole, (z,) = readable(images, embed(clip, images))
    if len(whole) < len(images):
        print(f"{len(images) - len(whole)} of {len(images)} pictures are broken and left out; a warning names them.")
    return whole, z


def labelled_pictures(lesson: "Lesson", data: str) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """What may be fitted to, (embeddings (m, d), classes, domains), and which of the lesson's n pictures measure.

    Those of miniworld's train split, and all; of other `data`, a random half of each cell, and the rest.
    """
    images, z = lesson.images, lesson.z
    first = images.halves(lesson.seed) if data else torch.zeros(len(z), dtype=torch.bool)
    if data:
        images, z = images.where(first), z[first]
    else:
        images, z = open_pictures(lesson.clip, split="train")
    return (F.normalize(z.double(), dim=-1), images.classes, images.domains), ~first
