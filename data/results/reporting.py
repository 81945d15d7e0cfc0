"""What RESULTS.md tells of stored embeddings in words, its section about audits, and the picture of the README."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from clipnull.audits.findings import format_number as number
from clipnull.bench.sweep import told
from clipnull.evaluate import wilson
from clipnull.files import written

EXAMPLE = (["cat"], ["drawing"])
"""Classes and domains of the request that the picture of the README shows."""

ABOUT = {
    "nullspace": "the paper's edit, reconstructed",
    "oblique": "ours, in the weights",
    "neuron": "ours, a hidden layer",
    "gated": "ours, a module after the tower",
}
PHOTOGRAPHS = "`ahmedembeddedx/Cross-Modality_Search_Engine` at 9378ecb"
UNRELATED = (
    "Unrelated pictures: `youta7965s/image-factorization` at 9cecf76 (products) and "
    "`Macaulay001/the_DesignPatentSearch` at 494e363 (patent drawings). "
    "Unrelated words: `facebookresearch/Detic` at 436cda2 and `hanoonaR/object-centric-ovd` at c962116."
)
SOURCES = {
    "OpenAI ViT-B/32, photo and drawing": (
        "Public vectors, from GitHub. Children's drawings and their texts: `vislearnlab/across-site-draw` at 61b2b6e. "
        f"Photographs: {PHOTOGRAPHS}. {UNRELATED} A domain here is also a collection. For 6 of the 16 classes the text "
        "of the drawing is that of the photograph plus the mean difference of the others. Half of the drawings are not "
        "recognised even before an edit: read the counts."
    ),
    "OpenAI ViT-B/32, photo and CIFAR": (
        "Public vectors, from GitHub. CIFAR-10's test pictures, 32 pixels wide, enlarged: "
        f"`infinitiveaman/clip-cifar10-search` at 1055844. Photographs: {PHOTOGRAPHS}. {UNRELATED} No prompt names "
        "these two domains. Their part of the texts was taken from the mean pictures of both, so that **this is not "
        "free of data**: a trial of what happens where a domain has no good name."
    ),
}
UNKNOWN = """Not known of this model: what other backbones do, and PACS.{prototypes}
Who has a network repeats and completes it:

```
clipnull embed PACS/test --model ViT-B-32 --pretrained openai --other UNRELATED --out pacs-b32.npz
clipnull bench pacs-b32.npz --name "OpenAI ViT-B/32, PACS" --json pacs-b32.json
python data/results/write.py pacs-b32.json
```

