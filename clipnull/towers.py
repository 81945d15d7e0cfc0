"""Helpers for the towers of a model: find projections, copy with shared weights, embed texts without padding."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn


def uncompiled(module: Any) -> Any:
    """Return the module inside a wrapper of `torch.compile`, or `module` itself."""
    return getattr(module, "_orig_mod", module)


def share(model: Any, but: Iterable[Tensor | None] = ()) -> Any:
    """Copy `model`. The copy shares all parameters and buffers with it except those in `but`."""
    copied = {id(tensor) for tensor in but}
    memo: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()] if id(t) not in copied}
    return copy.deepcopy(model, memo)  # tensors in the memo are shared, not copied


@dataclass(frozen=True)
class Projection:
    """The last linear map of a tower, z = f W (+ bias)."""

    module: str  # name of the module that holds it, such as "visual" or "visual.head.proj"
    weight: Tensor | None  # (D, d), or (d, D) if transposed; None if missing, but `module` can hold one
    bias: Tensor | None  # (d,)
    transposed: bool  # True for nn.Linear, whose weight is (d, D)
    width: int  # d


LINEAR_HEADS = (
    "visual.proj", "visual.attnpool.c_proj", "visual.head.proj", "visual.head.mlp.fc2", "visual.trunk.head.fc",
    "visual.trunk.head",
)  # fmt: skip
TEXT_HEADS = (
    "text_projection", "text.text_projection", "text.proj", "text.proj.2", "inner.text_projection",
    "inner.text_model.head",
)  # fmt: skip
"""Places of projections in open_clip 3.3 (ViT, ResNet, timm and wrapped towers) and in `interop`'s wrapper."""


def find_projection(model: Any) -> Projection:
    """Return the image projection of `model`, z = f W (+ bias).

    SigLIP's towers end in an attention pool without a projection. Then `weight` is None, and `module` is
    "visual.head.proj", where open_clip looks for a projection and an edit adds one.
    """
    visual = getattr(model, "visual", model)
    projection = _linear_at(model, LINEAR_HEADS)
    if projection is None and isinstance(getattr(visual, "head", None), nn.Sequential) and not len(visual.head):
        width = getattr(visual, "num_features", None) or visual.trunk.num_features
        return Projection("visual.head.proj", None, None, True, width)
    return projection or _refuse("image", visual, LINEAR_HEADS)


def find_text_projection(model: Any) -> Projection:
    """Return the text projection of `model`, t = h W (+ bias)."""
    return _linear_at(model, TEXT_HEADS) or _refuse("text", getattr(model, "text", model), TEXT_HEADS)


def _refuse(kind: str, tower: Any, places: Iterable[str]) -> NoReturn:
    raise ValueError(
        f"model: its {kind} tower ({type(tower).__name__}) does not end in a linear projection; expected one at "
        f"{', '.join(places)}"
    )


def _linear_at(model: Any, places: Iterable[str]) -> Projection | None:
    """Return the first parameter or linear layer at one of `places`, or None."""
    for name in places:
        holder, _, last = name.rpartition(".")
        try:
            head = getattr(model.get_submodule(holder), last)
        except AttributeError:
            continue
        if isinstance(head, nn.Parameter):
            return Projection(holder, head, None, False, head.shape[1])
        if isinstance(head, nn.Linear):
            return Projection(name, head.weight, head.bias, True, head.out_features)
    return None


def encode_texts(model: Any, tokens: Tensor, device: torch.device) -> Tensor:
    """Return `model.encode_text(tokens)` on `device`, (n, length) -> (n, d). Skip padding if `reads_at_end(model)`.

    In a causal text tower a token sees only earlier tokens. If the embedding is read where the text ends, a prompt of
    ten tokens needs no padding to 77, and only rounding changes.
    """
    if not reads_at_end(model):
        return model.encode_text(tokens.to(device))
    tower = getattr(model, "text", model)
    eos = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)) if _pool_type(tower) == "eos" else None
    ends = ends_of(tokens, eos)
    length = int(ends.max()) + 1
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens[:, :length].to(device)).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    x = x[torch.arange(len(x), device=device), ends.to(device)]
    projection = tower.text_projection
    return x if projection is None else projection(x) if isinstance(projection, nn.Linear) else x @ projection


def ends_of(tokens: Tensor, eos: int | None = None) -> Tensor:
    """Return the end of each text, (n,): its first `eos` token; by default its largest one, as in OpenAI's CLIP."""
    return (tokens if eos is None else (tokens == eos).int()).argmax(1)


def reads_at_end(model: Any) -> bool:
    """Return True if `model` has a causal text tower of open_clip that reads the embedding where the text ends."""
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    tower = getattr(model, "text", model)
    of_open_clip = type(model) in (CLIP, CustomTextCLIP) and type(tower) in (CLIP, TextTransformer)
    causal = of_open_clip and tower.attn_mask is not None
    return causal and _pool_type(tower) in ("argmax", "eos") and getattr(tower, "cls_emb", None) is None


def _pool_type(tower: Any) -> str:
    return getattr(tower, "text_pool_type", getattr(tower, "pool_type", ""))
