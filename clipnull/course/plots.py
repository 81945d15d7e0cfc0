"""Figures: every one comes with a text alternative, shown as its caption."""

import base64
import html
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import import_extra

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..audits.findings import Audit, format_number
from ..evaluate import Comparison
from ..images import Images
from ..stored import left_out

if TYPE_CHECKING:
    import IPython.display as ipython
    import matplotlib.pyplot as plt
    import seaborn as sns
else:
    plt, sns, ipython = (import_extra(name, "course") for name in ("matplotlib.pyplot", "seaborn", "IPython.display"))


# --- What a figure shows, read from its axes: a short text for who cannot see it, and its numbers as tables.

MOST = 24
"""Rows of a table; of a line, at most half as many points."""

CELLS = 360
"""Numbers of a figure: tables beyond that are left out."""

TEXT = 320
"""Characters of an alternative text and of a caption, but for a first sentence that is longer."""


@dataclass(frozen=True)
class Panel:
    """What is on one of the axes: what it is, in words, and its numbers as lines of texts, the first their heading."""

    told: str
    title: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


def source(fig: "plt.Figure") -> str:
    """The figure, drawn, as a picture for the `src` of an `<img>`: PNG or WebP, whichever is smaller."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB")
    kind, data = min(
        (
            _encode(picture.quantize(256, dither=Image.Dither.NONE), "png"),  # drawings
            _encode(picture, "webp", quality=80, method=6),
        ),
        key=lambda found: len(found[1]),
    )
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encode(picture: Image.Image, kind: str, **options: int) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return kind, buffer.getvalue()


def alternative(fig: "plt.Figure") -> str:
    """What kind of figure it is, what its axes are, and how far they go: what a caption does not say.

    Of a figure that was drawn once, so that its ticks have their labels.
    """
    panels = _panels(fig)
    pictures = [_plain(ax.get_title()) for ax in fig.axes if ax.images]
    parts = [panel.told for panel in panels]
    if pictures:
        named = [re.sub(r"\s+", " ", title) for title in pictures if title]
        parts.append(_count(len(pictures), "picture") + (f": {', '.join(named)}" if named else ""))
    many = sum(bool(list(_panels_of(ax))) for ax in fig.axes if ax.get_label() != "<colorbar>")
    text = f"{many} panels. " if many > 1 else ""
    for i, part in enumerate(parts):
        if i and len(text) + len(part) > TEXT:
            return f"{text}And {len(parts) - i} more."
        text += f"{part[:TEXT]}. "
    return text.strip() or "A drawing."


def numbers(fig: "plt.Figure") -> str:
    """The numbers of a figure that was drawn, as tables of HTML; those that would be too long are left out."""
    found, left = "", CELLS
    for panel in _panels(fig):
        size = sum(map(len, panel.rows))
        if len(panel.rows) > 1 and size <= left:
            left -= size
            found += _table(panel)
    return found


def caption(text: str) -> tuple[str, str]:
    """The first sentences of a text, TEXT characters if the first is not longer, and what is left of it."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.strip())
    end = len(sentences)
    while end > 1 and len(" ".join(sentences[:end])) > TEXT:
        end -= 1
    return " ".join(sentences[:end]), " ".join(sentences[end:])


def _table(panel: Panel) -> str:
    head, *rows = panel.rows
    title = f"<caption>{html.escape(panel.title)}</caption>" if panel.title else ""
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' if name else "<td></td>" for name in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(f"<td>{html.escape(v)}</td>" for v in values)}</tr>'
        for name, *values in rows
    )
    return f"<table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


# --- the kinds of drawings ---------------------------------------------------------------------------------------


def _panels(fig: "plt.Figure") -> list[Panel]:
    return [panel for ax in fig.axes if ax.get_label() != "<colorbar>" for panel in _panels_of(ax)]


def _panels_of(ax: Any) -> Iterator[Panel]:
    containers, collections = (
        import_extra("matplotlib.container", "course"),
        import_extra("matplotlib.collections", "course"),
    )
    title = _plain(ax.get_title())
    for mesh in (found for found in ax.collections if isinstance(found, collections.QuadMesh)):
        yield _heat_map(ax, mesh, title)
    bars = [found for found in ax.containers if isinstance(found, containers.BarContainer) and found.patches]
    if bars:
        yield _bars(ax, bars, title)
    held = [found for found in ax.containers if isinstance(found, containers.ErrorbarContainer) and found.lines[0]]
    series = [(_plain(found.get_label()), found.lines[0].get_xydata()) for found in held]
    within = {id(found.lines[0]) for found in held}
    straight = [line for line in ax.lines if line.get_transform() == ax.transData and id(line) not in within]
    series += [(_plain(line.get_label()), line.get_xydata()) for line in straight]
    series = [(name, points) for name, points in series if np.isfinite(points).all(1).any()]
    if any(name[:1] not in ("", "_") for name, _ in series):
        series = [(name, points) for name, points in series if name[:1] not in ("", "_")]
    if series and (not bars or series[0][0][:1] not in ("", "_")):
        yield _lines(ax, series, title)
    dots = [found for found in ax.collections if isinstance(found, collections.PathCollection)]
    dots = [(_plain(found.get_label()), np.asarray(found.get_offsets(), dtype=float)) for found in dots]
    dots = [(name, points) for name, points in dots if np.isfinite(points).any()]
    if dots:
        yield _dots(ax, dots, title)


