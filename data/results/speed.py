"""Time the closed form, edits of an index and `clipnull embed`, and compare with targets."""

import math
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import script
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clipnull.datasets.loading import load_images
from clipnull.datasets.shards import embed_shards
from clipnull.edit import Edit
from clipnull.embedding import BATCH, embed
from clipnull.errors import import_extra
from clipnull.evaluate import accuracy_matrix, classify
from clipnull.files import markdown
from clipnull.from_names import embed_vocabulary
from clipnull.images import Images
from clipnull.index.files import CHUNK
from clipnull.index.patching import apply_edit
from clipnull.methods import METHODS, solve
from clipnull.methods.cells import Cells
from clipnull.models import Clip, load
from clipnull.prompts import embed_cells, text_classifiers
from clipnull.prototypes import ascend
from clipnull.unlearning import unlearn
from clipnull.vocabulary import Forget, Vocabulary, common_names

CLASSES, DOMAINS, WIDTH, PICTURES = 345, 6, 1024, 10_000  # DomainNet with ViT-H-14
CLOSED_FORM, TIMES_LEACE, GATE, ANSWER = 0.150, 2, 0.02, 0.200  # seconds; speed-up; share of a forward pass; seconds
MANY, MANY_WIDTH, MANY_SECONDS, MANY_BYTES = 600_000, 512, 15, 3e9  # all of DomainNet with a ViT-B
WHOLE = "gated"  # the slowest method edits all of MANY, the others a tenth
JPEGS, EMBED = 128, 0.95  # files; share of the rate of a bare loop
ROWS, INDEX_WIDTH, INDEX_CLASSES, SHARE = 1_000_000, 512, 171, 0.7  # size of an index; share of the rate of a copy
QUERY, FORGET = 20e-6, 600  # seconds
NAMES, PROTOTYPES, STEPS, SOME_NAMES, SOME_STEPS = 1000, 8, 60, 20, 4  # for a patch; the part that really runs
FORMS = ("oblique", "neuron", "gated")  # one for each form of edit, on which the time depends


def measure() -> dict:
    """Return all figures, times in seconds, ready for JSON."""
    figures = {"threads": torch.get_num_threads()} | closed_forms() | inference() | {"answer": answer(), "many": many()}
    figures["embed"] = rates(load("ViT-B-32", "none", "cpu"), JPEGS, bare_loop)
    return figures | {"index": {"apply": switches(), "query": query(), "forget": alone(forget)}}


def closed_forms() -> dict:
    """Time LEACE, and each method and request after the first request of a vocabulary."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PICTURES, WIDTH, generator=generator)
    labels = F.one_hot(torch.randint(CLASSES, (PICTURES,), generator=generator), CLASSES)
    leace = least_seconds(partial(import_extra("concept_erasure", "baselines").LeaceEraser.fit, x, labels))
    cells, masks = random_cells(WIDTH, generator), speed_masks()
    solve(cells, masks["one class"], "oblique")  # computes what later requests reuse
    times = {m: {name: least_seconds(partial(solve, cells, mask, m)) for name, mask in masks.items()} for m in METHODS}
    return {"leace": leace, "closed_form": times}


def inference() -> dict:
    """Return the time that each method adds to a ViT-B-32 on eight pictures, as a share of its forward pass."""
    clip, generator = load("ViT-B-32", "none", "cpu"), torch.Generator().manual_seed(0)
    cells, masks = random_cells(clip.width, generator), speed_masks().values()
    pixels = torch.randn(8, 3, clip.image_size, clip.image_size, generator=generator)
    with torch.inference_mode():
        forward, z = least_seconds(partial(clip.model.encode_image, pixels)), clip.model.encode_image(pixels)
        edited = {m: [solve(cells, mask, m).apply(clip).model.visual for mask in masks] for m in METHODS}
        layers = {m: [visual.edits for visual in towers if hasattr(visual, "edits")] for m, towers in edited.items()}
        added = {m: max((least_seconds(partial(layer, z)) for layer in x), default=0.0) for m, x in layers.items()}
    return {"added": {m: seconds / forward for m, seconds in added.items()}}


def answer() -> float:
    """Time the step from a new request to its accuracy matrix on embedded pictures."""
    clip, images = load(device="cpu"), load_images()
    cells, z = embed_vocabulary(clip, images.vocabulary, prototypes=False), embed(clip, images)
    classifiers = text_classifiers(clip, images.vocabulary)
    mask = torch.zeros(images.vocabulary.shape, dtype=torch.bool)
    mask[0, 0] = True

    def matrix(method: str) -> Tensor:
        return accuracy_matrix(classify(solve(cells, mask, method).images(z), classifiers, images.domains), images)

    return max(least_seconds(partial(matrix, method)) for method in METHODS)


def many() -> dict:
    """Run `edit_many` on MANY embeddings, with one edit per method that forgets one of CLASSES."""
    cells, mask = random_cells(MANY_WIDTH, torch.Generator().manual_seed(0)), speed_masks()["one class"]
    edits = {method: solve(cells, mask, method) for method in METHODS}
    return alone(edit_many, MANY, edits, cells.texts.transpose(0, 1).float())


def edit_many(n: int, edits: dict[str, Edit], classifiers: Tensor) -> dict:
    """Time editing and classifying n embeddings with each edit, and return the peak memory of this process.

    classifiers: one text classifier per domain (K, C, d). Edits other than WHOLE run on a tenth; their time is scaled.
    """
    generator, (k, c, width) = torch.Generator().manual_seed(0), classifiers.shape
    vocabulary = Vocabulary([f"class {i}" for i in range(c)], [f"domain {i}" for i in range(k)])
    classes, domains = (torch.randint(size, (n,), generator=generator) for size in (c, k))
    z, seconds = torch.empty(n, width).normal_(generator=generator), {}
    for name, edit in edits.items():
        factor = 1 if name == WHOLE else 10
        part = Images((), *(x[: n // factor] for x in (classes, domains)), vocabulary, z[: n // factor])
        start = time.perf_counter()
        accuracy_matrix(classify(part.stored, classifiers, part.domains, edit.images), part)
        seconds[name] = factor * (time.perf_counter() - start)
    return {"seconds": seconds, "peak": peak_memory()}


def alone(call: Callable, *arguments: object) -> Any:
    """Return the result of `call` from a new process, whose memory holds nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(call, *arguments).result()


