"""Methods and baselines side by side: all that is measured in one call, and its tables as plain text or Markdown."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..audits import MIN_PICTURES, audit_each
from ..audits.findings import format_number as number
from ..files import aligned, markdown
from ..images import Images
from ..methods import METHODS
from ..models import Clip
from ..vocabulary import Forget
from . import comparison, sequences
from .baselines import TrainingData, gather
from .comparison import ADU, ALL, INDEX, EvaluationSet, edit_of, evaluation_set, left_out, summary
from .sweep import COLUMNS, PARADIGMS, about, every_request, format_ends, without_bits

NEARLY = 0.9
"""An entrant that forgets less than this share of what the best one does has not won, however little it costs."""
SHORT = {"forgetting_rate": "{:.2f}", "retain_drop": "{:+.1f}", "worst_cell_drop": "{:+.0f}", "collateral": "{:.0f} %"}

ABOUT = (
    "{model} on {pictures} pictures, {classes} classes × {domains} domains; {some} labelled pictures of a train split "
    "for the baselines that need some. Our methods, among them the paper's edit as reconstructed (`nullspace`) and "
    "CCUP (`ridge`), and the baselines (`clipnull.bench.baselines` cites each) forget the same requests in one run. A "
    "baseline is a short sketch of its idea, not its authors' code; those that train, train the last layer only. What "
    "is drawn is drawn with {seeds} seeds: means over them, and intervals that reach over all of theirs. Seconds of a "
    "processor to make one edit, from pictures embedded and synthesized; kB: what has to be carried. **Bold**: the "
    f"best of a paradigm; of costs, among those that forget at least {NEARLY:.0%} as much as the best. `clean` is a "
    "model retrained without what is forgotten; it does not compete."
)
STORED = " Embeddings are stored: no pictures to synthesize or to fit to."
CAPTIONS = {
    "requests": "Every request alone, means with 95 % intervals:",
    "covered": "Only requests with a retrained model ({}): forgetting rate / retain drop / worst cell.",
    "index": (
        "In an index: the mean length of an edited vector of a kept picture, which was 1; and the share of kept "
        "captions (texts of (class, domain) cells) that find a picture of theirs among the first 5 of all, in percent."
    ),
    "domains": (
        "Whole domains in percent, as ADU (arXiv 2510.08132) reports them: accuracy on kept domains, 100 minus that on "
        "the forgotten one, and their harmonic mean; means over cells and requests."
    ),
    "audit": (
        "Audit (`clipnull.audits`) of {}: findings beyond their limit, fewest first, and the worst three, with how "
        "many times their limit they are. Retrained model: {}."
    ),
    "sequences": (
        "Class after class, everywhere: means over random orders, in brackets the least and the most. The drop is that "
        f"beyond the name filter's. A method breaks where it forgets less than {sequences.LEAST:g} or loses more than "
        f"{sequences.MOST:g} points beyond the filter."
    ),
}


def to_json(
    clip: Clip,
    images: Images,
    name: str,
    labelled: Images | None = None,
    entrants: Sequence[str] | None = None,
    paradigms: Sequence[str] = PARADIGMS,
    seeds: int = 3,
    orders: int = 4,
) -> dict[str, Any]:
    """Measure every request, the sequences and an audit. name: of the pictures; orders: of `sequence`.

    Raises ValueError if `labelled` holds a picture that is measured, or has other names.
    """
    if labelled is not None and (twice := {*map(Path.resolve, labelled.files)} & {*map(Path.resolve, images.files)}):
        raise ValueError(f"labelled: {len(twice)} of its pictures are measured, too; expected others, of a train split")
    data, on = gather(clip, images.vocabulary, labelled, seeds), evaluation_set(clip, images)
    images = on.images
    rows, requests = comparison.run(on, data, entrants, paradigms, seeds), every_request(images, paradigms)
    entrants = list(dict.fromkeys(row["method"] for row in rows))
    chain = [name for name in entrants if name not in sequences.NO_PICTURES] if "global" in paradigms else []
    points = sequences.curves(sequences.sequence(on, data, chain, orders=orders)) if chain else []
    covered = [request for request in requests if str(request) in on.retrained]
    under = [row for row in rows if Forget(row["classes"], row["domains"]) in covered]
    return about("rivals", f"baselines, {name}", clip, images) | {
        "labelled": 0 if labelled is None else len(labelled),
        "seeds": seeds,
        "left_out": left_out(data, on),
        "covered": {"requests": sorted(map(str, covered)), "summary": summary(under, images, covered)},
        "summary": summary(rows, images, requests),
        "audit": audited(clip, images, data, entrants, on),
        "sequences": points,
        "rows": without_bits(rows),
    }


def audited(
    clip: Clip, images: Images, data: TrainingData, entrants: Sequence[str], on: EvaluationSet
) -> dict[str, Any] | None:
    """The worst three findings of `audit_each` of every entrant that edits pictures, for one class everywhere.

    The class is one that a retrained model does without, or else the first with enough pictures; None without any.
    Seed 0 of what is drawn. `worst`: by name, the numbers of findings `beyond` their limit and `judged`, and the
    findings; `left_out`: why an entrant is not audited.
    """
    counts = images.counts().sum(1).tolist()
    requests = [Forget([c]) for c, n in zip(images.vocabulary.classes, counts, strict=True) if n >= MIN_PICTURES]
    if not requests:
        return None
    request = next((one for one in requests if str(one) in on.retrained), requests[0])
    edited, reasons = {}, {}
    for name in entrants:
        edit = None if ALL[name].texts else edit_of(name, data, request.mask(images.vocabulary))
        if edit is None:
            reasons[name] = "edits no pictures"
            continue
        try:
            edited[name] = edit.apply(clip)
        except ValueError as error:  # a tower that takes no bias
            reasons[name] = str(error)
    reports, worst = audit_each(clip, list(edited.values()), images, request), {}
    for name, audit in zip(edited, reports, strict=True):
        three = [f.as_dict() for f in audit.worst]
        three = [{key: value for key, value in f.items() if key not in ("details", "within")} for f in three]
        worst[name] = {"beyond": len(audit.beyond), "judged": len(audit.judged), "findings": three}
    if not reports:
        return None
    about_it = {key: reports[0].about[key] for key in ("request", "clean", "pictures", "forgotten")}
    return about_it | {"worst": worst, "left_out": reasons}


def winners(entries: Sequence[dict]) -> dict[tuple[str, str], set[str]]:
    """The best of each paradigm and figure, as shown: at forgetting, or at a cost among those that forget NEARLY all.

    `clean` does not compete, because it answers few requests.
    """
    best: dict[tuple[str, str], set[str]] = {}
    competing = [row for row in entries if row["method"] != "clean" and row["forgetting_rate"][0] is not None]
    for paradigm in dict.fromkeys(row["paradigm"] for row in entries):
        rows = [row for row in competing if row["paradigm"] == paradigm]
        most = max((row["forgetting_rate"][0] for row in rows), default=0)
        for column in COLUMNS:
            sign, digits = (-1, 3) if column == "forgetting_rate" else (1, 1)
            able = [r for r in rows if r["forgetting_rate"][0] >= NEARLY * most and r[column][0] is not None]
            scores = {row["method"]: round(sign * row[column][0], digits) for row in able}
            best[paradigm, column] = {name for name, score in scores.items() if score == min(scores.values())}
    return best


def wins(entries: Sequence[dict]) -> str:
    """Where baselines are best, in words."""
    places = []
    for (paradigm, column), best in winners(entries).items():
        if baselines := sorted(best - set(METHODS)):
            places.append(f"{paradigm}, {COLUMNS[column]}: {', '.join(baselines)}")
    return "; ".join(places) or "nowhere"


def text(entry: dict) -> str:
    """The tables of `to_json` for a terminal."""
    return _joined(entry, aligned)


def section(entry: dict) -> list[str]:
    """Paragraphs and tables of a page in Markdown."""
    return [ABOUT.format(**entry, some=entry["labelled"] or "no") + STORED * entry["stored"], _joined(entry, markdown)]


def _joined(entry: dict, table: Callable[[Sequence, Sequence[str]], str]) -> str:
    blocks = [f"{caption}\n\n{table(rows, columns)}" for caption, rows, columns in _tables(entry)]
    blocks.append(f"Where baselines are best: {wins(entry['summary'])}.")
    reasons = [f"{name} ({reason})" for name, reason in entry["left_out"].items()]
    return "\n\n".join([*blocks, *([f"Left out: {'; '.join(reasons)}."] if reasons else [])])


def _tables(entry: dict) -> Iterator[tuple[str, list[list[str]], list[str]]]:
    """Caption, rows and columns of each table."""
    best, covered = winners(entry["summary"]), entry["covered"]
    columns = ["paradigm", "method", "requests", "pictures", "trains", "seconds", "kB", *COLUMNS.values()]
    measured = [row for row in entry["summary"] if row["forgetting_rate"][0] is not None]
    yield CAPTIONS["requests"], [_cells(row, best) for row in measured], columns
    if covered["summary"]:
        caption = CAPTIONS["covered"].format("; ".join(covered["requests"]))
        yield caption, *grid(covered["summary"], list(SHORT)[:3])
    if indexed := [row for row in measured if row.get("length") is not None]:
        yield CAPTIONS["index"], [_index(row) for row in indexed], ["paradigm", "method", *INDEX.values()]
    if domains := _domains(entry["summary"]):
        rows = [[name, *("{:.1f} [{:.1f}, {:.1f}]".format(*x[n]) for n in ADU)] for name, x in domains.items()]
        yield CAPTIONS["domains"], rows, ["whole domains", *ADU]
    if audit := entry.get("audit"):
        caption = CAPTIONS["audit"].format(audit["request"], audit["clean"] or "none")
        yield caption, _worst(audit), ["method", "beyond", "worst", "second", "third"]
    if entry["sequences"]:
        yield CAPTIONS["sequences"], *sequences.table(entry["sequences"])


def _cells(row: dict, best: dict[tuple[str, str], set[str]]) -> list[str]:
    """What an entrant takes, then its figures."""
    entrant, name = ALL[row["method"]], row["method"]
    seconds = "–" if row["seconds"] is None else f"{row['seconds']:.3f}"
    size = "–" if row["bytes"] is None else f"{row['bytes'] / 1024:.1f}"
    takes = [f"{row['measured']} of {row['requests']}", entrant.pictures, "yes" if entrant.trains else "no"]
    figures = [
        f"{bold}{format_ends(column, row[column])}{bold}"
        for column in COLUMNS
        for bold in ["**" * (name in best[row["paradigm"], column])]
    ]
    return [row["paradigm"], name, *takes, seconds, size, *figures]


def _index(row: dict) -> list[str]:
    recalls = [f"{row[name]:.1f}" for name in INDEX if name != "length"]
    return [row["paradigm"], row["method"], f"{row['length']:.3f}", *recalls]


def grid(entries: Sequence[dict], columns: Sequence[str] = tuple(SHORT)) -> tuple[list[list[str]], list[str]]:
    """Rows and columns of a short table of a summary: a row a method, a column a paradigm, means alone."""
    by = {(row["method"], row["paradigm"]): row for row in entries}
    methods, paradigms = (list(dict.fromkeys(row[key] for row in entries)) for key in ("method", "paradigm"))
    rows = [[f"`{name}`", *(_short(by[name, paradigm], columns) for paradigm in paradigms)] for name in methods]
    return rows, ["method", *paradigms]


def _short(row: dict, columns: Sequence[str]) -> str:
    return " / ".join("–" if row[c][0] is None else SHORT[c].format(row[c][0]) for c in columns)


def _domains(entries: Sequence[dict]) -> dict[str, dict]:
    """Mem, For and H of the unedited model and of each entrant that answers whole domains, best H first."""
    rows = sorted((row for row in entries if row["adu"]), key=lambda row: -row["adu"]["after"]["H"][0])
    complete = [row for row in rows if row["measured"] == row["requests"]]
    unedited = {"unedited": complete[0]["adu"]["before"]} if complete else {}
    return unedited | {row["method"]: row["adu"]["after"] for row in rows}


def _worst(audit: dict) -> list[list[str]]:
    """Of each entrant how many findings are beyond their limit, then the worst three; fewest beyond first."""
    rows = []
    for name, one in sorted(audit["worst"].items(), key=lambda pair: pair[1]["beyond"] / max(1, pair[1]["judged"])):
        rows.append([name, f"{one['beyond']} of {one['judged']}"])
        for f in one["findings"]:
            clean = "" if f["clean"] is None else f", clean {number(f['clean'])}"
            edited, times = f"{number(f['edited'])} {f['unit']}".rstrip(), max(0, f["excess"]) / f["limit"]
            rows[-1].append(f"{f['check']}: {f['asked']}: {edited}{clean} ({times:.1f} ×)")
    return rows
