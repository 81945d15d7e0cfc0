"""The figures of the notebooks: heat maps, grids of pictures, curves, and the caption below each figure."""

from __future__ import annotations

import base64
import hashlib
import html
import inspect
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..errors import import_extra
from ..evaluate import Comparison
from ..images import Images
from ..stored import left_out

if TYPE_CHECKING:
    import IPython.display as ipython
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.transforms import Bbox

    from ..audits.findings import Audit
else:
    modules = ("matplotlib.pyplot", "seaborn", "IPython.display")
    plt, sns, ipython = (import_extra(name, "course") for name in modules)
    Bbox = import_extra("matplotlib.transforms", "course").Bbox

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")

MIN_FOR_PERCENT = 20
"""A share of fewer pictures is written as a count, such as 3/8."""

NAME_PLACES = [
    *(
        ("left", "center", (8, 0)),
        ("right", "center", (-8, 0)),
        ("center", "bottom", (0, 7)),
        ("center", "top", (0, -7)),
    ),
    *(("left", "bottom", (6, 5)), ("left", "top", (6, -5)), ("right", "bottom", (-6, 5)), ("right", "top", (-6, -5))),
]
"""Where a name may stand beside its point, the best first: alignment, and a distance in points."""

CAPTION_LENGTH = 320
"""Characters that a caption shows; the sentences beyond them unfold."""


def style() -> None:
    """Set the look of all figures: colour-blind safe, fixed resolution, text that survives half width."""
    look = {"figure.dpi": 100, "savefig.dpi": 100, "axes.titlesize": "medium", "figure.constrained_layout.use": True}
    sides = {"axes.spines.top": False, "axes.spines.right": False}
    sns.set_theme(style="white", palette="colorblind", rc=look | sides)


# --- showing a figure


def show(fig: plt.Figure, alt: str) -> None:
    """Display `fig` with the sentences of `alt` as its caption; the first one is the picture's alternative text.

    What is longer than CAPTION_LENGTH unfolds.
    """
    if not isinstance(alt, str) or len(alt) < 20:
        raise ValueError(f"alt: {alt!r} is not valid; expected a sentence that says what the figure shows")
    first, caption, more = (html.escape(text) for text in (split_caption(alt, 0)[0], *split_caption(alt)))
    picture = _encode(fig)
    page = f'<figure><img alt="{first}" src="{picture}"><figcaption>{caption}</figcaption></figure>'
    if more:
        page += f"<details><summary>More about the figure</summary><p>{more}</p></details>"
    about = {"picture": hashlib.sha256(picture.encode()).hexdigest()[:16], "drawn": drawn(fig)}
    plt.close(fig)
    ipython.display(ipython.HTML(page), metadata={"clipnull": about})


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


