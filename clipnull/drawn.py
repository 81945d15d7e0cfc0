"""What a figure shows, read from its axes: a short text for who cannot see it, and its numbers as tables."""

import base64
import html
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .errors import import_extra

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

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
