"""What every method is given: how a model embeds the cells of a vocabulary."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..subspace import gram, ridged_factor

RIDGE, PROTECTED, LEANING, FAINT = 0.05, 100, 0.5, 0.25
CLEAR = 20, 0.2
"""The weight of common words and the ridge of `Cells.clear_leads`."""

FEW = 20
"""The weight of names in `Cells.clear_leads`, at most: about as many as CLEAR was chosen on."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The embeddings of all C x K cells of a vocabulary: all that an edit is made of. Copied, and cast to float64.

    Texts and pictures of a CLIP lie apart (the modality gap), so that a text that says "zero" need not be zero for
    pictures. `origin` is where that matters.

    What is computed from them (the duals, second moments) is kept for the next request, and handed out as a copy.

    Parameters
    ----------
    texts : (C, K, d)
        T, unit rows.
    prototypes : (C, K, d), optional
        V, unit rows.
    domains : (K, d), optional
        What names each domain, of any length but zero; by default the mean text of each.
    common : (w, d), optional
        Texts of common words that are to stay as they are, see `prompts.common_words`.
    mean : (d,), optional
        The mean embedding of pictures, not normalised; by default that of the prototypes, if there are any.

    Raises
    ------
    ValueError
        For shapes that do not fit together, and for values that are not finite.
    """

    texts: Tensor
    prototypes: Tensor | None = None
    domains: Tensor | None = None
    common: Tensor | None = None
    mean: Tensor | None = None

    def __post_init__(self) -> None:
        if self.texts.ndim != 3:
            raise ValueError(f"texts: shape {tuple(self.texts.shape)} is not valid; expected (C, K, d)")
        domains = self.texts.mean(0) if self.domains is None else self.domains
        words = len(self.common) if self.common is not None and self.common.ndim else 0
        for name, value, shape in (
            ("texts", self.texts, self.texts.shape),
            ("domains", domains, self.texts.shape[1:]),
            ("prototypes", self.prototypes, self.texts.shape),
            ("common", self.common, (words, self.texts.shape[2])),
            ("mean", self.mean, self.texts.shape[2:]),
        ):
            if value is not None and (value.shape != shape or not torch.isfinite(value).all()):
                raise ValueError(
                    f"{name}: shape {tuple(value.shape)} or its values are not valid; expected {tuple(shape)}, finite"
                )
            object.__setattr__(self, name, None if value is None else value.to(torch.float64, copy=True))
        object.__setattr__(self, "domains", F.normalize(domains.double(), dim=-1))

    @property
    def shape(self) -> tuple[int, int]:
        """(C, K)."""
        return self.texts.shape[0], self.texts.shape[1]

    @property
    def kinds(self) -> tuple[Tensor, ...]:
        """T, and V where there are prototypes: one or two tensors (C, K, d)."""
        return (self.texts,) if self.prototypes is None else (self.texts, self.prototypes)

    @property
    def classifier(self) -> Tensor:
        """W, the text classifier: the mean text of each class over domains, unit rows, (C, d)."""
        return self._classifier.clone()

    @cached_property
    def _classifier(self) -> Tensor:
        return F.normalize(self.texts.mean(1), dim=-1)

    @property
    def leads(self) -> Tensor:
        """w_c - mean w: z (w_c - mean w) is the lead of class c over the average class in an embedding z, (C, d)."""
        return self._leads.clone()

    @cached_property
    def _leads(self) -> Tensor:
        return self._classifier - self._classifier.mean(0)

    @property
    def duals(self) -> Tensor:
        """U, which changes the lead of one class and hardly anything else, (C, d): u_c (w_c - mean w) = 1.

        u_c ~ (X^T X + 0.05 I)^-1 (w_c - mean w), where X holds the leads and, weighed as PROTECTED names however many
        they are, the common words minus their mean. So u_c is short on all other classes and words. Scaled to 1, it
        lowers its class by the same amount whatever the number of names; the small ridge bounds its length.
        """
        return self._duals.clone()

    @cached_property
    def _duals(self) -> Tensor:
        u, leads = self._clear(PROTECTED, RIDGE, 1.0), self._leads
        return u / (u * leads).sum(1, keepdim=True).clamp(min=1e-9)

    def _clear(self, weight: float, ridge: float, share: float) -> Tensor:
        """(X^T X + ridge I)^-1 (w_c - mean w), X: leads and common words.

        weight: of all common words together; share: of each lead, the weight of a name being 1.
        """
        leads = self._leads
        x = leads if share == 1 else leads * math.sqrt(share)
        if self.common is not None and len(self.common):
            x = torch.cat([x, (self.common - self.common.mean(0)) * math.sqrt(weight / len(self.common))])
        c, (n, d) = len(leads), x.shape
        if n < d:  # (X^T X + rI)^-1 X^T = X^T (X X^T + rI)^-1
            return torch.cholesky_solve(x, ridged_factor(gram(x.T), ridge))[:c] / math.sqrt(share)
        return torch.cholesky_solve(leads.T, ridged_factor(gram(x), ridge)).T

    @property
    def clear_leads(self) -> Tensor:
        """Leads read clear of other classes and of common words, (C, d): r_c ~ (X^T X + 0.2 I)^-1 (w_c - mean w).

        X as in `duals`, but the common words weigh as 20 names, and the names as FEW where there are more: else, the
        more of them, the less of w_c would be left. Scaled to read of w_c what w_c - mean w does. A picture shows more
        than one thing, and the text of one class has something of others: less of that is read along.
        """
        return self._clear_leads.clone()

    @cached_property
    def _clear_leads(self) -> Tensor:
        w, leads = self._classifier, self._leads
        r = self._clear(*CLEAR, min(1.0, FEW / len(w)))
        return r * ((leads * w).sum(1, keepdim=True) / (r * w).sum(1, keepdim=True).clamp(min=1e-9))

    @property
    def growth(self) -> float:
        """How much farther a class has to go down where there are more names than dimensions: max(1, sqrt(C / d)).

        Up to d names, u_c can leave the leads of all others alone. Of more it cannot: without the ridge, the sum of
        (u_c x_j)^2 over the rows x_j of X is 1 / h_c, with h_c the leverage of x_c, and leverages of C names are at
        most d / C on average. So names nearby go down along with class c (on OpenAI's ViT-B/32, d = 512, the nearest
        of 1,171 names by .34 of it, that of 16 by .00), and if one of these is to be named in its place, c has to go
        farther.
        """
        c, d = self._classifier.shape
        return max(1.0, math.sqrt(c / d))

    @property
    def styles(self) -> Tensor:
        """What names each domain, texts and prototypes together: unit rows, (K, d)."""
        return self._styles.clone()

    @cached_property
    def _styles(self) -> Tensor:
        assert self.domains is not None  # set when the cells were made
        seen = 0 if self.prototypes is None else F.normalize(self.prototypes.mean(0), dim=-1)
        return F.normalize(self.domains + seen, dim=-1)

    @property
    def lean(self) -> float:
        """How far the mean picture leans to one domain: its largest reading, that of the domain's own name being 1.

        For K domains with names s_k, the reading of z is z (s_k - mean s), divided by that of s_k. 0 without a mean.
        """
        mean = self._means[1] if self.mean is None and self.prototypes is not None else self.mean
        if mean is None or len(self._styles) < 2:
            return 0.0
        s = self._styles - self._styles.mean(0)
        return float((s @ F.normalize(mean, dim=0) / (s * self._styles).sum(1)).max())

    @property
    def origin(self) -> Tensor:
        """What is taken for the middle between domains, (d,): zero, or the mean picture where zero cannot be it.

        Names of domains that fit their pictures put zero between them: the mean of many pictures reads about 0 on each
        (measured: up to .35 on miniclip, .15 to .35 on OpenAI's ViT-B/32). Where it leans by more than LEANING to one,
        all pictures would be taken for that domain. So what reads domains counts from the mean picture there; elsewhere
        it would do harm, as a mean is seldom balanced between domains.
        """
        if self.lean <= LEANING:
            return torch.zeros_like(self._classifier[0])
        return (self._means[1] if self.mean is None else self.mean).clone()

    @property
    def pictures(self) -> Tensor:
        """V, or T where there is none: (C, K, d)."""
        return self.kinds[-1]

    def lead_of(self, c: int, row: Tensor) -> float:
        """The mean lead of class c in its cells of the domains `row` (K,) bool; 0 where it has none."""
        return max(0.0, float((self.pictures[c, row] @ self._leads[c]).mean()))

    def class_reading(self, c: int) -> Tensor:
        """(d,): reads the lead of class c, as 1 more on its own cells than on the average one."""
        r = self._leads[c]
        return r / self._contrast([(x[c].mean(0) - mean) @ r for x, mean in zip(self.kinds, self._means, strict=True)])

    @staticmethod
    def _contrast(kinds: list[Tensor]) -> Tensor:
        """That of prototypes, if there are any, but no less than FAINT of that of texts.

        An edit before may have taken it away from prototypes, and what is divided by it must stay small.
        """
        return torch.maximum(kinds[-1], FAINT * kinds[0])

    def domain_reading(self, row: Tensor) -> Tensor:
        """(d,): reads the domains `row` (K,) bool against the others, as 2 more on their cells than on the others'.

        What it reads from the `origin` is taken out; a zero vector if `row` is all domains.
        """
        s = self._styles
        if row.all():
            return torch.zeros_like(s[0])
        r = s[row].mean(0) - s[~row].mean(0)
        r = r / (self._contrast([(x[row].mean(0) - x[~row].mean(0)) @ r for x in self._domain_means]) / 2)
        m = self.origin
        return r - (r @ m) / (m @ m).clamp(min=1e-12) * m

    def rows(self, mask: Tensor, center: bool = False) -> Tensor:
        """The embeddings of the cells in `mask` (C, K) bool, texts before prototypes: (n, d).

        With `center`, the mean over all cells of the same kind (text or prototype) is subtracted, so that a row holds
        what sets its cell apart and not what every prompt or every picture has in common. An edit that takes away such
        rows makes the forgotten cells look like the average cell; one that takes away the raw rows brings their scores
        to zero, which need not be low.
        """
        if center:
            return torch.cat([x[mask] - mean for x, mean in zip(self.kinds, self._means, strict=True)])
        return torch.cat([x[mask] for x in self.kinds])

    @cached_property
    def _means(self) -> tuple[Tensor, ...]:
        return tuple(x.mean(0) for x in self._domain_means)

    @cached_property
    def _domain_means(self) -> tuple[Tensor, ...]:
        return tuple(x.mean(0) for x in self.kinds)

    def moment(self, mask: Tensor) -> Tensor:
        """X^T X / n over the n rows of the cells in `mask`: (d, d); zero if there are none."""
        return self.grams(mask)[0].div_(max(1, int(mask.sum()) * len(self.kinds)))

    def grams(self, mask: Tensor, center: bool = False) -> tuple[Tensor, Tensor]:
        """X^T X of `rows(mask, center)` and of `rows(~mask)`, each (d, d): from one product, over the smaller part."""
        few = 2 * mask.sum() <= mask.numel()
        part = self._gram(mask if few else ~mask)
        found, rest = (part, self._grams[1] - part) if few else (self._grams[1] - part, part)
        if center:
            for x, mean in zip(self.kinds, self._means, strict=True):
                half = x[mask].sum(0) - 0.5 * mask.sum() * mean
                found.addr_(half, mean, alpha=-1).addr_(mean, half, alpha=-1)
        return found, rest

    @cached_property
    def _grams(self) -> tuple[Tensor, Tensor]:
        """X^T X over the cells of each domain, (K, d, d), and over all: no request then has to go through them all."""
        parts = torch.cat([x.transpose(0, 1) for x in self.kinds], dim=1)  # (K, 1 or 2 x C, d)
        grams = torch.stack([gram(part) for part in parts])
        return grams, grams.sum(0)

    def _gram(self, mask: Tensor) -> Tensor:
        whole = mask.all(0)
        found = gram(self.rows(mask & ~whole))
        for k in whole.nonzero()[:, 0].tolist():
            found += self._grams[0][k]
        return found

    def validate(self, mask: Tensor) -> None:
        """Raises ValueError unless `mask` is bool (C, K) with some cells to forget and some to keep."""
        if mask.shape != self.shape or mask.dtype != torch.bool or not mask.any() or mask.all():
            raise ValueError(
                f"mask: {tuple(mask.shape)} {mask.dtype} with {int(mask.sum())} cells; expected bool {self.shape} with "
                "some cells to forget and some to keep"
            )
