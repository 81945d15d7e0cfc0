"""Write the pages beside the JSON files in data/results, the tables of RESULTS.md, and the README's table and picture.

`python data/results/write.py [FILE ...]` imports results and rewrites all pages; a test compares pages and JSON. FILE
comes from `clipnull bench --json FILE` (with or without `--baselines`), `data/build/measure.py --json FILE` or another
script in this folder.
"""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import bounds
import device_speed
import forecasts
import forms
import picture
import speed

from clipnull.audits.findings import format_number as number
from clipnull.bench import report, sweep
from clipnull.bench.sweep import COLUMNS, format_figures
from clipnull.errors import one_of
from clipnull.files import markdown, write_text

FOLDER, PAGE, README = Path("data", "results"), Path("RESULTS.md"), Path("README.md")
BEST = ("oblique", "neuron", "gated")
FIGURES = ("forgetting_rate", "retain_drop", "sibling_class_drop", "worst_cell_drop", "collateral")
SHORT = ("{:.3f}", "{:+.1f}", "{:+.1f}", "{:+.1f}")
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
FINE_TUNED = (
    "Accuracy on forgotten / kept pictures, in percent, after fine-tuning on kept pictures (`--slow`; batches of 32 "
    "from the train split, with the forgotten names among the candidates)."
)
BENCH = (
    "[RESULTS.md](../../RESULTS.md) defines the figures. Pairwise is the forgetting rate with only the forgotten name "
    "and one other as candidates; .5 is ignorance. The form of an edit is a matrix, one hidden layer, or a module "
    "after the tower. The second table counts pictures, summed over requests."
)


def write(files: Iterable[Path] = (), root: Path = Path()) -> list[Path]:
    """Import result `files` into data/results of the clone `root`, rewrite all pages, and return the paths written."""
    entries = [summary(json.loads(Path(file).read_text(encoding="utf-8")), str(file)) for file in files]
    paths = []
    for entry in entries:
        text = json.dumps(entry, indent=1, allow_nan=False) + "\n"
        paths.append(write_text(root / FOLDER / f"{stem(entry)}.json", text))
    entries = read(root)
    paths += [write_text(root / FOLDER / f"{stem(entry)}.md", page(entry)) for entry in entries]
    for path, update in ((root / PAGE, in_results), (root / README, in_readme)):
        paths.append(write_text(path, update(path.read_text(encoding="utf-8"), entries)))
    return [*paths, picture.write(root)]


def stem(entry: dict) -> str:
    """Return the file name of an entry without its extension."""
    return entry["name"].lower().replace(",", "").translate(str.maketrans(" /", "--"))


def read(root: Path = Path()) -> list[dict]:
    """Load the entries of data/results, sorted by kind and name."""
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in (root / FOLDER).glob("*.json")]
    return sorted(entries, key=lambda e: (list(SECTIONS).index(e["kind"]), e.get("stored", False), e["name"]))


def summary(measured: dict, source: str) -> dict:
    """Drop the fields that pages do not need; a sweep keeps its means with prompts that name no domain."""
    if not isinstance(measured, dict) or "name" not in measured:
        raise ValueError(f"file: {source!r} holds no measurement; expected JSON such as `clipnull bench --json` writes")
    kind = one_of("kind", measured.get("kind"), list(SECTIONS))
    dropped = {"bench": ("rows", "requests"), "rivals": ("rows",)}.get(kind, ())
    entry = {key: value for key, value in measured.items() if key not in dropped}
    if kind == "bench":
        entry["summary"] = [row for row in entry["summary"] if row["prompts"] == "free"]
    return entry


def in_results(text: str, entries: Sequence[dict]) -> str:
    """Return RESULTS.md with new tables: the best methods, targets, and links to all pages."""
    benches = sorted((entry for entry in entries if entry["kind"] == "bench"), key=lambda entry: not entry["stored"])
    pages = "\n".join(f"- [{title(entry)}](data/results/{stem(entry)}.md)" for entry in entries)
    return fill(text, best="\n\n".join(map(best, benches)), targets=targets(benches), pages=pages)


def in_readme(text: str, entries: Sequence[dict]) -> str:
    """Return the README with a new picture and table, from the largest data set (of a real CLIP, if there is one)."""
    table, benches = "", [entry for entry in entries if entry["kind"] == "bench"]
    if benches:
        entry = max(benches, key=lambda entry: (entry["stored"], entry["pictures"]))
        rows, (_, *paradigms) = report.grid(entry["summary"])
        table = markdown(rows, [entry["name"], *paradigms])
    return fill(text, results=table, picture=picture.caption())


def fill(text: str, **parts: str) -> str:
    """Replace the text between the marks of each of `parts`."""
    for name, new in parts.items():
        first, last = f"<!-- {name}: written by `make results` -->", f"<!-- end of {name} -->"
        if text.count(first) != 1 or text.count(last) != 1:
            raise ValueError(f"README, RESULTS: expected the marks {first!r} and {last!r} exactly once")
        before, rest = text.split(first)
        text = f"{before}{first}\n\n{new}\n\n{last}{rest.split(last)[1]}"
    return text


def title(entry: dict) -> str:
    titles = {"bench": "forgetting, {name}", "model": "the embedded model, {name}"}
    titles |= {"speed": "speed of the closed form", "device": "on a GPU"}
    text = titles.get(entry["kind"], "{name}").format(**entry)
    return text[0].upper() + text[1:]


def shape(entry: dict) -> str:
    return f"{entry['model']}, {entry['pictures']} pictures, {entry['classes']} classes × {entry['domains']} domains"


