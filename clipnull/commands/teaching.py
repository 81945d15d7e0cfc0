"""The commands of the course: execute notebooks, compare and publish them, write editions of them, and hand out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from .console import add_command, add_model, add_request


def add(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of these commands to those of `clipnull`."""
    from ..course.profiles import PROFILES

    of = {
        name: add_command(commands, name, function, text)
        for name, function, text in (
            ("run", run, "execute the lessons into a folder, as pages to read"),
            ("publish", publish, "execute notebooks and write their outputs back"),
            ("seeds", seeds, "run with several seeds and propose tolerances"),
            ("student", student, "write the course without solutions and outputs"),
            ("book", book, "render the course, as stored, to a static site"),
            ("course", course, "write the notebooks of the course into a folder"),
            ("goldens", goldens, "copy recorded metrics into the goldens"),
            ("slides", slides, "make slides of the notebooks from their stored outputs"),
            ("booklet", booklet, "write all exercises and all solutions as pages to print"),
            ("colab", colab, "write copies of the notebooks that install clipnull themselves"),
            ("leaderboard", leaderboard, "measure the patches that students hand in on pictures kept back"),
            ("quiz", quiz, "write the pages of the quiz and of its key"),
        )
    }
    for name in ("run", "publish", "seeds", "student", "book", "slides", "booklet", "colab"):
        out = Path("build") if name in ("run", "publish") else Path("build", name)
        of[name]("notebooks", nargs="*", type=Path, help="[all in notebooks/ or in this folder]")
        of[name]("--out", type=Path, default=out, help=f"folder for the results [{out}]")
    for name in ("run", "seeds"):
        of[name]("--jobs", type=int, help="notebooks at a time [2; 1 with a GPU]")
        of[name]("--limit", type=float, default=900, help="seconds for a whole notebook [900]")
    of["run"]("--compare", action="store_true", help="compare the metrics with the goldens")
    of["run"]("--update-goldens", action="store_true", help="copy the metrics into the goldens")
    of["run"]("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    of["seeds"]("--seeds", type=int, default=5, help="how many [5]")
    of["seeds"]("--times", type=float, default=4, help="atol in standard deviations [4]")
    of["goldens"]("metrics", type=Path, help="such as build/metrics.json")
    for name in ("run", "seeds", "goldens"):
        of[name]("--profile", choices=list(PROFILES), help="[gpu where there is one, else mini]")
        of[name]("--goldens", type=Path, help="[tests/goldens.json, or the installed ones]")
    of["course"]("folder", type=Path, metavar="FOLDER")
    of["colab"]("--address", help="https://github.com/OWNER/NAME [that of the package's metadata]")
    of["colab"]("--ref", default="main", help="branch, tag or commit [main]")
    of["leaderboard"]("data", metavar="DATA", help="folder <domain>/<class>/*, or FILE.npz of embeddings")
    of["leaderboard"]("patches", nargs="+", type=Path, metavar="PATCH", help="NAME.safetensors; NAME.json predicts")
    add_request(of["leaderboard"], "all")
    add_model(of["leaderboard"])
    of["quiz"]("--out", type=Path, default=Path("notebooks"), help="folder for the two pages [notebooks]")


def shield(arguments: Sequence[str]) -> list[str]:
    """The arguments, in which a value after `-p NAME` begins with "=": argparse would take "-1e-5" for an option."""
    shielded = list(arguments)
    for i in [i for i, argument in enumerate(shielded[:-2]) if argument == "-p" and shielded[0] == "run"]:
        shielded[i + 2] = f"={shielded[i + 2]}"
    return shielded


def _notebooks(args: argparse.Namespace) -> list[Path]:
    from ..course.notebooks import default_notebooks

    return args.notebooks or default_notebooks()


def _report(paths: list[Path]) -> int:
    print("written: " + ", ".join(map(str, paths)))
    return 0


def run(args: argparse.Namespace) -> int:
    from ..course import goldens
    from ..course.profiles import default_profile
    from ..course.run import NotebookError, run, show
    from ..files import write_text

    profile, paths = args.profile or default_profile(), _notebooks(args)
    parameters = {name: value.removeprefix("=") for name, value in args.parameters}
    ready = [] if args.notebooks else [show]  # of the whole course
    metrics, failures = run(paths, args.out, parameters, args.jobs, args.limit, args.profile, *ready)
    if args.compare and not args.update_goldens:
        names, entries = {p.stem for p in paths}, goldens.read(args.goldens or goldens.default_goldens(), profile)
        entries = {name: entry for name, entry in entries.items() if name in names}
        write_text(args.out / "diff.txt", goldens.diff(metrics, entries) + "\n")
        ran = {name: entry for name, entry in entries.items() if name in metrics}
        failures += goldens.differences(metrics, ran, args.out)
    if failures:
        raise NotebookError("failed:\n" + "\n".join(failures))
    print(f"To read: {args.out / paths[0].stem}.html, and the pages beside it. Numbers: {args.out}/metrics.json")
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


def seeds(args: argparse.Namespace) -> int:
    from ..course.goldens import default_goldens
    from ..course.seeds import seeds

    path = args.goldens or default_goldens()
    seeds(_notebooks(args), args.out, args.seeds, args.times, path, args.profile, args.jobs, args.limit)
    return 0


def publish(args: argparse.Namespace) -> int:
    from ..course.editions import publish

    publish(_notebooks(args), args.out)
    return 0


def student(args: argparse.Namespace) -> int:
    from ..course.editions import student

    return _report(student(_notebooks(args), args.out))


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


def slides(args: argparse.Namespace) -> int:
    from ..course.slides import slides

    return _report(slides(_notebooks(args), args.out))


def booklet(args: argparse.Namespace) -> int:
    from ..course.booklet import booklet

    return _report(booklet(_notebooks(args), args.out))


def colab(args: argparse.Namespace) -> int:
    from ..course.editions import colab

    return _report(colab(_notebooks(args), args.out, args.address, args.ref))


def quiz(args: argparse.Namespace) -> int:
    from ..course.quiz import write

    return _report(write(args.out))


def leaderboard(args: argparse.Namespace) -> int:
    from ..course.leaderboard import leaderboard
    from ..datasets.loading import load_images
    from ..models import load
    from ..stored import is_stored
    from ..vocabulary import Forget

    request, images = Forget(args.classes, args.domains), load_images(args.data)
    clip = load(args.data if is_stored(args.data) else args.model, args.pretrained)
    print(leaderboard(clip, images, request, args.patches))
    return 0
