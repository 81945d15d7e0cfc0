"""A program in a terminal: how it reports wrong arguments, how a signal stops it, and what it can print."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from ..errors import near, one_of

DATA = "a folder <domain>/<class>/* or <class>/*, a table, archives, or FILE.npz of embeddings; LAYOUT:DATA if need be"
"""The help of an argument that `load_images` takes."""


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, with near matches for an unknown command, option or choice."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)  # a shortened option may have meant a longer one

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"clipnull: {' '.join(message.split())}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            try:
                one_of(action.dest, value, action.choices)
            except ValueError as error:
                raise argparse.ArgumentError(None, str(error)) from None

    def refuse(self, arguments: Sequence[str]) -> NoReturn:
        """The error for `arguments` that no parser took."""
        command, unknown = self.prog.rpartition(" ")[2], [word for word in arguments if word.startswith("-")]
        if not unknown:
            self.error(f"{command}: {' '.join(arguments)}: not expected here; see {self.prog} --help")
        options = [option for action in self._actions for option in action.option_strings if option != "-h"]
        matches = near(unknown[0].partition("=")[0], options)
        hint = f"did you mean {' or '.join(matches)}?" if matches else f"expected one of {', '.join(options)}"
        self.error(f"{command}: {unknown[0]} is not an option; {hint}")


Option = Callable[..., argparse.Action]
"""`add_argument` of a command."""


def add_command(commands: argparse._SubParsersAction, name: str, function: Callable, text: str) -> Option:
    """Add a command to those of `clipnull`; returns what adds an argument to it."""
    parser = commands.add_parser(name, description=text)
    parser.set_defaults(function=function)
    return parser.add_argument


def add_model(option: Option, default: str | None = "miniclip", **settings: Any) -> None:
    """Add the options that `load` takes."""
    option("--model", default=default, help="of open_clip [the embedded miniclip]", **settings)
    option("--pretrained", metavar="TAG", help="its weights: TAG, FILE, TAG@FILE, or none for random ones")


def add_request(option: Option, default: str) -> None:
    """Add the options of a `Forget`."""
    option("--classes", nargs="+", metavar="CLASS", help=f"to forget [{default}]")
    option("--domains", nargs="+", metavar="DOMAIN", help="in which [all]; alone: whole domains")


def validate_places(args: argparse.Namespace) -> None:
    """Raises ValueError, before any work, if a file or folder that a command is to write has no place."""
    for name in ("json", "out", "tars"):
        path = getattr(args, name, None)
        file = name == "json" or args.command in ("forget", "queries", "apply", "undo")
        if path is None:
            continue
        folder = path.parent
        while not file and not folder.exists():  # it will be made
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or (name == "json" and path.is_dir()):
            expected = "a name in a folder that is there and can be written to" if file else "a folder that can be"
            raise ValueError(f"{name}: {str(path)!r} cannot be written; expected {expected}")


def escape_unprintable() -> None:
    """Print characters that the terminal lacks as escapes, so that hours of work are not lost to one of them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a closed terminal, end the program as an exception, so that no kernel stays behind.

    A second signal does not disturb that. SIGHUP stays ignored where it was (nohup).
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}

    def stop(number: int, _: object) -> NoReturn:
        for one in handlers:
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    try:
        for number in handlers:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
