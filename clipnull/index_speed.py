"""How long an index takes to be edited, next to reading and writing it; a query; and a patch for a large vocabulary."""

import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import speed
from .edit import Edit
from .methods import METHODS, solve
from .methods.cells import Cells
from .models import load
from .requests import Forget
from .switching import apply_edit
from .unlearning import unlearn
from .vectors import CHUNK
from .wording import Vocabulary, common_names

ROWS, WIDTH, SHARE = 1_000_000, 512, 0.7  # of an index; of the rate of reading and writing alone
QUERY, FORGET, NAMES, FEW = 20e-6, 600, 1000, 8  # seconds; seconds; classes of the vocabulary; prototypes
CLASSES = 171  # that the edits of the index know


def measure(rounds: int = 3) -> dict:
    """All figures, in seconds, ready for JSON. It takes 4 GB on the disk of temporary files, and ten minutes or so."""
    texts = torch.randn(CLASSES, 1, WIDTH, generator=torch.Generator().manual_seed(0))
    cells, mask = Cells(F.normalize(texts, dim=-1)), torch.zeros(CLASSES, 1, dtype=torch.bool)
    mask[0] = True
    edits = {method: solve(cells, mask, method) for method in METHODS}
    return {
        "apply": switches(edits, rounds),
        "query": query(edits["oblique"]),
        "forget": speed.alone(forget)["seconds"],
    }


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

    For a process of its own: it changes where the cache is.
    """
    clip, names = load("ViT-B-32", None, "cpu"), [*common_names(), "clipnull", "nullspace", "subspace"][:NAMES]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLIPNULL_CACHE"] = folder
        begun = time.perf_counter()
        unlearn(clip, Forget(names[:1]), Vocabulary(names, ["photo"]), "oblique", prototypes=FEW)
        return {"seconds": time.perf_counter() - begun}


def report(found: dict) -> str:
    """What `speed.measure` and, under "index", `measure` found, as plain text, each figure with its target."""
    if "index" not in found:  # a file of an earlier version
        return speed.report(found)
    own, lines = found["index"], [speed.report(found)]
    bare = own["apply"]["bare"]
    lines.append(
        f"clipnull apply, {ROWS} x {WIDTH} float32 in a .npy, next to reading and writing it ({bare:.1f} s). "
        f"Target: at least {SHARE} of that rate"
    )
    for name, seconds in own["apply"].items():
        if name != "bare":
            told = f"{seconds:6.1f} s, {bare / seconds:.2f}"
            lines.append(f"{speed.verdict(bare >= SHARE * seconds)} {name:<10} {told}")
    lines.append(
        f"{speed.verdict(own['query'] <= QUERY)} a query edited: {1e6 * own['query']:.1f} µs. Target: at most "
        f"{1e6 * QUERY:.0f}"
    )
    lines.append(
        f"{speed.verdict(own['forget'] <= FORGET)} a patch for {NAMES} names on ViT-B-32, texts and {FEW} prototypes: "
        f"{own['forget']:.0f} s. Target: at most {FORGET}"
    )
    return "\n".join(lines)
