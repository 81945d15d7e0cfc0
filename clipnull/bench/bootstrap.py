"""95 % intervals of means over requests, by resampling requests and pictures (a cluster bootstrap).

A figure varies with the requests that were asked and with the pictures that happened to be there. Both are drawn anew,
with replacement, a thousand times: requests among those of one paradigm; pictures within each cell, those of one design
family together where the data know families. The interval is from the 2.5th to the 97.5th percentile of the means.

- One fewer is drawn than there are, requests and families in a cell (Rao and Wu, 1988): to draw all of m makes the
  variance too small by 1 / m, half of it where m is 2.
- The worst cell is the one found, or those that tie, and is not looked for again in each draw: the largest of many
  noisy drops grows with the noise.
- Nothing changed in n pictures does not mean that nothing ever changes: the interval reaches at least
  z^2 / (n + z^2), z = 1.96, to both sides of the mean, as that of Wilson (1927) does where 0 of n are seen; n counts
  the families that a figure is measured on.
- No interval leaves the possible range of its figure.

Drawing requests and pictures both is cautious: where each request has pictures of its own, they are counted twice
(Owen, 2007).
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from torch import Tensor

from ..evaluate import RANGES, Interval
from ..images import Images, families

TIMES = 1000
"""Draws."""
Z = 1.959964
MEMORY = 2**24
"""Weights of draws at a time."""


def pack(bits: Tensor | np.ndarray) -> bytes:
    """(n,) bool in few bytes: n / 8, and far less where nearly all are the same."""
    return zlib.compress(np.packbits(np.asarray(bits)).tobytes(), 1)


def unpack(packed: bytes, n: int) -> np.ndarray:
    """What `pack` packed: (n,) bool."""
    return np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=n).view(bool)


@dataclass(frozen=True, eq=False)
class Group:
    """What one method did in R requests of one paradigm.

    Attributes
    ----------
    masks : (R, C, K) bool
        The forgotten cells.
    right : (n,) bool
        Which pictures the unedited model classifies right.
    changed : sequence of R (n,) bool, or of `pack` of them
        Which pictures are right only before, or only after.
    others : sequence of R (m,) bool, `pack` of them or None
        Which unrelated pictures got another answer; None where that is not measured.
    """

    masks: np.ndarray
    right: np.ndarray
    changed: Sequence[bytes | np.ndarray]
    others: Sequence[bytes | np.ndarray | None] = ()


def intervals(
    images: Images, groups: Sequence[Group], others: int = 0, times: int = TIMES, seed: int = 0
) -> list[dict[str, Interval]]:
    """For each group, every figure of RANGES: its mean over requests and the ends of its interval.

    Parameters
    ----------
    images : Images
        n pictures: those of all groups.
    groups : sequence of Group
    others : int
        m, how many unrelated pictures there are.
    times, seed : int
        Draws, and what they start from: the same seed gives the same intervals.

    Returns
    -------
    list of dict of str to (mean, low, high)
        NaN where no request has the figure.
    """
    if not groups:
        return []
    c, k = images.vocabulary.shape
    cell = (images.classes * k + images.domains).numpy()
    labels = [(int(at), own) for at, own in zip(cell, families(images), strict=True)]
    place = {label: i for i, label in enumerate(sorted({*labels}))}
    cluster = np.array([place[label] for label in labels], dtype=np.int64)  # (n,)
    strata = np.array([at for at, _ in place], dtype=np.int64)  # (g,) ascending: the cell of each cluster
    pictures = np.bincount(cluster, minlength=len(place)).astype(np.float32)  # (g,)
    prepared = [_Prepared(group, cell, cluster, strata, c * k, others) for group in groups]
    drawn: list[dict[str, list[np.ndarray]]] = [{name: [] for name in RANGES} for _ in groups]
    generator, at_once = np.random.default_rng(seed), max(1, MEMORY // max(1, len(place) + others))
    for first in range(0, times, at_once):
        b = min(at_once, times - first)
        counts = _draw(generator, strata, b)
        shares = counts / _per_cell(counts * pictures, strata)  # (b, g): of one picture in the accuracy of its cell
        rest = _draw(generator, np.zeros(others, np.int64), b) / max(1, others - 1) if others else None
        seeds = int(generator.integers(2**31))
        for prepared_, kept in zip(prepared, drawn, strict=True):
            asked = _draw(np.random.default_rng(seeds), np.zeros(prepared_.requests, np.int64), b)  # (b, R)
            for name, values in prepared_.figures(shares, rest):
                kept[name].append(_mean(values, asked))
    return [p.intervals(kept) for p, kept in zip(prepared, drawn, strict=True)]


def of_mean(values: Iterable[float | None], low: float, high: float, times: int = TIMES, seed: int = 0) -> Interval:
    """Mean of what is not None, and its interval when requests alone are drawn; it stays within low and high."""
    x = np.array([v for v in values if v is not None and v == v], dtype=np.float64)
    if not len(x):
        return np.nan, np.nan, np.nan
    drawn = _mean(np.broadcast_to(x, (times, len(x))), _draw(np.random.default_rng(seed), np.zeros(len(x), int), times))
    return _ends(float(x.mean()), drawn, 0.0, (low, high))


# --- draws -------------------------------------------------------------------------------------------------------


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


def _per_cell(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Sums within each stratum, for each member: (b, g) -> (b, g)."""
    starts = np.flatnonzero(np.r_[True, strata[1:] != strata[:-1]])
    return np.repeat(np.add.reduceat(values, starts, axis=1), np.diff(np.r_[starts, len(strata)]), axis=1)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of what is not NaN in each row: (b, R) -> (b,); NaN where nothing is."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (weights * np.where(there, values, 0)).sum(1) / (weights * there).sum(1)


