"""How long the closed form takes, next to LEACE; what an edit adds to a forward pass; how quickly the panel answers.

And what many embeddings take, in seconds and in memory, and how `clipnull embed` does next to a bare loop.
"""

import math
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
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
from clipnull.images import Images
from clipnull.methods import METHODS, solve
from clipnull.methods.cells import Cells
from clipnull.models import Clip, load
from clipnull.prompts import text_classifiers
from clipnull.unlearning import embed_vocabulary
from clipnull.vocabulary import Vocabulary

CLASSES, DOMAINS, WIDTH, PICTURES = 345, 6, 1024, 10_000  # DomainNet, in the space of a ViT-H-14
CLOSED_FORM, TIMES_LEACE, GATE, ANSWER = 0.150, 2, 0.02, 0.200  # seconds; factor; share of a forward pass; seconds
MANY, MANY_WIDTH, MANY_SECONDS, MANY_BYTES = 600_000, 512, 15, 3e9  # the embeddings of DomainNet by a ViT-B
WHOLE = "gated"  # goes through MANY, with most work for each; the others through a tenth of them
JPEGS, EMBED = 128, 0.95  # pictures; of the rate of a bare loop


PARTS = ("closed_form", "inference", "answer", "many", "embed")
"""What can be measured alone."""


def measure(parts: Collection[str] = PARTS) -> dict:
    """The figures of some of PARTS, times in seconds, ready for JSON; all of them take a minute and a half.

    Raises ImportError if "closed_form" is asked for and concept-erasure is not installed.
    """
    found: dict = {"threads": torch.get_num_threads()}
    for part, made in zip(PARTS, (closed_forms, inference, answer, many, rates_of_embedding), strict=True):
        found |= made() if part in parts else {}
    return found


def closed_forms() -> dict:
    """Seconds of LEACE; of the first request of a vocabulary; and of later ones, for each method."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        eraser = import_extra("concept_erasure", "baselines").LeaceEraser
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PICTURES, WIDTH, generator=generator)
    labels = F.one_hot(torch.randint(CLASSES, (PICTURES,), generator=generator), CLASSES)
    leace = least_seconds(partial(eraser.fit, x, labels))
    cells, masks = random_cells(WIDTH, generator), speed_masks()
    start = time.perf_counter()
    solve(cells, masks["one class"], "oblique")
    first = time.perf_counter() - start
    times = {
        method: {what: least_seconds(partial(solve, cells, mask, method)) for what, mask in masks.items()}
        for method in METHODS
    }
    return {"leace": leace, "first": first, "closed_form": times}


def inference() -> dict:
    """Seconds of a forward pass of eight pictures through a ViT-B-32, and the share of it that each method adds."""
    clip, generator = load("ViT-B-32", None, "cpu"), torch.Generator().manual_seed(0)
    cells, masks = random_cells(clip.width, generator), speed_masks()
    pixels = torch.randn(8, 3, clip.image_size, clip.image_size, generator=generator)
    with torch.inference_mode():
        forward, z = least_seconds(partial(clip.model.encode_image, pixels)), clip.model.encode_image(pixels)
        added = {
            method: max(_added(solve(cells, mask, method), clip, z) for mask in masks.values()) / forward
            for method in METHODS
        }
    return {"forward": forward, "added": added}


def answer() -> dict:
    """Seconds from a changed request to the changed matrix on the embedded pictures: what the live panel does."""
    clip, images = load(device="cpu"), load_images()
    cells, z = embed_vocabulary(clip, images.vocabulary, prototypes=False), embed(clip, images)
    classifiers = text_classifiers(clip, images.vocabulary)
    mask = torch.zeros(images.vocabulary.shape, dtype=torch.bool)
    mask[0, 0] = True

    def matrix(method: str) -> Tensor:
        return accuracy_matrix(classify(solve(cells, mask, method).images(z), classifiers, images.domains), images)

    return {"answer": max(least_seconds(partial(matrix, method)) for method in METHODS)}


def many() -> dict:
    """What `edit_many` tells of MANY embeddings, with an edit of each method that forgets one class of CLASSES."""
    cells, mask = random_cells(MANY_WIDTH, torch.Generator().manual_seed(0)), speed_masks()["one class"]
    edits = {method: solve(cells, mask, method) for method in METHODS}
    return {"many": alone(edit_many, MANY, edits, cells.texts.transpose(0, 1).float(), [WHOLE])}


def edit_many(n: int, edits: dict[str, Edit], classifiers: Tensor, whole: Iterable[str] | None = None) -> dict:
    """Seconds in which n embeddings are edited and classified, for each edit; and the memory of this process.

    classifiers: (K, C, d), one for each domain. whole: the edits that go through all n, by default all; the others go
    through a tenth, and their seconds are ten times as many. `input`: bytes of the embeddings, (n, d) float32;
    `beyond`: bytes by which the peak grew after they were made; `peak`: all that the process had at once, Python and
    PyTorch with it. Both are None where the system does not tell.
    """
    generator = torch.Generator().manual_seed(0)
    k, c, width = classifiers.shape
    vocabulary = Vocabulary([f"class {i}" for i in range(c)], [f"domain {i}" for i in range(k)])
    classes, domains = (torch.randint(size, (n,), generator=generator) for size in (c, k))
    z = torch.empty(n, width).normal_(generator=generator)
    start, seconds = peak_memory(), {}
    for name, edit in edits.items():
        share = 1 if whole is None or name in whole else 10
        rows, k = z[: n // share], domains[: n // share]
        some = Images((), classes[: n // share], k, vocabulary, rows)
        begun = time.perf_counter()
        accuracy_matrix(classify(rows, classifiers, k, edit.images), some)
        seconds[name] = share * (time.perf_counter() - begun)
    peak = peak_memory()
    beyond = None if start is None or peak is None else peak - start
    return {"seconds": seconds, "input": z.nbytes, "beyond": beyond, "peak": peak}


def alone(call: Callable[..., dict], *arguments: object) -> dict:
    """What `call` gives in a process of its own, whose memory holds nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(call, *arguments).result()


