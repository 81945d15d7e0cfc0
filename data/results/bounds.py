"""Find out why a method misses a target, with curves of forgetting against loss.

Either the form of its edit cannot do better, or names do not show where pictures lie. To separate the two, we fit the
same form to labelled pictures: each half is measured with edits from the other half.

- `oblique`, a matrix: ridge regression on pictures fits the detector v of each forgotten class, which is 1 on the
  (class, domain) cells to forget and 0 elsewhere. Siblings weigh as much as all other kept cells together. The rest of
  the edit stays. We sweep its strength.
- `gated`, a module: ridge regression on pictures separates the domains. We sweep an offset that is added to the score
  of the forgotten domains.
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
"""Strengths of `oblique`, where 1 is the default from names; with labelled pictures, multiples of LABELLED."""
LABELLED = 2.0
OFFSETS = (-0.2, -0.1, 0.0, 0.1, 0.2)
"""Offsets of `gated`, relative to the mean margin of the right domain name, measured on the names themselves."""
DETECTOR, SEPARATOR = 0.002, 0.01  # ridge penalties for unit embeddings
FIGURES = ("forgetting_rate", "retain_drop", "sibling_class_drop", "worst_cell_drop", "collateral")

Change = Callable[[Tensor], Tensor]


class Half:
    """Labelled pictures z (n, d) and the regressions on them; every cell has the same total weight."""

    def __init__(self, z: Tensor, images: Images):
        self.z, self.shape = F.normalize(z.double(), dim=1), images.vocabulary.shape
        self.cell = images.classes * self.shape[1] + images.domains
        self.count = images.counts().flatten().double()
        sums = torch.zeros(len(self.count), z.shape[1], dtype=torch.float64).index_add_(0, self.cell, self.z)
        self.means = (sums / self.count.clamp(min=1)[:, None]).view(*self.shape, -1)

    def mean(self, mask: Tensor) -> Tensor:
        """Return the mean over the cells of `mask` (C, K) that hold pictures, (d,)."""
        return self.means[mask & (self.count.view(self.shape) > 0)].mean(0)

    def weights(self, mask: Tensor) -> Tensor:
        """Return weights of the pictures (n,) that sum to 1, with equal sums in the cells of `mask`."""
        w = (mask.flatten() / self.count.clamp(min=1))[self.cell]
        return w / w.sum().clamp(min=1e-12)

    def detector(self, mask: Tensor) -> Tensor:
        """Return v (d,), 1 on the mean of `mask` and small on siblings and all other kept cells (see above)."""
        siblings = ~mask & mask.any(1, keepdim=True) & ~mask.all(0).any()
        w = torch.stack([self.weights(cells) for cells in (mask, siblings, ~mask & ~siblings)]).sum(0)
        m = self.mean(mask)
        v = torch.linalg.solve((self.z * w[:, None]).T @ self.z + DETECTOR * torch.eye(len(m), dtype=m.dtype), m)
        return v / (v @ m)

    def domains(self, z: Tensor) -> Tensor:
        """Score z (n, d) for each domain, (n, K): about 1 for the right domain and 0 for the others."""
        k = self.shape[1]
        w = torch.stack([self.weights((torch.arange(k) == j).expand(self.shape)) for j in range(k)]).sum(0)
        x, y = F.pad(self.z, (0, 1), value=1.0), F.one_hot(self.cell % k, k).double()
        a = (x * w[:, None]).T @ x + SEPARATOR * torch.eye(x.shape[1], dtype=x.dtype)
        fitted = torch.linalg.solve(a, (x * w[:, None]).T @ y)
        return F.pad(F.normalize(z.double(), dim=1), (0, 1), value=1.0) @ fitted


def matrix(cells: Cells, mask: Tensor, half: Half) -> Edit:
    """Return the edit of `oblique` with `half.detector` in place of the detectors from names."""
    if mask.all(0).any():
        decoy, lead = decoy_of(cells, mask.all(0))
        right = -lead * cells.duals[decoy]
    else:
        c = int(mask.any(1).nonzero()[0])
        right = float(half.mean(mask) @ cells.margins[c]) * cells.duals[c]
    return Edit(half.detector(mask)[:, None], LABELLED * right[:, None], "labelled")


def gate(cells: Cells, mask: Tensor, half: Half, offset: float) -> Change:
    """Return `gated` with `half.domains` as its domain scores."""
    whole = bool(mask.all(0).any())
    edit = solve(cells, mask if whole else mask.any(1, keepdim=True).expand_as(mask), "gated")
    assert edit.gate
    average = edit.gate.average

    def change(z: Tensor) -> Tensor:
        inside = mask.any(0)[(half.domains(z) + offset * mask.any(0)).argmax(1)][:, None]
        return torch.where(inside, average.to(z.dtype) if whole else edit.images(z), z)

    return change


def curves(clip: Clip, images: Images) -> list[dict]:
    """Return mean figures over selective and complete requests, for each method with and without labels.

    `points` holds the figures of COLUMNS for each `setting`, None if undefined. Requests are skipped if they have
    nothing to lose, or if a half has no forgotten picture.
    """
    images, (z,) = readable(images, embed(clip, images))
    cells, classifier = embed_vocabulary(clip, images.vocabulary), text_classifiers(clip, images.vocabulary)[0]
    first, others, rows = images.halves(), others_of(clip, images.vocabulary), []
    sides = (first, ~first)  # each is measured with edits from the other
    halves = [Half(z[~side], images.where(~side)) for side in sides]
    before = accuracy_matrix(classify(z, classifier, images.domains), images)
    apart = cells.domain_directions @ cells.domain_directions.T
    unit = float((1 - (apart.sum(1) - 1) / max(1, len(apart) - 1)).mean())

    def add_row(method: str, labelled: bool, setting: float, changes: Sequence[Change]) -> None:
        after = torch.empty(len(z), dtype=torch.int64)
        for side, change in zip(sides, changes, strict=True):
            after[side] = classify(z[side], classifier, images.domains[side], change)
        figures = rates(before, accuracy_matrix(after, images), mask)
        if others and method == "oblique" and is_measurable(request):
            changed = torch.stack([others.changed(change) for change in dict.fromkeys(changes)])
            figures["collateral"] = 100 * float(changed.double().mean())
        keys = {"paradigm": request.paradigm, "method": method, "labelled": labelled, "setting": setting}
        rows.append(keys | figures)

    for request in every_request(images, ("selective", "complete")):
        mask = request.mask(images.vocabulary)
        in_both = all(bool(half.count.view_as(mask)[mask].any()) for half in halves)
        if not in_both or not float(before[mask].nanmean()) > 0:
            continue
        oblique, fitted = solve(cells, mask, "oblique"), [matrix(cells, mask, half) for half in halves]
        for s in STRENGTHS:
            add_row("oblique", False, s, [replace(oblique, left=s * oblique.left).images] * 2)
            add_row("oblique", True, s, [replace(edit, left=s * edit.left).images for edit in fitted])
        for x in OFFSETS:
            add_row("gated", False, x, [solve(cells, mask, "gated", offset=x * unit).images] * 2)
            add_row("gated", True, x, [gate(cells, mask, half, x) for half in halves])
    keys, entries = ["paradigm", "method", "labelled"], []
    for key, curve in pd.DataFrame(rows).reindex(columns=[*keys, "setting", *COLUMNS]).groupby(keys, sort=False):
        means = curve.drop(columns=keys).groupby("setting", sort=False).mean().round(4).reset_index().astype(object)
        points = means.where(means.notna(), None).to_dict("records")
        entries.append(dict(zip(keys, key, strict=True)) | {"points": points})
    return entries


def measure(name: str, clip: Clip, images: Images) -> dict:
    return {"kind": "bound", "name": f"bounds, {name}", "pictures": len(images), "curves": curves(clip, images)}


def section(entry: dict) -> list[str]:
    """Return the paragraphs and tables of a page in Markdown."""
    about = (
        "The same forms of edits, made from names alone or fitted to labelled pictures (`data/results/bounds.py`). "
        f"Each half of the {entry['pictures']} pictures is measured with edits from the other half. If labelled "
        "pictures reach a target that names miss, the form is not the limit: names do not show where pictures lie. If "
        "both miss it, the embeddings allow no more. The setting is the strength of `oblique` (1: the default from "
        "names), or the offset that `gated` adds to the score of the forgotten domains."
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
