"""Tables of vectors in files: .npy, .npz, safetensors, Parquet, and folders in clip-retrieval's layout.

A table is n rows of width d. It is read and written in chunks, so that memory stays flat; only .npz is read whole.
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
"""The two sides of a search, and where clip-retrieval keeps the vectors of each."""
NAMES = {  # of the table in a file that holds several
    "images": ("images", "image_embedding", "image_embeddings", "img_emb", "embedding", "embeddings", "vector"),
    "queries": ("texts", "queries", "text_embedding", "text_embeddings", "text_emb", "embedding", "embeddings"),
}
WORDS = ("model", "fingerprint", EDITED)
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NUMPY = {np.dtype(f"<f{size}"): dtype for size, dtype in ((8, torch.float64), (4, torch.float32), (2, torch.float16))}
LARGE = 2**30
"""Bytes of a .npz from which on a warning says that it is read whole."""
CHUNK = 4096
"""Rows read, edited and written at a time; fewer where they are wide."""

Change = Callable[[Tensor], Tensor]
"""Rows (m, d) -> the new rows, of the same shape and type."""


@dataclass(frozen=True)
class Vectors:
    """One table of vectors in a file.

    name: of the array, tensor or column; empty for .npy. shape: (n, d). dtype: of the rows as they are stored.
    words: what the file says of its `model` and `fingerprint`, and what was edited. offset: where plain rows begin.
    """

    path: Path
    name: str
    shape: tuple[int, int]
    dtype: torch.dtype
    words: dict[str, str] = field(default_factory=dict)
    offset: int = 0

    @property
    def step(self) -> int:
        """Rows of a chunk."""
        return max(1, min(CHUNK, 2**24 // self.shape[1]))

    def chunks(self) -> Iterator[Tensor]:
        """The rows, (m, d) at a time."""
        with reading(self.path):
            yield from FORMATS[self.path.suffix][1](self)

    def rows(self) -> Tensor:
        """All rows at once, float32: for tables that fit into memory."""
        return torch.cat([chunk.float() for chunk in self.chunks()])

    def write(self, out: Path, change: Change, mark: str) -> None:
        """Make `out` a file like this one with its rows changed and `mark` as EDITED; all else stays."""
        with reading(self.path):
            FORMATS[self.path.suffix][2](self, out, change, mark)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a reader raises on a damaged file becomes a ValueError that names it; an OSError of the system stays."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # zlib and the parsers of headers have errors of their own
        of_system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if of_system or str(error).startswith(("file:", "name:")):
            raise
        raise refused(path, f"cannot be read ({type(error).__name__}: {one_line(error)})") from error


def refused(path: Path, what: str) -> ValueError:
    """The error for a file that is not a sound table of vectors."""
    what = what if printable(what) else ascii(what)
    return ValueError(f"file: {str(path)!r} {what}; expected a whole file of vectors")


def open_tables(place: str | Path, side: str = "images", name: str | None = None) -> list[Vectors]:
    """The tables of a file (one) or of a folder in clip-retrieval's layout (in order, of one width)."""
    folder = Path(place)
    if not folder.is_dir():
        return [open_vectors(place, side, name)]
    files = sorted((folder / SIDES[side]).glob("*.npy"), key=by_number)
    if not files:
        raise ValueError(f"folder: {str(folder)!r} has no {SIDES[side]}/*.npy; expected clip-retrieval's layout")
    tables = [open_vectors(file, side) for file in files]
    for table in tables:
        if table.shape[1] != tables[0].shape[1]:
            raise refused(table.path, f"is {table.shape[1]} wide, and {files[0].name} {tables[0].shape[1]}")
    return tables


def by_number(path: Path) -> tuple[list[int], str]:
    """The order of the parts of a folder: part_2 before part_10."""
    return [int(number) for number in re.findall(r"\d+", path.stem)], path.name


