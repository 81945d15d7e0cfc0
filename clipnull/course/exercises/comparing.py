"""Exercises of lessons 05 and 09: what chance does, how sure a mean is, a control, what labels can buy, pairs."""

import math

import torch
from scipy import stats
from torch import Tensor

from .registry import double, exercise, normal


@exercise(
    "05-1",
    [(normal(1, 4), normal(2, 4, 9)), (torch.tensor([2.0, 1.0]), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))],
    "compare (m, B) with (m, 1), where a tie counts as large; then one more on top and below, for the observed value "
    "itself, so that no share is zero",
)
def chance_share(observed: Tensor, random: Tensor) -> Tensor:
    return (1 + (random >= observed[:, None]).sum(1)) / (1 + random.shape[1])


@exercise(
    "05-2",
    [
        (double(1, 8), torch.randint(8, (200, 8), generator=torch.Generator().manual_seed(1))),
        (3 + double(2, 5), torch.randint(5, (90, 4), generator=torch.Generator().manual_seed(2))),
    ],
    "values[places] has the shape of places, (B, m): one mean a row, (B,); the middle 95 % of those means lies between "
    "their quantiles .025 and .975",
)
def bootstrap_interval(values: Tensor, places: Tensor) -> Tensor:
    means = values[places].mean(1)
    return torch.stack([means.quantile(0.025), means.quantile(0.975)])


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
