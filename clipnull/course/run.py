"""The notebooks as a course: record metrics, execute, compare with goldens, publish outputs.

`python -m clipnull run`      execute notebooks into build/ and print the table of metrics; with --check against the
                              goldens, with --update-goldens over into them
`python -m clipnull publish`  the same with the notebooks' own defaults, and write the outputs back
`python -m clipnull goldens`  take the metrics of an earlier run over into tests/goldens.json
`python -m clipnull seeds`    run with several seeds, and propose tolerances from the spread
`python -m clipnull student`  write the course without solutions and outputs
`python -m clipnull book`     render the course, as stored, to a static site

Each notebook runs in a process of its own, which has a time limit and is stopped with all its children.
That process runs this file alone, without importing the package, so it starts quickly: hence no relative imports.
"""
from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

MIME = "application/vnd.clipnull.metrics+json"
Metrics = dict[str, float]  # metric name -> value


@dataclass(frozen=True)
class Profile:
    """A way to run the course: what is set in notebooks that know the parameter, and which goldens hold."""

    goldens: str
    parameters: Mapping[str, str]    # {CLIPNULL_DATA} stands for the variable of the environment
    device: str = ""                 # "cpu" hides every GPU, "cuda" demands one


PROFILES = {
    "mini": Profile("mini", {}, "cpu"),
    "gpu": Profile("mini", {}, "cuda"),
    "pacs": Profile("pacs", {"data": "{CLIPNULL_DATA}/test", "shown_domain": "sketch", "forget_domain": "sketch",
                             "domain": "sketch"}),
}
"""`mini`: the embedded model and pictures on the CPU. `gpu`: the same on a GPU, with the same goldens. `pacs`: the
notebooks that take pictures, on those of PACS in the folder that the variable CLIPNULL_DATA names."""


class NotebookError(RuntimeError):
    """A notebook failed, hung or recorded no metrics; the message names notebook, cell and reason."""


# --- metrics ---------------------------------------------------------------------------------------------------

def record(**metrics: float) -> None:
    """Display `metrics` as one output: JSON for the runner and a table for the reader.

    Called once, by the last code cell of a notebook. Raises ValueError for a name that is no identifier and for
    a value that is not one finite number.
    """
    from IPython.display import display

    if not metrics:
        raise ValueError("metrics: none given; expected at least one, as in record(accuracy=71.5)")
    values = {name: _number(name, value) for name, value in metrics.items()}
    rows = "".join(f"<tr><td>{name}</td><td>{value:.4g}</td></tr>" for name, value in values.items())
    display({MIME: values, "text/plain": "\n".join(f"{n:<32} {v:.4g}" for n, v in values.items()),
             "text/html": f"<table><tr><th>metric</th><th>value</th></tr>{rows}</table>"}, raw=True)


def _number(name: str, value: object) -> float:
    if not name.isidentifier():
        raise ValueError(f"metrics: {name!r} is not valid as a name; expected a Python identifier")
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: {value!r} cannot be recorded; expected one finite number")
    return number


def metrics_of(nb: Mapping) -> Metrics:
    """The metrics that an executed notebook recorded; ValueError unless it has exactly one such output."""
    outputs = [out.get("data", {}) for cell in nb["cells"] for out in cell.get("outputs", ())]
    found = [data[MIME] for data in outputs if MIME in data]
    if len(found) != 1:
        raise ValueError(f"nb: {len(found)} outputs of type {MIME}; expected one, from record in the last cell")
    return dict(found[0])


Goldens = Mapping[str, Mapping[str, Mapping]]  # notebook -> metric -> {"value": v, "atol": t, "null": n}


def compare(metrics: Mapping[str, Metrics], goldens: Goldens, out: Path | None = None) -> list[str]:
    """What differs between `metrics` and `goldens` (both by notebook), one line each; empty if nothing does.

    A metric passes when |metric - value| <= atol. With `out`, the folder of the executed notebooks, a line names the
    cell that recorded the metric and where the notebook lies.
    """
    failures = []
    for notebook in sorted({*metrics, *goldens}):
        got, golden = metrics.get(notebook, {}), goldens.get(notebook, {})
        where, kept = _recorded(notebook, out)
        for name in sorted({*got, *golden}):
            if name not in got:
                failures.append(f"{where}: {name}: expected {golden[name]['value']:.6g}, got nothing{kept}")
            elif name not in golden:
                failures.append(f"{where}: {name}: got {got[name]:.6g}, which has no golden{kept}")
            elif not abs(got[name] - golden[name]["value"]) <= golden[name]["atol"]:
                failures.append(f"{where}: {name}: expected {golden[name]['value']:.6g} "
                                f"± {golden[name]['atol']:.3g}, got {got[name]:.6g}{kept}")
    return failures


