"""The drawings of the course in one style, all computed from embeddings or from the numbers passed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..errors import import_extra
from ..images import Images
from ..subspace import principal_angles

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    import pandas as pd
else:
    plt = import_extra("matplotlib.pyplot", "course")

FORGOTTEN, SIBLING, OTHER, INK = "#D55E00", "#0072B2", "#009E73", "0.25"
"""Colours of forgotten pictures, siblings, all others, and lines and text; safe for colour-blind readers."""

STYLE = {
    **{"figure.dpi": 110, "savefig.dpi": 110, "figure.constrained_layout.use": True, "legend.frameon": False},
    **{"font.size": 12, "axes.titlesize": 13, "axes.titleweight": "bold", "axes.spines.top": False},
    **{"figure.titlesize": 13, "figure.titleweight": "bold", "axes.spines.right": False},
    "axes.prop_cycle": plt.cycler(color=[SIBLING, FORGOTTEN, OTHER, "#CC79A7", "#E69F00", "#56B4E9"]),
}


def drawn(fig: plt.Figure) -> list[list]:
    """Summarize a figure so that tests can compare it: per axes its texts and, for lines, bars, points, colours and
    pictures, [size, mean, standard deviation, mean weighted by position]."""
    content = []
    for ax in fig.axes:
        groups = (
            [line.get_ydata() for line in ax.lines],
            [bar.get_bbox().extents for bar in ax.patches if hasattr(bar, "get_bbox")],
            [points.get_offsets() for points in ax.collections],
            [points.get_array() for points in ax.collections if points.get_array() is not None],
            [image.get_array() for image in ax.images],
        )
        texts = [ax.get_title(), *(text.get_text() for text in ax.texts)]
        content.append([texts, [_summary(arrays) for arrays in groups if arrays]])
    return content


def _summary(arrays: Sequence) -> list[float]:
    values = np.concatenate([np.ma.filled(np.ma.asarray(x, float), np.nan).ravel() for x in arrays])
    values = values[np.isfinite(values)]
    if not values.size:
        return [0]
    weighted = values * np.linspace(0, 2, values.size)
    return [values.size, *(float(f"{x:.4g}") for x in (values.mean(), values.std(), weighted.mean()))]


def _arrow(ax: Any, start: Any, end: Any, color: str, text: str = "", shift: Any = (0, 0)) -> None:
    """Draw an arrow with `text` beside its middle."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2})
    ax.text(*((start + end) / 2 + shift), text, color=color, ha="center", va="center")


def _chain(ax: Any, texts: Sequence[str], colors: Mapping[str, str]) -> None:
    """Draw boxes in a row, at x = 0, 2, 4 and so on, joined by arrows."""
    for i, text in enumerate(texts):
        color = colors.get(text, INK)
        box = {"boxstyle": "round,pad=0.45", "fc": "white", "ec": color, "lw": 2}
        ax.text(2 * i, 0, text, color=color, ha="center", va="center", bbox=box)
        if i:
            ax.text(2 * i - 1, 0, "→", color=INK, ha="center", va="center", fontsize=20)
    ax.set(xlim=(-0.8, 2 * len(texts) - 1.2), ylim=(-1.3, 1))
    ax.axis("off")


def tower(before: int, width: int, title: str, at: str = "W") -> plt.Figure:
    """Draw the path from picture to scores; `before` and `width` are the dimensions of features and z. The edit stands
    `at` "W" if it is multiplied into the projection, or `at` "z" if it follows, as a threshold or a gate does."""
    fig, ax = plt.subplots(figsize=(9, 2.6))
    fig.suptitle(title)
    gate, projection = ([], "W P") if at == "W" else (["threshold\nor gate"], "W")
    texts = ["picture", "tower", f"features\n{before}", projection, f"z\n{width}", *gate, "scores"]
    _chain(ax, texts, dict.fromkeys(["W P", *gate], FORGOTTEN))
    z = "edited: search and\nscores see the edit" if at == "W" else "unedited: an index\nof z knows the class"
    remarks = (4, -1, "unedited: anyone with the\nweights finds the class"), (8, -1, z)
    for x, y, text in (*remarks, (2 * len(texts) - 2, 0.75, "texts stay\nunchanged")):
        ax.text(x, y, text, ha="center", va="center", color=SIBLING, fontsize=11)
    return fig


