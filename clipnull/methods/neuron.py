"""`neuron`, ours: one hidden unit a class, between a matrix and a module.

z -> z - sum_c relu(z v_c - o_c |z|) r_c, with r_c = strength * growth * margin_c * u_c (`Cells.growth`; the rest as in
`oblique`) and v_c = (class detector) + domain_share * (detector of the forgotten domains). The threshold brings the sum
nearer to the "and" that a matrix cannot have: class and domain together pass it farthest. Where a model tells domains
or classes badly, one alone passes, too (notebook 06 counts how often). A unit never reads below zero, so it never
raises the class it should lower, which is what most kept pictures are lost to under `oblique`. For domains that are
forgotten whole, one unit detects them and raises the class that is least expected there.

Theorem. As a module: where every unit is silent (z v_c <= o_c |z|), z is unchanged, bit for bit; where one fires, z
moves along r_c alone, by no more than (|v_c| - o_c) |z| |r_c|.
In weights: x = gelu(x) - gelu(-x) exactly, so that an MLP carries the identity and the units (`exporting.fuse`);
gelu(s y) / s is within 0.17 / s of relu(y), and |z| becomes a linear function of z: close, not equal.
"""

import torch
from torch import Tensor

from ..edit import Edit
from ..errors import within
from .cells import Cells
from .oblique import decoy_of, whole_domain_detector

TEXT_ONLY_SCALE = 0.15
"""The share of a threshold that counts without prototypes: pictures show about a fourth of the contrast of texts
(OpenAI's ViT-B/32: .31 of it for the own class, .26 for the domain), and some less."""


def neuron(
    cells: Cells,
    mask: Tensor,
    *,
    strength: float = 1.5,
    threshold: float = 0.6,
    silence: float = 0.15,
    domain_share: float = 1.0,
) -> Edit:
    """Take away a class where class and domain are read together: z - sum_c relu(z v_c - o_c |z|) r_c.

    mask: cells to forget, (C, K) bool. strength: how far a class goes down, in units of its margin and `Cells.growth`.
    threshold: o_c, as a share of what v_c reads on the cells to forget; silence: the same for a class that is forgotten
    in every domain, and half of it for whole domains. domain_share: the weight of the detector of the domains, that of
    the class being 1. Chosen on the train splits of miniworld and PACS and on embeddings of OpenAI's ViT-B/32.
    """
    within("strength", strength, 0.0, 100.0)
    for name, value in (("threshold", threshold), ("silence", silence), ("domain_share", domain_share)):
        within(name, value, 0.0, 100.0)
    whole, alone = mask.all(0), cells.prototypes is None
    seen = TEXT_ONLY_SCALE if alone else 1.0
    left, right, least = [torch.zeros_like(cells.classifier[:0])], [torch.zeros_like(cells.classifier[:0])], []
    for c in (mask & ~whole).any(1).nonzero()[:, 0].tolist():
        row = mask[c] & ~whole
        everywhere = bool(mask[c].all())
        read = cells.class_detector(c)
        left.append((read if everywhere else read + domain_share * cells.domain_detector(row))[None])
        least.append(seen * (silence if everywhere else threshold * (1 + domain_share)))
        right.append(strength * cells.growth * cells.push(c, row)[None])
    if whole.any():
        decoy, margin = decoy_of(cells, whole)
        left.append((cells.domain_detector(whole) if alone else whole_domain_detector(cells, mask, 0.02))[None])
        right.append((-8 if alone else -4) * margin * cells.duals[decoy, None])
        least.append(seen * (silence if alone else threshold / 2))
    return Edit(torch.cat(left).T, torch.cat(right).T, "neuron", threshold=torch.tensor(least, dtype=torch.float64))
