"""The towers of a model: where their last linear maps are, copies that share weights, texts without padding."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn


def uncompiled(module: Any) -> Any:
    """The module that `torch.compile` wraps; `module` itself if it does not."""
    return getattr(module, "_orig_mod", module)


def share(model: Any, but: Iterable[Tensor | None] = ()) -> Any:
    """A copy of `model` that shares all parameters and buffers with it, except copies of those in `but`."""
    copied = {id(tensor) for tensor in but}
    memo: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()] if id(t) not in copied}
    return copy.deepcopy(model, memo)  # which keeps what the memo maps


@dataclass(frozen=True)
class Projection:
    """The last linear map of a tower, z = f W (+ bias)."""

    module: str  # name of the module that holds it, "visual" or "visual.head.proj"
    weight: Tensor | None  # (D, d), or (d, D) if transposed; None: not there, but has a place
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
"""Where a projection may be: in open_clip 3.3 (ViT, ResNet, timm towers; wrapped ones), and in `interop`'s wrapper."""


def find_projection(model: Any) -> Projection:
    """Where `model` keeps its image projection, z = f W (+ bias).

    SigLIP's towers end in an attention pool without one. open_clip's own place for it is `visual.head.proj`: that is
    the answer, with `weight` None, and an edit puts one there.
    """
    visual = getattr(model, "visual", model)
    projection = _linear_at(model, LINEAR_HEADS)
    if projection is None and isinstance(getattr(visual, "head", None), nn.Sequential) and not len(visual.head):
        width = getattr(visual, "num_features", None) or visual.trunk.num_features
        return Projection("visual.head.proj", None, None, True, width)
    return projection or _refuse("image", visual, LINEAR_HEADS)


def find_text_projection(model: Any) -> Projection:
    """Where `model` keeps its text projection, t = h W (+ bias)."""
    return _linear_at(model, TEXT_HEADS) or _refuse("text", getattr(model, "text", model), TEXT_HEADS)


def _refuse(kind: str, tower: Any, places: Iterable[str]) -> NoReturn:
    raise ValueError(
        f"model: its {kind} tower ({type(tower).__name__}) does not end in a linear projection; expected one at "
        f"{', '.join(places)}"
    )


def _linear_at(model: Any, places: Iterable[str]) -> Projection | None:
    """The first parameter or linear layer at one of `places`."""
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


# Text embeddings without the padding. In a causal text tower a token sees those before it alone, and the embedding is
# read where the text ends: prompts of ten tokens need no 77, and nothing changes but rounding.


def encode_texts(model: Any, tokens: Tensor, device: torch.device) -> Tensor:
    """`model.encode_text(tokens)` on `device`, (n, length) -> (n, d); without padding where `reads_at_end` says so."""
    if not reads_at_end(model):
        return model.encode_text(tokens.to(device))
    tower = getattr(model, "text", model)
    eos = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)) if _pool(tower) == "eos" else None
    ends = ends_of(tokens, eos)
    length = int(ends.max()) + 1
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens[:, :length].to(device)).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    x = x[torch.arange(len(x), device=device), ends.to(device)]
    last = tower.text_projection
    return x if last is None else last(x) if isinstance(last, nn.Linear) else x @ last


def ends_of(tokens: Tensor, eos: int | None = None) -> Tensor:
    """Where each text ends, (n,): at its first token `eos`; by default at its largest token, as in OpenAI's CLIP."""
    return (tokens if eos is None else (tokens == eos).int()).argmax(1)


def reads_at_end(model: Any) -> bool:
    """Whether `model` has a causal text tower of open_clip that reads the embedding where the text ends."""
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    tower = getattr(model, "text", model)
    known = type(model) in (CLIP, CustomTextCLIP) and type(tower) in (CLIP, TextTransformer)
    known = known and _pool(tower) in ("argmax", "eos")
    return known and tower.attn_mask is not None and getattr(tower, "cls_emb", None) is None


def _pool(tower: Any) -> str:
    return getattr(tower, "text_pool_type", getattr(tower, "pool_type", ""))