def _ends(mean: float, drawn: np.ndarray, least: float, limits: tuple[float, float]) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(mean) or not len(drawn):
        return mean, np.nan, np.nan
    low, high = np.percentile(drawn, [2.5, 97.5])
    low, high = min(low, mean - least), max(high, mean + least)
    return mean, float(max(low, limits[0])), float(min(high, limits[1]))


# --- figures -----------------------------------------------------------------------------------------------------


class _Prepared:
    """A group with all that does not depend on the draws. g: clusters; cells: C * K."""

    def __init__(
        self, group: Group, cell: np.ndarray, cluster: np.ndarray, strata: np.ndarray, cells: int, others: int
    ):
        n, g, r, masks = len(cell), len(strata), len(group.masks), group.masks
        self.requests, self.strata, size = r, strata, np.bincount(cell, minlength=cells)
        flat, filled = masks.reshape(r, cells), size > 0
        sign = np.where(group.right, 1.0, -1.0).astype(np.float32)  # what is right before can only be lost
        changed = [np.flatnonzero(x if isinstance(x, np.ndarray) else unpack(x, n)) for x in group.changed]
        rows = np.repeat(np.arange(r), [len(x) for x in changed])
        columns = np.concatenate([np.empty(0, np.int64), *changed])
        self.lost = sparse.coo_array((sign[columns], (rows, cluster[columns])), (r, g)).tocsr()
        self.right = np.bincount(cluster[group.right], minlength=g).astype(np.float32)
        regions, whole = _regions(masks, flat & filled, ~flat & filled)
        self.floor = np.where(whole, 1 / masks.shape[1], 0.0).astype(np.float32)
        drops = self.lost @ sparse.csr_array((np.ones(g, np.float32), (np.arange(g), strata)), (g, cells))  # (R, cells)
        drops = np.where(~flat & filled, drops.toarray() / np.maximum(size, 1), -np.inf)
        regions["worst_cell_drop"] = (drops > drops.max(1, keepdims=True) - 1e-6) & ~flat & filled  # all, in a tie
        self.regions = {
            name: (region / np.maximum(region.sum(1, keepdims=True), 1)).astype(np.float32)
            for name, region in regions.items()
        }
        self.empty = {name: ~region.any(1) for name, region in regions.items()}
        self.n = {name: int(np.any(region, axis=0)[strata].sum()) for name, region in regions.items()}
        self.n["forgetting_rate"] = int((np.any(regions["forgetting_rate"], axis=0)[strata] & (self.right > 0)).sum())
        self.n["collateral"] = others
        self.ones = (1 / size[strata]).astype(np.float32)[None]
        self.others = None
        if others and any(x is not None for x in group.others):
            self.others = np.full((r, others), np.nan, np.float32)
            for row, x in zip(self.others, group.others, strict=True):
                if x is not None:
                    row[:] = x if isinstance(x, np.ndarray) else unpack(x, others)

    def figures(self, shares: np.ndarray, rest: np.ndarray | None) -> Iterator[tuple[str, np.ndarray]]:
        """Each figure of each request, NaN where it has none: (b, R).

        shares: (b, g), what one picture of a cluster counts in its cell; rest: (b, m), what an unrelated one counts.
        """
        right = _per_cell(shares * self.right, self.strata)  # (b, g): accuracy before of the cluster's cell
        first = np.flatnonzero(np.r_[True, self.strata[1:] != self.strata[:-1]])
        for name, region in self.regions.items():
            weights = self.lost.copy()
            weights.data = weights.data * region[np.repeat(np.arange(self.requests), np.diff(weights.indptr)),
                                                 self.strata[weights.indices]]  # fmt: skip
            drop = np.asarray(weights @ shares.T).T  # (b, R)
            if name == "forgetting_rate":
                before = right[:, first] @ region[:, self.strata[first]].T - self.floor
                with np.errstate(divide="ignore", invalid="ignore"):
                    drop = np.where(before > 1e-6, np.minimum(1, drop / before), np.nan)
            else:
                drop = 100 * drop
            yield name, np.where(self.empty[name], np.nan, drop)
        if rest is not None and self.others is not None:
            yield "collateral", 100 * (rest @ self.others.T)

    def intervals(self, drawn: dict[str, list[np.ndarray]]) -> dict[str, Interval]:
        m = self.n["collateral"]
        once = dict(self.figures(self.ones, np.full((1, m), 1 / m, np.float32) if m else None))
        found = {}
        for name, limits in RANGES.items():
            values = once.get(name, np.full((1, self.requests), np.nan))
            mean = float(_mean(values.astype(np.float64), np.ones((1, self.requests)))[0])
            least = (1 if limits[1] == 1 else 100) * Z**2 / (self.n[name] + Z**2)
            found[name] = _ends(mean, np.concatenate([np.empty(0), *drawn[name]]), least, limits)
        return found


def _regions(masks: np.ndarray, forgotten: np.ndarray, kept: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The cells that each figure is a mean over, (R, cells) bool, as `evaluate.rates` says; and whose whole domains go.

    masks: (R, C, K); forgotten, kept: those of the cells that hold pictures.
    """
    classes, domains = masks.any(2, keepdims=True), masks.any(1, keepdims=True)
    whole_domains = (masks.all(1, keepdims=True) == domains).all((1, 2))
    whole_classes = (masks.all(2, keepdims=True) == classes).all((1, 2))
    selective = ~whole_domains & ~whole_classes
    same_class, same_domain = (np.broadcast_to(x, masks.shape).reshape(kept.shape) for x in (classes, domains))
    return {
        "forgetting_rate": forgotten,
        "retain_drop": kept,
        "sibling_class_drop": kept & same_class & selective[:, None],
        "sibling_domain_drop": kept & same_domain & selective[:, None],
    }, whole_domains
