"""CLIPs of transformers: `wrap` takes one in, `save` writes one out.

A wrapped model has the methods of open_clip's: `encode_image`, `encode_text`, and an image tower `visual` that knows
how its pictures are preprocessed. The rest of clipnull does not see the difference.
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
"""transformers before July 2023 wrote this `eos_token_id`; its models end a text at the highest token."""


class Tower(nn.Module):
    """The image tower, preprocessed pictures (n, 3, s, s) -> z (n, d), its projection where timm towers have theirs.

    SigLIP has no projection, and `head` is empty: an edit puts one there, see `towers.find_projection`.
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
    """A CLIPModel or SiglipModel with the methods of open_clip's models. `inner` is that model; `visual` shares it."""

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
        """CLIP ignores what follows the end of a text, so we cut it off; SigLIP was trained with its padding."""
        if hasattr(self.inner, "visual_projection"):  # a CLIPModel
            eos = self.inner.config.text_config.eos_token_id
            tokens = tokens[:, : int(ends_of(tokens, None if eos == OLD_EOS else eos).max()) + 1]
        t = self.inner.text_model(input_ids=tokens, return_dict=True).pooler_output
        projection = getattr(self.inner, "text_projection", None)
        t = t if projection is None else projection(t)
        return F.normalize(t, dim=-1) if normalize else t

    def as_open_clip(self) -> dict[str, Tensor]:
        """Its weights under open_clip's names and in its shapes, for the fingerprint."""
        return as_open_clip(state(self.inner), "CLIP" if hasattr(self.inner, "visual_projection") else "Siglip")


@dataclass(frozen=True)
class Pictures:
    """A picture -> a tensor (3, s, s), by the processor itself: the model sees what it sees in transformers."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        return self.processor.image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]


@dataclass(frozen=True)
class Tokens:
    """A list of n texts -> tokens (n, length), padded to the length that the model was trained with."""

    processor: Any
    length: int

    def __call__(self, texts: list[str]) -> Tensor:
        settings = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        return self.processor.tokenizer(texts, **settings)["input_ids"]


def wrap(model: Any, processor: Any, name: str | None = None) -> Clip:
    """A CLIP of transformers as a Clip, for everything that takes the result of `load`.

    `model`, a CLIPModel or SiglipModel, stays unchanged and shares its weights with the result. `name` is by default
    where transformers loaded the model from. A patch made here fits the same weights in open_clip, and the other way
    round, if both have one precision. Raises ValueError for a `processor` that does not fit the model.

    >>> import clipnull as cn
    >>> cn.wrap("openai/clip-vit-base-patch32", None)
    Traceback (most recent call last):
    ValueError: model: str; expected a CLIPModel or SiglipModel of transformers, such as CLIPModel.from_pretrained gives
    """
    transformers, model = import_extra("transformers", "hf"), uncompiled(model)
    if not isinstance(model, (transformers.CLIPModel, transformers.SiglipModel)):
        expected = "a CLIPModel or SiglipModel of transformers, such as CLIPModel.from_pretrained gives"
        raise ValueError(f"model: {type(model).__name__}; expected {expected}")
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        expected = "one with an image_processor and a tokenizer, such as AutoProcessor.from_pretrained gives"
        raise ValueError(f"processor: {type(processor).__name__}; expected {expected}")
    preprocess, edge = preprocess_config(processor.image_processor), model.config.vision_config.image_size
    if preprocess["size"] != (edge, edge):
        raise ValueError(f"processor: its pictures have {preprocess['size']} pixels; expected {(edge, edge)}")
    tokens = Tokens(processor, model.config.text_config.max_position_embeddings)
    _validate_tokenizer(tokens, model)
    shared: dict[int, Any] = {id(t): t for t in model.buffers()}  # the memo makes deepcopy keep what it maps
    shared |= {id(t): nn.Parameter(t.detach(), requires_grad=False) for t in model.parameters()}
    adapter = Adapter(copy.deepcopy(model, shared), preprocess).eval()
    name = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Clip(adapter, Pictures(processor), tokens, name, None)


def preprocess_config(images: Any) -> dict[str, Any]:
    """What the image processor `images` of transformers does, as open_clip's `preprocess_cfg`, if that can say it."""
    if not images.do_resize or not images.do_rescale or abs(images.rescale_factor - 1 / 255) > 1e-9:
        settings = {name: getattr(images, name) for name in ("do_resize", "do_rescale", "rescale_factor")}
        raise ValueError(f"processor: {settings}; expected pictures of one size, and pixels in [0, 1]: times 1/255")
    cropped = bool(getattr(images, "do_center_crop", None))
    size, crop = dict(images.size), dict(images.crop_size) if cropped else {}
    if set(size) == {"shortest_edge"} and set(crop) == {"height", "width"}:
        pixels, edge = (crop["height"], crop["width"]), size["shortest_edge"]
        mode = "shortest" if pixels == (edge, edge) else f"shortest {edge}"
    elif set(size) == {"height", "width"} and (not cropped or crop == size):
        pixels, mode = (size["height"], size["width"]), "squash"
    else:
        expected = "the shortest edge with a crop, or height and width without"
        raise ValueError(
            f"processor: its pictures have size = {size}, cropped to {crop or 'nothing'}; expected {expected}"
        )
    resample = getattr(images.resample, "value", images.resample)
    mean, std = (images.image_mean, images.image_std) if images.do_normalize else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
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
    """ValueError unless `model` knows all tokens and, if it reads a text at its end, how texts end."""
    tokenizer, config = tokens.processor.tokenizer, model.config.text_config
    if len(tokenizer) > config.vocab_size:
        known = f"{config.vocab_size:,}, as this model knows"
        raise ValueError(f"processor: its tokenizer has {len(tokenizer):,} tokens; expected at most {known}")
    row, token = tokens(["a dog"])[0], tokenizer.eos_token_id
    end = int(row.max()) if config.eos_token_id == OLD_EOS else config.eos_token_id
    if hasattr(model, "text_projection") and (token != end or end not in row):
        raise ValueError(f"processor: its tokenizer ends a text with the token {token}; expected {end}, as this model")


def recipe(clip: Clip, arguments: str) -> str:
    """Python code that loads `clip` again, for a card: `arguments` are its names, in quotes."""
    if not isinstance(clip.model, Adapter):
        return f"cn.load({arguments})"
    parts = (type(clip.model.inner).__name__, "AutoProcessor")
    return f"cn.wrap({', '.join(f'transformers.{part}.from_pretrained({arguments})' for part in parts)})"


def save(clip: Clip, folder: Path) -> Path:
    """Write a wrapped `clip` with its processor as a folder for `from_pretrained`, whole or not at all."""
    adapter, preprocess = clip.model, cast(Pictures, clip.preprocess)
    for edit in clip.edits:
        if not edit.linear or edit.bias is not None or not hasattr(adapter.inner, "visual_projection"):
            raise ValueError(
                f"clip: its edit {edit.method!r} cannot be fused into a {type(adapter.inner).__name__}; expected a "
                "linear edit without a bias, of a CLIPModel, or side='text' (`export` takes any)"
            )
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ValueError(f"folder: {str(folder)!r} exists and is not empty; expected a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        whole = Path(temporary, "whole")
        adapter.inner.save_pretrained(whole)
        preprocess.processor.save_pretrained(whole)
        if folder.exists():
            folder.rmdir()  # on Windows, a folder cannot take the place of another
        os.replace(whole, folder)
    return folder
