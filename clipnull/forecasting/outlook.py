"""What an edit will do, predicted on simulated embeddings; and the choice of a method by it."""

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..errors import brief, one_of
from ..evaluate import RANGES, Interval, macro, rates
from ..methods import METHODS, solve
from ..methods.cells import Cells
from ..vocabulary import Forget, Vocabulary
from .simulation import Pseudo, draw

# --- What a user can afford: "forget >= .95, worst drop <= 5".

FIGURES = {
    "forget": "forgetting_rate",
    "retain drop": "retain_drop",
    "sibling drop": "sibling_class_drop",
    "sibling domain drop": "sibling_domain_drop",
    "worst drop": "worst_cell_drop",
}
"""What a budget calls the figures of `evaluate.rates`: a rate from 0 to 1, and drops in percentage points."""
WITHIN = ("retain drop", "sibling drop", "sibling domain drop")
"""Means of drops, none of which exceeds the worst."""
TERM = re.compile(r"\s*([a-z ]+?)\s*(>=|<=)\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*")
EXAMPLE = "'forget >= .95, worst drop <= 5'"


@dataclass(frozen=True)
class Budget:
    """Limits of figures, from text: terms with >= or <=, with commas between. See FIGURES.

    Parameters
    ----------
    text : str
        Such as "forget >= .95, worst drop <= 5".

    Raises
    ------
    ValueError
        For what cannot be read, for values out of range, and for terms that contradict each other.

    Examples
    --------
    >>> Budget("forget >= .95, worst drop <= 5").limits
    {'forget': (0.95, 1.0), 'worst drop': (-100.0, 5.0)}
    >>> Budget("forget >= .95, forget <= .5")
    Traceback (most recent call last):
    ValueError: budget: forget >= 0.95 and forget <= 0.5 contradict each other; expected limits that can both be kept
    """

    text: str

    def __post_init__(self) -> None:
        _ = self.limits

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Least and most of each figure that is named."""
        if not isinstance(self.text, str):
            raise ValueError(f"budget: {brief(self.text)} is no text; expected for example {EXAMPLE}")
        found: dict[str, tuple[float, float]] = {}
        for term in self.text.split(","):
            match = TERM.fullmatch(term.lower())
            if match is None:
                raise ValueError(f"budget: {brief(term.strip())} cannot be read; expected for example {EXAMPLE}")
            name, sign, value = one_of("budget", " ".join(match[1].split()), FIGURES), match[2], float(match[3])
            low, high = _range(name)
            if not low <= value <= high:
                raise ValueError(
                    f"budget: {name} {sign} {value:g} is out of range; expected a number from {low:g} to {high:g}"
                )
            low, high = found.get(name, (low, high))
            found[name] = (max(low, value), high) if sign == ">=" else (low, min(high, value))
        for name, (low, high) in found.items():
            if low > high:
                raise _contradiction(f"{name} >= {low:g}", f"{name} <= {high:g}")
            most = found.get("worst drop", (0, math.inf))[1]
            if name in WITHIN and low > most:
                raise _contradiction(f"{name} >= {low:g}", f"worst drop <= {most:g}")
        return found

    def excess(self, rates: dict[str, float]) -> dict[str, float]:
        """By how much figures miss their limits, in points, by the name of the figure; those only that do.

        rates: of `evaluate.rates`. One that is NaN misses none.
        """
        found = {}
        for name, (low, high) in self.limits.items():
            value = rates[FIGURES[name]]
            by = max(low - value, value - high) * (100 if name == "forget" else 1)
            if by > 1e-9:
                found[FIGURES[name]] = by
        return found

    @staticmethod
    def told(figure: str, value: float) -> str:
        """A figure of `evaluate.rates` in the words of a budget."""
        name = next(name for name, known in FIGURES.items() if known == figure)
        return f"{name} {value:.3f}" if name == "forget" else f"{name} {value:.1f}"

    def __str__(self) -> str:
        return ", ".join(" ".join(term.split()) for term in self.text.split(","))


def _range(name: str) -> tuple[float, float]:
    return (0.0, 1.0) if name == "forget" else (-100.0, 100.0)


def _contradiction(one: str, other: str) -> ValueError:
    return ValueError(f"budget: {one} and {other} contradict each other; expected limits that can both be kept")


# --- predicting

WIDER = 2.0
"""The truth differs more from worlds than they do from each other: on pictures of PACS kept back from training,
intervals made wider by so much hold 91 to 98 % of truths, those of the worlds themselves 72 to 88 %."""
WORST = "worst_cell_drop"
STRENGTHS: dict[str, tuple[str, tuple[float, ...]]] = {
    "nullspace": ("alpha", (0.5, 0.75, 1.0)),
    "residual": ("alpha", (0.5, 0.75, 1.0)),
    "ridge": ("forgetting", (30.0, 300.0, 1000.0)),
    "oblique": ("strength", (0.8, 1.15, 1.6)),
    "neuron": ("strength", (1.0, 1.5, 2.5)),
    "gated": ("strength", (1.0, 1.5, 2.5)),
}
"""The setting of each method that is its strength, and what is tried. A method of another package: its defaults."""

FORMS = ("linear", "layer", "module")
"""Simple forms first: a matrix fits into any checkpoint, see `Edit.form`."""
TIE = 0.01
"""Points within which the simpler form is taken: wider ties chose worse on training pictures of PACS."""
TWINS, ALIKE = 0.05, 0.3
"""Two words are the same to a text tower, or nearly, if they are so many times nearer than names are on average."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """What an edit is expected to do, before any picture is seen.

    Attributes
    ----------
    before, after : (C, K) float64
        Expected accuracy: means over worlds.
    mask : (C, K) bool
        The forgotten cells.
    request, method, settings, form
        What was asked, and the edit.
    intervals : dict of str to (mean, low, high)
        Of each figure of `evaluate.rates`, the mean over worlds, and the interval in which 95 % of worlds lie, made
        WIDER; NaN where there is none. Of the worst cell, the largest expected drop.
    """

    before: Tensor
    after: Tensor
    mask: Tensor
    request: Forget
    method: str
    settings: dict[str, Any]
    form: str
    intervals: dict[str, Interval] = field(repr=False)

    @property
    def rates(self) -> dict[str, float]:
        """The figures that `compare` measures, see `evaluate.rates`; NaN for `collateral`, which is not predicted."""
        return {name: ends[0] for name, ends in self.intervals.items()} | {"collateral": float("nan")}

    @property
    def points(self) -> float:
        """What the edit is worth: points of accuracy forgotten, of 100, minus those lost on what is kept.

        100 times the forgetting rate, minus the retain drop, minus the drop of siblings where there are any.
        """
        return points(self.rates)

    def __str__(self) -> str:
        lines = [
            f"forget {self.request} with {self.method!r}: {100 * macro(self.before, self.mask):.1f} % -> "
            f"{100 * macro(self.after, self.mask):.1f} % right on forgotten cells, as forecast from names alone"
        ]
        for name, (mean, low, high) in self.intervals.items():
            if mean == mean:
                unit = "" if name == "forgetting_rate" else " points"
                lines.append(f"  {name.replace('_', ' '):20} {mean:8.3f}  [{low:.3f}, {high:.3f}]{unit}")
        return "\n".join(lines)


def points(found: dict[str, float]) -> float:
    """See `Forecast.points`; found: of `evaluate.rates`."""
    siblings = found["sibling_class_drop"]
    return 100 * found["forgetting_rate"] - found["retain_drop"] - (siblings if siblings == siblings else 0)


@dataclass(frozen=True, eq=False)
class Outlook:
    """Pseudo-pictures of a model and a vocabulary, for the forecasts of any number of edits.

    cells: of the unedited model. classifiers: (K, C, d), see `prompts.text_classifiers`. through: what `clip.edits` do
    to embeddings first.
    """

    cells: Cells
    classifiers: Tensor
    through: Sequence[Callable[[Tensor], Tensor]] = ()

    @cached_property
    def _pseudo(self) -> Pseudo:
        return draw(self.cells)

    @cached_property
    def _before(self) -> Tensor:
        return self._pseudo.accuracy(self.classifiers, self.through)

    def forecast(self, edit: Edit, mask: Tensor, request: Forget) -> Forecast:
        """What `edit`, which forgets the cells in `mask` (C, K), is expected to do."""
        after = self._pseudo.accuracy(self.classifiers, [*self.through, edit.images])
        worlds = [rates(x, y, mask) for x, y in zip(self._before, after, strict=True)]
        intervals = {name: _interval([found[name] for found in worlds], RANGES[name]) for name in worlds[0]}
        # The worst of many cells with few pictures each is mostly chance: of expected drops it is not.
        worst, (_, low, high) = rates(self._before.mean(0), after.mean(0), mask)[WORST], intervals[WORST]
        intervals[WORST] = worst, min(worst, low), max(worst, high)
        made = edit.method, dict(edit.settings), edit.form
        return Forecast(self._before.mean(0), after.mean(0), mask, request, *made, intervals)

    def among_two(self, edit: Edit, mask: Tensor) -> float:
        """How often `edit` is expected to leave a forgotten picture its name where only one other may be given.

        mask: (C, K). The mean over the other names, the forgotten cells of a class, and the classes.
        """
        shares = []
        for c in mask.any(1).nonzero()[:, 0].tolist():
            others = torch.arange(len(mask)) != c
            own = []
            for k in mask[c].nonzero()[:, 0].tolist():
                z = self._pseudo.z[:, c, k].flatten(0, 1)
                for change in [*self.through, edit.images]:
                    z = change(z)
                scores = F.normalize(z, dim=-1) @ self.classifiers[k].to(z).T
                own.append((scores[:, c, None] > scores[:, others]).double().mean())
            shares.append(torch.stack(own).mean())
        return float(torch.stack(shares).mean())


def _interval(values: list[float], limits: tuple[float, float]) -> Interval:
    x = torch.tensor([v for v in values if v == v], dtype=torch.float64)
    if not len(x):
        return float("nan"), float("nan"), float("nan")
    mean = float(x.mean())
    low, high = torch.quantile(x, torch.tensor([0.025, 0.975], dtype=x.dtype)).tolist()
    return mean, max(limits[0], mean - WIDER * (mean - low)), min(limits[1], mean + WIDER * (high - mean))


def choose(
    cells: Cells,
    mask: Tensor,
    request: Forget,
    budget: Budget,
    outlook: Outlook,
    methods: Iterable[str] = tuple(METHODS),
) -> tuple[Edit, Forecast]:
    """The edit that is worth most (`Forecast.points`) of those whose forecast keeps to the budget.

    Where several are within TIE points, the simplest form. cells: what edits are made of.

    Raises ValueError if none keeps to the budget, which names the nearest and by how much it misses.
    """
    tried = [(edit, outlook.forecast(edit, mask, request)) for edit in candidates(cells, mask, methods)]
    good = [(edit, found) for edit, found in tried if not budget.excess(found.rates)]
    if not good:
        edit, found = min(tried, key=lambda pair: sum(budget.excess(pair[1].rates).values()))
        missed = ", ".join(budget.told(name, found.rates[name]) for name in budget.excess(found.rates))
        raise ValueError(
            f"budget: no method is expected to keep to {budget} for {request}; the nearest is "
            f"{edit.method!r}{_strength(edit)} with {missed}; expected a wider budget"
        )
    return best_of(good)


def best_of(tried: Sequence[tuple[Edit, Forecast]]) -> tuple[Edit, Forecast]:
    """The edit that is worth most by its forecast; of those within TIE points the simplest form."""
    best = max(found.points for _, found in tried)
    near = [pair for pair in tried if pair[1].points >= best - TIE]
    return min(near, key=lambda pair: (FORMS.index(pair[0].form), -pair[1].points))


def candidates(cells: Cells, mask: Tensor, methods: Iterable[str] = tuple(METHODS)) -> Iterator[Edit]:
    """The edits that are tried: each method at each of its STRENGTHS."""
    for method in methods:
        name, values = STRENGTHS.get(method, ("", ()))
        for settings in [{name: value} for value in values] or [{}]:
            yield solve(cells, mask, method, **settings)


def is_usual(edit: Edit) -> bool:
    """Whether an edit has its method's own strength."""
    name, _ = STRENGTHS.get(edit.method, ("", ()))
    return not name or edit.settings[name] == signature(METHODS[edit.method]).parameters[name].default


