"""95 % intervals of means over requests, by resampling requests and pictures (a two-way cluster bootstrap).

Each of 1000 draws resamples, with replacement, the requests of one paradigm and the pictures of each (class, domain)
cell. Pictures of one design family stay together if the data set lists families. The interval reaches from the 2.5th to
the 97.5th percentile of the means.

- A draw takes one request and one family per cell fewer than there are (Rao and Wu, 1988). Drawing all m would make the
  variance too small by 1 / m, which is half of it for m = 2.
- The worst cell is the observed one, or all that tie. We do not search for it in each draw, because the largest of many
  noisy drops grows with the noise.
- Zero changes in n pictures do not prove that nothing changes. The interval therefore reaches at least z^2 / (n + z^2),
  z = 1.96, to both sides of the mean, like Wilson's (1927) for 0 of n. Here n counts the families behind a figure.
- No interval leaves the possible range of its figure.

Resampling both is conservative: if each request has its own pictures, their noise counts twice (Owen, 2007).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..evaluate import RANGES, Interval
from ..images import Images, families

TIMES, Z = 1000, 1.959964
MEMORY = 2**24  # weights in one batch of draws, at most


@dataclass(frozen=True, eq=False)
class Group:
    """Results of one method on R requests of one paradigm. `changed` and `others` may be generators."""

    masks: np.ndarray  # (R, C, K) bool, the forgotten (class, domain) cells
    right: np.ndarray  # (n,) bool, True where the unedited model is right
    changed: Iterable[np.ndarray]  # R of (n,) bool, True if right only before or only after
    others: Iterable[np.ndarray | None] = ()  # R of (m,) bool or None, True for changed unrelated pictures


def intervals(
    images: Images, groups: Iterable[Group], others: int = 0, times: int = TIMES, seed: int = 0
) -> list[dict[str, Interval]]:
    """Return, for each group, every figure of RANGES as (mean over requests, low, high), NaN if no request has it.

    images: the n pictures of all groups. others: the number m of unrelated pictures. times: the number of draws.
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
        for group, means in zip(measured, drawn, strict=True):
            requests = _draw(np.random.default_rng(requests_seed), np.zeros(group.requests, np.int64), b)  # (b, R)
            means.append(group.means(shares, rest, requests))
    return [group.intervals(means) for group, means in zip(measured, drawn, strict=True)]


def of_mean(values: Iterable[float | None], low: float, high: float, times: int = TIMES, seed: int = 0) -> Interval:
    """Return the mean of all but None and NaN with its interval within `low` and `high`, resampling requests only."""
    x = np.array([v for v in values if v is not None and v == v], dtype=np.float64)
    if not len(x):
        return np.nan, np.nan, np.nan
    means = _mean(np.broadcast_to(x, (times, len(x))), _draw(np.random.default_rng(seed), np.zeros(len(x), int), times))
    return _ends(float(x.mean()), means, 0.0, (low, high))


class _Clusters:
    """The g families within cells; a draw takes or leaves each as a whole."""

    def __init__(self, images: Images):
        (c, k), n = images.vocabulary.shape, len(images)
        family = np.unique(families(images), return_inverse=True)[1]
        labels, index = np.unique((images.classes * k + images.domains).numpy() * n + family, return_inverse=True)
        self.index, self.cell, g = index, labels // n, len(labels)  # (n,); (g,) ascending
        self.pictures = np.bincount(index).astype(np.float32)  # (g,) counts
        self.in_cell = sparse.csr_array((np.ones(g, np.float32), (np.arange(g), self.cell)), (g, c * k))


class _Measured:
    """The figures of a group, as functions of the weights of pictures."""

    def __init__(self, group: Group, clusters: _Clusters, others: int):
        self.clusters, self.requests = clusters, len(group.masks)
        changed = [np.flatnonzero(x) for x in group.changed]
        rows, pictures = np.repeat(np.arange(len(changed)), [len(x) for x in changed]), np.concatenate(changed)
        sign = np.where(group.right, 1.0, -1.0).astype(np.float32)  # a right answer can only be lost
        shape = self.requests, len(clusters.cell)
        lost = sparse.coo_array((sign[pictures], (rows, clusters.index[pictures])), shape).tocsr()  # lost minus gained
        size = clusters.pictures @ clusters.in_cell
        self.regions, whole_domains = _regions(group.masks, size > 0)
        self.floor = np.where(whole_domains, 1 / group.masks.shape[1], 0.0).astype(np.float32)
        kept = self.regions["retain_drop"]
        drops = np.where(kept, (lost @ clusters.in_cell).toarray() / np.maximum(size, 1), -np.inf)  # (R, C K)
        self.regions["worst_cell_drop"] = (drops > drops.max(1, keepdims=True) - 1e-6) & kept  # all that tie
        self.lost, self.ones = lost.tocoo(), (1 / size[clusters.cell])[None]
        self.right = np.bincount(clusters.index[group.right], minlength=len(clusters.cell)).astype(np.float32)
        used = {name: np.any(region, axis=0)[clusters.cell] for name, region in self.regions.items()}  # (g,) bool
        used["forgetting_rate"] &= self.right > 0
        self.n = {name: int(x.sum()) for name, x in used.items()} | {"collateral": others}
        self.others = np.array([np.full(others, np.nan) if x is None else x for x in group.others], np.float32)

    def means(self, shares: np.ndarray, rest: np.ndarray, requests: np.ndarray) -> dict[str, np.ndarray]:
        """Return the mean of each figure over requests in b draws, (b,), NaN if no request has it.

        shares: weight of a picture of each cluster in its cell (b, g). rest: weights of unrelated pictures (b, m).
        requests: how often each request is drawn (b, R).
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
    """Return the cells (R, C K) behind each figure of `evaluate.rates`, and (R,) True for requests of whole domains.

    masks: the forgotten cells (R, C, K). filled: True for cells that hold pictures (C K,).
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
    """Count how often each of g items is drawn, (times, g). From m items in a stratum, max(1, m - 1) are drawn.

    strata: the stratum of each item, ascending (g,).
    """
    _, starts, sizes = np.unique(strata, return_index=True, return_counts=True)
    draws = np.maximum(1, sizes - 1)
    offset, size = np.repeat(starts, draws), np.repeat(sizes, draws)
    items = offset + (generator.random((times, len(size)), dtype=np.float32) * size).astype(np.int64)
    items = np.minimum(items, offset + size - 1)  # rounding may reach the size itself
    items += len(strata) * np.arange(times)[:, None]
    return np.bincount(items.ravel(), minlength=times * len(strata)).reshape(times, -1).astype(np.float32)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean of each row without its NaN, (b, R) -> (b,); NaN for rows of NaN only."""
    valid = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (weights * np.where(valid, values, 0)).sum(1) / (weights * valid).sum(1)


def _ends(mean: float, means: np.ndarray, least: float, limits: tuple[float, float]) -> Interval:
    """Return `mean` and the interval of the drawn `means`, at least `least` to both sides, within `limits`."""
    means = means[~np.isnan(means)]
    if np.isnan(mean) or not len(means):
        return mean, np.nan, np.nan
    low, high = np.percentile(means, [2.5, 97.5])
    low, high = min(low, mean - least), max(high, mean + least)
    return mean, float(max(low, limits[0])), float(min(high, limits[1]))
