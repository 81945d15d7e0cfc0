"""The book, built from the stored outputs and opened in headless Chromium.

Without a browser the tests that need one fail: `apt-get install chromium`. Where none can be had, the variable
CLIPNULL_NO_BROWSER=1 leaves them out.
"""

import base64
import importlib.util
import io
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from browsing import page_faults, tab
from conftest import ROOT
from PIL import Image

from clipnull.commands import cli
from clipnull.course import book, demo
from clipnull.course.metrics import MIME

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LIBRARY = {"reference.html", "stable.html"}
SPHINX = {"index.html", "genindex.html", "search.html"}


# --- the book of the course


@pytest.mark.slow
def test_the_book_opens_and_shows_pictures_formulas_and_folded_solutions(site, browser, serve):
    """The smoke test of the day; `make nightly` opens every page."""
    address = serve(site)
    for name in ("index.html", "04_global_unlearning.html", "reference.html", "search.html"):
        assert page_faults(browser(f"{address}/{name}")) == [], name
    page = browser(f"{address}/04_global_unlearning.html")
    assert len(page.images) >= 5 and len(page.formulas) > 20
    text = (site / "04_global_unlearning.html").read_text(encoding="utf-8")
    solution = text[text.index("tag_solution") :]
    assert "<details" in solution[:400] and "Show the solution" in solution[:800]
    assert not any(MIME in page.read_text(encoding="utf-8") for page in site.glob("*.html"))
    reference = (site / "reference.html").read_text(encoding="utf-8")
    assert all(f'id="clipnull.{name}"' in reference for name in ("Edit.apply", "METHODS", "unlearn"))
    assert "problematic" not in reference and "|z|" in reference


@pytest.fixture(scope="module")
def opened(site, browser, serve):
    """`opened(width)`: the address of the book, and every page of it by its name, opened in a window of that width."""
    address = serve(site)

    def visit(width: int = 800) -> tuple[str, dict]:
        paths = sorted(site.glob("*.html"))
        return address, {path.name: browser(f"{address}/{path.name}", width=width) for path in paths}

    return visit


