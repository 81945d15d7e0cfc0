"""The command line: `clipnull`, or `python -m clipnull`.

`clipnull course`   write the notebooks of the course into a folder
`clipnull run`      execute notebooks into build/ and print the table of metrics; with --compare against the goldens,
                    with --update-goldens over into them
`clipnull student`  write the course without solutions and outputs
`clipnull book`     render the course, as stored, to a static site
`clipnull publish`  execute with the notebooks' own defaults, and write the outputs back
`clipnull goldens`  take the metrics of an earlier run over into the goldens
`clipnull seeds`    run with several seeds, and propose tolerances from the spread
`clipnull bench`    every request x every method on a data set; with --speed, the time of the closed form
`clipnull embed`    write what a model makes of pictures and names into one file
`clipnull paper`    both for several models and folders, beside the paper's two figures
`clipnull results`  write the tables of RESULTS.md from what was measured

A user's error is told in one line, with exit status 2; failed notebooks and metrics outside their tolerance, a line
each, with 1. What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .console import Parser, terminable, write_anything
from .errors import names, one_of


def parser() -> tuple[Parser, Mapping[str, Parser]]:
    """The parser, and that of each command by name."""
    from .course.profiles import PROFILES

    top = Parser(
        prog="clipnull", description="A course and a library: make a pretrained CLIP forget, without its data."
    )
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for name, text, out in (
        ("run", "execute notebooks into a folder", "build"),
        ("publish", "execute notebooks and write their outputs back", "build"),
        ("seeds", "run with several seeds and propose tolerances", "build/seeds"),
        ("student", "write the course without solutions and outputs", "build/student"),
        ("book", "render the course, as stored, to a static site", "build/book"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("notebooks", nargs="*", type=Path, help="without: all in notebooks/ or in this folder")
        command.add_argument("--out", type=Path, default=Path(out), help=f"folder for the results [{out}]")
    for name, text in (
        ("course", "write the notebooks of the course into a folder"),
        ("goldens", "take recorded metrics over into the goldens"),
        ("execute", "execute one notebook, in this process"),
        ("bench", "every request x every method on a data set"),
        ("embed", "write what a model makes of pictures and names into one file, for machines without it"),
        ("paper", "embed and bench several models and folders, beside the paper's two figures"),
        ("results", "write the tables of RESULTS.md from what was measured"),
    ):
        commands.add_parser(name, help=text, description=text)
    run, seeds, bench, embed, paper, results, one = (
        commands.choices[name] for name in ("run", "seeds", "bench", "embed", "paper", "results", "execute")
    )
    for command in (run, seeds):
        command.add_argument("--jobs", type=int, help="notebooks at a time [2; 1 with a GPU]")
        command.add_argument("--limit", type=float, default=900, help="seconds for a whole notebook [900]")
    run.add_argument("--compare", action="store_true", help="compare the metrics with the goldens")
    run.add_argument("--update-goldens", action="store_true", help="take the metrics over into the goldens")
    seeds.add_argument("--seeds", type=int, default=5, help="how many [5]")
    seeds.add_argument("--times", type=float, default=4, help="atol in standard deviations [4]")
    one.add_argument("path", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--runner", type=int, help=argparse.SUPPRESS)  # the process without which it has no purpose
    for command in (run, one):
        command.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    commands.choices["goldens"].add_argument("metrics", type=Path, help="such as build/metrics.json")
    for command in (run, seeds, commands.choices["goldens"]):
        command.add_argument("--profile", choices=list(PROFILES), help="[gpu where there is one, else mini]")
        command.add_argument("--goldens", type=Path, help="[tests/goldens.json, else those that are installed]")
    commands.choices["course"].add_argument("folder", type=Path, metavar="FOLDER")
    bench.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="folder <domain>/<class>/*, or FILE.npz of embeddings, in place of a model too [the embedded miniworld]",
    )
    bench.add_argument("--model", default="miniclip", help="of open_clip [the embedded miniclip]")
    bench.add_argument("--pretrained", metavar="TAG", help="its weights")
    for command in (bench, paper):
        command.add_argument("--methods", nargs="+", metavar="METHOD", help="[all]")
        command.add_argument("--paradigms", nargs="+", metavar="PARADIGM", help="global, selective, complete [all]")
    bench.add_argument("--prompts", default="free", help="those of the table: free, domain or build [free]")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write all rows there, for `clipnull results`")
    bench.add_argument("--name", help="of the pictures, as results tell it [that of the folder]")
    bench.add_argument("--speed", action="store_true", help="time the closed form instead")
    embed.add_argument("data", metavar="DATA", help="folder <domain>/<class>/*")
    embed.add_argument("--model", required=True, help="of open_clip, or miniclip")
    embed.add_argument("--pretrained", metavar="TAG", help="its weights")
    embed.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="the file; goes on where it stopped")
    embed.add_argument("--other", type=Path, metavar="FOLDER", help="unrelated pictures, to measure collateral damage")
    paper.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="<domain>/<class>/*, such as PACS")
    paper.add_argument("--models", nargs="+", default=["ViT-B-16", "ViT-L-14"], help="[ViT-B-16 ViT-L-14]")
    paper.add_argument("--pretrained", metavar="TAG", default="openai", help="their weights [openai]")
    paper.add_argument("--untrained", dest="pretrained", action="store_const", const=None, help="random weights")
    paper.add_argument("--out", type=Path, default=Path("build/paper"), help="goes on where it stopped [build/paper]")
    paper.add_argument("--most", type=int, metavar="N", help="only N pictures of each class in each domain [all]")
    for command in (embed, paper):
        command.add_argument("--no-prototypes", action="store_true", help="synthesize none: minutes in place of hours")
    results.add_argument("files", nargs="*", type=Path, metavar="JSON", help="what `clipnull bench --json` has written")
    results.add_argument("--picture", action="store_true", help="draw the picture of the README anew, too")
    return top, commands.choices


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    write_anything()
    top, commands = parser()
    args, rest = top.parse_known_args(arguments)
    if rest:
        commands.get(args.command, top).unknown(rest)
    if args.version:
        from . import __version__

        print(f"clipnull {__version__}")
        return 0
    if args.command is None:
        top.error(f"no command given; expected one of {', '.join(commands)}")
    try:
        with terminable():
            return globals()[f"_{args.command}"](args)
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


# --- one function a command --------------------------------------------------------------------------------------


def _notebooks(args: argparse.Namespace) -> list[Path]:
    from .course.notebooks import default_notebooks

    return args.notebooks or default_notebooks()


def _run(args: argparse.Namespace) -> int:
    from .course import goldens
    from .course.profiles import default_profile
    from .course.run import NotebookError, run
    from .files import write_text

    notebooks = _notebooks(args)
    metrics, failures = run(notebooks, args.out, dict(args.parameters), args.jobs, args.limit, args.profile)
    profile = args.profile or default_profile()
    if args.compare and not args.update_goldens:
        chosen = {path.stem for path in notebooks}
        known = goldens.read(args.goldens or goldens.default_goldens(), profile)
        known = {name: golden for name, golden in known.items() if name in chosen}
        write_text(args.out / "diff.txt", goldens.diff(metrics, known) + "\n")
        ran = {name: golden for name, golden in known.items() if name in metrics}
        failures += goldens.differences(metrics, ran, args.out)
    if failures:
        raise NotebookError("failed:\n" + "\n".join(failures))
    print(f"pages to read: {args.out}/*.html    metrics: {args.out}/metrics.json")
    return _take_over(metrics, args.goldens, profile) if args.update_goldens else 0


def _take_over(metrics: Mapping[str, dict[str, float]], path: Path | None, profile: str) -> int:
    from .course import goldens
    from .course.run import NotebookError

    if path is None and not goldens.IN_CLONE.parent.is_dir():
        raise ValueError(f"goldens: {goldens.IN_CLONE} cannot be written here; expected --goldens FILE")
    empty = goldens.update(metrics, path or goldens.IN_CLONE, profile)
    if empty:
        raise NotebookError("fill in atol and null of:\n" + "\n".join(empty))
    return 0


def _goldens(args: argparse.Namespace) -> int:
    from .course.goldens import stored

    return _take_over(stored(args.metrics), args.goldens, args.profile or "mini")


def _publish(args: argparse.Namespace) -> int:
    from .course.editions import publish

    publish(_notebooks(args), args.out)
    return 0


def _seeds(args: argparse.Namespace) -> int:
    from .course.goldens import default_goldens
    from .course.seeds import seeds

    goldens = args.goldens or default_goldens()
    seeds(_notebooks(args), args.out, args.seeds, args.times, goldens, args.profile, args.jobs, args.limit)
    return 0


def _student(args: argparse.Namespace) -> int:
    from .course.editions import student

    print(f"{len(student(_notebooks(args), args.out))} notebooks without solutions: {args.out}")
    return 0


def _course(args: argparse.Namespace) -> int:
    from .course.editions import course

    print(f"{len(course(args.folder))} notebooks: {args.folder}")
    return 0


def _book(args: argparse.Namespace) -> int:
    from .course.book import build

    pages = _notebooks(args)
    if not args.notebooks:
        pages = [*pages, *pages[0].parent.glob("INSTRUCTOR.md")]
    print(f"to read: {build(pages, args.out)}")
    return 0


def _execute(args: argparse.Namespace) -> int:
    from .course.notebooks import to_html
    from .course.run import ended_with, execute

    with ended_with(args.runner):
        to_html(execute(args.path, args.out, dict(args.parameters)))
    return 0


def _bench(args: argparse.Namespace) -> int:
    from . import bench
    from .data import load_images
    from .files import write_text
    from .methods import METHODS
    from .models import load
    from .results import name_of
    from .stored import is_stored
    from .wording import PROMPTS

    if args.json and (args.json.is_dir() or not os.access(args.json.parent, os.W_OK)):
        raise ValueError(f"json: {str(args.json)!r} cannot be written; expected a file in a folder that can be")
    if args.speed:
        from . import speed

        found = {"kind": "speed", "name": "speed"} | speed.measure()
        text = speed.report(found)
    else:
        methods = names("methods", args.methods or list(METHODS), list(METHODS))
        paradigms = names("paradigms", args.paradigms or bench.PARADIGMS, bench.PARADIGMS)
        one_of("prompts", args.prompts, PROMPTS)
        images = load_images(args.data)
        clip = load(args.data if is_stored(args.data) else args.model, args.pretrained)
        rows = bench.sweep(clip, images, methods, paradigms)
        found = bench.document(clip, images, args.name or name_of(args.data), rows, paradigms)
        text = bench.table(found["summary"], bench.every_request(images, paradigms), args.prompts)
    if args.json:
        write_text(args.json, json.dumps(found, indent=1, allow_nan=False) + "\n")
    print(text)
    return 0


def _embed(args: argparse.Namespace) -> int:
    from .data import load_images
    from .models import load
    from .storing import store

    images = load_images(args.data)
    clip = load(args.model, args.pretrained)
    print(f"written: {store(clip, images, args.out, args.other, not args.no_prototypes)}")
    return 0


def _paper(args: argparse.Namespace) -> int:
    from .paper import measure

    chosen = args.out, args.methods, args.paradigms, args.most, not args.no_prototypes
    print(f"written: {measure(args.folders, args.models, args.pretrained, *chosen)}")
    return 0


def _results(args: argparse.Namespace) -> int:
    from .results import picture, write

    print("written:", *write(args.files), *([picture()] if args.picture else []))
    return 0
