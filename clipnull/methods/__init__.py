"""The unlearning methods: each computes an edit in closed form from the (class, domain) cells and a mask to forget.

A method is a function (cells, mask, **settings) -> Edit in its own module, whose docstring states its theorem. Add one
line to the table below to register it. Other packages register theirs with an entry point in the group
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
    """A method, callable as function(cells, mask, **settings), and its metadata.

    about: one line of prose. form: see `Edit.form`. strength: the name of the setting that controls how much the method
    removes. values: settings of `strength` to try, weakest first.
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
        """The default value of each setting."""
        parameters = list(inspect.signature(self.function).parameters.values())[2:]
        return {p.name: p.default for p in parameters if p.default is not p.empty}


class Methods(UserDict[str, Any]):
    """The table of methods by name: first ours, then those of other packages, which are imported on first use.

    >>> import clipnull as cn
    >>> list(cn.METHODS)[:6]
    ['nullspace', 'residual', 'ridge', 'oblique', 'neuron', 'gated']
    >>> cn.METHODS["ridge"].about
    'CCUP, ridge regression of scores'
    """

    def __init__(self, methods: Mapping[str, Method], plugins: Mapping[str, EntryPoint]):
        super().__init__({**methods, **plugins, **methods})  # ours come first and cannot be replaced

    def __repr__(self) -> str:
        return f"Methods({', '.join(self)})"

    def __getitem__(self, key: str) -> Method:
        method = self.data[key]
        if not isinstance(method, EntryPoint):
            return method
        try:
            return Method(method.load(), f"from {method.value}")
        except Exception as error:
            raise ImportError(f"method: {key!r} cannot be loaded from {method.value!r}: {error}") from error


ALPHAS, STRENGTHS = (0.5, 0.75, 1.0), (1.0, 1.5, 2.5)
METHODS = Methods(
    {
        "nullspace": Method(nullspace.nullspace, "the paper's edit, reconstructed", "linear", "alpha", ALPHAS),
        "residual": Method(residual.residual, "ours, spares what kept cells explain", "linear", "alpha", ALPHAS),
        "ridge": Method(ridge.ridge, "CCUP, ridge regression of scores", "linear", "forgetting", (30.0, 300.0, 1000.0)),
        "oblique": Method(oblique.oblique, "ours, detectors in one matrix", "linear", "strength", (0.8, 1.15, 1.6)),
        "neuron": Method(neuron.neuron, "ours, one hidden unit per class", "layer", "strength", STRENGTHS),
        "gated": Method(gated.gated, "ours, a module after the tower", "module", "strength", STRENGTHS),
    },
    {point.name: point for point in entry_points(group="clipnull.methods")},
)
"""The methods by name. All tables of results follow this order."""

AUTO = "auto"  # pass this in place of a method to get the one with the best forecast (`forecasting.choosing`)


def solve(cells: Cells, mask: Tensor, method: str = "nullspace", **settings: float) -> Edit:
    """Compute the edit with which `method` forgets the cells in `mask`.

    cells: the output of `embed_vocabulary`. mask: (C, K) bool, with some cells to forget and some to keep. method: one
    of METHODS. settings: the method's own, documented in its module and recorded in `edit.settings`. The edit is not
    tied to a model; `unlearn` adds the request and the model's fingerprint.

    >>> import clipnull as cn
    >>> clip = cn.load(device="cpu")
    >>> names = cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    >>> cells = cn.embed_vocabulary(clip, names, prototypes=False)
    >>> edit = cn.solve(cells, cn.Forget(["dog"]).mask(names), "nullspace", energy=1.0)
    >>> edit.rank, edit.settings["energy"]  # two texts and six forms
    (8, 1.0)
    """
    expect_types(cells=cells)
    entry = METHODS[one_of("method", method, METHODS)]
    for name in settings:
        one_of("settings", name, entry.defaults)
    edit = entry(cells, mask, **settings)
    inputs = {"prototypes": cells.prototypes is not None, "origin": bool(cells.domain_origin.any())}
    inputs["forms"] = cells.forms is not None
    return replace(edit, method=method, settings={**entry.defaults, **settings, **inputs})
