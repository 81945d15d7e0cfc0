"""A table of pictures: their paths, classes and domains, in a .csv or .parquet file."""

import csv
from pathlib import Path
from typing import Any

from ..errors import import_extra, one_line

COLUMNS = {"path": ("path", "file", "filepath", "image"), "class": ("class", "label"), "domain": ("domain",)}
"""What a column may be called; the first of several counts."""
ENDINGS = (".csv", ".parquet")

Row = tuple[Path, str, str]


def read_table(file: Path, unnamed: str) -> tuple[list[Row], dict[str, str]]:
    """Path, class and domain of each row, `unnamed` where there is no such column; and the rows left out, with reasons.

    Paths are relative to the folder of the table. A picture that is there twice counts once, with its first class.
    Raises ValueError that names the file and what is wrong with it.
    """
    if file.suffix.lower() not in ENDINGS:
        raise ValueError(f"folder: {str(file)!r} is not a folder and no table; expected {' or '.join(ENDINGS)}")
    parquet: Any = import_extra("pyarrow.parquet", "index") if file.suffix.lower() == ".parquet" else None
    try:
        columns = _parquet(parquet, file) if parquet else _csv(file)
    except (ValueError, OSError, csv.Error) as error:  # as those of pyarrow are
        raise ValueError(
            f"folder: {str(file)!r} cannot be read ({one_line(error)}); expected a whole table, in UTF-8"
        ) from error
    known = {name.strip().lower(): name for name in columns}
    chosen = {what: next((known[n] for n in names if n in known), None) for what, names in COLUMNS.items()}
    if chosen["path"] is None or chosen["class"] is None:
        raise ValueError(f"folder: {str(file)!r} has the columns {list(columns)}; expected path and class, and domain")
    rows, left, seen = [], {}, {}
    n = len(columns[chosen["path"]])
    told = [columns[name] if name else [unnamed] * n for name in chosen.values()]
    for i, (path, *labels) in enumerate(zip(*told, strict=True), 1):
        name, domain = (str(v) if type(v) is int else v.strip() if isinstance(v, str) else "" for v in labels)
        if not (isinstance(path, str) and path.strip() and name and domain):
            left[f"row {i}"] = "path, class or domain is empty or no text"
        elif (first := seen.setdefault(path, i)) != i:
            left[f"row {i}"] = f"the picture of row {first}"
        else:
            rows.append((file.parent / path, name, domain))
    return rows, left


def _csv(file: Path) -> dict[str, list]:
    with open(file, encoding="utf-8-sig", newline="") as opened:
        lines = list(csv.DictReader(opened))
    return {name: [line[name] for line in lines] for name in lines[0] if name} if lines else {}


def _parquet(parquet: Any, file: Path) -> dict[str, list]:
    """Columns that may be meant; others, such as the bytes of pictures, may be large."""
    known, names = {name for some in COLUMNS.values() for name in some}, parquet.read_schema(file).names
    columns = [name for name in names if name.strip().lower() in known]
    table = parquet.read_table(file, columns=columns)
    return {name: table.column(name).to_pylist() if name in columns else [] for name in names}
