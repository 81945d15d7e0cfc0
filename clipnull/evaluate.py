"""What a model knows: the class x domain matrix of zero-shot accuracy, and what an edit changed in it."""
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import World
from .errors import one_of
from .models import Clip
from .prompts import TEMPLATES, embed_cells, embed_classes, embed_domains
from .unlearn import Forget


@lru_cache(maxsize=16)
def embed(clip: Clip, world: World) -> Tensor:
    """Embeddings z of all pictures, not normalised: (n, d) float32. Kept in memory for the same clip and world."""
    chunks = range(0, len(world), 256)
    return torch.cat([clip.embed_pixels(torch.stack([clip.preprocess(world.image(i))
                                                     for i in range(first, min(first + 256, len(world)))]))
                      for first in chunks])


def predict(clip: Clip, world: World, prompts: str = "free", features: Tensor | None = None) -> Tensor:
    """The class each picture is taken for, among all classes of the vocabulary: (n,) int64.

    prompts: "free" names no domain ("a picture of a dog"); "domain" names the picture's own domain, with held-out
        templates; "seen" does so with the templates that built the edit.
    features: embeddings to use in place of the model's own, (n, d).
    """
    one_of("prompts", prompts, ["free", "domain", "seen"])
    z = F.normalize(embed(clip, world) if features is None else features, dim=-1)
    if prompts == "free":
        return (z @ embed_classes(clip, world.vocabulary.classes).T).argmax(1)
    cells = embed_cells(clip, world.vocabulary, "build" if prompts == "seen" else prompts)      # (C, K, d)
    return torch.einsum("nd,cnd->nc", z, cells[:, world.domains]).argmax(1)


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

    forgetting_rate: (A_F - A'_F) / A_F, the share of the accuracy on forgotten cells that is gone.
    The drops are in percentage points; a negative one is a gain:
    retain_drop: mean over kept cells;  worst_cell_drop: the largest of them;
    sibling_class_drop: over kept cells of a forgotten class (photo dogs when line-drawn dogs go);
    sibling_domain_drop: over kept cells of a forgotten domain (line-drawn cats). NaN where there are no such cells.
    """
    drop, kept = 100 * (before - after), ~forget
    same_class, same_domain = forget.any(1, keepdim=True), forget.any(0, keepdim=True)
    a = macro(before, forget)
    worst = drop[kept]
    selective = not (forget.all(1) == forget.any(1)).all() and not (forget.all(0) == forget.any(0)).all()
    return {"forgetting_rate": (a - macro(after, forget)) / a if a else float("nan"),
            "retain_drop": macro(drop, kept),
            "sibling_class_drop": macro(drop, kept & same_class) if selective else float("nan"),
            "sibling_domain_drop": macro(drop, kept & same_domain) if selective else float("nan"),
            "worst_cell_drop": float(worst[~worst.isnan()].max())}


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
    one_of("prompts", prompts, [*(p for p in TEMPLATES if p != "build"), "seen"])
    return Comparison(zero_shot(clip, world, prompts), zero_shot(after, world, prompts),
                      forget.mask(world.vocabulary), world, forget, prompts)
