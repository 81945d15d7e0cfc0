"""How long embedding, prototypes and edits take on one device, for three towers with random weights.

Random weights take as long as trained ones. On CUDA: also how far embeddings are from the CPU's, and `clipnull embed`
beside a bare loop of open_clip.
"""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import script
import torch
import torch.nn.functional as F
from PIL import Image
from speed import EMBED, random_cells, rates, speed_masks
from torch import Tensor
from torch.utils.data import DataLoader

from clipnull.embedding import BATCH, READERS
from clipnull.images import Images
from clipnull.methods import solve
from clipnull.models import Clip, load
from clipnull.prototypes import synthesize

MODELS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
STEPS = 60  # of ascent, for a prototype: the default of `synthesize`
EDITS = ("oblique", "gated")  # a linear edit, and one with a gate
FILES, DRAWN = 3072, 128  # pictures that are read from files for a GPU; so many different ones
SIZES = {"cuda": (512, 32, STEPS, 1_000_000), "cpu": (4, 1, 1, 20_000)}
"""Pictures embedded, prototypes, steps of ascent, embeddings edited: as few on the CPU as give a first idea."""


def measure(device: str, models: Sequence[str] = MODELS) -> dict:
    """For each of `models`: pictures embedded a second; seconds of ascent and of an edit; rows edited a second.

    Ready for JSON. Each is the second of two runs, as the first one prepares the device (a single step, of an ascent).
    """
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    figures = {model: of(load(model, "none", device), *SIZES.get(kind, SIZES["cpu"])) for model in models}
    return {"device": name, "torch": torch.__version__, "models": figures}


def of(clip: Clip, pictures: int, prototypes: int, steps: int, rows: int) -> dict:
    """What `measure` gives of one model."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(pictures, 3, clip.image_size, clip.image_size, generator=generator)
    cuda, embedded = clip.device.type == "cuda", {}
    for precision in ("float32", "mixed") if cuda else ("float32",):
        with mixed(clip) if precision == "mixed" else nullcontext():
            embedded[precision] = pictures / seconds(lambda: clip.embed_pixels(pixels))
    targets = F.normalize(torch.randn(prototypes, clip.width, generator=generator), dim=-1)
    ascent = seconds(lambda n=steps: synthesize(clip, targets, n, batch=prototypes), 1)
    cells, mask = random_cells(clip.width, generator), speed_masks()["one class"]
    z, solved, edited = torch.randn(rows, clip.width, generator=generator).to(clip.device), {}, {}
    for method in EDITS:
        edit = solve(cells, mask, method)
        solved[method] = seconds(partial(solve, cells, mask, method))
        edited[method] = rows / seconds(lambda: float(edit.images(z).sum()))  # noqa: B023 - waits for the device
    ascended = {"prototypes": prototypes, "steps": steps, "seconds": ascent}
    figures = {"embed": embedded, "synthesize": ascended, "solve": solved, "edit": edited}
    if cuda:
        figures |= {"far": far_from_the_cpu(clip, pixels[:8]), "files": rates(clip, FILES, bare_loader, DRAWN)}
    return figures


def mixed(clip: Clip) -> AbstractContextManager:
    """The precision in which `embed_shards` embeds on CUDA."""
    return torch.autocast(clip.device.type, torch.float16)


def far_from_the_cpu(clip: Clip, pixels: Tensor) -> dict[str, float]:
    """How far the cosine to what the CPU makes of `pixels` is from 1, for the worst picture, in each precision."""
    z = {"float32": clip.embed_pixels(pixels)}
    with mixed(clip):
        z["mixed"] = clip.embed_pixels(pixels)
    there = replace(clip, model=copy.deepcopy(clip.model).cpu())
    on_cpu = F.normalize(there.embed_pixels(pixels).double(), dim=-1)
    return {name: float(1 - (F.normalize(own.double(), dim=-1) * on_cpu).sum(-1).min()) for name, own in z.items()}


@torch.inference_mode()
def bare_loader(clip: Clip, images: Images) -> Tensor:
    """Embeddings (n, d) as a script with open_clip and a DataLoader makes them, with batches and readers of `embed`."""
    files = [(clip.preprocess, file) for file in images.files]
    readers, pinned = min(READERS, joblib.cpu_count()), clip.device.type == "cuda"
    loader = DataLoader(files, BATCH, num_workers=readers, collate_fn=opened, pin_memory=pinned)  # type: ignore
    parts = []
    for pixels in loader:
        with mixed(clip):
            parts.append(clip.model.encode_image(pixels.to(clip.device, non_blocking=True)).float().cpu())
    return torch.cat(parts)


def opened(batch: Sequence[tuple[Callable[[Image.Image], Tensor], Path]]) -> Tensor:
    """The prepared pictures of a batch, (m, 3, s, s), read by a process of `bare_loader`."""
    return torch.stack([prepare(Image.open(file)) for prepare, file in batch])


def seconds(call: Callable[..., object], *first: object) -> float:
    """How long the second of two calls takes; the first one gets the arguments `first`."""
    call(*first)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def report(figures: dict) -> str:
    """What `measure` gives, as plain text."""
    about = "random weights; 345 classes x 6 domains, one class forgotten"
    lines = [f"{figures['device']}, PyTorch {figures['torch']}; {about}"]
    for model, times in figures["models"].items():
        embedded = ", ".join(f"{rate:.1f} pictures a second in {name}" for name, rate in times["embed"].items())
        n, steps, seconds = times["synthesize"].values()
        whole = "" if steps == STEPS else f"; {STEPS} of them by arithmetic {STEPS * seconds / n / steps:.1f} s"
        edits = "; ".join(
            f"{method} made in {1000 * times['solve'][method]:.0f} ms on the CPU, {rate:.0f} rows a second"
            for method, rate in times["edit"].items()
        )
        ascent = f"a prototype ({n} at once), {steps} steps: {seconds / n:.2f} s{whole}"
        lines += [f"{model}: {embedded}", f"  {ascent}", f"  {edits}"]
        if files := times.get("files"):  # on CUDA
            share = f"{files['clipnull'] / files['bare']:.2f} of a bare loop of open_clip ({files['bare']:.1f})"
            rate = f"{files['clipnull']:.1f} pictures a second, {share}; target: {EMBED}"
            lines.append(f"  clipnull embed, JPEG files: {rate}")
            apart = ", ".join(f"{far:.1e} in {name}" for name, far in times["far"].items())
            lines.append(f"  1 - cosine to the CPU's embedding, the worst of eight pictures of noise: {apart}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = script.parser(__doc__)
    parser.add_argument("device", help="cpu or cuda")
    args = parser.parse_args()
    entry = {"kind": "device", "name": "device"} | measure(args.device)
    script.finish(entry, report(entry), args.json)
