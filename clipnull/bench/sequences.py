"""Forgetting more and more: one edit for several classes, or one edit after the other, up to half of all classes.

A user rarely asks once. Three ways to forget n classes:

- `union`: one edit, made for all n;
- `after`: n edits, each made on the model that carries those before it, as `unlearn` does with an edited model;
- `apart`: n edits, each made on the unedited model, all applied, as with patches from several people.

An edit that is made for one class counts all others among what is to be kept, the forgotten ones too: whether these
come back is part of what is measured.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from ..edit import Edit
from ..errors import at_least, names
from ..evaluate import accuracy_matrix, classify, rates
from ..methods import METHODS
from .baselines import RIVALS, Material
from .comparison import ALL, Field, edit_of, left_out

WAYS = {"union": "one edit for all", "after": "one after the other", "apart": "made apart, all applied"}
FIGURES = {
    "forgetting_rate": "forgetting rate",
    "retain_drop": "retain drop",
    "beyond_filter": "drop beyond the filter",
    "worst_cell_drop": "worst cell",
}
"""All but the first in percentage points. A name that is no longer answered is no longer a wrong answer, so
that kept classes gain by forgetting alone; `beyond_filter` is the retain drop minus that of the name filter."""
NO_PICTURES = tuple(name for name, rival in RIVALS.items() if rival.make is None or rival.texts)
"""Rivals that make no edit of pictures, so that nothing can follow theirs."""
LEAST, MOST = 0.9, 5.0
"""A method breaks where it forgets less than LEAST, or loses more than MOST points beyond the filter."""


def sizes_of(classes: int) -> list[int]:
    """1, 2, 4, 8, ... up to half of all classes, and half: the numbers of classes to forget."""
    half = at_least("classes", classes, 2) // 2
    return sorted({2**i for i in range(half.bit_length()) if 2**i <= half} | {half})


def sequence(
    on: Field,
    material: Material,
    entrants: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    orders: int = 4,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What is forgotten and lost as classes go, everywhere, in several random orders.

    Parameters
    ----------
    on, material
        Of `contest.field` and `materials.gather`.
    entrants : sequence of str, optional
        Methods, and rivals whose edit is one of pictures; by default the methods.
    sizes : sequence of int, optional
        Numbers of classes; by default `sizes_of`.
    orders : int
        How many random orders of the classes that have pictures; what is drawn has the order's number as its seed.
    seed : int
        What draws them.

    Returns
    -------
    list of dict
        For each entrant, order, way and size: these, `forgotten`, the names, and the figures of FIGURES, NaN where
        there is none. All classes stay candidates.
    """
    out = left_out(material) | dict.fromkeys(NO_PICTURES, "makes no edit of pictures")
    chosen = names("entrants", list(METHODS) if entrants is None else entrants, list(ALL))
    if missing := [name for name in chosen if name in out]:
        raise ValueError(f"entrants: {missing[0]!r} {out[missing[0]]}; expected others")
    there = on.images.counts().any(1).nonzero()[:, 0].tolist()
    sizes = sizes_of(len(on.images.vocabulary.classes)) if sizes is None else sorted(sizes)
    if not sizes or at_least("sizes", sizes[0], 1) and sizes[-1] >= len(there):
        raise ValueError(f"sizes: {sizes} of {len(there)} classes; expected at least one to forget and one to keep")
    draw = np.random.default_rng(seed)
    drawn = [draw.permutation(there).tolist() for _ in range(at_least("orders", orders, 1))]
    jobs = (delayed(_rows)(name, order, i, sizes, on, material) for name in chosen for i, order in enumerate(drawn))
    return [row for rows in Parallel()(jobs) for row in rows]


