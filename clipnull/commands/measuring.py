"""Commands that benchmark: every request and method on pictures, and the paper's models and data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import names, one_of
from .console import DATA, add_command, add_model


def add(commands: argparse._SubParsersAction) -> None:
    option = add_command(commands, "bench", bench, "run every request x every method on a data set")
    option("data", nargs="?", metavar="DATA", help=f"{DATA} [miniworld]")
    add_model(option)
    option("--methods", nargs="+", metavar="METHOD", help="[all]")
    option("--paradigms", nargs="+", metavar="PARADIGM", help="global, selective, complete [all]")
    option("--prompts", default="free", help="prompts shown in the table: free, domain or build [free]")
    option("--json", type=Path, metavar="FILE", help="write all rows there, for data/results/write.py")
    option("--name", help="name of the pictures in results [the folder's]")
    option("--baselines", action="store_true", help="compare with published baselines; --methods may name them too")
    labelled = "with --baselines: pictures for methods that need labels [the train split of miniworld]"
    option("--labelled", metavar="DATA", help=labelled)
    option("--seeds", type=int, default=3, help="with --baselines: number of random seeds [3]")

    text = "embed and benchmark several models and folders, next to the paper's two figures"
    option = add_command(commands, "paper", paper, text)
    option("folders", nargs="+", type=Path, metavar="FOLDER", help="folders of pictures, such as PACS")
    option("--models", nargs="+", default=["ViT-B-16", "ViT-L-14"], help="[ViT-B-16 ViT-L-14]")
    option("--pretrained", metavar="TAG", default="openai", help="their weights [openai]")
    option("--methods", nargs="+", metavar="METHOD", help="[all]")
    option("--paradigms", nargs="+", metavar="PARADIGM", help="global, selective, complete [all]")
    option("--out", type=Path, default=Path("build/paper"), help="a repeated call resumes [build/paper]")
    option("--most", type=int, metavar="N", help="at most N pictures of each class in each domain [all]")
    option("--no-prototypes", action="store_true", help="skip synthesis: minutes instead of hours")


def bench(args: argparse.Namespace) -> int:
    from ..bench import comparison, report, sweep
    from ..datasets.loading import load_images, name_of
    from ..files import aligned, write_text
    from ..methods import METHODS
    from ..models import load
    from ..stored import is_stored
    from ..vocabulary import PROMPTS

    options = list(comparison.ALL if args.baselines else METHODS)
    methods = args.methods and names("methods", args.methods, options)
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
        title = f"Means over requests with 95 % intervals, prompts {args.prompts!r}:"
        text = "\n\n".join([title, *sweep.tables(entry["summary"], args.prompts, aligned)])
    if args.json:
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    print(text)
    return 0


def paper(args: argparse.Namespace) -> int:
    from ..bench.paper import measure

    options = args.out, args.methods, args.paradigms, args.most, not args.no_prototypes
    print(f"written: {measure(args.folders, args.models, args.pretrained, *options)}")
    return 0
