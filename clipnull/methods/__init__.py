"""The methods: each gives, for embeddings of cells and a mask of those to forget, an edit in closed form.

A method is a function (cells, mask, **settings) -> Edit in a module of its own, whose head states its theorem. A new
one enters the table below with one line; one of another package enters with an entry point of the group
"clipnull.methods" (name = "package.module:function").
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from torch import Tensor

from ..edit import Edit
from ..errors import one_of
from . import gated, neuron, nullspace, oblique, residual, ridge
from .cells import Cells

Method = Callable[..., Edit]


class Methods(Mapping[str, Method]):
    """The table of methods by name: those of clipnull, then those of other packages, which are imported when used.

    A method is a function (cells, mask, **settings) -> Edit; `solve` and `unlearn` take its name. One that cannot be
    imported raises ImportError where it is used.

    Examples
    --------
    >>> import clipnull as cn
    >>> list(cn.METHODS)[:6]
    ['nullspace', 'residual', 'ridge', 'oblique', 'neuron', 'gated']
    >>> cn.METHODS["ridge"].__module__
    'clipnull.methods.ridge'
    """

    def __init__(self, own: Mapping[str, Method], others: Mapping[str, EntryPoint]):
        self._table: dict[str, Method | EntryPoint] = {**own, **{n: p for n, p in others.items() if n not in own}}

    def __getitem__(self, name: str) -> Method:
        method = self._table[name]
        if isinstance(method, EntryPoint):
            try:
                method = method.load()
            except Exception as error:
                raise ImportError(f"method: {name!r} of {self._table[name]!r} cannot be loaded: {error}") from error
        return method

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"Methods({', '.join(self)})"


METHODS = Methods(
    {
        "nullspace": nullspace.nullspace,
        "residual": residual.residual,
        "ridge": ridge.ridge,
        "oblique": oblique.oblique,
        "neuron": neuron.neuron,
        "gated": gated.gated,
    },
    {point.name: point for point in entry_points(group="clipnull.methods")},
)
"""The methods by name, in the order in which results are told."""


def solve(cells: Cells, mask: Tensor, method: str = "nullspace", **settings: float) -> Edit:
    """The edit of `method` that forgets the cells in `mask`: the closed form only.

    Parameters
    ----------
    cells : Cells
        What `embed_vocabulary` gives.
    mask : (C, K) bool
        Cells to forget; some, and not all.
    method : str
        One of METHODS.
    **settings
        Those of the method, see its module. The edit keeps them all in `edit.settings`.

    Returns
    -------
    Edit
        Of no particular model; `unlearn` adds request and fingerprint.

    Raises
    ------
    ValueError
        For an unknown method or setting, with near ones, for a value out of range, and for a mask that does not fit.

    Examples
    --------
    >>> import clipnull as cn
    >>> clip = cn.load(device="cpu")
    >>> names = cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    >>> cells = cn.embed_vocabulary(clip, names, prototypes=False)
    >>> edit = cn.solve(cells, cn.Forget(["dog"]).mask(names), "nullspace", energy=1.0)
    >>> edit.rank, edit.settings["energy"]
    (2, 1.0)
    """
    function = METHODS[one_of("method", method, METHODS)]
    cells.validate(mask)
    parameters = list(inspect.signature(function).parameters.values())[2:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    for name in settings:
        one_of("settings", name, defaults)
    edit = function(cells, mask, **settings)
    known = {"prototypes": cells.prototypes is not None, "origin": bool(cells.origin.any())}
    return replace(edit, method=method, settings={**defaults, **settings, **known})
