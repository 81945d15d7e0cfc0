"""Tables of vectors in files: .npy, .npz, safetensors, Parquet, and folders in clip-retrieval's layout.

A table is n rows of width d. It is read in chunks, so that memory stays flat; only .npz is read whole.
"""

import contextlib
import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import brief, import_extra, one_line, one_of, printable

Side = Literal["images", "queries"]
SIDES = ("images", "queries")
FOLDERS = {"images": "img_emb", "queries": "text_emb"}
NAMES = {  # of the table in a file that holds several
    "images": ("images", "image_embedding", "image_embeddings", "img_emb", "embedding", "embeddings", "vector"),
    "queries": ("texts", "queries", "text_embedding", "text_embeddings", "text_emb", "embedding", "embeddings"),
}
WORDS = ("model", "pretrained", "fingerprint")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NUMPY = {np.dtype(f"<f{size}"): dtype for size, dtype in ((8, torch.float64), (4, torch.float32), (2, torch.float16))}
CHUNK, MAX_CHUNK_BYTES, MAX_WIDTH = 4096, 2**26, 2**20
"""Rows read, edited and written at a time; their bytes at most, where rows are wide; how wide they may be."""
LARGE = 2**30
"""Bytes of a .npz from which on a warning says that it is read whole."""


@dataclass(frozen=True)
class Vectors:
    """One table of vectors in a file.

    name: of the array, tensor or column; empty for .npy. shape: (n, d). dtype: of the rows as they are stored.
    words: what the file says of its `model`, `pretrained` and `fingerprint`.
    """

    path: Path
    name: str
    shape: tuple[int, int]
    dtype: torch.dtype
    words: dict[str, str] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Rows of a chunk."""
        return max(1, min(CHUNK, MAX_CHUNK_BYTES // (self.shape[1] * self.dtype.itemsize)))

    def chunks(self) -> Iterator[Tensor]:
        """The rows, (m, d) at a time."""
        raise NotImplementedError

    def rows(self) -> Tensor:
        """All rows at once, float32: for tables that fit into memory."""
        return torch.cat([chunk.float() for chunk in self.chunks()])

    def write(self, out: Path, rows: Iterable[Tensor]) -> None:
        """Make `out` a file like this one with other `rows`, given in chunks; all else in it stays."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plain(Vectors):
    """Rows that stand in the file as they are, from byte `offset` on: .npy and safetensors."""

    offset: int = 0

    def chunks(self) -> Iterator[Tensor]:
        n, d = self.shape
        with reading(self.path), open(self.path, "rb") as file:
            file.seek(self.offset)
            for first in range(0, n, self.step):
                count = min(self.step, n - first) * d
                content = bytearray(file.read(count * self.dtype.itemsize))
                yield torch.frombuffer(content, dtype=self.dtype, count=count).view(-1, d)

    def write(self, out: Path, rows: Iterable[Tensor]) -> None:
        shutil.copyfile(self.path, out)
        with open(out, "r+b") as file:
            file.seek(self.offset)
            for chunk in rows:
                file.write(chunk.contiguous().view(torch.uint8).numpy().data)


