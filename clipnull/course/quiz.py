"""The quiz before and after the course; `quiz.toml` holds its questions and its key."""

import tomllib
from pathlib import Path

from ..files import markdown, write_text

FILE = Path(__file__).with_name("quiz.toml")
LETTERS = "abcdef"
QUESTIONS = """# Quiz

Take ten minutes before the course and ten after it. Each question has one correct answer. The key is separate."""
KEY = """# Key to the quiz

For instructors who grade [the quiz](QUIZ.md). The reasons show what a good answer in words contains."""


def quiz(out: Path) -> list[Path]:
    """Write the questions, and the key with a reason for each answer, as two pages into the folder `out`."""
    parts, questions, key = tomllib.loads(FILE.read_text(encoding="utf-8")), [QUESTIONS], [KEY]
    for part, title in (("entry", "Before the course"), ("exit", "After the course")):
        questions.append(f"## {title}")
        rows = []
        for number, entry in enumerate(parts[part], 1):
            options = dict(zip(LETTERS, entry["options"], strict=False))
            choices = "\n".join(f"- ({letter}) {text}" for letter, text in options.items())
            questions.append(f"**{number}.** {entry['question']}\n\n{choices}")
            rows.append((number, f"({entry['answer']}) {options[entry['answer']]}", entry["why"], entry["where"]))
        key.append(f"## {title}\n\n{markdown(rows, ('', 'answer', 'because', 'taught in'))}")
    out.mkdir(parents=True, exist_ok=True)
    pages = {"QUIZ.md": questions, "QUIZ_KEY.md": key}
    return [write_text(out / name, "\n\n".join(texts) + "\n") for name, texts in pages.items()]
