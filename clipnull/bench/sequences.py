"""Forget more and more classes, up to half of them, with one edit or with many.

Real requests arrive one by one. There are three ways to forget n classes:

- `union`: one edit for all n.
- `after`: n edits, each made on the model that carries the earlier ones, as `unlearn` does with an edited model.
- `apart`: n edits, each made on the unedited model and then all applied, like patches from several people.

An edit for one class treats all others as kept, including those forgotten before. The measurement therefore also shows
whether forgotten classes come back.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from torch import Tensor

from ..edit import Edit
from ..errors import at_least
from ..evaluate import accuracy_matrix, classify, rates
from ..vocabulary import Forget
from .baselines import BASELINES, TrainingData
from .comparison import EvaluationSet, able, edit_of, filtered, left_out

WAYS = {"union": "one edit for all", "after": "one after the other", "apart": "made apart, all applied"}
FIGURES = ("forgetting_rate", "retain_drop", "beyond_filter", "worst_cell_drop")
"""All but the first in percentage points. Even the name filter helps kept classes, because it rules out wrong answers.
`beyond_filter` is the retain drop minus the filter's."""
NO_PICTURES = tuple(name for name, baseline in BASELINES.items() if baseline.make is None or baseline.texts)
"""Baselines that make no edit of pictures, so no further edit can follow."""
LEAST, MOST = 0.9, 5.0  # a method breaks if it forgets less than LEAST or loses more than MOST beyond the filter


def sizes_of(classes: int) -> list[int]:
    """Return the numbers of classes to forget: 1, 2, 4, 8, ... up to half of all classes, and half itself."""
    half = at_least("classes", classes, 2) // 2
    return sorted({2**i for i in range(half.bit_length())} | {half})


def sequence(on: EvaluationSet, data: TrainingData, entrants: Sequence[str], orders: int = 4) -> list[dict]:
    """Forget classes everywhere, one after another in several random orders, while all classes stay candidates.

    entrants: methods and baselines that edit pictures. orders: number of random orders of the classes with pictures;
    the index of an order seeds its baselines. Each row holds the method, way, number of classes (`sizes_of`), order,
    `forgotten` names and FIGURES, NaN where undefined.
    """
    entrants = able(entrants, left_out(data) | dict.fromkeys(NO_PICTURES, "makes no edit of pictures"))
    classes, generator = on.images.counts().any(1).nonzero()[:, 0].tolist(), np.random.default_rng(0)
    shuffled = [generator.permutation(classes).tolist() for _ in range(orders)]
    jobs = (delayed(_rows)(name, order, i, on, data) for name in entrants for i, order in enumerate(shuffled))
    return [row for rows in Parallel()(jobs) for row in rows]


def _rows(name: str, order: list[int], place: int, on: EvaluationSet, data: TrainingData) -> list[dict]:
    """Return the rows of one entrant and order."""
    vocabulary, before, rows = on.images.vocabulary, accuracy_matrix(on.before, on.images), []
    seed, sizes = place % len(data.noisy) if len(data.noisy) else place, sizes_of(len(order))
    after, apart, model = on.z, on.z, data

    def figures(answers: Tensor, mask: Tensor) -> dict[str, float]:
        return rates(before, accuracy_matrix(answers, on.images), mask)

    for size in range(1, sizes[-1] + 1):
        forgotten = [vocabulary.classes[c] for c in order[:size]]
        mask, last = Forget(forgotten).mask(vocabulary), Forget(forgotten[-1:]).mask(vocabulary)
        edit = edit_of(name, model, last, seed)
        after, apart = _edited(after, edit), _edited(apart, edit_of(name, data, last, seed))
        model = model if edit is None else model.after(edit)
        if size not in sizes:
            continue
        union = _edited(on.z, edit_of(name, data, mask, seed))
        floor = figures(filtered(mask, on), mask)["retain_drop"]
        for way, z in zip(WAYS, (union, after, apart), strict=True):
            row = figures(classify(z, on.classifier, on.images.domains), mask)
            row["beyond_filter"] = row["retain_drop"] - floor
            keys = {"method": name, "way": way, "classes": size, "order": place, "forgotten": forgotten}
            rows.append(keys | {figure: row[figure] for figure in FIGURES})
    return rows


def _edited(z: Tensor, edit: Edit | None) -> Tensor:
    return z if edit is None else edit.images(z)


def curves(rows: Sequence[dict]) -> list[dict]:
    """Summarize each entrant, way and size: each figure as [mean, lowest, highest] over orders, None if undefined."""
    points = []
    for (method, way, size), group in pd.DataFrame(rows).groupby(["method", "way", "classes"], sort=False):
        points.append({"method": method, "way": way, "classes": int(size), "orders": len(group)})
        for figure in FIGURES:
            ends = group[figure].agg(["mean", "min", "max"])
            points[-1][figure] = [None if x != x else float(x) for x in ends]
    return points


def breaks(points: Sequence[dict]) -> dict[tuple[str, str], str]:
    """Return the size at which each (entrant, way) first breaks, with the reason; "–" if it never does."""
    broken = {(point["method"], point["way"]): "–" for point in points}
    for point in sorted(points, key=lambda point: -point["classes"]):  # the smallest size comes last and wins
        rate, drop = point["forgetting_rate"][0], point["beyond_filter"][0]
        reasons = [f"forgets {rate:.2f}"] if rate is not None and rate < LEAST else []
        reasons += [f"loses {drop:.1f} points"] if drop is not None and drop > MOST else []
        if reasons:
            broken[point["method"], point["way"]] = f"{point['classes']}: {', '.join(reasons)}"
    return broken


def table(points: Sequence[dict]) -> tuple[list[list[str]], list[str]]:
    """Return rows and columns: figures of each entrant at the largest size, and where it breaks, for each way."""
    last, broken, rows = max(point["classes"] for point in points), breaks(points), {}
    for point in (point for point in points if point["classes"] == last):
        method, drop = point["method"], _spread(point["beyond_filter"], "+.1f")
        text = f"{_spread(point['forgetting_rate'], '.2f')} / {drop}; {broken[method, point['way']]}"
        rows.setdefault(method, [f"`{method}`"]).append(text)
    return [*rows.values()], [f"{last} classes: forgetting rate / drop beyond the filter; breaks at", *WAYS.values()]


def _spread(ends: Sequence[float | None], form: str) -> str:
    mean, low, high = ends
    return "–" if mean is None else f"{mean:{form}} ({low:{form}} to {high:{form}})"
