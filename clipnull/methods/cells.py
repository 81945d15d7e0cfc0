"""What every method is given: how a model embeds the cells of a vocabulary."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Cells:
    """The embeddings of all C x K cells of a vocabulary: all that an edit is made of. Copied, and cast to float64.

    What is computed from them (the duals, second moments) is kept for the next request, and handed out as a copy.

    Parameters
    ----------
    texts : (C, K, d)
        T, unit rows.
    prototypes : (C, K, d), optional
        V, unit rows.
    domains : (K, d), optional
        What names each domain, of any length but zero; by default the mean text of each.

    Raises
    ------
    ValueError
        For shapes that do not fit together, and for values that are not finite.
    """

    texts: Tensor
    prototypes: Tensor | None = None
    domains: Tensor | None = None

    def __post_init__(self) -> None:
        if self.texts.ndim != 3:
            raise ValueError(f"texts: shape {tuple(self.texts.shape)} is not valid; expected (C, K, d)")
        domains = self.texts.mean(0) if self.domains is None else self.domains
        for name, value, shape in (
            ("texts", self.texts, self.texts.shape),
            ("domains", domains, self.texts.shape[1:]),
            ("prototypes", self.prototypes, self.texts.shape),
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
    def duals(self) -> Tensor:
        """U, which changes the score of one class and hardly that of another: U = (W W^T + 0.01 I)^-1 W, (C, d).

        W U^T = I - 0.01 (W W^T + 0.01 I)^-1: the small ridge bounds the length of u_c where classes are alike.
        """
        return self._duals.clone()

    @cached_property
    def _duals(self) -> Tensor:
        w = self._classifier
        return torch.linalg.solve(w @ w.T + 0.01 * torch.eye(len(w), dtype=w.dtype), w)

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
        return tuple(x.mean((0, 1)) for x in self.kinds)

    def moment(self, mask: Tensor) -> Tensor:
        """X^T X / n over the n rows of the cells in `mask`: (d, d); zero if there are none."""
        return self._gram(mask) / max(1, int(mask.sum()) * len(self.kinds))

    @cached_property
    def _grams(self) -> tuple[Tensor, Tensor]:
        """X^T X over the cells of each domain, (K, d, d), and over all: no request then has to go through them all."""
        parts = torch.cat([x.transpose(0, 1) for x in self.kinds], dim=1)  # (K, 1 or 2 x C, d)
        grams = parts.transpose(1, 2) @ parts
        return grams, grams.sum(0)

    def _gram(self, mask: Tensor) -> Tensor:
        if 2 * mask.sum() > mask.numel():
            return self._grams[1] - self._gram(~mask)
        whole = mask.all(0)
        x = self.rows(mask & ~whole)
        return x.T @ x + self._grams[0][whole].sum(0)

    def validate(self, mask: Tensor) -> None:
        """Raises ValueError unless `mask` is bool (C, K) with some cells to forget and some to keep."""
        if mask.shape != self.shape or mask.dtype != torch.bool or not mask.any() or mask.all():
            raise ValueError(
                f"mask: {tuple(mask.shape)} {mask.dtype} with {int(mask.sum())} cells; expected bool {self.shape} with "
                "some cells to forget and some to keep"
            )
