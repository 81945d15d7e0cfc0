"""Slides: what of a notebook becomes one, that they need no network, and that each fits the projector."""

import hashlib
import re

import nbformat
import pytest
from browsing import tab
from conftest import ROOT
from pages import outside

from clipnull.commands import cli
from clipnull.course.notebooks import read
from clipnull.course.slides import REVEAL, deck, parts, slides

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
code, markdown, output = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell, nbformat.v4.new_output
FIGURE = output("display_data", {"image/png": "iVBORw0KGgo="}, metadata={"image/png": {"alt": "A."}})
HINT = "<details><summary>Hint</summary>\n\nSecret.\n</details>"


def said(text):
    return output("display_data", {"text/markdown": text})


@pytest.fixture
def nb():
    table, answer = "**T**\n\n|  |\n|---|\n%s", "<details><summary>Answer</summary>\n\n%s\n\n</details>"
    grey = said('<span style="color: #767676">In this run: n 1.</span>')
    unwritten = output("stream", name="stdout", text="TODO 01-1")
    long, row = said(table % "| 1 |\n" * 30), said(table % "| 1 |")
    cells = [
        markdown("# 01 · T\n\n**Why?** So."),
        code("seed = 1", metadata={"tags": ["parameters"]}, outputs=[said("parameter")]),
        markdown("## 1 A\n\nOne. Two. Three.\n\n$$x^2$$\n\nMore.\n\n**Predict.** Why\nnot?\n\nA note."),
        code("f()", outputs=[FIGURE, said("Seen."), long, said(answer % "No."), grey]),
        markdown("Prose without a heading."),
        markdown(answer % "Yes." + "\n\n## 2 B\n\nOnly text."),
        code("g()", outputs=[FIGURE, FIGURE, said("First."), row, said("Second.")]),
        markdown(f"**Exercise 1** (3 min, easy). Write it.\n\n{HINT}"),
        code("def f(): ...", metadata={"tags": ["exercise"]}),
        code("cn.check()", outputs=[unwritten]),
        code("def f(): 1", metadata={"tags": ["solution"]}, outputs=[said("PASS")]),
        markdown("## Open task\n\n**Do it.** Well.\n\n## Summary\n\n1. All."),
        code("cn.record()", outputs=[said("recorded")]),
        markdown("## References\n\n- Somebody."),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_headings_results_predictions_and_exercises_become_slides(nb):
    shown, notes = [], []
    for cell in deck(nb).cells:
        kind = cell.metadata.slideshow.slide_type
        text = cell.source or " ".join(out["data"].get("text/markdown", "FIGURE") for out in cell.outputs)
        text = re.sub(r'^<p class="kicker">(.*)</p>\n\n', r"\1: ", text)
        if kind == "slide":
            shown.append([text])
        else:
            (notes if kind == "notes" else shown[-1]).append(text)
    assert shown == [
        ["# 01 · T\n\n**Why?** So."],
        ["## 1 A\n\nOne. Two.\n\n$$x^2$$"],
        ['1 A: <div class="asked">\n\n**Predict.** Why\nnot?\n\n</div>'],
        ["1 A: ", "FIGURE", "Seen."],
        ["1 A: **Answer.** No."],
        ["1 A: **Answer.** Yes."],
        ["## 2 B\n\nOnly text.", "FIGURE"],
        ["2 B: ", "FIGURE", "First."],
        ["2 B: ", "**T**\n\n|  |\n|---|\n| 1 |", "Second."],
        [f"2 B: **Exercise 1** (3 min, easy). Write it.\n\n{HINT}"],
        ["## Open task\n\n**Do it.** Well."],
        ["## Summary\n\n1. All."],
    ]
    assert "Three.\n\n$$x^2$$\n\nMore." in notes[1] and {"A note.", "Prose without a heading."} <= {*notes}


def test_every_prediction_of_the_course_has_an_answer_on_a_later_slide_and_no_text_is_lost():
    for path in NOTEBOOKS:
        nb = read(path)
        text = "\n".join(c.source for c in deck(nb).cells if c.metadata.slideshow.slide_type == "slide")
        questions = re.findall(r"\*\*Predict\.\*\*|\*\*Answer\.\*\*", text)
        predictions = sum(cell.source.count("**Predict.**") for cell in nb.cells)
        assert questions == ["**Predict.**", "**Answer.**"] * predictions, path.name
        for source in (cell.source for cell in nb.cells if cell.cell_type == "markdown"):
            assert "".join("".join(parts(source)).split()) == "".join(source.split())


def test_reveal_is_as_its_authors_published_it():
    """reveal.js 5.2.1 of npm: dist/reveal.js, dist/reveal.css, plugin/notes/notes.js and LICENSE."""
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in REVEAL.iterdir()}
    assert hashes == {
        "LICENSE": "34014800f4126ac2",
        "notes.js": "df1201d19d03241a",
        "reveal.css": "68f915a11ebf7203",
        "reveal.js": "46538b52db487241",
    }


@pytest.mark.slow
def test_a_page_is_alone_and_hints_stay_folded(nb, tmp_path, capsys):
    path = tmp_path / "01_t.ipynb"
    nbformat.write(nb, path)
    assert cli.main(["slides", str(path), "--out", str(tmp_path / "out")]) == 0
    page = tmp_path / "out" / "01_t.slides.html"
    assert capsys.readouterr().out == f"written: {page}\n" and [page] == list((tmp_path / "out").iterdir())
    text = page.read_text(encoding="utf-8")
    assert outside(re.sub(r"(?s)<script>.*?</script>", "", text)) == []
    assert re.search(r"(?s)<details><summary>Hint</summary>\s*<p>Secret.</p>\s*</details>", text)
    assert not any(word in text for word in ("¶", "seed = 1", "PASS")) and "<math" in text
    assert text.count("</script") == 3 and "<title>01_t: slides</title>" in text


LOOK = """(() => { const faults = [];
for (let i = 0; i < Reveal.getTotalSlides(); i++) {
  Reveal.slide(i);
  const section = Reveal.getCurrentSlide(), size = parseFloat(section.style.fontSize || "100");
  if (section.scrollHeight > 721 || section.scrollWidth > 1281 || size < 60) faults.push(
    [i, section.scrollHeight, section.scrollWidth, size, section.innerText.slice(0, 60)]);
}
return [Reveal.getTotalSlides(), faults] })()"""


@pytest.mark.nightly
def test_slides_fit_the_projector_and_load_nothing(tmp_path, devtools, serve):
    address = serve(tmp_path)
    for page in slides(NOTEBOOKS, tmp_path):
        with tab(devtools, f"{address}/{page.name}", 1280) as opened:
            total, faults = opened.run(LOOK)
            assert total > 10 and faults == [] and opened.complaints == [], page.name
