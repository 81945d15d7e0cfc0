"""Measure methods and baselines in one call, and format the tables as plain text or Markdown."""

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
"""An entrant can only win on cost if it forgets at least this share of what the best one forgets."""
SHORT = {"forgetting_rate": "{:.2f}", "retain_drop": "{:+.1f}", "worst_cell_drop": "{:+.0f}", "collateral": "{:.0f} %"}
ABOUT = (
    "{model} on {pictures} pictures, {classes} classes × {domains} domains, with {labelled} labelled pictures of a "
    "train split for the baselines that need them. The baselines (cited in `clipnull.bench.baselines`) are short "
    "sketches of an idea, not their authors' code; the trained ones only change the last layer. Those that draw "
    "random numbers run with {seeds} seeds; we report means over seeds, with intervals that span the intervals of all "
    "seeds. Seconds are CPU time for one edit after all pictures are embedded; kB is the size of the edit. **Bold** "
    f"marks the best of a paradigm, for costs only among those that forget at least {NEARLY:.0%} as much as the best. "
    "`clean` was retrained without the forgotten class or domain and does not compete."
)
IN_AN_INDEX = (
    "In an index: the mean length of a kept picture's vector, 1 before the edit; and recall@5, the percentage of kept "
    "captions (texts of (class, domain) cells) that find one of their pictures among the first 5 of all."
)
WHOLE_DOMAINS = (
    "Whole domains as ADU (arXiv 2510.08132) reports them, in percent: accuracy on kept domains (Mem), 100 minus "
    "accuracy on the forgotten domain (For), and their harmonic mean (H). Means over cells and requests."
)
CLASS_AFTER_CLASS = (
    "Class after class, everywhere: means over random orders, with the lowest and highest in brackets. A method breaks "
    f"if it forgets less than {sequences.LEAST:g} or loses more than {sequences.MOST:g} points beyond the name filter."
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
    """Measure every request, the sequences and an audit, ready for JSON. name: title of the pictures."""
    if labelled is not None and (shared := {*map(Path.resolve, labelled.files)} & {*map(Path.resolve, images.files)}):
        raise ValueError(f"labelled: {len(shared)} of its pictures are measured, too; expected a separate train split")
    data, on = gather(clip, images.vocabulary, labelled, seeds), evaluation_set(clip, images)
    images, requests, reasons = on.images, every_request(on.images, paradigms), left_out(data, on)
    entrants = comparison.able(entrants, reasons)
    rows = comparison.run(on, data, entrants, paradigms, seeds)
    chain = [name for name in entrants if name not in sequences.NO_PICTURES] if "global" in paradigms else []
    covered = [request for request in requests if str(request) in on.retrained]
    covered_rows = [row for row in rows if Forget(row["classes"], row["domains"]) in covered]
    return header("rivals", f"baselines, {name}", clip, images) | {
        "labelled": 0 if labelled is None else len(labelled),
        "seeds": seeds,
        "left_out": reasons,
        "covered": {"requests": sorted(map(str, covered)), "summary": summary(covered_rows, images, covered)},
        "summary": summary(rows, images, requests),
        "audit": audited(clip, data, entrants, on),
        "sequences": sequences.curves(sequences.sequence(on, data, chain)) if chain else [],
        "rows": without_bits(rows),
    }


def audited(clip: Clip, data: TrainingData, entrants: Sequence[str], on: EvaluationSet) -> dict[str, Any] | None:
    """Audit every entrant that edits pictures on one class everywhere, and return its three worst findings.

    The class is one with a retrained model, or else the first with enough pictures; return None without such a class.
    `worst` holds, by name, the number of findings `beyond` their limit, the number `judged`, and the findings.
    """
    counts = on.images.counts().sum(1).tolist()
    requests = [Forget([c]) for c, n in zip(on.images.vocabulary.classes, counts, strict=True) if n >= MIN_PICTURES]
    if not requests:
        return None
    request = next((r for r in requests if str(r) in on.retrained), requests[0])
    edited = {}
    for name in entrants:
        edit = None if ALL[name].texts else edit_of(name, data, request.mask(on.images.vocabulary))
        with contextlib.suppress(ValueError):  # rotations do not fit into a model, and some towers take no bias
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
    """Return the best entrants for each (paradigm, figure), compared as displayed.

    Costs are compared among those that forget NEARLY as much as the best. `clean` answers few requests and is left out.
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
    """Return the paragraphs and tables of a page in Markdown."""
    stored = " Only embeddings are stored, so no baseline gets synthesized pictures." if entry["stored"] else ""
    return [ABOUT.format(**entry | {"labelled": entry["labelled"] or "no"}) + stored, tables(entry)]


def tables(entry: dict, table: Callable[[Sequence, Sequence[str]], str] = markdown) -> str:
    """Format the tables of `to_json` and the entrants left out. table: `files.markdown` or `files.aligned`."""
    blocks = [f"{caption}\n\n{table(rows, columns)}" for caption, rows, columns in _tables(entry)]
    if entry["left_out"]:
        blocks.append(f"Left out: {'; '.join(f'{name} ({why})' for name, why in entry['left_out'].items())}.")
    return "\n\n".join(blocks)


def _tables(entry: dict) -> Iterator[tuple[str, list[list[str]], list[str]]]:
    """Yield the caption, rows and columns of each table."""
    best, covered = winners(entry["summary"]), entry["covered"]
    measured = [row for row in entry["summary"] if row["forgetting_rate"][0] is not None]
    columns = ["paradigm", "method", "requests", "pictures", "trains", "seconds", "kB", *COLUMNS.values()]
    yield "Every request alone, means with 95 % intervals:", [_cells(row, best) for row in measured], columns
    if covered["summary"]:
        names = "; ".join(covered["requests"])
        caption = f"Only requests with a retrained model ({names}): forgetting rate / retain drop / worst cell."
        yield caption, *grid(covered["summary"], list(SHORT)[:3])
    indexed = [row for row in measured if row["length"] is not None]
    forms = dict.fromkeys(INDEX, ".1f") | {"length": ".3f"}
    rows = [[row["paradigm"], row["method"], *(f"{row[x]:{forms[x]}}" for x in INDEX)] for row in indexed]
    yield IN_AN_INDEX, rows, ["paradigm", "method", *INDEX.values()]
    if scored := sorted((row for row in entry["summary"] if row["adu"]), key=lambda row: -row["adu"]["after"]["H"][0]):
        complete = [("unedited", row["adu"]["before"]) for row in scored if row["measured"] == row["requests"]]
        lines = complete[:1] + [(row["method"], row["adu"]["after"]) for row in scored]
        rows = [[name, *("{:.1f} [{:.1f}, {:.1f}]".format(*x[n]) for n in ADU)] for name, x in lines]
        yield WHOLE_DOMAINS, rows, ["whole domains", *ADU]
    if audit := entry["audit"]:
        caption = (
            f"Audit (`clipnull.audits`) of {audit['request']}: findings beyond their limit, fewest first, and the "
            f"worst three as multiples of their limit. Retrained model: {audit['clean'] or 'none'}."
        )
        fewest = sorted(audit["worst"].items(), key=lambda pair: pair[1]["beyond"] / max(1, pair[1]["judged"]))
        rows = [[name, f"{x['beyond']} of {x['judged']}", *map(_finding, x["findings"])] for name, x in fewest]
        yield caption, rows, ["method", "beyond", "worst", "second", "third"]
    if entry["sequences"]:
        yield CLASS_AFTER_CLASS, *sequences.table(entry["sequences"])


def _cells(row: dict, best: dict[tuple[str, str], set[str]]) -> list[str]:
    """Return the requirements and costs of an entrant, then its figures, the best in bold."""
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
    """Return rows and columns of a short table of means, with a row per method and a column per paradigm."""
    cells: dict[str, list[str]] = {}
    for row in entries:
        means = ["–" if row[c][0] is None else SHORT[c].format(row[c][0]) for c in columns]
        cells.setdefault(row["method"], [f"`{row['method']}`"]).append(" / ".join(means))
    return [*cells.values()], ["method", *dict.fromkeys(row["paradigm"] for row in entries)]
