"""RESULTS.md and the table and picture of the README, written from the JSON files in data/results.

`python data/results/write.py [FILE ...]` takes over what `clipnull bench --json FILE`, also with `--rivals`,
`--forecast`, `--bound`, `--speed` or `--device`, and `data/build/measure.py --json FILE` measured, and writes both
anew; a test holds them against the files.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import bounds
import device_speed
import forecasts
import index_speed
from reporting import audit_part, caption, draw, example_of, examples, stored_part

from clipnull.bench import report as baselines
from clipnull.bench.sweep import COLUMNS, COUNTED, counted, told
from clipnull.errors import one_of
from clipnull.files import write_text

FOLDER, PAGE, README = Path("data", "results"), Path("RESULTS.md"), Path("README.md")
PICTURE = FOLDER / "cats.png"
SHOW, SHOWN = "<!-- picture: written by `make results` -->", "<!-- end of picture -->"
BEGIN, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"
_PLAIN = str.maketrans(" /", "--")
KINDS = ("model", "bench", "bound", "rivals", "forecast", "audit", "speed", "device", "times")
TARGETS = {  # (method, paradigm): forgetting rate at least; retain drop, sibling class, worst cell at most
    ("gated", "global"): (0.99, 0.0, None, 1),
    ("gated", "selective"): (0.99, 0.0, 1.5, 2),
    ("gated", "complete"): (0.97, 1.0, None, 5),
    ("neuron", "selective"): (0.98, 0.2, 2.5, 7),
    ("neuron", "complete"): (0.95, 1.0, None, 6),
    ("oblique", "global"): (0.99, 0.0, None, 2),
    ("oblique", "selective"): (0.95, 0.5, 6, 9),
    ("oblique", "complete"): (0.90, 1.5, None, 9),
}
SHORT = {
    "forgetting_rate": "{:.2f}",
    "retain_drop": "{:+.1f}",
    "worst_cell_drop": "{:+.0f}",
    "collateral": "{:.0f} %",
}
TARGET_COLUMNS = ("forgetting_rate", "retain_drop", "sibling_class_drop", "worst_cell_drop")


CHOICE = """## Which method for which need

