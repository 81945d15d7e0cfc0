"""Retrieval by text and by picture: does search still find the forgotten, and does it lose the kept?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import at_least
from ..prompts import common_words, prompt_sets, text_classifiers
from .context import Context
from .findings import Finding, above_retrained, finding
from .probes import validate_finite

LOST, FOUND = 1.0, 10.0
"""Limits, in points: the recall that the kept may lose, and the recall of the forgotten above retrained."""


def retrieval(context: Context) -> list[Finding]:
    """Report recall at 5 in both directions.

    text to picture: the share of (class, domain) cells with pictures whose text ranks one of them in the first 5.
    picture to text: the share of pictures whose class ranks in the first 5 among all classes and the common words that
    the model can embed.
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
        for group, where in (("kept", ~inside), ("forgotten", inside)) if ranks else ():
            recall = {model: 100 * float((rank[where] < 5).double().mean()) for model, rank in ranks.items()}
            lost = recall["unedited"] - recall["edited"], LOST, "points lost"
            judged = lost if group == "kept" else above_retrained(recall, FOUND)
            findings.append(finding("retrieval", f"{way}, {group}, recall at 5", "%", recall, judged))
    return findings


def _first(context: Context, scores: Tensor, c: int, k: int) -> int:
    """Return the rank, from 0, of the best picture of class c in domain k by `scores` (n,)."""
    in_cell = (context.images.classes == c) & (context.images.domains == k)
    return int(in_cell[scores.argsort(descending=True)].int().argmax())


def neighbours(context: Context) -> list[Finding]:
    """Report the share of same-class pictures among the 5 nearest to each forgotten one. This test needs no text."""
    shares = {}
    for model, z in context.features.items():
        shares[model] = 100 * float(retrieval_precision(z, context.images.classes, 5, context.inside).mean())
    asked = "picture to picture, forgotten, of the 5 nearest"
    return [finding("retrieval", asked, "%", shares, above_retrained(shares, FOUND))]


def retrieval_precision(features: Tensor, labels: Tensor, k: int = 5, where: Tensor | None = None) -> Tensor:
    """Return, for each picture, the share of the k nearest others by cosine that have its label: (n,) float64.

    where: (n,) bool, the m pictures to score; the result is (m,). Ties share the last places, so that identical
    embeddings score at chance level.
    """
    validate_finite(features)
    if at_least("k", k, 1) >= len(features):
        raise ValueError(f"k: {k} is too large for {len(features)} pictures; expected less than their number")
    z, precision = F.normalize(features.double(), dim=-1), []
    queries = torch.arange(len(z)) if where is None else where.nonzero()[:, 0]
    for rows in queries.split(1024):
        cosines = z[rows] @ z.T
        cosines[torch.arange(len(rows)), rows] = -2.0  # a picture is not its own neighbour
        last = cosines.topk(k).values[:, -1:]
        same, nearer, tied = labels[rows, None] == labels, cosines > last + 1e-9, (cosines - last).abs() <= 1e-9
        places = k - nearer.sum(1)
        precision.append(((nearer & same).sum(1) + places * (tied & same).sum(1) / tied.sum(1)).double() / k)
    return torch.cat(precision)
