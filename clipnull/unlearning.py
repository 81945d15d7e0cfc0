"""What to forget, and the edits that forget it: closed form, no training, no pictures.

Five methods answer the same request. `nullspace` is the paper's; `residual` and `ridge` weigh what is kept; `oblique`
asks separately *when* to act and *what* to take away; `gated` acts only on pictures of a forgotten domain, and is the
only one that is no matrix.
"""
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .edit import Edit, Gate
from .errors import names, one_of, within
from .models import Clip
from .prompts import Vocabulary, embed_cells, embed_domains
from .prototypes import Prototypes, cell_prototypes
from .subspace import basis


@dataclass(frozen=True)
class Forget:
    """A request: forget `classes` in `domains`; leave one out to mean all of them. `a | b` asks for both.

    Forget(classes=["dog"])                       global: dogs in every domain
    Forget(classes=["dog"], domains=["line"])     selective: line-drawn dogs only
    Forget(domains=["line"])                      complete: everything in line drawings
    """

    classes: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None
    also: tuple["Forget", ...] = ()

    def __post_init__(self) -> None:
        if self.classes is None and self.domains is None:
            raise ValueError("classes, domains: neither is given; expected a list of names for at least one of them")
        for argument in ("classes", "domains"):
            values = getattr(self, argument)
            if values is not None:
                object.__setattr__(self, argument, names(argument, values, _Anything(values)))

    def __or__(self, other: "Forget") -> "Forget":
        if not isinstance(other, Forget):
            return NotImplemented
        return replace(self, also=(*self.also, replace(other, also=()), *other.also))

    @property
    def paradigm(self) -> str:
        """"global", "selective" or "complete"; "mixed" for a union of several kinds."""
        own = "global" if self.domains is None else "complete" if self.classes is None else "selective"
        return own if {own} == {own, *(other.paradigm for other in self.also)} else "mixed"

    def mask(self, vocabulary: Vocabulary) -> Tensor:
        """F, the cells to forget: (C, K) bool. Raises ValueError for unknown names and if nothing would be kept."""
        mask = torch.zeros(vocabulary.shape, dtype=torch.bool)
        for part in (replace(self, also=()), *self.also):
            classes, domains = part.classes or vocabulary.classes, part.domains or vocabulary.domains
            rows = [vocabulary.classes.index(c) for c in names("classes", classes, vocabulary.classes)]
            columns = [vocabulary.domains.index(k) for k in names("domains", domains, vocabulary.domains)]
            mask[torch.tensor(rows)[:, None], torch.tensor(columns)] = True
        if mask.all():
            raise ValueError(f"forget: all {mask.numel()} cells of the vocabulary would be forgotten; expected at "
                             "least one to keep")
        return mask

    def as_dict(self) -> dict:
        """The request in JSON's types; `Forget.from_dict` reads it."""
        return {"classes": self.classes and list(self.classes), "domains": self.domains and list(self.domains),
                "also": [other.as_dict() for other in self.also]}

    @classmethod
    def from_dict(cls, request: dict) -> "Forget":
        return cls(request["classes"], request["domains"], tuple(map(cls.from_dict, request.get("also", ()))))

    def __str__(self) -> str:
        what = ", ".join(self.classes) if self.classes else "everything"
        own = f"{what} in {', '.join(self.domains)}" if self.domains else f"{what} everywhere"
        return " and ".join([own, *map(str, self.also)])


