"""Figures: every one comes with a text alternative, shown as its caption."""

import html
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from . import drawn
from .audits.findings import Audit, told
from .data import Images
from .errors import import_extra
from .evaluate import Comparison
from .sequences import FIGURES, WAYS
from .stored import left_out

if TYPE_CHECKING:
    import IPython.display as ipython
    import matplotlib.pyplot as plt
    import seaborn as sns
else:
    plt, sns, ipython = (import_extra(name, "course") for name in ("matplotlib.pyplot", "seaborn", "IPython.display"))

FEW = 20
"""Below so many pictures a share is written as a count."""

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


def style() -> None:
    """The look of all figures: colour-blind safe, fixed resolution, text that survives half width."""
    sns.set_theme(
        style="white",
        palette="colorblind",
        font_scale=1.0,
        rc={
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "axes.titlesize": "medium",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.constrained_layout.use": True,
        },
    )


def show(fig: plt.Figure, alt: str) -> None:
    """Display `fig` with `alt`, sentences that say what it shows, as its caption; what is long goes to its numbers.

    The alternative text of the picture says what kind of figure it is, and its numbers are tables to unfold.
    """
    if not isinstance(alt, str) or len(alt) < 20:
        raise ValueError(f"alt: {alt!r} is not valid; expected a sentence that says what the figure shows")
    source = drawn.source(fig)
    seen, tables, (caption, more) = drawn.alternative(fig), drawn.numbers(fig), map(html.escape, drawn.caption(alt))
    plt.close(fig)
    page = f'<figure><img alt="{html.escape(seen)}" src="{source}"><figcaption>{caption}</figcaption></figure>'
    if more or tables:
        told = f"<p>{more}</p>" if more else ""
        page += f"<details><summary>Numbers of the figure</summary>{told}{tables}</details>"
    ipython.display(ipython.HTML(page))


def literal(name: object) -> str:
    """A name for a title, a label or a legend: a dollar sign in it is one, and begins no formula."""
    return str(name).replace("$", r"\$")


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
    told: Tensor | None = None,
) -> plt.Axes:
    """A heat map with its numbers: `values` (R, K), NaN left blank; cells of the mask `outline` get a frame.

    told: (R, K), the numbers to write, where they are not the values that make the colours. counts: the number of
    pictures in each cell, (R, K), where the numbers are shares in percent: a share of fewer than FEW is written as
    "3/8", so that nobody takes it for more exact than it is.
    """
    ax = ax or plt.subplots(figsize=(1.2 + 0.75 * len(columns), 0.9 + 0.34 * len(rows)))[1]
    numbers = np.asarray(values, dtype=float)
    shown = numbers if told is None else np.asarray(told, dtype=float)
    labels = np.vectorize(lambda value: format(value, form), otypes=[object])(shown)
    if counts is not None:
        for r, c in zip(*np.nonzero((np.asarray(counts) < FEW) & ~np.isnan(shown)), strict=True):
            labels[r, c] = f"{shown[r, c] * int(counts[r, c]) / 100:.0f}/{int(counts[r, c])}"
    sns.heatmap(
        numbers,
        ax=ax,
        vmin=low,
        vmax=high,
        cmap=cmap,
        annot=labels,
        fmt="",
        cbar=False,
        mask=np.isnan(numbers),
        linewidths=0.5,
        linecolor="white",
        annot_kws={"size": 9},
    )
    ax.set_facecolor("0.93")
    ax.set_xticks(np.arange(len(columns)) + 0.5, [literal(name) for name in columns], rotation=35, ha="right")
    ax.set_yticks(np.arange(len(rows)) + 0.5, [literal(name) for name in rows], rotation=0)
    ax.set_title(literal(title))
    if outline is not None:
        for r, c in outline.nonzero().tolist():
            ax.add_patch(plt.Rectangle((c + 0.04, r + 0.04), 0.92, 0.92, fill=False, edgecolor="#D55E00", lw=2.5))
    return ax


