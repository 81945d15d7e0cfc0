"""Read and write tables of vectors (n, d): .npy, .npz, safetensors, Parquet, and folders in clip-retrieval's layout.

Every format but .npz is read and written in chunks, so that memory use does not grow with n.
"""

import contextlib
import errno
import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import brief, import_extra, one_line, one_of, printable
from ..stored import EDITED

SIDES = {"images": "img_emb", "queries": "text_emb"}
"""The two sides of a search, and the folders in which clip-retrieval keeps their vectors."""
NAMES = {  # of the default table in a file that holds several, best first
    "images": ("images", "image_embedding", "image_embeddings", "img_emb", "embedding", "embeddings", "vector"),
    "queries": ("texts", "queries", "text_embedding", "text_embeddings", "text_emb", "embedding", "embeddings"),
}
WORDS = ("model", "fingerprint", EDITED)
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NUMPY = {np.dtype(f"<f{size}"): dtype for size, dtype in ((8, torch.float64), (4, torch.float32), (2, torch.float16))}
LARGE = 2**30  # bytes of a .npz from which `open_vectors` warns that it is read whole
CHUNK = 4096  # the most rows read, edited and written at a time; fewer if rows are wide
Change = Callable[[Tensor], Tensor]  # rows (m, d) -> new rows of the same shape and type


