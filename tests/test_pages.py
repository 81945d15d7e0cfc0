"""What becomes of the pages of the book before and after Sphinx, and the reference of the public names."""

import inspect
import re

import nbformat
import pytest

import clipnull as cn
from clipnull.course.pages import copy, finished, index, linked
from clipnull.course.reference import reference

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


@pytest.mark.parametrize(
    ("printed", "kind"),
    [("one sentence\nand  \n  another\n", 'class="prose"'), ("name   value\na      1\n", 'tabindex="0"')],
)
def test_printed_sentences_wrap_and_printed_tables_scroll(printed, kind):
    page = f'<div class="output stream x"><div class="highlight"><pre>{printed}</pre></div></div><pre>code</pre>'
    assert finished(page) == page.replace("<pre>", f"<pre {kind}>", 1)
    assert 'role="heading" aria-level="2"' in finished('<p class="caption" role="heading">')
    assert finished('<div class="table-wrapper docutils">') == '<div tabindex="0" class="table-wrapper docutils">'
    assert (
        finished('<aside class="toc-drawer no-toc">') == '<aside aria-label="On this page" class="toc-drawer no-toc">'
    )


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
