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

LINES = 12
"""Lines to write on, below each exercise; an open task has as many."""
STYLE = """
@page { margin: 18mm 16mm }
body.jp-Notebook { max-width: 46em; margin: 0 auto; padding: 0 1em; overflow: visible;
  font: 12pt/1.45 Georgia, "Times New Roman", serif }
.jp-InputPrompt, .jp-OutputPrompt, .jp-Collapser { display: none }
.jp-Notebook, .jp-Cell { padding: 0; margin: 0 }
.jp-RenderedHTMLCommon { font: inherit; padding: 0 }
body .jp-RenderedHTMLCommon h1 { font-size: 24pt; margin: 1em 0 .4em }
body .jp-RenderedHTMLCommon h2 { font-size: 18pt; margin: 1.2em 0 .4em }
body .jp-RenderedHTMLCommon h3 { font-size: 13pt; margin: 1em 0 .3em }
body pre, body .jp-RenderedHTMLCommon code { font-family: Consolas, Menlo, monospace; font-size: 9pt; padding: 0 }
.highlight pre { white-space: pre-wrap; border: 1px solid #bbb; padding: .5em }
.hint { border-left: 3px solid #0173b2; padding-left: .8em; font-size: 11pt }
.line { border-bottom: 1px solid #999; height: 8mm }
@media print {
  h1, h2, h3 { break-after: avoid }
  .jp-Cell { break-inside: avoid }
  .new { break-before: page }
}
"""
ROW = '<div class="line"></div>'


def booklet(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write `exercises.html` and `solutions.html` of the notebooks into the folder `out`; returns both paths.

    Raises ValueError if none of the notebooks has an exercise.
    """
    both, v4 = {"exercises": [], "solutions": []}, import_jupyter("nbformat").v4
    for path in map(Path, notebooks):
        asked, answers = _cells(read(path))
        both["exercises"] += asked
        both["solutions"] += answers
    if not both["solutions"]:
        raise ValueError("notebooks: none of them has an exercise; expected cells tagged exercise and solution")
    Path(out).mkdir(parents=True, exist_ok=True)
    template, written = PAGE.replace("</style>", STYLE + "</style>"), []
    export = exporter(template, exclude_output=True, exclude_input_prompt=True, exclude_anchor_links=True)
    for name, cells in both.items():
        nb = v4.new_notebook(cells=[v4.new_markdown_cell(f"# clipnull: {name}"), *cells])
        body, _ = export.from_notebook_node(
            nb, {"metadata": {"name": f"clipnull: {name}", "path": ""}, "formulas": style()}
        )
        written.append(write_text(Path(out) / f"{name}.html", body))
    return written


def _cells(nb: Any) -> tuple[list, list]:
    """The cells of a notebook's part of the two booklets, each below the notebook's title."""
    v4 = import_jupyter("nbformat").v4
    title = re.search(r"(?m)^# (.+)", nb.cells[0].source)
    head = v4.new_markdown_cell(f'<div class="new"></div>\n\n## {title[1] if title else "Exercises"}')
    asked, answers, number = [], [], ""
    for cell in nb.cells:
        tags = cell.metadata.get("tags", ())
        found = re.search(r"(?ms)^\*\*(Exercise \d+)\*\*.*", cell.source) if cell.cell_type == "markdown" else None
        if found:
            number = found[1]
            asked.append(v4.new_markdown_cell(_open(found[0])))
        elif cell.cell_type == "markdown" and cell.source.startswith("## Open task"):
            asked += [v4.new_markdown_cell(f"#{cell.source}"), _room()]
        elif "exercise" in tags:
            asked += [v4.new_code_cell(cell.source), _room()]
        elif "solution" in tags:
            answers += [v4.new_markdown_cell(f"### {number}"), v4.new_code_cell(cell.source)]
    return [head, *asked] if asked else [], [head, *answers] if answers else []


def _open(text: str) -> str:
    """An exercise with its hint in view: paper unfolds nothing."""
    hint = r"(?s)<details><summary>Hint</summary>(.*?)</details>"
    return re.sub(hint, r'<div class="hint">\n\n**Hint.** \1\n</div>', text.strip()).replace(
        "**Hint.** \n\n", "**Hint.** "
    )


def _room() -> Any:
    return import_jupyter("nbformat").v4.new_markdown_cell(f'<div class="room">{LINES * ROW}</div>')
