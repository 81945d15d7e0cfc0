"""Seeds: run with several, and propose tolerances from the spread."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import aligned, write_text
from .goldens import Goldens, weakness
from .goldens import read as read_goldens
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
    goldens. Marks: "a seed is outside" of the tolerance that holds now, and the `weakness` of the proposed one.
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
    spreads = {
        notebook: {name: _spread([metrics[notebook][name] for metrics in runs], times) for name in first}
        for notebook, first in runs[0].items()
    }
    write_text(Path(out) / "seeds.json", json.dumps(spreads, indent=1) + "\n")
    print(_table(spreads, read_goldens(goldens, profile or default_profile()) if goldens else {}))
    print(f"atol proposed: {times:g} x the standard deviation over {count} seeds, at least 1 % of the mean")
    return spreads


def _spread(values: Sequence[float], times: float) -> dict:
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return {"values": list(values), "mean": mean, "sd": sd, "atol": float(f"{max(times * sd, 0.01 * abs(mean)):.2g}")}


def _table(spreads: Mapping[str, Mapping[str, Mapping]], goldens: Goldens) -> str:
    """The spreads beside `goldens`, as plain text."""
    rows = []
    for notebook, entries in spreads.items():
        for name, entry in entries.items():
            golden = {"value": None, "atol": None, "null": None} | dict(goldens.get(notebook, {}).get(name, {}))
            value = entry["mean"] if golden["value"] is None else golden["value"]
            outside = golden["atol"] is not None and any(abs(v - value) > golden["atol"] for v in entry["values"])
            marks = ["a seed is outside" if outside else "", weakness(value, golden["null"], entry["atol"])]
            numbers = entry["mean"], min(entry["values"]), max(entry["values"]), entry["sd"], golden["value"]
            texts = ["-" if x is None else f"{x:.4g}" for x in (*numbers, golden["atol"], entry["atol"])]
            rows.append((f"{notebook} {name}", *texts, ", ".join(filter(None, marks))))
    return aligned(rows, ("metric", "mean", "least", "most", "sd", "golden", "atol", "proposed", ""))
