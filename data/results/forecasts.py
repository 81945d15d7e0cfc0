"""Compare forecasts with measurements on pictures, for every request, method and strength."""

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
TARGETS = {"forgetting_rate": 0.08, "retain_drop": 1.5, "sibling_class_drop": 4.0}  # for mean errors, at most
TIMES = 40  # draws of `Redrawn`


def check(
    clip: Clip, images: Images, paradigms: Sequence[str] = PARADIGMS, prototypes: bool = True
) -> tuple[list[dict], list[dict]]:
    """Return rows with forecast and truth of every request and candidate (`choosing.candidates`), then the choices.

    A row holds [truth, forecast, low, high] for each of FIGURES, None if undefined. Rows at the default strength are
    `usual` and hold the `noise` of the truth (`Redrawn`). A choice, one per request, holds the method `chosen` by
    forecast and the true `points` of the choice, of the `best` candidate and of each method at its default (`usual`).
    """
    z, cells = embed(clip, images), embed_vocabulary(clip, images.vocabulary, prototypes)
    outlook = simulator_of(clip, images.vocabulary, cells, prototypes)
    unedited = classify(z, outlook.classifier, images.domains)
    before, redrawn, rows, choices = accuracy_matrix(unedited, images), Redrawn(images), [], []
    for request in tqdm(every_request(images, paradigms), "forecast", mininterval=2):
        mask, results = request.mask(images.vocabulary), []
        for edit in candidates(cells, mask):
            answers = classify(z, outlook.classifier, images.domains, edit.images)
            truth = rates(before, accuracy_matrix(answers, images), mask)
            forecast, usual = outlook.forecast(edit, mask, request), is_usual(edit)
            if math.isnan(truth["forgetting_rate"]):
                continue
            figures = {f: _rounded([truth[f], *forecast.intervals[f]]) for f in FIGURES}
            noise = {"noise": redrawn.noise(unedited, answers, mask)} if usual else {}
            rows.append({"paradigm": request.paradigm, "method": edit.method, "usual": usual} | figures | noise)
            results.append((forecast, points(truth)))
        if results:
            choice = best_of([forecast for forecast, _ in results])
            scores = {id(forecast): n for forecast, n in results}
            usual = {forecast.edit.method: n for forecast, n in results if is_usual(forecast.edit)}
            fields = {"chosen": choice.edit.method, "points": scores[id(choice)], "best": max(scores.values())}
            choices.append(fields | {"usual": usual})
    return rows, choices


