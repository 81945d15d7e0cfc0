"""Commands for the course: run, compare and publish notebooks, write editions of them, rank patches by students."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from .console import add_command, add_model, add_request

EDITIONS = {
    "publish": ("editions", "execute notebooks and write their outputs back"),
    "seeds": ("goldens", "run with several seeds and propose tolerances"),
    "student": ("editions", "write the course without solutions and outputs"),
    "slides": ("slides", "make slides from the stored outputs of the notebooks"),
    "booklet": ("editions", "write printable pages with all exercises and all solutions"),
    "colab": ("editions", "write copies of the notebooks that install clipnull themselves"),
    "course": ("editions", "write the notebooks of the course to a folder"),
    "quiz": ("quiz", "write the pages of the quiz and its key"),
}
"""Commands that call the function of the same name in a module of clipnull.course and print the files it wrote."""


def add(commands: argparse._SubParsersAction) -> None:
    from ..course.profiles import PROFILES

    options = {
        "run": add_command(commands, "run", run, "execute the lessons and write them to a folder as HTML"),
        "book": add_command(commands, "book", book, "render the stored course as a static site"),
    }
    options |= {name: add_command(commands, name, edition, text) for name, (_, text) in EDITIONS.items()}
    for name in options.keys() - {"course", "quiz"}:
        out = Path("build") if name in ("run", "publish") else Path("build", name)
        options[name]("notebooks", nargs="*", type=Path, help="[all in notebooks/ or in this folder]")
        options[name]("--out", type=Path, default=out, help=f"folder for the results [{out}]")
    options["run"]("--jobs", type=int, help="notebooks to run in parallel [2; 1 with a GPU]")
    options["run"]("--limit", type=float, default=900, help="seconds allowed for each notebook [900]")
    options["run"]("--compare", action="store_true", help="compare the metrics with the goldens")
    options["run"]("--update-goldens", action="store_true", help="copy the metrics into the goldens")
    options["run"]("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    for name in ("run", "seeds"):
        options[name]("--profile", choices=list(PROFILES), help="[gpu if there is one, else mini]")
    options["colab"]("--address", required=True, help="https://github.com/OWNER/NAME")
    options["colab"]("--ref", default="main", help="branch, tag or commit [main]")
    options["course"]("folder", type=Path, metavar="FOLDER")
    options["quiz"]("--out", type=Path, default=Path("notebooks"), help="folder for the two pages [notebooks]")
    text = "rank the patches that students hand in, measured on hidden pictures"
    option = add_command(commands, "leaderboard", leaderboard, text)
    option("data", metavar="DATA", help="folder <domain>/<class>/*, or FILE.npz of embeddings")
    option("patches", nargs="+", type=Path, metavar="PATCH", help="NAME.safetensors; NAME.json may hold predictions")
    add_request(option, "all")
    add_model(option)


def run(args: argparse.Namespace) -> int:
    from ..course import goldens
    from ..course.notebooks import default_notebooks
    from ..course.profiles import default_profile
    from ..course.run import NotebookError, run, show
    from ..files import write_text

    profile, paths = args.profile or default_profile(), args.notebooks or default_notebooks()
    ready = [] if args.notebooks else [show]  # a run of the whole course opens its first page in the browser
    metrics, failures = run(paths, args.out, dict(args.parameters), args.jobs, args.limit, profile, *ready)
    if args.compare and not args.update_goldens:
        entries = goldens.read(goldens.default_goldens(), profile)
        ran = {path.stem: entries[path.stem] for path in paths if path.stem in entries and path.stem in metrics}
        table, different = goldens.compare(metrics, ran, args.out)
        write_text(args.out / "diff.txt", f"{table}\n")
        failures += different
    if failures:
        raise NotebookError("failed:\n" + "\n".join(failures))
    print(f"Open {args.out / paths[0].stem}.html and the pages next to it. Metrics: {args.out}/metrics.json")
    if args.update_goldens and (empty := goldens.update(metrics, goldens.IN_CLONE, profile)):
        raise RuntimeError("fill in atol and null of:\n" + "\n".join(empty))
    return 0


def edition(args: argparse.Namespace) -> int:
    from ..course.notebooks import default_notebooks

    names = ("notebooks", "folder", "out", "profile", "address", "ref")
    arguments = {name: getattr(args, name) for name in names if name in args}
    if "notebooks" in arguments:
        arguments["notebooks"] = args.notebooks or default_notebooks()
    paths = getattr(import_module(f"clipnull.course.{EDITIONS[args.command][0]}"), args.command)(**arguments)
    print("written: " + ", ".join(map(str, paths)))
    return 0


def book(args: argparse.Namespace) -> int:
    from ..course.book import build
    from ..course.notebooks import default_notebooks

    pages = args.notebooks or default_notebooks()
    if not args.notebooks:
        instructor_first = sorted(pages[0].parent.glob("*.md"), key=lambda page: (page.stem != "INSTRUCTOR", page.stem))
        pages = [*pages, *instructor_first]
    print(f"written: {build(pages, args.out, whole=not args.notebooks)}")
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
