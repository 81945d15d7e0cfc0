"""Executing notebooks, on small ones."""

import json
import os
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
from clipnull.commands.console import terminable
from clipnull.course import run as runner
from clipnull.course.metrics import MIME, metrics_of
from clipnull.course.run import NotebookError, execute, run

PARAMETERS = "# parameters\nseed = 3  # of the draw\nrate = 0.5  # share\nfast = True  # or not"
RECORD = (
    "from IPython.display import display\n"
    f"display({{'{MIME}': {{'seed': float(seed), 'rate': rate}}, 'text/plain': ''}}, raw=True)"
)
slow = pytest.mark.slow


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


@pytest.fixture
def no_gpu(monkeypatch):
    for module in ("profiles", "run"):
        monkeypatch.setattr(f"clipnull.course.{module}.default_profile", lambda: "mini")


# --- a source is never replaced


@pytest.fixture
def source(notebook, tmp_path):
    """A notebook, and the other ways to it in NAMES."""
    path = notebook("00_a", PARAMETERS, RECORD)
    (tmp_path / "link").symlink_to(path.parent, target_is_directory=True)
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / path.name).symlink_to(path)
    return path


NAMES = {
    "the folder itself": ("notebooks/00_a.ipynb", "notebooks"),
    "absolute": ("{}/notebooks/00_a.ipynb", "{}/notebooks"),
    "a way round": ("notebooks/00_a.ipynb", "link/../notebooks/."),
    "a link to the folder": ("notebooks/00_a.ipynb", "link"),
    "through a link to the folder": ("link/00_a.ipynb", "notebooks"),
    "through a link to the notebook": ("copies/00_a.ipynb", "notebooks"),
    "the folder of a link to the notebook": ("copies/00_a.ipynb", "copies"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("how", ["execute", "run", "command"])
@pytest.mark.promise("Nothing is written outside its target")
def test_a_source_is_never_replaced_by_its_result(source, tmp_path, monkeypatch, capsys, how, names):
    monkeypatch.chdir(tmp_path)
    path, out = (name.format(tmp_path) for name in names)
    before = source.read_bytes(), sorted(p.name for p in source.parent.iterdir())
    if how == "command":
        assert cli.main(["run", path, "--out", out]) == 2
        told = capsys.readouterr().err
    else:
        with pytest.raises(ValueError) as caught:
            execute(Path(path), Path(out)) if how == "execute" else run([Path(path)], Path(out))
        told = str(caught.value)
    assert told.startswith("out: ") and "source 00_a.ipynb" in told and len(told.splitlines()) == 1
    assert (source.read_bytes(), sorted(p.name for p in source.parent.iterdir())) == before
    assert (tmp_path / "copies" / source.name).is_symlink()


def test_results_go_into_no_folder_of_another_source(notebook, tmp_path):
    path, other = notebook("a", RECORD), tmp_path / "other" / "b.ipynb"
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    for out in (path.parent, other.parent):
        with pytest.raises(ValueError, match=f"out: {out} is the folder of the source"):
            run([path, other], out)


@pytest.mark.parametrize("how", ["execute", "run"])
@pytest.mark.promise("Nothing is written outside its target")
def test_a_notebook_that_no_run_has_written_is_not_replaced(notebook, tmp_path, how):
    path, work = notebook("a", RECORD), tmp_path / "student" / "a.ipynb"
    work.parent.mkdir()
    work.write_text('{"cells": ["the work of a student"]}')
    with pytest.raises(ValueError, match=f"out: {work} was not written by a run"):
        execute(path, work.parent) if how == "execute" else run([path], work.parent)
    assert "work of a student" in work.read_text()


# --- execute


@slow
def test_execute_injects_parameters_and_works_in_the_folder_of_the_notebook(notebook, tmp_path):
    path = notebook("a", PARAMETERS, RECORD, "import os; print(os.getcwd())")
    result = execute(path, tmp_path / "out", {"seed": 9})
    nb = nbformat.read(result, 4)
    assert result == tmp_path / "out" / "a.ipynb"
    assert metrics_of(nb) == {"seed": 9.0, "rate": 0.5}
    assert outputs_of(nb)[-1].text.strip() == str(path.parent)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.ipynb"]


LONG = 'raise RuntimeError("Error(s) in loading state_dict for CLIP:\\n\\tMissing key(s)\\n\\n\\tsize mismatch: why")'
FAILING = [  # parameters, the line that fails, and its reason, which keeps the end of many lines
    ({}, LONG, "RuntimeError: Error(s) in loading state_dict for CLIP: Missing key(s) size mismatch: why"),
    ({"seed": 9}, "x = 1 / 0", "ZeroDivisionError: division by zero"),
]


@slow
@pytest.mark.parametrize(("given", "line", "reason"), FAILING)
def test_a_failing_cell_is_named_and_what_ran_is_kept(notebook, tmp_path, given, line, reason):
    path = notebook("a", PARAMETERS, "print('before')", f"{line}\ny = 2", "print('after')")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.ipynb").write_text('of an earlier run: {"metadata": {"papermill": {}}}')
    with pytest.raises(NotebookError) as caught:
        execute(path, tmp_path / "out", given)
    assert str(caught.value) == f"a.ipynb, cell 3 ({line}): {reason}"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.failed.ipynb"]
    assert "before" in (tmp_path / "out" / "a.failed.ipynb").read_text()


@pytest.mark.nightly
@slow
def test_a_hanging_cell_is_named(notebook, tmp_path):
    path = notebook("a", "x = 1", "import time\ntime.sleep(600)")
    with pytest.raises(NotebookError, match=r"a.ipynb, cell 2 \(import time\): .*Timeout"):
        execute(path, tmp_path / "out", timeout=5)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.failed.ipynb"]


@pytest.mark.nightly
@slow
def test_a_dying_kernel_is_named(notebook, tmp_path):
    path = notebook("a", "import os\nos._exit(3)")
    with pytest.raises(NotebookError, match=r"a.ipynb, cell 1 \(import os\): DeadKernelError"):
        execute(path, tmp_path / "out")


@pytest.mark.nightly
@slow
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
        assert execute(notebook("late", "1 + 1"), tmp_path / "out").is_file()
    else:
        with pytest.raises(NotebookError, match="died before replying"):
            execute(notebook("never", "1 + 1"), tmp_path / "out")
    assert len(calls) == 3


def test_execute_refuses_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="path: .*b.ipynb does not exist; expected a notebook"):
        execute(tmp_path / "b.ipynb", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{"sed": 1}, {"seed": "many"}])
