"""A pretrained CLIP with its preprocessing and tokenizer, and the function that loads it.

CLIP embeds a picture as z = f(x) W. The tower f returns features in R^D, and the projection W in R^{D x d} maps them
into the space shared with texts. Every edit of clipnull acts on z, that is, on W.
"""

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import at_least, one_line, one_of, shorten
from .files import cache_path, data_folder
from .sources import validate_checkpoint, validate_source
from .stored import Stored, StoredModel, StoredTexts, is_stored, read_stored
from .towers import encode_texts, find_projection

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="IProgress not found")  # open_clip imports tqdm, which warns
    import open_clip

EMBEDDED = "miniclip"
RETRAINED = tuple(f"{EMBEDDED}-no-{name}" for name in ("dog", "house", "cartoon"))
"""miniclip retrained without one class or domain: the reference for forgetting."""
NO_WEIGHTS = "none"  # pass this instead of a tag to get random weights
PREPROCESSING = ("size", "mean", "std", "interpolation", "resize_mode")  # open_clip's settings that change embeddings
CONVOLUTION_BATCH = 16  # on the CPU; with channels-last memory it is twice as fast as 64

T = TypeVar("T")


@dataclass
class Batch:
    """The number of rows per batch, halved whenever a batch does not fit into GPU memory.

    >>> Batch(2).through(lambda rows: rows.stop - rows.start, 5)
    [2, 2, 1]
    """

    size: int

    @staticmethod
    def of(batch: "int | Batch") -> "Batch":
        """Return `batch`, or a new Batch of that size."""
        return batch if isinstance(batch, Batch) else Batch(at_least("batch", batch, 1))

    def through(self, call: Callable[[slice], T], n: int) -> list[T]:
        """Return `call(rows)` for each batch of the n rows, in order; for n = 0, call it once with an empty slice."""
        parts, first = [], 0
        while first < n or not parts:
            rows = slice(first, min(first + self.size, n))
            try:
                parts.append(call(rows))
                first = rows.stop
                continue
            except torch.OutOfMemoryError:
                if (size := rows.stop - rows.start) <= 1:
                    raise
            self.size = size // 2
            warnings.warn(f"batch: the device has no memory for {size} rows; continuing with {self.size}", stacklevel=2)
            torch.cuda.empty_cache()  # not under `except`, where the error still holds the memory
        return parts


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP with its preprocessing and tokenizer, from `load` or `wrap`. It is immutable: edits return a new one.

    model: in evaluation mode, without gradients. preprocess: maps a PIL image to (3, s, s). tokenizer: maps n texts to
    (n, length). name, pretrained: as in `load`. edits: in the order they act. base: the unedited model.

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

    def __repr__(self) -> str:
        weights, edits = f", {self.pretrained!r}" if self.pretrained else "", len(self.edits)
        return f"Clip({self.name!r}{weights}: width {self.width}, on {self.device}, {edits} edit{'s' * (edits != 1)})"

    @property
    def device(self) -> torch.device:
        return self.weights.device

    @property
    def weights(self) -> Tensor:
        """The parameter that holds the image projection W; for a tower without one (SigLIP), its last parameter."""
        projection = find_projection(self.model)
        return list(self.model.visual.parameters())[-1] if projection.weight is None else projection.weight

    @property
    def width(self) -> int:
        """d, the dimension of the joint space."""
        return find_projection(self.model).width

    @property
    def logit_scale(self) -> float:
        """The factor on cosines in the model's softmax (1 / temperature)."""
        return float(self.model.logit_scale.exp())

    @property
    def stored(self) -> Stored | None:
        """The file of embeddings that replaces the encoders (`clipnull.stored`); None for a model with weights."""
        return getattr(self.model, "stored", None)

    def validate_encoder(self) -> None:
        """Raise ValueError if the model is a file of embeddings."""
        if self.stored:
            raise ValueError(f"clip: {self.name} is a file of embeddings, without an encoder; expected a model")

    def knows(self, text: str) -> bool:
        """Return True if this model can embed `text`. A file of embeddings only knows the prompts of its own names."""
        tokenizer: Any = self.tokenizer
        return not self.stored or text in tokenizer.rows

    def edited(self, z: Tensor) -> Tensor:
        """Apply this model's edits to embeddings of its base, (n, d) -> (n, d)."""
        return reduce(lambda x, edit: edit.images(x), self.edits, z)

    @property
    def image_size(self) -> int:
        size = self.model.visual.image_size
        return int(size[0] if isinstance(size, Sequence) else size)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that unedited embeddings depend on, 16 hexadecimal digits. Edits do not change it.

        It covers the activation, the preprocessing and the content of all weights, but not their names. It is computed
        once: after changing weights in place, make a new Clip.
        """
        if self.base:
            return self.base.fingerprint
        weights = []
        as_open_clip = getattr(self.model, "as_open_clip", None)  # a method of models from `interop.wrap`
        for value in (as_open_clip() if as_open_clip else state(self.model)).values():
            content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            weights.append(f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(content).hexdigest()}")
        preprocessing = {key: self.model.visual.preprocess_cfg.get(key) for key in PREPROCESSING}
        summary = json.dumps([uses_quick_gelu(self.model), preprocessing, sorted(weights)], sort_keys=True)
        return hashlib.sha256(summary.encode()).hexdigest()[:16]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit embeddings of `texts`, (n, d) float32 on the CPU."""
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"texts: {texts!r} is not valid; expected a list of at least one string")

        def encode(rows: slice) -> Tensor:
            return encode_texts(self.model, self.tokenizer(list(texts[rows])), self.device).float()

        return F.normalize(torch.cat(Batch(256).through(encode, len(texts))), dim=-1).cpu()

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor, batch: int | Batch = 64) -> Tensor:
        """Return embeddings z of preprocessed pictures (n, 3, s, s), not normalised: (n, d) float32 on the CPU."""
        dtype, cuda, batch = self.weights.dtype, self.device.type == "cuda", Batch.of(batch)
        convolutional = any(isinstance(module, nn.BatchNorm2d) for module in self.model.modules())
        if channels_last := convolutional and self.device.type == "cpu":
            batch = Batch(min(batch.size, CONVOLUTION_BATCH))

        def encode(rows: slice) -> Tensor:
            part = pixels[rows].to(self.device, dtype, non_blocking=cuda)
            part = part.contiguous(memory_format=torch.channels_last) if channels_last else part
            return self.model.encode_image(part, normalize=False)

        return torch.cat(batch.through(encode, len(pixels))).float().cpu()


