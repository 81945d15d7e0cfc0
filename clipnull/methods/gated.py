"""`gated`, ours: act only on pictures of a forgotten domain. A small module after the tower, not a matrix.

z -> z - (read * open[k] * (read > spread)) R^T with read = z L, for a picture classified as domain k. Column c of L is
strength * (w_c - mean w), so it reads the margin of class c over the mean class. Column c of R is u_c (`Cells.duals`),
which removes that margin: at strength 1 the class then scores like the mean class, at 1.5 half as far below it as it
was above. The gate opens if the margin exceeds `deviations` standard deviations of the margins of all classes on that
picture; below that, the class is rarely the answer. If another form of the class ("dogs") reads more, that is removed.
In a domain that is forgotten whole, every picture gets the embedding of the mean kept cell. Pictures are assigned to
the nearest of `Cells.domain_directions`, measured from `Cells.domain_origin`.

Theorem. Where the gate is shut (no forgotten class of the picture's domain stands out), z is unchanged, bit for bit.
Where it is open for class c, z moves along u_c alone, by strength times its margin, or by the reading of a form if that
is larger. In domains forgotten whole, the edited embedding is independent of the picture.

The cost is the gate's mistakes: sibling cells lose the share of their pictures that is assigned to the wrong domain.
"""

import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..errors import within
from ..layers import Gate
from ..subspace import gram, leading
from .cells import Cells

MAX_DIRECTIONS = 64
FORM_SHARE = 0.5
"""The weight of a form beside the class name; a lower one renames fewer kept pictures (PACS, train split)."""
MIN_CLASSES = 8
"""Fewer classes give no reliable standard deviation, so the gate then acts on any positive margin."""
TEXT_ONLY_SCALE = 0.9


def gated(cells: Cells, mask: Tensor, *, strength: float = 1.5, deviations: float = 1.1, offset: float = 0.0) -> Edit:
    """Remove the margins of forgotten classes from pictures classified as a domain where they are forgotten.

    mask: cells to forget, (C, K) bool. strength: how much of a margin is removed, 1 for all of it. deviations: how far
    it must stand out, times TEXT_ONLY_SCALE without prototypes. Both were chosen on the train splits of miniworld and
    PACS and on embeddings of OpenAI's ViT-B/32. offset: added to the scores of domains in which something is forgotten;
    above 0, the edit forgets more and damages more.
    """
    within("strength", strength, 0.0, 100.0)
    within("deviations", deviations, 0.0, 100.0)
    within("offset", offset, -2.0, 2.0)
    many = len(cells.classifier) >= MIN_CLASSES
    text_only = cells.prototypes is None and many
    margins = cells.clear_margins if text_only else cells.margins  # these find fewer false positives
    threshold = strength * deviations * (TEXT_ONLY_SCALE if text_only else 1.0)
    directions, whole = cells.domain_directions, mask.all(0)
    classes = (mask & ~whole).any(1)
    forms = None
    if cells.forms is not None and classes.any():
        forms = FORM_SHARE * strength * cells.form_margins[classes, 1:].permute(1, 2, 0).contiguous()
    gate = Gate(
        domains=directions.clone(),
        open=(mask & ~whole)[classes].T.contiguous(),
        replaced=whole,
        average=F.normalize(cells.texts[~mask].mean(0), dim=0),
        offset=offset * mask.any(0).double() - directions @ cells.domain_origin,
        spread=threshold * spread(margins) if deviations and many else None,
        forms=forms,
    )
    return Edit(strength * margins[classes].T, cells.duals[classes].T, "gated", gate=gate)


def spread(margins: Tensor) -> Tensor:
    """Return Q (d, r) such that |z Q| is the standard deviation, over the n names, of the margins z margins^T.

    Exact up to rank MAX_DIRECTIONS. Beyond it, the leading directions are scaled up to the variance of all.
    """
    c, d = margins.shape
    values, vectors = (x[..., :MAX_DIRECTIONS] for x in leading(gram(margins.T if c <= d else margins)))
    q = margins.T @ vectors if c <= d else vectors * values.sqrt()
    return q * (margins.square().sum() / values.sum() / max(1, c - 1)).sqrt()
