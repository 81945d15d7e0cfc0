"""Pictures with the class and domain of each, read from disk whenever they are used; or stored embeddings of them."""

import contextlib
import csv
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from .errors import names
from .vocabulary import Vocabulary

# --- Pictures from files that nobody vouches for: which files of a folder are pictures, and one of them in RGB.

KINDS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}
FORMATS = tuple(kind for kind in KINDS if kind not in ("WEBP", "AVIF") or kind.lower() in features.get_supported())
"""What is read, whatever a file's name says. Pillow knows more, such as EPS, which it hands to another program."""

SUFFIXES = {suffix for kind in FORMATS for suffix in KINDS[kind]}
LONGEST = 100  # times the short side: models scale the short side, so that a line of 1 x 1,000,000 would fill memory


def find_pictures(folder: Path, levels: int = 3) -> tuple[list[Path], dict[Path, str]]:
    """The files `<domain>/<class>/<picture>` of a folder by their names, sorted; and what is left out, with the reason.

    levels: 3 for these; 2 for `<class>/<picture>`.

    Hidden files and folders and __MACOSX are nobody's pictures, and are not told. Left out are links that lead out of
    the folder, folders that may not be listed, and pictures and folders at another depth. Nothing is opened.
    """
    root, level, left = os.path.realpath(folder), [folder], {}
    for depth in range(levels):
        below = []
        for parent in level:
            try:
                entries = list(os.scandir(parent))
            except OSError as error:
                left[parent] = error.strerror or str(error)
                continue
            for entry in entries:
                path, last = parent / entry.name, depth == levels - 1
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                picture = path.suffix.lower() in SUFFIXES
                inner = os.path.isdir(path) if entry.is_symlink() else entry.is_dir()
                if not (picture if last else inner):
                    if picture or (inner and last):
                        left[path] = (
                            f"a {'picture' if picture else 'folder'} where {'pictures' if last else 'folders'} are"
                        )
                elif entry.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                    left[path] = "a link that leads out of the folder"
                else:
                    below.append(path)
        level = below
    return sorted(level), left


def why_unreadable(file: Path) -> str:
    """Why a file cannot be a picture, by its header alone; "" if it can. Only regular files are opened."""
    try:
        _regular(file)
        with Image.open(file, formats=FORMATS) as picture:
            _plausible(picture)
    except Exception as error:  # Pillow's readers raise anything on bytes they do not expect
        return _reason(error)
    return ""


def read_picture(file: Path) -> Image.Image:
    """The picture in a file as a viewer shows it, in RGB: upright, on white where it is transparent, in 8 bits.

    Of 16-bit values the high byte is taken, as Pillow does in colour. Grey values in 32 bits are taken as 16 bits if
    they are whole, else as 0 to 1, 0 to 255 or 0 to 65535, the first of these that holds them. Of several frames, the
    first.

    Raises ValueError with the file's name if it is not a whole picture, and OSError if it cannot be opened.
    """
    try:
        _regular(file)
        stream = open(file, "rb")  # noqa: SIM115
    except ValueError as error:
        raise _unreadable(file, error) from error
    try:
        with stream, Image.open(stream, formats=FORMATS) as picture:
            _plausible(picture)
            return _rgb(picture)
    except Exception as error:
        raise _unreadable(file, error) from error


def _regular(file: Path) -> None:
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError("not a regular file")


def _plausible(picture: Image.Image) -> None:
    short, long = sorted(picture.size)
    if short < 1 or long > LONGEST * short:
        raise ValueError(
            f"{picture.width} x {picture.height} pixels; expected the long side to be at most {LONGEST} times the short"
        )


def _rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    upright: Any = picture
    with contextlib.suppress(Exception):  # damaged EXIF data say nothing, and nothing about the pixels
        if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else Pillow would copy all pixels
            upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _grey(upright)
    palette = getattr(upright.palette, "mode", "")
    if upright.mode.upper().endswith("A") or palette.endswith("A") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _grey(picture: Image.Image) -> Image.Image:
    """In 8 bits. Pillow's own `convert` cuts all values off at 255."""
    values = np.asarray(picture)
    top = values.max()
    if not np.isfinite(values).all() or top > 65535:
        raise ValueError(f"grey values up to {top}; expected finite ones of at most 65535")
    transparent, values = values == picture.info.get("transparency", np.nan), values.clip(0)
    if picture.mode == "F":
        values = np.rint(values * (65535 / next(full for full in (1, 255, 65535) if top <= full)))
    grey = np.minimum(values // 256, 255).astype(np.uint8)
    grey[transparent] = 255
    return Image.fromarray(grey)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    told = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:200]
    return told or type(error).__name__


def _unreadable(file: Path, error: Exception) -> ValueError:
    kinds = ", ".join(FORMATS)
    return ValueError(f"file: {str(file)!r} cannot be read ({_reason(error)}); expected a picture in one of {kinds}")


# --- images


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
        return read_picture(self.files[i])

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


def families(images: Images) -> list[str]:
    """The design family of each picture: from the column `family` of an `index.csv` above, else the picture itself."""
    if images.stored is not None:
        return [str(i) for i in range(len(images))]
    known: dict[Path, dict[str, str]] = {}
    found = []
    for i, file in enumerate(images.files):
        own = str(i)
        for root in [*Path(file).parents][2:4]:  # of <root>/<domain>/<class>/<file>, <root>/test/<domain>/...
            if root not in known:
                known[root] = _families_of(root / "index.csv")
            own = known[root].get(Path(file).relative_to(root).as_posix(), own)
        found.append(own)
    return found


def _families_of(path: Path) -> dict[str, str]:
    """Families by file, of an index that has both columns; empty for anything else."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if not {"file", "family"} <= {*(rows.fieldnames or ())}:
                return {}
            return {row["file"]: f"family {row['family']}" for row in rows if row["family"]}
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