def comparison(result: Comparison) -> plt.Figure:
    """Accuracy before and after an edit side by side, the second coloured by the change; forgotten cells are framed."""
    vocabulary, counts = result.images.vocabulary, result.images.counts()
    fig, axes = plt.subplots(
        1, 2, figsize=(2.4 + 1.4 * vocabulary.shape[1], 1.2 + 0.34 * vocabulary.shape[0]), sharey=True
    )
    names = vocabulary.classes, vocabulary.domains
    before, after = 100 * result.before, 100 * result.after
    matrix(before, *names, "before (counts, or % right)", axes[0], outline=result.mask, counts=counts)
    matrix(
        after - before,
        *names,
        "after (colour: the change)",
        axes[1],
        -100,
        cmap="PuOr",
        outline=result.mask,
        counts=counts,
        told=after,
    )
    return fig


def pictures(shown: Sequence, titles: Sequence[str] | None = None, columns: int = 8, side: float = 1.15) -> plt.Figure:
    """A grid of pictures: PIL images or arrays (s, s, 3)."""
    rows = -(-len(shown) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(side * columns, (side + (0.22 if titles else 0)) * rows), squeeze=False
    )
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(shown):
            ax.imshow(np.asarray(shown[i]))
            if titles:
                ax.set_title(literal(titles[i]), fontsize=9)
    return fig


def thumbnails(
    images: Images, places: Sequence[int], titles: Sequence[str], columns: int = 8, side: float = 1.15
) -> plt.Figure | None:
    """A grid of the `images` at `places`; where only embeddings are stored, one line that says so and None."""
    if not images.has_pixels:
        left_out(f"a look at {len(places)} pictures")
        return None
    return pictures([images.image(i) for i in places], titles, columns, side)


def picture(images: Images, i: int, ax: plt.Axes, title: str = "") -> None:
    """Picture `i` in `ax`; where only embeddings are stored, a frame that says so."""
    if images.has_pixels:
        ax.imshow(images.image(i))
    else:
        ax.text(0.5, 0.5, "stored as\nan embedding", ha="center", va="center", color="0.4", transform=ax.transAxes)
    ax.axis("off")
    ax.set_title(literal(title))


def one_per_cell(images: Images, classes: Sequence[str] | None = None) -> plt.Figure:
    """The first picture of every cell, classes in rows and domains in columns."""
    names = list(classes or images.vocabulary.classes)
    domains = images.vocabulary.domains
    fig, axes = plt.subplots(
        len(names), len(domains), figsize=(1.1 * len(domains) + 0.9, 1.02 * len(names)), squeeze=False
    )
    for r, name in enumerate(names):
        for k, domain in enumerate(domains):
            ax = axes[r, k]
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
            here = ((images.classes == images.vocabulary.classes.index(name)) & (images.domains == k)).nonzero()[:, 0]
            if len(here):
                ax.imshow(images.image(int(here[0])))
            else:
                ax.text(0.5, 0.5, "none", ha="center", va="center", color="0.6", transform=ax.transAxes)
            if r == 0:
                ax.set_title(literal(domain))
            if k == 0:
                ax.set_ylabel(literal(name), rotation=0, ha="right", va="center")
    return fig


def scatter(
    points: np.ndarray, groups: Sequence[str], styles: Sequence[str] | None = None, ax: plt.Axes | None = None
) -> plt.Axes:
    """Points (n, 2) with a colour and a marker for each group (or a marker for each of `styles`)."""
    ax = ax or plt.subplots(figsize=(6, 4.6))[1]
    groups, styles = [literal(name) for name in groups], [literal(name) for name in styles or groups]
    order = list(dict.fromkeys(groups))
    sns.scatterplot(
        x=points[:, 0],
        y=points[:, 1],
        hue=groups,
        style=styles,
        hue_order=order,
        markers=list(MARKERS)[: len(set(styles))] if len(set(styles)) <= 8 else True,
        ax=ax,
        s=45,
        linewidth=0.3,
    )
    ax.legend(bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False, fontsize=9)
    return ax


