"""Exercises of lessons 08, 10 and 11: what remains, how sure a number is, an edit in weights and in an index."""

import torch
from torch import Tensor

from ... import evaluate
from ...audits.retrieval import retrieval_precision
from ...errors import import_extra
from .registry import double, exercise, normal

# --- 08 what remains


LENGTHS = torch.tensor([0.2, 5.0, 1.0, 3.0, 0.5, 2.0, 1.5, 0.1])[:, None]


@exercise(
    "08-1",
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
    "08-2",
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
    "08-3",
    [(double(1, 4, 6), double(2, 6, 2), double(3, 6, 2)), (double(4, 3, 5), double(5, 5, 1), 2 * double(6, 5, 1))],
    "z' L = (z L) (I - R^T L), so a system of size r gives z L (n, r); then z = z' + (z L) R^T. Mind the side: z L is "
    "on the left of the matrix",
)
def undo(edited: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return edited @ torch.linalg.inv(torch.eye(len(left), dtype=left.dtype) - left @ right.T)


# --- 10 your own model and pictures


@exercise(
    "10-1",
    [(0, 4), (3, 4), (40, 50), (9, 9)],
    "the middle is (p + q^2 / 2n) / (1 + q^2 / n) and not p; half the width is divided by the same (1 + q^2 / n)",
)
def wilson_interval(right: int, n: int) -> Tensor:
    return torch.tensor(evaluate.wilson(right, n), dtype=torch.float64)


@exercise(
    "10-2",
    [(double(1, 5, 4), double(2, 5, 4)), (double(3, 1, 7), double(4, 1, 7)), (double(5, 6, 2), double(6, 6, 2))],
    "the winner of a cut is here.argmax(1), (m,); take that same candidate's score there, and not the best score there",
)
def winners_curse(here: Tensor, there: Tensor) -> float:
    winner = here.argmax(1, keepdim=True)
    return float((here - there).gather(1, winner).mean())


@exercise(
    "10-3",
    [(normal(1, 7, 5), normal(2, 5, 2), normal(3, 5, 2)), (normal(4, 4, 4), normal(5, 4, 1), normal(6, 4, 1))],
    "W P = W - (W L) R^T, with W L of shape (D, r)",
)
def fused_weight(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return weight - (weight @ left) @ right.T


# --- 11 an index in production


@exercise(
    "11-1",
    [(normal(1, 6), normal(2, 6, 2), normal(3, 6, 2)), (normal(4, 4), normal(5, 4, 1), normal(6, 4, 1))],
    "P^T = I - R L^T: the query meets R first and L second, the other way round than a picture",
)
def edited_query(t: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return t - (t @ right) @ left.T


@exercise(
    "11-2",
    [
        (double(1, 9, 6), double(2, 6), double(3, 6, 2), double(4, 6, 2)),
        (double(5, 7, 4), double(6, 4), double(7, 4, 1), double(8, 4, 1)),
    ],
    "the inner products z (t P^T) are those of the edited index; divide each by the length of its row of z P, (n,)",
)
def same_order(z: Tensor, t: Tensor, left: Tensor, right: Tensor) -> Tensor:
    moved = z - (z @ left) @ right.T
    return (moved @ t / moved.norm(dim=1)).argsort(descending=True)
