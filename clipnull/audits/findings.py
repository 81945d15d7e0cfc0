"""The result of an audit: for each question, one number per model and a judgement."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..files import aligned, as_text, markdown

MODELS = ("unedited", "edited", "retrained")
COLUMNS = ("question", *MODELS, "judged", "limit", "")
LIMITS = {"max_left": 10.0, "max_lost": 5.0}
"""Percent of a forgotten class that may still be classified correctly; points that a kept class may lose."""

Judged = tuple[float | None, float | None, str]
"""The number to judge, its limit, and its description. Nothing is judged if either number is None."""


@dataclass(frozen=True)
class Finding:
    """One number per model for one question; None for a model that cannot answer it.

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
        """The excess as a multiple of the limit; -inf if it is not judged."""
        return -math.inf if self.excess is None or self.limit is None else max(0.0, self.excess) / self.limit

    @property
    def within(self) -> bool | None:
        return None if self.excess is None else self.times <= 1

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON types; the retrained model has the key "clean" there."""
        return {"clean" if key == "retrained" else key: x for key, x in asdict(self).items()} | {"within": self.within}


def finding(
    check: str,
    asked: str,
    unit: str,
    values: Mapping[str, float],
    judged: Judged = (None, None, ""),
    details: dict[str, Any] | None = None,
) -> Finding:
    """Return a Finding for `values`, one per model in MODELS."""
    excess, limit, kind = json_number(judged[0]), *judged[1:]
    if excess is None or limit is None:
        excess, limit, kind = None, None, ""
    unedited, edited, retrained = (json_number(values.get(model)) for model in MODELS)
    return Finding(check, asked, unit, unedited, edited, retrained, excess, limit, kind, details or {})


def above_retrained(values: Mapping[str, float], limit: float, kind: str = "points above retrained") -> Judged:
    """Judge how far the edited model is above the retrained one, if there is one."""
    return values["edited"] - values["retrained"] if "retrained" in values else None, limit, kind


def json_number(value: float | None) -> float | None:
    """Round `value` for JSON; return None unless it is finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def format_number(value: float | None) -> str:
    """Return `value` with about three digits, or a dash unless it is finite."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


@dataclass(frozen=True)
class Count:
    """Pictures of a class classified correctly before and after the edit, either the forgotten or the kept ones."""

    name: str
    forgotten: bool
    pictures: int
    before: int
    after: int
    chance: float = 0.0  # percent correct by guessing

    def beyond(self, max_left: float, max_lost: float) -> bool:
        """Return True if over `max_left` percent above chance remain, or over `max_lost` points are lost."""
        if self.forgotten:
            return 100 * self.after > (max_left + self.chance) * self.pictures
        return 100 * (self.before - self.after) > max_lost * self.pictures

    def __str__(self) -> str:
        return f"{' '.join(self.name.split())} {self.before} -> {self.after} of {self.pictures}"


@dataclass(frozen=True, eq=False)
class Audit:
    """All findings, sorted by `Finding.times` with the worst first and the unjudged last.

    about: the request, the model, the edits and the number of pictures, in JSON types. left_out: tests that were
    impossible, and why. counts: by class, the forgotten first, then by loss. limits: see LIMITS.
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
        """The findings that exceed their limit."""
        return tuple(f for f in self.judged if not f.within)

    @property
    def hurt(self) -> tuple[Count, ...]:
        """The classes beyond `limits`, the worst first: incompletely forgotten, or kept with too great a loss."""
        return tuple(count for count in self.counts if count.beyond(**self.limits))

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON types."""
        counts, findings = [asdict(count) for count in self.counts], [f.as_dict() for f in self.findings]
        hurt = {"counts": counts, "limits": self.limits, "hurt": [str(count) for count in self.hurt]}
        return {**self.about, **hurt, "findings": findings, "left_out": list(self.left_out)}

    def _repr_markdown_(self) -> str:
        rows = [[as_text(question), *cells] for question, *cells in self._rows()]
        return markdown(rows, [*COLUMNS, "of what"])

    def __str__(self) -> str:
        request, hurt = " ".join(self.about["request"].split()), self.hurt
        headline = f"forget {request}: {len(self.beyond)} of {len(self.judged)} findings beyond their limit"
        forgotten = [f"{'NOT FORGOTTEN' if c in hurt else 'forgotten'}: {c}" for c in self.counts if c.forgotten]
        kept = "; ".join(str(count) for count in hurt if not count.forgotten)
        damage = f"HURT: {kept}" if kept else "hurt: no kept class"
        left_out = [f"left out: {reason}" for reason in self.left_out]
        table = aligned([row[:-1] for row in self._rows()], COLUMNS)
        return "\n".join([f"{headline}, the worst first", *forgotten, damage, table, *left_out])

    def _rows(self) -> list[list[str]]:
        """Return the COLUMNS of each finding, and the description of what is judged."""
        rows = []
        for f in self.findings:
            name = f", {f.details['class']}" if "class" in f.details else ""
            question = " ".join(f"{f.check}: {f.asked}{name}{f' ({f.unit})' if f.unit else ''}".split())
            numbers = map(format_number, (f.unedited, f.edited, f.retrained, f.excess, f.limit))
            rows.append([question, *numbers, "✗" if f.within is False else "", f.judged])
        return rows
