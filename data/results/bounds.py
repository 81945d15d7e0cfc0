"""Where a miss comes from: curves of forgetting against loss, from names alone and with labelled pictures.

A method from names alone misses a target either because its form cannot do better or because names do not say where
pictures lie. To tell these apart, the same form is given pictures with labels: half of them, to be measured on the
other half, and the other way round. Nothing of this is data-free; it is a yardstick and no method.

- `oblique`, a matrix: the detector of each forgotten class is fitted to pictures, what it changes stays as it is.
  It is the v that is 1 on the cells to forget and 0 elsewhere, in ridge regression, where siblings count as much as
  all other kept cells together. Strength is swept.
- `gated`, a module: domains are told apart by ridge regression on pictures. What is added to the score of the
  forgotten domains is swept.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipnull.bench.sweep import COLUMNS, every_request
from clipnull.datasets.loading import load_images, name_of
from clipnull.edit import Edit
from clipnull.embedding import embed, readable
from clipnull.evaluate import accuracy_matrix, classify, is_measurable, others_of, rates
from clipnull.files import write_text
from clipnull.images import Images
from clipnull.methods import solve
from clipnull.methods.cells import Cells
from clipnull.methods.oblique import decoy_of
from clipnull.models import Clip, load
from clipnull.prompts import text_classifiers
from clipnull.stored import is_stored
from clipnull.unlearning import embed_vocabulary
from clipnull.vocabulary import Forget

PARADIGMS = ("selective", "complete")
STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.3, 1.8)
"""Of `oblique`, in units of its own, so that 1 is today's edit; with labelled pictures, in units of LABELLED."""
LABELLED = 2.0
OFFSETS = (-0.2, -0.1, 0.0, 0.1, 0.2)
"""Of `gated`, in units of how far the right name of a domain is read above the others, on the names themselves."""
DETECTOR, TELLER = 0.002, 0.01
"""The ridges of the detectors and of what tells domains apart, both for unit embeddings."""

Change = Callable[[Tensor], Tensor]


class Half:
    """Pictures with labels, z (n, d), and what is fitted to them; each cell counts as one, however many it holds."""

    def __init__(self, z: Tensor, images: Images):
        self.z, self.shape = F.normalize(z.double(), dim=1), images.vocabulary.shape
        self.cell = images.classes * self.shape[1] + images.domains
        self.count = images.counts().flatten().double()
        sums = torch.zeros(len(self.count), z.shape[1], dtype=torch.float64).index_add_(0, self.cell, self.z)
        self.means = (sums / self.count.clamp(min=1)[:, None]).view(*self.shape, -1)

    def mean(self, mask: Tensor) -> Tensor:
        """The mean over the cells of `mask` (C, K) that hold pictures: (d,)."""
        return self.means[mask & (self.count.view(self.shape) > 0)].mean(0)

    def weights(self, mask: Tensor) -> Tensor:
        """Of each picture, 1 in all over the cells of `mask`, as much in each: (n,)."""
        share = mask.flatten() / self.count.clamp(min=1)
        w = share[self.cell]
        return w / w.sum().clamp(min=1e-12)

    def detector(self, mask: Tensor) -> Tensor:
        """v (d,), 1 on the mean of `mask` and small on siblings and on all other kept cells: see above."""
        siblings = ~mask & mask.any(1, keepdim=True) & ~mask.all(0).any()
        w = torch.stack([self.weights(cells) for cells in (mask, siblings, ~mask & ~siblings)]).sum(0)
        m = self.mean(mask)
        v = torch.linalg.solve((self.z * w[:, None]).T @ self.z + DETECTOR * torch.eye(len(m), dtype=m.dtype), m)
        return v / (v @ m)

    def domains(self, z: Tensor) -> Tensor:
        """How much z (n, d) looks like each domain, about 1 for the right one and 0 for the others: (n, K)."""
        k = self.shape[1]
        w = torch.stack([self.weights((torch.arange(k) == j).expand(self.shape)) for j in range(k)]).sum(0)
        x, y = F.pad(self.z, (0, 1), value=1.0), F.one_hot(self.cell % k, k).double()
        a = (x * w[:, None]).T @ x + TELLER * torch.eye(x.shape[1], dtype=x.dtype)
        fitted = torch.linalg.solve(a, (x * w[:, None]).T @ y)
        return F.pad(F.normalize(z.double(), dim=1), (0, 1), value=1.0) @ fitted


