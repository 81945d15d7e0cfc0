"""The shared input of all questions of an audit."""

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
    """Models, and n pictures that all of them can read."""

    models: dict[str, Clip]  # "unedited", "edited" and, if there is one, "retrained"
    images: Images
    request: Forget
    features: dict[str, Tensor]  # embeddings by model, (n, d) float32
    families: list[str]  # of the n pictures; a probe never trains and tests on the same family
    seed: int
    stages: dict[str, dict[str, Tensor]]  # the result of `probes.stage_features` by model; empty for stored embeddings
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)  # other names of forgotten classes
    known: dict[tuple[str, str], Any] = field(default_factory=dict)  # results that `each` reuses for the next edit

    def each(self, key: str, function: Callable[[str], T], untouched: bool = False) -> dict[str, T]:
        """Return `function(name)` for each model; compute it once for all edits where the edit plays no part.

        untouched: the edit does not affect the result, so the edited model takes over the unedited model's.
        """
        results = {}
        for name in self.models:
            source = "unedited" if name == "edited" and untouched else name
            if source == "edited" or (key, source) not in self.known:
                self.known[key, source] = function(source)
            results[name] = self.known[key, source]
        return results

    @cached_property
    def texts(self) -> dict[str, Tensor]:
        """The text classifier of each model from free prompts, (C, d)."""
        return {name: embed_classes(clip, self.images.vocabulary.names) for name, clip in self.models.items()}

    @cached_property
    def mask(self) -> Tensor:
        """The forgotten (class, domain) cells, (C, K) bool."""
        return self.request.mask(self.images.vocabulary)

    @cached_property
    def inside(self) -> Tensor:
        """The forgotten pictures, (n,) bool."""
        return self.mask[self.images.classes, self.images.domains]

    @property
    def forgotten(self) -> list[int]:
        """The indices of classes with a forgotten cell."""
        return self.mask.any(1).nonzero()[:, 0].tolist()

    def positives_and_negatives(self, c: int) -> tuple[Tensor, Tensor]:
        """Return masks, (n,) bool, of the forgotten pictures of class c and of all other classes in their domains."""
        positive = self.inside & (self.images.classes == c)
        domains = torch.isin(self.images.domains, self.images.domains[positive])
        return positive, domains & (self.images.classes != c)

    def unit(self, model: str) -> Tensor:
        return F.normalize(self.features[model].double(), dim=-1)

    def scores(self, model: str) -> Tensor:
        """Return the cosines of all pictures with all classes, (n, C)."""
        return self.unit(model).float() @ self.texts[model].T

    def answers(self, model: str, classifier: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Classify all pictures, (n,). classifier: (C, d) or (K, C, d); free prompts by default."""
        texts = self.texts[model] if classifier is None else classifier
        return classify(self.features[model] if features is None else features, texts, self.images.domains)

    def accuracy(self, predicted: Tensor, where: Tensor | None = None) -> float:
        """Return the percent of `where` (by default the forgotten pictures) classified correctly, averaged by cell."""
        where = self.inside if where is None else where
        cell = (self.images.classes * self.mask.shape[1] + self.images.domains)[where]
        correct = (predicted == self.images.classes)[where].double()
        shares = [correct[cell == c].mean() for c in cell.unique()]
        return 100 * float(torch.stack(shares).mean()) if shares else float("nan")

    @cached_property
    def usual(self) -> dict[str, float]:
        """The accuracy of each model on the forgotten pictures with the usual prompts."""
        return {model: self.accuracy(self.answers(model)) for model in self.models}
