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
read in two ways, the error says which `layout` or `split` decides.
"""

import contextlib
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
from ..images import SUFFIXES, Images, why_unreadable
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
TEST_SHARE, NAMED = 0.2, 5
"""The test share of pictures without a published split; how many of the files left out a warning names."""


@dataclass(frozen=True)
class Dataset:
    """Pictures, and where they come from.

    images: with class names as words. layout, split: one of LAYOUTS; the split, and whether it is "published" or made
    "by hash". left_out: the reason of each file or folder that is not used. folders: class names as they are on disk.
    """

    images: Images
    root: Path
    layout: str
    split: str
    left_out: dict[str, str] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)

    def format_left_out(self) -> str:
        """What is left out, with the reasons of the first few, in one line; "" if nothing is."""
        if not self.left_out:
            return ""
        some = "; ".join(f"{name!r} ({reason})" for name, reason in list(self.left_out.items())[:NAMED])
        more = f"; and {len(self.left_out) - NAMED} more" if len(self.left_out) > NAMED else ""
        n = len(self.left_out)
        return f"{n} files or folders are left out, beside {len(self.images)} pictures: {some}{more}"

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


def load_dataset(place: str | os.PathLike, layout: str | None = None, split: str = "all") -> Dataset:
    """The pictures of a data set, in the layout it is published in, for `embed` and all that takes Images.

    place: a folder, or a table. layout: one of LAYOUTS but `webdataset`; recognised if not given. split: "all", "train"
    or "test". Folders train and test, DomainNet and VLCS bring their own; other pictures are in "test" by a hash of
    their paths in the data set, about TEST_SHARE of them: the same on every machine, whatever else is there. (PACS' own
    "test" lists hold its training pictures, too: they are for another domain than one trained on.)

    Class names become words, see `clean_name`; folders that become the same words are one class. Files that cannot be
    pictures are left out. Raises ValueError where nothing can be read, for fewer than two classes, and where a folder
    can be read in two ways.
    """
    place = Path(place)
    one_of("split", split, SPLITS)
    if layout is not None:
        one_of("layout", layout, LAYOUTS[:-1])
    if place.is_file() and layout in (None, "table"):
        root, layout, published = place.parent, "table", False
        rows, left_out = read_table(place, UNNAMED)
    elif place.is_dir() and layout != "table":
        root, layout, published = recognise(place, layout, split)
        rows, left_out, published = _pictures(root, layout, split, published)
    else:
        raise ValueError(
            f"folder: {str(place)!r} is not a {'table' if layout == 'table' else 'folder'}; expected a folder of "
            "pictures, such as <domain>/<class>/<picture>, or a .csv or .parquet file with their paths"
        )
    if split != "all" and not published:
        rows = [row for row in rows if in_test(below(row[0], root)) == (split == "test")]
    left_out |= {below(file, root): reason for file, _, _ in rows if (reason := why_unreadable(file))}
    rows = [row for row in rows if below(row[0], root) not in left_out]
    folders = defaultdict(set)
    for _, name, _ in rows:
        folders[clean_name(name)].add(name)
    classes, domains = sorted(folders), sorted({domain for _, _, domain in rows})
    if len(classes) < 2:
        some = f"{len(classes)} {'class' if classes else 'classes'}"
        reasons = shorten(f"{name} ({reason})" for name, reason in left_out.items())
        raise ValueError(
            f"folder: {str(place)!r}, read as {layout!r}, holds {some} with readable pictures "
            f"({', '.join(classes) or 'none'}); expected at least two; left out: {reasons or 'nothing'}"
        )
    images = Images(
        tuple(file for file, _, _ in rows),
        torch.tensor([classes.index(clean_name(name)) for _, name, _ in rows]),
        torch.tensor([domains.index(domain) for _, _, domain in rows]),
        Vocabulary(classes, domains),
    )
    how = split if split == "all" else f"{split}, {'published' if published else 'by hash'}"
    return Dataset(images, root, layout, how, left_out, {name: sorted(folders[name]) for name in classes})


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


def below(file: Path, root: Path) -> str:
    """The path of a file in a data set; of one outside, which a table may name, as it is."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