@dataclass(frozen=True)
class Archived(Vectors):
    """An array of a NumPy archive, which is read and written whole."""

    def chunks(self) -> Iterator[Tensor]:
        with reading(self.path), np.load(self.path, allow_pickle=False) as archive:
            yield from torch.from_numpy(archive[self.name]).split(self.step)

    def write(self, out: Path, rows: Iterable[Tensor]) -> None:
        with reading(self.path), np.load(self.path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
            packed = any(member.compress_type for member in archive.zip.infolist())
        arrays[self.name] = torch.cat([*rows]).numpy()
        with open(out, "wb") as file:
            (np.savez_compressed if packed else np.savez)(file, **arrays)


@dataclass(frozen=True)
class Column(Vectors):
    """A column of lists in a Parquet file."""

    def chunks(self) -> Iterator[Tensor]:
        with reading(self.path), _parquet_file(self.path) as file:
            for batch in file.iter_batches(self.step, columns=[self.name]):
                yield self._tensor(batch.column(0))

    def _tensor(self, column: Any) -> Tensor:
        lengths = import_extra("pyarrow.compute", "index").list_value_length(column)
        if column.null_count or column.flatten().null_count or set(lengths.unique().to_pylist()) != {self.shape[1]}:
            raise refused(self.path, f"holds rows of {self.name!r} that are empty or of another length")
        return torch.from_numpy(np.array(column.flatten())).view(-1, self.shape[1])

    def write(self, out: Path, rows: Iterable[Tensor]) -> None:
        pa, pq, chunks = import_extra("pyarrow", "index"), import_extra("pyarrow.parquet", "index"), iter(rows)
        with reading(self.path), _parquet_file(self.path) as file:
            schema = file.schema_arrow
            place, kind = schema.get_field_index(self.name), schema.field(self.name).type
            compression = file.metadata.row_group(0).column(0).compression.replace("UNCOMPRESSED", "NONE")
            with pq.ParquetWriter(out, schema, compression=compression) as writer:
                for batch in file.iter_batches(self.step):
                    values = pa.array(next(chunks).numpy().reshape(-1), kind.value_type)
                    columns = [_lists(values, kind, self.shape[1]) if i == place else c for i, c in enumerate(batch)]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _lists(values: Any, kind: Any, width: int) -> Any:
    pa = import_extra("pyarrow", "index")
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    large = pa.types.is_large_list(kind)
    ends = np.arange(0, len(values) + 1, width, dtype="i8" if large else "i4")
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(ends, values, type=kind)


def _parquet_file(path: Path) -> Any:
    return import_extra("pyarrow.parquet", "index").ParquetFile(path, pre_buffer=False)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a reader raises of a damaged file becomes a ValueError that names it; an OSError of the system stays."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # zlib, the parsers of headers: each has errors of its own
        if isinstance(error, ValueError) and str(error).startswith(("file:", "name:")):
            raise
        if isinstance(error, OSError) and error.errno:
            raise
        raise refused(path, f"cannot be read ({type(error).__name__}: {one_line(error)})") from error


def refused(path: Path, what: str) -> ValueError:
    """The error for a file that is not a sound table of vectors."""
    what = what if printable(what) else ascii(what)
    return ValueError(f"file: {str(path)!r} {what}; expected a whole file of vectors")


def open_tables(place: str | Path, side: Side = "images", name: str | None = None) -> list[Vectors]:
    """The tables of a file (one) or of a folder in clip-retrieval's layout (in order, of one width)."""
    if not Path(place).is_dir():
        return [open_vectors(place, side, name)]
    folder = Path(place)
    files = sorted((folder / FOLDERS[side]).glob("*.npy"), key=lambda f: [int(n) for n in re.findall(r"\d+", f.stem)])
    if not files:
        raise ValueError(f"folder: {str(folder)!r} has no {FOLDERS[side]}/*.npy; expected clip-retrieval's layout")
    tables = [open_vectors(file, side) for file in files]
    for table in tables:
        if table.shape[1] != tables[0].shape[1]:
            raise refused(table.path, f"is {table.shape[1]} wide, and {files[0].name} {tables[0].shape[1]}")
    return tables


def open_vectors(path: str | Path, side: Side = "images", name: str | None = None) -> Vectors:
    """The table of vectors in a file; its rows are not read.

    name: of the array, tensor or column, where the file holds several; by default one of NAMES[side], else the only
    one. Raises ValueError that names the file: another ending, no table or several, rows that are not floating numbers,
    a file that is cut. Raises ImportError for Parquet without the extra `index`.
    """
    path = Path(path)
    opener = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}.get(path.suffix)
    if opener is None or not path.is_file():
        raise ValueError(f"file: {str(path)!r} is not there, or not .npy, .npz, .safetensors or .parquet")
    if path.suffix == ".parquet":
        import_extra("pyarrow.parquet", "index")
    with reading(path):
        table = opener(path, side, name)
        n, d = table.shape
        if not (n > 0 and 0 < d <= MAX_WIDTH):
            raise refused(path, f"holds {brief(n)} rows of width {brief(d)}")
    return replace(table, words={word: text for word, text in table.words.items() if printable(text)})