def uses_quick_gelu(model: nn.Module) -> bool:
    """Return True if a tower uses OpenAI's activation x * sigmoid(1.702 x), not GELU. Weights do not show it."""
    return any(type(module).__name__ in ("QuickGELU", "QuickGELUActivation") for module in model.modules())


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of `model` under the names they have without `torch.compile`."""
    return {key.replace("_orig_mod.", ""): value.detach() for key, value in model.state_dict().items()}


def load(name: str = EMBEDDED, pretrained: str | None = None, device: str | None = None) -> Clip:
    """Load a CLIP to edit: the embedded miniclip, or any architecture of open_clip with its weights.

    name: "miniclip" or a retrained one ("miniclip-no-dog"); a name from `open_clip.list_models()`; "hf-hub:org/repo" or
    "local-dir:folder" in the hub's layout; or a file of embeddings, "FILE.npz" (`clipnull.stored`).
    pretrained: for an architecture, a tag ("openai"), a checkpoint file, or "none" for random weights. A tag also sets
    preprocessing and activation. A file gets the settings of the architecture's tags if they all agree. Otherwise pass
    "TAG@FILE". device: by default CUDA if available, else the CPU.

    Raise ValueError for an unknown name or tag, for missing or damaged weights, for weights of another architecture,
    and for files that would run code (`clipnull.sources`). Raise OSError if a download fails.

    >>> import clipnull as cn
    >>> cn.load("ViT-B-23")
    Traceback (most recent call last):
    ValueError: name: 'ViT-B-23' is unknown; did you mean 'ViT-B-32' or 'ViT-S-32' or 'ViT-M-32'?
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {device!r} cannot be used ({one_line(error)}); expected e.g. 'cpu'") from error
    stored = is_stored(name)
    source = "" if stored else source_of(name)
    if pretrained is not None and (stored or ":" in source):
        raise ValueError(f"pretrained: {pretrained!r} given for {name}, which has its own weights; expected None")
    if stored:
        return _load_stored(name, device)
    tags = open_clip.list_pretrained_tags_by_model(source)
    tokenizer_settings: dict[str, Any] = {}
    if ":" not in source:
        weights, settings = weights_of(name, pretrained, tags)
    else:
        weights, settings = None, {}
        if validate_source(source):
            tokenizer_settings = {"trust_remote_code": False}  # only tokenizers of transformers accept it
    try:
        with quiet():
            required = pretrained != NO_WEIGHTS
            created: Any = open_clip.create_model_and_transforms(
                source, weights, device=device, weights_only=True, require_pretrained=required, **settings
            )
            tokenizer = open_clip.get_tokenizer(source, **tokenizer_settings)
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _failure(error, name, source, weights, pretrained in tags) from error
    model, _, preprocess = created
    if pretrained not in tags:
        for key, value in model.named_parameters():
            if not value.isfinite().all():
                raise ValueError(f"pretrained: {weights or source!r} is not finite in {key}; expected finite weights")
    if name in RETRAINED:
        model.load_state_dict(restore(model.state_dict(), load_file(retrained_file(name))))
    model.eval().requires_grad_(False)
    return Clip(model, preprocess, tokenizer, name, None if pretrained is None else str(pretrained))


