"""The course as a static site: Sphinx renders the stored outputs; nothing is executed, nothing is fetched.

myst-nb reads the notebooks, furo is the theme (`theme/` adds to it), and formulas become MathML without a script. The
packages come with the extras `book` and `course`.
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
WIDE = 60
"""A formula of more characters of LaTeX may be wider than a small window: the keyboard can scroll it."""

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


def build(pages: Sequence[Path], out: Path, whole: bool = False) -> Path:
    """Render `pages` (notebooks and Markdown) into the folder `out`, which is replaced as a whole; return its index.

    whole: add the demo that computes in the browser, the reference of the public names, and what of them is stable.
    A warning of Sphinx, such as a broken link, is a RuntimeError; `out` then stays as it was.
    """
    for module in ("sphinx", "myst_nb", "furo"):
        import_extra(module, "book")
    out = Path(out).resolve()
    if out.exists() and not (out / "genindex.html").is_file():
        raise ValueError(f"out: {out} exists and is not a book; expected a new folder or that of an earlier book")
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
    """Write all that Sphinx reads into the folder `source`."""
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
    """What the index says of a page: title, first figure, goals or first paragraph, and how to download it."""
    nb = read(page) if page.suffix == ".ipynb" else None
    title, *paragraphs = re.split(r"\n\s*\n", nb.cells[0].source if nb else page.read_text(encoding="utf-8"))
    goals = [text.replace("**", "") for text in paragraphs if text.startswith("**You will be able to**")]
    texts = [f"### [{title.strip('# ')}]({page.name})", *map(_with_anchors, [*goals, *paragraphs][:1])]
    if nb:
        texts[1:1] = [_cover(*figure) for figure in [*_figures(nb.cells)][:1]]
        texts.append(f'<a href="_static/notebooks/{page.name}" download>Download the notebook</a>')
    return "\n\n".join(texts) + "\n"


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
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata |= {"tags": ["hide-input", "solution"], "mystnb": dict(SOLUTION)}
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


def _cover(alt: str, png: str) -> str:
    """A thumbnail of a figure."""
    picture, content = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.thumbnail((560, 360))
    picture.save(content, "webp", quality=70)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img class="cover" alt="{html.escape(alt)}" src="data:image/webp;base64,{data}">'


def _with_anchors(text: str) -> str:
    """The text whose links to headings of notebooks, "00_a.ipynb#My-heading" in Jupyter, are those of the book."""
    return re.sub(r"(?<=\.ipynb#)[^)\s]+", lambda match: match[0].lower(), text)


def _with_headings(text: str) -> str:
    """Markdown in which a line that begins with "**Exercise 1** (6 min, easy)." is a heading and what follows."""
    return re.sub(r"^\*\*(Exercise \d+)\*\*( \([^)]*\))?\.?\s+", r"### \1\2\n\n", text, flags=re.MULTILINE)


def _render(source: Path, site: Path) -> None:
    """Make a site of the folder `source`; RuntimeError with all warnings of Sphinx."""
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
    """Called by Sphinx: make `mathml` the renderer of formulas, and read docstrings as prose."""
    app.connect("autodoc-process-docstring", _escape, priority=400)  # before napoleon
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _formula(writer: Any, node: Any) -> None:
    latex, is_block = node.astext(), node.tagname == "math_block"
    formula, wide = mathml(latex, is_block), ' tabindex="0"' if len(latex) > WIDE else ""
    writer.body.append(f'<div class="math"{wide}>{formula}</div>\n' if is_block else formula)
    raise import_extra("docutils.nodes", "book").SkipNode


def _escape(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape what is markup in reStructuredText and not in our docstrings, such as |z| and **settings."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = re.sub(r"(`[^`]*`)|([*|])", lambda match: match[1] or f"\\{match[2]}", line)