@dataclass(frozen=True)
class Asked:
    """Embeddings z (n, d), the texts (C, d) that may answer, and their inner products: what a matrix does is quick."""

    z: Tensor
    texts: Tensor
    scores: Tensor

    def answers(self, edit: Edit, strength: float) -> Tensor:
        """Under `strength` times a linear edit: (n,) int64."""
        left, right = (x.to(self.z.dtype) for x in (edit.left, edit.right))
        return (self.scores - strength * (self.z @ left) @ (self.texts @ right).T).argmax(1)


def asked(z: Tensor, texts: Tensor) -> Asked:
    return Asked(z, texts, z @ texts.T)


def matrix(cells: Cells, mask: Tensor, half: Half) -> Edit:
    """What `oblique` would be, did it know pictures: `half.detector` in place of the readings of names."""
    if mask.all(0).any():
        decoy, lead = decoy_of(cells, mask.all(0))
        right = -lead * cells.duals[decoy]
    else:
        c = int(mask.any(1).nonzero()[0])
        right = float(half.mean(mask) @ cells.margins[c]) * cells.duals[c]
    return Edit(half.detector(mask)[:, None], LABELLED * right[:, None], "labelled")


def gate(cells: Cells, mask: Tensor, half: Half, offset: float) -> Change:
    """What `gated` would be, did it know pictures: domains as `half.domains` tells them, the rest as it is."""
    whole = bool(mask.all(0).any())
    known = solve(cells, mask if whole else mask.any(1, keepdim=True).expand_as(mask), "gated")
    assert known.gate  # which `gated` has
    average = known.gate.average

    def change(z: Tensor) -> Tensor:
        inside = mask.any(0)[(half.domains(z) + offset * mask.any(0)).argmax(1)][:, None]
        return torch.where(inside, average.to(z.dtype) if whole else known.images(z), z)

    return change


