"""Visual prototypes: pictures synthesized from noise that CLIP takes for a given text. No data is used.

A prototype of a target t maximises cos(z(x), t) over pictures x by gradient ascent (activation maximisation). A free
choice of pixels ends in noise that only the model understands; three habits of feature visualisation (Olah,
Mordvintsev and Schubert 2017) keep the ascent in the range of pictures: a multi-scale parametrisation, random
crops, and mirror images.
"""
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import at_least
from .models import Clip, cache_folder
from .prompts import Vocabulary, embed_cells

SCALES = (1, 2, 4, 8, 16, 32)
"""The picture is a sum of images whose pixels are s times larger than the last, s in SCALES."""


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Synthesized pictures of the cells in `mask`, and V, the normalised embedding of each (zero outside `mask`)."""

    pixels: Tensor                    # (C, K, 3, s, s) uint8
    embeddings: Tensor                # (C, K, d) float32, unit vectors where mask
    mask: Tensor                      # (C, K) bool


def synthesize(clip: Clip, targets: Tensor, steps: int = 60, seed: int = 0, rate: float = 0.05, batch: int = 32,
               progress: bool = True) -> tuple[Tensor, Tensor]:
    """Pictures whose embedding has the highest cosine to each row of `targets` (n, d).

    steps: steps of Adam; rate: its learning rate, in units of the pixel range [0, 1] before the sigmoid.
    Returns pixels (n, 3, s, s) in [0, 1] and their embeddings, unit rows (n, d). The same seed, targets and machine
    give the same pictures, whatever the batch size.
    """
    at_least("steps", steps, 1)
    at_least("batch", batch, 1)
    if targets.ndim != 2 or targets.shape[1] != clip.width or not len(targets):
        raise ValueError(f"targets: shape {tuple(targets.shape)} is not valid; expected (n, {clip.width}), n >= 1")
    start, pictures, embeddings = time.time(), [], []
    for first in range(0, len(targets), batch):
        x = _ascend(clip, F.normalize(targets[first:first + batch].float(), dim=-1).to(clip.device), steps,
                    seed + first, rate)
        with torch.inference_mode():
            embeddings.append(F.normalize(_embed(clip, x), dim=-1).cpu())
        pictures.append(x.cpu())
        if progress:
            done = min(first + batch, len(targets))
            print(f"prototypes: {done}/{len(targets)} after {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return torch.cat(pictures), torch.cat(embeddings)


def _ascend(clip: Clip, targets: Tensor, steps: int, seed: int, rate: float) -> Tensor:
    size, n = clip.image_size, len(targets)
    g = torch.Generator().manual_seed(seed)
    layers = [torch.randn(n, 3, -(-size // s), -(-size // s), generator=g).mul(0.05).to(clip.device).requires_grad_()
              for s in SCALES if s < size]
    ascent = torch.optim.Adam(layers, lr=rate)
    for _ in range(steps):
        x = _picture(layers, size)
        # a random crop of 85 to 100 %, mirrored every other time: what is seen must survive a small move
        crop = int(size * (0.85 + 0.15 * torch.rand((), generator=g)))
        top, left = (torch.rand(2, generator=g) * (size - crop + 1)).int().tolist()
        x = x[..., top:top + crop, left:left + crop]
        if torch.rand((), generator=g) < 0.5:
            x = x.flip(-1)
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        cosine = (F.normalize(_embed(clip, x), dim=-1) * targets).sum(1)
        for layer, gradient in zip(layers, torch.autograd.grad(-cosine.sum(), layers), strict=True):
            layer.grad = gradient
        ascent.step()
    return _picture(layers, size).detach()


def _picture(layers: list[Tensor], size: int) -> Tensor:
    total = sum(F.interpolate(layer, size=(size, size), mode="bilinear", align_corners=False) for layer in layers)
    return torch.sigmoid(2 * total)


def _embed(clip: Clip, x: Tensor) -> Tensor:
    config = clip.model.visual.preprocess_cfg
    mean, std = (torch.tensor(config[k], device=x.device).view(3, 1, 1) for k in ("mean", "std"))
    return clip.model.encode_image(((x - mean) / std).to(clip.weights.dtype)).float()


def cell_prototypes(clip: Clip, vocabulary: Vocabulary, mask: Tensor | None = None, steps: int = 60, seed: int = 0,
                    progress: bool = True) -> Prototypes:
    """One prototype for every cell of `mask` (C, K) bool; by default for all cells.

    Each is kept in the cache folder under a hash of the model, the target and the settings, and made only once.
    """
    mask = torch.ones(vocabulary.shape, dtype=torch.bool) if mask is None else mask
    if mask.shape != vocabulary.shape or not mask.any():
        raise ValueError(f"mask: shape {tuple(mask.shape)} with {int(mask.sum())} cells; expected "
                         f"{vocabulary.shape} with at least one")
    targets = embed_cells(clip, vocabulary)
    key = json.dumps([clip.fingerprint, vocabulary.classes, vocabulary.domains, steps, seed, _source_hash()])
    path = cache_folder() / f"prototypes-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    with FileLock(f"{path}.lock"):
        stored = load_file(path) if path.is_file() else {
            "pixels": torch.zeros(*vocabulary.shape, 3, clip.image_size, clip.image_size, dtype=torch.uint8),
            "embeddings": torch.zeros(*vocabulary.shape, clip.width),
            "mask": torch.zeros(vocabulary.shape, dtype=torch.bool)}
        missing = (mask & ~stored["mask"]).nonzero().tolist()
        if missing:
            c, k = torch.tensor(missing).T
            # a seed of its own for each cell would forbid batches: cells are made in chunks of one class
            for row in c.unique().tolist():
                columns = k[c == row]
                pixels, z = synthesize(clip, targets[row, columns], steps, seed + row, progress=False)
                stored["pixels"][row, columns] = (pixels * 255).round().to(torch.uint8)
                stored["embeddings"][row, columns] = z
                stored["mask"][row, columns] = True
                if progress:
                    print(f"prototypes of {vocabulary.classes[row]}: {int(stored['mask'].sum())} cells done",
                          file=sys.stderr, flush=True)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            save_file(stored, temporary)
            os.replace(temporary, path)
    return Prototypes(stored["pixels"], stored["embeddings"] * mask[..., None], mask)


def _source_hash() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
