"""What every question of an audit is asked about: models, pictures, and which of these are forgotten."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluate import classify
from ..images import Images
from ..models import Clip
from ..prompts import embed_classes
from ..vocabulary import Forget

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Case:
    """Models and n pictures that all of them can read.

    Attributes
    ----------
    models : dict of str to Clip
        "unedited", "edited", and "clean" where there is one.
    images : Images
    request : Forget
    features : dict of str to (n, d) float32
        Embeddings of the pictures under each model.
    texts : dict of str to (C, d)
        The text classifier of each model, from free prompts.
    families : list of n str
        Design families: what must not be on both sides of a probe.
    seed : int
    known : dict
        What `each` has computed of the models that are no edit, kept for the next edit.
    """

    models: dict[str, Clip]
    images: Images
    request: Forget
    features: dict[str, Tensor]
    texts: dict[str, Tensor]
    families: list[str]
    seed: int
    known: dict[tuple[str, str], Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        models: dict[str, Clip],
        images: Images,
        request: Forget,
        features: dict[str, Tensor],
        families: list[str],
        seed: int,
        known: dict[tuple[str, str], Any] | None = None,
    ) -> "Case":
        texts = {name: embed_classes(clip, images.vocabulary.names) for name, clip in models.items()}
        return cls(models, images, request, features, texts, families, seed, {} if known is None else known)

    def each(self, what: str, function: Callable[[str], T]) -> dict[str, T]:
        """`function` of the name of each model; of the unedited and the clean one, once for all edits."""
        found = {}
        for name in self.models:
            if name == "edited":
                found[name] = function(name)
                continue
            if (what, name) not in self.known:
                self.known[what, name] = function(name)
            found[name] = self.known[what, name]
        return found

    @property
    def mask(self) -> Tensor:
        """The forgotten cells, (C, K) bool."""
        return self.request.mask(self.images.vocabulary)

    @property
    def inside(self) -> Tensor:
        """The forgotten pictures, (n,) bool."""
        return self.mask[self.images.classes, self.images.domains]

    @property
    def forgotten(self) -> list[int]:
        """The classes with a forgotten cell."""
        return self.mask.any(1).nonzero()[:, 0].tolist()

    def unit(self, model: str) -> Tensor:
        return F.normalize(self.features[model].double(), dim=-1)

    def answers(self, model: str, classifier: Tensor | None = None) -> Tensor:
        """The class that each picture is classified as, (n,). classifier: (C, d) or (K, C, d); else free prompts."""
        own = self.texts[model] if classifier is None else classifier
        return classify(self.features[model], own, self.images.domains)

    def right(self, predicted: Tensor, where: Tensor | None = None) -> float:
        """Percent of the forgotten pictures (or those of `where`) that are classified right; cells count the same."""
        chosen = self.inside if where is None else where
        k = self.images.vocabulary.shape[1]
        cell = (self.images.classes * k + self.images.domains)[chosen]
        hit = (predicted == self.images.classes)[chosen].double()
        shares = [hit[cell == c].mean() for c in cell.unique()]
        return 100 * float(torch.stack(shares).mean()) if shares else float("nan")
