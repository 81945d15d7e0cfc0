"""Copies of the notebooks that run where nothing is installed: a cell in front brings clipnull, badges open them.

The repository's address is told once, as `[project.urls] Repository` in pyproject.toml, or by the argument.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from .editions import student_edition, write_new
from .notebooks import import_jupyter, read, text_of

EXTRAS = ("papermill", "latex2mathml", "concept-erasure")
"""What the notebooks import beside the library, and Colab does not bring."""
BADGES = """[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})
[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})

The next cell installs clipnull where it is missing, which takes a minute and a network. Everything after it is offline.
"""
BOOTSTRAP = """# Bring clipnull, where it is missing: needs a network. Where it is installed, nothing happens.
import importlib.util
import subprocess
import sys

source = "{source}"
if importlib.util.find_spec("clipnull") is None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", f"clipnull @ {{source}}", *{extras}]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise SystemExit(
            f"clipnull cannot be installed from {{source}}.\\n"
            f"Is there a network, and is the address right? pip says: {{reason}}\\n"
            "On a machine without a network, install clipnull first: see README.md of the repository."
        )
    importlib.invalidate_caches()
print("clipnull is here.")
"""


def colab(notebooks: Sequence[Path], out: Path, address: str | None = None, ref: str = "main") -> list[Path]:
    """Write each notebook, without solutions and outputs, with badges and a cell that installs, into the folder `out`.

    address: that of the repository, such as https://github.com/OWNER/NAME; without, the one in the package's metadata.
    ref: the branch, tag or commit that is installed and opened.

    Raises ValueError for an address or a ref that is none, if no address is known, and if a copy is there and differs.
    """
    address = repository(address)
    if not re.fullmatch(r"[\w./-]+", ref) or ".." in ref:
        raise ValueError(f"ref: {ref!r} is not valid; expected a branch, a tag or a commit, such as 'main'")
    texts = {Path(out) / Path(n).name: text_of(bootstrapped(read(n), Path(n).name, address, ref)) for n in notebooks}
    return write_new(texts, "out", ", or --out another")


def repository(address: str | None = None) -> str:
    """The `address` of the repository on GitHub, validated; without, the one that the package's metadata name."""
    if address is None:
        urls = dict(url.split(", ", 1) for url in metadata.metadata("clipnull").get_all("Project-URL") or ())
        address = urls.get("Repository")
    if address is None:
        raise ValueError(
            "address: none is given, and pyproject.toml names no Repository in [project.urls]; "
            "expected such as --address https://github.com/OWNER/NAME"
        )
    found = re.fullmatch(r"(https://github\.com/[\w.-]+/[\w.-]+?)(\.git)?/?", address)
    if not found:
        raise ValueError(f"address: {address!r} is not valid; expected such as https://github.com/OWNER/NAME")
    return found[1]


def bootstrapped(nb: Any, name: str, address: str, ref: str) -> Any:
    """A student edition of `nb` with two cells in front: badges, and the cell that brings clipnull."""
    v4, place = import_jupyter("nbformat").v4, address.removeprefix("https://github.com/")
    badges = BADGES.format(
        colab=f"https://colab.research.google.com/github/{place}/blob/{ref}/notebooks/{name}",
        binder=f"https://mybinder.org/v2/gh/{place}/{ref}?labpath=notebooks/{name}",
    )
    code = BOOTSTRAP.format(source=f"git+{address}@{ref}", extras=EXTRAS)
    nb = student_edition(nb)
    nb.cells[:0] = [v4.new_markdown_cell(badges, id="badges"), v4.new_code_cell(code, id="bootstrap")]
    return nb
