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


def said(text):
    return output("display_data", {"text/markdown": text})


@pytest.fixture
def nb():
    table, answer = "**T**\n\n|  |\n|---|\n%s", "<details><summary>Answer</summary>\n\nNo.\n\n</details>"
    grey, run = (
        '<span style="color: #767676">In this run: n 1.</span>',
        output("stream", name="stdout", text="TODO 01-1"),
    )
    return nbformat.v4.new_notebook(
        cells=[
            markdown("# 01 · T\n\n**Why?** So."),
            code("seed = 1", metadata={"tags": ["parameters"]}, outputs=[said("parameter")]),
            markdown("## 1 A\n\nOne. Two. Three.\n\n$$x^2$$\n\nMore.\n\n**Predict.** Why\nnot?\n\nA note."),
            code("f()", outputs=[FIGURE, said("Seen."), said(table % "| 1 |\n" * 30), said(answer), said(grey)]),
            markdown("Prose without a heading."),
            markdown("<details><summary>Answer</summary>\n\nYes.\n\n</details>\n\n## 2 B\n\nOnly text."),
            code("g()", outputs=[FIGURE, FIGURE, said("First."), said(table % "| 1 |"), said("Second.")]),
            markdown(
                "**Exercise 1** (3 min, easy). Write it.\n\n<details><summary>Hint</summary>\n\nSecret.\n</details>"
            ),
            code("def f(): ...", metadata={"tags": ["exercise"]}),
            code("cn.check()", outputs=[run]),
            code("def f(): 1", metadata={"tags": ["solution"]}, outputs=[said("PASS")]),
            markdown("## Open task\n\n**Do it.** Well.\n\n## Summary\n\n1. All."),
            code("cn.record()", outputs=[said("recorded")]),
            markdown("## References\n\n- Somebody."),
        ]
    )


def test_headings_results_predictions_and_exercises_become_slides(nb):
    shown, notes = [], []
    for cell in deck(nb).cells:
        kind = cell.metadata.slideshow.slide_type
        text = cell.source or " ".join(out["data"].get("text/markdown", "FIGURE") for out in cell.outputs)
        if kind == "slide":
            shown.append([text])
        else:
            (notes if kind == "notes" else shown[-1]).append(text)
    kicker = '<p class="kicker">%s</p>'
    assert shown == [
        ["# 01 · T\n\n**Why?** So."],
        ["## 1 A\n\nOne. Two.\n\n$$x^2$$"],
        [kicker % "1 A" + '\n\n<div class="asked">\n\n**Predict.** Why\nnot?\n\n</div>'],
        [kicker % "1 A", "FIGURE Seen."],
        [kicker % "1 A" + "\n\n**Answer.** No."],
        [kicker % "1 A" + "\n\n**Answer.** Yes."],
        ["## 2 B\n\nOnly text.", "FIGURE"],
        [kicker % "2 B", "FIGURE First."],
        [kicker % "2 B", "**T**\n\n|  |\n|---|\n| 1 | Second."],
        [
            kicker % "2 B" + "\n\n**Exercise 1** (3 min, easy). Write it.\n\n"
            "<details><summary>Hint</summary>\n\nSecret.\n</details>"
        ],
        ["## Open task\n\n**Do it.** Well."],
        ["## Summary\n\n1. All."],
    ]
    assert "Three.\n\n$$x^2$$\n\nMore." in notes[1] and {"A note.", "Prose without a heading."} <= {*notes}


def test_every_prediction_of_the_course_has_a_slide_and_an_answer_on_a_later_one():
    for path in NOTEBOOKS:
        text = "\n".join(
            cell.source for cell in deck(read(path)).cells if cell.metadata.slideshow.slide_type == "slide"
        )
        asked = re.findall(r"\*\*Predict\.\*\*|\*\*Answer\.\*\*", text)
        predictions = sum(cell.source.count("**Predict.**") for cell in read(path).cells)
        assert [word[2:-3] for word in asked] == ["Predict", "Answer"] * predictions, path.name


def test_no_text_of_a_cell_is_lost_when_it_is_cut():
    for path in NOTEBOOKS:
        for cell in read(path).cells:
            if cell.cell_type == "markdown":
                assert "".join("".join(parts(cell.source)).split()) == "".join(cell.source.split())


def test_reveal_is_as_its_authors_published_it():
    """reveal.js 5.2.1 of npm: dist/reveal.js, dist/reveal.css, plugin/notes/notes.js and LICENSE."""
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in REVEAL.iterdir()}
    assert hashes == {
        "LICENSE": "34014800f4126ac2",
        "notes.js": "df1201d19d03241a",
        "reveal.css": "68f915a11ebf7203",
        "reveal.js": "46538b52db487241",
    }


def test_a_page_is_alone_and_hints_stay_folded(nb, tmp_path, capsys):
    path = tmp_path / "01_t.ipynb"
    nbformat.write(nb, path)
    assert cli.main(["slides", str(path), "--out", str(tmp_path / "out")]) == 0
    page = tmp_path / "out" / "01_t.slides.html"
    assert capsys.readouterr().out == f"written: {page}\n" and [page] == list((tmp_path / "out").iterdir())
    text = page.read_text(encoding="utf-8")
    assert outside(re.sub(r"(?s)<script>.*?</script>", "", text)) == []
    assert re.search(r"(?s)<details><summary>Hint</summary>\s*<p>Secret.</p>\s*</details>", text)
    assert (
        "¶" not in text
        and "seed = 1" not in text
        and "PASS" not in text
        and "<math" in text
        and text.count("</script") == 3
    )


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
