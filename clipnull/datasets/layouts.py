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

A data set may lie one or two folders down, or in a folder `train` or `test`, which `split` names. Where two readings
are possible, none is taken, and the error says what decides.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import one_of, shorten
from ..images import SUFFIXES, Images, find_pictures, why_unreadable
from ..vocabulary import Vocabulary
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
FOLDERS_OF_SPLITS = {"train", "training", "test", "val", "valid", "validation"}
TEST_SHARE, TOLD = 0.2, 5
"""Of pictures without a split of their own; files that are left out, of those that a warning names."""


@dataclass(frozen=True)
class Dataset:
    """Pictures with what is known of where they are from.

    images: with class names as words. layout, split: one of LAYOUTS; what was asked for, and whether it is "published"
    or made "by hash". left: what is left out, with the reason of each. folders: class names as they are on disk.
    """

    images: Images
    root: Path
    layout: str
    split: str
    left: dict[str, str] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)

    def told_left(self) -> str:
        """What is left out, the first few with the reason of each, in one line; "" if nothing is."""
        some = "; ".join(f"{name!r} ({reason})" for name, reason in list(self.left.items())[:TOLD])
        more = f"; and {len(self.left) - TOLD} more" if len(self.left) > TOLD else ""
        told = f"{len(self.left)} files or folders are left out, beside {len(self.images)} pictures: {some}{more}"
        return told if self.left else ""

    def manifest(self) -> dict[str, Any]:
        """What JSON keeps of it: counts of pictures by class and domain, what was left out and why, and a SHA-256.

        That is of all paths with their labels, so that two who say that they used the same pictures can tell.
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
            "left_out": self.left,
            "sha256": hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest(),
        }


def load_dataset(place: str | os.PathLike, layout: str | None = None, split: str = "all") -> Dataset:
    """The pictures of a data set, in the layout it is published in, for `embed` and all that takes Images.

    place: a folder, or a table. layout: one of LAYOUTS but `webdataset`; found out if not given. split: "all", "train"
    or "test". Folders train and test, DomainNet and VLCS bring their own; other pictures are in "test" by a hash of
    their paths in the data set, about TEST_SHARE of them: the same on every machine, whatever else is there. (PACS' own
    "test" lists hold its training pictures, too: they are for another domain than one trained on.)

    Class names become words: "Alarm_Clock", "AlarmClock" and "007.alarm_clock" are "alarm clock", and folders that
    become the same words are one class. Files that cannot be pictures are left out and told in `left` with the reason.
    Raises ValueError where nothing can be read, for fewer than two classes, and where two readings are possible.
    """
    place, published = Path(place), False
    one_of("split", split, SPLITS)
    if layout is not None:
        one_of("layout", layout, LAYOUTS[:-1])
    if place.is_file() and layout in (None, "table"):
        root, layout, (rows, left) = place.parent, "table", read_table(place, UNNAMED)
    elif not place.is_dir() or layout == "table":
        raise ValueError(
            f"folder: {str(place)!r} is not a {'table' if layout == 'table' else 'folder'}; expected a folder of "
            "pictures, such as <domain>/<class>/<picture>, or a .csv or .parquet file with their paths"
        )
    else:
        root, layout, published = recognise(place, layout, split)
        rows, left = _rows(root, layout, split)
        own = split != "all" and not published
        if own and layout == "domainnet":
            listed, published = {*_listed(root, {domain for _, _, domain in rows}, split)}, True
            rows = [row for row in rows if below(row[0], root) in listed]
        published |= own and layout == "vlcs" and _has_splits(root)
    if split != "all" and not published:
        rows = [row for row in rows if in_test(below(row[0], root)) == (split == "test")]
    left |= {below(file, root): reason for file, _, _ in rows if (reason := why_unreadable(file))}
    kept = [row for row in rows if below(row[0], root) not in left]
    folders = defaultdict(set)
    for _, name, _ in kept:
        folders[clean_name(name)].add(name)
    classes, domains = sorted(folders), sorted({domain for _, _, domain in kept})
    if len(classes) < 2:
        raise ValueError(
            f"folder: {str(place)!r}, read as {layout!r}, holds {len(classes)} "
            f"{'class' if len(classes) == 1 else 'classes'} with readable pictures ({', '.join(classes) or 'none'}); "
            f"expected at least two; left out: {shorten(f'{n} ({why})' for n, why in left.items())}".removesuffix(": ")
        )
    images = Images(
        tuple(file for file, _, _ in kept),
        torch.tensor([classes.index(clean_name(name)) for _, name, _ in kept]),
        torch.tensor([domains.index(domain) for _, _, domain in kept]),
        Vocabulary(classes, domains),
    )
    how = split if split == "all" else f"{split}, {'published' if published else 'by hash'}"
    return Dataset(images, root, layout, how, left, {name: sorted(found) for name, found in sorted(folders.items())})


def clean_name(name: str) -> str:
    """The words of a folder's name, as a prompt says them; the name itself if nothing would be left.

    >>> [clean_name(name) for name in ("Alarm_Clock", "007.Black_footed_Albatross", "FlipFlops", "T-Shirt", "the+sun")]
    ['alarm clock', 'black footed albatross', 'flip flops', 't-shirt', 'the sun']
    """
    name = unicodedata.normalize("NFC", name)
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"^\d+[._\- ]+(?=[^\W\d_])", "", name))
    return " ".join(re.sub(r"[_+]", " ", spaced).split()).lower() or name


def in_test(path: str, share: float = TEST_SHARE) -> bool:
    """Whether a picture belongs to the test split, by a hash of its path with "/" in it."""
    return int(hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:8], 16) < share * 2**32


# --- folders


def recognise(folder: Path, layout: str | None = None, split: str = "all") -> tuple[Path, str, bool]:
    """Where the data set in `folder` begins, at most two levels down, its layout, and whether a folder is the split."""
    level = [folder]
    for _ in range(3):
        found = [(place, known) for place in level for known in _published(place) if layout in (None, known)]
        chosen = [place for place in found if place[0].name.lower() == split and place[0] != folder]
        if len(found) == 1 or len(chosen) == 1:
            return *(chosen or found)[0], bool(chosen)
        if found:
            some = shorten(f"{place.relative_to(folder).as_posix()} ({known})" for place, known in found)
            raise ValueError(
                f"folder: {str(folder)!r} holds several data sets, {some}; expected the folder of one"
                + (", or its split: 'train:...' or 'test:...'" if {p.name for p, _ in found} & {*SPLITS} else "")
            )
        level = [entry for place in level for entry in _folders(place) if not entry.is_symlink()][:100]
    if layout in DOMAINS:
        some = " or ".join(", ".join(names) for names in DOMAINS[layout])
        raise ValueError(f"folder: {str(folder)!r} does not hold the domains of {layout!r}; expected folders {some}")
    return _other(folder, layout, split)


def _other(folder: Path, layout: str | None, split: str) -> tuple[Path, str, bool]:
    """`recognise` for folders that are no known data set."""
    place, chosen = folder, False
    for _ in range(3):
        inside = _folders(place)
        if len(inside) > 1 and {entry.name.lower() for entry in inside} <= FOLDERS_OF_SPLITS and not chosen:
            chosen = any(entry.name == split for entry in inside)
            if chosen:
                place = place / split
                continue
            if layout != "domains":
                some = " or ".join(f"'{entry}'" for entry in inside)
                raise ValueError(
                    f"folder: {str(folder)!r} holds {', '.join(entry.name for entry in inside)}; expected one of these "
                    f"splits, {some}, or 'train:{folder}' or 'test:{folder}', or 'domains:{folder}' if they are domains"
                )
        flat = sum(_holds(entry) for entry in inside)
        deep = any(_holds(entry) for parent in inside for entry in _folders(parent))
        if layout is None and deep and (flat > 1 or len(inside) == 1):
            told = "pictures in its folders and in folders of these" if flat else f"one folder, {inside[0].name!r}"
            raise ValueError(
                f"folder: {str(folder)!r} holds {told}; expected one of 'domains:{place}', <domain>/<class>/<picture>, "
                f"and 'classes:{place if flat else inside[0]}', <class>/<picture>"
            )
        if deep or flat:
            return place, layout or ("domains" if deep else "classes"), chosen
        if len(inside) != 1 or inside[0].is_symlink():
            break
        place = inside[0]
    tables = [entry.name for entry in sorted(folder.iterdir()) if entry.suffix.lower() in (".csv", ".parquet")]
    raise ValueError(
        f"folder: {str(folder)!r} holds no pictures; expected <domain>/<class>/<picture> or <class>/<picture> with one "
        f"of {', '.join(sorted(SUFFIXES))}" + (f", or the name of a table, such as {tables[0]}" if tables else "")
    )


def _published(folder: Path) -> list[str]:
    """The data sets whose domains a folder holds, all of them."""
    there = {_plain(entry.name) for entry in _folders(folder)}
    return [known for known, sets in DOMAINS.items() if any({*map(_plain, names)} <= there for names in sets)]


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _folders(folder: Path) -> list[Path]:
    return [folder / e.name for e in _entries(folder) if _is_folder(e) and e.name != "__MACOSX"]


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        return sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError:  # which `find` tells
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _holds(folder: Path) -> bool:
    """Whether files lie in a folder itself that are pictures by their names."""
    return any(os.path.splitext(e.name)[1].lower() in SUFFIXES and os.path.isfile(e.path) for e in _entries(folder))


def _has_splits(root: Path) -> bool:
    return any((domain / part).is_dir() for domain in _folders(root) for part in ("full", "test"))


def _rows(root: Path, layout: str, split: str) -> tuple[list[Row], dict[str, str]]:
    """The pictures in `root` with class and domain as they are on disk, and what is left out."""
    there = {_plain(entry.name) for entry in _folders(root)}
    sets = ({_plain(name): name for name in names} for names in DOMAINS.get(layout, []))
    canonical = next((names for names in sets if names.keys() <= there), {})
    if layout == "classes":
        files, left = find_pictures(root, 2)
        rows = [(file, file.parts[-2], UNNAMED) for file in files]
    elif layout == "vlcs" and _has_splits(root):
        rows, left, numbered = [], {}, {str(i): name for i, name in enumerate(VLCS)}
        for domain in (entry for entry in _folders(root) if _plain(entry.name) in canonical):
            whole = ["full"] if (domain / "full").is_dir() else ["train", "crossval", "test"]
            for part in whole if split == "all" else ["train", "crossval"] if split == "train" else ["test"]:
                files, reasons = find_pictures(domain / part, 2) if (domain / part).is_dir() else ([], {})
                left |= reasons
                named = [numbered.get(file.parts[-2], file.parts[-2]) for file in files]
                rows += [(f, name, canonical[_plain(domain.name)]) for f, name in zip(files, named, strict=True)]
    else:
        files, left = find_pictures(root)
        rows = [(file, file.parts[-2], file.parts[-3]) for file in files]
        if canonical:  # lists, sketches of the authors and the like are beside the domains
            beside = Counter(row[2] for row in rows if _plain(row[2]) not in canonical)
            left |= {root / name: f"no domain of {layout}, with {n} pictures" for name, n in sorted(beside.items())}
            rows = [(*row[:2], canonical[_plain(row[2])]) for row in rows if row[2] not in beside]
    return rows, {below(file, root): reason for file, reason in left.items()}


def _listed(root: Path, domains: set[str], split: str) -> Iterator[str]:
    """The paths in DomainNet's own lists, lines of "clipart/cat/clipart_001_000001.jpg 0"."""
    for domain in sorted(domains):
        file = root / f"{domain}_{split}.txt"
        if not file.is_file():
            raise ValueError(f"split: {str(file)!r} is missing; expected DomainNet's own lists, or split='all'")
        for line in file.read_text(encoding="utf-8").splitlines():
            yield line.rpartition(" ")[0]


def below(file: Path, root: Path) -> str:
    """The path of a file in a data set; of one outside, which a table may name, as it is."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()
