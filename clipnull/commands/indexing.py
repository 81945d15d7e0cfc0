"""The commands for an index of vectors: a patch from names, what it does, the switch, and back."""

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


SEARCH = """Which method: oblique forgets most and reaches furthest, so that a word stops working. Take nullspace or
gated where `clipnull check` says HURT. gated and neuron act on pictures: they edit an index, and no queries."""
VECTORS = "vectors of pictures: .npy, .npz, .safetensors, .parquet, or a folder in clip-retrieval's layout"


def add(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of these commands to those of `clipnull`."""
    option = add_command(commands, "near", near, "the words nearest to a name: they may answer in its place")
    option("--classes", nargs="+", metavar="NAME", required=True, help="to forget")
    option("--candidates", type=Path, metavar="FILE", help="words to look among, one a line [ImageNet]")
    option("--most", type=int, default=8, help="how many for a class [8]")
    _add_names(commands.choices["near"])

    option = add_command(commands, "forget", forget, "make a patch from names alone")
    commands.choices["forget"].epilog = SEARCH
    option("--classes", nargs="+", metavar="NAME", help="to forget")
    option("--domains", nargs="+", metavar="NAME", help="in these alone, of those in FILE [all]")
    option("--method", default="oblique", help="one of clipnull.METHODS, see below [oblique]")
    text = "pictures to synthesize; 0: texts alone, in seconds [8]"
    option("--prototypes", type=int, default=8, metavar="N", help=text)
    option("--out", type=Path, required=True, metavar="PATCH", help="a new file that ends in .safetensors")
    _add_names(commands.choices["forget"])

    option = add_command(commands, "queries", queries, "embed a text file of queries, one a line, for check")
    option("texts", type=Path, metavar="FILE", help="queries, one a line")
    option("--forms", nargs="+", default=[], metavar="NAME", help="words to ask for in all forms: those you forget")
    add_model(option)
    option("--out", type=Path, required=True, metavar="FILE.npz", help="for check --queries")

    text = "what an index answers before and after a patch; nothing is switched"
    option = add_command(commands, "check", check, text)
    option("patch", type=Path, metavar="PATCH", help="of `clipnull forget`")
    option("--index", type=Path, metavar="IN", required=True, help=VECTORS)
    option("--queries", type=Path, metavar="FILE", required=True, help="of texts")
    option("--names", type=Path, metavar="FILE", help="the texts of the queries, one a line")
    _add_origin(option)
    text = "pictures among its first ten answers that a forgotten class may still find [2]"
    option("--max-left", type=int, default=2, metavar="N", help=text)
    option("--max-lost", type=int, default=5, metavar="N", help="that any other query may lose [5]")
    option("--json", type=Path, metavar="FILE", help="write all that there, with patch, index, date and version")

    text = "write an edited copy of an index, or of the queries in front of it; the old files still hold every vector"
    option = add_command(commands, "apply", apply, text)
    option("patch", type=Path, metavar="PATCH", help="of `clipnull forget`")
    _add_files(commands.choices["apply"])
    _add_origin(option)
    option("--normalize", action="store_true", help="give edited rows unit length")

    option = add_command(commands, "undo", undo, "restore an edited index, or edited queries")
    option("patch", type=Path, nargs="?", metavar="PATCH", help="needed where the original is gone")
    _add_files(commands.choices["undo"])
    option("--original", type=Path, metavar="FILE", help="where it is now, if it was moved")


def _add_names(parser: argparse.ArgumentParser) -> None:
    """Where the names are, and the model that reads them."""
    add_model(parser.add_argument, default=None)
    one = parser.add_mutually_exclusive_group(required=True).add_argument
    one("--vocabulary", type=Path, metavar="FILE", help="all classes, one a line")
    one("--embeddings", metavar="FILE.npz", help="texts in place of a model and a vocabulary")
    parser.add_argument("--as-named", action="store_true", help="the names alone, without plurals: not English")


def _add_files(parser: argparse.ArgumentParser) -> None:
    """What is written anew, and where."""
    one = parser.add_mutually_exclusive_group(required=True).add_argument
    one("--index", type=Path, metavar="IN", help=VECTORS)
    one("--queries", type=Path, metavar="FILE", help="of texts")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="a new file or folder of that kind")


def _add_origin(option: Option) -> None:
    """Which vectors of a file, and of which model."""
    option("--array", metavar="NAME", help="array, tensor or column of the vectors, if several")
    option("--model", default="", help="what the index was made with, where the file does not say it")


def near(args: argparse.Namespace) -> int:
    from ..files import read_lines
    from ..prompts import near

    clip, vocabulary = _model_and_names(args)
    candidates = None if args.candidates is None else read_lines("candidates", args.candidates)
    words = near(clip, _request(args, vocabulary), vocabulary, candidates, args.most)
    for name, beside in words.items():
        print(f"{name}: " + ", ".join(f"{word} {cosine:.2f}" for word, cosine in beside))
        _print_forms(name, clip, vocabulary)
    print("To forget some of them along: add them to the class in the vocabulary, after commas.")
    return 0


def forget(args: argparse.Namespace) -> int:
    from ..errors import at_least, one_of
    from ..index.checking import forgotten
    from ..methods import METHODS
    from ..unlearning import unlearn

    one_of("method", args.method, METHODS)
    at_least("prototypes", args.prototypes, 0)
    if args.out.suffix != ".safetensors" or args.out.exists():
        raise ValueError(f"out: {str(args.out)!r} is there or not .safetensors; expected a new file of that ending")
    clip, vocabulary = _model_and_names(args)
    request = _request(args, vocabulary)
    edit = unlearn(clip, request, vocabulary, args.method, prototypes=args.prototypes)
    print(f"written: {edit.save(args.out)}: {request}, {edit.method}, {edit.form}, for {edit.model}")
    for name in forgotten(edit):
        _print_forms(name, clip, vocabulary)
    queries = " or, in place of it, the queries (--queries)" if edit.linear and edit.bias is None else ""
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
        raise ValueError(f"texts, out: {str(args.texts)!r} has {len(texts)} lines, {args.out.name!r}; expected .npz")
    clip = load(args.model, args.pretrained)
    with written(args.out) as temporary, open(temporary, "wb") as file:
        np.savez(file, other_texts=clip.embed_texts(texts).cpu().numpy(), other_names=texts, model=clip.name)
    print(f"written: {args.out}: {len(texts)} queries")
    return 0


def check(args: argparse.Namespace) -> int:
    """Status 1: a query is beyond --max-left or --max-lost."""
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
        about = {name: str(getattr(args, name)) for name in ("command", "patch", "index", "queries")}
        about |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "version": __version__}
        about |= {"patch_content": name_of(edit), "method": edit.method, "model": edit.model}
        limits = {"max_left": args.max_left, "max_lost": args.max_lost}
        entry = about | result | {"limits": limits, "beyond": hurt}
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    return int(bool(hurt))


def apply(args: argparse.Namespace) -> int:
    from ..edit import Edit
    from ..index.patching import apply_edit

    edit, place, side = Edit.load(args.patch), args.index or args.queries, "images" if args.index else "queries"
    result = apply_edit(edit, place, args.out, side, args.array, args.model, args.normalize)
    if not result:
        print(f"nothing to do: {args.out} is {place} edited with this patch")
        return 0
    counts = {"not of unit length: edited in proportion to it": result["not_unit"]}
    counts["with NaN or infinity, left so"] = result["broken"]
    some = "".join(f"; {count:,} {what}" for what, count in counts.items() if count)
    print(f"written: {args.out}: {result['rows']:,} rows {result['belongs']}{some}")
    if result["left_out"]:
        print(f"left out, since built of unedited vectors: {', '.join(result['left_out'])}; build anew of {args.out}")
    print(f"{place} is as it was and still holds every unedited vector: keep it for undo, or delete it in the end.")
    return 0


def undo(args: argparse.Namespace) -> int:
    from ..edit import Edit
    from ..index.patching import undo

    edit = Edit.load(args.patch) if args.patch else None
    print(f"{args.out}: {undo(edit, args.index or args.queries, args.out, args.original)}")
    return 0


def _model_and_names(args: argparse.Namespace) -> tuple[Clip, Vocabulary]:
    """The model, or what stands in its place, and the vocabulary."""
    from ..models import load
    from ..stored import is_stored
    from ..vocabulary import read_vocabulary

    if args.embeddings is None:
        vocabulary, clip = read_vocabulary(args.vocabulary), load(args.model or "miniclip", args.pretrained)
    elif args.model or args.pretrained or not is_stored(args.embeddings):
        raise ValueError(
            f"embeddings: {args.embeddings!r}; expected FILE.npz, which holds its own names and no --model"
        )
    else:
        clip = load(args.embeddings)
        assert clip.stored
        vocabulary = clip.stored.vocabulary
    return clip, vocabulary.with_forms(None) if args.as_named else vocabulary


def _request(args: argparse.Namespace, vocabulary: Vocabulary) -> Forget:
    """What is to be forgotten, by the names of classes; an alias stands for its class."""
    from ..vocabulary import Forget

    places = dict.fromkeys(vocabulary.places("classes", args.classes)) if args.classes else ()
    request = Forget([vocabulary.classes[c] for c in places] or None, getattr(args, "domains", None))
    request.mask(vocabulary)  # raises ValueError for names that it does not know
    return request


def _print_forms(name: str, clip: Clip, vocabulary: Vocabulary) -> None:
    if forms := [form for form in vocabulary.forms_of(name) if clip.knows(form)]:
        print(f"forms of {name}, forgotten with it: {', '.join(forms)}")
