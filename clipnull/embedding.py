"""Embeddings of pictures.

The same picture embedded on CPU and GPU has a cosine of at least 1 - AGREE in full precision, which `embed` uses, and
of at least 1 - AGREE_MIXED in mixed precision (float16), which `clipnull.datasets.shards` uses on CUDA.
"""

import math
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import joblib
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from .errors import expect_types
from .images import Images, read_picture
from .layers import ROWS
from .models import Batch, Clip

BATCH = 64  # pictures per pass
READERS = 16
"""Processes that read pictures for a GPU, at most one per core. Eight read 600 per second; an H100 embeds 3,500."""
AGREE, AGREE_MIXED = 1e-5, 1e-4


def embed(clip: Clip, images: Images) -> Tensor:
    """Embed `images` with `clip`: features after the projection, not normalised, (n, d) float32 on the CPU.

    Nothing is cached, so other functions accept the result as `features`. A broken picture is named in a warning and
    gets a row of NaN: `classify` gives it no answer, and accuracy skips it. Raise OSError if a file cannot be opened.

    >>> import clipnull as cn
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["dog"], ["line"])
    >>> z = cn.embed(clip, images)
    >>> z.shape == (len(images), clip.width)
    True
    """
    expect_types(clip=clip, images=images)
    width = None if images.stored is None else images.stored.shape[1]
    if bool(clip.stored) != (width is not None) or width not in (None, clip.width):
        size = f" of width {width}" if width else ""
        raise ValueError(f"images: {images}{size} for {clip}; expected both or neither from one file of embeddings")
    if images.stored is not None:
        return torch.cat([clip.embed_pixels(rows, ROWS) for rows in images.stored.split(ROWS)])
    batches = [images.files[first : first + BATCH] for first in range(0, len(images), BATCH)]
    parts, faults = [], []
    for z, reasons in embed_files(clip, batches):
        parts.append(z)
        faults += filter(None, reasons)
    warn_of_broken(faults, len(faults), len(images))
    return torch.cat(parts) if parts else torch.empty(0, clip.width)


@torch.inference_mode()
def embed_files(
    clip: Clip, batches: Sequence[Sequence[Path]], mixed: bool = False
) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield the embeddings (m, d) of each batch of m files, and why each picture is broken, or "" if it is intact.

    A broken picture has a row of NaN. mixed: use float16; a batch that overflows is repeated in full precision.
    """
    size = Batch(BATCH)
    for pixels, faults in _read(clip, batches):
        z = torch.full((1, 1), math.nan)
        if mixed:
            with torch.autocast(clip.device.type, torch.float16):
                z = clip.embed_pixels(pixels, size)
        if not z.isfinite().all():
            z = clip.embed_pixels(pixels, size)
        z[[bool(fault) for fault in faults]] = math.nan
        yield z, faults


def _read(clip: Clip, batches: Sequence[Sequence[Path]], readers: int | None = None) -> DataLoader:
    """Load batches by `_prepare`. readers: worker processes; by default some for a GPU, none for the CPU."""
    cuda = clip.device.type == "cuda"
    if readers is None:
        may_fork = not multiprocessing.current_process().daemon  # dask's workers are daemons, which may not
        readers = min(READERS, joblib.cpu_count(), len(batches)) if cuda and may_fork else 0
    unused = torch.Generator()  # without it, a DataLoader draws a seed from the global generator
    prepare = partial(_prepare, clip)
    return DataLoader(batches, None, num_workers=readers, collate_fn=prepare, pin_memory=cuda, generator=unused)  # type: ignore[arg-type]


def _prepare(clip: Clip, files: Sequence[Path]) -> tuple[Tensor, list[str]]:
    """Return the pixels (m, 3, s, s) of a batch, and why each picture is broken, or "" if it is intact."""
    pictures, faults = zip(*map(read_or_fault, files), strict=True)
    black = Image.new("RGB", (clip.image_size, clip.image_size))
    return torch.stack([clip.preprocess(picture or black) for picture in pictures]), list(faults)


def read_or_fault(file: Path) -> tuple[Image.Image | None, str]:
    """Return the picture in a file, or None and why it is broken."""
    try:
        return read_picture(file), ""
    except ValueError as error:
        return None, str(error)


def warn_of_broken(faults: Sequence[str], broken: int, n: int) -> None:
    """Warn that `broken` of n pictures are broken, and show the first five of their `faults`."""
    if broken:
        reasons = "; ".join(faults[:5]) + (f"; and {broken - 5} more" if broken > 5 else "")
        warnings.warn(f"{broken} of {n} pictures are broken, their features NaN: {reasons}", stacklevel=3)


def readable(images: Images, *features: Tensor) -> tuple[Images, list[Tensor]]:
    """Return the pictures without NaN in any of `features`, (n, d) each, and the features of these pictures."""
    intact = torch.stack([~z.norm(dim=1).isnan() for z in features]).all(0)
    return (images, list(features)) if intact.all() else (images.where(intact), [z[intact] for z in features])
