"""Read labelled pictures from WebDataset archives, unpacked once into the cache, and write such archives.

`pack` writes the layout of CLIP_benchmark (https://github.com/LAION-AI/CLIP_benchmark): `<split>/0.tar, 1.tar, ...`
with `<split>/nshards.txt`, `classnames.txt` and `zeroshot_classification_templates.txt`. Packed pictures come back with
the same pixels and labels.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import tarfile
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ..errors import brief, distinct, one_line, one_of, printable
from ..files import alone, cache_folder, write_text
from ..images import FORMATS, SUFFIXES, Images
from ..vocabulary import TEMPLATES, words
from .layouts import FOLDERS_OF_SPLITS, SPLITS, UNNAMED, Dataset, dataset_of, summarize

MAX_PICTURE, MAX_LABEL = 2**28, 2**20  # bytes; larger members are not read
VERSION = 3  # of the output of `unpack`; a new one unpacks cached archives again
NAMES, TABLE = "classnames.txt", "pictures.json"
TAR_SIZE, MIN_TARS = 1000, 4
"""The most pictures in an archive of `pack`; the fewest archives, one for each process that CLIP_benchmark starts."""
KINDS = (".webp", ".png", ".jpg", ".jpeg")  # endings that CLIP_benchmark reads; `pack` writes all others as PNG


def tars_in(place: Path, split: str) -> list[Path]:
    """Return the archives in a folder or in its split folders, or `place` itself if it is an archive."""
    if not place.is_dir():
        return [place] if place.is_file() and place.suffix.lower() == ".tar" else []
    tars = [file for file in sorted(place.glob("[!.]*")) if file.is_file() and tars_in(file, split)]
    folders = [f for f in sorted(place.iterdir()) if f.is_dir() and _split_of(f) and split in ("all", _split_of(f))]
    return tars or [file for folder in folders for file in tars_in(folder, split)]


def _split_of(folder: Path) -> str | None:
    return FOLDERS_OF_SPLITS.get(folder.name.lower())


def open_archives(archives: Sequence[Path], place: Path, split: str) -> Dataset:
    """Return the data set in archives. It is unpacked once, into a cache folder named after the archives' content.

    place: the file or folder that holds the archives. Numeric classes are line numbers, from 0, in a `classnames.txt`
    beside the archives or one folder up. Raise OSError, and leave nothing behind, if the cache cannot be written.
    """
    lists = [home / NAMES for home in (archives[0].parent, archives[0].parent.parent)]
    classes = next((_class_list(file) for file in lists if file.is_file()), [])
    digest = hashlib.sha256(json.dumps([VERSION, classes]).encode())
    for file in archives:
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    folder = cache_folder() / "archives" / digest.hexdigest()[:16]
    with alone(folder.parent):
        if not folder.exists():
            try:
                unpack(archives, folder, classes)
            except OSError as error:
                raise OSError(
                    f"folder: the archives of {str(place)!r} cannot be unpacked into {str(folder.parent)!r} "
                    f"({error.strerror or error}); expected free space there, or another folder in CLIPNULL_CACHE"
                ) from error
    table = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    rows = [(folder / path, name, domain) for path, name, domain in table["rows"]]
    published = any(_split_of(file.parent) == split and file.parent != place for file in archives)
    return dataset_of(rows, folder, "webdataset", split, published, table["left_out"], raw=True)


def _class_list(file: Path) -> list[str]:
    """Read the names in a `classnames.txt`; blank lines stay, so that line numbers hold."""
    classes = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    distinct(f"classes: {str(file)!r}", [words(name) for name in classes if name])
    return classes


def unpack(archives: Sequence[Path], folder: Path, classes: Sequence[str] = ()) -> None:
    """Unpack archives into a new `folder`: pictures `<archive>/<number>.<kind>` and the table `pictures.json`.

    The members of a sample share a key, their name up to its first dot: a picture and its class, in `.json` ("class" or
    "label", with an optional "domain"), `.cls` or `.txt`. A number is a position in `classes`, unless it is itself a
    class name; in `.cls` it always is a position. The default domain is UNNAMED. The table lists path, class and domain
    of each picture, and the reason for each sample or rest of a damaged archive that is left out. Names in an archive
    are never used as paths. The folder appears whole or not at all.
    """
    rows, left_out = [], {}
    with _new_folder(folder) as temporary:
        for number, archive in enumerate(archives):
            (temporary / str(number)).mkdir()
            try:
                for i, (key, sample) in enumerate(_samples(archive)):
                    try:
                        kind, content, name, domain = _parse(sample, classes)
                    except ValueError as error:
                        left_out[f"{archive.name}/{key}"] = one_line(error)
                        continue
                    path = f"{number}/{i:09}{kind}"
                    (temporary / path).write_bytes(content)
                    rows.append([path, name, domain])
            except tarfile.TarError as error:
                left_out[archive.name] = f"{type(error).__name__}: {one_line(error)}"
        if not rows:
            raise ValueError(f"folder: the archives hold no picture with a class; left out: {summarize(left_out)}")
        write_text(temporary / TABLE, json.dumps({"rows": rows, "left_out": left_out}))


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes the new `folder` on success and is deleted on failure."""
    if os.path.lexists(folder):
        raise ValueError(f"folder: {str(folder)!r} exists; expected a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        yield new
        os.replace(new, folder)


def _samples(archive: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield each sample as its key and {ending: bytes}; only pictures and labels of allowed size are read."""
    with tarfile.open(archive, "r:") as opened:
        members = (member for member in opened if member.isreg() and not member.issparse() and all(_name(member)))
        for key, group in itertools.groupby(members, lambda member: _name(member)[0]):
            sample = {}
            for member in group:
                kind = _name(member)[1]
                limit = MAX_LABEL if kind in ("json", "cls", "txt") else MAX_PICTURE if f".{kind}" in SUFFIXES else -1
                content = opened.extractfile(member) if member.size <= limit else None
                sample[kind] = content.read() if content else b""
            yield key, sample


def _name(member: tarfile.TarInfo) -> tuple[str, str]:
    """Split the path of a member at the first dot of its file name into key and ending; either may be ""."""
    path = PurePosixPath(member.name)
    stem, _, kind = path.name.partition(".")
    return stem and str(path.parent / stem), kind.lower()


def _parse(sample: dict[str, bytes], classes: Sequence[str]) -> tuple[str, bytes, str, str]:
    """Return the ending, content, class and domain of a sample. Raise ValueError if it is incomplete."""
    kind = next((kind for kind in sample if f".{kind}" in SUFFIXES), None)
    if kind is None:
        raise ValueError(f"no picture among {sorted(sample)}")
    try:
        labels: Any = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its .json cannot be read ({type(error).__name__})") from error
    labels = labels if isinstance(labels, dict) else {}
    place, text = (sample.get(ending, b"").decode().strip() for ending in ("cls", "txt"))
    name: Any = labels.get("class", labels.get("label", int(place) if place.isdecimal() else place or text))
    domain: Any = labels.get("domain") or UNNAMED
    if isinstance(name, str) and name.isdecimal() and name not in classes:
        name = int(name)
    if type(name) is int:
        if not 0 <= name < len(classes):
            raise ValueError(f"its class is {name}; expected a number below {len(classes)}, the names in {NAMES}")
        name = classes[name]
    for value in (name, domain):
        if not isinstance(value, str) or not words(value) or not printable(value):
            raise ValueError(f"class or domain is {brief(value)}; expected a name in .json, .cls or .txt")
    return f".{kind}", sample[kind], name, domain


def pack(images: Images, folder: str | os.PathLike, split: str = "test") -> Path:
    """Write pictures to a new `folder` of WebDataset archives in CLIP_benchmark's layout; return the folder.

    Pictures are stored as `embed` sees them: a file is copied if every reader decodes it alike, and otherwise (such as
    with transparency or rotation) written as PNG. Broken pictures are left out with a warning. The prompts are the
    "free" ones of `zero_shot`, with "a" in place of "an". Each sample also holds its domain, which `load_images` reads.
    The folder appears whole or not at all.
    """
    images.validate_pixels()
    one_of("split", split, SPLITS[1:])
    folder, vocabulary, broken = Path(folder), images.vocabulary, []
    step = max(1, min(TAR_SIZE, len(images) // MIN_TARS))
    starts = range(0, len(images), step)
    with _new_folder(folder) as temporary:
        (temporary / split).mkdir()
        for number, start in enumerate(starts):
            with tarfile.open(temporary / split / f"{number}.tar", "w") as archive:
                for i in range(start, min(start + step, len(images))):
                    try:
                        kind, content = _content(images, i)
                    except ValueError as error:
                        broken.append(str(error))
                        continue
                    c, domain = int(images.classes[i]), vocabulary.domains[int(images.domains[i])]
                    labels = json.dumps({"class": vocabulary.classes[c], "domain": domain})
                    for ending, part in ((kind, content), (".cls", str(c).encode()), (".json", labels.encode())):
                        info = tarfile.TarInfo(f"{i:09}{ending}")
                        info.size = len(part)
                        archive.addfile(info, io.BytesIO(part))
        write_text(temporary / split / "nshards.txt", f"{len(starts)}\n")
        write_text(temporary / NAMES, "\n".join(" ".join(c.split()) for c in vocabulary.classes) + "\n")
        prompts = [template.format(a="a {c}") for template in TEMPLATES["free"]]
        write_text(temporary / "zeroshot_classification_templates.txt", "\n".join(prompts) + "\n")
    if broken:
        warnings.warn(f"{len(broken)} of {len(images)} pictures are broken and left out: {broken[0]}", stacklevel=2)
    return folder


def _content(images: Images, i: int) -> tuple[str, bytes]:
    """Return the ending and bytes with which picture `i` is stored. Raise ValueError if it is broken."""
    picture, kind = images.image(i), images.files[i].suffix.lower()
    if kind in KINDS:
        with Image.open(images.files[i], formats=FORMATS) as raw:
            if raw.size == picture.size and raw.convert("RGB").tobytes() == picture.tobytes():
                return kind, images.files[i].read_bytes()
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return ".png", stream.getvalue()
