"""The course as a static site: the stored outputs rendered by Sphinx, nothing executed, nothing fetched.

Sphinx brings navigation and search, myst-nb reads notebooks, furo is the look. Formulas become MathML
(`formulas.mathml`): no script, and nothing from another site.

The packages are those of the extras `book` and `course`, imported only where they are needed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import import_extra
from ..files import write_text
from . import demo
from .formulas import mathml
from .notebooks import read, write

INDEX = """# clipnull

Learn, see and measure how a pretrained CLIP can be made to forget, without training and without data. These pages are
the notebooks of the course with their outputs, in order. Solutions of exercises are folded away.
"""
PART = """
```{toctree}
:maxdepth: 1
:caption: %s

%s
```
"""
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6" fill="none" '
    'stroke="#0173b2" stroke-width="2"/><path d="M3 13 13 3" stroke="#0173b2" stroke-width="2"/></svg>'
)
STYLE = """@media (min-width: 97em) { .content { width: 58em } }     /* room for lines of 120 characters of code */
pre { font-size: 78% }
div.math { overflow: auto hidden; margin: 1em 0 }
figure { margin: 1em 0; max-width: 100%; overflow: auto hidden }
figure img { max-width: 100%; height: auto; background: white }
figcaption { font-size: 90% }
"""
SETTINGS = {
    "project": "clipnull",
    "html_title": "clipnull",
    "html_theme": "furo",
    "html_show_sphinx": False,
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_css_files": ["course.css"],
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


def build(pages: Sequence[Path], out: Path, with_demo: bool = False) -> Path:
    """Render `pages` (notebooks and Markdown) into the folder `out`, which is replaced as a whole; return its index.

    with_demo: add the page that computes in the browser (`course.demo`), which embeds the pictures of miniworld.

    Raises ValueError for a missing page and for an `out` that holds something else, RuntimeError with all that Sphinx
    complains of, such as a broken link, and ImportError without Sphinx. `out` then stays as it was.
    """
    application = import_extra("sphinx.application", "book")
    docutils = import_extra("sphinx.util.docutils", "book")
    for module in ("myst_nb", "furo"):
        import_extra(module, "book")
    pages, out = [Path(page) for page in pages], Path(out).resolve()
    for page in pages:
        if not page.is_file():
            raise ValueError(f"pages: {page} does not exist; expected notebooks and Markdown files")
    if out.exists() and not (out / "genindex.html").is_file():
        raise ValueError(f"out: {out} exists and is no book; expected a new folder or that of an earlier book")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".book-") as scratch:
        source, site, complaints = Path(scratch, "source"), Path(scratch, "site"), Path(scratch, "complaints")
        Path(source, "_static").mkdir(parents=True)
        Path(source, "_static", "course.css").write_text(STYLE, encoding="utf-8")
        Path(source, "_static", "icon.svg").write_text(ICON, encoding="utf-8")
        parts = {"The course": [page.stem for page in pages]}
        if with_demo:
            parts["Without a kernel"] = [Path(name).stem for name in demo.write(source)]
        index = INDEX + "".join(PART % (title, "\n".join(stems)) for title, stems in parts.items())
        Path(source, "index.md").write_text(index, encoding="utf-8")
        for page in pages:
            _copy(page, source / page.name)
        settings = {
            **SETTINGS,
            "html_static_path": [str(source / "_static")],
            "html_favicon": str(source / "_static" / "icon.svg"),
        }
        with (
            complaints.open("w+", encoding="utf-8") as stream,
            docutils.patch_docutils(),
            docutils.docutils_namespace(),
        ):
            doctrees = Path(scratch, "doctrees")
            app = application.Sphinx(source, None, site, doctrees, "html", settings, status=None, warning=stream)
            app.build()
            stream.seek(0)
            found = re.sub(r"\x1b\[[0-9;]*m", "", stream.read()).replace(f"{source}{os.sep}", "").strip()
        if found or app.statuscode:
            raise RuntimeError(f"the book was not built:\n{found}")
        for page in site.glob("*.html"):  # Sphinx makes captions headings of no level, which readers of screens need
            text = page.read_text(encoding="utf-8")
            write_text(page, text.replace('role="heading"', 'role="heading" aria-level="2"'))
        if out.exists():
            os.replace(out, Path(scratch, "former"))
        os.replace(site, out)
    return out / "index.html"


def _copy(page: Path, target: Path) -> None:
    """Copy a page for Sphinx: of a notebook's outputs only what is for reading, the code of solutions folded."""
    if page.suffix != ".ipynb":
        shutil.copyfile(page, target)
        return
    nb = read(page)
    for cell in nb.cells:
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
        for output in cell.get("outputs", ()):
            for kind in [kind for kind in output.get("data", {}) if "clipnull" in kind]:
                del output["data"][kind]
    write(target, nb)


def setup(app: Any) -> dict:
    """Called by Sphinx: make `mathml` the renderer of formulas."""
    SkipNode = import_extra("docutils.nodes", "book").SkipNode

    def inline(writer: Any, node: Any) -> None:
        writer.body.append(mathml(node.astext(), display=False))
        raise SkipNode

    def block(writer: Any, node: Any) -> None:
        writer.body.append(f'<div class="math">{mathml(node.astext(), display=True)}</div>\n')
        raise SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
