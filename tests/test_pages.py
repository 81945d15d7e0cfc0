"""The pages of the book before Sphinx reads them."""

import base64
import io
import re

import nbformat
import pytest
import yaml
from conftest import ROOT
from PIL import Image

import clipnull as cn
from clipnull.course.pages import copy, index


@pytest.fixture
def chapter(tmp_path):
    def write(name: str, *sources: str, code=()):
        cells = [nbformat.v4.new_markdown_cell(source) for source in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=[*cells, *code]), tmp_path / name)
        return tmp_path / name

    return write


def test_the_index_lists_what_each_chapter_teaches(chapter):
    goals = "**You will be able to** read\ntwo lines of [the glossary](00_z.ipynb#Glossary)."
    pages = [
        chapter("01_a.ipynb", f"# 01 · A\n\nWhy?\n\n{goals}\n\n**Time** 5 minutes."),
        chapter("02_b.ipynb", "# 02 · B\n\nThis.\n\nMore."),
        chapter("03_c.ipynb", "# 03 · C"),
    ]
    text = index(pages, {"The course": ["01_a.ipynb", "02_b.ipynb", "03_c.ipynb"], "Empty": []}, with_demo=False)
    first, second, third = text[text.index("### ") :].split("### ")[1:]
    assert first.startswith("[01 · A](01_a.ipynb)")
    assert "You will be able to read\ntwo lines of [the glossary](00_z.ipynb#glossary)." in first
    assert "5 minutes" not in first and "Why?" not in first and "This." in second and "More" not in second
    assert third.startswith("[03 · C](03_c.ipynb)") and '<a href="_static/notebooks/03_c.ipynb" download>' in third
    assert "01_a\n02_b\n03_c\n```" in text and "contact_sheet" not in text and "Empty" not in text
    assert "contact_sheet" in index(pages, {}, with_demo=True)


def test_the_index_shows_the_first_figure(chapter):
    outputs = []
    for colour in ("red", "blue"):
        picture = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(picture, "png")
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        about = {"image/png": {"alt": f'In "{colour}".'}}
        outputs.append(nbformat.v4.new_output("display_data", data, metadata=about))
    text = index([chapter("01_a.ipynb", "# A", code=[nbformat.v4.new_code_cell("", outputs=outputs)])], {}, False)
    alt, cover = re.search(r'<img class="cover" alt="(.*?)" src="data:image/webp;base64,(.*?)">', text).groups()
    red, _, blue = Image.open(io.BytesIO(base64.b64decode(cover))).convert("RGB").getpixel((4, 4))
    assert alt == "In &quot;red&quot;." and red > 200 > blue


def test_a_notebook_is_copied_with_headings_and_folded_solutions_and_to_download_as_it_is(chapter, tmp_path):
    solution = nbformat.v4.new_code_cell("1", metadata={"tags": ["solution"]})
    prose = "# A\n\nAs **Exercise 1** says, see [b](02_b.ipynb#My-heading).\n\n**Exercise 1** (6 min, easy). Write $f$:"
    page, source = chapter("01_a.ipynb", prose, code=[solution]), tmp_path / "source"
    (source / "_static").mkdir(parents=True)
    copy(page, source)
    text, folded = nbformat.read(source / "01_a.ipynb", 4).cells
    headed = "As **Exercise 1** says, see [b](02_b.ipynb#my-heading).\n\n### Exercise 1 (6 min, easy)\n\nWrite $f$:"
    assert text.source == f"# A\n\n{headed}"
    assert folded.metadata.tags == ["solution", "hide-input"] and "solution" in folded.metadata.mystnb.code_prompt_show
    assert (source / "_static" / "notebooks" / "01_a.ipynb").read_bytes() == page.read_bytes()


def test_the_page_on_what_is_stable_cites_as_the_file_of_citations_does():
    text = (ROOT / "clipnull" / "course" / "stable.md").read_text(encoding="utf-8")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (paper,), flat = cited["references"], re.sub(r"[\s>]+", " ", text)
    assert f"*{paper['title']}.* {paper['identifiers'][0]['value']}, {paper['year']}." in flat
    assert all(author["family-names"] in flat for author in paper["authors"])
    assert {*re.findall(r"`(\w+)`", text)} & {*cn.METHODS} >= {"residual", "oblique", "neuron", "gated", "ridge"}
