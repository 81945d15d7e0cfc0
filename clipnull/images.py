"""Labelled pictures, read from disk on every use, or their stored embeddings."""

import contextlib
import csv
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from .errors import one_line
from .vocabulary import Vocabulary

KINDS = {
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",),
    "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "AVIF": (".avif",),
}  # fmt: skip
FORMATS = tuple(kind for kind in KINDS if kind not in ("WEBP", "AVIF") or kind.lower() in features.get_supported())
"""The formats that we read, whatever the file name. Pillow would pass others, such as EPS, to an external program."""

SUFFIXES = {suffix for kind in FORMATS for suffix in KINDS[kind]}
LONGEST = 100  # times the short side; models scale the short side, so a picture of 1 x 1,000,000 would fill memory


def why_unreadable(file: Path) -> str:
    """Return why a file cannot be a picture, judged by its header, or "" if it can. Only regular files are opened."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return "not a regular file"
        with Image.open(file, formats=FORMATS) as picture:
            _validate_size(picture)
    except Exception as error:  # Pillow may raise anything on unexpected bytes
        return _reason(error)
    return ""


def read_picture(file: Path) -> Image.Image:
    """Read a picture as a viewer shows it: the first frame, upright, in 8-bit RGB, on white where it is transparent.

    Raise ValueError with the file's name if the picture is broken, and OSError if the file cannot be opened.
    """
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError(f"file: {str(file)!r} is not a regular file; expected a picture")
    with open(file, "rb") as stream:
        try:
            with Image.open(stream, formats=FORMATS) as picture:
                _validate_size(picture)
                return _rgb(picture)
        except Exception as error:
            expected = f"a picture in one of {', '.join(FORMATS)}"
            raise ValueError(f"file: {str(file)!r} cannot be read ({_reason(error)}); expected {expected}") from error


def _validate_size(picture: Image.Image) -> None:
    short, long = sorted(picture.size)
    if short < 1 or long > LONGEST * short:
        raise ValueError(f"{picture.width} x {picture.height} pixels; expected a ratio of at most {LONGEST} to 1")


def _rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    with contextlib.suppress(Exception):  # damaged EXIF data leave the pixels intact
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I;16"):  # keep the high byte, as Pillow does for 16-bit colours
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"grey values in mode {picture.mode}; expected 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return one_line(getattr(error, "strerror", None) or error) or type(error).__name__


@dataclass(frozen=True, eq=False)
class Images:
    """n labelled pictures, read from disk on every use.

    files: () if only embeddings are `stored`, (n, d). classes, domains: indices in `vocabulary`, (n,) int64.

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

    def __repr__(self) -> str:
        c, k = self.vocabulary.shape
        return f"Images({len(self)} {'files' if self.files else 'embeddings'}, {c} classes, {k} domains)"

    @property
    def has_pixels(self) -> bool:
        """True if there are pictures to look at, and not only stored embeddings."""
        return self.stored is None

    def validate_pixels(self) -> None:
        """Raise ValueError if only embeddings are stored."""
        if not self.has_pixels:
            raise ValueError(f"images: embeddings of {len(self)} pictures are stored, but no pixels; expected files")

    def image(self, i: int) -> Image.Image:
        """Return picture `i` by `read_picture`. Raise ValueError if only embeddings are stored."""
        self.validate_pixels()
        return read_picture(self.files[i])

    def counts(self) -> Tensor:
        """Count the pictures in each (class, domain) cell: (C, K) int64."""
        c, k = self.vocabulary.shape
        return torch.bincount(self.classes * k + self.domains, minlength=c * k).view(c, k)

    def select(self, classes: Sequence[str] | None = None, domains: Sequence[str] | None = None) -> "Images":
        """Return the pictures of these classes and domains, with the same vocabulary; by default all."""
        mask = torch.ones(len(self), dtype=torch.bool)
        if classes is not None:
            mask &= torch.isin(self.classes, torch.tensor(self.vocabulary.places("classes", classes)))
        if domains is not None:
            mask &= torch.isin(self.domains, torch.tensor(self.vocabulary.places("domains", domains)))
        return self.where(mask)

    def where(self, mask: Tensor) -> "Images":
        """Return the pictures where `mask` (n,) bool is True, with the same vocabulary."""
        if mask.shape != (len(self),) or mask.dtype != torch.bool:
            raise ValueError(f"mask: {tuple(mask.shape)} {mask.dtype}; expected bool ({len(self)},)")
        files = tuple(compress(self.files, mask.tolist()))
        stored = None if self.stored is None else self.stored[mask]
        return Images(files, self.classes[mask], self.domains[mask], self.vocabulary, stored)

    def halves(self, seed: int = 0) -> Tensor:
        """Draw a random half of the pictures of each cell, rounded down: (n,) bool, True for that half."""
        first = torch.zeros(len(self), dtype=torch.bool)
        cell_of = self.classes * self.vocabulary.shape[1] + self.domains
        shuffled = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for cell in cell_of.unique():
            members = shuffled[cell_of[shuffled] == cell]
            first[members[: len(members) // 2]] = True
        return first


def families(images: Images) -> list[str]:
    """Return each picture's design family, from an `index.csv` above its domain folder; by default its own number."""
    if images.stored is not None:
        return [str(i) for i in range(len(images))]
    roots = {root for file in images.files for root in [*Path(file).parents][2:4]}  # <root>/<domain>/<class>/<file>
    index: dict[Path, str] = {}
    for root in roots:
        with (
            contextlib.suppress(OSError, UnicodeDecodeError, csv.Error),
            open(root / "index.csv", encoding="utf-8", newline="") as file,
        ):
            for row in csv.DictReader(file):
                if row.get("file") and row.get("family"):
                    index[root / row["file"]] = f"family {row['family']}"
    return [index.get(file, str(i)) for i, file in enumerate(images.files)]
