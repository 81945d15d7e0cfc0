"""What every method is given: how a model embeds the cells of a vocabulary."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..subspace import gram, ridged_factor

DUAL_RIDGE, DUAL_WORDS = 0.05, 100
"""Of `Cells.duals`: the ridge, and as how many names all common words together weigh."""
CLEAR_RIDGE, CLEAR_WORDS, CLEAR_NAMES = 0.2, 20, 20
"""The same of `Cells.clear_margins`; and as how many names the classes weigh at most."""
MAX_LEAN = 0.5
"""The lean of the mean picture to one domain up to which zero is the middle between domains."""
MIN_CONTRAST = 0.25
"""The contrast of prototypes counts as at least this share of that of texts: an earlier edit may have taken it away."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The embeddings of all C x K cells of a vocabulary: all that an edit is made of. Copied, and cast to float64.

    texts: T, (C, K, d), unit rows. prototypes: V, the same, or None. domains: (K, d), what names each domain; by
    default the mean text of each. common: (w, d), texts of words that are to stay (`prompts.common_words`). mean: (d,),
    the mean embedding of pictures, not normalised; by default that of the prototypes.
    """

    texts: Tensor
    prototypes: Tensor | None = None
    domains: Tensor | None = None
    common: Tensor | None = None
    mean: Tensor | None = None

    def __post_init__(self) -> None:
        if self.texts.ndim != 3:
            raise ValueError(f"texts: shape {tuple(self.texts.shape)} is not valid; expected (C, K, d)")
        (c, k, d), words = self.texts.shape, 0 if self.common is None else len(self.common)
        shapes = {"texts": (c, k, d), "prototypes": (c, k, d), "domains": (k, d), "common": (words, d), "mean": (d,)}
        for name, shape in shapes.items():
            value = self.texts.mean(0) if name == "domains" and self.domains is None else getattr(self, name)
            if value is not None and (value.shape != shape or not torch.isfinite(value).all()):
                raise ValueError(
                    f"{name}: shape {tuple(value.shape)} or its values are not valid; expected {shape}, finite"
                )
            if value is not None:
                value = F.normalize(value.double(), dim=-1) if name == "domains" else value.to(torch.float64, copy=True)
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        c, k, d = self.texts.shape
        return (
            f"Cells({c} classes, {k} domains, {d} wide, {'texts alone' if self.prototypes is None else 'prototypes'})"
        )

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
    def duals(self) -> Tensor:
        """U, which changes the margin of one class and hardly anything else, (C, d): u_c (w_c - mean w) = 1.

        u_c ~ (X^T X + 0.05 I)^-1 (w_c - mean w), where X holds the margins and, weighed as DUAL_WORDS names, the common
        words minus their mean: u_c is short on all other classes and words.
        """
        u = self._clear(DUAL_WORDS, DUAL_RIDGE, 1.0)
        return u / (u * self.margins).sum(1, keepdim=True).clamp(min=1e-9)

    @cached_property
    def clear_margins(self) -> Tensor:
        """Margins read clear of other classes and of common words, (C, d): r_c ~ (X^T X + 0.2 I)^-1 (w_c - mean w).

        X as in `duals`, but words and names weigh as CLEAR_WORDS and at most CLEAR_NAMES: the more of them, the less of
        w_c would be left. Scaled to read of w_c what w_c - mean w does.
        """
        w, margins = self.classifier, self.margins
        r = self._clear(CLEAR_WORDS, CLEAR_RIDGE, min(1.0, CLEAR_NAMES / len(w)))
        return r * ((margins * w).sum(1, keepdim=True) / (r * w).sum(1, keepdim=True).clamp(min=1e-9))

    def _clear(self, words: float, ridge: float, share: float) -> Tensor:
        """(X^T X + ridge I)^-1 (w_c - mean w), X: margins, each of weight `share`, and common words, of `words`."""
        x = self.margins * math.sqrt(share)
        if self.common is not None and len(self.common):
            x = torch.cat([x, (self.common - self.common.mean(0)) * math.sqrt(words / len(self.common))])
        c, (n, d) = len(self.margins), x.shape
        if n < d:  # (X^T X + rI)^-1 X^T = X^T (X X^T + rI)^-1
            return torch.cholesky_solve(x, ridged_factor(gram(x.T), ridge))[:c] / math.sqrt(share)
        return torch.cholesky_solve(self.margins.T, ridged_factor(gram(x), ridge)).T

    @property
    def growth(self) -> float:
        """How much farther a class has to go down where there are more names than dimensions: max(1, sqrt(C / d)).

        Beyond d names, u_c lowers names nearby along with class c (on OpenAI's ViT-B/32, d = 512, the nearest of 1,171
        names by .34 of it): for one of these to be named in its place, c has to go farther.
        """
        c, d = self.classifier.shape
        return max(1.0, math.sqrt(c / d))

    def margin_of(self, c: int, row: Tensor) -> float:
        """The mean margin of class c in its cells of the domains `row` (K,) bool; 0 where it has none."""
        return max(0.0, float((self.pictures[c, row] @ self.margins[c]).mean()))

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
        """How far the mean picture leans to one domain: its largest reading, that of the domain's own name being 1.

        For K domains with names s_k, the reading of z is z (s_k - mean s), divided by that of s_k. 0 without a mean.
        """
        mean = self._means[1] if self.mean is None and self.prototypes is not None else self.mean
        if mean is None or len(self.domain_directions) < 2:
            return 0.0
        s = self.domain_directions - self.domain_directions.mean(0)
        return float((s @ F.normalize(mean, dim=0) / (s * self.domain_directions).sum(1)).max())

    @property
    def domain_origin(self) -> Tensor:
        """What is taken for the middle between domains, (d,): zero, or the mean picture where zero cannot be it.

        The mean of many pictures reads about 0 on each domain (measured: up to .35). Where it leans by more than
        MAX_LEAN to one, all pictures would be taken for that domain, so detectors count from the mean picture.
        Elsewhere that would do harm: a mean is seldom balanced between domains.
        """
        if self.domain_lean <= MAX_LEAN:
            return torch.zeros_like(self.classifier[0])
        return self._means[1] if self.mean is None else self.mean

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

        With `center`, the mean over all cells of the same kind (text or prototype) is subtracted. An edit that takes
        away such rows makes the forgotten cells look like the mean cell; one that takes away raw rows brings their
        scores to zero, which need not be low.
        """
        if center:
            return torch.cat([x[mask] - mean for x, mean in zip(self.kinds, self._means, strict=True)])
        return torch.cat([x[mask] for x in self.kinds])

    @cached_property
    def _means(self) -> list[Tensor]:
        return [x.mean(0) for x in self._domain_means]

    @cached_property
    def _domain_means(self) -> list[Tensor]:
        return [x.mean(0) for x in self.kinds]

    def moment(self, mask: Tensor) -> Tensor:
        """X^T X / n over the n rows of the cells in `mask`: (d, d); zero if there are none."""
        return self.grams(mask)[0] / max(1, int(mask.sum()) * len(self.kinds))

    def grams(self, mask: Tensor, center: bool = False) -> tuple[Tensor, Tensor]:
        """X^T X of `rows(mask, center)` and of `rows(~mask)`, each (d, d): from one product, over the smaller part."""
        few = 2 * mask.sum() <= mask.numel()
        part = gram(self.rows(mask if few else ~mask))
        inside, outside = (part, self._gram - part) if few else (self._gram - part, part)
        for x, mean in zip(self.kinds, self._means, strict=True) if center else ():
            half = torch.outer(x[mask].sum(0) - 0.5 * mask.sum() * mean, mean)
            inside = inside - half - half.T
        return inside, outside

    @cached_property
    def _gram(self) -> Tensor:
        """X^T X over all cells: no request has to go through them all."""
        return gram(torch.cat([x.flatten(0, 1) for x in self.kinds]))

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
