"""Conversion of transformers' CLIP weights to the names and shapes of open_clip.

Both libraries compute the same function but store it differently: open_clip joins the matrices of queries, keys and
values, and keeps OpenAI's projections as (D, d) instead of (d, D). Fingerprints hash open_clip's form.
"""

import re

import torch
from torch import Tensor

TOP = {  # prefixes of names in transformers: in open_clip
    "CLIP": {
        "logit_scale": "logit_scale",
        "text_projection.weight": "text_projection",
        "text_model.embeddings.token_embedding.": "token_embedding.",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.encoder.layers.": "transformer.resblocks.",
        "text_model.final_layer_norm.": "ln_final.",
        "visual_projection.weight": "visual.proj",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.": "visual.conv1.",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.encoder.layers.": "visual.transformer.resblocks.",
        "vision_model.pre_layrnorm.": "visual.ln_pre.",
        "vision_model.post_layernorm.": "visual.ln_post.",
    },
    "Siglip": {  # open_clip uses timm's image tower
        "logit_scale": "logit_scale",
        "logit_bias": "logit_bias",
        "text_model.embeddings.token_embedding.": "text.token_embedding.",
        "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
        "text_model.encoder.layers.": "text.transformer.resblocks.",
        "text_model.final_layer_norm.": "text.ln_final.",
        "text_model.head.": "text.text_projection.",
        "vision_model.embeddings.patch_embedding.": "visual.trunk.patch_embed.proj.",
        "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
        "vision_model.encoder.layers.": "visual.trunk.blocks.",
        "vision_model.post_layernorm.": "visual.trunk.norm.",
        "vision_model.head.probe": "visual.trunk.attn_pool.latent",
        "vision_model.head.attention.in_proj_": "visual.trunk.attn_pool.in_proj_",
        "vision_model.head.attention.out_proj.": "visual.trunk.attn_pool.proj.",
        "vision_model.head.layernorm.": "visual.trunk.attn_pool.norm.",
        "vision_model.head.mlp.": "visual.trunk.attn_pool.mlp.",
    },
}
LAYER = {  # names within a layer of transformers: in a resblock of open_clip, in a block of timm
    "self_attn.in_proj_": ("attn.in_proj_", "attn.qkv."),
    "self_attn.out_proj.": ("attn.out_proj.", "attn.proj."),
    "layer_norm1.": ("ln_1.", "norm1."),
    "layer_norm2.": ("ln_2.", "norm2."),
    "mlp.fc1.": ("mlp.c_fc.", "mlp.fc1."),
    "mlp.fc2.": ("mlp.c_proj.", "mlp.fc2."),
}


def as_open_clip(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Convert the weights of a CLIPModel (`kind` "CLIP") or SiglipModel ("Siglip") to open_clip's form.

    Raise ValueError for a weight that has no counterpart there.
    """
    result = {}
    for key, value in _join(state).items():
        name = _rename(key, kind)
        if name in ("visual.proj", "text_projection"):
            value = value.T
        elif name == "visual.trunk.pos_embed":
            value = value[None]
        elif name in ("logit_scale", "logit_bias"):
            value = value.reshape(())
        pool, joined, form = name.partition("attn_pool.in_proj_")
        if joined:  # timm's attention pool stores the queries separately
            width = len(value) // 3
            result[f"{pool}attn_pool.q.{form}"], result[f"{pool}attn_pool.kv.{form}"] = value[:width], value[width:]
        else:
            result[name] = value
    return result


def _join(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the projections of queries, keys and values in `state`, in this order."""
    result = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.+\.self_attn\.)([qkv])_proj\.(weight|bias)", key)
        if match is None:
            result[key] = value
        elif match[2] == "q":
            parts = [state[f"{match[1]}{part}_proj.{match[3]}"] for part in "qkv"]
            result[f"{match[1]}in_proj_{match[3]}"] = torch.cat(parts)
    return result


def _rename(key: str, kind: str) -> str:
    """Return open_clip's name of the weight `key`."""
    for old, new in TOP[kind].items():
        if not key.startswith(old):
            continue
        if not old.endswith(".layers."):
            return new + key.removeprefix(old)
        number, _, rest = key.removeprefix(old).partition(".")
        for part, names in LAYER.items():
            if rest.startswith(part):
                return f"{new}{number}.{names['trunk' in new]}{rest.removeprefix(part)}"
    raise ValueError(f"model: open_clip has no place for its weight {key!r}; expected a stock model")
