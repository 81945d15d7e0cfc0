"""Data sets of domain generalisation in the layouts they are published in, and folders of classes.

| layout | where its pictures are |
|---|---|
| `pacs` | `<domain>/<class>/*`, often below `kfold`: art_painting, cartoon, photo, sketch |
| `office-home` | `<domain>/<class>/*`, below `OfficeHomeDataset_10072016`: Art, Clipart, Product, Real World |
| `vlcs` | `<domain>/<full, train, test, crossval>/<0 to 4>/*`: CALTECH, LABELME, PASCAL, SUN; or, as DomainBed has \
it, `<domain>/<class>/*`: Caltech101, LabelMe, VOC2007, SUN09 |
| `domainnet` | `<domain>/<class>/*`, lists `<domain>_train.txt` and `<domain>_test.txt` beside the six domains |
| `domains` | `<domain>/<class>/*`, any other |
| `classes` | `<class>/*`, without domains |
| `table` | a .csv or .parquet file, see `clipnull.datasets.tables` |
| `webdataset` | .tar files, see `clipnull.datasets.webdataset` |

A data set may lie some folders down, or in a folder `train` or `test`, which `split` names. Where a folder can be read
in two ways, the error gives the places that can be read in one. Each file and folder is used or has a reason.
"""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
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
"""The domains of each, as `DOMAIN_PHRASES` knows them; on disk, capitals do not count, nor "_" in place of a blank."""
LAYOUTS, SPLITS = (*DOMAINS, "domains", "classes", "table", "webdataset"), ("all", "train", "test")
VLCS = {"0": "bird", "1": "car", "2": "chair", "3": "dog", "4": "person"}
PARTS_OF_VLCS = {"all": ("full",), "train": ("train", "crossval"), "test": ("test",)}
UNNAMED = "image"
"""The one domain of a data set without any: "an image of a dog", which none of the prompts says that evaluate."""
FOLDERS_OF_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
FOLDERS_OF_SPLITS |= dict.fromkeys(("val", "valid", "validation"), "val")
"""What folders of splits may be called, in capitals or not. No split is "val": its folder is a place of its own."""
TEST_SHARE, NAMED = 0.2, 5
"""The test share of pictures without a published split; how many reasons of what is left out a warning gives."""
SYSTEM, BESIDE = "hidden, or of the system", "beside the folders of pictures"
SYSTEM_NAMES = {"__macosx", "$recycle.bin", "lost+found", "system volume information", "@eadir", "#recycle"}
SYSTEM_NAMES |= {"__pycache__", "thumbs.db", "desktop.ini"}
Parts = tuple[str, ...]
"""A path below a folder."""
Row = tuple[Path, str, str]
"""A picture with its class and domain, as on disk."""


@dataclass(frozen=True)
class Dataset:
    """Pictures, and where they come from.

    split: with "published" or "by hash". left_out: the reason of each file or folder that is not used.
    """

    images: Images
    root: Path
    layout: str
    split: str
    left_out: dict[str, str]

    def manifest(self) -> dict[str, Any]:
        """What JSON keeps of it. Two people use the same pictures if the SHA-256, of paths and labels, is the same."""
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
    """The names of what is left out, by the reason."""
    names = defaultdict(list)
    for name, reason in left_out.items():
        names[reason].append(name)
    return names


def grouped(left_out: dict[str, str]) -> str:
    """What is left out, by the reason, in one line."""
    reasons = by_reason(left_out)
    some = [f"{n[0]!r}{f' and {len(n) - 1} more' if n[1:] else ''} ({reason})" for reason, n in reasons.items()]
    return "; ".join(some[:NAMED]) + (f"; and {len(some) - NAMED} more reasons" if len(some) > NAMED else "")


def dataset_of(
    rows: list[Row], root: Path, layout: str, split: str, published: bool, left_out: dict[str, str], raw: bool = False
) -> Dataset:
    """The readable pictures of `rows`; the others join `left_out`.

    Rows that no split is `published` of are in "test" by a hash of their paths, about TEST_SHARE of them: the same on
    every machine, whatever else is there. raw: leave class names as they are.
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
            f"{grouped(left_out) or 'nothing'}"
        )
    vocabulary, files = Vocabulary(classes.tolist(), domains.tolist()), tuple(file for file, _, _ in rows)
    images = Images(files, torch.from_numpy(labels), torch.from_numpy(styles), vocabulary)
    how = split if split == "all" else f"{split}, {'published' if published else 'by hash'}"
    return Dataset(images, root, layout, how, left_out)


def class_names(names: Iterable[str]) -> dict[str, str]:
    """Class names as they are on disk -> as words, which stay as many.

    A number in front is dropped where all names have one and these count from 0 or 1.

    >>> class_names(["001.Black_footed_Albatross", "002.TVMonitor"]).values()
    dict_values(['black footed albatross', 'tv monitor'])
    >>> class_names(["30 kmh", "50 kmh", "Stop"]).values()
    dict_values(['30 kmh', '50 kmh', 'stop'])
    """
    names = sorted({*names})  # of all splits, so that they agree
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
                "differ in more than capitals, blanks and underscores: rename one of them"
            )
    return cleaned


def in_test(path: str) -> bool:
    """Whether a picture belongs to the test split, by a hash of its path with "/" in it."""
    return int(hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:8], 16) < TEST_SHARE * 2**32


def below(file: Path, root: Path) -> str:
    """The path of a file in a data set; of one outside, which a table may name, as it is."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


