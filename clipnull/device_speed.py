"""How long embedding, prototypes and edits take on one device, for three towers with random weights.

Random weights take as long as trained ones. `clipnull bench --device cuda` prints what was found there.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from .methods import solve
from .models import Clip, load
from .prototypes import synthesize
from .speed import random_cells, speed_masks

MODELS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
STEPS = 60
"""Of ascent, for a prototype: the default of `synthesize`."""

EDITS = ("oblique", "gated")
"""A linear edit, and one with a gate."""

SIZES = {"cuda": (512, 32, STEPS, 1_000_000), "cpu": (4, 1, 1, 20_000)}
"""Pictures embedded, prototypes, steps of ascent, embeddings edited: as few on the CPU as give a first idea."""


def measure(device: str, models: Sequence[str] = MODELS) -> dict:
    """For each of `models`: pictures embedded a second; seconds of ascent and of an edit; rows edited a second.

    Ready for JSON. Each is the second of two runs, as the first one prepares the device. On the CPU a prototype ascends
    by one step only, see SIZES, and `report` tells by arithmetic what a whole one would take.
    """
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    found = {model: of(load(model, None, device), *SIZES.get(kind, SIZES["cpu"])) for model in models}
    return {"device": name, "torch": torch.__version__, "models": found}


def of(clip: Clip, pictures: int, prototypes: int, steps: int, rows: int) -> dict:
    """What `measure` tells of one model."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(pictures, 3, clip.image_size, clip.image_size, generator=generator)
    cuda = clip.device.type == "cuda"
    rates = {}
    for precision in ("float32", "mixed") if cuda else ("float32",):
        with torch.autocast("cuda", torch.float16) if precision == "mixed" else nullcontext():
            rates[precision] = pictures / seconds(lambda: clip.embed_pixels(pixels))
    targets = F.normalize(torch.randn(prototypes, clip.width, generator=generator), dim=-1)
    ascent = seconds(lambda: synthesize(clip, targets, steps, batch=prototypes, progress=False))
    cells, mask = random_cells(clip.width, generator), speed_masks()["one class"]
    z, solved, edited = torch.randn(rows, clip.width, generator=generator).to(clip.device), {}, {}
    for method in EDITS:
        edit = solve(cells, mask, method)
        solved[method] = seconds(lambda: solve(cells, mask, method))  # noqa: B023 - called at once
        edited[method] = rows / seconds(lambda: float(edit.images(z).sum()))  # noqa: B023 - waits for the device
    made = {"prototypes": prototypes, "steps": steps, "seconds": ascent}
    return {"embed": rates, "synthesize": made, "solve": solved, "edit": edited}


def seconds(call: Callable[[], object]) -> float:
    """How long the second of two calls takes."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def report(found: dict) -> str:
    """What `measure` found, as plain text."""
    lines = [
        f"{found['device']}, PyTorch {found['torch']}; random weights; 345 classes x 6 domains, one class forgotten"
    ]
    for model, own in found["models"].items():
        embed = ", ".join(f"{rate:.1f} pictures a second in {name}" for name, rate in own["embed"].items())
        made = own["synthesize"]
        each = made["seconds"] / made["prototypes"]
        whole = (
            "" if made["steps"] == STEPS else f"; {STEPS} of them by arithmetic {STEPS * each / made['steps']:.1f} s"
        )
        ascent = f"a prototype ({made['prototypes']} at once), {made['steps']} steps: {each:.2f} s{whole}"
        edits = "; ".join(
            f"{method} made in {1000 * own['solve'][method]:.0f} ms on the CPU, {own['edit'][method]:.0f} rows a second"
            for method in own["edit"]
        )
        lines += [f"{model}: {embed}", f"  {ascent}", f"  {edits}"]
    return "\n".join(lines)
