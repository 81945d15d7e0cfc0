"""A pretrained CLIP and where its last projection is.

CLIP embeds a picture as z = f(x) W: a tower f with values in R^D, then a projection W in R^{D x d} into the
space it shares with texts. Every edit of clipnull acts on z, that is on W.
"""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .errors import at_least, one_of, shorten
from .files import data_folder

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which open_clip brings
    import open_clip


@dataclass(frozen=True, eq=False)
class Clip:
    """An open_clip model with its preprocessing and tokenizer. It is never changed: an edit gives a new one.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode, without gradients.
    preprocess : callable
        A PIL image -> a tensor (3, s, s), s the size of pictures the model takes.
    tokenizer : callable
        A list of n texts -> tokens (n, length).
    name, pretrained : str, str or None
        What `load` was asked for.
    edits : tuple of Edit
        Those it carries, in the order they act.
    base : Clip or None
        The unedited model, where this one is edited.

    Examples
    --------
    >>> import clipnull as cn
    >>> clip = cn.load(device="cpu")
    >>> clip.name, clip.width, clip.image_size
    ('miniclip', 256, 112)
    >>> clip.embed_texts(["a dog", "a house"]).shape
    torch.Size([2, 256])
    """

    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    name: str
    pretrained: str | None
    edits: tuple = ()
    base: "Clip | None" = None

    @property
    def device(self) -> torch.device:
        return self.weights.device

    @property
    def weights(self) -> Tensor:
        """The parameter that holds the image projection W; the last one of a tower that has none (SigLIP)."""
        projection = find_projection(self.model)
        return list(self.model.visual.parameters())[-1] if projection.weight is None else projection.weight

    @property
    def width(self) -> int:
        """d, the width of the joint space."""
        return find_projection(self.model).width

    @property
    def logit_scale(self) -> float:
        """The factor on cosines in the model's own softmax (1 / temperature)."""
        return float(self.model.logit_scale.exp())

    @property
    def image_size(self) -> int:
        size = self.model.visual.image_size
        return int(size[0] if isinstance(size, Sequence) else size)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every weight, of the unedited model if this one is edited: 16 hexadecimal digits.

        Computed once and kept: who changes weights in place makes a new Clip of them (`dataclasses.replace`).
        """
        if self.base:
            return self.base.fingerprint
        digest = hashlib.sha256()
        for key, value in sorted(state(self.model).items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Unit embeddings of `texts`: (n, d) float32 on the CPU."""
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"texts: {texts!r} is not valid; expected a list of at least one string")
        parts = [
            self.model.encode_text(self.tokenizer(list(texts[i : i + batch])).to(self.device))
            for i in range(0, len(texts), batch)
        ]
        return F.normalize(torch.cat(parts).float(), dim=-1).cpu()

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor, batch: int = 64) -> Tensor:
        """Embeddings z (not normalised) of preprocessed pictures (n, 3, s, s): (n, d) float32 on the CPU."""
        at_least("batch", batch, 1)
        dtype = self.weights.dtype
        parts = [self.model.encode_image(p.to(self.device, dtype), normalize=False) for p in pixels.split(batch)]
        return torch.cat(parts).float().cpu()


def state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of `model` under the names they have without `torch.compile`, which puts its own in front."""
    return {key.replace("_orig_mod.", ""): value.detach() for key, value in model.state_dict().items()}


def uncompiled(module: Any) -> Any:
    """The module that `torch.compile` wraps; `module` itself if it does not."""
    return getattr(module, "_orig_mod", module)


@dataclass(frozen=True)
class Projection:
    """The last linear map of the image tower, z = f W (+ bias)."""

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
    """Where `model` keeps its image projection (open_clip 3.3: ViT, ResNet, timm towers).

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
        return Projection("visual.head.proj", None, None, True, visual.trunk.num_features)
    raise ValueError(
        f"model: its image tower ({type(visual).__name__}) does not end in a linear projection; looked "
        f"for visual.proj, {', '.join(LINEAR_HEADS)}"
    )


def load(name: str = "miniclip", pretrained: str | None = None, device: str | None = None) -> Clip:
    """A CLIP to edit: the embedded miniclip, or any open_clip architecture and tag.

    Parameters
    ----------
    name : str
        "miniclip"; a name of `open_clip.list_models()`; or "hf-hub:org/repo" or "local-dir:folder" in the layout of
        the hub.
    pretrained : str, optional
        A tag of that architecture ("openai", "laion2b_s34b_b79k") or a checkpoint file. None: untrained weights, useful
        only to try the machinery (miniclip brings its own).
    device : str, optional
        "cpu", "cuda", ...; by default CUDA where there is one.

    Returns
    -------
    Clip

    Raises
    ------
    ValueError
        For an unknown name or tag, with near ones, and for weights that do not fit the architecture.

    Examples
    --------
    >>> import clipnull as cn
    >>> cn.load(device="cpu").logit_scale > 1
    True
    >>> cn.load("ViT-B-23")
    Traceback (most recent call last):
    ValueError: name: 'ViT-B-23' is not known; did you mean 'ViT-B-32' or 'ViT-S-32' or 'ViT-M-32'?
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source = source_of(name)
    if name == "miniclip":
        if pretrained is not None:
            raise ValueError(f"pretrained: {pretrained!r} given for miniclip, which brings its own; expected None")
    elif ":" not in name:
        tags = open_clip.list_pretrained_tags_by_model(name)
        if pretrained is not None and pretrained not in tags and not Path(pretrained).is_file():
            one_of("pretrained", pretrained, tags or ["None (this architecture has no published weights)"])
    try:
        with quiet():
            created: Any = open_clip.create_model_and_transforms(source, pretrained, device=device)
            tokenizer = open_clip.get_tokenizer(source)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        keys = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ValueError(
            f"pretrained: the weights {pretrained or source!r} do not match the architecture {name!r}: {shorten(keys)}"
        ) from error
    model, _, preprocess = created
    model.eval().requires_grad_(False)
    return Clip(model, preprocess, tokenizer, name, pretrained)


def source_of(name: str) -> str:
    """What open_clip calls the model `name`."""
    if name == "miniclip":
        return f"local-dir:{data_folder(name)}"
    if isinstance(name, str) and name.startswith(("hf-hub:", "local-dir:")):
        return name
    return one_of("name", name, ["miniclip", *open_clip.list_models()])


@contextlib.contextmanager
def quiet():
    """open_clip reports each step of loading, and that `None` means untrained weights; the caller knows."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logging.root.setLevel(level)
