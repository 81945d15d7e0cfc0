"""The commands for instructors: slides, a booklet to print, copies that install clipnull, the leaderboard, the quiz."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of these commands to those of `clipnull`."""

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=text, description=text)
        parser.set_defaults(function=function)
        return parser

    of_slides = command("slides", slides, "make slides of the notebooks from their stored outputs")
    of_booklet = command("booklet", booklet, "write all exercises and all solutions as pages to print")
    of_colab = command("colab", colab, "write copies of the notebooks that install clipnull themselves")
    for parser, out in ((of_slides, "slides"), (of_booklet, "booklet"), (of_colab, "colab")):
        parser.add_argument("notebooks", nargs="*", type=Path, help="[all in notebooks/, or in this folder]")
        parser.add_argument(
            "--out", type=Path, default=Path("build", out), help=f"folder for the results [build/{out}]"
        )
    of_colab.add_argument("--address", help="https://github.com/OWNER/NAME [that of the package's metadata]")
    of_colab.add_argument("--ref", default="main", help="branch, tag or commit [main]")

    board = command("leaderboard", leaderboard, "measure the patches that students hand in on pictures kept back")
    board.add_argument("data", metavar="DATA", help="folder <domain>/<class>/*, or FILE.npz of embeddings")
    board.add_argument("patches", nargs="+", type=Path, metavar="PATCH", help="NAME.safetensors; NAME.json predicts")
    board.add_argument("--classes", nargs="+", metavar="CLASS", help="to forget [all]")
    board.add_argument("--domains", nargs="+", metavar="DOMAIN", help="in which [all]")
    board.add_argument("--model", default="miniclip", help="of open_clip [the embedded miniclip]")
    board.add_argument("--pretrained", metavar="TAG", help="its weights")

    of_quiz = command("quiz", quiz, "write the pages of the quiz and of its key")
    of_quiz.add_argument("--out", type=Path, default=Path("notebooks"), help="folder for the two pages [notebooks]")


def _report(paths: list[Path]) -> int:
    print("written: " + ", ".join(map(str, paths)))
    return 0


def slides(args: argparse.Namespace) -> int:
    from ..course.notebooks import default_notebooks
    from ..course.slides import slides

    return _report(slides(args.notebooks or default_notebooks(), args.out))


def booklet(args: argparse.Namespace) -> int:
    from ..course.booklet import booklet
    from ..course.notebooks import default_notebooks

    return _report(booklet(args.notebooks or default_notebooks(), args.out))


def colab(args: argparse.Namespace) -> int:
    from ..course.editions import colab
    from ..course.notebooks import default_notebooks

    return _report(colab(args.notebooks or default_notebooks(), args.out, args.address, args.ref))


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
