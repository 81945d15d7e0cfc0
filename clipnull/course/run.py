"""Execute notebooks: each in a kernel of its own that ends with the run, within a limit of time."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from ..errors import at_least, one_line
from ..files import write_text
from .metrics import Metrics, metrics_of
from .notebooks import import_jupyter, preset_for, read, text_of, to_html, validate_parameters
from .profiles import PROFILES, default_profile
from .warm import kernels

START = 40
"""How many cells take the time that the first kernel takes to start: it imports what all others share."""


class NotebookError(RuntimeError):
    """A notebook failed, hung or recorded no metrics; the message names notebook, cell and reason."""


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
    _validate(paths, out)
    given = _parameters(paths, parameters or {}, profile)
    _remove_results(out, paths)
    order = [*given][:1] + [*given][:0:-1]  # later ones take longer
    parallel = len(order) > 1 and (PROFILES[profile].device == "cpu" or default_profile() != "gpu")
    jobs, metrics, failures = jobs or (2 if parallel else 1), {}, []
    with ThreadPoolExecutor(jobs) as pool, _bar(given) as bar, kernels(_environment(profile, jobs)) as manager:

        def start(path: Path) -> Path:
            _say(f"{path.stem}: started")
            return execute(path, out, given[path], limit, manager, lambda **_: bar.update(1 if bar.n else 1 + START))

        futures = {pool.submit(start, path): path for path in order}
        try:
            for future in as_completed(futures):
                path = futures[future]
                try:
                    page, nb = to_html(future.result()), read(out / path.name)
                    metrics[path.stem] = metrics_of(nb)
                    _say(f"{path.stem}: done in {nb.metadata.papermill.duration:.0f} s: {page}")
                    if path == order[0]:
                        ready(page)
                except Exception as error:
                    failures.append(
                        str(error) if isinstance(error, NotebookError) else f"{path.name}: {one_line(error)}"
                    )
                    _say(f"{path.stem}: FAILED: {failures[-1]}")
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
    done: Callable[..., object] | None = None,
) -> Path:
    """Execute the notebook at `path` in its own folder and return where in the folder `out` the result is.

    The result appears whole or not at all. After a failure or more than `limit` seconds, what was executed is in
    `<name>.failed.ipynb`, and a NotebookError names the notebook, the cell and the exception. This Python's kernel
    runs it, whatever kernel the notebook names. `done` is called after each cell.
    """
    path, out, end = path.resolve(), out.resolve(), time.monotonic() + limit
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{path.stem}.failed.ipynb"
    source, target = (re.sub(r"[{}]", r"\g<0>\g<0>", str(place)) for place in (path, partial))  # papermill formats them
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
            on_cell_complete=done,
            progress_bar=False,
        )
    except Exception as error:
        name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
        late = time.monotonic() > end
        reason = f"stopped, as it ran for {limit:g} s" if late else one_line(f"{name}: {value}")
        raise NotebookError(f"{path.name}{_last_cell(partial)}: {reason}") from error
    merge = import_jupyter("nbconvert.preprocessors").CoalesceStreamsPreprocessor()  # printed lines arrive in parts
    write_text(partial, text_of(merge.preprocess(read(partial), {})[0]))
    os.replace(partial, out / path.name)
    return out / path.name


def _last_cell(partial: Path) -> str:
    """The number and first line of the cell that was started last, as in ", cell 3 (x = 1)"."""
    cells = [cell for cell in read(partial).cells if "papermill" in cell.metadata] if partial.exists() else []
    cells = [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", ())]
    started = [cell.source.strip() for cell in cells if cell.metadata.papermill.start_time]
    first_line = started[-1].partition("\n")[0] if started else ""
    return f", cell {len(started)} ({first_line})" if started else ""


def _validate(notebooks: Sequence[Path], out: Path) -> None:
    """ValueError if a notebook is missing, or a result in `out` would replace a source or what no run has written."""
    if len({path.stem for path in notebooks}) < max(1, len(notebooks)):
        raise ValueError("notebooks: none given, or two of the same name; expected distinct names")
    for path in notebooks:
        if not path.is_file():
            raise ValueError(f"notebooks: {path} does not exist; expected a notebook")
        result = out / path.name
        if out.exists() and any(out.samefile(folder) for folder in (path.parent, path.resolve().parent)):
            raise ValueError(f"out: {out} is the folder of the source {path.name}; expected another for results")
        if result.is_file() and b'"papermill"' not in result.read_bytes():
            raise ValueError(f"out: {result} was not written by a run; expected a folder without work in it")


def _parameters(paths: Sequence[Path], given: Mapping[str, object], profile: str) -> dict[Path, dict[str, object]]:
    """What each notebook that runs in `profile` is given."""
    given_to = {path: validate_parameters(path, given) for path in paths}
    presets = {path: preset_for(path, profile) for path in paths}
    return {path: presets[path] | given_to[path] for path in paths if presets[path] or not PROFILES[profile].parameters}


def _remove_results(out: Path, paths: Sequence[Path]) -> None:
    """Make the folder `out`, without what an earlier run of the notebooks has left there."""
    out.mkdir(parents=True, exist_ok=True)
    endings = (".ipynb", ".failed.ipynb", ".html")
    for name in ("metrics.json", "diff.txt", *(f"{path.stem}{ending}" for path in paths for ending in endings)):
        (out / name).unlink(missing_ok=True)


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
