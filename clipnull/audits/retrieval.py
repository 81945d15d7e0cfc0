"""Search in both directions, and by picture: what is found of the forgotten, and what is lost of the kept."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import at_least
from ..prompts import common_words, prompt_sets, text_classifiers
from .context import Context
from .findings import Finding, above_retrained, finding
from .probes import validate_finite

LOST, FOUND = 1.0, 10.0
"""Limits, in points: how far recall of the kept may fall; how far that of the forgotten may be above retrained."""


def retrieval(context: Context) -> list[Finding]:
    """Recall at 5 both ways.

    text to picture: of the cells that hold pictures, the share whose text finds a picture of theirs among the first 5.
    picture to text: of the pictures, the share whose class is among the first 5 of all classes and the common words
    that are known of the model.
    """
    vocabulary, places = context.images.vocabulary, (context.images.counts() > 0).nonzero()
    prompts = next((p for p in ("domain", "build") if p in prompt_sets(context.models["unedited"])), None)
    cells, names = {}, {}
    for model, clip in context.models.items():
        z, common = context.unit(model).float(), common_words(clip, vocabulary)
        if prompts:
            texts = text_classifiers(clip, vocabulary, prompts)  # (K, C, d)
            cells[model] = torch.tensor([_first(context, z @ texts[k, c], c, k) for c, k in places.tolist()])
        scores = z @ (context.texts[model] if common is None else torch.cat([context.texts[model], common])).T
        names[model] = (scores > scores.gather(1, context.images.classes[:, None])).sum(1)
    findings, in_cells = [], context.mask[places[:, 0], places[:, 1]]
    for way, ranks, inside in (("text to picture", cells, in_cells), ("picture to text", names, context.inside)):
        for what, where in (("kept", ~inside), ("forgotten", inside)) if ranks else ():
            recall = {model: 100 * float((rank[where] < 5).double().mean()) for model, rank in ranks.items()}
            lost = recall["unedited"] - recall["edited"], LOST, "points lost"
            judged = lost if what == "kept" else above_retrained(recall, FOUND)
            findings.append(finding("retrieval", f"{way}, {what}, recall at 5", "%", recall, judged))
    return findings


def _first(context: Context, scores: Tensor, c: int, k: int) -> int:
    """How many pictures score, (n,), above all of class c in domain k."""
    mine = (context.images.classes == c) & (context.images.domains == k)
    return int(mine[scores.argsort(descending=True)].int().argmax())


def neighbours(context: Context) -> list[Finding]:
    """Of the 5 pictures nearest to each forgotten one, the share of its class; that needs no words."""
    shares = {}
    for model, z in context.features.items():
        shares[model] = 100 * float(retrieval_precision(z, context.images.classes, 5, context.inside).mean())
    asked = "picture to picture, forgotten, of the 5 nearest"
    return [finding("retrieval", asked, "%", shares, above_retrained(shares, FOUND))]


def retrieval_precision(features: Tensor, labels: Tensor, k: int = 5, where: Tensor | None = None) -> Tensor:
    """The share of pictures of the same label among the k nearest others by cosine, for each picture: (n,) float64.

    where: (n,) bool, only for these m pictures, among all others: (m,). Others at equal distance share the last places,
    so that embeddings which are all alike score chance.
    """
    validate_finite(features)
    if at_least("k", k, 1) >= len(features):
        raise ValueError(f"k: {k} neighbours of {len(features)} pictures; expected fewer than there are others")
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
