"""A booklet of all exercises, to be printed: hints and room to write; the solutions in a booklet of their own.

Both are pages without scripts. A browser prints them, or makes a PDF of them, on A4 or letter paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from .formulas import style
from .notebooks import PAGE, exporter, import_jupyter, read

STYLE = Path(__file__).parent / "theme" / "booklet.css"
LINES = 12
"""Lines to write on, below each exercise and each open task."""
ROOM = f'<div class="room">{LINES * """<div class="line"></div>"""}</div>'
HINT = re.compile(r"(?s)<details><summary>Hint</summary>\s*(.*?)</details>")


def booklet(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write `exercises.html` and `solutions.html` of the notebooks into the folder `out`; returns both paths.

    Raises ValueError if none of the notebooks has an exercise.
    """
    both, v4 = {"exercises": [], "solutions": []}, import_jupyter("nbformat").v4
    for path in map(Path, notebooks):
        exercises, solutions = _cells(read(path))
        both["exercises"] += exercises
        both["solutions"] += solutions
    if not both["solutions"]:
        raise ValueError("notebooks: none of them has an exercise; expected cells tagged exercise and solution")
    Path(out).mkdir(parents=True, exist_ok=True)
    template = PAGE.replace("</style>", STYLE.read_text(encoding="utf-8") + "</style>")
    export = exporter(template, exclude_output=True, exclude_input_prompt=True, exclude_anchor_links=True)
    paths = []
    for name, cells in both.items():
        nb = v4.new_notebook(cells=[v4.new_markdown_cell(f"# clipnull: {name}"), *cells])
        resources = {"metadata": {"name": f"clipnull: {name}", "path": ""}, "formulas": style()}
        page, _ = export.from_notebook_node(nb, resources)
        paths.append(write_text(Path(out) / f"{name}.html", page))
    return paths


def _cells(nb: Any) -> tuple[list, list]:
    """The cells that a notebook adds to the exercises and to the solutions, each below the notebook's title."""
    v4 = import_jupyter("nbformat").v4
    text, code = v4.new_markdown_cell, v4.new_code_cell
    title = re.search(r"(?m)^# (.+)", nb.cells[0].source)
    head = text(f'<div class="new"></div>\n\n## {title[1] if title else "Exercises"}')
    exercises, solutions, number = [head], [head], ""
    for cell in nb.cells:
        tags = cell.metadata.get("tags", ())
        if cell.cell_type == "markdown":
            if task := re.search(r"(?ms)^\*\*(Exercise \d+)\*\*.*", cell.source):
                number = task[1]
                exercises.append(text(_with_open_hint(task[0])))
            elif cell.source.startswith("## Open task"):
                exercises += [text(f"#{cell.source}"), text(ROOM)]
        elif "exercise" in tags:
            exercises += [code(cell.source), text(ROOM)]
        elif "solution" in tags:
            solutions += [text(f"### {number}"), code(cell.source)]
    return (exercises, solutions) if solutions[1:] else ([], [])


def _with_open_hint(text: str) -> str:
    """An exercise with its hint in view, as paper unfolds nothing."""
    return HINT.sub(r'<div class="hint">\n\n**Hint.** \1\n</div>', text.strip())
