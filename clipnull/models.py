"""A pretrained CLIP and where its last projection is.

CLIP embeds a picture as z = f(x) W: a tower f with values in R^D, then a projection W in R^{D x d} into the
space it shares with texts. Every edit of clipnull acts on z, that is on W.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import at_least, one_line, one_of, shorten
from .files import data_folder
from .stored import StoredModel, StoredTexts, has_texts_alone, is_stored, read_stored, read_texts
from .towers import Projection as Projection
from .towers import encode_texts, find_projection
from .towers import uncompiled as uncompiled

# --- What open_clip says while a model is loaded, and what of it the user hears.


class _Quiet(logging.Filter):
    """Keeps from the root logger, to which open_clip speaks, what threads `inside` say of the course of loading."""

    EXPECTED = re.compile("No pretrained weights loaded for model|Failed to download weights for tag")
    """Asked for, with `None`; and told by the error that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.inside, self.handler = threading.Lock(), Counter(), logging.lastResort or logging.NullHandler()

    def filter(self, record: logging.LogRecord) -> bool:
        if not self.inside[record.thread]:
            return True
        return record.levelno >= logging.WARNING and not self.EXPECTED.match(record.getMessage())


_QUIET = _Quiet()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """In this thread, open_clip does not report each step of loading, nor that `None` means untrained weights.

    Its other warnings are heard: that positions were resized, say, or that a tower has no weights.

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


# --- As many rows at a time as a device has memory for.

T = TypeVar("T")


@dataclass
class Batch:
    """How many rows go through a model at once: half as many after each time that a GPU has no memory for them.

    It stays so for the rows that follow. What is computed for a row does not depend on the batch, up to rounding.

    >>> Batch(2).through(lambda rows: rows.stop - rows.start, 5)
    [2, 2, 1]
    """

    size: int

    @staticmethod
    def of(batch: "int | Batch") -> "Batch":
        """`batch` itself, or a new one of so many rows; ValueError for fewer than one."""
        return batch if isinstance(batch, Batch) else Batch(at_least("batch", batch, 1))

    def through(self, call: Callable[[slice], T], n: int) -> list[T]:
        """What `call` gives for the rows of each batch of n, in order; it is called once where n is zero.

        Raises torch.OutOfMemoryError if there is no memory for a single row.

        Warns
        -----
        UserWarning
            Where the batch is halved.
        """
        parts, first = [], 0
        while first < n or not parts:
            rows = slice(first, min(first + self.size, n))
            try:
                parts.append(call(rows))
                first = rows.stop
                continue
            except torch.OutOfMemoryError:
                asked = rows.stop - rows.start
                if asked <= 1:
                    raise
                self.size = asked // 2
                told = f"batch: the device has no memory for {asked} rows at once; going on with {self.size} at a time"
                warnings.warn(told, stacklevel=2)
            torch.cuda.empty_cache()  # which the call still held while its error was there
        return parts


# --- Models that never knew: miniclip trained again without one class or domain, as the yardstick of forgetting.

RETRAINED_BASE = "miniclip"
RETRAINED = tuple(f"{RETRAINED_BASE}-no-{what}" for what in ("dog", "house", "cartoon"))
ROWS, TABLE = "rows", "token_embedding.weight"
ROUNDING = 2.0**-9
"""Weights come in float16, of 11 bits: two that differ by no more than this share went through other roundings."""


def difference(base: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of the weights `other` differs from those of `base`, for `restore`; rows of tokens by more than ROUNDING.

    Raises ValueError if the two have not the same names and shapes.
    """
    shapes = [
        {key: tuple(value.shape) for key, value in retrained_weights.items()} for retrained_weights in (base, other)
    ]
    if shapes[0] != shapes[1]:
        keys = sorted(key for key in {*shapes[0], *shapes[1]} if shapes[0].get(key) != shapes[1].get(key))
        raise ValueError(f"other: {keys[0]} is {shapes[1].get(keys[0])}; expected {shapes[0].get(keys[0])}, as in base")
    found = {key: value for key, value in other.items() if key != TABLE and not torch.equal(value, base[key])}
    mine, theirs = base[TABLE].float(), other[TABLE].float()
    rows = ((theirs - mine).abs() > ROUNDING * mine.abs()).any(1).nonzero()[:, 0]
    return found | {ROWS: rows.to(torch.int32), TABLE: other[TABLE][rows]}


