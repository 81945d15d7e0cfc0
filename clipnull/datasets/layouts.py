"""Data sets of domain generalisation in the layouts they are published in, folders of classes, tables and archives.

| layout | where its pictures are |
|---|---|
| `pacs` | `<domain>/<class>/*`, often below `kfold`: art_painting, cartoon, photo, sketch |
| `office-home` | `<domain>/<class>/*`, below `OfficeHomeDataset_10072016`: Art, Clipart, Product, Real World |
| `vlcs` | `<domain>/<full, train, test, crossval>/<0 to 4>/*`: CALTECH, LABELME, PASCAL, SUN; or, as DomainBed has \
it, `<domain>/<class>/*`: Caltech101, LabelMe, VOC2007, SUN09 |
| `domainnet` | `<domain>/<class>/*`, lists `<domain>_train.txt` and `<domain>_test.txt` beside the six domains |
| `domains` | `<domain>/<class>/*`, any other |
| `classes` | `<class>/*`, without domains |
| `table` | a .csv or .parquet file with the columns path, class and, if there are any, domain |
| `webdataset` | .tar files, see `clipnull.datasets.webdataset` |

A data set may lie one or two folders down, or in a folder `train` or `test`, which `split` names. Where a folder can be
read in two ways, the error gives the places that can be read in one. Each file and folder is used or has a reason.
"""

import functools
import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import one_of, shorten
from ..images import SUFFIXES, Images, why_unreadable
from ..vocabulary import Vocabulary, words
from .tables import Row, read_table

DOMAINS = {
    "pacs": [("art_painting", "cartoon", "photo", "sketch")],
    "office-home": [("Art", "Clipart", "Product", "Real World")],
    "vlcs": [("CALTECH", "LABELME", "PASCAL", "SUN"), ("Caltech101", "LabelMe", "VOC2007", "SUN09")],
    "domainnet": [("clipart", "infograph", "painting", "quickdraw", "real", "sketch")],
}
"""The domains of each, as `DOMAIN_PHRASES` knows them; on disk, capitals do not count, nor "_" in place of a blank."""
LAYOUTS, SPLITS = (*DOMAINS, "domains", "classes", "table", "webdataset"), ("all", "train", "test")
VLCS = ("bird", "car", "chair", "dog", "person")
"""What the folders 0 to 4 hold."""
UNNAMED = "image"
"""The one domain of a data set without any: "an image of a dog", which none of the prompts says that evaluate."""
FOLDERS_OF_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
FOLDERS_OF_SPLITS |= dict.fromkeys(("val", "valid", "validation"), "val")
"""What folders of splits may be called, in capitals or not. No split is "val": its folder is a place of its own."""
TEST_SHARE, NAMED = 0.2, 5
"""The test share of pictures without a published split; how many reasons of what is left out a warning gives."""
SYSTEM = "hidden, or of the system"
SYSTEM_NAMES = {"__macosx", "$recycle.bin", "lost+found", "system volume information", "@eadir", "#recycle"}
SYSTEM_NAMES |= {"__pycache__", "thumbs.db", "desktop.ini"}
BESIDE = "beside the folders of pictures"
Parts = tuple[str, ...]
"""A path below a folder."""


@dataclass(frozen=True)
class Dataset:
    """Pictures, and where they come from.

    images: with class names as words. layout, split: one of LAYOUTS; the split, and whether it is "published" or made
    "by hash". left_out: the reason of each file or folder that is not used. folders: what classes are called on disk.
    """

    images: Images
    root: Path
    layout: str
    split: str
    left_out: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def format_left_out(self) -> str:
        """What is left out and may be missed, by the reason, in one line; "" if nothing is."""
        missed = {name: reason for name, reason in self.left_out.items() if reason not in (SYSTEM, BESIDE)}
        some = f"{len(missed)} files or folders are left out, beside {len(self.images)} pictures: {_grouped(missed)}"
        return some if missed else ""

    def manifest(self) -> dict[str, Any]:
        """What JSON keeps of it: counts by class and domain, what was left out and why, and a SHA-256.

        The hash covers all paths with their labels, so that two people can see that they used the same pictures.
        """
        classes, domains = self.images.vocabulary.classes, self.images.vocabulary.domains
        rows = zip(self.images.files, self.images.classes.tolist(), self.images.domains.tolist(), strict=True)
        lines = sorted(f"{below(file, self.root)}\t{classes[c]}\t{domains[k]}" for file, c, k in rows)
        counts = self.images.counts().tolist()
        return {
            "layout": self.layout,
            "split": self.split,
            "pictures": len(self.images),
            "counts": {c: dict(zip(domains, row, strict=True)) for c, row in zip(classes, counts, strict=True)},
            "folders": self.folders,
            "left_out": self.left_out,
            "sha256": hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest(),
        }


