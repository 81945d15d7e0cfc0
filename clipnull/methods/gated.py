"""`gated`, ours: act only on pictures of a forgotten domain. No matrix, but a small module after the tower.

z -> z - (relu(z L) * open[k]) R^T for a picture classified as domain k. Column c of L reads the lead of class c over
the average class, strength * (w_c - mean w), and u_c takes it away: at strength 1 the class scores as the average class
does, at 1.5 it is half as far below as it was above. In a domain that is forgotten whole every picture gets the
embedding of the average cell: nothing tells one from another.

Theorem. Where the gate is shut (no forgotten class of the picture's domain scores above average), z is unchanged, bit
by bit; where it is open, only the scores of forgotten classes move, up to the bound of `oblique`. In domains forgotten
whole, the edited embedding is independent of the picture.

What it costs is what the gate mistakes: sibling cells lose the share of their pictures classified as the wrong domain.
"""

import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..errors import within
from ..gates import Gate
from .cells import Cells


def gated(cells: Cells, mask: Tensor, *, strength: float = 1.5, offset: float = 0.0) -> Edit:
    """Take away the lead of forgotten classes, in pictures classified as a domain where they are forgotten.

    mask: cells to forget, (C, K) bool. strength: chosen on the train splits of miniworld and PACS. offset: added to the
    score of domains in which something is forgotten; above 0 forgets more and hurts more.
    """
    cells.validate(mask)
    within("strength", strength, 0.0, 100.0)
    within("offset", offset, -2.0, 2.0)
    w, whole = cells.classifier, mask.all(0)
    classes = (mask & ~whole).any(1)
    opened = (mask & ~whole)[classes].T.contiguous()
    average = F.normalize(cells.texts.mean((0, 1)), dim=0)
    assert cells.domains is not None  # set when the cells were made
    gate = Gate(cells.domains.clone(), opened, whole, average, offset * mask.any(0).double())
    return Edit(strength * (w[classes] - w.mean(0)).T, cells.duals[classes].T, "gated", gate=gate)
