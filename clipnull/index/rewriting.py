"""Vectors written anew: whole or not at all, with a record of what was done beside them.

The source is never touched. The result is written under a temporary name and renamed. A folder goes file by file: after
a stop, the same call goes on with the next file.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import brief
from ..files import alone, write_text
from .files import SIDES, Side, Vectors

FORMAT, RECORD = "clipnull-applied", "clipnull.json"
ENTRY = {
    "patch": str, "method": str, "model": str, "fingerprint": str, "side": str, "array": str, "normalize": bool,
    "source": str, "content": str,
}  # fmt: skip
"""What stands in a record for each edit, among others: the patch and the source by name and by content."""
BLOCK = 1024
"""Rows that are changed at a time, few enough for the processor's cache."""

Edits = list[dict[str, Any]]
"""The entries of a record, one for each edit, in their order."""
RowChange = Callable[[Tensor, Tensor], Tensor]
"""Rows (m, d), which it may overwrite, and their lengths (m,) -> the new rows."""


def rewrite(
    tables: list[Vectors],
    source: Path,
    out: Path,
    change: RowChange,
    edits: Edits,
    stale: Collection[Path] = (),
    progress: bool = False,
) -> Tensor:
    """Write a copy of `source`, a file or folder, with the rows of its `tables` changed; returns their old lengths.

    No tables make a mere copy. edits: what the record beside the copy says; none is written without them. stale: files
    of a folder that are left out.

    Raises ValueError if `out` is there, has another ending or no place, and if the source changes meanwhile.
    """
    if not source.is_dir() and out.suffix != source.suffix:
        raise ValueError(f"out: {str(out)!r} ends in {out.suffix!r}; expected {source.suffix!r}, as its source does")
    if not out.parent.is_dir() or source.resolve() in out.resolve().parents:
        raise ValueError(f"out: {str(out)!r} has no place; expected a folder that is there, outside of the source")
    edited, lengths = {table.path: table for table in tables}, [torch.empty(0)]
    mark = " ".join([f"{edits[0]['side']}:", *(entry["patch"] for entry in edits)]) if edits else ""
    bar = tqdm(total=sum(table.shape[0] for table in tables), unit="row", disable=not progress, delay=3)

    def change_chunk(chunk: Tensor) -> Tensor:
        rows, length = _changed(chunk, change)
        lengths.append(length)
        bar.update(len(chunk))
        return rows

    def write(file: Path, target: Path) -> None:
        edited[file].write(target, change_chunk, mark) if file in edited else shutil.copyfile(file, target)

    with bar, alone(out):
        if out.exists():
            raise ValueError(f"out: {str(out)!r} is there already; expected a new name")
        before = stamp(source)
        if not source.is_dir():
            with _new(out, source, out) as temporary:
                write(source, temporary)
                _validate_rest(source, before)
                write_record(record_of(out), temporary, edits)
            return torch.cat(lengths)
        job = hashlib.sha256(
            json.dumps([str(source.resolve()), before, edits, [*map(str, edited)]]).encode()
        ).hexdigest()[:16]
        whole = out.with_name(f".{out.name}.{job}.partial")  # which an earlier call may have begun
        for file in (f for f in files_in(source) if f != record_of(source) and f not in stale):
            target = whole / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                with _new(target, file, out / file.relative_to(source)) as temporary:
                    write(file, temporary)
        for begun in whole.rglob(".*.partial"):  # by a call that was killed
            begun.unlink()
        try:
            _validate_rest(source, before)
        except ValueError:
            shutil.rmtree(whole)
            raise
        write_record(record_of(whole), whole, edits)
        for folder in [*(place for place in whole.rglob("*") if place.is_dir()), whole]:
            shutil.copymode(source / folder.relative_to(whole), folder)
        os.rename(whole, out)
    return torch.cat(lengths)


def _validate_rest(source: Path, before: list) -> None:
    if stamp(source) != before:
        raise ValueError(f"source: {str(source)!r} was written to meanwhile; expected a file at rest")


@contextlib.contextmanager
def _new(path: Path, like: Path, shown: Path) -> Iterator[Path]:
    """A temporary path: if all goes well, synced, given the mode of `like` and renamed to `path`; else deleted.

    shown: what an error says in place of `path`.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        temporary.touch(0o600)  # until it is whole nobody else reads it
        yield temporary
        shutil.copymode(like, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"out: {str(shown)!r} cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _changed(chunk: Tensor, change: RowChange) -> tuple[Tensor, Tensor]:
    """The rows after the change, in the place of the old ones, and their lengths before; broken ones stay."""
    lengths = []
    for block in chunk.split(BLOCK):
        length = torch.linalg.vector_norm(block.double() if block.dtype == torch.float64 else block.float(), dim=1)
        broken = ~length.isfinite()
        old = block[broken]
        block.copy_(change(block, length))
        block[broken] = old
        lengths.append(length)
    return chunk, torch.cat(lengths)


def record_of(path: Path) -> Path:
    """Where the record of what was done to a file or folder stands."""
    return path / RECORD if path.is_dir() else path.with_name(f"{path.name}.{RECORD}")


def files_in(folder: Path) -> list[Path]:
    """All files of a folder, behind links too, sorted."""
    return sorted(Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)


def stale_in(folder: Path, side: Side) -> list[Path]:
    """The search indices in a folder that were built of the vectors of `side`, such as image.index."""
    other = "text" if side == "images" else "image"
    stale = []
    for file in files_in(folder):
        built = [part for part in file.relative_to(folder).parts if part.endswith((".index", ".faiss"))]
        stale += [file] if built and not built[0].startswith(other) else []
    return stale


def stamp(path: Path) -> list:
    """Size and time of a file, or of all files of a folder, behind links too: by which it is known again."""
    files = files_in(path) if path.is_dir() else [path] if path.is_file() else []
    return [[f.relative_to(path).as_posix(), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def content_of(path: Path) -> str:
    """What names a file or folder by its content: SHA-256 over its files and their names, but for its record."""
    digest = hashlib.sha256()
    files = [file for file in files_in(path) if file != record_of(path)] if path.is_dir() else [path]
    for file in files:
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
        for entry in edits:
            if any(type(entry[key]) is not kind for key, kind in ENTRY.items()) or entry["side"] not in SIDES:
                raise ValueError("of another form")
        if record["format"] != FORMAT or not isinstance(edits, list):
            raise ValueError("of another format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"record: {str(place)!r} cannot be read ({brief(error)}); expected it as written") from error
    if content != content_of(path):
        raise ValueError(
            f"index: {str(path)!r} has changed since its record {place.name} was written; expected it as it was "
            "edited, or, if it was built anew of unedited vectors, no record beside it"
        )
    return edits