# --- which layout a folder has


def recognise(folder: Path, layout: str | None = None, split: str = "all") -> tuple[Path, str, bool]:
    """Where the data set in `folder` begins, its layout, and whether that is a folder of the split alone."""
    level = [folder]
    for _ in range(3):
        matches = [(place, known) for place in level for known in _published(place) if layout in (None, known)]
        of_split = [place for place in matches if place[0].name.lower() == split and place[0] != folder]
        if len(matches) == 1 or len(of_split) == 1:
            return *(of_split or matches)[0], bool(of_split)
        if matches:
            some = shorten(f"{place.name} ({known})" for place, known in matches)
            raise ValueError(
                f"folder: {str(folder)!r} holds several data sets, {some}; expected the folder of one, or one of its "
                "splits: 'train:...' or 'test:...'"
            )
        level = [inner for place in level for inner in _folders(place) if not inner.is_symlink()]
    if layout in DOMAINS:
        some = " or ".join(", ".join(names) for names in DOMAINS[layout])
        raise ValueError(f"folder: {str(folder)!r} does not hold the domains of {layout!r}; expected folders {some}")
    return _unpublished(folder, layout, split)


def _unpublished(folder: Path, layout: str | None, split: str) -> tuple[Path, str, bool]:
    """`recognise` for folders of domains or classes that are no known data set."""
    place, inside, of_split = folder, _folders(folder), False
    while len(inside) == 1 and not any(_depths(place)) and not inside[0].is_symlink():
        place, inside = inside[0], _folders(inside[0])
    if len(inside) > 1 and layout != "domains" and {entry.name.lower() for entry in inside} <= FOLDERS_OF_SPLITS:
        place, of_split = place / split, True
        if place not in inside:
            raise ValueError(
                f"folder: {str(folder)!r} holds the splits {', '.join(entry.name for entry in inside)}; expected one "
                f"of these folders, 'train:{folder}' or 'test:{folder}', or 'domains:{folder}' if they are domains"
            )
    of_classes, of_domains = _depths(place)
    if not (of_classes or of_domains):
        raise ValueError(
            f"folder: {str(folder)!r} holds no pictures; expected <domain>/<class>/<picture> or <class>/<picture> with "
            f"one of {', '.join(sorted(SUFFIXES))}, or the name of a table (.csv, .parquet)"
        )
    if layout is None and of_domains and (of_classes or len(inside) == 1):
        raise ValueError(
            f"folder: {str(folder)!r} may hold domains or classes; expected one of 'domains:{place}', "
            f"<domain>/<class>/<picture>, and 'classes:{place if of_classes else inside[0]}', <class>/<picture>"
        )
    return place, layout or ("domains" if of_domains else "classes"), of_split


def _published(folder: Path) -> list[str]:
    """The data sets whose domains a folder holds, all of them."""
    present = {_plain(entry.name) for entry in _folders(folder)}
    return [known for known, sets in DOMAINS.items() if any({*map(_plain, names)} <= present for names in sets)]


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones; none where it may not be listed, which `find_pictures` reports."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name))
    except OSError:
        return []


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _depths(folder: Path) -> tuple[bool, bool]:
    """Whether pictures lie in the folders of `folder`, and in the folders of these."""

    def holds(inner: Path) -> bool:
        with contextlib.suppress(OSError), os.scandir(inner) as entries:
            return any(_is_picture(entry.name) and entry.is_file() for entry in entries)
        return False

    inside = _folders(folder)
    return any(map(holds, inside)), any(holds(inner) for entry in inside for inner in _folders(entry))


# --- the pictures of a folder


