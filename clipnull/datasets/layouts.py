"""Read data sets of domain generalisation in their published layouts, and folders of classes.

| layout | its pictures |
|---|---|
| `pacs` | `<domain>/<class>/*`, often below `kfold`: art_painting, cartoon, photo, sketch |
| `office-home` | `<domain>/<class>/*`, below `OfficeHomeDataset_10072016`: Art, Clipart, Product, Real World |
| `vlcs` | `<domain>/<full, train, test, crossval>/<0 to 4>/*`: CALTECH, LABELME, PASCAL, SUN; or, in \
DomainBed, `<domain>/<class>/*`: Caltech101, LabelMe, VOC2007, SUN09 |
| `domainnet` | `<domain>/<class>/*`, lists `<domain>_train.txt` and `<domain>_test.txt` beside the six domains |
| `domains` | `<domain>/<class>/*`, any other data set |
| `classes` | `<class>/*`, without domains |
| `table` | a .csv or .parquet file, see `clipnull.datasets.tables` |
| `webdataset` | .tar files, see `clipnull.datasets.webdataset` |

A data set may lie some folders down, or in folders `train` and `test`, which `split` selects. If a folder can be read
in two ways, the error lists a place for each. Every file and folder is either used or left out with a reason.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..images import SUFFIXES, Images, why_unreadable
from ..vocabulary import Vocabulary, words

DOMAINS = {
    "pacs": [("art_painting", "cartoon", "photo", "sketch")],
    "office-home": [("Art", "Clipart", "Product", "Real World")],
    "vlcs": [("CALTECH", "LABELME", "PASCAL", "SUN"), ("Caltech101", "LabelMe", "VOC2007", "SUN09")],
    "domainnet": [("clipart", "infograph", "painting", "quickdraw", "real", "sketch")],
}
"""The domains of each layout, spelled as in `DOMAIN_PHRASES`; case and "_" for a blank are ignored on disk."""
LAYOUTS, SPLITS = (*DOMAINS, "domains", "classes", "table", "webdataset"), ("all", "train", "test")
VLCS = {"0": "bird", "1": "car", "2": "chair", "3": "dog", "4": "person"}
PARTS_OF_VLCS = {"all": ("full",), "train": ("train", "crossval"), "test": ("test",)}
UNNAMED = "image"  # for data sets without domains; no evaluation prompt says "an image of a dog"
FOLDERS_OF_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
FOLDERS_OF_SPLITS |= dict.fromkeys(("val", "valid", "validation"), "val")
"""The lower-case names of split folders. "val" is not a split that can be selected, but its folder can be passed."""
TEST_SHARE, MAX_REASONS = 0.2, 5  # share of test pictures if no split is published; most reasons in a warning
SYSTEM, BESIDE = "hidden or a system file", "beside the folders of pictures"
SYSTEM_NAMES = {"__macosx", "$recycle.bin", "lost+found", "system volume information", "@eadir", "#recycle"}
SYSTEM_NAMES |= {"__pycache__", "thumbs.db", "desktop.ini"}
Parts = tuple[str, ...]  # a path relative to a folder
Row = tuple[Path, str, str]  # a picture with the names of its class and domain on disk


@dataclass(frozen=True)
class Dataset:
    """Pictures and their source.

    split: such as "test, published" or "test, by hash". left_out: the reason for each file or folder that is not used.
    """

    images: Images
    root: Path
    layout: str
    split: str
    left_out: dict[str, str]

    def manifest(self) -> dict[str, Any]:
        """Return a summary for JSON. Its `sha256` covers paths and labels, so equal hashes mean the same pictures."""
        classes, domains = self.images.vocabulary.classes, self.images.vocabulary.domains
        rows = zip(self.images.files, self.images.classes.tolist(), self.images.domains.tolist(), strict=True)
        lines = sorted(f"{below(file, self.root)}\t{classes[c]}\t{domains[k]}" for file, c, k in rows)
        counts = self.images.counts().tolist()
        return {
            "layout": self.layout,
            "split": self.split,
            "pictures": len(self.images),
            "counts": {c: dict(zip(domains, row, strict=True)) for c, row in zip(classes, counts, strict=True)},
            "left_out": self.left_out,
            "sha256": hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest(),
        }


def by_reason(left_out: dict[str, str]) -> dict[str, list[str]]:
    """Group the names of files that are left out by reason."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return names


def summarize(left_out: dict[str, str]) -> str:
    """Return what is left out in one line, with an example and a count for each reason."""
    groups = by_reason(left_out).items()
    parts = [f"{names[0]!r}{f' and {len(names) - 1} more' * (len(names) > 1)} ({reason})" for reason, names in groups]
    more = [f"and {len(parts) - MAX_REASONS} more reasons"] if len(parts) > MAX_REASONS else []
    return "; ".join(parts[:MAX_REASONS] + more)


