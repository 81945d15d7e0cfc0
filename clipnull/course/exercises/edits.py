"""Exercises of notebooks 04 to 06: an edit of each paradigm, and how far it forgets."""

import math

import torch
from torch import Tensor

from ... import evaluate, subspace
from .registry import exercise, normal

# --- 04 global unlearning ----------------------------------------------------------------------------------------


@exercise(
    "04-1",
    lambda: [(normal(1, 3, 6, dtype=torch.float64), 1.0), (normal(2, 2, 5, dtype=torch.float64), 0.4)],
    "P has shape (d, d). The rows are neither orthogonal nor of length 1: take an orthonormal basis U (d, r) of "
    "their span first (clipnull.subspace.basis), then I - alpha U U^T",
)
def null_projector(rows: Tensor, alpha: float) -> Tensor:
    u = subspace.basis(rows)
    return torch.eye(rows.shape[1], dtype=rows.dtype) - alpha * u @ u.T


def _matrices() -> list[tuple]:
    nan = math.nan
    before = torch.tensor([[0.9, 0.5, nan], [0.8, 1.0, 0.6], [nan, 0.7, 0.9]], dtype=torch.float64)
    after = torch.tensor([[0.3, 0.4, nan], [0.9, 0.8, 0.6], [nan, 0.1, 0.9]], dtype=torch.float64)
    first, last = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    first[0] = last[1] = True
    return [(before, after, first), (before[1:], after[1:], last)]


@exercise(
    "04-2",
    _matrices,
    "take the forgotten cells with before[mask]; cells without pictures are NaN, so use nanmean; the rate is "
    "relative to the mean accuracy before: (mean before - mean after) / mean before",
)
def rate_of_forgetting(before: Tensor, after: Tensor, mask: Tensor) -> float:
    return float(evaluate.rates(before, after, mask)["forgetting_rate"])


# --- 05 selective unlearning -------------------------------------------------------------------------------------


@exercise(
    "05-1",
    lambda: [(normal(1, 4, 3, 6),), (2 + normal(2, 2, 5, 4),)],
    "the class mean is over axis 1, the domain mean over axis 0; both contain the common mean: add it once",
)
def own_part(texts: Tensor) -> Tensor:
    x = texts - texts.mean((0, 1))
    return x - x.mean(1, keepdim=True) - x.mean(0, keepdim=True)


@exercise(
    "05-2",
    lambda: [
        (normal(1, 6, 5), normal(2, 5, 3), normal(3, 5, 3), normal(4, 6, 3) > 0),
        (normal(5, 4, 7), normal(6, 7, 1), normal(7, 7, 1), normal(8, 4, 1) < 0),
    ],
    "z @ left is (n, r); negative readings and closed columns count as 0; what is subtracted is that @ right.T",
)
def act_if_open(z: Tensor, left: Tensor, right: Tensor, opened: Tensor) -> Tensor:
    return z - torch.where(opened, z @ left, 0.0).clamp(min=0) @ right.T


# --- 06 complete unlearning --------------------------------------------------------------------------------------


def _ways() -> list[tuple]:
    return [(0.9, 0.5, 10), (0.8, 0.02, 4), (0.5, 0.6, 2 + 3)]


@exercise("06-1", _ways, "chance is one in classes; the way gone is (before - after) / (before - chance), at most 1")
def way_to_chance(before: float, after: float, classes: int) -> float:
    return min(1.0, (before - after) / (before - 1 / classes))


@exercise(
    "06-2",
    lambda: [(normal(1, 5, 4), 10.0), (normal(2, 3, 7), 1.5)],
    "softmax over classes (dim 1) of scale * scores; entropy is -sum p log p; divide by the log of the number of "
    "classes",
)
def relative_entropy(scores: Tensor, scale: float) -> Tensor:
    p = (scale * scores).softmax(1)
    return -(p * p.log()).sum(1) / math.log(scores.shape[1])
