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
ROOM = f'<div class="room">{12 * """<div class="line"></div>"""}</div>'
"""Lines to write on, below each exercise and each open task."""
HINT = re.compile(r"(?s)<details><summary>Hint</summary>\s*(.*?)</details>")
OPEN_TASK = re.compile(r"(?ms)^## Open task.*?(?=^## |\Z)")


def booklet(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write `exercises.html` and `solutions.html` of the notebooks into the folder `out`; returns both paths.

    Raises ValueError if none of the notebooks has an exercise.
    """
    pairs = [_cells(read(path)) for path in notebooks]
    if not any(solutions for _, solutions in pairs):
        raise ValueError("notebooks: none of them has an exercise; expected cells tagged exercise and solution")
    out.mkdir(parents=True, exist_ok=True)
    template = PAGE.replace("</style>", STYLE.read_text(encoding="utf-8") + "</style>")
    export = exporter(template, exclude_output=True, exclude_input_prompt=True, exclude_anchor_links=True)
    v4, paths = import_jupyter("nbformat").v4, []
    for name, parts in zip(("exercises", "solutions"), zip(*pairs, strict=True), strict=True):
        nb = v4.new_notebook(cells=[v4.new_markdown_cell(f"# clipnull: {name}"), *sum(parts, [])])
        resources = {"metadata": {"name": f"clipnull: {name}", "path": ""}, "formulas": style()}
        paths.append(write_text(out / f"{name}.html", export.from_notebook_node(nb, resources)[0]))
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
                exercises.append(text(HINT.sub(r'<div class="hint">\n\n**Hint.** \1\n</div>', task[0].strip())))
            if task := OPEN_TASK.search(cell.source):
                exercises += [text(f"#{task[0].strip()}"), text(ROOM)]
        elif "exercise" in tags:
            exercises += [code(cell.source), text(ROOM)]
        elif "solution" in tags:
            solutions += [text(f"### {number}"), code(cell.source)]
    return (exercises, solutions) if solutions[1:] else ([], [])
