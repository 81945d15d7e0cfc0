"""Execute notebooks, each in its own kernel and within a time limit."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import at_least, one_line, within
from ..files import write_text
from .metrics import Metrics, metrics_of
from .notebooks import import_jupyter, preset_for, read, text_of, to_html, validate_parameters
from .profiles import PROFILES, default_profile
from .warm import kernels


class NotebookError(RuntimeError):
    """A notebook failed, hung or recorded no metrics; the message names the notebook, the cell and the reason."""


def run(
    notebooks: Sequence[Path],
    out: Path,
    parameters: Mapping[str, object] | None = None,
    jobs: int | None = None,
    limit: float = 900,
    profile: str | None = None,
    ready: Callable[[Path], object] = lambda page: None,
) -> tuple[dict[str, Metrics], list[str]]:
    """Execute `notebooks` into the folder `out`; return the metrics by notebook and one line per failure.

    Write `<name>.ipynb`, `<name>.html` and metrics.json. parameters: override those of `profile`. A profile with
    parameters skips notebooks that have none of them. jobs: parallel kernels, which share the cores; by default two,
    one on a GPU. limit: seconds per notebook. ready: called with the page of the first notebook, which starts first.
    """
    paths, out, profile = [Path(n) for n in notebooks], Path(out), profile or default_profile()
    at_least("jobs", 1 if jobs is None else jobs, 1)
    within("limit", limit, 1, math.inf)
    _validate(paths, out)
    presets = {path: preset_for(path, profile) for path in paths}
    given = {path: presets[path] | validate_parameters(path, parameters or {}) for path in paths}
    _remove_results(paths, out)
    if PROFILES[profile].parameters:
        paths = [path for path in paths if presets[path]]
    order = paths[:1] + paths[:0:-1]  # later ones take longer
    on_gpu = PROFILES[profile].device != "cpu" and default_profile() == "gpu"
    jobs, metrics, failures = jobs or (2 if len(order) > 1 and not on_gpu else 1), {}, []
    with ThreadPoolExecutor(jobs) as pool, kernels(_environment(profile, jobs)) as manager:
        futures = {pool.submit(execute, path, out, given[path], limit, manager): path for path in order}
        try:
            for future in tqdm(as_completed(futures), "notebooks", len(futures), disable=None):
                path = futures[future]
                try:
                    page, nb = to_html(future.result()), read(out / path.name)
                    metrics[path.stem] = metrics_of(nb)
                    _say(f"{path.stem}: done in {nb.metadata.papermill.duration:.0f} s: {page}")
                    if path == order[0]:
                        ready(page)
                except Exception as error:
                    failure = str(error) if isinstance(error, NotebookError) else f"{path.name}: {one_line(error)}"
                    failures.append(failure)
                    _say(f"{path.stem}: FAILED: {failure}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    metrics = dict(sorted(metrics.items()))
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return metrics, sorted(failures)


def execute(
    path: Path,
    out: Path,
    parameters: Mapping[str, object] | None = None,
    limit: float = 900,
    manager: type | str = "jupyter_client.AsyncKernelManager",
) -> Path:
    """Execute the notebook at `path` in its own folder, with this Python, and return the path of the result in `out`.

    The result appears whole or not at all. After a failure or `limit` seconds, `<name>.failed.ipynb` holds the partial
    result, and a NotebookError names the notebook, the cell and the exception.
    """
    path, out, end = path.resolve(), out.resolve(), time.monotonic() + limit
    out.mkdir(parents=True, exist_ok=True)
    partial, started = out / f"{path.stem}.failed.ipynb", []
    source, target = (re.sub(r"[{}]", r"\g<0>\g<0>", str(file)) for file in (path, partial))  # papermill formats paths
    try:
        import_jupyter("papermill").execute_notebook(
            source,
            target,
            parameters,
            kernel_name="python3",
            language="python",
            kernel_manager_class=manager,
            resources={"metadata": {"path": str(path.parent)}},  # papermill's `cwd` would move every thread
            start_timeout=180,
            iopub_timeout=60,
            timeout_func=lambda _: max(0.1, end - time.monotonic()),
            on_cell_start=lambda cell, **_: started.append(cell),
            progress_bar=False,
        )
    except Exception as error:
        name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
        late = time.monotonic() > end
        reason = f"stopped after {limit:g} s, the limit" if late else one_line(f"{name}: {value}")
        raise NotebookError(f"{path.name}{_last(started)}: {reason}") from error
    merge = import_jupyter("nbconvert.preprocessors").CoalesceStreamsPreprocessor()  # printed lines arrive in parts
    write_text(partial, text_of(merge.preprocess(read(partial), {})[0]))
    os.replace(partial, out / path.name)
    return out / path.name


def _last(started: Sequence[Any]) -> str:
    """Return the number and first line of the last cell that started, as in ", cell 3 (x = 1)"."""
    cells = [cell for cell in started if "injected-parameters" not in cell.metadata.get("tags", ())]
    return f", cell {len(cells)} ({cells[-1].source.strip().partition(chr(10))[0]})" if cells else ""


def _validate(paths: Sequence[Path], out: Path) -> None:
    """Raise ValueError if a notebook is missing or a result would overwrite a file in `out` that no run has written."""
    if len({path.stem for path in paths}) < max(1, len(paths)):
        raise ValueError("notebooks: none are given or two share a name; expected distinct names")
    for path in paths:
        if not path.is_file():
            raise ValueError(f"notebooks: {path} does not exist; expected a notebook")
        result = out / path.name
        if result.is_file() and (result.samefile(path) or b'"papermill"' not in result.read_bytes()):
            raise ValueError(f"out: {result} is a source or was not written by a run; expected a folder for results")


def _remove_results(paths: Sequence[Path], out: Path) -> None:
    """Create the folder `out` and remove the results of earlier runs of these notebooks."""
    out.mkdir(parents=True, exist_ok=True)
    results = [f"{path.stem}{ending}" for path in paths for ending in (".ipynb", ".failed.ipynb", ".html")]
    for name in ("metrics.json", "diff.txt", *results):
        (out / name).unlink(missing_ok=True)


def _environment(profile: str, jobs: int) -> dict[str, str]:
    """Return the environment of each of `jobs` kernels: its share of the cores, and no GPU if the profile hides it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if PROFILES[profile].device == "cpu" else {}
    return {"OMP_NUM_THREADS": str(max(1, cores // jobs)), **hidden}


def _say(line: str) -> None:
    with tqdm.external_write_mode():
        print(line, flush=True)


def show(page: Path) -> None:
    """Open `page` in a browser if a person sits at this terminal."""
    if sys.stdout.isatty() and (sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}):
        webbrowser.open(page.resolve().as_uri())
