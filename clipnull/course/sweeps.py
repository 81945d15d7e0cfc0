"""Every class in turn: the rates of many edits as one table, and the plane of forgetting against damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import import_extra
from ..evaluate import rates
from .drawings import FORGOTTEN, OTHER, SIBLING

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    import pandas as pd
else:
    plt, pd = (import_extra(name, "course") for name in ("matplotlib.pyplot", "pandas"))


def rates_of(before: Tensor, after: Tensor, masks: Sequence[Tensor]) -> pd.DataFrame:
    """`evaluate.rates` of each edit, one a row: before (C, K), after (m R, C, K), m edits in a row for each of R masks.

    >>> import torch
    >>> before, after = torch.ones(2, 1), torch.tensor([[[0.0], [1.0]], [[0.5], [0.9]]])
    >>> rates_of(before, after, [torch.tensor([[True], [False]])]).forgetting_rate.tolist()
    [1.0, 0.5]
    """
    each = len(after) // len(masks)
    return pd.DataFrame([rates(before, matrix, masks[i // each]) for i, matrix in enumerate(after)])


def plane(title: str, rows: Mapping[str, pd.DataFrame], look: str = "o") -> tuple[plt.Figure, Any]:
    """Damage to the right, forgetting upwards: the `rates_of` many edits by name; "random ..." in grey.

    look: of matplotlib, "o" for dots and "o-" for dots on a line.
    """
    fig, ax = plt.subplots(figsize=(8, 4.4))
    colors = iter((FORGOTTEN, SIBLING, OTHER))
    for name, table in rows.items():
        color = "0.72" if name.startswith("random") else next(colors)
        ax.plot(table.retain_drop, table.forgetting_rate, look, ms=8, lw=2, color=color, label=name)
    ax.set(title=title, xlabel="retain drop: points lost on what is kept  (left is better)")
    ax.set_ylabel("forgetting rate  (up is better)")
    ax.margins(y=0.09)
    ax.legend(loc="center right")
    return fig, ax
