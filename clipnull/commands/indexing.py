"""The commands for an index of vectors: a patch from names, what it does, the switch, and back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..edit import Edit
    from ..index.files import Side
    from ..models import Clip
    from ..vocabulary import Vocabulary


def add(commands: argparse._SubParsersAction) -> None:
    """Put the parsers of these commands among those of `clipnull`."""
    for name, function, text in (
        ("near", near, "the words nearest to a name: they may answer in its place"),
        ("forget", forget, "make a patch from names alone"),
        ("check", check, "what an index answers before and after a patch; nothing is switched"),
        ("apply", apply, "write an edited copy of an index, or of the queries in front of it"),
        ("undo", undo, "restore an edited index, or edited queries"),
    ):
        commands.add_parser(name, help=text, description=text).set_defaults(function=function)
    of = commands.choices
    for command in (of["near"], of["forget"]):
        command.add_argument("--classes", nargs="+", metavar="NAME", required=command is of["near"], help="to forget")
        command.add_argument("--model", help="of open_clip [the embedded miniclip]")
        command.add_argument("--pretrained", metavar="TAG", help="its weights")
        command.add_argument("--vocabulary", type=Path, metavar="FILE", help="all classes, one a line")
        command.add_argument("--embeddings", metavar="FILE.npz", help="texts in place of a model and a vocabulary")
    of["near"].add_argument(
        "--candidates", type=Path, metavar="FILE", help="words to look among, one a line [ImageNet]"
    )
    of["near"].add_argument("--most", type=int, default=8, help="how many for a class [8]")
    of["forget"].add_argument("--domains", nargs="+", metavar="NAME", help="in these alone, of those in FILE [all]")
    of["forget"].add_argument("--method", default="oblique", help="one of clipnull.METHODS [oblique]")
    of["forget"].add_argument(
        "--prototypes", type=int, default=8, metavar="N", help="pictures to synthesize; 0: texts alone, in seconds [8]"
    )
    of["forget"].add_argument("--out", type=Path, required=True, metavar="PATCH", help="ends in .safetensors")
    for command in (of["check"], of["apply"], of["undo"]):
        command.add_argument("patch", type=Path, metavar="PATCH", help="what `clipnull forget` wrote")
        sides = command.add_mutually_exclusive_group(required=True) if command is not of["check"] else command
        sides.add_argument(
            "--index",
            type=Path,
            metavar="IN",
            required=command is of["check"],
            help="vectors of pictures: .npy, .npz, .safetensors, .parquet, or a folder in clip-retrieval's layout",
        )
        sides.add_argument("--queries", type=Path, metavar="FILE", required=command is of["check"], help="of texts")
        command.add_argument("--array", metavar="NAME", help="array, tensor or column of the vectors, if several")
    for command in (of["check"], of["apply"]):
        command.add_argument("--model", default="", help="what the index was made with, where the file does not say it")
    of["check"].add_argument("--names", type=Path, metavar="FILE", help="the texts of the queries, one a line")
    of["check"].add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    for command in (of["apply"], of["undo"]):
        command.add_argument("--out", type=Path, required=True, metavar="OUT", help="a new file or folder of that kind")
    of["apply"].add_argument("--normalize", action="store_true", help="give edited rows unit length")
    of["undo"].add_argument("--original", type=Path, metavar="FILE", help="where it is now, if it was moved")


def near(args: argparse.Namespace) -> int:
    from ..files import read_lines
    from ..prompts import near
    from ..vocabulary import Forget

    clip, vocabulary = _model_and_names(args)
    candidates = None if args.candidates is None else read_lines("candidates", args.candidates)
    for name, beside in near(clip, Forget(args.classes), vocabulary, candidates, args.most).items():
        print(f"{name}: " + ", ".join(f"{word} {cosine:.2f}" for word, cosine in beside))
    print("To forget some of them along: add them to the class in the vocabulary, after commas.")
    return 0


def forget(args: argparse.Namespace) -> int:
    from ..errors import at_least, one_of
    from ..methods import METHODS
    from ..unlearning import unlearn
    from ..vocabulary import Forget

    one_of("method", args.method, METHODS)
    if args.out.suffix != ".safetensors":
        raise ValueError(f"out: {str(args.out)!r} does not end in .safetensors; expected a patch")
    if not args.out.parent.is_dir():
        raise ValueError(f"out: {str(args.out.parent)!r} is not a folder; expected one that is there")
    request = Forget(args.classes, args.domains)
    clip, vocabulary = _model_and_names(args)
    request.mask(vocabulary)
    edit = unlearn(clip, request, vocabulary, args.method, prototypes=at_least("prototypes", args.prototypes, 0))
    print(f"written: {edit.save(args.out)}: {request}, {edit.method}, {edit.form}, for {edit.model}")
    if edit.linear and edit.bias is None:
        print("It can edit an index (clipnull apply --index) or, in place of it, the queries (--queries).")
    else:
        print("It can edit an index (clipnull apply --index).")
    return 0


def _model_and_names(args: argparse.Namespace) -> tuple[Clip, Vocabulary]:
    """The model, or what stands in its place, and the vocabulary."""
    from ..models import load
    from ..vocabulary import read_vocabulary

    if args.embeddings is not None:
        given = [name for name in ("model", "pretrained", "vocabulary") if getattr(args, name) is not None]
        if given:
            raise ValueError(f"{given[0]}: given with embeddings, which hold their own names; expected one of the two")
        clip = load(args.embeddings)
        if clip.stored is None:
            raise ValueError(f"embeddings: {args.embeddings!r} is not a file of embeddings; expected FILE.npz")
        return clip, clip.stored.vocabulary
    if args.vocabulary is None:
        raise ValueError("vocabulary: not given; expected a file with one class name a line, or embeddings FILE.npz")
    vocabulary = read_vocabulary(args.vocabulary)
    return load(args.model or "miniclip", args.pretrained), vocabulary


def check(args: argparse.Namespace) -> int:
    from ..files import write_text
    from ..index.checking import check_index, format_check, read_queries
    from ..index.files import open_tables
    from ..index.patching import validate
    from ..index.rewriting import stamp

    edit, tables, before = _patch(args), open_tables(args.index, "images", args.array), stamp(args.index)
    validate(edit, tables, "images", args.model)
    queries = read_queries(args.queries, sum(table.shape[0] for table in tables), args.names)
    result = check_index(edit, tables, queries)
    if stamp(args.index) != before:
        raise ValueError(f"index: {str(args.index)!r} was written to meanwhile; expected a file at rest")
    if args.json:
        write_text(args.json, json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(f"{edit.method}, {edit.form}, for {edit.model}; {sum(t.shape[0] for t in tables):,} pictures in {args.index}")
    print(format_check(result))
    return 0


def apply(args: argparse.Namespace) -> int:
    from ..index.patching import apply_edit

    place, side = _side(args)
    lengths = apply_edit(_patch(args), place, args.out, side, args.array, args.model, args.normalize, progress=True)
    print(f"written: {args.out}: {lengths}; {place} is as it was")
    return 0


def undo(args: argparse.Namespace) -> int:
    from ..index.patching import undo

    place, side = _side(args)
    how = undo(_patch(args), place, args.out, args.original, side, args.array, progress=True)
    print(f"written: {args.out}: {how}")
    return 0


def _patch(args: argparse.Namespace) -> Edit:
    from ..edit import Edit

    return Edit.load(args.patch)


def _side(args: argparse.Namespace) -> tuple[Path, Side]:
    return (args.index, "images") if args.index is not None else (args.queries, "queries")