class Redrawn:
    """Bootstrap samples of the pictures of each (class, domain) cell.

    Even a perfect forecast of the true rates misses the rates of n pictures by their `noise`. The estimate is a lower
    bound. A draw takes one picture fewer than there are, as in `clipnull.bench.bootstrap`.
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
        """Return the accuracy in each cell of each draw, (times, C, K), NaN for cells without pictures."""
        right = self.weights * (predicted == self.images.classes).double()
        sums = torch.zeros(2, len(right), self.shape[0] * self.shape[1], dtype=torch.float64)
        right, count = sums.index_add_(2, self.cell, torch.stack([right, self.weights]))
        return (right / count).view(-1, *self.shape)

    def noise(self, before: Tensor, after: Tensor, mask: Tensor) -> dict[str, float | None]:
        """Return the mean distance of each figure in the draws from its value on the original pictures."""
        truth = rates(accuracy_matrix(before, self.images), accuracy_matrix(after, self.images), mask)
        draws = [rates(x, y, mask) for x, y in zip(self.matrices(before), self.matrices(after), strict=True)]
        off = {f: [abs(figures[f] - truth[f]) for figures in draws] for f in FIGURES}
        return {f: _rounded([float(np.mean([x for x in off[f] if x == x] or [math.nan]))])[0] for f in FIGURES}


def measure(name: str, clip: Clip, images: Images) -> dict:
    return to_json(name, *check(clip, images))


def to_json(name: str, rows: Sequence[dict], choices: Sequence[dict]) -> dict:
    """Summarize the results of `check` for edits at their default strength. name: title of the pictures.

    `errors` holds, for "all" methods and then each, four numbers per figure: the mean of |forecast - truth| over
    requests, the same for means over a paradigm, the share of truths within the interval, and the mean noise. `means`
    holds [truth, forecast] by paradigm and method. `choice` holds mean points of the choice by forecast, of the best in
    hindsight and of each method alone; `near` is the share of choices within two points of the best.
    """
    table = pd.DataFrame(
        [row["paradigm"], row["method"], f, *row[f], row["noise"][f]] for row in rows if row["usual"] for f in FIGURES
    ).set_axis(["paradigm", "method", "figure", "truth", "forecast", "low", "high", "noise"], axis=1)
    table = table.dropna(subset=["truth", "forecast", "low", "high"])
    means = []
    for (paradigm, method), group in table.groupby(["paradigm", "method"], sort=False):
        pairs = {f: _rounded(group.loc[group.figure == f, ["truth", "forecast"]].mean()) for f in FIGURES}
        means.append({"paradigm": paradigm, "method": method} | pairs)
    errors = []
    for method in ("all", *dict.fromkeys(table.method)):
        errors.append({"method": method})
        for f in FIGURES:
            x = table[(table.figure == f) & table.method.isin([method] if method != "all" else table.method)]
            inside = (x.low - 1e-6 <= x.truth) & (x.truth <= x.high + 1e-6)
            pairs = [row[f] for row in means if method in ("all", row["method"]) and None not in row[f]]
            of_means = np.mean([abs(truth - forecast) for truth, forecast in pairs] or [math.nan])
            errors[-1][f] = _rounded([(x.truth - x.forecast).abs().mean(), of_means, inside.mean(), x.noise.mean()])
    header = {"kind": "forecast", "name": f"forecast, {name}", "requests": len(choices)}
    return header | {"errors": errors, "means": means, "choice": _choice(choices)}


def _rounded(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(v) else round(float(v), 4) for v in values]


def _choice(choices: Sequence[dict]) -> dict:
    table = pd.DataFrame(choices)
    means = {"chosen": table.points.mean(), "best": table.best.mean(), "near": (table.points >= table.best - 2).mean()}
    usual, methods = pd.DataFrame([*table.usual]).mean().round(3).to_dict(), dict(Counter(table.chosen))
    return {name: round(float(x), 3) for name, x in means.items()} | {"usual": usual, "methods": methods}


def section(entry: dict) -> list[str]:
    """Return the paragraphs and tables of a page in Markdown."""
    about = (
        "`cn.forecast`, from names and prototypes alone, compared with measurements on pictures. Each of "
        f"{entry['requests']} requests forgets one class, one (class, domain) cell or one domain. Entries are mean "
        "errors for one request. In brackets: the error of the mean over the requests of a paradigm; the share of "
        "truths within the interval; and the noise, the error of even a perfect forecast on so few pictures."
    )
    choice = entry["choice"]
    usual = ", ".join(f"{method} {value:.1f}" for method, value in choice["usual"].items())
    points_of_choice = (
        f"Method and strength chosen by forecast score {choice['chosen']:.1f} points (100 times the forgetting rate, "
        f"minus the drops of kept cells and of siblings). The best in hindsight scores {choice['best']:.1f}, and "
        f"{100 * choice['near']:.0f} % of the choices are within 2 points of it. One method for all requests, at its "
        f"default: {usual}."
    )
    rows = [[row["method"], *(_cell(row[f], _form(f)) for f in FIGURES)] for row in entry["errors"]]
    table = markdown(rows, ["method", *(COLUMNS[f] for f in FIGURES)])
    return [about, table, _targets(entry["errors"][0]), points_of_choice]


def _form(figure: str) -> str:
    return ".3f" if figure == "forgetting_rate" else ".1f"


def _cell(figures: Sequence[float | None], form: str) -> str:
    error, mean, inside, noise = figures
    return "–" if error is None else f"{error:{form}} ({mean:{form}}; {100 * inside:.0f} %; noise {noise:{form}})"


def _targets(row: dict) -> str:
    """Return a sentence about TARGETS: reached, missed, or out of reach because of the noise of the pictures."""
    texts = []
    for figure, target in TARGETS.items():
        error, _, _, noise = row[figure]
        if error is None:
            continue
        reached = "reached" if error <= target else "missed"
        if noise > target:
            reached += f"; out of reach on so few pictures, whose noise alone is {noise:{_form(figure)}}"
        texts.append(f"{COLUMNS[figure]} {error:{_form(figure)}} (target {target:g}, {reached})")
    return f"Mean errors and targets: {', '.join(texts)}."


if __name__ == "__main__":
    script.run(__doc__, measure, section)
