"""The commands that measure: a model on pictures, every request and method, and the tables made of it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ..console import DATA
from ..errors import names, one_of


def add(commands: argparse._SubParsersAction) -> None:
    """Put the parsers of these commands among those of `clipnull`."""
    for name, function, text in (
        ("bench", bench, "every request x every method on a data set"),
        ("embed", embed, "write what a model makes of pictures and names into one file, for machines without it"),
        ("paper", paper, "embed and bench several models and folders, beside the paper's two figures"),
        ("results", results, "write the tables of RESULTS.md from what was measured"),
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
    of["bench"].add_argument("--json", type=Path, metavar="FILE", help="write all rows there, for `clipnull results`")
    of["bench"].add_argument("--name", help="of the pictures, as results tell it [that of the folder]")
    of["bench"].add_argument(
        "--speed", nargs="*", metavar="PART", help="time the closed form and the rest instead, or some parts alone"
    )
    of["bench"].add_argument(
        "--device",
        help="time embedding, prototypes and edits of three ViTs with random weights there instead: cpu, cuda",
    )
    of["bench"].add_argument(
        "--rivals", action="store_true", help="our methods and other people's in one table; --methods names either"
    )
    of["bench"].add_argument(
        "--labelled",
        metavar="DATA",
        help="of --rivals: pictures for those that need labels [the train split of miniworld]",
    )
    of["bench"].add_argument("--seeds", type=int, default=3, help="of --rivals: for what is drawn [3]")
    of["bench"].add_argument("--forecast", action="store_true", help="measure how good forecasts are instead")
    of["bench"].add_argument("--bound", action="store_true", help="curves, beside what labelled pictures would reach")
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
    of["results"].add_argument(
        "files", nargs="*", type=Path, metavar="JSON", help="what `clipnull bench --json` has written"
    )
    of["results"].add_argument("--picture", action="store_true", help="draw the picture of the README anew, too")


def bench(args: argparse.Namespace) -> int:
    from .. import bench
    from ..data import load_images
    from ..methods import METHODS
    from ..models import load
    from ..results import name_of
    from ..stored import is_stored
    from ..wording import PROMPTS

    if args.json and (args.json.is_dir() or not os.access(args.json.parent, os.W_OK)):
        raise ValueError(f"json: {str(args.json)!r} cannot be written; expected a file in a folder that can be")
    if args.speed is not None:
        from .. import index_speed, speed

        parts = names("parts", args.speed or list(index_speed.PARTS), list(index_speed.PARTS))
        found = {"kind": "part of speed" if args.speed else "speed", "name": "speed"}  # `results` takes the whole
        found |= speed.measure(parts) | {"index": index_speed.measure(parts)}
        text = index_speed.report(found)
    elif args.device:
        from .. import device_speed

        found = {"kind": "device", "name": "device"} | device_speed.measure(args.device)
        text = device_speed.report(found)
    elif args.rivals:
        found, text = rivals(args)
    else:
        methods = names("methods", args.methods or list(METHODS), list(METHODS))
        paradigms = names("paradigms", args.paradigms or bench.PARADIGMS, bench.PARADIGMS)
        one_of("prompts", args.prompts, PROMPTS)
        images = load_images(args.data)
        clip = load(args.data if is_stored(args.data) else args.model, args.pretrained)
        if args.forecast:
            from .. import validation

            found = validation.document(args.name or name_of(args.data), *validation.check(clip, images, paradigms))
            return _tell(args, found, validation.table(found))
        if args.bound:
            from .. import bounds

            found = bounds.document(args.name or name_of(args.data), images, bounds.curves(clip, images))
            return _tell(args, found, bounds.table(found))
        rows = bench.sweep(clip, images, methods, paradigms)
        found = bench.document(clip, images, args.name or name_of(args.data), rows, paradigms)
        text = bench.table(found["summary"], bench.every_request(images, paradigms), args.prompts)
    return _tell(args, found, text)


def _tell(args: argparse.Namespace, found: dict, text: str) -> int:
    from ..files import write_text

    if args.json:
        write_text(args.json, json.dumps(found, indent=1, allow_nan=False) + "\n")
    print(text)
    return 0


def rivals(args: argparse.Namespace) -> tuple[dict, str]:
    """What `bench --rivals` measures, and its tables."""
    from .. import bench, contest, standings
    from ..data import load_images
    from ..models import load
    from ..results import name_of
    from ..stored import is_stored

    paradigms = names("paradigms", args.paradigms or bench.PARADIGMS, bench.PARADIGMS)
    entrants = args.methods and names("methods", args.methods, list(contest.ALL))
    images = load_images(args.data)
    labelled = load_images(args.labelled) if args.labelled else None if args.data else load_images(split="train")
    clip = load(args.data if is_stored(args.data) else args.model, args.pretrained)
    name = args.name or name_of(args.data)
    found = standings.document(clip, images, name, labelled, entrants, paradigms, args.seeds)
    return found, standings.text(found)


def embed(args: argparse.Namespace) -> int:
    from ..data import load_images
    from ..models import load
    from ..storing import store

    images = load_images(args.data)
    clip = load(args.model, args.pretrained)
    print(f"written: {store(clip, images, args.out, args.other, not args.no_prototypes)}")
    return 0


def paper(args: argparse.Namespace) -> int:
    from ..paper import measure

    chosen = args.out, args.methods, args.paradigms, args.most, not args.no_prototypes
    print(f"written: {measure(args.folders, args.models, args.pretrained, *chosen)}")
    return 0


def results(args: argparse.Namespace) -> int:
    from ..results import picture, write

    print("written:", *write(args.files), *([picture()] if args.picture else []))
    return 0
