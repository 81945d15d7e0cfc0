"""The pages of the book before Sphinx reads them: the index, and the notebooks."""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import write_text
from .notebooks import read, text_of

HEAD = """# clipnull

Learn, see and measure how a pretrained CLIP can be made to forget, without training and without data. These pages are
the notebooks of the course with their outputs, in order. Solutions of exercises are folded.
"""
DEMO = """
![The pictures of miniworld, in which the course forgets: a row for each of 14 classes, from bird to umbrella, a column
for each of 6 domains, among them photographs, line drawings and silhouettes](contact_sheet.webp)

**Try it first:** [forget in your browser](demo.md). Choose what to forget and see what else is lost, without Python.
"""
MENU = """
```{toctree}
:hidden:
:maxdepth: 1
:caption: %s

%s
```
"""
SOLUTION = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}


def index(pages: Sequence[Path], menu: Mapping[str, Sequence[str]], with_demo: bool) -> str:
    """The first page: each of `pages` with its picture, its goals and its notebook to download, and the menu.

    menu: names of pages by the title above them.
    """
    lines = [HEAD, DEMO if with_demo else "", "## The chapters\n"]
    for page in pages:
        nb = read(page) if page.suffix == ".ipynb" else None
        title, *paragraphs = re.split(r"\n\s*\n", nb.cells[0].source if nb else page.read_text(encoding="utf-8"))
        goals = [text.replace("**", "") for text in paragraphs if text.startswith("**You will be able to**")]
        lines.append(f"### [{title.strip('# ')}]({page.name})\n")
        if nb:
            lines += [_cover(figure) for figure in [*_figures(nb.cells)][:1]]
        lines += [f"{_with_anchors(text)}\n" for text in [*goals, *paragraphs][:1]]
        if nb:
            lines.append(f'<a href="_static/notebooks/{page.name}" download>Download the notebook</a>\n')
    lines += [MENU % (title, "\n".join(Path(name).stem for name in names)) for title, names in menu.items() if names]
    return "\n".join(lines)


def copy(page: Path, source: Path) -> None:
    """Copy a page into the folder `source` of Sphinx, and a notebook as it is into its `_static/notebooks`.

    In the notebook that Sphinx reads, solutions are folded, and exercises have headings.
    """
    if page.suffix != ".ipynb":
        shutil.copyfile(page, source / page.name)
        return
    originals, nb = source / "_static" / "notebooks", read(page)
    originals.mkdir(exist_ok=True)
    shutil.copyfile(page, originals / page.name)
    for cell in nb.cells:
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            cell.metadata |= {"tags": [*tags, "hide-input"], "mystnb": dict(SOLUTION)}
        if cell.cell_type == "markdown":
            cell.source = _with_anchors(_with_headings(cell.source))
        for alt, _ in _figures([cell]):
            cell.metadata.setdefault("mystnb", {})["image"] = {"alt": alt}
    write_text(source / page.name, text_of(nb))


def _figures(cells: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """The alternative text and the data of each figure that is shown below `cells`."""
    for output in (output for cell in cells for output in cell.get("outputs", ())):
        if png := output.get("data", {}).get("image/png"):
            yield output.metadata.get("image/png", {}).get("alt", ""), png


def _cover(figure: tuple[str, str]) -> str:
    """A thumbnail of a figure."""
    alt, encoded = figure
    picture, content = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"), io.BytesIO()
    picture.thumbnail((560, 360))
    picture.save(content, "webp", quality=70)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img class="cover" alt="{html.escape(alt)}" src="data:image/webp;base64,{data}">\n'


def _with_anchors(text: str) -> str:
    """The text whose links to headings of notebooks, "00_a.ipynb#My-heading" in Jupyter, are those of the book."""
    return re.sub(r"(?<=\.ipynb#)[^)\s]+", lambda match: match[0].lower(), text)


def _with_headings(text: str) -> str:
    """Markdown in which a line that begins with "**Exercise 1** (6 min, easy)." is a heading and what follows."""
    return re.sub(r"^\*\*(Exercise \d+)\*\*( \([^)]*\))?\.?\s+", r"### \1\2\n\n", text, flags=re.MULTILINE)
