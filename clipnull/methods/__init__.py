"""The methods: each gives, for embeddings of cells and a mask of those to forget, an edit in closed form.

A method is a function (cells, mask, **settings) -> Edit in a module of its own, whose head states its theorem. It
enters the table below with one entry; one of another package enters with an entry point of the group
"clipnull.methods" (name = "package.module:function").
"""

import inspect
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from torch import Tensor

from ..edit import Edit
from ..errors import expect_types, one_of
from . import gated, neuron, nullspace, oblique, residual, ridge
from .cells import Cells


@dataclass(frozen=True)
class Method:
    """A method and its facts.

    about: one line of prose. form: see `Edit.form`. strength: the setting that says how hard it hits. values: those
    that are tried, weakest first.
    """

    function: Callable[..., Edit]
    about: str = ""
    form: str = "linear"
    strength: str = ""
    values: tuple[float, ...] = ()

    def __call__(self, cells: Cells, mask: Tensor, **settings: float) -> Edit:
        cells.validate(mask)
        return self.function(cells, mask, **settings)

    @property
    def defaults(self) -> dict[str, float]:
        """Its settings as they are by default."""
        parameters = list(inspect.signature(self.function).parameters.values())[2:]
        return {p.name: p.default for p in parameters if p.default is not p.empty}


class Methods(UserDict[str, Any]):
    """The table of methods by name: those of clipnull, then those of other packages, which are imported when used.

    >>> import clipnull as cn
    >>> list(cn.METHODS)[:6]
    ['nullspace', 'residual', 'ridge', 'oblique', 'neuron', 'gated']
    >>> cn.METHODS["ridge"].about
    'CCUP, ridge regression of scores'
    """

    def __init__(self, methods: Mapping[str, Method], others: Mapping[str, EntryPoint]):
        super().__init__({**methods, **others, **methods})  # ours come first, and keep their names

    def __repr__(self) -> str:
        return f"Methods({', '.join(self)})"

    def __getitem__(self, key: str) -> Method:
        method = self.data[key]
        if not isinstance(method, EntryPoint):
            return method
        try:
            return Method(method.load(), f"of {method.value}")
        except Exception as error:
            raise ImportError(f"method: {key!r} of {method!r} cannot be loaded: {error}") from error


SHARE, FORCE = (0.5, 0.75, 1.0), (1.0, 1.5, 2.5)
METHODS = Methods(
    {
        "nullspace": Method(nullspace.nullspace, "the paper's edit, reconstructed", "linear", "alpha", SHARE),
        "residual": Method(residual.residual, "ours, what kept cells cannot explain", "linear", "alpha", SHARE),
        "ridge": Method(ridge.ridge, "CCUP, ridge regression of scores", "linear", "forgetting", (30.0, 300.0, 1000.0)),
        "oblique": Method(oblique.oblique, "ours, in the weights", "linear", "strength", (0.8, 1.15, 1.6)),
        "neuron": Method(neuron.neuron, "ours, a hidden layer", "layer", "strength", FORCE),
        "gated": Method(gated.gated, "ours, a module after the tower", "module", "strength", FORCE),
    },
    {point.name: point for point in entry_points(group="clipnull.methods")},
)
"""The methods by name, in the order of all tables."""

AUTO = "auto"
"""In place of a method: the one that is worth most by forecast, see `forecasting.choosing`."""


def solve(cells: Cells, mask: Tensor, method: str = "nullspace", **settings: float) -> Edit:
    """The edit of `method` that forgets the cells in `mask`: the closed form only.

    cells: what `embed_vocabulary` gives. mask: (C, K) bool, some cells to forget and some to keep. method: one of
    METHODS. settings: those of the method, see its module; the edit keeps them in `edit.settings`. The edit is of no
    particular model; `unlearn` adds request and fingerprint.

    >>> import clipnull as cn
    >>> clip = cn.load(device="cpu")
    >>> names = cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    >>> cells = cn.embed_vocabulary(clip, names, prototypes=False)
    >>> edit = cn.solve(cells, cn.Forget(["dog"]).mask(names), "nullspace", energy=1.0)
    >>> edit.rank, edit.settings["energy"]  # of two texts and six forms
    (8, 1.0)
    """
    expect_types(cells=cells)
    chosen = METHODS[one_of("method", method, METHODS)]
    for name in settings:
        one_of("settings", name, chosen.defaults)
    edit = chosen(cells, mask, **settings)
    about = {"prototypes": cells.prototypes is not None, "origin": bool(cells.domain_origin.any())}
    about["forms"] = cells.forms is not None
    return replace(edit, method=method, settings={**chosen.defaults, **settings, **about})
