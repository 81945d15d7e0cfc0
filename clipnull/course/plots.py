"""Figures that need seaborn or more care: heat maps with numbers, and points whose names do not cover each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..errors import import_extra

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.transforms import Bbox
else:
    plt, sns = (import_extra(name, "course") for name in ("matplotlib.pyplot", "seaborn"))
    Bbox = import_extra("matplotlib.transforms", "course").Bbox

MIN_FOR_PERCENT = 20
"""A share of fewer pictures is written as a count, such as 3/8."""


def matrix(
    values: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    ax: plt.Axes | None = None,
    outline: Tensor | None = None,
    counts: Tensor | None = None,
    written: Tensor | None = None,
) -> plt.Axes:
    """Draw `values` (R, K) as a heat map with its numbers, NaN left blank; cells of the mask `outline` get a frame.

    written: (R, K), the numbers to write, where they differ from the values that choose the colours. counts: (R, K),
    the pictures in each cell, where the numbers are percentages: of fewer than MIN_FOR_PERCENT, "3/8" is written.
    """
    ax = ax or plt.subplots(figsize=(1.2 + 0.75 * len(columns), 0.9 + 0.34 * len(rows)))[1]
    colours = np.asarray(values, dtype=float)
    numbers = colours if written is None else np.asarray(written)
    labels = np.vectorize("{:.0f}".format, otypes=[object])(numbers)
    if counts is not None:
        few, sizes = np.asarray(counts) < MIN_FOR_PERCENT, np.asarray(counts)
        labels[few] = [f"{x * n / 100:.0f}/{n}" for x, n in zip(numbers[few], sizes[few], strict=True)]
    sns.heatmap(
        colours, vmin=0, vmax=100, mask=np.isnan(colours), cmap="viridis", ax=ax, cbar=False,
        annot=labels, fmt="", annot_kws={"size": 9}, linewidths=0.5, linecolor="white",
    )  # fmt: skip
    ax.set(facecolor="0.93", title=title)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=35, ha="right")
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, rotation=0)
    for r, c in [] if outline is None else outline.nonzero().tolist():
        ax.add_patch(plt.Rectangle((c + 0.04, r + 0.04), 0.92, 0.92, fill=False, edgecolor="#D55E00", lw=2.5))
    return ax


def trade_off(
    points: Mapping[str, tuple[Sequence, Sequence]], kinds: Mapping[str, str], labels: tuple[str, str], title: str
) -> plt.Figure:
    """Named points with 95 % intervals, (mean, low, high) across and up, in the colour and marker of their kind.

    Each name stands on that side of its point where it covers fewest names and points.
    """
    fig, ax = plt.subplots(figsize=(9, 5.6))
    for i, kind in enumerate(dict.fromkeys(kinds[name] for name in points)):
        x, y = np.array([points[name] for name in points if kinds[name] == kind], dtype=float).transpose(1, 2, 0)
        look = {"fmt": "osD^vPX*"[i], "color": f"C{i}", "ms": 9, "elinewidth": 1, "ecolor": "0.8", "label": kind}
        drawn = ax.errorbar(x[0], y[0], xerr=abs(x[1:] - x[0]), yerr=abs(y[1:] - y[0]), **look)
        if i:
            drawn[0].set(mfc="none", mew=2)  # hollow, so that a point behind it is seen
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
    ax.legend(loc="upper left")
    fig.canvas.draw()
    places = [ax.transData.transform((x[0], y[0])) for x, y in points.values()]
    taken = [Bbox([place - 6, place + 6]) for place in places]
    across, up = {"left": 8, "right": -8, "center": 0}, {"center": 0, "bottom": 7, "top": -7}
    sides = [side for side in product(across, up) if side != ("center", "center")]
    sides.sort(key=lambda side: "center" not in side)  # of sides that are alike, the first is taken
    for name, (x, y) in points.items():
        text = ax.annotate(name, (x[0], y[0]), (0, 0), textcoords="offset points", fontsize=11)

        def covered(ha: str, va: str, text: plt.Annotation = text) -> int:
            near = 1 if "center" in (ha, va) else 0.75
            text.set(ha=ha, va=va, position=(near * across[ha], near * up[va]))
            box = text.get_window_extent()
            return sum(map(box.overlaps, taken)) + (not ax.bbox.padded(8).containsx(box.x1))

        covered(*min(sides, key=lambda side: covered(*side)))
        taken.append(text.get_window_extent())
    return fig
