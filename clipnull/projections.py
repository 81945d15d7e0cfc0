"""Where the towers of a model keep their last linear maps; every edit acts on that of the image tower."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


def uncompiled(module: Any) -> Any:
    """The module that `torch.compile` wraps; `module` itself if it does not."""
    return getattr(module, "_orig_mod", module)


@dataclass(frozen=True)
class Projection:
    """The last linear map of a tower, z = f W (+ bias)."""

    module: str  # name of the module that holds it, "visual" or "visual.head.proj"
    weight: Tensor | None  # (D, d), or (d, D) if transposed; None: not there, but has a place
    bias: Tensor | None  # (d,)
    transposed: bool  # True for nn.Linear, whose weight is (d, D)
    width: int  # d


LINEAR_HEADS = (
    "visual.attnpool.c_proj",
    "visual.head.proj",
    "visual.head.mlp.fc2",
    "visual.trunk.head.fc",
    "visual.trunk.head",
)


def find_projection(model: Any) -> Projection:
    """Where `model` keeps its image projection (open_clip 3.3: ViT, ResNet, timm towers; `adapters.wrap`).

    SigLIP's towers end in an attention pool without one. open_clip's own place for it is `visual.head.proj`: that is
    the answer, with `weight` None, and an edit puts one there.

    Raises ValueError for towers that do not end in a linear map.
    """
    visual = getattr(model, "visual", model)
    proj = getattr(visual, "proj", None)
    if isinstance(proj, nn.Parameter):
        return Projection("visual", proj, None, False, proj.shape[1])
    for name in LINEAR_HEADS:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(module, nn.Linear):
            return Projection(name, module.weight, module.bias, True, module.out_features)
    if isinstance(getattr(visual, "head", None), nn.Sequential) and not len(visual.head):
        width = getattr(visual, "num_features", None) or visual.trunk.num_features
        return Projection("visual.head.proj", None, None, True, width)
    raise ValueError(
        f"model: its image tower ({type(visual).__name__}) does not end in a linear projection; looked "
        f"for visual.proj, {', '.join(LINEAR_HEADS)}"
    )


TEXT_HEADS = (
    "text_projection",
    "text.text_projection",
    "text.proj",
    "text.proj.2",
    "inner.text_projection",
    "inner.text_model.head",
)


def find_text_projection(model: Any) -> Projection:
    """Where `model` keeps its text projection, t = h W (+ bias): open_clip's own towers, those of transformers, both.

    Raises ValueError for text towers that do not end in a linear map.
    """
    for name in TEXT_HEADS:
        holder, _, last = name.rpartition(".")
        try:
            found = getattr(model.get_submodule(holder), last)
        except AttributeError:
            continue
        if isinstance(found, nn.Parameter):
            return Projection(holder, found, None, False, found.shape[1])
        if isinstance(found, nn.Linear):
            return Projection(name, found.weight, found.bias, True, found.out_features)
    raise ValueError(
        f"model: its text tower ({type(getattr(model, 'text', model)).__name__}) does not end in a linear projection; "
        f"looked for {', '.join(TEXT_HEADS)}"
    )
