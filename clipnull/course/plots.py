"""Heat maps with numbers, and scatter plots with labels that do not overlap."""

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

MIN_FOR_PERCENT = 20  # shares of fewer pictures are shown as counts, such as 3/8


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
    """Draw `values`, (R, K), as a heat map with numbers; NaN stays blank, and the mask `outline` frames entries.

    written: the numbers to print, (R, K); by default `values`, which always set the colours. counts: pictures per
    entry, (R, K), if the numbers are percentages; entries with fewer than MIN_FOR_PERCENT show a count such as "3/8".
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
    """Plot named points with 95 % intervals, (mean, low, high) in x and in y, coloured by kind.

    Each name stands on the side of its point where it overlaps the fewest names and points.
    """
    fig, ax = plt.subplots(figsize=(9, 5.6))
    for i, kind in enumerate(dict.fromkeys(kinds[name] for name in points)):
        x, y = np.array([points[name] for name in points if kinds[name] == kind], dtype=float).transpose(1, 2, 0)
        look = {"fmt": "osD^vPX*"[i], "color": f"C{i}", "ms": 9, "elinewidth": 1, "ecolor": "0.8", "label": kind}
        drawn = ax.errorbar(x[0], y[0], xerr=abs(x[1:] - x[0]), yerr=abs(y[1:] - y[0]), **look)
        if i:
            drawn[0].set(mfc="none", mew=2)  # hollow, so that points behind it stay visible
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
    ax.legend(loc="upper left")
    fig.canvas.draw()
    centres = [ax.transData.transform((x[0], y[0])) for x, y in points.values()]
    boxes = [Bbox([centre - 6, centre + 6]) for centre in centres]
    dx, dy = {"left": 8, "right": -8, "center": 0}, {"center": 0, "bottom": 7, "top": -7}
    sides = [side for side in product(dx, dy) if side != ("center", "center")]
    sides.sort(key=lambda side: "center" not in side)  # of equally free sides, `min` takes the first
    for name, (x, y) in points.items():
        text = ax.annotate(name, (x[0], y[0]), (0, 0), textcoords="offset points", fontsize=11)

        def place(ha: str, va: str, text: plt.Annotation = text) -> int:  # returns the number of overlaps
            scale = 1 if "center" in (ha, va) else 0.75
            text.set(ha=ha, va=va, position=(scale * dx[ha], scale * dy[va]))
            box = text.get_window_extent()
            return sum(map(box.overlaps, boxes)) + (not ax.bbox.padded(8).containsx(box.x1))

        place(*min(sides, key=lambda side: place(*side)))
        boxes.append(text.get_window_extent())
    return fig
