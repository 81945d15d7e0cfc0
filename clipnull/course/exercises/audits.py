"""Exercises of lessons 08 and 10: what remains, how sure a number is, and an edit in a file of weights."""

import torch
from torch import Tensor

from ... import evaluate
from ...audits.retrieval import retrieval_precision
from ...errors import import_extra
from .registry import double, exercise, normal

# --- 07 what remains


LENGTHS = torch.tensor([0.2, 5.0, 1.0, 3.0, 0.5, 2.0, 1.5, 0.1])[:, None]


@exercise(
    "07-1",
    [
        (LENGTHS * normal(1, 8, 3), torch.arange(8) % 2),
        (normal(2, 7, 4), torch.arange(7) // 3),
        (LENGTHS[:5] * normal(8, 5, 2), torch.tensor([0, 0, 1, 1, 1])),
    ],
    "cosines (n, n) need unit rows; each picture is nearest to itself, so exclude the diagonal; then compare "
    "labels[nearest], (n,), with labels",
)
def same_neighbour(features: Tensor, labels: Tensor) -> float:
    return float(retrieval_precision(features, labels, 1).mean())


@exercise(
    "07-2",
    [
        (normal(1, 9), torch.arange(9) % 3 == 0),
        (normal(2, 12).round(), torch.arange(12) < 5),
        (torch.tensor([0.1, 0.5, 0.5, 0.5]), torch.tensor([True, True, False, False])),
    ],
    "compare every positive with every negative, (positives, negatives): 1 if the positive is higher, 0.5 for a "
    "tie; the mean over all pairs",
)
def area_under_curve(scores: Tensor, positive: Tensor) -> float:
    metrics = import_extra("sklearn.metrics", "course")
    return float(metrics.roc_auc_score(positive, scores))


@exercise(
    "07-3",
    [(double(1, 4, 6), double(2, 6, 2), double(3, 6, 2)), (double(4, 3, 5), double(5, 5, 1), 2 * double(6, 5, 1))],
    "z' L = (z L) (I - R^T L), so a system of size r gives z L (n, r); then z = z' + (z L) R^T. Mind the side: z L is "
    "on the left of the matrix",
)
def undo(edited: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return edited @ torch.linalg.inv(torch.eye(len(left), dtype=left.dtype) - left @ right.T)


# --- 09 your own model and pictures


@exercise(
    "09-1",
    [(0, 4), (3, 4), (40, 50), (9, 9)],
    "the middle is (p + q^2 / 2n) / (1 + q^2 / n) and not p; half the width is divided by the same (1 + q^2 / n)",
)
def wilson_interval(right: int, n: int) -> Tensor:
    return torch.tensor(evaluate.wilson(right, n), dtype=torch.float64)


@exercise(
    "09-2",
    [(torch.tensor([2, 0, 2, 2, 1, 0, 2, 0]),), (torch.tensor([5, 5, 5, 3, 3]),), (torch.tensor([0]),)],
    "count, for each picture, the *earlier* ones of the same cell: an even number means that it is the first, third, "
    "... of its cell; the only picture of a cell is chosen",
)
def every_second(cell_numbers: Tensor) -> Tensor:
    return (cell_numbers[:, None] == cell_numbers).tril(-1).sum(1) % 2 == 0


@exercise(
    "09-3",
    [(normal(1, 7, 5), normal(2, 5, 2), normal(3, 5, 2)), (normal(4, 4, 4), normal(5, 4, 1), normal(6, 4, 1))],
    "z = f W, so that z L = f (W L) with W L of shape (D, r); the new weight is W - (W L) R^T",
)
def fused_weight(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return weight - (weight @ left) @ right.T
