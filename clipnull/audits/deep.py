"""One step deeper: the same closed form in front of the last convolution, driven by synthesized prototypes alone.

An experiment, ours. In an EfficientNet the last block ends in a *linear* bottleneck h (width x places), then comes a
1 x 1 convolution (`conv_head`), a clipped ReLU and the mean over places: f(x). A matrix that acts on h multiplies into
the convolution, as an edit multiplies into the projection, and changes f(x) itself.
"""

from typing import Any

import torch
from torch import Tensor

from ..embedding import embed
from ..images import Images
from ..models import Clip
from ..subspace import basis
from ..towers import uncompiled


def bottleneck(clip: Clip, images: Images | None = None, pixels: Tensor | None = None) -> Tensor:
    """h, what goes into the last convolution: (n, width, h, w) float32, of `images` or of preprocessed `pixels`.

    Raises ValueError for a tower without a `conv_head`: expected an EfficientNet of timm.
    """
    head = getattr(_trunk(clip), "conv_head", None)
    if head is None or getattr(head, "kernel_size", None) != (1, 1):
        raise ValueError(f"clip: the tower of {clip.name} has no 1 x 1 conv_head; expected an EfficientNet of timm")
    if (images is None) == (pixels is None):
        raise ValueError("images, pixels: both or neither given; expected one of them")
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    try:
        if images is not None:
            embed(clip, images)
        elif pixels is not None:
            clip.embed_pixels(pixels)
    finally:
        handle.remove()
    return torch.cat(seen)


@torch.inference_mode()
def behind(clip: Clip, h: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
    """What the rest of the tower makes of h: f(x) (n, D) and z (n, d)."""
    trunk, parts = _trunk(clip), []
    for rows in h.split(batch):
        x = trunk.bn2(trunk.conv_head(rows.to(clip.device, clip.weights.dtype)))
        parts.append(trunk.forward_head(x, pre_logits=True))
    f = torch.cat(parts)
    return f.float().cpu(), uncompiled(clip.model.visual).head(f).float().cpu()


def without(h: Tensor, prototypes: Tensor, c: int, energy: float = 1.0) -> Tensor:
    """h with the span of class c taken out at every place: our reconstruction of the paper's edit, one layer earlier.

    prototypes: means over places of the bottleneck of the prototypes, (C, K, width). The span is that of the rows of
    class c minus the mean of all rows, as in `methods.nullspace`.
    """
    u = basis(prototypes[c] - prototypes.mean((0, 1)), energy).to(h.dtype)  # (width, r)
    return h - torch.einsum("nwij,wr,vr->nvij", h, u, u)


def _trunk(clip: Clip) -> Any:
    clip.validate_encoder()
    return getattr(uncompiled(clip.model.visual), "trunk", None)
