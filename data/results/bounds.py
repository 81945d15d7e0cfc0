"""Why a method misses a target: curves of forgetting against loss, from names alone and with labelled pictures.

Either the form of its edit cannot do better, or names do not say where pictures lie. To separate the two, the same form
is given labelled pictures: one half, to be measured on the other, and the other way round.

- `oblique`, a matrix: the detector of each forgotten class is fitted to pictures; what it changes stays as it is. The
  detector is the v that is 1 on the cells to forget and 0 elsewhere, in ridge regression, where siblings count as much
  as all other kept cells together. Strength is swept.
- `gated`, a module: domains are separated by ridge regression on pictures. What is added to the score of the forgotten
  domains is swept.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import script
import torch
import torch.nn.functional as F
from torch import Tensor

from clipnull.bench.sweep import COLUMNS, every_request
from clipnull.edit import Edit
from clipnull.embedding import embed, readable
from clipnull.evaluate import accuracy_matrix, classify, is_measurable, others_of, rates
from clipnull.files import markdown
from clipnull.from_names import embed_vocabulary
from clipnull.images import Images
from clipnull.methods import solve
from clipnull.methods.cells import Cells
from clipnull.methods.oblique import decoy_of
from clipnull.models import Clip
from clipnull.prompts import text_classifiers

STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.3, 1.8)
"""Of `oblique`, in units of its own, so that 1 is today's edit; with labelled pictures, in units of LABELLED."""
LABELLED = 2.0
OFFSETS = (-0.2, -0.1, 0.0, 0.1, 0.2)
"""Of `gated`, in units of how far the right name of a domain scores above the others, on the names themselves."""
DETECTOR, SEPARATOR = 0.002, 0.01
"""The ridges of the detectors and of what separates domains, both for unit embeddings."""
FIGURES = ("forgetting_rate", "retain_drop", "sibling_class_drop", "worst_cell_drop", "collateral")

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
        w = (mask.flatten() / self.count.clamp(min=1))[self.cell]
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
        a = (x * w[:, None]).T @ x + SEPARATOR * torch.eye(x.shape[1], dtype=x.dtype)
        fitted = torch.linalg.solve(a, (x * w[:, None]).T @ y)
        return F.pad(F.normalize(z.double(), dim=1), (0, 1), value=1.0) @ fitted


def matrix(cells: Cells, mask: Tensor, half: Half) -> Edit:
    """`oblique` with `half.detector` in place of the detectors that names give."""
    if mask.all(0).any():
        decoy, lead = decoy_of(cells, mask.all(0))
        right = -lead * cells.duals[decoy]
    else:
        c = int(mask.any(1).nonzero()[0])
        right = float(half.mean(mask) @ cells.margins[c]) * cells.duals[c]
    return Edit(half.detector(mask)[:, None], LABELLED * right[:, None], "labelled")


def gate(cells: Cells, mask: Tensor, half: Half, offset: float) -> Change:
    """`gated` with domains as `half.domains` separates them, the rest as it is."""
    whole = bool(mask.all(0).any())
    known = solve(cells, mask if whole else mask.any(1, keepdim=True).expand_as(mask), "gated")
    assert known.gate  # which `gated` has
    average = known.gate.average

    def change(z: Tensor) -> Tensor:
        inside = mask.any(0)[(half.domains(z) + offset * mask.any(0)).argmax(1)][:, None]
        return torch.where(inside, average.to(z.dtype) if whole else known.images(z), z)

    return change


