"""What a model knows: the class x domain matrix of zero-shot accuracy, and what an edit changed in it."""
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from .data import World
from .errors import at_least, one_of
from .models import Clip
from .prompts import Vocabulary, embed_cells, embed_classes, embed_domains
from .unlearning import Forget

PROMPTS = ("free", "domain", "seen")


@lru_cache(maxsize=16)
def embed(clip: Clip, world: World) -> Tensor:
    """Embeddings z of all pictures, not normalised: (n, d) float32. Kept in memory for the same clip and world."""
    chunks = range(0, len(world), 256)
    return torch.cat([clip.embed_pixels(torch.stack([clip.preprocess(world.image(i))
                                                     for i in range(first, min(first + 256, len(world)))]))
                      for first in chunks])


def readouts(clip: Clip, vocabulary: Vocabulary, prompts: str = "free") -> Tensor:
    """The zero-shot classifier that `prompts` make for the pictures of each domain: unit vectors, (C, K, d).

    prompts: "free" names no domain ("a picture of a dog"), so that all K are the same; "domain" names the picture's
        own domain, with held-out templates; "seen" does so with the templates that built the edit.
    """
    if one_of("prompts", prompts, PROMPTS) == "free":
        return embed_classes(clip, vocabulary.classes)[:, None].expand(-1, len(vocabulary.domains), -1)
    return embed_cells(clip, vocabulary, "build" if prompts == "seen" else prompts)


def classify(features: Tensor, texts: Tensor, domains: Tensor) -> Tensor:
    """The class with the largest cosine, each picture by the classifier of its domain: (n,) int64.

    features: embeddings (n, d); texts: see `readouts`, (C, K, d); domains: of the pictures, (n,).
    """
    z = F.normalize(features, dim=-1)
    predicted = torch.empty(len(z), dtype=torch.int64)
    for k in range(texts.shape[1]):
        predicted[domains == k] = (z[domains == k] @ texts[:, k].T).argmax(1)
    return predicted


def predict(clip: Clip, world: World, prompts: str = "free", features: Tensor | None = None) -> Tensor:
    """The class each picture is taken for, among all classes of the vocabulary: (n,) int64.

    prompts: "free", "domain" or "seen", see `readouts`.
    features: embeddings to use in place of the model's own, (n, d).
    """
    texts = readouts(clip, world.vocabulary, prompts)
    return classify(embed(clip, world) if features is None else features, texts, world.domains)


def accuracy_matrix(predicted: Tensor, world: World, label: Tensor | None = None) -> Tensor:
    """Share of right answers in each cell: (C, K) float64, NaN where a cell has no pictures.

    label: the right answers, (n,); by default the classes.
    """
    c, k = world.vocabulary.shape
    right = (predicted == (world.classes if label is None else label)).double()
    total = torch.zeros(c * k, dtype=torch.float64).index_add_(0, world.classes * k + world.domains, right)
    return total.view(c, k) / world.counts()


def zero_shot(clip: Clip, world: World, prompts: str = "free") -> Tensor:
    """The accuracy matrix of `clip` on `world`: (C, K)."""
    return accuracy_matrix(predict(clip, world, prompts), world)


def domain_accuracy(clip: Clip, world: World) -> Tensor:
    """How often the domain of a picture is named right, in each cell: (C, K)."""
    scores = F.normalize(embed(clip, world), dim=-1) @ embed_domains(clip, world.vocabulary.domains).T
    return accuracy_matrix(scores.argmax(1), world, world.domains)


def macro(matrix: Tensor, mask: Tensor | None = None) -> float:
    """Mean over the cells of `mask` that hold pictures (all cells by default); NaN if there are none."""
    values = matrix if mask is None else matrix[mask]
    return float(values.nanmean())


def rates(before: Tensor, after: Tensor, forget: Tensor) -> dict[str, float]:
    """What an edit did, from two accuracy matrices (C, K) and the mask of forgotten cells; means are over cells.

    forgetting_rate: (A_F - A'_F) / A_F, the share of the accuracy on forgotten cells that is gone. Where whole domains
        go, guessing is all that can be left: the share of the way to chance, min(1, (A_F - A'_F) / (A_F - 1/C)).
        NaN where the forgotten cells hold no pictures or there was nothing to lose.
    The drops are in percentage points; a negative one is a gain:
    retain_drop: mean over kept cells;  worst_cell_drop: the largest of them;
    sibling_class_drop: over kept cells of a forgotten class (photo dogs when line-drawn dogs go);
    sibling_domain_drop: over kept cells of a forgotten domain (line-drawn cats). NaN where there are no such cells.
    """
    drop, kept = 100 * (before - after), ~forget
    same_class, same_domain = forget.any(1, keepdim=True), forget.any(0, keepdim=True)
    whole_classes, whole_domains = (bool((forget.all(i) == forget.any(i)).all()) for i in (1, 0))
    selective = not whole_classes and not whole_domains
    a, a_after, floor = macro(before, forget), macro(after, forget), 1 / len(forget) if whole_domains else 0.0
    worst = drop[kept]
    return {"forgetting_rate": min(1.0, (a - a_after) / (a - floor)) if a > floor else float("nan"),
            "retain_drop": macro(drop, kept),
            "sibling_class_drop": macro(drop, kept & same_class) if selective else float("nan"),
            "sibling_domain_drop": macro(drop, kept & same_domain) if selective else float("nan"),
            "worst_cell_drop": max(worst[~worst.isnan()].tolist(), default=float("nan"))}


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, `right` of `n`, after Wilson (1927): within [0, 1], and sensible for small n."""
    if at_least("right", right, 0) > at_least("n", n, 1):
        raise ValueError(f"right: {right} of {n}; expected at most n")
    found = stats.binomtest(right, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Accuracy before and after an edit, and the rates drawn from it."""

    before: Tensor                    # (C, K)
    after: Tensor                     # (C, K)
    forget: Tensor                    # (C, K) bool
    world: World
    request: Forget
    prompts: str

    @property
    def rates(self) -> dict[str, float]:
        return rates(self.before, self.after, self.forget)

    def __str__(self) -> str:
        r = self.rates
        lines = [f"forget {self.request}: {100 * macro(self.before, self.forget):.1f} % -> "
                 f"{100 * macro(self.after, self.forget):.1f} % right on forgotten cells, prompts {self.prompts!r}, "
                 f"{len(self.world)} pictures"]
        lines += [f"  {name.replace('_', ' '):20} {value:8.3f}" + ("" if name == "forgetting_rate" else " points")
                  for name, value in r.items() if value == value]
        return "\n".join(lines)


def compare(clip: Clip, after: Clip, world: World, forget: Forget, prompts: str = "free") -> Comparison:
    """Evaluate `clip` and the edited `after` on the same pictures and prompts.

    All class names stay candidates. Prompts of "free" and "domain" are disjoint from those that build edits.
    """
    mask = forget.mask(world.vocabulary)
    return Comparison(zero_shot(clip, world, prompts), zero_shot(after, world, prompts), mask, world, forget, prompts)
