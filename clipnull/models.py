"""A pretrained CLIP and where its last projection is.

CLIP embeds a picture as z = f(x) W: a tower f with values in R^D, then a projection W in R^{D x d} into the
space it shares with texts. Every edit of clipnull acts on z, that is on W.
"""

import hashlib
import json
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

from . import clean, sources
from .errors import one_line, one_of, shorten
from .listed import has_texts_alone, read_texts
from .memory import Batch
from .padding import encode_texts
from .projections import Projection as Projection
from .projections import find_projection
from .projections import uncompiled as uncompiled
from .quiet import quiet
from .stored import StoredModel, StoredTexts, is_stored, read

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which open_clip brings
    import open_clip

PREPARED = ("size", "mean", "std", "interpolation", "resize_mode")
"""What of open_clip's preprocessing decides about the embedding of a picture."""

IN_CACHE = 16
"""Pictures that go at once through a tower of convolutions on the CPU, channels last: twice as fast as 64 were."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP with its preprocessing and tokenizer, from `load` or `wrap`. It is never changed: an edit gives a new one.

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
    def encoder(self) -> bool:
        """Whether it embeds pictures and texts of one's own; False for stored embeddings (`clipnull.stored`)."""
        return not isinstance(self.model, StoredModel)

    def validate_encoder(self) -> None:
        """Raises ValueError where only embeddings are stored."""
        if not self.encoder:
            raise ValueError(
                f"clip: {self.name} is a file of embeddings, without an encoder; expected a model with weights"
            )

    @property
    def image_size(self) -> int:
        size = self.model.visual.image_size
        return int(size[0] if isinstance(size, Sequence) else size)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that embeddings depend on, of the unedited model if this one is edited: 16 hexadecimal digits.

        It covers every weight by its content, whatever name a library gives it (a model of transformers is hashed as
        open_clip would hold it, see `layouts`); whether the activation is QuickGELU, which has no weights; and how
        pictures are prepared. Computed once: who changes weights in place makes a new Clip (`dataclasses.replace`).
        """
        if self.base:
            return self.base.fingerprint
        weights = []
        laid_out = getattr(self.model, "as_open_clip", None)  # of `adapters`
        for value in (laid_out() if laid_out else state(self.model)).values():
            content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            weights.append(f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(content).hexdigest()}")
        prepared = {key: self.model.visual.preprocess_cfg.get(key) for key in PREPARED}
        about = json.dumps([uses_quick_gelu(self.model), prepared, sorted(weights)], sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Unit embeddings of `texts`: (n, d) float32 on the CPU."""
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"texts: {texts!r} is not valid; expected a list of at least one string")

        def encode(rows: slice) -> Tensor:
            return encode_texts(self.model, self.tokenizer(list(texts[rows])), self.device).float()

        return F.normalize(torch.cat(Batch.of(batch).through(encode, len(texts))), dim=-1).cpu()

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor, batch: int | Batch = 64) -> Tensor:
        """Embeddings z (not normalised) of preprocessed pictures (n, 3, s, s): (n, d) float32 on the CPU.

        `batch` of them at once; fewer, with a warning, where a GPU has no memory for so many; or IN_CACHE, which see.
        """
        dtype, cpu = self.weights.dtype, self.device.type == "cpu"
        split = cpu and any(isinstance(module, nn.BatchNorm2d) for module in self.model.modules())

        def encode(rows: slice) -> Tensor:
            part = pixels[rows].to(self.device, dtype, non_blocking=self.device.type == "cuda")
            if not split:
                return self.model.encode_image(part, normalize=False)
            parts = part.contiguous(memory_format=torch.channels_last).split(IN_CACHE)
            return torch.cat([self.model.encode_image(some, normalize=False) for some in parts])

        return torch.cat(Batch.of(batch).through(encode, len(pixels))).float().cpu()


def uses_quick_gelu(model: nn.Module) -> bool:
    """Whether a tower has OpenAI's activation x * sigmoid(1.702 x) in place of GELU, which weights do not tell."""
    return any(type(module).__name__ in ("QuickGELU", "QuickGELUActivation") for module in model.modules())


