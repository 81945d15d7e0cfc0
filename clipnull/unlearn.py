"""What to forget, and the edits that forget it: closed form, no training, no pictures."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .edit import Edit
from .errors import names, one_of, within
from .models import Clip
from .prompts import Vocabulary, embed_cells
from .prototypes import Prototypes, cell_prototypes
from .subspace import basis


@dataclass(frozen=True)
class Forget:
    """A request: forget `classes` in `domains`; leave one out to mean all of them.

    Forget(classes=["dog"])                       global: dogs in every domain
    Forget(classes=["dog"], domains=["line"])     selective: line-drawn dogs only
    Forget(domains=["line"])                      complete: everything in line drawings
    """

    classes: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is None and self.domains is None:
            raise ValueError("classes, domains: neither is given; expected a list of names for at least one of them")
        for argument in ("classes", "domains"):
            values = getattr(self, argument)
            if values is not None:
                object.__setattr__(self, argument, names(argument, values, _Anything(values)))

    @property
    def paradigm(self) -> str:
        """"global", "selective" or "complete"."""
        if self.domains is None:
            return "global"
        return "complete" if self.classes is None else "selective"

    def mask(self, vocabulary: Vocabulary) -> Tensor:
        """F, the cells to forget: (C, K) bool. Raises ValueError for unknown names and if nothing would be kept."""
        classes, domains = self.classes or vocabulary.classes, self.domains or vocabulary.domains
        rows = [vocabulary.classes.index(c) for c in names("classes", classes, vocabulary.classes)]
        columns = [vocabulary.domains.index(k) for k in names("domains", domains, vocabulary.domains)]
        mask = torch.zeros(vocabulary.shape, dtype=torch.bool)
        mask[torch.tensor(rows)[:, None], torch.tensor(columns)] = True
        if mask.all():
            raise ValueError(f"forget: all {mask.numel()} cells of the vocabulary would be forgotten; expected at "
                             "least one to keep")
        return mask

    def __str__(self) -> str:
        what = ", ".join(self.classes) if self.classes else "everything"
        return f"{what} in {', '.join(self.domains)}" if self.domains else f"{what} everywhere"


class _Anything(tuple):
    """Options that hold every name: before a vocabulary is known, only the form of a request is checked."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str)


def nullspace(rows: Tensor, alpha: float = 1.0, energy: float = 1.0) -> tuple[Tensor, Tensor]:
    """The paper's edit: P = I - alpha U U^T, with U an orthonormal basis of what must go (arXiv 2512.14113).

    Theorem: with alpha = 1, P is the orthogonal projection on the null space of `rows`: P = P^T = P P, and every
    forgotten embedding t in their span has t P = 0; among all maps with that property, P is nearest to I in the
    Frobenius norm. With alpha < 1, P is invertible: the edit only weakens the span by the factor 1 - alpha.

    rows: embeddings of the forgotten cells, (n, d). energy: see `subspace.basis`. Returns left, right: (d, r).
    """
    within("alpha", alpha, 0.0, 1.0)
    u = basis(rows, energy)
    return alpha * u, u


METHODS = {"nullspace": nullspace}


def special(embeddings: Tensor, mask: Tensor, center: bool = True) -> Tensor:
    """The rows an edit is built from: embeddings (C, K, d) of the cells in `mask` (C, K) bool -> (n, d).

    With `center`, the mean over all cells is taken off first, so that a row holds what sets its cell apart and not what
    every picture or every prompt has in common. An edit that takes away such rows makes the forgotten cells look like
    the average cell; one that takes away the raw rows brings their scores to zero, which need not be low.
    """
    return embeddings[mask] - embeddings.mean((0, 1)) if center else embeddings[mask]


def unlearn(clip: Clip, forget: Forget, vocabulary: Vocabulary, method: str = "nullspace", alpha: float = 1.0,
            energy: float = 0.9, prototypes: Prototypes | bool = True, center: bool = True) -> Edit:
    """The edit that forgets `forget`, from the names in `vocabulary` alone.

    alpha: strength in [0, 1]. energy: share of the rows' energy that is taken, in [0, 1]; 0.9 was chosen on the train
        splits of miniworld and PACS: as much is forgotten as with 1, and fewer directions are lost to what is kept.
    prototypes: True synthesizes one for each cell (or finds them in the cache); False uses texts only; or what
        `cell_prototypes` gave.
    center: take away what is special to the forgotten cells (see `special`), or all of their embeddings.
    """
    one_of("method", method, METHODS)
    mask = forget.mask(vocabulary)
    if prototypes is True:
        prototypes = cell_prototypes(clip, vocabulary)
    rows = [special(embed_cells(clip, vocabulary), mask, center)]
    if prototypes:
        if not prototypes.mask.all():
            missing = int((~prototypes.mask).sum())
            raise ValueError(f"prototypes: {missing} cells have none; expected those of all cells")
        rows.append(special(prototypes.embeddings, mask, center))
    left, right = METHODS[method](torch.cat(rows), alpha, energy)
    settings = {"alpha": alpha, "energy": energy, "prototypes": bool(prototypes), "center": center}
    return Edit(left, right, method, forget, settings, clip.fingerprint)
