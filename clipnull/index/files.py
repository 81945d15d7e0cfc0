"""Tables of vectors in files: .npy, .npz, safetensors, Parquet, and folders in clip-retrieval's layout.

A table is n rows of width d. It is read in chunks, so that memory stays flat; only .npz is read whole.
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
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import brief, import_extra, one_line, one_of, printable
from ..stored import EDITED

Side = Literal["images", "queries"]
SIDES = ("images", "queries")
FOLDERS = {"images": "img_emb", "queries": "text_emb"}
NAMES = {  # of the table in a file that holds several
    "images": ("images", "image_embedding", "image_embeddings", "img_emb", "embedding", "embeddings", "vector"),
    "queries": ("texts", "queries", "text_embedding", "text_embeddings", "text_emb", "embedding", "embeddings"),
}
WORDS = ("model", "fingerprint", EDITED)
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NUMPY = {np.dtype(f"<f{size}"): dtype for size, dtype in ((8, torch.float64), (4, torch.float32), (2, torch.float16))}
CHUNK, MAX_CHUNK_BYTES, MAX_WIDTH = 4096, 2**26, 2**20
"""Rows read, edited and written at a time; their bytes at most, where rows are wide; how wide they may be."""
LARGE = 2**30
"""Bytes of a .npz from which on a warning says that it is read whole."""

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
        return max(1, min(CHUNK, MAX_CHUNK_BYTES // (self.shape[1] * self.dtype.itemsize)))

    def chunks(self) -> Iterator[Tensor]:
        """The rows, (m, d) at a time."""
        with reading(self.path):
            yield from FORMATS[self.path.suffix][1](self)

    def rows(self) -> Tensor:
        """All rows at once, float32: for tables that fit into memory."""
        return torch.cat([chunk.float() for chunk in self.chunks()])

    def write(self, out: Path, change: Change, mark: str) -> None:
        """Make `out` a file like this one with its rows changed, a chunk at a time; all else stays but the mark."""
        with reading(self.path):
            FORMATS[self.path.suffix][2](self, out, change, mark)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a reader raises of a damaged file becomes a ValueError that names it; an OSError of the system stays."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # zlib, the parsers of headers: each has errors of its own
        if str(error).startswith(("file:", "name:")) or (
            isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)  # as of a place before the file
        ):
            raise
        raise refused(path, f"cannot be read ({type(error).__name__}: {one_line(error)})") from error


def refused(path: Path, what: str) -> ValueError:
    """The error for a file that is not a sound table of vectors."""
    what = what if printable(what) else ascii(what)
    return ValueError(f"file: {str(path)!r} {what}; expected a whole file of vectors")


def open_tables(place: str | Path, side: Side = "images", name: str | None = None) -> list[Vectors]:
    """The tables of a file (one) or of a folder in clip-retrieval's layout (in order, of one width)."""
    folder = Path(place)
    if not folder.is_dir():
        return [open_vectors(place, side, name)]
    files = sorted((folder / FOLDERS[side]).glob("*.npy"), key=by_number)
    if not files:
        raise ValueError(f"folder: {str(folder)!r} has no {FOLDERS[side]}/*.npy; expected clip-retrieval's layout")
    tables = [open_vectors(file, side) for file in files]
    for table in tables:
        if table.shape[1] != tables[0].shape[1]:
            raise refused(table.path, f"is {table.shape[1]} wide, and {files[0].name} {tables[0].shape[1]}")
    return tables


def by_number(path: Path) -> tuple[list[int], str]:
    """The order of the parts of a folder: part_2 before part_10, as clip-retrieval writes them."""
    return [int(number) for number in re.findall(r"\d+", path.stem)], path.name


def open_vectors(path: str | Path, side: Side = "images", name: str | None = None) -> Vectors:
    """The table of vectors in a file; its rows are not read.

    name: of the array, tensor or column, where the file holds several; by default one of NAMES[side], else the only
    one. Raises ValueError that names the file: another ending, no table or several, rows that are not floating numbers,
    a file that is cut. Raises ImportError for Parquet without the extra `index`.
    """
    path = Path(path)
    if path.suffix not in FORMATS or not path.is_file():
        raise ValueError(f"file: {str(path)!r} is not there, or not {', '.join(FORMATS)}")
    with reading(path):
        table = FORMATS[path.suffix][0](path, side, name)
        n, d = table.shape
        if not (n > 0 and 0 < d <= MAX_WIDTH):
            raise refused(path, f"holds {brief(n)} rows of width {brief(d)}")
    words = {word: text for word, text in table.words.items() if word in WORDS and printable(text)}
    return replace(table, words=words)


def _choose(path: Path, side: Side, name: str | None, tables: list[str]) -> str:
    """Which of the `tables` of a file is meant."""
    if name is not None:
        return one_of("name", name, tables)
    known = [known for known in NAMES[side] if known in tables] or tables
    if not known or (len(known) > 1 and known == tables):
        raise refused(path, f"holds {brief(', '.join(tables)) if tables else 'no table of vectors'}: name the one")
    return known[0]


