"""Where in a picture a model looks for a class: hide a square, see what the class loses, and move on (occlusion).

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
    """How much each pixel of a picture matters for the lead of a class, before and after edits.

    The lead is the cosine of the picture with the text of class `c`, minus the mean of those with all other classes.
    A square is hidden at `steps` x `steps` places, under the colour that is the median of the picture: on paper, paper.
    A pixel gets the mean, over the squares that cover it, of the lead that hiding takes away. Less than zero: the
    class leads more without it.

    Parameters
    ----------
    clip : Clip
        The unedited model.
    picture : PIL image
    classifier : (C, d)
        One text a class, C >= 2, unit rows.
    c : int
        The class, from 0 to C - 1.
    changes : sequence of functions (n, d) -> (n, d)
        What becomes of embeddings, such as `edit.images`; `lambda z: z` is the unedited model.
    side : float
        The side of the square, as a share of the picture's: at least 1 / steps, and below 1.
    steps : int
        Places in each direction, at least 2.

    Returns
    -------
    (len(changes), s, s) float32
        s is `clip.image_size`.

    Raises
    ------
    ValueError
        For settings out of range, and for a model that is a file of embeddings.

    Examples
    --------
    >>> import clipnull as cn
    >>> from clipnull.prompts import embed_classes
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["dog"], ["line"])
    >>> texts = embed_classes(clip, ["dog", "house"])
    >>> found = importance(clip, images.image(0), texts, 0, [lambda z: z], steps=4)
    >>> found.shape == (1, clip.image_size, clip.image_size)
    True
    """
    clip.validate_encoder()
    at_least("steps", steps, 2)
    if not 1 / steps <= side < 1:
        raise ValueError(f"side: {side} is not valid; expected at least 1 / steps, so that no gap is left, and below 1")
    if not 0 <= c < len(classifier) or len(classifier) < 2:
        raise ValueError(f"c: {c} is not valid; expected a row of the classifier, which has {len(classifier)}, of >= 2")
    pixels = clip.preprocess(picture)  # (3, s, s)
    size = pixels.shape[-1]
    width = math.ceil(side * size)
    starts = torch.linspace(0, size - width, steps).round().long().tolist()
    masks = torch.zeros(steps * steps, size, size)
    for i, mask in enumerate(masks):
        top, left = starts[i // steps], starts[i % steps]
        mask[top : top + width, left : left + width] = 1
    paper = pixels.flatten(1).median(1).values.view(3, 1, 1)
    hidden = torch.where(masks[:, None] > 0, paper, pixels)  # (steps^2, 3, s, s)
    z = clip.embed_pixels(torch.cat([pixels[None], hidden]))  # (1 + steps^2, d)
    others = torch.arange(len(classifier)) != c
    direction = (classifier[c] - classifier[others].mean(0)).to(z.dtype)  # (d,)
    found = []
    for change in changes:
        lead = F.normalize(change(z), dim=-1) @ direction
        found.append(((lead[0] - lead[1:])[:, None, None] * masks).sum(0) / masks.sum(0))
    return torch.stack(found)
