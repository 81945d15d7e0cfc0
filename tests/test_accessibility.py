"""The book, read by axe (axe-core-python brings it): wide and narrow, light and dark."""

import importlib.util
from pathlib import Path

import pytest
from browsing import tab

RUN = (
    "axe.run({resultTypes: ['violations']}).then(found => found.violations.map(v => [v.id, v.impact, v.nodes[0].html]))"
)
PLANTED = '<!doctype html><html lang="en"><title>T</title><main><h1>T</h1><img src="data:,"></main>'


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe."""
    found = importlib.util.find_spec("axe_core_python")
    if found is None:
        pytest.skip("axe-core-python is not installed")
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.mark.nightly
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_axe_finds_nothing_in_any_page_of_the_book(site, serve, devtools, axe, width, dark):
    address, found = serve(site), {}
    for page in sorted(site.glob("*.html")):
        with tab(devtools, f"{address}/{page.name}", width, dark) as opened:
            opened.socket.settimeout(600)  # contrast is measured word by word
            opened.run(f"{axe}; 0")
            if faults := opened.run(RUN):
                found[page.name] = faults
    assert found == {}


@pytest.mark.nightly
def test_axe_finds_a_picture_without_a_text(tmp_path, serve, devtools, axe):
    (tmp_path / "index.html").write_text(PLANTED, encoding="utf-8")
    with tab(devtools, f"{serve(tmp_path)}/index.html") as opened:
        opened.run(f"{axe}; 0")
        assert [fault for fault, *_ in opened.run(RUN)] == ["image-alt"]
