"""Text embeddings of names, from the prompts of `clipnull.vocabulary`."""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import at_least, distinct, expect_types, one_of
from .models import Clip
from .vocabulary import DOMAIN_PROMPTS, PROMPTS, TEMPLATES, Forget, Vocabulary, common_names, format_prompt, is_near

COMMON = 250  # common words that an encoder embeds
ALIKE = 0.3
"""Two names count as alike if their distance is below this share of the usual distance between names."""
NEAR = 0.5
"""A word counts as near a class from this centred cosine upward."""


def embed_classes(clip: Clip, classes: Sequence[str | Sequence[str]]) -> Tensor:
    """Return the text classifier of the prompt set "free", which names no domain: unit rows, (C, d).

    classes: one name, or several to average, for each class.
    """
    groups = [(c,) if isinstance(c, str) else c for c in classes]
    return _means(clip, [[format_prompt(t, name) for name in group for t in TEMPLATES["free"]] for group in groups])


def embed_cells(
    clip: Clip, vocabulary: Vocabulary, prompts: str = "build", rows: Sequence[int] | None = None
) -> Tensor:
    """Embed the text of every (class, domain) cell by the prompt set "build" or "domain": unit vectors, (C, K, d).

    rows: indices of the classes to embed; by default all.
    """
    templates = TEMPLATES[one_of("prompts", prompts, ["build", "domain"])]
    names = vocabulary.names if rows is None else [vocabulary.names[c] for c in rows]
    groups = [[format_prompt(t, n, k) for n in group for t in templates] for group in names for k in vocabulary.domains]
    return _means(clip, groups).unflatten(0, (-1, len(vocabulary.domains)))


def embed_forms(clip: Clip, vocabulary: Vocabulary) -> Tensor | None:
    """Embed the forms of each class: unit rows (C, F, d), or None without `vocabulary.forms` or if a file lacks some.

    F is the largest number of forms. A class with fewer repeats them.
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
    """Return the text classifier of domains, from prompts that name no object: unit rows, (K, d)."""
    return _means(clip, [[format_prompt(t, "", k) for t in DOMAIN_PROMPTS] for k in domains])


def prompt_sets(clip: Clip) -> tuple[str, ...]:
    """Return the prompt sets that `clip` can embed. A file of embeddings may lack some."""
    return tuple(p for p in PROMPTS if not clip.stored or f"texts_{p}" in clip.stored.vectors)


def text_classifiers(clip: Clip, vocabulary: Vocabulary, prompts: str = "free") -> Tensor:
    """Return the text classifier (C, d) for the pictures of each domain: unit rows, (K, C, d).

    prompts: "free" names no domain, so all K classifiers are equal; "domain" and "build" name the pictures' domain.
    """
    if one_of("prompts", prompts, PROMPTS) == "free":
        return embed_classes(clip, vocabulary.names).expand(len(vocabulary.domains), -1, -1)
    return embed_cells(clip, vocabulary, prompts).transpose(0, 1)


def kept_names(clip: Clip) -> list[str]:
    """Return the words that edits of `clip` keep unless they are near a class: COMMON of `vocabulary.common_names`.

    A file of embeddings supplies its own: its `common_names`, or else those of `vocabulary.common_names` that it holds.
    """
    names = common_names()
    if not clip.stored:
        return list(names[:: -(-len(names) // COMMON)])
    return list(clip.stored.common_names or [name for name in names if clip.knows(_prompt_of(clip, name))])


def _prompt_of(clip: Clip, name: str) -> str:
    plain = format_prompt("{a}", name)
    return plain if clip.knows(plain) else format_prompt(TEMPLATES["free"][0], name)


def common_words(clip: Clip, vocabulary: Vocabulary, texts: Tensor | None = None) -> Tensor | None:
    """Embed the common words that an edit keeps: unit rows (w, d), or None for fewer than two words.

    Words near a class, by name (`vocabulary.is_near`) or by meaning (NEAR), are left out: an edit that forgets dogs
    should not keep "beagle". texts: embeddings of the cells; by default `embed_cells(clip, vocabulary)`.
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
    """Find forgotten classes that the text tower barely distinguishes from a kept class.

    Return a ratio and a message for each. The ratio is the distance of the two classes over the mean distance of two
    names, and is below ALIKE. classifier: unit rows (C, d). common: embeddings of further names, (w, d).
    """
    alike, texts = [], classifier if common is None else torch.cat([classifier.to(common), common])
    usual = (texts - texts.mean(0)).square().sum(1).mean().mul(2).sqrt().clamp(min=1e-9)
    for c in mask.any(1).nonzero()[:, 0].tolist():  # a loop, as few of many classes are forgotten
        is_kept = (mask[c] & ~mask).any(1)
        ratio, other = ((classifier - classifier[c]).norm(dim=1) / usual).masked_fill(~is_kept, float("inf")).min(0)
        if ratio < ALIKE:
            pair = f"{vocabulary.classes[c]!r} from {vocabulary.classes[int(other)]!r}"
            share = f"{100 * ratio:.0f} % of the usual distance"
            alike.append((float(ratio), f"classes: the text tower barely distinguishes {pair} ({share})"))
    return alike


def warn_of_words(classifier: Tensor, mask: Tensor, vocabulary: Vocabulary, common: Tensor | None = None) -> None:
    """Warn about each class that `alike_words` finds."""
    for _, message in alike_words(classifier, mask, vocabulary, common):
        warnings.warn(f"{message}; expect both or neither to be forgotten", stacklevel=3)


def near(
    clip: Clip, request: Forget, vocabulary: Vocabulary, candidates: Sequence[str] | None = None, most: int = 8
) -> dict[str, list[tuple[str, float]]]:
    """Find the words nearest to each forgotten class in the text tower. They may answer in its place.

    Return words with their centred cosine to the class, nearest first. candidates: words to rank besides the other
    classes; by default `vocabulary.common_names`, or the other words of a file of embeddings. most: words per class.

    >>> import clipnull as cn
    >>> clip = cn.load(device="cpu")
    >>> names = cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    >>> [word for word, _ in near(clip, cn.Forget(["dog"]), names, ["puppy", "kettle", "church"], most=1)["dog"]]
    ['puppy']
    """
    expect_types(clip=clip, request=request, vocabulary=vocabulary)
    at_least("most", most, 1)
    names = [name for group in vocabulary.names for name in group]
    if candidates is None:
        candidates = clip.stored.other_names or names if clip.stored else common_names()
    words = [name for name in distinct("candidates", candidates) if name not in names]
    texts = embed_classes(clip, [*vocabulary.names, *words])
    texts = F.normalize(texts - texts.mean(0), dim=-1)
    mask, n = request.mask(vocabulary), len(vocabulary.classes)
    warn_of_words(texts[:n], mask, vocabulary, texts[n:])
    labels, nearest = [*vocabulary.classes, *words], {}
    for c in mask.any(1).nonzero()[:, 0].tolist():
        cosines = texts @ texts[c]
        order = [i for i in cosines.argsort(descending=True).tolist() if i != c][:most]
        nearest[labels[c]] = [(labels[i], float(cosines[i])) for i in order]
    return nearest


def _means(clip: Clip, groups: list[list[str]]) -> Tensor:
    """Return the normalised mean embedding of each group of prompts: unit rows, (number of groups, d)."""
    texts = clip.embed_texts([text for group in groups for text in group])
    parts = texts.split([len(group) for group in groups])
    return F.normalize(torch.stack([part.sum(0) for part in parts]), dim=-1)
