"""Vectors written anew: whole or not at all, with a record of what was done beside them.

The source is never touched. The result is written under a temporary name and renamed. A folder goes file by file: after
a stop, the same call goes on with the next file.
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
"""What stands in a record for each edit, among others: the patch and the source by name and by content."""

Edits = list[dict[str, Any]]
"""The entries of a record, one for each edit, in their order."""


def rewrite(
    tables: list[Vectors], source: Path, out: Path, change: Change, edits: Edits, stale: Collection[Path] = ()
) -> None:
    """Write a copy of `source`, a file or folder, with the rows of its `tables` changed.

    Without tables it is a mere copy. edits: what the record beside the copy says; none is written without them. stale:
    files of a folder that are left out. Raises ValueError if `out` does not fit, and if the source changes meanwhile.
    """
    if not source.is_dir() and out.suffix != source.suffix:
        raise ValueError(f"out: {str(out)!r} ends in {out.suffix!r}; expected {source.suffix!r}, as its source does")
    if not out.parent.is_dir() or source.resolve() in out.resolve().parents:
        raise ValueError(f"out: {str(out)!r} has no place; expected a folder that is there, outside of the source")
    edited = {table.path: table for table in tables}
    mark = " ".join([f"{edits[0]['side']}:", *(entry["patch"] for entry in edits)]) if edits else ""
    bar = tqdm(total=sum(table.shape[0] for table in tables), unit="row", delay=3)

    def change_chunk(chunk: Tensor) -> Tensor:
        bar.update(len(chunk))
        return change(chunk)

    def write(file: Path, target: Path) -> None:
        with written(target) as temporary:
            edited[file].write(temporary, change_chunk, mark) if file in edited else shutil.copyfile(file, temporary)
        shutil.copymode(file, target)

    with bar, alone(out):
        if out.exists():
            raise ValueError(f"out: {str(out)!r} is there already; expected a new name")
        before = stamp(source)
        job = hashlib.sha256(json.dumps([str(source.resolve()), before, edits, [*map(str, edited)]]).encode())
        whole = out.with_name(f".{out.name}.{job.hexdigest()[:16]}.partial")  # which a stopped call may have begun
        try:
            if source.is_dir():
                _write_folder(source, whole, {record_of(source), *stale}, write)
            else:
                write(source, whole)
            if stamp(source) != before:
                shutil.rmtree(whole) if whole.is_dir() else whole.unlink()
                raise ValueError(f"source: {str(source)!r} was written to meanwhile; expected a file at rest")
            write_record(whole / RECORD if whole.is_dir() else record_of(out), whole, edits)
            os.rename(whole, out)
        finally:
            if whole.is_file():
                whole.unlink()


def _write_folder(source: Path, whole: Path, skip: Collection[Path], write: Callable[[Path, Path], None]) -> None:
    """Write each file of a folder that `whole` does not hold yet, with the modes of its folders."""
    whole.mkdir(exist_ok=True)
    for begun in whole.rglob(".*.partial"):  # by a call that was killed
        begun.unlink()
    for file in files_in(source):
        target = whole / file.relative_to(source)
        if file not in skip and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write(file, target)
    for folder in [*(place for place in whole.rglob("*") if place.is_dir()), whole]:
        shutil.copymode(source / folder.relative_to(whole), folder)


def record_of(path: Path) -> Path:
    """Where the record of what was done to a file or folder stands."""
    return path / RECORD if path.is_dir() else path.with_name(f"{path.name}.{RECORD}")


def files_in(path: Path) -> list[Path]:
    """The file itself, or all files of a folder, behind links too, sorted."""
    if path.is_file():
        return [path]
    return sorted(Path(place, name) for place, _, names in os.walk(path, followlinks=True) for name in names)


def stale_in(folder: Path, side: str) -> list[Path]:
    """The search indices in a folder that were built of the vectors of `side`, such as image.index."""
    other = "text" if side == "images" else "image"
    stale = []
    for file in files_in(folder):
        built = [part for part in file.relative_to(folder).parts if part.endswith((".index", ".faiss"))]
        stale += [file] if built and not built[0].startswith(other) else []
    return stale


def stamp(path: Path) -> list:
    """Size and time of a file, or of all files of a folder: by which it is known again."""
    return [[f.relative_to(path).as_posix(), f.stat().st_size, f.stat().st_mtime_ns] for f in files_in(path)]


def content_of(path: Path) -> str:
    """What names a file or folder by its content: SHA-256 over its files and their names, but for its record."""
    digest = hashlib.sha256()
    for file in (file for file in files_in(path) if file != record_of(path)):
        with open(file, "rb") as content:
            digest.update(f"{file.relative_to(path).as_posix()} ".encode(errors="surrogateescape"))
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def write_record(place: Path, whole: Path, edits: Edits) -> None:
    """Write at `place` what was done to the file or folder `whole`, tied to its content; nothing without edits."""
    if edits:
        record = {"format": FORMAT, "content": content_of(whole), "edits": edits}
        write_text(place, json.dumps(record, indent=1) + "\n")


def read_record(path: Path) -> Edits:
    """The edits on record of a file or folder that `apply_edit` wrote; none without a record beside it.

    Raises ValueError for a record of another form, or of another content than what stands beside it.
    """
    place = record_of(path)
    if not place.is_file():
        return []
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
        content, edits = record["content"], record["edits"]
        whole = [type(entry[key]) is kind for entry in edits for key, kind in ENTRY.items()]
        if record["format"] != FORMAT or not all(whole) or any(entry["side"] not in SIDES for entry in edits):
            raise ValueError("of another form")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"record: {str(place)!r} cannot be read ({brief(error)}); expected it as written") from error
    if content != content_of(path):
        raise ValueError(
            f"index: {str(path)!r} has changed since its record {place.name} was written; expected it as it was "
            "edited, or, if it was built anew of unedited vectors, no record beside it"
        )
    return edits