def peak_memory() -> int | None:
    """Return the peak memory of this process in bytes, or None outside Linux."""
    status = Path("/proc/self/status")  # `ru_maxrss` of a new process starts at its parent's
    match = status.is_file() and re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
    return 1024 * int(match[1]) if match else None


def rates(clip: Clip, n: int, bare: Callable[[Clip, Images], Tensor], unique: int | None = None) -> dict:
    """Return pictures per second of `bare` and `clipnull embed` on n JPEG files, each the better of two runs.

    unique: number of different files; by default n.
    """
    least = {"bare": math.inf, "clipnull": math.inf}
    assert clip.fingerprint  # computed here, once per model, so that it does not count
    with tempfile.TemporaryDirectory() as folder:
        files, labels = jpegs(Path(folder), min(n, unique or n)), torch.zeros(n, dtype=torch.int64)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0)) % len(files)  # makes all shards differ
        images = Images(tuple(files[i] for i in order), labels, labels, Vocabulary(["a", "b"], ["c"]))
        for name in (*least, *least):
            with tempfile.TemporaryDirectory(dir=folder) as shards:
                start = time.perf_counter()
                bare(clip, images) if name == "bare" else embed_shards(clip, images, shards)
                least[name] = min(least[name], time.perf_counter() - start)
    return {name: n / seconds for name, seconds in least.items()}


@torch.inference_mode()
def bare_loop(clip: Clip, images: Images) -> Tensor:
    """Embed images (n, d) with open_clip alone, with the batch size of `embed`."""
    parts = []
    for first in range(0, len(images), BATCH):
        pictures = [clip.preprocess(Image.open(file)) for file in images.files[first : first + BATCH]]
        parts.append(clip.model.encode_image(torch.stack(pictures)))
    return torch.cat(parts)


def jpegs(folder: Path, n: int) -> tuple[Path, ...]:
    """Write n JPEG files of 640 x 480 pixels, with smooth colours and grain."""
    generator, files = np.random.default_rng(0), []
    for i in range(n):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((640, 480))
        grain = generator.integers(0, 24, (480, 640, 3), dtype=np.uint8)
        picture = Image.fromarray(np.minimum(np.asarray(coarse), 231) + grain)
        files.append(folder / f"{i}.jpg")
        picture.save(files[-1], quality=90)
    return tuple(files)


def random_cells(width: int, generator: torch.Generator) -> Cells:
    """Return random unit vectors as the texts and prototypes of CLASSES x DOMAINS cells."""
    texts, prototypes = torch.randn(2, CLASSES, DOMAINS, width, generator=generator)
    return Cells(F.normalize(texts, dim=-1), F.normalize(prototypes, dim=-1))


