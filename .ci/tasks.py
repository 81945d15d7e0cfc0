"""Every make target without make: `python .ci/tasks.py check`. Only Python 3.11 or later is needed, also on Windows.

`python .ci/tasks.py help` lists the targets; variables are set as for make: `python .ci/tasks.py paper DATA="pacs"`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(".venv")
PY = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
PACKAGES, READY, LOCK = VENV / "packages", VENV / "ready", Path("requirements.lock")
PYTEST = "OMP_NUM_THREADS=1 PY -m pytest -n 2 --dist loadgroup"
TASKS = {
    "notebooks": ["PY -m clipnull run"],
    "lint": [
        "PY -m ruff format --check .",
        "PY -m ruff check .",
        "PY -m pyrefly check --python-interpreter-path PY",
    ],
    "check": [f'{PYTEST} --doctest-modules clipnull tests -m "not slow and not notebooks and not nightly"'],
    "test": [f'{PYTEST} --doctest-modules clipnull tests -m "not nightly"'],
    "nightly": [f"CLIPNULL_NIGHTLY=1 {PYTEST} --doctest-modules clipnull tests"],
    "lab": ["PY -m jupyter lab notebooks"],
    "outputs": ["PY -m clipnull publish"],
    "student": ["PY -m clipnull student"],
    "book": ["PY -m clipnull book"],
    "slides": ["PY -m clipnull slides"],
    "booklet": ["PY -m clipnull booklet"],
    "measure": ["PY data/build/measure.py"],
    "format": ["PY -m ruff check --fix-only --quiet .", "PY -m ruff format ."],
}
"""The targets that are only commands, as in the Makefile: PY stands for the environment's Python."""
FIRST = {"run": ["env", "notebooks"], "check": ["lint"], "test": ["lint"], "nightly": ["lint"]}
"""What a target does before its own commands; all but `env`, `clean` and `help` make the environment first."""


def commands(target: str, given: dict[str, str]) -> list[str]:
    """The command lines of one target, with the variables `given`; paths of Windows get slashes, for `shlex`."""
    given = {name: value.replace("\\", "/") for name, value in given.items()}
    if target == "colab":
        address = given.get("ADDRESS")
        return ["PY -m clipnull colab" + (f" --address {address}" if address else "")]
    if target == "results":
        found = " ".join(path.as_posix() for path in sorted(Path("build").glob("bench-*.json")))
        return [" ".join(f"PY -m clipnull results {found} --picture".split())]
    if target == "paper":
        if not given.get("DATA"):
            sys.exit('DATA: no folder is named; expected such as DATA="pacs office-home DomainNet"')
        return [f"PY -m clipnull paper {given['DATA']} {given.get('OPTIONS', '')}".strip()]
    if target == "bench":
        pacs, vectors = given.get("CLIPNULL_DATA"), given.get("CLIPNULL_EMBEDDINGS")
        sets = [("", "miniworld test", "miniworld")]
        sets += [(f"{pacs}/test", "PACS test", "pacs")] if pacs else []
        sets += [(f"{vectors}/vitb32_style.npz", "OpenAI ViT-B/32, photo and drawing", "style")] if vectors else []
        sets += [(f"{vectors}/vitb32_source.npz", "OpenAI ViT-B/32, photo and CIFAR", "source")] if vectors else []
        lines = [f'PY -m clipnull bench "{a}" --name "{b}" --json build/bench-{c}.json' for a, b, c in sets]
        return [line.replace(' ""', "") for line in lines] + [
            "PY -m clipnull bench --speed --json build/bench-speed.json"
        ]
    return TASKS.get(target, [])


def run(line: str) -> None:
    """Run one command line; what stands before PY are variables of the environment. The first failure ends all."""
    words = shlex.split(line)
    start = words.index("PY")
    variables = dict(word.split("=", 1) for word in words[:start])
    words = [str(PY) if word == "PY" else word for word in words[start:]]
    print(shlex.join(words), flush=True)
    code = subprocess.run(words, env={**os.environ, **variables}).returncode
    if code:
        sys.exit(code)


def environment(given: dict[str, str]) -> None:
    """Make .venv where it is missing or older than what it is made of; make and this program know each other's."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this program is all that runs before there is an environment
        sys.exit(f"this Python is {sys.version.split()[0]}; expected 3.11 or later")
    if _older(PACKAGES, LOCK, Path(".ci/env.sh"), Path(".ci/cpu_torch.py")):
        if sys.platform == "linux":  # has two builds of PyTorch
            variables = {"PYTHON": sys.executable, "TORCH": given.get("TORCH", "auto")}
            code = subprocess.run(["bash", ".ci/env.sh", str(VENV)], env={**os.environ, **variables}).returncode
            if code:
                sys.exit(code)
        else:
            venv.create(VENV, clear=True, with_pip=True)
            run(f"PY -m pip install --quiet --disable-pip-version-check -r {LOCK}")
        PACKAGES.touch()
    if _older(READY, PACKAGES, Path("pyproject.toml")):
        run("PY -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .")
        run("PY -m pip check")
        READY.touch()


def _older(made: Path, *sources: Path) -> bool:
    return not made.exists() or any(made.stat().st_mtime < path.stat().st_mtime for path in sources)


def lock() -> None:
    """Find the newest versions anew. torch names those of its CUDA libraries itself; they are not pinned."""
    partial = Path(f"{LOCK}.partial")
    run(
        "PY -m uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header "
        f"--upgrade pyproject.toml -o {partial}"
    )
    lines = partial.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not re.match(r"nvidia-|cuda-|triton|#", line)]
    head = "# Exact versions for 'make env', Python 3.11 and later, made by 'make lock'."
    LOCK.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8", newline="\n")
    partial.unlink()


def targets() -> dict[str, str]:
    """The targets of the Makefile, each with what it says of itself."""
    text = Path("Makefile").read_text(encoding="utf-8")
    return dict(re.findall(r"(?m)^([a-z]+):.*?## (.*)$", text))


def make(target: str, given: dict[str, str]) -> None:
    """Do what `make target` does."""
    if target == "help":
        print("\n".join(f"python .ci/tasks.py {name:10} {text}" for name, text in targets().items()))
    elif target == "clean":
        for name in (".venv", "build", "dist", ".pytest_cache", ".ruff_cache", ".hypothesis"):
            shutil.rmtree(name, ignore_errors=True)
    else:
        environment(given)
        for earlier in FIRST.get(target, ()):
            make(earlier, given)
        if target == "bench":
            Path("build").mkdir(exist_ok=True)
        if target == "lock":
            lock()
        for line in commands(target, given):
            run(line)


if __name__ == "__main__":
    os.chdir(ROOT)
    named = [word for word in sys.argv[1:] if "=" not in word] or ["help"]
    known = {**os.environ, **dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)}
    for name in named:
        if name not in targets():
            sys.exit(f"target: {name!r} is not known; expected one of {', '.join(targets())}")
    for name in named:
        make(name, known)