def parallelogram(
    texts: Tensor, c: Sequence[int], k: Sequence[int], classes: Sequence[str], domains: Sequence[str], title: str
) -> plt.Figure:
    """Draw texts (C, K, d) of two classes `c` and two domains `k` in their plane, as arrows common + class + domain."""
    x = np.asarray(texts)
    of_class, of_domain = x.mean(1), x.mean(0) - x.mean((0, 1))
    axes, r = np.linalg.qr(np.stack([of_class[c[1]] - of_class[c[0]], of_domain[k[1]] - of_domain[k[0]]]).T)
    axes = axes * np.sign(r.diagonal())
    x, of_class, of_domain = x @ axes, of_class @ axes, of_domain @ axes
    common = x.mean((0, 1))
    fig, ax = plt.subplots(figsize=(8, 5))
    ax.plot(*common, "s", ms=9, color=INK)
    ax.annotate("common", common, (0, -20), textcoords="offset points", ha="center", color=INK)
    for i, color in zip(c, (FORGOTTEN, SIBLING), strict=True):
        _arrow(ax, common, of_class[i], color, f"+ {classes[i]}", (0, 0.04))
        for j, above in zip(k, (-18, 18), strict=True):
            _arrow(ax, of_class[i], of_class[i] + of_domain[j], OTHER, f"+ {domains[j]}", (0.16, 0))
            ax.plot(*x[i, j], "o", ms=13, color=color)
            look = {"textcoords": "offset points", "ha": "center", "va": "center"}
            ax.annotate(f"{classes[i]}, {domains[j]}", x[i, j], (0, above), **look)
    ax.set(title=title, xlabel="from one class to the other", ylabel="from one domain to the other", aspect="equal")
    ax.margins(0.15)
    return fig


def three_words(
    words: Mapping[str, float], pictures: Sequence[float], title: str, centred: bool = False
) -> tuple[plt.Figure, dict[float, dict[str, float]]]:
    """Draw words and pictures at angles in degrees, before and after removing the first word; return the new scores.

    >>> fig, scores = three_words({"dog": 20, "horse": 50, "car": 130}, [25, 15], "Zero is not low")
    >>> {word: round(score, 2) for word, score in scores[25].items()}
    {'dog': 0.0, 'horse': 0.04, 'car': 0.08}
    """
    angles = np.radians([*words.values(), *pictures])
    rows, z = np.split(np.stack([np.cos(angles), np.sin(angles)], 1), [len(words)])
    u = rows[0] - rows.mean(0) * centred
    u = u / np.linalg.norm(u)
    names, colors = list(words), (FORGOTTEN, SIBLING, OTHER)
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.6))
    fig.suptitle(title)
    panels = {"before": z, f"after removing {names[0]}": z - z @ np.outer(u, u)}
    scores: dict[float, dict[str, float]] = {}
    for ax, (heading, points) in zip(axes, panels.items(), strict=True):
        ax.axis("off")
        ax.set(xlim=(-1.2, 1.3), ylim=(-0.75, 1.2), aspect="equal", title=heading)
        for word, row, color in zip(names, rows, colors, strict=True):
            _arrow(ax, np.zeros(2), row, color)
            ax.text(*(1.15 * row), word, color=color, ha="center", va="center", weight="bold")
        for j, (angle, point) in enumerate(zip(pictures, points, strict=True)):
            score = (rows @ point).round(9) + 0.0  # + 0.0 turns -0.0 into 0.0
            scores[angle] = dict(zip(names, score.tolist(), strict=True))
            color, text = colors[score.argmax()], ", ".join(map("{} {:.2f}".format, names, score))
            ax.plot(*point, "D", ms=10, mfc=color, mec="white")
            ax.text(0, -0.52 - 0.16 * j, f"◆ at {angle:g}°: {text}", color=color, ha="center", fontsize=11)
    axes[1].plot(*np.outer([-u[1], u[0]], [-0.4, 1.1]), "--", color="0.6", zorder=0)
    return fig, scores


def two_planes(a: Tensor, b: Tensor, title: str) -> plt.Figure:
    """Draw the row spans of `a` and `b`, (2, 3) each, as planes, with the principal angles between them."""
    fig = plt.figure(figsize=(7, 4.6))
    ax: Any = fig.add_subplot(projection="3d")
    s, t = np.meshgrid((-1, 1), (-1, 1))
    for rows, color in ((a, FORGOTTEN), (b, SIBLING)):
        u, v = np.linalg.qr(np.asarray(rows, float).T)[0].T
        ax.plot_surface(*(u[:, None, None] * s + v[:, None, None] * t), color=color, alpha=0.45)
    ax.view_init(22, 40)
    ax.set_box_aspect(None, zoom=1.5)
    ax.set_axis_off()
    ax.set_title(f"{title}\nangles: " + " and ".join(f"{x:.0f}°" for x in principal_angles(a, b).rad2deg()))
    return fig


