"""What an audit finds: one number a question, beside the unedited and a retrained model."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..files import aligned, as_text, markdown

MODELS = ("unedited", "edited", "retrained")
COLUMNS = ("question", *MODELS, "judged", "limit", "")
LIMITS = {"max_left": 10.0, "max_lost": 5.0}
"""Percent of the forgotten pictures of a class that may still be named right; points that a kept class may lose."""

Judged = tuple[float | None, float | None, str]
"""The number that is judged, how much of it is tolerated, and what it is; None for either: not judged."""


@dataclass(frozen=True)
class Finding:
    """The answers of all models to one question, None where a model cannot be asked.

    check: the kind of question, such as "probe". excess, limit, judged: see `Judged`. details: curves and counts.
    """

    check: str
    asked: str
    unit: str
    unedited: float | None
    edited: float | None
    retrained: float | None = None
    excess: float | None = None
    limit: float | None = None
    judged: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def times(self) -> float:
        """How many times the limit the excess is; -inf where nothing is judged."""
        return -math.inf if self.excess is None or self.limit is None else max(0.0, self.excess) / self.limit

    @property
    def within(self) -> bool | None:
        return None if self.excess is None else self.times <= 1

    def as_dict(self) -> dict[str, Any]:
        """In types of JSON; the retrained model has the key "clean" there."""
        return {"clean" if key == "retrained" else key: x for key, x in asdict(self).items()} | {"within": self.within}


def finding(
    check: str,
    asked: str,
    unit: str,
    values: Mapping[str, float],
    judged: Judged = (None, None, ""),
    details: dict[str, Any] | None = None,
) -> Finding:
    """A Finding of the `values` of MODELS by name."""
    excess, limit, kind = figure(judged[0]), *judged[1:]
    if excess is None or limit is None:
        excess, limit, kind = None, None, ""
    unedited, edited, retrained = (figure(values.get(model)) for model in MODELS)
    return Finding(check, asked, unit, unedited, edited, retrained, excess, limit, kind, details or {})


def above_retrained(values: Mapping[str, float], limit: float, kind: str = "points above retrained") -> Judged:
    """Judged is how far the edited model is above the retrained one, if there is one."""
    return values["edited"] - values["retrained"] if "retrained" in values else None, limit, kind


def figure(value: float | None) -> float | None:
    """A number for JSON; None for one that is not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def format_number(value: float | None) -> str:
    """Three figures of a number; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


@dataclass(frozen=True)
class Count:
    """How many pictures of a class are named right, before and after: the forgotten ones, or the kept ones."""

    name: str
    forgotten: bool
    pictures: int
    before: int
    after: int
    chance: float = 0.0  # percent that guessing names right

    def beyond(self, max_left: float, max_lost: float) -> bool:
        """Whether over `max_left` percent of the forgotten, beyond chance, are left, or over `max_lost` points lost."""
        if self.forgotten:
            return 100 * self.after > (max_left + self.chance) * self.pictures
        return 100 * (self.before - self.after) > max_lost * self.pictures

    def __str__(self) -> str:
        return f"{' '.join(self.name.split())} {self.before} -> {self.after} of {self.pictures}"


@dataclass(frozen=True, eq=False)
class Audit:
    """All findings, the worst first: by how many times its limit each excess is; then those that are not judged.

    about: the request, the model, the edits, the number of pictures, in types of JSON. left_out: what could not be
    asked, and why. counts: of every class, the forgotten first, then those that lose most. limits: see LIMITS.
    """

    findings: tuple[Finding, ...]
    about: dict[str, Any]
    left_out: tuple[str, ...] = ()
    counts: tuple[Count, ...] = ()
    limits: dict[str, float] = field(default_factory=LIMITS.copy)

    @property
    def judged(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.within is not None)

    @property
    def beyond(self) -> tuple[Finding, ...]:
        """The findings beyond their limit."""
        return tuple(f for f in self.judged if not f.within)

    @property
    def hurt(self) -> tuple[Count, ...]:
        """The classes beyond `limits`: not forgotten, or kept ones that lose; the worst first."""
        return tuple(count for count in self.counts if count.beyond(**self.limits))

    def as_dict(self) -> dict[str, Any]:
        """All of it in types of JSON."""
        counts, findings = [asdict(count) for count in self.counts], [f.as_dict() for f in self.findings]
        hurt = {"counts": counts, "limits": self.limits, "hurt": [str(count) for count in self.hurt]}
        return {**self.about, **hurt, "findings": findings, "left_out": list(self.left_out)}

    def _repr_markdown_(self) -> str:
        rows = [[as_text(question), *cells] for question, *cells in self._rows()]
        return markdown(rows, [*COLUMNS, "of what"])

    def __str__(self) -> str:
        request, hurt = " ".join(self.about["request"].split()), self.hurt
        about = f"forget {request}: {len(self.beyond)} of {len(self.judged)} findings beyond their limit"
        forgotten = [f"{'NOT FORGOTTEN' if c in hurt else 'forgotten'}: {c}" for c in self.counts if c.forgotten]
        kept = "; ".join(str(count) for count in hurt if not count.forgotten)
        damage = f"HURT: {kept}" if kept else "hurt: no kept class"
        left_out = [f"left out: {reason}" for reason in self.left_out]
        table = aligned([row[:-1] for row in self._rows()], COLUMNS)
        return "\n".join([f"{about}, the worst first", *forgotten, damage, table, *left_out])

    def _rows(self) -> list[list[str]]:
        """Of each finding the COLUMNS, and what is judged."""
        rows = []
        for f in self.findings:
            name = f", {f.details['class']}" if "class" in f.details else ""
            question = " ".join(f"{f.check}: {f.asked}{name}{f' ({f.unit})' if f.unit else ''}".split())
            numbers = map(format_number, (f.unedited, f.edited, f.retrained, f.excess, f.limit))
            rows.append([question, *numbers, "✗" if f.within is False else "", f.judged])
        return rows
