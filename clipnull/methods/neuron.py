"""`neuron`, ours: one hidden unit per class, a form between a matrix and a gated module.

z -> z - sum_c relu(z v_c - o_c |z|) r_c, with r_c = strength * growth * margin_c * u_c (`Cells.growth`; the rest as in
`oblique`) and v_c = (class detector) + domain_share * (detector of the forgotten domains). The threshold o_c brings
this sum closer to an "and", which a matrix cannot express: class and domain together exceed it most. If a model
separates domains or classes badly, one of them alone can exceed it too (notebook 06 counts how often). A unit's output
is never negative, so it never raises the class that it should lower; under `oblique`, most lost kept pictures are lost
that way. For domains that are forgotten whole, one unit detects them and raises the class least expected there.

Theorem. As a module: where every unit is silent (z v_c <= o_c |z|), z is unchanged, bit for bit; where one fires, z
moves along r_c alone, by no more than (|v_c| - o_c) |z| |r_c|.
In weights: x = gelu(x) - gelu(-x) exactly, so an MLP can carry the identity and the units (`exporting.fuse`).
gelu(s y) / s is within 0.17 / s of relu(y), and |z| is replaced by a linear function of z: close, not equal.
"""

import torch
from torch import Tensor

from ..edit import Edit
from ..errors import within
from .cells import Cells
from .oblique import decoy_of, whole_domain_detector

TEXT_ONLY_SCALE = 0.15
"""The factor on thresholds without prototypes: pictures show about a fourth of the contrast of texts, some less
(OpenAI's ViT-B/32: .31 for classes, .26 for domains)."""


def neuron(
    cells: Cells,
    mask: Tensor,
    *,
    strength: float = 1.5,
    threshold: float = 0.6,
    silence: float = 0.15,
    domain_share: float = 1.0,
) -> Edit:
    """Remove a class where the class and domain detectors fire together: z - sum_c relu(z v_c - o_c |z|) r_c.

    mask: cells to forget, (C, K) bool. strength: how far a class goes down, in units of margin times `Cells.growth`.
    threshold: o_c, as a share of what v_c reads on the cells to forget; half of it for whole domains. silence: that
    share for a class that is forgotten in every domain, and for whole domains without prototypes. domain_share: the
    weight of the domain detector, relative to the class detector. Chosen on the train splits of miniworld and PACS and
    on embeddings of OpenAI's ViT-B/32.
    """
    within("strength", strength, 0.0, 100.0)
    for name, value in (("threshold", threshold), ("silence", silence), ("domain_share", domain_share)):
        within(name, value, 0.0, 100.0)
    whole, text_only = mask.all(0), cells.prototypes is None
    scale = TEXT_ONLY_SCALE if text_only else 1.0
    left, right, thresholds = [], [], []
    for c in (mask & ~whole).any(1).nonzero()[:, 0].tolist():
        row, everywhere, detector = mask[c] & ~whole, bool(mask[c].all()), cells.class_detector(c)
        left.append(detector if everywhere else detector + domain_share * cells.domain_detector(row))
        right.append(strength * cells.growth * cells.push(c, row))
        thresholds.append(scale * (silence if everywhere else threshold * (1 + domain_share)))
    if whole.any():
        decoy, margin = decoy_of(cells, whole)
        left.append(cells.domain_detector(whole) if text_only else whole_domain_detector(cells, mask, 0.02))
        right.append((-8 if text_only else -4) * margin * cells.duals[decoy])
        thresholds.append(scale * (silence if text_only else threshold / 2))
    o = torch.tensor(thresholds, dtype=torch.float64)
    return Edit(torch.stack(left).T, torch.stack(right).T, "neuron", threshold=o)