def open_vectors(path: str | Path, side: str = "images", name: str | None = None) -> Vectors:
    """The table of vectors in a file, checked; its rows are not read.

    name: of the array, tensor or column, where the file holds several; by default one of NAMES[side], else the only
    one. Raises ValueError that names the file, and ImportError for Parquet without the extra `index`.
    """
    path = Path(path)
    if path.suffix not in FORMATS or not path.is_file():
        raise ValueError(f"file: {str(path)!r} is not there, or not {', '.join(FORMATS)}")
    with reading(path):
        table = FORMATS[path.suffix][0](path, side, name)
        n, d = table.shape
        if not (n and d):
            raise refused(path, f"holds {n} rows of width {d}")
    words = {word: text for word, text in table.words.items() if word in WORDS and printable(text)}
    return replace(table, words=words)


def _choose(path: Path, side: str, name: str | None, tables: list[str]) -> str:
    """Which of the `tables` of a file is meant."""
    if name is not None:
        try:
            return one_of("name", name, tables)
        except ValueError as error:
            raise ValueError(f"{error} (in {str(path)!r})") from None
    known = [known for known in NAMES[side] if known in tables] or tables
    if not known or (len(known) > 1 and known == tables):
        raise refused(path, f"holds {brief(', '.join(tables)) if tables else 'no table of vectors'}: name the one")
    return known[0]


# --- Rows that stand in the file as they are: .npy and safetensors


def _npy(path: Path, side: str, name: str | None) -> Vectors:
    array = np.lib.format.open_memmap(path, mode="r")  # which checks the header and the size
    if array.ndim != 2 or array.dtype not in NUMPY or not array.flags.c_contiguous:
        raise refused(path, f"holds {array.dtype} of shape {array.shape}, not rows (n, d) of floating numbers")
    return Vectors(path, "", array.shape, NUMPY[array.dtype], offset=array.offset)


def _head(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where the data begin."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), 8 + size


def _safetensors(path: Path, side: str, name: str | None) -> Vectors:
    with safe_open(path, "pt"):  # which checks the header and the size
        head, start = _head(path)
    words = head.pop("__metadata__", {})
    tables = [key for key, entry in head.items() if len(entry["shape"]) == 2 and entry["dtype"] in DTYPES]
    entry = head[chosen := _choose(path, side, name, tables)]
    n, d = entry["shape"]
    return Vectors(path, chosen, (n, d), DTYPES[entry["dtype"]], words, start + entry["data_offsets"][0])


def _read_plain(table: Vectors) -> Iterator[Tensor]:
    n, d = table.shape
    with open(table.path, "rb") as file:
        file.seek(table.offset)
        for first in range(0, n, table.step):
            count = min(table.step, n - first) * d
            content = bytearray(file.read(count * table.dtype.itemsize))
            yield torch.frombuffer(content, dtype=table.dtype, count=count).view(-1, d)


def _write_npy(table: Vectors, out: Path, change: Change, mark: str) -> None:
    shutil.copyfile(table.path, out)
    _write_plain(table, out, change, table.offset)


def _write_safetensors(table: Vectors, out: Path, change: Change, mark: str) -> None:
    head, start = _head(table.path)
    words = _marked(head.pop("__metadata__", {}), mark)
    text = json.dumps(({"__metadata__": words} if words else {}) | head).encode()
    text += b" " * (-len(text) % 8)
    with open(table.path, "rb") as old, open(out, "wb") as new:
        old.seek(start)
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new)
    _write_plain(table, out, change, table.offset - start + 8 + len(text))


def _marked(words: dict, mark: Any) -> dict:
    """What a file says of itself, with another mark of an edit, or with none."""
    return {key: text for key, text in words.items() if key not in (EDITED, EDITED.encode())} | (
        {EDITED: mark} if mark else {}
    )


def _write_plain(table: Vectors, out: Path, change: Change, offset: int) -> None:
    with open(out, "r+b") as file:
        file.seek(offset)
        for chunk in table.chunks():
            file.write(change(chunk).contiguous().view(torch.uint8).numpy().data)


# --- NumPy archives, which are read and written whole


