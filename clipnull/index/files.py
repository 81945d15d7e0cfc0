"""A table of vectors in a file, read in chunks, and written anew with other rows: .npy, .npz, safetensors, Parquet.

A table is n rows of width d. Its chunks are read one after the other into the same memory, so that it stays flat.
"""

import contextlib
import errno
import json
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import brief, import_extra, one_line, one_of, printable

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


# --- Which table of vectors is meant: in a .npy, .npz, safetensors or Parquet file, or in a folder of such files.

Side = Literal["images", "queries"]
SIDES = ("images", "queries")
FOLDERS = {"images": "img_emb", "queries": "text_emb"}
NAMES = {  # of the table in a file that holds several
    "images": ("images", "image_embedding", "image_embeddings", "img_emb", "embedding", "embeddings", "vector"),
    "queries": ("texts", "queries", "text_embedding", "text_embeddings", "text_emb", "embedding", "embeddings"),
}
WORDS = ("model", "pretrained", "fingerprint")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
MOST_HEAD = 10**8  # bytes, as safetensors itself takes


def open_vectors(path: str | Path, side: Side = "images", name: str | None = None) -> Vectors:
    """The table of vectors in a file; nothing of its rows is read.

    name: of the array, tensor or column, where the file holds several; by default one of NAMES[side], else the only
    one there is.

    Raises ValueError that names the file and says what is wrong: another ending, no table or several, rows that are no
    floating numbers, and a file that is shorter than it says, as one that is being written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"file: {str(path)!r} is no table of vectors; expected one that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"file: {str(path)!r} is not there; expected a file of vectors")
    if path.suffix == ".parquet":
        import_extra("pyarrow.parquet", "index")
    opener = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}[path.suffix]
    with reading(path):
        found = opener(path, side, name)
    return replace(found, words={word: text for word, text in found.words.items() if printable(text)})


def _sound(path: Path, shape: Any) -> tuple[int, int]:
    """`shape` as (n, d), whatever a file says it is."""
    n, d = shape
    if not (type(n) is type(d) is int and n > 0 and 0 < d <= WIDEST):
        raise refused(path, f"holds no vectors: {brief(n)} rows of width {brief(d)}")
    return n, d


def open_folder(folder: str | Path, side: Side = "images") -> list[Vectors]:
    """The tables of pictures or of texts in a folder of clip-retrieval's layout, in their order, of one width."""
    folder = Path(folder)
    files = sorted((folder / FOLDERS[side]).glob("*.npy"), key=lambda f: [int(n) for n in re.findall(r"\d+", f.stem)])
    if not files:
        raise ValueError(
            f"folder: {str(folder)!r} has no {FOLDERS[side]}/*.npy; expected a folder as clip-retrieval writes it"
        )
    tables = [open_vectors(file, side) for file in files]
    for table in tables:
        if table.shape[1] != tables[0].shape[1]:
            raise refused(table.path, f"is {table.shape[1]} wide, and {files[0].name} {tables[0].shape[1]}")
    return tables


def open_tables(place: str | Path, side: Side = "images", name: str | None = None) -> list[Vectors]:
    """`open_folder` for a folder, else `open_vectors`."""
    return open_folder(place, side) if Path(place).is_dir() else [open_vectors(place, side, name)]


def _choose(path: Path, side: Side, name: str | None, tables: list[str]) -> str:
    """Which of `tables`, two-dimensional and of floating numbers, is meant."""
    if name is not None:
        return one_of("name", name, tables)
    known = [known for known in NAMES[side] if known in tables] or tables
    if not known or (len(known) > 1 and known == tables):
        raise refused(path, f"holds {brief(', '.join(tables)) if tables else 'no table of vectors'}: name the one")
    return known[0]


def _npy(path: Path, side: Side, name: str | None) -> Vectors:
    with open(path, "rb") as file:
        offset, shape, dtype = header_of(path, file)
    if len(shape) != 2 or dtype not in NUMPY:
        raise refused(path, f"holds {dtype} of shape {shape}, no rows (n, d) of floating numbers")
    return _whole(Plain(path, "", _sound(path, shape), NUMPY[dtype], offset=offset))


def _whole(table: Plain) -> Plain:
    size, needed = table.path.stat().st_size, table.offset + table.shape[0] * table.row
    if size < needed:
        raise refused(table.path, f"has {size:,} bytes where its head says {needed:,}")
    return table


def _npz(path: Path, side: Side, name: str | None) -> Vectors:
    heads, words = {}, {}
    with zipfile.ZipFile(path) as archive:
        members = {m.removesuffix(".npy"): m for m in archive.namelist() if m.endswith(".npy")}
        for key, member in members.items():
            with archive.open(member) as file:
                start, shape, dtype = header_of(path, file)
                if len(shape) == 2 and dtype in NUMPY:
                    heads[key] = (shape, dtype, archive.getinfo(member).file_size - start)
                elif key in WORDS and not shape and dtype.kind == "U" and dtype.itemsize <= 16_000:
                    words[key] = str(np.frombuffer(file.read(dtype.itemsize), dtype)[0])
    chosen = _choose(path, side, name, list(heads))
    shape, dtype, size = heads[chosen]
    table = Archived(path, chosen, _sound(path, shape), NUMPY[dtype], words)
    if size != table.shape[0] * table.row:
        raise refused(path, f"holds {chosen!r} with {size:,} bytes where its head says {table.shape[0] * table.row:,}")
    return table


def _safetensors(path: Path, side: Side, name: str | None) -> Vectors:
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > MOST_HEAD:
            raise refused(path, f"says that its head has {size:,} bytes")
        head = json.loads(file.read(size))
    told = head.pop("__metadata__", {})
    tables = {key: v for key, v in head.items() if len(v["shape"]) == 2 and v["dtype"] in DTYPES}
    chosen = tables[key := _choose(path, side, name, list(tables))]
    begin, end = chosen["data_offsets"]
    words = {word: str(told[word]) for word in WORDS if word in told}
    shape, dtype = _sound(path, chosen["shape"]), DTYPES[chosen["dtype"]]
    table = Plain(path, key, shape, dtype, words, offset=8 + size + max(0, begin))
    if begin < 0 or end - begin != shape[0] * table.row:
        raise refused(path, f"holds {key!r} at bytes {brief(begin)} to {brief(end)}, which do not fit its shape")
    return _whole(table)


def _parquet(path: Path, side: Side, name: str | None) -> Vectors:
    pa, pq = import_extra("pyarrow", "index"), import_extra("pyarrow.parquet", "index")
    kinds = {pa.float64(): torch.float64, pa.float32(): torch.float32, pa.float16(): torch.float16}
    with pq.ParquetFile(path, buffer_size=PAGE, pre_buffer=False) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows
        lists = {
            f.name: kinds[f.type.value_type]
            for f in schema
            if (pa.types.is_list(f.type) or pa.types.is_large_list(f.type) or pa.types.is_fixed_size_list(f.type))
            and f.type.value_type in kinds
        }
        chosen = _choose(path, side, name, [name for name in lists if schema.names.count(name) == 1])
        first: Any = next(file.iter_batches(1, columns=[chosen]), [[]])[0]
        shape = _sound(path, (n, len(first[0]) if len(first) and first[0].is_valid else 0))
    told = {
        key.decode(errors="replace"): value.decode(errors="replace") for key, value in (schema.metadata or {}).items()
    }
    return Column(path, chosen, shape, lists[chosen], {word: told[word] for word in WORDS if word in told})
