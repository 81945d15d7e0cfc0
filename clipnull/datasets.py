"""Data sets of domain generalisation in the layouts they are published in, folders of classes, tables and archives.

| layout | where its pictures are |
|---|---|
| `pacs` | `<domain>/<class>/*`, often below `kfold`: art_painting, cartoon, photo, sketch |
| `office-home` | `<domain>/<class>/*`, below `OfficeHomeDataset_10072016`: Art, Clipart, Product, Real World |
| `vlcs` | `<domain>/<full, train, test, crossval>/<0 to 4>/*`: CALTECH, LABELME, PASCAL, SUN |
| `domainnet` | `<domain>/<class>/*`, lists `<domain>_train.txt` and `<domain>_test.txt` beside the six domains |
| `domains` | `<domain>/<class>/*`, any other |
| `classes` | `<class>/*`, without domains |
| `table` | a .csv or .parquet file with the columns path, class and, if there are any, domain |
"""

import csv
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .data import Images
from .errors import import_extra, one_of
from .pictures import find, why_unreadable
from .wording import Vocabulary

DOMAINS = {
    "pacs": {"art_painting", "cartoon", "photo", "sketch"},
    "office-home": {"art", "clipart", "product", "real world"},
    "vlcs": {"caltech", "labelme", "pascal", "sun"},
    "domainnet": {"clipart", "infograph", "painting", "quickdraw", "real", "sketch"},
}
LAYOUTS = (*DOMAINS, "domains", "classes", "table")
VLCS = ("bird", "car", "chair", "dog", "person")
"""What the folders 0 to 4 hold."""
UNNAMED = "picture"
"""The one domain of a data set without any: "a picture of a dog"."""
TEST_SHARE = 0.2
COLUMNS = {"path": ("path", "file", "filepath", "image"), "class": ("class", "label"), "domain": ("domain",)}


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

    def manifest(self) -> dict[str, Any]:
        """What JSON keeps of it: counts of pictures by class and domain, what was left out and why, and a SHA-256.

        That is of all paths with their labels, so that two who say that they used the same pictures can tell.
        """
        classes, domains = self.images.vocabulary.classes, self.images.vocabulary.domains
        rows = zip(self.images.files, self.images.classes.tolist(), self.images.domains.tolist(), strict=True)
        lines = sorted(f"{_below(file, self.root)}\t{classes[c]}\t{domains[k]}" for file, c, k in rows)
        counts = self.images.counts().tolist()
        return {
            "layout": self.layout,
            "split": self.split,
            "pictures": len(self.images),
            "counts": {c: dict(zip(domains, row, strict=True)) for c, row in zip(classes, counts, strict=True)},
            "folders": self.folders,
            "left_out": self.left,
            "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        }


def load_dataset(place: str | os.PathLike, layout: str | None = None, split: str = "all") -> Dataset:
    """The pictures of a data set, in the layout it is published in, for `embed` and all that takes Images.

    place: a folder, or a table; a folder may hold the data set one or two levels down. layout: one of LAYOUTS; found
    out if not given. split: "all", "train" or "test". DomainNet and VLCS bring their own; other pictures are in "test"
    by a hash of their paths in the data set, about TEST_SHARE of them: the same on every machine, whatever else is
    there. (PACS' own "test" lists hold its training pictures, too: they are for another domain than one trained on.)

    Class names become words: "Alarm_Clock", "AlarmClock" and "007.alarm_clock" are "alarm clock", and folders that
    become the same words are one class. Files that cannot be pictures are left out and told in `left` with the reason.
    Raises ValueError where nothing can be read, and for fewer than two classes.
    """
    place = Path(place)
    one_of("split", split, ["all", "train", "test"])
    if place.is_file() and layout in (None, "table"):
        root, layout, (rows, left) = place.parent, "table", _table(place)
    elif not place.is_dir():
        raise ValueError(f"place: {str(place)!r} is no folder; expected one, or a .csv or .parquet file with paths")
    else:
        root, layout = _root(place) if layout is None else (place, one_of("layout", layout, LAYOUTS[:-1]))
        rows, left = _rows(root, layout, split)
    published = split != "all" and layout in ("domainnet", "vlcs")
    if published and layout == "domainnet":
        listed = {*_listed(root, {domain for _, _, domain in rows}, split)}
        rows = [row for row in rows if _below(row[0], root) in listed]
    elif split != "all" and not published:
        rows = [row for row in rows if in_test(_below(row[0], root)) == (split == "test")]
    left |= {_below(file, root): reason for file, _, _ in rows if (reason := why_unreadable(file))}
    kept = [row for row in rows if _below(row[0], root) not in left]
    folders = defaultdict(set)
    for _, name, _ in kept:
        folders[clean_name(name)].add(name)
    classes, domains = sorted(folders), sorted({domain for _, _, domain in kept})
    if len(classes) < 2:
        raise ValueError(
            f"place: {str(place)!r}, read as {layout!r}, holds {len(classes)} classes with readable pictures "
            f"({', '.join(classes) or 'none'}; {len(left)} files left out); expected at least two"
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
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"^\d+[._\- ]+(?=[^\W\d_])", "", name))
    return " ".join(re.sub(r"[_+]", " ", spaced).split()).lower() or name