def _npz(path: Path, side: str, name: str | None) -> Vectors:
    if (size := path.stat().st_size) >= LARGE:
        warnings.warn(f"file: {str(path)!r}, {size:,} bytes, is read whole; a .npy is read in chunks", stacklevel=4)
    with zipfile.ZipFile(path) as archive:
        heads = {m.removesuffix(".npy"): _npy_head(archive, m) for m in archive.namelist() if m.endswith(".npy")}
    tables = [key for key, (shape, dtype, _) in heads.items() if len(shape) == 2 and dtype in NUMPY]
    shape, dtype, size = heads[chosen := _choose(path, side, name, tables)]
    if size != shape[0] * shape[1] * dtype.itemsize:
        raise refused(path, f"holds {chosen!r} of another size than its head says")
    with np.load(path, allow_pickle=False) as arrays:
        words = {word: str(arrays[word]) for word in WORDS if word in heads and heads[word][1].kind == "U"}
    return Vectors(path, chosen, shape, NUMPY[dtype], words)


def _npy_head(archive: zipfile.ZipFile, member: str) -> tuple[Any, np.dtype, int]:
    """Shape, type and bytes of the data of an array, which is not read."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        return shape, dtype, archive.getinfo(member).file_size - file.tell()


def _read_npz(table: Vectors) -> Iterator[Tensor]:
    with np.load(table.path, allow_pickle=False) as archive:
        yield from torch.from_numpy(archive[table.name]).split(table.step)


def _write_npz(table: Vectors, out: Path, change: Change, mark: str) -> None:
    with np.load(table.path, allow_pickle=False) as archive:
        arrays = _marked(dict(archive), mark)
    arrays[table.name] = torch.cat([change(chunk) for chunk in table.chunks()]).numpy()
    with open(out, "wb") as file:
        np.savez(file, **arrays)


# --- Parquet, with a column of lists


def _parquet(path: Path, side: str, name: str | None) -> Vectors:
    pa = import_extra("pyarrow", "index")
    kinds = {pa.float64(): torch.float64, pa.float32(): torch.float32, pa.float16(): torch.float16}
    with _parquet_file(path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows
        types = {f.name: getattr(f.type, "value_type", None) for f in schema if "list" in str(f.type)}
        tables = [key for key, kind in types.items() if kind in kinds and schema.names.count(key) == 1]
        chosen = _choose(path, side, name, tables)
        first: Any = next(file.iter_batches(1, columns=[chosen]), [[]])[0]
        width = len(first[0]) if len(first) and first[0].is_valid else 0
    texts = {key.decode(errors="replace"): v.decode(errors="replace") for key, v in (schema.metadata or {}).items()}
    return Vectors(path, chosen, (n, width), kinds[types[chosen]], texts)


def _parquet_file(path: Path) -> Any:
    return import_extra("pyarrow.parquet", "index").ParquetFile(path, pre_buffer=False)


def _read_parquet(table: Vectors) -> Iterator[Tensor]:
    with _parquet_file(table.path) as file:
        for batch in file.iter_batches(table.step, columns=[table.name]):
            yield _tensor(table, batch.column(0))


def _tensor(table: Vectors, column: Any) -> Tensor:
    lengths = import_extra("pyarrow.compute", "index").list_value_length(column)
    if column.null_count or column.flatten().null_count or set(lengths.unique().to_pylist()) != {table.shape[1]}:
        raise refused(table.path, f"holds rows of {table.name!r} that are empty or of another length")
    return torch.from_numpy(np.array(column.flatten())).view(-1, table.shape[1])


def _write_parquet(table: Vectors, out: Path, change: Change, mark: str) -> None:
    pa, parquet = import_extra("pyarrow", "index"), import_extra("pyarrow.parquet", "index")
    with _parquet_file(table.path) as file:
        schema = file.schema_arrow.with_metadata(_marked(file.schema_arrow.metadata or {}, mark))
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
"""What opens a file of each kind, reads its rows in chunks, and writes one like it."""