def split_caption(text: str, length: int = CAPTION_LENGTH) -> tuple[str, str]:
    """Split a text after its first sentences, those within `length` characters but at least one: (these, the rest)."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.strip())
    end = len(sentences)
    while end > 1 and len(" ".join(sentences[:end])) > length:
        end -= 1
    return " ".join(sentences[:end]), " ".join(sentences[end:])


def _encode(fig: plt.Figure) -> str:
    """The figure as the data address of a WebP."""
    content = io.BytesIO()
    fig.savefig(content, format="webp", pil_kwargs={"quality": 75, "method": 6})
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def show_source(*functions: Callable) -> None:
    """Display the source of `functions`."""
    text = "\n\n".join(textwrap.dedent(inspect.getsource(function)) for function in functions)
    ipython.display(ipython.Markdown(f"```python\n{text}```"))


def literal(name: object) -> str:
    """A name for a title, a label or a legend, in which a dollar sign begins no formula."""
    return str(name).replace("$", r"\$")


# --- heat maps


def matrix(
    values: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    ax: plt.Axes | None = None,
    low: float = 0.0,
    high: float = 100.0,
    form: str = ".0f",
    cmap: str = "viridis",
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
    labels = _labels(colours if written is None else np.asarray(written, dtype=float), form, counts)
    sns.heatmap(
        colours, vmin=low, vmax=high, mask=np.isnan(colours), cmap=cmap, ax=ax, cbar=False,
        annot=labels, fmt="", annot_kws={"size": 9}, linewidths=0.5, linecolor="white",
    )  # fmt: skip
    ax.set_facecolor("0.93")
    ax.set_xticks(np.arange(len(columns)) + 0.5, [literal(name) for name in columns], rotation=35, ha="right")
    ax.set_yticks(np.arange(len(rows)) + 0.5, [literal(name) for name in rows], rotation=0)
    ax.set_title(literal(title))
    for r, c in [] if outline is None else outline.nonzero().tolist():
        ax.add_patch(plt.Rectangle((c + 0.04, r + 0.04), 0.92, 0.92, fill=False, edgecolor="#D55E00", lw=2.5))
    return ax


def _labels(numbers: np.ndarray, form: str, counts: Tensor | None) -> np.ndarray:
    """The text of each number (R, K): formatted, or a count where there are few pictures."""
    labels = np.vectorize(lambda number: format(number, form), otypes=[object])(numbers)
    if counts is not None:
        few = (np.asarray(counts) < MIN_FOR_PERCENT) & ~np.isnan(numbers)
        for r, c in zip(*few.nonzero(), strict=True):
            labels[r, c] = f"{numbers[r, c] * int(counts[r, c]) / 100:.0f}/{int(counts[r, c])}"
    return labels


def comparison(result: Comparison) -> plt.Figure:
    """Draw accuracy before and after an edit, the second coloured by the change; forgotten cells framed."""
    vocabulary = result.images.vocabulary
    c, k = vocabulary.shape
    fig, axes = plt.subplots(1, 2, figsize=(2.4 + 1.4 * k, 1.2 + 0.34 * c), sharey=True)
    shared = {"outline": result.mask, "counts": result.images.counts()}
    names, before, after = (vocabulary.classes, vocabulary.domains), 100 * result.before, 100 * result.after
    matrix(before, *names, "before (counts, or % right)", axes[0], **shared)
    title = "after (colour: the change)"
    matrix(after - before, *names, title, axes[1], -100, cmap="PuOr", written=after, **shared)
    return fig


# --- pictures


def pictures(shown: Sequence, titles: Sequence[str] | None = None, columns: int = 8, side: float = 1.15) -> plt.Figure:
    """Draw a grid of pictures: PIL images or arrays (s, s, 3)."""
    rows = -(-len(shown) // columns)
    size = (side * columns, (side + (0.22 if titles else 0)) * rows)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, shown, strict=False)):
        ax.imshow(np.asarray(image))
        if titles:
            ax.set_title(literal(titles[i]), fontsize=9)
    return fig


def thumbnails(
    images: Images, places: Sequence[int], titles: Sequence[str], columns: int = 8, side: float = 1.15
) -> plt.Figure | None:
    """Draw a grid of the `images` at `places`; where only embeddings are stored, print that it is left out."""
    if not images.has_pixels:
        left_out(f"a look at {len(places)} pictures")
        return None
    return pictures([images.image(i) for i in places], titles, columns, side)


def one_per_cell(images: Images, classes: Sequence[str] | None = None) -> plt.Figure:
    """Draw the first picture of every (class, domain) cell, classes in rows and domains in columns."""
    names, domains = list(classes or images.vocabulary.classes), images.vocabulary.domains
    size = (1.1 * len(domains) + 0.9, 1.02 * len(names))
    fig, axes = plt.subplots(len(names), len(domains), figsize=size, squeeze=False)
    for name, row in zip(names, axes, strict=True):
        c = images.vocabulary.classes.index(name)
        for k, ax in enumerate(row):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            matches = ((images.classes == c) & (images.domains == k)).nonzero()[:, 0]
            if len(matches):
                ax.imshow(images.image(int(matches[0])))
            else:
                ax.text(0.5, 0.5, "none", ha="center", va="center", color="0.6", transform=ax.transAxes)
        row[0].set_ylabel(literal(name), rotation=0, ha="right", va="center")
    for ax, domain in zip(axes[0], domains, strict=True):
        ax.set_title(literal(domain))
    return fig


# --- points and curves


def scatter(
    points: np.ndarray, groups: Sequence[str], styles: Sequence[str] | None = None, ax: plt.Axes | None = None
) -> plt.Axes:
    """Draw points (n, 2) with a colour and a marker for each group, or a marker for each of `styles`."""
    ax = ax or plt.subplots(figsize=(6, 4.6))[1]
    groups, styles = [literal(name) for name in groups], [literal(name) for name in styles or groups]
    markers = list(MARKERS[: len(set(styles))]) if len(set(styles)) <= len(MARKERS) else True
    data = {"x": points[:, 0], "y": points[:, 1], "hue": groups, "style": styles}
    sns.scatterplot(**data, hue_order=list(dict.fromkeys(groups)), markers=markers, ax=ax, s=45, linewidth=0.3)
    ax.legend(bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False, fontsize=9)
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
        look = {"fmt": MARKERS[i], "color": f"C{i}", "ms": 9, "elinewidth": 1, "ecolor": "0.8", "label": kind}
        ax.errorbar(x[0], y[0], xerr=abs(x[1:] - x[0]), yerr=abs(y[1:] - y[0]), **look)
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
    ax.legend(loc="upper left")
    fig.canvas.draw()
    places = [ax.transData.transform((x[0], y[0])) for x, y in points.values()]
    taken = [Bbox([place - 6, place + 6]) for place in places]
    for name, (x, y) in points.items():
        text = ax.annotate(literal(name), (x[0], y[0]), (0, 0), textcoords="offset points", fontsize=11)
        spots = {}
        for ha, va, spot in NAME_PLACES:
            text.set(ha=ha, va=va, position=spot)
            box = text.get_window_extent()
            spots[ha, va, spot] = sum(box.overlaps(other) for other in taken) + (
                not ax.bbox.padded(8).containsx(box.x1)
            )
        ha, va, spot = min(spots, key=spots.__getitem__)
        text.set(ha=ha, va=va, position=spot)
        taken.append(text.get_window_extent())
    return fig


def audit(report: Audit, most: float = 10.0) -> plt.Figure:
    """Draw the judged findings of `cn.audit`: how many times its limit each one is, and the three models' answers.

    Bars end at `most` times the limit, left of the line is what is tolerated, and findings at 0 are only counted.
    """
    from ..audits.findings import format_number  # loads all audits

    judged = [finding for finding in report.findings if finding.excess is not None]
    if not judged:
        raise ValueError("report: nothing in it is judged; expected one with a retrained model, or with pictures kept")
    drawn = [finding for finding in judged if finding.times > 0]
    times = [min(most, max(0.02, finding.times)) for finding in drawn]
    answers = [tuple(map(format_number, (f.unedited, f.edited, f.retrained))) for f in drawn]
    fig, ax = plt.subplots(figsize=(10.5, 1.2 + 0.3 * len(drawn)))
    ax.barh(range(len(drawn)), times, 0.7, color=["C0" if finding.within else "C1" for finding in drawn])
    ax.axvline(1, color="0.3", lw=1.2)
    font = {"va": "center", "fontfamily": "monospace", "fontsize": 10, "transform": ax.get_yaxis_transform()}
    for row, texts in enumerate([("before", "after", "retr."), *answers], -1):
        ax.text(1.02, row, "  ".join(f"{text:>6}" for text in texts), **font)
    ax.set_yticks(range(len(drawn)), [f"{finding.check}: {finding.asked}" for finding in drawn], fontsize=10)
    zeros = f"{len(judged) - len(drawn)} more findings are at 0"
    label = f"times the limit (1: the most that is tolerated)\n{zeros}"
    ax.set(xlim=(0, min(most, 1.05 * max([*times, 2]))), xlabel=label)
    ax.invert_yaxis()
    sns.despine(fig)
    return fig
