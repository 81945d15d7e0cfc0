"""The commands that measure: a model on pictures, every request and method, and the tables made of it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ..errors import names, one_of
from .console import DATA


def add(commands: argparse._SubParsersAction) -> None:
    """Put the parsers of these commands among those of `clipnull`."""
    for name, function, text in (
        ("bench", sweep, "every request x every method on a data set"),
        ("embed", embed, "write what a model makes of pictures and names into one file, for machines without it"),
        ("paper", paper, "embed and bench several models and folders, beside the paper's two figures"),
    ):
        commands.add_parser(name, help=text, description=text).set_defaults(function=function)
    of = commands.choices
    of["bench"].add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help=f"{DATA}, which takes the place of a model too [the embedded miniworld]",
    )
    of["bench"].add_argument("--model", default="miniclip", help="of open_clip [the embedded miniclip]")
    of["bench"].add_argument("--pretrained", metavar="TAG", help="its weights")
    for command in (of["bench"], of["paper"]):
        command.add_argument("--methods", nargs="+", metavar="METHOD", help="[all]")
        command.add_argument("--paradigms", nargs="+", metavar="PARADIGM", help="global, selective, complete [all]")
    of["bench"].add_argument("--prompts", default="free", help="those of the table: free, domain or build [free]")
    of["bench"].add_argument(
        "--json", type=Path, metavar="FILE", help="write all rows there, for data/results/write.py"
    )
    of["bench"].add_argument("--name", help="of the pictures, as results tell it [that of the folder]")
    of["bench"].add_argument(
        "--rivals", action="store_true", help="our methods and other people's in one table; --methods names either"
    )
    of["bench"].add_argument(
        "--labelled",
        metavar="DATA",
        help="of --rivals: pictures for those that need labels [the train split of miniworld]",
    )
    of["bench"].add_argument("--seeds", type=int, default=3, help="of --rivals: for what is drawn [3]")
    of["embed"].add_argument("data", metavar="DATA", help="as of bench, but for embeddings")
    of["embed"].add_argument("--model", required=True, help="of open_clip, or miniclip")
    of["embed"].add_argument("--pretrained", metavar="TAG", help="its weights")
    of["embed"].add_argument(
        "--out", type=Path, required=True, metavar="FILE.npz", help="the file; goes on where it stopped"
    )
    of["embed"].add_argument(
        "--other", type=Path, metavar="FOLDER", help="unrelated pictures, to measure collateral damage"
    )
    of["paper"].add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of pictures, such as PACS")
    of["paper"].add_argument("--models", nargs="+", default=["ViT-B-16", "ViT-L-14"], help="[ViT-B-16 ViT-L-14]")
    of["paper"].add_argument("--pretrained", metavar="TAG", default="openai", help="their weights [openai]")
    of["paper"].add_argument("--untrained", dest="pretrained", action="store_const", const=None, help="random weights")
    of["paper"].add_argument(
        "--out", type=Path, default=Path("build/paper"), help="goes on where it stopped [build/paper]"
    )
    of["paper"].add_argument("--most", type=int, metavar="N", help="only N pictures of each class in each domain [all]")
    for command in (of["embed"], of["paper"]):
        command.add_argument("--no-prototypes", action="store_true", help="synthesize none: minutes in place of hours")


def sweep(args: argparse.Namespace) -> int:
    from ..bench import sweep
    from ..datasets.loading import load_images, name_of
    from ..methods import METHODS
    from ..models import load
    from ..stored import is_stored
    from ..vocabulary import PROMPTS

    if args.json and (args.json.is_dir() or not os.access(args.json.parent, os.W_OK)):
        raise ValueError(f"json: {str(args.json)!r} cannot be written; expected a file in a folder that can be")
    if args.rivals:
        found, text = rivals(args)
    else:
        methods = names("methods", args.methods or list(METHODS), list(METHODS))
        paradigms = names("paradigms", args.paradigms or sweep.PARADIGMS, sweep.PARADIGMS)
        one_of("prompts", args.prompts, PROMPTS)
        images = load_images(args.data)
        clip = load(args.data if is_stored(args.data) else args.model, args.pretrained)
        rows = sweep.sweep(clip, images, methods, paradigms)
        found = sweep.document(clip, images, args.name or name_of(args.data), rows, paradigms)
        text = sweep.table(found["summary"], sweep.every_request(images, paradigms), args.prompts)
    return _tell(args, found, text)


def _tell(args: argparse.Namespace, found: dict, text: str) -> int:
    from ..files import write_text

    if args.json:
        write_text(args.json, json.dumps(found, indent=1, allow_nan=False) + "\n")
    print(text)
    return 0


def rivals(args: argparse.Namespace) -> tuple[dict, str]:
    """What `bench --rivals` measures, and its tables."""
    from ..bench import comparison, report, sweep
    from ..datasets.loading import load_images, name_of
    from ..models import load
    from ..stored import is_stored

    paradigms = names("paradigms", args.paradigms or sweep.PARADIGMS, sweep.PARADIGMS)
    entrants = args.methods and names("methods", args.methods, list(comparison.ALL))
    images = load_images(args.data)
    labelled = load_images(args.labelled) if args.labelled else None if args.data else load_images(split="train")
    clip = load(args.data if is_stored(args.data) else args.model, args.pretrained)
    name = args.name or name_of(args.data)
    found = report.document(clip, images, name, labelled, entrants, paradigms, args.seeds)
    return found, report.text(found)


def embed(args: argparse.Namespace) -> int:
    from ..datasets.loading import load_images
    from ..datasets.storing import store
    from ..models import load

    images = load_images(args.data)
    clip = load(args.model, args.pretrained)
    print(f"written: {store(clip, images, args.out, args.other, not args.no_prototypes)}")
    return 0


def paper(args: argparse.Namespace) -> int:
    from ..bench.paper import measure

    chosen = args.out, args.methods, args.paradigms, args.most, not args.no_prototypes
    print(f"written: {measure(args.folders, args.models, args.pretrained, *chosen)}")
    return 0
