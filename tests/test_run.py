"""The runner, on small notebooks."""
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest

from clipnull.course import run as course

PARAMETERS = "# parameters\nseed = 3  # of the draw\nrate = 0.5  # share\nfast = True  # or not"
# Notebooks here record without importing the package, which takes seconds.
RECORD = (f"from IPython.display import display\n"
          f"display({{'{course.MIME}': {{'seed': float(seed), 'rate': rate}}, 'text/plain': ''}}, raw=True)")


def outputs_of(nb):
    return [out for cell in nb.cells for out in cell.outputs]


def alive(marker: Path) -> bool:
    """Whether the process that wrote its number into `marker` still runs."""
    pid = int(marker.read_text())
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


# --- record and metrics_of

def test_record_gives_one_output_that_metrics_of_reads(notebook, tmp_path):
    path = notebook("a", "import importlib.util, numpy as np\n"
                         f"spec = importlib.util.spec_from_file_location('course', {course.__file__!r})\n"
                         "import sys; course = importlib.util.module_from_spec(spec)\n"
                         "sys.modules['course'] = course; spec.loader.exec_module(course)",
                    "course.record(angle=np.float32(1.5), count=7)")
    nb = nbformat.read(course.execute(path, tmp_path / "out"), 4)
    assert course.metrics_of(nb) == {"angle": 1.5, "count": 7.0}
    (out,) = outputs_of(nb)
    assert {"text/plain", "text/html", course.MIME} == set(out.data)
    assert "angle" in out.data["text/plain"] and "<td>angle</td><td>1.5</td>" in out.data["text/html"]


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True, None, [1.0, 2.0], np.ones(2)])
def test_record_refuses_what_is_not_one_finite_number(value):
    with pytest.raises(ValueError, match=r"(?s)^accuracy: .* expected one finite number"):
        course.record(accuracy=value)


def test_record_refuses_bad_names_and_nothing():
    with pytest.raises(ValueError, match="'top 1'"):
        course.record(**{"top 1": 1.0})
    with pytest.raises(ValueError, match="expected at least one"):
        course.record()


@pytest.mark.parametrize("times", [0, 2])
def test_metrics_of_wants_exactly_one_record(times):
    output = nbformat.v4.new_output("display_data", {course.MIME: {"a": 1.0}})
    cell = nbformat.v4.new_code_cell("", outputs=[output] * times)
    with pytest.raises(ValueError, match=f"{times} outputs"):
        course.metrics_of(nbformat.v4.new_notebook(cells=[cell]))


# --- goldens

GOLDEN = {"04": {"gap": {"value": 10.0, "atol": 0.5, "null": 0.0}}}


@pytest.mark.parametrize("value", [9.5, 10.0, 10.5])
def test_compare_accepts_what_lies_within_atol(value):
    assert course.compare({"04": {"gap": value}}, GOLDEN) == []


@pytest.mark.parametrize("metrics, words", [
    ({"04": {"gap": 10.51}}, ["04", "gap", "10 ±", "10.51"]),
    ({"04": {"gap": 9.49}}, ["04", "gap", "10 ±", "9.49"]),
    ({"04": {"gap": math.nan}}, ["04", "gap", "nan"]),
    ({"04": {}}, ["04", "gap", "nothing"]),
    ({}, ["04", "gap", "nothing"]),
    ({"04": {"gap": 10.0, "new": 2.0}}, ["04", "new", "2", "no golden"]),
    ({"04": {"gap": 10.0}, "05": {"x": 1.0}}, ["05", "x", "no golden"]),
])
def test_compare_names_notebook_metric_expected_and_got(metrics, words):
    (failure,) = course.compare(metrics, GOLDEN)
    assert all(word in failure for word in words), failure


def test_goldens_take_values_over_keep_atol_and_refuse_new_metrics(tmp_path, capsys):
    metrics, goldens = tmp_path / "metrics.json", tmp_path / "goldens.json"
    goldens.write_text(json.dumps({"mini": {**GOLDEN, "05": GOLDEN["04"]}, "pacs": GOLDEN}))
    metrics.write_text(json.dumps({"04": {"gap": 11.0}}))
    command = ["goldens", str(metrics), "--goldens", str(goldens)]
    assert course.main(command) == 0
    assert "04: gap: 10.0 -> 11.0" in capsys.readouterr().out
    assert json.loads(goldens.read_text()) == {
        "mini": {"04": {"gap": {"value": 11.0, "atol": 0.5, "null": 0.0}}, "05": GOLDEN["04"]}, "pacs": GOLDEN}
    metrics.write_text(json.dumps({"04": {"new": 1.0}}))
    assert course.main(command) == 1
    assert "04: new" in capsys.readouterr().err
    assert json.loads(goldens.read_text())["mini"]["04"] == {"new": {"value": 1.0, "atol": None, "null": None}}
    assert course.main([*command, "--profile", "pacs"]) == 1
    assert set(json.loads(goldens.read_text())["pacs"]["04"]) == {"new"}


