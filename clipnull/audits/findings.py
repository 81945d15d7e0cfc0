"""What an audit finds: one number a question, beside the unedited and a retrained model."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MODELS = ("unedited", "edited", "retrained")


@dataclass(frozen=True)
class Finding:
    """The answers of all models to one question.

    check: the kind of question, such as "probe"; asked: the question; unit: "%", "AUC", "points", "bits" or "".
    unedited, edited, retrained: the answers, None where a model cannot be asked. excess, limit: the number that is
    judged, computed from the answers, and how much of it is tolerated; None: not judged. judged: what `excess` is, in
    words. details: curves and intervals, in types of JSON.
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
    def name(self) -> str:
        """The question with its kind and unit."""
        return f"{self.check}: {self.asked}" + (f" ({self.unit})" if self.unit else "")

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


@dataclass(frozen=True, eq=False)
class Audit:
    """All findings, the worst first: by how many times its limit each excess is; then those that are not judged.

    about: the request, the model, the edits, the number of pictures, in types of JSON. left_out: what could not be
    asked, and why.
    """

    findings: tuple[Finding, ...]
    about: dict[str, Any]
    left_out: tuple[str, ...] = ()

    def __getitem__(self, check: str) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(f for f in self.findings if f.check == check)

    @property
    def worst(self) -> tuple[Finding, ...]:
        """The three worst of those that are judged."""
        return tuple(f for f in self.findings if f.excess is not None)[:3]

    def as_dict(self) -> dict[str, Any]:
        """All of it in types of JSON."""
        return {**self.about, "findings": [f.as_dict() for f in self.findings], "left_out": list(self.left_out)}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n"

    def _repr_markdown_(self) -> str:
        lines = [f"| question | {' | '.join(MODELS)} | judged | limit |", "|---|" + "---:|" * 3 + "---|---:|"]
        for f in self.findings:
            *answers, excess, limit = _numbers(f)
            judged = f"{f.judged} {excess}{'' if f.within else ' ✗'}" if f.judged else excess
            lines.append("| " + " | ".join([f.name, *answers, judged, limit]) + " |")
        return "\n".join(lines)

    def __str__(self) -> str:
        beyond, judged = (sum(f.within in wanted for f in self.findings) for wanted in ((False,), (False, True)))
        width = max(len(f.name) for f in self.findings)
        lines = [
            f"forget {self.about['request']}: {beyond} of {judged} findings beyond their limit, the worst first",
            " " * (width + 2) + "".join(f"{title:>10}" for title in (*MODELS, "judged", "limit")),
        ]
        for f in self.findings:
            mark = "✗" if f.within is False else " "
            lines.append(f"{mark} {f.name:{width}}" + "".join(f"{number:>10}" for number in _numbers(f)))
        return "\n".join([*lines, *(f"left out: {what}" for what in self.left_out)])


def _numbers(f: Finding) -> list[str]:
    return [format_number(value) for value in (f.unedited, f.edited, f.retrained, f.excess, f.limit)]


def format_number(value: float | None) -> str:
    """Three figures of a number; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: -f.times))


def finding(
    check: str,
    asked: str,
    unit: str,
    values: Mapping[str, float],
    excess: float | None = None,
    limit: float | None = None,
    judged: str = "",
    details: dict[str, Any] | None = None,
) -> Finding:
    """A Finding of the `values` of MODELS by name; nothing is judged where the excess is None or NaN."""
    excess = _rounded(excess)
    if excess is None or limit is None:
        excess, limit, judged = None, None, ""
    unedited, edited, retrained = (_rounded(values.get(model)) for model in MODELS)
    return Finding(check, asked, unit, unedited, edited, retrained, excess, limit, judged, details or {})


def above_retrained(values: Mapping[str, float]) -> float | None:
    """How far the edited model is above the retrained one; None without that."""
    return values["edited"] - values["retrained"] if "retrained" in values else None


def curve(values: Sequence[float]) -> list[float | None]:
    """Numbers for `Finding.details`."""
    return [_rounded(v) for v in values]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)