def curves(clip: Clip, images: Images) -> list[dict]:
    """Means over the selective and the complete requests of `bench`, for each method, with and without labels.

    Requests with nothing to lose, or with no picture to learn from in one of the halves, are left out.

    Returns
    -------
    list of dict
        `paradigm`, `method`, `labelled`, and `points`: for each setting, `setting` and the figures of `bench.COLUMNS`,
        None where there is none. Collateral is that of linear edits only.
    """
    images, (z,) = readable(images, embed(clip, images))
    cells, classifier = embed_vocabulary(clip, images.vocabulary), text_classifiers(clip, images.vocabulary)[0]
    others, first = others_of(clip, images.vocabulary), images.halves()
    sides = (first, ~first)  # what one of them teaches is measured on the other
    halves = [Half(z[~side], images.where(~side)) for side in sides]
    seen = [asked(z[side], classifier) for side in sides]
    unrelated = None if others is None else asked(others.images, others.texts)
    before = accuracy_matrix(classify(z, classifier, images.domains), images)
    apart = cells.domain_directions @ cells.domain_directions.T
    unit = float((1 - (apart.sum(1) - 1) / max(1, len(apart) - 1)).mean())
    found: dict[tuple[str, str, bool, float], list[dict[str, float]]] = {}

    def keep(request: Forget, key: tuple[str, bool, float], parts: list[Tensor], collateral: float) -> None:
        after = torch.empty(len(z), dtype=torch.int64)
        for side, answers in zip(sides, parts, strict=True):
            after[side] = answers
        row = rates(before, accuracy_matrix(after, images), request.mask(images.vocabulary))
        found.setdefault((request.paradigm, *key), []).append(row | {"collateral": collateral})

    for request in every_request(images, PARADIGMS):
        mask = request.mask(images.vocabulary)
        taught = all(bool(half.count.view_as(mask)[mask].any()) for half in halves)
        if not taught or not float(before[mask].nanmean()) > 0:  # a single picture cannot be in both halves
            continue
        known = solve(cells, mask, "oblique")
        for labelled, edits in ((False, [known]), (True, [matrix(cells, mask, half) for half in halves])):
            for s in STRENGTHS:
                parts = [own.answers(edit, s) for own, edit in zip(seen, edits * (2 // len(edits)), strict=True)]
                lost = math.nan
                if others is not None and unrelated is not None and is_measurable(request):
                    changed = [unrelated.answers(edit, s) != others.unedited for edit in edits]
                    lost = 100 * float(torch.stack(changed).double().mean())
                keep(request, ("oblique", labelled, s), parts, lost)
        for x in OFFSETS:
            usual = solve(cells, mask, "gated", offset=x * unit).images
            for labelled, changes in ((False, [usual] * 2), (True, [gate(cells, mask, half, x) for half in halves])):
                parts = [
                    classify(z[side], classifier, images.domains[side], change)
                    for side, change in zip(sides, changes, strict=True)
                ]
                keep(request, ("gated", labelled, x), parts, math.nan)
    return [
        {
            "paradigm": paradigm,
            "method": method,
            "labelled": labelled,
            "points": [
                {"setting": key[3]} | {name: _mean([row[name] for row in rows]) for name in COLUMNS}
                for key, rows in found.items()
                if key[:3] == (paradigm, method, labelled)
            ],
        }
        for paradigm, method, labelled in product(PARADIGMS, ("oblique", "gated"), (False, True))
    ]


def _mean(values: Sequence[float]) -> float | None:
    known = [v for v in values if v == v]
    return round(float(np.mean(known)), 4) if known else None


def document(name: str, images: Images, found: Sequence[dict]) -> dict:
    """What `curves` found, ready for JSON: numbers only. name: of the pictures, as results tell it."""
    return {"kind": "bound", "name": f"bounds, {name}", "pictures": len(images), "curves": list(found)}


def told(entry: dict) -> Iterator[list[str]]:
    """Rows of texts: paradigm, method, what it is made from, setting, figures."""
    for curve in entry["curves"]:
        source = "labelled pictures" if curve["labelled"] else "names"
        for point in curve["points"]:
            values = ["–" if (v := point[f]) is None else f"{v:{_FORMS[f]}}" for f in FIGURES]
            yield [curve["paradigm"], f"`{curve['method']}`", source, f"{point['setting']:g}", *values]


FIGURES = ("forgetting_rate", "retain_drop", "sibling_class_drop", "worst_cell_drop", "collateral")
_FORMS = dict.fromkeys(FIGURES, "+.1f") | {"forgetting_rate": ".3f", "collateral": ".1f"}
HEAD = ("paradigm", "method", "made from", "setting", *(COLUMNS[name] for name in FIGURES))


def table(entry: dict) -> str:
    """What `document` holds as plain text."""
    lines = [f"{entry['name']}: {entry['pictures']} pictures, means over requests"]
    rows = [HEAD, *told(entry)]
    return "\n".join([*lines, *("  " + "".join(f"{text.strip('`'):>19}" for text in row) for row in rows)])


def part(entry: dict) -> list[str]:
    """The part of RESULTS.md."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    about = (
        "What stands in the way of a target: the same forms from names alone and with labelled pictures (half of "
        f"{entry['pictures']}, measured on the other half, and the other way round; `clipnull.bounds`). Where labelled "
        "pictures reach what names miss, the form is not the limit: names do not say where pictures lie. Where both "
        "miss, the embeddings do not tell more. Setting: strength of `oblique`, 1 being the default from names; what "
        "is added to the score of the forgotten domains by `gated`. A whole domain that is sent to one answer is "
        "right where that answer is true, so that an empty cell or two decides how near to chance that is."
    )
    lines += ["| " + " | ".join(row) + " |" for row in told(entry)]
    return [f"## {entry['name'][0].upper()}{entry['name'][1:]}", about, "\n".join(lines)]


def main() -> None:
    """Measure DATA, print the table and write --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", help="pictures or stored embeddings [the embedded miniworld]")
    parser.add_argument("--name", help="of the pictures, as results show it [that of the folder]")
    parser.add_argument("--json", type=Path, help="for data/results/write.py")
    args = parser.parse_args()
    images = load_images(args.data)
    clip = load(args.data if is_stored(args.data) else "miniclip")
    entry = document(args.name or name_of(args.data), images, curves(clip, images))
    if args.json:
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    print(table(entry))


if __name__ == "__main__":
    main()