1. A class everywhere, in a checkpoint that stock code loads: `oblique`; `nullspace` forgets as much and changes more.
2. A class in one domain, siblings spared: `gated` if a module after the tower is allowed, else `neuron`.
3. A whole domain: `neuron` or `gated`. No matrix does it without sending everything to one answer.
4. Unrelated answers are to stay: `neuron` and `gated` change the fewest; `ridge` the most.
5. An index that cannot be touched: the query side of a linear edit (`edit.queries`).
6. With labelled pictures: LEACE hides a class from probes better, and forgets less (*Rivals*).
7. "The model does not know it": none; a readable class stays (*Audit*). `strength="chance"`: by chance among two names.
8. A probe that finds the class proves little: it finds it in a model that never knew the class, too.
9. Somebody has the weights, or labels and embeddings: none; train without the data.
10. Domains that the model itself confuses (flat and shaded in miniworld): expect losses; the card warns."""


def write(files: Iterable[Path] = (), root: Path = Path()) -> list[Path]:
    """Take over measured `files` into data/results, and write RESULTS.md and the README's table: the paths written.

    root: the clone. Raises ValueError for a file that is none of the kinds above, before anything is written.
    """
    entries = [summary(json.loads(Path(file).read_text(encoding="utf-8")), str(file)) for file in files]
    for folder in (root / FOLDER, root / README):
        if not folder.exists():
            raise ValueError(f"root: {str(folder)!r} does not exist; expected the folder of a clone")
    paths = [
        write_text(
            root / FOLDER / f"{entry['name'].lower().replace(',', '').translate(_PLAIN)}.json",
            json.dumps(entry, indent=1, allow_nan=False) + "\n",
        )
        for entry in entries
    ]
    known = read(root)
    text = (root / README).read_text(encoding="utf-8")
    return [*paths, write_text(root / PAGE, page(known)), write_text(root / README, in_readme(text, known))]


def read(root: Path = Path()) -> list[dict]:
    """The entries of data/results, by kind and name."""
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in (root / FOLDER).glob("*.json")]
    return sorted(entries, key=lambda entry: (KINDS.index(entry["kind"]), entry.get("stored", False), entry["name"]))


def summary(found: dict, source: str) -> dict:
    """What is kept of a measurement: of a sweep, what its requests have in common, with prompts that name no domain."""
    if not isinstance(found, dict) or "name" not in found:
        raise ValueError(f"file: {source!r} holds no measurement; expected what `clipnull bench --json` writes")
    if (kind := one_of("kind", found.get("kind"), KINDS)) != "bench":
        return {key: value for key, value in found.items() if kind != "rivals" or key != "rows"}
    if "summary" not in found:
        raise ValueError(f"file: {source!r} holds no intervals; expected what today's `clipnull bench --json` writes")
    rows, example = [row for row in found["summary"] if row["prompts"] == "free"], example_of(found)
    kept = {key: value for key, value in found.items() if key not in ("rows", "requests")} | {"summary": rows}
    return kept | ({"example": example} if example else {})


def page(known: Sequence[dict]) -> str:
    """RESULTS.md."""
    parts = [
        "# Results",
        "Written by `make results` from the files in `data/results`; a test holds them together. `make bench` and "
        "`make measure` measure anew.",
    ]
    parts += [CHOICE]
    for entry in known:
        parts += PARTS[entry["kind"]](entry)
    benches = sorted((e for e in known if e["kind"] == "bench"), key=lambda e: not e["stored"])
    return "\n\n".join([*parts, *target_part(benches)]) + "\n"


def model_part(entry: dict) -> list[str]:
    lines = ["| what | target | measured |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['target']} | {row['measured']} |" for row in entry["rows"]]
    return [f"## The embedded model, {entry['name']}", entry["note"], "\n".join(lines)]


def bench_part(entry: dict) -> list[str]:
    about = (
        f"{entry['model']} on {entry['pictures']} pictures, {entry['classes']} classes × {entry['domains']} domains. "
        "Every class, every cell that holds pictures and every domain is forgotten alone; prompts that name no domain, "
        "held-out wording; means over requests with 95 % intervals (requests and pictures resampled, "
        "`clipnull.bench.bootstrap`). Drops are in percentage points, negative: a gain. Collateral: percent of "
        "unrelated pictures that get another name among words that no request mentions and no edit was told to keep. "
        "Among two: forgetting where only the forgotten name and one other may be given; .5 is ignorance. "
        "Form: a matrix, one "
        "hidden layer, or a module after the tower. Requests with nothing to lose are left out. The "
        "second table counts pictures, added over the requests."
    )
    said = stored_part(entry) if entry["stored"] else []
    return [f"## Forgetting: {entry['name']}", *said, about, *tables(entry["summary"])]


def tables(rows: Sequence[dict]) -> list[str]:
    """The figures with intervals, forgetting among two names and the form of the edits; the counts of pictures."""
    head = "| paradigm | method | requests | "
    figures = [head + " | ".join(COLUMNS.values()) + " | among two | form |", "|---" * (5 + len(COLUMNS)) + "|"]
    counts = [head + " | ".join(COUNTED) + " |", "|---" * (3 + len(COUNTED)) + "|"]
    for row in rows:
        start = f"| {row['paradigm']} | `{row['method']}` | {row['measured']} of {row['requests']} | "
        pairs = row.get("pair_forgetting")
        more = f" | {'–' if pairs is None else f'{pairs:.2f}'} | {row.get('form') or '–'} |"
        figures.append(start + " | ".join(told(name, row[name], "–") for name in COLUMNS) + more)
        counts.append(start + " | ".join(counted(row, "–")) + " |")
    return ["\n".join(figures), "\n".join(counts)]


def target_part(benches: Sequence[dict]) -> list[str]:
    if not benches:
        return []
    names = " | ".join(entry["name"] for entry in benches)
    lines = [
        f"| forgetting / retain drop / sibling class / worst cell | target | {names} |",
        "|---" * (2 + len(benches)) + "|",
    ]
    for (method, paradigm), target in TARGETS.items():
        cells = []
        for entry in benches:
            row = next(r for r in entry["summary"] if (r["method"], r["paradigm"]) == (method, paradigm))
            values = [row[name][0] for name in TARGET_COLUMNS]
            missed = [
                v is not None and t is not None and (v < t if i == 0 else v > t)
                for i, (v, t) in enumerate(zip(values, target, strict=True))
            ]
            cells.append(" / ".join(f"**{_short(i, v)}**" if missed[i] else _short(i, v) for i, v in enumerate(values)))
        wanted = " / ".join(
            "–" if t is None else f"{'≥' if i == 0 else '≤'} {_short(i, t).lstrip('+')}" for i, t in enumerate(target)
        )
        lines.append(f"| `{method}`, {paradigm} | {wanted} | {' | '.join(cells)} |")
    return [
        "## Targets",
        "What the best method (`gated`), the best hidden layer (`neuron`) and the best matrix (`oblique`) should "
        "reach, set for OpenAI's ViT-B/32 on photographs and drawings, and what they do there and elsewhere; a figure "
        "in bold misses its target. Forgetting in one domain and sparing the next is bounded by how well a model tells "
        "the domains apart (notebooks 05 and 06 draw the trade-off), and the worst cells of miniworld hold 6 to 10 "
        "pictures, so that one picture is up to 17 points.",
        "\n".join(lines),
    ]


def _short(place: int, value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if place == 0 else f"{value:+.1f}"


def speed_part(entry: dict) -> list[str]:
    return [
        "## Speed of the closed form",
        "As `clipnull bench --speed` prints it.",
        f"```\n{index_speed.report(entry)}\n```",
    ]


def device_part(entry: dict) -> list[str]:
    return ["## On a GPU", *filter(None, [entry.get("note")]), f"```\n{device_speed.report(entry)}\n```"]


def times_part(entry: dict) -> list[str]:
    lines = ["| command | seconds |", "|---|---|"]
    lines += [f"| {row['what']} | {row['seconds']} |" for row in entry["rows"]]
    return ["## Times", entry["note"], "\n".join(lines)]


PARTS = {
    "model": model_part,
    "bench": bench_part,
    "bound": bounds.part,
    "rivals": baselines.part,
    "forecast": forecasts.part,
    "audit": audit_part,
    "speed": speed_part,
    "device": device_part,
    "times": times_part,
}
"""The section of each kind."""


def in_readme(text: str, known: Sequence[dict]) -> str:
    """The text of the README with its table of results and its picture's caption written anew between their marks."""
    entry = examples(known)
    for first, last, made in ((BEGIN, END, short_tables(known)), (SHOW, SHOWN, caption(entry) if entry else "")):
        if text.count(first) != 1 or text.count(last) != 1:
            raise ValueError(f"README: expected the marks {first!r} and {last!r}, once each")
        head, rest = text.split(first)
        text = head + first + "\n\n" + made + "\n\n" + last + rest.split(last)[1]
    return text


