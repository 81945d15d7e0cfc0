"""The commands of the course: execute notebooks, compare and publish them, write editions of them, and hand out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from .console import add_command, add_model, add_request

EDITIONS = {"student": "editions", "colab": "editions", "slides": "slides", "booklet": "editions"}
"""The module of clipnull.course that makes each edition of the notebooks."""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of these commands to those of `clipnull`."""
    from ..course.profiles import PROFILES

    of = {
        name: add_command(commands, name, function, text)
        for name, function, text in (
            ("run", run, "execute the lessons into a folder, as pages to read"),
            ("publish", publish, "execute notebooks and write their outputs back"),
            ("seeds", seeds, "run with several seeds and propose tolerances"),
            ("student", edition, "write the course without solutions and outputs"),
            ("book", book, "render the course, as stored, to a static site"),
            ("course", course, "write the notebooks of the course into a folder"),
            ("goldens", goldens, "copy recorded metrics into the goldens"),
            ("slides", edition, "make slides of the notebooks from their stored outputs"),
            ("booklet", edition, "write all exercises and all solutions as pages to print"),
            ("colab", edition, "write copies of the notebooks that install clipnull themselves"),
            ("leaderboard", leaderboard, "measure the patches that students hand in on pictures kept back"),
            ("quiz", quiz, "write the pages of the quiz and of its key"),
        )
    }
    for name in ("run", "publish", "seeds", "student", "book", "slides", "booklet", "colab"):
        out = Path("build") if name in ("run", "publish") else Path("build", name)
        of[name]("notebooks", nargs="*", type=Path, help="[all in notebooks/ or in this folder]")
        of[name]("--out", type=Path, default=out, help=f"folder for the results [{out}]")
    of["run"]("--jobs", type=int, help="notebooks at a time [2; 1 with a GPU]")
    of["run"]("--limit", type=float, default=900, help="seconds for a whole notebook [900]")
    of["run"]("--compare", action="store_true", help="compare the metrics with the goldens")
    of["run"]("--update-goldens", action="store_true", help="copy the metrics into the goldens")
    of["run"]("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    of["goldens"]("metrics", type=Path, help="such as build/metrics.json")
    for name in ("run", "seeds", "goldens"):
        of[name]("--profile", choices=list(PROFILES), help="[gpu where there is one, else mini]")
        of[name]("--goldens", type=Path, help="[tests/goldens.json, or the installed ones]")
    of["course"]("folder", type=Path, metavar="FOLDER")
    of["colab"]("--address", required=True, help="https://github.com/OWNER/NAME")
    of["colab"]("--ref", default="main", help="branch, tag or commit [main]")
    of["leaderboard"]("data", metavar="DATA", help="folder <domain>/<class>/*, or FILE.npz of embeddings")
    of["leaderboard"]("patches", nargs="+", type=Path, metavar="PATCH", help="NAME.safetensors; NAME.json predicts")
    add_request(of["leaderboard"], "all")
    add_model(of["leaderboard"])
    of["quiz"]("--out", type=Path, default=Path("notebooks"), help="folder for the two pages [notebooks]")


def _notebooks(args: argparse.Namespace) -> list[Path]:
    from ..course.notebooks import default_notebooks

    return args.notebooks or default_notebooks()


def run(args: argparse.Namespace) -> int:
    from ..course import goldens
    from ..course.profiles import default_profile
    from ..course.run import NotebookError, run, show
    from ..files import write_text

    profile, paths = args.profile or default_profile(), _notebooks(args)
    ready = [] if args.notebooks else [show]  # of the whole course
    metrics, failures = run(paths, args.out, dict(args.parameters), args.jobs, args.limit, profile, *ready)
    if args.compare and not args.update_goldens:
        entries = goldens.read(args.goldens or goldens.default_goldens(), profile)
        entries = {path.stem: entries[path.stem] for path in paths if path.stem in entries}
        write_text(args.out / "diff.txt", goldens.diff(metrics, entries) + "\n")
        ran = {name: entry for name, entry in entries.items() if name in metrics}
        failures += goldens.differences(metrics, ran, args.out)
    if failures:
        raise NotebookError("failed:\n" + "\n".join(failures))
    print(f"To read: {args.out / paths[0].stem}.html, and the pages beside it. Numbers: {args.out}/metrics.json")
    return _update(metrics, args.goldens, profile) if args.update_goldens else 0


def goldens(args: argparse.Namespace) -> int:
    from ..course.goldens import stored

    return _update(stored(args.metrics), args.goldens, args.profile or "mini")


def _update(metrics: Mapping[str, dict[str, float]], path: Path | None, profile: str) -> int:
    from ..course.goldens import IN_CLONE, update

    if empty := update(metrics, path or IN_CLONE, profile):
        raise RuntimeError("fill in atol and null of:\n" + "\n".join(empty))
    return 0


def seeds(args: argparse.Namespace) -> int:
    from ..course.goldens import seeds

    seeds(_notebooks(args), args.out, args.goldens, args.profile)
    return 0


def publish(args: argparse.Namespace) -> int:
    from ..course.editions import publish

    publish(_notebooks(args), args.out)
    return 0


def edition(args: argparse.Namespace) -> int:
    """student, colab, slides, booklet: call the function that the command is named after."""
    module = import_module(f"clipnull.course.{EDITIONS[args.command]}")
    options = {"address": args.address, "ref": args.ref} if args.command == "colab" else {}
    paths = getattr(module, args.command)(_notebooks(args), args.out, **options)
    print("written: " + ", ".join(map(str, paths)))
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


def quiz(args: argparse.Namespace) -> int:
    from ..course.quiz import write

    print("written: " + ", ".join(map(str, write(args.out))))
    return 0


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
