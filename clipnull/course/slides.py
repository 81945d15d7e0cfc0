"""Slides made from the notebooks: one page each, reveal.js within it, so that a projector needs no network.

What becomes a slide is a rule, not a choice for each cell. A slide is made of

- each heading: its first sentences, formulas, lists and tables; all that was written there is in the speaker's notes;
- each figure with its caption, below the short results printed before it;
- each question in italics, its answer folded; each exercise and open task, its hint folded.

Code, long prints, solutions, parameters and references are left out. A slide that would be too long is drawn smaller.
`reveal/` holds reveal.js as its authors publish it (npm, 5.2.1, MIT).
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
SENTENCES = 2
"""Of a paragraph below a heading, so many sentences are shown."""
PRINTED = 8
ROWS = 14
"""A printed result of more lines, or a table of more rows, is left out."""
WHOLE = ("Summary", "Open task")
UNTOLD = ("", "Exercises", "Open task", "Summary", "References")
"""Sections whose outputs are left out."""
NOT_SHOWN = {"parameters", "exercise", "solution"}
RESULT, FIGURE = 1, 2
"""What a slide with a heading has room for: a printed result, or a figure, too."""
SMALL = 400
"""A section of so many characters on its slide leaves room for a figure."""
KICKER = '<p class="kicker">%s</p>'
QUESTION = re.compile(r"\*(?!\*)(?:Question\. )?([^*]+)\*(?=\s*(?:\n\n|$))")

STYLE = """
:root { --ink: #1b1f24; --accent: #0173b2 }
body { margin: 0; background: white }
.reveal { font: 30px/1.35 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: var(--ink) }
.reveal .slides { text-align: left }
.reveal .slides section { box-sizing: border-box; padding: 10px 20px; height: 100% }
.reveal h1 { font-size: 2em; line-height: 1.1; margin: .6em 0 .5em; color: var(--accent) }
.reveal h2, .reveal h3 { font-size: 1.35em; line-height: 1.15; margin: 0 0 .6em; color: var(--accent) }
.reveal .kicker { font-size: .62em; color: #57606a; margin: 0 0 .5em; border-bottom: 2px solid #d0d7de }
.reveal .asked { font-size: 1.25em; line-height: 1.4; margin: 1.2em 0 .8em }
.reveal p { margin: .5em 0 }
.reveal ul, .reveal ol { display: block; margin: .4em 0 .4em 1.1em; padding: 0 }
.reveal li { margin: .25em 0 }
.reveal a { color: var(--accent) }
.reveal code { font: .85em "Source Code Pro", Consolas, Menlo, monospace; background: #f3f4f6; padding: 0 .15em }
.reveal pre { font: .62em/1.4 "Source Code Pro", Consolas, Menlo, monospace; background: #f3f4f6; margin: .3em 0;
  padding: .5em .8em; width: auto; white-space: pre-wrap }
.reveal pre code { background: none; font-size: 1em }
.reveal table { border-collapse: collapse; font-size: .72em; margin: .5em 0 }
.reveal th, .reveal td { text-align: left; padding: .3em .6em; border-bottom: 1px solid #d0d7de; vertical-align: top }
.reveal figure { margin: 0; text-align: center }
.reveal figure img { display: block; margin: 0 auto; max-width: 100%; max-height: 500px; object-fit: contain }
.reveal figcaption { font-size: .55em; line-height: 1.3; color: #57606a; text-align: left; margin: .5em auto 0 }
.reveal .formula { display: block; margin: .5em 0; overflow: visible }
.reveal .formula math { font-size: 1.05em }
.reveal details { font-size: .8em; margin: .6em 0 }
.reveal summary { color: var(--accent); cursor: pointer }
.reveal .slide-number { background: none; right: auto; left: 12px; color: #57606a; font-size: 16px }
"""
TEMPLATE = """{%- extends 'reveal/index.html.j2' -%}
{%- block header -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ resources.metadata.name }}: slides</title>
<link rel="icon" href="data:,">
<style>{{ resources.reveal_css }}</style>
<style>{{ resources.course_css }}</style>
</head>
{%- endblock header -%}
{%- block body_header -%}
<body>
<div class="reveal"><div class="slides">
{%- endblock body_header -%}
{%- block body_footer -%}
</div></div>
{%- endblock body_footer -%}
{%- block footer_js -%}
<script>{{ resources.reveal_js }}</script>
<script>{{ resources.notes_js }}</script>
<script>{{ resources.course_js }}</script>
</body>
{%- endblock footer_js -%}
{%- block data_latex scoped -%}{{ output.data['text/latex'] | markdown2html }}{%- endblock -%}
"""
SCRIPT = """
function fit(section) {
  section.style.fontSize = "";
  const images = section.querySelectorAll("img");
  images.forEach(image => { image.style.maxHeight = "" });
  for (let size = 96; size >= 48 && section.scrollHeight > HEIGHT; size -= 4) {
    section.style.fontSize = size + "%";
    images.forEach(image => { image.style.maxHeight = 5 * size + "px"; image.style.minHeight = 0 });
  }
}
const HEIGHT = 720, leaves = () => document.querySelectorAll(".slides section:not(:has(section))");
Reveal.initialize({ width: 1280, height: HEIGHT, margin: 0.03, center: false, hash: true, slideNumber: "c/t",
  transition: "none", controlsTutorial: false, navigationMode: "linear", plugins: [RevealNotes] });
Reveal.on("ready", event => fit(event.currentSlide));
Reveal.on("slidechanged", event => fit(event.currentSlide));
leaves().forEach(section => section.addEventListener("toggle", () => fit(section), true));
"""


def slides(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write the slides of each notebook, from its stored outputs, into the folder `out`: `<name>.slides.html`."""
    resources = {f"{name.replace('.', '_')}": _inline(name) for name in ("reveal.js", "reveal.css", "notes.js")}
    resources |= {"course_css": style() + STYLE, "course_js": SCRIPT}
    export = exporter(TEMPLATE, "Slides", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True)
    written = []
    Path(out).mkdir(parents=True, exist_ok=True)
    for path in map(Path, notebooks):
        metadata = {"metadata": {"name": path.stem, "path": str(path.parent)}}
        body, _ = export.from_notebook_node(deck(read(path)), resources | metadata)
        written.append(write_text(Path(out) / f"{path.stem}.slides.html", body))
    return written


def _inline(name: str) -> str:
    """A file of reveal.js to stand inside a page: without its map, which is not here, and without a closing tag."""
    text = (REVEAL / name).read_text(encoding="utf-8")
    return re.sub(r"(?m)^//# sourceMappingURL=.*$", "", text).replace("</script", "<\\/script")


def deck(nb: Any) -> Any:
    """A notebook of the slides of `nb`: of each cell what is shown, and its type for nbconvert."""
    v4 = import_jupyter("nbformat").v4
    made, title, printed, room, notes = [], "", [], 0, None

    def text(source: str, kind: str = "slide") -> Any:
        made.append(v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}}))
        return made[-1]

    def results(outputs: list) -> None:
        made.append(v4.new_code_cell("", outputs=outputs, metadata={"slideshow": {"slide_type": "-"}}))

    for cell in nb.cells:
        if cell.cell_type == "code":
            if title in UNTOLD or NOT_SHOWN & set(cell.metadata.get("tags", ())):
                continue
            for output in cell.outputs:
                if "<figure" in output.get("data", {}).get("text/html", ""):
                    if room < FIGURE:
                        text(KICKER % title)
                    results([*printed, output])
                    printed, room = [], 0
                elif _is_short(output):
                    printed.append(output)
            continue
        if printed:
            if not room:
                text(KICKER % title)
            results(printed)
            printed, room = [], 0
        for part in parts(cell.source):
            heading, asked = re.match(r"#+ (.+)", part), QUESTION.match(part)
            title = heading[1].strip() if heading else title
            if title == "References":
                break
            if asked:
                text(f'{KICKER % title}\n\n<div class="asked">\n\n{asked[1]}\n\n</div>\n\n{part[asked.end() :]}')
            elif part.startswith("**Exercise"):
                text(f"{KICKER % title}\n\n{part}")
            elif heading and title != "Exercises":
                summary = part if title in WHOLE or part.startswith("# ") else _summary(part)
                text(summary)
                notes = text(part, "notes")
                room = RESULT if len(summary) > SMALL or re.search(r"(?m)^(\$\$|- |1\. |\|)", summary) else FIGURE
                continue
            elif notes:
                notes.source += f"\n\n{part}"
                continue
            room, notes = 0, None
    return v4.new_notebook(cells=made)


def parts(source: str) -> list[str]:
    """The text of a cell, cut before each heading, question and exercise; an answer stays with its question."""
    found: list[str] = []
    for block in re.split(r"\n\s*\n", source.strip()):
        begins = block.startswith(("#", "**Exercise")) or QUESTION.fullmatch(block)
        if begins or not found:
            found.append(block)
        else:
            found[-1] += f"\n\n{block}"
    return found


def questions(nb: Any) -> list[str]:
    """The questions in italics of a notebook, each in one line."""
    found = (QUESTION.match(part) for cell in nb.cells if cell.cell_type == "markdown" for part in parts(cell.source))
    return [" ".join(asked[1].split()) for asked in found if asked]


def _is_short(output: Any) -> bool:
    table = str(output.get("data", {}).get("text/markdown", ""))
    printed = output.get("text", "") if output.get("name") == "stdout" else ""
    return 0 < printed.strip().count("\n") + bool(printed.strip()) <= PRINTED or (
        table.startswith("|") and table.strip().count("\n") < ROWS
    )


def _summary(part: str) -> str:
    """What a slide shows of a section: the first sentences of its first paragraph, formulas, lists and tables."""
    heading, *blocks = re.split(r"\n\s*\n", part)
    kept, told = [heading], False
    for block in blocks:
        if block.startswith(("$$", "- ", "1. ", "|")):
            kept.append(block)
        elif not told and not block.startswith(("```", "<")):
            kept.append(" ".join(re.split(r"(?<=[.?!:])\s+(?=[A-Z*`$\[])", block)[:SENTENCES]))
            told = True
    return "\n\n".join(kept)
