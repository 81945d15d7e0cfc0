"""`oblique`, ours: P = I - sum_j v_j r_j^T. v_j says *when* to act, r_j *what* changes then; the two need not be alike.

For each class c with forgotten cells, r_c = strength * margin_c * u_c lowers its margin alone (u_c: `Cells.duals`;
margin_c: that of its forgotten prototypes, or texts), and v_c = class_share * (class detector) + domain_share *
(detector of the forgotten domains). A sum is all that a matrix has, and not an "and": siblings read class_share -
domain_share, other classes of a forgotten domain +domain_share, those of kept domains -domain_share. The last raises
class c there: most kept pictures that are lost are lost *to* the forgotten class. A class that is forgotten in every
domain needs no domain: v_c is its detector, and r_c is `Cells.growth` times as long. For domains that are forgotten
whole, one v detects them, and r raises the class that is least expected there: a matrix cannot make a picture say
nothing, but it can make all pictures say the same.

Theorem. The score of an embedding z against the text w of any class or word moves by sum_j (z v_j)(r_j w): by nothing
where z v_j = 0, and hardly where u_c w is small, which is how u_c is made.
"""

import torch
from torch import Tensor

from ..edit import Edit
from ..errors import within
from .cells import Cells

TEXT_ONLY_SCALE = 1.55
"""The factor on class_share without prototypes: texts show class and domain more clearly than pictures do."""

BIAS = 0.7
"""The weight of what all texts have in common in `whole_domain_detector`."""


def oblique(
    cells: Cells,
    mask: Tensor,
    *,
    strength: float = 1.15,
    class_share: float = 0.4,
    domain_share: float = 0.45,
    common_share: float = 0.07,
    rho: float = 0.02,
) -> Edit:
    """Read class and domain, and lower the scores of the classes: P = I - sum_j v_j r_j^T.

    mask: cells to forget, (C, K) bool. strength: how far a class goes down, in units of its margin; twice that for
    whole domains. class_share, domain_share: weights of the two detectors. common_share: without prototypes, that of
    what all pictures have in common: class c goes down everywhere by so much, which costs siblings and spares other
    classes. rho: the ridge of the detector of whole domains. Chosen on the train splits of miniworld and PACS and on
    embeddings of OpenAI's ViT-B/32.
    """
    for name, value in (("class_share", class_share), ("domain_share", domain_share), ("common_share", common_share)):
        within(name, value, 0.0, 100.0)
    within("strength", strength, 0.0, 100.0)
    within("rho", rho, 1e-9, 1e9)
    more, bias = (TEXT_ONLY_SCALE, common_share) if cells.prototypes is None else (1.0, 0.0)
    whole, middle = mask.all(0), cells.texts.mean((0, 1))
    left, right = [torch.zeros_like(cells.classifier[:0])], [torch.zeros_like(cells.classifier[:0])]
    for c in (mask & ~whole).any(1).nonzero()[:, 0].tolist():
        row, read, everywhere = mask[c] & ~whole, cells.class_detector(c), bool(mask[c].all())
        if not everywhere:
            read = more * class_share * read + domain_share * cells.domain_detector(row)
            read = read + bias * middle / (middle @ middle)
        left.append(read[None])
        right.append(strength * (cells.growth if everywhere else 1.0) * cells.push(c, row)[None])
    if whole.any():
        decoy, margin = decoy_of(cells, whole)
        left.append(whole_domain_detector(cells, mask, rho)[None])
        right.append(-2 * strength * more * margin * cells.duals[decoy, None])
    return Edit(torch.cat(left).T, torch.cat(right).T, "oblique")


def decoy_of(cells: Cells, whole: Tensor) -> tuple[int, float]:
    """The class that is least expected in the domains `whole` (K,) bool; the mean margin of the best class over it."""
    scores = cells.pictures[:, whole].flatten(0, 1) @ cells.classifier.T
    decoy = int(scores.mean(0).argmin())
    return decoy, float((scores.amax(1) - scores[:, decoy]).mean())


def whole_domain_detector(cells: Cells, mask: Tensor, rho: float) -> Tensor:
    """(d,): about 1 on the domains that `mask` (C, K) forgets whole, about 0 on what is kept.

    With prototypes a ridge detector of these cells; with texts alone, half of the detector of the domains plus BIAS
    of what all texts have in common, which pictures share to the same degree as the rest.
    """
    whole = mask.all(0)
    if cells.prototypes is not None:
        return detector(cells, whole.expand_as(mask), [~mask], rho)
    mean = cells.texts.mean((0, 1))
    return (cells.domain_detector(whole) + BIAS * mean / (mean @ mean)) / 2


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
