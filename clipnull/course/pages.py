"""The pages of the book, before and after Sphinx: the index, what is left of a notebook, links, the last touches."""

from __future__ import annotations

import ast
import base64
import html
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from .notebooks import read, write
from .plots import caption
from .printed import tabled

INDEX = """# clipnull

Learn, see and measure how a pretrained CLIP can be made to forget, without training and without data. These pages are
the notebooks of the course with their outputs, in order. Solutions of exercises are folded away.
"""
PICTURE = """
![The pictures of miniworld, in which the course forgets: a row for each of 14 classes, from bird to umbrella, a column
for each of 6 domains, among them photographs, line drawings and silhouettes](contact_sheet.webp)

**Try it first:** [forget in your browser](demo.md). Choose what to forget and see what else is lost, without Python.
"""
TREE = """
```{toctree}
:hidden:
:maxdepth: 1
:caption: %s

%s
```
"""
UNTOUCHED = re.compile(r"(```.*?```|`[^`]*`|\[[^\]]*\]\([^)]*\)|\$\$.*?\$\$|\$[^$\n]*\$)", re.DOTALL)
"""Code, links and formulas in Markdown."""
FIGURE = re.compile(r'<figure><img alt="([^"]*)" src="data:image/\w+;base64,([^"]+)"')
SCROLLED = '<div class="table-wrapper"><table>'
NUMBERS = re.compile(r"<details><summary>Numbers of the figure</summary>.*?</details>", re.DOTALL)


def index(pages: Sequence[Path], parts: Mapping[str, Sequence[str]], pictured: bool) -> str:
    """The first page: each of `pages` with what it teaches and its notebook to download, then the `parts` of the menu.

    parts: names of pages by the title above them in the menu. pictured: with PICTURE, which needs its file.
    """
    lines = [INDEX, PICTURE if pictured else "", "## The chapters\n"]
    for page in pages:
        text = _first_text(page)
        title = re.search(r"^# (.+)", text, re.MULTILINE)
        lines.append(f"### [{title[1] if title else page.stem}]({page.name})\n")
        lines.append(_cover(page))
        lines.append(_goals(text))
        if page.suffix == ".ipynb":
            lines.append(f'<a href="_static/notebooks/{page.name}" download>Download the notebook</a>\n')
    trees = [TREE % (title, "\n".join(Path(name).stem for name in names)) for title, names in parts.items()]
    return "\n".join([*lines, *trees])


def _first_text(page: Path) -> str:
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    return next((cell.source for cell in read(page).cells if cell.cell_type == "markdown"), "")


def _cover(page: Path) -> str:
    """A small picture of a chapter: the figure of a cell with the tag `cover`, else the first; nothing without one."""
    cells = [] if page.suffix != ".ipynb" else [cell for cell in read(page).cells if cell.cell_type == "code"]
    for cell in sorted(cells, key=lambda cell: "cover" not in cell.metadata.get("tags", [])):
        for output in cell.get("outputs", ()):
            if found := FIGURE.search(output.get("data", {}).get("text/html", "")):
                picture, small = Image.open(io.BytesIO(base64.b64decode(found[2]))).convert("RGB"), io.BytesIO()
                picture.thumbnail((560, 360))
                picture.save(small, "webp", quality=70)
                data = base64.b64encode(small.getvalue()).decode("ascii")
                alt = html.escape(caption(html.unescape(found[1]))[0])
                return f'<img class="cover" alt="{alt}" src="data:image/webp;base64,{data}">\n'
    return ""


def _goals(text: str) -> str:
    """What a chapter says that it teaches: its goals, as sentences or as a list; else its first paragraph."""
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if not part.startswith("#")]
    for i, part in enumerate(paragraphs):
        if part.startswith("**Goals.**"):
            return part.removeprefix("**Goals.**").strip() + "\n"
        if part.startswith("**You will be able to**"):
            return "\n\n".join(["You will be able to", *paragraphs[i + 1 : i + 2]]) + "\n"
    return f"{paragraphs[0]}\n" if paragraphs else ""


