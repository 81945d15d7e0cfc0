"""Notebooks as files: parameters, stamp, and the page to read."""

from pathlib import Path

import nbformat
import pytest
from helpers import python
from pages import Page, outside, page_faults

from clipnull.course import notebooks
from clipnull.course.metrics import MIME

PARAMETERS = "# parameters\nseed = 3  # of the draw\nrate = 0.5  # share\nfast = True  # or not\nword = 'x'  # text"
code, markdown, output = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell, nbformat.v4.new_output


def test_the_notebooks_are_those_of_the_folder_else_those_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="(?s)notebooks: none in .*clipnull course FOLDER"):
        notebooks.default_notebooks()
    for name in ("01_b.ipynb", "00_a.ipynb", "draft.ipynb", "INSTRUCTOR.md"):
        (tmp_path / name).touch()
    assert notebooks.default_notebooks() == [Path("00_a.ipynb"), Path("01_b.ipynb")]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_c.ipynb").touch()
    assert notebooks.default_notebooks() == [Path("notebooks", "00_c.ipynb")]


@pytest.mark.slow
def test_jupyter_is_imported_without_what_takes_seconds():
    program = "import sys; from clipnull.course import notebooks as n; n.import_jupyter('papermill')"
    assert python(f"{program}; print('jsonschema' in sys.modules, 'lark' in sys.modules)") == "True False\n"


# --- parameters


@pytest.mark.parametrize(
    ("given", "valid"),
    [
        ({"seed": "4"}, {"seed": 4}),
        ({"rate": "-1e-5"}, {"rate": -1e-5}),
        ({"rate": 1}, {"rate": 1.0}),
        ({"fast": "False"}, {"fast": False}),
        ({"word": "12"}, {"word": "12"}),
        ({"sed": 1}, "parameters of a.ipynb: 'sed' is unknown; did you mean 'seed'"),
        ({"seed": 1.5}, "seed: 1.5 is not valid for a.ipynb; expected int, such as 3"),
        ({"seed": "many"}, "seed: 'many' is not valid"),
    ],
)
def test_parameters_take_the_type_of_the_default_or_are_refused(notebook, given, valid):
    path = notebook("a", PARAMETERS)
    if isinstance(valid, str):
        with pytest.raises(ValueError, match=valid):
            notebooks.validate_parameters(path, given)
    else:
        assert repr(notebooks.validate_parameters(path, given)) == repr(valid)


def test_a_path_counts_from_where_one_stands_and_a_name_is_no_path(notebook, tmp_path, monkeypatch):
    path = notebook("a", "# parameters\ndata = ''  # d\nfolder = ''  # f\nword = ''  # w\npretrained = ''  # p")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "x.pt"):
        (tmp_path / name).mkdir()
    given = {"data": "classes:train:mine", "folder": "new", "word": "mine", "pretrained": "x.pt"}
    expected = {"data": f"classes:train:{tmp_path / 'mine'}", "folder": f"{tmp_path / 'new'}", "word": "mine"}
    assert notebooks.validate_parameters(path, given) == expected | {"pretrained": f"{tmp_path / 'x.pt'}"}
    for name in ({"data": "missing"}, {"data": ""}, {"folder": ""}, {"pretrained": "openai"}):
        assert notebooks.validate_parameters(path, name) == name


# --- the stamp

LIBRARY = '''"""Doubles."""
FACTOR = 2.0  # of all


class Double:
    """Doubles."""

    def __call__(self, x):
        """Twice x."""
        return FACTOR * x
'''
LOADED = ["clipnull.methods", "clipnull.methods.double"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package, of which notebooks load LOADED."""
    folder = tmp_path / "package"
    for name in ("methods/double.py", "methods/__init__.py", "index.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LIBRARY)
    monkeypatch.setattr(notebooks, "PACKAGE", folder)
    return folder


def stamp_of(*sources, modules=LOADED):
    metadata = {"clipnull": {"modules": modules}}
    record = code("record()", outputs=[output("display_data", {MIME: {}}, metadata=metadata)])
    return notebooks.stamp(nbformat.v4.new_notebook(cells=[markdown("prose"), *map(code, sources), record]))


SAME = {
    '"""Twice x."""': '"""Two times x."""',
    '"""Doubles."""\n': "\n",
    "# of all\n\n": "# of everything\n",
    "# of all\n": '# of all\n"""What x is multiplied by."""\n',
}
OTHER = {
    "FACTOR = 2.0": "FACTOR = 2",
    "FACTOR * x": "FACTOR + x",
    "return FACTOR * x": 'return "Twice x."',
    "(self, x)": "(self, x=None)",
}


@pytest.mark.parametrize("name", ["methods/__init__.py", "methods/double.py", "index.py"])
def test_the_stamp_follows_the_code_of_the_modules_that_were_loaded(package, name):
    before = stamp_of("f(3)")
    for old, new in (SAME | OTHER).items():
        assert old in LIBRARY
        (package / name).write_text(LIBRARY.replace(old, new))
        assert (stamp_of("f(3)") == before) == (old in SAME or name == "index.py"), new


def test_the_stamp_follows_cells_and_which_modules_were_loaded(package):
    sources = [["f(3)"], ["f(4)"], ["f(3);"], ["%time f(3)"], ["f(3)", "f(4)"], ["f(4)", "f(3)"]]
    assert len({stamp_of(*cells) for cells in sources}) == len(sources)
    before = stamp_of("f(3)")
    assert before != stamp_of("f(3)", modules=[*LOADED, "clipnull.index"])
    (package / "methods" / "double.py").rename(package / "methods" / "twice.py")
    assert stamp_of("f(3)") != before
    before = stamp_of("!clipnull check")  # which runs in a process of its own
    (package / "index").mkdir()
    (package / "index" / "checking.py").write_text(LIBRARY)
    assert stamp_of("!clipnull check") != before


# --- the page


@pytest.mark.slow
def test_a_page_draws_formulas_keeps_code_and_needs_no_script(tmp_path):
    prose = (
        "# T $x^2$\n\nFor $a_b * c_d$ and `$HOME`, \\$5 each:\n\n$$\\frac{1}{2}\n+ 1$$\n\n    $ ls\n\n"
        "\\begin{align}a &= b\\end{align}\n\n| $|x|$ | b |\n|---|---|\n| $y_1$ | $\\nonsense$ |\n\n"
        "```mermaid\ngraph LR\n```"
    )
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "w5"}
    outputs = [output("display_data", data) for data in ({"text/markdown": "then $w$", "text/plain": "w"}, widget)]
    nb = nbformat.v4.new_notebook(cells=[markdown(prose), code("x = '$y$'", outputs=outputs)])
    nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"m": {}}, "version_major": 2}}
    nbformat.write(nb, tmp_path / "a.ipynb")
    text = notebooks.to_html(tmp_path / "a.ipynb").read_text(encoding="utf-8")
    page = Page(text)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.ipynb"]
    assert page.scripts == 0 and page.loaded == [] and outside(text) == []
    assert page.formulas == 6 and text.count('display="block"') == 2, text[-3000:]
    for kept in ("$HOME", "$5 each", "$ ls", "\\nonsense", "graph LR", "w5", "'$y$'"):
        assert kept in page.text, kept
    assert "<title>a</title>" in text and "widget" not in page.text
    for fault in ('<script src="https://example.org/a.js"></script>', '<link href="//example.org/a.css">'):
        assert page_faults(fault) and not page_faults('<a href="https://example.org">x</a><img src="data:,">')
    assert page_faults("<style>@import url(https://example.org/a.css)</style>") and page_faults("<p>for $x$ and</p>")
