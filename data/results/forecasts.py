"""How good forecasts are: each beside what pictures say, for every request, method and strength."""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipnull.bench.sweep import PARADIGMS, every_request
from clipnull.datasets.loading import load_images, name_of
from clipnull.embedding import embed
from clipnull.evaluate import accuracy_matrix, classify, rates
from clipnull.files import write_text
from clipnull.forecasting.choosing import best_of, candidates, is_usual, simulator_of
from clipnull.forecasting.outlook import points
from clipnull.images import Images
from clipnull.models import Clip, load
from clipnull.stored import is_stored
from clipnull.unlearning import embed_vocabulary

FIGURES = {
    "forgetting_rate": "forgetting rate",
    "retain_drop": "retain drop",
    "sibling_class_drop": "sibling class",
    "worst_cell_drop": "worst cell",
}
"""What is told of each forecast."""
TARGETS = {"forgetting_rate": 0.08, "retain_drop": 1.5, "sibling_class_drop": 4.0}
"""The mean error over requests and methods that a forecast should not exceed."""
TIMES = 40
"""Draws of pictures for `Redrawn`."""


def check(
    clip: Clip, images: Images, paradigms: Sequence[str] = PARADIGMS, prototypes: bool = True
) -> tuple[list[dict], list[dict]]:
    """Forecast and truth of every request and candidate (`predicting.candidates`), ready for JSON; then the choices.

    Returns
    -------
    rows : list of dict
        `paradigm`, `method`, `usual` (whether at its default strength), of each of FIGURES [truth, forecast, low,
        high], None where there is none, and of usual ones `noise`, see `Redrawn`.
    choices : list of dict
        For each request `paradigm`, the method `chosen` by forecast and how many `points` (`Forecast.points`) it is
        truly worth, those of the `best` candidate, and `usual`: those of each method at its default strength.
    """
    z, cells = embed(clip, images), embed_vocabulary(clip, images.vocabulary, prototypes)
    outlook = simulator_of(clip, images.vocabulary, cells, prototypes)
    unedited = classify(z, outlook.classifiers, images.domains)
    before = accuracy_matrix(unedited, images)
    redrawn = Redrawn(images)
    rows, choices, start = [], [], time.perf_counter()
    asked = every_request(images, paradigms)
    for done, request in enumerate(asked, 1):
        mask, tried = request.mask(images.vocabulary), []
        for edit in candidates(cells, mask):
            answers = classify(z, outlook.classifiers, images.domains, edit.images)
            after = accuracy_matrix(answers, images)
            truth, found = rates(before, after, mask), outlook.forecast(edit, mask, request)
            if math.isnan(truth["forgetting_rate"]):
                continue
            figures = {f: _plain([truth[f], *found.intervals[f]]) for f in FIGURES}
            row = {"paradigm": request.paradigm, "method": edit.method, "usual": is_usual(edit)} | figures
            rows.append(row | ({"noise": redrawn.noise(unedited, answers, mask)} if row["usual"] else {}))
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


class Redrawn:
    """Other pictures that might have been there: those of each cell drawn again, with replacement.

    A forecast of the true rates, without any error, would miss what n pictures say by their `noise`. One fewer is
    drawn than there are, as in `clipnull.bench.bootstrap`. It is a lower bound: where all pictures of a cell agree, so
    do all draws of them, and pictures of one design family count as different ones.
    """

    def __init__(self, images: Images, times: int = TIMES, seed: int = 0):
        self.images, self.shape = images, images.vocabulary.shape
        self._cell = images.classes * self.shape[1] + images.domains
        generator, weights = torch.Generator().manual_seed(seed), torch.zeros(times, len(images), dtype=torch.float64)
        for cell in self._cell.unique():
            own = (self._cell == cell).nonzero()[:, 0]
            drawn = own[torch.randint(len(own), (times, max(1, len(own) - 1)), generator=generator)]
            weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=weights.dtype))
        self._weights, self._counts = weights, self._added(weights)

    def _added(self, values: Tensor) -> Tensor:
        """Sums over the pictures of each cell: (times, n) -> (times, C K)."""
        return torch.zeros(len(values), self.shape[0] * self.shape[1], dtype=values.dtype).index_add_(
            1, self._cell, values
        )

    def matrices(self, predicted: Tensor) -> Tensor:
        """The accuracy in each cell of each draw: (times, C, K), NaN where there are no pictures."""
        right = (predicted == self.images.classes).double()
        return (self._added(self._weights * right) / self._counts).view(-1, *self.shape)

    def noise(self, before: Tensor, after: Tensor, mask: Tensor) -> dict[str, float | None]:
        """Of each of FIGURES the mean over draws of its distance from that of the pictures as they are."""
        there = rates(accuracy_matrix(before, self.images), accuracy_matrix(after, self.images), mask)
        draws = [rates(x, y, mask) for x, y in zip(self.matrices(before), self.matrices(after), strict=True)]
        off = {f: [abs(found[f] - there[f]) for found in draws] for f in FIGURES}
        return {f: _plain([float(np.mean([x for x in off[f] if x == x] or [math.nan]))])[0] for f in FIGURES}