def _pictures(root: Path, layout: str, split: str, published: bool) -> tuple[list[Row], dict[str, str], bool]:
    """The pictures in `root` with class and domain as on disk, what is left out, and whether the split is published."""
    present = {_plain(entry.name) for entry in _folders(root)}
    sets = ({_plain(name): name for name in names} for names in DOMAINS.get(layout, []))
    canonical = next((names for names in sets if names.keys() <= present), {})
    if layout == "classes":
        files, left_out = find_pictures(root, 2)
        rows = [(file, file.parts[-2], UNNAMED) for file in files]
    elif layout == "vlcs" and any((domain / part).is_dir() for domain in _folders(root) for part in ("full", "test")):
        rows, left_out, published = *_vlcs(root, split, canonical), True
    else:
        files, left_out = find_pictures(root)
        rows = [(file, file.parts[-2], file.parts[-3]) for file in files]
        if canonical:  # lists, sketches of the authors and the like are beside the domains
            beside = Counter(domain for _, _, domain in rows if _plain(domain) not in canonical)
            left_out |= {root / name: f"no domain of {layout}, with {n} pictures" for name, n in sorted(beside.items())}
            rows = [(file, name, canonical[_plain(k)]) for file, name, k in rows if k not in beside]
        if layout == "domainnet" and split != "all" and not published:
            listed, published = {*_listed(root, {domain for _, _, domain in rows}, split)}, True
            rows = [row for row in rows if below(row[0], root) in listed]
    return rows, {below(file, root): reason for file, reason in left_out.items()}, published


def _vlcs(root: Path, split: str, canonical: dict[str, str]) -> tuple[list[Row], dict[Path, str]]:
    """VLCS in folders of splits, whose classes have numbers. `full` holds all pictures."""
    rows, left_out, numbered = [], {}, {str(i): name for i, name in enumerate(VLCS)}
    for domain in (entry for entry in _folders(root) if _plain(entry.name) in canonical):
        parts = {"train": ["train", "crossval"], "test": ["test"], "all": ["train", "crossval", "test"]}[split]
        if split == "all" and (domain / "full").is_dir():
            parts = ["full"]
        for part in parts:
            files, reasons = find_pictures(domain / part, 2) if (domain / part).is_dir() else ([], {})
            left_out |= reasons
            for file in files:
                name = file.parts[-2]
                rows.append((file, numbered.get(name, name), canonical[_plain(domain.name)]))
    return rows, left_out


def _listed(root: Path, domains: set[str], split: str) -> Iterator[str]:
    """The paths in DomainNet's own lists, lines of "clipart/cat/clipart_001_000001.jpg 0"."""
    for domain in sorted(domains):
        file = root / f"{domain}_{split}.txt"
        if not file.is_file():
            raise ValueError(f"split: {str(file)!r} is missing; expected DomainNet's own lists, or split='all'")
        for line in file.read_text(encoding="utf-8").splitlines():
            yield line.rpartition(" ")[0]


def find_pictures(folder: Path, levels: int = 3) -> tuple[list[Path], dict[Path, str]]:
    """The files `<domain>/<class>/<picture>` of a folder by their names, sorted; and the reasons of what is left out.

    levels: 3 for these; 2 for `<class>/<picture>`. Left out are links that lead out of the folder, folders that may not
    be listed, and pictures and folders at another depth. Hidden files are passed over. Nothing is opened.
    """
    root, files, left_out = os.path.realpath(folder), [], {}

    def unlisted(error: OSError) -> None:
        left_out[Path(error.filename)] = error.strerror or str(error)

    def stays_inside(path: Path) -> bool:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            left_out[path] = "a link that leads out of the folder"
        return path not in left_out

    for parent, folders, names in os.walk(folder, onerror=unlisted, followlinks=True):
        here = Path(parent)
        deepest = len(here.relative_to(folder).parts) == levels - 1
        inner = [here / name for name in folders if not _is_hidden(name)]
        pictures = [here / name for name in names if _is_picture(name) and not _is_hidden(name)]
        if deepest:
            left_out |= dict.fromkeys(inner, "a folder where pictures are")
            files += filter(stays_inside, pictures)
        else:
            left_out |= dict.fromkeys(pictures, "a picture where folders are")
        folders[:] = [] if deepest else [path.name for path in inner if stays_inside(path)]
    return sorted(files), left_out
