"""Goldens: the expected metrics by profile, notebook and name, {"value": v, "atol": t, "null": n}.

Compare metrics with them, update their values, and propose tolerances from runs with several seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import aligned, write_text
from .metrics import Metrics
from .notebooks import PACKAGE, parameters_of
from .profiles import PROFILES, default_profile
from .run import NotebookError, run

Goldens = Mapping[str, Mapping[str, Mapping]]  # notebook -> metric -> {"value": v, "atol": t, "null": n}
IN_CLONE = Path("tests", "goldens.json")
NO_GOLDEN = {"value": math.nan, "atol": math.nan}
SEEDS, DEVIATIONS = 5, 4


def default_goldens() -> Path:
    """Return the goldens of the wheel, unless the current folder has tests/goldens.json or the wheel has none."""
    packaged = PACKAGE / "_data" / "goldens.json"
    return packaged if packaged.is_file() and not IN_CLONE.is_file() else IN_CLONE


def read(path: Path, profile: str) -> dict:
    """Load the goldens of `profile` by notebook; {} if there are none."""
    return _stored(path).get(PROFILES[profile].goldens, {})


def _stored(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"path: {path} is not valid JSON ({error}); expected a file of goldens") from error


# --- compare


def compare(metrics: Mapping[str, Metrics], goldens: Goldens, out: Path) -> tuple[str, list[str]]:
    """Compare `metrics` with `goldens`, both by notebook; return a plain-text table and one line per failed metric.

    A metric passes if |metric - value| <= atol. Each line names the executed notebook in the folder `out`.
    """
    rows, failures = [], []
    for notebook in sorted({*metrics, *goldens}):
        values, entries = metrics.get(notebook, {}), goldens.get(notebook, {})
        for name in sorted({*values, *entries}):
            value, entry = values.get(name, math.nan), entries.get(name, NO_GOLDEN)
            golden, atol, off = f"{entry['value']:.6g}", f"{entry['atol']:.3g}", value - entry["value"]
            passed = abs(off) <= entry["atol"]
            rows.append((f"{notebook} {name}", golden, atol, f"{value:.6g}", f"{off:+.3g}", "" if passed else "FAILED"))
            if not passed:
                expected = f"{golden} ± {atol}" if name in entries else "no golden"
                actual = f"{value:.6g}" if name in values else "nothing"
                where = f"executed: {out / notebook}.ipynb"
                failures.append(f"{notebook}: {name}: expected {expected}, got {actual}; {where}")
    return aligned(rows, ("metric", "golden", "atol", "got", "off by", "")), failures


# --- update


def update(metrics: Mapping[str, Metrics], path: Path, profile: str) -> list[str]:
    """Write the values of `metrics` into the goldens file `path`, and keep `atol`, `null` and all other notebooks.

    Return the metrics that still lack `atol` or `null`, which a person must fill in.
    """
    stored = _stored(path)
    goldens = stored.setdefault(PROFILES[profile].goldens, {})
    for notebook, values in metrics.items():
        before, empty = goldens.get(notebook, {}), {"atol": None, "null": None}
        goldens[notebook] = {name: empty | before.get(name, {}) | {"value": value} for name, value in values.items()}
    write_text(path, json.dumps(stored, indent=1, sort_keys=True) + "\n")
    return [f"{notebook}: {name}" for (notebook, name), entry in _flat(goldens).items() if None in entry.values()]


# --- propose tolerances


def seeds(notebooks: Sequence[Path], out: Path, profile: str | None = None) -> list[Path]:
    """Run the notebooks with a parameter `seed` for five seeds, and print and write proposed tolerances.

    `proposed` is four sample standard deviations, and at least 1 % of the mean because machines round differently. The
    table, also in out/seeds.json, shows the current goldens and notes a seed outside the current tolerance or a
    `weakness` of the proposed one.
    """
    import pandas  # installed with seaborn by the extra `course`

    profile = profile or default_profile()
    seeded, values = [notebook for notebook in notebooks if "seed" in parameters_of(notebook)], {}
    for seed in range(SEEDS):
        metrics, failures = run(seeded, out / f"seed-{seed}", {"seed": seed}, profile=profile)
        if failures:
            raise NotebookError(f"seed {seed}:\n" + "\n".join(failures))
        values[seed] = _flat(metrics)
    golden = pandas.DataFrame(_flat(read(default_goldens(), profile)), ["value", "atol", "null"], dtype=float).T
    table = pandas.DataFrame(values).agg(["mean", "min", "max", "std"], axis=1).join(golden)
    spread = (DEVIATIONS * table["std"]).clip(lower=0.01 * table["mean"].abs())
    table["proposed"] = [float(f"{atol:.2g}") for atol in spread]
    table["note"] = [_note(row) for row in table.itertuples()]
    table = table.rename_axis(["notebook", "metric"]).reset_index()
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    return [write_text(out / "seeds.json", table.to_json(orient="records", indent=1) + "\n")]


def _flat(nested: Mapping[str, Mapping]) -> dict[tuple[str, str], Any]:
    return {(notebook, name): entry for notebook, entries in nested.items() for name, entry in entries.items()}


def _note(row: Any) -> str:
    value = row.mean if math.isnan(row.value) else row.value
    outside = max(row.max - value, value - row.min) > row.atol
    return ", ".join(filter(None, ["a seed is outside" * outside, weakness(value, row.null, row.proposed)]))


def weakness(value: float, null: float, atol: float) -> str:
    """Return why a golden proves too little: `atol` reaches `null`, its value without any effect, or over half the way.

    Return "" if it is sound. null: NaN without a golden.
    """
    if not atol > abs(value - null) / 2:
        return ""
    return "null accepted" if atol >= abs(value - null) else "tolerance over half the way to null"
