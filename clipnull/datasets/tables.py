"""A table of pictures: their paths, classes and domains, in a .csv or .parquet file."""

import csv
import os
from pathlib import Path
from typing import Any

from ..errors import import_extra, one_line
from ..vocabulary import words

COLUMNS = {"path": ("path", "file", "filepath", "image"), "class": ("class", "label"), "domain": ("domain",)}
"""What a column may be called; the first of several counts."""

Row = tuple[Path, str, str]


def read_table(file: Path, unnamed: str) -> tuple[list[Row], dict[str, str]]:
    """Path, class and domain of each row, `unnamed` where there is no such column; and the rows left out, with reasons.

    Paths are relative to the folder of the table. A picture that is there twice counts once. Raises ValueError that
    names the file and what is wrong with it, such as a picture under two labels.
    """
    try:
        records = _records(file)
    except (ValueError, OSError, csv.Error) as error:  # those of pyarrow are ValueErrors
        raise ValueError(
            f"folder: {str(file)!r} cannot be read ({one_line(error)}); expected a .csv in UTF-8, or a .parquet file"
        ) from error
    columns = {name.strip().lower(): name for name in (records[0] if records else ()) if name}
    of = {what: next((columns[n] for n in names if n in columns), None) for what, names in COLUMNS.items()}
    if of["path"] is None or of["class"] is None:
        raise ValueError(f"folder: {str(file)!r} has the columns {[*columns]}; expected path and class, and domain")
    rows, left_out = {}, {}
    for i, record in enumerate(records, 1):
        path, *labels = (_text(record[name]) if name else unnamed for name in of.values())
        place = Path(os.path.normpath(file.parent / path))
        if not (path and all(labels)):
            left_out[f"row {i}"] = "path, class or domain is empty"
        elif place not in rows:
            rows[place] = labels
        elif [*map(words, rows[place])] == [*map(words, labels)]:
            left_out[f"row {i}"] = "a picture that is there already"
        else:
            raise ValueError(
                f"folder: {str(file)!r} has {path!r} as {rows[place]} and, in row {i}, as {labels}; expected one label"
            )
    return [(place, label, domain) for place, (label, domain) in rows.items()], left_out


def _records(file: Path) -> list[dict[str, Any]]:
    if file.suffix.lower() == ".parquet":
        return import_extra("pyarrow.parquet", "index").read_table(file).to_pylist()
    if file.suffix.lower() != ".csv":
        raise ValueError(f"its name ends in {file.suffix!r}")
    with open(file, encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()