def restore(base: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights of the model whose `difference` to `base` is `found`."""
    table = base[TABLE].clone()
    table[found[ROWS].long()] = found[TABLE].to(table.dtype)
    return {**base, **{key: value for key, value in found.items() if key != ROWS}, TABLE: table}


def retrained_weights(name: str, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the clean model `name`, one of RETRAINED, from those of miniclip on any device: on the CPU."""
    return restore({key: value.cpu() for key, value in base.items()}, load_file(path_of(name)))


def path_of(name: str) -> Path:
    """The file of the clean model `name`."""
    return data_folder("clean") / f"{name.removeprefix(RETRAINED_BASE + '-')}.safetensors"


# --- Where a model comes from, and what of it is refused before open_clip sees it.

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
"""The names that open_clip looks for in a folder, in this order; then it takes any of ENDINGS."""
ENDINGS = (".safetensors", ".bin", ".pth")
LARGEST = 10**6
"""Bytes of a configuration: real ones have some thousand."""

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def _source_among(name: str, known: list[str]) -> str:
    """What open_clip calls the model `name`; `known` are its own architectures."""
    if name in (RETRAINED_BASE, *RETRAINED):
        return f"local-dir:{data_folder(RETRAINED_BASE)}"
    if isinstance(name, str) and name.startswith(("hf-hub:", "local-dir:")):
        return name
    return one_of("name", name, [RETRAINED_BASE, *RETRAINED, *known])


def validate_source(source: str) -> bool:
    """Whether the tokenizer of `source` is one of transformers; ValueError if it would run code or has no weights.

    Of a model on the hub, this downloads the configuration and nothing else.
    """
    kind, _, place = source.partition(":")
    if kind not in ("local-dir", "hf-hub"):
        return False
    folder = Path(place) if kind == "local-dir" else None
    if folder:
        if not place or not folder.is_dir():
            raise ValueError(f"name: {source!r}: {place!r} is not a folder; expected one with {CONFIG} and weights")
        if weights_in(folder) is None:
            raise ValueError(
                f"name: {source!r}: no weights in {place!r}; expected {WEIGHTS[0]}, or another file that ends in "
                f"{', '.join(ENDINGS)}"
            )
    file = folder / CONFIG if folder else _from_hub(place)
    return _validate_config(file, folder)


def weights_in(folder: Path) -> Path | None:
    """The checkpoint that open_clip takes of those in `folder`."""
    found = [path for path in folder.iterdir() if path.suffix in ENDINGS and path.is_file()]
    rank = {name: i for i, name in enumerate(WEIGHTS)}
    return min(found, key=lambda p: (rank.get(p.name, len(rank)), p.suffix != ENDINGS[0], p), default=None)


def validate_checkpoint(argument: str, path: Path) -> None:
    """ValueError if the file of weights at `path` is damaged, or is a pickle that holds more than tensors."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as found:
                found.keys()
        elif zipfile.is_zipfile(path) and any(n.endswith("/constants.pkl") for n in zipfile.ZipFile(path).namelist()):
            raise ValueError("it is a program of TorchScript, as OpenAI's own files are")
        elif path.suffix not in (".npz", ".npy"):  # numpy itself reads no pickles
            found = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            if not isinstance(found, dict) or not found:
                raise ValueError(f"it holds {type(found).__name__} and not weights by their names")
    except PermissionError:
        raise
    except Exception as error:  # whatever garbage makes the readers say
        raise _damaged(argument, path, error) from error


def _damaged(argument: str, file: object, error: Exception) -> ValueError:
    return ValueError(
        f"{argument}: {str(file)!r} cannot be read ({type(error).__name__}: {one_line(error)}); expected weights in "
        "safetensors, or a checkpoint of PyTorch that holds tensors and no code"
    )


def _from_hub(repository: str) -> Path:
    """The configuration of the model `repository` on the hub, downloaded if need be."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id=repository, filename=CONFIG))
    except Exception as error:  # of the network, of the hub, of the name
        raise OSError(
            f"name: 'hf-hub:{repository}': its {CONFIG} cannot be had ({type(error).__name__}: {one_line(error)}); "
            "expected a model of open_clip on the hub, and the hub within reach"
        ) from error


def _validate_config(file: Path, folder: Path | None) -> bool:
    """See `validate_source`."""
    model = _json(file).get("model_cfg")
    text, vision = (model.get(key) for key in ("text_cfg", "vision_cfg")) if isinstance(model, dict) else (None, None)
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise ValueError(f"name: {str(file)!r} is no configuration of open_clip; expected model_cfg with both towers")
    for key, value in _entries(model):
        if key == "auto_map" or (key == "trust_remote_code" and value is not False):
            raise _runs_code(file, key, value)
    if str(vision.get("timm_model_name", "")).startswith("local-dir:"):
        raise _leads_out(file, "timm_model_name", vision["timm_model_name"])
    settings = text.get("tokenizer_kwargs") or {}
    for key, value in settings.items() if isinstance(settings, dict) else [("tokenizer_kwargs", "/")]:
        if isinstance(value, str) and {"/", "\\"} & {*value}:
            raise _leads_out(file, key, value)
    folders = {folder} if folder and text.get("hf_tokenizer_name") else set()
    for key in ("hf_model_name", "hf_tokenizer_name"):
        value = text.get(key)
        if not value or (folder and key == "hf_tokenizer_name"):  # which open_clip looks for in the folder
            continue
        if isinstance(value, str) and HUB_NAME.fullmatch(value) and not os.path.exists(value):
            if key == "hf_model_name":
                _validate_tower(file, value)
        elif folder and isinstance(value, str) and _inside(Path(value), folder):
            folders.add(Path(value))
        else:
            raise _leads_out(file, key, value)
    for place in folders:
        for path in (place / "config.json", place / "tokenizer_config.json"):
            for key, value in _entries(_json(path)) if path.exists() else ():
                if key == "auto_map":
                    raise _runs_code(path, key, value)
    return bool(text.get("hf_tokenizer_name"))


def _validate_tower(file: Path, name: str) -> None:
    """ValueError if the text tower `name` on the hub brings code of its own: transformers would offer to run it."""
    try:
        from transformers import AutoConfig

        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise _runs_code(file, "hf_model_name", name) from error
    except (ImportError, OSError):
        return  # open_clip says so, too


def _json(file: Path) -> dict[str, Any]:
    """What the configuration `file` holds."""
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        if file.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"name: the configuration {str(file)!r} cannot be read ({one_line(error)}); expected a JSON object"
        ) from error
    return content


