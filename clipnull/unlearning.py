"""A request and a method give an edit, from names alone."""

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
    """The edit that makes `clip` forget `request`, from the names in `vocabulary` alone (arXiv 2512.14113).

    clip: the edit of an edited model comes after those it has. request: of names in `vocabulary`, whose other cells are
    to be kept. method: one of METHODS, or "auto": the method and strength that are worth most by the forecast
    (`cn.forecast`) within `budget`, by default "forget >= .95, worst drop <= 5". prototypes, mean: see
    `embed_vocabulary`. settings: of the method; strength="chance" is that at which a forgotten picture is expected to
    be named by chance between two names.

    Raises ValueError for unknown names, methods or settings, if nothing would be kept, and for a budget or a chance
    that cannot be reached. Warns of names that the text tower, and of domains that no prompt or prototype tells apart.

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
        from .forecasting.choosing import choose_edit  # which builds on this module

        edit, _ = choose_edit(clip, request, vocabulary, method, prototypes, mean, budget, **settings)
    else:
        cells = embed_vocabulary(clip, vocabulary, prototypes, mean)
        warn_of_alike(cells, mask, vocabulary)
        warn_of_words(cells.classifier, mask, vocabulary, cells.common)
        edit = solve(cells, mask, method, **settings)
    about = {"fingerprint": clip.fingerprint, "model": clip.name, "after": history(clip.edits)}
    return replace(edit, request=request, **about)
