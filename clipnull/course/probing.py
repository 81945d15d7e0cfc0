"""What lesson 09 fits to labels: which pictures it may use, and a quick linear probe.

`audits.probes.linear_probe` is the slow one by the book; the lesson needs a hundred.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.loading import load_images
from ..embedding import embed
from ..errors import import_extra
from .lesson import Lesson

if TYPE_CHECKING:
    from sklearn import linear_model, model_selection
else:
    linear_model, model_selection = (
        import_extra(f"sklearn.{x}", "course") for x in ("linear_model", "model_selection")
    )


def labelled_pictures(lesson: Lesson, data: str) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """What may be fitted to, (embeddings (m, d), classes, domains), and which of the n pictures of a lesson measure.

    Those of miniworld's train split, and all; of other `data`, a random half of each cell, and the rest.
    """
    if data:
        first = lesson.images.halves(lesson.seed)
        images, z = lesson.images.where(first), lesson.z[first]
    else:
        first, images = torch.zeros(len(lesson.z), dtype=torch.bool), load_images(split="train")
        z = F.normalize(embed(lesson.clip, images).double(), dim=-1)
    return (z, images.classes, images.domains), ~first


def probe(z: Tensor, positive: Tensor, families: Sequence[str]) -> Tensor:
    """What a linear readout says of each picture, fitted to four fifths of the families without its own: (n,) bool.

    z: (n, d). positive: (n,) bool; positives and the rest weigh the same. families: of the n pictures.
    """
    x = z.float().numpy()
    readout = linear_model.RidgeClassifier(0.1 * len(x) * x.var(0).mean(), class_weight="balanced")
    folds = model_selection.GroupKFold(5)
    says = model_selection.cross_val_predict(readout, x, positive.numpy(), groups=families, cv=folds)
    return torch.from_numpy(says)
