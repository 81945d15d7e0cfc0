"""How good forecasts are: each beside what pictures say, for every request, method and strength."""

import math
import sys
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .bench import PARADIGMS, every_request
from .data import Images
from .embedding import embed
from .evaluate import accuracy_matrix, classify, rates
from .models import Clip
from .predicting import best_of, candidates, is_usual, points
from .unlearning import embed_vocabulary, outlook_of

FIGURES = {
    "forgetting_rate": "forgetting rate",
    "retain_drop": "retain drop",
    "sibling_class_drop": "sibling class",
    "worst_cell_drop": "worst cell",
}
"""What is told of each forecast."""


def check(
    clip: Clip, images: Images, paradigms: Sequence[str] = PARADIGMS, prototypes: bool = True
) -> tuple[list[dict], list[dict]]:
    """Forecast and truth of every request and candidate (`predicting.candidates`), ready for JSON; then the choices.

    Returns
    -------
    rows : list of dict
        `paradigm`, `method`, `usual` (whether at its default strength), and of each of FIGURES [truth, forecast, low,
        high], None where there is none.
    choices : list of dict
        For each request `paradigm`, the method `chosen` by forecast and how many `points` (`Forecast.points`) it is
        truly worth, those of the `best` candidate, and `usual`: those of each method at its default strength.
    """
    z, cells = embed(clip, images), embed_vocabulary(clip, images.vocabulary, prototypes)
    outlook = outlook_of(clip, images.vocabulary, cells, prototypes)
    before = accuracy_matrix(classify(z, outlook.classifiers, images.domains), images)
    rows, choices, start = [], [], time.perf_counter()
    asked = every_request(images, paradigms)
    for done, request in enumerate(asked, 1):
        mask, tried = request.mask(images.vocabulary), []
        for edit in candidates(cells, mask):
            after = accuracy_matrix(classify(z, outlook.classifiers, images.domains, edit.images), images)
            truth, found = rates(before, after, mask), outlook.forecast(edit, mask, request)
            if math.isnan(truth["forgetting_rate"]):
                continue
            figures = {f: _plain([truth[f], *found.intervals[f]]) for f in FIGURES}
            rows.append({"paradigm": request.paradigm, "method": edit.method, "usual": is_usual(edit)} | figures)
            tried.append((edit, found, points(truth)))
        if tried:
            chosen, _ = best_of([(edit, found) for edit, found, *_ in tried])
            choices.append(
                {
                    "paradigm": request.paradigm,
                    "chosen": chosen.method,
                    "points": next(worth for edit, _, worth in tried if edit is chosen),
                    "best": max(worth for *_, worth in tried),
                    "usual": {edit.method: worth for edit, _, worth in tried if is_usual(edit)},
                }
            )
        print(f"forecast: {done} of {len(asked)} requests, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return rows, choices


def document(name: str, rows: Sequence[dict], choices: Sequence[dict]) -> dict:
    """What `check` found, ready for JSON. name: of the pictures, as results tell it.

    `errors`: by method, "all" first, of edits at their usual strength: for each of FIGURES the mean over requests of
    |forecast - truth|, the same of the means over the requests of a paradigm, and the share of truths in the interval.
    `means`: by paradigm and method, [truth, forecast]. `choice`: mean points of the method and strength chosen by
    forecast, of the best in hindsight, and of each method for all requests; `near`: the share of requests where the
    choice is within two points of the best.
    """
    usual = [row for row in rows if row["usual"]]
    methods, paradigms = (list(dict.fromkeys(row[key] for row in usual)) for key in ("method", "paradigm"))
    means = [
        {"paradigm": paradigm, "method": method} | {f: _mean_pair(own, f) for f in FIGURES}
        for paradigm in paradigms
        for method in methods
        if (own := [row for row in usual if (row["paradigm"], row["method"]) == (paradigm, method)])
    ]
    errors = []
    for method in ("all", *methods):
        own, mean = ([row for row in some if method in ("all", row["method"])] for some in (usual, means))
        errors.append({"method": method} | {f: _errors(own, mean, f) for f in FIGURES})
    found = {
        "kind": "forecast",
        "name": f"forecast, {name}",
        "requests": len(choices),
        "errors": errors,
        "means": means,
    }
    return found | {"choice": _choice(choices)}


def _plain(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(v) else round(v, 4) for v in values]


def _pairs(rows: Sequence[dict], figure: str) -> np.ndarray:
    return np.array([row[figure] for row in rows if None not in row[figure]], dtype=np.float64)


def _mean_pair(rows: Sequence[dict], figure: str) -> list[float | None]:
    x = _pairs(rows, figure)
    return [round(float(v), 4) for v in x[:, :2].mean(0)] if len(x) else [None, None]


def _errors(rows: Sequence[dict], means: Sequence[dict], figure: str) -> list[float | None]:
    x, m = _pairs(rows, figure), _pairs(means, figure)
    if not len(x):
        return [None] * 3
    truth, mean, low, high = x.T
    inside = (low - 1e-6 <= truth) & (truth <= high + 1e-6)
    values = np.abs(truth - mean).mean(), np.abs(m[:, 0] - m[:, 1]).mean(), inside.mean()
    return [round(float(v), 4) for v in values]


def _choice(choices: Sequence[dict]) -> dict:
    def mean(values: list[float]) -> float:
        return round(float(np.mean(values)), 3)

    return {
        "chosen": mean([c["points"] for c in choices]),
        "best": mean([c["best"] for c in choices]),
        "near": mean([c["points"] >= c["best"] - 2 for c in choices]),
        "usual": {m: mean([c["usual"][m] for c in choices]) for m in choices[0]["usual"]},
        "methods": dict(Counter(c["chosen"] for c in choices)),
    }


def table(found: dict) -> str:
    """What `document` holds as plain text."""
    lines = [
        f"{found['name']}: {found['requests']} requests; {TOLD}",
        f"  {'':<10}" + "".join(f"{title:>24}" for title in FIGURES.values()),
        *(f"  {row['method']:<10}" + "".join(f"{text:>24}" for text in _told(row)) for row in found["errors"]),
    ]
    return "\n".join([*lines, f"  {_of_choice(found)}"])


def part(found: dict) -> list[str]:
    """The part of RESULTS.md."""
    lines = ["| method | " + " | ".join(FIGURES.values()) + " |", "|---" * (1 + len(FIGURES)) + "|"]
    lines += [f"| {row['method']} | " + " | ".join(_told(row)) + " |" for row in found["errors"]]
    about = (
        f"What `cn.forecast` tells from names and prototypes alone, beside what pictures say: {found['requests']} "
        f"requests, each class, cell and domain alone. {TOLD[0].upper()}{TOLD[1:]}."
    )
    choice = _of_choice(found)
    return [f"## {found['name'].capitalize()}", about, "\n".join(lines), f"{choice[0].upper()}{choice[1:]}."]


TOLD = (
    "mean error of the forecast of one request (in brackets: of the mean over the requests of a paradigm; share of "
    "truths within the 95 % interval)"
)


def _told(row: dict) -> list[str]:
    unit = dict.fromkeys(FIGURES, ".1f") | {"forgetting_rate": ".3f"}
    return [
        "-" if row[f][0] is None else f"{row[f][0]:{unit[f]}} ({row[f][1]:{unit[f]}}; {100 * row[f][2]:.0f} %)"
        for f in FIGURES
    ]


def _of_choice(found: dict) -> str:
    choice = found["choice"]
    usual = ", ".join(f"{method} {value:.1f}" for method, value in choice["usual"].items())
    return (
        f"method and strength chosen by forecast are worth {choice['chosen']:.1f} points (100 times the forgetting "
        f"rate, minus the retain drop and that of siblings), the best in hindsight {choice['best']:.1f}; "
        f"within 2 points of it: {100 * choice['near']:.0f} % of requests; one method for all, as it is: {usual}"
    )
