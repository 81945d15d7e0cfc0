"""Exercises of notebooks 04 to 07: an edit of each paradigm, and what it changes."""

import torch
from torch import Tensor

from ... import subspace
from .registry import double, exercise

# --- 04 global unlearning


@exercise(
    "04-1",
    [(double(1, 9, 7), double(2, 4, 3, 7), 1, 1), (double(3, 5, 6), double(4, 5, 4, 6), 3, 2)],
    "the mean of all texts, over classes and domains, is subtracted from the rows of class c; the leading `rank` "
    "directions are rows of Vh, and U has them as columns; P = I - U U^T stands on the right: W @ P",
)
def forget_rows(W: Tensor, texts: Tensor, c: int, rank: int) -> Tensor:
    u = subspace.basis(texts[c] - texts.mean((0, 1)))[:, :rank]
    return W - (W @ u) @ u.T


@exercise(
    "04-2",
    [
        (double(10, 6, 5), double(11, 3, 5), torch.linalg.qr(double(12, 5, 2))[0]),
        (double(13, 4, 7), double(14, 8, 7), torch.linalg.qr(double(15, 7, 1))[0]),
    ],
    "z P t^T - z t^T = -(z U) (t U)^T: one product of (n, r) and (r, C), with a minus sign",
)
def score_change(z: Tensor, words: Tensor, U: Tensor) -> Tensor:
    return -(z @ U) @ (words @ U).T


@exercise(
    "04-3",
    [
        (torch.tensor([0.90, 0.97, 0.99, 1.00]), torch.tensor([0.2, 0.9, 0.7, 2.1]), 0.95),
        (torch.tensor([0.99, 0.98, 1.00]), torch.tensor([0.7, 1.1, 1.9]), 0.95),
        (torch.tensor([0.60, 0.80]), torch.tensor([-0.3, 0.4]), 0.80),
    ],
    "first leave out the ranks that forget less than `least`, then take the one with the smallest drop; the first rank "
    "is 1, and places count from 0",
)
def choose_rank(forgetting: Tensor, drop: Tensor, least: float) -> int:
    return int(torch.where(forgetting >= least, drop, torch.inf).argmin()) + 1


# --- 06 selective unlearning


@exercise(
    "06-1",
    [(double(1, 5), double(2, 5)), (double(3, 3), double(4, 3))],
    "for a row z, z @ P must be z minus the number z v^T times r: the identity minus v^T r. "
    "torch.outer(v, r) is v^T r; torch.outer(r, v) is its transpose",
)
def read_and_write(v: Tensor, r: Tensor) -> Tensor:
    return torch.eye(len(v), dtype=v.dtype) - torch.outer(v, r)


@exercise(
    "06-2",
    [(double(1, 9, 6), double(2, 6), double(3, 6), 0.5), (double(4, 7, 4), double(5, 4), double(6, 4), 0.2)],
    "the threshold goes with the length of each row: relu(z v^T - o |z|), with z.norm(dim=1); below it, a row stays",
)
def act_above(z: Tensor, v: Tensor, r: Tensor, o: float) -> Tensor:
    return z - (z @ v - o * z.norm(dim=1)).relu()[:, None] * r


@exercise(
    "06-3",
    [
        (double(1, 9, 6), double(2, 9, 3), 1, double(3, 6), double(4, 6)),
        (double(5, 8, 4), double(6, 8, 2), 0, double(7, 4), double(8, 4)),
    ],
    "two conditions: the row's highest score is that of domain k, and the reading z @ v is positive. "
    "Where one fails, the row stays",
)
def act_behind_gate(z: Tensor, scores: Tensor, k: int, v: Tensor, r: Tensor) -> Tensor:
    return z - ((z @ v).relu() * (scores.argmax(1) == k))[:, None] * r


# --- 07 complete unlearning


@exercise(
    "07-1",
    [(0.9, 0.5, 10), (0.8, 0.02, 4), (0.5, 0.6, 2 + 3)],
    "chance is 1 / classes; the share of the way is (before - after) / (before - chance), at most 1",
)
def way_to_chance(before: float, after: float, classes: int) -> float:
    return min(1.0, (before - after) / (before - 1 / classes))


@exercise(
    "07-2",
    [
        (double(1, 4, 9), 2, 0.5),
        (double(2, 6, 7), 0, 2.0),
        (double(3, 2, 5), 1, 1.0),
    ],
    "C - 1 conditions: (w_decoy - w_c) r = margin for every other class c. Stack the differences into a matrix (C - 1, "
    "d); of all r that meet them, the pseudoinverse (torch.linalg.pinv) gives the shortest",
)
def decoy_shift(classifier: Tensor, decoy: int, margin: float) -> Tensor:
    apart = classifier[decoy] - torch.cat([classifier[:decoy], classifier[decoy + 1 :]])
    return torch.linalg.pinv(apart) @ torch.full((len(apart),), margin, dtype=apart.dtype)