def test_wrong_parameters_are_refused_before_anything_runs(notebook, tmp_path, given):
    path = notebook("a", PARAMETERS, RECORD)
    for start in (lambda: execute(path, tmp_path / "out", given), lambda: run([path], tmp_path / "out", given)):
        with pytest.raises(ValueError, match="did you mean seed|seed: 'many' is not valid"):
            start()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", ""),
        ("Executing\na.ipynb, cell 1 (x): ValueError: y\n", "a.ipynb, cell 1 (x): ValueError: y"),
        (
            'noise\nTraceback (most recent call last):\n  File "a", line 1\n    f()\n    ^^^\nKeyError: 1\n\n'
            "During handling of the above exception, another exception occurred:\n\n"
            'Traceback (most recent call last):\n  File "b", line 1\n\n  File "c"\nx.NoTemplate: none named lab in:\n'
            "\t/usr/share\n\t/home\n",
            "x.NoTemplate: none named lab in: /usr/share /home",
        ),
        (
            "Traceback (most recent call last):\n  File 'a'\nValueError: " + "long " * 99 + "\nmore\nthe reason",
            "ValueError: " + ("long " * 99)[:188] + " ... the reason",
        ),
    ],
)
def test_the_reason_is_found_in_what_a_process_said(log, reason):
    assert runner._reason(log) == reason


