"""The commands that measure: a model on pictures, every request and method, and the paper's models and data."""

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
        ("bench", bench, "every request x every method on a data set"),
        ("embed", embed, "write what a model makes of pictures and names into one file, for machines without it"),
        ("paper", paper, "embed and bench several models and folders, beside the paper's two figures"),
    ):
        commands.add_parser(name, help=text, description=text).set_defaults(function=function)
    bench_, embed_, paper_ = (commands.choices[name] for name in ("bench", "embed", "paper"))
    place = "which takes the place of a model too [the embedded miniworld]"
    bench_.add_argument("data", nargs="?", metavar="DATA", help=f"{DATA}, {place}")
    bench_.add_argument("--model", default="miniclip", help="of open_clip [the embedded miniclip]")
    embed_.add_argument("data", metavar="DATA", help="as of bench, but for embeddings")
    embed_.add_argument("--model", required=True, help="of open_clip, or miniclip")
    for command in (bench_, embed_):
        command.add_argument("--pretrained", metavar="TAG", help="its weights")
    for command in (bench_, paper_):
        command.add_argument("--methods", nargs="+", metavar="METHOD", help="[all]")
        command.add_argument("--paradigms", nargs="+", metavar="PARADIGM", help="global, selective, complete [all]")
    bench_.add_argument("--prompts", default="free", help="those of the table: free, domain or build [free]")
    bench_.add_argument("--json", type=Path, metavar="FILE", help="write all rows there, for data/results/write.py")
    bench_.add_argument("--name", help="of the pictures, in results [that of the folder]")
    bench_.add_argument(
        "--baselines", action="store_true", help="our methods and other people's in one table; --methods names either"
    )
    labelled = "with --baselines: pictures for those that need labels [the train split of miniworld]"
    bench_.add_argument("--labelled", metavar="DATA", help=labelled)
    bench_.add_argument("--seeds", type=int, default=3, help="with --baselines: for what is drawn [3]")
    embed_.add_argument(
        "--out", type=Path, required=True, metavar="FILE.npz", help="the file; continues where it stopped"
    )
    unrelated = "unrelated pictures, to measure collateral damage"
    embed_.add_argument("--other", type=Path, metavar="FOLDER", help=unrelated)
    paper_.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of pictures, such as PACS")
    paper_.add_argument("--models", nargs="+", default=["ViT-B-16", "ViT-L-14"], help="[ViT-B-16 ViT-L-14]")
    paper_.add_argument("--pretrained", metavar="TAG", default="openai", help="their weights [openai]")
    paper_.add_argument("--untrained", dest="pretrained", action="store_const", const=None, help="random weights")
    paper_.add_argument(
        "--out", type=Path, default=Path("build/paper"), help="continues where it stopped [build/paper]"
    )
    paper_.add_argument("--most", type=int, metavar="N", help="only N pictures of each class in each domain [all]")
    for command in (embed_, paper_):
        command.add_argument("--no-prototypes", action="store_true", help="synthesize none: minutes in place of hours")


def bench(args: argparse.Namespace) -> int:
    from ..bench import comparison, report, sweep
    from ..datasets.loading import load_images, name_of
    from ..files import write_text
    from ..methods import METHODS
    from ..models import load
    from ..stored import is_stored
    from ..vocabulary import PROMPTS

    if args.json and (args.json.is_dir() or not os.access(args.json.parent, os.W_OK)):
        raise ValueError(f"json: {str(args.json)!r} cannot be written; expected a file in a folder that can be")
    known = list(comparison.ALL if args.baselines else METHODS)
    methods = args.methods and names("methods", args.methods, known)
    paradigms = names("paradigms", args.paradigms or sweep.PARADIGMS, sweep.PARADIGMS)
    one_of("prompts", args.prompts, PROMPTS)
    images = load_images(args.data)
    clip = load(args.data if is_stored(args.data) else args.model, args.pretrained)
    name = args.name or name_of(args.data)
    if args.baselines:
        labelled = load_images(args.labelled) if args.labelled else None if args.data else load_images(split="train")
        entry = report.to_json(clip, images, name, labelled, methods, paradigms, args.seeds)
        text = report.text(entry)
    else:
        entry = sweep.to_json(clip, images, name, methods, paradigms)
        text = sweep.table(entry["summary"], sweep.every_request(images, paradigms), args.prompts)
    if args.json:
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    print(text)
    return 0


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

    options = args.out, args.methods, args.paradigms, args.most, not args.no_prototypes
    print(f"written: {measure(args.folders, args.models, args.pretrained, *options)}")
    return 0
