"""The book, built from the stored outputs and opened in headless Chromium.

Without a browser the tests that need one fail: `apt-get install chromium`. Where none can be had, the variable
CLIPNULL_NO_BROWSER=1 leaves them out.
"""

import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from browsing import find_browser, page_faults, tab

from clipnull.commands import cli
from clipnull.course import book, demo
from clipnull.course.metrics import MIME

ROOT = Path(__file__).parent.parent

# --- a browser


def test_a_missing_browser_fails_unless_it_is_left_out(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.delenv("CLIPNULL_NO_BROWSER", raising=False)
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        find_browser()
    monkeypatch.setenv("CLIPNULL_NO_BROWSER", "1")
    with pytest.raises(pytest.skip.Exception, match="CLIPNULL_NO_BROWSER=1"):
        find_browser()


# --- the book of the course


@pytest.fixture(scope="module")
def opened(site, browser, serve):
    """Every page of the book by its name, opened."""
    address = serve(site)
    return address, {page.name: browser(f"{address}/{page.name}") for page in sorted(site.glob("*.html"))}


@pytest.mark.slow
def test_every_page_opens_without_a_complaint_and_every_picture_has_a_text(site, opened):
    address, pages = opened
    expected = {p.with_suffix(".html").name for p in (ROOT / "notebooks").iterdir() if p.is_file()}
    expected |= {Path(name).with_suffix(".html").name for name in demo.PAGES}
    assert set(pages) == expected | {"index.html", "reference.html", "stable.html", "genindex.html", "search.html"}
    assert {name: faults for name, page in pages.items() if (faults := page_faults(page))} == {}
    assert [path.name for path in site.glob("*.html") if path.read_text(encoding="utf-8").count("<h1") != 1] == []


@pytest.mark.nightly
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_every_page_fits_windows_of_all_sizes(site, browser, serve, width):
    address = serve(site)
    pages = {page.name: browser(f"{address}/{page.name}", width=width) for page in sorted(site.glob("*.html"))}
    assert {page.width for page in pages.values()} == {width}
    assert {name: faults for name, page in pages.items() if (faults := page_faults(page))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
def test_no_code_is_cut(site, serve, devtools, width):
    cut = """[...document.querySelectorAll(".cell_input pre, .highlight-python pre, .highlight-pycon pre, pre.prose")]
        .filter(pre => pre.scrollWidth > pre.clientWidth + 1).map(pre => pre.innerText.slice(0, 80))"""
    address = serve(site)
    for name in [*(path.with_suffix(".html").name for path in (ROOT / "notebooks").glob("*.ipynb")), "reference.html"]:
        with tab(devtools, f"{address}/{name}", width) as page:
            assert page.run("document.querySelectorAll('pre').length") and page.run(cut) == [], name


@pytest.mark.slow
def test_pages_show_the_stored_pictures_and_formulas(opened):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        page, nb = opened[1][f"{path.stem}.html"], nbformat.read(path, 4)
        stored = [out.get("data", {}).get("text/html", "") for c in nb.cells for out in c.get("outputs", ())]
        assert len(page.images) == sum(text.count("<img ") for text in stored), path.name
        assert page.formulas or not any("$$" in c.source for c in nb.cells), path.name


@pytest.mark.slow
def test_every_link_within_the_book_leads_somewhere(opened, site):
    address, pages = opened
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
    assert set(pages) - linked - {"genindex.html", "search.html"} <= {"index.html"}


@pytest.mark.slow
def test_search_finds_a_page(site, browser, serve):
    wait = """new Promise(done => { const look = () => document.querySelector("#search-results li a")
              ? done() : setTimeout(look, 50); look(); setTimeout(done, 20000) })"""
    page = browser(f"{serve(site)}/search.html?q=nullspace", wait)
    assert page.complaints == [] and any("04_global_unlearning.html" in link for link in page.links)


@pytest.mark.slow
def test_solutions_are_folded_and_nothing_is_executed(site):
    text = (site / "04_global_unlearning.html").read_text(encoding="utf-8")
    folded = text[text.index("tag_solution") :]
    assert "<details" in folded[:400] and "Show the solution" in folded[:800]
    pages = [page for page in site.glob("*.html") if page.name != "stable.html"]  # which promises the type
    assert len(pages) > 10 and not any(MIME in page.read_text(encoding="utf-8") for page in pages)


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


def test_what_is_no_book_is_not_replaced_and_missing_pages_are_named(page, tmp_path):
    with pytest.raises(ValueError, match=f"out: {tmp_path} exists and is no book"):
        book.build([page("a.md", "# A")], tmp_path)
    with pytest.raises(ValueError, match="pages: .*b.md does not exist"):
        book.build([tmp_path / "b.md"], tmp_path / "out")


# --- each fault is found

HEAD = f"<!doctype html><title>T</title><link rel=icon href='data:,'><p>{'word ' * 20}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "body, fault",
    [
        ('<img src="a.webp">', "no alt text"),
        ('<img src="missing.png" alt="A.">', "is missing"),
        ('<img src="missing.png" alt="A.">', "404"),
        ("<script>console.error('x')</script>", "console"),
        ("<script>throw new Error('x')</script>", "exception"),
        ('<script src="missing.js"></script>', "404"),
        ('<link rel="stylesheet" href="https://example.org/a.css">', "another site"),
        ("<math></math>", "formula 0"),
        ("<p>| a | b | |---|---| | 1 | 2 |</p>", "tables are not drawn"),
        ('<div style="width:5000px">x</div>', "wider"),
    ],
    ids=lambda value: value[:24],
)
def test_faults_of_a_page_are_found(tmp_path, browser, serve, body, fault):
    (tmp_path / "index.html").write_text(HEAD + body, encoding="utf-8")
    shutil.copyfile(next((ROOT / "data" / "miniworld" / "test").rglob("*.webp")), tmp_path / "a.webp")
    assert any(fault in found for found in page_faults(browser(f"{serve(tmp_path)}/index.html")))


@pytest.mark.slow
def test_a_sound_page_has_no_faults(tmp_path, browser, serve):
    shutil.copyfile(next((ROOT / "data" / "miniworld" / "test").rglob("*.webp")), tmp_path / "a.webp")
    (tmp_path / "index.html").write_text(f'{HEAD}<math><mi>x</mi></math><img src="a.webp" alt="A.">', encoding="utf-8")
    assert page_faults(browser(f"{serve(tmp_path)}/index.html")) == []


def test_the_book_names_the_extra_that_brings_sphinx(page, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sphinx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sphinx", None)
    assert cli.main(["book", str(page("a.md", "# A")), "--out", str(tmp_path / "out")]) == 2
    assert (
        capsys.readouterr().err == "sphinx is not installed; expected the extra 'book': pip install 'clipnull[book]'\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_book_of_a_folder_has_its_notebooks_and_the_page_for_instructors(notebook, tmp_path, monkeypatch, capsys):
    path = notebook("00_a")
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A\n\nFor $x$.")])
    nbformat.write(nb, path)

    def written(source: Path) -> tuple[str]:
        (source / "demo.md").write_text("# A demo")
        return ("demo.md",)

    monkeypatch.setattr(demo, "write", written)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["book"]) == 0
    assert {p.name for p in Path("build", "book").glob("*.html")} == {
        "00_a.html",
        "demo.html",
        "reference.html",
        "stable.html",
        "index.html",
        "genindex.html",
        "search.html",
    }
    Path("notebooks", "INSTRUCTOR.md").write_text("# For instructors")
    assert cli.main(["book"]) == 0 and Path("build", "book", "INSTRUCTOR.html").is_file()
    assert "to read: " in capsys.readouterr().out