def by_reason(left_out: dict[str, str]) -> dict[str, list[str]]:
    """The names of what is left out, by the reason."""
    names = defaultdict(list)
    for name, reason in left_out.items():
        names[reason].append(name)
    return names


def _grouped(left_out: dict[str, str]) -> str:
    reasons = by_reason(left_out)
    some = [f"{n[0]!r}{f' and {len(n) - 1} more' if n[1:] else ''} ({reason})" for reason, n in reasons.items()]
    return "; ".join(some[:NAMED]) + (f"; and {len(some) - NAMED} more reasons" if len(some) > NAMED else "")


def load_dataset(place: str | os.PathLike, layout: str | None = None, split: str = "all") -> Dataset:
    """The pictures of a data set, in the layout it is published in, for `embed` and all that takes Images.

    place: a folder, or a table. layout: one of LAYOUTS but `webdataset`; recognised if not given. split: "all", "train"
    or "test". Folders train and test, DomainNet and VLCS bring their own; other pictures are in "test" by a hash of
    their paths in the data set, about TEST_SHARE of them: the same on every machine, whatever else is there. (PACS' own
    "test" lists hold its training pictures, too: they are for another domain than one trained on.)

    Class names become words, see `class_names`. Files that cannot be pictures are left out. Raises ValueError where
    nothing can be read, for fewer than two classes or two that become the same words, and where a folder can be read in
    two ways.
    """
    place = Path(place)
    one_of("split", split, SPLITS)
    if layout is not None:
        one_of("layout", layout, LAYOUTS[:-1])
    if place.is_file() and layout in (None, "table"):
        rows, left_out = read_table(place, UNNAMED)
        root, layout, published = place.parent, "table", False
    elif place.is_dir() and layout != "table":
        tree = scan(place)
        top, layout, published = recognise(tree, layout, split)
        root = place.joinpath(*top)
        rows, left_out, published = _pictures(tree, top, layout, split, published)
    else:
        raise ValueError(
            f"folder: {str(place)!r} is not a {'table' if layout == 'table' else 'folder'}; expected a folder of "
            "pictures, such as <domain>/<class>/<picture>, or a .csv or .parquet file with their paths"
        )
    names = class_names(name for _, name, _ in rows)  # of all splits, so that they agree
    if split != "all" and not published:
        rows = [row for row in rows if in_test(below(row[0], root)) == (split == "test")]
    how = split if split == "all" else f"{split}, {'published' if published else 'by hash'}"
    return dataset_of(rows, names, root, layout, how, left_out)


def dataset_of(
    rows: Iterable[Row], names: dict[str, str], root: Path, layout: str, split: str, left_out: dict[str, str]
) -> Dataset:
    """The readable pictures of `rows`, whose classes are called as `names` says; the others join `left_out`."""
    reasons = {row[0]: why_unreadable(row[0]) for row in rows}
    left_out |= {below(file, root): reason for file, reason in reasons.items() if reason}
    rows = [row for row in rows if not reasons[row[0]]]
    classes, domains = sorted({names[name] for _, name, _ in rows}), sorted({domain for _, _, domain in rows})
    if len(classes) < 2:
        raise ValueError(
            f"folder: {str(root)!r}, read as {layout!r}, holds {len(classes)} {'class' if classes else 'classes'} with "
            f"readable pictures ({', '.join(classes) or 'none'}); expected at least two; left out: "
            f"{_grouped(left_out) or 'nothing'}"
        )
    place_of_class, place_of_domain = ({name: i for i, name in enumerate(values)} for values in (classes, domains))
    images = Images(
        tuple(file for file, _, _ in rows),
        torch.tensor([place_of_class[names[name]] for _, name, _ in rows]),
        torch.tensor([place_of_domain[domain] for _, _, domain in rows]),
        Vocabulary(classes, domains),
    )
    on_disk = {name: raw for raw, name in names.items() if name in place_of_class}
    return Dataset(images, root, layout, split, left_out, on_disk)


