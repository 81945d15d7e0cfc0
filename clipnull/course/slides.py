"""Slides made from the notebooks: one page each, reveal.js within it, so that a projector needs no network.

The rule: a slide is made of each heading, with the first sentences, formulas, lists and tables below it and all of its
text in the speaker's notes; of each figure and each table of results, with the sentences after it; of each prediction,
and of its answer, which is on a later slide; and of each exercise and open task. Code, solutions and references are
left out. A slide that would be too long is drawn smaller. `reveal/` holds reveal.js as its authors publish it (npm,
5.2.1, MIT).
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
MAX_LINES = 20
"""Longer results, such as tables of many rows, are left out."""
SHORT = 300
"""The slide of a heading with at most so many characters has room for a figure."""
WHOLE = ("Summary", "Open task")
WITHOUT_RESULTS = ("", *WHOLE, "References")
TAGS_LEFT_OUT = {"parameters", "exercise", "solution"}
NO_RESULTS = ("TODO", '<span style="color: #767676">')
"""How what a student has not written yet begins, and the grey line of another run."""
KICKER = '<p class="kicker">%s</p>'
PREDICT = "**Predict.**"
ANSWER = re.compile(r"(?s)<details><summary>(?!Hint)([^<]*)</summary>\s*(.*?)\s*</details>")


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
    cells, title, results = [], "", []

    def add(kind: str, source: str, outputs: Sequence | None = None) -> None:
        cell = v4.new_markdown_cell(source) if outputs is None else v4.new_code_cell(source, outputs=list(outputs))
        cell.metadata["slideshow"] = {"slide_type": kind}
        cells.append(cell)

    def add_results() -> None:
        if results:
            kinds = [cell.metadata.slideshow.slide_type for cell in cells[-2:]]
            heading = cells[-2].source if kinds == ["slide", "notes"] else ""
            if not heading.startswith("#") or len(heading) > SHORT:  # no room on the slide of a heading
                add("slide", KICKER % title)
            add("-", "", results)
            results.clear()

    for cell in nb.cells:
        if cell.cell_type == "markdown":
            add_results()
            for part in parts(cell.source):
                heading = re.match(r"#+ (.+)", part)
                title = heading[1].strip() if heading else title
                for source, kind in _slide_of(part, title):
                    add(kind, source)
        elif title not in WITHOUT_RESULTS and not TAGS_LEFT_OUT & set(cell.metadata.get("tags", ())):
            for output in cell.outputs:
                text = output.get("data", {}).get("text/markdown", output.get("text", "")).strip()
                if answer := ANSWER.match(text):
                    add_results()
                    add("slide", _answer(title, answer))
                elif "image/png" in output.get("data", {}) or _is_short(text):
                    if not text or "|---" in text:
                        add_results()
                    results.append(output)
    return v4.new_notebook(cells=cells)


def _slide_of(part: str, title: str) -> list[tuple[str, str]]:
    """The texts of a part and their types: a slide of its own, notes, or both; nothing of the references."""
    if title == "References":
        return []
    if part.startswith(PREDICT):
        question, *rest = re.split(r"\n\s*\n", part, maxsplit=1)
        asked = f'{KICKER % title}\n\n<div class="asked">\n\n{question}\n\n</div>'
        return [(asked, "slide"), *((text, "notes") for text in rest)]
    if answer := ANSWER.match(part):
        return [(_answer(title, answer), "slide")]
    if part.startswith("**Exercise"):
        return [(f"{KICKER % title}\n\n{part}", "slide")]
    if part.startswith("#"):
        return [(part if title in WHOLE or part.startswith("# ") else _summary(part), "slide"), (part, "notes")]
    return [(part, "notes")]


def _answer(title: str, answer: re.Match) -> str:
    return f"{KICKER % title}\n\n**{answer[1]}.** {answer[2]}"


def parts(source: str) -> list[str]:
    """The text of a cell, cut before each heading, prediction, answer and exercise; a hint stays with its exercise."""
    texts: list[str] = []
    for block in re.split(r"\n\s*\n", source.strip()):
        if not texts or block.startswith(("#", "**Exercise", PREDICT, "<details><summary>Answer")):
            texts.append(block)
        else:
            texts[-1] += f"\n\n{block}"
    return texts


def _is_short(text: str) -> bool:
    return 0 < len(text.splitlines()) <= MAX_LINES and not text.startswith(NO_RESULTS)


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
