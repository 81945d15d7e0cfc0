"""The quiz before and after the course: questions and key in one file, `quiz.toml`, from which both pages are made."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_text

FILE = Path(__file__).parent / "quiz.toml"
PARTS = {"entry": "Before the course", "exit": "After the course"}
LETTERS = "abcdef"


@dataclass(frozen=True)
class Question:
    """A question with its options. `golden` names the recorded number it is about, `values` what each option says."""

    question: str
    options: Sequence[str]
    answer: str
    why: str
    where: str
    golden: str = ""
    values: Sequence[float] = ()


def load(path: Path = FILE) -> dict[str, list[Question]]:
    """The questions of both parts.

    Raises ValueError, with the part and the number of the question, where the key disagrees with its question.
    """
    told: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    if set(told) != set(PARTS):
        raise ValueError(f"quiz: {path.name} has the parts {sorted(told)}; expected {sorted(PARTS)}")
    quiz = {}
    for part in PARTS:
        quiz[part] = []
        for number, entry in enumerate(told[part], 1):
            try:
                quiz[part].append(question := Question(**entry))
            except TypeError as error:
                raise ValueError(f"quiz: {part} {number}: {error}; expected the fields of Question") from None
            if fault := _fault(question):
                raise ValueError(f"quiz: {part} {number}: {fault}")
    return quiz


def _fault(question: Question) -> str:
    letters = LETTERS[: len(question.options)]
    if len(question.options) < 2 or len(set(question.options)) < len(question.options):
        return f"options are {list(question.options)}; expected two or more that differ"
    if len(question.answer) != 1 or question.answer not in letters:
        return f"answer is {question.answer!r}; expected one of {', '.join(letters)}"
    if question.golden and len(question.values) != len(question.options):
        return f"{len(question.values)} values for {len(question.options)} options; expected one for each"
    return ""


def pages(quiz: Mapping[str, Sequence[Question]]) -> dict[str, str]:
    """The two pages by their names: the questions alone, and the key with a reason for each answer."""
    asked = [
        "# Quiz\n\nTen minutes before the course, ten after it. One answer is right. The key is on a page of its own."
    ]
    key = ["# Key to the quiz\n\nFor whoever marks [the quiz](QUIZ.md). The reason is what an answer in words holds."]
    for part, title in PARTS.items():
        asked.append(f"## {title}")
        key.append(f"## {title}\n\n| | answer | because | taught in |\n|---|---|---|---|")
        for number, question in enumerate(quiz[part], 1):
            options = "\n".join(f"- ({x}) {text}" for x, text in zip(LETTERS, question.options, strict=False))
            asked.append(f"**{number}.** {question.question}\n\n{options}")
            right = question.options[LETTERS.index(question.answer)]
            key[-1] += f"\n| {number} | ({question.answer}) {right} | {question.why} | {question.where} |"
    return {"QUIZ.md": "\n\n".join(asked) + "\n", "QUIZ_KEY.md": "\n\n".join(key) + "\n"}


def write(out: Path) -> list[Path]:
    """Write both pages into the folder `out`."""
    return [write_text(Path(out) / name, text) for name, text in pages(load()).items()]
