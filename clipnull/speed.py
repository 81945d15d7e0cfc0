"""How long the closed form takes, next to LEACE; what an edit adds to a forward pass; how quickly the panel answers."""

import math
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import load_images
from .edit import Edit
from .embedding import embed
from .errors import import_extra
from .evaluate import accuracy_matrix, classify
from .methods import METHODS, solve
from .methods.cells import Cells
from .models import Clip, load
from .prompts import text_classifiers
from .unlearning import embed_vocabulary

CLASSES, DOMAINS, WIDTH, PICTURES = 345, 6, 1024, 10_000  # DomainNet, in the space of a ViT-H-14
CLOSED_FORM, TIMES_LEACE, GATE, ANSWER = 0.150, 2, 0.02, 0.200  # seconds; factor; share of a forward pass; seconds


def measure() -> dict:
    """All times, in seconds, ready for JSON; it takes a minute or two.

    Raises ImportError if concept-erasure is not installed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        eraser = import_extra("concept_erasure", "baselines").LeaceEraser
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PICTURES, WIDTH, generator=generator)
    labels = F.one_hot(torch.randint(CLASSES, (PICTURES,), generator=generator), CLASSES)
    found: dict = {"threads": torch.get_num_threads(), "leace": least_seconds(partial(eraser.fit, x, labels))}
    cells, masks = random_cells(WIDTH, generator), speed_masks()
    start = time.perf_counter()
    solve(cells, masks["one class"], "oblique")
    found["first"] = time.perf_counter() - start
    found["closed_form"] = {
        method: {what: least_seconds(partial(solve, cells, mask, method)) for what, mask in masks.items()}
        for method in METHODS
    }
    return found | inference(generator) | {"answer": answer()}


def inference(generator: torch.Generator) -> dict:
    """Seconds of a forward pass of eight pictures through a ViT-B-32, and the share of it that each method adds."""
    clip = load("ViT-B-32", None, "cpu")
    cells, masks = random_cells(clip.width, generator), speed_masks()
    pixels = torch.randn(8, 3, clip.image_size, clip.image_size, generator=generator)
    with torch.inference_mode():
        forward, z = least_seconds(partial(clip.model.encode_image, pixels)), clip.model.encode_image(pixels)
        added = {
            method: max(_added(solve(cells, mask, method), clip, z) for mask in masks.values()) / forward
            for method in METHODS
        }
    return {"forward": forward, "added": added}


def answer() -> float:
    """Seconds from a changed request to the changed matrix on the embedded pictures: what the live panel does."""
    clip, images = load(device="cpu"), load_images()
    cells, z = embed_vocabulary(clip, images.vocabulary, prototypes=False), embed(clip, images)
    classifiers = text_classifiers(clip, images.vocabulary)
    mask = torch.zeros(images.vocabulary.shape, dtype=torch.bool)
    mask[0, 0] = True

    def matrix(method: str) -> Tensor:
        return accuracy_matrix(classify(solve(cells, mask, method).transform(z), classifiers, images.domains), images)

    return max(least_seconds(partial(matrix, method), patience=0.5) for method in METHODS)


def report(found: dict) -> str:
    """What `measure` found, as plain text, each figure with its target: [OK] or [MISS]."""
    limit = min(CLOSED_FORM, found["leace"] / TIMES_LEACE)
    lines = [
        f"{found['threads']} threads. LEACE, fitted on {PICTURES} x {WIDTH} embeddings with {CLASSES} labels: "
        f"{1000 * found['leace']:.0f} ms",
        f"closed form, {CLASSES} classes x {DOMAINS} domains, d = {WIDTH}; it reads no pictures, however many there "
        f"are. Target: at most {1000 * CLOSED_FORM:.0f} ms and LEACE / {TIMES_LEACE}",
        f"the first request of a vocabulary, which prepares for the others: {1000 * found['first']:.0f} ms",
    ]
    for method, times in found["closed_form"].items():
        each, worst = ", ".join(f"{what} {1000 * t:.0f}" for what, t in times.items()), max(times.values())
        lines.append(f"{verdict(worst <= limit)} {method:<10} {1000 * worst:6.0f} ms  ({each})")
    lines.append(
        f"ViT-B-32 forward pass of 8 pictures: {1000 * found['forward']:.0f} ms. Target: an edit in the weights adds "
        f"nothing, a gate after them at most {100 * GATE:.0f} %"
    )
    for method, share in found["added"].items():
        what = f"{100 * share:.2f} %" if share else "nothing: the same modules and shapes"
        lines.append(f"{verdict(share <= GATE)} {method:<10} adds {what}")
    lines.append(
        f"{verdict(found['answer'] <= ANSWER)} a changed request on the embedded pictures: "
        f"{1000 * found['answer']:.0f} ms to the new matrix. Target: at most {1000 * ANSWER:.0f} ms"
    )
    return "\n".join(lines)


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


def least_seconds(call: Callable[[], object], patience: float = 2.0) -> float:
    """The least time of as many calls as begin within `patience` seconds: what is more is other processes."""
    start = last = time.perf_counter()
    least = math.inf
    while last - start < patience:
        begun = time.perf_counter()
        call()
        last = time.perf_counter()
        least = min(least, last - begun)
    return least


def verdict(reached: bool) -> str:
    """What stands before a figure that has a target."""
    return "[OK]  " if reached else "[MISS]"
