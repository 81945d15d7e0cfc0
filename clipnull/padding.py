"""Text embeddings without the padding: prompts have about ten tokens, where a CLIP reads 77.

In a causal text tower a token sees those before it alone, and the embedding is read where the text ends. What stands
behind the end of the longest text can be left out: nothing changes but rounding, and it takes a fraction of the time.
"""

from typing import Any

import torch
from torch import Tensor, nn

MODELS = ("open_clip.model.CLIP", "open_clip.model.CustomTextCLIP")
TOWERS = ("open_clip.model.CLIP", "open_clip.transformer.TextTransformer")


def encode_texts(model: Any, tokens: Tensor, device: torch.device) -> Tensor:
    """`model.encode_text(tokens)` on `device`, (n, length) -> (n, d); without padding where `reads_at_end` says so."""
    if not reads_at_end(model):
        return model.encode_text(tokens.to(device))
    tower = getattr(model, "text", model)
    eos = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)) if _pool(tower) == "eos" else None
    ends = ends_of(tokens, eos)
    most = int(ends.max()) + 1
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens[:, :most].to(device)).to(dtype) + tower.positional_embedding[:most].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:most, :most]))
    x = x[torch.arange(len(x), device=device), ends.to(device)]
    last = tower.text_projection
    return x if last is None else last(x) if isinstance(last, nn.Linear) else x @ last


def ends_of(tokens: Tensor, eos: int | None = None) -> Tensor:
    """Where each text ends, (n,): at its first token `eos`; by default at its largest token, as in OpenAI's CLIP."""
    return (tokens if eos is None else (tokens == eos).int()).argmax(1)


def reads_at_end(model: Any) -> bool:
    """Whether `model` has a causal text tower of open_clip that reads the embedding where the text ends."""
    tower = getattr(model, "text", model)
    known = _kind(model) in MODELS and _kind(tower) in TOWERS and _pool(tower) in ("argmax", "eos")
    return known and tower.attn_mask is not None and getattr(tower, "cls_emb", None) is None


def _kind(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _pool(tower: Any) -> str:
    return getattr(tower, "text_pool_type", getattr(tower, "pool_type", ""))
