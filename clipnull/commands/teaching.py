"""The commands for instructors: slides, a booklet to print, copies that install clipnull, the quiz."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Put the parsers of these commands among those of `clipnull`."""
    for name, function, text, out in (
        ("slides", slides, "make slides of the notebooks, as stored", "build/slides"),
        ("booklet", booklet, "write all exercises, and all solutions, as pages to print", "build/booklet"),
        ("colab", colab, "write the notebooks with a cell that installs clipnull", "build/colab"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        command.add_argument("notebooks", nargs="*", type=Path, help="without: all in notebooks/ or in this folder")
        command.add_argument("--out", type=Path, default=Path(out), help=f"folder for the results [{out}]")
    of = commands.choices
    of["colab"].add_argument("--address", help="https://github.com/OWNER/NAME [that of the package's metadata]")
    of["colab"].add_argument("--ref", default="main", help="branch, tag or commit [main]")
    text = "measure the patches that students hand in on pictures kept back"
    board = commands.add_parser("leaderboard", help=text, description=text)
    board.set_defaults(function=leaderboard)
    board.add_argument("data", metavar="DATA", help="folder <domain>/<class>/*, or FILE.npz of embeddings")
    board.add_argument("patches", nargs="+", type=Path, metavar="PATCH", help="NAME.safetensors; NAME.json predicts")
    board.add_argument("--classes", nargs="+", metavar="CLASS", help="to forget [all]")
    board.add_argument("--domains", nargs="+", metavar="DOMAIN", help="in which [all]")
    board.add_argument("--model", default="miniclip", help="of open_clip [the embedded miniclip]")
    board.add_argument("--pretrained", metavar="TAG", help="its weights")
    text = "write the pages of the quiz and of its key from one file"
    of = commands.add_parser("quiz", help=text, description=text)
    of.set_defaults(function=quiz)
    of.add_argument("--out", type=Path, default=Path("notebooks"), help="folder for the two pages [notebooks]")


def _told(written: list[Path]) -> int:
    print("written: " + ", ".join(map(str, written)))
    return 0


def slides(args: argparse.Namespace) -> int:
    from ..course.notebooks import default_notebooks
    from ..course.slides import slides

    return _told(slides(args.notebooks or default_notebooks(), args.out))


def booklet(args: argparse.Namespace) -> int:
    from ..course.booklet import booklet
    from ..course.notebooks import default_notebooks

    return _told(booklet(args.notebooks or default_notebooks(), args.out))


def colab(args: argparse.Namespace) -> int:
    from ..course.colab import colab
    from ..course.notebooks import default_notebooks

    return _told(colab(args.notebooks or default_notebooks(), args.out, args.address, args.ref))


def quiz(args: argparse.Namespace) -> int:
    from ..course.quiz import write

    return _told(write(args.out))


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