@dataclass(frozen=True)
class Vectors:
    """A table of vectors in a file.

    name: the array, tensor or column, "" for .npy. shape: (n, d). dtype: the type of the stored rows. words: metadata
    of the file, with keys from WORDS. offset: the byte at which the rows of a .npy or safetensors file begin.
    """

    path: Path
    name: str
    shape: tuple[int, int]
    dtype: torch.dtype
    words: dict[str, str] = field(default_factory=dict)
    offset: int = 0

    @property
    def step(self) -> int:
        """The number of rows in a chunk."""
        return max(1, min(CHUNK, 2**24 // self.shape[1]))

    def chunks(self) -> Iterator[Tensor]:
        """Yield the rows in chunks (m, d)."""
        with reading(self.path):
            yield from FORMATS[self.path.suffix][1](self)

    def rows(self) -> Tensor:
        """Load all rows as float32; use `chunks` for tables that do not fit into memory."""
        return torch.cat([chunk.float() for chunk in self.chunks()])

    def write(self, out: Path, change: Change, history: str) -> None:
        """Copy this file to `out` with changed rows and, except for .npy, a nonempty `history` as its EDITED entry."""
        with reading(self.path):
            FORMATS[self.path.suffix][2](self, out, change, history)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of readers into a ValueError that names the damaged file; system errors pass through."""
    try:
        yield
    except Exception as error:  # zlib and the header parsers raise their own types
        of_system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if of_system or isinstance(error, ImportError) or str(error).startswith(("file:", "name:")):
            raise
        raise file_error(path, f"cannot be read ({type(error).__name__}: {one_line(error)})") from error


def file_error(path: Path, problem: str, expected: str = "a complete file of vectors") -> ValueError:
    """Return the error for a file without a usable table of vectors."""
    problem = problem if printable(problem) else ascii(problem)
    return ValueError(f"file: {str(path)!r} {problem}; expected {expected}")


def open_tables(place: str | Path, side: str = "images", name: str | None = None) -> list[Vectors]:
    """Open the table in a file, or all tables of a folder in clip-retrieval's layout, in order and of one width."""
    folder = Path(place)
    if not folder.is_dir():
        return [open_vectors(place, side, name)]
    files = sorted((folder / SIDES[side]).glob("*.npy"), key=by_number)
    if not files:
        raise ValueError(f"folder: {str(folder)!r} has no {SIDES[side]}/*.npy; expected clip-retrieval's layout")
    tables = [open_vectors(file, side) for file in files]
    for table in tables:
        if table.shape[1] != tables[0].shape[1]:
            expected = f"{tables[0].shape[1]}, the width of {files[0].name}"
            raise file_error(table.path, f"has width {table.shape[1]}", expected)
    return tables


def by_number(path: Path) -> tuple[list[int], str]:
    """Return a sort key that puts part_2 before part_10."""
    return [int(number) for number in re.findall(r"\d+", path.stem)], path.name


def open_vectors(path: str | Path, side: str = "images", name: str | None = None) -> Vectors:
    """Open the table of vectors in a file and check its header, without reading its rows.

    name: the array, tensor or column; by default the first in NAMES[side] that the file holds, or else its only one.
    Raise ValueError if the file is unusable, and ImportError for Parquet without the extra `index`.
    """
    path = Path(path)
    if path.suffix not in FORMATS or not path.is_file():
        raise ValueError(f"file: {str(path)!r} does not exist or has another ending; expected {', '.join(FORMATS)}")
    with reading(path):
        table = FORMATS[path.suffix][0](path, side, name)
        n, d = table.shape
        if not (n and d):
            raise file_error(path, f"holds {n} rows of width {d}")
    return replace(table, words={k: text for k, text in table.words.items() if k in WORDS and printable(text)})


def _choose(path: Path, side: str, name: str | None, tables: list[str]) -> str:
    """Return `name` if it is one of the tables of a file; without a name, the default for `side`."""
    if name is not None:
        try:
            return one_of("name", name, tables)
        except ValueError as error:
            raise ValueError(f"{error} (in {str(path)!r})") from None
    defaults = [default for default in NAMES[side] if default in tables] or tables
    if not tables:
        raise file_error(path, "holds no table of vectors")
    if len(defaults) > 1 and defaults == tables:
        raise file_error(path, f"holds several tables, {brief(', '.join(tables))}", "the name of one of them")
    return defaults[0]


def _npy(path: Path, side: str, name: str | None) -> Vectors:
    array = np.lib.format.open_memmap(path, mode="r")  # checks the header and the size
    if array.ndim != 2 or array.dtype not in NUMPY or not array.flags.c_contiguous:
        raise file_error(path, f"holds {array.dtype} of shape {array.shape}", "rows (n, d) of floats")
    return Vectors(path, "", array.shape, NUMPY[array.dtype], offset=array.offset)


def _head(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file and the byte at which its data begin."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), 8 + size


def _safetensors(path: Path, side: str, name: str | None) -> Vectors:
    with safe_open(path, "pt"):  # checks the header and the size
        head, start = _head(path)
    words = head.pop("__metadata__", {})
    tables = [key for key, entry in head.items() if len(entry["shape"]) == 2 and entry["dtype"] in DTYPES]
    entry = head[name := _choose(path, side, name, tables)]
    n, d = entry["shape"]
    return Vectors(path, name, (n, d), DTYPES[entry["dtype"]], words, start + entry["data_offsets"][0])


def _read_plain(table: Vectors) -> Iterator[Tensor]:
    """Yield rows that a file stores as plain bytes, as .npy and safetensors do."""
    n, d = table.shape
    with open(table.path, "rb") as file:
        file.seek(table.offset)
        for first in range(0, n, table.step):
            count = min(table.step, n - first) * d
            content = bytearray(file.read(count * table.dtype.itemsize))
            yield torch.frombuffer(content, dtype=table.dtype, count=count).view(-1, d)


def _write_npy(table: Vectors, out: Path, change: Change, history: str) -> None:
    shutil.copyfile(table.path, out)
    _write_plain(table, out, change, table.offset)


def _write_safetensors(table: Vectors, out: Path, change: Change, history: str) -> None:
    head, start = _head(table.path)
    words = _with_history(head.pop("__metadata__", {}), history)
    text = json.dumps(({"__metadata__": words} if words else {}) | head).encode()
    text += b" " * (-len(text) % 8)
    with open(table.path, "rb") as old, open(out, "wb") as new:
        old.seek(start)
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new)
    _write_plain(table, out, change, table.offset - start + 8 + len(text))


def _with_history(entries: dict, history: str) -> dict:
    """Return the entries of a file with `history` as EDITED; drop EDITED if `history` is empty."""
    entries = {key: value for key, value in entries.items() if key not in (EDITED, EDITED.encode())}
    return entries | ({EDITED: history} if history else {})


def _write_plain(table: Vectors, out: Path, change: Change, offset: int) -> None:
    with open(out, "r+b") as file:
        file.seek(offset)
        for chunk in table.chunks():
            file.write(change(chunk).contiguous().view(torch.uint8).numpy().data)


def _npz(path: Path, side: str, name: str | None) -> Vectors:
    if (size := path.stat().st_size) >= LARGE:
        warnings.warn(f"file: {str(path)!r} ({size:,} bytes) is read whole; a .npy is read in chunks", stacklevel=4)
    with zipfile.ZipFile(path) as archive:
        heads = {m.removesuffix(".npy"): _npy_head(archive, m) for m in archive.namelist() if m.endswith(".npy")}
    tables = [key for key, (shape, dtype, _) in heads.items() if len(shape) == 2 and dtype in NUMPY]
    shape, dtype, size = heads[name := _choose(path, side, name, tables)]
    if size != shape[0] * shape[1] * dtype.itemsize:
        raise file_error(path, f"holds {name!r} with a size that contradicts its header")
    with np.load(path, allow_pickle=False) as arrays:
        words = {word: str(arrays[word]) for word in WORDS if word in heads and heads[word][1].kind == "U"}
    return Vectors(path, name, shape, NUMPY[dtype], words)


def _npy_head(archive: zipfile.ZipFile, member: str) -> tuple[Any, np.dtype, int]:
    """Return the shape, type and size in bytes of an array, without reading it."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        return shape, dtype, archive.getinfo(member).file_size - file.tell()


def _read_npz(table: Vectors) -> Iterator[Tensor]:
    with np.load(table.path, allow_pickle=False) as archive:
        yield from torch.from_numpy(archive[table.name]).split(table.step)


def _write_npz(table: Vectors, out: Path, change: Change, history: str) -> None:
    with np.load(table.path, allow_pickle=False) as archive:
        arrays = _with_history(dict(archive), history)
    arrays[table.name] = torch.cat([change(chunk) for chunk in table.chunks()]).numpy()
    with open(out, "wb") as file:
        np.savez(file, **arrays)


def _parquet(path: Path, side: str, name: str | None) -> Vectors:
    pa = import_extra("pyarrow", "index")
    kinds = {pa.float64(): torch.float64, pa.float32(): torch.float32, pa.float16(): torch.float16}
    with _parquet_file(path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows
        types = {f.name: getattr(f.type, "value_type", None) for f in schema if "list" in str(f.type)}
        tables = [key for key, kind in types.items() if kind in kinds and schema.names.count(key) == 1]
        name = _choose(path, side, name, tables)
        first: Any = next(file.iter_batches(1, columns=[name]), [[]])[0]
        width = len(first[0]) if len(first) and first[0].is_valid else 0
    texts = {key.decode(errors="replace"): v.decode(errors="replace") for key, v in (schema.metadata or {}).items()}
    return Vectors(path, name, (n, width), kinds[types[name]], texts)


def _parquet_file(path: Path) -> Any:
    return import_extra("pyarrow.parquet", "index").ParquetFile(path, pre_buffer=False)


def _read_parquet(table: Vectors) -> Iterator[Tensor]:
    with _parquet_file(table.path) as file:
        for batch in file.iter_batches(table.step, columns=[table.name]):
            yield _tensor(table, batch.column(0))


def _tensor(table: Vectors, column: Any) -> Tensor:
    lengths = import_extra("pyarrow.compute", "index").list_value_length(column)
    if column.null_count or column.flatten().null_count or set(lengths.unique().to_pylist()) != {table.shape[1]}:
        raise file_error(table.path, f"holds empty rows or rows of different lengths in {table.name!r}")
    return torch.from_numpy(np.array(column.flatten())).view(-1, table.shape[1])


def _write_parquet(table: Vectors, out: Path, change: Change, history: str) -> None:
    pa, parquet = import_extra("pyarrow", "index"), import_extra("pyarrow.parquet", "index")
    with _parquet_file(table.path) as file:
        schema = file.schema_arrow.with_metadata(_with_history(file.schema_arrow.metadata or {}, history))
        place, kind = schema.get_field_index(table.name), schema.field(table.name).type
        with parquet.ParquetWriter(out, schema) as writer:
            for batch in file.iter_batches(table.step):
                columns = batch.columns
                values = pa.array(change(_tensor(table, columns[place])).numpy().reshape(-1), kind.value_type)
                columns[place] = pa.FixedSizeListArray.from_arrays(values, table.shape[1]).cast(kind)
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


FORMATS: dict[str, tuple[Callable[..., Vectors], Callable[..., Iterator[Tensor]], Callable[..., None]]] = {
    ".npy": (_npy, _read_plain, _write_npy),
    ".npz": (_npz, _read_npz, _write_npz),
    ".safetensors": (_safetensors, _read_plain, _write_safetensors),
    ".parquet": (_parquet, _read_parquet, _write_parquet),
}
"""For each ending, the functions that open a file, read its rows in chunks, and write a changed copy."""
