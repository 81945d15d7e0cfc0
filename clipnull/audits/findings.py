"""What an audit finds: one number a question, beside the unedited model and one that never knew."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MODELS = ("unedited", "edited", "clean")


@dataclass(frozen=True)
class Finding:
    """One question that was asked of every model.

    Attributes
    ----------
    check : str
        What kind of question, such as "probe".
    asked : str
        The question.
    unit : str
        "%", "AUC", "points", "bits" or "".
    unedited, edited, clean : float or None
        The answers; None where a model cannot be asked.
    excess, limit : float or None
        What is judged, made of the answers, and how much of it is tolerated; None: told, not judged.
    judged : str
        What `excess` is, in words.
    details : dict
        Curves and intervals, in types of JSON.
    """

    check: str
    asked: str
    unit: str
    unedited: float | None
    edited: float | None
    clean: float | None = None
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


@dataclass(frozen=True, eq=False)
class Audit:
    """All findings, the worst first: by how many times its limit each excess is; then what is told and not judged.

    Attributes
    ----------
    findings : tuple of Finding
    about : dict
        The request, the model, the edits, the number of pictures, in types of JSON.
    left_out : tuple of str
        What could not be asked, and why.
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
        found = [asdict(f) | {"within": f.within} for f in self.findings]
        return {**self.about, "findings": found, "left_out": list(self.left_out)}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n"

    def table(self) -> str:
        """A table in Markdown, the worst finding first."""
        head = ["question", *MODELS, "judged", "limit"]
        lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * 3 + "---|---:|"]
        for f in self.findings:
            judged = "–" if f.excess is None else f"{f.judged} {told(f.excess)}{'' if f.within else ' ✗'}"
            limit = "–" if f.limit is None else told(f.limit)
            answers = [told(getattr(f, model)) for model in MODELS]
            name = f"{f.check}: {f.asked}" + (f" ({f.unit})" if f.unit else "")
            lines.append("| " + " | ".join([name, *answers, judged, limit]) + " |")
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return self.table()

    def __str__(self) -> str:
        n = sum(f.within is False for f in self.findings)
        judged = sum(f.excess is not None for f in self.findings)
        names = [f"{f.check}: {f.asked}" + (f" ({f.unit})" if f.unit else "") for f in self.findings]
        width = max(map(len, names))
        lines = [f"forget {self.about['request']}: {n} of {judged} findings beyond their limit, the worst first"]
        lines.append(" " * (width + 2) + "".join(f"{head:>9}" for head in (*MODELS, "judged", "limit")))
        for name, f in zip(names, self.findings, strict=True):
            cells = [told(value) for value in (f.unedited, f.edited, f.clean, f.excess, f.limit)]
            mark = "✗" if f.within is False else " "
            lines.append(f"{mark} {name:{width}}" + "".join(f"{cell:>9}" for cell in cells))
        return "\n".join([*lines, *(f"left out: {what}" for what in self.left_out)])


def told(value: float | None) -> str:
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
    """A Finding of the `values` of MODELS by name; nothing is judged where the excess is None or no number."""
    known = excess is not None and math.isfinite(excess) and limit is not None
    own = {model: _number(values.get(model)) for model in MODELS}
    excess, limit, judged = (_number(excess), limit, judged) if known else (None, None, "")
    return Finding(
        check, asked, unit, own["unedited"], own["edited"], own["clean"], excess, limit, judged, details or {}
    )


def above_clean(values: Mapping[str, float]) -> float | None:
    """How far the edited model is above one that never knew; None without that."""
    return values["edited"] - values["clean"] if "clean" in values else None


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def curve(values: Sequence[float]) -> list[float | None]:
    """Numbers for `Finding.details`."""
    return [_number(v) for v in values]
