"""The book, built from the stored outputs and opened in headless Chromium.

Without a browser the tests that need one fail: `apt-get install chromium`. Where none can be had, the variable
CLIPNULL_NO_BROWSER=1 leaves them out.
"""

import functools
import http.server
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlparse

import nbformat
import pytest
import websocket
from filelock import FileLock

from clipnull import cli
from clipnull.course import book
from clipnull.course.metrics import MIME

ROOT = Path(__file__).parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
SEEN = """({title: document.title, text: document.body.innerText.length,
           images: [...document.images].map(i => [i.getAttribute("alt") || "", i.complete && i.naturalWidth > 0]),
           links: [...document.querySelectorAll("a[href]")].map(a => a.href),
           ids: [...document.querySelectorAll("[id]")].map(e => e.id),
           formulas: [...document.querySelectorAll("math")].map(m => m.getBoundingClientRect().height),
           tables: [...document.querySelectorAll("p")].filter(p => /[|] *[-—]+[|]/.test(p.innerText)).length,
           wide: document.documentElement.scrollWidth - window.innerWidth, width: window.innerWidth})"""


# --- a browser, driven through its DevTools protocol


def find_browser() -> str:
    """The program of a browser; without one a test fails, or is skipped where CLIPNULL_NO_BROWSER=1 is set."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None and os.environ.get("CLIPNULL_NO_BROWSER") == "1":
        pytest.skip("no browser, as CLIPNULL_NO_BROWSER=1 says")
    if program is None:
        pytest.fail(
            f"no browser found, looked for {', '.join(NAMES)}; expected one: apt-get install chromium, or "
            "leave the tests that need it out: CLIPNULL_NO_BROWSER=1"
        )
    return program


def test_a_missing_browser_fails_unless_it_is_left_out(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.delenv("CLIPNULL_NO_BROWSER", raising=False)
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        find_browser()
    monkeypatch.setenv("CLIPNULL_NO_BROWSER", "1")
    with pytest.raises(pytest.skip.Exception, match="CLIPNULL_NO_BROWSER=1"):
        find_browser()


@pytest.fixture(scope="module")
def browser():
    """`browser(address)`: load the page in a window of 800 pixels, and what it shows and complains of."""
    program = find_browser()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield functools.partial(visit, wait_for_port(Path(profile, "DevToolsActivePort"), process))
        finally:
            process.terminate()
            process.wait(60)


def wait_for_port(path: Path, process: subprocess.Popen) -> str:
    end = time.monotonic() + 60
    while not (path.exists() and len(lines := path.read_text().split()) == 2):
        assert process.poll() is None and time.monotonic() < end, "the browser did not start"
        time.sleep(0.05)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"


def visit(devtools: str, address: str, program: str = "", width: int = 800) -> SimpleNamespace:
    """Open `address` in a tab of its own, `width` pixels wide, wait for it (and for `program`), and look at it."""
    socket = websocket.create_connection(devtools, timeout=60, suppress_origin=True)
    numbers, events, session = itertools.count(1), [], {}

    def receive() -> dict:
        message = json.loads(socket.recv())
        if "method" in message:
            events.append(message)
        return message

    def call(method: str, **parameters) -> dict:
        number = next(numbers)
        socket.send(json.dumps({"id": number, "method": method, "params": parameters, **session}))
        while (answer := receive()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    try:
        target = call("Target.createTarget", url="about:blank")["targetId"]
        session["sessionId"] = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            call(f"{domain}.enable")
        call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        call("Page.navigate", url=address)
        while not any(e["method"] == "Page.loadEventFired" for e in events):
            receive()
        if program:
            call("Runtime.evaluate", expression=program, awaitPromise=True)
        seen = call("Runtime.evaluate", expression=SEEN, returnByValue=True)["result"]["value"]
        call("Runtime.evaluate", expression="new Promise(done => setTimeout(done, 100))", awaitPromise=True)
        call("Target.closeTarget", targetId=target)
    finally:
        socket.close()
    return SimpleNamespace(**seen, complaints=[c for c in map(complaint, events) if c])


def complaint(event: dict) -> str:
    """What an event of the DevTools protocol complains of, or nothing."""
    kind, told = event["method"], event["params"]
    if kind == "Runtime.exceptionThrown":
        return f"exception: {told['exceptionDetails']['text']}"
    if kind == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
        return f"console: {[a.get('value') for a in told['args']]}"
    if kind == "Log.entryAdded" and told["entry"]["level"] == "error":
        return f"log: {told['entry']['text']} {told['entry'].get('url', '')}"
    if kind == "Network.loadingFailed" and not told.get("canceled"):
        return f"network: {told['errorText']}"
    if kind == "Network.responseReceived" and told["response"]["status"] >= 400:
        return f"network: {told['response']['status']} {told['response']['url']}"
    if kind == "Network.requestWillBeSent" and urlparse(told["request"]["url"]).hostname not in ("127.0.0.1", None):
        return f"asks another site: {told['request']['url']}"
    return ""


@pytest.fixture(scope="module")
def serve():
    """`serve(folder)`: the address of a server of the files in `folder`."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def start(folder: Path) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def page_faults(page: SimpleNamespace) -> list[str]:
    faults = list(page.complaints)
    faults += ["no title"] * (not page.title) + ["no text"] * (page.text < 40)
    faults += [f"image {i} has no alt text" for i, (alt, _) in enumerate(page.images) if not alt.strip()]
    faults += [f"image {i} is missing" for i, (_, there) in enumerate(page.images) if not there]
    faults += [f"formula {i} is not drawn" for i, height in enumerate(page.formulas) if height < 3]
    faults += [f"{page.tables} tables are not drawn"] * (page.tables > 0)
    return faults + [f"{page.wide} pixels wider than the window"] * (page.wide > 0)


