"""Vectors written anew, chunk by chunk: whole or not at all, and on from where it stopped.

The source is never touched. What is done so far stands in `<out>.partial`, from where the same call goes on; the result
appears under its name when it is whole. Beside it stands a record of what was done, `<out>.clipnull.json`.
"""

import errno
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import alone, write_text
from .files import Vectors, reading

FORMAT, RECORD = "clipnull-applied", "clipnull.json"
UNIT = 1e-3
"""How far from 1 the length of a unit row may be."""
BLOCK, SAVED = 1024, 16
"""Rows that are changed at a time, few enough for the processor's cache; chunks after which what is done is noted."""

Change = Callable[[Tensor, Tensor], Tensor]
"""Rows (n, d), which it may overwrite, and their lengths (n,) -> the new rows."""


@dataclass
class Lengths:
    """How many rows there were, which of them have no unit length, and the lengths between which all are."""

    rows: int = 0
    other: int = 0
    broken: int = 0
    least: float = float("inf")
    most: float = 0.0

    def add(self, length: Tensor) -> int:
        """length: (n,), of rows before the edit; NaN and infinite ones are broken, and their number is returned."""
        sound = length.isfinite()
        self.rows += len(length)
        self.broken += (broken := len(length) - int(sound.sum()))
        length = length[sound] if broken else length
        self.other += int(((length - 1).abs() > UNIT).sum())
        if len(length):
            self.least, self.most = min(self.least, float(length.min())), max(self.most, float(length.max()))
        return broken

    def __str__(self) -> str:
        told = f"{self.rows:,} rows"
        if self.other:
            told += (
                f", {self.other:,} not of unit length ({self.least:.3g} to {self.most:.3g}): edited in proportion to it"
            )
        return told + (f", {self.broken:,} with NaN or infinity, left so" if self.broken else "")


