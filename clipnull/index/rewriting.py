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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..files import alone, write_text
from .files import Vectors

FORMAT, RECORD = "clipnull-applied", "clipnull.json"
UNIT = 1e-3
"""How far from 1 the length of a unit row may be."""
BLOCK = 1024
"""Rows that are changed at a time, few enough for the processor's cache."""

Edits = list[dict[str, Any]]
"""The entries of a record, one for each edit, in their order."""
RowChange = Callable[[Tensor, Tensor], Tensor]
"""Rows (m, d), which it may overwrite, and their lengths (m,) -> the new rows."""


def rewrite(
    tables: list[Vectors], source: Path, out: Path, change: RowChange, edits: Edits, progress: bool = False
) -> Tensor:
    """Write a copy of `source`, a file or folder, with the rows of its `tables` changed; returns their old lengths.

    No tables make a mere copy. edits: what the record beside the copy says; none is written without them.

    Raises ValueError if `out` is there, has another ending or no place, and if the source changes meanwhile.
    """
    if not source.is_dir() and out.suffix != source.suffix:
        raise ValueError(f"out: {str(out)!r} ends in {out.suffix!r}; expected {source.suffix!r}, as its source does")
    if not out.parent.is_dir() or source.resolve() in out.resolve().parents:
        raise ValueError(f"out: {str(out)!r} has no place; expected a folder that is there, outside of the source")
    edited, lengths = {table.path: table for table in tables}, [torch.empty(0)]
    bar = tqdm(total=sum(table.shape[0] for table in tables), unit="row", disable=not progress, delay=3)

    def change_chunk(chunk: Tensor) -> Tensor:
        rows, length = _changed(chunk, change)
        lengths.append(length)
        bar.update(len(chunk))
        return rows

    def write(file: Path, target: Path) -> None:
        edited[file].write(target, change_chunk) if file in edited else shutil.copyfile(file, target)

    with bar, alone(out):
        if out.exists():
            raise ValueError(f"out: {str(out)!r} is there already; expected a new name")
        before, text = stamp(source), json.dumps({"format": FORMAT, "edits": edits}, indent=1) + "\n"
        if not source.is_dir():
            with _new(out, source) as temporary:
                write(source, temporary)
                _validate_rest(source, before)
                if edits:
                    write_text(record_of(out), text)
            return torch.cat(lengths)
        job = hashlib.sha256(f"{source.resolve()} {before} {text}".encode()).hexdigest()[:16]
        whole = out.with_name(f".{out.name}.{job}.partial")  # which an earlier call may have begun
        for file in (f for f in files_in(source) if f != record_of(source)):
            target = whole / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                with _new(target, file) as temporary:
                    write(file, temporary)
        for stale in whole.rglob(".*.partial"):  # of a call that was killed
            stale.unlink()
        try:
            _validate_rest(source, before)
        except ValueError:
            shutil.rmtree(whole)
            raise
        if edits:
            write_text(record_of(whole), text)
        os.rename(whole, out)
    return torch.cat(lengths)


def _validate_rest(source: Path, before: list) -> None:
    if stamp(source) != before:
        raise ValueError(f"source: {str(source)!r} was written to meanwhile; expected a file at rest")


@contextlib.contextmanager
def _new(path: Path, like: Path) -> Iterator[Path]:
    """A temporary path: if all goes well, synced, given the mode of `like` and renamed to `path`; else deleted."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        shutil.copymode(like, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"out: {str(path)!r} cannot be written ({reason}); nothing is left there") from error
    finally:
        temporary.unlink(missing_ok=True)


def _changed(chunk: Tensor, change: RowChange) -> tuple[Tensor, Tensor]:
    """The rows after the change, and their lengths before; broken ones stay."""
    rows, lengths = [], []
    for block in chunk.split(BLOCK):
        length = torch.linalg.vector_norm(block.double() if block.dtype == torch.float64 else block.float(), dim=1)
        sound = length.isfinite()[:, None]
        old = None if sound.all() else block.clone()
        new = change(block, length).to(block.dtype)
        rows.append(new if old is None else torch.where(sound, new, old))
        lengths.append(length)
    return torch.cat(rows), torch.cat(lengths)


def format_lengths(lengths: Tensor) -> str:
    """How many rows there were, how many not of unit length, and how many broken, for a line of text."""
    sound = lengths[lengths.isfinite()]
    other, broken = int(((sound - 1).abs() > UNIT).sum()), len(lengths) - len(sound)
    text = f"{len(lengths):,} rows"
    if other:
        text += f", {other:,} not of unit length ({sound.min():.3g} to {sound.max():.3g}): edited in proportion to it"
    return text + (f", {broken:,} with NaN or infinity, left so" if broken else "")


def record_of(path: Path) -> Path:
    """Where the record of what was done to a file or folder stands."""
    return path / RECORD if path.is_dir() else path.with_name(f"{path.name}.{RECORD}")


def files_in(folder: Path) -> list[Path]:
    """All files of a folder, behind links too, sorted."""
    return sorted(Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)


def stamp(path: Path) -> list:
    """Size and time of a file, or of all files of a folder, behind links too: by which it is known again."""
    files = files_in(path) if path.is_dir() else [path] if path.is_file() else []
    return [[f.relative_to(path).as_posix(), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
