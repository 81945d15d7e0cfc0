"""Execute notebooks: each in a process of its own, which has a time limit and is stopped with all its children.

That process ends when the one that runs it has ended, however that went, and its kernel with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import at_least, import_extra, one_line
from ..files import write_text
from .metrics import Metrics, metrics_of, table
from .notebooks import first_line, import_jupyter, preset_for, read, validate_parameters
from .profiles import PROFILES, default_profile


class NotebookError(RuntimeError):
    """A notebook failed, hung or recorded no metrics; the message names notebook, cell and reason."""


# --- one notebook ------------------------------------------------------------------------------------------------


def execute(path: Path, out: Path, parameters: Mapping[str, object] | None = None, timeout: int = 300) -> Path:
    """Execute the notebook at `path` in its own folder and return where in the folder `out` the result is.

    The result appears whole or not at all. `timeout` (seconds) bounds each cell. On failure what was executed is
    kept as `<name>.failed.ipynb`, and a NotebookError names the notebook, the cell and the exception. ValueError,
    before anything is written, for unknown parameters and where the result would replace a source, see `validate_out`.
    """
    papermill = import_jupyter("papermill")
    if not Path(path).is_file():
        raise ValueError(f"path: {path} does not exist; expected a notebook")
    validate_out([Path(path)], Path(out))
    path, out = Path(path).resolve(), Path(out).resolve()
    given = validate_parameters(path, parameters or {})
    out.mkdir(parents=True, exist_ok=True)
    result, failed, partial = out / path.name, _failed(path, out), _partial(path, out)
    result.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    limits = {"start_timeout": 180, "iopub_timeout": 60, "execution_timeout": timeout}
    looks = {"progress_bar": False, "coalesce_streams": True}
    try:
        for attempt in range(3):
            try:
                papermill.execute_notebook(path, partial, given, cwd=path.parent, **looks, **limits)
                break
            except RuntimeError as error:  # a kernel that never came up says nothing about the notebook
                if attempt == 2 or "died before replying to kernel_info" not in str(error):
                    raise
        os.replace(partial, result)
    except Exception as error:
        if partial.exists():
            os.replace(partial, failed)
        raise NotebookError(_explain(path, failed, error)) from error
    finally:
        partial.unlink(missing_ok=True)
    return result


def validate_out(notebooks: Sequence[Path], out: Path) -> None:
    """ValueError if results of `notebooks` in the folder `out` would replace what no run has written.

    That is the folder of one of the notebooks, by whatever name, and one that holds other notebooks of these names.
    """
    for path in notebooks:
        result = out / path.name
        for folder in (path.parent, path.resolve().parent):
            if folder.resolve() == out.resolve() or (out.exists() and folder.exists() and out.samefile(folder)):
                raise ValueError(
                    f"out: {out} is the folder of the source {path.name}; expected another for the results"
                )
        if result.is_file() and b'"papermill"' not in result.read_bytes():
            raise ValueError(f"out: {result} was not written by a run; expected a folder without work in it")


def _partial(path: Path, out: Path) -> Path:
    return out / f".{path.stem}.partial.ipynb"


def _failed(path: Path, out: Path) -> Path:
    return out / f"{path.stem}.failed.ipynb"


def _explain(path: Path, failed: Path, error: Exception) -> str:
    """One line: the notebook, the number and first line of the cell that was last started, the exception."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
    cells = [c for c in read(failed).cells if "papermill" in c.metadata] if failed.exists() else []
    number = max((i for i, c in enumerate(cells, 1) if c.metadata.papermill.start_time), default=0)
    where = ""
    if number:
        first = first_line(cells[number - 1].source)
        number -= any("injected-parameters" in c.metadata.get("tags", ()) for c in cells[:number])
        where = f", cell {number} ({first})"
    return f"{path.name}{where}: {one_line(f'{name}: {value}')}"


# --- all notebooks -----------------------------------------------------------------------------------------------


