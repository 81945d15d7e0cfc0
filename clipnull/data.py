"""Pictures by class and domain: the embedded miniworld, or a folder of your own."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .errors import names, one_of
from .files import data_folder
from .prompts import Vocabulary

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}


@dataclass(frozen=True, eq=False)
class Images:
    """n pictures with the class and domain of each. They are read from disk whenever they are used.

    Attributes
    ----------
    files : tuple of n Path
    classes, domains : (n,) int64
        Places in `vocabulary.classes` and `vocabulary.domains`.
    vocabulary : Vocabulary

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

    def __len__(self) -> int:
        return len(self.files)

    def image(self, i: int) -> Image.Image:
        """Picture `i` in RGB."""
        return Image.open(self.files[i]).convert("RGB")

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
        files = tuple(file for file, wanted in zip(self.files, mask.tolist(), strict=True) if wanted)
        return Images(files, self.classes[mask], self.domains[mask], self.vocabulary)

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

    Cells may be missing. Every file is opened once: a broken one is named in a warning, counted and left out.

    Parameters
    ----------
    folder : str or Path, optional
    split : str
        Of miniworld: "test" or "train".

    Returns
    -------
    Images

    Raises
    ------
    ValueError
        For a folder that is missing, empty, or has fewer than two domains or classes.

    Examples
    --------
    >>> import clipnull as cn
    >>> cn.load_images().vocabulary.domains
    ('cartoon', 'flat', 'line', 'photo', 'shaded', 'silhouette')
    >>> len(cn.load_images(split="train")) > len(cn.load_images())
    True
    """
    if folder is None:
        folder = data_folder("miniworld") / one_of("split", split, ["test", "train"])
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder: {str(folder)!r} is not a folder; expected one laid out <domain>/<class>/<picture>")
    files = sorted(f for f in folder.glob("*/*/*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(
            f"folder: {str(folder)!r} holds no pictures; expected <domain>/<class>/<picture> with one of "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    broken = {f: error for f in files if (error := _why_broken(f))}
    if broken:
        some = "; ".join(f"{f.relative_to(folder)} ({error})" for f, error in list(broken.items())[:5])
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        warnings.warn(
            f"{len(broken)} of {len(files)} pictures cannot be read and are left out: {some}{more}", stacklevel=2
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


def _why_broken(file: Path) -> str:
    try:
        with Image.open(file) as picture:
            picture.load()
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    return ""