def test_a_failure_names_cell_metric_expected_got_and_where_the_notebook_lies(notebook, tmp_path, capsys, monkeypatch):
    path = notebook("a", PARAMETERS, "x = 1", RECORD)
    goldens, out = tmp_path / "goldens.json", tmp_path / "out"
    goldens.write_text(json.dumps({"mini": {"a": {name: {"value": v, "atol": 0.1, "null": 9.0}
                                                  for name, v in (("seed", 3.0), ("rate", 0.5))},
                                            "b": {"not run": {"value": 1.0, "atol": 0.1, "null": 9.0}}}}))
    command = ["run", str(path), "--out", str(out), "--goldens", str(goldens), "--profile", "mini"]
    assert course.main([*command, "--check", "-p", "rate", "0.75"]) == 1
    assert (f"a.ipynb, cell 3 (from IPython.display import display): rate: expected 0.5 ± 0.1, got 0.75; "
            f"executed: {out / 'a.ipynb'}") in capsys.readouterr().err.splitlines()
    lines = [line.split() for line in (out / "diff.txt").read_text().splitlines()]
    assert lines[1:] == [["a", "rate", "0.5", "0.1", "0.75", "+0.25", "FAILED"], ["a", "seed", "3", "0.1", "3", "+0"]]
    monkeypatch.setattr(course, "run", lambda *_: ({"a": {"seed": 3.0, "rate": 0.75}}, []))
    assert course.main([*command, "--update-goldens"]) == 0
    assert "a: rate: 0.5 -> 0.75" in capsys.readouterr().out
    assert course.main([*command, "--check"]) == 0


def test_diff_shows_what_is_new_and_what_is_missing():
    text = course.diff({"04": {"new": 2.0}}, GOLDEN)
    assert [line.split()[:1] + line.split()[-1:] for line in text.splitlines()[1:]] == [["04", "FAILED"]] * 2


