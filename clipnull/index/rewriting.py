"""Write changed copies of files of vectors, with a record of the edits beside them.

The source is never touched. A copy is written under a temporary name, then renamed. In a folder this happens file by
file, so that the same call resumes a stopped one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..errors import brief
from ..files import alone, write_text, written
from .files import SIDES, Change, Vectors

FORMAT, RECORD = "clipnull-applied", "clipnull.json"
ENTRY = {
    "patch": str, "method": str, "model": str, "fingerprint": str, "side": str, "array": str, "normalize": bool,
    "source": str, "content": str,
}  # fmt: skip
"""The required keys of an edit in a record, with their types. `patch` and `content` are hashes of content."""

Edits = list[dict[str, Any]]  # the edits in a record, oldest first


def rewrite(
    tables: list[Vectors], source: Path, out: Path, change: Change, edits: Edits, stale: Collection[Path] = ()
) -> None:
    """Write a copy of the file or folder `source` in which `change` is applied to the rows of `tables`.

    edits: the record to write beside the copy; no record if empty. stale: files of a folder to leave out. Raise
    ValueError if `out` exists, lies inside `source`, lacks a folder or has another ending, or if the source changes.
    """
    if not source.is_dir() and out.suffix != source.suffix:
        raise ValueError(f"out: {str(out)!r} ends in {out.suffix!r}; expected {source.suffix!r}, as in the source")
    if not out.parent.is_dir() or source.resolve() in out.resolve().parents:
        raise ValueError(f"out: {str(out)!r} has no place; expected an existing folder outside the source")
    edited = {table.path: table for table in tables}
    history = " ".join([f"{edits[0]['side']}:", *(entry["patch"] for entry in edits)]) if edits else ""
    bar = tqdm(total=sum(table.shape[0] for table in tables), unit="row", delay=3)

    def change_chunk(chunk: Tensor) -> Tensor:
        bar.update(len(chunk))
        return change(chunk)

    def write(file: Path, target: Path) -> None:
        with written(target) as temporary:
            edited[file].write(temporary, change_chunk, history) if file in edited else shutil.copyfile(file, temporary)
        shutil.copymode(file, target)

    with bar, alone(out):
        if out.exists():
            raise ValueError(f"out: {str(out)!r} already exists; expected a new name")
        before = stamp(source)
        job = hashlib.sha256(json.dumps([str(source.resolve()), before, edits, [*map(str, edited)]]).encode())
        copy = out.with_name(f".{out.name}.{job.hexdigest()[:16]}.partial")  # a call that resumes finds it by this name
        try:
            if source.is_dir():
                _write_folder(source, copy, {record_of(source), *stale}, write)
            else:
                write(source, copy)
            if stamp(source) != before:
                shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
                raise ValueError(f"source: {str(source)!r} changed while it was copied; expected no other writer")
            if edits:
                record = {"format": FORMAT, "content": content_of(copy), "edits": edits}
                place = copy / RECORD if copy.is_dir() else record_of(out)
                write_text(place, json.dumps(record, indent=1) + "\n")
            os.rename(copy, out)
        finally:
            if copy.is_file():
                copy.unlink()


def _write_folder(source: Path, copy: Path, skip: Collection[Path], write: Callable[[Path, Path], None]) -> None:
    """Copy all files that `copy` lacks from the folder `source`, and set the permissions of folders."""
    copy.mkdir(exist_ok=True)
    for partial in copy.rglob(".*.partial"):  # left by a killed call
        partial.unlink()
    for file in files_in(source):
        target = copy / file.relative_to(source)
        if file not in skip and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write(file, target)
    for folder in [*(place for place in copy.rglob("*") if place.is_dir()), copy]:
        shutil.copymode(source / folder.relative_to(copy), folder)


def record_of(path: Path) -> Path:
    """Return the path of the record of a file or folder."""
    return path / RECORD if path.is_dir() else path.with_name(f"{path.name}.{RECORD}")


def files_in(path: Path) -> list[Path]:
    """Return the file itself, or all files of a folder, sorted; links are followed."""
    if path.is_file():
        return [path]
    return sorted(Path(place, name) for place, _, names in os.walk(path, followlinks=True) for name in names)


def stale_in(folder: Path, side: str) -> list[Path]:
    """Return the search indices in a folder that were built from the vectors of `side`, such as image.index."""
    other = "text" if side == "images" else "image"
    stale = []
    for file in files_in(folder):
        indices = [part for part in file.relative_to(folder).parts if part.endswith((".index", ".faiss"))]
        stale += [file] if indices and not indices[0].startswith(other) else []
    return stale


def stamp(path: Path) -> list:
    """Return the name, size and time of a file, or of each file in a folder, to detect changes."""
    return [[f.relative_to(path).as_posix(), f.stat().st_size, f.stat().st_mtime_ns] for f in files_in(path)]


def content_of(path: Path) -> str:
    """Return a SHA-256 over a file, or over all files in a folder and their names, without the record."""
    digest = hashlib.sha256()
    for file in (file for file in files_in(path) if file != record_of(path)):
        digest.update(f"{file.relative_to(path).as_posix()} ".encode(errors="surrogateescape"))
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def read_record(path: Path) -> Edits:
    """Return the recorded edits of a file or folder; [] if there is no record beside it.

    Raise ValueError if the record is malformed, or if the file or folder has changed since it was written.
    """
    place = record_of(path)
    if not place.is_file():
        return []
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
        content, edits = record["content"], record["edits"]
        valid = all(type(entry[key]) is kind for entry in edits for key, kind in ENTRY.items())
        if record["format"] != FORMAT or not valid or any(entry["side"] not in SIDES for entry in edits):
            raise ValueError("another format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"record: {str(place)!r} cannot be read ({brief(error)}); expected it as written") from error
    if content != content_of(path):
        raise ValueError(
            f"index: {str(path)!r} has changed since its record {place.name} was written; expected the edited index "
            "unchanged, or, if it was rebuilt from unedited vectors, no record beside it"
        )
    return edits