def speed_masks() -> dict[str, Tensor]:
    """Return the masks (CLASSES, DOMAINS) of a request of each paradigm and one of many classes."""
    c, k = torch.arange(CLASSES)[:, None], torch.arange(DOMAINS)[None]
    masks = {"one class": (c == 0) & (k >= 0), "one cell": (c == 0) & (k == 0), "one domain": (c >= 0) & (k == 0)}
    return masks | {"half of all classes": (c < CLASSES // 2) & (k >= 0)}


def least_seconds(call: Callable[[], object], patience: float = 0.2) -> float:
    """Time `call` at least three times, until `patience` seconds have passed, and return the minimum."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < patience:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)  # longer times are due to other processes


def edit_of_one(method: str) -> Edit:
    """Return an edit that forgets the first of INDEX_CLASSES random texts."""
    texts = torch.randn(INDEX_CLASSES, 1, INDEX_WIDTH, generator=torch.Generator().manual_seed(0))
    return solve(Cells(F.normalize(texts, dim=-1)), torch.arange(INDEX_CLASSES)[:, None] == 0, method)


def switches() -> dict[str, float]:
    """Time copying an index in a .npy file ("bare"), and applying an edit of each form to it."""
    edits = {method: edit_of_one(method) for method in FORMS}
    least = dict.fromkeys(["bare", *edits], math.inf)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "index.npy")
        index = np.lib.format.open_memmap(source, "w+", np.float32, (ROWS, INDEX_WIDTH))
        block = F.normalize(torch.randn(CHUNK, INDEX_WIDTH, generator=torch.Generator().manual_seed(0)), dim=1).numpy()
        for first in range(0, ROWS, CHUNK):
            index[first : first + CHUNK] = block[: ROWS - first]
        index.flush()
        for name in (*least, *least):
            with tempfile.TemporaryDirectory(dir=folder) as target:
                out, start = Path(target, "out.npy"), time.perf_counter()
                copy(source, out) if name == "bare" else apply_edit(edits[name], source, out)
                least[name] = min(least[name], time.perf_counter() - start)
    return least


def copy(source: Path, out: Path) -> None:
    """Copy a file in chunks of the size that `apply_edit` uses: the lower bound for any edit of an index."""
    with open(source, "rb", buffering=0) as old, open(out, "wb", buffering=0) as new:
        shutil.copyfileobj(old, new, CHUNK * INDEX_WIDTH * 4)


def query() -> float:
    """Time the edit of one query, as the mean of a thousand."""
    t, edit = F.normalize(torch.randn(1, INDEX_WIDTH), dim=1), edit_of_one("oblique")
    return least_seconds(lambda: [edit.queries(t) for _ in range(1000)], patience=1.0) / 1000


def forget() -> float:
    """Estimate the seconds from NAMES names to a patch of a ViT-B-32, with PROTOTYPES prototypes and an empty cache.

    The estimate extrapolates from a patch for SOME_NAMES names without prototypes, from embedding their texts alone,
    and from the first SOME_STEPS of the ascent.
    """
    clip, names = load("ViT-B-32", "none", "cpu"), common_names()[:SOME_NAMES]
    vocabulary = Vocabulary(names, ["photo"])
    start = time.perf_counter()
    unlearn(clip, Forget(names[:1]), vocabulary, "oblique", prototypes=False)
    patch, start = time.perf_counter() - start, time.perf_counter()
    targets = embed_cells(clip, vocabulary)[:PROTOTYPES, 0]
    texts, start = time.perf_counter() - start, time.perf_counter()
    for _ in ascend(clip, targets, range(len(targets)), SOME_STEPS):
        pass
    ascent = (STEPS + 1) / (SOME_STEPS + 1) * (time.perf_counter() - start)
    return patch + (NAMES / SOME_NAMES - 1) * texts + ascent


def section(figures: dict) -> list[str]:
    """Return a table of all figures; targets are lower bounds for shares of a rate, upper bounds for all else."""
    rate, index, many = figures["embed"], figures["index"], figures["many"]
    limit = min(CLOSED_FORM, figures["leace"] / TIMES_LEACE)
    slowest = {method: max(times.items(), key=lambda pair: pair[1]) for method, times in figures["closed_form"].items()}
    rows = [(f"{m}, closed form, {request}", 1000 * t, 1000 * limit, "ms") for m, (request, t) in slowest.items()]
    added = "added to a forward pass of 8 pictures"
    rows += [(f"{m}, {added}", 100 * share, 100 * GATE, "%") for m, share in figures["added"].items()]
    rows.append(("changed request to new accuracy matrix", 1000 * figures["answer"], 1000 * ANSWER, "ms"))
    edited = f"{MANY:,} embeddings edited and classified"
    rows += [(f"{m}, {edited}", seconds, MANY_SECONDS, "s") for m, seconds in many["seconds"].items()]
    rows.append(("peak memory of these", (many["peak"] or math.nan) / 1e9, MANY_BYTES / 1e9, "GB"))
    rows.append(("clipnull embed, JPEG files", rate["clipnull"] / rate["bare"], EMBED, "of a bare loop"))
    bare, apply = index["apply"]["bare"], f"clipnull apply, {ROWS:,} x {INDEX_WIDTH}"
    rows += [(f"{m}, {apply}", bare / index["apply"][m], SHARE, "of a bare copy") for m in FORMS]
    rows.append(("one query edited", 1e6 * index["query"], 1e6 * QUERY, "µs"))
    rows.append((f"patch for {NAMES} names, extrapolated", index["forget"], FORGET, "s"))
    cells = [
        (what, f"{value:.3g}", f"{'≥' if unit.startswith('of ') else '≤'} {target:.3g}", unit)
        for what, value, target, unit in rows
    ]
    return [f"On {figures['threads']} threads.", markdown(cells, ["what", "measured", "target", "unit"])]


if __name__ == "__main__":
    args = script.parser(__doc__).parse_args()
    entry = {"kind": "speed", "name": "speed"} | measure()
    script.finish(entry, "\n\n".join(section(entry)), args.json)
