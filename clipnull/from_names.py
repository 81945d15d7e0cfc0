"""From names to cells: the texts of a vocabulary, and prototypes carried over to all of it."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import at_least, expect_types
from .methods.cells import Cells
from .models import Clip
from .prompts import common_words, embed_cells, embed_domains, embed_forms
from .prototypes import Prototypes, are_made, cell_prototypes
from .vocabulary import Vocabulary

MAX_PROTOTYPES = 64
"""Prototypes that are synthesized for a vocabulary, at least two for each domain (`chosen_cells`).

Two did as well as all on the train splits of miniworld and PACS; of one the share in `carried` cannot be learnt."""

ALIKE = 0.8
"""Domains are alike if this share of their cells or fewer is named right by the names of the domains."""


def embed_vocabulary(
    clip: Clip, vocabulary: Vocabulary, prototypes: Prototypes | bool | int | None = True, mean: Tensor | None = None
) -> Cells:
    """The embeddings of the cells of `vocabulary`, from their names alone.

    clip: where it is edited, its prototypes are those of its base, edited. vocabulary: C classes and K domains.
    prototypes: True synthesizes pictures of at most MAX_PROTOTYPES cells, a second or so each on two cores, once, and
    carries the others over (`carried`). A number: of at most so many cells. False or None: texts only, at once. Or what
    `cell_prototypes` gave, two or more in each domain. mean: (d,), the mean of picture embeddings, such as those of an
    index of yours; by default that of the prototypes, or of a file.

    >>> import clipnull as cn
    >>> names = cn.Vocabulary(["cat", "dog"], ["photo", "line", "flat"])
    >>> cn.embed_vocabulary(cn.load(device="cpu"), names, prototypes=False).texts.shape
    torch.Size([2, 3, 256])
    """
    expect_types(clip=clip, vocabulary=vocabulary)
    texts = embed_cells(clip, vocabulary)
    common = common_words(clip, vocabulary, texts)
    domains = embed_domains(clip, vocabulary.domains) + F.normalize(texts.mean(0), dim=-1)
    forms = embed_forms(clip, vocabulary)
    pictures = prototypes if isinstance(prototypes, Prototypes) else None
    if pictures is None and prototypes:
        most = MAX_PROTOTYPES if prototypes is True else at_least("prototypes", prototypes, 0)
        base = clip.base or clip
        whole = base.stored or prototypes is True and are_made(base, vocabulary)
        pictures = prototypes_of(base, vocabulary, mask=None if whole else chosen_cells(vocabulary.shape, most))
    if pictures is None:
        if mean is None and clip.stored:
            mean = clip.stored.vectors.get("image_mean")
        return Cells(texts, None, domains, common, mean, forms)
    if few := [name for name, n in zip(vocabulary.domains, pictures.mask.sum(0), strict=True) if n < 2]:
        raise ValueError(f"prototypes: less than two in {', '.join(few)}; expected two or more in each domain")
    v = F.normalize(clip.edited(pictures.embeddings.flatten(0, 1)), dim=-1).view_as(texts)
    return Cells(texts, carried(texts, v, pictures.mask), domains, common, mean, forms)


def carried(texts: Tensor, pictures: Tensor, mask: Tensor) -> Tensor:
    """`pictures` (C, K, d) where `mask` (C, K) has one, and elsewhere the text of the cell, carried over.

    A text is carried across the modality gap domain by domain: v = normalize(mean v_k + s (t - mean t_k)), means over
    the cells of `mask` in domain k; s, the share of the contrast of texts that pictures show, is fitted to them.
    """
    if mask.all():
        return pictures
    weights = mask.to(texts.dtype)[..., None] / mask.sum(0).clamp(min=1)[:, None]  # (C, K, 1)
    t = texts - (weights * texts).sum(0)
    middle = (weights * pictures).sum(0)
    scale = ((pictures - middle) * t)[mask].sum() / t[mask].square().sum().clamp(min=1e-12)
    return torch.where(mask[..., None], pictures, F.normalize(middle + scale * t, dim=-1))


def chosen_cells(shape: tuple[int, int], most: int = MAX_PROTOTYPES) -> Tensor:
    """Which cells of a vocabulary get a prototype: (C, K) bool, as many in each domain, taking classes in turn."""
    classes, domains = shape
    each = min(classes, max(2, most // domains))
    start = torch.arange(domains) / domains
    rows = (torch.arange(each)[:, None] + start) * classes / each  # (each, K), distinct in each column
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[rows.long() % classes, torch.arange(domains)] = True
    return mask


def prototypes_of(clip: Clip, vocabulary: Vocabulary, **settings: Any) -> Prototypes | None:
    """What `prototypes.cell_prototypes` gives, with its settings; None for a file with less than two in some domain."""
    if clip.stored and (vocabulary != clip.stored.vocabulary or int(clip.stored.mask.sum(0).min()) < 2):
        return None
    return cell_prototypes(clip, vocabulary, **settings)


def warn_of_alike(cells: Cells, mask: Tensor, vocabulary: Vocabulary) -> None:
    """Warn of domains that a request tells apart but no prompt or prototype does, with the loss to expect."""
    if (mask.any(1) == mask.all(1)).all() and not mask.all(0).any():
        return  # whole classes: domains do not matter
    s = cells.domain_directions
    middle = s @ cells.domain_origin if cells.prototypes is not None else 0  # which is that of pictures
    named = (cells.pictures @ s.T - middle).argmax(2)  # (C, K)
    right = (named == torch.arange(len(s))).double().mean(0)
    distance, nearest = torch.cdist(s, s).fill_diagonal_(9).min(1)
    for k in ((right <= ALIKE) | (distance < 0.2)).nonzero()[:, 0].tolist():
        if mask[:, [k, int(nearest[k])]].any():
            loss = 50 if distance[k] < 0.2 else 100 * (1 - float(right[k]))
            warnings.warn(
                f"domains: {vocabulary.domains[k]!r} is hardly told from {vocabulary.domains[nearest[k]]!r}; expect a "
                f"loss of about {loss:.0f} % of what is to be kept there, or as much that is not forgotten",
                stacklevel=3,
            )
