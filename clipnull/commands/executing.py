"""The commands of the course: execute notebooks, compare and publish them, write editions of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Put the parsers of these commands among those of `clipnull`."""
    from ..course.profiles import PROFILES

    for name, function, text, out in (
        ("run", run, "execute notebooks into a folder and print their metrics", "build"),
        ("publish", publish, "execute notebooks and write their outputs back", "build"),
        ("seeds", seeds, "run with several seeds and propose tolerances", "build/seeds"),
        ("student", student, "write the course without solutions and outputs", "build/student"),
        ("book", book, "render the course, as stored, to a static site", "build/book"),
        ("course", course, "write the notebooks of the course into a folder", ""),
        ("goldens", goldens, "copy recorded metrics into the goldens", ""),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        if out:
            command.add_argument("notebooks", nargs="*", type=Path, help="[all in notebooks/ or in this folder]")
            command.add_argument("--out", type=Path, default=Path(out), help=f"folder for the results [{out}]")
    of = commands.choices
    for command in (of["run"], of["seeds"]):
        command.add_argument("--jobs", type=int, help="notebooks at a time [2; 1 with a GPU]")
        command.add_argument("--limit", type=float, default=900, help="seconds for a whole notebook [900]")
    of["run"].add_argument("--compare", action="store_true", help="compare the metrics with the goldens")
    of["run"].add_argument("--update-goldens", action="store_true", help="copy the metrics into the goldens")
    of["seeds"].add_argument("--seeds", type=int, default=5, help="how many [5]")
    of["seeds"].add_argument("--times", type=float, default=4, help="atol in standard deviations [4]")
    pair = ("NAME", "VALUE")
    of["run"].add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=pair)
    of["goldens"].add_argument("metrics", type=Path, help="such as build/metrics.json")
    for command in (of["run"], of["seeds"], of["goldens"]):
        command.add_argument("--profile", choices=list(PROFILES), help="[gpu where there is one, else mini]")
        command.add_argument("--goldens", type=Path, help="[tests/goldens.json, or the installed ones]")
    of["course"].add_argument("folder", type=Path, metavar="FOLDER")


def shield(arguments: Sequence[str]) -> list[str]:
    """The arguments, in which a value after `-p NAME` begins with "=": argparse would take "-1e-5" for an option."""
    shielded = list(arguments)
    for i in [i for i, argument in enumerate(shielded[:-2]) if argument == "-p" and shielded[0] == "run"]:
        shielded[i + 2] = f"={shielded[i + 2]}"
    return shielded


def _notebooks(args: argparse.Namespace) -> list[Path]:
    from ..course.notebooks import default_notebooks

    return args.notebooks or default_notebooks()


def run(args: argparse.Namespace) -> int:
    from ..course import goldens
    from ..course.profiles import default_profile
    from ..course.run import NotebookError, run
    from ..files import write_text

    profile, paths = args.profile or default_profile(), _notebooks(args)
    metrics, failures = run(
        paths,
        args.out,
        {name: value.removeprefix("=") for name, value in args.parameters},
        args.jobs,
        args.limit,
        args.profile,
    )
    if args.compare and not args.update_goldens:
        names, entries = {p.stem for p in paths}, goldens.read(args.goldens or goldens.default_goldens(), profile)
        entries = {name: entry for name, entry in entries.items() if name in names}
        write_text(args.out / "diff.txt", goldens.diff(metrics, entries) + "\n")
        ran = {name: entry for name, entry in entries.items() if name in metrics}
        failures += goldens.differences(metrics, ran, args.out)
    if failures:
        raise NotebookError("failed:\n" + "\n".join(failures))
    print(f"pages to read: {args.out}/*.html    metrics: {args.out}/metrics.json")
    return _update(metrics, args.goldens, profile) if args.update_goldens else 0


def _update(metrics: Mapping[str, dict[str, float]], path: Path | None, profile: str) -> int:
    from ..course.goldens import IN_CLONE, update
    from ..course.run import NotebookError

    if path is None and not IN_CLONE.parent.is_dir():
        raise ValueError(f"goldens: {IN_CLONE} cannot be written here; expected --goldens FILE")
    empty = update(metrics, path or IN_CLONE, profile)
    if empty:
        raise NotebookError("fill in atol and null of:\n" + "\n".join(empty))
    return 0


def goldens(args: argparse.Namespace) -> int:
    from ..course.goldens import stored

    return _update(stored(args.metrics), args.goldens, args.profile or "mini")


def publish(args: argparse.Namespace) -> int:
    from ..course.editions import publish

    publish(_notebooks(args), args.out)
    return 0


def seeds(args: argparse.Namespace) -> int:
    from ..course.goldens import default_goldens
    from ..course.seeds import seeds

    path = args.goldens or default_goldens()
    seeds(_notebooks(args), args.out, args.seeds, args.times, path, args.profile, args.jobs, args.limit)
    return 0


def student(args: argparse.Namespace) -> int:
    from ..course.editions import student

    print(f"{len(student(_notebooks(args), args.out))} notebooks without solutions: {args.out}")
    return 0


def course(args: argparse.Namespace) -> int:
    from ..course.editions import course

    print(f"{len(course(args.folder))} notebooks: {args.folder}")
    return 0


def book(args: argparse.Namespace) -> int:
    from ..course.book import build

    pages = _notebooks(args)
    if not args.notebooks:
        hub_first = sorted(pages[0].parent.glob("*.md"), key=lambda page: (page.stem != "INSTRUCTOR", page.stem))
        pages = [*pages, *hub_first]
    print(f"to read: {build(pages, args.out, whole=not args.notebooks)}")
    return 0
