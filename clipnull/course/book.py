"""The course as a static site. Sphinx renders the stored outputs; it neither executes nor fetches anything.

myst-nb reads the notebooks, furo is the theme, extended by `theme/`, and formulas become MathML without scripts. The
extras `book` and `course` install the packages.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import import_extra
from ..files import data_folder, write_text
from . import demo
from .formulas import FONT, mathml, style
from .notebooks import THEME, read, text_of

LIBRARY = ("reference.md", "stable.md")
WIDE = 60  # formulas with more characters of LaTeX may not fit a small window, so the keyboard can scroll them

SETTINGS = {
    "project": "clipnull",
    "html_title": "clipnull",
    "html_theme": "furo",
    "html_show_sphinx": False,
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_domain_indices": False,
    "html_css_files": ["course.css"],
    "html_favicon": str(THEME / "icon.svg"),
    "templates_path": [str(THEME)],
    "exclude_patterns": ["_static"],
    "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "clipnull.course.book"],
    "html_math_renderer": "mathml",
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "nb_render_markdown_format": "myst",
    "nb_code_prompt_show": "Show the code",
    "nb_code_prompt_hide": "Hide the code",
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "myst_heading_anchors": 3,
    "default_role": "code",  # a docstring writes `code`
    "suppress_warnings": ["docutils", "mystnb.unknown_mime_type"],
    "autodoc_typehints": "none",
}
HEAD = """# clipnull

Learn how to make a pretrained CLIP forget, without training and without data, and measure the effect. These pages show
the notebooks of the course in order, with their outputs. Solutions to exercises are folded.
"""
DEMO = """
![The pictures of miniworld, the course's data set, with a row for each of 14 classes, from bird to umbrella, and a
column for each of 6 domains, such as photographs, line drawings and silhouettes](contact_sheet.webp)

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


def build(pages: Sequence[Path], out: Path, whole: bool = False) -> Path:
    """Render `pages` (notebooks and Markdown) into the folder `out`, replacing it, and return the path of its index.

    whole: add the browser demo, the API reference and the page on stability. Raise RuntimeError, and leave `out`
    unchanged, if Sphinx warns, for example about a broken link.
    """
    for module in ("sphinx", "myst_nb", "furo"):
        import_extra(module, "book")
    out = Path(out).resolve()
    if out.exists() and not (out / "genindex.html").is_file():
        raise ValueError(f"out: {out} exists and is not a book; expected a new folder or an earlier book")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".book-") as scratch:
        source, site = Path(scratch, "source"), Path(scratch, "site")
        _write_source(pages, source, whole)
        _render(source, site)
        if out.exists():
            os.replace(out, Path(scratch, "former"))
        os.replace(site, out)
    return out / "index.html"


def _write_source(pages: Sequence[Path], source: Path, whole: bool) -> None:
    """Write the input of Sphinx into the folder `source`."""
    static = source / "_static"
    static.mkdir(parents=True)
    write_text(static / "course.css", style(FONT.name) + (THEME / "course.css").read_text(encoding="utf-8"))
    for path in (FONT, FONT.with_name("OFL.txt")):
        shutil.copyfile(path, static / path.name)
    lessons = [page.name for page in pages if page.suffix == ".ipynb"]
    menu = {"The course": lessons, "Teaching": [page.name for page in pages if page.name not in lessons]}
    if whole:
        for path in (data_folder("miniworld") / "contact_sheet.webp", *map(Path(__file__).with_name, LIBRARY)):
            shutil.copyfile(path, source / path.name)
        menu |= {"Without a kernel": demo.write(source), "The library": LIBRARY}
    lines = [HEAD, DEMO if whole else "", "## The chapters\n", *map(chapter, pages)]
    lines += [MENU % (title, "\n".join(Path(name).stem for name in names)) for title, names in menu.items() if names]
    write_text(source / "index.md", "\n".join(lines))
    for page in pages:
        copy(page, source)


