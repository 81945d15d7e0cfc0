"""CLIP models of transformers: `wrap` imports them, `save` exports them.

A wrapped model has the interface of open_clip's models: `encode_image`, `encode_text`, and an image tower `visual` with
its preprocessing config. The rest of clipnull sees no difference.
"""

import copy
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..errors import import_extra
from ..models import Clip, state
from ..towers import ends_of, uncompiled
from .weight_names import as_open_clip

OLD_EOS = 2
"""The `eos_token_id` in configs from before July 2023; such models end a text at its highest token."""


class Tower(nn.Module):
    """The image tower, preprocessed pictures (n, 3, s, s) -> z (n, d), with its projection in `head`, like timm's.

    SigLIP has no projection, so `head` is empty until an edit adds one; see `towers.find_projection`.
    """

    def __init__(self, model: Any, preprocess: dict[str, Any]):
        super().__init__()
        self.trunk, self.preprocess_cfg = model.vision_model, preprocess
        self.image_size, self.num_features = preprocess["size"], model.config.vision_config.hidden_size
        projection = getattr(model, "visual_projection", None)
        self.head = nn.Sequential(OrderedDict({} if projection is None else {"proj": projection}))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.trunk(pixel_values=pixels, return_dict=True).pooler_output)


class Adapter(nn.Module):
    """A CLIPModel or SiglipModel, `inner`, with open_clip's methods. `visual` shares the weights of `inner`."""

    def __init__(self, model: Any, preprocess: dict[str, Any]):
        super().__init__()
        self.inner, self.visual = model, Tower(model, preprocess)

    @property
    def logit_scale(self) -> Tensor:
        return self.inner.logit_scale

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        z = self.visual(pixels)
        return F.normalize(z, dim=-1) if normalize else z

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Embed tokens (n, length). CLIP ignores padding, so we drop it; SigLIP was trained with it."""
        if hasattr(self.inner, "visual_projection"):  # a CLIPModel
            eos = self.inner.config.text_config.eos_token_id
            tokens = tokens[:, : int(ends_of(tokens, None if eos == OLD_EOS else eos).max()) + 1]
        t = self.inner.text_model(input_ids=tokens, return_dict=True).pooler_output
        projection = getattr(self.inner, "text_projection", None)
        t = t if projection is None else projection(t)
        return F.normalize(t, dim=-1) if normalize else t

    def as_open_clip(self) -> dict[str, Tensor]:
        """Return the weights with open_clip's names and shapes, for the fingerprint."""
        return as_open_clip(state(self.inner), "CLIP" if hasattr(self.inner, "visual_projection") else "Siglip")


