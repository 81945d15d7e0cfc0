"""Commands for an index of vectors: make a patch from names, check it, apply it, undo it."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .console import Option, add_command, add_model

if TYPE_CHECKING:
    from ..models import Clip
    from ..vocabulary import Forget, Vocabulary

METHODS_HELP = """oblique forgets most and reaches furthest, so that a word stops working. Use nullspace or gated if
`clipnull check` prints HURT. gated and neuron act on pictures: they can edit an index, but not queries."""
VECTORS = "picture vectors: .npy, .npz, .safetensors, .parquet, or a folder in clip-retrieval's layout"


def add(commands: argparse._SubParsersAction) -> None:
    option = add_command(commands, "near", near, "list the words nearest to a name, which may answer in its place")
    option("--classes", nargs="+", metavar="NAME", required=True, help="names to forget")
    option("--candidates", type=Path, metavar="FILE", help="words to search, one a line [ImageNet]")
    option("--most", type=int, default=8, help="words to list for each class [8]")
    _add_names(commands.choices["near"])

    option = add_command(commands, "forget", forget, "make a patch from names alone")
    commands.choices["forget"].epilog = METHODS_HELP
    option("--classes", nargs="+", metavar="NAME", help="names to forget")
    option("--domains", nargs="+", metavar="NAME", help="forget them only in these domains of FILE [all]")
    option("--method", default="oblique", help="one of clipnull.METHODS, see below [oblique]")
    text = "pictures to synthesize; 0 uses texts only and takes seconds [8]"
    option("--prototypes", type=int, default=8, metavar="N", help=text)
    option("--out", type=Path, required=True, metavar="PATCH", help="a new file that ends in .safetensors")
    _add_names(commands.choices["forget"])

    option = add_command(commands, "queries", queries, "embed a text file of queries, one a line, for check")
    option("texts", type=Path, metavar="FILE", help="queries, one a line")
    option("--forms", nargs="+", default=[], metavar="NAME", help="also embed all forms of these words")
    add_model(option)
    option("--out", type=Path, required=True, metavar="FILE.npz", help="a file for check --queries")

    text = "compare the answers of an index before and after a patch, without changing it"
    option = add_command(commands, "check", check, text)
    option("patch", type=Path, metavar="PATCH", help="made by `clipnull forget`")
    option("--index", type=Path, metavar="IN", required=True, help=VECTORS)
    option("--queries", type=Path, metavar="FILE", required=True, help="text vectors")
    option("--names", type=Path, metavar="FILE", help="the texts of the queries, one a line")
    _add_origin(option)
    text = "pictures that a forgotten class may still find among its first ten answers [2]"
    option("--max-left", type=int, default=2, metavar="N", help=text)
    option("--max-lost", type=int, default=5, metavar="N", help="pictures that any other query may lose [5]")
    option("--json", type=Path, metavar="FILE", help="write the result there, with patch, index, date and version")

    text = "write an edited copy of an index, or of the queries in front of it; the original keeps every vector"
    option = add_command(commands, "apply", apply, text)
    option("patch", type=Path, metavar="PATCH", help="made by `clipnull forget`")
    _add_files(commands.choices["apply"])
    _add_origin(option)
    option("--normalize", action="store_true", help="give edited rows unit length")

    option = add_command(commands, "undo", undo, "restore an edited index or edited queries")
    option("patch", type=Path, nargs="?", metavar="PATCH", help="needed if the original is gone")
    _add_files(commands.choices["undo"])
    option("--original", type=Path, metavar="FILE", help="where the original is now, if it was moved")


def _add_names(parser: argparse.ArgumentParser) -> None:
    add_model(parser.add_argument, default=None)
    either = parser.add_mutually_exclusive_group(required=True).add_argument
    either("--vocabulary", type=Path, metavar="FILE", help="all classes, one a line")
    either("--embeddings", metavar="FILE.npz", help="text embeddings in place of a model and a vocabulary")
    parser.add_argument("--as-named", action="store_true", help="use names as they are, without English plurals")


def _add_files(parser: argparse.ArgumentParser) -> None:
    either = parser.add_mutually_exclusive_group(required=True).add_argument
    either("--index", type=Path, metavar="IN", help=VECTORS)
    either("--queries", type=Path, metavar="FILE", help="text vectors")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="a new file or folder of the same kind")


def _add_origin(option: Option) -> None:
    option("--array", metavar="NAME", help="the array, tensor or column of vectors, if there are several")
    option("--model", default="", help="the model of the index, if the file does not name it")


def near(args: argparse.Namespace) -> int:
    from ..files import read_lines
    from ..prompts import near

    clip, vocabulary = _model_and_names(args)
    candidates = None if args.candidates is None else read_lines("candidates", args.candidates)
    for name, words in near(clip, _request(args, vocabulary), vocabulary, candidates, args.most).items():
        print(f"{name}: " + ", ".join(f"{word} {cosine:.2f}" for word, cosine in words))
        _print_forms(name, clip, vocabulary)
    print("To forget some of these words too, add them to the class in the vocabulary, after commas.")
    return 0


def forget(args: argparse.Namespace) -> int:
    from ..errors import at_least, one_of
    from ..index.checking import forgotten
    from ..methods import METHODS
    from ..unlearning import unlearn

    one_of("method", args.method, METHODS)
    at_least("prototypes", args.prototypes, 0)
    if args.out.suffix != ".safetensors" or args.out.exists():
        raise ValueError(f"out: {str(args.out)!r} exists or has another ending; expected a new .safetensors file")
    clip, vocabulary = _model_and_names(args)
    request = _request(args, vocabulary)
    edit = unlearn(clip, request, vocabulary, args.method, prototypes=args.prototypes)
    print(f"written: {edit.save(args.out)}: {request}, {edit.method}, {edit.form}, for {edit.model}")
    for name in forgotten(edit):
        _print_forms(name, clip, vocabulary)
    queries = " or else the queries (--queries)" if edit.linear and edit.bias is None else ""
    print(f"It can edit an index (clipnull apply --index){queries}.")
    return 0


def queries(args: argparse.Namespace) -> int:
    import numpy as np

    from ..files import read_lines, written
    from ..models import load
    from ..vocabulary import english_forms

    texts = read_lines("texts", args.texts)
    texts = [*dict.fromkeys([*texts, *(form for name in args.forms for form in english_forms(name))])]
    if not texts or args.out.suffix != ".npz":
        raise ValueError(f"texts, out: {len(texts)} queries, {args.out.name!r}; expected at least one, and a file .npz")
    clip = load(args.model, args.pretrained)
    with written(args.out) as temporary, open(temporary, "wb") as file:
        np.savez(file, other_texts=clip.embed_texts(texts).cpu().numpy(), other_names=texts, model=clip.name)
    print(f"written: {args.out}: {len(texts)} queries")
    return 0


def check(args: argparse.Namespace) -> int:
    """Return 1 if a query exceeds --max-left or --max-lost."""
    from .. import __version__
    from ..edit import Edit
    from ..files import write_text
    from ..index.checking import beyond, check_index, format_check, read_queries
    from ..index.files import open_tables
    from ..index.patching import name_of, validate
    from ..index.rewriting import read_record

    edit, tables = Edit.load(args.patch), open_tables(args.index, "images", args.array)
    validate(edit, tables, "images", args.model, read_record(args.index))
    rows = sum(table.shape[0] for table in tables)
    result = check_index(edit, tables, read_queries(args.queries, rows, args.names))
    hurt = beyond(result, args.max_left, args.max_lost)
    broken = f", {result['broken']:,} with NaN or infinity, which no query finds" if result["broken"] else ""
    print(f"{edit.method}, {edit.form}, for {edit.model}; {rows:,} pictures in {args.index}{broken}")
    print(format_check(result, hurt))
    if args.json:
        entry = {name: str(getattr(args, name)) for name in ("command", "patch", "index", "queries")}
        entry |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "version": __version__}
        entry |= {"patch_content": name_of(edit), "method": edit.method, "model": edit.model}
        limits = {"max_left": args.max_left, "max_lost": args.max_lost}
        entry |= result | {"limits": limits, "beyond": hurt}
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    return int(bool(hurt))


def apply(args: argparse.Namespace) -> int:
    from ..edit import Edit
    from ..index.patching import apply_edit

    edit, place, side = Edit.load(args.patch), args.index or args.queries, "images" if args.index else "queries"
    result = apply_edit(edit, place, args.out, side, args.array, args.model, args.normalize)
    if not result:
        print(f"nothing to do: {args.out} already is {place} edited with this patch")
        return 0
    counts = {"not of unit length, edited in proportion to it": result["not_unit"]}
    counts["with NaN or infinity, unchanged"] = result["broken"]
    notes = "".join(f"; {count:,} {kind}" for kind, count in counts.items() if count)
    print(f"written: {args.out}: {result['rows']:,} rows {result['belongs']}{notes}")
    if result["left_out"]:
        print(f"left out: {', '.join(result['left_out'])}, built from unedited vectors; rebuild from {args.out}")
    print(f"{place} is unchanged and still holds every unedited vector. Keep it for undo, or delete it in the end.")
    return 0


def undo(args: argparse.Namespace) -> int:
    from ..edit import Edit
    from ..index.patching import undo

    edit = Edit.load(args.patch) if args.patch else None
    print(f"{args.out}: {undo(edit, args.index or args.queries, args.out, args.original)}")
    return 0


def _model_and_names(args: argparse.Namespace) -> tuple[Clip, Vocabulary]:
    """Return the model, or the file of embeddings in its place, and the vocabulary."""
    from ..models import load
    from ..stored import is_stored
    from ..vocabulary import read_vocabulary

    if args.embeddings is None:
        vocabulary, clip = read_vocabulary(args.vocabulary), load(args.model or "miniclip", args.pretrained)
    elif args.model or args.pretrained or not is_stored(args.embeddings):
        raise ValueError(f"embeddings: {args.embeddings!r}; expected FILE.npz, without --model and --pretrained")
    else:
        clip = load(args.embeddings)
        assert clip.stored
        vocabulary = clip.stored.vocabulary
    return clip, vocabulary.with_forms(None) if args.as_named else vocabulary


def _request(args: argparse.Namespace, vocabulary: Vocabulary) -> Forget:
    """Return the request for the names given; an alias stands for its class."""
    from ..vocabulary import Forget

    places = dict.fromkeys(vocabulary.places("classes", args.classes)) if args.classes else ()
    request = Forget([vocabulary.classes[c] for c in places] or None, getattr(args, "domains", None))
    request.mask(vocabulary)  # raises ValueError for unknown names
    return request


def _print_forms(name: str, clip: Clip, vocabulary: Vocabulary) -> None:
    if forms := [form for form in vocabulary.forms_of(name) if clip.knows(form)]:
        print(f"forms of {name}, forgotten with it: {', '.join(forms)}")
