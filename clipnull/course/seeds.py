"""Seeds: run with several, and propose tolerances from the spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import at_least, import_extra
from ..files import write_text
from .goldens import read, weakness
from .notebooks import parameters_of
from .profiles import default_profile
from .run import NotebookError, run


def seeds(
    notebooks: Sequence[Path],
    out: Path,
    count: int,
    times: float,
    goldens: Path,
    profile: str | None = None,
    jobs: int | None = None,
    limit: float = 900,
) -> None:
    """Run the notebooks that have a parameter `seed` with seeds 0 to `count` - 1; print and write proposed tolerances.

    `proposed` is `times` the standard deviation (of the sample), at least 1 % of the mean's size, as machines round
    differently. The table, also in out/seeds.json, has the goldens beside it and notes: "a seed is outside" of the
    tolerance that holds now, and the `weakness` of the proposed one. Raises NotebookError if a notebook failed.
    """
    at_least("count", count, 5)
    pandas, profile = import_extra("pandas", "course"), profile or default_profile()
    seeded, values = [path for path in notebooks if "seed" in parameters_of(path)], {}
    for seed in range(count):
        metrics, failures = run(seeded, out / f"seed-{seed}", {"seed": seed}, jobs, limit, profile)
        if failures:
            raise NotebookError(f"seed {seed}:\n" + "\n".join(failures))
        values[seed] = {(notebook, name): x for notebook, named in metrics.items() for name, x in named.items()}
    entries = {(notebook, name): e for notebook, named in read(goldens, profile).items() for name, e in named.items()}
    held = pandas.DataFrame(entries, ["value", "atol", "null"], dtype=float).T
    table = pandas.DataFrame(values).agg(["mean", "min", "max", "std"], axis=1).join(held)
    spread = (times * table["std"]).clip(lower=0.01 * table["mean"].abs())
    table["proposed"] = [float(f"{atol:.2g}") for atol in spread]
    table["note"] = [_note(row) for row in table.itertuples()]
    table = table.rename_axis(["notebook", "metric"]).reset_index()
    write_text(out / "seeds.json", table.to_json(orient="records", indent=1) + "\n")
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep="-"))


def _note(row: tuple) -> str:
    value = row.mean if math.isnan(row.value) else row.value
    outside = max(row.max - value, value - row.min) > row.atol
    return ", ".join(filter(None, ["a seed is outside" * outside, weakness(value, row.null, row.proposed)]))
