"""Editions of the notebooks: with outputs, for students, for Colab and Binder, on paper, or as a working copy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from .formulas import style
from .notebooks import (
    NUMBERED,
    PACKAGE,
    THEME,
    course_folder,
    exporter,
    import_jupyter,
    normalise,
    read,
    stamp,
    text_of,
    write_page,
)
from .run import NotebookError, run

BADGES = """[![Open in Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{name}/blob/{ref}/notebooks/{file})
[![Open in Binder]({binder}/badge_logo.svg)]({binder}/v2/gh/{name}/{ref}?labpath=notebooks/{file})

The code below installs clipnull if it is missing. This takes a minute and needs a network; the rest works offline.
"""
SERVICES = {"colab": "https://colab.research.google.com", "binder": "https://mybinder.org"}
BOOTSTRAP = """# Install clipnull if it is missing; this needs a network.
import importlib.util

if importlib.util.find_spec("clipnull") is None:
    %pip install --quiet "clipnull @ git+https://github.com/{name}@{ref}" papermill latex2mathml concept-erasure
importlib.invalidate_caches()
assert importlib.util.find_spec("clipnull"), "clipnull was not installed; see pip's message above"
"""
"""Installs clipnull and the packages that the notebooks need but Colab lacks."""
ROOM = f'<div class="room">{12 * """<div class="line"></div>"""}</div>'  # for written answers
EXERCISE = re.compile(r"(?ms)^\*\*(Exercise \d+)\*\*.*")
OPEN_TASK = re.compile(r"(?ms)^## Open task.*?(?=^## |\Z)")
HINT = re.compile(r"(?s)<details><summary>Hint</summary>\s*(.*?)</details>")


def publish(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Execute `notebooks` with their defaults and write them back with outputs, normalised and stamped.

    Raise NotebookError and write nothing if one fails, or if a notebook or the package is edited during the run.
    """
    before = {path: path.read_bytes() for path in [*notebooks, *PACKAGE.rglob("*.py")]}
    _, failures = run(notebooks, out)
    failures += [f"{path.name}: edited during the run" for path, text in before.items() if path.read_bytes() != text]
    if failures:
        raise NotebookError("no notebook was written back:\n" + "\n".join(failures))
    for path in notebooks:
        nb = normalise(read(out / path.name))
        nb.metadata["clipnull"] = {"stamp": stamp(nb)}
        write_text(path, text_of(nb))
    return [*notebooks]


def course(folder: Path) -> list[Path]:
    """Copy the notebooks of the course into `folder`; raise ValueError if it holds other versions of them."""
    paths = sorted(course_folder().glob(NUMBERED))
    return _write_new({folder / path.name: path.read_text(encoding="utf-8") for path in paths})


def student(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write each notebook without solutions and outputs into `out`; raise ValueError if it holds other versions."""
    return _write_new({out / path.name: text_of(_for_students(path)) for path in notebooks})


def colab(notebooks: Sequence[Path], out: Path, address: str, ref: str = "main") -> list[Path]:
    """Write the student edition of each notebook into `out`, with badges and code that installs clipnull.

    address: the address of the repository. ref: the branch, tag or commit to install and to open.
    """
    repository = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", address)
    if not repository or not re.fullmatch(r"[\w./-]+", ref):
        expected = "https://github.com/OWNER/NAME and a branch, tag or commit"
        raise ValueError(f"address, ref: {address!r}, {ref!r} are not valid; expected {expected}")
    v4, texts = import_jupyter("nbformat").v4, {}
    for path in notebooks:
        nb, values = _for_students(path), {"name": repository[1], "ref": ref, "file": path.name}
        badges = v4.new_markdown_cell(BADGES.format(**values, **SERVICES), id="badges")
        nb.cells[:0] = [badges, v4.new_code_cell(BOOTSTRAP.format(**values), id="bootstrap")]
        texts[out / path.name] = text_of(nb)
    return _write_new(texts)


def booklet(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write `exercises.html`, with hints and room for answers, and `solutions.html` into `out`.

    Both pages print on A4 and letter paper and need no scripts.
    """
    v4 = import_jupyter("nbformat").v4
    text, code = v4.new_markdown_cell, v4.new_code_cell
    exercises, solutions = [text("# clipnull: exercises")], [text("# clipnull: solutions")]
    for path in notebooks:
        nb, number = read(path), ""
        title = nb.cells[0].source.partition("\n")[0].removeprefix("# ")
        for cells in (exercises, solutions):
            cells.append(text(f'<div class="new"></div>\n\n## {title}'))
        for cell in nb.cells:
            tags = cell.metadata.get("tags", ())
            if task := EXERCISE.search(cell.source):
                number = task[1]
                exercises.append(text(HINT.sub(r'<div class="hint">\n\n**Hint.** \1\n</div>', task[0])))
            elif task := OPEN_TASK.search(cell.source):
                exercises += [text(f"#{task[0]}"), text(ROOM)]
            elif "exercise" in tags:
                exercises += [code(cell.source), text(ROOM)]
            elif "solution" in tags:
                solutions += [text(f"### {number}"), code(cell.source)]
    out.mkdir(parents=True, exist_ok=True)
    options = {"exclude_output": True, "exclude_input_prompt": True, "exclude_anchor_links": True}
    export, css = exporter("HTML", "lesson.html.j2", **options), (THEME / "booklet.css").read_text(encoding="utf-8")
    return [
        write_page(out / f"{name}.html", export, v4.new_notebook(cells=cells), Path(), style=style() + css)
        for name, cells in (("exercises", exercises), ("solutions", solutions))
    ]


def _for_students(path: Path) -> Any:
    """Read the notebook at `path` without solutions and outputs."""
    nb = normalise(read(path))
    nb.cells = [cell for cell in nb.cells if "solution" not in cell.metadata.get("tags", ())]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def _write_new(texts: dict[Path, str]) -> list[Path]:
    """Write each text to its path; raise ValueError, before writing anything, if an existing file differs."""
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"out: {path} exists and differs; expected a folder without your own work")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return list(texts)
