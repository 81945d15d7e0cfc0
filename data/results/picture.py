"""The picture of the README: cats named right in photographs and drawings, before and after each method."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipnull.evaluate import wilson
from clipnull.files import written

EXAMPLE = (["cat"], ["drawing"])
"""Classes and domains of the request that is shown."""
PATH = Path("data", "results", "cats.png")
LABELS = {"photo": "photographs of cats (to keep)", "drawing": "drawings of cats (to forget)"}


def example_of(rows: Sequence[dict]) -> dict | None:
    """What EXAMPLE did by method: [pictures, right before, right after] in each domain; None if it was not measured."""
    rows = [row for row in rows if row["prompts"] == "free" and (row["classes"], row["domains"]) == EXAMPLE]
    return {row["method"]: row["by_domain"] for row in rows} or None


def example_in(known: Sequence[dict]) -> dict:
    """The example of the first measurement that has it; empty if none has."""
    return next((entry["example"] for entry in known if entry.get("example")), {})


def caption(example: dict) -> str:
    """The picture as Markdown, with a caption that gives its counts."""
    (n, before, _), (drawn, named, _) = (next(iter(example.values()))[domain] for domain in LABELS)
    after = "; ".join(f"`{name}` {found['photo'][2]} and {found['drawing'][2]}" for name, found in example.items())
    return (
        "![Cats that are named right, by method, as bars with counts](data/results/cats.png)\n\n"
        "*Drawings of cats are forgotten; photographs of cats should stay. Measured on OpenAI's ViT-B/32, on public "
        "embeddings ([sources](RESULTS.md#sources-of-the-public-embeddings)). Unedited, it names "
        f"{before} of {n} photographs and {named} of {drawn} children's drawings of cats right. Photographs and "
        f"drawings after each method: {after}. Bars with 95 % intervals (Wilson).*"
    )


def bars(example: dict) -> dict[str, dict[str, list[int]]]:
    """What is shown: for the unedited model and each method, [pictures, named right] in each domain."""
    first = next(iter(example.values()))
    before = {"unedited": {domain: [n, right] for domain, (n, right, _) in first.items()}}
    return before | {name: {k: [n, right] for k, (n, _, right) in counts.items()} for name, counts in example.items()}


def draw(example: dict, path: Path = PATH) -> Path:
    """Draw the bars to a PNG; its text `Description` holds the numbers."""
    import matplotlib.pyplot as plt

    from clipnull.course.drawings import OTHER, SIBLING, STYLE

    if not example:
        raise ValueError("picture: no file in data/results has the example; expected a sweep of stored cats")
    shown = bars(example)
    with plt.rc_context(STYLE | {"font.size": 15}):
        figure, ax = plt.subplots(figsize=(9, 4.6))
        for i, (domain, label) in enumerate(LABELS.items()):
            n, right = np.array([counts[domain] for counts in shown.values()]).T
            x, share = np.arange(len(shown)) + 0.4 * (i - 0.5), 100 * right / n
            low, high = 100 * np.array([wilson(int(r), int(m)) for r, m in zip(right, n, strict=True)]).T
            ax.bar(x, share, 0.38, color=(SIBLING, OTHER)[i], hatch=("", "//")[i], edgecolor="white", label=label)
            ax.errorbar(x, share, [share - low, high - share], fmt="none", ecolor="0.25", capsize=3, lw=1.5)
            for at, top, r, m in zip(x, high, right, n, strict=True):
                ax.text(at, top + 2, f"{r}/{m}", ha="center", fontsize=11.5)
        ax.set_xticks(range(len(shown)), list(shown), fontsize=15)
        ax.set_ylim(0, 124)
        ax.set_yticks(range(0, 101, 25))
        ax.tick_params(axis="y", labelsize=14)
        ax.set_ylabel("named right (%)", fontsize=15)
        ax.axvline(0.5, ymax=0.85, color="0.7", lw=1)
        ax.legend(loc="upper center", ncols=2, frameon=False, fontsize=14)
        with written(path) as temporary:
            description = {"Description": json.dumps(shown), "Software": None}
            figure.savefig(temporary, format="png", dpi=200, metadata=description)
    plt.close(figure)
    return path