def state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of `model` under the names they have without `torch.compile`, which puts its own in front."""
    return {key.replace("_orig_mod.", ""): value.detach() for key, value in model.state_dict().items()}


def load(name: str = "miniclip", pretrained: str | None = None, device: str | None = None) -> Clip:
    """A CLIP to edit: the embedded miniclip, or any open_clip architecture and tag.

    Parameters
    ----------
    name : str
        "miniclip", or a model that never met a class or domain (`clipnull.clean`); a name of
        `open_clip.list_models()`; "hf-hub:org/repo" or "local-dir:folder" in the layout of the hub; or a file of stored
        embeddings, "FILE.npz", which has no encoder (`clipnull.stored`), or of texts alone (`clipnull.listed`).
    pretrained : str, optional
        A tag of that architecture ("openai", "laion2b_s34b_b79k") or a checkpoint file. None: untrained weights, useful
        only to try the machinery (miniclip brings its own). Preprocessing and activation are those of the tag:
        "ViT-B-16" with "openai" gets QuickGELU, which that architecture alone would not; a file needs
        "ViT-B-16-quickgelu".
    device : str, optional
        "cpu", "cuda", ...; by default CUDA where there is one.

    Returns
    -------
    Clip

    Raises
    ------
    ValueError
        For an unknown name or tag, with near ones; for weights that are missing, damaged or do not fit the
        architecture; and for a folder or repository whose files would run code (`clipnull.sources`).
    OSError
        If weights or a tokenizer cannot be downloaded, with what else can be done.

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
    if is_stored(name):
        return _load_stored(name, pretrained, device)
    source, settings, trained = source_of(name), {}, {}
    if ":" in source:
        if pretrained is not None:
            raise ValueError(f"pretrained: {pretrained!r} given for {name}, which brings its own; expected None")
        if sources.validate_source(source):
            settings["trust_remote_code"] = False
        folder = source.removeprefix("local-dir:")
        file = sources.weights_in(Path(folder)) if folder != source else None
    else:
        tags = open_clip.list_pretrained_tags_by_model(name)
        trained = open_clip.get_pretrained_cfg(name, pretrained) if pretrained in tags else {}
        file = Path(pretrained) if pretrained is not None and not trained else None
        if file is not None and not file.is_file():
            one_of("pretrained", pretrained, tags or ["None (this architecture has no published weights)"])
    argument, told = ("name", source) if ":" in source else ("pretrained", str(pretrained))
    if file is not None:
        sources.validate_checkpoint(argument, file)
    _validate_device(device)
    wanted = {"weights_only": True, "require_pretrained": ":" in source or pretrained is not None}
    wanted["force_quick_gelu"] = bool(trained.get("quick_gelu", False))  # else as the architecture says
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "QuickGELU mismatch")  # of tags that say nothing of it
            created: Any = open_clip.create_model_and_transforms(source, pretrained, device=device, **wanted)
            tokenizer = open_clip.get_tokenizer(source, **settings)
    except (ImportError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "state_dict" in str(error):
            keys = [one_line(line, 120) for line in str(error).splitlines()[1:3]]
            raise ValueError(
                f"pretrained: the weights {pretrained or source!r} do not match the architecture {name!r}: "
                f"{shorten(keys)}"
            ) from error
        if file is None and "hf-hub:" not in source:
            if trained or isinstance(error, OSError):
                raise OSError(
                    f"{argument}: {told!r} of {name} cannot be downloaded ({type(error).__name__}: {one_line(error)}); "
                    f"expected a network, or what it needs in the cache of the hub (the variable HF_HOME names it), or "
                    f"a file of weights from another machine: load({name!r}, 'FILE.safetensors')"
                ) from error
            raise  # no file of others, so that nothing is known of the fault
        raise ValueError(
            f"{argument}: {told!r} cannot be loaded ({type(error).__name__}: {one_line(error)}); expected a "
            "configuration and weights of open_clip that belong together"
        ) from error
    model, _, preprocess = created
    for key, value in model.named_parameters() if file is not None else ():
        if not value.isfinite().all():
            raise ValueError(f"{argument}: {str(file)!r} holds NaN or infinity in {key}; expected finite weights")
    if name in clean.NAMES:
        model.load_state_dict(clean.weights(name, model.state_dict()))
    model.eval().requires_grad_(False)
    return Clip(model, preprocess, tokenizer, name, pretrained)


def _no_pictures(image: Image.Image) -> Tensor:
    raise ValueError(f"image: {image.size} pixels; expected none, since only embeddings are stored")


def _load_stored(name: str, pretrained: str | None, device: str) -> Clip:
    if pretrained is not None:
        raise ValueError(f"pretrained: {pretrained!r} given for {name!r}, which holds embeddings; expected None")
    _validate_device(device)
    stored = read_texts(name) if has_texts_alone(name) else read(name)
    stored.vectors.pop("images", None)  # which `load_images` hands out, and a model has no use for
    texts = StoredTexts(stored)
    model = StoredModel(stored, texts.table).eval().requires_grad_(False).to(device)
    clip = Clip(model, _no_pictures, texts, stored.words.get("model", str(name)), stored.words.get("pretrained"))
    vars(clip)["fingerprint"] = stored.words.get("fingerprint", "")  # of the encoder, which is not here
    return clip


def _validate_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise ValueError(f"device: {device!r} cannot be used ({reason}); expected such as 'cpu' or 'cuda'") from error


def source_of(name: str) -> str:
    """What open_clip calls the model `name`."""
    return sources.source_of(name, open_clip.list_models())
