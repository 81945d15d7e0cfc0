"""CLIPs of transformers: `wrap` takes one in, `save` writes one out.

A wrapped model looks like one of open_clip: `encode_image`, `encode_text`, and an image tower `visual` that knows how
its pictures are prepared. All else in clipnull works on it without knowing where it is from.
"""

import copy
import os
import shutil
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..errors import brief, import_extra, one_line
from ..models import Clip, state
from ..towers import ends_of, uncompiled
from .weight_names import as_open_clip

KINDS = ("CLIPModel", "SiglipModel")


class Tower(nn.Module):
    """The image tower, prepared pictures (n, 3, s, s) -> z (n, d), its projection where timm towers have theirs.

    SigLIP has none, and `head` is empty: an edit puts one there, see `projections.find_projection`.
    """

    def __init__(self, model: Any, prepared: dict[str, Any]):
        super().__init__()
        self.trunk, self.preprocess_cfg = model.vision_model, prepared
        self.image_size, self.num_features = prepared["size"], model.config.vision_config.hidden_size
        projection = getattr(model, "visual_projection", None)
        self.head = nn.Sequential(OrderedDict({} if projection is None else {"proj": projection}))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.trunk(pixel_values=pixels, return_dict=True).pooler_output)


class Adapter(nn.Module):
    """A CLIPModel or SiglipModel with the methods of open_clip's models. `inner` is that model; `visual` shares it."""

    def __init__(self, model: Any, prepared: dict[str, Any]):
        super().__init__()
        self.inner, self.visual = model, Tower(model, prepared)

    @property
    def logit_scale(self) -> Tensor:
        return self.inner.logit_scale

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        z = self.visual(pixels)
        return F.normalize(z, dim=-1) if normalize else z

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """In CLIP nothing looks at what follows the end of a text, and it is left out; SigLIP was trained with it."""
        if hasattr(self.inner, "visual_projection"):  # a CLIPModel
            eos = self.inner.config.text_config.eos_token_id
            tokens = tokens[:, : int(ends_of(tokens, None if eos == 2 else eos).max()) + 1]  # 2: of old configurations
        t = self.inner.text_model(input_ids=tokens, return_dict=True).pooler_output
        projection = getattr(self.inner, "text_projection", None)
        t = t if projection is None else projection(t)
        return F.normalize(t, dim=-1) if normalize else t

    def as_open_clip(self) -> dict[str, Tensor]:
        """Its weights under open_clip's names and in its shapes: what the fingerprint is of."""
        return as_open_clip(state(self.inner), "CLIP" if hasattr(self.inner, "visual_projection") else "Siglip")


@dataclass(frozen=True)
class Pictures:
    """A picture -> a tensor (3, s, s), by the processor itself, so that it sees what it sees in transformers."""

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
    """A CLIP of transformers as a Clip: everything that takes what `load` gives takes it, too.

    The fingerprint is by content, so that a patch made here fits the same weights in open_clip, and the other way
    round, if both have them in one precision. Pictures are prepared by the processor itself; where that resizes them
    on tensors (transformers 5), they differ from open_clip's by rounding.

    Parameters
    ----------
    model : transformers.CLIPModel or transformers.SiglipModel
        It is not changed, and shares its weights with the result. It stays on its device.
    processor : transformers.CLIPProcessor or transformers.SiglipProcessor
        That of the model: anything with an `image_processor` and a `tokenizer`.
    name : str, optional
        What to call it; by default where transformers had it from.

    Returns
    -------
    Clip

    Raises
    ------
    ValueError
        For a model of another kind, and for a processor that does not match it: another size of pictures, a tokenizer
        with more tokens than the model knows or another end of a text, steps that open_clip has no word for.
    ImportError
        Without transformers, which the extra "hf" brings.

    Examples
    --------
    >>> import clipnull as cn
    >>> cn.wrap("openai/clip-vit-base-patch32", None)
    Traceback (most recent call last):
    ValueError: model: str; expected a CLIPModel or SiglipModel of transformers, such as CLIPModel.from_pretrained gives
    """
    transformers, model = import_extra("transformers", "hf"), uncompiled(model)
    if not isinstance(model, tuple(getattr(transformers, kind) for kind in KINDS)):
        raise ValueError(
            f"model: {type(model).__name__}; expected a {' or '.join(KINDS)} of transformers, such as "
            f"{KINDS[0]}.from_pretrained gives"
        )
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ValueError(
            f"processor: {type(processor).__name__}; expected one with an image_processor and a tokenizer, such as "
            "AutoProcessor.from_pretrained gives"
        )
    if getattr(model.vision_model, "use_head", True) is False:
        raise ValueError("model: its image tower has no head, so that a picture gets no embedding; expected one with")
    vision, text = model.config.vision_config, model.config.text_config
    prepared = preparation(processor.image_processor)
    if prepared["size"] != (vision.image_size, vision.image_size):
        raise ValueError(
            f"processor: it makes pictures of {' x '.join(map(str, prepared['size']))} pixels; expected "
            f"{vision.image_size} x {vision.image_size}, as this model takes"
        )
    tokens = Tokens(processor, text.max_position_embeddings)
    _validate_tokenizer(tokens, text, "text_projection" in model._modules)
    shared: dict[int, Any] = {id(t): t for t in model.buffers()}  # the memo makes deepcopy keep what it maps
    shared |= {id(t): nn.Parameter(t.detach(), requires_grad=False) for t in model.parameters()}
    adapter = Adapter(copy.deepcopy(model, shared), prepared).eval()
    told = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Clip(adapter, Pictures(processor), tokens, told, None)


