"""Exercises of lesson 05: what chance does, and how sure a mean is."""

import torch
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