def _strength(edit: Edit) -> str:
    name, _ = STRENGTHS.get(edit.method, ("", ()))
    return f" ({name} = {edit.settings[name]:g})" if name else ""


def validate_words(cells: Cells, classifier: Tensor, mask: Tensor, vocabulary: Vocabulary) -> None:
    """Raises ValueError for a forgotten class that the text tower does not tell from another; warns of near ones.

    classifier: (C, d) unit rows, of the prompts that are asked with. Distances are told by that of two names on
    average: of the classes, and of the common words where they are known.
    """
    known = classifier if cells.common is None else torch.cat([classifier.to(cells.common), cells.common])
    usual = (known - known.mean(0)).square().sum(1).mean().mul(2).sqrt()
    apart = torch.cdist(classifier, classifier).fill_diagonal_(float("inf")) / usual
    for c in mask.any(1).nonzero()[:, 0].tolist():
        ratio, other = (float(x) for x in apart[c].min(0))
        name, beside = (vocabulary.classes[int(i)] for i in (c, other))
        told = (
            f"classes: the text tower hardly tells {name!r} from {beside!r} ({100 * ratio:.0f} % of the usual distance)"
        )
        if ratio < TWINS:
            raise ValueError(f"{told}: what forgets one forgets the other; expected words that it knows apart")
        if ratio < ALIKE:
            warnings.warn(f"{told}; expect that the other is forgotten, too, or neither", stacklevel=3)
