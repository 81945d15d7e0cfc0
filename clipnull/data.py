"""Pictures by class and domain: the embedded miniworld, or a folder of your own."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .errors import names, one_of
from .files import data_folder
from .pictures import SUFFIXES, find, read, why_unreadable
from .stored import is_stored
from .stored import read as read_stored
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


def load_images(folder: str | os.PathLike | None = None, split: str = "test") -> Images:
    """Pictures of a folder laid out as `<folder>/<domain>/<class>/<picture>`; by default the embedded miniworld.

    Or the embeddings of pictures in a file of `clipnull embed`, FILE.npz, for the model that `load` makes of that file.

    Cells may be missing. Of every file the header is read, once: what cannot be a picture is named in a warning,
    counted and left out. One that turns out broken when it is embedded is left out then, see `embed`. Hidden files and
    folders and __MACOSX are passed over; links that lead out of the folder are named in a warning and left out.

    Parameters
    ----------
    folder : str or Path, optional
        Or such a file.
    split : str
        Of miniworld: "test" or "train".

    Returns
    -------
    Images

    Raises
    ------
    ValueError
        For a folder that is missing, empty, or has fewer than two domains or classes, and for an unfit file.

    Warns
    -----
    UserWarning
        For files and links that are left out.

    Examples
    --------
    >>> import clipnull as cn
    >>> cn.load_images().vocabulary.domains
    ('cartoon', 'flat', 'line', 'photo', 'shaded', 'silhouette')
    >>> len(cn.load_images(split="train")), len(cn.load_images())
    (620, 645)
    """
    if folder is None:
        folder = data_folder("miniworld") / one_of("split", split, ["test", "train"])
    if is_stored(folder):
        found = read_stored(Path(folder))
        return Images((), found.classes, found.domains, found.vocabulary, found.vectors["images"])
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder: {str(folder)!r} is not a folder; expected one laid out <domain>/<class>/<picture>")
    files, left = find(folder)
    if left:
        warnings.warn(f"{len(left)} links or folders are left out: {_told(left, folder)}", stacklevel=2)
    if not files:
        raise ValueError(
            f"folder: {str(folder)!r} holds no pictures; expected <domain>/<class>/<picture> with one of "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    broken = {f: reason for f in files if (reason := why_unreadable(f))}
    if broken:
        warnings.warn(
            f"{len(broken)} of {len(files)} pictures cannot be read and are left out: {_told(broken, folder)}",
            stacklevel=2,
        )
        files = [f for f in files if f not in broken]
    classes, domains = (sorted({f.parts[i] for f in files}) for i in (-2, -3))
    for what, found in (("domain", domains), ("class", classes)):
        if len(found) < 2:
            raise ValueError(
                f"folder: {str(folder)!r} holds {len(found)} {what} with readable pictures "
                f"({', '.join(found) or 'none'}); expected at least two, as <domain>/<class>/<picture>"
            )
    return Images(
        tuple(files),
        torch.tensor([classes.index(f.parts[-2]) for f in files]),
        torch.tensor([domains.index(f.parts[-3]) for f in files]),
        Vocabulary(tuple(classes), tuple(domains)),
    )


def _told(reasons: dict[Path, str], folder: Path) -> str:
    """The first five files with the reason of each, in one line."""
    some = "; ".join(f"{str(f.relative_to(folder))!r} ({reason})" for f, reason in list(reasons.items())[:5])
    return some + (f"; and {len(reasons) - 5} more" if len(reasons) > 5 else "")
