"""What instructors use: the pre-reading, the rubric, the plan, the quiz, the booklet, the leaderboard."""

import doctest
import json
import re
import tomllib

import pytest
import torch
from conftest import ROOT
from helpers import project
from pages import outside

import clipnull as cn
from clipnull.commands import cli
from clipnull.course import quiz
from clipnull.course.leaderboard import leaderboard, read_predictions, score
from clipnull.course.notebooks import read

FOLDER = ROOT / "notebooks"


@pytest.fixture(scope="module")
def lessons():
    """The notebooks of the course, "04" and so on."""
    return {path.name[:2]: read(path) for path in sorted(FOLDER.glob("*.ipynb"))}


def page(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


# --- pages


def test_the_numbers_of_the_page_on_the_svd_are_computed():
    failed, tried = doctest.testfile(str(FOLDER / "SVD.md"), module_relative=False)
    assert failed == 0 and tried > 10


def test_every_open_task_is_in_the_rubric_and_none_else(lessons):
    tasks = [
        f"{number} {task}"
        for number, nb in lessons.items()
        for cell in nb.cells
        for task in re.findall(r"## Open task\s+\*\*(.+?)\*\*", cell.source)
    ]
    assert len(tasks) == 12 and tasks == re.findall(r"(?m)^\| (\d\d .+?) \| .+ \| .+ \|$", page("RUBRIC.md"))


def test_every_section_and_file_that_a_page_names_exists(lessons):
    sections = {
        (lesson, number)
        for lesson, nb in lessons.items()
        for cell in nb.cells
        for number in re.findall(r"(?m)^## (\d+)\b", cell.source)
    }
    for name in ("MISCONCEPTIONS.md", "CASE.md", "QUIZ_KEY.md"):
        matches = re.findall(r"\b(\d\d), sections? (\d+)(?: and (\d+))?", page(name))
        named = {(lesson, number) for lesson, *numbers in matches for number in numbers if number}
        assert len(named) > 5 and named <= sections, named - sections
    for path in FOLDER.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page(path.name)):
            assert (FOLDER / link).is_file(), (path.name, link)
        assert path.name == "INSTRUCTOR.md" or f"]({path.name})" in page("INSTRUCTOR.md")


def test_the_plans_fit(lessons):
    """The minutes of a lesson are those that its page says, and every plan has room for them."""
    hub = page("INSTRUCTOR.md")
    minutes = {name[:2]: int(of) for name, of in re.findall(r"(?m)^\| \[\d\d [^]]+\]\(([^)]+)\) \| (\d+) \|", hub)}
    assert minutes == {n: int(re.search(r"(\d+) minutes", nb.cells[0].source)[1]) for n, nb in lessons.items()}
    assert max(minutes.values()) <= 50 and minutes["00"] + 10 <= 50 and minutes["11"] + 10 <= 50
    plans = re.findall(r"(?m)^\| minutes \| .+ \| lesson \|\n\|.+\n((?:\| \d+ .+\n)+)", hub)
    for plan in plans:
        rows = re.findall(r"(?m)^\| (\d+) \| (.+?) \| (\d*) ?\|$", plan)
        assert sum(int(time) for time, *_ in rows) == 180 and "break" in [what for _, what, _ in rows]
        assert all(int(time) >= minutes[lesson] for time, _, lesson in rows if lesson)
    taught = [lesson for plan in plans for lesson in re.findall(r"(?m) \| (\d\d) \|$", plan)]
    assert taught == ["00", "01", "04", "05", "06", "07", "08", "09", "00", "04", "06"]


# --- the quiz and the booklet


def test_both_pages_of_the_quiz_are_made_from_its_file_and_its_numbers_are_those_of_the_goldens(tmp_path):
    assert cli.main(["quiz", "--out", str(tmp_path)]) == 0
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert written == {name: page(name) for name in ("QUIZ.md", "QUIZ_KEY.md")}, "clipnull quiz"
    goldens = json.loads((ROOT / "tests" / "goldens.json").read_text(encoding="utf-8"))["mini"]
    questions = [entry for part in tomllib.loads(quiz.FILE.read_text(encoding="utf-8")).values() for entry in part]
    for entry in questions:
        assert entry["question"] in written["QUIZ.md"] and entry["why"] not in written["QUIZ.md"]
        letters = quiz.LETTERS[: len({*entry["options"]})]
        assert len(letters) == len(entry["options"]) and entry["answer"] in letters, entry["question"]
        if "golden" in entry:
            notebook, metric = entry["golden"].split("/")
            off = [abs(goldens[notebook][metric]["value"] - value) for value in entry["values"]]
            assert len(off) == len(letters) and letters[off.index(min(off))] == entry["answer"], entry["question"]
    assert sum("golden" in entry for entry in questions) > 4


