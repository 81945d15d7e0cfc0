"""WebDataset archives: their pictures as a folder that `datasets.load_dataset` reads, and pictures as such archives.

CLIP_benchmark (https://github.com/LAION-AI/CLIP_benchmark) takes a folder `<split>/0.tar, 1.tar, ...` with
`<split>/nshards.txt`, `classnames.txt` and `zeroshot_classification_templates.txt`: `pack` writes it.
"""

import contextlib
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import tarfile
import uuid
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import one_line
from ..files import alone, cache_folder, read_lines, write_text
from ..images import SUFFIXES, Images
from ..vocabulary import TEMPLATES
from .layouts import FOLDERS_OF_SPLITS, SPLITS, UNNAMED, Dataset, load_dataset
from .tables import COLUMNS

LARGEST = 2**28
"""Bytes of a member: what is larger is no picture."""
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
VERSION = 1
"""Of what `unpacked` makes of archives."""
NAMES = "classnames.txt"
SHARD, SHARDS = 2**29, 4
"""Bytes of pictures in an archive, after which `pack` begins another; and of how many there are at least, as each of
CLIP_benchmark's processes, by default four, wants one of its own."""
KINDS = (".webp", ".png", ".jpg", ".jpeg")
"""What CLIP_benchmark reads; `pack` writes all others as PNG."""


def tars_in(place: Path, split: str = "all") -> list[Path]:
    """The archives that are meant by a file, or by a folder that holds them, itself or in folders of splits."""
    if not place.is_dir():
        return [place] if place.is_file() and place.name.lower().endswith(TARS) else []
    splits = [p for p in place.iterdir() if p.name in FOLDERS_OF_SPLITS and p.is_dir() and _tars(p)]
    chosen = [p for p in splits if split in ("all", p.name)] or splits
    return _tars(place) or [file for folder in sorted(chosen) for file in _tars(folder)]


def _tars(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.name.lower().endswith(TARS) and p.name[0] != "." and p.is_file()]
    return sorted(found, key=lambda p: (len(p.name), p.name))  # 2.tar before 10.tar


def _stems(archives: Sequence[Path]) -> list[str]:
    """What the names of their pictures begin with."""
    several = len({file.parent for file in archives}) > 1
    return [_file_name(f"{file.parent.name}-{file.stem}" if several else file.stem) for file in archives]


def unpacked(archives: Sequence[Path], place: Path, split: str = "all") -> Dataset:
    """The data set in archives, unpacked into the cache once: they are known again by their contents.

    place: the file or folder that they were found in. Numbers in place of classes are lines of `classnames.txt` in
    their folder or the one above. Raises OSError if the cache cannot take them; nothing is left there then.
    """
    homes = [archives[0].parent, archives[0].parent.parent]
    listed = next((home / NAMES for home in homes if (home / NAMES).is_file()), None)
    classes = [] if listed is None else read_lines("classes", listed)
    digest = hashlib.sha256(json.dumps([VERSION, classes, _stems(archives)]).encode())
    for file in archives:
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    folder = cache_folder() / "archives" / digest.hexdigest()[:16]
    folder.parent.mkdir(exist_ok=True)
    told = folder.with_suffix(".json")
    with alone(folder.parent):
        if not told.is_file() or not folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                write_text(told, json.dumps(unpack(archives, folder, classes), indent=1))
            except OSError as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise OSError(
                    f"folder: the archives of {str(place)!r} cannot be unpacked into {str(folder.parent)!r} "
                    f"({error.strerror or error}); expected room there, or the variable CLIPNULL_CACHE to name another "
                    "folder. Nothing was left there"
                ) from error
    left = json.loads(told.read_text(encoding="utf-8"))
    published = split != "all" and any(file.parent.name == split and file.parent != place for file in archives)
    found = load_dataset(folder, "domains", "all" if published else split)
    how = f"{split}, published" if published else found.split
    return replace(found, layout="webdataset", split=how, left=left | found.left)


