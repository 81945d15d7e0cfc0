"""The pages beside the JSON files in data/results, the tables of RESULTS.md, and table and picture of the README.

`python data/results/write.py [FILE ...]` takes over what `clipnull bench --json FILE`, also with `--baselines`, the
other scripts here and `data/build/measure.py --json FILE` measured, and writes all pages anew; a test compares pages
and JSON.
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
    "Fine-tuning on kept pictures (`--slow`; batches of 32 from the train split, the forgotten names among the "
    "candidates): percent of forgotten / kept pictures named right."
)
BENCH = (
    "[RESULTS.md](../../RESULTS.md) defines the figures. Pairwise: forgetting where only the forgotten name and one "
    "other may be given; .5 is ignorance. Form: a matrix, one hidden layer, or a module after the tower. The second "
    "table counts pictures, added over requests."
)


def write(files: Iterable[Path] = (), root: Path = Path()) -> list[Path]:
    """Take over measured `files` into data/results of the clone `root`, and write all pages anew: the paths written."""
    entries = [summary(json.loads(Path(file).read_text(encoding="utf-8")), str(file)) for file in files]
    paths = []
    for entry in entries:
        text = json.dumps(entry, indent=1, allow_nan=False) + "\n"
        paths.append(write_text(root / FOLDER / f"{stem(entry)}.json", text))
    known = read(root)
    paths += [write_text(root / FOLDER / f"{stem(entry)}.md", page(entry)) for entry in known]
    for path, filled in ((root / PAGE, in_results), (root / README, in_readme)):
        paths.append(write_text(path, filled(path.read_text(encoding="utf-8"), known)))
    return [*paths, picture.write(root)]


def stem(entry: dict) -> str:
    """The name of the files of an entry, without their endings."""
    return entry["name"].lower().replace(",", "").translate(str.maketrans(" /", "--"))


def read(root: Path = Path()) -> list[dict]:
    """The entries of data/results, by kind and name."""
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in (root / FOLDER).glob("*.json")]
    return sorted(entries, key=lambda e: (list(SECTIONS).index(e["kind"]), e.get("stored", False), e["name"]))


def summary(measured: dict, source: str) -> dict:
    """What is kept of a measurement: of a sweep, the means over requests, with prompts that name no domain."""
    if not isinstance(measured, dict) or "name" not in measured:
        raise ValueError(f"file: {source!r} holds no measurement; expected what `clipnull bench --json` writes")
    kind = one_of("kind", measured.get("kind"), list(SECTIONS))
    dropped = {"bench": ("rows", "requests"), "rivals": ("rows",)}.get(kind, ())
    entry = {key: value for key, value in measured.items() if key not in dropped}
    if kind == "bench":
        entry["summary"] = [row for row in entry["summary"] if row["prompts"] == "free"]
    return entry


def in_results(text: str, known: Sequence[dict]) -> str:
    """RESULTS.md with its tables written anew: the best methods, targets, and links to all pages."""
    benches = sorted((entry for entry in known if entry["kind"] == "bench"), key=lambda entry: not entry["stored"])
    pages = "\n".join(f"- [{title(entry)}](data/results/{stem(entry)}.md)" for entry in known)
    return fill(text, best="\n\n".join(map(best, benches)), targets=targets(benches), pages=pages)


def in_readme(text: str, known: Sequence[dict]) -> str:
    """The README with its table, that of the largest data set of a real CLIP if there is one, and its picture anew."""
    table, benches = "", [entry for entry in known if entry["kind"] == "bench"]
    if benches:
        entry = max(benches, key=lambda entry: (entry["stored"], entry["pictures"]))
        rows, (_, *paradigms) = report.grid(entry["summary"])
        table = markdown(rows, [entry["name"], *paradigms])
    return fill(text, results=table, picture=picture.caption())


def fill(text: str, **parts: str) -> str:
    """`text` with other words between the marks of each of `parts`."""
    for name, new in parts.items():
        first, last = f"<!-- {name}: written by `make results` -->", f"<!-- end of {name} -->"
        if text.count(first) != 1 or text.count(last) != 1:
            raise ValueError(f"README, RESULTS: expected the marks {first!r} and {last!r}, once each")
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
    """The three best methods on one data set, with intervals."""
    chosen = [row for row in entry["summary"] if row["method"] in BEST]
    rows = [[row["paradigm"], f"`{row['method']}`", *format_figures(row, FIGURES)] for row in chosen]
    about = f"**{entry['name']}**: {shape(entry)} ([all methods and counts](data/results/{stem(entry)}.md))."
    return f"{about}\n\n{markdown(rows, ['paradigm', 'method', *(COLUMNS[name] for name in FIGURES)])}"


def targets(benches: Sequence[dict]) -> str:
    """What was to be reached, and what is reached where; a miss in bold."""
    rows = []
    for (method, paradigm), target in TARGETS.items():
        texts = ["–" if x is None else figure.format(x).lstrip("+") for figure, x in zip(SHORT, target, strict=True)]
        signed = [text if text == "–" else f"≤ {text}" for text in texts[1:]]
        rows.append([f"`{method}`, {paradigm}", " / ".join([f"≥ {texts[0]}", *signed])])
        for entry in benches:
            row = next(r for r in entry["summary"] if (r["method"], r["paradigm"]) == (method, paradigm))
            cells = []
            for name, form, wanted in zip(FIGURES, SHORT, target, strict=False):
                value, sign = row[name][0], -1 if name == "forgetting_rate" else 1
                missed = None not in (value, wanted) and sign * value > sign * wanted
                cells.append("–" if value is None else bold(form.format(value), missed))
            rows[-1].append(" / ".join(cells))
    columns = ["forgetting / retain drop / sibling class / worst cell", "target", *(entry["name"] for entry in benches)]
    return markdown(rows, columns)


def bold(text: str, of_note: bool) -> str:
    return f"**{text}**" if of_note else text


def page(entry: dict) -> str:
    """The page beside the JSON of an entry."""
    return f"# {title(entry)}\n\n" + "\n\n".join(filter(None, SECTIONS[entry["kind"]](entry))) + "\n"


def rows_section(entry: dict) -> list[str]:
    """A note, and a table of `rows`, whose keys are its titles."""
    return [entry["note"], markdown([row.values() for row in entry["rows"]], [*entry["rows"][0]])]


def bench_section(entry: dict) -> list[str]:
    """The figures with intervals, pairwise forgetting and the form of the edits; counts of pictures."""
    sections = [f"{shape(entry)}. {BENCH}", *sweep.tables(entry["summary"])]
    if entry["stored"]:
        weights = f"{entry['model']}, {entry['pretrained']}" if entry["pretrained"] else entry["model"]
        made = "texts and one synthesized picture a cell" if entry["prototypes"] else "texts alone, without any picture"
        note = f" ({entry['note']})" if entry["note"] else ""
        sections.append(
            f"Stored embeddings of {weights}; the vectors are not in this repository. Edits are made from {made}{note}."
        )
    return sections


def audit_section(entry: dict) -> list[str]:
    """Audits of one request: a row a question, the worst first; a column a method. Then fine-tuning."""
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
    about = (
        f"`clipnull audit` of {first['model']}, {first['pictures']} pictures, {first['forgotten']} to be forgotten; "
        f"clean: {first['clean'] or 'none'}, retrained without the class. **Bold**: beyond the limit. The worst first."
    )
    sections = [about, markdown(rows, ["question", "unedited", "clean", *methods, "limit"])]
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
"""The paragraphs and tables of each kind."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="JSON", help="what a measurement has written")
    print("written:", *write(parser.parse_args().files))
