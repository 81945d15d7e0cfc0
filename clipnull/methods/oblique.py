"""`oblique`, ours: P = I - sum_j v_j r_j^T. v_j says *when* to act, r_j *what* changes then; the two need not be alike.

For each class c with forgotten cells: v_c detects them (1 on their mean, near 0 on kept cells, see `detector`), and
r_c = strength * lead_c * u_c lowers the score of class c alone (u_c: `Cells.duals`), in units of the mean lead of the
forgotten prototypes over the average class. Other classes of a forgotten domain are not protected from v_c: r_c lowers
the score of class c on them, which is not theirs, where v_c is positive, and raises it where v_c is negative.
For domains that are forgotten whole, one v detects the domain, and r raises the class that is least expected there
above all others: a matrix cannot make a picture say nothing, but it can make all pictures say the same.

Theorem. The score of an embedding z against the text classifier w of any class moves by at most
sum_j |z v_j| |r_j w|. With G = W W^T, |u_c w| <= 0.01 |(G + 0.01 I)^-1| for every class other than c: next to nothing
unless two classes are all but the same.
"""

import torch
from torch import Tensor

from ..edit import Edit
from ..errors import within
from .cells import Cells


def oblique(cells: Cells, mask: Tensor, *, strength: float = 2.2, rho: float = 0.02) -> Edit:
    """Detect the forgotten cells and lower the scores of their classes: P = I - sum_j v_j r_j^T.

    mask: cells to forget, (C, K) bool. strength: how far a class is lowered, in units of its lead. rho: the ridge of
    the detectors. Both were chosen on the train splits of miniworld and PACS.
    """
    cells.validate(mask)
    within("strength", strength, 0.0, 100.0)
    within("rho", rho, 1e-9, 1e9)
    w, u, whole = cells.classifier, cells.duals, mask.all(0)
    pictures = cells.kinds[-1]  # V, or T where there is none
    left, right = [torch.zeros_like(w[:0])], [torch.zeros_like(w[:0])]
    for row in (mask & ~whole).unique(dim=0):
        if row.any():
            classes = ((mask & ~whole) == row).all(1).nonzero()[:, 0]
            scores = pictures[classes][:, row] @ w.T  # (classes, cells of each, C)
            own = scores.gather(2, classes.view(-1, 1, 1).expand(-1, scores.shape[1], 1))[..., 0]
            left.append(detectors(cells, mask, classes, rho))
            right.append(strength * (own - scores.mean(2)).mean(1, keepdim=True) * u[classes])
    if whole.any():
        scores = pictures[:, whole].flatten(0, 1) @ w.T
        decoy = scores.mean(0).argmin()
        left.append(detector(cells, whole.expand_as(mask), [~mask], rho)[None])
        right.append(-strength * (scores.amax(1) - scores[:, decoy]).mean() * u[decoy, None])
    return Edit(torch.cat(left).T, torch.cat(right).T, "oblique")


def detector(cells: Cells, mask: Tensor, against: list[Tensor], rho: float) -> Tensor:
    """What tells the rows of `mask` from those of each mask in `against`: v (d,), scaled to m v = 1, m the mean row.

    Up to that scale, v minimises the mean of (x v - 1)^2 over `mask` plus that of (x v)^2 over each mask of `against`
    plus rho |v|^2: v ~ (M_mask + sum M_against + rho I)^-1 m, with second moments M = X^T X / n.
    """
    a = cells.moment(mask) + sum(cells.moment(other) for other in against)
    a += rho * torch.eye(len(a), dtype=a.dtype)
    m = cells.rows(mask).mean(0)
    v = torch.cholesky_solve(m[:, None], torch.linalg.cholesky(a))[:, 0]
    return v / (m @ v)


def detectors(cells: Cells, mask: Tensor, classes: Tensor, rho: float) -> Tensor:
    """`detector` of the forgotten cells of each of `classes`, which are forgotten in the same domains: (n, d).

    Against: its siblings (the class in the domains that keep it), and all kept cells of those domains; where no domain
    keeps it, all kept cells. The latter are the same for all, so with B their moment plus rho I, and X (r, d) the
    embeddings of a class, weighted by D, v ~ (B + X^T D X)^-1 X^T p = B^-1 X^T (I + D X B^-1 X^T)^-1 p (push-through
    identity): one large system for all classes and a small one for each.
    """
    whole, n = mask.all(0), len(cells.kinds)
    forgotten, siblings = mask[classes[0]] & ~whole, ~mask[classes[0]]
    b = cells.moment(~mask & (siblings if siblings.any() else ~whole))
    x = torch.cat([kind[classes] for kind in cells.kinds], dim=1)  # (n, r, d): T, then V
    p = (forgotten.double() / (n * forgotten.sum())).repeat(n)  # (r,)
    weights = p + (siblings.double() / (n * siblings.sum().clamp(min=1))).repeat(n)
    factor = torch.linalg.cholesky(b + rho * torch.eye(len(b), dtype=b.dtype))
    y = torch.cholesky_solve(x.flatten(0, 1).T, factor).T.view_as(x)  # X B^-1
    a = torch.linalg.solve(torch.eye(len(p), dtype=p.dtype) + weights[:, None] * (x @ y.mT), p.expand(len(x), -1))
    v = (a[..., None] * y).sum(1)
    return v / torch.einsum("r,nrd,nd->n", p, x, v)[:, None]
