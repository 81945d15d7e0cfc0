"""A table of vectors in a file, read in chunks, and written anew with other rows: .npy, .npz, safetensors, Parquet.

A table is n rows of width d. Its chunks are read one after the other into the same memory, so that it stays flat.
"""

import contextlib
import errno
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .errors import import_extra, one_line, printable

CHUNK, PAGE, MOST_BYTES, WIDEST = 4096, 2**22, 2**26, 2**20
"""Rows that are read, edited and written at a time; bytes of a Parquet file, which else come by whole row groups; bytes
of rows at a time, where they are wide; how wide they may be."""

NUMPY = {np.dtype(f"<f{size}"): dtype for size, dtype in ((8, torch.float64), (4, torch.float32), (2, torch.float16))}


@dataclass(frozen=True)
class Vectors:
    """One table of vectors in a file.

    Attributes
    ----------
    path : Path
    name : str
        Of the array, tensor or column in the file; empty for .npy.
    shape : (n, d)
    dtype : torch.dtype
        Of the rows as they are stored.
    words : dict of str to str
        What the file says of its `model`, `pretrained` and `fingerprint`.
    """

    path: Path
    name: str
    shape: tuple[int, int]
    dtype: torch.dtype
    words: dict[str, str] = field(default_factory=dict)

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.shape[1] * self.dtype.itemsize

    def chunks(self, first: int = 0) -> Iterator[Tensor]:
        """The rows from `first` on, at most CHUNK at a time: each (m, d), valid until the next one is asked for."""
        most = max(1, min(CHUNK, self.shape[0], MOST_BYTES // self.row))
        buffer = bytearray(most * self.row)
        with reading(self.path), self._opened(first) as file:
            for start in range(first, self.shape[0], most):
                size = min(most, self.shape[0] - start) * self.row
                if _fill(file, memoryview(buffer)[:size]) < size:
                    raise refused(self.path, f"ends before row {self.shape[0] - 1} of {self.name!r}")
                yield torch.frombuffer(buffer, dtype=self.dtype, count=size // self.dtype.itemsize).view(
                    -1, self.shape[1]
                )

    def rows(self) -> Tensor:
        """All rows at once, float32: for tables that fit into memory."""
        return torch.cat([chunk.float() for chunk in self.chunks()] or [torch.empty(0, self.shape[1])])

    @contextlib.contextmanager
    def _opened(self, first: int) -> Iterator[IO[bytes]]:
        """A file whose next byte is that of row `first`."""
        raise NotImplementedError
        yield

    def start(self, out: IO[bytes]) -> None:
        """Write what stands before the rows in a file like this one; nothing where `finish` builds the file."""

    def finish(self, rows: Path, first: int, out: Path) -> None:
        """Make `out` a file like this one with the rows that stand in the file `rows` from byte `first` on."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plain(Vectors):
    """Rows that stand in the file as they are, from byte `offset` on: .npy and safetensors."""

    offset: int = 0

    @contextlib.contextmanager
    def _opened(self, first: int) -> Iterator[IO[bytes]]:
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + first * self.row)
            yield file

    def start(self, out: IO[bytes]) -> None:
        with open(self.path, "rb") as file:
            _copy(file, out, self.offset)

    def finish(self, rows: Path, first: int, out: Path) -> None:
        with open(self.path, "rb") as file, open(rows, "ab") as edited:
            file.seek(self.offset + self.shape[0] * self.row)
            shutil.copyfileobj(file, edited)  # what stands behind: other tensors of the file
        rows.replace(out)


@dataclass(frozen=True)
class Archived(Vectors):
    """An array of a NumPy archive."""

    @contextlib.contextmanager
    def _opened(self, first: int) -> Iterator[IO[bytes]]:
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as file:
            start = header_of(self.path, file)[0]
            file.seek(start + first * self.row)
            yield file

    def finish(self, rows: Path, first: int, out: Path) -> None:
        with zipfile.ZipFile(self.path) as source, zipfile.ZipFile(out, "w") as target:
            for member in source.infolist():
                told = zipfile.ZipInfo(member.filename, member.date_time)
                told.compress_type = member.compress_type
                with source.open(member) as old, target.open(told, "w", force_zip64=True) as new:
                    if member.filename != f"{self.name}.npy":
                        shutil.copyfileobj(old, new)
                        continue
                    begin = header_of(self.path, old)[0]
                    old.seek(0)
                    new.write(old.read(begin))
                    with open(rows, "rb") as edited:
                        edited.seek(first)
                        shutil.copyfileobj(edited, new, 2**22)


@dataclass(frozen=True)
class Column(Vectors):
    """A column of lists in a Parquet file."""

    def chunks(self, first: int = 0) -> Iterator[Tensor]:
        parquet, seen = import_extra("pyarrow.parquet", "index"), 0
        with reading(self.path), parquet.ParquetFile(self.path, buffer_size=PAGE, pre_buffer=False) as file:
            for batch in file.iter_batches(CHUNK, columns=[self.name]):
                start, seen = max(0, first - seen), seen + len(batch)
                if start < len(batch):
                    yield self._tensor(batch.column(0))[start:].clone()
            if seen != self.shape[0]:
                raise refused(self.path, f"holds {seen} rows of {self.name!r} where it says {self.shape[0]}")

    def _tensor(self, column: Any) -> Tensor:
        lengths = import_extra("pyarrow.compute", "index").list_value_length(column)
        if column.null_count or column.flatten().null_count or set(lengths.unique().to_pylist()) != {self.shape[1]}:
            raise refused(self.path, f"holds rows of {self.name!r} that are empty or of another length")
        return torch.from_numpy(np.array(column.flatten())).view(-1, self.shape[1])

    def finish(self, rows: Path, first: int, out: Path) -> None:
        pa, pq = import_extra("pyarrow", "index"), import_extra("pyarrow.parquet", "index")
        with pq.ParquetFile(self.path, buffer_size=PAGE, pre_buffer=False) as file, open(rows, "rb") as edited:
            edited.seek(first)
            place, compression = file.schema_arrow.get_field_index(self.name), _compression(file)
            with pq.ParquetWriter(out, file.schema_arrow, compression=compression) as writer:
                for batch in file.iter_batches(CHUNK):
                    flat = np.frombuffer(edited.read(len(batch) * self.row), _numpy(self.dtype))
                    kind = batch.column(place).type
                    values = pa.array(flat, kind.value_type)
                    if pa.types.is_fixed_size_list(kind):
                        column = pa.FixedSizeListArray.from_arrays(values, type=kind)
                    else:
                        large = pa.types.is_large_list(kind)
                        ends = np.arange(0, len(flat) + 1, self.shape[1], dtype="i8" if large else "i4")
                        column = (pa.LargeListArray if large else pa.ListArray).from_arrays(ends, values, type=kind)
                    columns = [column if i == place else c for i, c in enumerate(batch.columns)]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=file.schema_arrow))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever the readers of archives and tables raise of a damaged file becomes a ValueError that names it.

    An OSError of the system, such as of a disk, stays one, and so does a lack of memory or of a package.
    """
    try:
        yield
    except ValueError as error:
        if str(error).startswith(("file:", "name:")):
            raise
        raise refused(path, f"cannot be read ({one_line(error)})") from error
    except (ImportError, MemoryError):
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # which a place before the file's beginning is
            raise
        raise refused(path, f"cannot be read ({one_line(error)})") from error
    except Exception as error:  # zlib, lzma, the parsers of headers: each has errors of its own
        raise refused(path, f"cannot be read ({type(error).__name__}: {one_line(error)})") from error


def refused(path: Path, what: str) -> ValueError:
    what = what if printable(what) else ascii(what)
    return ValueError(f"file: {str(path)!r} {what}; expected a whole file of vectors, which nobody is writing to")


def _fill(file: IO[bytes], view: memoryview) -> int:
    """Read until `view` is full or the file ends: bytes read."""
    done = 0
    while done < len(view) and (count := file.readinto(view[done:])):  # pyrefly: ignore[missing-attribute]
        done += count
    return done


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size and (some := source.read(min(size, 2**22))):
        target.write(some)
        size -= len(some)


def _numpy(dtype: torch.dtype) -> np.dtype:
    return next(n for n, t in NUMPY.items() if t == dtype)


def _compression(file: Any) -> str:
    return file.metadata.row_group(0).column(0).compression if file.num_row_groups else "SNAPPY"


def header_of(path: Path, file: Any) -> tuple[int, tuple[int, ...], np.dtype]:
    """Where the data of a .npy begins, its shape and type. Objects are refused before anything is read."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) == 2:
        raise refused(path, "stands column by column (Fortran order)")
    return file.tell(), shape, dtype
