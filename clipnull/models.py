"""A pretrained CLIP: its towers, its preprocessing and its tokenizer; and how one is loaded.

CLIP embeds a picture as z = f(x) W: a tower f with values in R^D, then a projection W in R^{D x d} into the
space it shares with texts. Every edit of clipnull acts on z, that is on W.
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
    warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which open_clip brings
    import open_clip

EMBEDDED = "miniclip"
RETRAINED = tuple(f"{EMBEDDED}-no-{what}" for what in ("dog", "house", "cartoon"))
"""miniclip trained again without a class or a domain: what forgetting is measured against."""

NO_WEIGHTS = "none"
"""In place of a tag: random weights."""

PREPARED = ("size", "mean", "std", "interpolation", "resize_mode")
"""What of open_clip's preprocessing decides about the embedding of a picture."""

IN_CACHE = 16
"""Pictures that pass a tower of convolutions at once on the CPU, channels last: twice as fast as 64 were."""

T = TypeVar("T")


@dataclass
class Batch:
    """How many rows go through a model at once; halved whenever a GPU has no memory for them.

    >>> Batch(2).through(lambda rows: rows.stop - rows.start, 5)
    [2, 2, 1]
    """

    size: int

    @staticmethod
    def of(batch: "int | Batch") -> "Batch":
        """`batch` itself, or a new one of so many rows."""
        return batch if isinstance(batch, Batch) else Batch(at_least("batch", batch, 1))

    def through(self, call: Callable[[slice], T], n: int) -> list[T]:
        """What `call` gives for the rows of each batch of n, in order; called once where n is zero."""
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
            warnings.warn(
                f"batch: the device has no memory for {size} rows at once; going on with {self.size}", stacklevel=2
            )
            torch.cuda.empty_cache()  # which the call still held while its error was there
        return parts


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP with its preprocessing and tokenizer, from `load` or `wrap`. It never changes: an edit gives a new one.

    model: in evaluation mode, without gradients. preprocess: a PIL image -> (3, s, s). tokenizer: n texts -> (n,
    length). name, pretrained: as in `load`. edits: in the order they act. base: the unedited model.

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
        return f"Clip({self.name!r}{weights}: {self.width} wide, on {self.device}, {edits} edit{'s' * (edits != 1)})"

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
    def stored(self) -> Stored | None:
        """The file of embeddings that stands in for the encoders (`clipnull.stored`); None for a model with weights."""
        return getattr(self.model, "stored", None)

    def validate_encoder(self) -> None:
        """Raises ValueError where only embeddings are stored."""
        if self.stored:
            raise ValueError(f"clip: {self.name} is a file of embeddings, without an encoder; expected a model")

    def knows(self, text: str) -> bool:
        """Whether it can embed `text`: a file of embeddings knows the prompts of its names alone."""
        tokenizer: Any = self.tokenizer
        return not self.stored or text in tokenizer.rows

    def edited(self, z: Tensor) -> Tensor:
        """What its edits make of embeddings of the unedited model, (n, d) -> (n, d)."""
        return reduce(lambda x, edit: edit.images(x), self.edits, z)

    @property
    def image_size(self) -> int:
        size = self.model.visual.image_size
        return int(size[0] if isinstance(size, Sequence) else size)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that embeddings depend on, of the unedited model if this one is edited: 16 hexadecimal digits.

        It covers every weight by its content, under any name, the activation, and how pictures are prepared. Computed
        once: after a change of weights in place, make a new Clip.
        """
        if self.base:
            return self.base.fingerprint
        weights = []
        laid_out = getattr(self.model, "as_open_clip", None)  # of `interop`
        for value in (laid_out() if laid_out else state(self.model)).values():
            content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            weights.append(f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(content).hexdigest()}")
        prepared = {key: self.model.visual.preprocess_cfg.get(key) for key in PREPARED}
        about = json.dumps([uses_quick_gelu(self.model), prepared, sorted(weights)], sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings of `texts`: (n, d) float32 on the CPU."""
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"texts: {texts!r} is not valid; expected a list of at least one string")

        def encode(rows: slice) -> Tensor:
            return encode_texts(self.model, self.tokenizer(list(texts[rows])), self.device).float()

        return F.normalize(torch.cat(Batch(256).through(encode, len(texts))), dim=-1).cpu()

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor, batch: int | Batch = 64) -> Tensor:
        """Embeddings z (not normalised) of preprocessed pictures (n, 3, s, s): (n, d) float32 on the CPU."""
        dtype, cuda, batch = self.weights.dtype, self.device.type == "cuda", Batch.of(batch)
        convolutions = any(isinstance(module, nn.BatchNorm2d) for module in self.model.modules())
        if in_cache := convolutions and self.device.type == "cpu":
            batch = Batch(min(batch.size, IN_CACHE))

        def encode(rows: slice) -> Tensor:
            part = pixels[rows].to(self.device, dtype, non_blocking=cuda)
            part = part.contiguous(memory_format=torch.channels_last) if in_cache else part
            return self.model.encode_image(part, normalize=False)

        return torch.cat(batch.through(encode, len(pixels))).float().cpu()


