"""Commands for your pictures: summarize them, embed them, audit what remains of a forgotten class."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import names, shorten, within
from ..files import aligned, counted, write_text
from .console import DATA, add_command, add_model, add_request

if TYPE_CHECKING:
    from ..edit import Edit
    from ..images import Images
    from ..vocabulary import Forget

SHOWN = 5  # files printed for each reason to leave them out


def add(commands: argparse._SubParsersAction) -> None:
    text = "summarize the pictures in a folder, table or archive: layout, counts, what is left out"
    option = add_command(commands, "data", data, text)
    option("data", nargs="?", metavar="DATA", help=f"{DATA} [miniworld]")
    option("--json", type=Path, metavar="FILE", help="write the summary there, with a hash of the pictures")
    option("--tars", type=Path, metavar="FOLDER", help="write the pictures as archives for CLIP_benchmark")

    text = "write the embeddings of pictures and names to one file, for machines without the model"
    option = add_command(commands, "embed", embed, text)
    option("data", metavar="DATA", help="a folder, a table or archives, as for `clipnull data`")
    add_model(option, required=True)
    option("--out", type=Path, required=True, metavar="FILE.npz", help="the file; a repeated call resumes")
    option("--other", type=Path, metavar="FOLDER", help="unrelated pictures, to measure collateral damage")
    option("--no-prototypes", action="store_true", help="skip synthesis: minutes instead of hours")

    text = "measure what remains of forgotten classes and what else is damaged, worst first"
    option = add_command(commands, "audit", audit, text)
    option("data", nargs="?", metavar="DATA", help=f"{DATA} [miniworld]")
    add_model(option)
    add_request(option, "those of the patch")
    option("--methods", nargs="+", default=["oblique"], metavar="METHOD", help="methods to audit [oblique]")
    option("--chance", action="store_true", help="also audit methods with a strength at strength 'chance'")
    option("--patch", type=Path, metavar="FILE", help="audit this edit instead of making one")
    option("--retrained", metavar="MODEL", help="a model trained without the class [the one for miniclip, if any]")
    option("--words", default="", metavar="A,B", help="other names of the class, in any language, to query with")
    option("--max-left", type=float, default=10.0, metavar="PERCENT", help="forgotten pictures still recognised [10]")
    option("--max-lost", type=float, default=5.0, metavar="POINTS", help="accuracy that any kept class may lose [5]")
    option("--slow", action="store_true", help="also fine-tune, to see what returns in 100 steps (miniworld)")
    option("--json", type=Path, metavar="FILE", help="write all findings there")
    option("--seed", type=int, default=0, help="seed of folds and draws [0]")


def data(args: argparse.Namespace) -> int:
    from ..datasets.layouts import by_reason
    from ..datasets.loading import find_dataset, load_images
    from ..datasets.webdataset import pack
    from ..stored import is_stored

    if args.data is not None and is_stored(args.data):
        if args.json or args.tars:
            raise ValueError(f"data: {args.data!r} holds embeddings; expected pictures for --json and --tars")
        print(_counts(load_images(args.data)))
        return 0
    dataset = find_dataset(args.data)
    manifest = dataset.manifest()
    if args.json:
        write_text(args.json, json.dumps(manifest, indent=1) + "\n")
    print(f"{dataset.root}: read as {manifest['layout']!r}, split: {manifest['split']}")
    print(_counts(dataset.images))
    print(f"left out: {len(dataset.left_out) or 'nothing'}")
    for reason, files in by_reason(dataset.left_out).items():
        print(f"  {len(files)}, {reason}: {', '.join(files[:SHOWN])}{', ...' * (len(files) > SHOWN)}")
    if args.tars:
        split = "train" if manifest["split"].startswith("train") else "test"
        print(f"written: {pack(dataset.images, args.tars, split)}")
    return 0


def _counts(images: Images) -> str:
    """Format the numbers of pictures by class and domain as a table."""
    (classes, domains), counts = (images.vocabulary.classes, images.vocabulary.domains), images.counts()
    rows = zip([*classes, "total"], [*counts.tolist(), counts.sum(0).tolist()], strict=True)
    table = aligned(((name, *row, sum(row)) for name, row in rows), ["", *domains, "total"])
    return f"{len(images)} pictures, {len(classes)} classes, {counted(len(domains), 'domain')}\n{table}"


def embed(args: argparse.Namespace) -> int:
    from ..datasets.loading import load_images
    from ..datasets.storing import store
    from ..models import load

    images = load_images(args.data)
    clip = load(args.model, args.pretrained)
    print(f"written: {store(clip, images, args.out, args.other, not args.no_prototypes)}")
    return 0


def audit(args: argparse.Namespace) -> int:
    """Return 1 if a class exceeds --max-left or --max-lost."""
    from .. import __version__
    from ..audits import audit_each
    from ..datasets.loading import load_images, name_of
    from ..edit import Edit
    from ..models import load
    from ..stored import is_stored
    from ..unlearning import unlearn

    limits = {name: within(name, getattr(args, name), 0, 100) for name in ("max_left", "max_lost")}
    runs = _runs(args)
    images = load_images(args.data)
    clip = load(args.data if is_stored(args.data) else args.model, args.pretrained)
    patch = Edit.load(args.patch, clip) if args.patch else None
    request = _request(args, patch)
    words = [word.strip() for word in args.words.split(",") if word.strip()]
    if words and (request.classes is None or len(request.classes) != 1):
        raise ValueError(f"words: given for {request}; expected one class with these names")
    synonyms = {request.classes[0]: words} if words and request.classes else None
    retrained = load(args.retrained) if args.retrained else True
    train = load_images(split="train") if args.slow else None
    edits = [patch] if patch else [unlearn(clip, request, images.vocabulary, m, **settings) for m, settings in runs]
    reports = audit_each(clip, edits, images, request, retrained, synonyms, train, args.seed)
    reports = [replace(report, limits=limits) for report in reports]
    if args.json:
        aims = [{"aim": settings["strength"]} if settings else {} for _, settings in runs]
        audits = [report.as_dict() | aim for report, aim in zip(reports, aims, strict=True)]
        date = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"kind": "audit", "name": f"audit, {name_of(args.data)}, {request}", "date": date}
        entry |= {"version": __version__, "patch": args.patch and str(args.patch), "audits": audits}
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    print(*reports, sep="\n\n")
    return int(any(report.hurt for report in reports))


def _runs(args: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """Return the methods to audit with their settings; only one for a patch."""
    from ..forecasting.choosing import CHANCE, with_strength
    from ..methods import METHODS

    methods = names("methods", args.methods, list(METHODS))
    if args.slow and args.data:
        raise ValueError("slow: fine-tuning needs training pictures, which only miniworld has; expected no DATA")
    at_chance = [method for method in methods if args.chance and method in with_strength()]
    if args.chance and (args.patch or not at_chance):
        raise ValueError(f"chance: no method has a strength; expected --methods from {shorten(with_strength())}")
    runs = [*((method, {}) for method in methods), *((method, {"strength": CHANCE}) for method in at_chance)]
    return runs[:1] if args.patch else runs


def _request(args: argparse.Namespace, patch: Edit | None) -> Forget:
    from ..vocabulary import Forget

    if args.classes or args.domains:
        return Forget(args.classes, args.domains)
    if patch is not None and patch.request:
        return Forget.from_dict(patch.request)
    raise ValueError("classes, domains: neither is given; expected names to forget, or a patch with a request")
