"""A quick linear probe, for lessons that need hundreds; `audits.probes.linear_probe` is the slow one by the book."""

import torch
from torch import Tensor

from ..images import Images, families

FOLDS = 5
RIDGE = 0.1
"""Of the least squares, as a share of the mean variance."""


def family_folds(images: Images, seed: int) -> Tensor:
    """The number of one of FOLDS parts, (n,), the same for all relatives of a family."""
    names = families(images)
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    drawn = torch.randperm(len(place), generator=torch.Generator().manual_seed(seed)) % FOLDS
    return drawn[[place[name] for name in names]]


def probe(z: Tensor, positive: Tensor, fold: Tensor) -> Tensor:
    """What least-squares readouts say of each picture, fitted without its `fold`: z (n, d), positive (n,) bool -> bool.

    Positives and the rest weigh the same.
    """
    z, says = z.float(), torch.zeros(len(z), dtype=torch.bool)
    for k in fold.unique():
        fitted = fold != k
        w = torch.where(positive, 0.5 / (positive & fitted).sum(), 0.5 / (~positive & fitted).sum()) * fitted
        x = z - w @ z
        gram = x.T @ (w[:, None] * x)
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
        readout = torch.linalg.solve(gram + ridge, x.T @ (w * (2.0 * positive - 1)))
        says[~fitted] = (x[~fitted] @ readout) > 0
    return says


def balanced(says: Tensor, positive: Tensor) -> float:
    """The mean of the two shares that are judged right: chance is 0.5. says, positive: (n,) bool."""
    return float(says[positive].double().mean() + (~says[~positive]).double().mean()) / 2
