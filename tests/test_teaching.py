"""What instructors get: the pre-reading, the quiz, the rubric, the plan, the booklet, copies that install clipnull."""

import contextlib
import doctest
import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from pages import outside

import clipnull as cn
from clipnull.commands import cli
from clipnull.course import colab, leaderboard, quiz
from clipnull.course.notebooks import read
from clipnull.course.slides import questions

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
code, markdown = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


def page(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def sections() -> set[tuple[str, str]]:
    """("04", "7") for each numbered section of each notebook."""
    return {
        (path.name[:2], number)
        for path in NOTEBOOKS
        for cell in read(path).cells
        if cell.cell_type == "markdown"
        for number in re.findall(r"(?m)^## (\d+)\b", cell.source)
    }


# --- pages


def test_the_numbers_of_the_page_on_the_svd_are_computed():
    failed, tried = doctest.testfile(str(FOLDER / "SVD.md"), module_relative=False)
    assert failed == 0 and tried > 10


def test_every_question_in_italics_is_in_the_rubric_and_none_else():
    parts = re.split(r"(?m)^## ", page("RUBRIC.md"))[1:]
    assert [part[:2] for part in parts] == [path.name[:2] for path in NOTEBOOKS]
    for part, path in zip(parts, NOTEBOOKS, strict=True):
        asked = re.findall(r"(?m)^\*\*(.+)\*\*\n\n- Good: (.+)\n- Fair: (.+)\n- Weak: (.+)$", part)
        assert [question for question, *_ in asked] == questions(read(path)), path.name
        assert len(re.findall(r"(?m)^\*\*", part)) == len(asked), path.name


@pytest.mark.parametrize("name", ["MISCONCEPTIONS.md", "CASE.md", "QUIZ_KEY.md"])
def test_every_section_that_a_page_names_exists(name):
    told = page(name)
    found = set(re.findall(r"\b(0\d), sections? (\d+)", told)) | {
        (notebook, second) for notebook, second in re.findall(r"\b(0\d), sections \d+ and (\d+)", told)
    }
    assert len(found) > 5 and found <= sections(), found - sections()


def test_pages_of_the_folder_link_to_what_is_there():
    for path in FOLDER.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (FOLDER / link).is_file(), (path.name, link)
    hub = page("INSTRUCTOR.md")
    assert all(f"]({path.name})" in hub for path in FOLDER.glob("*.md") if path.name != "INSTRUCTOR.md")


# --- the plan


def test_the_sessions_fit():
    """Three hours each; a notebook gets its minutes of reading, and those of the exercises that are named."""
    hub = page("INSTRUCTOR.md")
    reading = dict(re.findall(r"(?m)^\| \[(\d\d) [^]]+\]\([^)]+\) \| (\d+) \|", hub))
    exercises = {
        f"{path.name[:2]}-{number}": int(minutes)
        for path in NOTEBOOKS
        for cell in read(path).cells
        for number, minutes in re.findall(r"(?m)^\*\*Exercise (\d)\*\* \((\d+) min", cell.source)
    }
    sessions = re.split(r"(?m)^\*\*Session \d", hub)[1:]
    taught = []
    for session in sessions:
        rows = re.findall(r"(?m)^\| (\d+) \| (.+?) \| (.*?) ?\|$", session)
        assert sum(int(minutes) for minutes, *_ in rows) == 180
        assert "break" in [what for _, what, _ in rows]
        for minutes, what, notebook in rows:
            if notebook in reading and not what.startswith("homework"):
                taught.append(notebook)
                named = re.search(r"exercises? ([\d, ]+)", what)
                asked = [exercises[f"{notebook}-{k}"] for k in re.findall(r"\d", named[1])] if named else []
                assert int(minutes) >= int(reading[notebook]) + sum(asked), (notebook, minutes)
    assert len(sessions) == 3 and taught == ["01", "02", "03", "04", "05", "06", "07", "08"]


# --- the quiz


def test_both_pages_of_the_quiz_are_made_from_its_file(tmp_path, capsys):
    assert cli.main(["quiz", "--out", str(tmp_path)]) == 0
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert written == {name: page(name) for name in ("QUIZ.md", "QUIZ_KEY.md")}, "clipnull quiz"
    assert "QUIZ_KEY.md" in capsys.readouterr().out
    for question in (question for part in quiz.load().values() for question in part):
        assert question.question in written["QUIZ.md"] and question.why not in written["QUIZ.md"]


def test_answers_about_numbers_of_the_course_are_those_of_its_goldens():
    goldens = json.loads((ROOT / "tests" / "goldens.json").read_text(encoding="utf-8"))["mini"]
    numbers = [question for part in quiz.load().values() for question in part if question.golden]
    assert len(numbers) > 4
    for question in numbers:
        notebook, metric = question.golden.split("/")
        value = goldens[notebook][metric]["value"]
        off = [abs(value - told) for told in question.values]
        assert quiz.LETTERS[off.index(min(off))] == question.answer, (question.question, value)


GOOD = """
[[entry]]
question = "A?"
options = ["x", "y"]
answer = "b"
why = "so"
where = "01"

[[exit]]
question = "B?"
options = ["1", "2"]
answer = "a"
why = "so"
where = "02"
golden = "n/m"
values = [1, 2]
"""


def test_a_sound_quiz_is_read(tmp_path):
    path = tmp_path / "quiz.toml"
    path.write_text(GOOD)
    assert [question.answer for part in quiz.load(path).values() for question in part] == ["b", "a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('answer = "b"', 'answer = "c"'), "entry 1: answer is 'c'; expected one of a, b"),
        (('answer = "b"', 'answer = ""'), "entry 1: answer is ''; expected one of a, b"),
        (('answer = "b"', 'answer = "ab"'), "entry 1: answer is 'ab'"),
        (('["x", "y"]', '["x", "x"]'), "entry 1: options are .*; expected two or more that differ"),
        (('["x", "y"]', '["x"]'), "entry 1: options are"),
        (('why = "so"\n', "", 1), "entry 1: .*why.*; expected the fields of Question"),
        (("values = [1, 2]", "values = [1]"), "exit 1: 1 values for 2 options"),
        (("[[exit]]", "[[end]]"), r"has the parts \['end', 'entry'\]; expected \['entry', 'exit'\]"),
    ],
)
def test_a_key_that_disagrees_with_its_questions_is_refused(tmp_path, change, message):
    path = tmp_path / "quiz.toml"
    path.write_text(GOOD.replace(*change))
    assert path.read_text() != GOOD
    with pytest.raises(ValueError, match=f"quiz: .*{message}"):
        quiz.load(path)


