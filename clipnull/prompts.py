"""From cells to text embeddings.

A *cell* is a (class, domain) pair. T[c, k] is the normalised mean of the text embeddings of the cell's prompts.
The prompts that *build* an edit are disjoint from those that *evaluate* it: zeroing the very prompt one then
measures with proves nothing.
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .errors import names, one_of
from .models import Clip

TEMPLATES = {
    "build": ("a {d} of {a}", "{a} in {d} style", "the {d} of {a}", "a {d} showing {a}", "{a}, {d}"),
    "free": ("a picture of {a}",),                                        # no domain: what zero-shot users type
    "domain": ("this {d} depicts {a}", "a picture of {a}, drawn as a {d}"),
}
"""{a} is the class with its article, {d} the domain's phrase. "free" and "domain" are for evaluation only."""

DOMAIN_PHRASES = {"art_painting": "painting", "line": "line drawing", "silhouette": "silhouette", "flat": "flat icon",
                  "shaded": "shaded icon", "3d": "3d render", "pixel": "pixel art", "real": "photo",
                  "Real World": "photo", "Art": "painting", "Clipart": "clip art", "Product": "product photo",
                  "clipart": "clip art", "infograph": "infographic", "quickdraw": "quick drawing"}
"""How folder names of well-known data sets are said; any other name is said as it is, underscores as spaces."""


@dataclass(frozen=True)
class Vocabulary:
    """The names a model is asked about: `classes` (C of them) and `domains` (K)."""

    classes: tuple[str, ...]
    domains: tuple[str, ...]

    def __post_init__(self) -> None:
        for argument in ("classes", "domains"):
            values = getattr(self, argument)
            names(argument, values, values)
            object.__setattr__(self, argument, tuple(values))
        if len(self.classes) < 2:
            raise ValueError(f"classes: only {self.classes[0]!r} given; expected at least two to choose between")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.classes), len(self.domains)


def say(template: str, class_name: str, domain: str = "") -> str:
    """The prompt a template makes of a class and a domain: `say("a {d} of {a}", "dog", "line")`."""
    noun = class_name.replace("_", " ")
    article = "an" if noun[:1].lower() in "aeiou" else "a"
    phrase = DOMAIN_PHRASES.get(domain, domain.replace("_", " "))
    text = template.format(a=f"{article} {noun}", n=noun, d=phrase)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def embed_classes(clip: Clip, classes: Sequence[str], prompts: str = "free") -> Tensor:
    """Zero-shot classifier without domains: unit rows, (C, d)."""
    templates = TEMPLATES[one_of("prompts", prompts, ["free"])]
    return _mean_over_templates(clip, [[say(t, c) for t in templates] for c in classes])


def embed_cells(clip: Clip, vocabulary: Vocabulary, prompts: str = "build") -> Tensor:
    """T, the text embedding of every cell: unit vectors, (C, K, d)."""
    templates = TEMPLATES[one_of("prompts", prompts, ["build", "domain"])]
    cells = [[say(t, c, k) for t in templates] for c in vocabulary.classes for k in vocabulary.domains]
    return _mean_over_templates(clip, cells).unflatten(0, vocabulary.shape)


def embed_domains(clip: Clip, domains: Sequence[str]) -> Tensor:
    """Zero-shot classifier of domains, from prompts that name no object: unit rows, (K, d)."""
    return _mean_over_templates(clip, [[say(t, "", k) for t in ("a {d}", "this is a {d}")] for k in domains])


def _mean_over_templates(clip: Clip, groups: list[list[str]]) -> Tensor:
    texts = clip.embed_texts([text for group in groups for text in group])
    return F.normalize(texts.view(len(groups), -1, texts.shape[-1]).mean(1), dim=-1)
