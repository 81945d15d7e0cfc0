"""The targets without make: the same names and the same commands as those of the Makefile."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tasks():
    spec = importlib.util.spec_from_file_location("tasks", ROOT / ".ci" / "tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VARIABLES = {"CLIPNULL_DATA": "a", "CLIPNULL_EMBEDDINGS": "b", "DATA": "pacs 'Office Home'", "ADDRESS": "https://x"}
MADE = (
    "run lint check test nightly notebooks lab outputs student book slides booklet colab results bench paper measure "
    "format"
)


@pytest.mark.parametrize("target", MADE.split())
@pytest.mark.parametrize("given", [VARIABLES, {"DATA": "x", "CLIPNULL_DATA": "", "CLIPNULL_EMBEDDINGS": ""}])
def test_a_target_runs_the_commands_of_the_makefile(tasks, monkeypatch, target, given):
    monkeypatch.chdir(ROOT)
    done, made = [], shutil.which("make")
    if made is None or os.name == "nt":
        pytest.skip("no make that reads this Makefile")
    monkeypatch.setattr(tasks, "run", done.append)
    monkeypatch.setattr(tasks, "environment", lambda given: None)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    tasks.make(target, given)
    words = [made, "-n", target, *(f"{name}={value}" for name, value in given.items())]
    told = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout.replace("\\\n", " ")
    lines = [line for line in told.splitlines() if re.match(r"(\w+=\S+ )*\.venv/bin/python (?!-m pip )", line)]
    python = [shlex.split(line.replace(".venv/bin/python", "PY")) for line in lines]
    assert [shlex.split(line) for line in done] == python != []


def test_every_target_of_the_makefile_is_known(tasks, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert set(tasks.targets()) == {*MADE.split(), "help", "env", "lock", "clean"}


def test_help_and_errors_need_no_environment(tmp_path):
    def said(*words):
        done = subprocess.run([sys.executable, ROOT / ".ci" / "tasks.py", *words], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, text = said()
    assert code == 0 and "tasks.py slides" in text and "tasks.py check" in text
    code, text = said("bok")
    assert code == 1 and text.startswith("target: 'bok' is not known; expected one of help, run")


def test_windows_paths_are_kept(tasks):
    (line,) = tasks.commands("paper", {"DATA": r"C:\pictures\pacs"})
    assert shlex.split(line)[-1] == "C:/pictures/pacs"


# --- other machines


def test_binder_has_what_the_notebooks_need_of_the_environment():
    def entries(path):
        text = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
        packages = text["dependencies"]
        return {*(p for p in packages if isinstance(p, str)), *packages[-1]["pip"]}

    here, all_ = entries(".binder/environment.yml"), entries("environment.yml")
    assert here <= all_ and {"jupyterlab>=4.0", "pytorch>=2.6", "seaborn>=0.13"} <= here
    executable = (ROOT / ".binder" / "postBuild").stat().st_mode & 0o111
    assert executable or os.name == "nt", "Binder runs it only if it is executable"


def test_the_container_makes_the_environment():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"] == "make env TORCH=cpu"
    python = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python.endswith("/.venv/bin/python") and container["image"].endswith(":3.11")
