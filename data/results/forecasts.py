"""How good forecasts are: each beside what pictures say, for every request, method and strength."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import script
import torch
from torch import Tensor
from tqdm import tqdm

from clipnull.bench.sweep import COLUMNS, PARADIGMS, every_request
from clipnull.embedding import embed
from clipnull.evaluate import accuracy_matrix, classify, rates
from clipnull.files import markdown
from clipnull.forecasting.choosing import best_of, candidates, is_usual, simulator_of
from clipnull.forecasting.outlook import points
from clipnull.from_names import embed_vocabulary
from clipnull.images import Images
from clipnull.models import Clip

FIGURES = ("forgetting_rate", "retain_drop", "sibling_class_drop", "worst_cell_drop")
"""What is compared of each forecast."""
TARGETS = {"forgetting_rate": 0.08, "retain_drop": 1.5, "sibling_class_drop": 4.0}
"""The mean error over requests and methods that a forecast should not exceed."""
TIMES = 40
"""Draws of pictures for `Redrawn`."""


def check(
    clip: Clip, images: Images, paradigms: Sequence[str] = PARADIGMS, prototypes: bool = True
) -> tuple[list[dict], list[dict]]:
    """Forecast and truth of every request and candidate (`choosing.candidates`), ready for JSON; then the choices.

    A row holds of each of FIGURES [truth, forecast, low, high], None where there is none, and if `usual`, at its
    default strength, the `noise` of the truth (`Redrawn`). A choice, one a request, holds the method `chosen` by
    forecast, and the true `points` of it, of the `best` candidate, and of each method at its default strength.
    """
    z, cells = embed(clip, images), embed_vocabulary(clip, images.vocabulary, prototypes)
    outlook = simulator_of(clip, images.vocabulary, cells, prototypes)
    unedited = classify(z, outlook.classifier, images.domains)
    before, redrawn, rows, choices = accuracy_matrix(unedited, images), Redrawn(images), [], []
    for request in tqdm(every_request(images, paradigms), "forecast", mininterval=2):
        mask, tried = request.mask(images.vocabulary), []
        for edit in candidates(cells, mask):
            answers = classify(z, outlook.classifier, images.domains, edit.images)
            truth = rates(before, accuracy_matrix(answers, images), mask)
            forecast, usual = outlook.forecast(edit, mask, request), is_usual(edit)
            if math.isnan(truth["forgetting_rate"]):
                continue
            figures = {f: _rounded([truth[f], *forecast.intervals[f]]) for f in FIGURES}
            noise = {"noise": redrawn.noise(unedited, answers, mask)} if usual else {}
            rows.append({"paradigm": request.paradigm, "method": edit.method, "usual": usual} | figures | noise)
            tried.append((forecast, points(truth)))
        if tried:
            chosen = best_of([forecast for forecast, _ in tried])
            worth = {id(forecast): n for forecast, n in tried}
            usual = {forecast.edit.method: n for forecast, n in tried if is_usual(forecast.edit)}
            choice = {"chosen": chosen.edit.method, "points": worth[id(chosen)]}
            choices.append(choice | {"best": max(worth.values()), "usual": usual})
    return rows, choices


class Redrawn:
    """Other pictures that might have been measured: those of each cell drawn again, with replacement.

    A forecast of the true rates, without any error, would miss what n pictures show by their `noise`. One fewer is
    drawn than there are, as in `clipnull.bench.bootstrap`. It is a lower bound.
    """

    def __init__(self, images: Images, times: int = TIMES, seed: int = 0):
        self.images, self.shape = images, images.vocabulary.shape
        self.cell = images.classes * self.shape[1] + images.domains
        self.weights = torch.zeros(times, len(images), dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        for cell in self.cell.unique():
            members = (self.cell == cell).nonzero()[:, 0]
            drawn = members[torch.randint(len(members), (times, max(1, len(members) - 1)), generator=generator)]
            self.weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))

    def matrices(self, predicted: Tensor) -> Tensor:
        """The accuracy in each cell of each draw: (times, C, K), NaN where there are no pictures."""
        right = self.weights * (predicted == self.images.classes).double()
        sums = torch.zeros(2, len(right), self.shape[0] * self.shape[1], dtype=torch.float64)
        right, count = sums.index_add_(2, self.cell, torch.stack([right, self.weights]))
        return (right / count).view(-1, *self.shape)

    def noise(self, before: Tensor, after: Tensor, mask: Tensor) -> dict[str, float | None]:
        """Of each of FIGURES the mean over draws of its distance from that of the pictures as they are."""
        truth = rates(accuracy_matrix(before, self.images), accuracy_matrix(after, self.images), mask)
        draws = [rates(x, y, mask) for x, y in zip(self.matrices(before), self.matrices(after), strict=True)]
        off = {f: [abs(figures[f] - truth[f]) for figures in draws] for f in FIGURES}
        return {f: _rounded([float(np.mean([x for x in off[f] if x == x] or [math.nan]))])[0] for f in FIGURES}


def measure(name: str, clip: Clip, images: Images) -> dict:
    return to_json(name, *check(clip, images))


def to_json(name: str, rows: Sequence[dict], choices: Sequence[dict]) -> dict:
    """What `check` measured, summed up, of edits at their usual strength. name: of the pictures, for results.

    `errors`: by method, "all" first: for each of FIGURES the mean over requests of |forecast - truth|, the same of the
    means over the requests of a paradigm, the share of truths in the interval, and the mean noise of the truth.
    `means`: by paradigm and method, [truth, forecast]. `choice`: mean points of the choice by forecast, of the best in
    hindsight, and of each method for all requests; `near`: how often the choice is within two points of the best.
    """
    table = pd.DataFrame(
        [row["paradigm"], row["method"], f, *row[f], row["noise"][f]] for row in rows if row["usual"] for f in FIGURES
    ).set_axis(["paradigm", "method", "figure", "truth", "forecast", "low", "high", "noise"], axis=1)
    table = table.dropna(subset=["truth", "forecast", "low", "high"])
    means = []
    for (paradigm, method), group in table.groupby(["paradigm", "method"], sort=False):
        of = {f: _rounded(group.loc[group.figure == f, ["truth", "forecast"]].mean()) for f in FIGURES}
        means.append({"paradigm": paradigm, "method": method} | of)
    errors = []
    for method in ("all", *dict.fromkeys(table.method)):
        errors.append({"method": method})
        for f in FIGURES:
            x = table[(table.figure == f) & table.method.isin([method] if method != "all" else table.method)]
            inside = (x.low - 1e-6 <= x.truth) & (x.truth <= x.high + 1e-6)
            known = [row[f] for row in means if method in ("all", row["method"]) and None not in row[f]]
            of_means = np.mean([abs(truth - forecast) for truth, forecast in known] or [math.nan])
            errors[-1][f] = _rounded([(x.truth - x.forecast).abs().mean(), of_means, inside.mean(), x.noise.mean()])
    about = {"kind": "forecast", "name": f"forecast, {name}", "requests": len(choices)}
    return about | {"errors": errors, "means": means, "choice": _choice(choices)}


def _rounded(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(v) else round(float(v), 4) for v in values]


def _choice(choices: Sequence[dict]) -> dict:
    table = pd.DataFrame(choices)
    means = {"chosen": table.points.mean(), "best": table.best.mean(), "near": (table.points >= table.best - 2).mean()}
    usual, methods = pd.DataFrame([*table.usual]).mean().round(3).to_dict(), dict(Counter(table.chosen))
    return {name: round(float(x), 3) for name, x in means.items()} | {"usual": usual, "methods": methods}


def section(entry: dict) -> list[str]:
    """Paragraphs and tables of a page in Markdown."""
    about = (
        f"`cn.forecast`, from names and prototypes alone, beside what pictures show: {entry['requests']} requests, "
        "each class, cell and domain alone. Mean error of the forecast of one request (in brackets: of the mean over "
        "the requests of a paradigm; share of truths within the interval; noise: the least by which a forecast "
        "of the true rates would miss these few pictures)."
    )
    choice = entry["choice"]
    usual = ", ".join(f"{method} {value:.1f}" for method, value in choice["usual"].items())
    chosen = (
        f"Method and strength chosen by forecast are worth {choice['chosen']:.1f} points (100 times the forgetting "
        f"rate, minus the retain drop and that of siblings), the best in hindsight {choice['best']:.1f}; within 2 "
        f"points of it: {100 * choice['near']:.0f} % of requests. One method for all, at its default: {usual}."
    )
    rows = [[row["method"], *(_cell(row[f], _form(f)) for f in FIGURES)] for row in entry["errors"]]
    table = markdown(rows, ["method", *(COLUMNS[f] for f in FIGURES)])
    return [about, table, _targets(entry["errors"][0]), chosen]


def _form(figure: str) -> str:
    return ".3f" if figure == "forgetting_rate" else ".1f"


def _cell(figures: Sequence[float | None], form: str) -> str:
    error, mean, inside, noise = figures
    return "–" if error is None else f"{error:{form}} ({mean:{form}}; {100 * inside:.0f} %; noise {noise:{form}})"


def _targets(row: dict) -> str:
    """Which of TARGETS the mean error over all methods reaches, and where the noise of the pictures forbids it."""
    texts = []
    for figure, target in TARGETS.items():
        error, _, _, noise = row[figure]
        if error is None:
            continue
        reached = "reached" if error <= target else "missed"
        if noise > target:
            reached += f"; no forecast could reach it on so few pictures, their noise alone is {noise:{_form(figure)}}"
        texts.append(f"{COLUMNS[figure]} {error:{_form(figure)}} (target {target:g}, {reached})")
    return f"Mean errors and targets: {', '.join(texts)}."


if __name__ == "__main__":
    script.run(__doc__, measure, section)
