"""Data and cache folders, atomic writes, and text tables."""

import contextlib
import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock


def data_folder(name: str) -> Path:
    """Return the data folder `name`, such as "miniclip": beside the package in a clone, inside it in a wheel."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "data" / name, here / "_data" / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the bundled {name} is missing; expected data/{name} beside the clipnull package")


def cache_path() -> Path:
    """Return the cache folder, which may not exist yet: $CLIPNULL_CACHE, or else ~/.cache/clipnull."""
    return Path(os.environ.get("CLIPNULL_CACHE") or Path.home() / ".cache" / "clipnull")


def cache_folder() -> Path:
    """Create the cache folder if needed and return it. Raise OSError with a hint if it cannot be written."""
    folder = cache_path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"cache: {str(folder)!r} cannot be written ({error.strerror or error}); expected a writable folder"
        raise OSError(f"{message} in the variable CLIPNULL_CACHE") from error
    return folder


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, renamed to `path` on success and deleted on error. The last of two writers wins."""
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")  # short: the name of `path` may be of maximal length
    try:
        temporary.touch()  # fails early if the folder cannot be written
        mode = temporary.stat().st_mode  # the default of a new file, which some writers change
        yield temporary
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # otherwise a power cut could leave zeros under the final name
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary), temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error  # hide the temporary name
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def alone(folder: str | Path) -> FileLock:
    """Return a lock that lets one process at a time write a folder whose files belong together."""
    name = hashlib.sha256(os.fsencode(Path(folder).resolve())).hexdigest()[:16]
    return FileLock(cache_folder() / f"{name}.lock")


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path`, whole or not at all, as UTF-8 with line feeds. Return the path."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def read_lines(argument: str, path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 text file, stripped and without blank ones. argument: its name in an error."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{argument}: {str(path)!r} cannot be read ({error}); expected a UTF-8 text file") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def as_text(name: object) -> str:
    """Escape a name for Markdown, so that none of it acts as markup, HTML or the end of a table cell."""
    line = " ".join(str(name).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$@:])", r"\\\1", line)


def counted(n: int, thing: str) -> str:
    """Return a number with its noun, such as "1 picture" or "2 pictures"."""
    return f"{n} {thing}{'s' * (n != 1)}"


def markdown(rows: Iterable[Sequence[object]], columns: Sequence[str], right: Sequence[bool] = ()) -> str:
    """Return a Markdown table with the titles `columns`. right: True for each column to align right."""
    rule = ["---:" if to_right else "---" for to_right in right] or ["---"] * len(columns)
    lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def aligned(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> str:
    """Return a plain-text table for a terminal, with the first column aligned left and the others right."""
    table = [list(map(str, row)) for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(n) for text, n in zip(row[1:], widths[1:], strict=True))])
        for row in table
    )