def _heat_map(ax: Any, mesh: Any, title: str) -> Panel:
    values = np.ma.atleast_2d(mesh.get_array())
    across, down = _labels(ax.xaxis), _labels(ax.yaxis)
    told = f"Heat map{_named(title)}: {_span(down, values.shape[0], 'row')}, {_span(across, values.shape[1], 'column')}"
    if (len(down), len(across)) != values.shape:
        return Panel(told)
    there = ~np.ma.getmaskarray(values)
    written = [_plain(text.get_text()) for text in ax.texts] if len(ax.texts) >= there.sum() else []
    texts = iter(written or [_number(value) for value in values.compressed()])
    rows = [(name, *(next(texts) if known else "" for known in line)) for name, line in zip(down, there, strict=True)]
    return Panel(told, title, (("", *across), *rows))


def _bars(ax: Any, bars: list[Any], title: str) -> Panel:
    flat = bars[0].orientation == "horizontal"
    axis = ax.yaxis if flat else ax.xaxis
    places = _words(axis)
    legend = [] if ax.get_legend() is None else [_plain(text.get_text()) for text in ax.get_legend().get_texts()]
    series = legend if len(legend) == len(bars) else [_plain(found.get_label()) for found in bars]
    series = ["" if name.startswith("_") else name for name in series]
    found: dict[str, dict[int, str]] = {}
    for i, container in enumerate(bars):
        for patch in container.patches:
            middle = patch.get_y() + patch.get_height() / 2 if flat else patch.get_x() + patch.get_width() / 2
            near = min(places, key=lambda place: abs(place - middle), default=middle)
            name = places[near] if places and abs(near - middle) < 0.5 else _number(middle)
            found.setdefault(name, {})[i] = _number(patch.get_width() if flat else patch.get_height())
    value = _plain(ax.get_xlabel() if flat else ax.get_ylabel())
    of = _plain(ax.get_ylabel() if flat else ax.get_xlabel()) or _span(list(found), len(found), "group")
    told = f"Bars{_named(title)} of {of}; {value}" if value else f"Bars{_named(title)} of {of}"
    told += f": {', '.join(filter(None, series))}" if any(series) else ""
    rows = [(name, *(by.get(i, "") for i in range(len(bars)))) for name, by in found.items()]
    return Panel(told, title, (("", *(name or value for name in series)), *rows) if len(rows) <= MOST else ())


def _lines(ax: Any, series: list[tuple[str, np.ndarray]], title: str) -> Panel:
    names = [name for name, _ in series if not name.startswith("_")]
    told = f"Lines{_named(title)}: {', '.join(names)}; {_axes(ax)}" if names else f"Lines{_named(title)}; {_axes(ax)}"
    if not names and len(series) > 1:
        return Panel(told)
    across = _plain(ax.get_xlabel()) or "across"
    first = series[0][1]
    if all(len(points) == len(first) and np.allclose(points[:, 0], first[:, 0]) for _, points in series):
        kept = np.unique(np.linspace(0, len(first) - 1, min(len(first), MOST // 2)).round().astype(int))
        heads = names or [_plain(ax.get_ylabel()) or "up"]
        rows = [(_place(ax.xaxis, first[i, 0]), *(_number(points[i, 1]) for _, points in series)) for i in kept]
        return Panel(told, title, ((across, *heads), *rows))
    heads = ("", across, _plain(ax.get_ylabel()) or "up")
    rows = []
    for name, points in series:
        kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), 5)).round().astype(int))
        rows += [(name, _place(ax.xaxis, points[i, 0]), _place(ax.yaxis, points[i, 1])) for i in kept]
    return Panel(told, title, (heads, *rows) if len(rows) <= 2 * MOST else ())


def _dots(ax: Any, dots: list[tuple[str, np.ndarray]], title: str) -> Panel:
    dots = [("" if name.startswith("_") else name, points[np.isfinite(points).all(1)]) for name, points in dots]
    total = sum(len(points) for _, points in dots)
    told = f"{_count(total, 'dot')}{_named(title)}; {_axes(ax)}"
    across, up = _plain(ax.get_xlabel()) or "across", _plain(ax.get_ylabel()) or "up"
    if total <= MOST:
        rows = [(name, _place(ax.xaxis, x), _place(ax.yaxis, y)) for name, points in dots for x, y in points]
        return Panel(told, title, (("", across, up), *rows))
    flat = not _words(ax.xaxis) and bool(_words(ax.yaxis))
    places, value = (_words(ax.yaxis), across) if flat else (_words(ax.xaxis), up)
    groups: dict[str, list[float]] = {}
    for name, points in dots:
        for place, of in points[:, ::-1] if flat else points:
            near = min(places, key=lambda tick: abs(tick - place), default=None)
            group = places[near] if near is not None and abs(near - place) < 0.5 else ""
            groups.setdefault(", ".join(filter(None, (group, name))), []).append(of)
    rows = [(name, str(len(v)), *map(_number, (min(v), np.median(v), max(v)))) for name, v in groups.items()]
    heads = ("", "dots", f"lowest {value}", "median", "highest")
    return Panel(told, title, (heads, *rows) if len(rows) <= MOST else ())