def peak_memory() -> int | None:
    """The most bytes of memory that this process had at once; None where the system does not tell (Windows)."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where `ru_maxrss` of a new process begins with that of its parent
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        return found and 1024 * int(found[1])
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def rates_of_embedding(rounds: int = 2) -> dict:
    """Pictures a second of `bare_loop` and of `clipnull embed`, on JPEGS files: the best of some rounds in turn.

    The fingerprint of the model and the embeddings of texts, once for a file whatever JPEGS is, are not counted.
    """
    clip, least = load("ViT-B-32", None, "cpu"), {"bare": math.inf, "clipnull": math.inf}
    assert clip.fingerprint
    with tempfile.TemporaryDirectory() as folder:
        nowhere = torch.zeros(JPEGS, dtype=torch.int64)
        images = Images(jpegs(Path(folder), JPEGS), nowhere, nowhere, Vocabulary(["a", "b"], ["c"]))
        for _ in range(rounds):
            for what in least:
                with tempfile.TemporaryDirectory(dir=folder) as kept:
                    start = time.perf_counter()
                    bare_loop(clip, images) if what == "bare" else embed_shards(clip, images, kept)
                    least[what] = min(least[what], time.perf_counter() - start)
    return {"embed": {what: JPEGS / seconds for what, seconds in least.items()}}


@torch.inference_mode()
def bare_loop(clip: Clip, images: Images) -> Tensor:
    """Embeddings (n, d) as a script with open_clip alone makes them, in batches as large as those of `embed`."""
    parts = []
    for first in range(0, len(images), BATCH):
        pictures = [clip.preprocess(Image.open(file)) for file in images.files[first : first + BATCH]]
        parts.append(clip.model.encode_image(torch.stack(pictures)))
    return torch.cat(parts)


def jpegs(folder: Path, n: int) -> tuple[Path, ...]:
    """n pictures of 640 x 480 pixels: colours that run into each other, with grain."""
    generator, files = np.random.default_rng(0), []
    for i in range(n):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((640, 480))
        grain = generator.integers(0, 24, (480, 640, 3), dtype=np.uint8)
        picture = Image.fromarray(np.minimum(np.asarray(coarse), 231) + grain)
        files.append(folder / f"{i}.jpg")
        picture.save(files[-1], quality=90)
    return tuple(files)


def report(found: dict) -> str:
    """What `measure` found, all or some parts, as plain text, each figure with its target: [OK] or [MISS]."""
    lines = [f"{found['threads']} threads"]
    if "closed_form" in found:
        limit = min(CLOSED_FORM, found["leace"] / TIMES_LEACE)
        told = f"{PICTURES} x {WIDTH} embeddings with {CLASSES} labels: {1000 * found['leace']:.0f} ms"
        lines = [
            f"{lines[0]}. LEACE, fitted on {told}",
            f"closed form, {CLASSES} classes x {DOMAINS} domains, d = {WIDTH}; it reads no pictures, however many "
            f"there are. Target: at most {1000 * CLOSED_FORM:.0f} ms and LEACE / {TIMES_LEACE}",
            f"the first request of a vocabulary, which prepares for the others: {1000 * found['first']:.0f} ms",
        ]
        for method, times in found["closed_form"].items():
            each, worst = ", ".join(f"{what} {1000 * t:.0f}" for what, t in times.items()), max(times.values())
            lines.append(f"{verdict(worst <= limit)} {method:<10} {1000 * worst:6.0f} ms  ({each})")
    if "forward" in found:
        lines.append(
            f"ViT-B-32 forward pass of 8 pictures: {1000 * found['forward']:.0f} ms. Target: an edit in the weights "
            f"adds nothing, a gate after them at most {100 * GATE:.0f} %"
        )
        for method, share in found["added"].items():
            what = f"{100 * share:.2f} %" if share else "nothing: the same modules and shapes"
            lines.append(f"{verdict(share <= GATE)} {method:<10} adds {what}")
    if "answer" in found:
        lines.append(
            f"{verdict(found['answer'] <= ANSWER)} a changed request on the embedded pictures: "
            f"{1000 * found['answer']:.0f} ms to the new matrix. Target: at most {1000 * ANSWER:.0f} ms"
        )
    if "many" in found:
        lines += report_of_many(found["many"])
    if "embed" in found:
        lines.append(report_of_embedding(found["embed"]))
    return "\n".join(lines)


def report_of_many(found: dict) -> list[str]:
    """What `many` found, as lines of `report`."""
    lines = [
        f"{MANY} x {MANY_WIDTH} embeddings edited and classified, {CLASSES} classes x {DOMAINS} domains, one class "
        f"forgotten; all but {WHOLE} timed on a tenth. Target: at most {MANY_SECONDS} s each, and "
        f"{MANY_BYTES / 1e9:.0f} GB in all"
    ]
    lines += [f"{verdict(s <= MANY_SECONDS)} {method:<10} {s:6.1f} s" for method, s in found["seconds"].items()]
    if found["peak"] is None:
        return [*lines, "memory: this system does not tell"]
    gb = {name: f"{found[name] / 1e9:.2f} GB" for name in ("peak", "input", "beyond")}
    told = f"{gb['peak']}: the embeddings {gb['input']}, to edit and classify them {gb['beyond']}, and the programs"
    return [*lines, f"{verdict(found['peak'] <= MANY_BYTES)} memory     {told}"]


def report_of_embedding(found: dict) -> str:
    """What `rates_of_embedding` found, as a line of `report`."""
    share = found["clipnull"] / found["bare"]
    return (
        f"{verdict(share >= EMBED)} clipnull embed, ViT-B-32, JPEG files: {found['clipnull']:.1f} pictures a second, "
        f"{share:.2f} of a bare loop of open_clip ({found['bare']:.1f}). Target: at least {EMBED}"
    )


def _added(edit: Edit, clip: Clip, z: Tensor) -> float:
    """Seconds that what an edited tower has and `clip` lacks takes on z (n, d); infinite unless that runs after it."""
    towers = [model.visual for model in (clip.model, edit.apply(clip).model)]
    layers = getattr(towers[1], "edits", None)
    shapes = [[(name, p.shape) for name, p in tower.named_parameters()] for tower in towers]
    modules = [[name for name, _ in tower.named_modules() if not name.startswith("edits")] for tower in towers]
    if shapes[0] != shapes[1] or modules[0] != modules[1]:
        return math.inf
    return least_seconds(partial(layers, z)) if layers else 0.0


def random_cells(width: int, generator: torch.Generator) -> Cells:
    """Random unit vectors in the place of CLASSES x DOMAINS texts and prototypes."""
    texts, prototypes = torch.randn(2, CLASSES, DOMAINS, width, generator=generator)
    return Cells(F.normalize(texts, dim=-1), F.normalize(prototypes, dim=-1))


def speed_masks() -> dict[str, Tensor]:
    """Requests of every paradigm and one of many classes, as masks (CLASSES, DOMAINS)."""
    whats = ("one class", "one cell", "one domain", "half of all classes")
    masks = {what: torch.zeros(CLASSES, DOMAINS, dtype=torch.bool) for what in whats}
    masks["one class"][0], masks["one cell"][0, 0], masks["one domain"][:, 0] = True, True, True
    masks["half of all classes"][: CLASSES // 2] = True
    return masks


def least_seconds(call: Callable[[], object], patience: float = 0.2) -> float:
    """The least time of as many calls as begin within `patience` seconds, three at least: more is other processes."""
    start = last = time.perf_counter()
    least, calls = math.inf, 0
    while calls < 3 or last - start < patience:
        begun = time.perf_counter()
        call()
        last, calls = time.perf_counter(), calls + 1
        least = min(least, last - begun)
    return least


def verdict(reached: bool) -> str:
    """What stands before a figure that has a target."""
    return "[OK]  " if reached else "[MISS]"
