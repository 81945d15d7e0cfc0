"""Notebooks as files: find, read and write them, their parameters, their stamp, and a page to read."""

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
PATHS = ("data", "index", "model", "pretrained", "folder")
"""Parameters that may be paths."""
THEME = Path(__file__).parent / "theme"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"
    },
}  # fmt: skip


# --- files


def import_jupyter(module: str) -> ModuleType:
    """A `module` of the extra `course` that reads notebooks."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # else jsonschema builds its parser: 1 s
    return import_extra(module, "course")


def read(path: str | os.PathLike) -> Any:
    """The notebook at `path`; ValueError if it is none."""
    return import_jupyter("nbformat").read(str(path), as_version=4)


def text_of(nb: Any) -> str:
    """The notebook as the text of its file."""
    return import_jupyter("nbformat").writes(nb) + "\n"


def default_notebooks() -> list[Path]:
    """The numbered notebooks of the folder notebooks/ below the current one, else of the current one."""
    for folder in (Path("notebooks"), Path()):
        if paths := sorted(folder.glob(NUMBERED)):
            return paths
    expected = "paths, or a folder that `clipnull course FOLDER` has written"
    raise ValueError(f"notebooks: none in {Path.cwd()} or its folder notebooks; expected {expected}")


def course_folder() -> Path:
    """Where the notebooks of the course are: notebooks/ beside the package in a clone, inside it in a wheel."""
    inside = PACKAGE / "_data" / "notebooks"
    return inside if inside.is_dir() else PACKAGE.parent / "notebooks"


# --- parameters


def parameters_of(path: Path) -> dict[str, str | int | float | bool]:
    """Names and defaults in the cell tagged `parameters`."""
    source = next((cell.source for cell in read(path).cells if "parameters" in cell.metadata.get("tags", ())), "")
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in nodes}


def validate_parameters(path: Path, given: Mapping[str, object]) -> dict[str, object]:
    """`given`, each value of the type of the notebook's default; a ValueError for an unknown name or another type.

    Text is read as a literal where the default is none, as it comes from the command line. A path that exists is made
    absolute, as a notebook runs in its own folder.
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
    """The value of a parameter, absolute if it is a path, with or without a layout in front as in "domains:PATH"."""
    layout, colon, path = ("", "", value) if os.path.exists(value) else value.rpartition(":")
    is_path = path and name in PATHS and (name == "folder" or os.path.exists(path))
    return f"{layout}{colon}{os.path.abspath(path)}" if is_path else value


def preset_for(path: Path, profile: str) -> dict[str, str]:
    """The parameters of `profile` that the notebook at `path` has; none where the profile goes without it."""
    values = preset(profile)
    known = parameters_of(path) if values and not path.name.startswith(PROFILES[profile].without) else {}
    return {name: value for name, value in values.items() if name in known}


# --- the stamp


def normalise(nb: Any) -> Any:
    """`nb` itself, without what differs from run to run or machine to machine: times, versions, widget state."""
    nb.metadata = METADATA
    for cell in nb.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("jupyter", "tags") if cell.metadata.get(key)}
    return nb


def stamp(nb: Any) -> str:
    """SHA-256 over what the outputs of `nb` depend on: its code cells as they are, and the modules its kernel loaded.

    Comments, docstrings and layout of modules do not count. `record` notes the modules beside the metrics.
    """
    cells = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    outputs = [out for cell in nb.cells for out in cell.get("outputs", ()) if MIME in out.get("data", {})]
    names = [name for out in outputs for name in out.metadata.get("clipnull", {}).get("modules", ())]
    return hashlib.sha256(json.dumps([cells, [[name, _code_of(name)] for name in names]]).encode()).hexdigest()


def _code_of(module: str) -> list | str:
    """The code of a module without comments and docstrings, as its file is now; "" where there is none."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    return _parsed(path.read_text(encoding="utf-8")) if path.is_file() else ""


@functools.cache
def _parsed(source: str) -> list | str:
    return _plain(ast.parse(source))


def _plain(node: object) -> list | str:
    """A syntax tree as nested lists, the same from every version of Python: new fields are empty in old code."""
    if isinstance(node, ast.AST):
        filled = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return [type(node).__name__, *([name, _plain(value)] for name, value in filled)]
    return [_plain(item) for item in node if not _is_docstring(item)] if isinstance(node, list) else repr(node)


def _is_docstring(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


# --- a page to read


def to_html(path: Path) -> Path:
    """The notebook at `path` as a page of its own beside it: pictures embedded, formulas in MathML, no script."""
    nb = read(path)
    nb.metadata.pop("widgets", None)  # they would need a script; what they show as text stays
    return write_page(path.with_suffix(".html"), exporter("HTML", "lesson.html.j2"), nb, path.parent, style=style())


def write_page(out: Path, export: Any, nb: Any, folder: Path, **resources: str) -> Path:
    """Write the page that `export` makes of `nb`, whose pictures are in `folder`; the template gets `resources`."""
    metadata = {"name": out.name.partition(".")[0], "path": str(folder)}
    return write_text(out, export.from_notebook_node(nb, {"metadata": metadata, **resources})[0])


def exporter(kind: str, template: str, **settings: Any) -> Any:
    """nbconvert's exporter of that `kind`, "HTML" or "Slides", with a `template` of THEME and formulas in MathML."""
    mistune = import_jupyter("nbconvert.filters.markdown_mistune")

    class Renderer(mistune.IPythonRenderer):
        def _html_embed_images(self, html: str) -> str:  # which would close the <details> around an answer
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
    """The formula as MathML, or as it is written where it cannot be drawn: a page is better than none."""
    try:
        return mathml(latex, display)
    except ValueError:
        return f"<code>{html.escape(latex)}</code>"
