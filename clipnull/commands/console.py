"""Terminal behaviour of the command line: errors in arguments, signals, characters that cannot be printed."""

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

DATA = "folder <domain>/<class>/* or <class>/*, table, archives, or FILE.npz of embeddings; LAYOUT:DATA sets the layout"
"""The help text of an argument for `load_images`."""


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, with close matches for unknown commands, options and choices."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)  # an abbreviation may be a typo for another option

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"clipnull: {' '.join(message.split())}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            try:
                one_of(action.dest, value, action.choices)
            except ValueError as error:
                raise argparse.ArgumentError(None, str(error)) from None

    def refuse(self, arguments: Sequence[str]) -> NoReturn:
        """Exit with an error about `arguments` that no parser accepted."""
        command, unknown = self.prog.rpartition(" ")[2], [text for text in arguments if text.startswith("-")]
        if not unknown:
            self.error(f"{command}: {' '.join(arguments)}: not expected here; see {self.prog} --help")
        options = [option for action in self._actions for option in action.option_strings if option != "-h"]
        matches = near(unknown[0].partition("=")[0], options)
        hint = f"did you mean {' or '.join(matches)}?" if matches else f"expected one of {', '.join(options)}"
        self.error(f"{command}: {unknown[0]} is not an option; {hint}")


Option = Callable[..., argparse.Action]  # the method `add_argument` of a command's parser


def add_command(commands: argparse._SubParsersAction, name: str, function: Callable, text: str) -> Option:
    """Add a command to `clipnull`; return its `add_argument`."""
    parser = commands.add_parser(name, description=text)
    parser.set_defaults(function=function)
    return parser.add_argument


def add_model(option: Option, default: str | None = "miniclip", **settings: Any) -> None:
    """Add the options for `load`."""
    option("--model", default=default, help="a model of open_clip [miniclip]", **settings)
    option("--pretrained", metavar="TAG", help="its weights: TAG, FILE, TAG@FILE, or none for random weights")


def add_request(option: Option, default: str) -> None:
    """Add the options for a `Forget`."""
    option("--classes", nargs="+", metavar="CLASS", help=f"classes to forget [{default}]")
    option("--domains", nargs="+", metavar="DOMAIN", help="domains in which to forget them [all]; alone: whole domains")


def validate_places(args: argparse.Namespace) -> None:
    """Raise ValueError, before any work begins, if an output file or folder cannot be written."""
    for name in ("json", "out", "tars"):
        path = getattr(args, name, None)
        file = name == "json" or args.command in ("forget", "queries", "apply", "undo")
        if path is None:
            continue
        folder = path.parent
        while not file and not folder.exists():  # it will be created
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or (name == "json" and path.is_dir()):
            expected = "a name in an existing, writable folder" if file else "a writable folder"
            raise ValueError(f"{name}: {str(path)!r} cannot be written; expected {expected}")


def escape_unprintable() -> None:
    """Print characters that the terminal lacks as escapes, so that one of them cannot end hours of work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM, and SIGHUP of a closed terminal, into SystemExit, so that no notebook kernel is left running.

    While the program stops, further signals are ignored. An ignored SIGHUP (nohup) stays ignored.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}

    def stop(number: int, _: object) -> NoReturn:
        for handled in handlers:
            signal.signal(handled, signal.SIG_IGN)
        sys.exit(128 + number)

    try:
        for number in handlers:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
