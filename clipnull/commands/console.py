"""A program in a terminal: what it says of wrong arguments, how it is stopped, and what it can print."""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ..errors import near, one_of

DATA = "a folder <domain>/<class>/* or <class>/*, a table, archives, or FILE.npz of embeddings; LAYOUT:DATA if need be"
"""What a command says of an argument that `load_images` takes."""


class Parser(argparse.ArgumentParser):
    """Tells an error in one line, with near matches for an unknown command, option or choice."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.allow_abbrev = False  # else a shortened option is taken, where a longer one may have been meant

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"clipnull: {' '.join(message.split())}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            try:
                one_of(action.dest, value, action.choices)
            except ValueError as error:
                raise argparse.ArgumentError(None, str(error)) from None

    def unknown(self, arguments: Sequence[str]) -> NoReturn:
        """The error for `arguments` that nothing takes."""
        known = [o for action in self._actions for o in action.option_strings if o.startswith("--") or o == "-p"]
        for argument in arguments:
            if argument.startswith("-"):
                found = near(argument.partition("=")[0], known)
                hint = f"did you mean {' or '.join(found)}?" if found else f"expected one of {', '.join(known)}"
                self.error(f"{self.prog.rpartition(' ')[2]}: {argument} is not an option; {hint}")
        self.error(f"{self.prog.rpartition(' ')[2]}: {' '.join(arguments)}: not expected here; see {self.prog} --help")


def write_anything() -> None:
    """Let what is printed have characters that the terminal lacks: they are escaped, and hours of work are not lost."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, end the program as an exception.

    So `finally` runs and no kernel stays behind, which a second signal does not disturb. SIGHUP is ignored where it was
    (nohup).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, _: object) -> NoReturn:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
