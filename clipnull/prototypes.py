"""Visual prototypes: pictures synthesized from noise that CLIP places near a given text. No training data is used.

A prototype of a target t maximises cos(z(x), t) over pictures x by gradient ascent (activation maximisation). Free
pixels turn into noise that only the model understands. Methods of feature visualisation (Olah, Mordvintsev and Schubert
2017) keep the ascent near real pictures: several scales, the colour statistics of photographs, random crops and mirror
images, noise, a white start and a smoothness penalty. We tuned them on training pictures of miniworld and PACS, by the
cosine to the mean embedding of real pictures. Rotations, stronger zoom, and fewer but larger steps did not help.
"""

import hashlib
import json
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from .errors import at_least
from .files import cache_folder, cache_path, data_folder, written
from .models import Batch, Clip
from .prompts import embed_cells
from .vocabulary import TEMPLATES, Vocabulary, format_prompt

ALGORITHM = 2  # the version of `synthesize`; increase it whenever the same seed gives a different picture
SCALES = (1, 2, 4, 8, 16, 32)  # a picture is a sum of images with pixels s times as large as the finest
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Red, green and blue per unit of each free channel: brightness varies most, then blue against yellow-red, then green.
Columns are scaled square roots of the colour covariance of photographs (Olah et al., Lucid)."""
WHITE = 1.0  # the logit of an empty page
SMOOTH = 10.0  # the weight of the mean squared difference between neighbouring pixels
NOISE = 0.15  # the initial standard deviation of the noise on each view, for pixels in [0, 1]; it fades to zero
VIEWS = 4  # random views averaged for a picture's embedding, so that it does not depend on a single crop
CHUNK = 32  # prototypes that are synthesized in one batch and then written


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Synthesized pictures of the (class, domain) cells in `mask`, and V, their embeddings; zero outside `mask`."""

    pixels: Tensor  # (C, K, 3, s, s) uint8
    embeddings: Tensor  # (C, K, d) float32, unit rows in mask
    mask: Tensor  # (C, K) bool

    def __repr__(self) -> str:
        return f"Prototypes(of {int(self.mask.sum())} of {self.mask.numel()} cells)"

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to store, restricted to the cells in `mask`."""
        return {"pixels": self.pixels[self.mask], "embeddings": self.embeddings[self.mask], "mask": self.mask}


def ascend(
    clip: Clip, targets: Tensor, seeds: Sequence[int], steps: int = 60, rate: float = 0.015
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run gradient ascent from noise on the cosine to each row of `targets` (n, d), with one seed per row.

    At the start and after each of `steps` steps of Adam, yield the pictures (n, 3, s, s) in [0, 1] and the cosines (n,)
    of a random view of each. Rows do not influence each other (in eval mode BatchNorm uses fixed statistics).
    """
    size, targets = clip.image_size, F.normalize(targets.float(), dim=-1).to(clip.device)
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    sides = [-(-size // s) for s in SCALES if s < size]
    layers = [torch.stack([torch.randn(3, side, side, generator=g) for g in noise]) for side in sides]
    layers = [(0.05 * layer).to(clip.device).requires_grad_() for layer in layers]
    weights = [s**0.3 for s in SCALES]  # coarse shapes grow faster than fine grain
    colours = 3.5 * torch.tensor(COLOURS, device=clip.device)
    draws = torch.stack([torch.rand(steps + 1, 4, generator=g) for g in noise], dim=1)  # (steps + 1, n, 4)
    adam = torch.optim.Adam(layers, lr=rate)
    for step in range(steps + 1):
        canvas = sum(
            w * F.interpolate(y, size=(size, size), mode="bilinear", align_corners=False)
            for w, y in zip(weights, layers, strict=False)
        )
        x = torch.sigmoid(WHITE + 2 * torch.einsum("oc,nchw->nohw", colours, canvas))
        grain = torch.stack([torch.randn(3, size, size, generator=g) for g in noise]).to(clip.device)
        cosines = (_embed(clip, _view(x, draws[step]) + NOISE * (1 - step / steps) * grain) * targets).sum(1)
        yield x.detach(), cosines.detach()
        if step < steps:
            rough = x.diff(dim=-1).square().mean((1, 2, 3)) + x.diff(dim=-2).square().mean((1, 2, 3))
            loss = (SMOOTH * rough - cosines).sum()
            for layer, gradient in zip(layers, torch.autograd.grad(loss, layers), strict=True):
                layer.grad = gradient
            adam.step()


def _view(x: Tensor, draw: Tensor) -> Tensor:
    """Crop each picture to 85-100 %, mirror it or not, and resize to full size; `draw` (n, 4) is uniform in [0, 1]."""
    zoom, mirror, right, down = draw.to(x.device).T
    zoom, sign, zero = 0.85 + 0.15 * zoom, 1 - 2 * (mirror < 0.5).float(), torch.zeros_like(zoom)
    move = (1 - zoom) * (2 * torch.stack([right, down]) - 1)
    affine = torch.stack([torch.stack([sign * zoom, zero, move[0]], 1), torch.stack([zero, zoom, move[1]], 1)], 1)
    return F.grid_sample(x, F.affine_grid(affine, list(x.shape), align_corners=False), align_corners=False)


def _embed(clip: Clip, x: Tensor) -> Tensor:
    config = clip.model.visual.preprocess_cfg
    mean, std = (torch.tensor(config[k], device=x.device).view(3, 1, 1) for k in ("mean", "std"))
    x = ((x - mean) / std).to(clip.weights.dtype, memory_format=torch.channels_last)  # faster convolutions
    return F.normalize(clip.model.encode_image(x).float(), dim=-1)


def synthesize(
    clip: Clip,
    targets: Tensor,
    steps: int = 60,
    seeds: Sequence[int] | None = None,
    rate: float = 0.015,
    batch: int | Batch = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Synthesize the picture whose embedding has the highest cosine to each row of `targets` (n, d).

    steps: number of Adam steps. seeds: noise seed of each row; 0 to n - 1 by default. rate: learning rate, in pixel
    logits. Return pixels (n, 3, s, s) in [0, 1] and unit embeddings (n, d), averaged over random views. Up to rounding,
    a row depends on its target and seed only, not on its batch.
    """
    at_least("steps", steps, 1)
    clip.validate_encoder()
    if targets.ndim != 2 or targets.shape[1] != clip.width or not len(targets):
        raise ValueError(f"targets: shape {tuple(targets.shape)} is not valid; expected (n, {clip.width}), n >= 1")
    seeds = range(len(targets)) if seeds is None else seeds

    def make(rows: slice) -> tuple[Tensor, Tensor]:
        x, _ = deque(ascend(clip, targets[rows], seeds[rows], steps, rate), maxlen=1)[0]
        with torch.inference_mode():
            noise = [torch.Generator().manual_seed(~s) for s in seeds[rows]]
            draws = torch.stack([torch.rand(VIEWS, 4, generator=g) for g in noise])
            views = [_embed(clip, _view(x, draws[:, i])) for i in range(VIEWS)]
        return x.cpu(), F.normalize(sum(views[1:], views[0]), dim=-1).cpu()

    pictures, embeddings = zip(*Batch.of(batch).through(make, len(targets)), strict=True)
    return torch.cat(pictures), torch.cat(embeddings)


def cell_prototypes(
    clip: Clip,
    vocabulary: Vocabulary,
    mask: Tensor | None = None,
    steps: int = 60,
    seed: int = 0,
    progress: bool = True,
) -> Prototypes:
    """Return one prototype for every cell of `mask` (C, K) bool; by default for all cells.

    A prototype depends on its cell alone, not on the other cells. Each is synthesized once, in about a second on two
    cores, and cached under a hash of its inputs. miniclip ships with prototypes for the names of miniworld and PACS. A
    damaged cache file is reported in a warning and replaced. A file of embeddings supplies its own, without pixels.

    Raise ValueError for an edited `clip` (use its base, or `synthesize`), and OSError if the cache cannot be written.
    """
    if clip.edits:
        raise ValueError(f"clip: it carries {len(clip.edits)} edits; expected the unedited model, clip.base")
    if clip.stored:
        if "prototypes" not in clip.stored.vectors or vocabulary != clip.stored.vocabulary:
            raise ValueError(f"clip: {clip.name} has no encoder and no prototypes of these names; expected texts only")
        pixels = torch.zeros(*vocabulary.shape, 3, 0, 0, dtype=torch.uint8)
        return Prototypes(pixels, F.normalize(clip.stored.vectors["prototypes"], dim=-1), clip.stored.mask)
    mask = torch.ones(vocabulary.shape, dtype=torch.bool) if mask is None else mask
    if mask.shape != vocabulary.shape or not mask.any():
        raise ValueError(f"mask: shape {tuple(mask.shape)}; expected {vocabulary.shape} with at least one cell")
    at_least("steps", steps, 1)
    name = _file_name(clip, vocabulary, steps, seed)
    path, prototypes = cache_path() / name, _read(data_folder("miniclip") / name, clip, vocabulary)
    if (mask & ~prototypes.mask).any():
        prototypes = _read(path, clip, vocabulary)
    if (mask & ~prototypes.mask).any():
        cache_folder()
        with FileLock(f"{path}.lock"):
            prototypes = _read(path, clip, vocabulary)  # another process may have added some
            missing = (mask & ~prototypes.mask).nonzero()
            with tqdm(total=len(missing), desc="synthesizing prototypes", unit="cell", disable=not progress) as bar:
                for first in range(0, len(missing), CHUNK):
                    cells = missing[first : first + CHUNK]
                    _add(cells, prototypes, clip, vocabulary, steps, seed)
                    with written(path) as temporary:  # after each chunk, so that an interrupted run can continue
                        save_file(prototypes.tensors(), temporary)
                    bar.update(len(cells))
    return Prototypes(prototypes.pixels, prototypes.embeddings * mask[..., None], mask)


def are_made(clip: Clip, vocabulary: Vocabulary) -> bool:
    """Return True if the prototypes of all cells ship with `clip`."""
    return bool(_read(data_folder("miniclip") / _file_name(clip, vocabulary, 60, 0), clip, vocabulary).mask.all())


def _add(cells: Tensor, prototypes: Prototypes, clip: Clip, vocabulary: Vocabulary, steps: int, seed: int) -> None:
    """Synthesize the prototypes of `cells` (n, 2) and add them to `prototypes`."""
    c, k = cells.T
    seeds = [_hash([seed, vocabulary.classes[i], vocabulary.domains[j]]) for i, j in cells.tolist()]
    rows, row = c.unique(return_inverse=True)  # embed only these classes; a vocabulary may have many
    targets = embed_cells(clip, vocabulary, rows=rows.tolist())[row, k]
    pixels, prototypes.embeddings[c, k] = synthesize(clip, targets, steps, seeds)
    prototypes.pixels[c, k] = (pixels * 255).round().to(torch.uint8)
    prototypes.mask[c, k] = True


def _read(path: Path, clip: Clip, vocabulary: Vocabulary) -> Prototypes:
    """Read the prototypes in the file at `path`; the mask is empty if the file is missing or damaged."""
    shape, size = vocabulary.shape, clip.image_size
    pixels = torch.from_numpy(np.zeros((*shape, 3, size, size), np.uint8))  # takes no memory until it is written to
    prototypes = Prototypes(pixels, torch.zeros(*shape, clip.width), torch.zeros(shape, dtype=torch.bool))
    if not os.path.lexists(path):
        return prototypes
    try:
        if not path.is_file():
            raise ValueError("not a file")
        tensors = load_file(path)
        mask = tensors["mask"].bool()
        z, x = tensors["embeddings"].reshape(-1, clip.width), tensors["pixels"].reshape(-1, 3, size, size)
        if mask.shape != shape or not len(z) == len(x) == mask.sum() or not ((z.norm(dim=1) - 1).abs() < 1e-3).all():
            raise ValueError("expected a mask of these cells, with a picture and a unit embedding for each")
        prototypes.pixels[mask], prototypes.embeddings[mask], prototypes.mask[:] = x, z, mask
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        warnings.warn(f"cache: {str(path)!r} is damaged ({error}); its prototypes are synthesized again", stacklevel=3)
    return prototypes


def _file_name(clip: Clip, vocabulary: Vocabulary, steps: int, seed: int) -> str:
    """Return a file name with a hash of everything the prototypes depend on."""
    prompts = [
        [[format_prompt(t, n, k) for n in names for t in TEMPLATES["build"]] for k in vocabulary.domains]
        for names in vocabulary.names
    ]
    preprocess, names = clip.model.visual.preprocess_cfg, [vocabulary.classes, vocabulary.domains]
    digest = _hash([ALGORITHM, clip.fingerprint, preprocess, *names, prompts, steps, seed])
    return f"prototypes-{digest:016x}.safetensors"


def _hash(value: object) -> int:
    """Return 63 bits of the SHA-256 of `value`."""
    return int(hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16], 16) >> 1
