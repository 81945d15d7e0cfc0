"""Executing notebooks, on small ones."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from clipnull.commands import cli
from clipnull.course import run as runner
from clipnull.course.metrics import MIME
from clipnull.course.run import NotebookError, execute, run
from clipnull.course.warm import kernels

PARAMETERS = "# parameters\nseed = 3  # of the draw\nrate = 0.5  # share\nfast = True  # or not"
RECORD = (
    "from IPython.display import display\n"
    f"display({{'{MIME}': {{'seed': float(seed), 'rate': rate}}, 'text/plain': ''}}, raw=True)"
)
MARK = "import os, pathlib\npathlib.Path('{}').write_text(str(os.getpid()))"
SLEEP = "import time\ntime.sleep(600)"
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_modules(monkeypatch):
    """A warm kernel takes seconds to import all."""
    monkeypatch.setattr("clipnull.course.warm.PRELOADED", ("ipykernel.kernelapp", "matplotlib.pyplot"))


def outputs_of(path: Path) -> list:
    return [out for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", ())]


def warm(path: Path, out: Path) -> Path:
    """Execute a notebook in a kernel that is a fork."""
    with kernels({}) as manager:
        return execute(path, out, manager=manager)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


# --- what is refused before anything runs


@pytest.mark.parametrize(
    "names",
    [
        ("notebooks/00_a.ipynb", "link/../notebooks/."),
        ("link/00_a.ipynb", "notebooks"),
        ("copies/00_a.ipynb", "copies"),
    ],
)
@pytest.mark.promise("Nothing is written outside its target")
def test_a_source_is_never_replaced_by_its_result(notebook, tmp_path, monkeypatch, names):
    source = notebook("00_a", PARAMETERS, RECORD)
    (tmp_path / "link").symlink_to(source.parent, target_is_directory=True)
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / source.name).symlink_to(source)
    monkeypatch.chdir(tmp_path)
    path, out = map(Path, names)
    before = source.read_bytes(), sorted(p.name for p in source.parent.iterdir())
    with pytest.raises(ValueError, match=r"^out: .*00_a.ipynb is a source or was not written by a run"):
        run([path], out)
    assert (source.read_bytes(), sorted(p.name for p in source.parent.iterdir())) == before
    assert (tmp_path / "copies" / source.name).is_symlink()


@pytest.mark.promise("Nothing is written outside its target")
def test_results_replace_no_other_source_and_nothing_that_no_run_has_written(notebook, tmp_path):
    path, other, work = notebook("a", RECORD), tmp_path / "other" / "b.ipynb", tmp_path / "student" / "a.ipynb"
    for copy in (other, work):
        copy.parent.mkdir()
        copy.write_bytes(path.read_bytes())
    other.write_text(other.read_text().replace("python3", "papermill"))  # a result of an earlier run is a source now
    for paths, place in (([path, other], other), ([path], work)):
        before = place.read_bytes()
        with pytest.raises(ValueError, match=f"out: {place} is a source or was not written by a run"):
            run(paths, place.parent)
        assert place.read_bytes() == before


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        ([], {}, "notebooks: none are given"),
        (["a", "a"], {}, "two share a name"),
        (["b"], {}, "notebooks: .*b.ipynb does not exist; expected a notebook"),
        (["a"], {"parameters": {"sed": 1}}, "did you mean 'seed'"),
        (["a"], {"jobs": 0}, "^jobs: 0 is not valid; expected a whole number of at least 1$"),
    ],
)
def test_wrong_arguments_are_refused(notebook, tmp_path, names, given, message):
    folder = notebook("a", PARAMETERS, RECORD).parent
    with pytest.raises(ValueError, match=message):
        run([folder / f"{name}.ipynb" for name in names], tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


# --- one notebook

LONG = 'raise RuntimeError("Error(s) in loading state_dict for CLIP:\\n\\tMissing key(s)\\n\\n\\tsize mismatch: why")'


@slow
def test_a_failing_cell_is_named_with_its_reason_and_what_ran_is_kept(notebook, tmp_path):
    path = notebook("a", PARAMETERS, "import os; print(seed, os.getcwd())", f"{LONG}\ny = 2", "print('after')")
    with pytest.raises(NotebookError) as caught:
        execute(path, tmp_path / "out", {"seed": 9})
    reason = "RuntimeError: Error(s) in loading state_dict for CLIP: Missing key(s) size mismatch: why"
    assert str(caught.value) == f"a.ipynb, cell 3 ({LONG}): {reason}"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.failed.ipynb"]
    (out,) = (out for out in outputs_of(tmp_path / "out" / "a.failed.ipynb") if "text" in out)
    assert out.text == f"9 {path.parent}\n"


@pytest.mark.nightly
def test_a_dying_kernel_is_named(notebook, tmp_path):
    path = notebook("a", "import os\nos._exit(3)")
    for start in (execute, warm):
        with pytest.raises(NotebookError, match=r"a.ipynb, cell 1 \(import os\): DeadKernelError"):
            start(path, tmp_path / "out")


@slow
@pytest.mark.promise("Names and parameters are text")
def test_parameters_and_paths_are_text_and_lines_are_one_output(notebook, tmp_path):
    values = 'it\'s a "dog" {name} {{x}} $HOME `ls` \\n %s', "'; import os; os._exit(3); '", "{'a': [1]}", "\\"
    given = {f"name_{i}": value for i, value in enumerate(values)}
    parameters = "\n".join(["# parameters", *(f"{name} = 'x'  # of a class" for name in given)])
    printed = "print(name_0)\nprint('50 %\\r100 %', flush=True)\nprint(2)"
    folder = tmp_path / "{x} {0}"
    notebook("a", parameters, *(f"print({name})" for name in given), printed).parent.rename(folder)
    *texts, last = [out.text for out in outputs_of(execute(folder / "a.ipynb", tmp_path / "{out}", given))]
    assert texts == [f"{value}\n" for value in values] and last == f"{values[0]}\n100 %\n2\n"


@slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_warm_kernel_gives_the_outputs_of_a_cold_one(notebook, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND")
    path = notebook(
        "a",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        "!echo shell; pwd\nimport os, sys\nprint('warned', file=sys.stderr)\nos.system('echo system');",
        "import multiprocessing\nprint(multiprocessing.parent_process(), os.environ['MPLBACKEND'], sys.stdin.closed)",
        "%precision 3\n3.14159",
        "import ipywidgets\nprint(ipywidgets.IntSlider(3))",
        "import clipnull as cn\ncn.record(x=1.0)",
    )
    cold, forked = [outputs_of(start(path, tmp_path / "out")) for start in (execute, warm)]
    assert cold == forked and len(cold) == 7


# --- several


@slow
def test_run_writes_metrics_and_pages_and_says_where_they_lie(notebook, tmp_path, capsys):
    good = notebook("good", PARAMETERS, RECORD)
    bad = notebook("bad", PARAMETERS, "1 / 0")
    silent = notebook("silent", PARAMETERS, "print('no record')")
    out, shown = tmp_path / "out", []
    metrics, failures = run([good, bad, silent], out, {"rate": 0.25}, jobs=1, ready=shown.append)
    assert metrics == {"good": {"seed": 3.0, "rate": 0.25}} == json.loads((out / "metrics.json").read_text())
    assert failures[0] == "bad.ipynb, cell 2 (1 / 0): ZeroDivisionError: division by zero"
    assert failures[1].startswith(f"silent.ipynb: nb: 0 outputs of type {MIME}")
    assert "<html" in (out / "good.html").read_text(encoding="utf-8")
    assert shown == [out / "good.html"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == ["good", "silent", "bad"], "the first one, then the longest"
    assert re.fullmatch(rf"good: done in \d+ s: {out}/good.html", printed[0])
    assert printed[2] == f"bad: FAILED: {failures[0]}"


@pytest.mark.nightly
def test_run_uses_this_interpreter_shares_the_cores_and_says_that_nobody_is_there(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "somebody.ipynb")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    seen = "import sys, os\nprint(sys.executable, os.environ['OMP_NUM_THREADS'], os.environ.get('JPY_SESSION_NAME'))"
    run([notebook("a", "seed, rate = 1, 1.0", RECORD, seen)], tmp_path / "out", jobs=2)
    assert outputs_of(tmp_path / "out" / "a.ipynb")[-1].text.split() == [sys.executable, "3", "None"]


def test_a_terminal_gets_a_page_in_the_browser(tmp_path, monkeypatch):
    opened, terminal = [], io.StringIO()
    monkeypatch.setattr("webbrowser.open", opened.append)
    runner.show(tmp_path)  # what a test prints is captured
    monkeypatch.setenv("DISPLAY", ":0")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    runner.show(tmp_path)
    assert opened == [tmp_path.as_uri()]


def test_run_follows_the_profile_and_nothing_of_an_earlier_run_stays(notebook, tmp_path, monkeypatch):
    """Not of a notebook that fails now, nor of one that the profile leaves out."""
    given, out = {}, tmp_path / "out"

    def executed(path, out, parameters, *_):
        given[path.stem] = parameters
        return {}["{x}"]

    monkeypatch.setattr(runner, "execute", executed)
    monkeypatch.setattr(runner, "kernels", contextlib.nullcontext)
    monkeypatch.setenv("CLIPNULL_DATA", "/pictures")
    plain, pictures = notebook("a", PARAMETERS), notebook("b", "# parameters\ndata = ''  # folder\nseed = 1  # s")
    out.mkdir()
    for name in ["a.ipynb", "a.html", "b.ipynb", "b.failed.ipynb", "b.html", "metrics.json", "diff.txt", "mine.html"]:
        (out / name).write_text('{"metadata": {"papermill": {}}}')
    for profile, expected in (("pacs", {"b": {"data": "/pictures/test"}}), ("mini", {"a": {}, "b": {}})):
        given.clear()
        _, failures = run([plain, pictures], out, {"seed": 4}, profile=profile)
        assert given == {name: {**preset, "seed": 4} for name, preset in expected.items()}
        assert failures == [f"{name}.ipynb: '{{x}}'" for name in expected]
        assert {path.name for path in out.iterdir()} == {"mine.html", "metrics.json"}
        assert (out / "metrics.json").read_text() == "{}\n"


# --- an end from outside


@slow
@pytest.mark.promise("Nothing is left running")
def test_a_notebook_over_its_limit_is_stopped_with_its_kernel(notebook, tmp_path, monkeypatch):
    marker = tmp_path / "pid"
    path = notebook("a", MARK.format(marker), SLEEP)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: 9.0 if marker.exists() else 0.0))
    metrics, failures = run([path], tmp_path / "out", limit=8)
    assert metrics == {} and failures == ["a.ipynb, cell 2 (import time): stopped after 8 s, the limit"]
    wait_for(lambda: not alive(int(marker.read_text())), 30)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.failed.ipynb", "metrics.json"}


@slow
@pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.nightly)])
@pytest.mark.promise("Nothing is left running")
def test_a_run_that_is_ended_leaves_no_result_and_no_process(notebook, tmp_path, name):
    marker, out = tmp_path / "pid", tmp_path / "out"
    path = notebook("a", "import subprocess\nsubprocess.Popen(['sleep', '600'])", MARK.format(marker), SLEEP)
    command = [sys.executable, "-m", "clipnull", "run", str(path), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: marker.exists() and marker.read_text())
    family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert int(marker.read_text()) in family and len(family) == 3
    process.send_signal(getattr(signal, name))
    try:
        assert process.wait(60) == {"SIGTERM": 143, "SIGKILL": -9}[name]
        wait_for(lambda: not any(map(alive, family)), 30)
    finally:  # of a test that fails, too
        for pid in filter(alive, family):
            psutil.Process(pid).kill()
    assert [path.name for path in out.iterdir()] == ["a.failed.ipynb"]


# --- the command


def test_metrics_are_compared_with_goldens_and_taken_over(notebook, tmp_path, capsys, monkeypatch):
    path, out = notebook("a", PARAMETERS), tmp_path / "out"
    held = {name: {"value": v, "atol": 0.1, "null": 9.0} for name, v in (("seed", 3.0), ("rate", 0.5))}
    not_run = {"not run": {"value": 1.0, "atol": 0.1, "null": 9.0}}
    monkeypatch.chdir(tmp_path)
    for folder in ("tests", "out"):
        (tmp_path / folder).mkdir()
    Path("tests", "goldens.json").write_text(json.dumps({"mini": {"a": held, "b": not_run}}))
    command = ["run", str(path), "--out", str(out), "--profile", "mini"]
    monkeypatch.setattr(runner, "run", lambda *_: ({"a": {"seed": 3.0, "rate": 0.75}}, []))
    assert cli.main([*command, "--compare"]) == 1
    expected = f"a: rate: expected 0.5 ± 0.1, got 0.75; executed: {out / 'a.ipynb'}"
    assert expected in capsys.readouterr().err.splitlines()
    lines = [line.split() for line in (out / "diff.txt").read_text().splitlines()]
    assert lines[1:] == [["a", "rate", "0.5", "0.1", "0.75", "+0.25", "FAILED"], ["a", "seed", "3", "0.1", "3", "+0"]]
    assert cli.main([*command, "--update-goldens"]) == 0
    assert cli.main([*command, "--compare"]) == 0