@pytest.mark.parametrize("kept", ["old", None])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, kept):
    path = tmp_path / "goldens.json"
    if kept:
        path.write_text(kept)
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        course.update_goldens({"04": {"gap": 1.0}}, path) if not kept else course._write(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == ([("goldens.json", kept)] if kept else [])


def test_a_killed_write_leaves_a_whole_file(tmp_path):
    """Killed at twelve moments, without a chance to clean up, in the middle of writing goldens again and again."""
    path = tmp_path / "goldens.json"
    program = (f"import importlib.util, pathlib, itertools\n"
               f"spec = importlib.util.spec_from_file_location('course', {course.__file__!r})\n"
               "import sys; course = importlib.util.module_from_spec(spec); sys.modules['course'] = course\n"
               "spec.loader.exec_module(course)\n"
               "for i in itertools.count():\n"
               f"    course.update_goldens({{'04': {{f'metric{{k}}': i for k in range(3000)}}}}, "
               f"pathlib.Path({str(path)!r}))")
    for delay in range(12):
        writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
        before = path.stat().st_ino if path.exists() else None
        wait_for(lambda before=before: path.exists() and path.stat().st_ino != before, 60)
        time.sleep(0.007 * delay)
        writer.kill()
        writer.wait(60)
        assert len(json.loads(path.read_text())["mini"]["04"]) == 3000


# --- profiles

@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(course, "default_profile", lambda: "mini")


def test_a_profile_sets_only_what_a_notebook_has(notebook, monkeypatch, no_gpu):
    monkeypatch.setenv("CLIPNULL_DATA", "/pictures")
    plain = notebook("a", PARAMETERS)
    pictures = notebook("b", "# parameters\ndata = ''  # folder\ndomain = 'line'  # of the examples")
    assert course.preset(plain, "mini") == course.preset(plain, "pacs") == course.preset(pictures, "mini") == {}
    assert course.preset(pictures, "pacs") == {"data": "/pictures/test", "domain": "sketch"}


def test_a_profile_without_what_it_needs_is_refused(notebook, monkeypatch, no_gpu, tmp_path):
    monkeypatch.delenv("CLIPNULL_DATA", raising=False)
    path = notebook("a", PARAMETERS, RECORD)
    for profile, words in (("pacs", "CLIPNULL_DATA"), ("gpu", "no*n*e"), ("max", "expected one of mini, gpu, pacs")):
        with pytest.raises(ValueError, match=f"profile: '{profile}' .*{words}"):
            course.run([path], tmp_path / "out", profile=profile)
    assert not (tmp_path / "out").exists()


def test_run_follows_the_profile(notebook, tmp_path, monkeypatch, no_gpu):
    monkeypatch.setenv("CLIPNULL_DATA", "/pictures")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    plain = notebook("a", PARAMETERS, RECORD)
    pictures = notebook("b", "# parameters\ndata = ''  # folder\nseed = 1  # s", "rate = 0.0", RECORD,
                        "import os\nprint(data, os.environ['CUDA_VISIBLE_DEVICES'])")
    printed = {}
    for profile in ("pacs", "mini"):
        metrics, failures = course.run([plain, pictures], tmp_path / profile, {"seed": 4}, profile=profile)
        printed[profile] = outputs_of(nbformat.read(tmp_path / profile / "b.ipynb", 4))[-1].text.split()
        assert not failures and metrics["b"]["seed"] == 4 and ("a" in metrics) == (profile == "mini")
    assert printed == {"pacs": ["/pictures/test", "0"], "mini": []}


def test_every_parameter_of_a_profile_is_known_to_a_notebook():
    known = {name for path in (Path(__file__).parent.parent / "notebooks").glob("*.ipynb")
             for name in course.parameters_of(path)}
    for name, profile in course.PROFILES.items():
        assert set(profile.parameters) <= known, name
        assert profile.goldens in course.PROFILES


# --- seeds

def test_seeds_propose_tolerances_from_the_spread(notebook, tmp_path, capsys, no_gpu, monkeypatch):
    def run(paths, out, parameters, *_):
        assert [p.stem for p in paths] == ["a"] and out.name == f"seed-{parameters['seed']}"
        out.mkdir(parents=True)
        return {"a": {"seed": float(parameters["seed"]), "rate": 0.5}}, []

    monkeypatch.setattr(course, "run", run)
    paths = [notebook("a", PARAMETERS, RECORD), notebook("b", "# parameters\nx = 1  # no seed")]
    goldens = tmp_path / "goldens.json"
    goldens.write_text(json.dumps({"mini": {"a": {"seed": {"value": 2.0, "atol": 1.5, "null": 8.0},
                                                  "rate": {"value": 0.5, "atol": 0.1, "null": 0.0}}}}))
    found = course.seeds(paths, tmp_path / "out", 5, 4.0, goldens)
    assert json.loads((tmp_path / "out" / "seeds.json").read_text()) == found
    assert found["a"]["seed"] == {"values": [0, 1, 2, 3, 4], "mean": 2.0, "sd": pytest.approx(2.5 ** 0.5), "atol": 6.3}
    assert found["a"]["rate"]["atol"] == 0.005, "all seeds agree: 1 % of the mean"
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if line.split()[:2] == ["a", "seed"] and "outside" in line]
    assert row.split()[2:9] == ["2", "0", "4", "1.581", "2", "1.5", "6.3"]
    assert row.endswith("a seed is outside, null accepted")
    assert "b: left out" in printed and "4 x the standard deviation over 5 seeds" in printed


def test_seeds_want_five(notebook, tmp_path):
    with pytest.raises(ValueError, match="count: 4 is too few; expected at least five"):
        course.seeds([notebook("a", PARAMETERS)], tmp_path, 4)


def test_seeds_run_the_notebook_and_stop_at_a_failure(notebook, tmp_path, no_gpu):
    path = notebook("a", PARAMETERS, "assert seed != 0", RECORD)
    with pytest.raises(course.NotebookError, match=r"seed 0:\na.ipynb, cell 2 \(assert seed != 0\)"):
        course.seeds([path], tmp_path / "out")


# --- the student edition