def _entries(content: object) -> Iterator[tuple[str, object]]:
    """Every key with its value, at any depth."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _runs_code(file: Path, key: str, value: object) -> ValueError:
    return ValueError(
        f"name: {str(file)!r} says {key} = {one_line(value)!r}, which runs code of the model's own; expected settings "
        "and weights only"
    )


def _leads_out(file: Path, key: str, value: object) -> ValueError:
    return ValueError(
        f"name: {str(file)!r} says {key} = {one_line(value)!r}; expected a name on the hub, or a path inside its folder"
    )


# --- models

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
        "miniclip", or a model that never met a class or domain (`clipnull.models`); a name of
        `open_clip.list_models()`; "hf-hub:org/repo" or "local-dir:folder" in the layout of the hub; or a file of stored
        embeddings, "FILE.npz", which has no encoder (`clipnull.stored`), or of texts alone (`clipnull.stored`).
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
        architecture; and for a folder or repository whose files would run code (`clipnull.models`).
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
        if validate_source(source):
            settings["trust_remote_code"] = False
        folder = source.removeprefix("local-dir:")
        file = weights_in(Path(folder)) if folder != source else None
    else:
        tags = open_clip.list_pretrained_tags_by_model(name)
        trained = open_clip.get_pretrained_cfg(name, pretrained) if pretrained in tags else {}
        file = Path(pretrained) if pretrained is not None and not trained else None
        if file is not None and not file.is_file():
            one_of("pretrained", pretrained, tags or ["None (this architecture has no published weights)"])
    argument, told = ("name", source) if ":" in source else ("pretrained", str(pretrained))
    if file is not None:
        validate_checkpoint(argument, file)
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
    if name in RETRAINED:
        model.load_state_dict(retrained_weights(name, model.state_dict()))
    model.eval().requires_grad_(False)
    return Clip(model, preprocess, tokenizer, name, pretrained)


def _no_pictures(image: Image.Image) -> Tensor:
    raise ValueError(f"image: {image.size} pixels; expected none, since only embeddings are stored")


def _load_stored(name: str, pretrained: str | None, device: str) -> Clip:
    if pretrained is not None:
        raise ValueError(f"pretrained: {pretrained!r} given for {name!r}, which holds embeddings; expected None")
    _validate_device(device)
    stored = read_texts(name) if has_texts_alone(name) else read_stored(name)
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
    return _source_among(name, open_clip.list_models())
