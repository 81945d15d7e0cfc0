"""The drawings of the course, in one style: each is made of real embeddings or of the numbers it is given."""

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
else:
    plt = import_extra("matplotlib.pyplot", "course")

FORGOTTEN, SIBLING, OTHER, INK = "#D55E00", "#0072B2", "#009E73", "0.25"
"""The colours of what is forgotten, its siblings, all else, and of lines and words: told apart by the colour-blind."""

STYLE = {
    **{"figure.dpi": 110, "savefig.dpi": 110, "figure.constrained_layout.use": True, "legend.frameon": False},
    **{"font.size": 12, "axes.titlesize": 13, "axes.titleweight": "bold", "axes.spines.top": False},
    **{"figure.titlesize": 13, "figure.titleweight": "bold", "axes.spines.right": False},
    "axes.prop_cycle": plt.cycler(color=[SIBLING, FORGOTTEN, OTHER, "#CC79A7", "#E69F00", "#56B4E9"]),
}


def drawn(fig: plt.Figure) -> list[list]:
    """What a figure is drawn from, for tests that compare it with another: of each axes its texts, and of its lines,
    bars, points, colours and pictures [size, mean, standard deviation, mean weighted by place]."""
    content = []
    for ax in fig.axes:
        kinds = (
            [line.get_ydata() for line in ax.lines],
            [bar.get_bbox().extents for bar in ax.patches if hasattr(bar, "get_bbox")],
            [points.get_offsets() for points in ax.collections],
            [points.get_array() for points in ax.collections if points.get_array() is not None],
            [image.get_array() for image in ax.images],
        )
        texts = [ax.get_title(), *(text.get_text() for text in ax.texts)]
        content.append([texts, [_summary(arrays) for arrays in kinds if arrays]])
    return content


def _summary(arrays: Sequence) -> list[float]:
    values = np.concatenate([np.ma.filled(np.ma.asarray(x, float), np.nan).ravel() for x in arrays])
    values = values[np.isfinite(values)]
    if not values.size:
        return [0]
    weighted = values * np.linspace(0, 2, values.size)
    return [values.size, *(float(f"{x:.4g}") for x in (values.mean(), values.std(), weighted.mean()))]