def document(name: str, rows: Sequence[dict], choices: Sequence[dict]) -> dict:
    """What `check` found, ready for JSON. name: of the pictures, as results tell it.

    `errors`: by method, "all" first, of edits at their usual strength: for each of FIGURES the mean over requests of
    |forecast - truth|, the same of the means over the requests of a paradigm, the share of truths in the interval, and
    the mean noise of the truth (`Redrawn`).
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
        return [None] * 4
    truth, mean, low, high = x.T
    inside = (low - 1e-6 <= truth) & (truth <= high + 1e-6)
    noise = [row["noise"][figure] for row in rows if row["noise"][figure] is not None]
    values = np.abs(truth - mean).mean(), np.abs(m[:, 0] - m[:, 1]).mean(), inside.mean(), np.mean(noise or [math.nan])
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
        f"  {'':<10}" + "".join(f"{title:>34}" for title in FIGURES.values()),
        *(f"  {row['method']:<10}" + "".join(f"{text:>34}" for text in _told(row)) for row in found["errors"]),
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
    title = f"## {found['name'][0].upper()}{found['name'][1:]}"
    return [title, about, "\n".join(lines), _of_targets(found["errors"][0]), f"{choice[0].upper()}{choice[1:]}."]


TOLD = (
    "mean error of the forecast of one request (in brackets: of the mean over the requests of a paradigm; share of "
    "truths within the 95 % interval; noise: what a forecast of the true rates would miss these few pictures by, at "
    "least)"
)


def _told(row: dict) -> list[str]:
    unit = dict.fromkeys(FIGURES, ".1f") | {"forgetting_rate": ".3f"}
    told = []
    for f in FIGURES:
        error, mean, inside, *noise = row[f]
        if error is None:
            told.append("-")
            continue
        more = f"; noise {noise[0]:{unit[f]}}" if noise else ""
        told.append(f"{error:{unit[f]}} ({mean:{unit[f]}}; {100 * inside:.0f} %{more})")
    return told


def _of_targets(row: dict) -> str:
    """Which of TARGETS the mean error over all methods reaches, and where the noise of the pictures forbids it."""
    said = []
    for f, target in TARGETS.items():
        error, _, _, *noise = row[f]
        if error is None:
            continue
        form = ".3f" if f == "forgetting_rate" else ".1f"
        told = "reached" if error <= target else "missed"
        if noise and noise[0] > target:
            told += f"; no forecast could reach it on so few pictures, their noise alone is {noise[0]:{form}}"
        said.append(f"{FIGURES[f]} {error:{form}} (target {target:g}, {told})")
    return "Mean errors and targets: " + ", ".join(said) + "."


def _of_choice(found: dict) -> str:
    choice = found["choice"]
    usual = ", ".join(f"{method} {value:.1f}" for method, value in choice["usual"].items())
    return (
        f"method and strength chosen by forecast are worth {choice['chosen']:.1f} points (100 times the forgetting "
        f"rate, minus the retain drop and that of siblings), the best in hindsight {choice['best']:.1f}; "
        f"within 2 points of it: {100 * choice['near']:.0f} % of requests; one method for all, as it is: {usual}"
    )


def main() -> None:
    """Measure DATA, print the table and write --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", help="pictures or stored embeddings [the embedded miniworld]")
    parser.add_argument("--name", help="of the pictures, as results show it [that of the folder]")
    parser.add_argument("--json", type=Path, help="for data/results/write.py")
    args = parser.parse_args()
    images = load_images(args.data)
    clip = load(args.data if is_stored(args.data) else "miniclip")
    entry = document(args.name or name_of(args.data), *check(clip, images))
    if args.json:
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    print(table(entry))


if __name__ == "__main__":
    main()