def short_tables(known: Sequence[dict]) -> str:
    """The tables of the README: each method on the pictures with most of them, and on a real CLIP's embeddings."""
    benches = [entry for entry in known if entry["kind"] == "bench"]
    chosen = [max(some, key=lambda e: e["pictures"]) for stored in (False, True)
              if (some := [entry for entry in benches if entry["stored"] is stored])]  # fmt: skip
    return "\n\n".join(map(short_table, chosen))


def short_table(entry: dict) -> str:
    """Means of a measurement, a row a method."""
    paradigms = list(dict.fromkeys(row["paradigm"] for row in entry["summary"]))
    lines = [
        f"| {entry['name']}: forgetting rate / retain drop / worst cell / collateral | " + " | ".join(paradigms) + " |",
        "|---" * (1 + len(paradigms)) + "|",
    ]
    for method in dict.fromkeys(row["method"] for row in entry["summary"]):
        cells = []
        for paradigm in paradigms:
            row = next(r for r in entry["summary"] if (r["method"], r["paradigm"]) == (method, paradigm))
            told_ = ("–" if row[name][0] is None else form.format(row[name][0]) for name, form in SHORT.items())
            cells.append(" / ".join(told_))
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(root: Path = Path()) -> Path:
    """Draw the picture of the README from the files in data/results."""
    entry = examples(read(root))
    if entry is None:
        raise ValueError("picture: no file in data/results has the example of the picture; expected one of stored cats")
    return draw(entry, root / PICTURE)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="JSON", help="what a measurement has written")
    parser.add_argument("--picture", action="store_true", help="draw the picture of the README anew, too")
    args = parser.parse_args()
    print("written:", *write(args.files), *([picture()] if args.picture else []))