# --- Rows that stand in the file as they are: .npy and safetensors


def _npy(path: Path, side: Side, name: str | None) -> Vectors:
    array = np.lib.format.open_memmap(path, mode="r")  # which checks the header and the size
    if array.ndim != 2 or array.dtype not in NUMPY or not array.flags.c_contiguous:
        raise refused(path, f"holds {array.dtype} of shape {array.shape}, not rows (n, d) of floating numbers")
    return Vectors(path, "", array.shape, NUMPY[array.dtype], offset=array.offset)


def _safetensors(path: Path, side: Side, name: str | None) -> Vectors:
    with safe_open(path, "pt"), open(path, "rb") as file:  # which checks the header and the size
        size = int.from_bytes(file.read(8), "little")
        head = json.loads(file.read(size))
    words = head.pop("__metadata__", {})
    tables = [key for key, entry in head.items() if len(entry["shape"]) == 2 and entry["dtype"] in DTYPES]
    entry = head[chosen := _choose(path, side, name, tables)]
    n, d = entry["shape"]
    return Vectors(path, chosen, (n, d), DTYPES[entry["dtype"]], words, 8 + size + entry["data_offsets"][0])


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
    with open(table.path, "rb") as old, open(out, "wb") as new:
        size = int.from_bytes(old.read(8), "little")
        head = json.loads(old.read(size))
        words = {key: text for key, text in head.pop("__metadata__", {}).items() if key != EDITED}
        words |= {EDITED: mark} if mark else {}
        text = json.dumps(({"__metadata__": words} if words else {}) | head).encode()
        text += b" " * (-len(text) % 8)
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new)
    _write_plain(table, out, change, table.offset - size + len(text))


def _write_plain(table: Vectors, out: Path, change: Change, offset: int) -> None:
    with open(out, "r+b") as file:
        file.seek(offset)
        for chunk in table.chunks():
            file.write(change(chunk).contiguous().view(torch.uint8).numpy().data)


# --- NumPy archives, which are read and written whole


def _npz(path: Path, side: Side, name: str | None) -> Vectors:
    if path.stat().st_size > LARGE:
        warnings.warn(f"file: {str(path)!r} is read whole, as .npz is; .npy is read in chunks", stacklevel=4)
    with zipfile.ZipFile(path) as archive:
        arrays = {m.removesuffix(".npy"): _head(archive, m) for m in archive.namelist() if m.endswith(".npy")}
    tables = [key for key, (shape, dtype, _) in arrays.items() if len(shape) == 2 and dtype in NUMPY]
    shape, dtype, size = arrays[chosen := _choose(path, side, name, tables)]
    if size != shape[0] * shape[1] * dtype.itemsize:
        raise refused(path, f"holds {chosen!r} of another size than its head says")
    with np.load(path, allow_pickle=False) as file:
        words = {word: str(file[word]) for word in WORDS if word in arrays and arrays[word][1].kind == "U"}
    return Vectors(path, chosen, shape, NUMPY[dtype], words)


def _head(archive: zipfile.ZipFile, member: str) -> tuple[Any, np.dtype, int]:
    """Shape, type and bytes of the data of a member."""
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
        arrays: Any = {name: archive[name] for name in archive.files if name != EDITED} | (
            {EDITED: mark} if mark else {}
        )
        packed = any(member.compress_type for member in archive.zip.infolist())
    arrays[table.name] = torch.cat([change(chunk) for chunk in table.chunks()]).numpy()
    with open(out, "wb") as file:
        (np.savez_compressed if packed else np.savez)(file, **arrays)


# --- Parquet, with a column of lists


def _parquet(path: Path, side: Side, name: str | None) -> Vectors:
    pa = import_extra("pyarrow", "index")
    kinds = {pa.float64(): torch.float64, pa.float32(): torch.float32, pa.float16(): torch.float16}
    with _parquet_file(path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows
        types = {f.name: getattr(f.type, "value_type", None) for f in schema if "list" in str(f.type)}
        chosen = _choose(
            path, side, name, [key for key in types if types[key] in kinds and schema.names.count(key) == 1]
        )
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
    pa, pq = import_extra("pyarrow", "index"), import_extra("pyarrow.parquet", "index")
    with _parquet_file(table.path) as file:
        words = {key: text for key, text in (file.schema_arrow.metadata or {}).items() if key != EDITED.encode()}
        schema = file.schema_arrow.with_metadata(words | ({EDITED: mark} if mark else {}))
        place, kind = schema.get_field_index(table.name), schema.field(table.name).type
        compression = file.metadata.row_group(0).column(0).compression.replace("UNCOMPRESSED", "NONE")
        with pq.ParquetWriter(out, schema, compression=compression) as writer:
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
