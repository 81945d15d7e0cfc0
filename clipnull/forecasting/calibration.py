"""A strength that aims at chance: among two names, what is forgotten is answered as by a model that never knew. Ours.

A forgotten class that scores below all others is a mark, as easy to find as one that scores above. A model that was
never taught a name gives it by chance where only one other may be given. At strength 1 a class scores as the average
class does, which is near to that; how near depends on the class. So its forgotten cells are drawn as pseudo-pictures
(`clipnull.forecasting.simulation`), and the strength is found by bisection: no picture is read.

Among all C names, chance among two is far from the first place, so that the class is hardly ever named. What it costs
is that a small label set, or a word nearby, finds the class more easily.
"""

import inspect
from typing import Any

from torch import Tensor

from ..errors import one_of
from ..methods import METHODS, solve
from ..methods.cells import Cells
from ..vocabulary import Vocabulary
from .outlook import Outlook

CHANCE = "chance"
STRENGTH = "strength"
RANGE, HALVINGS = (0.1, 10.0), 10
"""Where it is looked for: to half a percent."""


def able() -> list[str]:
    """The methods that have a strength."""
    return [name for name in METHODS if STRENGTH in inspect.signature(METHODS[name]).parameters]


def aims(settings: dict[str, Any]) -> bool:
    """Whether settings of a method ask for chance."""
    return settings.get(STRENGTH) == CHANCE


def validate_aim(method: str, mask: Tensor, settings: dict[str, Any]) -> None:
    """Raises ValueError if settings ask for chance of a method without a strength, or for whole domains."""
    if not aims(settings):
        return
    one_of("method, with strength='chance'", method, able())
    if mask.all(0).any():
        raise ValueError("strength: 'chance' for a whole domain; expected a number, as every class of it is asked for")


def at_chance(
    method: str, cells: Cells, mask: Tensor, outlook: Outlook, vocabulary: Vocabulary, settings: dict[str, Any]
) -> dict[str, Any]:
    """`settings` with the strength at which `Outlook.among_two` is one half, in place of "chance".

    cells: what the edit is made of; mask: cells to forget, (C, K) bool.

    Raises ValueError as `validate_aim`, and where no strength of RANGE reaches one half: names that the model gives by
    chance anyway, or pictures that the method does not act on.
    """
    validate_aim(method, mask, settings)

    def share(strength: float) -> float:
        return outlook.among_two(solve(cells, mask, method, **{**settings, STRENGTH: strength}), mask)

    low, high = RANGE
    ends = share(low), share(high)
    if not ends[0] > 0.5 > ends[1]:
        named = ", ".join(repr(vocabulary.classes[c]) for c in mask.any(1).nonzero()[:, 0].tolist())
        raise ValueError(
            f"strength: 'chance' cannot be reached with {method!r}: among two names {named} is expected for "
            f"{ends[0]:.0%} of its pictures at {low:g} and {ends[1]:.0%} at {high:g}; expected a number"
        )
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if share(middle) > 0.5 else (low, middle)
    return {**settings, STRENGTH: (low * high) ** 0.5}