def _failure(error: Exception, name: str, source: str, weights: str | None, is_tag: bool) -> Exception:
    """Return the exception to raise instead of one from open_clip."""
    reason = f"({type(error).__name__}: {one_line(error)})"
    if is_tag:
        return OSError(
            f"pretrained: {weights!r} of {name} cannot be downloaded {reason}; expected a network connection, the file "
            f"in the hub's cache (HF_HOME), or a copy of it as load({name!r}, '{weights}@FILE')"
        )
    argument = f"pretrained: {weights!r}" if weights else f"name: {source!r}"
    expected = "an open_clip configuration and weights that belong together"
    return ValueError(f"{argument} cannot be loaded as {name!r} {reason}; expected {expected}")


def source_of(name: str) -> str:
    """Return open_clip's name for the model `name`. Raise ValueError with close matches if it is unknown."""
    if name in (EMBEDDED, *RETRAINED):
        return f"local-dir:{data_folder(EMBEDDED)}"
    if isinstance(name, str) and name.startswith(("hf-hub:", "local-dir:")):
        return name
    return one_of("name", name, [EMBEDDED, *RETRAINED, *open_clip.list_models()])


def weights_of(name: str, pretrained: str | None, tags: list[str]) -> tuple[str | None, dict[str, Any]]:
    """Return the tag or file that open_clip loads for `pretrained`, and the settings that these weights need."""
    if pretrained is None:
        expected = f"{shorten(tags)}, a file, or 'none'" if tags else "a file, or 'none'"
        raise ValueError(f"pretrained: None leaves open which weights of {name}; expected {expected} (untrained)")
    if pretrained == NO_WEIGHTS:
        return None, {}
    if pretrained in tags:
        return pretrained, {"force_quick_gelu": settings_of(name, pretrained)["force_quick_gelu"]}
    tag, _, path = str(pretrained).partition("@")
    if tag not in tags:
        tag, path = "", str(pretrained)
    file = Path(path).expanduser()
    if not file.is_file():
        one_of("pretrained", path, [*tags, NO_WEIGHTS, *(str(p) for p in file.parent.glob("*") if p.is_file())])
    validate_checkpoint("pretrained", file)
    choices = [settings_of(name, tag) for tag in ([tag] if tag else tags)]
    if any(settings != choices[0] for settings in choices):
        warnings.warn(
            f"pretrained: {path!r} gets the default activation and preprocessing of {name}, but its published weights "
            f"differ in them; expected 'TAG@FILE', where TAG was trained with the same settings: {shorten(tags)}",
            stacklevel=3,
        )
        return str(file), {}
    return str(file), choices[0] if choices else {}


def settings_of(name: str, tag: str) -> dict[str, Any]:
    """Return the activation and preprocessing of a tag's training, as keyword arguments of open_clip's loader."""
    weights, architecture = open_clip.get_pretrained_cfg(name, tag), open_clip.get_model_config(name) or {}
    defaults = vars(open_clip.transform.PreprocessCfg())
    preprocessing = {f"image_{key}": weights.get(key) or defaults[key] for key in PREPROCESSING if key != "size"}
    quick_gelu = bool(weights.get("quick_gelu") or architecture.get("quick_gelu"))
    return {"force_quick_gelu": quick_gelu} | preprocessing


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence open_clip's progress messages, but not its warnings. Restore logging afterwards."""
    handlers, disabled = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "QuickGELU mismatch")  # some tags do not state their activation
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # logging adds a handler to a program without one


def retrained_file(name: str) -> Path:
    """Return the file, in a clone or the cache folder, with the weights of `name` that differ from miniclip."""
    file = Path("clean", f"{name.removeprefix(EMBEDDED + '-')}.safetensors")
    for folder in (data_folder(EMBEDDED).parent, cache_path()):
        if (folder / file).is_file():
            return folder / file
    raise FileNotFoundError(
        f"name: {name!r} (17 MB) is not part of the installed package; expected {str(cache_path() / file)!r}, "
        f"a copy of data/{file.as_posix()} from the repository"
    )


def restore(base: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `base` with its `changed` weights replaced: whole tensors, and some rows of the token embeddings."""
    table = base["token_embedding.weight"].cpu().clone()
    table[changed["rows"].long()] = changed["token_embedding.weight"].to(table.dtype)
    rest = {key: value for key, value in changed.items() if key != "rows"}
    return {**base, **rest, "token_embedding.weight": table}


def _refuse_picture(image: Image.Image) -> Tensor:
    raise ValueError(f"image: {image.size} pixels, but a file of embeddings cannot embed pictures; expected a model")


def _load_stored(name: str, device: str) -> Clip:
    stored = read_stored(name)
    stored.vectors.pop("images", None)  # only `load_images` needs them
    texts = StoredTexts(stored)
    model = StoredModel(stored, texts.table).eval().requires_grad_(False).to(device)
    clip = Clip(model, _refuse_picture, texts, stored.words.get("model", str(name)), stored.words.get("pretrained"))
    vars(clip)["fingerprint"] = stored.words.get("fingerprint", "")  # the encoder's, not a hash of this model
    return clip
