"""Editions: published, for students, for Colab and Binder, and a copy to work in."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from clipnull.commands import cli
from clipnull.course import editions, notebooks
from clipnull.course.metrics import MIME, metrics_of
from clipnull.course.run import NotebookError, execute

ROOT = Path(__file__).parent.parent
PARAMETERS = "# parameters\nseed = 3  # of the draw\nrate = 0.5  # share"
RECORD = (
    "from IPython.display import display\n"
    f"display({{'{MIME}': {{'seed': float(seed), 'rate': rate}}, 'text/plain': ''}}, raw=True)"
)


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package for stamps to follow that nobody edits while a test runs."""
    monkeypatch.setattr(editions, "PACKAGE", tmp_path / "package")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("x = 1")


def outputs_of(nb):
    return [out for cell in nb.cells for out in cell.get("outputs", ())]


# --- publish


@pytest.mark.slow
def test_two_publications_are_identical_and_stamped(notebook, tmp_path, library):
    path = notebook("a", PARAMETERS, RECORD, "print('x')\nprint('y')")
    editions.publish([path], tmp_path / "out")
    first = path.read_bytes()
    editions.publish([path], tmp_path / "out")
    assert path.read_bytes() == first
    nb = nbformat.read(path, 4)
    assert nb.metadata["clipnull"]["stamp"] == notebooks.stamp(nb)
    assert [cell.id for cell in nb.cells] == ["cell-0", "cell-1", "cell-2"]
    assert metrics_of(nb) == {"seed": 3.0, "rate": 0.5}
    assert b"papermill" not in first and b"start_time" not in first
    raw = execute(path, tmp_path / "out").read_bytes()
    assert b"start_time" in raw, "normalise has nothing to do: this test would pass without it"


@pytest.mark.nightly
@pytest.mark.slow
def test_publish_writes_nothing_back_if_one_fails(notebook, tmp_path, library):
    good, bad = notebook("good", "seed, rate = 1, 1.0", RECORD), notebook("bad", "1 / 0")
    before = good.read_bytes()
    with pytest.raises(NotebookError, match="nothing written back:\nbad.ipynb, cell 1"):
        editions.publish([good, bad], tmp_path / "out")
    assert good.read_bytes() == before


@pytest.mark.nightly
@pytest.mark.slow
def test_publish_does_not_overwrite_an_edit_made_meanwhile(notebook, tmp_path, library):
    edit = (
        "import json\nnb = json.load(open('a.ipynb'))\nnb['cells'][0]['source'] = 'edited'\n"
        "json.dump(nb, open('a.ipynb', 'w'))"
    )
    path = notebook("a", "seed, rate = 1, 1.0", RECORD, edit)
    with pytest.raises(NotebookError, match="edited meanwhile"):
        editions.publish([path], tmp_path / "out")
    assert nbformat.read(path, 4).cells[0].source == "edited"


# --- the student edition


def test_the_student_edition_has_no_solutions_and_no_outputs(notebook, tmp_path, capsys):
    path = notebook("a", PARAMETERS, "def f(x):\n    raise NotImplementedError", "def secret(x): return 2", RECORD)
    nb = nbformat.read(path, 4)
    nb.cells[1].metadata["tags"], nb.cells[2].metadata["tags"] = ["exercise"], ["solution"]
    nb.metadata["clipnull"] = {"stamp": "x"}
    nb.cells[3].outputs, nb.cells[3].execution_count = [nbformat.v4.new_output("stream", text="x")], 4
    nbformat.write(nb, path)
    before, out = path.read_bytes(), tmp_path / "student"
    assert cli.main(["student", str(path), "--out", str(out)]) == 0
    text = (out / "a.ipynb").read_text()
    student = nbformat.reads(text, 4)
    assert "secret" not in text and "stamp" not in text and path.read_bytes() == before
    assert [cell.id for cell in student.cells] == ["cell-0", "cell-1", "cell-3"]
    assert not outputs_of(student) and student.cells[2].execution_count is None
    nbformat.validate(student)
    assert cli.main(["student", str(path), "--out", str(out)]) == 0, "again: nothing changed there"
    student.cells[1].source = "def f(x): return 1"
    nbformat.write(student, out / "a.ipynb")
    assert cli.main(["student", str(path), "--out", str(out)]) == 2
    assert "exists and differs" in capsys.readouterr().err
    assert "return 1" in (out / "a.ipynb").read_text(), "a student's work is kept"


