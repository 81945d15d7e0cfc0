"""Slides made from the notebooks: one page each, reveal.js within it, so that a projector needs no network.

The rule: a slide is made of each heading, with the first sentences, formulas, lists and tables below it and all of its
text in the speaker's notes; of each figure and each table of results, with the sentences after it; of each prediction,
and of its answer, which is on a later slide; and of each exercise and open task. Code, solutions and references are
left out. A slide that would be too long is drawn smaller. `reveal/` holds reveal.js as its authors publish it (npm,
5.2.1, MIT).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .formulas import style
from .notebooks import THEME, exporter, import_jupyter, read, write_page

REVEAL = Path(__file__).parent / "reveal"
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
PREDICT = "**Predict.**"
ANSWER = re.compile(r"(?s)<details><summary>(?!Hint)([^<]*)</summary>\s*(.*?)\s*</details>")


def slides(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write the slides of each notebook, from its stored outputs, into the folder `out`: `<name>.slides.html`."""
    files = [*REVEAL.glob("*.*s"), *THEME.glob("slides.*s")]  # styles and scripts
    resources = {path.name.replace(".", "_"): _inline(path) for path in files}
    options = {"exclude_input": True, "exclude_output_prompt": True, "exclude_anchor_links": True}
    export = exporter("Slides", "slides.html.j2", **options)
    out.mkdir(parents=True, exist_ok=True)
    return [
        write_page(out / f"{path.stem}.slides.html", export, deck(read(path)), path.parent, style=style(), **resources)
        for path in notebooks
    ]


def _inline(path: Path) -> str:
    """A file of reveal.js as part of a page: without the address of its map, and without a closing tag."""
    text = re.sub(r"(?m)^//# sourceMappingURL=.*$", "", path.read_text(encoding="utf-8"))
    return text.replace("</script", "<\\/script")


def deck(nb: Any) -> Any:
    """The notebook of the slides of `nb`, each cell with its `slide_type`."""
    v4 = import_jupyter("nbformat").v4
    cells, title, has_room = [], "", False  # has_room: the last slide is of a heading, and takes a figure

    def add(kind: str, source: str = "", output: Any = None) -> None:
        cell = v4.new_code_cell(outputs=[output]) if output else v4.new_markdown_cell(source)
        cell.metadata["slideshow"] = {"slide_type": kind}
        cells.append(cell)

    for cell in nb.cells:
        if cell.cell_type == "markdown":
            for part in parts(cell.source):
                heading = re.match(r"#+ (.+)", part)
                title = heading[1].strip() if heading else title
                texts = [*_texts(part, title)]
                has_room = bool(heading) and len(texts[0][1]) <= SHORT if texts else False
                for kind, text in texts:
                    add(kind, text)
        elif title not in WITHOUT_RESULTS and not TAGS_LEFT_OUT & set(cell.metadata.get("tags", ())):
            for output in cell.outputs:
                data = output.get("data", {})
                text = data.get("text/markdown", output.get("text", "")).strip()
                if ANSWER.match(text):
                    add("slide", _small(title, text))
                elif "image/png" in data or 0 < len(text.splitlines()) <= MAX_LINES and not text.startswith(NO_RESULTS):
                    follows = cells[-1].cell_type == "code" and text and "|---" not in text
                    if not follows and not has_room:
                        add("slide", _small(title))
                    add("-", output=output)
                    has_room = False
    return v4.new_notebook(cells=cells)


def parts(source: str) -> list[str]:
    """The text of a cell, cut before each heading, prediction, answer and exercise; a hint stays with its exercise."""
    texts: list[str] = []
    for block in re.split(r"\n\s*\n", source.strip()):
        if not texts or block.startswith(("#", "**Exercise", PREDICT, "<details><summary>Answer")):
            texts.append(block)
        else:
            texts[-1] += f"\n\n{block}"
    return texts


def _texts(part: str, title: str) -> Iterator[tuple[str, str]]:
    """What a part adds, "slide" or "notes", and its text; nothing of the references."""
    if title == "References":
        return
    if part.startswith(PREDICT):
        question, *rest = re.split(r"\n\s*\n", part, maxsplit=1)
        yield "slide", _small(title, f'<div class="asked">\n\n{question}\n\n</div>')
        yield from (("notes", text) for text in rest)
    elif part.startswith("**Exercise") or ANSWER.match(part):
        yield "slide", _small(title, part)
    else:
        if part.startswith("#"):
            yield "slide", part if title in WHOLE or part.startswith("# ") else _summary(part)
        yield "notes", part


def _small(title: str, text: str = "") -> str:
    """A slide on which the title of the section is small, and an answer is unfolded."""
    return f'<p class="kicker">{title}</p>\n\n' + ANSWER.sub(r"**\1.** \2", text)


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
