"""A request and a method give an edit, from names alone."""

from dataclasses import replace
from typing import Any

import torch.nn.functional as F

from .edit import Edit, history
from .errors import one_of
from .methods import METHODS, solve
from .methods.cells import Cells
from .models import Clip
from .prompts import embed_cells, embed_domains
from .prototypes import Prototypes, cell_prototypes
from .requests import Forget
from .wording import Vocabulary


def embed_vocabulary(clip: Clip, vocabulary: Vocabulary, prototypes: Prototypes | bool | None = True) -> Cells:
    """What `clip` makes of the cells of `vocabulary`, from their names alone.

    Parameters
    ----------
    clip : Clip
        Where it is edited, its prototypes are those of its base, edited.
    vocabulary : Vocabulary
        C classes and K domains.
    prototypes : bool or Prototypes
        True: one synthesized picture for each cell, by gradient ascent on pixels. That is done once for a model and a
        vocabulary, takes a second or so a cell on two cores, is told on standard error, and is kept in the cache folder
        (`files.cache_path`); those of miniclip for the names of miniworld and PACS come with it. False or None:
        texts only, at once. Or what `prototypes.cell_prototypes` gave, for all cells. Of a file of embeddings: its own,
        if it has all.

    Returns
    -------
    Cells
        Unit embeddings (C, K, d).

    Raises
    ------
    ValueError
        If `prototypes` are given and some cells have none.
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
    domains = embed_domains(clip, vocabulary.domains) + F.normalize(texts.mean(0), dim=-1)
    made = prototypes_of(clip.base or clip, vocabulary) if prototypes is True else prototypes or None
    if made is None:
        return Cells(texts, None, domains)
    if not made.mask.all():
        raise ValueError(f"prototypes: {int((~made.mask).sum())} cells have none; expected those of all cells")
    v = made.embeddings.flatten(0, 1)
    for edit in clip.edits:
        v = edit.transform(v)
    return Cells(texts, F.normalize(v, dim=-1).view_as(texts), domains)


def prototypes_of(clip: Clip, vocabulary: Vocabulary, **settings: Any) -> Prototypes | None:
    """What `prototypes.cell_prototypes` gives, with its settings; None for a file of embeddings that lacks some."""
    if not clip.encoder and not (clip.model.stored.mask.all() and vocabulary == clip.model.stored.vocabulary):
        return None
    return cell_prototypes(clip, vocabulary, **settings)


def unlearn(
    clip: Clip,
    request: Forget,
    vocabulary: Vocabulary,
    method: str = "nullspace",
    prototypes: Prototypes | bool | None = True,
    **settings: float,
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
        One of METHODS. "nullspace" is the paper's; "ridge" is CCUP's; "residual", "oblique" and "gated" are ours.
    prototypes : bool or Prototypes
        See `embed_vocabulary`: by default, pictures are synthesized once for all cells, which may take minutes.
    **settings
        Those of the method; their defaults are one set for all models and data, chosen on the train splits of miniworld
        and PACS.

    Returns
    -------
    Edit
        With the request and the fingerprint of the model.

    Raises
    ------
    ValueError
        For unknown names, methods or settings, with near ones, and if nothing would be kept.

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
    one_of("method", method, METHODS)
    edit = solve(embed_vocabulary(clip, vocabulary, prototypes), mask, method, **settings)
    return replace(edit, request=request, fingerprint=clip.fingerprint, model=clip.name, after=history(clip.edits))