# --- copies that install clipnull

ADDRESS = "https://github.com/someone/clipnull"


@pytest.fixture
def one(tmp_path):
    code = nbformat.v4.new_code_cell
    cells = [nbformat.v4.new_markdown_cell("# A"), code("1"), code("2", metadata={"tags": ["solution"]})]
    path = tmp_path / "04_a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_copy_has_badges_and_the_cell_in_front_and_no_solution(one, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert cli.main(["colab", str(one), "--out", str(out), "--address", f"{ADDRESS}.git/", "--ref", "v1.0"]) == 0
    cells = nbformat.read(out / "04_a.ipynb", 4).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "markdown", "code"]
    assert "github/someone/clipnull/blob/v1.0/notebooks/04_a.ipynb" in cells[0].source
    assert "gh/someone/clipnull/v1.0?labpath=notebooks/04_a.ipynb" in cells[0].source
    assert f'%pip install --quiet "clipnull @ git+{ADDRESS}@v1.0" papermill' in cells[1].source
    assert cli.main(["colab", str(one), "--out", str(out), "--address", "https://github.com/x/y"]) == 2, "kept"
    urls = [f"Repository, {ADDRESS}"]
    monkeypatch.setattr(editions.metadata, "metadata", lambda _: SimpleNamespace(get_all=lambda _: urls))
    (copy,) = editions.colab([one], tmp_path / "other")
    assert f"git+{ADDRESS}@main" in copy.read_text(), "the address in the package's metadata"


@pytest.mark.slow
def test_the_cell_does_nothing_where_clipnull_is_installed(one, tmp_path):
    (copy,) = editions.colab([one], tmp_path / "out", ADDRESS)
    assert not outputs_of(nbformat.read(execute(copy, tmp_path / "executed"), 4))[1:], "the last line shows 1"


@pytest.mark.parametrize(
    ("address", "ref", "message"),
    [
        ("github.com/a/b", "main", "address: 'github.com/a/b' is not valid"),
        (None, "main", "address: '' is not valid; expected such as https://github.com/OWNER/NAME"),
        ('https://github.com/a/b"; print(1) #', "main", "address: .* is not valid"),
        (ADDRESS, 'x"; 1', "ref: .* is not valid"),
        (ADDRESS, "a..b", "ref: 'a..b' is not valid"),
    ],
)
def test_an_address_or_ref_that_is_not_valid_is_refused(one, tmp_path, address, ref, message):
    with pytest.raises(ValueError, match=message):
        editions.colab([one], tmp_path / "out", address, ref)
    assert not (tmp_path / "out").exists()


# --- the course to work in


def test_the_course_is_written_once_and_work_in_it_is_kept(tmp_path, capsys):
    folder = tmp_path / "new" / "course"
    assert cli.main(["course", str(folder)]) == 0
    assert capsys.readouterr().out.split() == ["12", "notebooks:", str(folder)]
    stored = {p.name: p.read_bytes() for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == stored
    assert cli.main(["course", str(folder)]) == 0, "again: nothing changed there"
    last = folder / max(stored)
    (folder / min(stored)).unlink()
    last.write_text("work")
    assert cli.main(["course", str(folder)]) == 2
    assert f"out: {last} exists and differs" in capsys.readouterr().err
    assert last.read_text() == "work" and not (folder / min(stored)).exists(), "all or nothing"


def test_the_course_comes_from_the_wheel_where_there_is_no_clone(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "clipnull"
    monkeypatch.setattr(notebooks, "PACKAGE", package)
    shutil.copytree(ROOT / "notebooks", package / "_data" / "notebooks")
    written = editions.course(tmp_path / "out")
    assert [p.name for p in written] == [p.name for p in sorted((ROOT / "notebooks").glob("*.ipynb"))] != []