def preparation(images: Any) -> dict[str, Any]:
    """What an image processor of transformers does, in open_clip's words (`preprocess_cfg`).

    Raises ValueError for steps it has no words for.
    """

    def refuse(what: str, value: object, expected: str) -> ValueError:
        return ValueError(f"processor: its image processor has {what} = {brief(value)}; expected {expected}")

    for step in ("do_resize", "do_rescale"):
        if not getattr(images, step, None):
            raise refuse(step, getattr(images, step, None), "True: pictures of one size, pixels in [0, 1]")
    if abs(images.rescale_factor - 1 / 255) > 1e-9:
        raise refuse("rescale_factor", images.rescale_factor, "1/255")
    cropped = bool(getattr(images, "do_center_crop", None))
    try:
        size, crop = dict(images.size), dict(images.crop_size) if cropped else {}
    except (TypeError, ValueError) as error:
        raise refuse("size", images.size, "names with numbers, such as {'shortest_edge': 224}") from error
    if set(size) == {"shortest_edge"} and set(crop) == {"height", "width"}:
        pixels, edge = (crop["height"], crop["width"]), size["shortest_edge"]
        mode = "shortest" if pixels == (edge, edge) else f"shortest {edge}"
    elif set(size) == {"height", "width"} and (not cropped or crop == size):
        pixels, mode = (size["height"], size["width"]), "squash"
    else:
        raise refuse("size", size, "the shortest edge with a crop, or height and width without")
    resample = getattr(images.resample, "value", images.resample)
    plain = not images.do_normalize
    return {
        "size": pixels,
        "mode": "RGB",
        "mean": (0.0, 0.0, 0.0) if plain else tuple(images.image_mean),
        "std": (1.0, 1.0, 1.0) if plain else tuple(images.image_std),
        "interpolation": resample if isinstance(resample, str) else Image.Resampling(resample).name.lower(),
        "resize_mode": mode,
        "fill_color": 0,
    }


def _validate_tokenizer(tokens: Tokens, config: Any, ends: bool) -> None:
    """ValueError unless the model knows all tokens and, if it reads a text where it `ends`, how texts end."""
    tokenizer = tokens.processor.tokenizer
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"processor: its tokenizer has {len(tokenizer):,} tokens; expected at most {config.vocab_size:,}, as this "
            "model knows"
        )
    try:
        row = tokens(["a dog"])[0]
    except Exception as error:  # of a tokenizer without padding, of an empty one
        raise ValueError(
            f"processor: its tokenizer cannot pad a text to {tokens.length} tokens ({type(error).__name__}: "
            f"{one_line(error)}); expected that of this model"
        ) from error
    # transformers before July 2023 wrote 2 into configurations, and then takes the highest token for the end
    end = int(row.max()) if config.eos_token_id == 2 else config.eos_token_id
    if ends and (tokenizer.eos_token_id != end or end not in row):
        raise ValueError(
            f"processor: its tokenizer ends a text with the token {tokenizer.eos_token_id}; expected {end}, where this "
            "model reads the text"
        )


def recipe(clip: Clip, arguments: str) -> str:
    """The Python that makes `clip` again, for people to read: `arguments` are its names, in quotes."""
    if not isinstance(clip.model, Adapter):
        return f"cn.load({arguments})"
    parts = (type(clip.model.inner).__name__, "AutoProcessor")
    return f"cn.wrap({', '.join(f'transformers.{part}.from_pretrained({arguments})' for part in parts)})"


def save(clip: Clip, folder: Path) -> Path:
    """Write a wrapped `clip` with its processor as a folder that `from_pretrained` of transformers loads.

    The folder appears whole or not at all. Raises ValueError if it is there and not empty, and for an edit that the
    stock model has no place for.
    """
    adapter, processor = clip.model, getattr(clip.preprocess, "processor", None)
    if processor is None:
        raise ValueError(f"clip: its preprocess is {type(clip.preprocess).__name__}; expected that of `wrap`")
    for edit in clip.edits:
        if getattr(adapter.inner, "visual_projection", None) is None:
            lacks = "no linear map at the end of its image tower"
        elif edit.bias is not None:
            lacks = "no place for a bias there"
        elif not edit.linear:
            lacks = "one matrix there, which cannot hold it"
        else:
            continue
        raise ValueError(
            f"clip: its edit {edit.method!r} cannot be fused: {type(adapter.inner).__name__} of transformers has "
            f"{lacks}; expected a linear edit without a bias, of a CLIPModel, or side='text' (`export` takes any)"
        )
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ValueError(f"folder: {str(folder)!r} is there and not empty; expected a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        adapter.inner.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        if folder.exists():
            folder.rmdir()  # on Windows, a folder cannot take the place of another
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
