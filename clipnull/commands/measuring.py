"""The commands that measure: every request and method on pictures, and the paper's models and data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import names, one_of
from .console import DATA, add_command, add_model


def add(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of these commands to those of `clipnull`."""
    option = add_command(commands, "bench", bench, "every request x every method on a data set")
    place = "which takes the place of a model too [the embedded miniworld]"
    option("data", nargs="?", metavar="DATA", help=f"{DATA}, {place}")
    add_model(option)
    option("--methods", nargs="+", metavar="METHOD", help="[all]")
    option("--paradigms", nargs="+", metavar="PARADIGM", help="global, selective, complete [all]")
    option("--prompts", default="free", help="those of the table: free, domain or build [free]")
    option("--json", type=Path, metavar="FILE", help="write all rows there, for data/results/write.py")
    option("--name", help="of the pictures, in results [that of the folder]")
    option("--baselines", action="store_true", help="our methods and other people's; --methods names either")
    labelled = "with --baselines: pictures for those that need labels [the train split of miniworld]"
    option("--labelled", metavar="DATA", help=labelled)
    option("--seeds", type=int, default=3, help="with --baselines: for what is drawn [3]")

    text = "embed and bench several models and folders, beside the paper's two figures"
    option = add_command(commands, "paper", paper, text)
    option("folders", nargs="+", type=Path, metavar="FOLDER", help="of pictures, such as PACS")
    option("--models", nargs="+", default=["ViT-B-16", "ViT-L-14"], help="[ViT-B-16 ViT-L-14]")
    option("--pretrained", metavar="TAG", default="openai", help="their weights [openai]")
    option("--methods", nargs="+", metavar="METHOD", help="[all]")
    option("--paradigms", nargs="+", metavar="PARADIGM", help="global, selective, complete [all]")
    option("--out", type=Path, default=Path("build/paper"), help="continues where it stopped [build/paper]")
    option("--most", type=int, metavar="N", help="only N pictures of each class in each domain [all]")
    option("--no-prototypes", action="store_true", help="synthesize none: minutes in place of hours")


def bench(args: argparse.Namespace) -> int:
    from ..bench import comparison, report, sweep
    from ..datasets.loading import load_images, name_of
    from ..files import aligned, write_text
    from ..methods import METHODS
    from ..models import load
    from ..stored import is_stored
    from ..vocabulary import PROMPTS

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
        text = report.tables(entry, aligned)
    else:
        entry = sweep.to_json(clip, images, name, methods, paradigms)
        about = f"Means over requests with 95 % intervals, prompts {args.prompts!r}:"
        text = "\n\n".join([about, *sweep.tables(entry["summary"], args.prompts, aligned)])
    if args.json:
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    print(text)
    return 0


def paper(args: argparse.Namespace) -> int:
    from ..bench.paper import measure

    options = args.out, args.methods, args.paradigms, args.most, not args.no_prototypes
    print(f"written: {measure(args.folders, args.models, args.pretrained, *options)}")
    return 0
