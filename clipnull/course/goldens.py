"""Goldens: what the notebooks must record, by profile, notebook and metric: {"value": v, "atol": t, "null": n}."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..files import aligned, write_text
from .metrics import Metrics
from .notebooks import PACKAGE
from .profiles import PROFILES

Goldens = Mapping[str, Mapping[str, Mapping]]  # notebook -> metric -> {"value": v, "atol": t, "null": n}
IN_CLONE = Path("tests", "goldens.json")
NONE = {"value": math.nan, "atol": math.nan}


def default_goldens() -> Path:
    """tests/goldens.json below the current folder if it exists, else the file that the wheel brings."""
    packaged = PACKAGE / "_data" / "goldens.json"
    return packaged if packaged.is_file() and not IN_CLONE.is_file() else IN_CLONE


def stored(path: Path) -> dict:
    """The content of a JSON file of metrics or goldens; ValueError that names it if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error


def read(path: Path, profile: str) -> dict:
    """The goldens that hold for `profile`, by notebook; empty if there are none."""
    return (stored(path) if path.exists() else {}).get(PROFILES[profile].goldens, {})


def _compared(metrics: Mapping[str, Metrics], goldens: Goldens) -> Iterator[tuple[str, str, float, float, float]]:
    """Notebook, metric, recorded value, golden, tolerance; NaN where there is none."""
    for notebook in sorted({*metrics, *goldens}):
        values, entries = metrics.get(notebook, {}), goldens.get(notebook, {})
        for name in sorted({*values, *entries}):
            entry = entries.get(name, NONE)
            yield notebook, name, values.get(name, math.nan), entry["value"], entry["atol"]


def differences(metrics: Mapping[str, Metrics], goldens: Goldens, out: Path | None = None) -> list[str]:
    """What differs between `metrics` and `goldens` (both by notebook), one line each; empty if nothing does.

    A metric passes when |metric - value| <= atol. With `out`, a line names the executed notebook in that folder.
    """
    failures = []
    for notebook, name, value, golden, atol in _compared(metrics, goldens):
        if not abs(value - golden) <= atol:
            expected = "no golden" if math.isnan(golden) else f"{golden:.6g} ± {atol:.3g}"
            recorded = "nothing" if math.isnan(value) else f"{value:.6g}"
            executed = f"; executed: {out / notebook}.ipynb" if out else ""
            failures.append(f"{notebook}: {name}: expected {expected}, got {recorded}{executed}")
    return failures


def diff(metrics: Mapping[str, Metrics], goldens: Goldens) -> str:
    """Every metric beside its golden, as plain text: what CI keeps of a run."""
    rows = []
    for notebook, name, value, golden, atol in _compared(metrics, goldens):
        numbers = f"{golden:.6g}", f"{atol:.3g}", f"{value:.6g}", f"{value - golden:+.3g}"
        rows.append((f"{notebook} {name}", *numbers, "" if abs(value - golden) <= atol else "FAILED"))
    return aligned(rows, ("metric", "golden", "atol", "got", "off by", ""))


def weakness(value: float, null: float | None, atol: float | None) -> str:
    """Why a golden tells too little, or nothing: it accepts its null value, or half the way to it.

    `null` is the value that the metric would have if there were nothing to show.
    """
    if null is None or atol is None or not atol > abs(value - null) / 2:
        return ""
    return "null accepted" if atol >= abs(value - null) else "tolerance over half the way to null"


def update(metrics: Mapping[str, Metrics], path: Path, profile: str = "mini") -> list[str]:
    """Take the values of `metrics` over into the goldens file, print old -> new, keep `atol` and `null`.

    Returns the metrics whose `atol` or `null` is still empty: those are for a person to fill in. Notebooks that
    `metrics` lacks keep their goldens, and so do other profiles.
    """
    everything = stored(path) if path.exists() else {}
    goldens = everything.setdefault(PROFILES[profile].goldens, {})
    for notebook, values in metrics.items():
        before = goldens.get(notebook, {})
        goldens[notebook] = {
            name: {"atol": None, "null": None} | before.get(name, {}) | {"value": value}
            for name, value in values.items()
        }
        for name in sorted({*before, *values}):
            old, new = before.get(name, {}).get("value"), values.get(name)
            if old != new:
                print(f"{notebook}: {name}: {old} -> {new}")
    write_text(path, json.dumps(everything, indent=1, sort_keys=True) + "\n")
    entries = [(notebook, name, entry) for notebook in goldens for name, entry in goldens[notebook].items()]
    return [f"{notebook}: {name}" for notebook, name, entry in entries if None in (entry["atol"], entry["null"])]
