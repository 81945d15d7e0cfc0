"""The commands that look before and after: what pictures would be used; what remains of the forgotten."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import names, shorten
from .console import DATA

if TYPE_CHECKING:
    from ..images import Images

SHOWN = 20
"""Files that are left out, of those that are printed."""


def add(commands: argparse._SubParsersAction) -> None:
    """Put the parsers of these commands among those of `clipnull`."""
    text = "which pictures a folder, table or archive gives: layout, counts by class and domain, what is left out"
    data_ = commands.add_parser("data", help=text, description=text)
    data_.set_defaults(function=data)
    data_.add_argument("data", nargs="?", metavar="DATA", help=f"{DATA} [the embedded miniworld]")
    data_.add_argument("--json", type=Path, metavar="FILE", help="write all of it there, with a hash of the pictures")
    data_.add_argument("--tars", type=Path, metavar="FOLDER", help="write the pictures as archives for CLIP_benchmark")
    text = "what remains of the forgotten and what is damaged, the worst first"
    audit_ = commands.add_parser("audit", help=text, description=text)
    audit_.set_defaults(function=audit)
    audit_.add_argument("data", nargs="?", metavar="DATA", help=f"{DATA} [the embedded miniworld]")
    audit_.add_argument("--model", default="miniclip", help="of open_clip [the embedded miniclip]")
    audit_.add_argument("--pretrained", metavar="TAG", help="its weights")
    audit_.add_argument("--classes", nargs="+", metavar="CLASS", help="to forget [those of the patch]")
    audit_.add_argument("--domains", nargs="+", metavar="DOMAIN", help="in which [all]; alone: whole domains")
    audit_.add_argument("--methods", nargs="+", default=["oblique"], metavar="METHOD", help="that edit [oblique]")
    audit_.add_argument(
        "--chance",
        action="store_true",
        help="of each method that has a strength, audit the edit that aims at chance, too",
    )
    audit_.add_argument("--patch", type=Path, metavar="FILE", help="the edit, in place of making one")
    audit_.add_argument("--clean", metavar="MODEL", help="that never knew [the one that comes with miniclip, if any]")
    audit_.add_argument(
        "--words", default="", metavar="A,B", help="other names of the class, in any language, to ask with"
    )
    audit_.add_argument("--slow", action="store_true", help="fine-tune, too: what comes back in 100 steps (miniworld)")
    audit_.add_argument("--json", type=Path, metavar="FILE", help="write all findings there")
    audit_.add_argument("--figure", type=Path, metavar="FILE.png", help="draw the (first) findings there")
    audit_.add_argument("--seed", type=int, default=0, help="of folds and draws [0]")


def data(args: argparse.Namespace) -> int:
    from ..datasets.loading import find_dataset, load_images
    from ..datasets.webdataset import pack
    from ..files import write_text
    from ..stored import is_stored

    if args.data is not None and is_stored(args.data):
        if args.json or args.tars:
            raise ValueError(f"data: {args.data!r} holds embeddings; expected pictures for --json and --tars")
        print(_counts(load_images(args.data)))
        return 0
    dataset = find_dataset(args.data)
    told = dataset.manifest()
    if args.json:
        write_text(args.json, json.dumps(told, indent=1) + "\n")
    print(f"{dataset.root}: read as {told['layout']!r}, split: {told['split']}")
    print(_counts(dataset.images))
    renamed = [f"{name} ({', '.join(own)})" for name, own in told["folders"].items() if own != [name]]
    if renamed:
        print(f"named otherwise on disk: {'; '.join(renamed)}")
    left = [f"  {name}: {why}" for name, why in dataset.left.items()]
    more = [f"  and {len(left) - SHOWN} more, in --json FILE"] if len(left) > SHOWN else []
    print(f"left out: {len(left) or 'nothing'}", *left[:SHOWN], *more, sep="\n")
    if args.tars:
        print(f"written: {pack(dataset.images, args.tars, 'train' if told['split'].startswith('train') else 'test')}")
    return 0


def _counts(images: Images) -> str:
    """Pictures by class and domain, as plain text."""
    (classes, domains), counts = (images.vocabulary.classes, images.vocabulary.domains), images.counts()
    first, width = max(len(name) for name in (*classes, "in all")) + 2, [max(len(k), 6) + 2 for k in domains]
    rows = [("", domains, "in all"), *((c, n, sum(n)) for c, n in zip(classes, counts.tolist(), strict=True))]
    rows.append(("in all", counts.sum(0).tolist(), len(images)))
    lines = (
        f"{name:<{first}}" + "".join(f"{x:>{w}}" for x, w in zip(cells, width, strict=True)) + f"{total:>8}"
        for name, cells, total in rows
    )
    several = "domains" if len(domains) > 1 else "domain"
    return f"{len(images)} pictures, {len(classes)} classes, {len(domains)} {several}\n" + "\n".join(lines)


def audit(args: argparse.Namespace) -> int:
    from ..audits import audit_each
    from ..datasets.loading import load_images, name_of
    from ..edit import Edit
    from ..files import write_text, written
    from ..forecasting.calibration import CHANCE, with_strength
    from ..methods import METHODS
    from ..models import load
    from ..stored import is_stored
    from ..unlearning import unlearn
    from ..vocabulary import Forget

    methods = names("methods", args.methods, list(METHODS))
    if args.slow and args.data:
        raise ValueError("slow: fine-tuning needs training pictures, which only miniworld has; expected no DATA")
    images = load_images(args.data)
    clip = load(args.data if is_stored(args.data) else args.model, args.pretrained)
    edit = Edit.load(args.patch, clip) if args.patch else None
    if args.classes or args.domains:
        request = Forget(args.classes, args.domains)
    elif edit is not None and edit.request:
        request = Forget.from_dict(edit.request)
    else:
        raise ValueError("classes, domains: neither is given; expected names to forget, or a patch that tells them")
    words = [word.strip() for word in args.words.split(",") if word.strip()]
    if words and (request.classes is None or len(request.classes) != 1):
        raise ValueError(f"words: given for {request}; expected one class that they are names of")
    named = {request.classes[0]: words} if words and request.classes else None
    clean = load(args.clean) if args.clean else True
    train = load_images(split="train") if args.slow else None
    chance = [method for method in methods if method in with_strength()] if args.chance else []
    if args.chance and (args.patch or not chance):
        raise ValueError(
            f"chance: no method with a strength is asked; expected --methods of {shorten(with_strength())}"
        )
    edits = [edit] if edit else [unlearn(clip, request, images.vocabulary, method) for method in methods]
    edits += [unlearn(clip, request, images.vocabulary, method, strength=CHANCE) for method in chance]
    aims = [{}] * (len(edits) - len(chance)) + [{"aim": CHANCE}] * len(chance)
    reports = audit_each(clip, edits, images, request, clean, named, train, args.seed)
    if args.json:
        name = f"audit, {name_of(args.data)}, {request}"
        found = {
            "kind": "audit",
            "name": name,
            "audits": [r.as_dict() | aim for r, aim in zip(reports, aims, strict=True)],
        }
        write_text(args.json, json.dumps(found, indent=1, allow_nan=False) + "\n")
    if args.figure:
        from ..course.plots import audit as draw

        with written(args.figure) as part:
            draw(reports[0]).savefig(part, format="png", dpi=150, bbox_inches="tight")
    print(*reports, sep="\n\n")
    return 0
