"""Pictures become embeddings."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor

from .data import Images
from .gates import ROWS
from .models import Clip

BATCH = 64
"""Pictures that go through a tower at once."""


def embed(clip: Clip, images: Images) -> Tensor:
    """Embeddings z of all pictures: the features after the projection, not normalised.

    They are computed at each call; functions that need them take them as `features`, so that one call serves all.
    While the tower works on some pictures, a thread reads the next ones.
    A picture that turns out broken is named in a warning, and its row is NaN: `classify` gives no answer for it, and
    accuracy leaves it out with its label.

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
    parts, broken = [], {}

    def pixels(first: int) -> Tensor:
        pictures = []
        for i in range(first, min(first + BATCH, len(images))):
            try:
                picture = images.image(i)
            except ValueError as error:
                broken[i] = str(error)
                picture = Image.new("RGB", (clip.image_size, clip.image_size))
            pictures.append(clip.preprocess(picture))
        return torch.stack(pictures)

    for batch in ahead(pixels, range(0, len(images), BATCH)):
        parts.append(clip.embed_pixels(batch, BATCH))
    z = torch.cat(parts) if parts else torch.empty(0, clip.width)
    if broken:
        z[list(broken)] = torch.nan
        some = "; ".join(list(broken.values())[:5]) + (f"; and {len(broken) - 5} more" if len(broken) > 5 else "")
        warnings.warn(f"{len(broken)} of {len(images)} pictures are broken, their features NaN: {some}", stacklevel=2)
    return z


def ahead(make: Callable[[int], Tensor], places: Iterable[int]) -> Iterator[Tensor]:
    """`make` of each place in turn. A thread makes the next one while the caller works on what it got."""
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[Tensor] | None = None
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
