"""A booklet of all exercises, to be printed: hints and room to write; the solutions in a booklet of their own.

Both are pages without scripts. A browser prints them, or makes a PDF of them, on A4 or letter paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .formulas import style
from .notebooks import THEME, exporter, import_jupyter, read, write_page

ROOM = f'<div class="room">{12 * """<div class="line"></div>"""}</div>'
"""Lines to write on, below each exercise and each open task."""
EXERCISE = re.compile(r"(?ms)^\*\*(Exercise \d+)\*\*.*")
OPEN_TASK = re.compile(r"(?ms)^## Open task.*?(?=^## |\Z)")
HINT = re.compile(r"(?s)<details><summary>Hint</summary>\s*(.*?)</details>")


def booklet(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write `exercises.html` and `solutions.html` of the notebooks into the folder `out`; returns both paths."""
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
