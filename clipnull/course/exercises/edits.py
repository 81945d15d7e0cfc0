"""Exercises of notebooks 04 to 07: an edit of each paradigm, and how much it forgets."""

import math

import torch
from torch import Tensor

from ... import evaluate
from .registry import double, exercise, normal

# --- 04 global unlearning


def _margin(seed: int, n: int, d: int, r: int) -> tuple:
    z, own, rival = double(seed, n, d), double(seed + 1, d), double(seed + 2, d)
    u = torch.linalg.qr(torch.cat([own[:, None], double(seed + 3, d, r - 1)], 1))[0]
    return z * (z @ (own - rival)).sign()[:, None], u, own, rival  # every picture is of its own class before


@exercise(
    "04-1",
    [_margin(10, 9, 6, 2), _margin(20, 5, 8, 1), _margin(30, 7, 5, 3)],
    "the margin z P (own - rival) is a straight line in alpha: the margin before, minus alpha times (z U) (U^T (own - "
    "rival)). Where does it cross zero? Beyond alpha = 1, or never, counts as infinity",
)
def needed_strength(z: Tensor, u: Tensor, own: Tensor, rival: Tensor) -> Tensor:
    margin, removed = z @ (own - rival), (z @ u) @ (u.T @ (own - rival))
    return torch.where(removed >= margin, margin / removed, torch.inf)


BEFORE = torch.tensor([[0.9, 0.5, math.nan], [0.8, 1.0, 0.6], [math.nan, 0.7, 0.9]], dtype=torch.float64)
AFTER = torch.tensor([[0.3, 0.4, math.nan], [0.9, 0.8, 0.6], [math.nan, 0.1, 0.9]], dtype=torch.float64)
ROW = torch.arange(3)[:, None].expand(3, 3)


@exercise(
    "04-2",
    [(BEFORE, AFTER, ROW == 0), (BEFORE[1:], AFTER[1:], ROW[1:] == 2)],
    "take the forgotten cells with before[mask]; cells without pictures are NaN, so use nanmean; the rate is "
    "relative to the mean accuracy before: (mean before - mean after) / mean before",
)
def rate_of_forgetting(before: Tensor, after: Tensor, mask: Tensor) -> float:
    return float(evaluate.rates(before, after, mask)["forgetting_rate"])


# --- 05 selective unlearning


@exercise(
    "05-1",
    [(torch.outer(torch.eye(4)[1], torch.eye(3)[2]).double(),), (double(1, 2, 5),)],
    "a linear detector of class plus domain is a number for the class plus a number for the domain. The nearest such "
    "table has the row means and the column means of what is wanted; both contain the overall mean: count it once",
)
def best_reading(wanted: Tensor) -> Tensor:
    return wanted.mean(1, keepdim=True) + wanted.mean(0, keepdim=True) - wanted.mean()


@exercise(
    "05-2",
    [
        (normal(1, 6, 5), normal(2, 5, 3), normal(3, 5, 3), normal(4, 6, 3) > 0),
        (normal(5, 4, 7), normal(6, 7, 1), normal(7, 7, 1), normal(8, 4, 1) < 0),
    ],
    "z @ left is (n, r); set its negative values and its closed columns to 0, then subtract that @ right.T",
)
def act_if_open(z: Tensor, left: Tensor, right: Tensor, opened: Tensor) -> Tensor:
    return z - torch.where(opened, z @ left, 0.0).clamp(min=0) @ right.T


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