def dataset_of(
    rows: list[Row], root: Path, layout: str, split: str, published: bool, left_out: dict[str, str], raw: bool = False
) -> Dataset:
    """Return the data set of the readable pictures in `rows`; the others are added to `left_out`.

    If the split is not `published`, a hash of each path puts about TEST_SHARE of the pictures into "test". A picture
    gets the same split on every machine, whatever else the data set holds. raw: keep class names as they are.
    """
    names = {name: name for _, name, _ in rows} if raw else class_names(name for _, name, _ in rows)
    if split != "all" and not published:
        rows = [row for row in rows if in_test(below(row[0], root)) == (split == "test")]
    reasons = {file: why_unreadable(file) for file, _, _ in rows}
    left_out |= {below(file, root): reason for file, reason in reasons.items() if reason}
    rows = [row for row in rows if not reasons[row[0]]]
    classes, labels = np.unique([names[name] for _, name, _ in rows], return_inverse=True)
    domains, styles = np.unique([domain for _, _, domain in rows], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"folder: {str(root)!r}, read as {layout!r}, holds {len(classes)} {'class' if len(classes) else 'classes'} "
            f"with readable pictures ({', '.join(map(str, classes)) or 'none'}); expected at least two; left out: "
            f"{summarize(left_out) or 'nothing'}"
        )
    vocabulary, files = Vocabulary(classes.tolist(), domains.tolist()), tuple(file for file, _, _ in rows)
    images = Images(files, torch.from_numpy(labels), torch.from_numpy(styles), vocabulary)
    how = split if split == "all" else f"{split}, {'published' if published else 'by hash'}"
    return Dataset(images, root, layout, how, left_out)


def class_names(names: Iterable[str]) -> dict[str, str]:
    """Map class names on disk to plain words, one to one.

    Leading numbers are dropped if all names have one and together they count from 0 or 1.

    >>> class_names(["001.Black_footed_Albatross", "002.TVMonitor"]).values()
    dict_values(['black footed albatross', 'tv monitor'])
    >>> class_names(["30 kmh", "50 kmh", "Stop"]).values()
    dict_values(['30 kmh', '50 kmh', 'stop'])
    """
    names = sorted({*names})  # of all splits, so that their words agree
    cleaned = {name: words(name) or name for name in names}
    numbered = [match for name in names if (match := re.fullmatch(r"(\d+)[._\- ]+([^\W\d_].*)", name, re.DOTALL))]
    numbers = sorted(int(match[1]) for match in numbered)
    if len(numbers) == len(names) and numbers in ([*range(len(names))], [*range(1, len(names) + 1)]):
        without = {match[0]: words(match[2]) for match in numbered}
        cleaned = without if len({*without.values()}) == len(names) else cleaned
    first_of: dict[str, str] = {}
    for name, text in cleaned.items():
        other = first_of.setdefault(text, name)
        if unicodedata.normalize("NFC", other) != unicodedata.normalize("NFC", name):
            raise ValueError(
                f"folder: the classes {other!r} and {name!r} become the same words, {text!r}; expected names that "
                "differ in more than case, blanks and underscores"
            )
    return cleaned


def in_test(path: str) -> bool:
    """Return True if the hash of `path`, with "/" as separator, puts this picture into the test split."""
    return int(hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:8], 16) < TEST_SHARE * 2**32