def run(
    notebooks: Sequence[Path],
    out: Path,
    parameters: Mapping[str, object] | None = None,
    jobs: int | None = None,
    limit: float = 900,
    profile: str | None = None,
) -> tuple[dict[str, Metrics], list[str]]:
    """Execute `notebooks` into the folder `out`: (metrics by notebook, one line for each failure).

    `jobs` run at a time (without: two, or one where there is a GPU or a single notebook) and share the cores; each is
    stopped with all its children after `limit` seconds. Writes `<name>.ipynb`, `<name>.html` and metrics.json; prints
    progress and the table of metrics. `profile`: one of PROFILES, by default `default_profile()`; `parameters` come on
    top, and a profile that names pictures leaves out the notebooks that take none.
    """
    notebooks, out, parameters = [Path(n) for n in notebooks], Path(out), dict(parameters or {})
    if jobs is not None:
        at_least("jobs", jobs, 1)
    if not limit > 0:
        raise ValueError(f"limit: {limit} is not valid; expected seconds, more than 0")
    if not notebooks:
        raise ValueError("notebooks: none given; expected paths such as notebooks/00_check_your_machine.ipynb")
    if len({n.stem for n in notebooks}) < len(notebooks):
        raise ValueError("notebooks: two have the same name; expected distinct names, as results share a folder")
    for path in notebooks:
        if not path.is_file():
            raise ValueError(f"notebooks: {path} does not exist; expected a notebook")
        validate_parameters(path, parameters)
    validate_out(notebooks, out)
    profile = profile or default_profile()
    presets = {path: preset_for(path, profile) for path in notebooks}
    notebooks = [path for path in notebooks if presets[path] or not PROFILES[profile].parameters]
    alone = len(notebooks) == 1 or (default_profile() == "gpu" and PROFILES[profile].device != "cpu")
    jobs = jobs or (1 if alone else 2)
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if PROFILES[profile].device == "cpu" else {}
    out.mkdir(parents=True, exist_ok=True)
    waiting = list(notebooks)
    running: dict[Path, tuple[subprocess.Popen, IO[str], float]] = {}
    metrics: dict[str, Metrics] = {}
    failures: list[str] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                path = waiting.pop(0)
                running[path] = (*_start(path, out, {**presets[path], **parameters}, jobs, hidden), time.monotonic())
                print(f"{path.stem}: started", flush=True)
            time.sleep(0.05)
            for path, (process, log, began) in list(running.items()):
                seconds = time.monotonic() - began
                if process.poll() is None and seconds < limit:
                    continue
                del running[path]
                try:
                    metrics[path.stem] = _finish(path, out, process, log, limit)
                    print(f"{path.stem}: done in {seconds:.0f} s", flush=True)
                except (NotebookError, ValueError) as error:
                    failures.append(str(error))
                    print(f"{path.stem}: FAILED after {seconds:.0f} s: {error}", flush=True)
    finally:
        for path, (process, _, _) in running.items():
            _kill(process)
            _partial(path, out.resolve()).unlink(missing_ok=True)
    metrics = dict(sorted(metrics.items()))
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    print(table(metrics))
    return metrics, sorted(failures)


def _start(
    path: Path, out: Path, parameters: Mapping[str, object], jobs: int, variables: Mapping[str, str]
) -> tuple[subprocess.Popen, IO[str]]:
    """Start a process that executes one notebook: (process, its log)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    kernels = [str(Path(sys.prefix, "share", "jupyter")), os.environ.get("JUPYTER_PATH", "")]
    env = {
        **os.environ,
        **variables,
        "OMP_NUM_THREADS": str(max(1, cores // jobs)),
        "JUPYTER_PATH": os.pathsep.join(filter(None, kernels)),  # this interpreter's kernel before any other
    }
    env.pop("JPY_SESSION_NAME", None)  # nobody sits in front of it, see `panel.attended`
    log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by _finish)
    command = [sys.executable, "-m", "clipnull", "execute", str(path), str(out), "--runner", str(os.getpid())]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env), log


def _finish(path: Path, out: Path, process: subprocess.Popen, log: IO[str], limit: float) -> Metrics:
    """The metrics of a notebook whose process has ended or must end; NotebookError if it failed."""
    hung = process.poll() is None
    _kill(process)
    with log:
        log.seek(0)
        reason = _reason(log.read())
    if process.returncode:
        if _partial(path, out).exists():
            os.replace(_partial(path, out), _failed(path, out))
        why = f"stopped, as it ran for {limit:g} s" if hung else reason or f"ended with code {process.returncode}"
        raise NotebookError(why if why.startswith(path.name) else f"{path.name}: {why}")
    try:
        return metrics_of(read(out / path.name))
    except ValueError as error:
        raise NotebookError(f"{path.name}: {error}") from None


def _reason(log: str) -> str:
    """Why a process ended, in one line: the exception of the last traceback in its log, else the last line."""
    found = re.split(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*", log, flags=re.MULTILINE)
    return one_line(found[-1]) if len(found) > 1 else log.strip().rpartition("\n")[2]


def _kill(process: subprocess.Popen) -> None:
    """End `process` and all that it started: a kernel has a session of its own, so no process group holds both."""
    psutil = import_extra("psutil", "course")
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        _end([*parent.children(recursive=True), parent])
        process.wait()


def _end(processes: Sequence[Any]) -> None:
    psutil = import_extra("psutil", "course")
    for victim in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()


# --- in the process of one notebook ------------------------------------------------------------------------------


@contextlib.contextmanager
def ended_with(runner: int | None) -> Iterator[None]:
    """What this process starts inside ends with it, and it ends with the process `runner` that has started it.

    A runner that is killed can tell nobody, so that this process looks for it twice a second. With None, nobody has to
    be there.
    """
    psutil = import_extra("psutil", "course")
    this = psutil.Process()
    before = this.children(recursive=True)

    def started() -> list[Any]:
        return [child for child in this.children(recursive=True) if child not in before]

    def watch() -> None:
        while os.getppid() == runner and psutil.pid_exists(runner):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)  # as an exception, see `console`: nothing half-written is left
        _end(started())
        time.sleep(10)
        _end([*started(), this])

    if runner is not None:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        _end(started())
