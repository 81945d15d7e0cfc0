"""Seeds: run with several, and propose tolerances from the spread."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import write_text
from .goldens import Goldens, weakness
from .goldens import read as read_goldens
from .metrics import columns
from .notebooks import parameters_of
from .profiles import default_profile
from .run import NotebookError, run


def seeds(
    notebooks: Sequence[Path],
    out: Path,
    count: int = 5,
    times: float = 4.0,
    goldens: Path | None = None,
    profile: str | None = None,
    jobs: int | None = None,
    limit: float = 900,
) -> dict[str, dict[str, dict]]:
    """Run the notebooks that have a parameter `seed` with seeds 0 to `count` - 1, and propose tolerances.

    Returns and writes to out/seeds.json, by notebook and metric: values, mean, sd (of the sample) and the proposed
    atol, which is `times` sd, at least 1 % of the mean's size (machines round differently), and prints them beside the
    goldens. Marks: "a seed is outside" of the tolerance that holds now; with the proposed one, "null accepted" if the
    golden would not reject its null value, "tolerance over half the way to null" if it would only just do so.
    Raises ValueError for fewer than five seeds, NotebookError if a notebook failed.
    """
    if count < 5:
        raise ValueError(f"count: {count} is too few; expected at least five seeds for a tolerance")
    seeded = [Path(n) for n in notebooks if "seed" in parameters_of(n)]
    for path in sorted({*map(Path, notebooks)} - {*seeded}):
        print(f"{path.stem}: left out, as it has no parameter seed")
    runs = []
    for seed in range(count):
        metrics, failures = run(seeded, Path(out) / f"seed-{seed}", {"seed": seed}, jobs, limit, profile)
        if failures:
            raise NotebookError(f"seed {seed}:\n" + "\n".join(failures))
        runs.append(metrics)
    by_notebook = {
        notebook: {name: _spread([metrics[notebook][name] for metrics in runs], times) for name in first}
        for notebook, first in runs[0].items()
    }
    write_text(Path(out) / "seeds.json", json.dumps(by_notebook, indent=1) + "\n")
    print(spreads(by_notebook, read_goldens(goldens, profile or default_profile()) if goldens else {}))
    print(f"atol proposed: {times:g} x the standard deviation over {count} seeds, at least 1 % of the mean")
    return by_notebook


def _spread(values: Sequence[float], times: float) -> dict:
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return {"values": list(values), "mean": mean, "sd": sd, "atol": float(f"{max(times * sd, 0.01 * abs(mean)):.2g}")}


def spreads(by_notebook: Mapping[str, Mapping[str, Mapping]], goldens: Goldens) -> str:
    """What `seeds` found, beside `goldens`, as plain text."""
    rows: list[tuple[str, ...]] = [
        ("notebook", "metric", "mean", "least", "most", "sd", "golden", "atol", "proposed", "")
    ]
    for notebook, entries in by_notebook.items():
        for name, entry in entries.items():
            golden = goldens.get(notebook, {}).get(name, {})
            value, values = golden.get("value", entry["mean"]), entry["values"]
            outside = golden.get("atol") is not None and any(abs(v - value) > golden["atol"] for v in values)
            marks = ["a seed is outside" if outside else "", weakness(value, golden.get("null"), entry["atol"])]
            spread = [f"{x:.4g}" for x in (entry["mean"], min(values), max(values), entry["sd"])]
            held = [f"{golden[k]:.4g}" if golden.get(k) is not None else "-" for k in ("value", "atol")]
            rows.append((notebook, name, *spread, *held, f"{entry['atol']:.4g}", ", ".join(filter(None, marks))))
    return columns(rows)
