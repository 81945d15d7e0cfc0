"""Editions of the notebooks: with fresh outputs, for students, for Colab and Binder, and a copy to work in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..files import write_text
from .notebooks import NUMBERED, PACKAGE, course_folder, import_jupyter, normalise, read, stamp, text_of, write
from .run import NotebookError, run

PACKAGES = ("papermill", "latex2mathml", "concept-erasure")
"""What the notebooks import beside the library, and Colab does not bring."""
BADGES = """[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})
[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})

The code below installs clipnull where it is missing. That takes a minute and a network; everything after it is offline.
"""
BOOTSTRAP = """# Install clipnull where it is missing; this needs a network.
import importlib.util
import subprocess
import sys

source = "{source}"
if importlib.util.find_spec("clipnull") is None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", f"clipnull @ {{source}}", *{packages}]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip printed nothing"])[-1]
        raise SystemExit(
            f"clipnull cannot be installed from {{source}}.\\n"
            f"Is there a network, and is the address right? pip says: {{reason}}\\n"
            "On a machine without a network, install clipnull first: see README.md of the repository."
        )
    importlib.invalidate_caches()
print("clipnull is installed.")
"""


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
    """A copy of `nb` without solutions and outputs."""
    nb = normalise(nb)
    nb.metadata.pop("clipnull", None)
    nb.cells = [cell for cell in nb.cells if "solution" not in cell.metadata.get("tags", ())]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def student(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write the student edition of each notebook into the folder `out`.

    Raises ValueError, before anything is written, if one of them is there already and differs: a student's work.
    """
    texts = {Path(out) / Path(n).name: text_of(student_edition(read(n))) for n in notebooks}
    return _write_new(texts, "out", ", or --out another")


def course(folder: Path) -> list[Path]:
    """Write the notebooks of the course into `folder`, to be opened, changed and run there.

    Raises ValueError, before anything is written, if one of them is there already and differs.
    """
    texts = {Path(folder) / n.name: n.read_text(encoding="utf-8") for n in sorted(course_folder().glob(NUMBERED))}
    return _write_new(texts, "folder")


def colab(notebooks: Sequence[Path], out: Path, address: str | None = None, ref: str = "main") -> list[Path]:
    """Write the student edition of each notebook, with badges and code that installs clipnull, into the folder `out`.

    address: that of the repository, such as https://github.com/OWNER/NAME; by default the one in the package's
    metadata. ref: the branch, tag or commit to install and to open.

    Raises ValueError for an address or a ref that is not valid, without an address, and if a copy exists and differs.
    """
    address = _repository(address)
    if not re.fullmatch(r"[\w./-]+", ref) or ".." in ref:
        raise ValueError(f"ref: {ref!r} is not valid; expected a branch, a tag or a commit, such as 'main'")
    paths = [Path(n) for n in notebooks]
    texts = {Path(out) / p.name: text_of(_with_bootstrap(read(p), p.name, address, ref)) for p in paths}
    return _write_new(texts, "out", ", or --out another")


def _repository(address: str | None) -> str:
    """The `address` of the repository on GitHub, validated; by default the one that the package's metadata name."""
    if address is None:
        urls = dict(url.split(", ", 1) for url in metadata.metadata("clipnull").get_all("Project-URL") or ())
        address = urls.get("Repository")
    if address is None:
        raise ValueError(
            "address: none is given, and pyproject.toml names no Repository in [project.urls]; "
            "expected such as --address https://github.com/OWNER/NAME"
        )
    match = re.fullmatch(r"(https://github\.com/[\w.-]+/[\w.-]+?)(\.git)?/?", address)
    if not match:
        raise ValueError(f"address: {address!r} is not valid; expected such as https://github.com/OWNER/NAME")
    return match[1]


def _with_bootstrap(nb: Any, name: str, address: str, ref: str) -> Any:
    """The student edition of `nb` with two cells in front: badges, and the code that installs clipnull."""
    v4, place = import_jupyter("nbformat").v4, address.removeprefix("https://github.com/")
    badges = BADGES.format(
        colab=f"https://colab.research.google.com/github/{place}/blob/{ref}/notebooks/{name}",
        binder=f"https://mybinder.org/v2/gh/{place}/{ref}?labpath=notebooks/{name}",
    )
    code = BOOTSTRAP.format(source=f"git+{address}@{ref}", packages=PACKAGES)
    nb = student_edition(nb)
    nb.cells[:0] = [v4.new_markdown_cell(badges, id="badges"), v4.new_code_cell(code, id="bootstrap")]
    return nb


def _write_new(texts: dict[Path, str], argument: str, hint: str = "") -> list[Path]:
    """Write each text to its path; a ValueError, before anything is written, if one is there already and differs."""
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{argument}: {path} exists and differs; expected a folder without work in it{hint}")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return list(texts)
