"""How methods and rivals stand: all that is measured in one call, and its tables as text and for RESULTS.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..audits import MIN_PICTURES, audit_each
from ..audits.findings import format_number as number
from ..images import Images
from ..methods import METHODS
from ..models import Clip
from ..vocabulary import Forget
from . import comparison
from .baselines import Material, gather
from .comparison import ADU, ALL, Field, edit_of, field, left_out, summary
from .sequences import LEAST, MOST, NO_PICTURES, WAYS, breaks, curves, sequence, table
from .sweep import COLUMNS, PARADIGMS, every_request, told

NEARLY = 0.9
"""Who forgets less than this share of what the best does has not won, however little it hurts."""
FIGURES = ("pictures", "trains", "seconds", "bytes", *COLUMNS.values())


def document(
    clip: Clip,
    images: Images,
    name: str,
    labelled: Images | None = None,
    entrants: Sequence[str] | None = None,
    paradigms: Sequence[str] = PARADIGMS,
    seeds: int = 3,
    orders: int = 4,
) -> dict[str, Any]:
    """Every request and the sequences in one call, ready for JSON. name: of the pictures; orders: of `sequence`.

    Raises ValueError if `labelled` holds a picture that is measured, or has other names.
    """
    if labelled is not None and (twice := {*map(Path.resolve, labelled.files)} & {*map(Path.resolve, images.files)}):
        raise ValueError(f"labelled: {len(twice)} of its pictures are measured, too; expected others, of a train split")
    material, on = gather(clip, images.vocabulary, labelled, seeds), field(clip, images)
    rows, asked = comparison.run(on, material, entrants, paradigms, seeds), every_request(images, paradigms)
    taking = list(dict.fromkeys(row["method"] for row in rows))
    chain = [name for name in taking if name not in NO_PICTURES] if "global" in paradigms else []
    covered = [request for request in asked if str(request) in on.clean]
    texts = {str(request) for request in covered}
    under = [row for row in rows if str(Forget(row["classes"], row["domains"])) in texts]
    return {
        "kind": "rivals",
        "name": f"rivals, {name}",
        "model": clip.name,
        "pretrained": clip.pretrained,
        "stored": not clip.encoder,
        "pictures": len(images),
        "labelled": 0 if labelled is None else len(labelled),
        **dict(zip(("classes", "domains"), images.vocabulary.shape, strict=True)),
        "seeds": seeds,
        "left_out": left_out(material, on),
        "covered": {"requests": sorted(texts), "summary": summary(under, images, covered) if under else []},
        "summary": summary(rows, images, asked),
        "audit": audited(clip, images, material, taking, on),
        "sequences": curves(sequence(on, material, chain, orders=orders)) if chain else [],
        "rows": [{key: value for key, value in row.items() if key != "bits"} for row in rows],
    }


def audited(
    clip: Clip, images: Images, material: Material, entrants: Sequence[str], on: Field
) -> dict[str, Any] | None:
    """The worst three findings of `audit_each` of every entrant that edits pictures, for one class everywhere.

    The class is one that a clean model does without, or else the first with enough pictures; None without any. Seed 0
    of what is drawn. `worst`: by name, `beyond` and `judged`, numbers of findings, and the findings; `left_out`: why
    one is not asked.
    """
    counts = images.counts().sum(1).tolist()
    asked = [Forget([c]) for c, n in zip(images.vocabulary.classes, counts, strict=True) if n >= MIN_PICTURES]
    if not asked:
        return None
    request = next((one for one in asked if str(one) in on.clean), asked[0])
    edits, out = {}, {}
    for name in entrants:
        edit = None if ALL[name].texts else edit_of(name, material, request.mask(images.vocabulary))
        try:
            edits |= {} if edit is None else {name: edit.apply(clip)}
        except ValueError as error:  # a tower that takes no bias
            out[name] = str(error)
        if edit is None:
            out[name] = "edits no pictures"
    reports = audit_each(clip, list(edits.values()), images, request)
    worst = {}
    for name, report in zip(edits, reports, strict=True):
        judged = [f for f in report.findings if f.within is not None]
        three = [
            {key: value for key, value in f.as_dict().items() if key not in ("details", "within")} for f in report.worst
        ]
        worst[name] = {"beyond": sum(not f.within for f in judged), "judged": len(judged), "findings": three}
    about = {key: reports[0].about[key] for key in ("request", "clean", "pictures", "forgotten")}
    return about | {"worst": worst, "left_out": out}


def winners(found: Sequence[dict]) -> dict[tuple[str, str], set[str]]:
    """Who is best in each paradigm and figure, as told: at forgetting, or at a cost among those that forget NEARLY all.

    `clean` is out of competition: it answers few requests.
    """
    best: dict[tuple[str, str], set[str]] = {}
    for paradigm in dict.fromkeys(row["paradigm"] for row in found):
        mine = [row for row in found if row["paradigm"] == paradigm and row["method"] != "clean"]
        mine = [row for row in mine if row["forgetting_rate"][0] is not None]
        most = max((row["forgetting_rate"][0] for row in mine), default=0)
        for column in COLUMNS:
            sign, digits = (-1, 3) if column == "forgetting_rate" else (1, 1)
            able = [r for r in mine if r["forgetting_rate"][0] >= NEARLY * most and r[column][0] is not None]
            scores = {row["method"]: round(sign * row[column][0], digits) for row in able}
            best[paradigm, column] = {name for name, score in scores.items() if score == min(scores.values())}
    return best


def wins(found: Sequence[dict]) -> str:
    """Where rivals are best, in words."""
    said = []
    for (paradigm, column), names in winners(found).items():
        rivals = sorted(names - set(METHODS))
        said += [f"{paradigm}, {COLUMNS[column]}: {', '.join(rivals)}"] if rivals else []
    return "; ".join(said) or "nowhere"


def _cells(row: dict, best: dict[tuple[str, str], set[str]], bold: str, none: str) -> list[str]:
    """What an entrant takes, then its figures."""
    rival, size = ALL[row["method"]], row["bytes"]
    takes = [
        rival.pictures,
        "yes" if rival.trains else "no",
        none if row["seconds"] is None else f"{row['seconds']:.3f}",
    ]
    figures = [
        f"{bold}{told(name, row[name], none)}{bold}"
        if row["method"] in best.get((row["paradigm"], name), ())
        else told(name, row[name], none)
        for name in COLUMNS
    ]
    return [*takes, none if size is None else f"{size / 1024:.1f} kB", *figures]


def text(entry: dict) -> str:
    """The tables as plain text; the best of each column has a star."""
    blocks, best = [], winners(entry["summary"])
    for paradigm in dict.fromkeys(row["paradigm"] for row in entry["summary"]):
        mine = [row for row in entry["summary"] if row["paradigm"] == paradigm]
        lines = [f"{paradigm}: {max(row['measured'] for row in mine)} requests"]
        lines += [f"  {'':<10}{''.join(f'{t:>12}' for t in FIGURES[:4])}{''.join(f'{t:>26}' for t in FIGURES[4:])}"]
        for row in mine:
            cells = [f"{c[1:]}" if c.startswith("*") else c for c in _cells(row, best, "*", "-")]
            lines += [
                f"  {row['method']:<10}{''.join(f'{c:>12}' for c in cells[:4])}{''.join(f'{c:>26}' for c in cells[4:])}"
            ]
        blocks.append("\n".join(lines))
    domains = _domains(entry["summary"])
    if domains:
        head = f"whole domains, percent (ADU):\n  {'':<10}" + "".join(f"{n:>24}" for n in ADU)
        lines = [
            f"  {name:<10}" + "".join(f"{_percent(scores[n]):>24}" for n in ADU) for name, scores in domains.items()
        ]
        blocks.append("\n".join([head, *lines]))
    if entry["sequences"]:
        broken = breaks(entry["sequences"])
        lines = ["class after class, breaks at:", f"  {'':<10}" + "".join(f"{title:>40}" for title in WAYS.values())]
        for name in dict.fromkeys(name for name, _ in broken):
            lines.append(f"  {name:<10}" + "".join(f"{broken[name, way]:>40}" for way in WAYS))
        blocks.append("\n".join(lines))
    if entry.get("audit"):
        lines = [f"audit of {entry['audit']['request']}, findings beyond their limit, and the worst three:"]
        lines += [f"  {name:<10}{'; '.join(cells)}" for name, cells in _worst(entry["audit"]).items()]
        blocks.append("\n".join(lines))
    blocks.append(f"best, rivals (*): {wins(entry['summary'])}")
    blocks += (
        [f"left out: {'; '.join(f'{n} ({why})' for n, why in entry['left_out'].items())}"] if entry["left_out"] else []
    )
    return "\n\n".join(blocks)


def _domains(found: Sequence[dict]) -> dict[str, dict]:
    """Mem, For and H of the unedited model and of each entrant that answers whole domains, best H first."""
    rows = [row for row in found if row["adu"]]
    after = {row["method"]: row["adu"]["after"] for row in rows}
    ordered = sorted(after.items(), key=lambda pair: -pair[1]["H"][0])
    full = [row for row in rows if row["measured"] == row["requests"]]
    return {"unedited": full[0]["adu"]["before"]} | dict(ordered) if full else dict(ordered)


def _worst(found: dict) -> dict[str, list[str]]:
    """Of each entrant how many findings are beyond their limit, then the worst three in words; fewest beyond first."""
    told_ = {}
    for name, one in sorted(found["worst"].items(), key=lambda pair: pair[1]["beyond"] / max(1, pair[1]["judged"])):
        told_[name] = [f"{one['beyond']} of {one['judged']}"]
        for f in one["findings"]:
            clean = "" if f["clean"] is None else f", clean {number(f['clean'])}"
            unit = f" {f['unit']}" if f["unit"] else ""
            times = max(0, f["excess"]) / f["limit"]
            told_[name].append(f"{f['check']}: {f['asked']}: {number(f['edited'])}{unit}{clean} ({times:.1f} ×)")
    return told_


def _percent(ends: Sequence[float]) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*ends)


def part(entry: dict) -> list[str]:
    """The section of RESULTS.md."""
    labelled = (
        f"{entry['labelled']} labelled pictures of a train split" if entry["labelled"] else "no labelled pictures"
    )
    best = winners(entry["summary"])
    head = "| paradigm | method | requests | " + " | ".join(FIGURES) + " |"
    lines = [head, "|---" * (3 + len(FIGURES)) + "|"]
    for row in entry["summary"]:
        if row["forgetting_rate"][0] is not None:
            cells = " | ".join(_cells(row, best, "**", "–"))
            lines.append(
                f"| {row['paradigm']} | `{row['method']}` | {row['measured']} of {row['requests']} | {cells} |"
            )
    parts = [
        f"## {entry['name'][0].upper()}{entry['name'][1:]}",
        "Our methods, among them the paper's edit as reconstructed (`nullspace`) and CCUP (`ridge`), and their rivals "
        f"(`clipnull.bench.baselines` cites each) on the same requests in one run: {entry['model']}, "
        f"{entry['pictures']} pictures, {entry['classes']} classes × {entry['domains']} domains; {labelled} "
        "for those that need some. "
        "Rivals are short sketches of their idea, not their authors' code; those that train, train the last layer "
        f"only. What is drawn is drawn with {entry['seeds']} seeds: means over them, and intervals that reach over all "
        "of theirs. Seconds of a processor: to make one edit, from pictures embedded and synthesized; bytes: what has "
        f"to be carried. **Bold**: the best of a paradigm; of costs, among those that forget at least {NEARLY:.0%} as "
        "much as the best. `clean`: a model that was trained without what is forgotten, where there is one; out of "
        "competition.",
        *(["Stored embeddings: no pictures to synthesize or to fit to."] if entry["stored"] else []),
        "\n".join(lines),
        f"Where rivals are best: {wins(entry['summary'])}.",
    ]
    if entry["covered"]["summary"]:
        parts += [
            f"Only requests for which there is a model that never knew ({'; '.join(entry['covered']['requests'])}): "
            "forgetting rate / retain drop / worst cell.",
            _covered(entry["covered"]["summary"]),
        ]
    domains = _domains(entry["summary"])
    if domains:
        lines = ["| whole domains | " + " | ".join(ADU) + " |", "|---" * (1 + len(ADU)) + "|"]
        lines += [f"| `{n}` | " + " | ".join(_percent(scores[k]) for k in ADU) + " |" for n, scores in domains.items()]
        parts += [
            "In percent, as ADU ([arXiv 2510.08132](https://arxiv.org/abs/2510.08132)) reports whole domains: accuracy "
            "on kept domains, 100 minus that on the forgotten one, their harmonic mean; means over cells and requests"
            + (" (`clean`: of one domain)." if "clean" in domains else "."),
            "\n".join(lines),
        ]
    if entry.get("audit"):
        about = entry["audit"]
        lines = ["| method | beyond | worst | second | third |", "|---" * 5 + "|"]
        lines += [f"| `{name}` | " + " | ".join(cells) + " |" for name, cells in _worst(about).items()]
        parts += [
            f"The audit (`clipnull.audits`) of one request, {about['request']}: how many findings are beyond their "
            "limit, fewest first, and the worst three, with how many times their limit they are. Clean: "
            f"{about['clean'] or 'none'}. Who edits no pictures is not asked.",
            "\n".join(lines),
        ]
    if entry["sequences"]:
        parts += [
            "Class after class, everywhere: means over random orders, in brackets least and most. The drop is that "
            "beyond what the name filter loses. A method breaks where it forgets less than "
            f"{LEAST:g} or loses more than {MOST:g} points beyond the filter.",
            "\n".join(table(entry["sequences"])),
        ]
    if entry["left_out"]:
        parts.append("Left out: " + "; ".join(f"`{name}` ({why})" for name, why in entry["left_out"].items()) + ".")
    return parts


def _covered(found: Sequence[dict]) -> str:
    """A row an entrant, a column a paradigm."""
    by = {(row["method"], row["paradigm"]): row for row in found}
    paradigms = list(dict.fromkeys(row["paradigm"] for row in found))
    lines = ["| method | " + " | ".join(paradigms) + " |", "|---" * (1 + len(paradigms)) + "|"]
    for name in dict.fromkeys(row["method"] for row in found):
        cells = [
            " / ".join(
                "–" if row[column][0] is None else f"{row[column][0]:{form}}"
                for column, form in (("forgetting_rate", ".2f"), ("retain_drop", "+.1f"), ("worst_cell_drop", "+.0f"))
            )
            for row in (by[name, paradigm] for paradigm in paradigms)
        ]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)