# --- the booklet


@pytest.mark.slow
def test_the_booklet_has_every_exercise_with_its_hint_and_solutions_apart(tmp_path, capsys):
    assert cli.main(["booklet", *map(str, NOTEBOOKS), "--out", str(tmp_path)]) == 0
    exercises, solutions = (tmp_path / f"{name}.html" for name in ("exercises", "solutions"))
    assert capsys.readouterr().out == f"written: {exercises}, {solutions}\n"
    asked, answered = (path.read_text(encoding="utf-8") for path in (exercises, solutions))
    number = sum("exercise" in cell.metadata.get("tags", ()) for path in NOTEBOOKS for cell in read(path).cells)
    assert asked.count('<div class="hint">') == asked.count("<strong>Hint.</strong>") == number > 20
    assert asked.count('<div class="room">') == number + len(NOTEBOOKS)
    assert "<details" not in asked and "_solution" not in asked and answered.count("_solution") >= number
    for text in (asked, answered):
        assert outside(text) == [] and "@page" in text and "<script" not in text and "@media print" in text


def test_a_booklet_of_nothing_is_refused(notebook, tmp_path, capsys):
    assert cli.main(["booklet", str(notebook("a", "x = 1")), "--out", str(tmp_path / "out")]) == 2
    assert "none of them has an exercise" in capsys.readouterr().err and not (tmp_path / "out").exists()


# --- copies that install clipnull

ADDRESS = "https://github.com/someone/clipnull"


@pytest.fixture
def one(tmp_path):
    cells = [markdown("# A"), code("1", outputs=[]), code("2", metadata={"tags": ["solution"]})]
    path = tmp_path / "04_a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def bootstrap(path):
    (cell,) = (cell for cell in nbformat.read(path, 4).cells if cell.id == "bootstrap")
    return cell.source


def test_a_copy_has_badges_and_the_cell_in_front_and_no_solution(one, tmp_path):
    out = tmp_path / "out"
    assert cli.main(["colab", str(one), "--out", str(out), "--address", f"{ADDRESS}.git/", "--ref", "v1.0"]) == 0
    cells = nbformat.read(out / "04_a.ipynb", 4).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "markdown", "code"]
    assert "github/someone/clipnull/blob/v1.0/notebooks/04_a.ipynb" in cells[0].source
    assert "gh/someone/clipnull/v1.0?labpath=notebooks/04_a.ipynb" in cells[0].source
    assert f'source = "git+{ADDRESS}@v1.0"' in cells[1].source
    assert cli.main(["colab", str(one), "--out", str(out), "--address", "https://github.com/x/y"]) == 2, "kept"
    assert f"git+{ADDRESS}@v1.0" in bootstrap(out / "04_a.ipynb")


def test_where_clipnull_is_installed_the_cell_does_nothing(one, tmp_path, monkeypatch, capsys):
    (copy,) = colab.colab([one], tmp_path / "out", ADDRESS)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("the cell installs what is there"))
    exec(bootstrap(copy), {})
    assert capsys.readouterr().out == "clipnull is here.\n"


@pytest.mark.slow
def test_without_a_network_the_cell_says_so(one, tmp_path, monkeypatch):
    """pip itself, asked for a repository where nobody listens."""
    (copy,) = colab.colab([one], tmp_path / "out", ADDRESS)
    source = bootstrap(copy).replace(ADDRESS, "https://127.0.0.1:9/someone/clipnull")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(io.StringIO()):
        exec(source, {})
    text = str(ended.value)
    assert text.startswith("clipnull cannot be installed from git+https://127.0.0.1:9") and "Is there a network" in text


