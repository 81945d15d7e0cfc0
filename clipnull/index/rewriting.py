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
from dataclasses import dataclass
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

Change = Callable[[Tensor, Tensor], Tensor]
"""Rows (n, d), which it may overwrite, and their lengths (n,) -> the new rows."""


@dataclass
class Lengths:
    """How many rows there were, how many not of unit length or broken (NaN, infinity), and the extreme lengths."""

    rows: int = 0
    other: int = 0
    broken: int = 0
    least: float = float("inf")
    most: float = 0.0

    def add(self, length: Tensor) -> None:
        """length: (n,), of rows before the edit."""
        finite = length[length.isfinite()]
        self.rows += len(length)
        self.broken += len(length) - len(finite)
        self.other += int(((finite - 1).abs() > UNIT).sum())
        self.least = min([self.least, *finite.aminmax().min[None].tolist()] if len(finite) else [self.least])
        self.most = max([self.most, *finite.aminmax().max[None].tolist()] if len(finite) else [self.most])

    def __str__(self) -> str:
        text = f"{self.rows:,} rows"
        if self.other:
            text += (
                f", {self.other:,} not of unit length ({self.least:.3g} to {self.most:.3g}): edited in proportion to it"
            )
        return text + (f", {self.broken:,} with NaN or infinity, left so" if self.broken else "")


def rewrite(
    tables: list[Vectors],
    source: Path,
    out: Path,
    change: Change | None,
    record: dict[str, Any],
    progress: bool = False,
) -> Lengths:
    """Write a copy of `source`, a file or folder, with the rows of its `tables` changed; returns how long they were.

    change: None for a mere copy. record: what stands beside the copy; none without `edits`.

    Raises ValueError if `out` is there, has another ending or no place, and if the source changes meanwhile.
    """
    if not source.is_dir() and out.suffix != source.suffix:
        raise ValueError(f"out: {str(out)!r} ends in {out.suffix!r}; expected {source.suffix!r}, as its source does")
    if not out.parent.is_dir() or source.resolve() in out.resolve().parents:
        raise ValueError(f"out: {str(out)!r} has no place; expected a folder that is there, outside of the source")
    lengths, bar = (
        Lengths(),
        tqdm(total=sum(table.shape[0] for table in tables), unit="row", disable=not progress, delay=3),
    )
    with bar, alone(out):
        if out.exists():
            raise ValueError(f"out: {str(out)!r} is there already; expected a new name")
        before = stamp(source)

        def fill(table: Vectors, target: Path) -> None:
            if change is None:
                shutil.copyfile(table.path, target)
            else:
                table.write(target, _changed(table, change, lengths, bar))

        if source.is_dir():
            job = json.dumps([str(source.resolve()), before, record], sort_keys=True)
            whole = out.with_name(f".{out.name}.{hashlib.sha256(job.encode()).hexdigest()[:16]}.partial")
            try:
                _fill_folder(tables, source, whole, fill)
                _validate_rest(source, before)
                if record.get("edits"):
                    write_text(whole / RECORD, _text_of(record))
                os.rename(whole, out)
            except (OSError, ValueError):
                shutil.rmtree(whole, ignore_errors=True)
                raise
        else:
            with _new(out, source) as temporary:
                fill(tables[0], temporary)
                _validate_rest(source, before)
                if record.get("edits"):
                    write_text(record_of(out), _text_of(record))
    return lengths


def _fill_folder(tables: list[Vectors], source: Path, whole: Path, fill: Callable[[Vectors, Path], None]) -> None:
    """Fill the folder `whole`, which an earlier call may have begun: the tables edited, all other files copied."""
    edited = {table.path: table for table in tables}
    for file in (f for f in files_in(source) if f != record_of(source)):
        target = whole / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with _new(target, file) as temporary:
                fill(edited[file], temporary) if file in edited else shutil.copyfile(file, temporary)
    for stale in whole.rglob(".*.partial"):  # of a call that was killed
        stale.unlink()


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
        raise OSError(
            f"out: {str(path)!r} cannot be written ({error.strerror or error}); nothing is left there"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _changed(table: Vectors, change: Change, lengths: Lengths, bar: Any) -> Iterator[Tensor]:
    """The rows of `table` after the change; broken ones stay."""
    for chunk in table.chunks():
        parts = []
        for block in chunk.split(BLOCK):
            length = torch.linalg.vector_norm(block.double() if block.dtype == torch.float64 else block.float(), dim=1)
            lengths.add(length)
            old = None if length.isfinite().all() else block.clone()
            new = change(block, length).to(block.dtype)
            parts.append(new if old is None else torch.where(length.isfinite()[:, None], new, old))
        bar.update(len(chunk))
        yield torch.cat(parts)


def _validate_rest(source: Path, before: list) -> None:
    if stamp(source) != before:
        raise ValueError(f"source: {str(source)!r} was written to meanwhile; expected a file at rest")


def _text_of(record: dict[str, Any]) -> str:
    return json.dumps({"format": FORMAT, **record}, indent=1) + "\n"


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
