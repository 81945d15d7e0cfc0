"""What a user can afford: "forget >= .95, worst drop <= 5"."""

import math
import re
from dataclasses import dataclass

from .errors import brief, one_of

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