def rewrite(
    tables: list[Vectors], source: Path, out: Path, change: Change | None, told: dict[str, Any], progress: bool = False
) -> Lengths:
    """Write a copy of `source`, a file or folder, with the rows of its `tables` changed; returns how long they were.

    change: None for a mere copy. told: what the record says; none is written without `edits`.

    Raises ValueError if `out` is there, has no place or another ending, and if the source changes meanwhile; OSError if
    the disk is full. Nothing is left then. After any other end, a kill too, the same call goes on.
    """
    if out.exists() or record_of(out).exists():
        raise ValueError(f"out: {str(out)!r} or its record is there already; expected a new name")
    if not source.is_dir() and out.suffix != source.suffix:
        raise ValueError(f"out: {str(out)!r} ends in {out.suffix!r}; expected {source.suffix!r}, as its source does")
    if not out.parent.is_dir() or source.resolve() in out.resolve().parents:
        raise ValueError(f"out: {str(out)!r} has no place; expected a folder that is there, outside of the source")
    before, partial = stamp(source), out.with_name(f"{out.name}.partial")
    what = [str(source.resolve()), before, [table.name for table in tables], told]
    job = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    _validate_room(source, tables, out, partial)
    partial.mkdir(exist_ok=True)
    whole = partial / "whole"
    try:
        with alone(partial):
            lengths = _rewrite(tables, source, partial, job, change, progress)
            if stamp(source) != before:
                raise ValueError(f"source: {str(source)!r} was written to meanwhile; expected a file at rest")
            if told.get("edits"):
                place = whole / RECORD if source.is_dir() else record_of(out)
                write_text(place, json.dumps({"format": FORMAT, **told}, indent=1) + "\n")
            whole.replace(out)
    except (OSError, ValueError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not out.exists():
            record_of(out).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(
                f"out: {str(out)!r} cannot be made ({error.strerror or error}); expected a disk with room. Nothing was "
                f"left there, and {str(source)!r} is as it was"
            ) from error
        raise
    shutil.rmtree(partial, ignore_errors=True)
    return lengths


def _rewrite(
    tables: list[Vectors], source: Path, partial: Path, job: str, change: Change | None, progress: bool
) -> Lengths:
    """Make partial/whole; partial/state.json tells how far it is."""
    state, whole = partial / "state.json", partial / "whole"
    done: dict[str, Any] = json.loads(state.read_text()) if state.is_file() else {}
    if done.get("job") != job or (done["rows"] and not (partial / "rows").is_file()):
        for old in partial.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        done = {"job": job, "tables": 0, "rows": 0, "lengths": {}}
    if change is None:
        if source.is_dir():
            shutil.copytree(source, whole, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, whole)
        return Lengths()
    lengths = Lengths(**done["lengths"])
    if source.is_dir() and not done["tables"]:
        own = {table.path for table in tables}
        for file in (f for f in source.rglob("*") if f.is_file() and f not in {*own, record_of(source)}):
            target = whole / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    tell = _Progress(sum(table.shape[0] for table in tables), progress)
    for i, table in enumerate(tables[done["tables"] :], done["tables"]):
        target = whole / table.path.relative_to(source) if source.is_dir() else whole
        target.parent.mkdir(parents=True, exist_ok=True)
        rows = partial / "rows"
        with open(rows, "r+b" if done["rows"] else "wb", buffering=0) as file:
            if done["rows"]:
                file.seek(done["start"] + done["rows"] * table.row)
                file.truncate()
            else:
                table.start(file)
                done["start"] = file.tell()
            for number, chunk in enumerate(table.chunks(done["rows"]), 1):
                for block in chunk.split(BLOCK):
                    _put(file, _changed(block, change, lengths))
                done["rows"] += len(chunk)
                if number % SAVED == 0:
                    write_text(state, json.dumps(done | {"lengths": asdict(lengths)}))
                tell(len(chunk))
        with reading(table.path):
            table.finish(rows, done["start"], target)
        rows.unlink(missing_ok=True)
        done |= {"tables": i + 1, "rows": 0}
        write_text(state, json.dumps(done | {"lengths": asdict(lengths)}))
    return lengths


def _changed(block: Tensor, change: Change, lengths: Lengths) -> Tensor:
    length = torch.linalg.vector_norm(block if block.dtype.itemsize > 2 else block.float(), dim=1)
    broken = lengths.add(length)
    if not broken:
        return change(block, length).to(block.dtype)
    old = block.clone()
    return torch.where(length.isfinite()[:, None], change(block, length).to(block.dtype), old)


def _put(file: Any, rows: Tensor) -> None:
    """Write all bytes: a file without a buffer may take only some."""
    content: Any = rows.contiguous().view(torch.uint8).numpy()
    view = memoryview(content).cast("B")
    while len(view):
        view = view[file.write(view) :]


class _Progress:
    """Tells on standard error how many rows are done, how fast, and how long the rest takes."""

    def __init__(self, rows: int, on: bool) -> None:
        self.rows, self.on, self.done = rows, on, 0
        self.start = self.last = time.monotonic()

    def __call__(self, rows: int) -> None:
        self.done += rows
        now = time.monotonic()
        if self.on and now - self.last > 5:
            self.last, rate = now, self.done / (now - self.start)
            rest = (self.rows - self.done) / rate
            print(f"{self.done:,} of {self.rows:,} rows, {rate:,.0f} a second, {rest:.0f} s left", file=sys.stderr)


def _validate_room(source: Path, tables: list[Vectors], out: Path, partial: Path) -> None:
    needed = sum(size for _, size, _ in stamp(source))
    needed += sum(table.shape[0] * table.row for table in tables if table.path.suffix in (".npz", ".parquet"))
    done = sum(size for _, size, _ in stamp(partial)) if partial.is_dir() else 0
    free = shutil.disk_usage(out.parent).free
    if needed - done > free:
        told = f"{needed - done:,} bytes are needed and {free:,} free; expected a disk with room"
        raise OSError(errno.ENOSPC, told, str(out))


def record_of(path: Path) -> Path:
    """Where the record of what was done to a file or folder stands."""
    return path / RECORD if path.is_dir() else path.with_name(f"{path.name}.{RECORD}")


def stamp(path: Path) -> list:
    """Size and time of a file, or of all files of a folder: by which it is known again."""
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path] if path.is_file() else []
    return [[f.relative_to(path).as_posix(), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