def unpack(
    archives: Sequence[str | os.PathLike], folder: str | os.PathLike, classes: Sequence[str] = ()
) -> dict[str, str]:
    """Write the pictures of WebDataset archives (.tar) to a new `folder`, `<domain>/<class>/<archive>-<key>.<kind>`.

    A sample is all members with one key, the name up to its first dot: a picture, and its class in `.json` ("class" or
    "label", and "domain" if there is one), `.txt` or `.cls`. A whole number is a place in `classes`. The domain is
    UNNAMED where none is told. Nothing but pictures is written, under names without separators; what cannot be used,
    also the rest of a damaged archive, is left out and comes back with the reason. The folder appears whole or not.
    """
    folder, files = Path(folder), [Path(archive) for archive in archives]
    for file in files:
        if not file.is_file():
            raise ValueError(f"archives: {str(file)!r} is no file; expected WebDataset archives, .tar")
    if os.path.lexists(folder):
        raise ValueError(f"folder: {str(folder)!r} is there; expected a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, left, written = folder.with_name(f".{uuid.uuid4().hex}.partial"), {}, 0
    try:
        for archive, stem in zip(files, _stems(files), strict=True):
            try:
                for key, sample in _samples(archive):
                    try:
                        kind, content, name, domain = _sample(sample, classes)
                    except ValueError as error:
                        left[f"{archive.name}/{key}"] = one_line(error)
                        continue
                    target = temporary / _file_name(domain) / _file_name(name) / f"{stem}-{_file_name(key)}{kind}"
                    if target.exists():
                        left[f"{archive.name}/{key}"] = "a sample of this name was there before"
                        continue
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
                    written += 1
            except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
                left[archive.name] = f"{type(error).__name__}: {one_line(error)}"
            except OSError as error:
                if error.errno is not None:
                    raise
                left[archive.name] = one_line(error)  # damaged, as gzip and bz2 tell it
        if not written:
            raise ValueError(
                f"archives: no sample of a picture with its class; left out: {dict(list(left.items())[:5])}"
            )
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return left


def _samples(archive: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The key of each sample, whose members stand together, with their contents by the rest of their names."""
    with tarfile.open(archive, "r|*") as opened:
        last, sample = "", {}
        for member in opened:
            path = PurePosixPath(member.name)
            stem, _, kind = path.name.partition(".")
            if not member.isreg() or not kind or not stem:
                continue
            key = str(path.parent / stem)
            if key != last and sample:
                yield last, sample
                sample = {}
            content = opened.extractfile(member) if member.size <= LARGEST else None
            last, sample[kind.lower()] = key, content.read() if content else b""
        if sample:
            yield last, sample


def _sample(sample: dict[str, bytes], classes: Sequence[str]) -> tuple[str, bytes, str, str]:
    """Ending, content, class and domain of a sample; ValueError for one that lacks something."""
    kind = next((f".{k}" for k in sample if f".{k}" in SUFFIXES), None)
    if kind is None:
        raise ValueError(f"no picture among {sorted(sample)}")
    said: Any = json.load(io.BytesIO(sample["json"])) if "json" in sample else {}
    said = said if isinstance(said, dict) else {}
    name = next((said[k] for k in COLUMNS["class"] if k in said), None)
    for other in ("cls", "txt"):
        name = sample[other].decode().strip() if name is None and other in sample else name
    if str(name).isdecimal():
        if int(str(name)) >= len(classes):
            raise ValueError(f"its class is {name}, and {len(classes)} names of classes are given, as in {NAMES}")
        name = classes[int(str(name))]
    if not isinstance(name, str) or not name:
        raise ValueError("no class in .json, .cls or .txt")
    return kind, sample[kind[1:]], name, str(said.get("domain") or UNNAMED)


def _file_name(name: str) -> str:
    """`name` as one part of a path: no separators, not hidden, not too long."""
    return re.sub(r"[^\w .+()-]", "_", name).strip(". ")[:100] or "_"


# --- the other way


def pack(images: Images, folder: str | os.PathLike, split: str = "test") -> Path:
    """Write pictures to a new `folder` of WebDataset archives as CLIP_benchmark takes them; returns it.

    Files that it reads are copied as they are, others become PNG; broken ones are left out with a warning. The prompts
    are those that `zero_shot` asks with, "free", but that "an" is "a"; each sample tells its domain, too, for
    `load_images`, which reads such a folder. It appears whole or not at all.
    """
    images.validate_pixels()
    folder = Path(folder)
    if split not in SPLITS[1:]:
        raise ValueError(f"split: {split!r} is not known; expected 'train' or 'test'")
    if os.path.lexists(folder) or not folder.parent.is_dir():
        raise ValueError(f"folder: {str(folder)!r} is there, or has no place; expected a new one in a folder that is")
    temporary = folder.with_name(f".{uuid.uuid4().hex}.partial")
    vocabulary, shards, size, written, broken, out = images.vocabulary, 0, 0, 0, [], None
    (temporary / split).mkdir(parents=True)
    try:
        with contextlib.ExitStack() as stack:
            for i, file in enumerate(images.files):
                try:
                    picture = images.image(i)
                except ValueError as error:
                    broken.append(str(error))
                    continue
                kind, content = file.suffix.lower(), file.read_bytes()
                if kind not in KINDS:
                    stream, kind = io.BytesIO(), ".png"
                    picture.save(stream, "PNG")
                    content = stream.getvalue()
                if out is None or size >= SHARD or written * SHARDS >= shards * len(images):
                    stack.close()
                    out = stack.enter_context(tarfile.open(temporary / split / f"{shards}.tar", "w"))
                    shards, size = shards + 1, 0
                c, k = int(images.classes[i]), int(images.domains[i])
                said = json.dumps({"class": vocabulary.classes[c], "domain": vocabulary.domains[k]}).encode()
                for ending, part in ((kind, content), (".cls", str(c).encode()), (".json", said)):
                    info = tarfile.TarInfo(f"{i:09}{ending}")
                    info.size = len(part)
                    out.addfile(info, io.BytesIO(part))
                size, written = size + len(content), written + 1
        write_text(temporary / split / "nshards.txt", f"{shards}\n")
        write_text(temporary / NAMES, "\n".join(" ".join(c.split()) for c in vocabulary.classes) + "\n")
        asked = [template.format(a="a {c}") for template in TEMPLATES["free"]]
        write_text(temporary / "zeroshot_classification_templates.txt", "\n".join(asked) + "\n")
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if broken:
        warnings.warn(f"{len(broken)} of {len(images)} pictures are broken, left out: {broken[0]}", stacklevel=2)
    return folder
