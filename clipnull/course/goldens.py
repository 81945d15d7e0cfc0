"""Goldens: what the notebooks must record, by profile, notebook and metric: {"value": v, "atol": t, "null": n}."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ..files import write_text
from .metrics import MIME, Metrics, columns
from .notebooks import PACKAGE, first_line
from .notebooks import read as read_notebook
from .profiles import PROFILES

Goldens = Mapping[str, Mapping[str, Mapping]]  # notebook -> metric -> {"value": v, "atol": t, "null": n}
IN_CLONE = Path("tests", "goldens.json")


def default_goldens() -> Path:
    """tests/goldens.json below the current folder if it exists, else the file that the wheel brings."""
    packaged = PACKAGE / "_data" / "goldens.json"
    return packaged if packaged.is_file() and not IN_CLONE.is_file() else IN_CLONE


def stored(path: Path) -> dict:
    """The content of a JSON file of metrics or goldens; ValueError that names it if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); expected what `clipnull run` writes") from None


def differences(metrics: Mapping[str, Metrics], goldens: Goldens, out: Path | None = None) -> list[str]:
    """What differs between `metrics` and `goldens` (both by notebook), one line each; empty if nothing does.

    A metric passes when |metric - value| <= atol. With `out`, the folder of the executed notebooks, a line names the
    cell that recorded the metric and the path of the notebook.
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
                expected = f"{golden[name]['value']:.6g} ± {golden[name]['atol']:.3g}"
                failures.append(f"{where}: {name}: expected {expected}, got {got[name]:.6g}{kept}")
    return failures


def _recorded(notebook: str, out: Path | None) -> tuple[str, str]:
    """The notebook with the number and first line of the cell that recorded, and where it is kept: two texts."""
    path = Path(out or ".", f"{notebook}.ipynb")
    if out is None or not path.is_file():
        return notebook, ""
    cells = [c for c in read_notebook(path).cells if "injected-parameters" not in c.metadata.get("tags", ())]
    for number, cell in enumerate(cells, 1):
        if any(MIME in output.get("data", {}) for output in cell.get("outputs", ())):
            return f"{path.name}, cell {number} ({first_line(cell.source)})", f"; executed: {path}"
    return path.name, f"; executed: {path}"


def diff(metrics: Mapping[str, Metrics], goldens: Goldens) -> str:
    """Every metric beside its golden, as plain text: what CI keeps of a run."""
    rows = [("notebook", "metric", "golden", "atol", "got", "off by", "")]
    for notebook in sorted({*metrics, *goldens}):
        got, golden = metrics.get(notebook, {}), goldens.get(notebook, {})
        for name in sorted({*got, *golden}):
            value, entry = got.get(name, math.nan), golden.get(name, {"value": math.nan, "atol": math.nan})
            off = value - entry["value"]
            mark = "" if abs(off) <= entry["atol"] else "FAILED"
            numbers = f"{entry['value']:.6g}", f"{entry['atol']:.3g}", f"{value:.6g}", f"{off:+.3g}"
            rows.append((notebook, name, *numbers, mark))
    return columns(rows)


def weakness(value: float, null: float | None, atol: float | None) -> str:
    """Why a golden tells too little, or nothing: it accepts its null value, or half the way to it.

    `null` is the value that the metric would have if there were nothing to show.
    """
    if null is None or atol is None or atol <= abs(value - null) / 2:
        return ""
    return "null accepted" if atol >= abs(value - null) else "tolerance over half the way to null"


def read(path: Path, profile: str) -> dict:
    """The goldens that hold for `profile`, by notebook; empty if there are none."""
    return (stored(path) if path.exists() else {}).get(PROFILES[profile].goldens, {})


def update(metrics: Mapping[str, Metrics], path: Path, profile: str = "mini") -> list[str]:
    """Take the values of `metrics` over into the goldens file, print old -> new, keep `atol` and `null`.

    Returns the metrics whose `atol` or `null` is still empty: those are for a person to fill in. Notebooks that
    `metrics` lacks keep their goldens, and so do other profiles.
    """
    everything = stored(path) if path.exists() else {}
    goldens = everything.setdefault(PROFILES[profile].goldens, {})
    for notebook, values in metrics.items():
        old = goldens.get(notebook, {})
        for name in sorted({*old, *values}):
            before, after = old.get(name, {}).get("value"), values.get(name)
            if before != after:
                print(f"{notebook}: {name}: {before} -> {after}")
        goldens[notebook] = {
            name: {"atol": None, "null": None, **old.get(name, {}), "value": value} for name, value in values.items()
        }
    write_text(path, json.dumps(everything, indent=1, sort_keys=True) + "\n")
    empty = [(notebook, name) for notebook, entries in goldens.items() for name, entry in entries.items()
             if None in (entry["atol"], entry["null"])]  # fmt: skip
    return [f"{notebook}: {name}" for notebook, name in empty]
