"""Simulated embeddings: a guess of where real pictures lie, from texts and prototypes alone. Ours.

Texts T and prototypes V of the (class, domain) cells are decomposed as x_ck = m + a_c + b_k + r_ck (mean, class,
domain, rest). The pictures of a cell are guessed to lie around a weighted sum of the parts of T and V (CENTRES). Real
pictures lie elsewhere, so we make several *draws*, each with its own deviations on five levels (SPREAD). A deviation is
a random mixture of class names and common words, plus a random mixture of domain names, plus noise in all directions.
Its shape thus comes from the model; its size is the same for all models. Deviations of single pictures have the long
tails of Student's t.

The constants are rounded from measurements on the training pictures of miniworld, and on the 279 training pictures of
PACS that were not used to train miniclip. We regressed the parts of cell means, and measured the remaining variance on
each level along class margins, along domains, and overall.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluate import classify
from ..methods.cells import Cells

CENTRES = {"mean": (0.0, 0.85), "class": (0.4, 0.45), "domain": (0.3, 0.6), "rest": (0.25, 0.2)}
"""The weights of each part of texts and of prototypes in pictures."""
TEXT_CENTRES = {"mean": 0.0, "class": 0.8, "domain": 0.8, "rest": 0.5}  # the weights of texts without prototypes

SPREAD = {
    "all": (0.0, 0.1, 0.27),
    "class": (0.17, 0.04, 0.09),
    "domain": (0.13, 0.09, 0.13),
    "cell": (0.21, 0.07, 0.05),
    "picture": (0.41, 0.14, 0.13),
}
"""The sizes of the three kinds of deviation (names, domains, all directions) on each level."""
BLIND = (0.0, 0.1, 0.7)
"""Replaces "all" if there is no prototype and no mean: the last is the modality gap, whose direction is unknown."""
FREEDOM = 4  # the degrees of freedom of Student's t

DRAWS, PICTURES, MAX_PICTURES = 20, 12, 60_000
"""Draws, pictures per cell and draw, and pictures overall; many cells get fewer pictures each, but at least 2."""


def accuracy(z: Tensor, classifier: Tensor, changes: Sequence[Callable[[Tensor], Tensor]] = ()) -> Tensor:
    """Return the share of each cell classified correctly after `changes`, such as `edit.images`: (B, C, K) float64.

    z: the output of `draw`, (B, C, K, n, d). classifier: (C, d).
    """
    rows = z.flatten(0, -2)
    domains = torch.zeros(len(rows))  # all zero: one classifier serves every domain
    answers = classify(rows, classifier.to(z), domains, lambda x: changed(x, changes)).view(z.shape[:-1])
    return (answers == torch.arange(len(classifier))[:, None, None]).double().mean(3)


def changed(z: Tensor, changes: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Apply `changes` to `z` in turn."""
    return reduce(lambda rows, change: change(rows), changes, z)


def draw(cells: Cells, seed: int = 0, draws: int = DRAWS, pictures: int = PICTURES) -> Tensor:
    """Draw simulated pictures of all cells: unit rows, (B, C, K, n, d) float32, reproducible by `seed`."""
    c, k = cells.shape
    n = max(2, min(pictures, MAX_PICTURES // (draws * c * k)))
    generator, middle = torch.Generator().manual_seed(seed), centres(cells)
    d = middle.shape[-1]
    factors = _factors(cells)

    def deviation(level: str, *shape: int) -> Tensor:
        return torch.randn(*shape, d, generator=generator, dtype=torch.float32) @ factors[level].T

    simulated = []
    for _ in range(draws):
        z = middle + deviation("all", 1, 1) + deviation("class", c, 1) + deviation("domain", 1, k)
        z = (z + deviation("cell", c, k))[:, :, None]
        scale = torch.randn(c, k, n, FREEDOM, generator=generator).square().mean(-1, keepdim=True).sqrt()
        simulated.append(F.normalize(z + deviation("picture", c, k, n) / scale, dim=-1))
    return torch.stack(simulated)


def centres(cells: Cells) -> Tensor:
    """Return the guessed mean picture of each cell: (C, K, d) float32, not normalised, as a mean is shorter than 1."""
    has_prototypes = cells.prototypes is not None
    middle = torch.zeros_like(cells.texts)
    for i, x in enumerate(cells.kinds):
        m = x.mean((0, 1), keepdim=True)
        a, b = x.mean(1, keepdim=True) - m, x.mean(0, keepdim=True) - m
        for name, part in {"mean": m, "class": a, "domain": b, "rest": x - m - a - b}.items():
            middle = middle + (CENTRES[name][i] if has_prototypes else TEXT_CENTRES[name]) * part
    if not has_prototypes and cells.mean is not None:
        middle = middle + cells.mean / cells.mean.norm().clamp(min=1)
    return middle.float()


def _factors(cells: Cells) -> dict[str, Tensor]:
    """Return a factor L of the covariance L L^T of the deviations on each level: (d, d) float32."""
    names, styles = cells.margins, cells.domain_directions - cells.domain_directions.mean(0)
    if cells.common is not None:
        names = torch.cat([names, cells.common - cells.common.mean(0)])
    d = names.shape[1]
    kinds = names.T @ names / len(names), styles.T @ styles / len(styles), torch.eye(d, dtype=names.dtype) / d
    spread = SPREAD if cells.prototypes is not None or cells.mean is not None else SPREAD | {"all": BLIND}
    factors = {}
    for level, sizes in spread.items():
        covariance = sum(size**2 * kind for size, kind in zip(sizes, kinds, strict=True))
        factors[level] = torch.linalg.cholesky(covariance).float()
    return factors
