"""Notebooks as files: read and write them, validate their parameters, stamp them, and render them as pages."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import html
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import import_extra, one_of
from ..files import write_text
from .formulas import mathml, style
from .metrics import MIME
from .profiles import PROFILES, preset

PACKAGE = Path(__file__).resolve().parent.parent
NUMBERED = "[0-9][0-9]_*.ipynb"
PATHS = ("data", "index", "model", "pretrained", "folder")  # parameters that may be paths
THEME = Path(__file__).parent / "theme"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"
    },
}  # fmt: skip


# --- files


def import_jupyter(module: str) -> ModuleType:
    """Import a Jupyter `module` of the extra `course`."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # keeps jsonschema from a parser: 1 s
    return import_extra(module, "course")


def read(path: str | os.PathLike) -> Any:
    """Read the notebook at `path`; raise ValueError if it is not a notebook."""
    return import_jupyter("nbformat").read(str(path), as_version=4)


def text_of(nb: Any) -> str:
    """Serialize the notebook."""
    return import_jupyter("nbformat").writes(nb) + "\n"


def default_notebooks() -> list[Path]:
    """Return the numbered notebooks of notebooks/, or else of the current folder."""
    for folder in (Path("notebooks"), Path()):
        if paths := sorted(folder.glob(NUMBERED)):
            return paths
    expected = "paths, or a folder that `clipnull course FOLDER` has written"
    raise ValueError(f"notebooks: none in {Path.cwd()} or its folder notebooks; expected {expected}")


def course_folder() -> Path:
    """Return the folder of the course: inside the package in a wheel, beside it in a clone."""
    packaged = PACKAGE / "_data" / "notebooks"
    return packaged if packaged.is_dir() else PACKAGE.parent / "notebooks"


# --- parameters


def parameters_of(path: Path) -> dict[str, str | int | float | bool]:
    """Return names and defaults from the code tagged `parameters`."""
    source = next((cell.source for cell in read(path).cells if "parameters" in cell.metadata.get("tags", ())), "")
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in nodes}


def validate_parameters(path: Path, given: Mapping[str, object]) -> dict[str, object]:
    """Convert `given` to the types of the notebook's defaults; raise ValueError for unknown names or other types.

    Text from the command line is parsed as a literal unless the default is text. Existing paths become absolute,
    because a notebook runs in its own folder.
    """
    defaults = parameters_of(path) if given else {}
    valid: dict[str, object] = {}
    for name, value in given.items():
        default = defaults[one_of(f"parameters of {path.name}", name, defaults)]
        if isinstance(value, str) and not isinstance(default, str):
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(value)
        if type(default) is float and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            expected = f"{type(default).__name__}, such as {default!r}"
            raise ValueError(f"{name}: {value!r} is not valid for {path.name}; expected {expected}")
        valid[name] = _absolute(name, value) if isinstance(value, str) else value
    return valid


def _absolute(name: str, value: str) -> str:
    """Make the value of a parameter absolute if it is a path, also after a layout as in "domains:PATH"."""
    layout, colon, path = ("", "", value) if os.path.exists(value) else value.rpartition(":")
    is_path = path and name in PATHS and (name == "folder" or os.path.exists(path))
    return f"{layout}{colon}{os.path.abspath(path)}" if is_path else value


def preset_for(path: Path, profile: str) -> dict[str, str]:
    """Return the parameters of `profile` that the notebook at `path` has; {} if the profile excludes the notebook."""
    values = preset(profile)
    defaults = parameters_of(path) if values and not path.name.startswith(PROFILES[profile].without) else {}
    return {name: value for name, value in values.items() if name in defaults}


# --- the stamp


def normalise(nb: Any) -> Any:
    """Remove what differs between runs or machines (times, versions, widget state) from `nb`, and return it."""
    nb.metadata = METADATA
    for cell in nb.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("jupyter", "tags") if cell.metadata.get(key)}
    return nb


