"""Files: where data and computed things are, and how a file is written whole or not at all."""

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
    """Where `name` ("miniclip", "miniworld") is: in data/ beside the package in a clone, inside it in a wheel."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "data" / name, here / "_data" / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the embedded {name} is missing: expected data/{name} beside the clipnull package")


def cache_path() -> Path:
    """Where computed things are kept: the variable CLIPNULL_CACHE, else ~/.cache/clipnull. It need not exist."""
    return Path(os.environ.get("CLIPNULL_CACHE") or Path.home() / ".cache" / "clipnull")


def cache_folder() -> Path:
    """`cache_path()` as a folder that exists and can be written; an OSError says how to choose another."""
    folder = cache_path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cache: {str(folder)!r} cannot be written ({error.strerror or error}); expected a folder that "
            "can: set the variable CLIPNULL_CACHE to another"
        ) from error
    return folder


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to: renamed to it if all goes well, else deleted.

    Of two writers of one path the last one stays, whole.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")  # not longer where the name of `path` is long
    try:
        temporary.touch()  # fails at once where nothing can be written
        mode = temporary.stat().st_mode  # that of any new file, whatever a writer makes of it
        yield temporary
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else a power cut could leave zeros under the final name
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary), temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error  # no message shows the temporary name
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def alone(folder: str | Path) -> FileLock:
    """A lock that one writer at a time holds for a folder whose files belong together."""
    place = hashlib.sha256(os.fsencode(Path(folder).resolve())).hexdigest()[:16]
    return FileLock(cache_folder() / f"{place}.lock")


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` (UTF-8, lines end in a line feed) to `path`, whole or not at all; returns the path."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def read_lines(argument: str, path: str | Path) -> list[str]:
    """The lines of a text file (UTF-8) that are not blank."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{argument}: {str(path)!r} cannot be read ({error}); expected a text, one a line") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def as_text(name: object) -> str:
    """A name as Markdown that shows it as it is: nothing in it is markup, HTML, or the end of a table's cell."""
    line = " ".join(str(name).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$@:])", r"\\\1", line)


def counted(n: int, thing: str) -> str:
    """A number of things: "1 picture", "2 pictures"."""
    return f"{n} {thing}{'s' * (n != 1)}"


def markdown(rows: Iterable[Sequence[object]], columns: Sequence[str], right: Sequence[bool] = ()) -> str:
    """A table in Markdown: each of `rows` in a line, under the titles `columns`. right: which stand to the right."""
    rule = ["---:" if to_right else "---" for to_right in right] or ["---"] * len(columns)
    lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def aligned(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> str:
    """The same table as plain text for a terminal: the first column to the left, the others to the right."""
    table = [list(map(str, row)) for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(n) for text, n in zip(row[1:], widths[1:], strict=True))])
        for row in table
    )
