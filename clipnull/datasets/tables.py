"""Read a .csv or .parquet table with the paths, classes and optional domains of pictures."""

import csv
import os
from pathlib import Path
from typing import Any

from ..errors import import_extra, one_line
from ..vocabulary import words
from .layouts import UNNAMED, Dataset, dataset_of

COLUMNS = {"path": ("path", "file", "filepath", "image"), "class": ("class", "label"), "domain": ("domain",)}
"""Accepted names of each column; the first one that a table has is used."""


def read_table(file: Path, split: str) -> Dataset:
    """Read the pictures of a table. Paths are relative to its folder; a repeated picture counts once."""
    try:
        records = _records(file)
    except (ValueError, OSError, csv.Error) as error:  # pyarrow raises ValueErrors
        raise ValueError(
            f"folder: {str(file)!r} cannot be read ({one_line(error)}); expected a .csv in UTF-8, a .parquet file, or "
            "archives in .tar"
        ) from error
    columns = {name.strip().lower(): name for name in (records[0] if records else ()) if name}
    fields = [next((columns[name] for name in names if name in columns), None) for names in COLUMNS.values()]
    if None in fields[:2]:
        raise ValueError(f"folder: {str(file)!r} has columns {[*columns]}; expected path, class and optionally domain")
    labels_of, left_out = {}, {}
    for i, record in enumerate(records, 1):
        path, *labels = (str(record[name] or "").strip() if name else UNNAMED for name in fields)
        place = Path(os.path.normpath(file.parent / path))
        if not (path and all(labels)):
            left_out[f"row {i}"] = "path, class or domain is empty"
        elif [*map(words, labels)] != [*map(words, first := labels_of.setdefault(place, labels))]:
            raise ValueError(
                f"folder: {str(file)!r} has {path!r} as {first} and, in row {i}, as {labels}; expected one label"
            )
    rows = [(place, label, domain) for place, (label, domain) in labels_of.items()]
    return dataset_of(rows, file.parent, "table", split, False, left_out)


def _records(file: Path) -> list[dict[str, Any]]:
    if file.suffix.lower() == ".parquet":
        return import_extra("pyarrow.parquet", "index").read_table(file).to_pylist()
    if file.suffix.lower() != ".csv":
        raise ValueError(f"its name ends in {file.suffix!r}")
    with open(file, encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))
