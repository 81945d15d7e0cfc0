"""Slides from the notebooks: one self-contained page per notebook, which needs no network.

Each of these becomes a slide:
- a heading, with the first sentences, formulas, lists and tables below it; the full text goes to the speaker's notes;
- a figure or table of results, with the sentences after it;
- a prediction, and later its answer;
- an exercise or open task.
Code, solutions and references are omitted. Long slides are scaled down. `reveal/` holds reveal.js 5.2.1 (npm, MIT).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .formulas import style
from .notebooks import THEME, exporter, import_jupyter, read, write_page

REVEAL = Path(__file__).parent / "reveal"
MAX_SENTENCES = 2  # shown from the paragraph below a heading
MAX_LINES = 20  # longer results, such as tables with many rows, are omitted
SHORT = 300  # a heading slide with at most this many characters has room for a figure
WHOLE = ("Summary", "Open task")
WITHOUT_RESULTS = ("", *WHOLE, "References")
TAGS_LEFT_OUT = {"parameters", "exercise", "solution"}
NO_RESULTS = ("TODO", '<span style="color: #767676">')  # how unsolved exercises and grey lines begin
PREDICT = "**Predict.**"
ANSWER = re.compile(r"(?s)<details><summary>(?!Hint)([^<]*)</summary>\s*(.*?)\s*</details>")


def slides(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write the slides of each notebook, from its stored outputs, to `<name>.slides.html` in the folder `out`."""
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
    """Read a file of reveal.js for embedding, without its source map and closing tags."""
    text = re.sub(r"(?m)^//# sourceMappingURL=.*$", "", path.read_text(encoding="utf-8"))
    return text.replace("</script", "<\\/script")


def deck(nb: Any) -> Any:
    """Convert `nb` to a notebook of slides, each with its `slide_type`."""
    v4 = import_jupyter("nbformat").v4
    cells, title, has_room = [], "", False  # has_room: the last slide is a heading with room for a figure

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
    """Split Markdown before each heading, prediction, answer and exercise; a hint stays with its exercise."""
    texts: list[str] = []
    for block in re.split(r"\n\s*\n", source.strip()):
        if not texts or block.startswith(("#", "**Exercise", PREDICT, "<details><summary>Answer")):
            texts.append(block)
        else:
            texts[-1] += f"\n\n{block}"
    return texts


def _texts(part: str, title: str) -> Iterator[tuple[str, str]]:
    """Yield ("slide" or "notes", text) for a part; skip the references."""
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
    """Return a slide with a small section title and its answer unfolded."""
    return f'<p class="kicker">{title}</p>\n\n' + ANSWER.sub(r"**\1.** \2", text)


def _summary(part: str) -> str:
    """Return the heading of a section, the first sentences of its text, and its formulas, lists and tables."""
    heading, *blocks = re.split(r"\n\s*\n", part)
    lines, has_text = [heading], False
    for block in blocks:
        if block.startswith(("$$", "- ", "1. ", "|")):
            lines.append(block)
        elif not has_text and not block.startswith(("```", "<")):
            lines.append(" ".join(re.split(r"(?<=[.?!:])\s+(?=[A-Z*`$\[])", block)[:MAX_SENTENCES]))
            has_text = True
    return "\n\n".join(lines)