def uses_quick_gelu(model: nn.Module) -> bool:
    """Whether a tower has OpenAI's activation x * sigmoid(1.702 x) in place of GELU, which no weight shows."""
    return any(type(module).__name__ in ("QuickGELU", "QuickGELUActivation") for module in model.modules())


def state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of `model` under the names they have without `torch.compile`."""
    return {key.replace("_orig_mod.", ""): value.detach() for key, value in model.state_dict().items()}


def load(name: str = EMBEDDED, pretrained: str | None = None, device: str | None = None) -> Clip:
    """A CLIP to edit: the embedded miniclip, or any architecture of open_clip with its weights.

    name: "miniclip" or a retrained one ("miniclip-no-dog"); a name of `open_clip.list_models()`; "hf-hub:org/repo" or
    "local-dir:folder" in the layout of the hub; or a file of embeddings, "FILE.npz" (`clipnull.stored`).
    pretrained: for an architecture, a tag ("openai"), a checkpoint file, or "none": untrained weights, to try the
    machinery. A tag decides about preprocessing and activation. So does the architecture of a file, if all its tags
    agree; else say "TAG@FILE". device: by default CUDA where there is one.

    Raises ValueError for an unknown name or tag, for weights that are missing, damaged or of another architecture, and
    for files that would run code (`clipnull.sources`). Raises OSError if a download fails.

    >>> import clipnull as cn
    >>> cn.load("ViT-B-23")
    Traceback (most recent call last):
    ValueError: name: 'ViT-B-23' is unknown; did you mean 'ViT-B-32' or 'ViT-S-32' or 'ViT-M-32'?
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {device!r} cannot be used ({one_line(error)}); expected such as 'cpu'") from error
    stored = is_stored(name)
    source = "" if stored else source_of(name)
    if pretrained is not None and (stored or ":" in source):
        raise ValueError(f"pretrained: {pretrained!r} given for {name}, which brings its own; expected None")
    if stored:
        return _load_stored(name, device)
    words: dict[str, Any] = {}
    required = pretrained != NO_WEIGHTS
    tags = open_clip.list_pretrained_tags_by_model(source)
    if ":" in source:
        weights, settings = None, {}
        if validate_source(source):
            words = {"trust_remote_code": False}  # for the tokenizer, where it is one of transformers
    else:
        weights, settings = weights_of(name, pretrained, tags)
    try:
        with quiet():
            created: Any = open_clip.create_model_and_transforms(
                source, weights, device=device, weights_only=True, require_pretrained=required, **settings
            )
            tokenizer = open_clip.get_tokenizer(source, **words)
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _failure(error, name, source, weights, pretrained in tags) from error
    model, _, preprocess = created
    if pretrained not in tags:
        for key, value in model.named_parameters():
            if not value.isfinite().all():
                raise ValueError(f"pretrained: {weights or source!r} holds NaN or infinity in {key}; expected numbers")
    if name in RETRAINED:
        model.load_state_dict(restore(model.state_dict(), load_file(retrained_file(name))))
    model.eval().requires_grad_(False)
    return Clip(model, preprocess, tokenizer, name, None if pretrained is None else str(pretrained))


def _failure(error: Exception, name: str, source: str, weights: str | None, is_tag: bool) -> Exception:
    """What to raise in place of an error of open_clip."""
    reason = f"({type(error).__name__}: {one_line(error)})"
    if is_tag:
        return OSError(
            f"pretrained: {weights!r} of {name} cannot be downloaded {reason}; expected a network, or the file, in the "
            f"cache of the hub (HF_HOME) or from another machine: load({name!r}, '{weights}@FILE')"
        )
    place = f"pretrained: {weights!r}" if weights else f"name: {source!r}"
    expected = "a configuration and weights of open_clip that belong together"
    return ValueError(f"{place} cannot be loaded as {name!r} {reason}; expected {expected}")


