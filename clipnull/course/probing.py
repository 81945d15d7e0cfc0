"""Labelled pictures and a fast linear probe for lesson 09.

`audits.probes.linear_probe` is more careful but too slow for the lesson, which fits about a hundred probes.
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
    linear_model = import_extra("sklearn.linear_model", "course")
    model_selection = import_extra("sklearn.model_selection", "course")


def labelled_pictures(lesson: Lesson, data: str) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Return training data (embeddings (m, d), classes, domains) and the mask (n,) of the lesson's test pictures.

    For miniworld, train on its train split and test on all pictures. For other `data`, split each (class, domain) cell
    into random halves.
    """
    if data:
        train = lesson.images.halves(lesson.seed)
        images, z = lesson.images.where(train), lesson.z[train]
    else:
        train, images = torch.zeros(len(lesson.z), dtype=torch.bool), load_images(split="train")
        z = F.normalize(embed(lesson.clip, images).double(), dim=-1)
    return (z, images.classes, images.domains), ~train


def probe(z: Tensor, positive: Tensor, families: Sequence[str]) -> Tensor:
    """Predict `positive` for each picture with a linear classifier fitted to other families, in five folds: (n,) bool.

    z: embeddings (n, d). positive: labels (n,) bool, weighted to balance. families: the family of each picture.
    """
    x = z.float().numpy()
    classifier = linear_model.RidgeClassifier(0.1 * len(x) * x.var(0).mean(), class_weight="balanced")
    folds = model_selection.GroupKFold(5)
    predictions = model_selection.cross_val_predict(classifier, x, positive.numpy(), groups=families, cv=folds)
    return torch.from_numpy(predictions)
