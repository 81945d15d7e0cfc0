"""The quiz before and after the course: questions and key in one file, `quiz.toml`, from which both pages are made."""

import tomllib
from pathlib import Path

from ..files import markdown, write_text

FILE = Path(__file__).with_name("quiz.toml")
LETTERS = "abcdef"
QUESTIONS = """# Quiz

Ten minutes before the course, ten after it. One answer is right. The key is on a page of its own."""
KEY = """# Key to the quiz

For whoever marks [the quiz](QUIZ.md). The reason is what an answer in words holds."""


def quiz(out: Path) -> list[Path]:
    """Write two pages into the folder `out`: the questions alone, and the key with a reason for each answer."""
    parts, questions, key = tomllib.loads(FILE.read_text(encoding="utf-8")), [QUESTIONS], [KEY]
    for part, title in (("entry", "Before the course"), ("exit", "After the course")):
        questions.append(f"## {title}")
        rows = []
        for number, entry in enumerate(parts[part], 1):
            options = dict(zip(LETTERS, entry["options"], strict=False))
            listed = "\n".join(f"- ({letter}) {text}" for letter, text in options.items())
            questions.append(f"**{number}.** {entry['question']}\n\n{listed}")
            rows.append((number, f"({entry['answer']}) {options[entry['answer']]}", entry["why"], entry["where"]))
        key.append(f"## {title}\n\n{markdown(rows, ('', 'answer', 'because', 'taught in'))}")
    out.mkdir(parents=True, exist_ok=True)
    pages = {"QUIZ.md": questions, "QUIZ_KEY.md": key}
    return [write_text(out / name, "\n\n".join(texts) + "\n") for name, texts in pages.items()]
