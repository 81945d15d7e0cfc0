"""The pictures of a lesson that can be read, and their embeddings."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.loading import load_images
from ..embedding import embed, readable
from ..images import Images
from ..models import Clip


def embed_whole(clip: Clip, images: Images) -> tuple[Images, Tensor]:
    """The pictures that can be read, and their embeddings (n, d). Broken ones are named in a warning and left out."""
    whole, (z,) = readable(images, embed(clip, images))
    if len(whole) < len(images):
        print(f"{len(images) - len(whole)} of {len(images)} pictures are broken and left out; a warning names them.")
    return whole, z


def labelled_pictures(lesson: Any, data: str) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """What may be fitted to, (embeddings (m, d), classes, domains), and which of the n pictures of a `Lesson` measure.

    Those of miniworld's train split, and all; of other `data`, a random half of each cell, and the rest.
    """
    images, z = lesson.images, lesson.z
    first = images.halves(lesson.seed) if data else torch.zeros(len(z), dtype=torch.bool)
    if data:
        images, z = images.where(first), z[first]
    else:
        images, z = embed_whole(lesson.clip, load_images(split="train"))
    return (F.normalize(z.double(), dim=-1), images.classes, images.domains), ~first