def _recorded(notebook: str, out: Path | None) -> tuple[str, str]:
    """The notebook with the number and first line of the cell that recorded, and where it is kept: two texts."""
    path = Path(out or ".", f"{notebook}.ipynb")
    if out is None or not path.is_file():
        return notebook, ""
    cells = [c for c in _read(path).cells if "injected-parameters" not in c.metadata.get("tags", ())]
    cell = next(((i, c.source) for i, c in enumerate(cells, 1)
                 if any(MIME in o.get("data", {}) for o in c.get("outputs", ()))), None)
    return path.name + (f", cell {cell[0]} ({_first_line(cell[1])})" if cell else ""), f"; executed: {path}"


def diff(metrics: Mapping[str, Metrics], goldens: Goldens) -> str:
    """Every metric beside its golden, as plain text: what CI keeps of a run."""
    rows = [("notebook", "metric", "golden", "atol", "got", "off by", "")]
    for notebook in sorted({*metrics, *goldens}):
        got, golden = metrics.get(notebook, {}), goldens.get(notebook, {})
        for name in sorted({*got, *golden}):
            value, entry = got.get(name, math.nan), golden.get(name, {"value": math.nan, "atol": math.nan})
            off = value - entry["value"]
            rows.append((notebook, name, f"{entry['value']:.6g}", f"{entry['atol']:.3g}", f"{value:.6g}", f"{off:+.3g}",
                         "" if abs(off) <= entry["atol"] else "FAILED"))
    return _columns(rows)


def read_goldens(path: Path, profile: str) -> dict:
    """The goldens that hold for `profile`, by notebook; empty if there are none."""
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return stored.get(PROFILES[profile].goldens, {})


def update_goldens(metrics: Mapping[str, Metrics], path: Path, profile: str = "mini") -> list[str]:
    """Take the values of `metrics` over into the goldens file, print old -> new, keep `atol` and `null`.

    Returns the metrics whose `atol` or `null` is still empty: those are for a person to fill in. Notebooks that
    `metrics` lacks keep their goldens, and so do other profiles.
    """
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    goldens = stored.setdefault(PROFILES[profile].goldens, {})
    for notebook, values in metrics.items():
        old = goldens.get(notebook, {})
        for name in sorted({*old, *values}):
            before, after = old.get(name, {}).get("value"), values.get(name)
            if before != after:
                print(f"{notebook}: {name}: {before} -> {after}")
        goldens[notebook] = {name: {"atol": None, "null": None, **old.get(name, {}), "value": value}
                             for name, value in values.items()}
    _write(path, json.dumps(stored, indent=1, sort_keys=True) + "\n")
    return [f"{notebook}: {name}" for notebook, entries in goldens.items() for name, entry in entries.items()
            if None in (entry["atol"], entry["null"])]


# --- one notebook ----------------------------------------------------------------------------------------------

def parameters_of(path: Path) -> dict[str, str | int | float | bool]:
    """Names and defaults in the cell tagged `parameters`, as papermill sees them."""
    import papermill

    return {name: ast.literal_eval(p["default"]) for name, p in papermill.inspect_notebook(str(path)).items()}


def check_parameters(path: Path, given: Mapping[str, object]) -> dict[str, object]:
    """`given`, each value of the type of the notebook's default; a ValueError for an unknown name or another type.

    Text is read as a literal where the default is none, as it comes from the command line.
    """
    defaults, checked = parameters_of(path) if given else {}, {}
    for name, value in given.items():
        if name not in defaults:
            near = get_close_matches(name, defaults, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(defaults)}"
            raise ValueError(f"parameters: {path.name} has no {name!r}; {hint}")
        kind = type(defaults[name])
        if isinstance(value, str) and kind is not str:
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(value)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(f"{name}: {value!r} is not valid for {path.name}; expected {kind.__name__}, "
                             f"such as {defaults[name]!r}")
        checked[name] = value
    return checked