def test_the_student_edition_has_no_solutions_and_no_outputs(notebook, tmp_path, capsys):
    path = notebook("a", PARAMETERS, "def f(x):\n    raise NotImplementedError", "def secret(x): return 2", RECORD)
    nb = nbformat.read(path, 4)
    nb.cells[1].metadata["tags"], nb.cells[2].metadata["tags"] = ["exercise"], ["solution"]
    nb.metadata["clipnull"] = {"stamp": "x"}
    nb.cells[3].outputs, nb.cells[3].execution_count = [nbformat.v4.new_output("stream", text="x")], 4
    nbformat.write(nb, path)
    before, out = path.read_bytes(), tmp_path / "student"
    assert course.main(["student", str(path), "--out", str(out)]) == 0
    text = (out / "a.ipynb").read_text()
    student = nbformat.reads(text, 4)
    assert "secret" not in text and "stamp" not in text and path.read_bytes() == before
    assert [cell.id for cell in student.cells] == ["cell-0", "cell-1", "cell-3"]
    assert not outputs_of(student) and student.cells[2].execution_count is None
    nbformat.validate(student)
    assert course.main(["student", str(path), "--out", str(out)]) == 0, "again: nothing changed there"
    student.cells[1].source = "def f(x): return 1"
    nbformat.write(student, out / "a.ipynb")
    assert course.main(["student", str(path), "--out", str(out)]) == 1
    assert "exists and differs" in capsys.readouterr().err
    assert "return 1" in (out / "a.ipynb").read_text(), "a student's work is kept"


# --- parameters

def test_parameters_are_read_with_their_types(notebook):
    assert course.parameters_of(notebook("a", PARAMETERS)) == {"seed": 3, "rate": 0.5, "fast": True}


@pytest.mark.parametrize("given, checked", [
    ({"seed": 4}, {"seed": 4}), ({"seed": "4"}, {"seed": 4}), ({"rate": 1}, {"rate": 1.0}),
    ({"rate": "1e-3"}, {"rate": 0.001}), ({"fast": "False"}, {"fast": False}), ({"word": "12"}, {"word": "12"}),
])
def test_parameters_take_the_type_of_the_default(notebook, given, checked):
    got = course.check_parameters(notebook("a", PARAMETERS + "\nword = 'x'  # text"), given)
    assert got == checked and [type(v) for v in got.values()] == [type(v) for v in checked.values()]


@pytest.mark.parametrize("given, message", [
    ({"sed": 1}, "a.ipynb has no 'sed'; did you mean seed"),
    ({"zzzzz": 1}, "expected one of seed, rate"),
    ({"seed": 1.5}, "seed: 1.5 is not valid for a.ipynb; expected int, such as 3"),
    ({"seed": "many"}, "seed: 'many' is not valid"),
    ({"seed": True}, "seed: True is not valid"),
    ({"fast": 1}, "fast: 1 is not valid"),
])
def test_wrong_parameters_are_refused_before_anything_runs(notebook, tmp_path, given, message):
    path = notebook("a", PARAMETERS, RECORD)
    with pytest.raises(ValueError, match=message):
        course.execute(path, tmp_path / "out", given)
    with pytest.raises(ValueError, match=message):
        course.run([path], tmp_path / "out", given)
    assert not (tmp_path / "out").exists()


# --- execute

def test_execute_injects_parameters_and_works_in_the_folder_of_the_notebook(notebook, tmp_path):
    path = notebook("a", PARAMETERS, RECORD, "import os; print(os.getcwd())")
    result = course.execute(path, tmp_path / "out", {"seed": 9})
    nb = nbformat.read(result, 4)
    assert result == tmp_path / "out" / "a.ipynb"
    assert course.metrics_of(nb) == {"seed": 9.0, "rate": 0.5}
    assert outputs_of(nb)[-1].text.strip() == str(path.parent)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize("given", [{}, {"seed": 9}])
def test_a_failing_cell_is_named_and_what_ran_is_kept(notebook, tmp_path, given):
    path = notebook("a", PARAMETERS, "print('before')", "x = 1 / 0\ny = 2", "print('after')")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.ipynb").write_text("of an earlier run")
    with pytest.raises(course.NotebookError,
                       match=r"^a.ipynb, cell 3 \(x = 1 / 0\): ZeroDivisionError: division by zero$"):
        course.execute(path, tmp_path / "out", given)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.failed.ipynb"]
    assert "before" in (tmp_path / "out" / "a.failed.ipynb").read_text()


