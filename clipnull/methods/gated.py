"""`gated`, ours: act only on pictures of a forgotten domain. No matrix, but a small module after the tower.

z -> z - (read * open[k] * (read > spread)) R^T, read = z L, for a picture classified as domain k. Column c of L reads
the lead of class c over the average class, strength * (w_c - mean w), and u_c takes it away: at strength 1 the class
scores as the average class does, at 1.5 it is half as far below as it was above. It acts where the lead is larger than
`deviations` standard deviations of the leads of all classes on that picture: elsewhere the class would hardly be named.
Of fewer than FEWEST classes that says little; there it acts on any lead. Where there are texts alone, of as many
classes, leads are read clear of others and of common words (`Cells.clear_leads`): fewer unrelated pictures are taken
for the class.
In a domain that is forgotten whole every picture gets the embedding of the average kept cell: nothing tells one from
another.

Domains are told apart by texts and prototypes together (`Cells.styles`), counted from `Cells.origin`.

Theorem. Where the gate is shut (no forgotten class of the picture's domain stands out), z is unchanged, bit by bit;
where it is open, z moves along u_c alone, by strength times the lead it reads. In domains forgotten whole, the edited
embedding is independent of the picture.

What it costs is what the gate mistakes: sibling cells lose the share of their pictures classified as the wrong domain.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..errors import within
from ..layers import Gate
from .cells import Cells

WIDEST, FEWEST, ALONE = 64, 8, 0.9
"""Directions in which the spread of leads is measured, those with most of it; classes that it takes to speak of one;
what deviations is multiplied by where there are no prototypes, and as many classes."""


def gated(cells: Cells, mask: Tensor, *, strength: float = 1.5, deviations: float = 1.1, offset: float = 0.0) -> Edit:
    """Take away the lead of forgotten classes, in pictures classified as a domain where they are forgotten.

    mask: cells to forget, (C, K) bool. strength, deviations (times ALONE without prototypes): chosen on the train
    splits of miniworld and PACS and on embeddings of OpenAI's ViT-B/32. offset: added to the score of domains in which
    something is forgotten; above 0 forgets more and hurts more.
    """
    cells.validate(mask)
    within("strength", strength, 0.0, 100.0)
    within("deviations", deviations, 0.0, 100.0)
    within("offset", offset, -2.0, 2.0)
    styles, whole, many = cells.styles, mask.all(0), len(cells.classifier) >= FEWEST
    alone = cells.prototypes is None and many
    leads = cells.clear_leads if alone else cells.leads
    least = strength * deviations * (ALONE if alone else 1.0)
    classes = (mask & ~whole).any(1)
    opened = (mask & ~whole)[classes].T.contiguous()
    average = F.normalize(cells.texts[~mask].mean(0), dim=0)
    gate = Gate(
        styles,
        opened,
        whole,
        average,
        offset * mask.any(0).double() - styles @ cells.origin,
        least * spread(leads) if deviations and many else None,
    )
    return Edit(strength * leads[classes].T, cells.duals[classes].T, "gated", gate=gate)


def spread(leads: Tensor) -> Tensor:
    """Q with |z Q| the standard deviation over names of the leads z leads^T: (n, d) -> (d, r).

    Exact where r is not cut to WIDEST; else the directions kept are stretched to the variance of all.
    """
    c, d = leads.shape
    values, vectors = torch.linalg.eigh(leads @ leads.T if c <= d else leads.T @ leads)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    r = min(WIDEST, int((values > 1e-9 * values[0]).sum()))
    q = leads.T @ vectors[:, :r] if c <= d else vectors[:, :r] * values[:r].sqrt()
    return q * (values.sum() / values[:r].sum() / max(1, c - 1)).sqrt()