def in_test(path: str, share: float = TEST_SHARE) -> bool:
    """Whether a picture belongs to the test split, by a hash of its path with "/" in it."""
    return int(hashlib.sha256(path.encode()).hexdigest()[:8], 16) < share * 2**32


# --- folders

Row = tuple[Path, str, str]


def _root(folder: Path) -> tuple[Path, str]:
    """Where the data set in `folder` begins, at most two levels down, and its layout."""
    level = [folder]
    for _ in range(3):
        for place in level:
            names = {entry.name.lower().replace("_", " ") for entry in _folders(place)}
            for layout, domains in DOMAINS.items():
                if {domain.replace("_", " ") for domain in domains} <= names:
                    return place, layout
        level = [entry for place in level for entry in _folders(place)][:100]
    return folder, "domains" if find(folder)[0] else "classes"


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "__MACOSX")
    except OSError:
        return []


def _rows(root: Path, layout: str, split: str) -> tuple[list[Row], dict[str, str]]:
    """The pictures in `root` with class and domain as they are on disk, and what is left out."""
    if layout == "classes":
        files, left = find(root, 2)
        rows = [(file, file.parts[-2], UNNAMED) for file in files]
    elif layout == "vlcs" and any(
        (domain / "full").is_dir() or (domain / "test").is_dir() for domain in _folders(root)
    ):
        rows, left = [], {}
        for domain in _folders(root):
            whole = ["full"] if (domain / "full").is_dir() else ["train", "crossval", "test"]
            for part in whole if split == "all" else ["train", "crossval"] if split == "train" else ["test"]:
                files, reasons = find(domain / part, 2)
                left |= reasons
                names = [f.parts[-2] for f in files]
                names = [VLCS[int(name)] if name in ("0", "1", "2", "3", "4") else name for name in names]
                rows += [(file, name, domain.name) for file, name in zip(files, names, strict=True)]
    else:
        files, left = find(root)
        rows = [(file, file.parts[-2], file.parts[-3]) for file in files]
        if layout in DOMAINS:  # lists, sketches of the authors and the like are beside the domains
            known = {domain.replace("_", " ") for domain in DOMAINS[layout]}
            rows = [row for row in rows if row[2].lower().replace("_", " ") in known]
    return rows, {_below(file, root): reason for file, reason in left.items()}


def _listed(root: Path, domains: set[str], split: str) -> Iterator[str]:
    """The paths in DomainNet's own lists, lines of "clipart/cat/clipart_001_000001.jpg 0"."""
    for domain in sorted(domains):
        file = root / f"{domain}_{split}.txt"
        if not file.is_file():
            raise ValueError(f"split: {str(file)!r} is missing; expected DomainNet's own lists, or split='all'")
        for line in file.read_text(encoding="utf-8").splitlines():
            yield line.rpartition(" ")[0]


def _below(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


# --- tables


def _table(file: Path) -> tuple[list[Row], dict[str, str]]:
    """The rows of a table; paths are relative to its folder."""
    if file.suffix.lower() == ".parquet":
        read: Any = import_extra("pyarrow.parquet", "index").read_table(file)
        columns = {name: read.column(name).to_pylist() for name in read.column_names}
    elif file.suffix.lower() == ".csv":
        with open(file, encoding="utf-8-sig", newline="") as opened:
            lines = list(csv.DictReader(opened))
        columns = {name: [line[name] for line in lines] for name in lines[0] if name} if lines else {}
    else:
        raise ValueError(f"place: {str(file)!r} is no table; expected .csv or .parquet")
    known = {name.strip().lower(): name for name in columns}
    chosen = {what: next((known[n] for n in names if n in known), None) for what, names in COLUMNS.items()}
    if chosen["path"] is None or chosen["class"] is None:
        raise ValueError(f"place: {str(file)!r} has the columns {list(columns)}; expected path and class, and domain")
    rows, left = [], {}
    n = len(columns[chosen["path"]])
    told = {what: columns[name] if name else [UNNAMED] * n for what, name in chosen.items()}
    for i, (path, name, domain) in enumerate(zip(told["path"], told["class"], told["domain"], strict=True)):
        if not all(isinstance(value, str) and value.strip() for value in (path, name, domain)):
            left[f"row {i + 1}"] = "path, class or domain is empty or no text"
        else:
            rows.append((file.parent / path, name.strip(), domain.strip()))
    return rows, left
