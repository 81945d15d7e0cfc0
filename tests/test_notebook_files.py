"""Notebooks as files: parameters, stamp, and the page to read."""

import ast
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from pages import Page, outside, page_faults

from clipnull.course import notebooks
from clipnull.course.metrics import MIME

ROOT = Path(__file__).parent.parent
PARAMETERS = "# parameters\nseed = 3  # of the draw\nrate = 0.5  # share\nfast = True  # or not"
code, markdown = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


# --- which notebooks


def test_the_notebooks_are_those_of_the_folder_else_those_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="(?s)notebooks: none in .*clipnull course FOLDER"):
        notebooks.default_notebooks()
    for name in ("01_b.ipynb", "00_a.ipynb", "draft.ipynb", "INSTRUCTOR.md"):
        (tmp_path / name).touch()
    assert notebooks.default_notebooks() == [Path("00_a.ipynb"), Path("01_b.ipynb")]
    (tmp_path / "notebooks").mkdir()
    assert notebooks.default_notebooks() == [Path("00_a.ipynb"), Path("01_b.ipynb")], "an empty folder is none"
    (tmp_path / "notebooks" / "00_c.ipynb").touch()
    assert notebooks.default_notebooks() == [Path("notebooks", "00_c.ipynb")]


def test_jupyter_is_imported_without_what_takes_seconds(tmp_path):
    """And what was left out can be had afterwards, by whoever needs it."""
    program = (
        "import sys\nfrom clipnull.course import notebooks\nnotebooks.import_jupyter('papermill')\n"
        "print('jsonschema' in sys.modules, 'lark' in sys.modules, 'rfc3987_syntax' in sys.modules)\n"
        "import importlib.util\nassert importlib.util.find_spec('rfc3987_syntax')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", "False"] and not done.returncode, done.stderr


# --- parameters


VALID = [
    ("seed", "4", 4),
    ("rate", "-1e-5", -1e-5),
    ("word", "-x y", "-x y"),
    ("rate", 1, 1.0),
    ("rate", "1e-3", 0.001),
    ("fast", "False", False),
    ("word", "12", "12"),
]


def test_parameters_take_the_type_of_the_default(notebook):
    path = notebook("a", PARAMETERS + "\nword = 'x'  # text")
    assert notebooks.parameters_of(path) == {"seed": 3, "rate": 0.5, "fast": True, "word": "x"}
    for name, given, valid in VALID:
        assert repr(notebooks.validate_parameters(path, {name: given})) == repr({name: valid})


@pytest.mark.parametrize(
    "given, message",
    [
        ({"sed": 1}, "parameters of a.ipynb: 'sed' is not known; did you mean 'seed'"),
        ({"seed": 1.5}, "seed: 1.5 is not valid for a.ipynb; expected int, such as 3"),
        ({"seed": "many"}, "seed: 'many' is not valid"),
        ({"fast": 1}, "fast: 1 is not valid"),
        *(
            ({"rate": x}, "rate: .* is not valid for a.ipynb; expected a finite float, such as 0.5")
            for x in (math.nan, -math.inf, "1e999", "nan", 10**400)
        ),
    ],
)
def test_wrong_parameters_are_refused(notebook, given, message):
    with pytest.raises(ValueError, match=message):
        notebooks.validate_parameters(notebook("a", PARAMETERS), given)


def test_a_path_counts_from_where_one_stands_and_a_name_is_no_path(notebook, tmp_path, monkeypatch):
    path = notebook("a", "# parameters\ndata = ''  # d\nfolder = ''  # f\nword = ''  # w\npretrained = ''  # p")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "x.pt"):
        (tmp_path / name).mkdir()
    given = {"data": "classes:train:mine", "folder": "new", "word": "mine", "pretrained": "x.pt"}
    expected = {"data": f"classes:train:{tmp_path / 'mine'}", "folder": f"{tmp_path / 'new'}", "word": "mine"}
    assert notebooks.validate_parameters(path, given) == expected | {"pretrained": f"{tmp_path / 'x.pt'}"}
    for kept in ({"data": "missing"}, {"data": ""}, {"folder": ""}, {"pretrained": "openai"}):
        assert notebooks.validate_parameters(path, kept) == kept