# --- words -------------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """The text of a label: without the marks of formulas, on one line."""
    return re.sub(r"\s+", " ", text.replace(r"\$", "\0").replace("$", "").replace("\0", "$")).strip()


def _labels(axis: Any) -> list[str]:
    return [_plain(label.get_text()) for label in axis.get_ticklabels()]


def _words(axis: Any) -> dict[float, str]:
    """The words at the ticks of an axis, by their place."""
    return {place: name for place, name in zip(axis.get_ticklocs(), _labels(axis), strict=False) if _word(name)}


def _word(text: str) -> bool:
    return bool(re.search(r"[^\W\d_]{2}", text))


def _number(value: float) -> str:
    """Three digits, and all before the point."""
    return "" if not np.isfinite(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{float(f'{value:.3g}'):g}"


def _place(axis: Any, value: float) -> str:
    """A number, or the word that the axis writes there."""
    for place, name in zip(axis.get_ticklocs(), _labels(axis), strict=False):
        if abs(place - value) < 1e-6 and _word(name):
            return name
    return _number(value)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _named(title: str) -> str:
    return f" “{title}”" if title else ""


def _span(labels: list[str], n: int, what: str) -> str:
    named = [label for label in labels if label]
    return _count(n, what) + (f" from {named[0]} to {named[-1]}" if len(named) > 1 else "")


def _axes(ax: Any) -> str:
    """What is across and what is up, from where to where."""
    parts = []
    for axis, limits, way in ((ax.xaxis, ax.dataLim.intervalx, "across"), (ax.yaxis, ax.dataLim.intervaly, "up")):
        names = [label for label in _labels(axis) if _word(label)]
        label = _plain(axis.get_label_text())
        span = f"{names[0]} to {names[-1]}" if len(names) > 1 else f"{_number(limits[0])} to {_number(limits[1])}"
        parts.append(f"{way} {label + ', ' if label else ''}{span}")
    return ", ".join(parts)


# --- plots

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
    shown = source(fig)
    seen, tables, (below, more) = alternative(fig), numbers(fig), map(html.escape, caption(alt))
    plt.close(fig)
    page = f'<figure><img alt="{html.escape(seen)}" src="{shown}"><figcaption>{below}</figcaption></figure>'
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
        raise ValueError(
            "report: nothing in it is judged; expected an audit with a retrained model, or with pictures kept"
        )
    none, judged = sum(f.times == 0 for f in judged), [f for f in judged if f.times > 0]
    fig, ax = plt.subplots(figsize=(10.5, 1.2 + 0.3 * len(judged)))
    times = [min(most, max(0.02, f.times)) for f in judged]
    ax.barh(range(len(judged)), times, 0.7, color=["C0" if f.within else "C1" for f in judged])
    ax.axvline(1, color="0.3", lw=1.2)
    for row, f in enumerate(judged):
        answers = (format_number(v) for v in (f.unedited, f.edited, f.retrained))
        ax.text(1.02, row, "  ".join(f"{a:>6}" for a in answers), va="center", fontfamily="monospace", fontsize=10,
                transform=ax.get_yaxis_transform())  # fmt: skip
    ax.text(1.02, -1, "  ".join(f"{a:>6}" for a in ("before", "after", "retr.")), va="center", fontfamily="monospace",
            fontsize=10, transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_yticks(range(len(judged)), [f"{f.check}: {f.asked}" for f in judged], fontsize=10)
    ax.set(xlim=(0, min(most, 1.05 * max([*times, 2]))), xlabel="times the limit (1: the most that is tolerated)"
           f"\n{none} more findings are at 0")  # fmt: skip
    ax.invert_yaxis()
    sns.despine(fig)
    return fig


def sequences(found: Sequence[dict], titles: Mapping[str, str], figures: Mapping[str, str]) -> plt.Figure:
    """Curves of `sequences.curves`: a row a figure, a column a way, a line a method, a band from lowest to highest.

    titles: of the ways; figures: their labels.
    """
    ways = [way for way in titles if any(row["way"] == way for row in found)]
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
        line[0].set_ylabel(figures[figure])
    for ax, way in zip(axes[0], ways, strict=True):
        ax.set_title(titles[way])
    for ax in axes[-1]:
        ax.set_xlabel("classes forgotten")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    sns.despine(fig)
    return fig
