"""95 % intervals of means over requests, by resampling requests and pictures (a two-way cluster bootstrap).

Both are drawn anew, with replacement, a thousand times: requests among those of one paradigm; pictures within each
cell, those of one design family together where the data set knows families. The interval reaches from the 2.5th to the
97.5th percentile of the means.

- One fewer is drawn than there are, of requests and of families in a cell (Rao and Wu, 1988): drawing all of m makes
  the variance too small by 1 / m, half of it where m is 2.
- The worst cell is the one observed, or those that tie. It is not searched for again in each draw, because the largest
  of many noisy drops grows with the noise.
- Seeing no change in n pictures does not prove that nothing changes: the interval reaches at least z^2 / (n + z^2),
  z = 1.96, to both sides of the mean, as Wilson's (1927) does for 0 of n. Here n counts the families that a figure is
  measured on.
- No interval leaves the possible range of its figure.

Drawing both is cautious: where each request has pictures of its own, they count twice (Owen, 2007).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..evaluate import RANGES, Interval
from ..images import Images, families

TIMES = 1000
"""Draws."""
Z = 1.959964
MEMORY = 2**24
"""Weights of draws that are held at a time."""


@dataclass(frozen=True, eq=False)
class Group:
    """What one method did in R requests of one paradigm. `changed` and `others` are read once: generators will do."""

    masks: np.ndarray  # (R, C, K) bool, the forgotten cells
    right: np.ndarray  # (n,) bool, which pictures the unedited model classifies right
    changed: Iterable[np.ndarray]  # R of (n,) bool: right only before, or only after
    others: Iterable[np.ndarray | None] = ()  # R of (m,) bool: which unrelated pictures get another answer, if measured


def intervals(
    images: Images, groups: Iterable[Group], others: int = 0, times: int = TIMES, seed: int = 0
) -> list[dict[str, Interval]]:
    """For each group, every figure of RANGES as (mean over requests, low, high), NaN where no request has it.

    images: the n pictures of all groups; others: m, the number of unrelated ones. The same seed gives the same draws.
    """
    clusters = _Clusters(images)
    measured = [_Measured(group, clusters, others) for group in groups]
    drawn: list[list[dict[str, np.ndarray]]] = [[] for _ in measured]
    generator, batch = np.random.default_rng(seed), max(1, MEMORY // max(1, len(clusters.cell) + others))
    for first in range(0, times, batch):
        b = min(batch, times - first)
        counts = _draw(generator, clusters.cell, b)
        shares = counts / ((counts * clusters.pictures) @ clusters.in_cell)[:, clusters.cell]
        rest = _draw(generator, np.zeros(others, np.int64), b) / max(1, others - 1)
        requests_seed = int(generator.integers(2**31))
        for one, means in zip(measured, drawn, strict=True):
            requests = _draw(np.random.default_rng(requests_seed), np.zeros(one.requests, np.int64), b)  # (b, R)
            means.append(one.means(shares, rest, requests))
    return [one.intervals(means) for one, means in zip(measured, drawn, strict=True)]


def of_mean(values: Iterable[float | None], low: float, high: float, times: int = TIMES, seed: int = 0) -> Interval:
    """The mean of what is not None, with its interval when requests alone are drawn, between `low` and `high`."""
    x = np.array([v for v in values if v is not None and v == v], dtype=np.float64)
    if not len(x):
        return np.nan, np.nan, np.nan
    drawn = _mean(np.broadcast_to(x, (times, len(x))), _draw(np.random.default_rng(seed), np.zeros(len(x), int), times))
    return _ends(float(x.mean()), drawn, 0.0, (low, high))


class _Clusters:
    """The g families of pictures within cells, which are drawn together."""

    def __init__(self, images: Images):
        (c, k), n = images.vocabulary.shape, len(images)
        family = np.unique(families(images), return_inverse=True)[1]
        labels, of = np.unique((images.classes * k + images.domains).numpy() * n + family, return_inverse=True)
        self.of, self.cell, g = of, labels // n, len(labels)  # (n,), of each picture; (g,) ascending
        self.pictures = np.bincount(of).astype(np.float32)  # (g,), how many each holds
        self.in_cell = sparse.csr_array((np.ones(g, np.float32), (np.arange(g), self.cell)), (g, c * k))


class _Measured:
    """A group's figures, as functions of what each picture counts."""

    def __init__(self, group: Group, clusters: _Clusters, others: int):
        self.clusters, self.requests = clusters, len(group.masks)
        changed = [np.flatnonzero(x) for x in group.changed]
        rows, pictures = np.repeat(np.arange(len(changed)), [len(x) for x in changed]), np.concatenate(changed)
        sign = np.where(group.right, 1.0, -1.0).astype(np.float32)  # what is right before can only be lost
        shape = self.requests, len(clusters.cell)
        lost = sparse.coo_array((sign[pictures], (rows, clusters.of[pictures])), shape).tocsr()  # minus those gained
        size = clusters.pictures @ clusters.in_cell
        self.regions, whole_domains = _regions(group.masks, size > 0)
        self.floor = np.where(whole_domains, 1 / group.masks.shape[1], 0.0).astype(np.float32)
        kept = self.regions["retain_drop"]
        drops = np.where(kept, (lost @ clusters.in_cell).toarray() / np.maximum(size, 1), -np.inf)  # (R, C K)
        self.regions["worst_cell_drop"] = (drops > drops.max(1, keepdims=True) - 1e-6) & kept  # all, in a tie
        self.lost, self.ones = lost.tocoo(), (1 / size[clusters.cell])[None]
        self.right = np.bincount(clusters.of[group.right], minlength=len(clusters.cell)).astype(np.float32)
        seen = {name: np.any(region, axis=0)[clusters.cell] for name, region in self.regions.items()}  # clusters
        seen["forgetting_rate"] &= self.right > 0
        self.n = {name: int(where.sum()) for name, where in seen.items()} | {"collateral": others}
        self.others = np.array([np.full(others, np.nan) if x is None else x for x in group.others], np.float32)

    def means(self, shares: np.ndarray, rest: np.ndarray, requests: np.ndarray) -> dict[str, np.ndarray]:
        """Each figure, a mean over requests, NaN where none has it: (b,).

        shares: (b, g), what one picture of a cluster counts in its cell; rest: (b, m), what an unrelated one counts;
        requests: (b, R), how often each is drawn.
        """
        renamed = 100 * (rest @ self.others.T) if self.others.size else np.full(requests.shape, np.nan)
        means = {"collateral": _mean(renamed, requests)}
        request, cluster = self.lost.coords
        for name, region in self.regions.items():
            share = (region / np.maximum(region.sum(1, keepdims=True), 1)).astype(np.float32)
            losses = self.lost.data * share[request, self.clusters.cell[cluster]]
            drop = (sparse.csr_array((losses, (request, cluster)), self.lost.shape) @ shares.T).T  # (b, R)
            if name == "forgetting_rate":
                before = ((shares * self.right) @ self.clusters.in_cell) @ share.T - self.floor
                with np.errstate(divide="ignore", invalid="ignore"):
                    drop = np.where(before > 1e-6, np.minimum(1, drop / before), np.nan)
            else:
                drop = 100 * drop
            means[name] = _mean(np.where(region.any(1), drop, np.nan), requests)
        return means

    def intervals(self, drawn: Sequence[dict[str, np.ndarray]]) -> dict[str, Interval]:
        m, ends = self.n["collateral"], {}
        observed = self.means(self.ones, np.full((1, m), 1 / max(1, m), np.float32), np.ones((1, self.requests)))
        for name, limits in RANGES.items():
            least = (1 if limits[1] == 1 else 100) * Z**2 / (self.n[name] + Z**2)
            ends[name] = _ends(float(observed[name][0]), np.concatenate([x[name] for x in drawn]), least, limits)
        return ends


