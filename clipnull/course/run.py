"""Execute notebooks: each in a kernel of its own that ends with the run, within a limit of time."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import at_least, one_line
from ..files import write_text
from .metrics import Metrics, metrics_of
from .notebooks import (
    first_line,
    import_jupyter,
    preset_for,
    read,
    text_of,
    to_html,
    validate_parameters,
)
from .profiles import PROFILES, default_profile
from .warm import kernels

START = 40
"""How many cells take the time that the first kernel takes to start: it imports what all others share."""


class NotebookError(RuntimeError):
    """A notebook failed, hung or recorded no metrics; the message names notebook, cell and reason."""


def execute(
    path: Path,
    out: Path,
    parameters: Mapping[str, object] | None = None,
    limit: float = 900,
    manager: type | str = "jupyter_client.AsyncKernelManager",
    done: Callable[..., object] | None = None,
) -> Path:
    """Execute the notebook at `path` in its own folder and return where in the folder `out` the result is.

    The result appears whole or not at all. After a failure or more than `limit` seconds, what was executed is in
    `<name>.failed.ipynb`, and a NotebookError names the notebook, the cell and the exception. Whatever kernel the
    notebook names, this Python's runs it. `done` is called after each cell.
    """
    validate([path], out)
    path, out = path.resolve(), out.resolve()
    given = validate_parameters(path, parameters or {})
    result, partial, end = out / path.name, out / f"{path.stem}.failed.ipynb", time.monotonic() + limit
    _remove_results(out, path)
    about = read(path).metadata
    language = about.get("kernelspec", {}).get("language") or about.get("language_info", {}).get("name") or "python"
    if language.lower() != "python":
        raise NotebookError(f"{path.name}: a notebook of {language}; expected one of Python")
    if (kernel := about.get("kernelspec", {}).get("name")) != "python3":
        print(f"{path.stem}: names {f'the kernel {kernel!r}' if kernel else 'no kernel'}; this Python's runs it")
    folder = {"metadata": {"path": str(path.parent)}}  # papermill's `cwd` would move every thread
    settings = {"kernel_name": "python3", "language": "python", "kernel_manager_class": manager, "resources": folder}
    limits = {"start_timeout": 180, "iopub_timeout": 60, "timeout_func": lambda _: max(0.1, end - time.monotonic())}
    settings |= {"on_cell_complete": done, "progress_bar": False}
    source, target = (re.sub(r"[{}]", r"\g<0>\g<0>", str(place)) for place in (path, partial))  # papermill formats them
    try:
        import_jupyter("papermill").execute_notebook(source, target, given, **settings, **limits)
    except Exception as error:
        late = f"stopped, as it ran for {limit:g} s" if time.monotonic() > end else ""
        raise NotebookError(_explain(path, partial, error, late)) from error
    write_text(partial, text_of(_coalesce(read(partial))))
    os.replace(partial, result)
    return result


def _remove_results(out: Path, *paths: Path) -> None:
    """Make the folder `out`, without what an earlier run of the notebooks has left there."""
    out.mkdir(parents=True, exist_ok=True)
    endings = (".ipynb", ".failed.ipynb", ".html")
    for name in ("metrics.json", "diff.txt", *(f"{path.stem}{ending}" for path in paths for ending in endings)):
        (out / name).unlink(missing_ok=True)


def _coalesce(nb: Any) -> Any:
    """The notebook with what is printed in a row as one output, each line as a terminal leaves it after returns.

    Jupyter's own way takes the square of a line's length.
    """
    for cell in nb.cells:
        outputs = []
        for printed, group in itertools.groupby(cell.get("outputs", ()), lambda out: out.output_type == "stream"):
            by_name = {}  # stdout and stderr, which come in no certain order
            for out in group if printed else ():
                if (first := by_name.setdefault(out.name, out)) is not out:
                    first.text += out.text
            outputs += by_name.values() if printed else group
            for out in by_name.values():
                lines = out.text.replace("\r\n", "\n").split("\n")
                out.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
        if outputs:
            cell.outputs = outputs
    return nb


def validate(notebooks: Sequence[Path], out: Path) -> None:
    """ValueError if a notebook is missing, or a result in `out` would replace a source or what no run has written."""
    for path in notebooks:
        if not path.is_file():
            raise ValueError(f"notebooks: {path} does not exist; expected a notebook")
        result = out / path.name
        for folder in (path.parent, path.resolve().parent):
            if out.exists() and out.samefile(folder):
                raise ValueError(f"out: {out} is the folder of the source {path.name}; expected another for results")
        if result.is_file() and b'"papermill"' not in result.read_bytes():
            raise ValueError(f"out: {result} was not written by a run; expected a folder without work in it")


def _explain(path: Path, partial: Path, error: Exception, reason: str) -> str:
    """One line: the notebook, the number and first line of the cell last started, `reason` or the exception."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
    cells = [c for c in read(partial).cells if "papermill" in c.metadata] if partial.exists() else []
    number = max((i for i, c in enumerate(cells, 1) if c.metadata.papermill.start_time), default=0)
    where = ""
    if number:
        first = first_line(cells[number - 1].source)
        number -= any("injected-parameters" in c.metadata.get("tags", ()) for c in cells[:number])
        where = f", cell {number} ({first})"
    return f"{path.name}{where}: {reason or one_line(f'{name}: {value}')}"


