"""One way in: the embedded miniworld, a data set in its published layout, a table, archives, a file of embeddings."""

import os
import warnings
from pathlib import Path

from ..errors import brief, one_of
from ..files import data_folder
from ..images import Images
from ..stored import is_stored, read_stored
from .layouts import BESIDE, LAYOUTS, SPLITS, SYSTEM, Dataset, grouped, pictures, read_folder, scan
from .tables import read_table
from .webdataset import tars_in, unpacked


def load_images(folder: str | os.PathLike | None = None, split: str | None = None, layout: str | None = None) -> Images:
    """Pictures with their classes and domains: of a folder, a table or archives; by default the embedded miniworld.

    folder: PACS, Office-Home, VLCS and DomainNet as published, `<domain>/<class>/*`, `<class>/*`, a .csv or .parquet
    file of paths, WebDataset archives (unpacked into the cache), or a file of embeddings, FILE.npz. In a text, `layout`
    and `split` may stand before the path: "classes:train:PATH". split: "test" or "train", as published, or else by a
    hash of the paths; of miniworld "test" by default. layout: one of `layouts.LAYOUTS`; by default it is recognised.
    Class names become words: "Alarm_Clock" is "alarm clock". Cells may be missing.

    Raises ValueError for a place that is missing, has fewer than two classes or can be read in two ways, and OSError if
    archives cannot be unpacked. Warns of files that cannot be pictures or lie at another depth, and of links that lead
    out.

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
            raise ValueError(f"folder: {str(folder)!r} holds embeddings of texts alone; expected pictures, too")
        return Images((), stored.classes, stored.domains, stored.vocabulary, stored.vectors["images"])
    dataset = find_dataset(folder, split, layout)
    missed = {name: reason for name, reason in dataset.left_out.items() if reason not in (SYSTEM, BESIDE)}
    if missed:
        some = f"{len(missed)} files or folders are left out, beside {len(dataset.images)} pictures: {grouped(missed)}"
        warnings.warn(some, stacklevel=2)
    return dataset.images


def find_dataset(
    place: str | os.PathLike | None = None, split: str | None = None, layout: str | None = None
) -> Dataset:
    """What `load_images` takes its pictures from, and what it leaves out; not for files of embeddings."""
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
        return unpacked(tars, path, split)
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
    """Path, split and layout of a text such as "classes:train:PATH"; what it does not say is as given."""
    rest = os.fspath(place)
    if not rest.strip() or rest.endswith(":"):
        raise ValueError(f"folder: {rest!r} names nothing; expected a folder, a table or archives, '.' for this folder")
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
    """What results call a folder of pictures: its name, or where that is a split, the name of the folder above."""
    folder = parse_place(data or "miniworld")[0].resolve()
    return folder.parent.name if folder.name in ("train", "val", "test") else folder.name.removesuffix(".npz")
