"""What an edit will do, forecast on simulated embeddings."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..evaluate import RANGES, Interval, macro, rates
from ..methods.cells import Cells
from ..prompts import alike_words
from ..vocabulary import Forget, Vocabulary
from .simulation import accuracy, changed, draw

WIDER = 3.0
MARGIN = {
    "forgetting_rate": 0.04,
    "retain_drop": 2.0,
    "sibling_class_drop": 15.0,
    "sibling_domain_drop": 3.0,
    "worst_cell_drop": 10.0,
}
"""The truth differs more from the draws than they do from each other: intervals are made WIDER, and by a MARGIN. Both
were chosen on train splits and on OpenAI's ViT-B/32. An interval then held 98 to 100 % of what held-out pictures of
miniworld and PACS showed; with ViT-B/32 93 to 99 % (photographs and drawings) and 82 to 97 % (photographs and CIFAR-10,
a domain that has no name)."""
SAME = 0.05
"""Two words are the same to a text tower below this share of the usual distance between names."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """What `edit` is expected to do, before any picture is seen.

    before, after: expected accuracy, (C, K) float64, means over draws. mask: the forgotten cells, (C, K) bool.
    intervals: of each figure of `evaluate.rates` the mean, and the ends of the interval that holds 95 % of the draws,
    made WIDER and by a MARGIN; NaN where there is none. Of the worst cell, the largest expected drop.
    """

    before: Tensor
    after: Tensor
    mask: Tensor
    request: Forget
    edit: Edit
    intervals: dict[str, Interval] = field(repr=False)

    @property
    def rates(self) -> dict[str, float]:
        """The figures that `compare` measures, see `evaluate.rates`; `collateral`, which is not forecast, is NaN."""
        return {name: interval[0] for name, interval in self.intervals.items()} | {"collateral": float("nan")}

    @property
    def points(self) -> float:
        return points(self.rates)

    def __str__(self) -> str:
        lines = [
            f"forget {self.request} with {self.edit.method!r}: {100 * macro(self.before, self.mask):.1f} % -> "
            f"{100 * macro(self.after, self.mask):.1f} % right on forgotten cells, as forecast from names alone"
        ]
        for name, (mean, low, high) in self.intervals.items():
            if mean == mean:
                unit = "" if name == "forgetting_rate" else " points"
                lines.append(f"  {name.replace('_', ' '):20} {mean:8.3f}  [{low:.3f}, {high:.3f}]{unit}")
        return "\n".join(lines)


def points(rates: dict[str, float]) -> float:
    """100 times the forgetting rate, minus the retain drop, minus the drop of siblings where there are any."""
    siblings = rates["sibling_class_drop"]
    return 100 * rates["forgetting_rate"] - rates["retain_drop"] - (siblings if siblings == siblings else 0)


@dataclass(frozen=True, eq=False)
class Simulator:
    """Simulated pictures of a model and a vocabulary, for the forecasts of any number of edits.

    cells: of the unedited model. classifier: (C, d). edits: what `clip.edits` do to embeddings first.
    """

    cells: Cells
    classifier: Tensor
    edits: Sequence[Callable[[Tensor], Tensor]] = ()

    @cached_property
    def _simulated(self) -> Tensor:
        return draw(self.cells)

    @cached_property
    def _before(self) -> Tensor:
        return accuracy(self._simulated, self.classifier, self.edits)

    def forecast(self, edit: Edit, mask: Tensor, request: Forget) -> Forecast:
        """What `edit`, which forgets the cells in `mask` (C, K), is expected to do."""
        after = accuracy(self._simulated, self.classifier, [*self.edits, edit.images])
        draws = [rates(x, y, mask) for x, y in zip(self._before, after, strict=True)]
        intervals = {name: _interval([one[name] for one in draws], name) for name in draws[0]}
        # The worst of many cells with few pictures each is mostly chance: of expected drops it is not.
        expected = self._before.mean(0), after.mean(0), mask
        worst, (_, low, high) = rates(*expected)["worst_cell_drop"], intervals["worst_cell_drop"]
        intervals["worst_cell_drop"] = worst, min(worst, low), max(worst, high)
        return Forecast(*expected, request, edit, intervals)

    def pairwise(self, edit: Edit, mask: Tensor) -> float:
        """How often `edit` is expected to leave a forgotten picture its name where only one other may be given.

        mask: (C, K). The mean over the other names, the forgotten cells of a class, and the classes.
        """
        by_class = []
        for c in mask.any(1).nonzero()[:, 0].tolist():
            others, by_domain = torch.arange(len(mask)) != c, []
            for k in mask[c].nonzero()[:, 0].tolist():
                z = changed(self._simulated[:, c, k].flatten(0, 1), [*self.edits, edit.images])
                scores = F.normalize(z, dim=-1) @ self.classifier.to(z).T
                by_domain.append((scores[:, c, None] > scores[:, others]).double().mean())
            by_class.append(torch.stack(by_domain).mean())
        return float(torch.stack(by_class).mean())


def _interval(values: list[float], name: str) -> Interval:
    x = np.array([v for v in values if v == v])
    if not len(x):
        return math.nan, math.nan, math.nan
    mean, (lowest, highest), margin = float(x.mean()), RANGES[name], MARGIN[name]
    low, high = np.quantile(x, [0.025, 0.975]).tolist()
    low, high = mean - WIDER * (mean - low) - margin, mean + WIDER * (high - mean) + margin
    return mean, max(lowest, low), min(highest, high)


def validate_words(cells: Cells, classifier: Tensor, mask: Tensor, vocabulary: Vocabulary) -> None:
    """Raise ValueError for a forgotten class that the text tower takes for one that stays; warn of near ones."""
    for ratio, pair in alike_words(classifier, mask, vocabulary, cells.common):
        if ratio < SAME:
            raise ValueError(f"{pair}: an edit that forgets one forgets the other; expected words that it knows apart")
        warnings.warn(f"{pair}; expect that the other is forgotten, too, or neither", stacklevel=3)
