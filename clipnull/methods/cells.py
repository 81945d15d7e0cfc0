"""What every method is given: how a model embeds the cells of a vocabulary."""

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
"""Of `Cells.duals`: the ridge, and as how many names all common words together weigh."""
CLEAR_RIDGE, CLEAR_WORDS, CLEAR_NAMES = 0.2, 20, 20
"""The same of `Cells.clear_margins`; and as how many names the classes weigh at most."""
FORM_REACH = 0.93
"""How far the forms of a class go down, as a share of the largest of their margins: more hits unrelated words."""
MAX_LEAN = 0.5
"""The lean of the mean picture to one domain up to which zero is the middle between domains."""
MIN_CONTRAST = 0.25
"""The contrast of prototypes counts as at least this share of that of texts: an earlier edit may have taken it away."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The embeddings of all C x K cells of a vocabulary: all that an edit is made of. Copied, and cast to float64.

    texts: T, (C, K, d), unit rows. prototypes: V, the same, or None. domains: (K, d), what names each domain; by
    default the mean text of each. common: (w, d), texts of words that are to stay (`prompts.common_words`). mean: (d,),
    the mean embedding of pictures, not normalised; by default that of the prototypes. forms: (C, F, d), texts of each
    class in other forms ("dogs", "the dog"), that go down and stay with it (`prompts.embed_forms`).
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
        (c, k, d), kinds = self.texts.shape, "texts alone" if self.prototypes is None else "prototypes"
        return f"Cells({c} classes, {k} domains, {d} wide, {kinds})"

    @property
    def shape(self) -> tuple[int, int]:
        """(C, K)."""
        return self.texts.shape[0], self.texts.shape[1]

    @property
    def kinds(self) -> tuple[Tensor, ...]:
        """T, and V where there are prototypes: one or two tensors (C, K, d)."""
        return (self.texts,) if self.prototypes is None else (self.texts, self.prototypes)

    @property
    def pictures(self) -> Tensor:
        """V, or T where there is none: (C, K, d)."""
        return self.kinds[-1]

    # --- classes

    @cached_property
    def classifier(self) -> Tensor:
        """W, the text classifier: the mean text of each class over domains, unit rows, (C, d)."""
        return F.normalize(self.texts.mean(1), dim=-1)

    @cached_property
    def margins(self) -> Tensor:
        """w_c - mean w: z (w_c - mean w) is the margin of class c over the mean class in an embedding z, (C, d)."""
        return self.classifier - self.classifier.mean(0)

    @cached_property
    def form_margins(self) -> Tensor:
        """Of each class, its margin and those of its forms, each over the mean class in that form: (C, 1 + F, d)."""
        forms = self.texts[:, :0] if self.forms is None else self.forms
        return torch.cat([self.margins[:, None], forms - forms.mean(0)], dim=1)

    @cached_property
    def duals(self) -> Tensor:
        """U, which changes the margin of one class, in all its forms, and hardly anything else: (C, d).

        u_c ~ (X^T X + 0.05 I)^-1 sum_f m_cf, where X holds the margins m_cf of all forms of all classes and, weighed as
        DUAL_WORDS names, the common words minus their mean. u_c m_cf is 1 in the mean over forms.
        """
        return self._lowering(self.form_margins, torch.ones_like(self.form_margins[..., 0]))

    def push(self, c: int, row: Tensor) -> Tensor:
        """(d,): lowers class c by its mean margin in its cells of the domains `row` (K,) bool; zero where it has none.

        A class that is forgotten everywhere goes down in each form by FORM_REACH of the largest of their margins; else,
        as that costs its siblings, in each form by the margin of that form.
        """
        m = self.form_margins[c]
        wanted = (self.pictures[c, row] @ m.T).mean(0).clamp(min=0)
        if row.all() and len(wanted) > 1:
            wanted = FORM_REACH * wanted.max().expand_as(wanted)
        return self._lowering(m[None], wanted[None])[0]

    def _lowering(self, margins: Tensor, wanted: Tensor) -> Tensor:
        """Rows (n, d) that lower n classes, of these margins (n, F, d), each form by what is wanted, (n, F)."""
        u = torch.cholesky_solve((wanted[..., None] * margins).sum(1).T, self._dual_factor).T
        lowered = (margins * u[:, None]).sum(-1)
        scale = (lowered * wanted).sum(1) / wanted.square().sum(1).clamp(min=1e-12)
        return u / scale.clamp(min=1e-9)[:, None]

    @cached_property
    def _dual_factor(self) -> Tensor:
        return self._factor(self.form_margins.flatten(0, 1), DUAL_WORDS, DUAL_RIDGE)

    @cached_property
    def clear_margins(self) -> Tensor:
        """Margins read clear of other classes and of common words, (C, d): r_c ~ (X^T X + 0.2 I)^-1 (w_c - mean w).

        X as in `duals`, but without forms; words and names weigh as CLEAR_WORDS and at most CLEAR_NAMES: the more of
        them, the less of w_c would be left. Scaled to read of w_c what w_c - mean w does.
        """
        w, margins = self.classifier, self.margins
        factor = self._factor(margins * math.sqrt(min(1.0, CLEAR_NAMES / len(w))), CLEAR_WORDS, CLEAR_RIDGE)
        r = torch.cholesky_solve(margins.T, factor).T
        return r * ((margins * w).sum(1, keepdim=True) / (r * w).sum(1, keepdim=True).clamp(min=1e-9))

    def _factor(self, x: Tensor, words: float, ridge: float) -> Tensor:
        """The Cholesky factor of X^T X + ridge I, X: the rows x (n, d) and the common words, which weigh as `words`."""
        if self.common is not None and len(self.common):
            x = torch.cat([x, (self.common - self.common.mean(0)) * math.sqrt(words / len(self.common))])
        return ridged_factor(gram(x), ridge)

    @property
    def growth(self) -> float:
        """How much farther a class goes down where there are more names than dimensions: max(1, sqrt(C / d)).

        Beyond d names, u_c lowers names nearby along with class c, which one of them is to replace.
        """
        c, d = self.classifier.shape
        return max(1.0, math.sqrt(c / d))

    def class_detector(self, c: int) -> Tensor:
        """(d,): reads the margin of class c, as 1 more on its cells than on the mean cell."""
        r = self.margins[c]
        return r / _contrast([(x[c].mean(0) - mean) @ r for x, mean in zip(self.kinds, self._means, strict=True)])

    # --- domains

    @cached_property
    def domain_directions(self) -> Tensor:
        """What names each domain, texts and prototypes together: unit rows, (K, d)."""
        assert self.domains is not None  # set when the cells were made
        seen = 0 if self.prototypes is None else F.normalize(self.prototypes.mean(0), dim=-1)
        return F.normalize(self.domains + seen, dim=-1)

    @property
    def domain_lean(self) -> float:
        """How far the mean picture leans to one domain: its largest z (s_k - mean s), that of the name s_k being 1."""
        mean = self._mean_picture
        if mean is None or len(self.domain_directions) < 2:
            return 0.0
        s = self.domain_directions - self.domain_directions.mean(0)
        return float((s @ F.normalize(mean, dim=0) / (s * self.domain_directions).sum(1)).max())

    @property
    def domain_origin(self) -> Tensor:
        """What is taken for the middle between domains, (d,): zero, or the mean picture where zero cannot be it.

        The mean of many pictures reads about 0 on each domain (measured: up to .35). Where it leans by more than
        MAX_LEAN to one, all would be taken for it, so detectors count from the mean. Elsewhere that would do harm: a
        mean is seldom balanced between domains.
        """
        mean = self._mean_picture
        return torch.zeros_like(self.classifier[0]) if mean is None or self.domain_lean <= MAX_LEAN else mean

    @property
    def _mean_picture(self) -> Tensor | None:
        return self._means[1] if self.mean is None and self.prototypes is not None else self.mean

    def domain_detector(self, row: Tensor) -> Tensor:
        """(d,): reads the domains `row` (K,) bool against the others, as 2 more on their cells than on the others'.

        What it reads from `domain_origin` is taken out; a zero vector if `row` is all domains.
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
        """The embeddings of the cells in `mask` (C, K) bool, texts before prototypes: (n, d).

        The forms of classes that are in `mask` in every domain come last. With `center`, the mean over all cells of the
        same kind, or over all classes in the same form, is subtracted: an edit then makes forgotten cells look like the
        mean cell. One that takes away raw rows brings their scores to zero, which need not be low.
        """
        rows = [x[mask] - (mean if center else 0) for x, mean in zip(self.kinds, self._means, strict=True)]
        return torch.cat([*rows, self._form_rows(mask.all(1), center)])

    def n_rows(self, mask: Tensor) -> int:
        """How many `rows` the cells in `mask` have."""
        forms = 0 if self.forms is None else self.forms.shape[1]
        return int(mask.sum()) * len(self.kinds) + int(mask.all(1).sum()) * forms

    @cached_property
    def _means(self) -> list[Tensor]:
        return [x.mean(0) for x in self._domain_means]

    @cached_property
    def _domain_means(self) -> list[Tensor]:
        return [x.mean(0) for x in self.kinds]

    def moment(self, mask: Tensor) -> Tensor:
        """X^T X / n over the n rows of the cells in `mask`: (d, d); zero if there are none."""
        return self.grams(mask)[0] / max(1, self.n_rows(mask))

    def grams(self, mask: Tensor, center: bool = False) -> tuple[Tensor, Tensor]:
        """X^T X of `rows(mask, center)` and of `rows(~mask)`, each (d, d): from products over few rows."""
        few, (whole, forms) = 2 * mask.sum() <= mask.numel(), self._grams
        part = gram(torch.cat([x[mask if few else ~mask] for x in self.kinds]))
        inside, outside = (part, whole - part) if few else (whole - part, part)
        for x, mean in zip(self.kinds, self._means, strict=True) if center else ():
            half = torch.outer(x[mask].sum(0) - 0.5 * mask.sum() * mean, mean)
            inside = inside - half - half.T
        inside = inside + gram(self._form_rows(mask.all(1), center))
        return inside, outside + forms - gram(self._form_rows(mask.any(1)))

    @cached_property
    def _grams(self) -> tuple[Tensor, Tensor]:
        """X^T X over all cells, and over all forms: no request has to go through them all."""
        everything = torch.ones(self.shape, dtype=torch.bool)
        return gram(torch.cat([x[everything] for x in self.kinds])), gram(self._form_rows(everything.all(1)))

    def _form_rows(self, classes: Tensor, center: bool = False) -> Tensor:
        """The forms of `classes` (C,) bool, where there are any: (n, d)."""
        forms = self.texts[:, :0] if self.forms is None else self.forms
        return (forms - forms.mean(0) if center else forms)[classes].flatten(0, 1)

    def validate(self, mask: Tensor) -> None:
        """Raises ValueError unless `mask` is bool (C, K) with some cells to forget and some to keep."""
        if mask.shape != self.shape or mask.dtype != torch.bool or not mask.any() or mask.all():
            raise ValueError(
                f"mask: {tuple(mask.shape)} {mask.dtype} with {int(mask.sum())} cells; expected bool {self.shape} with "
                "some cells to forget and some to keep"
            )


def _contrast(kinds: list[Tensor]) -> Tensor:
    """The contrast of prototypes, or that of texts where there are none; what is divided by it must stay small."""
    return torch.maximum(kinds[-1], MIN_CONTRAST * kinds[0])