def copy(page: Path, source: Path, pages: Sequence[Path]) -> None:
    """Put a page into the folder `source` of Sphinx, and a notebook as it is into its `_static/notebooks`.

    Of outputs only what is for reading; solutions and code that only draws folded; "notebook 05" becomes a link; an
    exercise gets a heading.
    """
    if page.suffix != ".ipynb":
        shutil.copyfile(page, source / page.name)
        return
    (source / "_static" / "notebooks").mkdir(exist_ok=True)
    shutil.copyfile(page, source / "_static" / "notebooks" / page.name)
    nb, numbered = read(page), {p.stem[:2]: p.name for p in pages if p.suffix == ".ipynb" and p != page}
    drawing = drawings([cell.source if cell.cell_type == "code" else "" for cell in nb.cells])
    for i, cell in enumerate(nb.cells):
        tags = cell.metadata.get("tags", [])
        if i in drawing or "solution" in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
        if i in drawing:
            shown = {
                "code_prompt_show": "Show the code of the figure",
                "code_prompt_hide": "Hide the code of the figure",
            }
            cell.metadata["mystnb"] = shown
        if cell.cell_type == "markdown":
            cell.source = headed(linked(cell.source, numbered))
        for output in cell.get("outputs", ()):
            for kind in [kind for kind in output.get("data", {}) if "clipnull" in kind]:
                del output["data"][kind]
    write(source / page.name, nb)


def drawings(cells: Sequence[str]) -> set[int]:
    """Which `cells` of code only draw: they show a figure, print nothing, and name nothing that a later one uses."""
    trees = [ast.parse(source) for source in cells]
    made, used = zip(*map(_names, trees), strict=True) if trees else ((), ())
    calls = [{ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)} for tree in trees]
    return {
        i
        for i, called in enumerate(calls)
        if "plots.show" in called and "print" not in called and not made[i] & set().union(*used[i + 1 :])
    }


def _names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The names that a cell makes, and those that it uses of other cells."""
    nodes = list(ast.walk(tree))
    passing = {
        name for node in nodes if isinstance(node, ast.comprehension) for name in ast.walk(node.target)
    }  # of a comprehension alone
    names = [node for node in nodes if isinstance(node, ast.Name)]
    own = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    made = {name.id for name in names if isinstance(name.ctx, ast.Store) and name not in passing}
    return made, {name.id for name in names} - own


def headed(text: str) -> str:
    """Markdown in which a line that begins with "**Exercise 1** (6 min, easy)." is a heading and what follows."""
    return re.sub(r"^\*\*(Exercise \d+)\*\*( \([^)]*\))?\.?\s+", r"### \1\2\n\n", text, flags=re.MULTILINE)


def linked(text: str, numbered: Mapping[str, str]) -> str:
    """Markdown in which "notebook 05" is a link, if `numbered` has a page for "05"."""

    def link(found: re.Match) -> str:
        page = numbered.get(found[2])
        return f"[{found[0]}]({page})" if page else found[0]

    parts = UNTOUCHED.split(text)
    parts[::2] = [re.sub(r"\b([Nn]otebooks?\s)(\d\d)\b", link, part) for part in parts[::2]]
    return "".join(parts)


def finished(page: str) -> str:
    """A page of Sphinx for small windows and for screen readers.

    Printed sentences may wrap, and printed tables become tables. Tables scroll, with the keyboard too.
    Captions of the menu are headings of a level; the menu and the list of sections have names that differ; the page of
    search has a heading.
    """

    def printed(found: re.Match) -> str:
        return f'{found[1]}<div class="printed">{tabled(found[2])}</div>'

    page = re.sub(r'(<div class="output[^>]*><div class="highlight">)<pre>(.*?)</pre>', printed, page, flags=re.DOTALL)
    page = NUMBERS.sub(lambda found: found[0].replace("<table>", SCROLLED).replace("</table>", "</table></div>"), page)
    for drawer, label in (("sidebar-drawer", "Chapters"), ("toc-drawer", "On this page")):
        page = page.replace(f'<aside class="{drawer}', f'<aside aria-label="{label}" class="{drawer}')
    page = page.replace('<div id="search-results">', '<h1>Search</h1>\n<div id="search-results">')
    page = page.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
    return page.replace('role="heading"', 'role="heading" aria-level="2"')
