"""Unlearning: a request and a method give an edit, from names alone."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from .edit import Edit, history
from .errors import expect_types, one_of
from .from_names import embed_vocabulary, warn_of_alike
from .methods import AUTO, METHODS, solve
from .models import Clip
from .prompts import warn_of_words
from .prototypes import Prototypes
from .vocabulary import Forget, Vocabulary


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
    """Compute the edit that makes `clip` forget `request`, from the names in `vocabulary` alone (arXiv 2512.14113).

    clip: if it is already edited, the new edit comes after its edits. request: (class, domain) cells to forget; all
    others in `vocabulary` are kept. method: one of METHODS, or "auto" for the best method and strength by
    `cn.forecast`. budget: limits for "auto"; by default "forget >= .95, worst drop <= 5". prototypes, mean: see
    `embed_vocabulary`; by default up to 64 prototypes are synthesized once, about a second each. settings: passed to
    the method; strength="chance" sets the strength at which a forgotten picture is expected to be at chance between
    two names.

    Raise ValueError for unknown names, methods or settings, if nothing would be kept, and for a budget or chance level
    that cannot be reached. Warn about names that the text tower cannot tell apart, and about domains that prompts and
    prototypes cannot tell apart.

    >>> import clipnull as cn
    >>> clip = cn.load(device="cpu")
    >>> names = cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    >>> edit = cn.unlearn(clip, cn.Forget(["dog"], ["line"]), names, method="oblique", prototypes=False)
    >>> print(edit.request, "-", edit.method, "of rank", edit.rank)
    dog in line - oblique of rank 1
    """
    expect_types(clip=clip, request=request, vocabulary=vocabulary)
    mask = request.mask(vocabulary)
    one_of("method", method, [*METHODS, AUTO])
    if method == AUTO or budget is not None or settings.get("strength") == "chance":
        from .forecasting.choosing import choose_edit  # imported late: forecasting builds on the core

        edit, _ = choose_edit(clip, request, vocabulary, method, prototypes, mean, budget, **settings)
    else:
        cells = embed_vocabulary(clip, vocabulary, prototypes, mean)
        warn_of_alike(cells, mask, vocabulary)
        warn_of_words(cells.classifier, mask, vocabulary, cells.common)
        edit = solve(cells, mask, method, **settings)
    after = history(clip.edits)
    return replace(edit, request=request, fingerprint=clip.fingerprint, model=clip.name, after=after)