# --- what is in a folder


def scan(folder: Path) -> tuple[list[Parts], dict[Path, str]]:
    """The files below a folder, sorted, and the reason of each file or folder that is passed over; none is opened.

    Passed over are what is hidden or of the system, links to folders, links to files outside of the folder or to
    nothing, and folders that may not be listed.
    """
    root, files, left_out = os.path.realpath(folder), [], {}

    def pass_over(error: OSError) -> None:
        left_out[Path(error.filename)] = error.strerror or str(error)

    for place, folders, names in os.walk(folder, onerror=pass_over):
        inside = set(folders)
        for name in (*folders, *names):
            path = Path(place, name)
            if name.startswith(".") or name.lower() in SYSTEM_NAMES:
                left_out[path] = SYSTEM
            elif path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                left_out[path] = "a link that leads out of the folder"
            elif path.is_symlink() and not path.is_file():
                left_out[path] = "a link to a folder, or to nothing"
            elif name not in inside:
                files.append(path.relative_to(folder).parts)
        folders[:] = [name for name in folders if Path(place, name) not in left_out]
    return sorted(files), left_out


def pictures(files: Iterable[Parts], top: Parts = ()) -> list[Parts]:
    """The paths below `top` that are called like pictures, from there."""
    return [path[len(top) :] for path in files if path[: len(top)] == top and _suffix(path) in SUFFIXES]


def read_folder(folder: Path, layout: str | None, split: str) -> Dataset:
    """The pictures of a folder. layout: recognised if not given; neither "table" nor "webdataset".

    Folders train and test, DomainNet and VLCS bring their own splits. (PACS' own "test" lists hold its training
    pictures, too: they are for another domain than one trained on.)
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
                left_out[file] = "outside of the data set" if _suffix(path) in SUFFIXES else BESIDE
        elif reason := _why_not(inner, levels):
            left_out[file] = reason
        elif domains and _plain(inner[0]) not in domains:  # sketches of the authors and the like
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
    """Where the data set in a folder begins, and whether that is a folder of the split alone."""
    top: Parts = ()
    inside, depths = _inside(files, top)
    while len(inside) == 1 and not depths & {2, 3}:
        top = (*top, inside[0])
        inside, depths = _inside(files, top)
    splits = {name: FOLDERS_OF_SPLITS.get(name.lower()) for name in inside}
    if len(inside) < 2 or layout == "domains" or not all(splits.values()):
        return top, False
    matches = [name for name, known in splits.items() if known == split]
    if len(matches) != 1:
        place = folder.joinpath(*top)
        some = [f"'{place / name}'" for name in inside] + [f"'domains:{place}'"] * (3 in depths)
        raise ValueError(
            f"folder: {str(folder)!r} holds the splits {', '.join(inside)}; expected one of {', '.join(some)}"
        )
    return (*top, matches[0]), True


def _layout_at(folder: Path, files: list[Parts], top: Parts, layout: str | None) -> str:
    """The layout of the data set that begins at `top`, which is `layout` if that is given."""
    inside, depths = _inside(files, top)
    present, place = {_plain(name) for name in inside}, folder.joinpath(*top)
    for known, sets in DOMAINS.items():
        if layout in (None, known) and any({*map(_plain, names)} <= present for names in sets):
            return known
    if layout in DOMAINS:
        some = " or ".join(", ".join(names) for names in DOMAINS[layout])
        raise ValueError(f"folder: {str(folder)!r} does not hold the domains of {layout!r}; expected folders {some}")
    if not depths & {2, 3}:
        others = {"/".join(path): _why_not(path, 0) for path in files}
        raise ValueError(
            f"folder: {str(folder)!r} holds no pictures as <domain>/<class>/<picture> or <class>/<picture> with one of "
            f"{', '.join(sorted(SUFFIXES))}; expected a folder that does, or the name of a table (.csv, .parquet)"
            + (f"; left out: {grouped(others)}" if others else "")
        )
    if layout is None and 3 in depths and (2 in depths or len(inside) == 1):
        raise ValueError(
            f"folder: {str(folder)!r} may hold domains or classes; expected one of 'domains:{place}', "
            f"<domain>/<class>/<picture>, and 'classes:{place if 2 in depths else place / inside[0]}', "
            "<class>/<picture>"
        )
    return layout or ("domains" if 3 in depths else "classes")


def _inside(files: list[Parts], top: Parts) -> tuple[list[str], set[int]]:
    """The folders in `top` that hold pictures, and how many parts the paths of these have."""
    paths = pictures(files, top)
    return sorted({path[0] for path in paths if len(path) > 1}), {*map(len, paths)}


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _suffix(path: Parts) -> str:
    return os.path.splitext(path[-1])[1].lower()


def _why_not(path: Parts, levels: int) -> str:
    """Why a file is not used, by its name and depth; "" if it is. levels: parts of the paths that are, 0 for none."""
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        return BESIDE if len(path) < levels else f"{suffix or 'a name without an ending'} is not read as a picture"
    return "" if len(path) == levels else "a picture at another depth"


def _listed(file: Path) -> list[str]:
    """The paths in one of DomainNet's own lists, lines of "clipart/cat/clipart_001_000001.jpg 0"."""
    if not file.is_file():
        raise ValueError(f"split: {str(file)!r} is missing; expected DomainNet's own lists, or split='all'")
    return [line.rpartition(" ")[0] for line in file.read_text(encoding="utf-8").splitlines()]
