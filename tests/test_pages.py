"""What becomes of the pages of the book before and after Sphinx, and the reference of the public names."""

import base64
import inspect
import io
import re

import nbformat
import pytest
import yaml
from conftest import ROOT
from PIL import Image

import clipnull as cn
from clipnull.course.pages import copy, drawings, finished, headed, index, linked
from clipnull.course.printed import tabled
from clipnull.course.reference import reference, stability

PAGES = {"05": "05_selective.ipynb", "06": "06_complete.ipynb"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see notebook 05.", "see [notebook 05](05_selective.ipynb)."),
        ("Notebooks 05 and 06", "[Notebooks 05](05_selective.ipynb) and 06"),
        ("notebook\n06 asks", "[notebook\n06](06_complete.ipynb) asks"),
        ("notebook 04, of another course", "notebook 04, of another course"),
        ("`notebook 05`", "`notebook 05`"),
        ("```\nnotebook 05\n```", "```\nnotebook 05\n```"),
        ("[notebook 05](x.md)", "[notebook 05](x.md)"),
        ("$x$ in notebook 05, $y$", "$x$ in [notebook 05](05_selective.ipynb), $y$"),
        ("notebook 055", "notebook 055"),
    ],
)
def test_a_notebook_that_is_named_becomes_a_link(text, expected):
    assert linked(text, PAGES) == expected