def show_source(*functions: Callable) -> None:
    """Display the source of `functions`; the output names them, so that a test can hold it against today's source."""
    text = "\n\n".join(textwrap.dedent(inspect.getsource(function)) for function in functions)
    names = [f"{function.__module__}.{function.__qualname__}" for function in functions]
    ipython.display(ipython.Markdown(f"```python\n{text}```"), metadata={"clipnull": {"source": names}})


def audit(report: Audit, most: float = 10.0) -> plt.Figure:
    """The judged findings of `cn.audit`: how many times its limit each one is, with the answers of the three models.

    Bars end at `most` times the limit. Left of the line is what is tolerated; what is not there at all is counted.
    """
    judged = [f for f in report.findings if f.excess is not None]
    if not judged:
        raise ValueError("report: nothing in it is judged; expected an audit with a clean model, or with pictures kept")
    none, judged = sum(f.times == 0 for f in judged), [f for f in judged if f.times > 0]
    fig, ax = plt.subplots(figsize=(10.5, 1.2 + 0.3 * len(judged)))
    times = [min(most, max(0.02, f.times)) for f in judged]
    ax.barh(range(len(judged)), times, 0.7, color=["C0" if f.within else "C1" for f in judged])
    ax.axvline(1, color="0.3", lw=1.2)
    for row, f in enumerate(judged):
        answers = (told(v) for v in (f.unedited, f.edited, f.clean))
        ax.text(1.02, row, "  ".join(f"{a:>6}" for a in answers), va="center", fontfamily="monospace", fontsize=10,
                transform=ax.get_yaxis_transform())  # fmt: skip
    ax.text(1.02, -1, "  ".join(f"{a:>6}" for a in ("before", "after", "clean")), va="center", fontfamily="monospace",
            fontsize=10, transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_yticks(range(len(judged)), [f"{f.check}: {f.asked}" for f in judged], fontsize=10)
    ax.set(xlim=(0, min(most, 1.05 * max([*times, 2]))), xlabel="times the limit (1: the most that is tolerated)"
           f"\n{none} more findings are at 0")  # fmt: skip
    ax.invert_yaxis()
    sns.despine(fig)
    return fig


def sequences(found: Sequence[dict], figures: Sequence[str] = ("forgetting_rate", "beyond_filter")) -> plt.Figure:
    """Curves of `sequences.curves`: a row a figure, a column a way, a line a method, a band from lowest to highest."""
    ways = [way for way in WAYS if any(row["way"] == way for row in found)]
    methods = list(dict.fromkeys(row["method"] for row in found))
    fig, axes = plt.subplots(
        len(figures), len(ways), figsize=(3.7 * len(ways), 3.1 * len(figures)), sharex=True, sharey="row", squeeze=False
    )
    for line, figure in zip(axes, figures, strict=True):
        for ax, way in zip(line, ways, strict=True):
            for i, method in enumerate(methods):
                own = [row for row in found if (row["method"], row["way"]) == (method, way)]
                sizes = [row["classes"] for row in own]
                mean, low, high = (np.array([row[figure][j] for row in own], dtype=float) for j in range(3))
                ax.plot(sizes, mean, marker=MARKERS[i % len(MARKERS)], color=f"C{i}", lw=2, label=literal(method))
                ax.fill_between(sizes, low, high, color=f"C{i}", alpha=0.12, lw=0)
            ax.set_xticks(sorted({row["classes"] for row in found}))
        line[0].set_ylabel(FIGURES[figure])
    for ax, way in zip(axes[0], ways, strict=True):
        ax.set_title(WAYS[way])
    for ax in axes[-1]:
        ax.set_xlabel("classes forgotten")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    sns.despine(fig)
    return fig
