"""From names to text embeddings.

T[c, k] is the normalised mean of the text embeddings of the prompts of a cell, see `clipnull.wording`.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .errors import one_of
from .models import Clip
from .wording import DOMAIN_PROMPTS, PROMPTS, TEMPLATES, Vocabulary, format_prompt


def embed_classes(clip: Clip, classes: Sequence[str]) -> Tensor:
    """The text classifier that names no domain, from the prompt set "free": unit rows, (C, d)."""
    return _mean_over_templates(clip, [[format_prompt(t, c) for t in TEMPLATES["free"]] for c in classes])


def embed_cells(clip: Clip, vocabulary: Vocabulary, prompts: str = "build") -> Tensor:
    """T, the text embedding of every cell, from the prompt set "build" or "domain": unit vectors, (C, K, d)."""
    templates = TEMPLATES[one_of("prompts", prompts, ["build", "domain"])]
    groups = [[format_prompt(t, c, k) for t in templates] for c in vocabulary.classes for k in vocabulary.domains]
    return _mean_over_templates(clip, groups).unflatten(0, vocabulary.shape)


def embed_domains(clip: Clip, domains: Sequence[str]) -> Tensor:
    """The text classifier of domains, from prompts that name no object: unit rows, (K, d)."""
    groups = [[format_prompt(t, "", k) for t in DOMAIN_PROMPTS] for k in domains]
    return _mean_over_templates(clip, groups)


def prompt_sets(clip: Clip) -> tuple[str, ...]:
    """The prompt sets that `clip` has texts of: all, but those that a file of embeddings may lack."""
    return tuple(p for p in PROMPTS if clip.encoder or f"texts_{p}" in clip.model.stored.vectors)


def can_embed(clip: Clip, text: str) -> bool:
    """Whether `clip` has an embedding of `text`: always, but of a file of embeddings for the prompts of its names."""
    tokenizer: Any = clip.tokenizer
    return clip.encoder or text in tokenizer.rows


def text_classifiers(clip: Clip, vocabulary: Vocabulary, prompts: str = "free") -> Tensor:
    """The text classifier (C, d) that a prompt set makes for the pictures of each domain: unit rows, (K, C, d).

    prompts: "free" names no domain ("a picture of a dog"), so that all K are the same; "domain" names the picture's own
        domain, in held-out wording; "build" does so in the wording that builds edits.
    """
    if one_of("prompts", prompts, PROMPTS) == "free":
        return embed_classes(clip, vocabulary.classes).expand(len(vocabulary.domains), -1, -1)
    return embed_cells(clip, vocabulary, prompts).transpose(0, 1)


def _mean_over_templates(clip: Clip, groups: list[list[str]]) -> Tensor:
    texts = clip.embed_texts([text for group in groups for text in group])
    return F.normalize(texts.view(len(groups), -1, texts.shape[-1]).mean(1), dim=-1)
