"""A pretrained CLIP and where its last projection is.

CLIP embeds a picture as z = f(x) W: a tower f with values in R^D, then a projection W in R^{D x d} into the
space it shares with texts. Every edit of clipnull acts on z, that is on W.
"""

import contextlib
import hashlib
import logging
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from . import sources
from .errors import at_least, one_line, one_of, shorten
from .projections import Projection as Projection
from .projections import find_projection
from .projections import uncompiled as uncompiled

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
        For an unknown name or tag, with near ones; for weights that are missing, damaged or do not fit the
        architecture; and for a folder or repository whose files would run code (`clipnull.sources`).
    OSError
        If the hub cannot be reached.

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
    source, settings = source_of(name), {}
    if ":" in source:
        if pretrained is not None:
            raise ValueError(f"pretrained: {pretrained!r} given for {name}, which brings its own; expected None")
        if sources.validate_source(source):
            settings["trust_remote_code"] = False
        folder = source.removeprefix("local-dir:")
        file = sources.weights_in(Path(folder)) if folder != source else None
    else:
        tags = open_clip.list_pretrained_tags_by_model(name)
        file = Path(pretrained) if pretrained is not None and pretrained not in tags else None
        if file is not None and not file.is_file():
            one_of("pretrained", pretrained, tags or ["None (this architecture has no published weights)"])
    argument, told = ("name", source) if ":" in source else ("pretrained", str(pretrained))
    if file is not None:
        sources.validate_checkpoint(argument, file)
    _validate_device(device)
    wanted = {"weights_only": True, "require_pretrained": ":" in source or pretrained is not None}
    try:
        with quiet():
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
        if file is None and "hf-hub:" not in source:  # no file of others, so that nothing is known of the fault
            raise
        raise ValueError(
            f"{argument}: {told!r} cannot be loaded ({type(error).__name__}: {one_line(error)}); expected a "
            "configuration and weights of open_clip that belong together"
        ) from error
    model, _, preprocess = created
    for key, value in model.named_parameters() if file is not None else ():
        if not value.isfinite().all():
            raise ValueError(f"{argument}: {str(file)!r} holds NaN or infinity in {key}; expected finite weights")
    model.eval().requires_grad_(False)
    return Clip(model, preprocess, tokenizer, name, pretrained)


def _validate_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise ValueError(f"device: {device!r} cannot be used ({reason}); expected such as 'cpu' or 'cuda'") from error


def source_of(name: str) -> str:
    """What open_clip calls the model `name`."""
    return sources.source_of(name, open_clip.list_models())


class _Quiet(logging.Filter):
    """Keeps from the root logger, to which open_clip speaks, what threads `inside` say below an error."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.inside, self.handler = threading.Lock(), Counter(), logging.lastResort or logging.NullHandler()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or not self.inside[record.thread]


_QUIET = _Quiet()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """In this thread, open_clip does not report each step of loading, and that `None` means untrained weights.

    Nothing of the root logger is changed in the end: open_clip would give it a handler where it has none, and then
    `logging.basicConfig` of a program would do nothing.
    """
    thread, root = threading.get_ident(), logging.root
    with _QUIET.lock:
        if not _QUIET.inside.total():
            root.addFilter(_QUIET)
            if not root.handlers:
                root.addHandler(_QUIET.handler)  # which says what Python says without any
        _QUIET.inside[thread] += 1
    try:
        yield
    finally:
        with _QUIET.lock:
            _QUIET.inside[thread] -= 1
            _QUIET.inside = +_QUIET.inside  # without threads that have left
            if not _QUIET.inside:
                root.removeFilter(_QUIET)
                root.removeHandler(_QUIET.handler)