def _choose(path: Path, side: Side, name: str | None, tables: list[str]) -> str:
    """Which of the `tables` of a file is meant."""
    if name is not None:
        return one_of("name", name, tables)
    known = [known for known in NAMES[side] if known in tables] or tables
    if not known or (len(known) > 1 and known == tables):
        raise refused(path, f"holds {brief(', '.join(tables)) if tables else 'no table of vectors'}: name the one")
    return known[0]


def _npy(path: Path, side: Side, name: str | None) -> Vectors:
    array = np.lib.format.open_memmap(path, mode="r")  # which checks the header and the size
    if array.ndim != 2 or array.dtype not in NUMPY or not array.flags.c_contiguous:
        raise refused(path, f"holds {array.dtype} of shape {array.shape}, not rows (n, d) of floating numbers")
    return Plain(path, "", array.shape, NUMPY[array.dtype], offset=array.offset)


def _npz(path: Path, side: Side, name: str | None) -> Vectors:
    if path.stat().st_size > LARGE:
        warnings.warn(f"file: {str(path)!r} is read whole, as .npz is; .npy is read in chunks", stacklevel=4)
    with zipfile.ZipFile(path) as archive:
        arrays = {m.removesuffix(".npy"): _head(archive, m) for m in archive.namelist() if m.endswith(".npy")}
    tables = [key for key, (shape, dtype, _) in arrays.items() if len(shape) == 2 and dtype in NUMPY]
    chosen = _choose(path, side, name, tables)
    shape, dtype, size = arrays[chosen]
    if size != shape[0] * shape[1] * dtype.itemsize:
        raise refused(path, f"holds {chosen!r} of another size than its head says")
    with np.load(path, allow_pickle=False) as file:
        words = {word: str(file[word]) for word in WORDS if word in arrays and arrays[word][1].kind == "U"}
    return Archived(path, chosen, shape, NUMPY[dtype], words)


def _head(archive: zipfile.ZipFile, member: str) -> tuple[Any, np.dtype, int]:
    """Shape, type and bytes of the data of a member."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        return shape, dtype, archive.getinfo(member).file_size - file.tell()


def _safetensors(path: Path, side: Side, name: str | None) -> Vectors:
    with safe_open(path, "pt") as file:  # which checks the header and the size
        slices, words = {key: file.get_slice(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        tables = [key for key, s in slices.items() if len(s.get_shape()) == 2 and s.get_dtype() in DTYPES]
        chosen = _choose(path, side, name, tables)
        shape, dtype = tuple(slices[chosen].get_shape()), DTYPES[slices[chosen].get_dtype()]
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        begin = json.loads(file.read(size))[chosen]["data_offsets"][0]
    words = {word: words[word] for word in WORDS if word in words}
    return Plain(path, chosen, shape, dtype, words, offset=8 + size + begin)


def _parquet(path: Path, side: Side, name: str | None) -> Vectors:
    pa = import_extra("pyarrow", "index")
    kinds = {pa.float64(): torch.float64, pa.float32(): torch.float32, pa.float16(): torch.float16}
    with _parquet_file(path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows
        lists = {f.name: kinds[f.type.value_type] for f in schema if _is_list(f.type) and f.type.value_type in kinds}
        chosen = _choose(path, side, name, [name for name in lists if schema.names.count(name) == 1])
        first: Any = next(file.iter_batches(1, columns=[chosen]), [[]])[0]
        width = len(first[0]) if len(first) and first[0].is_valid else 0
    texts = {
        key.decode(errors="replace"): text.decode(errors="replace") for key, text in (schema.metadata or {}).items()
    }
    words = {word: texts[word] for word in WORDS if word in texts}
    return Column(path, chosen, (n, width), lists[chosen], words)


def _is_list(kind: Any) -> bool:
    types = import_extra("pyarrow", "index").types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
