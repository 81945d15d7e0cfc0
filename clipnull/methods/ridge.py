"""`ridge`, CCUP's compromise: shrink scores against forgotten embeddings, keep the others (arXiv 2512.14137).

P minimises |P - I|^2 + lambda |P X_F^T|^2 / n_F + mu |P X_R^T - X_R^T|^2 / n_R. P acts on embeddings as columns here:
the score of a picture z P against a text t is z (P t^T). The rows of X_F are centred by default, which is ours.

Theorem. P = I - lambda / n_F X_F^T X_F A^-1 with A = I + lambda X_F^T X_F / n_F + mu X_R^T X_R / n_R. As lambda -> 0,
P -> I; as lambda -> infinity with mu = 0, P tends to `nullspace` with energy = 1; as mu -> infinity, the score of every
picture against every kept embedding stays as it was.
"""

import torch
from torch import Tensor

from ..edit import Edit
from ..errors import within
from ..subspace import ridged_factor
from .cells import Cells


def ridge(
    cells: Cells, mask: Tensor, *, forgetting: float = 1000.0, keeping: float = 100.0, center: bool = True
) -> Edit:
    """Minimise the trade-off between forgetting and keeping in closed form; the edit has rank min(n_F, d).

    mask: cells to forget, (C, K) bool. forgetting, keeping: lambda and mu, chosen on the train splits of miniworld and
    PACS. center: see `Cells.rows`; the kept rows X_R are never centred.
    """
    within("forgetting", forgetting, 0.0, 1e12)
    within("keeping", keeping, 0.0, 1e12)
    (forgotten, kept), rows = cells.grams(mask, center), cells.rows(mask, center).T
    weight = forgetting / rows.shape[1]
    factor = ridged_factor(keeping / cells.n_rows(~mask) * kept + weight * forgotten, 1.0)
    if rows.shape[1] > len(rows):
        return Edit(weight * forgotten, torch.cholesky_inverse(factor), "ridge")
    return Edit(weight * rows, torch.cholesky_solve(rows, factor), "ridge")
