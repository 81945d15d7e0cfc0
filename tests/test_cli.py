"""The command line: what it says of errors, and what each command calls."""

import json
import math
import os
import signal
import subprocess
import sys

import nbformat
import pytest
import torch

import clipnull
from clipnull.bench import sweep as bench
from clipnull.commands import cli, executing
from clipnull.datasets.loading import name_of

COMMANDS = "run publish seeds student book course goldens slides booklet colab leaderboard quiz"
COMMANDS += " bench embed paper data audit near forget check apply undo"
COMMANDS = COMMANDS.split()


def usage_error(capsys, *arguments):
    """The line that a command line with an error in it prints, having ended with status 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == "" and err.startswith("clipnull: ") and len(err.splitlines()) == 1
    return err.removeprefix("clipnull: ").strip()


# --- the parser


def test_commands_are_these_and_each_has_a_function():
    assert list(cli.parser()[1]) == COMMANDS
    assert all(callable(command.get_default("function")) for command in cli.parser()[1].values())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no command given; expected one of run, publish, seeds"),
        (["rnu"], "command: 'rnu' is not known; did you mean 'run'?"),
        (["zzz"], "command: 'zzz' is not known; expected one of 'run', 'publish'"),
        (["run", "--comapre"], "run: --comapre is not an option; did you mean --compare"),
        (["run", "--comapre=1"], "run: --comapre=1 is not an option; did you mean --compare"),
        (["run", "--check"], "run: --check is not an option; "),
        (["run", "--comp"], "run: --comp is not an option; did you mean --compare"),
        (["student", "--zzz"], "student: --zzz is not an option; expected one of --help, --out"),
        (["seeds", "a.ipynb", "--jbos", "2"], "seeds: --jbos is not an option; did you mean --jobs"),
        (["course", "a", "b", "c"], "course: b c: not expected here; see clipnull course --help"),
        (["run", "--jobs", "two"], "argument --jobs: invalid int value: 'two'"),
        (["run", "-p", "seed"], "argument -p: expected 2 arguments"),
        (["run", "--profile", "pcas"], "profile: 'pcas' is not known; did you mean 'pacs'?"),
        (["course"], "the following arguments are required: FOLDER"),
        (["--verison"], "clipnull: --verison is not an option; did you mean --version"),
    ],
)
def test_an_error_of_usage_is_one_line_with_near_matches(capsys, arguments, message):
    assert usage_error(capsys, *arguments).startswith(message)


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"clipnull {clipnull.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys, name):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0 and f"usage: clipnull {name}" in capsys.readouterr().out


# --- status


@pytest.mark.parametrize(
    "error, status, line",
    [
        (ValueError("x: 1 is not\nvalid"), 2, "x: 1 is not valid"),
        (ImportError("sphinx is not installed; expected the extra 'book'"), 2, "sphinx is not installed; expected the"),
        (OSError("cache: '/x' cannot be written"), 2, "cache: '/x' cannot be written"),
        (FileNotFoundError(2, "No such file or directory", "a.json"), 2, "a.json: No such file or directory"),
        (RuntimeError("failed:\na.ipynb"), 1, "failed:\na.ipynb"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_end_with_their_status(monkeypatch, capsys, error, status, line):
    def fail(_):
        raise error

    monkeypatch.setattr(executing, "course", fail)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["course", "x"]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and len(err.splitlines()) == len(line.splitlines())
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP on this system")
@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", None)])
def test_a_signal_ends_the_program_as_an_exception_and_a_second_one_does_not_disturb(monkeypatch, number):
    cleaned = []

    def work(_):
        try:
            signal.raise_signal(number)
            pytest.fail("the program went on")
        finally:
            for again in (signal.SIGTERM, signal.SIGHUP):
                signal.raise_signal(again)
            cleaned.append(True)

    monkeypatch.setattr(executing, "course", work)
    both = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(n, signal.SIG_DFL) for n in both]  # nohup has SIGHUP ignored
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(["course", "x"])
        assert ended.value.code == 128 + number and cleaned
        assert [signal.getsignal(n) for n in both] == [signal.SIG_DFL] * 2
    finally:
        for n, handler in zip(both, before, strict=True):
            signal.signal(n, handler)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP on this system")
def test_a_program_that_was_told_to_outlive_its_terminal_does(monkeypatch):
    monkeypatch.setattr(executing, "course", lambda _: signal.raise_signal(signal.SIGHUP) or 0)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert cli.main(["course", "x"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("what", ["table", "error"])
def test_nothing_is_lost_where_the_terminal_lacks_a_character(what):
    """A bench of minutes ends with a table, which has other signs than ASCII knows, and names of other alphabets."""
    program = (
        "import sys\nfrom clipnull.commands import cli\nfrom clipnull.commands import measuring\n"
        "def work(args):\n"
        "    if args.name == 'error': raise ValueError('donn\\xe9es: nothing there \\udcff')\n"
        "    print('\\u03b1 \\xb1 \\u03b2: \\u72d7'); return 0\n"
        "measuring.bench = work\nsys.exit(cli.main(['bench', '--name', sys.argv[1]]))"
    )
    ascii = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", program, what]
    done = subprocess.run(command, capture_output=True, env=os.environ | ascii)
    if what == "table":
        assert (done.returncode, done.stdout, done.stderr) == (0, b"\\u03b1 \\xb1 \\u03b2: \\u72d7\n", b"")
    else:
        assert (done.returncode, done.stderr) == (2, b"donn\\xe9es: nothing there \\udcff\n")


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    monkeypatch.setattr(executing, "course", lambda _: {}["x"])
    with pytest.raises(KeyError):
        cli.main(["course", "x"])


def test_run_says_what_is_wrong_before_anything_runs(notebook, tmp_path, capsys, monkeypatch):
    path = notebook("a", "# parameters\nseed = 3  # of the draw")
    for arguments, message in (
        (["-p", "sed", "1"], "parameters: a.ipynb has no 'sed'; did you mean seed?"),
        (["--jobs", "0"], "jobs: 0 is not valid; expected a whole number of at least 1"),
        (["--jobs", "-1"], "jobs: -1 is not valid; expected a whole number of at least 1"),
        (["--limit", "0"], "limit: 0.0 is not valid; expected seconds, more than 0"),
    ):
        assert cli.main(["run", str(path), "--out", str(tmp_path / "out"), *arguments]) == 2
        assert capsys.readouterr().err.strip() == message
    monkeypatch.chdir(tmp_path / "notebooks" / "..")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert cli.main(["run"]) == 2
    assert "clipnull course FOLDER" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "empty" / "build").exists()


def test_python_m_is_the_command_and_starts_without_torch(tmp_path):
    """In one process: what it prints, and that nothing heavy was loaded before a command asks for it."""
    program = (
        "import runpy, sys\nsys.argv = ['clipnull', 'course', sys.argv[1]]\n"
        "try: runpy.run_module('clipnull', run_name='__main__')\n"
        "except SystemExit as e: print(e.code, [m for m in ('torch', 'papermill', 'nbconvert', 'IPython', 'numpy') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "c"], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"10 notebooks: {tmp_path / 'c'}", "0 []"], done.stderr


def test_sigterm_ends_a_command_in_good_order():
    program = (
        "import sys, time\nfrom clipnull.commands import cli\nfrom clipnull.commands import executing\n"
        "def wait(_):\n    try:\n        print('here', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('cleaned', flush=True)\n"
        "executing.course = wait\nsys.exit(cli.main(['course', 'x']))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "cleaned\n" and process.returncode == 143


@pytest.mark.nightly
@pytest.mark.slow
def test_the_course_outside_a_clone_runs_where_it_was_written(tmp_path):
    """`clipnull course FOLDER`, then `clipnull run` in it, on one of its notebooks, shortened."""
    folder = tmp_path / "course"
    command = [sys.executable, "-m", "clipnull"]
    subprocess.run([*command, "course", folder], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    for path in sorted(folder.glob("*.ipynb"))[1:]:
        path.unlink()
    (path,) = folder.iterdir()
    nb = nbformat.read(path, 4)
    nb.cells = [nbformat.v4.new_code_cell("import clipnull as cn\ncn.record(x=1.0)")]
    nbformat.write(nb, path)
    done = subprocess.run([*command, "run"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "build" / "metrics.json").read_text()) == {path.stem: {"x": 1.0}}


# --- bench and results


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of pictures that no model has to see: what bench would find of it is given."""
    from PIL import Image

    for domain in ("line", "photo"):
        for name in ("bird", "car"):
            path = tmp_path / "pictures" / "test" / domain / name / "a.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(path)
    return tmp_path / "pictures" / "test"