def source_of(name: str) -> str:
    """What open_clip calls the model `name`; ValueError with near matches for an unknown one."""
    if name in (EMBEDDED, *RETRAINED):
        return f"local-dir:{data_folder(EMBEDDED)}"
    if isinstance(name, str) and name.startswith(("hf-hub:", "local-dir:")):
        return name
    return one_of("name", name, [EMBEDDED, *RETRAINED, *open_clip.list_models()])


def weights_of(name: str, pretrained: str | None, tags: list[str]) -> tuple[str | None, dict[str, Any]]:
    """What open_clip loads for `pretrained`, one of its `tags` or a file, and the settings that the weights need."""
    if pretrained is None:
        expected = f"{shorten(tags)}, a file, or 'none'" if tags else "a file, or 'none'"
        raise ValueError(f"pretrained: which weights of {name}? expected {expected} for an untrained model")
    if pretrained == NO_WEIGHTS:
        return None, {}
    if pretrained in tags:
        return pretrained, {"force_quick_gelu": settings_of(name, pretrained)["force_quick_gelu"]}
    tag, _, place = str(pretrained).partition("@")
    if tag not in tags:
        tag, place = "", str(pretrained)
    file = Path(place).expanduser()
    if not file.is_file():
        one_of("pretrained", place, [*tags, NO_WEIGHTS, *(str(p) for p in file.parent.glob("*") if p.is_file())])
    validate_checkpoint("pretrained", file)
    choices = [settings_of(name, tag) for tag in ([tag] if tag else tags)]
    if any(settings != choices[0] for settings in choices):
        warnings.warn(
            f"pretrained: {place!r} gets activation and preprocessing of the architecture, and published weights of "
            f"{name} differ in them; expected 'TAG@FILE', TAG the one it was trained as: {shorten(tags)}",
            stacklevel=3,
        )
        return str(file), {}
    return str(file), choices[0] if choices else {}


def settings_of(name: str, tag: str) -> dict[str, Any]:
    """The activation and preprocessing that weights of a tag were trained with, as open_clip's loader takes them."""
    published, built = open_clip.get_pretrained_cfg(name, tag), open_clip.get_model_config(name) or {}
    defaults = vars(open_clip.transform.PreprocessCfg())
    prepared = {f"image_{key}": published.get(key) or defaults[key] for key in PREPARED if key != "size"}
    quick_gelu = bool(published.get("quick_gelu") or built.get("quick_gelu"))
    return {"force_quick_gelu": quick_gelu} | prepared


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without open_clip's account of its steps: its warnings are heard, and logging is as it was afterwards."""
    handlers, disabled = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "QuickGELU mismatch")  # of tags that do not mention it
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # logging adds one where a program has none


def retrained_file(name: str) -> Path:
    """The file of the retrained model `name`, its difference to miniclip: in a clone, or in the cache folder."""
    place = Path("clean", f"{name.removeprefix(EMBEDDED + '-')}.safetensors")
    for folder in (data_folder(EMBEDDED).parent, cache_path()):
        if (folder / place).is_file():
            return folder / place
    raise FileNotFoundError(
        f"name: {name!r} is not in the installed package (17 MB); expected {str(cache_path() / place)!r}, a copy of "
        f"data/{place.as_posix()} of the repository"
    )


def restore(base: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights of the model whose difference to `base` is `changed`: whole tensors, and some rows of tokens."""
    table = base["token_embedding.weight"].cpu().clone()
    table[changed["rows"].long()] = changed["token_embedding.weight"].to(table.dtype)
    rest = {key: value for key, value in changed.items() if key != "rows"}
    return {**base, **rest, "token_embedding.weight": table}


def _no_pictures(image: Image.Image) -> Tensor:
    raise ValueError(f"image: {image.size} pixels; expected none, since only embeddings are stored")


def _load_stored(name: str, device: str) -> Clip:
    stored = read_stored(name)
    stored.vectors.pop("images", None)  # which `load_images` hands out
    texts = StoredTexts(stored)
    model = StoredModel(stored, texts.table).eval().requires_grad_(False).to(device)
    clip = Clip(model, _no_pictures, texts, stored.words.get("model", str(name)), stored.words.get("pretrained"))
    vars(clip)["fingerprint"] = stored.words.get("fingerprint", "")  # of the encoder, which is not here
    return clip
