"""Search in both directions, and by picture: what is found of the forgotten, and what is lost of the kept."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import at_least
from ..prompts import common_words, prompt_sets, text_classifiers
from .context import Context
from .findings import Finding, above_retrained, figure, finding
from .probes import validate_finite

RANKS = (1, 5, 10)
LOST, FOUND = 1.0, 10.0
"""Limits, in points: how far recall of the kept may fall; how far that of the forgotten may be above retrained."""


def retrieval(context: Context) -> list[Finding]:
    """Recall at 1, 5 and 10 both ways; recall at 5 is judged.

    text to picture: of the cells that hold pictures, the share whose text finds a picture of theirs among the first k.
    picture to text: of the pictures, the share whose class is among the first k of all classes and the common words
    that are known of the model.
    """
    findings, vocabulary = [], context.images.vocabulary
    prompts = next((p for p in ("domain", "build") if p in prompt_sets(context.models["unedited"])), None)
    ways: dict[str, dict[str, tuple[Tensor, Tensor]]] = {"text to picture": {}} if prompts else {}
    for model, clip in context.models.items():
        z = context.unit(model).float()
        if prompts:
            cells = text_classifiers(clip, vocabulary, prompts).transpose(0, 1)  # (C, K, d)
            ways["text to picture"][model] = _cells_found(context, z, cells)
        common = common_words(clip, vocabulary)
        names = context.texts[model] if common is None else torch.cat([context.texts[model], common])
        ways.setdefault("picture to text", {})[model] = _names_found(context, z, names)
    for way, results in ways.items():
        for kept in (True, False):
            recall = {m: _recall(rank[forgotten != kept]) for m, (rank, forgotten) in results.items()}
            at5 = {model: shares[RANKS.index(5)] for model, shares in recall.items()}
            lost = at5["unedited"] - at5["edited"], LOST, "points lost"
            details = {"ranks": list(RANKS), "recall": {m: [figure(x) for x in own] for m, own in recall.items()}}
            asked = f"{way}, {'kept' if kept else 'forgotten'}, recall at 5"
            judged = lost if kept else above_retrained(at5, FOUND)
            findings.append(finding("retrieval", asked, "%", at5, judged, details))
    return findings


def _cells_found(context: Context, z: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Of each cell with pictures, how many others its text (C, K, d) finds before one of its own; is it forgotten?"""
    places = (context.images.counts() > 0).nonzero()
    ranks = []
    for c, k in places.tolist():
        order = (z @ cells[c, k]).argsort(descending=True)
        ranks.append(int(((context.images.classes == c) & (context.images.domains == k))[order].int().argmax()))
    return torch.tensor(ranks), context.mask[places[:, 0], places[:, 1]]


def _names_found(context: Context, z: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
    """Of each picture, how many names (m, d) it finds before the right one; is it forgotten?"""
    scores = z @ names.T
    return (scores > scores.gather(1, context.images.classes[:, None])).sum(1), context.inside


def _recall(rank: Tensor) -> list[float]:
    """Percent of `rank` (n,) below each of RANKS; NaN where there is none."""
    return [100 * float((rank < k).double().mean()) if len(rank) else math.nan for k in RANKS]


def neighbours(context: Context, k: int = 5) -> list[Finding]:
    """Of the k pictures nearest to each forgotten one, the share of its class; that needs no words."""
    if len(context.images) <= k:
        return []
    labels, features = context.images.classes, context.features.items()
    shares = {m: 100 * float(retrieval_precision(z, labels, k, context.inside).mean()) for m, z in features}
    asked = f"picture to picture, forgotten, of the {k} nearest"
    return [finding("retrieval", asked, "%", shares, above_retrained(shares, FOUND))]


def retrieval_precision(features: Tensor, labels: Tensor, k: int = 5, where: Tensor | None = None) -> Tensor:
    """The share of pictures of the same label among the k nearest others by cosine, for each picture: (n,) float64.

    where: (n,) bool, only for these m pictures, among all others: (m,).

    Others at equal distance share the last places, so that embeddings which are all alike score chance.
    """
    validate_finite(features)
    if at_least("k", k, 1) >= len(features):
        raise ValueError(f"k: {k} neighbours of {len(features)} pictures; expected fewer than there are others")
    if where is not None and (where.shape != (len(features),) or where.dtype != torch.bool):
        raise ValueError(f"where: {tuple(where.shape)} {where.dtype}; expected bool ({len(features)},)")
    z, precision = F.normalize(features.double(), dim=-1), []
    chosen = torch.arange(len(z)) if where is None else where.nonzero()[:, 0]
    for rows in chosen.split(1024):
        cosines = z[rows] @ z.T
        cosines[torch.arange(len(rows)), rows] = -2.0  # not its own neighbour
        last = cosines.topk(k).values[:, -1:]
        same, inside, tied = labels[rows, None] == labels, cosines > last + 1e-9, (cosines - last).abs() <= 1e-9
        places = k - inside.sum(1)
        precision.append(((inside & same).sum(1) + places * (tied & same).sum(1) / tied.sum(1)).double() / k)
    return torch.cat(precision)
