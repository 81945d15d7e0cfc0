"""WebDataset archives: their pictures as a folder that `datasets.load_dataset` reads."""

import io
import json
import lzma
import os
import re
import shutil
import tarfile
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from .datasets import COLUMNS, UNNAMED
from .errors import one_line
from .pictures import SUFFIXES

LARGEST = 2**28
"""Bytes of a member: what is larger is no picture."""


def unpack(
    archives: Sequence[str | os.PathLike], folder: str | os.PathLike, classes: Sequence[str] = ()
) -> dict[str, str]:
    """Write the pictures of WebDataset archives (.tar) to a new `folder`, `<domain>/<class>/<archive>-<key>.<kind>`.

    A sample is all members with one key, the name up to its first dot: a picture, and its class in `.json` ("class" or
    "label", and "domain" if there is one), `.txt` or `.cls`. A whole number is a place in `classes`. The domain is
    "picture" where none is told. Nothing but pictures is written, under names without separators; what cannot be used,
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
        for archive in files:
            try:
                for key, sample in _samples(archive):
                    try:
                        kind, content, name, domain = _sample(sample, classes)
                    except ValueError as error:
                        left[f"{archive.name}/{key}"] = one_line(error)
                        continue
                    target = temporary / _file_name(domain) / _file_name(name)
                    target.mkdir(parents=True, exist_ok=True)
                    (target / f"{_file_name(archive.stem)}-{_file_name(key)}{kind}").write_bytes(content)
                    written += 1
            except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
                left[archive.name] = f"{type(error).__name__}: {one_line(error)}"
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
            raise ValueError(f"its class is {name}, and {len(classes)} names of classes are given")
        name = classes[int(str(name))]
    if not isinstance(name, str) or not name:
        raise ValueError("no class in .json, .cls or .txt")
    return kind, sample[kind[1:]], name, str(said.get("domain") or UNNAMED)


def _file_name(name: str) -> str:
    """`name` as one part of a path: no separators, not hidden, not too long."""
    return re.sub(r"[^\w .+()-]", "_", name).strip(". ")[:100] or "_"