@pytest.mark.nightly
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_every_page_opens_without_a_complaint_in_windows_of_all_sizes(site, opened, width):
    pages = opened(width)[1]
    expected = {p.with_suffix(".html").name for p in (ROOT / "notebooks").iterdir() if p.is_file()}
    expected |= {Path(name).with_suffix(".html").name for name in demo.PAGES}
    assert set(pages) == expected | LIBRARY | SPHINX and {page.width for page in pages.values()} == {width}
    assert {name: faults for name, page in pages.items() if (faults := page_faults(page))} == {}
    assert [path.name for path in site.glob("*.html") if path.read_text(encoding="utf-8").count("<h1") != 1] == []
    for path in NOTEBOOKS:
        stored = [out.get("data", {}) for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", ())]
        pictures = sum("image/png" in data for data in stored)
        assert len(pages[f"{path.stem}.html"].images) == pictures, path.name


@pytest.mark.nightly
@pytest.mark.parametrize("width", [400, 1280])
def test_no_code_is_cut(site, serve, devtools, width):
    cut = """[...document.querySelectorAll(".cell_input pre, .highlight-python pre, .highlight-pycon pre")]
        .filter(pre => pre.scrollWidth > pre.clientWidth + 1).map(pre => pre.innerText.slice(0, 80))"""
    address = serve(site)
    for name in [*(path.with_suffix(".html").name for path in NOTEBOOKS), "reference.html"]:
        with tab(devtools, f"{address}/{name}", width) as page:
            assert page.run("document.querySelectorAll('pre').length") and page.run(cut) == [], name


@pytest.mark.nightly
def test_every_link_within_the_book_leads_somewhere(opened, site):
    address, pages = opened()
    inside = {link for page in pages.values() for link in page.links if link.startswith(address)}
    assert len(inside) > len(pages)
    for link in inside:
        parts = urlparse(link)
        name = unquote(parts.path).lstrip("/") or "index.html"
        if name.startswith("_static/"):
            assert (site / name).is_file(), link
            continue
        assert name in pages, link
        assert not parts.fragment or unquote(parts.fragment) in pages[name].ids, link
    linked = {unquote(urlparse(link).path).lstrip("/") for link in pages["index.html"].links}
    assert set(pages) - linked <= SPHINX


# --- accessibility, measured by axe (axe-core-python brings it)

AXE = "axe.run({resultTypes: ['violations']}).then(all => all.violations.map(v => [v.id, v.impact, v.nodes[0].html]))"


@pytest.mark.nightly
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_axe_finds_nothing_in_any_page_of_the_book(site, tmp_path, serve, devtools, width, dark):
    package = importlib.util.find_spec("axe_core_python") or pytest.skip("axe-core-python is not installed")
    axe = Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")

    def violations(address: str) -> list:
        with tab(devtools, address, width, dark) as opened:
            opened.socket.settimeout(600)  # contrast is measured word by word
            opened.run(f"{axe}; 0")
            return opened.run(AXE)

    planted = '<!doctype html><html lang="en"><title>T</title><main><h1>T</h1><img src="data:,"></main>'
    (tmp_path / "index.html").write_text(planted, encoding="utf-8")
    assert [fault for fault, *_ in violations(f"{serve(tmp_path)}/index.html")] == ["image-alt"]
    address = serve(site)
    faults = {page.name: violations(f"{address}/{page.name}") for page in sorted(site.glob("*.html"))}
    assert not any(faults.values()), faults


# --- building


@pytest.fixture
def page(tmp_path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.slow
def test_a_broken_link_stops_the_book_and_the_former_one_stays(page, tmp_path, capsys):
    good, out = page("good.md", "# Good\n\n$x^2$ and [a link](good.md#good)"), tmp_path / "out"
    assert book.build([good], out) == out / "index.html"
    before = sorted(p.name for p in out.iterdir())
    bad = page("bad.md", "# Bad\n\n[nowhere](missing.ipynb)")
    with pytest.raises(RuntimeError, match="(?s)the book was not built:.*bad.md.*missing.ipynb"):
        book.build([bad], out)
    assert sorted(p.name for p in out.iterdir()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.md", "good.md", "out"]
    assert cli.main(["book", str(page("better.md", "# Better")), "--out", str(out)]) == 0
    assert not (out / "good.html").exists() and "better.html" in {p.name for p in out.iterdir()}
    assert str(out / "index.html") in capsys.readouterr().out


def test_what_is_not_a_book_is_not_replaced(page, tmp_path):
    with pytest.raises(ValueError, match=f"out: {tmp_path} exists and is not a book"):
        book.build([page("a.md", "# A")], tmp_path)


# --- what Sphinx reads


@pytest.fixture
def lesson(tmp_path):
    def write(name: str, source: str, code=()):
        cells = [nbformat.v4.new_markdown_cell(source), *code]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / name)
        return tmp_path / name

    return write


def test_the_index_says_what_a_chapter_teaches_and_shows_its_first_figure(lesson):
    outputs = []
    for colour in ("red", "blue"):
        picture = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(picture, "png")
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        about = {"image/png": {"alt": f'In "{colour}".'}}
        outputs.append(nbformat.v4.new_output("display_data", data, metadata=about))
    goals = "**You will be able to** read\ntwo lines of [the glossary](00_z.ipynb#Glossary)."
    source = f"# 01 · A\n\nWhy?\n\n{goals}\n\n**Time** 5 minutes."
    text = book.chapter(lesson("01_a.ipynb", source, [nbformat.v4.new_code_cell(outputs=outputs)]))
    assert text.startswith("### [01 · A](01_a.ipynb)") and "5 minutes" not in text and "Why?" not in text
    assert "You will be able to read\ntwo lines of [the glossary](00_z.ipynb#glossary)." in text
    assert '<a href="_static/notebooks/01_a.ipynb" download>' in text
    alt, cover = re.search(r'<img class="cover" alt="(.*?)" src="data:image/webp;base64,(.*?)">', text).groups()
    red, _, blue = Image.open(io.BytesIO(base64.b64decode(cover))).convert("RGB").getpixel((4, 4))
    assert alt == "In &quot;red&quot;." and red > 200 > blue
    text = book.chapter(lesson("02_b.ipynb", "# 02 · B\n\nThis.\n\nMore."))
    assert "This." in text and "More" not in text


def test_a_notebook_is_copied_with_headings_and_folded_solutions_and_to_download_as_it_is(lesson, tmp_path):
    solution = nbformat.v4.new_code_cell("1", metadata={"tags": ["solution"]})
    prose = "# A\n\nAs **Exercise 1** says, see [b](02_b.ipynb#My-heading).\n\n**Exercise 1** (6 min, easy). Write $f$:"
    path, source = lesson("01_a.ipynb", prose, [solution]), tmp_path / "source"
    (source / "_static").mkdir(parents=True)
    book.copy(path, source)
    text, folded = nbformat.read(source / "01_a.ipynb", 4).cells
    headed = "As **Exercise 1** says, see [b](02_b.ipynb#my-heading).\n\n### Exercise 1 (6 min, easy)\n\nWrite $f$:"
    assert text.source == f"# A\n\n{headed}"
    assert folded.metadata.tags == ["hide-input", "solution"] and "solution" in folded.metadata.mystnb.code_prompt_show
    assert (source / "_static" / "notebooks" / "01_a.ipynb").read_bytes() == path.read_bytes()
