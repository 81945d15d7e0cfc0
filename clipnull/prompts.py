"""From names to text embeddings, by the prompts of `clipnull.vocabulary`."""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import at_least, distinct, expect_types, one_of
from .models import Clip
from .vocabulary import DOMAIN_PROMPTS, PROMPTS, TEMPLATES, Forget, Vocabulary, common_names, format_prompt, is_near

COMMON = 250
"""How many common words an encoder embeds."""
ALIKE = 0.3
"""Two names are nearly the same to a text tower below this share of the usual distance between names."""
NEAR = 0.5
"""From which cosine to a class on, both less their means, a word is near it."""


def embed_classes(clip: Clip, classes: Sequence[str | Sequence[str]]) -> Tensor:
    """The text classifier that names no domain, from the prompt set "free": unit rows, (C, d).

    classes: a name each, or all the names it goes by.
    """
    named = [(c,) if isinstance(c, str) else c for c in classes]
    return _means(clip, [[format_prompt(t, n) for n in names for t in TEMPLATES["free"]] for names in named])


def embed_cells(
    clip: Clip, vocabulary: Vocabulary, prompts: str = "build", rows: Sequence[int] | None = None
) -> Tensor:
    """T, the text embedding of every cell, from the prompt set "build" or "domain": unit vectors, (C, K, d).

    rows: only those of the classes at these places, (len(rows), K, d).
    """
    templates = TEMPLATES[one_of("prompts", prompts, ["build", "domain"])]
    names = vocabulary.names if rows is None else [vocabulary.names[c] for c in rows]
    groups = [[format_prompt(t, n, k) for n in group for t in templates] for group in names for k in vocabulary.domains]
    return _means(clip, groups).unflatten(0, (-1, len(vocabulary.domains)))


def embed_forms(clip: Clip, vocabulary: Vocabulary) -> Tensor | None:
    """The texts of each class in its forms, unit rows (C, F, d); None where it has none, or a file lacks them.

    F is the largest number of forms; a class of fewer has its own in turn.
    """
    if not vocabulary.forms:
        return None
    forms = [group or names for group, names in zip(vocabulary.class_forms(), vocabulary.names, strict=True)]
    if not all(clip.knows(form) for group in forms for form in group):
        return None
    most = max(map(len, forms))
    texts = clip.embed_texts([group[i % len(group)] for group in forms for i in range(most)])
    return F.normalize(texts, dim=-1).unflatten(0, (len(forms), most))


def embed_domains(clip: Clip, domains: Sequence[str]) -> Tensor:
    """The text classifier of domains, from prompts that name no object: unit rows, (K, d)."""
    return _means(clip, [[format_prompt(t, "", k) for t in DOMAIN_PROMPTS] for k in domains])


def prompt_sets(clip: Clip) -> tuple[str, ...]:
    """The prompt sets that `clip` has texts of: all, but those that a file of embeddings may lack."""
    return tuple(p for p in PROMPTS if not clip.stored or f"texts_{p}" in clip.stored.vectors)


def text_classifiers(clip: Clip, vocabulary: Vocabulary, prompts: str = "free") -> Tensor:
    """The text classifier (C, d) that a prompt set makes for the pictures of each domain: unit rows, (K, C, d).

    "free" names no domain, so that all K are the same; "domain" and "build" name the picture's own domain.
    """
    if one_of("prompts", prompts, PROMPTS) == "free":
        return embed_classes(clip, vocabulary.names).expand(len(vocabulary.domains), -1, -1)
    return embed_cells(clip, vocabulary, prompts).transpose(0, 1)