@pytest.fixture
def found(monkeypatch, clip):
    """What bench.sweep was asked for, and the rows that it gives."""
    asked = []
    request, answers = clipnull.Forget(domains=["photo"]), torch.tensor([0, 1, 0, 1])
    images = clipnull.Images(
        (), answers, torch.tensor([0, 0, 1, 1]), clipnull.Vocabulary(["bird", "car"], ["line", "photo"])
    )
    row = bench.row_of(request, "gated", "domain", answers, 1 - answers, images)

    def sweep(clip, images, methods, paradigms):
        asked.append((len(images), methods, paradigms))
        return [row]

    monkeypatch.setattr(bench, "sweep", sweep)
    monkeypatch.setattr("clipnull.models.load", lambda name, pretrained: clip)
    return asked, row


def test_bench_writes_rows_and_prints_the_table(folder, found, capsys):
    asked, row = found
    file = folder.parent / "rows.json"
    file.write_text("old")
    options = ["--methods", "gated", "--paradigms", "complete", "--prompts", "domain", "--json", str(file)]
    assert cli.main(["bench", str(folder), *options]) == 0
    assert asked == [(4, ("gated",), ("complete",))]
    assert capsys.readouterr().out.startswith("complete: 1 requests, prompts 'domain'; 1 left out")
    written = json.loads(file.read_text())
    assert (
        written["rows"] == [{key: value for key, value in row.items() if key != "bits"}]
        and written["kind"] == "bench"
        and written["name"] == "pictures"
    )
    assert written["pictures"] == 4 and written["requests"] == {"complete": 2}
    assert cli.main(["bench", str(folder), "--name", "mine", "--json", str(file), "--prompts", "domain"]) == 0
    assert json.loads(file.read_text())["name"] == "mine"
    assert asked[1][1:] == (tuple(clipnull.METHODS), bench.PARADIGMS)


