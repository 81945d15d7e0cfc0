"""The course as a static site: the stored outputs rendered by Sphinx, nothing executed, nothing fetched.

Sphinx brings navigation and search, myst-nb reads notebooks, furo is the look. Formulas become MathML
(`formulas.mathml`): no script, and nothing from another site.

The packages are those of the extras `book` and `course`, imported only where they are needed.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import import_extra
from ..files import data_folder, write_text
from . import demo
from .formulas import FONT, mathml, style
from .pages import copy, finished, index
from .reference import reference, stability

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6" fill="none" '
    'stroke="#0173b2" stroke-width="2"/><path d="M3 13 13 3" stroke="#0173b2" stroke-width="2"/></svg>'
)
STYLE = """/* Room for lines of 120 characters of code; of text as much as is easy to read. */
@media (min-width: 97em) { .content { width: 62em } }
@media (min-width: 80em) and (max-width: 97em) {
  .sidebar-drawer { width: 15em; min-width: 15em }
  .content { width: 62em; max-width: 100%; padding: 0 1.2em }
}
@media (min-width: 80em) { article :is(p, ul, ol, blockquote, h1, h2, h3) { max-width: 46em } }
pre { font-size: 76% }
@media (max-width: 80em) {
  :is(.cell_input, [class*="highlight-"]) pre:not([tabindex]) { white-space: pre-wrap; overflow-wrap: anywhere }
}
pre.prose { white-space: pre-wrap; overflow-wrap: anywhere }
div.math { overflow: auto hidden; margin: 1em 0 }
figure { margin: 1em 0; max-width: 100%; overflow: auto hidden }
figure img { max-width: 100%; height: auto; background: white }
figcaption { font-size: 90% }
figure { margin-bottom: .3em }
.printed table, details table { margin: .4em 0; font-size: 82%; line-height: 1.35; font-variant-numeric: tabular-nums }
.printed .table-wrapper { margin: 0; padding: .3em .875rem }
.printed :is(td, th) { padding: .15em .8em .15em 0; border: 0; text-align: left; font-weight: normal }
.printed th[scope="col"] { border-bottom: 1px solid var(--color-background-border) }
details:has(> summary) > summary { cursor: pointer; font-size: 90% }
details caption { text-align: left }
details :is(td, th) { padding: .1em .6em; text-align: left; font-weight: normal }
img.cover {
  float: right; width: 15em; max-width: 45%; max-height: 10em; margin: 0 0 .6em 1.2em; object-fit: contain;
  object-position: top; background: white; border-radius: .3em
}
article section:has(> .cover) { overflow: auto; clear: both }
@media (max-width: 40em) {
  img.cover { float: none; display: block; width: 100%; max-width: 100%; margin: .3em 0 }
  .printed .table-wrapper { margin: 0; padding: .3em .875rem }
.printed :is(td, th) { padding-right: .45em }
  .printed table, details table { font-size: 74% }
}
"""
WIDE = 60
"""Characters of LaTeX from which on a formula may be wider than a small window: the keyboard can scroll it."""

SETTINGS = {
    "project": "clipnull",
    "html_title": "clipnull",
    "html_theme": "furo",
    "html_show_sphinx": False,
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_css_files": ["course.css"],
    "exclude_patterns": ["_static"],
    "extensions": ["myst_nb", "clipnull.course.book"],
    "html_math_renderer": "mathml",
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "nb_render_markdown_format": "myst",
    "nb_code_prompt_show": "Show the solution",
    "nb_code_prompt_hide": "Hide the solution",
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "myst_heading_anchors": 3,
}


def build(pages: Sequence[Path], out: Path, whole: bool = False) -> Path:
    """Render `pages` (notebooks and Markdown) into the folder `out`, which is replaced as a whole; return its index.

    whole: add the page that computes in the browser (`course.demo`), which embeds the pictures of miniworld, the
    reference of the public names, and what of them is stable.

    Raises ValueError for a missing page and for an `out` that holds something else, RuntimeError with all that Sphinx
    complains of, such as a broken link, and ImportError without Sphinx. `out` then stays as it was.
    """
    for module in ("sphinx", "myst_nb", "furo"):
        import_extra(module, "book")
    pages, out = [Path(page) for page in pages], Path(out).resolve()
    for page in pages:
        if not page.is_file():
            raise ValueError(f"pages: {page} does not exist; expected notebooks and Markdown files")
    if out.exists() and not (out / "genindex.html").is_file():
        raise ValueError(f"out: {out} exists and is no book; expected a new folder or that of an earlier book")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".book-") as scratch:
        source, site = Path(scratch, "source"), Path(scratch, "site")
        Path(source, "_static").mkdir(parents=True)
        write_text(source / "_static" / "course.css", style(FONT.name) + STYLE)
        for path in (FONT, FONT.with_name("OFL.txt")):
            shutil.copyfile(path, source / "_static" / path.name)
        write_text(source / "_static" / "icon.svg", ICON)
        written = [page.name for page in pages if page.suffix != ".ipynb"]
        parts: dict[str, Sequence[str]] = {"The course": [page.name for page in pages if page.suffix == ".ipynb"]}
        parts |= {"Teaching": written} if written else {}
        if whole:
            shutil.copyfile(data_folder("miniworld") / "contact_sheet.webp", source / "contact_sheet.webp")
            write_text(source / "reference.md", reference())
            write_text(source / "stable.md", stability())
            parts |= {"Without a kernel": demo.write(source), "The library": ["reference.md", "stable.md"]}
        write_text(source / "index.md", index(pages, parts, pictured=whole))
        for page in pages:
            copy(page, source, pages)
        _render(source, site)
        for path in site.glob("*.html"):
            write_text(path, finished(path.read_text(encoding="utf-8")))
        if out.exists():
            os.replace(out, Path(scratch, "former"))
        os.replace(site, out)
    return out / "index.html"


def _render(source: Path, site: Path) -> None:
    """Sphinx makes a site of the folder `source`; RuntimeError with all that it complains of."""
    application = import_extra("sphinx.application", "book")
    docutils = import_extra("sphinx.util.docutils", "book")
    static = source / "_static"
    settings = {**SETTINGS, "html_static_path": [str(static)], "html_favicon": str(static / "icon.svg")}
    complaints = io.StringIO()
    with docutils.patch_docutils(), docutils.docutils_namespace():
        doctrees = source.parent / "doctrees"
        app = application.Sphinx(source, None, site, doctrees, "html", settings, status=None, warning=complaints)
        app.build()
    found = re.sub(r"\x1b\[[0-9;]*m", "", complaints.getvalue()).replace(f"{source}{os.sep}", "").strip()
    if found or app.statuscode:
        raise RuntimeError(f"the book was not built:\n{found}")


def setup(app: Any) -> dict:
    """Called by Sphinx: make `mathml` the renderer of formulas."""
    SkipNode = import_extra("docutils.nodes", "book").SkipNode

    def inline(writer: Any, node: Any) -> None:
        writer.body.append(mathml(node.astext(), display=False))
        raise SkipNode

    def block(writer: Any, node: Any) -> None:
        wide = ' tabindex="0"' if len(node.astext()) > WIDE else ""
        writer.body.append(f'<div class="math"{wide}>{mathml(node.astext(), display=True)}</div>\n')
        raise SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