@pytest.mark.nightly
@slow
def test_a_page_that_cannot_be_made_for_want_of_templates_says_so(notebook, tmp_path, monkeypatch):
    """As with a package of nbconvert that was copied without what belongs to it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'execute' in sys.argv:\n"
        "    import nbconvert.exporters.templateexporter as t\n"
        "    t.TemplateExporter.get_prefix_root_dirs = lambda self: ['/nowhere', '/neither']\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = notebook("a", "seed, rate = 1, 1.0", RECORD)
    metrics, failures = run([path], tmp_path / "out")
    assert metrics == {} and len(failures) == 1
    assert failures[0].startswith("a.ipynb: its page cannot be made (ValueError: No template sub-directory with name ")
    assert "/nowhere /neither" in failures[0]


# --- run


@slow
def test_run_writes_metrics_pages_and_a_table(notebook, tmp_path, capsys):
    good = notebook("good", PARAMETERS, RECORD)
    bad = notebook("bad", PARAMETERS, "1 / 0")
    silent = notebook("silent", PARAMETERS, "print('no record')")
    out = tmp_path / "out"
    metrics, failures = run([good, bad, silent], out, {"rate": 0.25})
    assert metrics == {"good": {"seed": 3.0, "rate": 0.25}} == json.loads((out / "metrics.json").read_text())
    assert failures[0] == "bad.ipynb, cell 2 (1 / 0): ZeroDivisionError: division by zero"
    assert failures[1].startswith(f"silent.ipynb: nb: 0 outputs of type {MIME}")
    assert "<html" in (out / "good.html").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "good: started" in printed and "good: done in" in printed and "bad: FAILED" in printed
    assert any(line.split() == ["good", "rate", "0.25"] for line in printed.splitlines())


@pytest.mark.nightly
@slow
def test_run_uses_this_interpreter_shares_the_cores_and_says_that_nobody_is_there(notebook, tmp_path, monkeypatch):
    kernel = tmp_path / "data" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JPY_SESSION_NAME", "somebody.ipynb")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    told = "import sys, os\nprint(sys.executable, os.environ['OMP_NUM_THREADS'], os.environ.get('JPY_SESSION_NAME'))"
    path = notebook("a", "seed, rate = 1, 1.0", RECORD, told)
    run([path], tmp_path / "out", jobs=2)
    text = outputs_of(nbformat.read(tmp_path / "out" / "a.ipynb", 4))[-1].text
    assert text.split() == [sys.executable, "3", "None"]


@pytest.mark.nightly
@slow
def test_run_follows_the_profile(notebook, tmp_path, monkeypatch, no_gpu):
    monkeypatch.setenv("CLIPNULL_DATA", "/pictures")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    plain = notebook("a", PARAMETERS, RECORD)
    pictures = notebook(
        "b",
        "# parameters\ndata = ''  # folder\nseed = 1  # s",
        "rate = 0.0",
        RECORD,
        "import os\nprint(data, os.environ['CUDA_VISIBLE_DEVICES'])",
    )
    printed = {}
    for profile in ("pacs", "mini"):
        metrics, failures = run([plain, pictures], tmp_path / profile, {"seed": 4}, profile=profile)
        printed[profile] = outputs_of(nbformat.read(tmp_path / profile / "b.ipynb", 4))[-1].text.split()
        assert not failures and metrics["b"]["seed"] == 4 and ("a" in metrics) == (profile == "mini")
    assert printed == {"pacs": ["/pictures/test", "0"], "mini": []}


@pytest.mark.nightly
@slow
def test_run_goes_two_at_a_time(notebook, tmp_path):
    meet = (
        "import time, pathlib\npathlib.Path('{me}').touch()\nwhile not pathlib.Path('{you}').exists(): time.sleep(0.1)"
    )
    paths = [notebook(me, "seed, rate = 1, 1.0", meet.format(me=me, you=you), RECORD) for me, you in ("ab", "ba")]
    metrics, failures = run(paths, tmp_path / "out", jobs=2, limit=240)
    assert set(metrics) == {"a", "b"} and not failures


@slow
@pytest.mark.promise("Nothing is left running")
def test_a_notebook_over_its_limit_is_stopped_with_its_kernel(notebook, tmp_path, monkeypatch):
    marker = tmp_path / "pid"
    path = notebook("a", f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    clock = SimpleNamespace(monotonic=lambda: 9.0 if marker.exists() and marker.read_text() else 0.0, sleep=time.sleep)
    monkeypatch.setattr(runner, "time", clock)  # the limit passes as soon as the kernel is at work
    metrics, failures = run([path], tmp_path / "out", limit=8)
    assert metrics == {} and failures == ["a.ipynb: stopped, as it ran for 8 s"]
    wait_for(lambda: not alive(marker), 30)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.failed.ipynb", "metrics.json"}


STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGKILL": -9}
late = pytest.mark.nightly  # seconds each, and what they share is tested on all signals
RUN_ENDED = ["SIGINT", "SIGTERM", pytest.param("SIGHUP", marks=late), "SIGKILL"]
NOTEBOOK_ENDED = [pytest.param("SIGINT", marks=late), "SIGTERM", pytest.param("SIGHUP", marks=late)]


def in_front():
    """As a terminal starts a program: a script has what it leaves in the background ignore SIGINT, nohup SIGHUP."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def started(notebook, tmp_path, *command):
    """A command that runs a notebook which never ends, as soon as its kernel is at work: (process, pid of the kernel).

    The number of the process of the notebook is in the file "parent".
    """
    marker, parent = tmp_path / "pid", tmp_path / "parent"
    path = notebook(
        "a",
        f"import os, time\nopen({str(parent)!r}, 'w').write(str(os.getppid()))\n"
        f"open({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)",
    )
    command = [sys.executable, "-m", "clipnull", *(str(path) if part == "NOTEBOOK" else part for part in command)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, preexec_fn=in_front)
    wait_for(lambda: marker.exists() and marker.read_text())
    return process, marker, parent


