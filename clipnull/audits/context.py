"""What every question of an audit is asked about: models, pictures, and which of these are forgotten."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
class Context:
    """Models and n pictures that all of them can read."""

    models: dict[str, Clip]  # "unedited", "edited", and "retrained" where there is one
    images: Images
    request: Forget
    features: dict[str, Tensor]  # by model, the embeddings of the pictures: (n, d) float32
    families: list[str]  # of the n pictures: no probe may have the same family on both sides
    seed: int
    stages: dict[str, dict[str, Tensor]]  # by model, what `probes.stage_features` gives; nothing of stored embeddings
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)  # other names of forgotten classes
    known: dict[tuple[str, str], Any] = field(default_factory=dict)  # what `each` keeps for the next edit

    def each(self, what: str, function: Callable[[str], T], untouched: bool = False) -> dict[str, T]:
        """`function` of the name of each model; of the unedited and the retrained one, once for all edits.

        untouched: the edited model answers as the unedited one does.
        """
        results = {}
        for name in self.models:
            source = "unedited" if name == "edited" and untouched else name
            if source == "edited" or (what, source) not in self.known:
                self.known[what, source] = function(source)
            results[name] = self.known[what, source]
        return results

    @cached_property
    def texts(self) -> dict[str, Tensor]:
        """The text classifier of each model, from free prompts: (C, d)."""
        return {name: embed_classes(clip, self.images.vocabulary.names) for name, clip in self.models.items()}

    @cached_property
    def mask(self) -> Tensor:
        """The forgotten cells, (C, K) bool."""
        return self.request.mask(self.images.vocabulary)

    @cached_property
    def inside(self) -> Tensor:
        """The forgotten pictures, (n,) bool."""
        return self.mask[self.images.classes, self.images.domains]

    @property
    def forgotten(self) -> list[int]:
        """The classes with a forgotten cell."""
        return self.mask.any(1).nonzero()[:, 0].tolist()

    def beside(self, c: int) -> tuple[Tensor, Tensor]:
        """The forgotten pictures of class c, and those of other classes in their domains: (n,) bool each."""
        positive = self.inside & (self.images.classes == c)
        domains = torch.isin(self.images.domains, self.images.domains[positive])
        return positive, domains & (self.images.classes != c)

    def unit(self, model: str) -> Tensor:
        return F.normalize(self.features[model].double(), dim=-1)

    def scores(self, model: str) -> Tensor:
        """Cosines with all classes, (n, C)."""
        return self.unit(model).float() @ self.texts[model].T

    def answers(self, model: str, classifier: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """The class that each picture is classified as, (n,). classifier: (C, d) or (K, C, d); else free prompts."""
        texts = self.texts[model] if classifier is None else classifier
        return classify(self.features[model] if features is None else features, texts, self.images.domains)

    def right(self, predicted: Tensor, where: Tensor | None = None) -> float:
        """Percent of the forgotten pictures (or those of `where`) that are classified right; cells count the same."""
        chosen = self.inside if where is None else where
        cell = (self.images.classes * self.mask.shape[1] + self.images.domains)[chosen]
        hit = (predicted == self.images.classes)[chosen].double()
        shares = [hit[cell == c].mean() for c in cell.unique()]
        return 100 * float(torch.stack(shares).mean()) if shares else float("nan")

    @cached_property
    def usual(self) -> dict[str, float]:
        """What `right` gives for each model with the usual prompts."""
        return {model: self.right(self.answers(model)) for model in self.models}
