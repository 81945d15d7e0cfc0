"""Cells from names: text embeddings, synthesized prototypes, and prototypes inferred from texts."""

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
"""The maximum number of prototypes to synthesize for a vocabulary, but at least two per domain (`chosen_cells`).

Two did as well as all on the train splits of miniworld and PACS. One is not enough to fit the scale in `carried`."""

ALIKE = 0.8
"""A domain is ambiguous if its direction (`Cells.domain_directions`) wins in at most this share of its cells."""


def embed_vocabulary(
    clip: Clip, vocabulary: Vocabulary, prototypes: Prototypes | bool | int | None = True, mean: Tensor | None = None
) -> Cells:
    """Embed the (class, domain) cells of `vocabulary` from their names alone.

    clip: an edited model gets the prototypes of its base, edited. vocabulary: C classes and K domains. prototypes: True
    synthesizes pictures for up to MAX_PROTOTYPES cells once, in about a second each on two cores, and infers the other
    prototypes from text (`carried`). A number replaces that maximum. False or None uses texts only. You can also pass
    the result of `cell_prototypes`, with at least two per domain. mean: the mean embedding of pictures, (d,), for
    example of your index; by default the mean of the prototypes, or the one in a file of embeddings.

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
        raise ValueError(f"prototypes: fewer than two in {', '.join(few)}; expected at least two in each domain")
    v = F.normalize(clip.edited(pictures.embeddings.flatten(0, 1)), dim=-1).view_as(texts)
    return Cells(texts, carried(texts, v, pictures.mask), domains, common, mean, forms)


def carried(texts: Tensor, pictures: Tensor, mask: Tensor) -> Tensor:
    """Return `pictures` (C, K, d) where `mask` (C, K) is True, and elsewhere the cell's text moved to the pictures.

    A text t in domain k crosses the modality gap as v = normalize(mean v_k + s (t - mean t_k)), with means over the
    cells of `mask` in domain k. The scale s is fitted on these cells, as pictures differ less than texts.
    """
    if mask.all():
        return pictures
    weights = mask.to(texts.dtype)[..., None] / mask.sum(0).clamp(min=1)[:, None]  # (C, K, 1)
    t = texts - (weights * texts).sum(0)
    middle = (weights * pictures).sum(0)
    scale = ((pictures - middle) * t)[mask].sum() / t[mask].square().sum().clamp(min=1e-12)
    return torch.where(mask[..., None], pictures, F.normalize(middle + scale * t, dim=-1))


def chosen_cells(shape: tuple[int, int], most: int = MAX_PROTOTYPES) -> Tensor:
    """Choose the cells that get a prototype: (C, K) bool, equally many in each domain, taking classes in turn."""
    classes, domains = shape
    each = min(classes, max(2, most // domains))
    start = torch.arange(domains) / domains
    rows = (torch.arange(each)[:, None] + start) * classes / each  # (each, K), distinct in each column
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[rows.long() % classes, torch.arange(domains)] = True
    return mask


def prototypes_of(clip: Clip, vocabulary: Vocabulary, **settings: Any) -> Prototypes | None:
    """Return `cell_prototypes`; None for a file with other names, or with fewer than two of them in some domain."""
    if clip.stored and (vocabulary != clip.stored.vocabulary or int(clip.stored.mask.sum(0).min()) < 2):
        return None
    return cell_prototypes(clip, vocabulary, **settings)


def warn_of_alike(cells: Cells, mask: Tensor, vocabulary: Vocabulary) -> None:
    """Warn about domains that a request separates but prompts and prototypes cannot, with the loss to expect."""
    if (mask.any(1) == mask.all(1)).all() and not mask.all(0).any():
        return  # whole classes: domains do not matter
    s = cells.domain_directions
    origin = s @ cells.domain_origin if cells.prototypes is not None else 0  # an origin for pictures, not for texts
    answers = (cells.pictures @ s.T - origin).argmax(2)  # (C, K)
    accuracy = (answers == torch.arange(len(s))).double().mean(0)
    distance, nearest = torch.cdist(s, s).fill_diagonal_(9).min(1)
    for k in ((accuracy <= ALIKE) | (distance < 0.2)).nonzero()[:, 0].tolist():
        if mask[:, [k, int(nearest[k])]].any():
            loss = 50 if distance[k] < 0.2 else 100 * (1 - float(accuracy[k]))
            warnings.warn(
                f"domains: {vocabulary.domains[k]!r} is barely distinguished from {vocabulary.domains[nearest[k]]!r}; "
                f"expect to lose about {loss:.0f} % of what should stay there, or to keep as much that should go",
                stacklevel=3,
            )