def _blank(title: str, size: tuple[float, float] = (8, 4), panels: int = 1) -> tuple[Any, Any]:
    fig, axes = plt.subplots(1, panels, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    fig.suptitle(title)
    return fig, axes[0, 0] if panels == 1 else axes[0]


def _arrow(ax: Any, start: Any, end: Any, color: str = INK, text: str = "", shift: Any = (0, 0), **look: Any) -> None:
    """An arrow with its name beside the middle."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2, **look})
    middle = (np.asarray(start) + end) / 2 + shift
    ax.text(*middle, text, color=color, ha="center", va="center")


def _chain(ax: Any, places: Sequence[float], texts: Sequence[str], colored: Mapping[str, str]) -> None:
    """Boxes in a row, with an arrow from each to the next."""
    last = None
    for x, text in zip(places, texts, strict=True):
        color = colored.get(text, INK)
        box = {"boxstyle": "round,pad=0.45", "fc": "white", "ec": color, "lw": 2}
        ink = {"color": color, "ha": "center", "va": "center", "bbox": box}
        if last is None:
            last = ax.text(x, 0, text, **ink)
        else:
            arrow = {"arrowstyle": "<|-", "color": INK, "lw": 2, "patchB": last.get_bbox_patch(), "shrinkB": 3}
            last = ax.annotate(text, last.get_position(), (x, 0), arrowprops=arrow, **ink)


def tower(before: int, width: int, title: str, at: str = "W") -> plt.Figure:
    """Who sees what: picture, tower, features (`before` wide), W, z (`width` wide), scores; the edit stands `at` "W",
    multiplied into it, or `at` "z", behind it, as a threshold or a gate does."""
    fig, ax = _blank(title, (9, 2.6))
    ax.set(xlim=(-0.6, 10.6), ylim=(-1.3, 1.0))
    gate, middle = "threshold\nor gate", "W" if at == "z" else "W P"
    texts = ["picture", "tower", f"features\n{before}", middle, f"z\n{width}", *([gate] if at == "z" else []), "scores"]
    places = np.linspace(0, 10, len(texts)).tolist()
    _chain(ax, places, texts, {gate: FORGOTTEN, "W P": FORGOTTEN})
    seen = "edited: search and\nscores see the edit" if at == "W" else "unedited: an index\nof z knows the class"
    for x, text in ((places[2], "unedited: whoever has the\nweights finds the class"), (places[4], seen)):
        ax.text(x, -1, text, ha="center", va="center", color=SIBLING, fontsize=11)
    ax.text(places[-1], 0.75, "texts stay\nas they are", ha="center", va="center", color=SIBLING, fontsize=11)
    return fig


def parallelogram(
    texts: Tensor, c: Sequence[int], k: Sequence[int], classes: Sequence[str], domains: Sequence[str], title: str
) -> plt.Figure:
    """Common + class + domain as arrows: texts (C, K, d) of two classes `c` x two domains `k`, in their own plane."""
    x = np.asarray(texts)
    common = x.mean((0, 1))
    of_class, of_domain = x.mean(1) - common, x.mean(0) - common
    steps = np.stack([of_class[c[1]] - of_class[c[0]], of_domain[k[1]] - of_domain[k[0]]])
    plane, r = np.linalg.qr(steps.T)
    plane = plane * np.sign(r.diagonal())
    fig, ax = plt.subplots(figsize=(8, 5))
    middle = common @ plane
    for i, color in zip(c, (FORGOTTEN, SIBLING), strict=True):
        corner = middle + of_class[i] @ plane
        _arrow(ax, middle, corner, color, f"+ {classes[i]}", (0, 0.04))
        for j in k:
            _arrow(ax, corner, corner + of_domain[j] @ plane, OTHER, f"+ {domains[j]}", (0.16, 0))
            ax.plot(*(x[i, j] @ plane), "o", ms=13, color=color)
            look = {"textcoords": "offset points", "ha": "center", "va": "center"}
            ax.annotate(f"{classes[i]}, {domains[j]}", x[i, j] @ plane, (0, 18 if j == k[1] else -18), **look)
    ax.plot(*middle, "s", ms=9, color=INK)
    ax.annotate("common", middle, (0, -20), textcoords="offset points", ha="center", color=INK)
    ax.set(title=title, xlabel="from one class to the other", ylabel="from one domain to the other", aspect="equal")
    ax.margins(0.15)
    return fig


def three_words(
    words: Mapping[str, float], pictures: Sequence[float], title: str, centred: bool = False
) -> tuple[plt.Figure, dict[float, dict[str, float]]]:
    """Words and pictures in a plane, at angles in degrees; the first word is removed. Also the scores that are left.

    >>> fig, scores = three_words({"dog": 20, "horse": 50, "car": 130}, [25, 15], "Zero is not low")
    >>> {word: round(score, 2) for word, score in scores[25].items()}
    {'dog': 0.0, 'horse': 0.04, 'car': 0.08}
    """

    def unit(angle: float) -> np.ndarray:
        return np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])

    rows = np.stack([unit(angle) for angle in words.values()])
    u = rows[0] - rows.mean(0) * centred
    u = u / np.linalg.norm(u)
    fig, axes = _blank(title, (10, 4.6), 2)
    color = dict(zip(words, (FORGOTTEN, SIBLING, OTHER), strict=False))
    scores = {}
    for i, (ax, head) in enumerate(zip(axes, ("before", f"after removing {next(iter(words))}"), strict=True)):
        ax.set(xlim=(-1.2, 1.3), ylim=(-0.75, 1.2), aspect="equal", title=head)
        for word, row in zip(words, rows, strict=True):
            _arrow(ax, (0, 0), row, color[word])
            ax.text(*(1.15 * row), word, color=color[word], ha="center", va="center", weight="bold")
        for j, angle in enumerate(pictures):
            z = unit(angle) - (unit(angle) @ u) * u * i
            scores[angle] = dict(zip(words, ((rows @ z).round(9) + 0.0).tolist(), strict=True))
            best = max(scores[angle], key=lambda word: scores[angle][word])
            ax.plot(*z, "D", ms=10, mfc=color[best], mec="white")
            told = ", ".join(f"{word} {score:.2f}" for word, score in scores[angle].items())
            ax.text(0, -0.52 - 0.16 * j, f"◆ at {angle:g}°: {told}", color=color[best], ha="center", fontsize=11)
        if i:
            ax.plot(*np.outer([-u[1], u[0]], [-0.4, 1.1]), "--", color="0.6", zorder=0)
    return fig, scores


def two_planes(a: Tensor, b: Tensor, title: str) -> plt.Figure:
    """Two planes through zero and the angles between them: the row spans of `a` and `b`, (2, 3) each."""
    angles = np.degrees(np.asarray(principal_angles(a, b)))
    fig = plt.figure(figsize=(7, 4.6))
    ax: Any = fig.add_subplot(projection="3d")
    s, t = np.meshgrid((-1, 1), (-1, 1))
    for rows, color in ((a, FORGOTTEN), (b, SIBLING)):
        u, v = np.linalg.qr(np.asarray(rows, float).T)[0].T
        ax.plot_surface(*(u[:, None, None] * s + v[:, None, None] * t), color=color, alpha=0.45)
    ax.view_init(22, 40)
    ax.set_box_aspect(None, zoom=1.5)
    ax.set_axis_off()
    ax.set_title(f"{title}\nangles: " + " and ".join(f"{angle:.0f}°" for angle in angles))
    return fig


def two_by_two(values: Tensor, rows: Sequence[str], columns: Sequence[str], title: str) -> plt.Figure:
    """Four readings of one vector, row by row: three that were chosen, and in the last corner the one they force."""
    fig, ax = plt.subplots(figsize=(7.5, 3.6))
    ax.imshow(np.reshape(values, (2, 2)), cmap="PuOr_r", vmin=-2.2, vmax=2.2, aspect="auto")
    for i, value in enumerate(np.asarray(values)):
        number, word = (f"{value:.2f}".replace("-", "−"), "forced") if i == 3 else (f"{value:.0f}", "chosen")
        ax.text(i % 2, i // 2 - 0.08, number, ha="center", va="center", fontsize=26)
        ax.text(i % 2, i // 2 + 0.28, word, ha="center", va="center")
    ax.set_xticks((0, 1), columns)
    ax.set_yticks((0, 1), rows)
    ax.tick_params(length=0, labelsize=14)
    ax.xaxis.tick_top()
    ax.spines[:].set(visible=False)
    fig.suptitle(title)
    return fig


def relu(readings: Mapping[str, Tensor], threshold: float, title: str) -> plt.Figure:
    """What is taken away over readings, with and without a threshold; below, those of pictures, group by group."""
    fig, (ax, marks) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(3, 2))
    low, high = (float(f([f(np.asarray(x)) for x in readings.values()])) for f in (np.min, np.max))
    x = np.linspace(low, high, 200)
    ax.plot(x, x, "--", color="0.5", lw=2, label="without the threshold: z vᵀ")
    ax.plot(x, np.maximum(x - threshold, 0), color=INK, lw=3, label=f"with it: relu(z vᵀ − {threshold:.2g})")
    for i, (values, color) in enumerate(zip(readings.values(), (FORGOTTEN, SIBLING, OTHER, "0.6"), strict=False)):
        marks.plot(values, np.full(len(values), i), "|", ms=14, color=color)
    ax.axhline(0, color="0.8", lw=1)
    ax.set(ylabel="what is taken away")
    ax.legend(loc="upper left")
    marks.set(xlabel="reading z vᵀ of each picture", yticks=range(len(readings)), yticklabels=readings)
    marks.set_ylim(len(readings) - 0.4, -0.6)
    fig.suptitle(title)
    return fig


def index_sides(rows: int, width: int, title: str) -> plt.Figure:
    """An index of `rows` pictures: edited on the picture side, once, or on the query side, at each question."""
    fig, axes = _blank(title, (10, 2.2), 2)
    sides = {"picture side: once, z P": (f"{rows:,} rows z\nof {width}", "P", "edited index"),
             "query side: each time, t Pᵀ": ("query t", "Pᵀ", f"index as it is\n{rows:,} rows")}  # fmt: skip
    for ax, (head, texts) in zip(axes, sides.items(), strict=True):
        ax.set(xlim=(-1, 5), ylim=(-1, 1), title=head)
        _chain(ax, (0, 2, 4), texts, {"P": FORGOTTEN, "Pᵀ": SIBLING})
    return fig


def gallery(
    images: Images, rows: Mapping[str, Sequence[int]], hits: Tensor, title: str, columns: Sequence[str] = ()
) -> plt.Figure:
    """Rows of pictures, each at its places in `images`, -1 for none; `hits` (n,) bool framed. Names, without pixels."""
    most = max(len(places) for places in rows.values())
    fig, axes = plt.subplots(len(rows), most, figsize=(0.95 * most + 1, 1.05 * len(rows) + 0.5), squeeze=False)
    for line, (label, places) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=10)
        for ax in line:
            ax.set(xticks=[], yticks=[], box_aspect=1)
            ax.spines[:].set(visible=False)
        for ax, i in [pair for pair in zip(line, map(int, places), strict=False) if pair[1] >= 0]:
            name = images.vocabulary.classes[int(images.classes[i])]
            if images.has_pixels:
                ax.imshow(images.image(i))
            else:
                ax.text(0.5, 0.5, name, ha="center", va="center", fontsize=10)
            ax.spines[:].set(visible=True, color=FORGOTTEN if hits[i] else "0.85", linewidth=3 if hits[i] else 1)
    for ax, name in zip(axes[0], columns, strict=False):
        ax.set_title(name, fontsize=12, fontweight="normal")
    fig.suptitle(title)
    return fig