class _Anything(tuple):
    """Options that hold every name: before a vocabulary is known, only the form of a request is checked."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str)


@dataclass(frozen=True, eq=False)
class Concepts:
    """How a model embeds every cell of a vocabulary: all that an edit is made of. Tensors are cast to float64.

    texts: T, (C, K, d), unit rows. prototypes: V, (C, K, d), unit rows, or None. domains: (K, d), unit rows that name
    the domains; by default the mean text of each.
    """

    texts: Tensor
    prototypes: Tensor | None = None
    domains: Tensor | None = None

    def __post_init__(self) -> None:
        if self.texts.ndim != 3:
            raise ValueError(f"texts: shape {tuple(self.texts.shape)} is not valid; expected (C, K, d)")
        domains = self.texts.mean(0) if self.domains is None else self.domains
        for name, value, shape in (("texts", self.texts, self.texts.shape), ("domains", domains, self.texts.shape[1:]),
                                   ("prototypes", self.prototypes, self.texts.shape)):
            if value is not None and (value.shape != shape or not torch.isfinite(value).all()):
                raise ValueError(f"{name}: shape {tuple(value.shape)} or its values are not valid; expected "
                                 f"{tuple(shape)}, finite")
            object.__setattr__(self, name, None if value is None else value.double())
        object.__setattr__(self, "domains", F.normalize(domains.double(), dim=-1))

    @cached_property
    def cells(self) -> Tensor:
        """T and V: (1 or 2, C, K, d)."""
        return torch.stack([self.texts] if self.prototypes is None else [self.texts, self.prototypes])

    @cached_property
    def readouts(self) -> Tensor:
        """W, what reads the score of each class from an embedding: its mean text over domains, unit rows (C, d)."""
        return F.normalize(self.texts.mean(1), dim=-1)

    @cached_property
    def duals(self) -> Tensor:
        """U, what changes the score of one class and hardly that of another: U = (W W^T + 0.01 I)^-1 W, (C, d).

        W U^T = I - 0.01 (W W^T + 0.01 I)^-1: the small ridge bounds the length of u_c where classes are alike.
        """
        w = self.readouts
        return torch.linalg.solve(w @ w.T + 0.01 * torch.eye(len(w), dtype=w.dtype), w)

    def rows(self, mask: Tensor) -> Tensor:
        """The embeddings of the cells in `mask` (C, K), texts before prototypes: (n, d)."""
        return self.cells[:, mask].flatten(0, 1)

    def special(self, mask: Tensor, center: bool = True) -> Tensor:
        """The same, each less the mean over all cells of its modality, see `special`: (n, d)."""
        return (self.cells[:, mask] - self._means[:, None] if center else self.cells[:, mask]).flatten(0, 1)

    @cached_property
    def _means(self) -> Tensor:
        return self.cells.mean((1, 2))

    @cached_property
    def _grams(self) -> tuple[Tensor, Tensor]:
        """X^T X over the cells of each domain, (K, d, d), and over all: no request then has to go through them all."""
        parts = self.cells.transpose(1, 2).transpose(0, 1).flatten(1, 2)                         # (K, 1 or 2 x C, d)
        grams = parts.transpose(1, 2) @ parts
        return grams, grams.sum(0)

    def _gram(self, mask: Tensor) -> Tensor:
        if 2 * mask.sum() > mask.numel():
            return self._grams[1] - self._gram(~mask)
        whole = mask.all(0)
        x = self.rows(mask & ~whole)
        return x.T @ x + self._grams[0][whole].sum(0)

    def moment(self, mask: Tensor) -> Tensor:
        """X^T X / n over the n rows of the cells in `mask`: (d, d); zero if there are none."""
        return self._gram(mask) / max(1, int(mask.sum()) * len(self.cells))


@lru_cache(maxsize=16)
def concepts(clip: Clip, vocabulary: Vocabulary, prototypes: Prototypes | bool = True) -> Concepts:
    """What `clip` makes of the cells of `vocabulary`, from their names alone.

    prototypes: True synthesizes one for each cell (or finds them in the cache); False uses texts only; or what
        `cell_prototypes` gave, for all cells. Those of an edited model are those of its base, edited.
    """
    texts = embed_cells(clip, vocabulary)
    domains = embed_domains(clip, vocabulary.domains) + F.normalize(texts.mean(0), dim=-1)
    if prototypes is True:
        prototypes = cell_prototypes(clip.base or clip, vocabulary)
    if not prototypes:
        return Concepts(texts, None, domains)
    if not prototypes.mask.all():
        raise ValueError(f"prototypes: {int((~prototypes.mask).sum())} cells have none; expected those of all cells")
    v = prototypes.embeddings.flatten(0, 1)
    for edit in clip.edits:
        v = edit.transform(v)
    return Concepts(texts, F.normalize(v, dim=-1).view_as(texts), domains)


def special(embeddings: Tensor, mask: Tensor, center: bool = True) -> Tensor:
    """The rows an edit is built from: embeddings (C, K, d) of the cells in `mask` (C, K) bool -> (n, d).

    With `center`, the mean over all cells is taken off first, so that a row holds what sets its cell apart and not what
    every picture or every prompt has in common. An edit that takes away such rows makes the forgotten cells look like
    the average cell; one that takes away the raw rows brings their scores to zero, which need not be low.
    """
    return embeddings[mask] - embeddings.mean((0, 1)) if center else embeddings[mask]


# --- the methods -------------------------------------------------------------------------------------------------

def nullspace(rows: Tensor, alpha: float = 1.0, energy: float = 0.9) -> tuple[Tensor, Tensor]:
    """The paper's edit: P = I - alpha U U^T, with U an orthonormal basis of what must go (arXiv 2512.14113).

    Theorem: with alpha = 1, P is the orthogonal projection on the null space of U^T: P = P^T = P P, and with energy = 1
    every forgotten embedding t in the span of `rows` has t P = 0; among all maps with that property, P is nearest to I
    in the Frobenius norm. With alpha < 1, P is invertible: the edit only weakens the span by the factor 1 - alpha.

    rows: what sets the forgotten cells apart, (n, d). energy: see `subspace.basis`; 0.9 was chosen on the train splits
    of miniworld and PACS: as much is forgotten as with 1, and fewer directions are lost to what is kept.
    Returns left, right: (d, r).
    """
    within("alpha", alpha, 0.0, 1.0)
    u = basis(rows, energy)
    return alpha * u, u


def residual(rows: Tensor, kept: Tensor, alpha: float = 1.0, energy: float = 0.9,
             tau: float = 0.01) -> tuple[Tensor, Tensor]:
    """`nullspace` of what ridge regression on the kept embeddings cannot explain of the forgotten rows.

    With M = `kept` and S = tau (M + tau I)^-1, a row x leaves the residual x S; for tau = 0, S is the projection on the
    null space of M. Theorem: with tau = 0 every kept embedding stays fixed, t P = t. With tau > 0 it moves by at most
    |t P - t| <= |t S| |S^-1 U|, and |t S| <= sqrt(n tau) / 2 for each of n kept embeddings.
    With tau = 0 only what no kept cell contains is forgotten: often nothing, as classes and domains nearly add up in
    CLIP's space.

    rows: as in `nullspace`; kept: the second moment X^T X / n of the kept embeddings, (d, d). tau: chosen on the train
    splits of miniworld and PACS. Returns left, right.
    """
    within("alpha", alpha, 0.0, 1.0)
    within("tau", tau, 0.0, 1e9)
    if tau:
        factor = torch.linalg.cholesky(kept + tau * torch.eye(len(kept), dtype=kept.dtype))
        left_over = torch.cholesky_solve(tau * rows.double().T, factor).T
    else:
        values, vectors = torch.linalg.eigh(kept)
        free = vectors[:, values <= 1e-12 * values[-1]]
        left_over = rows.double() @ free @ free.T
        if left_over.norm() <= 1e-5 * rows.norm():                              # at rounding level of embeddings
            return kept[:, :0], kept[:, :0]
    u = basis(left_over, energy)
    return alpha * u, u


def ridge(rows: Tensor, kept: Tensor, forgetting: float = 1000.0, keeping: float = 100.0) -> tuple[Tensor, Tensor]:
    """CCUP's compromise: scores read with forgotten embeddings go, scores read with kept ones stay (arXiv 2512.14137).

    P minimises |P - I|^2 + lambda |P X_F^T|^2 / n_F + mu |P X_R^T - X_R^T|^2 / n_R. Embeddings stand as columns
    behind P here: the score of a picture z P against a text t is z (P t^T).
    Theorem: P = I - lambda / n_F X_F^T X_F A^-1, A = I + lambda X_F^T X_F / n_F + mu X_R^T X_R / n_R. As lambda -> 0,
    P -> I; as lambda -> infinity with mu = 0, P tends to `nullspace` with energy = 1; as mu -> infinity, the score of
    every picture against every kept embedding stays as it was.

    rows, kept: as in `residual`. forgetting, keeping: lambda and mu, chosen on the train splits of miniworld and PACS.
    Returns left, right: (d, n_F).
    """
    within("forgetting", forgetting, 0.0, 1e12)
    within("keeping", keeping, 0.0, 1e12)
    rows = rows.double()
    a = torch.eye(len(kept), dtype=torch.float64) + forgetting / len(rows) * (rows.T @ rows) + keeping * kept
    return forgetting / len(rows) * rows.T, torch.cholesky_solve(rows.T, torch.linalg.cholesky(a))


def oblique(concepts: Concepts, mask: Tensor, strength: float = 2.2, rho: float = 0.02) -> tuple[Tensor, Tensor]:
    """P = I - sum_j v_j r_j^T: v_j says *when* to act, r_j *what* changes then, and the two need not be alike.

    For each class c with forgotten cells: v_c detects them (1 on their mean, near 0 on kept cells, see `detector`), and
    r_c = strength * lead_c * u_c lowers the score of class c alone (u_c: `Concepts.duals`), in units of the mean lead
    of the forgotten prototypes over the average class. What v_c does to other classes of a forgotten domain is free:
    lowering "dog" on line-drawn cats hurts nobody.
    For domains that are forgotten whole, one v detects the domain, and r raises the class that is least expected there
    above all others: a matrix cannot make a picture say nothing, but it can make all pictures say the same.

    Theorem: the build readout w of any class moves, on an embedding z, by at most sum_j |z v_j| |r_j w|. With
    G = W W^T, |u_c w| <= 0.01 |(G + 0.01 I)^-1| for every class other than c: next to nothing unless two classes are
    all but the same.

    strength, rho: chosen on the train splits of miniworld and PACS. Returns left, right: (d, r).
    """
    within("strength", strength, 0.0, 100.0)
    within("rho", rho, 1e-9, 1e9)
    w, u, whole = concepts.readouts, concepts.duals, mask.all(0)
    pictures = concepts.cells[-1]                                                # V, or T where there is none
    left, right = [torch.zeros_like(w[:0])], [torch.zeros_like(w[:0])]
    for row in (mask & ~whole).unique(dim=0):
        classes = ((mask & ~whole) == row).all(1).nonzero()[:, 0] if row.any() else ()
        if len(classes):
            scores = pictures[classes][:, row] @ w.T                                     # (classes, cells of each, C)
            own = scores.gather(2, classes.view(-1, 1, 1).expand(-1, scores.shape[1], 1))[..., 0]
            left.append(detectors(concepts, mask, classes, rho))
            right.append(strength * (own - scores.mean(2)).mean(1, keepdim=True) * u[classes])
    if whole.any():
        scores = pictures[:, whole].flatten(0, 1) @ w.T
        decoy = scores.mean(0).argmin()
        left.append(detector(concepts, whole.expand_as(mask), [~mask], rho)[None])
        right.append(-strength * (scores.amax(1) - scores[:, decoy]).mean() * u[decoy, None])
    return torch.cat(left).T, torch.cat(right).T


def detector(concepts: Concepts, cells: Tensor, against: list[Tensor], rho: float) -> Tensor:
    """What tells the rows of `cells` from those of each mask in `against`: v (d,), scaled to m v = 1, m the mean row.

    Up to that scale, v minimises the mean of (x v - 1)^2 over `cells` plus that of (x v)^2 over each mask of `against`
    plus rho |v|^2: v ~ (M_cells + sum M_against + rho I)^-1 m, with second moments M = X^T X / n.
    """
    a = concepts.moment(cells) + sum(concepts.moment(mask) for mask in against)
    a += rho * torch.eye(len(a), dtype=a.dtype)
    m = concepts.rows(cells).mean(0)
    v = torch.cholesky_solve(m[:, None], torch.linalg.cholesky(a))[:, 0]
    return v / (m @ v)


def detectors(concepts: Concepts, mask: Tensor, classes: Tensor, rho: float) -> Tensor:
    """`detector` of the forgotten cells of each of `classes`, which are forgotten in the same domains: (n, d).

    Against: its siblings (the class in the domains that keep it), and all kept cells of those domains; where no domain
    keeps it, all kept cells. The latter are the same for all, so with B their moment plus rho I, and X (r, d) the
    embeddings of a class, weighted by D, v ~ (B + X^T D X)^-1 X^T p = B^-1 X^T (I + D X B^-1 X^T)^-1 p (push-through
    identity): one large system for all classes and a small one for each.
    """
    whole, n = mask.all(0), len(concepts.cells)
    forgotten, siblings = mask[classes[0]] & ~whole, ~mask[classes[0]]
    b = concepts.moment(~mask & (siblings if siblings.any() else ~whole))
    x = concepts.cells[:, classes].transpose(0, 1).flatten(1, 2)                         # (n, r, d): T, then V
    p = (forgotten.double() / (n * forgotten.sum())).repeat(n)                           # (r,)
    weights = p + (siblings.double() / (n * siblings.sum().clamp(min=1))).repeat(n)
    factor = torch.linalg.cholesky(b + rho * torch.eye(len(b), dtype=b.dtype))
    y = torch.cholesky_solve(x.flatten(0, 1).T, factor).T.view_as(x)                     # X B^-1
    a = torch.linalg.solve(torch.eye(len(p), dtype=p.dtype) + weights[:, None] * (x @ y.mT), p.expand(len(x), -1))
    v = (a[..., None] * y).sum(1)
    return v / torch.einsum("r,nrd,nd->n", p, x, v)[:, None]


def gated(concepts: Concepts, mask: Tensor, strength: float = 1.5, offset: float = 0.0) -> tuple[Tensor, Tensor, Gate]:
    """Act only on pictures of a forgotten domain: z - (relu(z L) * open[k]) R^T for a picture taken for domain k.

    Column c of L reads the lead of class c over the average class, strength * (w_c - mean w), and u_c takes it away: at
    strength 1 the class scores as the average class does, at 1.5 it is half as far below as it was above. In a domain
    that is forgotten whole every picture gets the embedding of the average cell: nothing tells one from another.

    Theorem: where the gate is shut (no forgotten class of the picture's domain scores above average), z is unchanged,
    bit by bit; where it is open, only the scores of forgotten classes move, up to the bound of `oblique`. In domains
    forgotten whole, the edited embedding is independent of the picture.

    What it costs is what the gate mistakes: sibling cells lose the share of their pictures taken for the wrong domain.
    strength: chosen on the train splits of miniworld and PACS. offset: added to the score of domains in which something
    is forgotten; above 0 forgets more and hurts more.
    Returns left, right (d, r) and the gate.
    """
    within("strength", strength, 0.0, 100.0)
    within("offset", offset, -2.0, 2.0)
    w, whole = concepts.readouts, mask.all(0)
    classes = (mask & ~whole).any(1)
    gate = Gate(concepts.domains, (mask & ~whole)[classes].T.contiguous(), whole,
                F.normalize(concepts.texts.mean((0, 1)), dim=0), offset * mask.any(0).double())
    return strength * (w[classes] - w.mean(0)).T, concepts.duals[classes].T, gate


METHODS: dict[str, Callable] = {f.__name__: f for f in (nullspace, residual, ridge, oblique, gated)}


def solve(concepts: Concepts, mask: Tensor, method: str = "nullspace", center: bool = True, **settings: float) -> Edit:
    """The edit of `method` that forgets the cells in `mask` (C, K) bool: closed form only.

    center: whether `nullspace`, `residual` and `ridge` take away what is special to the forgotten cells (see `special`)
    or all of their embeddings. settings: those of the method; unknown ones are refused.
    """
    function = METHODS[one_of("method", method, METHODS)]
    if mask.shape != concepts.texts.shape[:2] or mask.dtype != torch.bool or not mask.any() or mask.all():
        raise ValueError(f"mask: {tuple(mask.shape)} {mask.dtype} with {int(mask.sum())} cells; expected bool "
                         f"{tuple(concepts.texts.shape[:2])} with some cells to forget and some to keep")
    defaults = {p.name: p.default for p in inspect.signature(function).parameters.values() if p.default is not p.empty}
    for name in settings:
        one_of("settings", name, defaults)
    if method in ("oblique", "gated"):
        given = [concepts, mask]
    else:
        given = [concepts.special(mask, center)] + ([] if method == "nullspace" else [concepts.moment(~mask)])
        defaults["center"] = center
    left, right, *gate = function(*given, **settings)
    return Edit(left, right, method, settings={**defaults, **settings, "prototypes": concepts.prototypes is not None},
                gate=gate[0] if gate else None)


def unlearn(clip: Clip, forget: Forget, vocabulary: Vocabulary, method: str = "nullspace",
            prototypes: Prototypes | bool = True, **settings: float) -> Edit:
    """The edit that makes `clip` forget `forget`, from the names in `vocabulary` alone.

    method: one of METHODS. prototypes: see `concepts`. settings: those of the method and `center`, see `solve`; their
    defaults are one set for all models and data, chosen on the train splits of miniworld and PACS.
    For an edited `clip` the edit is made to come after those it has.
    """
    mask = forget.mask(vocabulary)
    one_of("method", method, METHODS)
    edit = solve(concepts(clip, vocabulary, prototypes), mask, method, **settings)
    return replace(edit, request=forget, fingerprint=clip.fingerprint, model=clip.name)
