"""The command line: `clipnull`, or `python -m clipnull`; `clipnull --help` lists the commands.

Wrong input prints one line and exits with status 2. Failed notebooks and metrics outside their tolerance print a line
each and exit with status 1. Commands import what they need when they run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from . import doctor, indexing, inspecting, measuring, teaching
from .console import Parser, escape_unprintable, terminable, validate_places

DESCRIPTION = "A course and a library: make a pretrained CLIP forget, without its data."
FIRST = ["doctor", "run", "audit", "forget", "check"]
GROUPS = {  # modules of commands, by reader
    "the course": (teaching, doctor),
    "your pictures": (inspecting,),
    "an index of vectors": (indexing,),
    "measuring": (measuring,),
}


def parser() -> tuple[Parser, Mapping[str, Parser]]:
    """Return the top-level parser, and the parsers of the commands by name."""
    top = Parser(prog="clipnull", formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="store_true", help="print the version")
    text = "see above; clipnull COMMAND --help lists its options"
    commands, groups = top.add_subparsers(dest="command", metavar="COMMAND", help=text), {"start here": FIRST}
    for title, modules in GROUPS.items():
        before = len(commands.choices)
        for module in modules:
            module.add(commands)
        groups[title] = [*commands.choices][before:]
    lines = [DESCRIPTION]
    for title, names in groups.items():
        lines += [f"\n{title}:", *(f"  {name:<13}{commands.choices[name].description}" for name in names)]
    top.description = "\n".join(lines)
    return top, commands.choices


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
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