def best(entry: dict) -> str:
    """Return a caption and a table of the three best methods on one data set, with intervals."""
    best_rows = [row for row in entry["summary"] if row["method"] in BEST]
    rows = [[row["paradigm"], f"`{row['method']}`", *format_figures(row, FIGURES)] for row in best_rows]
    caption = f"**{entry['name']}**: {shape(entry)} ([all methods and counts](data/results/{stem(entry)}.md))."
    return f"{caption}\n\n{markdown(rows, ['paradigm', 'method', *(COLUMNS[name] for name in FIGURES)])}"


def targets(benches: Sequence[dict]) -> str:
    """Return a table of the targets and the figures on each data set, with misses in bold."""
    rows = []
    for (method, paradigm), target in TARGETS.items():
        texts = ["–" if x is None else figure.format(x).lstrip("+") for figure, x in zip(SHORT, target, strict=True)]
        signed = [text if text == "–" else f"≤ {text}" for text in texts[1:]]
        rows.append([f"`{method}`, {paradigm}", " / ".join([f"≥ {texts[0]}", *signed])])
        for entry in benches:
            row = next(r for r in entry["summary"] if (r["method"], r["paradigm"]) == (method, paradigm))
            cells = []
            for name, form, limit in zip(FIGURES, SHORT, target, strict=False):
                value, sign = row[name][0], -1 if name == "forgetting_rate" else 1
                missed = None not in (value, limit) and sign * value > sign * limit
                cells.append("–" if value is None else bold(form.format(value), missed))
            rows[-1].append(" / ".join(cells))
    columns = ["forgetting / retain drop / sibling class / worst cell", "target", *(entry["name"] for entry in benches)]
    return markdown(rows, columns)


def bold(text: str, condition: bool) -> str:
    return f"**{text}**" if condition else text


def page(entry: dict) -> str:
    """Return the page beside the JSON file of an entry."""
    return f"# {title(entry)}\n\n" + "\n\n".join(filter(None, SECTIONS[entry["kind"]](entry))) + "\n"


def rows_section(entry: dict) -> list[str]:
    """Return a note, and a table of `rows` whose keys are the column titles."""
    return [entry["note"], markdown([row.values() for row in entry["rows"]], [*entry["rows"][0]])]


def bench_section(entry: dict) -> list[str]:
    """Return the tables of a sweep: figures with intervals, and counts of pictures."""
    sections = [f"{shape(entry)}. {BENCH}", *sweep.tables(entry["summary"])]
    if entry["stored"]:
        weights = f"{entry['model']}, {entry['pretrained']}" if entry["pretrained"] else entry["model"]
        inputs = "texts and one synthesized picture per cell" if entry["prototypes"] else "texts alone"
        inputs += f" ({entry['note']})" if entry["note"] else ""
        sections.append(
            f"Stored embeddings of {weights}; the vectors are not in this repository. Edits are made from {inputs}."
        )
    return sections


def audit_section(entry: dict) -> list[str]:
    """Return a table of audits of one request, with a row per question and a column per method; then fine-tuning."""
    audits, questions = entry["audits"], {}
    for i, audit in enumerate(audits):
        for f in audit["findings"]:
            questions.setdefault((f["check"], f["asked"]), [None] * len(audits))[i] = f
    rows = []
    for row in sorted(questions.values(), key=lambda row: -max(map(times_beyond, row))):
        f = next(filter(None, row))
        answers = ["–" if x is None else bold(number(x["edited"]), x["within"] is False) for x in row]
        limit = "–" if f["limit"] is None else f"{number(f['limit'])} {f['judged']}"
        question = f"{f['check']}: {f['asked']}" + (f" ({f['unit']})" if f["unit"] else "")
        rows.append([question, number(f["unedited"]), number(f["clean"]), *answers, limit])
    first = audits[0]
    methods = [f"`{' + '.join(a['methods'])}`" + (f" at {a['aim']}" if a.get("aim") else "") for a in audits]
    caption = (
        f"`clipnull audit` of {first['model']} on {first['pictures']} pictures, {first['forgotten']} to be forgotten. "
        f"Clean: {first['clean'] or 'none'}, retrained without the class. **Bold**: beyond the limit. Worst first."
    )
    sections = [caption, markdown(rows, ["question", "unedited", "clean", *methods, "limit"])]
    tuned, steps = {}, []
    for method, audit in zip(methods, audits, strict=True):
        for details in (f["details"] for f in audit["findings"] if "of what was lost" in f["details"]):
            steps = details["steps"]
            for model in (key.removeprefix("forgotten, ") for key in details if key.startswith("forgotten, ")):
                pairs = zip(details[f"forgotten, {model}"], details[f"kept, {model}"], strict=True)
                tuned[method if model == "edited" else model] = [f"{f:.0f} / {k:.0f}" for f, k in pairs]
    if tuned:
        sections += [FINE_TUNED, markdown([[name, *cells] for name, cells in tuned.items()], ["after steps", *steps])]
    return [*sections, f"Left out: {'; '.join(first['left_out'])}." if first.get("left_out") else ""]


def times_beyond(f: dict | None) -> float:
    return f["excess"] / f["limit"] if f and f["limit"] else -math.inf


SECTIONS = {
    "model": rows_section,
    "bench": bench_section,
    "bound": bounds.section,
    "rivals": report.section,
    "forecast": forecasts.section,
    "audit": audit_section,
    "forms": forms.section,
    "speed": speed.section,
    "device": device_speed.section,
    "times": rows_section,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="JSON", help="a result to import")
    print("written:", *write(parser.parse_args().files))
