"""Editions: published, for students, for Colab and Binder, and a copy to work in."""

import shutil

import nbformat
import pytest
from conftest import ROOT
from test_run import PARAMETERS, RECORD

from clipnull.commands import cli
from clipnull.course import editions, notebooks
from clipnull.course.metrics import metrics_of
from clipnull.course.run import NotebookError, execute

ADDRESS = "https://github.com/someone/clipnull"


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    """A package for stamps to follow that nobody edits while a test runs."""
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(editions, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr("clipnull.course.warm.PRELOADED", ("ipykernel.kernelapp",))


# --- publish


@pytest.mark.slow
def test_two_publications_are_identical_and_stamped(notebook, tmp_path):
    path = notebook("a", PARAMETERS, RECORD, "print('x')\nprint('y')")
    editions.publish([path], tmp_path / "out")
    first = path.read_bytes()
    editions.publish([path], tmp_path / "out")
    assert path.read_bytes() == first
    nb = nbformat.read(path, 4)
    assert nb.metadata["clipnull"]["stamp"] == notebooks.stamp(nb)
    assert [cell.id for cell in nb.cells] == ["cell-0", "cell-1", "cell-2"]
    assert metrics_of(nb) == {"seed": 3.0, "rate": 0.5}
    assert b"papermill" not in first and b"start_time" not in first and b"version" not in first


def test_nothing_is_published_after_a_failure_or_an_edit_made_meanwhile(notebook, tmp_path, monkeypatch):
    def run(paths, out):
        paths[0].write_text("edited")
        return {}, ["b.ipynb, cell 1: why"]

    monkeypatch.setattr(editions, "run", run)
    paths = [notebook(name, "x = 1") for name in "ab"]
    before = paths[1].read_bytes()
    expected = "no notebook was written back:\nb.ipynb, cell 1: why\na.ipynb: edited during the run"
    with pytest.raises(NotebookError, match=expected):
        editions.publish(paths, tmp_path / "out")
    assert paths[0].read_text() == "edited" and paths[1].read_bytes() == before


# --- for students, and copies that install clipnull


@pytest.fixture
def one(tmp_path):
    """A notebook with an exercise, its solution and an output."""
    code, printed = nbformat.v4.new_code_cell, [nbformat.v4.new_output("stream", text="x")]
    cells = [
        nbformat.v4.new_markdown_cell("# A", id="a"),
        code("def f(x): ...", metadata={"tags": ["exercise"]}, id="b"),
        code("def secret(x): return 2", metadata={"tags": ["solution"]}, id="c"),
        code("1;", outputs=printed, execution_count=4, id="d"),
    ]
    path = tmp_path / "04_a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"clipnull": {"stamp": "x"}}), path)
    return path


def test_the_student_edition_has_no_solutions_and_no_outputs_and_work_in_it_is_kept(one, tmp_path, capsys):
    before, out = one.read_bytes(), tmp_path / "student"
    assert cli.main(["student", str(one), "--out", str(out)]) == 0
    text = (out / one.name).read_text()
    student = nbformat.reads(text, 4)
    assert "secret" not in text and "stamp" not in text and one.read_bytes() == before
    assert [cell.id for cell in student.cells] == ["a", "b", "d"]
    assert not student.cells[2].outputs and student.cells[2].execution_count is None
    nbformat.validate(student)
    assert cli.main(["student", str(one), "--out", str(out)]) == 0, "again: nothing changed there"
    student.cells[1].source = "def f(x): return 1"
    nbformat.write(student, out / one.name)
    assert cli.main(["student", str(one), "--out", str(out)]) == 2
    assert "exists and differs" in capsys.readouterr().err
    assert "return 1" in (out / one.name).read_text(), "a student's work is kept"


def test_a_copy_has_badges_and_the_cell_in_front_and_no_solution(one, tmp_path):
    out = tmp_path / "out"
    assert cli.main(["colab", str(one), "--out", str(out), "--address", f"{ADDRESS}.git/", "--ref", "v1.0"]) == 0
    cells = nbformat.read(out / "04_a.ipynb", 4).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "markdown", "code", "code"]
    assert "github/someone/clipnull/blob/v1.0/notebooks/04_a.ipynb" in cells[0].source
    assert "gh/someone/clipnull/v1.0?labpath=notebooks/04_a.ipynb" in cells[0].source
    assert f'%pip install --quiet "clipnull @ git+{ADDRESS}@v1.0" papermill' in cells[1].source


@pytest.mark.slow
def test_the_cell_does_nothing_where_clipnull_is_installed(one, tmp_path):
    (copy,) = editions.colab([one], tmp_path / "out", ADDRESS)
    cells = nbformat.read(execute(copy, tmp_path / "executed"), 4).cells
    assert [out for cell in cells for out in cell.get("outputs", ())] == []


@pytest.mark.parametrize(
    ("address", "ref"), [("github.com/a/b", "main"), ('https://github.com/a/b"; 1 #', "main"), (ADDRESS, 'x"; 1')]
)
def test_an_address_or_ref_that_is_not_valid_is_refused(one, tmp_path, address, ref):
    with pytest.raises(ValueError, match="address, ref: .* are not valid"):
        editions.colab([one], tmp_path / "out", address, ref)
    assert not (tmp_path / "out").exists()


# --- the course to work in


def test_the_course_is_written_once_and_work_in_it_is_kept(tmp_path, capsys):
    folder = tmp_path / "new" / "course"
    assert cli.main(["course", str(folder)]) == 0
    assert f"written: {folder / '00_start_here.ipynb'}, " in capsys.readouterr().out
    stored = {p.name: p.read_bytes() for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == stored
    last = folder / max(stored)
    (folder / min(stored)).unlink()
    last.write_text("work")
    assert cli.main(["course", str(folder)]) == 2
    assert f"out: {last} exists and differs" in capsys.readouterr().err
    assert last.read_text() == "work" and not (folder / min(stored)).exists(), "all or nothing"


def test_the_course_comes_from_the_wheel_where_there_is_no_clone(one, tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "PACKAGE", tmp_path / "clipnull")
    shutil.copytree(one.parent, tmp_path / "clipnull" / "_data" / "notebooks", ignore=lambda *_: ["clipnull"])
    assert [path.name for path in editions.course(tmp_path / "out")] == [one.name]
