"""How long an index takes to be edited, next to reading and writing it; a query; and a patch for a large vocabulary."""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import speed
import torch
import torch.nn.functional as F

from clipnull.edit import Edit
from clipnull.errors import names
from clipnull.files import write_text
from clipnull.index.files import CHUNK
from clipnull.index.patching import apply_edit
from clipnull.methods import solve
from clipnull.methods.cells import Cells
from clipnull.models import load
from clipnull.prompts import embed_cells
from clipnull.prototypes import ascend
from clipnull.unlearning import unlearn
from clipnull.vocabulary import Forget, Vocabulary, common_names

ROWS, WIDTH, SHARE = 1_000_000, 512, 0.7  # of an index; of the rate of reading and writing alone
QUERY, FORGET, NAMES, FEW = 20e-6, 600, 1000, 8  # seconds; seconds; classes of the vocabulary; prototypes
SOME, STEPS = 20, 4  # names, and steps of ascent, from which the seconds of NAMES and of all steps are extrapolated
CLASSES = 171  # that the edits of the index know
FORMS = {"oblique": "a matrix, as nullspace, residual and ridge give", "neuron": "a hidden layer", "gated": "a gate"}
"""A method for each form of edit, which is what its time depends on."""
ASCENT = 60  # steps, see `prototypes.cell_prototypes`


PARTS = (*speed.PARTS, "apply", "query", "forget")
"""What can be measured alone, here and in `speed`."""


def measure(parts: Collection[str] = PARTS, rounds: int = 2) -> dict:
    """The figures of some of PARTS that are of an index, in seconds, ready for JSON; all of them take a minute or so.

    It takes 4 GB on the disk of temporary files.
    """
    found: dict = {}
    if "apply" in parts:
        found["apply"] = switches({method: edit_of_one(method) for method in FORMS}, rounds)
    if "query" in parts:
        found["query"] = query(edit_of_one("oblique"))
    if "forget" in parts:
        found["forget"] = speed.alone(forget)["seconds"]
    return found


def edit_of_one(method: str) -> Edit:
    """One that forgets the first of CLASSES random texts."""
    texts = torch.randn(CLASSES, 1, WIDTH, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(CLASSES, 1, dtype=torch.bool)
    mask[0] = True
    return solve(Cells(F.normalize(texts, dim=-1)), mask, method)


def switches(edits: dict[str, Edit], rounds: int) -> dict[str, float]:
    """Seconds in which an index in a .npy is copied, as "bare", and in which each edit is applied to it: the least."""
    least = dict.fromkeys(["bare", *edits], math.inf)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "index.npy")
        block = F.normalize(torch.randn(CHUNK, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1).numpy()
        with open(source, "wb") as file:
            head = {"descr": "<f4", "fortran_order": False, "shape": (ROWS, WIDTH)}
            np.lib.format.write_array_header_1_0(file, head)
            for first in range(0, ROWS, CHUNK):
                block[: ROWS - first].tofile(file)
        for _ in range(rounds):
            for name in least:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    out, begun = Path(place, "out.npy"), time.perf_counter()
                    if name == "bare":
                        copy(source, out)
                    else:
                        apply_edit(edits[name], source, out)
                    least[name] = min(least[name], time.perf_counter() - begun)
    return least


def copy(source: Path, out: Path) -> None:
    """Read a file and write another, in pieces as large as the chunks of an index: all that cannot be saved."""
    buffer = bytearray(CHUNK * WIDTH * 4)
    with open(source, "rb", buffering=0) as old, open(out, "wb", buffering=0) as new:
        while size := old.readinto(buffer):
            new.write(memoryview(buffer)[:size])


def query(edit: Edit) -> float:
    """Seconds in which one query is edited, the mean of a thousand."""
    t = F.normalize(torch.randn(1, WIDTH), dim=1)

    def thousand() -> None:
        for _ in range(1000):
            edit.queries(t)

    return speed.least_seconds(thousand, patience=1.0) / 1000


def forget() -> dict[str, float]:
    """Seconds from NAMES names to a patch, on a ViT-B-32: texts, and FEW prototypes, none of them known.

    Extrapolated from a patch for SOME names without prototypes, from their texts alone, and from the first STEPS of the
    ascent to FEW prototypes. To measure the whole, put NAMES names into a file, one a line, "goldfish" among them, and
    time this; without `--pretrained`, weights are random, which takes as long, and CLIPNULL_CACHE must name an empty
    folder: `clipnull forget --classes goldfish --model ViT-B-32 --vocabulary names.txt --out patch.safetensors`
    """
    clip, names = load("ViT-B-32", None, "cpu"), common_names()[:SOME]
    vocabulary = Vocabulary(names, ["photo"])
    begun = time.perf_counter()
    unlearn(clip, Forget(names[:1]), vocabulary, "oblique", prototypes=False)
    patch, begun = time.perf_counter() - begun, time.perf_counter()
    targets = embed_cells(clip, vocabulary)[:FEW, 0]
    texts, begun = time.perf_counter() - begun, time.perf_counter()
    for _ in ascend(clip, targets, range(len(targets)), STEPS):
        pass
    passes = (ASCENT + 1) / (STEPS + 1) * (time.perf_counter() - begun)
    return {"seconds": patch + (NAMES / SOME - 1) * texts + passes}


def report(found: dict) -> str:
    """What `speed.measure` and, under "index", `measure` found, as plain text, each figure with its target."""
    own, lines = found.get("index", {}), [speed.report(found)]  # none in a file of an earlier version
    if "apply" in own:
        bare = own["apply"]["bare"]
        lines.append(
            f"clipnull apply, {ROWS} x {WIDTH} float32 in a .npy, next to reading and writing it ({bare:.1f} s). "
            f"Target: at least {SHARE} of that rate"
        )
        for name, seconds in own["apply"].items():
            if name != "bare":
                told = f"{seconds:6.1f} s, {bare / seconds:.2f}" + (f" ({FORMS[name]})" if name in FORMS else "")
                lines.append(f"{speed.verdict(bare >= SHARE * seconds)} {name:<10} {told}")
    if "query" in own:
        lines.append(
            f"{speed.verdict(own['query'] <= QUERY)} a query edited: {1e6 * own['query']:.1f} µs. Target: at most "
            f"{1e6 * QUERY:.0f}"
        )
    if "forget" in own:
        lines.append(
            f"{speed.verdict(own['forget'] <= FORGET)} a patch for {NAMES} names on ViT-B-32, texts and {FEW} "
            f"prototypes, extrapolated from {SOME} names and {STEPS} steps: {own['forget']:.0f} s. Target: at most "
            f"{FORGET}"
        )
    return "\n".join(lines)


def main() -> None:
    """Time the closed form and the rest, or some parts alone; print and write --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)} [all]")
    parser.add_argument("--json", type=Path, help="for data/results/write.py")
    args = parser.parse_args()
    parts = names("parts", args.parts or list(PARTS), list(PARTS))
    entry = {"kind": "part of speed" if args.parts else "speed", "name": "speed"}  # write.py takes the whole
    entry |= speed.measure(parts) | {"index": measure(parts)}
    if args.json:
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    print(report(entry))


if __name__ == "__main__":
    main()
