"""Which pixels a model uses for a class: hide a square, measure what the class loses, and move on (occlusion).

M. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2. An edit acts on
embeddings, so one pass through the tower serves the model before and after any number of edits.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import at_least
from ..models import Clip


def importance(
    clip: Clip,
    picture: Image.Image,
    classifier: Tensor,
    c: int,
    changes: Sequence[Callable[[Tensor], Tensor]],
    side: float = 0.3,
    steps: int = 9,
) -> Tensor:
    """How much each pixel of a picture matters for the margin of class `c` over the mean class, before and after edits.

    A square of the picture's median colour hides `steps` x `steps` places in turn. A pixel gets the mean, over the
    squares that cover it, of the margin that hiding takes away.

    classifier: (C, d), unit rows. changes: functions (n, d) -> (n, d), such as `edit.images`; `lambda z: z` is the
    unedited model. side: the square's, as a share of the picture's, in [1 / steps, 1). Returns (len(changes), s, s)
    float32, s the `image_size` of `clip`. Raises ValueError for settings out of range and a model without an encoder.
    """
    clip.validate_encoder()
    at_least("steps", steps, 2)
    if not 1 / steps <= side < 1:
        raise ValueError(f"side: {side} is not valid; expected a number in [1 / steps, 1), so that no gap is left")
    pixels = clip.preprocess(picture)  # (3, s, s)
    masks = _squares(pixels.shape[-1], side, steps)
    median = pixels.flatten(1).median(1).values.view(3, 1, 1)
    hidden = torch.where(masks[:, None] > 0, median, pixels)  # (steps^2, 3, s, s)
    z = clip.embed_pixels(torch.cat([pixels[None], hidden]))  # (1 + steps^2, d)
    others = torch.arange(len(classifier)) != c
    direction = (classifier[c] - classifier[others].mean(0)).to(z.dtype)  # (d,)
    maps = []
    for change in changes:
        margin = F.normalize(change(z), dim=-1) @ direction
        maps.append(((margin[0] - margin[1:])[:, None, None] * masks).sum(0) / masks.sum(0))
    return torch.stack(maps)


def _squares(size: int, side: float, steps: int) -> Tensor:
    """One mask (size, size) for each place of the square, 1 inside it: (steps^2, size, size)."""
    width = math.ceil(side * size)
    starts = torch.linspace(0, size - width, steps).round().long().tolist()
    masks = torch.zeros(steps * steps, size, size)
    for i, mask in enumerate(masks):
        top, left = starts[i // steps], starts[i % steps]
        mask[top : top + width, left : left + width] = 1
    return masks