@pytest.mark.slow
def test_the_booklet_has_every_exercise_with_its_hint_and_solutions_apart(lessons, tmp_path, capsys):
    assert cli.main(["booklet", *map(str, FOLDER.glob("*.ipynb")), "--out", str(tmp_path)]) == 0
    exercises, solutions = (tmp_path / f"{name}.html" for name in ("exercises", "solutions"))
    assert capsys.readouterr().out == f"written: {exercises}, {solutions}\n"
    tasks, answers = (path.read_text(encoding="utf-8") for path in (exercises, solutions))
    number = sum("exercise" in cell.metadata.get("tags", ()) for nb in lessons.values() for cell in nb.cells)
    assert tasks.count('<div class="hint">') == tasks.count("<strong>Hint.</strong>") == number > 20
    assert tasks.count(">Open task") == len(lessons) and ">Summary" not in tasks
    assert tasks.count('<div class="room">') == number + len(lessons)
    assert "<details" not in tasks and "_solution" not in tasks and answers.count("_solution") >= number
    for text in (tasks, answers):
        assert outside(text) == [] and "@page" in text and "<script" not in text and "@media print" in text


# --- the leaderboard

CARS = cn.Forget(classes=["car"])


@pytest.fixture
def handed_in(clip, tmp_path):
    """Patches of two groups: one forgets cars, one does nothing; and a file that is none."""
    rows = torch.stack([clip.embed_texts([f"a {word} of a car"])[0] for word in ("picture", "photo")])
    project(rows).save(tmp_path / "able.safetensors")
    project(torch.eye(rows.shape[1])[:1] * 1e-6, energy=1.0).save(tmp_path / "idle.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"x" * 100)
    return [tmp_path / f"{name}.safetensors" for name in ("idle", "torn", "able")]


def test_one_submission_neither_ends_the_leaderboard_nor_forges_it(clip, corner, handed_in, tmp_path):
    idle, _, able = handed_in
    rows = 1e12 * torch.stack([clip.embed_texts([f"a {word} of a bird"])[0] for word in ("photo", "line")]).double()
    huge, endless = tmp_path / "huge.safetensors", tmp_path / "endless.safetensors"
    cn.Edit(rows.T, rows.T, "nullspace").save(huge)
    endless.write_bytes(idle.read_bytes())
    endless.with_suffix(".json").write_text("[" * 5000)
    forged = tmp_path / "x | 9 | 9 |\n| 1 | me <script>alert(1)<\\script> ![a](b) |.safetensors"
    forged.write_bytes(b"<script>")
    text = leaderboard(clip, corner, CARS, [huge, endless, forged, idle, able])
    assert [line.split(" | ")[1] for line in text.splitlines() if re.match(r"\| \d", line)][0] == "able"
    assert "- endless: rejected, " in text and text.count("rejected, ") >= 2
    rows = re.sub(r"\\.", "", text)
    assert "<" not in rows and "](" not in rows and {line.count("|") for line in rows.splitlines()} <= {0, 7, 6}


def test_the_leaderboard_ranks_patches_and_names_what_it_refuses(clip, corner, handed_in):
    (handed_in[2].with_suffix(".json")).write_text('{"forgetting_rate": [0, 1]}')
    text = leaderboard(clip, corner, CARS, handed_in)
    first, second = re.findall(r"(?m)^\| (\d) \| (\w+) \| (\S+) \| .* \| (\w+) \|$", text)
    assert (first[1], second[1]) == ("able", "idle") and float(first[2]) > float(second[2])
    assert first[3] == "100" and second[3] == "none" and "- torn: rejected, " in text
    assert f"{CARS}, {len(corner)} held-out pictures" in text
    for patches in ([], [handed_in[0], handed_in[0]]):
        with pytest.raises(ValueError, match="patches: .*; expected one or more files whose names differ"):
            leaderboard(clip, corner, CARS, patches)
    with pytest.raises(ValueError, match="cra"):
        leaderboard(clip, corner, cn.Forget(classes=["cra"]), handed_in)


@pytest.mark.parametrize("text", ['{"speed": [0, 1]}', '{"retain_drop": [2, 1]}', "[1]", "{"])
def test_predictions_that_are_not_valid_are_refused(tmp_path, text):
    path = tmp_path / "able.json"
    assert read_predictions(path) == {}, "no file, no predictions"
    path.write_text(text)
    with pytest.raises((ValueError, TypeError)):
        read_predictions(path)


@pytest.mark.parametrize(("interval", "points"), [((10.0, 14.0), 4.0), ((13.0, 13.0), 40.0), ((0.0, 10.0), 90.0)])
def test_a_prediction_costs_its_width_and_what_it_misses(interval, points):
    assert score({"worst_cell_drop": 12.0}, {"worst_cell_drop": interval}) == points
