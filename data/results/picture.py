"""Copy the picture of the README from the first figure of lesson 00: a search before and after the edit."""

import base64
from pathlib import Path

from clipnull.course.notebooks import read
from clipnull.files import written

LESSON = Path(__file__).parents[2] / "notebooks" / "00_start_here.ipynb"
PATH = Path("data", "results", "search.png")


def stored() -> tuple[str, str, str]:
    """Return the stored PNG in base64, its alternative text, and the claim below it."""
    outputs = [out for cell in read(LESSON).cells for out in cell.get("outputs", ())]
    place = next(i for i, out in enumerate(outputs) if "image/png" in out.get("data", {}))
    picture, claim = outputs[place : place + 2]
    return picture.data["image/png"], picture.metadata["image/png"]["alt"], claim.data["text/markdown"]


def caption() -> str:
    """Return the picture as Markdown."""
    _, alt, claim = stored()
    return f"![{alt}]({PATH.as_posix()})\n\n*{claim}*"


def write(root: Path) -> Path:
    """Write the picture into the clone `root` and return its path."""
    with written(root / PATH) as temporary:
        temporary.write_bytes(base64.b64decode(stored()[0]))
    return root / PATH