# --- normalise


def test_normalise_drops_versions_and_widgets_and_leaves_its_argument_alone():
    nb = nbformat.v4.new_notebook(cells=[code("1", metadata={"tags": ["solution"]})])
    nb.metadata.update(widgets={"x": 1}, language_info={"name": "python", "version": "3.11.7"}, title="kept")
    clean = notebooks.normalise(nb)
    assert "widgets" not in clean.metadata and "version" not in clean.metadata.language_info
    assert clean.metadata.title == "kept" and clean.cells[0].metadata.tags == ["solution"]
    assert "widgets" in nb.metadata


# --- the stamp

LIBRARY = '''"""Doubles."""
FACTOR = 2.0  # of all


class Double:
    """Doubles."""

    def __call__(self, x):
        """Twice x."""
        return FACTOR * x
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package, of which notebooks load LOADED."""
    folder = tmp_path / "package"
    for name in ("methods/double.py", "methods/__init__.py", "index.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LIBRARY)
    monkeypatch.setattr(notebooks, "PACKAGE", folder)
    return folder


LOADED = ["clipnull.methods", "clipnull.methods.double"]


def stamp_of(*sources, modules=LOADED):
    metadata = {"clipnull": {"modules": modules}}
    record = code("record()", outputs=[nbformat.v4.new_output("display_data", {MIME: {}}, metadata=metadata)])
    return notebooks.stamp(nbformat.v4.new_notebook(cells=[markdown("prose"), *map(code, sources), record]))


SAME = {
    "another docstring": ('"""Twice x."""', '"""Two times x."""'),
    "no docstring": ('"""Doubles."""\n', "\n"),
    "a comment and layout": ("# of all\n\n", "# of everything\n"),
    "a text below a constant": ("# of all\n", '# of all\n"""What x is multiplied by."""\n'),
}
OTHER = {
    "a number": ("FACTOR = 2.0", "FACTOR = 2.1"),
    "its type": ("FACTOR = 2.0", "FACTOR = 2"),
    "a name": ("FACTOR * x", "FACTOR + x"),
    "a text that is used": ("return FACTOR * x", 'return "Twice x."'),
    "a default": ("(self, x)", "(self, x=None)"),
}


@pytest.mark.parametrize("module", [*LOADED, "clipnull.index"])
def test_the_stamp_follows_the_code_of_the_modules_that_were_loaded(package, module):
    before, path = stamp_of("f(3)"), package / f"{module.removeprefix('clipnull.').replace('.', '/')}.py"
    path = path if path.is_file() else package / "methods" / "__init__.py"
    for change in (*SAME.values(), *OTHER.values()):
        assert change[0] in LIBRARY
        path.write_text(LIBRARY.replace(*change))
        assert (stamp_of("f(3)") == before) == (change in SAME.values() or module not in LOADED), change


def test_the_stamp_follows_cells_and_which_modules_were_loaded(package):
    sources = [["f(3)"], ["f(4)"], ["f(3);"], ["%time f(3)"], ["f(3)", "f(4)"], ["f(4)", "f(3)"]]
    assert len({stamp_of(*cells) for cells in sources}) == len(sources)
    before = stamp_of("f(3)")
    assert before != stamp_of("f(3)", modules=[*LOADED, "clipnull.index"])
    (package / "methods" / "double.py").rename(package / "methods" / "twice.py")
    assert stamp_of("f(3)") != before


def test_the_stamp_is_the_same_from_every_version_of_python():
    """Python 3.12 and 3.13 gave syntax trees new fields; the hash below was made by 3.11."""
    source = """
from __future__ import annotations
import a.b as c
@c.d(1, *e, f=None, **g)
class H(I, metaclass=J):
    k: int = 1
    async def l(self, m, /, n=..., *o, p, q=b"r", **s) -> list[int]:
        async with t as u, v: await w
        return [x async for x in y if not z] or {**a, "b": -1.5e3j}
def i(j):
    match j:
        case {"k": [1, *_, None], **l} | M(n=o) if (p := 3) > 2: yield from q[1:, ::2]
        case _: raise R from s
    try: del t, u.v
    except* (W, X) as y: assert f"{y!r:>{z}} {a=} {{b}}" "c" f"{d['e']:.3g}", lambda *f: f
    else: global g
    finally: nonlocal_ = ~h if not i else {k for k in l} @ m
"""
    plain = json.dumps(notebooks._plain(ast.parse(source)))
    assert hashlib.sha256(plain.encode()).hexdigest()[:16] == "71622d3085ab73db"


# --- the page


@pytest.mark.slow
def test_a_page_of_the_course_has_its_formulas_and_pictures(tmp_path):
    """Of one notebook as it is stored; test_notebooks looks at the pages of all, when it has executed them."""
    shutil.copy(ROOT / "notebooks" / "04_global_unlearning.ipynb", tmp_path)
    text = notebooks.to_html(tmp_path / "04_global_unlearning.ipynb").read_text(encoding="utf-8")
    page, nb = Page(text), nbformat.read(tmp_path / "04_global_unlearning.ipynb", 4)
    assert page_faults(text) == []
    stored = [out.get("data", {}) for cell in nb.cells for out in cell.get("outputs", ())]
    texts = [cell.source for cell in nb.cells if cell.cell_type == "markdown"]
    prose = "\n".join(texts + [data.get("text/markdown", "") for data in stored])
    assert page.formulas == len(re.findall(r"(?s)\$\$.+?\$\$|\$.+?\$", re.sub("`[^`]+`", "", prose))) > 20
    assert len(page.loaded) == sum("image/png" in data for data in stored) > 2


def test_a_page_draws_formulas_keeps_code_and_needs_no_script(notebook, tmp_path):
    nb = nbformat.v4.new_notebook()
    nb.cells = [
        markdown(
            "# T $x^2$\n\nFor $a_b * c_d$ and `$HOME`, \\$5 each:\n\n$$\\frac{1}{2}\n+ 1$$\n\n    $ ls\n\n"
            "\\begin{align}a &= b\\end{align}\n\n| $|x|$ | b |\n|---|---|\n| $y_1$ | $\\nonsense$ |\n\n"
            "```mermaid\ngraph LR\n```"
        ),
        code(
            "x = '$y$'",
            execution_count=1,
            outputs=[
                nbformat.v4.new_output("display_data", {"text/markdown": "then $w$", "text/plain": "w"}),
                nbformat.v4.new_output(
                    "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "w5"}
                ),
            ],
        ),
    ]
    nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"m": {}}, "version_major": 2}}
    path = tmp_path / "a.ipynb"
    nbformat.write(nb, path)
    result = notebooks.to_html(path)
    text = result.read_text(encoding="utf-8")
    page = Page(text)
    assert result == tmp_path / "a.html" and sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.ipynb"]
    assert page.scripts == 0 and page.loaded == [] and outside(text) == []
    assert page.formulas == 6 and text.count('display="block"') == 2, text[-3000:]
    for kept in ("$HOME", "$5 each", "$ ls", "\\nonsense", "graph LR", "w5", "'$y$'"):
        assert kept in page.text, kept
    assert "<title>a</title>" in text and "widget" not in page.text


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link href="//example.org/a.css">',
        "<style>@import url(https://example.org/a.css)</style>",
        '<img src="http://example.org/a.png">',
        "<p>for $x$ and</p>",
    ],
)
def test_faults_of_a_page_are_found(text):
    assert page_faults(text) and not page_faults('<a href="https://example.org">x</a><img src="data:,">')
