"""Pictures with the class and domain of each, read from disk whenever they are used; or stored embeddings of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .errors import names
from .pictures import read
from .wording import Vocabulary


@dataclass(frozen=True, eq=False)
class Images:
    """n pictures with the class and domain of each. They are read from disk whenever they are used.

    Attributes
    ----------
    files : tuple of n Path
        Empty where only embeddings are stored.
    classes, domains : (n,) int64
        Places in `vocabulary.classes` and `vocabulary.domains`.
    vocabulary : Vocabulary
    stored : (n, d) float32, optional
        Embeddings in place of files (`clipnull.stored`).

    Examples
    --------
    >>> import clipnull as cn
    >>> images = cn.load_images()
    >>> images.counts().shape == images.vocabulary.shape
    True
    >>> images.select(classes=["dog"], domains=["line"]).image(0).size
    (128, 128)
    """

    files: tuple[Path, ...]
    classes: Tensor
    domains: Tensor
    vocabulary: Vocabulary
    stored: Tensor | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def has_pixels(self) -> bool:
        """Whether there is something to look at; False where only embeddings are stored."""
        return self.stored is None

    def validate_pixels(self) -> None:
        """Raises ValueError where only embeddings are stored."""
        if not self.has_pixels:
            raise ValueError(
                f"images: embeddings of {len(self)} pictures are stored, not the pictures; expected a folder"
            )

    def image(self, i: int) -> Image.Image:
        """Picture `i` in RGB: upright, in 8 bits, on white where it is transparent.

        Raises ValueError with the file's name if it is broken, or if only embeddings are stored, and OSError if it
        cannot be opened.
        """
        self.validate_pixels()
        return read(self.files[i])

    def counts(self) -> Tensor:
        """Pictures in each cell: (C, K) int64."""
        c, k = self.vocabulary.shape
        return torch.bincount(self.classes * k + self.domains, minlength=c * k).view(c, k)

    def select(self, classes: Sequence[str] | None = None, domains: Sequence[str] | None = None) -> "Images":
        """The pictures of some classes and domains, in the same vocabulary."""
        keep = torch.ones(len(self), dtype=torch.bool)
        for argument, wanted, known, label in (
            ("classes", classes, self.vocabulary.classes, self.classes),
            ("domains", domains, self.vocabulary.domains, self.domains),
        ):
            if wanted is not None:
                wanted = names(argument, wanted, known)
                keep &= torch.isin(label, torch.tensor([known.index(w) for w in wanted]))
        return self.where(keep)

    def where(self, mask: Tensor) -> "Images":
        """The pictures at the places `mask` (n,) bool, in the same vocabulary."""
        if mask.shape != (len(self),) or mask.dtype != torch.bool:
            raise ValueError(f"mask: {tuple(mask.shape)} {mask.dtype}; expected bool ({len(self)},)")
        files = tuple(file for file, wanted in zip(self.files, mask.tolist(), strict=self.stored is None) if wanted)
        stored = None if self.stored is None else self.stored[mask]
        return Images(files, self.classes[mask], self.domains[mask], self.vocabulary, stored)

    def halves(self, seed: int = 0) -> Tensor:
        """A random half of the pictures of each cell, rounded down: (n,) bool; the others are the second half."""
        first, cell_of = (
            torch.zeros(len(self), dtype=torch.bool),
            self.classes * self.vocabulary.shape[1] + self.domains,
        )
        shuffled = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for cell in cell_of.unique():
            own = shuffled[cell_of[shuffled] == cell]
            first[own[: len(own) // 2]] = True
        return first