# --- the book of the course


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the book; all workers of pytest-xdist share it."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    pages = [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "notebooks" / "INSTRUCTOR.md"]
    with FileLock(folder / "book.lock"):
        if not (folder / "book" / "index.html").is_file():
            book.build(pages, folder / "book")
    return folder / "book"


@pytest.fixture(scope="module")
def opened(site, browser, serve):
    """Every page of the book by its name, opened."""
    address = serve(site)
    return address, {page.name: browser(f"{address}/{page.name}") for page in sorted(site.glob("*.html"))}


@pytest.mark.slow
def test_every_page_opens_without_a_complaint_and_every_picture_has_a_text(opened):
    address, pages = opened
    expected = {p.with_suffix(".html").name for p in (ROOT / "notebooks").iterdir() if p.is_file()}
    assert set(pages) == expected | {"index.html", "genindex.html", "search.html"}
    assert {name: faults for name, page in pages.items() if (faults := page_faults(page))} == {}


@pytest.mark.nightly
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_every_page_fits_windows_of_all_sizes(site, browser, serve, width):
    address = serve(site)
    pages = {page.name: browser(f"{address}/{page.name}", width=width) for page in sorted(site.glob("*.html"))}
    assert {page.width for page in pages.values()} == {width}
    assert {name: faults for name, page in pages.items() if (faults := page_faults(page))} == {}


@pytest.mark.slow
def test_pages_show_the_stored_pictures_and_formulas(opened):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        page, nb = opened[1][f"{path.stem}.html"], nbformat.read(path, 4)
        stored = [out.get("data", {}).get("text/html", "") for c in nb.cells for out in c.get("outputs", ())]
        assert len(page.images) == sum(text.count("<img ") for text in stored), path.name
        assert page.formulas or not any("$$" in c.source for c in nb.cells), path.name


@pytest.mark.slow
def test_every_link_within_the_book_leads_somewhere(opened):
    address, pages = opened
    inside = {link for page in pages.values() for link in page.links if link.startswith(address)}
    assert len(inside) > len(pages)
    for link in inside:
        parts = urlparse(link)
        name = unquote(parts.path).lstrip("/") or "index.html"
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
    assert not any(MIME in page.read_text(encoding="utf-8") for page in site.glob("*.html"))


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
    monkeypatch.chdir(tmp_path)
    assert cli.main(["book"]) == 0
    assert {p.name for p in Path("build", "book").glob("*.html")} == {
        "00_a.html",
        "index.html",
        "genindex.html",
        "search.html",
    }
    Path("notebooks", "INSTRUCTOR.md").write_text("# For instructors")
    assert cli.main(["book"]) == 0 and Path("build", "book", "INSTRUCTOR.html").is_file()
    assert "to read: " in capsys.readouterr().out
