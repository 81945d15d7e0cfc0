"""`oblique`, ours: P = I - sum_j v_j r_j^T. v_j decides *when* to act and r_j *what* changes; the two may differ.

Each class c with forgotten cells gets one pair. r_c = strength * margin_c * u_c lowers its margin alone (u_c as in
`Cells.duals`; margin_c is the mean margin of its forgotten prototypes, or texts). v_c = class_share * (class detector)
+ domain_share * (detector of the forgotten domains). A matrix can only add the two detectors, not require both. So v_c
reads class_share - domain_share on siblings, +domain_share on other classes of a forgotten domain, and -domain_share on
other classes of kept domains. The last raises class c there: most kept pictures that are lost are lost *to* the
forgotten class. A class that is forgotten in every domain needs no domain detector: v_c is its class detector, and r_c
is `Cells.growth` times as long. For domains that are forgotten whole, one v detects them, and r raises the class that
is least expected there: a matrix cannot empty a picture's embedding, but it can make all pictures say the same.

Theorem. The score of an embedding z against the text w of any class or word moves by sum_j (z v_j)(r_j w). That is zero
where z v_j = 0, and small where u_c w is small, which u_c is built for.
"""

import torch
from torch import Tensor

from ..edit import Edit
from ..errors import within
from .cells import Cells

TEXT_ONLY_SCALE = 1.55
"""The factor on class_share, and on r for whole domains, without prototypes: texts show contrasts more clearly."""
BIAS = 0.7  # the weight of the mean text in `whole_domain_detector`


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
    """Detect class and domain, and lower the scores of the classes: P = I - sum_j v_j r_j^T.

    mask: cells to forget, (C, K) bool. strength: how far a class goes down, in units of its margin; twice that for
    whole domains. class_share, domain_share: the weights of the two detectors. common_share: the weight of the mean
    text in v_c without prototypes; it lowers class c everywhere by that share, which costs siblings and spares other
    classes. rho: the ridge of the detector of whole domains. Chosen on the train splits of miniworld and PACS and on
    embeddings of OpenAI's ViT-B/32.
    """
    for name, value in (("class_share", class_share), ("domain_share", domain_share), ("common_share", common_share)):
        within(name, value, 0.0, 100.0)
    within("strength", strength, 0.0, 100.0)
    within("rho", rho, 1e-9, 1e9)
    scale, bias = (TEXT_ONLY_SCALE, common_share) if cells.prototypes is None else (1.0, 0.0)
    whole, mean = mask.all(0), cells.texts.mean((0, 1))
    left, right = [], []
    for c in (mask & ~whole).any(1).nonzero()[:, 0].tolist():
        row, v, everywhere = mask[c] & ~whole, cells.class_detector(c), bool(mask[c].all())
        if not everywhere:
            v = scale * class_share * v + domain_share * cells.domain_detector(row) + bias * mean / (mean @ mean)
        left.append(v)
        right.append(strength * (cells.growth if everywhere else 1.0) * cells.push(c, row))
    if whole.any():
        decoy, margin = decoy_of(cells, whole)
        left.append(whole_domain_detector(cells, mask, rho))
        right.append(-2 * strength * scale * margin * cells.duals[decoy])
    return Edit(torch.stack(left).T, torch.stack(right).T, "oblique")


def decoy_of(cells: Cells, whole: Tensor) -> tuple[int, float]:
    """Return the least expected class in the domains `whole` (K,) bool, and the best class's mean margin over it."""
    scores = cells.pictures[:, whole].flatten(0, 1) @ cells.classifier.T
    decoy = int(scores.mean(0).argmin())
    return decoy, float((scores.amax(1) - scores[:, decoy]).mean())


def whole_domain_detector(cells: Cells, mask: Tensor, rho: float) -> Tensor:
    """Return a detector (d,) of the domains that `mask` (C, K) forgets whole: about 1 on them, about 0 on kept cells.

    With prototypes it is a ridge detector of these cells. Without, it is half the sum of the domain detector and BIAS
    times the mean text, scaled to read 1 on itself. Pictures show that mean to the same degree as their domain.
    """
    whole = mask.all(0)
    if cells.prototypes is not None:
        return detector(cells, whole.expand_as(mask), [~mask], rho)
    mean = cells.texts.mean((0, 1))
    return (cells.domain_detector(whole) + BIAS * mean / (mean @ mean)) / 2


def detector(cells: Cells, mask: Tensor, against: list[Tensor], rho: float) -> Tensor:
    """Return v (d,), which separates the rows of `mask` from those of each mask in `against`, scaled to m v = 1.

    m is the mean row of `mask`. Up to scale, v minimises the mean of (x v - 1)^2 over `mask` plus the mean of (x v)^2
    over each mask of `against` plus rho |v|^2: v ~ (M_mask + sum M_against + rho I)^-1 m, second moments M = X^T X / n.
    """
    a = cells.moment(mask) + sum(cells.moment(kept) for kept in against)
    a += rho * torch.eye(len(a), dtype=a.dtype)
    m = cells.rows(mask).mean(0)
    v = torch.cholesky_solve(m[:, None], torch.linalg.cholesky(a))[:, 0]
    return v / (m @ v)