@pytest.fixture
def chapter(tmp_path):
    def write(name: str, *sources: str):
        cells = [nbformat.v4.new_markdown_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
        path = tmp_path / name
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    return write


def test_the_index_tells_what_each_chapter_teaches(chapter, tmp_path):
    pages = [
        chapter("01_a.ipynb", "# 01 · A\n\n**Goals.** Read\ntwo lines.\n\n**Time** 5 minutes."),
        chapter("02_b.ipynb", "# 02 · B\n\nWhy?\n\n**You will be able to**\n\n- write $x$;\n- stop.\n\nMore."),
        chapter("03_c.ipynb", "# 03 · C"),
    ]
    text = index(pages, {"The course": ["01_a.ipynb", "02_b.ipynb", "03_c.ipynb"]}, pictured=False)
    first, second, third = text[text.index("### ") :].split("### ")[1:]
    assert first.startswith("[01 · A](01_a.ipynb)") and "Read\ntwo lines." in first and "5 minutes" not in first
    assert "- write $x$;\n- stop." in second and "Why?" not in second and "More" not in second
    assert third.startswith("[03 · C](03_c.ipynb)") and '<a href="_static/notebooks/03_c.ipynb" download>' in third
    assert "01_a\n02_b\n03_c\n```" in text and "contact_sheet" not in text
    assert "contact_sheet" in index(pages, {}, pictured=True)


def test_a_notebook_is_copied_with_links_and_to_download_as_it_is(chapter, tmp_path):
    pages = [chapter("01_a.ipynb", "# A\n\nSee notebook 02, not notebook 01."), chapter("02_b.ipynb", "# B")]
    source = tmp_path / "source"
    (source / "_static").mkdir(parents=True)
    copy(pages[0], source, pages)
    text = nbformat.read(source / "01_a.ipynb", 4).cells[0].source
    assert text == "# A\n\nSee [notebook 02](02_b.ipynb), not notebook 01."
    assert (source / "_static" / "notebooks" / "01_a.ipynb").read_bytes() == pages[0].read_bytes()


def test_pages_of_sphinx_are_finished_for_small_windows_and_screen_readers():
    page = '<div class="output stream x"><div class="highlight"><pre>%s</pre></div></div><pre>code</pre>'
    assert finished(page % "a &lt; b\n") == page.replace(
        "<pre>%s</pre>", '<div class="printed"><pre class="prose">a &lt; b</pre></div>'
    )
    assert 'role="heading" aria-level="2"' in finished('<p class="caption" role="heading">')
    assert finished('<div class="table-wrapper docutils">') == '<div tabindex="0" class="table-wrapper docutils">'
    assert (
        finished('<aside class="toc-drawer no-toc">') == '<aside aria-label="On this page" class="toc-drawer no-toc">'
    )
    numbers = "<details><summary>Numbers of the figure</summary><table></table></details>"
    assert '<div tabindex="0" class="table-wrapper"><table></table></div></details>' in finished(numbers)


TABLE = """rows     worst cell   lost there
raw            24.0     5 of 10
centred         0.5      0 of 9
"""


def test_what_was_printed_in_columns_is_a_table_and_the_rest_text():
    text = tabled(f"forget dog &amp; cat:\n{TABLE}")
    assert text.startswith('<pre class="prose">forget dog &amp; cat:</pre><div class="table-wrapper"><table>')
    assert '<th scope="col">rows</th><th scope="col">worst cell</th><th scope="col">lost there</th></tr>' in text
    assert '<th scope="row">centred</th><td>0.5</td><td>0 of 9</td></tr></table></div>' in text
    assert re.findall(r"<th[^>]*>(.*?)</th>", tabled("a b    1\nc      2\n")) == ["a b", "c"]


@pytest.mark.parametrize("text", ["name   one line\n", "[OK]   all is well\n"])
def test_a_single_line_is_no_table(text):
    assert tabled(text) == f'<pre class="prose">{text.rstrip()}</pre>'


def test_columns_that_cannot_be_told_apart_stay_as_they_were_printed():
    text = "     worst cell  forgotten     lost\n          (pictures still right)\nx    100    0 of 10   17 of 35\n"
    assert tabled(text) == f'<pre tabindex="0">{text.rstrip()}</pre>'
    assert tabled('<span class="r">a</span>   b\n').startswith('<pre tabindex="0"><span')


DRAWS = "fig, ax = plt.subplots()\nax.plot([n for n in rows])\nplots.show(fig, 'A line.')"


@pytest.mark.parametrize(
    ("cells", "folded"),
    [
        (["rows = [1]", DRAWS, "print(rows, fig := 1)"], {1}),
        ([DRAWS, "ax.plot(1)"], set()),
        ([DRAWS + "\nprint(3)"], set()),
        ([DRAWS, "def f(ax):\n    return ax", "n = 3\nn"], {0}),
        (["plt.plot(1)"], set()),
        ([], set()),
    ],
)
def test_code_that_only_draws_is_found(cells, folded):
    assert drawings(cells) == folded


def test_an_exercise_gets_a_heading():
    text = "## Exercises\n\nAs **Exercise 1** says.\n\n**Exercise 1** (6 min, easy). Write $f$:\n"
    expected = "## Exercises\n\nAs **Exercise 1** says.\n\n### Exercise 1 (6 min, easy)\n\nWrite $f$:\n"
    assert headed(text) == expected and headed("**Exercise 2.** Do.") == "**Exercise 2.** Do."


def test_the_index_shows_the_figure_that_is_chosen_else_the_first(tmp_path):
    def cell(colour: str, tags: list[str]):
        picture = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(picture, "png")
        source = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
        page = f'<figure><img alt="In {colour}." src="{source}"></figure>'
        output = nbformat.v4.new_output("display_data", {"text/html": page})
        return nbformat.v4.new_code_cell("", outputs=[output], metadata={"tags": tags})

    for tags, colour in (([], "red"), (["cover"], "blue")):
        nbformat.write(nbformat.v4.new_notebook(cells=[cell("red", []), cell("blue", tags)]), tmp_path / "01_a.ipynb")
        ((alt, data),) = re.findall(
            r'<img class="cover" alt="(.*?)" src="data:image/webp;base64,(.*?)">',
            index([tmp_path / "01_a.ipynb"], {}, False),
        )
        shown = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").getpixel((4, 4))
        assert (
            alt == f"In {colour}." and (shown[0] > 200) == (colour == "red") and (shown[2] > 200) == (colour == "blue")
        )


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_the_figure_that_is_chosen_for_the_index_is_one_and_a_figure(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if "cover" in cell.metadata.get("tags", [])]
    assert len(cells) <= 1 and all("plots.show(" in cell.source for cell in cells)


def test_the_reference_tells_every_public_name_its_call_and_its_sections():
    text = reference()
    parts = dict(re.findall(r"(?ms)^## `cn\.(\w+)`\n(.*?)(?=^## |\Z)", text))
    assert list(parts) == cn.__all__
    for name, part in parts.items():
        assert "**Examples**\n\n```pycon\n>>> " in part, name
        if inspect.isroutine(getattr(cn, name)):
            assert f"```python\n{name}(" in part and "**Parameters**\n\n- `" in part, name
    assert "### `Edit.apply`" in parts["Edit"] and "`_" not in "".join(re.findall(r"^###.*", text, re.MULTILINE))
    assert r"W P, a bias b becomes b P + bias" in parts["Edit"] and r"\|z\|" in parts["Edit"]


def test_the_page_on_what_is_stable_names_all_of_it_and_cites_as_the_file_of_citations_does():
    text, cited = stability(), yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert not re.search(r"@[A-Z]+@", text) and f"This is version {cn.__version__}." in text
    assert re.findall(r"`cn\.(\w+)`", text) == cn.__all__ and all(f"`{name}`" in text for name in cn.METHODS)
    assert f"title   = {{{cited['title']}}}" in text and f"license = {{{cited['license']}}}" in text
    (paper,) = cited["references"]
    flat = re.sub(r"[\s>]+", " ", text)
    assert f"*{paper['title']}.* {paper['identifiers'][0]['value']}, {paper['year']}." in flat
    assert all(author["family-names"] in flat for author in paper["authors"])
