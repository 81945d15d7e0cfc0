"""Editions: notebooks with fresh outputs, without solutions, and a copy of the course to work in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from .notebooks import NUMBERED, PACKAGE, course_folder, normalise, read, stamp, text_of, write
from .run import NotebookError, run


def publish(notebooks: Sequence[Path], out: Path) -> None:
    """Execute `notebooks` with their own defaults and write them back with their outputs, normalised and stamped.

    All or none: a NotebookError if one failed, or if one or the package was edited meanwhile.
    """
    notebooks = [Path(n) for n in notebooks]
    before = {path: path.read_bytes() for path in [*notebooks, *PACKAGE.rglob("*.py")]}
    _, failures = run(notebooks, out)
    failures += [f"{path.name}: edited meanwhile" for path, text in before.items() if path.read_bytes() != text]
    if failures:
        raise NotebookError("nothing written back:\n" + "\n".join(failures))
    for path in notebooks:
        nb = normalise(read(Path(out) / path.name))
        nb.metadata["clipnull"] = {"stamp": stamp(nb)}
        write(path, nb)


def student_edition(nb: Any) -> Any:
    """A copy of `nb` without solutions and outputs, as a student begins with it."""
    nb = normalise(nb)
    nb.metadata.pop("clipnull", None)
    nb.cells = [cell for cell in nb.cells if "solution" not in cell.metadata.get("tags", ())]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def student(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write the student edition of each notebook into the folder `out`; what a student has begun there is not touched.

    Raises ValueError if one of them is there already and differs, before anything is written.
    """
    texts = {Path(out) / Path(n).name: text_of(student_edition(read(n))) for n in notebooks}
    return write_new(texts, "out", ", or --out another")


def course(folder: Path) -> list[Path]:
    """Write the notebooks of the course into `folder`, to be opened, changed and run there.

    Raises ValueError if one of them is there already and differs, before anything is written.
    """
    texts = {Path(folder) / n.name: n.read_text(encoding="utf-8") for n in sorted(course_folder().glob(NUMBERED))}
    return write_new(texts, "folder")


def write_new(texts: dict[Path, str], argument: str, hint: str = "") -> list[Path]:
    """Write each text to its path; a ValueError, before anything is written, if one is there already and differs."""
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{argument}: {path} exists and differs; expected a folder without work in it{hint}")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return list(texts)