def chapter(page: Path) -> str:
    """Return the index entry of a page: title, first figure, goals or first paragraph, and a download link."""
    nb = read(page) if page.suffix == ".ipynb" else None
    title, *paragraphs = re.split(r"\n\s*\n", nb.cells[0].source if nb else page.read_text(encoding="utf-8"))
    goals = [text.replace("**", "") for text in paragraphs if text.startswith("**You will be able to**")]
    texts = [f"### [{title.strip('# ')}]({page.name})", *map(_with_anchors, [*goals, *paragraphs][:1])]
    if nb:
        texts[1:1] = [_cover(*figure) for figure in [*_figures(nb.cells)][:1]]
        texts.append(f'<a href="_static/notebooks/{page.name}" download>Download the notebook</a>')
    return "\n\n".join(texts) + "\n"


def copy(page: Path, source: Path) -> None:
    """Copy a page into the folder `source`, with folded solutions, headings of exercises and alternative texts.

    An unchanged copy of a notebook goes to `_static/notebooks` for download.
    """
    if page.suffix != ".ipynb":
        shutil.copyfile(page, source / page.name)
        return
    originals, nb = source / "_static" / "notebooks", read(page)
    originals.mkdir(exist_ok=True)
    shutil.copyfile(page, originals / page.name)
    for cell in nb.cells:
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata |= {"tags": ["hide-input", "solution"], "mystnb": dict(SOLUTION)}
        if cell.cell_type == "markdown":
            cell.source = _with_anchors(_with_headings(cell.source))
        for alt, _ in _figures([cell]):
            cell.metadata.setdefault("mystnb", {})["image"] = {"alt": alt}
    write_text(source / page.name, text_of(nb))


def _figures(cells: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield the alternative text and the PNG data of each figure in the outputs of `cells`."""
    for output in (output for cell in cells for output in cell.get("outputs", ())):
        if png := output.get("data", {}).get("image/png"):
            yield output.metadata.get("image/png", {}).get("alt", ""), png


def _cover(alt: str, png: str) -> str:
    """Return a figure as a thumbnail in HTML."""
    picture, content = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.thumbnail((560, 360))
    picture.save(content, "webp", quality=70)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img class="cover" alt="{html.escape(alt)}" src="data:image/webp;base64,{data}">'


def _with_anchors(text: str) -> str:
    """Convert Jupyter's links to headings of notebooks, such as "00_a.ipynb#My-heading", to the anchors of the book."""
    return re.sub(r"(?<=\.ipynb#)[^)\s]+", lambda match: match[0].lower(), text)


def _with_headings(text: str) -> str:
    """Turn "**Exercise 1** (6 min, easy)." at the start of a line into a heading."""
    return re.sub(r"^\*\*(Exercise \d+)\*\*( \([^)]*\))?\.?\s+", r"### \1\2\n\n", text, flags=re.MULTILINE)


def _render(source: Path, site: Path) -> None:
    """Build the site from the folder `source`; raise RuntimeError if Sphinx warns."""
    Sphinx = import_extra("sphinx.application", "book").Sphinx
    docutils = import_extra("sphinx.util.docutils", "book")
    settings, warnings = {**SETTINGS, "html_static_path": [str(source / "_static")]}, io.StringIO()
    with docutils.patch_docutils(), docutils.docutils_namespace():
        app = Sphinx(source, None, site, source.parent / "doctrees", "html", settings, status=None, warning=warnings)
        app.build()
    text = re.sub(r"\x1b\[[0-9;]*m", "", warnings.getvalue()).replace(f"{source}{os.sep}", "").strip()
    if text or app.statuscode:
        raise RuntimeError(f"the book was not built:\n{text}")


def setup(app: Any) -> dict:
    """Register the MathML renderer and the escaping of docstrings; Sphinx calls this."""
    app.connect("autodoc-process-docstring", _escape, priority=400)  # before napoleon
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _formula(writer: Any, node: Any) -> None:
    latex, is_block = node.astext(), node.tagname == "math_block"
    formula, wide = mathml(latex, is_block), ' tabindex="0"' if len(latex) > WIDE else ""
    writer.body.append(f'<div class="math"{wide}>{formula}</div>\n' if is_block else formula)
    raise import_extra("docutils.nodes", "book").SkipNode


def _escape(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape markup of reStructuredText that our docstrings use as plain text, such as |z| and **settings."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = re.sub(r"(`[^`]*`)|([*|])", lambda match: match[1] or f"\\{match[2]}", line)
