"""The command line: its messages, its exit status, and how a signal ends it."""

import errno
import os
import re
import signal
import subprocess
import sys

import pytest

import clipnull
from clipnull.commands import cli, doctor, teaching

COMMANDS = "run book publish seeds student slides booklet colab course quiz leaderboard"
COMMANDS += " doctor data embed audit near forget queries check apply undo bench paper"
COMMANDS = COMMANDS.split()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A command that writes after all, writes there."""
    monkeypatch.chdir(tmp_path)


# --- usage


def test_the_doctor_says_one_line_or_what_to_do(capsys, monkeypatch):
    def _memory():
        raise AssertionError("0.4 GB free; expected 1 GB")

    monkeypatch.setattr(doctor, "CHECKS", {doctor._packages: "install it", doctor._kernel: "install that"})
    assert cli.main(["doctor"]) == 0
    assert re.fullmatch(r"ready: Python 3\.\d+\.\d+, torch \S+, the kernel python3\n", capsys.readouterr().out)
    monkeypatch.setattr(doctor, "CHECKS", {doctor._packages: "install it", _memory: "close other programs"})
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert said == "memory: AssertionError: 0.4 GB free; expected 1 GB\n  -> close other programs\n"


def test_every_command_has_a_function_and_a_line_in_the_help(capsys):
    commands = cli.parser()[1]
    assert list(commands) == COMMANDS and all(callable(commands[name].get_default("function")) for name in COMMANDS)
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out == f"clipnull {clipnull.__version__}\n"
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    first, _, listed = capsys.readouterr().out.partition("\nthe course:\n")
    assert ended.value.code == 0 and {*re.findall(r"(?m)^  ([a-z]+) +\S", first)} < {*COMMANDS}
    assert re.findall(r"(?m)^  ([a-z]+) +\S", listed.partition("positional arguments")[0]) == COMMANDS


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "no command given; expected one of run, book, publish"),
        ("rnu", "command: 'rnu' is unknown; did you mean 'run'?"),
        ("run --comp", "run: --comp is not an option; did you mean --compare"),
        ("student --zzz", "student: --zzz is not an option; expected one of --help, --out"),
        ("quiz b", "quiz: b: not expected here; see clipnull quiz --help"),
        ("run --profile pcas", "profile: 'pcas' is unknown; did you mean 'pacs'?"),
        ("course", "the following arguments are required: FOLDER"),
        ("--verison", "clipnull: --verison is not an option; did you mean --version"),
    ],
)
def test_an_error_of_usage_is_one_line_with_near_matches(capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == "" and err.startswith(f"clipnull: {message}")
    assert len(err.splitlines()) == 1


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
def test_an_error_of_the_user_ends_with_its_status(monkeypatch, capsys, error, status, line):
    def fail(_):
        raise error

    monkeypatch.setattr(teaching, "edition", fail)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["course", "x"]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and len(err.splitlines()) == len(line.splitlines())
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    monkeypatch.setattr(teaching, "edition", lambda _: {}["x"])
    with pytest.raises(KeyError):
        cli.main(["course", "x"])


# --- before any work


def test_run_refuses_wrong_arguments_before_anything_runs(notebook, tmp_path, capsys, monkeypatch):
    path = notebook("a", "# parameters\nseed = 3  # of the draw")
    path.parent.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["elsewhere/a.ipynb", "-p", "sed", "1"], "parameters of a.ipynb: 'sed' is unknown; did you mean 'seed'?"),
        (["elsewhere/a.ipynb", "--limit", "0"], "limit: 0.0 is out of range; expected a number in [1, inf]"),
        ([], "clipnull course FOLDER"),
    ):
        assert cli.main(["run", *arguments]) == 2 and message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_bench_refuses_wrong_arguments_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("clipnull.datasets.loading.load_images", lambda _: pytest.fail("work began"))
    for arguments, message in (
        ("--methods oblik", "methods: 'oblik' is unknown; did you mean 'oblique'?"),
        ("--paradigms total", "paradigms: 'total' is unknown"),
        ("--prompts fre", "prompts: 'fre' is unknown; did you mean 'free'?"),
    ):
        assert cli.main(["bench", str(tmp_path), *arguments.split()]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(message) and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "bench --json", "audit --classes dog --json", "data --json", "data --tars",
        "embed x --model m --out", "paper x --out", "run --out", "book --out", "forget --vocabulary n --out",
        "queries q --out", "check p --index i --queries q --json", "apply p --index i --out", "undo --index i --out",
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_told_before_any_work(command, tmp_path, monkeypatch, capsys):
    """Every option that takes a place: below a file, in a missing folder for a file, or a folder for a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    *words, option = command.split()
    places = ["file/x"] + ["no/x", "folder"] * (option == "--json")
    for place in places:
        assert cli.main([*words, option, place]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"{option[2:]}: '{place}' cannot be written; expected a ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_no_message_shows_a_temporary_name(tmp_path, monkeypatch, capsys):
    """A disk that is full while the results are written."""
    (tmp_path / "a.json").write_text("before")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    assert cli.main(["data", "--json", str(tmp_path / "a.json")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'a.json'}: No space left on device\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "before"


# --- signals, terminals, processes


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP on this system")
@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", None)])
def test_a_signal_ends_the_program_as_an_exception_and_a_second_one_does_not_disturb(monkeypatch, number):
    cleaned, both = [], (signal.SIGTERM, signal.SIGHUP)

    def work(_):
        try:
            signal.raise_signal(number)
            pytest.fail("the program went on")
        finally:
            for again in both:
                signal.raise_signal(again)
            cleaned.append(True)

    monkeypatch.setattr(teaching, "edition", work)
    before = [signal.signal(n, signal.SIG_DFL) for n in both]  # nohup ignores SIGHUP
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(["course", "x"])
        assert ended.value.code == 128 + number and cleaned
        assert [signal.getsignal(n) for n in both] == [signal.SIG_DFL] * 2
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does: the program outlives its terminal
        monkeypatch.setattr(teaching, "edition", lambda _: signal.raise_signal(signal.SIGHUP) or 0)
        assert cli.main(["course", "x"]) == 0
    finally:
        for n, handler in zip(both, before, strict=True):
            signal.signal(n, handler)


def test_characters_that_the_terminal_lacks_are_escaped():
    """A bench of minutes ends with a table, which has other signs than ASCII knows, and names of other alphabets."""
    program = (
        "import sys\nfrom clipnull.commands import cli, teaching\n"
        "def work(args):\n    print('\\u03b1', flush=True)\n    raise ValueError('\\xb1')\n"
        "teaching.edition = work\nsys.exit(cli.main(['course', 'x']))"
    )
    ascii = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=os.environ | ascii)
    assert (done.stdout, done.stderr, done.returncode) == (b"\\u03b1\n", b"\\xb1\n", 2)


def test_python_m_is_the_command_and_starts_without_torch(tmp_path):
    """In one process: its output, and that nothing heavy was loaded before a command needs it."""
    program = (
        "import runpy, sys\nsys.argv = ['clipnull', 'course', sys.argv[1]]\n"
        "try: runpy.run_module('clipnull', run_name='__main__')\n"
        "except SystemExit as e: print(e.code, [m for m in ('torch', 'papermill', 'nbconvert', 'IPython', 'numpy') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "c"], capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["0 []"], done.stderr