@slow
@pytest.mark.parametrize("name", RUN_ENDED)
@pytest.mark.promise("Nothing is left running")
def test_a_run_that_is_ended_leaves_no_result_and_no_process(notebook, tmp_path, name):
    out = tmp_path / "out"
    process, *markers = started(notebook, tmp_path, "run", "NOTEBOOK", "--out", str(out), "--jobs", "1")
    assert all(alive(marker) for marker in markers)
    process.send_signal(getattr(signal, name))
    assert process.wait(60) == STATUS[name]
    try:
        for marker in markers:
            wait_for(lambda marker=marker: not alive(marker), 30)
    finally:  # of a test that fails, too
        for marker in filter(alive, markers):
            psutil.Process(int(marker.read_text())).kill()
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_ends_a_program_is_an_exception_in_it(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as caught, terminable():
            try:
                os.kill(os.getpid(), number)
                time.sleep(60)
            finally:
                assert signal.getsignal(number) == signal.SIG_IGN  # a second one disturbs no cleaning up
        assert caught.value.code == STATUS[name] and signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        with terminable():
            assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@slow
@pytest.mark.parametrize("name", NOTEBOOK_ENDED)
@pytest.mark.promise("Nothing is left running")
def test_a_notebook_that_is_ended_leaves_no_kernel(notebook, tmp_path, name):
    out = tmp_path / "out"
    process, kernel, _ = started(notebook, tmp_path, "execute", "NOTEBOOK", str(out))
    process.send_signal(getattr(signal, name))
    assert process.wait(60)
    wait_for(lambda: not alive(kernel), 30)
    assert not list(out.glob(".*")) and not (out / "a.ipynb").exists()


@pytest.mark.nightly
@slow
def test_a_notebook_without_its_runner_is_not_executed(notebook, tmp_path):
    """The runner may have ended before the process of the notebook could look for it."""
    path, gone = notebook("a", "import time\ntime.sleep(600)"), subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-m", "clipnull", "execute", str(path), str(tmp_path / "out"), "--runner", str(gone.pid)]
    assert subprocess.run(command, timeout=200).returncode == 143
    assert not (tmp_path / "out" / "a.ipynb").exists()


@slow
@pytest.mark.promise("Names and parameters are text")
def test_parameters_with_quotes_and_braces_are_values_and_no_code(notebook, tmp_path):
    values = 'it\'s a "dog" {name} {{x}} $HOME `ls` \\n %s', "'; import os; os._exit(3); '", "{'a': [1]}", "\\"
    given = {f"name_{i}": value for i, value in enumerate(values)}
    parameters = "\n".join(["# parameters", *(f"{name} = 'x'  # of a class" for name in given)])
    path = notebook("a", parameters, *(f"print({name})" for name in given))
    result = execute(path, tmp_path / "out", given)
    assert [out.text for out in outputs_of(nbformat.read(result, 4))] == [f"{value}\n" for value in values]


def test_run_refuses_nothing_missing_and_twice(notebook, tmp_path):
    path = notebook("a", RECORD)
    missing = tmp_path / "b.ipynb"
    for notebooks, message in (([], "none given"), ([path, path], "same name"), ([missing], "does not exist")):
        with pytest.raises(ValueError, match=message):
            run(notebooks, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True])
