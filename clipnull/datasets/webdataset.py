"""WebDataset archives: their pictures as a folder that `layouts.load_dataset` reads, and pictures as such archives.

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

from ..errors import one_line, one_of
from ..files import alone, cache_folder, read_lines, write_text
from ..images import SUFFIXES, Images
from ..vocabulary import TEMPLATES
from .layouts import FOLDERS_OF_SPLITS, SPLITS, UNNAMED, Dataset, load_dataset
from .tables import COLUMNS

LARGEST = 2**28
"""Bytes of a member; a larger one is no picture."""
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
VERSION = 1
"""Of what `unpacked` makes of archives."""
NAMES = "classnames.txt"
SHARD, SHARDS = 2**29, 4
"""Bytes of pictures after which `pack` begins another archive, and the least number of archives: CLIP_benchmark reads
with four processes, each of which wants one of its own."""
KINDS = (".webp", ".png", ".jpg", ".jpeg")
"""What CLIP_benchmark reads; `pack` writes all others as PNG."""


def tars_in(place: Path, split: str = "all") -> list[Path]:
    """The archives in a folder, or in its folders of splits; or the archive `place` itself."""
    if not place.is_dir():
        return [place] if place.is_file() and place.name.lower().endswith(TARS) else []
    splits = sorted(folder for folder in place.iterdir() if folder.name in FOLDERS_OF_SPLITS and _tars(folder))
    chosen = [folder for folder in splits if split in ("all", folder.name)] or splits
    return _tars(place) or [file for folder in chosen for file in _tars(folder)]


def _tars(folder: Path) -> list[Path]:
    tars = [file for file in folder.glob("[!.]*") if file.name.lower().endswith(TARS) and file.is_file()]
    return sorted(tars, key=lambda file: (len(file.name), file.name))  # 2.tar before 10.tar


def _stems(archives: Sequence[Path]) -> list[str]:
    """What the file names of their pictures begin with."""
    several = len({file.parent for file in archives}) > 1
    return [_file_name(f"{file.parent.name}-{file.stem}" if several else file.stem) for file in archives]


def unpacked(archives: Sequence[Path], place: Path, split: str = "all") -> Dataset:
    """The data set in archives, unpacked into the cache once: they are recognised by their contents.

    place: the file or folder that holds them. Numbers in place of classes are lines of `classnames.txt` in their folder
    or the one above. Raises OSError if the cache cannot take them; nothing is left there then.
    """
    homes = [archives[0].parent, archives[0].parent.parent]
    names = next((home / NAMES for home in homes if (home / NAMES).is_file()), None)
    classes = read_lines("classes", names) if names else []
    digest = hashlib.sha256(json.dumps([VERSION, classes, _stems(archives)]).encode())
    for file in archives:
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    folder = cache_folder() / "archives" / digest.hexdigest()[:16]
    folder.parent.mkdir(exist_ok=True)
    reasons = folder.with_suffix(".json")
    with alone(folder.parent):
        if not reasons.is_file() or not folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                write_text(reasons, json.dumps(unpack(archives, folder, classes), indent=1))
            except OSError as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise OSError(
                    f"folder: the archives of {str(place)!r} cannot be unpacked into {str(folder.parent)!r} "
                    f"({error.strerror or error}); expected room there, or another folder in CLIPNULL_CACHE"
                ) from error
    left_out = json.loads(reasons.read_text(encoding="utf-8"))
    published = split != "all" and any(file.parent.name == split and file.parent != place for file in archives)
    dataset = load_dataset(folder, "domains", "all" if published else split)
    how = f"{split}, published" if published else dataset.split
    return replace(dataset, layout="webdataset", split=how, left_out=left_out | dataset.left_out)


def unpack(
    archives: Sequence[str | os.PathLike], folder: str | os.PathLike, classes: Sequence[str] = ()
) -> dict[str, str]:
    """Write the pictures of WebDataset archives (.tar) to a new `folder`, `<domain>/<class>/<archive>-<key>.<kind>`.

    A sample is all members with one key, the name up to its first dot: a picture, and its class in `.json` ("class" or
    "label", and "domain" if there is one), `.txt` or `.cls`. A whole number is a place in `classes`. Without a domain
    it is UNNAMED. Only pictures are written, under names without separators. Returns the reasons of what is left out,
    such as the rest of a damaged archive. The folder appears whole or not at all.
    """
    files, left_out = [Path(archive) for archive in archives], {}
    with _new_folder(Path(folder)) as temporary:
        for archive, stem in zip(files, _stems(files), strict=True):
            try:
                for key, sample in _samples(archive):
                    try:
                        _write(temporary, f"{stem}-{_file_name(key)}", *_parse(sample, classes))
                    except ValueError as error:
                        left_out[f"{archive.name}/{key}"] = one_line(error)
            except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # gzip and bz2 give none for damage
                    raise
                left_out[archive.name] = f"{type(error).__name__}: {one_line(error)}"
        if not any(temporary.iterdir()):
            raise ValueError(
                f"archives: no sample of a picture with its class; left out: {dict(list(left_out.items())[:5])}"
            )
    return left_out


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside a new one, renamed to it if all goes well, else deleted."""
    if os.path.lexists(folder):
        raise ValueError(f"folder: {str(folder)!r} exists; expected a new one")
    temporary = folder.with_name(f".{uuid.uuid4().hex}.partial")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def _parse(sample: dict[str, bytes], classes: Sequence[str]) -> tuple[str, bytes, str, str]:
    """Ending, content, class and domain of a sample; ValueError for one that lacks something."""
    kind = next((kind for kind in sample if f".{kind}" in SUFFIXES), None)
    if kind is None:
        raise ValueError(f"no picture among {sorted(sample)}")
    labels: Any = json.load(io.BytesIO(sample["json"])) if "json" in sample else {}
    labels = labels if isinstance(labels, dict) else {}
    names = [labels[key] for key in COLUMNS["class"] if key in labels]
    names += [sample[other].decode().strip() for other in ("cls", "txt") if other in sample]
    name = names[0] if names else None
    if str(name).isdecimal():
        if int(str(name)) >= len(classes):
            raise ValueError(f"its class is {name}; expected less than {len(classes)}, the number of names in {NAMES}")
        name = classes[int(str(name))]
    if not isinstance(name, str) or not name:
        raise ValueError("no class in .json, .cls or .txt")
    return f".{kind}", sample[kind], name, str(labels.get("domain") or UNNAMED)