def test_with_a_network_the_cell_installs_from_the_address(one, tmp_path, monkeypatch, capsys):
    (copy,) = colab.colab([one], tmp_path / "out", ADDRESS)
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda words, **_: asked.append(words) or SimpleNamespace(returncode=0))
    exec(bootstrap(copy), {})
    expected = [sys.executable, "-m", "pip", "install", "--quiet", f"clipnull @ git+{ADDRESS}@main", *colab.EXTRAS]
    assert asked == [expected] and capsys.readouterr().out == "clipnull is here.\n"


@pytest.mark.parametrize(
    ("address", "ref", "message"),
    [
        ("github.com/a/b", "main", "address: 'github.com/a/b' is not valid; expected such as https"),
        ('https://github.com/a/b"; print(1) #', "main", "address: .* is not valid"),
        ("https://github.com/a", "main", "address: .* is not valid"),
        (ADDRESS, 'x"; 1', "ref: .* is not valid; expected a branch"),
        (ADDRESS, "a..b", "ref: 'a..b' is not valid"),
    ],
)
def test_what_is_no_address_or_ref_is_refused(one, tmp_path, address, ref, message):
    with pytest.raises(ValueError, match=message):
        colab.colab([one], tmp_path / "out", address, ref)
    assert not (tmp_path / "out").exists()


def test_the_address_is_told_once_in_the_metadata_of_the_package(monkeypatch):
    urls = ["Homepage, https://example.org", f"Repository, {ADDRESS}"]
    monkeypatch.setattr(colab.metadata, "metadata", lambda _: SimpleNamespace(get_all=lambda _: urls))
    assert colab.repository() == ADDRESS
    monkeypatch.setattr(colab.metadata, "metadata", lambda _: SimpleNamespace(get_all=lambda _: None))
    with pytest.raises(ValueError, match="address: none is given, and pyproject.toml names no Repository"):
        colab.repository()


# --- the leaderboard


@pytest.fixture
def handed_in(clip, corner, tmp_path, projection):
    """Patches of two groups: one forgets cars, one does nothing; and a file that is none."""
    rows = torch.stack([clip.embed_texts([f"a {word} of a car"])[0] for word in ("picture", "photo")])
    projection(rows).save(tmp_path / "able.safetensors")
    projection(torch.eye(rows.shape[1])[:1] * 1e-6, energy=1.0).save(tmp_path / "idle.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"x" * 100)
    return [tmp_path / f"{name}.safetensors" for name in ("idle", "torn", "able")]


def test_the_leaderboard_ranks_patches_and_names_what_it_refuses(clip, corner, handed_in):
    request = cn.Forget(classes=["car"])
    (handed_in[2].with_suffix(".json")).write_text('{"forgetting_rate": [0, 1]}')
    text = leaderboard.leaderboard(clip, corner, request, handed_in)
    first, second = re.findall(r"(?m)^\| (\d) \| (\w+) \| (\S+) \| .* \| (\w+) \|$", text)
    assert (first[1], second[1]) == ("able", "idle") and float(first[2]) > float(second[2])
    assert first[3] == "100" and second[3] == "none" and "- torn: refused, " in text
    assert f"{request}, {len(corner)} pictures kept back" in text
    handed_in[2].with_suffix(".json").write_text("[1]")
    text = leaderboard.leaderboard(clip, corner, request, handed_in)
    assert "- able: refused, able.json: the file is [1]; expected [low, high]" in text and "| 1 | idle |" in text


@pytest.mark.parametrize("told", ['{"speed": [0, 1]}', '{"retain_drop": [2, 1]}', '{"retain_drop": 1}', "[1]", "{"])
def test_a_prediction_that_is_none_is_refused(tmp_path, told):
    path = tmp_path / "able.json"
    assert leaderboard._predicted(path) == {}, "no file, no prediction"
    path.write_text(told)
    with pytest.raises(ValueError):
        leaderboard._predicted(path)


def test_the_leaderboard_takes_files_of_different_names(clip, corner, handed_in):
    for patches in ([], [handed_in[0], handed_in[0]]):
        with pytest.raises(ValueError, match="patches: .*; expected one or more files whose names differ"):
            leaderboard.leaderboard(clip, corner, cn.Forget(classes=["car"]), patches)
    with pytest.raises(ValueError, match="cra"):
        leaderboard.leaderboard(clip, corner, cn.Forget(classes=["cra"]), handed_in)


@pytest.mark.parametrize(("interval", "points"), [((10.0, 14.0), 4.0), ((13.0, 13.0), 40.0), ((0.0, 10.0), 90.0)])
def test_a_prediction_costs_its_width_and_what_it_misses(interval, points):
    assert leaderboard.score({"worst_cell_drop": 12.0}, {"worst_cell_drop": interval}) == points
