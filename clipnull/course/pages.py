"""The pages of the book before Sphinx reads them: the index, and the notebooks with links between them."""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
from collections.abc import Mapping, Sequence
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
UNTOUCHED = re.compile(r"(```.*?```|`[^`]*`|\[[^\]]*\]\([^)]*\)|\$\$.*?\$\$|\$[^$\n]*\$)", re.DOTALL)
"""Code, links and formulas in Markdown."""
SOLUTION = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}


def index(pages: Sequence[Path], menu: Mapping[str, Sequence[str]], with_demo: bool) -> str:
    """The first page: each of `pages` with its picture, its goals and its notebook to download, and the menu.

    menu: names of pages by the title above them.
    """
    lines = [HEAD, DEMO if with_demo else "", "## The chapters\n"]
    for page in pages:
        nb = read(page) if page.suffix == ".ipynb" else None
        text = nb.cells[0].source if nb else page.read_text(encoding="utf-8")
        title = re.search(r"^# (.+)", text, re.MULTILINE)
        lines += [
            f"### [{title[1] if title else page.stem}]({page.name})\n",
            _cover(nb) if nb else "",
            with_anchors(_goals(text)),
        ]
        if nb:
            lines.append(f'<a href="_static/notebooks/{page.name}" download>Download the notebook</a>\n')
    lines += [MENU % (title, "\n".join(Path(name).stem for name in names)) for title, names in menu.items() if names]
    return "\n".join(lines)


def _cover(nb: Any) -> str:
    """A thumbnail of a notebook's first figure; "" without one."""
    outputs = [output for cell in nb.cells for output in cell.get("outputs", ())]
    figure = next(filter(None, map(_figure, outputs)), None)
    if not figure:
        return ""
    alt, encoded = figure
    picture, content = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"), io.BytesIO()
    picture.thumbnail((560, 360))
    picture.save(content, "webp", quality=70)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img class="cover" alt="{html.escape(alt)}" src="data:image/webp;base64,{data}">\n'


def _figure(output: Any) -> tuple[str, str] | None:
    """The alternative text and the data of the figure that an output shows, if any."""
    png = output.get("data", {}).get("image/png")
    return (output.metadata.get("image/png", {}).get("alt", ""), png) if png else None


def _goals(text: str) -> str:
    """What a reader of a chapter will be able to do; else its first paragraph."""
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if not part.startswith("#")]
    goals = [part.replace("**", "") for part in paragraphs if part.startswith("**You will be able to**")]
    return "".join(f"{part}\n" for part in (goals or paragraphs)[:1])


def copy(page: Path, source: Path, pages: Sequence[Path]) -> None:
    """Copy a page into the folder `source` of Sphinx, and a notebook as it is into its `_static/notebooks`.

    In the notebook that Sphinx reads, solutions are folded, "lesson 05" is a link, and exercises have headings.
    """
    if page.suffix != ".ipynb":
        shutil.copyfile(page, source / page.name)
        return
    originals, nb = source / "_static" / "notebooks", read(page)
    originals.mkdir(exist_ok=True)
    shutil.copyfile(page, originals / page.name)
    numbered = {other.stem[:2]: other.name for other in pages if other.suffix == ".ipynb" and other != page}
    for cell in nb.cells:
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            cell.metadata |= {"tags": [*tags, "hide-input"], "mystnb": dict(SOLUTION)}
        if cell.cell_type == "markdown":
            cell.source = with_anchors(with_headings(with_links(cell.source, numbered)))
        for found in filter(None, map(_figure, cell.get("outputs", ()))):
            cell.metadata.setdefault("mystnb", {})["image"] = {"alt": found[0]}
    write_text(source / page.name, text_of(nb))


def with_anchors(text: str) -> str:
    """The text whose links to headings of notebooks, "00_a.ipynb#My-heading" in Jupyter, are those of the book."""
    return re.sub(r"(?<=\.ipynb#)[^)\s]+", lambda found: found[0].lower(), text)


def with_headings(text: str) -> str:
    """Markdown in which a line that begins with "**Exercise 1** (6 min, easy)." is a heading and what follows."""
    return re.sub(r"^\*\*(Exercise \d+)\*\*( \([^)]*\))?\.?\s+", r"### \1\2\n\n", text, flags=re.MULTILINE)


def with_links(text: str, numbered: Mapping[str, str]) -> str:
    """Markdown in which "lesson 05" and "notebook 05" are links, if `numbered` has a page for "05"."""

    def link(match: re.Match) -> str:
        page = numbered.get(match[2])
        return f"[{match[0]}]({page})" if page else match[0]

    parts = UNTOUCHED.split(text)
    parts[::2] = [re.sub(r"\b((?:[Ll]esson|[Nn]otebook)s?\s)(\d\d)\b", link, part) for part in parts[::2]]
    return "".join(parts)