def execute(path: Path, out: Path, parameters: Mapping[str, object] | None = None, timeout: int = 300) -> Path:
    """Execute the notebook at `path` in its own folder and return where in the folder `out` the result lies.

    The result appears whole or not at all. `timeout` (seconds) bounds each cell. On failure what was executed is
    kept as `<name>.failed.ipynb`, and a NotebookError names the notebook, the cell and the exception.
    """
    import papermill

    path, out = Path(path).resolve(), Path(out).resolve()
    if not path.is_file():
        raise ValueError(f"path: {path} does not exist; expected a notebook")
    parameters = check_parameters(path, parameters or {})
    out.mkdir(parents=True, exist_ok=True)
    result, failed, partial = out / path.name, _failed(path, out), _partial(path, out)
    result.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    try:
        for attempt in range(3):
            try:
                papermill.execute_notebook(path, partial, parameters, cwd=path.parent, progress_bar=False,
                                           coalesce_streams=True, start_timeout=180, iopub_timeout=60,
                                           execution_timeout=timeout)
                break
            except RuntimeError as error:      # a kernel that never came up says nothing about the notebook
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


def _partial(path: Path, out: Path) -> Path:
    return out / f".{path.stem}.partial.ipynb"


def _failed(path: Path, out: Path) -> Path:
    return out / f"{path.stem}.failed.ipynb"


def _explain(path: Path, failed: Path, error: Exception) -> str:
    """One line: the notebook, the number and first line of the cell that was last started, the exception."""
    what = f"{error.ename}: {error.evalue}" if hasattr(error, "ename") else f"{type(error).__name__}: {error}"
    cells = [c for c in _read(failed).cells if "papermill" in c.metadata] if failed.exists() else []
    number = max((i for i, c in enumerate(cells, 1) if c.metadata.papermill.start_time), default=0)
    where = ""
    if number:
        first = _first_line(cells[number - 1].source)
        number -= any("injected-parameters" in c.metadata.get("tags", ()) for c in cells[:number])
        where = f", cell {number} ({first})"
    return f"{path.name}{where}: {what.strip().partition(chr(10))[0]}"


def _first_line(source: str) -> str:
    return source.strip().partition("\n")[0]


def to_html(path: Path) -> Path:
    """The notebook at `path` as a page of its own beside it, pictures embedded."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="lab", embed_images=True).from_filename(str(path))
    page = path.with_suffix(".html")
    _write(page, body)
    return page


def normalise(nb):
    """A copy of `nb` without what differs from run to run or machine to machine: times, versions, widget state."""
    nb = copy.deepcopy(nb)
    for key in ("papermill", "widgets"):
        nb.metadata.pop(key, None)
    nb.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    nb.metadata.language_info = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python",
                                 "pygments_lexer": "ipython3"}
    for cell in nb.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    return nb


def stamp(nb) -> str:
    """SHA-256 over the code cells of `nb` and the modules of the package: outputs with it come from this source."""
    sources = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    for module in sorted(Path(__file__).parent.parent.rglob("*.py")):
        sources += [module.name, module.read_text(encoding="utf-8")]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


# --- all notebooks ---------------------------------------------------------------------------------------------

def default_profile() -> str:
    """`gpu` where there is one, else `mini`."""
    import torch

    return "gpu" if torch.cuda.is_available() else "mini"


def preset(path: Path, profile: str) -> dict[str, str]:
    """What `profile` sets in the notebook at `path`: those of its parameters that the notebook has.

    Raises ValueError for an unknown profile, and where a variable or device that it needs is missing.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile: {profile!r} is not known; expected one of {', '.join(PROFILES)}")
    if PROFILES[profile].device == "cuda" and default_profile() != "gpu":
        raise ValueError(f"profile: {profile!r} needs a GPU; torch sees none")
    parameters = PROFILES[profile].parameters
    folder = os.environ.get("CLIPNULL_DATA", "")
    if not folder and "{CLIPNULL_DATA}" in "".join(parameters.values()):
        raise ValueError(f"profile: {profile!r} needs the variable CLIPNULL_DATA; expected the folder of PACS")
    known = parameters_of(path) if parameters else {}
    return {name: value.replace("{CLIPNULL_DATA}", folder) for name, value in parameters.items() if name in known}


