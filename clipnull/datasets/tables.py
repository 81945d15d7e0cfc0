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

    Paths are relative to the folder of the table. A picture that is there twice counts once, and not at all if its rows
    differ in class or domain. Raises ValueError that names the file and what is wrong with it.
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
        path, label, domain = (_text(record[name]) if name else unnamed for name in of.values())
        place = Path(os.path.normpath(file.parent / path))
        if not (path and label and domain):
            left_out[f"row {i}"] = "path, class or domain is empty"
        elif place in rows:
            first, *others = rows[place]
            same = [*map(words, others)] == [words(label), words(domain)]
            left_out[f"row {i}"] = f"the picture of row {first}"
            if not same:
                left_out[f"row {i}"] += f", which says {others[0]!r}, {others[1]!r}, in place of {label!r}, {domain!r}"
                left_out[f"row {first}"] = f"the picture of row {i} under another class or domain"
        else:
            rows[place] = i, label, domain
    return [(place, *row[1:]) for place, row in rows.items() if f"row {row[0]}" not in left_out], left_out


def _records(file: Path) -> list[dict[str, Any]]:
    if file.suffix.lower() == ".parquet":
        return import_extra("pyarrow.parquet", "index").read_table(file).to_pylist()
    if file.suffix.lower() != ".csv":
        raise ValueError(f"its name ends in {file.suffix!r}")
    with open(file, encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()