def run(
    notebooks: Sequence[Path],
    out: Path,
    parameters: Mapping[str, object] | None = None,
    jobs: int | None = None,
    limit: float = 900,
    profile: str | None = None,
    ready: Callable[[Path], object] = lambda page: None,
) -> tuple[dict[str, Metrics], list[str]]:
    """Execute `notebooks` into the folder `out`: (metrics by notebook, one line for each failure).

    `jobs` run at a time (without: two, or one on a GPU) and share the cores, each for at most `limit` seconds. Writes
    `<name>.ipynb`, `<name>.html` and metrics.json. `parameters` come on top of those of `profile`; a profile that
    names pictures leaves out the notebooks that take none. The first notebook starts first, and `ready` gets its page.
    """
    paths, out, profile = [Path(n) for n in notebooks], Path(out), profile or default_profile()
    at_least("jobs", 1 if jobs is None else jobs, 1)
    if not limit > 0:
        raise ValueError(f"limit: {limit} is not valid; expected seconds, more than 0")
    if len({n.stem for n in paths}) < max(1, len(paths)):
        raise ValueError("notebooks: none given, or two of the same name; expected distinct names")
    validate(paths, out)
    given = _parameters(paths, dict(parameters or {}), profile)
    _remove_results(out, *paths)
    order = [*given][:1] + [*given][:0:-1]  # later ones take longer
    on_cpu = PROFILES[profile].device == "cpu" or default_profile() != "gpu"
    jobs = jobs or (2 if on_cpu and len(order) > 1 else 1)
    environment, warm, metrics, failures = _environment(profile, jobs), on_cpu and len(order) > 1, {}, []
    with ThreadPoolExecutor(jobs) as pool, _bar(given) as bar, kernels(environment, warm) as manager:

        def one(path: Path) -> Path:
            _say(f"{path.stem}: started")
            return execute(path, out, given[path], limit, manager, lambda **_: bar.update(1 if bar.n else 1 + START))

        futures = {pool.submit(one, path): path for path in order}
        try:
            for future in as_completed(futures):
                path, page = futures[future], out / f"{futures[future].stem}.html"
                try:
                    nb = read(to_html(future.result()).with_suffix(".ipynb"))
                    metrics[path.stem] = metrics_of(nb)
                    _say(f"{path.stem}: done in {nb.metadata.papermill.duration:.0f} s: {page}")
                    if path == order[0]:
                        ready(page)
                except Exception as error:
                    reason = str(error) if isinstance(error, NotebookError) else f"{path.name}: {one_line(error)}"
                    failures.append(reason)
                    _say(f"{path.stem}: FAILED: {reason}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    metrics = dict(sorted(metrics.items()))
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return metrics, sorted(failures)


def _parameters(paths: Sequence[Path], given: Mapping[str, object], profile: str) -> dict[Path, dict[str, object]]:
    """What each notebook that runs in `profile` is given."""
    for path in paths:
        validate_parameters(path, given)
    presets = {path: preset_for(path, profile) for path in paths}
    return {path: {**preset, **given} for path, preset in presets.items() if preset or not PROFILES[profile].parameters}


def _environment(profile: str, jobs: int) -> dict[str, str]:
    """What each of `jobs` kernels finds in its environment: its share of the cores, and no GPU where none is to be."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if PROFILES[profile].device == "cpu" else {}
    return {"OMP_NUM_THREADS": str(max(1, cores // jobs)), **hidden}


def _bar(paths: Iterable[Path]) -> tqdm:
    """A bar of the code cells in `paths`, with the time left, on a terminal."""
    cells = sum(path.read_text(encoding="utf-8").count('"cell_type": "code"') for path in paths)
    return tqdm(total=cells + START, disable=None, smoothing=0, bar_format="{l_bar}{bar}| {elapsed}, {remaining} left")


def _say(line: str) -> None:
    with tqdm.external_write_mode():
        print(line, flush=True)


def show(page: Path) -> None:
    """Open `page` in the browser of whoever sits at this terminal."""
    if sys.stdout.isatty() and (sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}):
        webbrowser.open(page.resolve().as_uri())
