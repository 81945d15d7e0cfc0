"""The quiz before and after the course: questions and key in one file, `quiz.toml`, from which both pages are made."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_text

FILE = Path(__file__).parent / "quiz.toml"
PARTS = {"entry": "Before the course", "exit": "After the course"}
LETTERS = "abcdef"
QUESTIONS = """# Quiz

Ten minutes before the course, ten after it. One answer is right. The key is on a page of its own."""
KEY = """# Key to the quiz

For whoever marks [the quiz](QUIZ.md). The reason is what an answer in words holds."""
TABLE = "| | answer | because | taught in |\n|---|---|---|---|"


@dataclass(frozen=True)
class Question:
    """A question with its options. `golden` names the recorded number it is about, `values` what each option says.

    Raises ValueError where the key disagrees with the question.
    """

    question: str
    options: Sequence[str]
    answer: str
    why: str
    where: str
    golden: str = ""
    values: Sequence[float] = ()

    def __post_init__(self) -> None:
        letters = list(LETTERS[: len(self.options)])
        if len(letters) < 2 or len(set(self.options)) < len(self.options):
            raise ValueError(f"options are {list(self.options)}; expected two or more that differ")
        if self.answer not in letters:
            raise ValueError(f"answer is {self.answer!r}; expected one of {', '.join(letters)}")
        if self.golden and len(self.values) != len(self.options):
            raise ValueError(f"{len(self.values)} values for {len(self.options)} options; expected one for each")


def load(path: Path = FILE) -> dict[str, list[Question]]:
    """The questions of both parts. Raises ValueError, with the part and the number of a question that is not sound."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    if set(table) != set(PARTS):
        raise ValueError(f"quiz: {path.name} has the parts {sorted(table)}; expected {sorted(PARTS)}")
    quiz = {part: [] for part in PARTS}
    for part, questions in quiz.items():
        for number, entry in enumerate(table[part], 1):
            try:
                questions.append(Question(**entry))
            except (TypeError, ValueError) as error:
                raise ValueError(f"quiz: {part} {number}: {error}") from None
    return quiz


def pages(quiz: Mapping[str, Sequence[Question]]) -> dict[str, str]:
    """The two pages by their names: the questions alone, and the key with a reason for each answer."""
    questions, key = [QUESTIONS], [KEY]
    for part, title in PARTS.items():
        questions.append(f"## {title}")
        key.append(f"## {title}\n\n{TABLE}")
        for number, question in enumerate(quiz[part], 1):
            options = "\n".join(f"- ({x}) {text}" for x, text in zip(LETTERS, question.options, strict=False))
            questions.append(f"**{number}.** {question.question}\n\n{options}")
            right = question.options[LETTERS.index(question.answer)]
            key[-1] += f"\n| {number} | ({question.answer}) {right} | {question.why} | {question.where} |"
    return {"QUIZ.md": "\n\n".join(questions) + "\n", "QUIZ_KEY.md": "\n\n".join(key) + "\n"}


def write(out: Path) -> list[Path]:
    """Write both pages into the folder `out`."""
    Path(out).mkdir(parents=True, exist_ok=True)
    return [write_text(Path(out) / name, text) for name, text in pages(load()).items()]