def test_a_hanging_cell_is_named(notebook, tmp_path):
    path = notebook("a", "x = 1", "import time\ntime.sleep(600)")
    with pytest.raises(course.NotebookError, match=r"a.ipynb, cell 2 \(import time\): .*Timeout"):
        course.execute(path, tmp_path / "out", timeout=5)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.failed.ipynb"]


def test_a_dying_kernel_is_named(notebook, tmp_path):
    path = notebook("a", "import os\nos._exit(3)")
    with pytest.raises(course.NotebookError, match=r"a.ipynb, cell 1 \(import os\): DeadKernelError"):
        course.execute(path, tmp_path / "out")


# --- run

def test_run_writes_metrics_pages_and_a_table(notebook, tmp_path, capsys):
    good = notebook("good", PARAMETERS, RECORD)
    bad = notebook("bad", PARAMETERS, "1 / 0")
    silent = notebook("silent", PARAMETERS, "print('no record')")
    out = tmp_path / "out"
    metrics, failures = course.run([good, bad, silent], out, {"rate": 0.25})
    assert metrics == {"good": {"seed": 3.0, "rate": 0.25}} == json.loads((out / "metrics.json").read_text())
    assert failures[0] == "bad.ipynb, cell 2 (1 / 0): ZeroDivisionError: division by zero"
    assert failures[1].startswith(f"silent.ipynb: nb: 0 outputs of type {course.MIME}")
    assert "<html" in (out / "good.html").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "good: started" in printed and "good: done in" in printed and "bad: FAILED" in printed
    assert any(line.split() == ["good", "rate", "0.25"] for line in printed.splitlines())


def test_run_uses_this_interpreter_and_shares_the_cores(notebook, tmp_path, monkeypatch):
    kernel = tmp_path / "data" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    path = notebook("a", "seed, rate = 1, 1.0", RECORD,
                    "import sys, os\nprint(sys.executable, os.environ['OMP_NUM_THREADS'])")
    course.run([path], tmp_path / "out", jobs=2)
    assert outputs_of(nbformat.read(tmp_path / "out" / "a.ipynb", 4))[-1].text.split() == [sys.executable, "3"]


def test_run_goes_two_at_a_time(notebook, tmp_path):
    meet = ("import time, pathlib\npathlib.Path('{me}').touch()\n"
            "while not pathlib.Path('{you}').exists(): time.sleep(0.1)")
    paths = [notebook(me, "seed, rate = 1, 1.0", meet.format(me=me, you=you), RECORD) for me, you in ("ab", "ba")]
    metrics, failures = course.run(paths, tmp_path / "out", jobs=2, limit=240)
    assert set(metrics) == {"a", "b"} and not failures


