"""Exercises of lesson 09: a control, what labels can buy, and a comparison in pairs."""

import math

import torch
from scipy import stats
from torch import Tensor

from .registry import double, exercise, normal


@exercise(
    "09-1",
    [
        (normal(1, 6, 4), torch.tensor([True, False, False, True])),
        (normal(2, 5, 3).abs().neg(), torch.tensor([False, True, False])),
        (normal(3, 4, 5), torch.tensor([True, True, False, False, False])),
    ],
    "give a forgotten class a score below all others, such as -inf: 0 wins against negative scores. Removing columns "
    "changes the numbers of the classes behind them; keep (n, C) until the argmax",
)
def name_filter(scores: Tensor, forgotten: Tensor) -> Tensor:
    return scores.masked_fill(forgotten, -math.inf).argmax(1)


def _bit(seed: int, n: int, d: int, share: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to erase from, labelled rows, and their labels."""
    positive, mix = torch.arange(n) % share == 0, double(seed + 1, d, d)
    return (
        double(seed + 3, 7, d) @ mix + 5,
        double(seed, n, d) @ mix + 5 + positive[:, None] * double(seed + 2, d),
        positive,
    )


@exercise(
    "09-2",
    [_bit(1, 30, 4, 3), _bit(5, 40, 3, 2)],
    "subtract from each row of z a multiple of delta (d,), the difference of the means. The multiples, (n,), are "
    "(z - mean) @ direction / (delta @ direction), with direction = Sigma^-1 delta; delta, mean, Sigma: those of the "
    "labelled rows, all of them",
)
def erase_bit(z: Tensor, labelled: Tensor, positive: Tensor) -> Tensor:
    s = labelled[positive].mean(0) - labelled[~positive].mean(0)
    direction = torch.linalg.solve(labelled.T.cov(), s)
    return z - ((z - labelled.mean(0)) @ direction / (s @ direction))[:, None] * s


@exercise(
    "09-3",
    [(10 * double(1, 9) + double(2, 9), 10 * double(1, 9)), (double(3, 4), 3 + double(4, 4))],
    "take the standard deviation of the *differences*, not of each method: what is hard for both cancels. Divide it by "
    "sqrt(n), multiply by t with n - 1 degrees of freedom; (2,): low, high",
)
def paired_interval(first: Tensor, second: Tensor) -> Tensor:
    difference = first - second
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std() / len(difference) ** 0.5
    return torch.stack([difference.mean() - half, difference.mean() + half])
