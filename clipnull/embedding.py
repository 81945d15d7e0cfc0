"""Pictures become embeddings.

On the CPU a thread reads the next pictures while the tower works. A GPU would wait for it: there, processes read them
(`torch.utils.data.DataLoader`) into pinned memory, from which they are copied while the GPU works.

What CPU and GPU make of a picture agrees up to rounding, by the cosine between the two embeddings: 1 - AGREE or more in
full precision, which `embed` has everywhere, and 1 - AGREE_MIXED or more in mixed precision (float16 where PyTorch's
autocast takes it), in which `clipnull.datasets.shards` embeds unedited models on CUDA. tests/test_embedding.py holds
both on a machine with a GPU, and the second on the CPU, too.
"""

import math
import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import joblib
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .images import Images, read_picture
from .layers import ROWS
from .models import Batch, Clip

BATCH = 64
"""Pictures that go through a tower at once."""

READERS = 16
"""Processes that read pictures for a GPU, at most one a core. On one H100 eight of them read 520 to 650 pictures a
second, of which a ViT-B-16 embeds 3,500."""

AGREE, AGREE_MIXED = 1e-5, 1e-4
"""How far the cosine between what CPU and GPU make of a picture may be from 1, in full and in mixed precision."""

P = TypeVar("P")
T = TypeVar("T")
Read = tuple[Tensor, list[str | OSError]]
"""Prepared pictures (n, 3, s, s), and of each why it is broken ("" for none), or the error if it cannot be opened."""


def embed(clip: Clip, images: Images) -> Tensor:
    """Embeddings z of all pictures: the features after the projection, not normalised.

    They are computed at each call; functions that need them take them as `features`, so that one call serves all.
    While the tower works on some pictures, the next ones are read: by a thread, or by processes for a model on CUDA.
    A picture that turns out broken is named in a warning, and its row is NaN: `classify` gives no answer for it, and
    accuracy leaves it out with its label. Where a GPU has no memory for a batch, it is halved, with a warning.

    Parameters
    ----------
    clip : Clip
    images : Images
        n pictures.

    Returns
    -------
    (n, d) float32 on the CPU

    Raises
    ------
    OSError
        For a file that cannot be opened, such as one that is gone.

    Warns
    -----
    UserWarning
        For pictures that are broken, with their number and the names of the first.

    Examples
    --------
    >>> import clipnull as cn
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["dog"], ["line"])
    >>> z = cn.embed(clip, images)
    >>> z.shape == (len(images), clip.width)
    True
    """
    validate_kind(clip, images)
    if images.stored is not None:
        z = torch.empty(len(images), clip.width)
        for first in range(0, len(z), ROWS):
            z[first : first + ROWS] = clip.embed_pixels(images.stored[first : first + ROWS], batch=ROWS)
        return z
    batches = [range(first, min(first + BATCH, len(images))) for first in range(0, len(images), BATCH)]
    parts, broken = [], {}
    for part, faults in embed_files(clip, images.files, batches):
        parts.append(part)
        broken |= faults
    if broken:
        some = "; ".join(list(broken.values())[:5]) + (f"; and {len(broken) - 5} more" if len(broken) > 5 else "")
        warnings.warn(f"{len(broken)} of {len(images)} pictures are broken, their features NaN: {some}", stacklevel=2)
    return torch.cat(parts) if parts else torch.empty(0, clip.width)


@torch.inference_mode()
def embed_files(
    clip: Clip, files: Sequence[Path], batches: Sequence[range], mixed: bool = False
) -> Iterator[tuple[Tensor, dict[int, str]]]:
    """For each of `batches`, places in `files`: embeddings (m, d), NaN for what is broken, and why it is, by place.

    mixed: in mixed precision; what float16 cannot hold is computed again in full.

    Raises OSError for a file that cannot be opened.
    """
    size = Batch(BATCH)
    for places, (pixels, faults) in zip(batches, _read(clip, files, batches), strict=True):
        for fault in faults:
            if isinstance(fault, OSError):
                raise fault
        z = torch.full((1, 1), math.nan)
        if mixed:
            with torch.autocast(clip.device.type, torch.float16):
                z = clip.embed_pixels(pixels, size)
        if not z.isfinite().all():
            z = clip.embed_pixels(pixels, size)
        broken = {i: str(fault) for i, fault in zip(places, faults, strict=True) if fault}
        z[[i - places.start for i in broken]] = math.nan
        yield z, broken


@dataclass(frozen=True, eq=False)
class Pictures(Dataset):
    """Pictures for `DataLoader`, prepared for a model: by place, pixels (3, s, s) and the fault of each, see `Read`."""

    files: Sequence[Path]
    prepare: Callable[[Image.Image], Tensor]
    size: int

    def __getitem__(self, index: int) -> tuple[Tensor, str | OSError]:
        fault = ""
        try:
            picture = read_picture(self.files[index])
        except (ValueError, OSError) as error:
            fault = error if isinstance(error, OSError) else str(error)
            picture = Image.new("RGB", (self.size, self.size))
        return self.prepare(picture), fault

    def __len__(self) -> int:
        return len(self.files)


def together(pictures: Iterable[tuple[Tensor, str | OSError]]) -> Read:
    """The pictures of a batch as one tensor."""
    pixels, faults = zip(*pictures, strict=True)
    return torch.stack(pixels), list(faults)


def _read(clip: Clip, files: Sequence[Path], batches: Sequence[range], readers: int | None = None) -> Iterator[Read]:
    """The pictures of each batch. readers: processes; by default none but on CUDA, and none where none may be begun."""
    pictures, cuda = Pictures(files, clip.preprocess, clip.image_size), clip.device.type == "cuda"
    if readers is None:
        free = cuda and not multiprocessing.current_process().daemon  # as the workers of dask are
        readers = min(READERS, joblib.cpu_count(), len(batches)) if free else 0
    if not readers:
        return ahead(lambda places: together(pictures[i] for i in places), batches)
    sampler: Any = batches  # lists of places, in fact any iterable of them
    return iter(DataLoader(pictures, batch_sampler=sampler, num_workers=readers, collate_fn=together, pin_memory=cuda))


def ahead(make: Callable[[P], T], places: Iterable[P]) -> Iterator[T]:
    """`make` of each place in turn. A thread makes the next one while the caller works on what it got."""
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[T] | None = None
        for place in places:
            coming = thread.submit(make, place)
            if waiting:
                yield waiting.result()
            waiting = coming
        if waiting:
            yield waiting.result()


def validate_kind(clip: Clip, images: Images) -> None:
    """Raises ValueError unless `clip` takes what `images` has: pictures, or embeddings of its width."""
    if clip.encoder == (images.stored is not None):
        what, has = ("embeddings of pictures", "an") if clip.encoder else ("pictures", "no")
        raise ValueError(
            f"images: {what}, and {clip.name} has {has} encoder; expected model and pictures of one file of "
            "embeddings, or neither"
        )
    if images.stored is not None and images.stored.shape[1] != clip.width:
        raise ValueError(f"images: {images.stored.shape[1]} wide; expected {clip.width}, as {clip.name} is")


def readable(images: Images, *features: Tensor) -> tuple[Images, list[Tensor]]:
    """The pictures whose `features`, (n, d) each, hold no NaN, and the features of these."""
    kept = torch.stack([~z.norm(dim=1).isnan() for z in features]).all(0)
    return (images, list(features)) if kept.all() else (images.where(kept), [z[kept] for z in features])
