"""A request and a method give an edit, from names alone."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .edit import Edit, history
from .errors import at_least, brief, one_of
from .forecasting.calibration import aims, at_chance, validate_aim
from .forecasting.outlook import Budget, Outlook, choose, validate_words
from .methods import METHODS, solve
from .methods.cells import Cells
from .models import Clip
from .prompts import common_words, embed_cells, embed_domains, text_classifiers
from .prototypes import Prototypes, are_made, cell_prototypes
from .vocabulary import Forget, Vocabulary

AUTO, BUDGET = "auto", "forget >= .95, worst drop <= 5"

MOST = 64
"""Prototypes that are synthesized for a vocabulary, at least two for each domain (`chosen_cells`).

Two did as well as all, on the train splits of miniworld (12 of 84 cells) and PACS (8 of 28); one did not: what pictures
show of the contrast of texts cannot be learnt from it."""


def embed_vocabulary(
    clip: Clip, vocabulary: Vocabulary, prototypes: Prototypes | bool | int | None = True, mean: Tensor | None = None
) -> Cells:
    """What `clip` makes of the cells of `vocabulary`, from their names alone.

    Parameters
    ----------
    clip : Clip
        Where it is edited, its prototypes are those of its base, edited.
    vocabulary : Vocabulary
        C classes and K domains.
    prototypes : bool, int or Prototypes
        True: synthesized pictures of the cells, by gradient ascent on pixels, of at most MOST of them; the others are
        carried over (`carried`). That is done once for a model and a vocabulary, takes a second or so a cell on two
        cores, is told on standard error, and is kept in the cache folder (`files.cache_path`); those of miniclip for
        the names of miniworld and PACS come with it, all of them. False or None: texts only, at once. Or what
        `prototypes.cell_prototypes` gave, with two cells or more in each domain. Of a file of embeddings: its own,
        if it has as many. A number in place of True: of at most so many cells, and two in each domain.
    mean : (d,), optional
        The mean of picture embeddings, such as those of an index of yours. By default that of the prototypes; without
        them, `image_mean` of a file of embeddings. What it is used for: `Cells.domain_origin`.

    Returns
    -------
    Cells
        Unit embeddings (C, K, d), and texts of common words that edits are to leave alone (`prompts.common_words`).

    Raises
    ------
    ValueError
        If `prototypes` leave a domain with less than two, and for a `mean` of another width.
    OSError
        If prototypes have to be made and the cache folder cannot be written.

    Examples
    --------
    >>> import clipnull as cn
    >>> names = cn.Vocabulary(["cat", "dog"], ["photo", "line", "flat"])
    >>> cn.embed_vocabulary(cn.load(device="cpu"), names, prototypes=False).texts.shape
    torch.Size([2, 3, 256])
    """
    texts = embed_cells(clip, vocabulary)
    common = common_words(clip, vocabulary, texts)
    domains = embed_domains(clip, vocabulary.domains) + F.normalize(texts.mean(0), dim=-1)
    made = prototypes if isinstance(prototypes, Prototypes) else None
    if isinstance(prototypes, bool | int) and prototypes:
        most = MOST if prototypes is True else at_least("prototypes", prototypes, 0)
        base, all_made = clip.base or clip, prototypes is True and are_made(clip.base or clip, vocabulary)
        few = None if not clip.encoder or all_made else chosen_cells(vocabulary.shape, most)
        made = prototypes_of(base, vocabulary, mask=few)
    if mean is None and made is None and not clip.encoder:
        mean = clip.model.stored.vectors.get("image_mean")
    if made is None:
        return Cells(texts, None, domains, common, mean)
    if int(made.mask.sum(0).min()) < 2:
        few = [name for name, n in zip(vocabulary.domains, made.mask.sum(0).tolist(), strict=True) if n < 2]
        raise ValueError(f"prototypes: less than two in {', '.join(few)}; expected two or more in each domain")
    v = made.embeddings.flatten(0, 1)
    for edit in clip.edits:
        v = edit.images(v)
    return Cells(texts, carried(texts, F.normalize(v, dim=-1).view_as(texts), made.mask), domains, common, mean)


def carried(texts: Tensor, pictures: Tensor, mask: Tensor) -> Tensor:
    """`pictures` (C, K, d), where `mask` (C, K) has one, and elsewhere what the text of the cell becomes as a picture.

    A text is carried across the modality gap domain by domain: v = normalize(mean v_k + s (t - mean t_k)), means over
    the cells of `mask` in domain k; s, how much of the contrast of texts pictures show, is fitted to them.
    """
    if mask.all():
        return pictures
    weights = mask.to(texts.dtype)[..., None] / mask.sum(0).clamp(min=1)[:, None]  # (C, K, 1)
    t = texts - (weights * texts).sum(0)
    middle = (weights * pictures).sum(0)
    scale = ((pictures - middle) * t)[mask].sum() / t[mask].square().sum().clamp(min=1e-12)
    return torch.where(mask[..., None], pictures, F.normalize(middle + scale * t, dim=-1))


def chosen_cells(shape: tuple[int, int], most: int = MOST) -> Tensor:
    """Which cells of a vocabulary get a prototype: (C, K) bool, as many in each domain, classes taken in turn."""
    classes, domains = shape
    each = min(classes, max(2, most // domains))
    start = torch.arange(domains) / domains
    rows = (torch.arange(each)[:, None] + start) * classes / each  # (each, K), distinct in each column
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[rows.long() % classes, torch.arange(domains)] = True
    return mask


def prototypes_of(clip: Clip, vocabulary: Vocabulary, **settings: Any) -> Prototypes | None:
    """What `prototypes.cell_prototypes` gives, with its settings; None for a file with less than two in some domain."""
    if not clip.encoder:
        own = clip.model.stored
        if vocabulary != own.vocabulary or int(own.mask.sum(0).min()) < 2:
            return None
    return cell_prototypes(clip, vocabulary, **settings)


ALIKE = 0.8
"""Domains are alike if this share of their cells or fewer is named right by what names the domains."""


def warn_of_alike(cells: Cells, mask: Tensor, vocabulary: Vocabulary) -> None:
    """Warn of domains that a request tells apart and that no prompt or prototype does, with the loss to expect."""
    apart = mask.any(0)
    if (mask.any(1) == mask.all(1)).all() and not mask.all(0).any():
        return  # whole classes: domains do not matter
    s = cells.domain_directions
    middle = s @ cells.domain_origin if cells.prototypes is not None else 0  # which is that of pictures
    named = (cells.pictures @ s.T - middle).argmax(2)  # (C, K)
    right = (named == torch.arange(len(s))).double().mean(0)
    twins = torch.cdist(s, s).fill_diagonal_(9).amin(1) < 0.2
    for k in ((right <= ALIKE) | twins).nonzero()[:, 0].tolist():
        other = int(torch.cdist(s[k : k + 1], s)[0].index_fill(0, torch.tensor([k]), 9).argmin())
        if apart[k] or apart[other]:
            loss = 50 if twins[k] else 100 * (1 - float(right[k]))
            warnings.warn(
                f"domains: {vocabulary.domains[k]!r} is hardly told from {vocabulary.domains[other]!r}; expect a loss "
                f"of about {loss:.0f} % of what is to be kept there, or as much that is not forgotten",
                stacklevel=3,
            )


def validate_choice(method: str, budget: str | None, settings: Mapping[str, object]) -> Budget | None:
    """The budget of "auto", None of another method. Raises ValueError for what does not go together."""
    one_of("method", method, [*METHODS, AUTO])
    if method != AUTO:
        if budget is not None:
            raise ValueError(f"budget: {brief(budget)} given with method {method!r}; expected method='auto'")
        return None
    if settings:
        raise ValueError(f"settings: {', '.join(settings)} given with method 'auto'; expected none, as it chooses them")
    return Budget(BUDGET if budget is None else budget)


def outlook_of(
    clip: Clip,
    vocabulary: Vocabulary,
    cells: Cells,
    prototypes: Prototypes | bool | int | None = True,
    mean: Tensor | None = None,
    prompts: str = "free",
) -> Outlook:
    """What forecasts for `clip` are made of. cells: its own, of `embed_vocabulary` with the same arguments."""
    plain = embed_vocabulary(clip.base, vocabulary, prototypes, mean) if clip.edits and clip.base else cells
    return Outlook(plain, text_classifiers(clip, vocabulary, prompts), [edit.images for edit in clip.edits])


def unlearn(
    clip: Clip,
    request: Forget,
    vocabulary: Vocabulary,
    method: str = "nullspace",
    prototypes: Prototypes | bool | int | None = True,
    mean: Tensor | None = None,
    budget: str | None = None,
    **settings: Any,
) -> Edit:
    """The edit that makes `clip` forget `request`, from the names in `vocabulary` alone.

    Parameters
    ----------
    clip : Clip
        For an edited one, the edit is made to come after those it has, and no other model takes it.
    request : Forget
        Of names in `vocabulary`.
    vocabulary : Vocabulary
        What else there is: all cells that are not forgotten are to be kept.
    method : str
        One of METHODS. "nullspace" is the paper's; "ridge" is CCUP's; "residual", "oblique", "neuron" and "gated" are
        ours. Or "auto": the method and strength that are worth most by the forecast (`cn.forecast`) within `budget`.
    prototypes : bool, int or Prototypes
        See `embed_vocabulary`: by default, pictures of up to MOST cells are synthesized once, which may take minutes.
    mean : (d,), optional
        The mean of picture embeddings, see `embed_vocabulary`.
    budget : str, optional
        What "auto" must keep to, see `clipnull.forecasting.outlook`; by default "forget >= .95, worst drop <= 5".
    **settings
        Those of the method; their defaults are one set for all models and data, chosen on the train splits of miniworld
        and PACS. "auto" takes none. strength="chance", of "oblique", "neuron" and "gated": the strength at which a
        forgotten picture is expected to be named by chance where only two names may be given, see
        `clipnull.forecasting.calibration`.

    Returns
    -------
    Edit
        With the request and the fingerprint of the model.

    Raises
    ------
    ValueError
        For unknown names, methods or settings, with near ones, and if nothing would be kept; for a budget that
        contradicts itself or that no method is expected to keep to; for a strength "chance" that cannot be reached.

    Warns
    -----
    UserWarning
        For domains that no prompt or prototype tells apart.

    Notes
    -----
    The model is not trained and no picture is read. The paper: arXiv 2512.14113.

    Examples
    --------
    >>> import clipnull as cn
    >>> clip = cn.load(device="cpu")
    >>> names = cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    >>> edit = cn.unlearn(clip, cn.Forget(["dog"], ["line"]), names, method="oblique", prototypes=False)
    >>> print(edit.request, "-", edit.method, "of rank", edit.rank)
    dog in line - oblique of rank 1
    """
    mask = request.mask(vocabulary)
    limits = validate_choice(method, budget, settings)
    validate_aim(method, mask, settings)
    cells = embed_vocabulary(clip, vocabulary, prototypes, mean)
    warn_of_alike(cells, mask, vocabulary)
    if limits or aims(settings):
        cells.validate(mask)
        outlook = outlook_of(clip, vocabulary, cells, prototypes, mean)
        validate_words(cells, outlook.classifiers.mean(0), mask, vocabulary)
        if limits:
            edit, _ = choose(cells, mask, request, limits, outlook)
        else:
            edit = solve(cells, mask, method, **at_chance(method, cells, mask, outlook, vocabulary, settings))
    else:
        edit = solve(cells, mask, method, **settings)
    told = {"fingerprint": clip.fingerprint, "model": clip.name, "after": history(clip.edits)}
    return replace(edit, request=request, mean_text=cells.texts.mean((0, 1)), **told)
