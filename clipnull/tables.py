"""Which table of vectors is meant: in a .npy, .npz, safetensors or Parquet file, or in a folder of such files.

A folder in the layout of clip-retrieval (https://github.com/rom1504/clip-retrieval) holds `img_emb/*.npy` of pictures
and `text_emb/*.npy` of texts, with `metadata/*.parquet`.
"""

import json
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from .errors import brief, import_extra, one_of, printable
from .vectors import NUMPY, PAGE, WIDEST, Archived, Column, Plain, Vectors, header_of, reading, refused

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