def below(file: Path, root: Path) -> str:
    """Return the path of a file relative to `root`, or the whole path of a file outside, which a table may list."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def scan(folder: Path) -> tuple[list[Parts], dict[Path, str]]:
    """Return the files below a folder, sorted and unopened, and the reason for each path that is skipped.

    Hidden and system files, unreadable folders, and links to folders, to nothing or out of the folder are skipped.
    """
    root, files, left_out = os.path.realpath(folder), [], {}

    def skip(error: OSError) -> None:
        left_out[Path(error.filename)] = error.strerror or str(error)

    for place, folders, names in os.walk(folder, onerror=skip):
        subfolders = set(folders)
        for name in (*folders, *names):
            path = Path(place, name)
            if name.startswith(".") or name.lower() in SYSTEM_NAMES:
                left_out[path] = SYSTEM
            elif path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                left_out[path] = "a link that leads out of the folder"
            elif path.is_symlink() and not path.is_file():
                left_out[path] = "a link to a folder, or to nothing"
            elif name not in subfolders:
                files.append(path.relative_to(folder).parts)
        folders[:] = [name for name in folders if Path(place, name) not in left_out]
    return sorted(files), left_out


def pictures(files: Iterable[Parts], top: Parts = ()) -> list[Parts]:
    """Return the paths below `top` that end like pictures, relative to `top`."""
    return [path[len(top) :] for path in files if path[: len(top)] == top and _suffix(path) in SUFFIXES]


def read_folder(folder: Path, layout: str | None, split: str) -> Dataset:
    """Read the pictures of a folder. layout: any but "table" and "webdataset"; by default it is recognised.

    Folders train and test, DomainNet and VLCS have published splits. PACS has lists too, but its "test" lists include
    training pictures, because they are meant for testing on another domain.
    """
    files, left_out = scan(folder)
    top, of_split = _beginning(folder, files, layout, split)
    layout, root = _layout_at(folder, files, top, layout), folder.joinpath(*top)
    in_parts = layout == "vlcs" and any(len(path) == 4 and path[1] == "full" for path in pictures(files, top))
    levels = 2 if layout == "classes" else 4 if in_parts else 3
    domains = {_plain(name): name for names in DOMAINS.get(layout, []) for name in names}
    rows: list[Row] = []
    for path in files:
        file, inner = folder.joinpath(*path), path[len(top) :]
        if path[: len(top)] != top:
            if not of_split:
                left_out[file] = "outside the data set" if _suffix(path) in SUFFIXES else BESIDE
        elif reason := _why_not(inner, levels):
            left_out[file] = reason
        elif domains and _plain(inner[0]) not in domains:  # such as drawings by the authors of a data set
            left_out[file] = f"not in a domain of {layout}"
        elif not in_parts or inner[1] in PARTS_OF_VLCS[split]:
            domain = UNNAMED if layout == "classes" else domains.get(_plain(inner[0]), inner[0])
            rows.append((file, VLCS.get(inner[-2], inner[-2]) if in_parts else inner[-2], domain))
    published = of_split or in_parts
    if layout == "domainnet" and split != "all" and not of_split:
        listed = {path for domain in DOMAINS[layout][0] for path in _listed(root / f"{domain}_{split}.txt")}
        rows, published = [row for row in rows if below(row[0], root) in listed], True
    reasons = {below(file, root): reason for file, reason in left_out.items()}
    return dataset_of(rows, root, layout, split, published, reasons)


def _beginning(folder: Path, files: list[Parts], layout: str | None, split: str) -> tuple[Parts, bool]:
    """Return the path at which the data set begins, and True if that folder holds only the split."""
    top: Parts = ()
    subfolders, depths = _contents(files, top)
    while len(subfolders) == 1 and not depths & {2, 3}:
        top = (*top, subfolders[0])
        subfolders, depths = _contents(files, top)
    splits = {name: FOLDERS_OF_SPLITS.get(name.lower()) for name in subfolders}
    if len(subfolders) < 2 or layout == "domains" or not all(splits.values()):
        return top, False
    matches = [name for name in subfolders if splits[name] == split]
    if len(matches) != 1:
        place, listed = folder.joinpath(*top), ", ".join(subfolders)
        options = [f"'{place / name}'" for name in subfolders] + [f"'domains:{place}'"] * (3 in depths)
        raise ValueError(f"folder: {str(folder)!r} holds the splits {listed}; expected one of {', '.join(options)}")
    return (*top, matches[0]), True


def _layout_at(folder: Path, files: list[Parts], top: Parts, layout: str | None) -> str:
    """Return `layout` if it fits the data set that begins at `top`; by default, recognise the layout."""
    subfolders, depths = _contents(files, top)
    present, place = {_plain(name) for name in subfolders}, folder.joinpath(*top)
    for option, sets in DOMAINS.items():
        if layout in (None, option) and any({*map(_plain, names)} <= present for names in sets):
            return option
    if layout in DOMAINS:
        domains = " or ".join(", ".join(names) for names in DOMAINS[layout])
        raise ValueError(f"folder: {str(folder)!r} lacks domains of {layout!r}; expected the folders {domains}")
    if not depths & {2, 3}:
        left_out = {"/".join(path): _why_not(path, 0) for path in files}
        raise ValueError(
            f"folder: {str(folder)!r} holds no pictures as <domain>/<class>/<picture> or <class>/<picture>; expected "
            f"files that end in {', '.join(sorted(SUFFIXES))}, or the name of a table (.csv, .parquet)"
            + (f"; left out: {summarize(left_out)}" if left_out else "")
        )
    if layout is None and 3 in depths and (2 in depths or len(subfolders) == 1):
        raise ValueError(
            f"folder: {str(folder)!r} may hold domains or classes; expected one of 'domains:{place}', "
            f"<domain>/<class>/<picture>, and 'classes:{place if 2 in depths else place / subfolders[0]}', "
            "<class>/<picture>"
        )
    return layout or ("domains" if 3 in depths else "classes")


def _contents(files: list[Parts], top: Parts) -> tuple[list[str], set[int]]:
    """Return the folders in `top` that hold pictures, and the lengths of the pictures' paths."""
    paths = pictures(files, top)
    return sorted({path[0] for path in paths if len(path) > 1}), {*map(len, paths)}


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _suffix(path: Parts) -> str:
    return os.path.splitext(path[-1])[1].lower()


def _why_not(path: Parts, levels: int) -> str:
    """Return why a file is left out, "" if it is not. levels: the length of the paths of pictures, 0 for none."""
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        return BESIDE if len(path) < levels else f"{suffix or 'a file without an ending'} is not read as a picture"
    return "" if len(path) == levels else "a picture at another depth"


def _listed(file: Path) -> list[str]:
    """Return the paths in a list of DomainNet, with lines such as "clipart/cat/clipart_001_000001.jpg 0"."""
    if not file.is_file():
        raise ValueError(f"split: {str(file)!r} is missing; expected the lists of DomainNet, or split='all'")
    return [line.rpartition(" ")[0] for line in file.read_text(encoding="utf-8").splitlines()]
