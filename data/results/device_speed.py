"""Time embedding, prototypes and edits on a GPU, for three towers with random weights.

Random weights take as long as trained ones. The script also compares embeddings with the CPU's, and `clipnull embed`
with a bare loop of open_clip.
"""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import pandas as pd
import script
import torch
import torch.nn.functional as F
from PIL import Image
from speed import EMBED, random_cells, rates, speed_masks
from torch import Tensor
from torch.utils.data import DataLoader

from clipnull.embedding import BATCH, READERS
from clipnull.files import markdown
from clipnull.images import Images
from clipnull.methods import solve
from clipnull.models import Clip, load
from clipnull.prototypes import synthesize

MODELS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
EDITS = ("oblique", "gated")  # without and with a gate
FILES, UNIQUE_FILES = 3072, 128  # pictures read from files, with repeats
PICTURES, PROTOTYPES, STEPS, ROWS = 512, 32, 60, 1_000_000  # to embed; to synthesize, in STEPS; to edit


def measure(device: str, models: Sequence[str] = MODELS) -> dict:
    """Measure each of `models` and return the figures, ready for JSON.

    Every time is the second of two runs, because the first run warms up the device (with one step, for the ascent).
    """
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device
    figures = {model: measure_model(load(model, "none", device)) for model in models}
    return {"device": name, "torch": torch.__version__, "models": figures}


def measure_model(clip: Clip) -> dict:
    """Return pictures embedded per second, seconds of an ascent and of an edit, and rows edited per second."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(PICTURES, 3, clip.image_size, clip.image_size, generator=generator)
    exact = PICTURES / seconds(lambda: clip.embed_pixels(pixels))
    with mixed(clip):
        embedded = {"float32": exact, "mixed": PICTURES / seconds(lambda: clip.embed_pixels(pixels))}
    targets = F.normalize(torch.randn(PROTOTYPES, clip.width, generator=generator), dim=-1)
    ascent = seconds(lambda n=STEPS: synthesize(clip, targets, n, batch=PROTOTYPES), 1)
    cells, mask = random_cells(clip.width, generator), speed_masks()["one class"]
    z, solved, edited = torch.randn(ROWS, clip.width, generator=generator).to(clip.device), {}, {}
    for method in EDITS:
        edit = solve(cells, mask, method)
        solved[method] = seconds(partial(solve, cells, mask, method))
        edited[method] = ROWS / seconds(lambda: float(edit.images(z).sum()))  # noqa: B023 - waits for the device
    ascended = {"prototypes": PROTOTYPES, "steps": STEPS, "seconds": ascent}
    figures = {"embed": embedded, "synthesize": ascended, "solve": solved, "edit": edited}
    return figures | {"far": far_from_the_cpu(clip, pixels[:8]), "files": rates(clip, FILES, bare_loader, UNIQUE_FILES)}


def mixed(clip: Clip) -> AbstractContextManager:
    """Return a context with the precision of `embed_shards` on CUDA."""
    return torch.autocast(clip.device.type, torch.float16)


def far_from_the_cpu(clip: Clip, pixels: Tensor) -> dict[str, float]:
    """Return 1 - cosine to the CPU's embedding of the worst picture, for each precision."""
    z = {"float32": clip.embed_pixels(pixels)}
    with mixed(clip):
        z["mixed"] = clip.embed_pixels(pixels)
    cpu_clip = replace(clip, model=copy.deepcopy(clip.model).cpu())
    on_cpu = F.normalize(cpu_clip.embed_pixels(pixels).double(), dim=-1)
    return {name: float(1 - (F.normalize(x.double(), dim=-1) * on_cpu).sum(-1).min()) for name, x in z.items()}


@torch.inference_mode()
def bare_loader(clip: Clip, images: Images) -> Tensor:
    """Embed images (n, d) with open_clip and a DataLoader alone, with the batch size and readers of `embed`."""
    files = [(clip.preprocess, file) for file in images.files]
    readers, pinned = min(READERS, joblib.cpu_count()), clip.device.type == "cuda"
    loader = DataLoader(files, BATCH, num_workers=readers, collate_fn=opened, pin_memory=pinned)  # type: ignore
    parts = []
    for pixels in loader:
        with mixed(clip):
            parts.append(clip.model.encode_image(pixels.to(clip.device, non_blocking=True)).float().cpu())
    return torch.cat(parts)


def opened(batch: Sequence[tuple[Callable[[Image.Image], Tensor], Path]]) -> Tensor:
    """Read and preprocess a batch of `bare_loader`, (m, 3, s, s)."""
    return torch.stack([prepare(Image.open(file)) for prepare, file in batch])


def seconds(call: Callable[..., object], *first: object) -> float:
    """Time the second of two calls; only the first call gets the arguments `first`."""
    call(*first)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def section(entry: dict) -> list[str]:
    """Return the paragraphs and the table of the page, with a row per figure and a column per model."""
    setting = "random weights; 345 classes × 6 domains, one class forgotten"
    columns = pd.DataFrame({model: _column(times) for model, times in entry["models"].items()})
    table = markdown(columns.reset_index().to_numpy().tolist(), ["", *columns])
    return [entry.get("note", ""), f"{entry['device']}, PyTorch {entry['torch']}; {setting}.", table]


def _column(times: dict) -> dict[str, str]:
    """Return the figures of one model with their labels."""
    n, steps, ascent = times["synthesize"].values()
    files, figures = times["files"], {f"pictures per second, {p}": f"{rate:.1f}" for p, rate in times["embed"].items()}
    figures[f"seconds per prototype ({n} in a batch), {steps} steps"] = f"{ascent / n:.2f}"
    for method, rate in times["edit"].items():
        figures[f"{method}, milliseconds to solve on the CPU"] = f"{1000 * times['solve'][method]:.0f}"
        figures[f"{method}, rows edited per second"] = f"{rate:.0f}"
    figures["clipnull embed, JPEG files per second"] = f"{files['clipnull']:.1f}"
    figures["bare loop of open_clip, JPEG files per second"] = f"{files['bare']:.1f}"
    figures[f"clipnull embed / bare loop (target: {EMBED})"] = f"{files['clipnull'] / files['bare']:.2f}"
    far = "1 - cosine to the CPU's embedding, worst of eight pictures of noise"
    return figures | {f"{far}, {precision}": f"{distance:.1e}" for precision, distance in times["far"].items()}


if __name__ == "__main__":
    parser = script.parser(__doc__)
    parser.add_argument("device", help="such as cuda")
    args = parser.parse_args()
    entry = {"kind": "device", "name": "device"} | measure(args.device)
    script.finish(entry, "\n\n".join(section(entry)), args.json)
