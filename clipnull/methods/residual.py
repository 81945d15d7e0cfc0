"""`residual`, ours: `nullspace` of the part of the forgotten rows that ridge regression on kept cells cannot explain.

With M = X_R^T X_R / n the second moment of the n kept embeddings and S = tau (M + tau I)^-1, a forgotten row x leaves
the residual x S. For tau = 0, S is the projection on the null space of M.

Theorem. With tau = 0 every kept embedding t stays fixed, t P = t. With tau > 0 it moves by at most
|t P - t| <= |t S| |S^-1 U|, and |t S| <= sqrt(n tau) / 2. With tau = 0 the edit forgets only what no kept cell
contains: often nothing, since classes and domains nearly add up in CLIP's space.
"""

import torch
from torch import Tensor

from ..edit import Edit
from ..errors import within
from ..subspace import basis, leading, ridged_factor
from .cells import Cells


def residual(
    cells: Cells, mask: Tensor, *, alpha: float = 1.0, energy: float = 0.9, tau: float = 0.015, center: bool = True
) -> Edit:
    """Project away the part of the forgotten rows that kept cells cannot explain: P = I - alpha U U^T.

    mask: cells to forget, (C, K) bool. alpha, energy, center: as in `nullspace`. tau: the ridge, chosen on the train
    splits of miniworld and PACS. With tau = 0, the edit has rank 0 if kept cells explain everything.
    """
    within("alpha", alpha, 0.0, 1.0)
    within("tau", tau, 0.0, 1e9)
    forgotten, kept = cells.grams(mask, center)
    rows, kept = cells.rows(mask, center), kept / cells.n_rows(~mask)
    if not tau:
        values, vectors = torch.linalg.eigh(kept)
        free = vectors[:, values <= 1e-12 * values[-1]]
        rest = rows @ free @ free.T
        u = basis(rest, energy) if rest.norm() > 1e-5 * rows.norm() else rest.T[:, :0]  # a smaller rest is rounding
    elif len(rows) <= len(kept):
        u = basis(torch.cholesky_solve(tau * rows.T, ridged_factor(kept, tau)).T, energy)
    else:  # more rows than dimensions: the same basis from (d, d) products
        factor = ridged_factor(kept, tau)
        half = torch.cholesky_solve(forgotten, factor)
        u = leading(torch.cholesky_solve(half.T, factor), energy)[1]
    return Edit(alpha * u, u, "residual")
