"""The command line: `clipnull`, or `python -m clipnull`.

`clipnull course`   write the notebooks of the course into a folder
`clipnull run`      execute notebooks into build/ and print the table of metrics; with --compare against the goldens,
                    with --update-goldens over into them
`clipnull student`  write the course without solutions and outputs
`clipnull book`     render the course, as stored, to a static site
`clipnull slides`   make slides of the notebooks, as stored
`clipnull booklet`  write all exercises, and all solutions, as pages to print
`clipnull colab`    write the notebooks with a cell that installs clipnull
`clipnull leaderboard`  measure the patches that students hand in on pictures kept back
`clipnull quiz`     write the pages of the quiz and of its key
`clipnull publish`  execute with the notebooks' own defaults, and write the outputs back
`clipnull goldens`  take the metrics of an earlier run over into the goldens
`clipnull seeds`    run with several seeds, and propose tolerances from the spread
`clipnull bench`    every request x every method on a data set; with --baselines, other
                    people's methods, too
`clipnull data`     which pictures would be used: layout, counts, what is left out
`clipnull audit`    what remains of the forgotten and what is damaged, the worst first
`clipnull embed`    write what a model makes of pictures and names into one file
`clipnull paper`    both for several models and folders, beside the paper's two figures
`clipnull near`     words that stand beside a name that is to be forgotten
`clipnull forget`   make a patch, from names alone
`clipnull check`    what an index answers before and after a patch
`clipnull apply`    write an edited copy of an index, or of the queries in front of it
`clipnull undo`     write what an edited index was before

A user's error is told in one line, with exit status 2; failed notebooks and metrics outside their tolerance, a line
each, with 1. What a command needs is imported when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from . import executing, indexing, inspecting, measuring, teaching
from .console import Parser, terminable, write_anything

GROUPS = executing, teaching, measuring, inspecting, indexing


def parser() -> tuple[Parser, Mapping[str, Parser]]:
    """The parser, and that of each command by name."""
    top = Parser(
        prog="clipnull", description="A course and a library: make a pretrained CLIP forget, without its data."
    )
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for group in GROUPS:
        group.add(commands)
    return top, commands.choices


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    write_anything()
    top, commands = parser()
    args, rest = top.parse_known_args(arguments)
    if rest:
        commands.get(args.command, top).unknown(rest)
    if args.version:
        from .. import __version__

        print(f"clipnull {__version__}")
        return 0
    if args.command is None:
        top.error(f"no command given; expected one of {', '.join(commands)}")
    try:
        with terminable():
            return args.function(args)
    except (ValueError, OSError, ImportError) as error:
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        print(" ".join(told.split()), file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