def two_by_two(values: Tensor, rows: Sequence[str], columns: Sequence[str], title: str) -> plt.Figure:
    """Draw four readings of one vector, row by row; the first three are chosen and force the last."""
    fig, ax = plt.subplots(figsize=(7.5, 3.6))
    ax.imshow(values.view(2, 2), cmap="PuOr_r", vmin=-2.2, vmax=2.2, aspect="auto")
    for i, value in enumerate(values.tolist()):
        number, word = (f"{value:.0f}", "chosen") if i < 3 else (f"{value:.2f}".replace("-", "−"), "forced")
        ax.text(i % 2, i // 2 - 0.08, number, ha="center", va="center", fontsize=26)
        ax.text(i % 2, i // 2 + 0.28, word, ha="center", va="center")
    ax.set_xticks((0, 1), columns)
    ax.set_yticks((0, 1), rows)
    ax.tick_params(length=0, labelsize=14, top=False, labeltop=True, labelbottom=False)
    ax.spines[:].set(visible=False)
    fig.suptitle(title)
    return fig


def relu(readings: Mapping[str, Tensor], threshold: float, title: str) -> plt.Figure:
    """Plot the amount subtracted at each reading, with and without a threshold, above the readings of each group."""
    fig, (ax, marks) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(3, 2))
    pooled = np.concatenate([*readings.values()])
    x = np.linspace(pooled.min(), pooled.max(), 200)
    ax.plot(x, x, "--", color="0.5", lw=2, label="without the threshold: z vᵀ")
    ax.plot(x, np.maximum(x - threshold, 0), color=INK, lw=3, label=f"with it: relu(z vᵀ − {threshold:.2g})")
    ax.axhline(0, color="0.8", lw=1)
    ax.set(ylabel="amount subtracted")
    ax.legend(loc="upper left")
    for i, (values, color) in enumerate(zip(readings.values(), (FORGOTTEN, SIBLING, OTHER, "0.6"), strict=True)):
        marks.plot(values, np.full(len(values), i), "|", ms=14, color=color)
    marks.set(xlabel="reading z vᵀ of each picture", yticks=range(len(readings)), yticklabels=readings)
    marks.set_ylim(len(readings) - 0.4, -0.6)
    fig.suptitle(title)
    return fig


def index_sides(rows: int, width: int, title: str) -> plt.Figure:
    """Draw the two ways to edit an index of `rows` pictures: edit all rows once, or edit every query."""
    fig, (picture_side, query_side) = plt.subplots(1, 2, figsize=(10, 2.2))
    picture_side.set_title("picture side: once, z P")
    _chain(picture_side, (f"{rows:,} rows z\nof {width}", "P", "z P meets\nquery t"), {"P": FORGOTTEN})
    query_side.set_title("query side: every query, t Pᵀ")
    _chain(query_side, ("query t", "Pᵀ", f"t Pᵀ meets\n{rows:,} rows z"), {"Pᵀ": SIBLING})
    fig.suptitle(title)
    return fig


def plane(title: str, rates: Mapping[str, pd.DataFrame], look: str = "o") -> tuple[plt.Figure, Any]:
    """Plot forgetting over damage for groups of edits, "random ..." in grey. look: a matplotlib format such as "o-"."""
    fig, ax = plt.subplots(figsize=(8, 4.4))
    colors = iter((FORGOTTEN, SIBLING, OTHER))
    for name, table in rates.items():
        color = "0.72" if name.startswith("random") else next(colors)
        ax.plot(table.retain_drop, table.forgetting_rate, look, ms=8, lw=2, color=color, label=name)
    ax.set(title=title, xlabel="retain drop: points lost on kept cells  (left is better)")
    ax.set_ylabel("forgetting rate  (up is better)")
    ax.margins(y=0.09)
    ax.legend(loc="center right")
    return fig, ax


def gallery(
    images: Images, rows: Mapping[str, Sequence[int]], hits: Tensor, title: str, columns: Sequence[str] = ()
) -> plt.Figure:
    """Draw rows of pictures by index (-1: empty), or of class names without pixels; frame the `hits`, (n,) bool."""
    width = max(map(len, rows.values()))
    fig, axes = plt.subplots(len(rows), width, figsize=(0.95 * width + 1, 1.05 * len(rows) + 0.5), squeeze=False)
    for line, (label, indices) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=10)
        for ax, i in zip(line, [*map(int, indices)] + [-1] * width, strict=False):
            ax.set(xticks=[], yticks=[], box_aspect=1)
            ax.spines[:].set(visible=i >= 0, color=FORGOTTEN if hits[i] else "0.85", linewidth=3 if hits[i] else 1)
            if i >= 0 and images.has_pixels:
                ax.imshow(images.image(i))
            elif i >= 0:
                name = images.vocabulary.classes[int(images.classes[i])]
                ax.text(0.5, 0.5, name, ha="center", va="center", fontsize=10)
    for ax, name in zip(axes[0], columns, strict=False):
        ax.set_title(name, fontsize=12, fontweight="normal")
    fig.suptitle(title)
    return fig