def _write(root: Path, stem: str, kind: str, content: bytes, name: str, domain: str) -> None:
    target = root / _file_name(domain) / _file_name(name) / f"{stem}{kind}"
    if target.exists():
        raise ValueError("another sample has this name")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _file_name(name: str) -> str:
    """`name` as one part of a path: no separators, not hidden, not too long."""
    return re.sub(r"[^\w .+()-]", "_", name).strip(". ")[:100] or "_"


def pack(images: Images, folder: str | os.PathLike, split: str = "test") -> Path:
    """Write pictures to a new `folder` of WebDataset archives as CLIP_benchmark takes them; returns it.

    Files of a kind that it reads are copied, others become PNG; broken ones are left out with a warning. The prompts
    are those of `zero_shot`, "free", with "a" for "an". Each sample says its domain, too, which `load_images` reads.
    The folder appears whole or not at all.
    """
    images.validate_pixels()
    one_of("split", split, SPLITS[1:])
    folder, vocabulary, broken = Path(folder), images.vocabulary, []
    with _new_folder(folder) as temporary, contextlib.ExitStack() as stack:
        (temporary / split).mkdir()
        archive, shards, size, packed = None, 0, 0, 0
        for i, (c, k) in enumerate(zip(images.classes.tolist(), images.domains.tolist(), strict=True)):
            try:
                kind, content = _copied(images, i)
            except ValueError as error:
                broken.append(str(error))
                continue
            if archive is None or size >= SHARD or packed * SHARDS >= shards * len(images):
                stack.close()
                archive = stack.enter_context(tarfile.open(temporary / split / f"{shards}.tar", "w"))
                shards, size = shards + 1, 0
            labels = {"class": vocabulary.classes[c], "domain": vocabulary.domains[k]}
            for ending, part in ((kind, content), (".cls", str(c).encode()), (".json", json.dumps(labels).encode())):
                info = tarfile.TarInfo(f"{i:09}{ending}")
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))
            size, packed = size + len(content), packed + 1
        stack.close()
        write_text(temporary / split / "nshards.txt", f"{shards}\n")
        write_text(temporary / NAMES, "\n".join(" ".join(c.split()) for c in vocabulary.classes) + "\n")
        prompts = [template.format(a="a {c}") for template in TEMPLATES["free"]]
        write_text(temporary / "zeroshot_classification_templates.txt", "\n".join(prompts) + "\n")
    if broken:
        warnings.warn(f"{len(broken)} of {len(images)} pictures are broken, left out: {broken[0]}", stacklevel=2)
    return folder


def _copied(images: Images, i: int) -> tuple[str, bytes]:
    """Ending and bytes of picture `i` in an archive. Raises ValueError if it is broken."""
    picture, kind = images.image(i), images.files[i].suffix.lower()
    if kind in KINDS:
        return kind, images.files[i].read_bytes()
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return ".png", stream.getvalue()
