"""Search in both directions, and by picture: what is found of the forgotten, and what is lost of the kept."""

import math

import torch
from torch import Tensor

from ..prompts import common_words, prompt_sets, text_classifiers
from .context import Case
from .findings import Finding, above_clean, curve, finding
from .probes import retrieval_precision

RANKS = (1, 5, 10)
KEPT, FOUND = 1.0, 10.0
"""Limits, in points: how far recall of the kept may fall, and how far that of the forgotten may stand above clean."""


def retrieval(case: Case) -> list[Finding]:
    """Recall at 1, 5 and 10 both ways; what is judged is recall at 5.

    text to picture: of the cells that hold pictures, asked by the text of the cell, the share with a right picture
    among the first k. picture to text: of the pictures, the share whose class is among the first k of all classes and
    the common words that are known of the model.
    """
    findings, base = [], case.models["unedited"]
    prompts = next((p for p in ("domain", "build") if p in prompt_sets(base)), None)
    ways: dict[str, dict[str, dict[bool, list[float]]]] = {}
    for model, clip in case.models.items():
        z = case.unit(model).float()
        if prompts:
            cells = text_classifiers(clip, case.images.vocabulary, prompts).transpose(0, 1)  # (C, K, d)
            ways.setdefault("text to picture", {})[model] = _cells_found(case, z, cells)
        common = common_words(clip, case.images.vocabulary)
        names = case.texts[model] if common is None else torch.cat([case.texts[model], common])
        ways.setdefault("picture to text", {})[model] = _names_found(case, z, names)
    for way, found in ways.items():
        for kept in (True, False):
            at5 = {model: own[kept][RANKS.index(5)] for model, own in found.items()}
            lost = at5["unedited"] - at5["edited"]
            judged = (lost, KEPT, "points lost") if kept else (above_clean(at5), FOUND, "points above clean")
            details = {"ranks": list(RANKS), "recall": {model: curve(own[kept]) for model, own in found.items()}}
            asked = f"{way}, {'kept' if kept else 'forgotten'}, recall at 5"
            findings.append(finding("retrieval", asked, "%", at5, *judged, details))
    return findings


def _cells_found(case: Case, z: Tensor, cells: Tensor) -> dict[bool, list[float]]:
    """Percent of kept (True) and forgotten cells whose text finds a picture of theirs, for each of RANKS."""
    counts, hits = case.images.counts(), {True: [], False: []}
    for c, k in (counts > 0).nonzero().tolist():
        order = (z @ cells[c, k]).argsort(descending=True)[: RANKS[-1]]
        right = (case.images.classes[order] == c) & (case.images.domains[order] == k)
        hits[not bool(case.mask[c, k])].append([float(right[:r].any()) for r in RANKS])
    return {kept: _percent(rows) for kept, rows in hits.items()}


def _names_found(case: Case, z: Tensor, names: Tensor) -> dict[bool, list[float]]:
    scores = z @ names.T
    own = scores.gather(1, case.images.classes[:, None])
    rank = (scores > own).sum(1)  # names before the right one
    rows = [[float(r < k) for k in RANKS] for r in rank.tolist()]
    inside = case.inside.tolist()
    return {kept: _percent([row for row, f in zip(rows, inside, strict=True) if f != kept]) for kept in (True, False)}


def _percent(rows: list[list[float]]) -> list[float]:
    return [round(100 * sum(column) / len(rows), 6) for column in zip(*rows, strict=True)] if rows else [math.nan] * 3


def neighbours(case: Case, k: int = 5) -> list[Finding]:
    """Of the k pictures nearest to each forgotten one, the share of its class; no words are needed for that."""
    if len(case.images) <= k:
        return []
    labels = case.images.classes
    found = {
        model: 100 * float(retrieval_precision(z, labels, k, case.inside).mean()) for model, z in case.features.items()
    }
    asked = f"picture to picture, forgotten, of the {k} nearest"
    return [finding("retrieval", asked, "%", found, above_clean(found), FOUND, "points above clean")]
