"""Methods and baselines side by side: all that is measured in one call, and its tables as plain text or Markdown."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..audits import MIN_PICTURES, audit_each
from ..audits.findings import format_number as number
from ..files import markdown
from ..images import Images
from ..models import Clip
from ..vocabulary import Forget
from . import comparison, sequences
from .baselines import TrainingData, gather
from .comparison import ADU, ALL, INDEX, EvaluationSet, edit_of, evaluation_set, left_out, summary
from .sweep import COLUMNS, every_request, format_figures, header, without_bits

NEARLY = 0.9
"""An entrant that forgets less than this share of what the best one does has not won, however little it costs."""
SHORT = {"forgetting_rate": "{:.2f}", "retain_drop": "{:+.1f}", "worst_cell_drop": "{:+.0f}", "collateral": "{:.0f} %"}
ABOUT = (
    "{model} on {pictures} pictures, {classes} classes × {domains} domains; {some} labelled pictures of a train split "
    "for the baselines that need some. The baselines (`clipnull.bench.baselines` cites each) are short sketches of an "
    "idea, not their authors' code; those that train, train the last layer only. What is drawn is drawn with {seeds} "
    "seeds: means over them, and intervals that reach over all of theirs. Seconds of a processor to make one edit, all "
    "pictures embedded before; kB: what has to be carried. **Bold**: the best of a paradigm; of costs, among "
    f"those that forget at least {NEARLY:.0%} as much as the best. `clean`, retrained without what is forgotten, does "
    "not compete."
)
IN_AN_INDEX = (
    "In an index: the mean length of an edited vector of a kept picture, which was 1; and the share of kept "
    "captions (texts of (class, domain) cells) that find a picture of theirs among the first 5 of all, in percent."
)
WHOLE_DOMAINS = (
    "Whole domains in percent, as ADU (arXiv 2510.08132) reports them: accuracy on kept domains, 100 minus that on "
    "the forgotten one, and their harmonic mean; means over cells and requests."
)
CLASS_AFTER_CLASS = (
    "Class after class, everywhere: means over random orders, in brackets the least and the most. The drop is that "
    f"beyond the name filter's. A method breaks where it forgets less than {sequences.LEAST:g} or loses more than "
    f"{sequences.MOST:g} points beyond the filter."
)


def to_json(
    clip: Clip,
    images: Images,
    name: str,
    labelled: Images | None,
    entrants: Sequence[str] | None,
    paradigms: Sequence[str],
    seeds: int,
) -> dict[str, Any]:
    """Measure every request, the sequences and an audit. name: of the pictures."""
    if labelled is not None and (twice := {*map(Path.resolve, labelled.files)} & {*map(Path.resolve, images.files)}):
        raise ValueError(f"labelled: {len(twice)} of its pictures are measured, too; expected others, of a train split")
    data, on = gather(clip, images.vocabulary, labelled, seeds), evaluation_set(clip, images)
    images, requests, reasons = on.images, every_request(on.images, paradigms), left_out(data, on)
    entrants = comparison.able(entrants, reasons)
    rows = comparison.run(on, data, entrants, paradigms, seeds)
    chain = [name for name in entrants if name not in sequences.NO_PICTURES] if "global" in paradigms else []
    covered = [request for request in requests if str(request) in on.retrained]
    under = [row for row in rows if Forget(row["classes"], row["domains"]) in covered]
    return header("rivals", f"baselines, {name}", clip, images) | {
        "labelled": 0 if labelled is None else len(labelled),
        "seeds": seeds,
        "left_out": reasons,
        "covered": {"requests": sorted(map(str, covered)), "summary": summary(under, images, covered)},
        "summary": summary(rows, images, requests),
        "audit": audited(clip, data, entrants, on),
        "sequences": sequences.curves(sequences.sequence(on, data, chain)) if chain else [],
        "rows": without_bits(rows),
    }


def audited(clip: Clip, data: TrainingData, entrants: Sequence[str], on: EvaluationSet) -> dict[str, Any] | None:
    """The worst three findings of `audit_each` of every entrant that edits pictures, for one class everywhere.

    The class is one that a retrained model does without, or else the first with enough pictures; None without any.
    `worst`: by name, the numbers of findings `beyond` their limit and `judged`, and the findings.
    """
    counts = on.images.counts().sum(1).tolist()
    requests = [Forget([c]) for c, n in zip(on.images.vocabulary.classes, counts, strict=True) if n >= MIN_PICTURES]
    if not requests:
        return None
    request = next((one for one in requests if str(one) in on.retrained), requests[0])
    edited = {}
    for name in entrants:
        edit = None if ALL[name].texts else edit_of(name, data, request.mask(on.images.vocabulary))
        with contextlib.suppress(ValueError):  # a rotation, or a bias that a tower does not take
            if edit:
                edited[name] = edit.apply(clip)
    if not edited:
        return None
    audits, worst = audit_each(clip, [*edited.values()], on.images, request), {}
    for name, audit in zip(edited, audits, strict=True):
        three = [{k: v for k, v in f.as_dict().items() if k not in ("details", "within")} for f in audit.judged[:3]]
        worst[name] = {"beyond": len(audit.beyond), "judged": len(audit.judged), "findings": three}
    return {key: audits[0].about[key] for key in ("request", "clean", "pictures", "forgotten")} | {"worst": worst}


def winners(entries: Sequence[dict]) -> dict[tuple[str, str], set[str]]:
    """The best of each paradigm and figure, as shown: at forgetting, or at a cost among those that forget NEARLY all.

    `clean` does not compete, because it answers few requests.
    """
    means = pd.DataFrame([row | {column: row[column][0] for column in COLUMNS} for row in entries])
    means, best = means[means.method != "clean"].astype(dict.fromkeys(COLUMNS, float)), {}
    for paradigm, group in means.groupby("paradigm"):
        able = group[group.forgetting_rate.fillna(0) >= NEARLY * group.forgetting_rate.max()]
        for column in COLUMNS:
            scores = -able[column].round(3) if column == "forgetting_rate" else able[column].round(1)
            best[paradigm, column] = {*able.method[scores == scores.min()]}
    return best


def section(entry: dict) -> list[str]:
    """Paragraphs and tables of a page in Markdown."""
    stored = " Embeddings are stored: no pictures to synthesize or to fit to." if entry["stored"] else ""
    return [ABOUT.format(**entry, some=entry["labelled"] or "no") + stored, tables(entry)]


def tables(entry: dict, table: Callable[[Sequence, Sequence[str]], str] = markdown) -> str:
    """The tables of `to_json`, and what is left out. table: of `files`."""
    blocks = [f"{caption}\n\n{table(rows, columns)}" for caption, rows, columns in _tables(entry)]
    if entry["left_out"]:
        blocks.append(f"Left out: {'; '.join(f'{name} ({why})' for name, why in entry['left_out'].items())}.")
    return "\n\n".join(blocks)


def _tables(entry: dict) -> Iterator[tuple[str, list[list[str]], list[str]]]:
    """Caption, rows and columns of each table."""
    best, covered = winners(entry["summary"]), entry["covered"]
    measured = [row for row in entry["summary"] if row["forgetting_rate"][0] is not None]
    columns = ["paradigm", "method", "requests", "pictures", "trains", "seconds", "kB", *COLUMNS.values()]
    yield "Every request alone, means with 95 % intervals:", [_cells(row, best) for row in measured], columns
    if covered["summary"]:
        names = "; ".join(covered["requests"])
        caption = f"Only requests with a retrained model ({names}): forgetting rate / retain drop / worst cell."
        yield caption, *grid(covered["summary"], list(SHORT)[:3])
    known = [row for row in measured if row["length"] is not None]
    forms = dict.fromkeys(INDEX, ".1f") | {"length": ".3f"}
    rows = [[row["paradigm"], row["method"], *(f"{row[x]:{forms[x]}}" for x in INDEX)] for row in known]
    yield IN_AN_INDEX, rows, ["paradigm", "method", *INDEX.values()]
    if scored := sorted((row for row in entry["summary"] if row["adu"]), key=lambda row: -row["adu"]["after"]["H"][0]):
        complete = [("unedited", row["adu"]["before"]) for row in scored if row["measured"] == row["requests"]]
        lines = complete[:1] + [(row["method"], row["adu"]["after"]) for row in scored]
        rows = [[name, *("{:.1f} [{:.1f}, {:.1f}]".format(*x[n]) for n in ADU)] for name, x in lines]
        yield WHOLE_DOMAINS, rows, ["whole domains", *ADU]
    if audit := entry["audit"]:
        caption = (
            f"Audit (`clipnull.audits`) of {audit['request']}: findings beyond their limit, fewest first, and the "
            f"worst three, with how many times their limit they are. Retrained model: {audit['clean'] or 'none'}."
        )
        fewest = sorted(audit["worst"].items(), key=lambda pair: pair[1]["beyond"] / max(1, pair[1]["judged"]))
        rows = [[name, f"{x['beyond']} of {x['judged']}", *map(_finding, x["findings"])] for name, x in fewest]
        yield caption, rows, ["method", "beyond", "worst", "second", "third"]
    if entry["sequences"]:
        yield CLASS_AFTER_CLASS, *sequences.table(entry["sequences"])


def _cells(row: dict, best: dict[tuple[str, str], set[str]]) -> list[str]:
    """What an entrant takes, then its figures, the best in bold."""
    entrant, paradigm, name = ALL[row["method"]], row["paradigm"], row["method"]
    takes = [f"{row['measured']} of {row['requests']}", entrant.pictures, "yes" if entrant.trains else "no"]
    takes += ["–" if row["seconds"] is None else f"{row['seconds']:.3f}", f"{row['bytes'] / 1024:.1f}"]
    bold = ["**" * (name in best.get((paradigm, column), ())) for column in COLUMNS]
    return [paradigm, name, *takes, *(b + text + b for b, text in zip(bold, format_figures(row), strict=True))]


def _finding(f: dict) -> str:
    clean = "" if f["clean"] is None else f", clean {number(f['clean'])}"
    edited, times = f"{number(f['edited'])} {f['unit']}".rstrip(), max(0, f["excess"]) / f["limit"]
    return f"{f['check']}: {f['asked']}: {edited}{clean} ({times:.1f} ×)"


def grid(entries: Sequence[dict], columns: Sequence[str] = tuple(SHORT)) -> tuple[list[list[str]], list[str]]:
    """Rows and columns of a short table of a summary: a row a method, a column a paradigm, means alone."""
    cells: dict[str, list[str]] = {}
    for row in entries:
        means = ["–" if row[c][0] is None else SHORT[c].format(row[c][0]) for c in columns]
        cells.setdefault(row["method"], [f"`{row['method']}`"]).append(" / ".join(means))
    return [*cells.values()], ["method", *dict.fromkeys(row["paradigm"] for row in entries)]