def class_names(names: Iterable[str]) -> dict[str, str]:
    """Class names as they are on disk -> as words, which stay as many.

    A number in front is dropped where all names have one and these count from 0 or 1.
    Raises ValueError for two names that become the same words.

    >>> class_names(["001.Black_footed_Albatross", "002.TVMonitor"]).values()
    dict_values(['black footed albatross', 'tv monitor'])
    >>> class_names(["30 kmh", "50 kmh", "Stop"]).values()
    dict_values(['30 kmh', '50 kmh', 'stop'])
    """
    names = sorted({*names})
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


@dataclass(frozen=True)
class Tree:
    """The files below a `folder`, sorted, and the reason of each file or folder that is passed over."""

    folder: Path
    files: list[Parts]
    left_out: dict[Path, str]

    def pictures(self, top: Parts = ()) -> list[Parts]:
        """The paths below `top` that are called like pictures, from there."""
        n = len(top)
        return [path[n:] for path in self.files if path[:n] == top and is_picture(path[-1])]

    @functools.cached_property
    def inside(self) -> dict[Parts, list[str]]:
        """The names of the folders with files in each folder, sorted as all is."""
        names = defaultdict(dict)
        for path in self.files:
            for depth in range(len(path) - 1):
                names[path[:depth]][path[depth]] = None
        return {top: [*inside] for top, inside in names.items()}


def scan(folder: Path) -> Tree:
    """Everything below a folder by its name; nothing is opened.

    Passed over are what is hidden or of the system, links to folders, links to files outside of the folder or to
    nothing, and folders that may not be listed.
    """
    root, files, left_out = os.path.realpath(folder), [], {}

    def refuse(error: OSError) -> None:
        left_out[Path(error.filename)] = error.strerror or str(error)

    for place, folders, names in os.walk(folder, onerror=refuse):
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
    return Tree(folder, sorted(files), left_out)