def _regions(masks: np.ndarray, filled: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The cells (R, C K) that each figure is a mean over, see `evaluate.rates`, and which requests name whole domains.

    masks: (R, C, K); filled: (C K,), the cells that hold pictures.
    """
    classes, domains = masks.any(2, keepdims=True), masks.any(1, keepdims=True)
    whole_domains = (masks.all(1, keepdims=True) == domains).all((1, 2))
    whole_classes = (masks.all(2, keepdims=True) == classes).all((1, 2))
    selective = (~whole_domains & ~whole_classes)[:, None, None]
    regions = {
        "forgetting_rate": masks,
        "retain_drop": ~masks,
        "sibling_class_drop": ~masks & classes & selective,
        "sibling_domain_drop": ~masks & domains & selective,
    }
    return {name: region.reshape(len(masks), -1) & filled for name, region in regions.items()}, whole_domains


def _draw(generator: np.random.Generator, strata: np.ndarray, times: int) -> np.ndarray:
    """How often each of g things is drawn, one fewer than there are within each stratum, at least one: (times, g).

    strata: (g,) ascending.
    """
    _, starts, sizes = np.unique(strata, return_index=True, return_counts=True)
    draws = np.maximum(1, sizes - 1)
    offset, size = np.repeat(starts, draws), np.repeat(sizes, draws)
    chosen = offset + (generator.random((times, len(size)), dtype=np.float32) * size).astype(np.int64)
    chosen = np.minimum(chosen, offset + size - 1)  # where rounding reaches the size itself
    chosen += len(strata) * np.arange(times)[:, None]
    return np.bincount(chosen.ravel(), minlength=times * len(strata)).reshape(times, -1).astype(np.float32)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of what is not NaN in each row: (b, R) -> (b,); NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (weights * np.where(known, values, 0)).sum(1) / (weights * known).sum(1)


def _ends(mean: float, drawn: np.ndarray, least: float, limits: tuple[float, float]) -> Interval:
    """`mean` and the interval of the means `drawn`, at least `least` to both sides, within `limits`."""
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(mean) or not len(drawn):
        return mean, np.nan, np.nan
    low, high = np.percentile(drawn, [2.5, 97.5])
    low, high = min(low, mean - least), max(high, mean + least)
    return mean, float(max(low, limits[0])), float(min(high, limits[1]))