def run(notebooks: Sequence[Path], out: Path, parameters: Mapping[str, object] | None = None, jobs: int | None = None,
        limit: float = 900, profile: str | None = None) -> tuple[dict[str, Metrics], list[str]]:
    """Execute `notebooks` into the folder `out`: (metrics by notebook, one line for each failure).

    `jobs` run at a time (without: two, or one where there is a GPU or a single notebook) and share the cores; each is
    stopped with all its children after `limit` seconds. Writes `<name>.ipynb`, `<name>.html` and metrics.json; prints
    progress and the table of metrics. `profile`: one of PROFILES, by default `default_profile()`; `parameters` come on
    top, and a profile that names pictures leaves out the notebooks that take none.
    """
    notebooks, out, parameters = [Path(n) for n in notebooks], Path(out), dict(parameters or {})
    profile = profile or default_profile()
    if not notebooks:
        raise ValueError("notebooks: none given; expected paths such as notebooks/00_check_your_machine.ipynb")
    if len({n.stem for n in notebooks}) < len(notebooks):
        raise ValueError("notebooks: two have the same name; expected distinct names, as results share a folder")
    for path in notebooks:
        if not path.is_file():
            raise ValueError(f"notebooks: {path} does not exist; expected a notebook")
        check_parameters(path, parameters)
    presets = {path: preset(path, profile) for path in notebooks}
    notebooks = [path for path in notebooks if presets[path] or not PROFILES[profile].parameters]
    alone = len(notebooks) == 1 or (default_profile() == "gpu" and PROFILES[profile].device != "cpu")
    jobs = jobs or (1 if alone else 2)
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if PROFILES[profile].device == "cpu" else {}
    out.mkdir(parents=True, exist_ok=True)
    waiting, running, metrics, failures = list(notebooks), {}, {}, []
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
    _write(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    print(table(metrics))
    return metrics, sorted(failures)


def _start(path: Path, out: Path, parameters: Mapping[str, object], jobs: int, variables: Mapping[str, str]):
    """Start a process that executes one notebook: (process, its log)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kernels = [str(Path(sys.prefix, "share", "jupyter")), os.environ.get("JUPYTER_PATH", "")]
    env = {**os.environ, **variables, "OMP_NUM_THREADS": str(max(1, cores // jobs)),
           "JUPYTER_PATH": os.pathsep.join(filter(None, kernels))}  # this interpreter's kernel before any other
    env.pop("JPY_SESSION_NAME", None)                            # nobody sits in front of it, see `live.attended`
    log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by _finish)
    command = [sys.executable, __file__, "execute", str(path), str(out)]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env), log


def _finish(path: Path, out: Path, process: subprocess.Popen, log, limit: float) -> Metrics:
    """The metrics of a notebook whose process has ended or must end; NotebookError if it failed."""
    hung = process.poll() is None
    _kill(process)
    with log:
        log.seek(0)
        last = log.read().strip().rpartition("\n")[2]
    if process.returncode:
        if _partial(path, out).exists():
            os.replace(_partial(path, out), _failed(path, out))
        why = f"stopped, as it ran for {limit:g} s" if hung else last or f"ended with code {process.returncode}"
        raise NotebookError(why if why.startswith(path.name) else f"{path.name}: {why}")
    try:
        return metrics_of(_read(out / path.name))
    except ValueError as error:
        raise NotebookError(f"{path.name}: {error}") from None


def _kill(process: subprocess.Popen) -> None:
    """End `process` and all that it started: a kernel has a session of its own, so no process group holds both."""
    import psutil

    if process.poll() is None:
        parent = psutil.Process(process.pid)
        for victim in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        process.wait()


def table(metrics: Mapping[str, Metrics]) -> str:
    """Metrics by notebook as plain text."""
    rows = [(notebook, name, f"{value:.4g}") for notebook, values in metrics.items() for name, value in values.items()]
    return _columns([("notebook", "metric", "value"), *rows])


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as plain text: the first two columns to the left, numbers to the right."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{text:{'<' if i < 2 else '>'}{wide[i]}}" for i, text in enumerate(row)).rstrip()
                     for row in rows)


def publish(notebooks: Sequence[Path], out: Path) -> None:
    """Execute `notebooks` with their own defaults and write them back with their outputs, normalised and stamped.

    All or none: a NotebookError if one failed or was edited meanwhile.
    """
    before = {Path(n): stamp(_read(n)) for n in notebooks}
    _, failures = run(list(before), out)
    failures += [f"{n.name}: it or the package was edited meanwhile" for n in before if stamp(_read(n)) != before[n]]
    if failures:
        raise NotebookError("nothing written back:\n" + "\n".join(failures))
    import nbformat

    for path, value in before.items():
        nb = normalise(_read(Path(out) / path.name))
        nb.metadata["clipnull"] = {"stamp": value}
        _write(path, nbformat.writes(nb) + "\n")


# --- seeds -----------------------------------------------------------------------------------------------------

def seeds(notebooks: Sequence[Path], out: Path, count: int = 5, times: float = 4.0, goldens: Path | None = None,
          profile: str | None = None, jobs: int | None = None, limit: float = 900) -> dict[str, dict[str, dict]]:
    """Run the notebooks that have a parameter `seed` with seeds 0 to `count` - 1, and propose tolerances.

    Returns and writes to out/seeds.json, by notebook and metric: values, mean, sd (of the sample) and the proposed
    atol, which is `times` sd, at least 1 % of the mean's size (machines round differently), and prints them beside the
    goldens; "null accepted" marks a metric whose golden would then not reject its null value.
    Raises ValueError for fewer than five seeds, NotebookError if a notebook failed.
    """
    if count < 5:
        raise ValueError(f"count: {count} is too few; expected at least five seeds for a tolerance")
    seeded = [Path(n) for n in notebooks if "seed" in parameters_of(n)]
    for path in {*map(Path, notebooks)} - {*seeded}:
        print(f"{path.stem}: left out, as it has no parameter seed")
    runs = []
    for seed in range(count):
        metrics, failures = run(seeded, Path(out) / f"seed-{seed}", {"seed": seed}, jobs, limit, profile)
        if failures:
            raise NotebookError(f"seed {seed}:\n" + "\n".join(failures))
        runs.append(metrics)
    found = {notebook: {name: _spread([metrics[notebook][name] for metrics in runs], times) for name in first}
             for notebook, first in runs[0].items()}
    _write(Path(out) / "seeds.json", json.dumps(found, indent=1) + "\n")
    print(spreads(found, read_goldens(goldens, profile or default_profile()) if goldens else {}))
    print(f"atol proposed: {times:g} x the standard deviation over {count} seeds, at least 1 % of the mean")
    return found


def _spread(values: Sequence[float], times: float) -> dict:
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return {"values": list(values), "mean": mean, "sd": sd, "atol": float(f"{max(times * sd, 0.01 * abs(mean)):.2g}")}


def spreads(found: Mapping[str, Mapping[str, Mapping]], goldens: Goldens) -> str:
    """What `seeds` found, beside `goldens`, as plain text."""
    rows = [("notebook", "metric", "mean", "least", "most", "sd", "golden", "atol", "proposed", "")]
    for notebook, entries in found.items():
        for name, entry in entries.items():
            golden = goldens.get(notebook, {}).get(name, {})
            value, null = golden.get("value", entry["mean"]), golden.get("null")
            outside = golden.get("atol") is not None and any(abs(v - value) > golden["atol"] for v in entry["values"])
            marks = ["a seed is outside"] * outside
            marks += ["null accepted"] * (null is not None and abs(value - null) <= entry["atol"])
            rows.append((notebook, name, *(f"{x:.4g}" for x in (entry["mean"], min(entry["values"]),
                         max(entry["values"]), entry["sd"])), *(f"{golden[k]:.4g}" if golden.get(k) is not None else "-"
                         for k in ("value", "atol")), f"{entry['atol']:.4g}", ", ".join(marks)))
    return _columns(rows)


# --- editions --------------------------------------------------------------------------------------------------

def student_edition(nb):
    """A copy of `nb` without solutions and outputs, as a student begins with it."""
    nb = normalise(nb)
    nb.metadata.pop("clipnull", None)
    nb.cells = [cell for cell in nb.cells if "solution" not in cell.metadata.get("tags", ())]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def student(notebooks: Sequence[Path], out: Path) -> list[Path]:
    """Write the student edition of each notebook into the folder `out`; what a student has begun there is not touched.

    Raises ValueError if one of them is there already and differs, before anything is written.
    """
    import nbformat

    texts = {Path(out) / Path(n).name: nbformat.writes(student_edition(_read(n))) + "\n" for n in notebooks}
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"out: {path} exists and differs; expected a folder without work in it, or --out another")
    Path(out).mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        _write(path, text)
    return list(texts)


# --- files and command line ------------------------------------------------------------------------------------

def _read(path: Path):
    import nbformat

    return nbformat.read(str(path), as_version=4)


def _write(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _run(notebooks: Sequence[Path], args: argparse.Namespace) -> int:
    profile = args.profile or default_profile()
    metrics, failures = run(notebooks, args.out, dict(args.parameters), args.jobs, args.limit, profile)
    if args.check and not args.update_goldens:
        names = {path.stem for path in notebooks}
        goldens = {name: golden for name, golden in read_goldens(args.goldens, profile).items() if name in names}
        _write(args.out / "diff.txt", diff(metrics, goldens) + "\n")
        ran = {name: golden for name, golden in goldens.items() if name in metrics}
        failures += compare(metrics, ran, args.out)
    if failures:
        raise NotebookError("failed:\n" + "\n".join(failures))
    print(f"pages to read: {args.out}/*.html    metrics: {args.out}/metrics.json")
    return _take_over(metrics, args.goldens, profile) if args.update_goldens else 0


def _take_over(metrics: Mapping[str, Metrics], goldens: Path, profile: str | None) -> int:
    empty = update_goldens(metrics, goldens, profile or "mini")
    if empty:
        raise NotebookError("fill in atol and null of:\n" + "\n".join(empty))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m clipnull", description="Execute, check and publish the notebooks.",
                                     epilog="Every request x every method on a data set: python -m clipnull bench -h")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text, out in (("run", "execute notebooks into a folder", "build"),
                            ("publish", "execute notebooks and write their outputs back", "build"),
                            ("seeds", "run with several seeds and propose tolerances", "build/seeds"),
                            ("student", "write the course without solutions and outputs", "build/student"),
                            ("book", "render the course, as stored, to a static site", "build/book")):
        command = commands.add_parser(name, help=text)
        command.add_argument("notebooks", nargs="*", type=Path, help="without: all in notebooks/")
        command.add_argument("--out", type=Path, default=Path(out), help=f"folder for the results [{out}]")
    run_, seeds_ = commands.choices["run"], commands.choices["seeds"]
    for command in (run_, seeds_):
        command.add_argument("--jobs", type=int, help="notebooks at a time [2; 1 with a GPU]")
        command.add_argument("--limit", type=float, default=900, help="seconds for a whole notebook [900]")
    run_.add_argument("--check", action="store_true", help="compare the metrics with the goldens")
    run_.add_argument("--update-goldens", action="store_true", help="take the metrics over into the goldens")
    seeds_.add_argument("--seeds", type=int, default=5, help="how many [5]")
    seeds_.add_argument("--times", type=float, default=4, help="atol in standard deviations [4]")
    one = commands.add_parser("execute", help="execute one notebook, in this process")
    one.add_argument("path", type=Path)
    one.add_argument("out", type=Path)
    for command in (run_, one):
        command.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    goldens = commands.add_parser("goldens", help="take recorded metrics over into the goldens")
    goldens.add_argument("metrics", type=Path, help="such as build/metrics.json")
    for command in (run_, seeds_, goldens):
        command.add_argument("--profile", choices=list(PROFILES), help="[gpu where there is one, else mini]")
        command.add_argument("--goldens", type=Path, default=Path("tests/goldens.json"))
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` runs and no kernel stays behind
    try:
        if args.command == "execute":
            to_html(execute(args.path, args.out, dict(args.parameters)))
            return 0
        if args.command == "goldens":
            return _take_over(json.loads(args.metrics.read_text()), args.goldens, args.profile)
        notebooks = args.notebooks or sorted(Path("notebooks").glob("[0-9][0-9]_*.ipynb"))
        if args.command == "publish":
            publish(notebooks, args.out)
        elif args.command == "seeds":
            seeds(notebooks, args.out, args.seeds, args.times, args.goldens, args.profile, args.jobs, args.limit)
        elif args.command == "student":
            print(f"{len(student(notebooks, args.out))} notebooks without solutions: {args.out}")
        elif args.command == "book":
            from clipnull.course.book import build
            pages = [*notebooks, *([] if args.notebooks else [Path("notebooks", "INSTRUCTOR.md")])]
            print(f"to read: {build(pages, args.out)}")
        else:
            return _run(notebooks, args)
        return 0
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        del sys.path[0]  # run as a file: the modules beside it must not shadow others
    sys.exit(main())