@dataclass(frozen=True)
class Pictures:
    """Preprocessing of a picture to (3, s, s) by transformers' own processor."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        return self.processor.image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]


@dataclass(frozen=True)
class Tokens:
    """Tokenization of n texts to (n, length), padded to the length used in training."""

    processor: Any
    length: int

    def __call__(self, texts: list[str]) -> Tensor:
        settings = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        return self.processor.tokenizer(texts, **settings)["input_ids"]


def wrap(model: Any, processor: Any, name: str | None = None) -> Clip:
    """Wrap a CLIP model of transformers as a `Clip`, to use it like the result of `load`.

    model: a CLIPModel or SiglipModel; it stays unchanged and shares its weights with the result. name: by default the
    source that transformers loaded the model from. A patch made here fits the same weights in open_clip and vice versa,
    given the same precision. Raise ValueError for a `processor` that does not fit the model.

    >>> import clipnull as cn
    >>> cn.wrap("openai/clip-vit-base-patch32", None)
    Traceback (most recent call last):
    ValueError: model: str; expected a CLIPModel or SiglipModel, such as from CLIPModel.from_pretrained
    """
    transformers, model = import_extra("transformers", "hf"), uncompiled(model)
    if not isinstance(model, (transformers.CLIPModel, transformers.SiglipModel)):
        kind = type(model).__name__
        raise ValueError(f"model: {kind}; expected a CLIPModel or SiglipModel, such as from CLIPModel.from_pretrained")
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        expected = "one with an image_processor and a tokenizer, such as from AutoProcessor.from_pretrained"
        raise ValueError(f"processor: {type(processor).__name__}; expected {expected}")
    preprocess, edge = preprocess_config(processor.image_processor), model.config.vision_config.image_size
    if preprocess["size"] != (edge, edge):
        raise ValueError(f"processor: it outputs {preprocess['size']} pixels; expected {(edge, edge)}, like the model")
    tokens = Tokens(processor, model.config.text_config.max_position_embeddings)
    _validate_tokenizer(tokens, model)
    shared: dict[int, Any] = {id(t): t for t in model.buffers()}  # with this memo, deepcopy keeps these tensors
    shared |= {id(t): nn.Parameter(t.detach(), requires_grad=False) for t in model.parameters()}
    adapter = Adapter(copy.deepcopy(model, shared), preprocess).eval()
    name = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Clip(adapter, Pictures(processor), tokens, name, None)


def preprocess_config(processor: Any) -> dict[str, Any]:
    """Return open_clip's `preprocess_cfg` for an image processor of transformers; raise ValueError if there is none."""
    if not processor.do_resize or not processor.do_rescale or abs(processor.rescale_factor - 1 / 255) > 1e-9:
        settings = {name: getattr(processor, name) for name in ("do_resize", "do_rescale", "rescale_factor")}
        raise ValueError(f"processor: {settings} is not supported; expected resizing, and rescaling by 1/255")
    cropped = bool(getattr(processor, "do_center_crop", None))
    size, crop = dict(processor.size), dict(processor.crop_size) if cropped else {}
    if set(size) == {"shortest_edge"} and set(crop) == {"height", "width"}:
        pixels, edge = (crop["height"], crop["width"]), size["shortest_edge"]
        mode = "shortest" if pixels == (edge, edge) else f"shortest {edge}"
    elif set(size) == {"height", "width"} and (not cropped or crop == size):
        pixels, mode = (size["height"], size["width"]), "squash"
    else:
        expected = "the shortest edge with a crop, or height and width without one"
        raise ValueError(f"processor: it has size = {size} and crop_size = {crop or None}; expected {expected}")
    resample = getattr(processor.resample, "value", processor.resample)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
    return {
        "size": pixels,
        "mode": "RGB",
        "mean": tuple(mean),
        "std": tuple(std),
        "interpolation": resample if isinstance(resample, str) else Image.Resampling(resample).name.lower(),
        "resize_mode": mode,
        "fill_color": 0,
    }


def _validate_tokenizer(tokens: Tokens, model: Any) -> None:
    """Raise ValueError unless `model` has all tokens of the tokenizer and, if a CLIPModel, the same end token."""
    tokenizer, config = tokens.processor.tokenizer, model.config.text_config
    if len(tokenizer) > config.vocab_size:
        limit = f"{config.vocab_size:,}, the vocabulary of the model"
        raise ValueError(f"processor: its tokenizer has {len(tokenizer):,} tokens; expected at most {limit}")
    row, token = tokens(["a dog"])[0], tokenizer.eos_token_id
    end = int(row.max()) if config.eos_token_id == OLD_EOS else config.eos_token_id
    if hasattr(model, "text_projection") and (token != end or end not in row):
        raise ValueError(f"processor: its tokenizer ends texts with the token {token}; expected {end}, like the model")


def recipe(clip: Clip, arguments: str) -> str:
    """Return Python code that loads `clip`, for a model card. arguments: the quoted names to pass."""
    if not isinstance(clip.model, Adapter):
        return f"cn.load({arguments})"
    parts = (type(clip.model.inner).__name__, "AutoProcessor")
    return f"cn.wrap({', '.join(f'transformers.{part}.from_pretrained({arguments})' for part in parts)})"


def save(clip: Clip, folder: Path) -> Path:
    """Write a wrapped `clip` and its processor for `from_pretrained`, atomically; return `folder`."""
    adapter, preprocess = clip.model, cast(Pictures, clip.preprocess)
    for edit in clip.edits:
        if not edit.linear or edit.bias is not None or not hasattr(adapter.inner, "visual_projection"):
            raise ValueError(
                f"clip: its edit {edit.method!r} cannot be fused into a {type(adapter.inner).__name__}; expected a "
                "linear edit without a bias of a CLIPModel, or side='text' (`export` accepts any)"
            )
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ValueError(f"folder: {str(folder)!r} exists and is not empty; expected a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        partial = Path(temporary, "partial")
        adapter.inner.save_pretrained(partial)
        preprocess.processor.save_pretrained(partial)
        if folder.exists():
            folder.rmdir()  # Windows cannot rename onto an existing folder
        os.replace(partial, folder)
    return folder
