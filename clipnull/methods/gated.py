"""`gated`, ours: act only on pictures of a forgotten domain. No matrix, but a small module after the tower.

z -> z - (read * open[k] * (read > spread)) R^T, read = z L, for a picture classified as domain k. Column c of L reads
the margin of class c over the mean class, strength * (w_c - mean w), and u_c (`Cells.duals`) takes it away: at strength
1 the class scores as the mean class does, at 1.5 it is half as far below as it was above. The gate opens where the
margin is larger than `deviations` standard deviations of the margins of all classes on that picture: elsewhere the
class would hardly be named. Of other forms of the class ("dogs"), the one that reads most says how much is taken away.
In a domain that is forgotten whole every picture gets the embedding of the mean kept cell. Domains are told apart by
`Cells.domain_directions`, counted from `Cells.domain_origin`.

Theorem. Where the gate is shut (no forgotten class of the picture's domain stands out), z is unchanged, bit for bit;
where it is open, z moves along u_c alone, by strength times the margin it reads. In domains forgotten whole, the edited
embedding is independent of the picture.

What it costs is what the gate mistakes: sibling cells lose the share of their pictures classified as the wrong domain.
"""

import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..errors import within
from ..layers import Gate
from ..subspace import gram, leading
from .cells import Cells

MAX_DIRECTIONS = 64
"""Directions in which the spread of margins is measured, those with most of it."""
FORM_SHARE = 0.5
"""The share of what a form reads that counts beside the name: less renames fewer kept pictures (PACS, train split)."""
MIN_CLASSES = 8
"""Fewer classes than this say little about a standard deviation: the gate then acts on any margin."""
TEXT_ONLY_SCALE = 0.9
"""The factor on `deviations` without prototypes, from MIN_CLASSES classes on."""


def gated(cells: Cells, mask: Tensor, *, strength: float = 1.5, deviations: float = 1.1, offset: float = 0.0) -> Edit:
    """Take away the margin of forgotten classes, in pictures classified as a domain where they are forgotten.

    mask: cells to forget, (C, K) bool. strength, deviations (times TEXT_ONLY_SCALE without prototypes): chosen on the
    train splits of miniworld and PACS and on embeddings of OpenAI's ViT-B/32. offset: added to the score of domains in
    which something is forgotten; above 0 forgets more and hurts more.
    """
    within("strength", strength, 0.0, 100.0)
    within("deviations", deviations, 0.0, 100.0)
    within("offset", offset, -2.0, 2.0)
    many = len(cells.classifier) >= MIN_CLASSES
    alone = cells.prototypes is None and many  # then margins read clear of others take fewer pictures for the class
    margins = cells.clear_margins if alone else cells.margins
    least = strength * deviations * (TEXT_ONLY_SCALE if alone else 1.0)
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
        spread=least * spread(margins) if deviations and many else None,
        forms=forms,
    )
    return Edit(strength * margins[classes].T, cells.duals[classes].T, "gated", gate=gate)


def spread(margins: Tensor) -> Tensor:
    """Q with |z Q| the standard deviation over names of the margins z margins^T: (n, d) -> (d, r).

    Exact where r is not cut to MAX_DIRECTIONS; else the directions kept are stretched to the variance of all.
    """
    c, d = margins.shape
    values, vectors = (x[..., :MAX_DIRECTIONS] for x in leading(gram(margins.T if c <= d else margins)))
    q = margins.T @ vectors if c <= d else vectors * values.sqrt()
    return q * (margins.square().sum() / values.sum() / max(1, c - 1)).sqrt()