def _rows(name: str, order: list[int], place: int, sizes: Sequence[int], on: Field, material: Material) -> list[dict]:
    """The rows of one entrant and order."""
    seed = place % len(material.noisy) if material.noisy is not None else place
    one = [_mask([c], on) for c in order[: sizes[-1]]]
    after, model = [], material
    for mask in one:
        edit = edit_of(name, model, mask, seed)
        after.append(edit)
        model = model if edit is None else model.after(edit)
    apart = [edit_of(name, material, mask, seed) for mask in one]
    before, rows = accuracy_matrix(on.before, on.images), []
    for size in sizes:
        mask = _mask(order[:size], on)
        left = (~mask.all(1)).nonzero()[:, 0]
        filtered = left[classify(on.z, on.classifier[:, left], on.images.domains)]
        floor = rates(before, accuracy_matrix(filtered, on.images), mask)["retain_drop"]
        union = [edit_of(name, material, mask, seed)]
        for way, edits in (("union", union), ("after", after[:size]), ("apart", apart[:size])):
            found = rates(before, accuracy_matrix(_answers(edits, on), on.images), mask)
            found["beyond_filter"] = found["retain_drop"] - floor
            forgotten = [on.images.vocabulary.classes[c] for c in order[:size]]
            about = {"method": name, "way": way, "classes": size, "order": place, "forgotten": forgotten}
            rows.append(about | {figure: found[figure] for figure in FIGURES})
    return rows


def _mask(classes: Sequence[int], on: Field) -> Tensor:
    mask = torch.zeros(on.images.vocabulary.shape, dtype=torch.bool)
    mask[list(classes)] = True
    return mask


def _answers(edits: Sequence[Edit | None], on: Field) -> Tensor:
    """What the pictures are classified as after all `edits`; None among them changes nothing."""
    made = [edit for edit in edits if edit is not None]
    return classify(on.z, on.classifier, on.images.domains, lambda z: reduce(lambda x, edit: edit.images(x), made, z))


def curves(rows: Sequence[dict]) -> list[dict[str, Any]]:
    """For each entrant, way and size: each figure as [mean, lowest, highest] over orders; None where there is none."""
    groups: dict[tuple[str, str, int], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["way"], row["classes"]), []).append(row)
    found = []
    for (method, way, size), own in groups.items():
        figures = {}
        for figure in FIGURES:
            values = [row[figure] for row in own if not math.isnan(row[figure])]
            figures[figure] = [float(np.mean(values)), min(values), max(values)] if values else [None] * 3
        found.append({"method": method, "way": way, "classes": size, "orders": len(own)} | figures)
    return found


def breaks(found: Sequence[dict]) -> dict[tuple[str, str], str]:
    """By entrant and way, where it breaks and by what, as text, see LEAST and MOST; "–" where it holds to the end.

    found: of `curves`.
    """
    told: dict[tuple[str, str], str] = {}
    for row in sorted(found, key=lambda row: row["classes"]):
        key = row["method"], row["way"]
        forgetting, drop = row["forgetting_rate"][0], row["beyond_filter"][0]
        why = [f"forgets {forgetting:.2f}"] if forgetting is not None and forgetting < LEAST else []
        why += [f"loses {drop:.1f} points"] if drop is not None and drop > MOST else []
        if why and told.get(key, "–") == "–":
            told[key] = f"{row['classes']}: {', '.join(why)}"
        told.setdefault(key, "–")
    return {(row["method"], row["way"]): told[row["method"], row["way"]] for row in found}


def table(found: Sequence[dict]) -> list[str]:
    """For RESULTS.md: a row an entrant, what it forgets and loses at the largest size, and where it breaks, by way."""
    last = max(row["classes"] for row in found)
    ends = {(row["method"], row["way"]): row for row in found if row["classes"] == last}
    broken = breaks(found)
    lines = [
        f"| {last} classes: forgetting rate / drop beyond the filter; breaks at | " + " | ".join(WAYS.values()) + " |",
        "|---" * (1 + len(WAYS)) + "|",
    ]
    for method in dict.fromkeys(row["method"] for row in found):
        cells = []
        for way in WAYS:
            row = ends[method, way]
            rate, drop = _spread(row, "forgetting_rate", ".2f"), _spread(row, "beyond_filter", "+.1f")
            cells.append(f"{rate} / {drop}; {broken[method, way]}")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return lines


def _spread(row: dict, figure: str, form: str) -> str:
    mean, low, high = row[figure]
    return "–" if mean is None else f"{mean:{form}} ({low:{form}} to {high:{form}})"
