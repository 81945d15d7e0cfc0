"""Load labelled pictures from any source: miniworld, published layouts, tables, archives, files of embeddings."""

import os
import warnings
from pathlib import Path

from ..errors import brief, one_of
from ..files import data_folder
from ..images import Images
from ..stored import is_stored, read_stored
from .layouts import BESIDE, LAYOUTS, SPLITS, SYSTEM, Dataset, pictures, read_folder, scan, summarize
from .tables import read_table
from .webdataset import open_archives, tars_in


def load_images(folder: str | os.PathLike | None = None, split: str | None = None, layout: str | None = None) -> Images:
    """Load pictures with their classes and domains from a folder, a table or archives; by default, from miniworld.

    folder: PACS, Office-Home, VLCS or DomainNet as published, `<domain>/<class>/*`, `<class>/*`, a .csv or .parquet
    file with paths, WebDataset archives (unpacked into the cache), or a file of embeddings, FILE.npz. A prefix can set
    `layout` and `split`, as in "classes:train:PATH". split: "all" (default), "train" or "test", as published or by a
    hash of the paths; miniworld has "test" (default) and "train". layout: one of `layouts.LAYOUTS`; by default it is
    recognised. Class names become words: "Alarm_Clock" becomes "alarm clock". (Class, domain) cells may be empty.

    Raise ValueError for a folder that is missing, has fewer than two classes or can be read in two ways, and OSError if
    archives cannot be unpacked. Warn about files that are not pictures, at another depth or behind links that lead out.

    >>> import clipnull as cn
    >>> cn.load_images().vocabulary.domains
    ('cartoon', 'flat', 'line', 'photo', 'shaded', 'silhouette')
    >>> len(cn.load_images(split="train")), len(cn.load_images())
    (620, 645)
    """
    if isinstance(folder, str | Path) and is_stored(folder):
        if split or layout:
            raise ValueError(f"split, layout: {split!r}, {layout!r} given for a file of embeddings; expected neither")
        stored = read_stored(folder)
        if "images" not in stored.vectors:
            raise ValueError(f"folder: {str(folder)!r} holds embeddings of texts only; expected pictures too")
        return Images((), stored.classes, stored.domains, stored.vocabulary, stored.vectors["images"])
    dataset = find_dataset(folder, split, layout)
    if skipped := {name: reason for name, reason in dataset.left_out.items() if reason not in (SYSTEM, BESIDE)}:
        counts = f"{len(skipped)} files or folders are left out, {len(dataset.images)} pictures are used"
        warnings.warn(f"{counts}: {summarize(skipped)}", stacklevel=2)
    return dataset.images


def find_dataset(
    place: str | os.PathLike | None = None, split: str | None = None, layout: str | None = None
) -> Dataset:
    """Return the data set that `load_images` loads, with what is left out. It does not read files of embeddings."""
    if place is None:
        root = data_folder("miniworld") / one_of("split", split or "test", ["test", "train"])
        return read_folder(root, "domains", "all")
    path, split, layout = parse_place(place, split, layout)
    tars = tars_in(path, split) if layout in (None, "webdataset") else []
    if tars and layout is None and path.is_dir() and pictures(scan(path)[0]):
        raise ValueError(
            f"folder: {str(path)!r} holds archives and pictures; expected 'webdataset:{path}' for the archives, or "
            f"the layout of the pictures, such as 'domains:{path}'"
        )
    if tars:
        return open_archives(tars, path, split)
    if path.is_file() and layout in (None, "table"):
        return read_table(path, split)
    if path.is_dir() and layout not in ("table", "webdataset"):
        return read_folder(path, layout, split)
    raise ValueError(
        f"folder: {str(path)!r} is not a {layout or 'folder'}; expected a folder of pictures, such as "
        "<domain>/<class>/<picture>, a .csv or .parquet file with their paths, or .tar archives"
    )


def parse_place(
    place: str | os.PathLike, split: str | None = None, layout: str | None = None
) -> tuple[Path, str, str | None]:
    """Split a text such as "classes:train:PATH" into path, split and layout; the arguments fill what it omits."""
    rest = os.fspath(place)
    if not rest.strip() or rest.endswith(":"):
        raise ValueError(f"folder: {rest!r} names no path; expected a folder, a table or archives; '.' is this folder")
    while not os.path.lexists(rest):
        word, colon, path = rest.partition(":")
        if not colon or word not in (*LAYOUTS, *SPLITS):
            break
        given = layout if word in LAYOUTS else split
        if given not in (None, word):
            raise ValueError(f"folder: {brief(os.fspath(place))} says both {word!r} and {given!r}; expected one")
        split, layout, rest = (split, word, path) if word in LAYOUTS else (word, layout, path)
    one_of("layout", layout or LAYOUTS[0], LAYOUTS)
    return Path(rest), one_of("split", split or "all", SPLITS), layout


def name_of(data: str | Path | None) -> str:
    """Return the name of a data set for results: its folder, or the folder above if its own is a split."""
    folder = parse_place(data or "miniworld")[0].resolve()
    return folder.parent.name if folder.name in ("train", "val", "test") else folder.name.removesuffix(".npz")