def curves(clip: Clip, images: Images) -> list[dict]:
    """Means over the selective and the complete requests, for each method, with and without labels.

    `points`: for each `setting` the figures of COLUMNS, None where there is none. Requests with nothing to lose, or
    with no picture to learn from in one half, are left out.
    """
    images, (z,) = readable(images, embed(clip, images))
    cells, classifier = embed_vocabulary(clip, images.vocabulary), text_classifiers(clip, images.vocabulary)[0]
    first, others, rows = images.halves(), others_of(clip, images.vocabulary), []
    sides = (first, ~first)  # what one of them teaches is measured on the other
    halves = [Half(z[~side], images.where(~side)) for side in sides]
    before = accuracy_matrix(classify(z, classifier, images.domains), images)
    apart = cells.domain_directions @ cells.domain_directions.T
    unit = float((1 - (apart.sum(1) - 1) / max(1, len(apart) - 1)).mean())

    def keep(method: str, labelled: bool, setting: float, changes: Sequence[Change]) -> None:
        after = torch.empty(len(z), dtype=torch.int64)
        for side, change in zip(sides, changes, strict=True):
            after[side] = classify(z[side], classifier, images.domains[side], change)
        figures = rates(before, accuracy_matrix(after, images), mask)
        if others and method == "oblique" and is_measurable(request):
            changed = torch.stack([others.changed(change) for change in dict.fromkeys(changes)])
            figures["collateral"] = 100 * float(changed.double().mean())
        about = {"paradigm": request.paradigm, "method": method, "labelled": labelled, "setting": setting}
        rows.append(about | figures)

    for request in every_request(images, ("selective", "complete")):
        mask = request.mask(images.vocabulary)
        taught = all(bool(half.count.view_as(mask)[mask].any()) for half in halves)
        if not taught or not float(before[mask].nanmean()) > 0:  # a single picture cannot be in both halves
            continue
        oblique, fitted = solve(cells, mask, "oblique"), [matrix(cells, mask, half) for half in halves]
        for s in STRENGTHS:
            keep("oblique", False, s, [replace(oblique, left=s * oblique.left).images] * 2)
            keep("oblique", True, s, [replace(edit, left=s * edit.left).images for edit in fitted])
        for x in OFFSETS:
            keep("gated", False, x, [solve(cells, mask, "gated", offset=x * unit).images] * 2)
            keep("gated", True, x, [gate(cells, mask, half, x) for half in halves])
    keys, drawn = ["paradigm", "method", "labelled"], []
    for key, curve in pd.DataFrame(rows).reindex(columns=[*keys, "setting", *COLUMNS]).groupby(keys, sort=False):
        means = curve.drop(columns=keys).groupby("setting", sort=False).mean().round(4).reset_index().astype(object)
        drawn.append(
            dict(zip(keys, key, strict=True)) | {"points": means.where(means.notna(), None).to_dict("records")}
        )
    return drawn


def measure(name: str, clip: Clip, images: Images) -> dict:
    return {"kind": "bound", "name": f"bounds, {name}", "pictures": len(images), "curves": curves(clip, images)}


def section(entry: dict) -> list[str]:
    """Paragraphs and tables of a page in Markdown."""
    about = (
        f"The same forms of edits from names alone and with labelled pictures (half of {entry['pictures']}, measured "
        "on the other half, and the other way round; `data/results/bounds.py`). Where labelled pictures reach what "
        "names miss, the form is not the limit: names do not say where pictures lie. Where both miss, the embeddings "
        "do not hold more. Setting: the strength of `oblique`, 1 being the default from names; what `gated` adds to "
        "the score of the forgotten domains."
    )
    forms = dict.fromkeys(FIGURES, "+.1f") | {"forgetting_rate": ".3f", "collateral": ".1f"}
    rows = []
    for curve in entry["curves"]:
        source = "labelled pictures" if curve["labelled"] else "names"
        for point in curve["points"]:
            figures = ["–" if point[f] is None else f"{point[f]:{forms[f]}}" for f in FIGURES]
            rows.append([curve["paradigm"], curve["method"], source, f"{point['setting']:g}", *figures])
    columns = ["paradigm", "method", "made from", "setting", *(COLUMNS[name] for name in FIGURES)]
    return [about, markdown(rows, columns)]


if __name__ == "__main__":
    script.run(__doc__, measure, section)
