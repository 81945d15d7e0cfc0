"""Slides made from the notebooks: one page each, reveal.js within it, so that a projector needs no network.

The rule: a slide is made of each heading, with the first sentences, formulas, lists and tables below it and all of its
text in the speaker's notes; of each figure, below the short results printed before it; of each question in italics, its
answer folded; and of each exercise and open task. Code, long prints, solutions and references are left out. A slide
that would be too long is drawn smaller. `reveal/` holds reveal.js as its authors publish it (npm, 5.2.1, MIT).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from .formulas import style
from .notebooks import exporter, import_jupyter, read

REVEAL = Path(__file__).parent / "reveal"
THEME, TEMPLATE = Path(__file__).parent / "theme", "slides.html.j2"
MAX_SENTENCES = 2
"""Of a paragraph below a heading, so many sentences are shown."""
MAX_LINES, MAX_ROWS = 8, 14
"""Longer printed results, and longer tables, are left out."""
SHORT = 300
"""The slide of a heading with at most so many characters has room for a figure."""
WHOLE = ("Summary", "Open task")
WITHOUT_RESULTS = ("", "Exercises", "Open task", "Summary", "References")
TAGS_LEFT_OUT = {"parameters", "exercise", "solution"}
KICKER = '<p class="kicker">%s</p>'
QUESTION = re.compile(r"\*(?!\*)(?:Question\. )?([^*]+)\*(?=\s*(?:\n\n|$))")


def slides(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write the slides of each notebook, from its stored outputs, into the folder `out`: `<name>.slides.html`."""
    resources = {name.replace(".", "_"): _inline(REVEAL / name) for name in ("reveal.js", "reveal.css", "notes.js")}
    css, js, template = ((THEME / name).read_text(encoding="utf-8") for name in ("slides.css", "slides.js", TEMPLATE))
    resources |= {"course_css": style() + css, "course_js": js}
    export = exporter(template, "Slides", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for path in notebooks:
        metadata = {"metadata": {"name": path.stem, "path": str(path.parent)}}
        page, _ = export.from_notebook_node(deck(read(path)), resources | metadata)
        paths.append(write_text(out / f"{path.stem}.slides.html", page))
    return paths


def _inline(path: Path) -> str:
    """A file of reveal.js as part of a page: without the address of its map, and without a closing tag."""
    text = re.sub(r"(?m)^//# sourceMappingURL=.*$", "", path.read_text(encoding="utf-8"))
    return text.replace("</script", "<\\/script")


def deck(nb: Any) -> Any:
    """The notebook of the slides of `nb`, each cell with its `slide_type`."""
    v4 = import_jupyter("nbformat").v4
    cells, title, printed = [], "", []

    def add(kind: str, source: str, outputs: Sequence | None = None) -> None:
        cell = v4.new_markdown_cell(source) if outputs is None else v4.new_code_cell(source, outputs=list(outputs))
        cell.metadata["slideshow"] = {"slide_type": kind}
        cells.append(cell)

    def add_results(*outputs: Any) -> None:
        kinds = [cell.metadata.slideshow.slide_type for cell in cells[-2:]]
        heading = cells[-2].source if kinds == ["slide", "notes"] else ""
        if not heading.startswith("#") or len(heading) > SHORT:  # no room on the slide of a heading
            add("slide", KICKER % title)
        add("-", "", outputs)
        printed.clear()

    for cell in nb.cells:
        if cell.cell_type == "markdown":
            if printed:
                add_results(*printed)
            for part in parts(cell.source):
                heading = re.match(r"#+ (.+)", part)
                title = heading[1].strip() if heading else title
                for source, kind in _slide_of(part, title):
                    add(kind, source)
        elif title not in WITHOUT_RESULTS and not TAGS_LEFT_OUT & set(cell.metadata.get("tags", ())):
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    add_results(*printed, output)
                elif _is_short(output):
                    printed.append(output)
    return v4.new_notebook(cells=cells)


def _slide_of(part: str, title: str) -> list[tuple[str, str]]:
    """The texts of a part and their types: a slide of its own, notes, or both; nothing of the references."""
    if title == "References":
        return []
    if question := QUESTION.match(part):
        text = f'<div class="asked">\n\n{question[1]}\n\n</div>'
        return [(f"{KICKER % title}\n\n{text}\n\n{part[question.end() :].strip()}", "slide")]
    if part.startswith("**Exercise"):
        return [(f"{KICKER % title}\n\n{part}", "slide")]
    if part.startswith("#") and title != "Exercises":
        return [(part if title in WHOLE or part.startswith("# ") else _summary(part), "slide"), (part, "notes")]
    return [] if title == "Exercises" else [(part, "notes")]


def parts(source: str) -> list[str]:
    """The text of a cell, cut before each heading, question and exercise; an answer stays with its question."""
    texts: list[str] = []
    for block in re.split(r"\n\s*\n", source.strip()):
        if not texts or block.startswith(("#", "**Exercise")) or QUESTION.fullmatch(block):
            texts.append(block)
        else:
            texts[-1] += f"\n\n{block}"
    return texts


def questions(nb: Any) -> list[str]:
    """The questions in italics of a notebook, each in one line."""
    texts = [part for cell in nb.cells if cell.cell_type == "markdown" for part in parts(cell.source)]
    return [" ".join(question[1].split()) for question in map(QUESTION.match, texts) if question]


def _is_short(output: Any) -> bool:
    table = str(output.get("data", {}).get("text/markdown", ""))
    if table.startswith("|"):
        return len(table.strip().splitlines()) <= MAX_ROWS
    text = output.get("text", "") if output.get("name") == "stdout" else ""
    return 0 < len(text.strip().splitlines()) <= MAX_LINES


def _summary(part: str) -> str:
    """The heading of a section, the first sentences of its first paragraph, and its formulas, lists and tables."""
    heading, *blocks = re.split(r"\n\s*\n", part)
    lines, has_text = [heading], False
    for block in blocks:
        if block.startswith(("$$", "- ", "1. ", "|")):
            lines.append(block)
        elif not has_text and not block.startswith(("```", "<")):
            lines.append(" ".join(re.split(r"(?<=[.?!:])\s+(?=[A-Z*`$\[])", block)[:MAX_SENTENCES]))
            has_text = True
    return "\n\n".join(lines)
