"""Calibration of a strength to chance: between two names, the edited model answers as one that never knew. Ours.

A forgotten class that scores below all others leaves a signature, as easy to find as one that scores above. So we
simulate pictures of its forgotten cells and find the strength by bisection. The price: a small label set, or a word
nearby, finds the class more easily.
"""

from typing import Any

from torch import Tensor

from ..errors import one_of
from ..methods import METHODS, solve
from ..methods.cells import Cells
from ..vocabulary import Vocabulary
from .outlook import Simulator

CHANCE = "chance"
RANGE, HALVINGS = (0.1, 10.0), 10
"""The strengths that are searched, to half a percent."""


def with_strength() -> list[str]:
    """The methods that have a strength."""
    return [name for name in METHODS if "strength" in METHODS[name].defaults]


def validate_chance(method: str, mask: Tensor) -> None:
    """Raise ValueError for a method without a strength, or for whole domains."""
    one_of("method, with strength='chance'", method, with_strength())
    if mask.all(0).any():
        raise ValueError("strength: 'chance' for a whole domain; expected a number, as every class of it is forgotten")


def chance_strength(
    method: str, cells: Cells, mask: Tensor, simulator: Simulator, vocabulary: Vocabulary, settings: dict[str, Any]
) -> float:
    """The strength of `method` at which `Simulator.pairwise` is one half.

    mask: cells to forget, (C, K) bool; settings: the others of the method. Raises ValueError where no strength of RANGE
    reaches one half: names that the model gives by chance anyway, or pictures that the method does not act on.
    """

    def share(strength: float) -> float:
        return simulator.pairwise(solve(cells, mask, method, **settings | {"strength": strength}), mask)

    low, high = RANGE
    least, most = share(high), share(low)
    if not least < 0.5 < most:
        classes = ", ".join(repr(vocabulary.classes[c]) for c in mask.any(1).nonzero()[:, 0].tolist())
        raise ValueError(
            f"strength: 'chance' cannot be reached with {method!r}: between two names, {classes} is expected for "
            f"{most:.0%} of its pictures at {low:g} and {least:.0%} at {high:g}; expected a number"
        )
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if share(middle) > 0.5 else (low, middle)
    return (low * high) ** 0.5