def test_run_refuses_jobs_that_are_no_number_of_jobs(notebook, tmp_path, jobs):
    with pytest.raises(ValueError, match=f"^jobs: {jobs} is not valid; expected a whole number of at least 1$"):
        run([notebook("a", RECORD)], tmp_path / "out", jobs=jobs)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_run_refuses_a_limit_that_nothing_can_keep(notebook, tmp_path, limit):
    with pytest.raises(ValueError, match=f"^limit: {limit} is not valid; expected seconds, more than 0$"):
        run([notebook("a", RECORD)], tmp_path / "out", limit=limit)


# --- the command


@pytest.mark.nightly
@slow
def test_a_failure_names_cell_metric_expected_got_and_where_the_notebook_is(notebook, tmp_path, capsys, monkeypatch):
    path = notebook("a", PARAMETERS, "x = 1", RECORD)
    goldens, out = tmp_path / "goldens.json", tmp_path / "out"
    held = {name: {"value": v, "atol": 0.1, "null": 9.0} for name, v in (("seed", 3.0), ("rate", 0.5))}
    not_run = {"not run": {"value": 1.0, "atol": 0.1, "null": 9.0}}
    goldens.write_text(json.dumps({"mini": {"a": held, "b": not_run}}))
    command = ["run", str(path), "--out", str(out), "--goldens", str(goldens), "--profile", "mini"]
    assert cli.main([*command, "--compare", "-p", "rate", "0.75"]) == 1
    assert (
        f"a.ipynb, cell 3 (from IPython.display import display): rate: expected 0.5 ± 0.1, got 0.75; "
        f"executed: {out / 'a.ipynb'}"
    ) in capsys.readouterr().err.splitlines()
    lines = [line.split() for line in (out / "diff.txt").read_text().splitlines()]
    assert lines[1:] == [["a", "rate", "0.5", "0.1", "0.75", "+0.25", "FAILED"], ["a", "seed", "3", "0.1", "3", "+0"]]
    monkeypatch.setattr(runner, "run", lambda *_: ({"a": {"seed": 3.0, "rate": 0.75}}, []))
    assert cli.main([*command, "--update-goldens"]) == 0
    assert "a: rate: 0.5 -> 0.75" in capsys.readouterr().out
    assert cli.main([*command, "--compare"]) == 0


@pytest.mark.nightly
@slow
def test_a_failed_notebook_is_told_in_a_line_with_status_1(notebook, tmp_path, capsys):
    assert cli.main(["run", str(notebook("bad", "1 / 0")), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "failed:\nbad.ipynb, cell 1 (1 / 0): ZeroDivisionError: division by zero\n"
