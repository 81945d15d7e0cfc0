"""What is told of a request beside its rates: forgetting among two names, and counts in each domain."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Images
from .requests import Forget


def pair_forgetting(
    features: Tensor,
    classifiers: Tensor,
    images: Images,
    request: Forget,
    change: Callable[[Tensor], Tensor],
) -> float | None:
    """The forgetting rate where only two names may be given, the forgotten one and another: mean over the others.

    A label set of many hides much: a class that only falls behind its nearest rival is "forgotten" among all. Among
    two, ignorance is .5; 1 is a mark, as easy to find as the class was. None but for one class in every domain.

    features (n, d), classifiers (K, C, d), change: as `classify` takes them.
    """
    mask = request.mask(images.vocabulary)
    classes = mask.all(1).nonzero()[:, 0].tolist()
    if request.paradigm != "global" or len(classes) != 1:
        return None
    own, cells = classes[0], images.classes == classes[0]
    of_each = classifiers[images.domains[cells]]  # (m, C, d)
    wins = []
    for z in (features[cells], change(features[cells])):
        scores = torch.einsum("nd,ncd->nc", F.normalize(z, dim=-1), of_each)
        wins.append((scores[:, own, None] > scores).double())
    counts = torch.zeros(len(images.vocabulary.domains), dtype=torch.float64)
    counts.index_add_(0, images.domains[cells], torch.ones(int(cells.sum()), dtype=torch.float64))
    share = (1 / counts)[images.domains[cells]]  # every domain counts the same
    before, after = ((share[:, None] * w).sum(0) for w in wins)
    others = torch.arange(mask.shape[0]) != own
    return float((1 - after[others] / before[others].clamp(min=1e-12)).mean())


def mean_pairs(rows: Sequence[dict]) -> dict[str, Any]:
    """Of rows of one method and paradigm: the `form` of its edits, and the mean `pair_forgetting`, None without any."""
    found = [row["pair_forgetting"] for row in rows if row.get("pair_forgetting") is not None]
    return {
        "form": rows[0].get("form") if rows else None,
        "pair_forgetting": round(sum(found) / len(found), 6) if found else None,
    }


def by_domain(request: Forget, images: Images, *right: Tensor) -> dict[str, list[int]] | None:
    """Of a single class, how many pictures there are in each domain, and how many of these each of `right` holds."""
    if request.classes is None or len(request.classes) != 1:
        return None
    own = images.classes == images.vocabulary.classes.index(request.classes[0])
    here = {name: own & (images.domains == k) for k, name in enumerate(images.vocabulary.domains)}
    return {name: [int(x.sum()) for x in (chosen, *(chosen & r for r in right))] for name, chosen in here.items()}