def test_a_notebook_over_its_limit_is_stopped_with_its_kernel(notebook, tmp_path, monkeypatch):
    marker = tmp_path / "pid"
    path = notebook("a", f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    clock = SimpleNamespace(monotonic=lambda: 9.0 if marker.exists() and marker.read_text() else 0.0, sleep=time.sleep)
    monkeypatch.setattr(course, "time", clock)  # the limit passes as soon as the kernel is at work
    metrics, failures = course.run([path], tmp_path / "out", limit=8)
    assert metrics == {} and failures == ["a.ipynb: stopped, as it ran for 8 s"]
    wait_for(lambda: not alive(marker), 30)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.failed.ipynb", "metrics.json"}


def test_an_interrupted_run_leaves_no_result_and_no_kernel(notebook, tmp_path):
    marker, out = tmp_path / "pid", tmp_path / "out"
    path = notebook("a", f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    runner = subprocess.Popen([sys.executable, course.__file__, "run", str(path), "--out", str(out), "--jobs", "1"],
                              stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: marker.exists() and marker.read_text())
    finally:
        runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 143
    wait_for(lambda: not alive(marker), 30)
    assert list(out.iterdir()) == []


def test_run_refuses_nothing_missing_and_twice(notebook, tmp_path):
    path = notebook("a", RECORD)
    missing = tmp_path / "b.ipynb"
    for notebooks, message in (([], "none given"), ([path, path], "same name"), ([missing], "does not exist")):
        with pytest.raises(ValueError, match=message):
            course.run(notebooks, tmp_path / "out")


# --- normalise, stamp, publish

def test_two_publications_are_identical_and_stamped(notebook, tmp_path):
    path = notebook("a", PARAMETERS, RECORD, "print('x')\nprint('y')")
    course.publish([path], tmp_path / "out")
    first = path.read_bytes()
    course.publish([path], tmp_path / "out")
    assert path.read_bytes() == first
    nb = nbformat.read(path, 4)
    assert nb.metadata["clipnull"]["stamp"] == course.stamp(nb)
    assert [cell.id for cell in nb.cells] == ["cell-0", "cell-1", "cell-2"]
    assert course.metrics_of(nb) == {"seed": 3.0, "rate": 0.5}
    assert b"papermill" not in first and b"start_time" not in first
    raw = course.execute(path, tmp_path / "out").read_bytes()
    assert b"start_time" in raw, "normalise has nothing to do: this test would pass without it"


def test_normalise_drops_versions_and_widgets_and_leaves_its_argument_alone():
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", metadata={"tags": ["solution"]})])
    nb.metadata.update(widgets={"x": 1}, language_info={"name": "python", "version": "3.11.7"}, title="kept")
    clean = course.normalise(nb)
    assert "widgets" not in clean.metadata and "version" not in clean.metadata.language_info
    assert clean.metadata.title == "kept" and clean.cells[0].metadata.tags == ["solution"]
    assert "widgets" in nb.metadata


def test_the_stamp_follows_code_and_package_but_not_prose(tmp_path, monkeypatch):
    (tmp_path / "course.py").write_text("a = 1")
    monkeypatch.setattr(course, "__file__", str(tmp_path / "course.py"))
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("prose"), nbformat.v4.new_code_cell("x = 1")])
    before = course.stamp(nb)
    nb.cells[0].source = "other prose"
    nb.cells[1].outputs = [nbformat.v4.new_output("stream", text="x")]
    assert course.stamp(nb) == before
    nb.cells[1].source = "x = 2"
    assert course.stamp(nb) != before
    nb.cells[1].source = "x = 1"
    assert course.stamp(nb) == before
    (tmp_path / "course.py").write_text("a = 2")
    assert course.stamp(nb) != before


def test_publish_writes_nothing_back_if_one_fails(notebook, tmp_path):
    good, bad = notebook("good", "seed, rate = 1, 1.0", RECORD), notebook("bad", "1 / 0")
    before = good.read_bytes()
    with pytest.raises(course.NotebookError, match="nothing written back:\nbad.ipynb, cell 1"):
        course.publish([good, bad], tmp_path / "out")
    assert good.read_bytes() == before


def test_publish_does_not_overwrite_an_edit_made_meanwhile(notebook, tmp_path):
    edit = ("import json\nnb = json.load(open('a.ipynb'))\nnb['cells'][0]['source'] = 'edited'\n"
            "json.dump(nb, open('a.ipynb', 'w'))")
    path = notebook("a", "seed, rate = 1, 1.0", RECORD, edit)
    with pytest.raises(course.NotebookError, match="edited meanwhile"):
        course.publish([path], tmp_path / "out")
    assert nbformat.read(path, 4).cells[0].source == "edited"


# --- command line

def test_the_command_line_reports_in_one_line_and_fails(notebook, tmp_path, capsys):
    path = notebook("a", PARAMETERS, RECORD)
    assert course.main(["run", str(path), "--out", str(tmp_path), "-p", "sed", "1"]) == 1
    assert capsys.readouterr().err.strip() == "parameters: a.ipynb has no 'sed'; did you mean seed?"
    bad = notebook("bad", "1 / 0")
    assert course.main(["run", str(bad), "--out", str(tmp_path / "out")]) == 1
    assert "bad.ipynb, cell 1 (1 / 0): ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("failures", [2, 3])
def test_a_kernel_that_does_not_come_up_is_started_again_twice(notebook, tmp_path, monkeypatch, failures):
    import papermill
    calls, real = [], papermill.execute_notebook

    def flaky(*args, **kwargs):
        calls.append(args)
        if len(calls) <= failures:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return real(*args, **kwargs)

    monkeypatch.setattr(papermill, "execute_notebook", flaky)
    if failures == 2:
        assert course.execute(notebook("late", "1 + 1"), tmp_path / "out").is_file()
    else:
        with pytest.raises(course.NotebookError, match="died before replying"):
            course.execute(notebook("never", "1 + 1"), tmp_path / "out")
    assert len(calls) == 3
