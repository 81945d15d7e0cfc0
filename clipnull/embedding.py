"""Pictures become embeddings.

On CPU and GPU they agree up to rounding: the cosine is at least 1 - AGREE in full precision, which `embed` uses, and at
least 1 - AGREE_MIXED in mixed precision (float16), in which `clipnull.datasets.shards` embeds on CUDA.
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

BATCH = 64
"""Pictures that go through a tower at once."""

READERS = 16
"""Processes that read pictures for a GPU, at most one a core. Eight read 600 a second; an H100 embeds 3,500."""

AGREE, AGREE_MIXED = 1e-5, 1e-4
"""How far the cosine between the embeddings on CPU and GPU may be from 1, in full and in mixed precision."""


def embed(clip: Clip, images: Images) -> Tensor:
    """Embeddings z of all n pictures of `images`: the features after the projection, (n, d) float32 on the CPU.

    They are not normalised, and computed at each call: functions that need them take them as `features`. A broken
    picture is named in a warning, and its row is NaN: `classify` gives no answer for it, and accuracy leaves it out.
    Raises OSError for a file that cannot be opened.

    >>> import clipnull as cn
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["dog"], ["line"])
    >>> z = cn.embed(clip, images)
    >>> z.shape == (len(images), clip.width)
    True
    """
    expect_types(clip=clip, images=images)
    width = None if images.stored is None else images.stored.shape[1]
    if bool(clip.stored) != (width is not None) or width not in (None, clip.width):
        raise ValueError(
            f"images: {images}{f', {width} wide,' if width else ''} for {clip}; expected model and pictures of one "
            "file of embeddings, or neither"
        )
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
    """For each batch of m files: embeddings (m, d), NaN for a broken picture, and why it is, "" if it is whole.

    With `mixed`, in mixed precision; a batch that overflows float16 is computed again in full precision.
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
    """The pictures of each batch, as `_prepared`. readers: processes; by default only for a GPU, which would wait."""
    cuda = clip.device.type == "cuda"
    if readers is None:
        may_fork = not multiprocessing.current_process().daemon  # the workers of dask are daemons
        readers = min(READERS, joblib.cpu_count(), len(batches)) if cuda and may_fork else 0
    unused = torch.Generator()  # a DataLoader would draw a seed from the global generator
    prepare = partial(_prepared, clip)
    return DataLoader(batches, None, num_workers=readers, collate_fn=prepare, pin_memory=cuda, generator=unused)  # type: ignore[arg-type]


def _prepared(clip: Clip, files: Sequence[Path]) -> tuple[Tensor, list[str]]:
    """The pixels (m, 3, s, s) of a batch, and why each picture is broken, "" if it is whole."""
    pictures, faults = zip(*map(read_or_fault, files), strict=True)
    black = Image.new("RGB", (clip.image_size, clip.image_size))
    return torch.stack([clip.preprocess(picture or black) for picture in pictures]), list(faults)


def read_or_fault(file: Path) -> tuple[Image.Image | None, str]:
    """The picture in a file, or why it is broken."""
    try:
        return read_picture(file), ""
    except ValueError as error:
        return None, str(error)


def warn_of_broken(faults: Sequence[str], broken: int, n: int) -> None:
    """Warn of so many broken pictures among n, with the first five of their `faults`."""
    if broken:
        some = "; ".join(faults[:5]) + (f"; and {broken - 5} more" if broken > 5 else "")
        warnings.warn(f"{broken} of {n} pictures are broken, their features NaN: {some}", stacklevel=3)


def readable(images: Images, *features: Tensor) -> tuple[Images, list[Tensor]]:
    """The pictures whose `features`, (n, d) each, hold no NaN, and the features of these."""
    whole = torch.stack([~z.norm(dim=1).isnan() for z in features]).all(0)
    return (images, list(features)) if whole.all() else (images.where(whole), [z[whole] for z in features])