def is_picture(name: str) -> bool:
    """Whether a file is called like a picture."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def recognise(tree: Tree, layout: str | None = None, split: str = "all") -> tuple[Parts, str, bool]:
    """Where the data set in a folder begins, its layout, and whether that is a folder of the split alone."""
    for depth in range(3):
        tops = [path for path in tree.inside if len(path) == depth]
        matches = [(top, known) for top in tops for known in _published(tree.inside[top]) if layout in (None, known)]
        of_split = [(top, known) for top, known in matches if top and FOLDERS_OF_SPLITS.get(top[-1].lower()) == split]
        if len(matches) == 1 or len(of_split) == 1:
            return *(of_split or matches)[0], bool(of_split)
        if matches:
            some = shorten(f"{known}:{tree.folder.joinpath(*top)}" for top, known in matches)
            raise ValueError(f"folder: {str(tree.folder)!r} holds several data sets; expected one of {some}")
    if layout in DOMAINS:
        some = " or ".join(", ".join(names) for names in DOMAINS[layout])
        raise ValueError(
            f"folder: {str(tree.folder)!r} does not hold the domains of {layout!r}; expected folders {some}"
        )
    return _unpublished(tree, layout, split)


def _unpublished(tree: Tree, layout: str | None, split: str) -> tuple[Parts, str, bool]:
    """`recognise` for folders of domains or classes that are no known data set."""
    folder, top, of_split = tree.folder, (), False
    inside, depths = _inside(tree, top)
    while len(inside) == 1 and not depths & {1, 2, 3}:
        top = (*top, inside[0])
        inside, depths = _inside(tree, top)
    splits = {name: FOLDERS_OF_SPLITS.get(name.lower()) for name in inside}
    if len(inside) > 1 and layout != "domains" and all(splits.values()):
        matches = [name for name, known in splits.items() if known == split]
        if len(matches) != 1:
            some = [f"'{folder.joinpath(*top, name)}'" for name in inside]
            raise ValueError(
                f"folder: {str(folder)!r} holds the splits {', '.join(inside)}; expected one of {', '.join(some)}, or "
                f"'domains:{folder.joinpath(*top)}' if they are domains"
            )
        top, of_split = (*top, matches[0]), True
        inside, depths = _inside(tree, top)
    place = folder.joinpath(*top)
    if not depths & {2, 3}:
        others = {"/".join(path): _why_not(path, 0) or "at another depth" for path in tree.files}
        raise ValueError(
            f"folder: {str(folder)!r} holds no pictures as <domain>/<class>/<picture> or <class>/<picture> with one of "
            f"{', '.join(sorted(SUFFIXES))}; expected a folder that does, or the name of a table (.csv, .parquet)"
            + (f"; left out: {_grouped(others)}" if others else "")
        )
    if layout is None and 3 in depths and (2 in depths or len(inside) == 1):
        raise ValueError(
            f"folder: {str(folder)!r} may hold domains or classes; expected one of 'domains:{place}', "
            f"<domain>/<class>/<picture>, and 'classes:{place if 2 in depths else place / inside[0]}', "
            "<class>/<picture>"
        )
    return top, layout or ("domains" if 3 in depths else "classes"), of_split


def _inside(tree: Tree, top: Parts) -> tuple[list[str], set[int]]:
    """The folders in `top` that hold pictures, and how many parts the paths of these have."""
    pictures = tree.pictures(top)
    return sorted({path[0] for path in pictures if len(path) > 1}), {*map(len, pictures)}


def _published(folders: list[str]) -> list[str]:
    """The data sets whose domains are among folders, all of them."""
    present = {_plain(name) for name in folders}
    return [known for known, sets in DOMAINS.items() if any({*map(_plain, names)} <= present for names in sets)]


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


# --- the pictures of a folder


def _pictures(
    tree: Tree, top: Parts, layout: str, split: str, of_split: bool
) -> tuple[list[Row], dict[str, str], bool]:
    """The pictures of a data set with class and domain as on disk, what is left out, and if the split is published."""
    root, pictures = tree.folder.joinpath(*top), tree.pictures(top)
    present = {_plain(name) for name in tree.inside.get(top, [])}
    sets = ({_plain(name): name for name in names} for names in DOMAINS.get(layout, []))
    domains = next((names for names in sets if names.keys() <= present), {})
    parts_of_vlcs = {path[:2] for path in pictures if len(path) == 4 and path[1] in ("full", "test")}
    in_parts = layout == "vlcs" and bool(parts_of_vlcs)
    levels = 2 if layout == "classes" else 4 if in_parts else 3
    rows, left_out = [], dict(tree.left_out)
    for path in tree.files:
        file, inner = tree.folder.joinpath(*path), path[len(top) :]
        if path[: len(top)] != top:
            if not of_split:
                left_out[file] = "outside of the data set" if is_picture(path[-1]) else BESIDE
        elif reason := _why_not(inner, levels):
            left_out[file] = reason
        elif domains and _plain(inner[0]) not in domains:  # sketches of the authors and the like
            left_out[file] = f"not in a domain of {layout}"
        else:
            domain = UNNAMED if layout == "classes" else domains.get(_plain(inner[0]), inner[0])
            rows.append((file, inner, domain))
    if in_parts:
        whole = {domain for domain, part in parts_of_vlcs if part == "full"}
        rows = [row for row in rows if _in_vlcs(row[1], split, whole)]
    if layout == "domainnet" and split != "all" and not of_split:
        listed = {*_listed(root, {domain for _, _, domain in rows}, split)}
        rows = [row for row in rows if "/".join(row[1]) in listed]
    names = {str(i): name for i, name in enumerate(VLCS)} if in_parts else {}
    labelled = [(file, names.get(inner[-2], inner[-2]), domain) for file, inner, domain in rows]
    published = of_split or in_parts or (layout == "domainnet" and split != "all")
    return labelled, {below(file, root): reason for file, reason in left_out.items()}, published


def _why_not(path: Parts, levels: int) -> str:
    """Why a file is not used, by its name and depth; "" if it is. levels: parts of the paths that are, 0 for any."""
    suffix = os.path.splitext(path[-1])[1].lower()
    if suffix not in SUFFIXES:
        if len(path) < levels:
            return BESIDE
        return f"{suffix or 'a name without an ending'} is not read as a picture"
    if levels and len(path) != levels:
        return "a picture where folders are" if len(path) < levels else "deeper than the folder of a class"
    return ""


def _in_vlcs(path: Parts, split: str, whole: set[str]) -> bool:
    """Whether a picture of VLCS is of the split. The folders `full` hold all pictures, those of splits copies."""
    if split == "all" and path[0] in whole:
        return path[1] == "full"
    return path[1] in {"train": ("train", "crossval"), "test": ("test",), "all": ("train", "crossval", "test")}[split]


def _listed(root: Path, domains: set[str], split: str) -> Iterator[str]:
    """The paths in DomainNet's own lists, lines of "clipart/cat/clipart_001_000001.jpg 0"."""
    for domain in sorted(domains):
        file = root / f"{domain}_{split}.txt"
        if not file.is_file():
            raise ValueError(f"split: {str(file)!r} is missing; expected DomainNet's own lists, or split='all'")
        for line in file.read_text(encoding="utf-8").splitlines():
            yield line.rpartition(" ")[0]