`clipnull embed` takes any folder `<domain>/<class>/*` and writes pictures, texts and synthesized prototypes into one
file; UNRELATED is a folder of other pictures, for collateral."""


def stored_part(entry: dict) -> list[str]:
    """What holds of a model whose embeddings were measured, from which vectors, what is not known, and how to go on."""
    rows = {(row["method"], row["paradigm"]): row for row in entry["summary"]}
    weights = f"{entry['model']}, {entry['pretrained']}" if entry["pretrained"] else entry["model"]
    made = "texts and one synthesized picture a cell" if entry["prototypes"] else "texts alone, without any picture"
    lines = []
    for method, about in ABOUT.items():
        said = [_sentence(paradigm, row) for (name, paradigm), row in rows.items() if name == method]
        lines += [f"- `{method}` ({about}). " + " ".join(said)] if said else []
    parts = [
        f"Stored embeddings of {weights}; the vectors are not in this repository. Edits are made from {made}"
        + (f" ({entry['note']})." if entry["note"] else "."),
        "\n".join(lines),
        SOURCES.get(entry["name"], ""),
        UNKNOWN.format(prototypes="" if entry["prototypes"] else " No prototypes: only the encoder could make them."),
    ]
    return [part for part in parts if part]


def _sentence(paradigm: str, row: dict) -> str:
    n = row["pictures"]
    text = (
        f"{paradigm.capitalize()}: {told('forgetting_rate', row['forgetting_rate'])} forgotten ({n['before']} pictures "
        f"right before, {n['after']} after); kept pictures {told('retain_drop', row['retain_drop'])} points"
    )
    if row["sibling_class_drop"][0] is not None:
        text += f", those of the same class {told('sibling_class_drop', row['sibling_class_drop'])}"
    if row["collateral"][0] is not None:
        text += f"; {told('collateral', row['collateral'])} % of unrelated pictures get another name"
    return text + "."


# --- the picture of the README -----------------------------------------------------------------------------------


def example_of(found: dict) -> dict | None:
    """Of a sweep, what EXAMPLE did by method: [pictures, right before, right after] in each domain; None if not."""
    rows = [row for row in found["rows"] if row["prompts"] == "free" and (row["classes"], row["domains"]) == EXAMPLE]
    return {row["method"]: row["by_domain"] for row in rows} or None


def examples(known: Sequence[dict]) -> dict | None:
    """The first measurement of `known` that has the example."""
    return next((entry for entry in known if entry.get("example")), None)


def caption(entry: dict) -> str:
    """The picture of the README as Markdown, with a caption that tells its counts."""
    first = next(iter(entry["example"].values()))
    n, before, _ = first["photo"]
    drawn, named, _ = first["drawing"]
    said = "; ".join(
        f"`{method}` {found['photo'][2]} and {found['drawing'][2]}" for method, found in entry["example"].items()
    )
    return (
        "![Cats that are named right, by method, as bars with counts](data/results/cats.png)\n\n"
        f"*Drawings of cats are forgotten; photographs of cats should stay. Measured on OpenAI's ViT-B/32, on public "
        f"embeddings ([sources](RESULTS.md)). Unedited, it names {before} of {n} photographs and {named} of {drawn} "
        f"children's drawings of cats right. Photographs and drawings after each method: {said}. Bars with 95 % "
        "intervals (Wilson).*"
    )


def shown(entry: dict) -> dict[str, dict[str, list[int]]]:
    """What the picture shows: for the unedited model and each method, [pictures, named right] in each domain."""
    example = entry["example"]
    first = next(iter(example.values()))
    before = {"unedited": {domain: [n, right] for domain, (n, right, _) in first.items()}}
    return before | {method: {k: [n, right] for k, (n, _, right) in found.items()} for method, found in example.items()}


def draw(entry: dict, path: Path) -> Path:
    """Bars of the example to a PNG: cats right in photographs and in drawings, before and after each method.

    The numbers drawn are also in the file, as its text `Description`.
    """
    from clipnull.course import plots

    plots.style()
    bars = shown(entry)
    colours = plots.sns.color_palette("colorblind")
    with plots.plt.rc_context({"font.size": 15, "figure.constrained_layout.use": True}):
        figure, ax = plots.plt.subplots(figsize=(9, 4.6))
        for i, (domain, label, hatch) in enumerate(
            (("photo", "photographs of cats (to keep)", ""), ("drawing", "drawings of cats (to forget)", "//"))
        ):
            for j, found in enumerate(bars.values()):
                n, right = found[domain]
                low, high = wilson(right, n)
                share, x = right / n, j + 0.4 * (i - 0.5)
                ax.bar(
                    x,
                    100 * share,
                    0.38,
                    color=colours[i],
                    hatch=hatch,
                    edgecolor="white",
                    label=label if not j else None,
                )
                ax.errorbar(
                    x, 100 * share, [[100 * (share - low)], [100 * (high - share)]], color="0.25", capsize=3, lw=1.5
                )
                ax.text(x, 100 * high + 2, f"{right}/{n}", ha="center", fontsize=11.5)
        ax.set_xticks(range(len(bars)), list(bars), fontsize=15)
        ax.set_ylim(0, 124)
        ax.set_yticks(range(0, 101, 25))
        ax.tick_params(axis="y", labelsize=14)
        ax.set_ylabel("named right (%)", fontsize=15)
        ax.axvline(0.5, ymax=0.85, color="0.7", lw=1)
        ax.legend(loc="upper center", ncols=2, frameon=False, fontsize=14)
        with written(path) as temporary:
            figure.savefig(
                temporary, format="png", dpi=200, metadata={"Description": json.dumps(bars), "Software": None}
            )
    plots.plt.close(figure)
    return path


def audit_part(entry: dict) -> list[str]:
    """The section of RESULTS.md about audits of one request: a row a question, a column a method."""
    audits = entry["audits"]
    of: dict[tuple[str, str], list[dict | None]] = {}
    for i, one in enumerate(audits):
        for f in one["findings"]:
            none: list[dict | None] = [None] * len(audits)
            of.setdefault((f["check"], f["asked"]), none)[i] = f
    methods = [_method(one) for one in audits]
    lines = ["| " + " | ".join(["question", "unedited", "clean", *methods, "limit"]) + " |"]
    lines.append("|---" * (4 + len(audits)) + "|")
    worst = {
        key: max(f["excess"] / f["limit"] if f and f["limit"] else -math.inf for f in row) for key, row in of.items()
    }
    for check, asked in sorted(of, key=lambda key: -worst[key]):
        row = of[check, asked]
        some = next(f for f in row if f is not None)
        edited = [number(f["edited"]) if f else "–" for f in row]
        edited = [f"**{x}**" if f and f["within"] is False else x for x, f in zip(edited, row, strict=True)]
        limit = "–" if some["limit"] is None else f"{number(some['limit'])} {some['judged']}"
        unit = f" ({some['unit']})" if some["unit"] else ""
        cells = [f"{check}: {asked}{unit}", number(some["unedited"]), number(some["clean"]), *edited, limit]
        lines.append("| " + " | ".join(cells) + " |")
    about = audits[0]
    said = (
        f"`clipnull audit` of {about['model']}, {about['pictures']} pictures, {about['forgotten']} to be forgotten; "
        f"clean: {about['clean'] or 'none'}, a model that never knew. **Bold**: beyond the limit. The worst first."
    )
    left_out = [f"Left out: {'; '.join(about['left_out'])}."] if about.get("left_out") else []
    tuned = _fine_tuned(audits)
    return [f"## {entry['name'][0].upper()}{entry['name'][1:]}", said, "\n".join(lines), *tuned, *left_out]


def _method(one: dict) -> str:
    return f"`{' + '.join(one['methods'])}`" + (f" at {one['aim']}" if one.get("aim") else "")


def _fine_tuned(audits: Sequence[dict]) -> list[str]:
    """What fine-tuning brings back: a row a model, a column a number of steps; nothing where none was asked."""
    rows, steps = {}, []
    for one in audits:
        for details in [f["details"] for f in one["findings"] if "of what was lost" in f["details"]]:
            steps = details["steps"]
            curves = {
                key.removeprefix("forgotten, "): value
                for key, value in details.items()
                if key.startswith("forgotten, ")
            }
            for model, curve in curves.items():
                name = _method(one) if model == "edited" else model
                rows[name] = list(zip(curve, details[f"kept, {model}"], strict=True))
    if not rows:
        return []
    lines = ["| after steps | " + " | ".join(map(str, steps)) + " |", "|---" * (1 + len(steps)) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{f:.0f} / {k:.0f}" for f, k in row) + " |" for name, row in rows.items()]
    return [
        "Fine-tuning on kept pictures (`--slow`; batches of 32 from the train split, the forgotten names among the "
        "candidates): percent of forgotten / kept pictures named right.",
        "\n".join(lines),
    ]