def kept_names(clip: Clip) -> list[str]:
    """The words that edits of `clip` leave alone if they are not near a class: COMMON of `vocabulary.common_names`.

    Of a file of embeddings those that it holds, as `common_names` or among its other words.
    """
    names = common_names()
    if not clip.stored:
        return list(names[:: -(-len(names) // COMMON)])
    return list(clip.stored.common_names or [name for name in names if clip.knows(_prompt_of(clip, name))])


def _prompt_of(clip: Clip, name: str) -> str:
    plain = format_prompt("{a}", name)
    return plain if clip.knows(plain) else format_prompt(TEMPLATES["free"][0], name)


def common_words(clip: Clip, vocabulary: Vocabulary, texts: Tensor | None = None) -> Tensor | None:
    """The texts of the common words that an edit leaves alone, unit rows (w, d); None for fewer than two words.

    Those of `kept_names` that are not near a class of the vocabulary, by name (`vocabulary.is_near`) or by meaning
    (NEAR): an edit that forgets dogs should not keep "beagle". texts: what `embed_cells` gave, if it is known.
    """
    names = kept_names(clip)
    if len(names) < 2:
        return None
    common = clip.embed_texts([_prompt_of(clip, name) for name in names])
    classes = F.normalize((embed_cells(clip, vocabulary) if texts is None else texts).mean(1), dim=-1)
    cosine = F.normalize(common - common.mean(0), dim=-1) @ F.normalize(classes - classes.mean(0), dim=-1).T
    far = (cosine.amax(1) < NEAR).tolist()
    rows = [i for i, name in enumerate(names) if far[i] and not is_near(name, vocabulary.classes)]
    return common[rows] if len(rows) > 1 else None


def alike_words(
    classifier: Tensor, mask: Tensor, vocabulary: Vocabulary, common: Tensor | None = None
) -> list[tuple[float, str]]:
    """Forgotten classes that the text tower hardly tells from one that stays: a ratio below ALIKE, and what to say.

    classifier: (C, d) unit rows. The ratio is to the mean distance of two names: classes and common words (w, d).
    """
    alike, texts = [], classifier if common is None else torch.cat([classifier.to(common), common])
    usual = (texts - texts.mean(0)).square().sum(1).mean().mul(2).sqrt().clamp(min=1e-9)
    for c in mask.any(1).nonzero()[:, 0].tolist():  # of a vocabulary of many names few are forgotten
        stays = (mask[c] & ~mask).any(1)
        ratio, other = ((classifier - classifier[c]).norm(dim=1) / usual).masked_fill(~stays, float("inf")).min(0)
        if ratio < ALIKE:
            pair = f"{vocabulary.classes[c]!r} from {vocabulary.classes[int(other)]!r}"
            share = f"{100 * ratio:.0f} % of the usual distance"
            alike.append((float(ratio), f"classes: the text tower hardly tells {pair} ({share})"))
    return alike


def warn_of_words(classifier: Tensor, mask: Tensor, vocabulary: Vocabulary, common: Tensor | None = None) -> None:
    """Warn of what `alike_words` finds."""
    for _, pair in alike_words(classifier, mask, vocabulary, common):
        warnings.warn(f"{pair}; expect that the other is forgotten, too, or neither", stacklevel=3)


def near(
    clip: Clip, request: Forget, vocabulary: Vocabulary, candidates: Sequence[str] | None = None, most: int = 8
) -> dict[str, list[tuple[str, float]]]:
    """The words nearest to each forgotten class in the text tower: they may answer in its place.

    candidates: words to look among, besides the vocabulary; by default `vocabulary.common_names`, or the other words of
    a file of embeddings. most: how many words for a class. Returns words with their cosine to it, both less the mean of
    all words; nearest first.

    >>> import clipnull as cn
    >>> clip = cn.load(device="cpu")
    >>> names = cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    >>> [word for word, _ in near(clip, cn.Forget(["dog"]), names, ["puppy", "kettle", "church"], most=1)["dog"]]
    ['puppy']
    """
    expect_types(clip=clip, request=request, vocabulary=vocabulary)
    at_least("most", most, 1)
    known = [name for names in vocabulary.names for name in names]
    if candidates is None:
        candidates = clip.stored.other_names or known if clip.stored else common_names()
    others = [name for name in distinct("candidates", candidates) if name not in known]
    groups = [*vocabulary.names, *((name,) for name in others)]
    texts = embed_classes(clip, groups)
    texts = F.normalize(texts - texts.mean(0), dim=-1)
    labels, nearest, mask = [*vocabulary.classes, *others], {}, request.mask(vocabulary)
    warn_of_words(texts[: len(vocabulary.classes)], mask, vocabulary, texts[len(vocabulary.classes) :])
    for c in mask.any(1).nonzero()[:, 0].tolist():
        cosines = texts @ texts[c]
        order = [i for i in cosines.argsort(descending=True).tolist() if i != c][:most]
        nearest[vocabulary.classes[c]] = [(labels[i], float(cosines[i])) for i in order]
    return nearest


def _means(clip: Clip, groups: list[list[str]]) -> Tensor:
    """The normalised mean over the prompts of each group: unit rows, (number of groups, d)."""
    texts = clip.embed_texts([text for group in groups for text in group])
    parts = texts.split([len(group) for group in groups])
    return F.normalize(torch.stack([part.sum(0) for part in parts]), dim=-1)