def stamp(nb: Any) -> str:
    """Compute a SHA-256 of everything that the outputs of `nb` depend on: its code and the modules its kernel loaded.

    Comments, docstrings and layout of modules do not count. `record` lists the modules beside the metrics. A cell with
    `!clipnull` also depends on the packages that run in that process.
    """
    cells = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    outputs = [out for cell in nb.cells for out in cell.get("outputs", ()) if MIME in out.get("data", {})]
    names = [name for out in outputs for name in out.metadata.get("clipnull", {}).get("modules", ())]
    if any(line.startswith("!clipnull") for source in cells for line in source.splitlines()):
        files = [file for folder in ("commands", "index") for file in sorted((PACKAGE / folder).glob("*.py"))]
        names += [f"clipnull.{file.parent.name}.{file.stem}" for file in files]
    return hashlib.sha256(json.dumps([cells, [[name, _code_of(name)] for name in names]]).encode()).hexdigest()


def _code_of(module: str) -> list | str:
    """Parse the current file of a module, without comments and docstrings; "" if there is no file."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    return _parsed(path.read_text(encoding="utf-8")) if path.is_file() else ""


@functools.cache
def _parsed(source: str) -> list | str:
    return _plain(ast.parse(source))


def _plain(node: object) -> list | str:
    """Convert a syntax tree to nested lists, without empty fields, so that all versions of Python agree."""
    if isinstance(node, ast.AST):
        filled = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return [type(node).__name__, *([name, _plain(value)] for name, value in filled)]
    return [_plain(item) for item in node if not _is_docstring(item)] if isinstance(node, list) else repr(node)


def _is_docstring(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


# --- a page to read


def to_html(path: Path) -> Path:
    """Write a self-contained page beside the notebook: embedded pictures, formulas in MathML, no scripts."""
    nb = read(path)
    nb.metadata.pop("widgets", None)  # widgets need a script; their text output stays
    return write_page(path.with_suffix(".html"), exporter("HTML", "lesson.html.j2"), nb, path.parent, style=style())


def write_page(out: Path, export: Any, nb: Any, folder: Path, **resources: str) -> Path:
    """Render `nb` with the exporter `export` to `out`; `folder` holds its pictures, the template gets `resources`."""
    metadata = {"name": out.name.partition(".")[0], "path": str(folder)}
    return write_text(out, export.from_notebook_node(nb, {"metadata": metadata, **resources})[0])


def exporter(kind: str, template: str, **settings: Any) -> Any:
    """Return an nbconvert exporter, "HTML" or "Slides", with a `template` of THEME and formulas in MathML."""
    mistune = import_jupyter("nbconvert.filters.markdown_mistune")

    class Renderer(mistune.IPythonRenderer):
        def _html_embed_images(self, html: str) -> str:  # it would close the <details> around an answer
            return super()._html_embed_images(html) if "<img" in html else html

        def inline_math(self, body: str) -> str:
            return _formula(body, display=False)

        def block_math(self, body: str) -> str:
            return f'<span class="formula">{_formula(body, display=True)}</span>'

        def latex_environment(self, name: str, body: str) -> str:
            return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def to_markup(context: Any, source: str) -> str:
        attachments, folder = context.get("cell", {}).get("attachments", {}), context["resources"]["metadata"]["path"]
        options = {"embed_images": True, "path": folder, "exclude_anchor_links": export.exclude_anchor_links}
        renderer = Renderer(escape=False, attachments=attachments, **options)
        return mistune.MarkdownWithMath(renderer=renderer).render(source)

    base = getattr(import_jupyter("nbconvert"), f"{kind}Exporter")
    export = base(embed_images=True, raw_template=(THEME / template).read_text(encoding="utf-8"), **settings)
    export.register_filter("markdown2html", import_extra("jinja2", "course").pass_context(to_markup))
    return export


def _formula(latex: str, display: bool) -> str:
    """Convert a formula to MathML; show its source if that fails, so that the page is still written."""
    try:
        return mathml(latex, display)
    except ValueError:
        return f"<code>{html.escape(latex)}</code>"