@pytest.mark.parametrize("data, name", [(None, "miniworld"), ("a/pacs/test", "pacs"), ("a/pacs", "pacs"), ("/x/", "x")])
def test_results_call_a_data_set_by_its_folder(data, name):
    assert name_of(data) == name


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--methods", "oblik"], "methods: 'oblik' is not known; did you mean 'oblique'?"),
        (["--methods", "ridge", "ridge"], "methods: 'ridge' given twice"),
        (["--paradigms", "total"], "paradigms: 'total' is not known"),
        (["--prompts", "fre"], "prompts: 'fre' is not known; did you mean 'free'?"),
        (["--json", "no/such/folder.json"], "json: 'no/such/folder.json' cannot be written"),
        (["--json", "."], "json: '.' cannot be written"),
    ],
)
def test_wrong_arguments_of_bench_are_told_before_any_work(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("clipnull.datasets.loading.load_images", lambda _: pytest.fail("work began"))
    assert cli.main(["bench", str(folder), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(message) and len(err.splitlines()) == 1


def test_folders_that_cannot_be_measured_are_told(folder, capsys):
    assert cli.main(["bench", str(folder / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    for domain in ("line", "photo"):
        (folder / domain / "car" / "a.png").unlink()
    assert cli.main(["bench", str(folder)]) == 2
    assert "holds 1 class with readable pictures (bird); expected at least two" in capsys.readouterr().err


def test_a_file_of_bench_is_replaced_whole_or_not_at_all(folder, found, capsys):
    file = folder.parent / "rows.json"
    file.write_text("old")
    found[1]["forgetting_rate"] = math.nan
    assert cli.main(["bench", str(folder), "--json", str(file)]) == 2
    assert "not JSON compliant" in capsys.readouterr().err
    assert file.read_text() == "old" and sorted(p.name for p in folder.parent.iterdir()) == ["rows.json", "test"]
