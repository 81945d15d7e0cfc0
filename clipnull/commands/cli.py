"""The command line: `clipnull`, or `python -m clipnull`; `clipnull --help` lists the commands.

Wrong input ends with one line and exit status 2; failed notebooks and metrics outside their tolerance end with a line
each and status 1. A command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from . import doctor, indexing, inspecting, measuring, teaching
from .console import Parser, escape_unprintable, terminable, validate_places

DESCRIPTION = "A course and a library: make a pretrained CLIP forget, without its data."
FIRST = ["doctor", "run", "audit", "forget", "check"]
GROUPS = {
    "the course": (teaching, doctor),
    "your pictures": (inspecting,),
    "an index of vectors": (indexing,),
    "measuring": (measuring,),
}
"""Commands by reader."""


def parser() -> tuple[Parser, Mapping[str, Parser]]:
    """The parser, and that of each command by name."""
    top = Parser(prog="clipnull", formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="store_true", help="print the version")
    text = "one of those above; clipnull COMMAND --help shows its options"
    commands, listed = top.add_subparsers(dest="command", metavar="COMMAND", help=text), {"start here": FIRST}
    for title, modules in GROUPS.items():
        known = len(commands.choices)
        for module in modules:
            module.add(commands)
        listed[title] = [*commands.choices][known:]
    lines = [DESCRIPTION]
    for title, names in listed.items():
        lines += [f"\n{title}:", *(f"  {name:<13}{commands.choices[name].description}" for name in names)]
    top.description = "\n".join(lines)
    return top, commands.choices


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    escape_unprintable()
    top, commands = parser()
    args, rest = top.parse_known_args(arguments)
    if rest:
        commands.get(args.command, top).refuse(rest)
    if args.version:
        from .. import __version__

        print(f"clipnull {__version__}")
        return 0
    if args.command is None:
        top.error(f"no command given; expected one of {', '.join(commands)}")
    try:
        validate_places(args)
        with terminable():
            return args.function(args)
    except (ValueError, OSError, ImportError) as error:
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        print(" ".join(message.split()), file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
