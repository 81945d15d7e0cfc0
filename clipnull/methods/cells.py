"""The input of every method: how a model embeds the (class, domain) cells of a vocabulary."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import validate_shapes, validate_values
from ..subspace import gram, ridged_factor

AXES = {"texts": "CKd", "prototypes": "CKd", "domains": "Kd", "common": "wd", "mean": "d", "forms": "CFd"}
DUAL_RIDGE, DUAL_WORDS = 0.05, 100
CLEAR_RIDGE, CLEAR_WORDS, CLEAR_NAMES = 0.2, 20, 20
FORM_REACH = 0.93
"""How far all forms of a class go down, as a share of the largest margin; a larger share hits more unrelated words."""
MAX_LEAN = 0.5
MIN_CONTRAST = 0.25
"""The least contrast of prototypes, as a share of the contrast of texts: an earlier edit may have removed it."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The embeddings of all C x K cells of a vocabulary, all that a method knows of them. Copied as float64.

    texts: T, (C, K, d), unit rows. prototypes: V, (C, K, d), unit rows, or None. domains: (K, d), a name embedding for
    each domain; by default its mean text. common: (w, d), texts of words to keep (`prompts.common_words`). mean: (d,),
    the mean picture embedding, not normalised; by default the mean prototype. forms: (C, F, d), texts of each class in
    other forms ("dogs", "the dog"), which are forgotten or kept with the class (`prompts.embed_forms`).
    """

    texts: Tensor
    prototypes: Tensor | None = None
    domains: Tensor | None = None
    common: Tensor | None = None
    mean: Tensor | None = None
    forms: Tensor | None = None

    def __post_init__(self) -> None:
        validate_shapes(AXES, vars(self), may_be_empty="wF")
        validate_values(**vars(self))
        for name, value in vars(self).copy().items():
            if value is not None:
                object.__setattr__(self, name, value.to(torch.float64, copy=True))
        domains = self.texts.mean(0) if self.domains is None else self.domains
        object.__setattr__(self, "domains", F.normalize(domains, dim=-1))

    def __repr__(self) -> str:
        (c, k, d), kinds = self.texts.shape, "texts only" if self.prototypes is None else "prototypes"
        return f"Cells({c} classes, {k} domains, width {d}, {kinds})"

    @property
    def shape(self) -> tuple[int, int]:
        """(C, K)."""
        return self.texts.shape[0], self.texts.shape[1]

    @property
    def kinds(self) -> tuple[Tensor, ...]:
        """T, and V if there are prototypes: one or two tensors (C, K, d)."""
        return (self.texts,) if self.prototypes is None else (self.texts, self.prototypes)

    @property
    def pictures(self) -> Tensor:
        """V, or T without prototypes: (C, K, d)."""
        return self.kinds[-1]

    # --- classes

    @cached_property
    def classifier(self) -> Tensor:
        """W, the text classifier (C, d): the mean text of each class over domains, as unit rows."""
        return F.normalize(self.texts.mean(1), dim=-1)

    @cached_property
    def margins(self) -> Tensor:
        """The rows w_c - mean w, (C, d): z (w_c - mean w) is the margin of class c over the mean class in z."""
        return self.classifier - self.classifier.mean(0)

    @cached_property
    def form_margins(self) -> Tensor:
        """The margins of each class and its forms, each over the mean class in that form: (C, 1 + F, d)."""
        forms = self.texts[:, :0] if self.forms is None else self.forms
        return torch.cat([self.margins[:, None], forms - forms.mean(0)], dim=1)

    @cached_property
    def duals(self) -> Tensor:
        """U, (C, d): u_c changes the margin of class c, in all its forms, and almost nothing else.

        u_c ~ (X^T X + DUAL_RIDGE I)^-1 sum_f m_cf. X holds the margins m_cf of all forms of all classes, and the common
        words minus their mean, which together weigh as DUAL_WORDS names. u_c is scaled so that u_c m_cf averages 1.
        """
        return self._lowering(self.form_margins, torch.ones_like(self.form_margins[..., 0]))

    def push(self, c: int, row: Tensor) -> Tensor:
        """Return the direction (d,) that lowers class c by its mean margin in its cells of the domains `row` (K,) bool.

        If `row` is all domains, a class with forms goes down in each by FORM_REACH of their largest mean margin.
        Otherwise that would cost the siblings, so each form goes down by its own. Margins below zero count as zero.
        """
        m = self.form_margins[c]
        drops = (self.pictures[c, row] @ m.T).mean(0).clamp(min=0)
        if row.all() and len(drops) > 1:
            drops = FORM_REACH * drops.max().expand_as(drops)
        return self._lowering(m[None], drops[None])[0]

    def _lowering(self, margins: Tensor, drops: Tensor) -> Tensor:
        """Return rows (n, d) that lower the F forms of n classes, with margins (n, F, d), by about `drops` (n, F)."""
        u = torch.cholesky_solve((drops[..., None] * margins).sum(1).T, self._dual_factor).T
        effects = (margins * u[:, None]).sum(-1)
        scale = (effects * drops).sum(1) / drops.square().sum(1).clamp(min=1e-12)
        return u / scale.clamp(min=1e-9)[:, None]

    @cached_property
    def _dual_factor(self) -> Tensor:
        return self._factor(self.form_margins.flatten(0, 1), DUAL_WORDS, DUAL_RIDGE)

    @cached_property
    def clear_margins(self) -> Tensor:
        """Margins that ignore other classes and common words, (C, d).

        r_c ~ (X^T X + CLEAR_RIDGE I)^-1 (w_c - mean w), with X as in `duals`, without forms. Words weigh as CLEAR_WORDS
        names and classes as CLEAR_NAMES at most, since more of them would leave less of w_c. r_c is scaled so that
        r_c w_c = (w_c - mean w) w_c.
        """
        w, margins = self.classifier, self.margins
        factor = self._factor(margins * math.sqrt(min(1.0, CLEAR_NAMES / len(w))), CLEAR_WORDS, CLEAR_RIDGE)
        r = torch.cholesky_solve(margins.T, factor).T
        return r * ((margins * w).sum(1, keepdim=True) / (r * w).sum(1, keepdim=True).clamp(min=1e-9))

    def _factor(self, x: Tensor, words: float, ridge: float) -> Tensor:
        """Return the Cholesky factor of X^T X + ridge I. X is x (n, d) and the common words, which weigh as `words`."""
        if self.common is not None and len(self.common):
            x = torch.cat([x, (self.common - self.common.mean(0)) * math.sqrt(words / len(self.common))])
        return ridged_factor(gram(x), ridge)

    @property
    def growth(self) -> float:
        """How much farther a class goes down if there are more names than dimensions: max(1, sqrt(C / d)).

        With more than d names, u_c also lowers the names near class c, one of which has to replace it.
        """
        c, d = self.classifier.shape
        return max(1.0, math.sqrt(c / d))

    def class_detector(self, c: int) -> Tensor:
        """Return the margin row of class c, (d,), scaled to read 1 more on its cells than on the mean cell."""
        r = self.margins[c]
        return r / _contrast([(x[c].mean(0) - mean) @ r for x, mean in zip(self.kinds, self._means, strict=True)])

    # --- domains

    @cached_property
    def domain_directions(self) -> Tensor:
        """One unit row per domain, (K, d): its name embedding plus its mean prototype."""
        assert self.domains is not None  # set in __post_init__
        pictures = 0 if self.prototypes is None else F.normalize(self.prototypes.mean(0), dim=-1)
        return F.normalize(self.domains + pictures, dim=-1)

    @property
    def domain_lean(self) -> float:
        """How far the mean picture z leans to one domain: the largest z m_k / (s_k m_k), with m_k = s_k - mean s."""
        mean = self._mean_picture
        if mean is None or len(self.domain_directions) < 2:
            return 0.0
        s = self.domain_directions - self.domain_directions.mean(0)
        return float((s @ F.normalize(mean, dim=0) / (s * self.domain_directions).sum(1)).max())

    @property
    def domain_origin(self) -> Tensor:
        """The middle between domains, (d,): zero, or the mean picture if it leans to one domain by more than MAX_LEAN.

        The mean of many pictures scores about 0 on each domain (measured: up to .35). Where it leans further to one,
        all pictures would be assigned to that domain, so detectors measure from the mean picture. Otherwise they
        measure from zero, because a mean picture is seldom balanced between domains.
        """
        mean = self._mean_picture
        return torch.zeros_like(self.classifier[0]) if mean is None or self.domain_lean <= MAX_LEAN else mean

    @property
    def _mean_picture(self) -> Tensor | None:
        return self._means[1] if self.mean is None and self.prototypes is not None else self.mean

    def domain_detector(self, row: Tensor) -> Tensor:
        """Return a detector (d,) of the domains `row` (K,) bool: it reads 2 more on their cells than on other cells.

        Its component along `domain_origin` is then removed. The detector is zero if `row` is all domains.
        """
        s = self.domain_directions
        if row.all():
            return torch.zeros_like(s[0])
        r = s[row].mean(0) - s[~row].mean(0)
        r = r / (_contrast([(x[row].mean(0) - x[~row].mean(0)) @ r for x in self._domain_means]) / 2)
        m = self.domain_origin
        return r - (r @ m) / (m @ m).clamp(min=1e-12) * m

    # --- rows

    def rows(self, mask: Tensor, center: bool = False) -> Tensor:
        """Return the embeddings of the cells in `mask` (C, K) bool, texts before prototypes: (n, d).

        The forms of classes that `mask` covers in every domain come last. center: subtract the mean over all cells of
        the same kind, or over all classes in the same form. An edit then makes forgotten cells look like the mean cell.
        Removing raw rows instead brings their scores to zero, which need not be low.
        """
        rows = [x[mask] - (mean if center else 0) for x, mean in zip(self.kinds, self._means, strict=True)]
        return torch.cat([*rows, self._form_rows(mask.all(1), center)])

    def n_rows(self, mask: Tensor) -> int:
        """Return the number of `rows` of the cells in `mask`."""
        forms = 0 if self.forms is None else self.forms.shape[1]
        return int(mask.sum()) * len(self.kinds) + int(mask.all(1).sum()) * forms

    @cached_property
    def _means(self) -> list[Tensor]:
        return [x.mean(0) for x in self._domain_means]

    @cached_property
    def _domain_means(self) -> list[Tensor]:
        return [x.mean(0) for x in self.kinds]

    def moment(self, mask: Tensor) -> Tensor:
        """Return X^T X / n over the n rows of the cells in `mask`: (d, d); zero if there are none."""
        return self.grams(mask)[0] / max(1, self.n_rows(mask))

    def grams(self, mask: Tensor, center: bool = False) -> tuple[Tensor, Tensor]:
        """Return X^T X of `rows(mask, center)` and of `rows(~mask)`; the larger is the total minus the smaller."""
        few, (total, forms) = 2 * mask.sum() <= mask.numel(), self._grams
        part = gram(torch.cat([x[mask if few else ~mask] for x in self.kinds]))
        inside, outside = (part, total - part) if few else (total - part, part)
        for x, mean in zip(self.kinds, self._means, strict=True) if center else ():
            half = torch.outer(x[mask].sum(0) - 0.5 * mask.sum() * mean, mean)
            inside = inside - half - half.T
        inside = inside + gram(self._form_rows(mask.all(1), center))
        return inside, outside + forms - gram(self._form_rows(mask.any(1)))

    @cached_property
    def _grams(self) -> tuple[Tensor, Tensor]:
        """X^T X over all cells and over all forms, computed once for all requests."""
        everything = torch.ones(self.shape, dtype=torch.bool)
        return gram(torch.cat([x[everything] for x in self.kinds])), gram(self._form_rows(everything.all(1)))

    def _form_rows(self, classes: Tensor, center: bool = False) -> Tensor:
        """Return the forms of `classes` (C,) bool: (n, d), with n = 0 if there are none."""
        forms = self.texts[:, :0] if self.forms is None else self.forms
        return (forms - forms.mean(0) if center else forms)[classes].flatten(0, 1)

    def validate(self, mask: Tensor) -> None:
        """Raise ValueError unless `mask` is bool (C, K) with some cells to forget and some to keep."""
        if mask.shape != self.shape or mask.dtype != torch.bool or not mask.any() or mask.all():
            given = f"{tuple(mask.shape)} {mask.dtype} with {int(mask.sum())} cells"
            raise ValueError(f"mask: {given}; expected bool {self.shape} with some cells to forget and some to keep")


def _contrast(kinds: list[Tensor]) -> Tensor:
    """Return the contrast of the last kind, at least MIN_CONTRAST times the texts', so that dividing by it is safe."""
    return torch.maximum(kinds[-1], MIN_CONTRAST * kinds[0])
