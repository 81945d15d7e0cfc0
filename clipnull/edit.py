"""An edit of a CLIP: what it does to embeddings, how it gets into a model and out again, and the file that keeps it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .errors import brief, expect_types, printable
from .files import written
from .layers import GATE, ROWS, EditLayer, Gate, rebuild
from .shapes import validate_shapes, validate_values
from .vocabulary import Forget

if TYPE_CHECKING:
    from .models import Clip  # which imports open_clip: a patch of an index needs none

Array = TypeVar("Array", Tensor, np.ndarray)

FACTORS = {"left": "dr", "right": "dr", "bias": "d", "threshold": "r"}
FORMAT, VERSION = "clipnull-edit", "2"
TEXTS = ("method", "model", "fingerprint", "after")
KEYS = {"format", "version", "request", "settings", "sha256", *TEXTS}
MAX_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit z -> z - (z left) right^T (+ bias), thin factors in place of a matrix.

    left, right: (d, r) float64; `left` reads how much of each forgotten direction is in z, `right` says what is
    subtracted for it. method, request, settings: what made it. fingerprint, model: of the unedited model it was made
    for; empty: any. bias: (d,). gate: when it acts (`layers.Gate`). threshold: (r,); a direction counts from threshold
    |z| on, and the edit is a hidden layer. after: `history` of the edits it was made after. ValueError for
    shapes that do not fit together.

    >>> import clipnull as cn, torch
    >>> u = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    >>> edit = cn.Edit(u, u, "by hand")
    >>> edit.images(torch.tensor([[3.0, 2.0, 1.0]]))
    tensor([[0., 2., 1.]])
    >>> edit.rank, edit.linear
    (1, True)
    """

    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    method: str
    request: object = None
    settings: dict = field(default_factory=dict)
    fingerprint: str = ""
    bias: Tensor | None = field(default=None, repr=False)
    gate: Gate | None = field(default=None, repr=False)
    model: str = ""
    after: str = ""
    threshold: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        gate = vars(self.gate) if self.gate else {}
        validate_shapes(FACTORS | GATE, vars(self) | gate, may_be_empty="rqF")
        validate_values(**{name: getattr(self, name) for name in FACTORS})
        if self.left.dtype != self.right.dtype:
            raise ValueError(f"right: {self.right.dtype}; expected {self.left.dtype}, as left")
        forms = [name for name in ("bias", "gate", "threshold") if getattr(self, name) is not None]
        if len(forms) > 1:
            raise ValueError(f"{', '.join(forms)}: given together; expected one of them")

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def form(self) -> str:
        """ "linear", a matrix that multiplies into the projection; "layer", one hidden layer; "module", a gate."""
        return "module" if self.gate else "layer" if self.threshold is not None else "linear"

    @property
    def linear(self) -> bool:
        """Whether it can be multiplied into the projection."""
        return self.form == "linear"

    def matrix(self) -> Tensor:
        """P = I - left right^T, so that a linear edit is z -> z P + bias: (d, d)."""
        if not self.linear:
            raise ValueError(f"edit: one of form {self.form!r} is not a single matrix; expected a linear one")
        return torch.eye(len(self.left), dtype=self.left.dtype) - self.left @ self.right.T

    def images(self, z: Array) -> Array:
        """Edited embeddings of pictures, (n, d) -> (n, d): computed in float64, cast back, not normalised.

        An edited unit row is 1 - m to 1 + m long, m = |images(z) - z|. An array of NumPy gives one of NumPy.
        """
        if isinstance(z, np.ndarray):
            return cast(Array, self.images(_tensor_of(z)).numpy())
        if z.ndim != 2 or z.shape[1] != len(self.left) or not z.is_floating_point():
            raise ValueError(f"z: {z.dtype} of shape {tuple(z.shape)}; expected floats, (n, {len(self.left)})")
        layer, edited = self.layer(torch.float64).to(z.device), torch.empty_like(z) if self.linear else z.clone()
        for first in range(0, len(z), ROWS):
            rows = slice(first, first + ROWS)
            if self.linear:
                edited[rows] = layer(z[rows])
            else:
                edited[rows].index_copy_(0, *layer.touched(z[rows]))
        return cast(Array, edited)

    def queries(self, t: Array) -> Array:
        """Edited embeddings of queries for an index that stays as it is: t -> t P^T, (n, d) or (d,), not normalised.

        <z P, t> = <z, t P^T>: each picture z scores as if `images` had edited it and nothing were normalised after.
        Raises ValueError for an edit that is more than one matrix: it depends on the picture, which a query lacks.
        """
        if isinstance(t, np.ndarray):
            return cast(Array, self.queries(_tensor_of(t)).numpy())
        if not self.linear or self.bias is not None:
            what = f"form {self.form!r}" if self.bias is None else "a bias"
            raise ValueError(f"edit: of {what}; expected a single matrix, or an index edited by `images`")
        if t.ndim not in (1, 2) or t.shape[-1] != len(self.left) or not t.is_floating_point():
            raise ValueError(f"t: {t.dtype} of shape {tuple(t.shape)}; expected floats, (n, d) or (d,), as the edit is")
        wide = t.double()
        left, right = self.left.to(wide), self.right.to(wide)
        return (wide - (wide @ right) @ left.T).to(t.dtype)

    def layer(self, dtype: torch.dtype = torch.float32) -> EditLayer:
        """The edit as a module, (n, d) -> (n, d), which computes in `dtype`."""
        return EditLayer(self, dtype)

    def apply(self, clip: Clip) -> Clip:
        """`clip` with the edit on top. The given model stays as it is; all other weights are shared with it.

        A linear edit is multiplied into a copy of the projection: W becomes W P, a bias b becomes b P + bias. An edit
        of another form, and all that follow it, run after the tower. Only the pooled embedding changes: CoCa's captions
        come from tokens before the projection. Raises ValueError as `validate_for` does.
        """
        expect_types(clip=clip)
        self.validate_for(clip)
        return rebuild(clip.base or clip, (*clip.edits, self))

    def remove(self, clip: Clip) -> Clip:
        """`clip` with its other edits, in their order. Raises ValueError if one of them was made after this one."""
        places = [i for i, edit in enumerate(clip.edits) if self.same(edit)]
        if not places:
            raise ValueError(f"clip: this edit ({self.method}) is not among its {len(clip.edits)} edits")
        others = clip.edits[: places[-1]] + clip.edits[places[-1] + 1 :]
        for i, edit in enumerate(others):
            if edit.after and edit.after != history(others[:i]):
                raise ValueError(
                    f"clip: its edit {i + 2} ({edit.method}) was made after this one; remove that one first"
                )
        return rebuild(clip.base or clip, others)

    def validate_for(self, clip: Clip) -> None:
        """Raises ValueError if the edit was made for another width, for other weights, or after other edits."""
        if len(self.left) != clip.width:
            raise ValueError(f"clip: its joint space is {clip.width} wide; expected {len(self.left)}, as in this edit")
        if self.fingerprint and not clip.fingerprint:
            warnings.warn(
                f"clip: {clip.name} does not say of which weights; the edit is for {self.model}", stacklevel=3
            )
        elif self.fingerprint and self.fingerprint != clip.fingerprint:
            raise ValueError(
                f"clip: its weights ({clip.name}, fingerprint {clip.fingerprint}) do not match; expected "
                f"those the edit was made for ({self.model or 'a model'}, {self.fingerprint})"
            )
        if self.after and self.after != history(clip.edits):
            raise ValueError(
                f"clip: it carries {len(clip.edits)} edits; expected those the edit came after ({self.after})"
            )

    def tensors(self) -> dict[str, Tensor]:
        """What acts, as it is saved: float32 and bool; `right` is left out where it equals `left`."""
        values: dict[str, Tensor | None] = {name: getattr(self, name) for name in FACTORS}
        if self.gate:
            values |= {f"gate.{name}": value for name, value in vars(self.gate).items()}
        if torch.equal(self.left, self.right):
            del values["right"]
        return {name: _plain(value) for name, value in values.items() if value is not None}

    def same(self, other: Edit) -> bool:
        """Whether both do the same to an embedding, to the precision of a file."""
        return checksum(self.tensors(), {}) == checksum(other.tensors(), {})

    def save(self, path: str | Path) -> Path:
        """Write the edit to a safetensors file, factors in float32; returns its path.

        Raises ValueError for a request or settings that `load` would refuse, and OSError if the file cannot be written.
        """
        request = self.request.as_dict() if isinstance(self.request, Forget) else self.request
        tensors = self.tensors()
        metadata = {"format": FORMAT, "version": VERSION} | {key: getattr(self, key) for key in TEXTS}
        try:
            for name, value in (("request", request), ("settings", self.settings)):
                metadata[name] = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"request, settings: {error}; expected values that JSON knows") from error
        metadata["sha256"] = checksum(tensors, metadata)
        _fields_of(metadata)
        content = _in_order(save(tensors, metadata))
        with written(path) as temporary:
            temporary.write_bytes(content)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, clip: Clip | None = None) -> Edit:
        """The edit in a file that `save` wrote; its request comes back as what `Forget.as_dict` gives.

        clip: the model it is meant for. The file may be anybody's: nothing in it is run. Raises ValueError for a file
        that is damaged, not an edit, or holds NaN, and for a `clip` of other weights.
        """
        path = Path(path)
        if path.exists() and not (path.is_file() and path.stat().st_size <= MAX_BYTES):
            raise ValueError(f"path: {str(path)!r} is not a file of at most {MAX_BYTES:,} bytes")
        content = path.read_bytes()
        try:
            tensors = load(content)
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
            fields = _fields_of(metadata)
            if metadata["sha256"] != checksum(tensors, metadata):
                raise ValueError("its checksum is not that of its content")
            if any(t.dtype == torch.bool and (t.view(torch.uint8) > 1).any() for t in tensors.values()):
                raise ValueError("truth values with other bytes than 0 and 1")
            tensors.pop("mean_text", None)  # of patches made before 2026-11-29
            parts: dict[str, Any] = {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}
            gate = {name.removeprefix("gate."): parts.pop(name) for name in tensors if name.startswith("gate.")}
            parts.setdefault("right", parts["left"])
            edit = cls(**parts, **fields, gate=Gate(**gate) if gate else None)
        except (TypeError, ValueError, KeyError, RecursionError, SafetensorError) as error:
            raise ValueError(
                f"path: {str(path)!r} holds no valid edit ({brief(str(error), 300)}); expected what Edit.save wrote"
            ) from error
        if clip:
            edit.validate_for(clip)
        return edit


def history(edits: Sequence[Edit]) -> str:
    """What names a sequence of edits: 16 hexadecimal digits of what they do, in their order; empty for none."""
    digest = hashlib.sha256()
    for edit in edits:
        digest.update(checksum(edit.tensors(), {}).encode())
    return digest.hexdigest()[:16] if edits else ""


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of `tensors`, and over `metadata` but for the checksum in it."""
    shapes = [[name, str(value.dtype), list(value.shape)] for name, value in sorted(tensors.items())]
    texts = sorted((key, value) for key, value in metadata.items() if key != "sha256")
    digest = hashlib.sha256(json.dumps([shapes, texts]).encode())
    for _, value in sorted(tensors.items()):
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: Tensor) -> Tensor:
    """As a file holds it."""
    return (value if value.dtype == torch.bool else value.float()).cpu().contiguous()


def _tensor_of(array: np.ndarray) -> Tensor:
    """The values of an array, which may be mapped from a file, be of the other byte order or run backwards."""
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header in the order of names: of one edit, the same bytes each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _fields_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the metadata of a patch say, each of its kind; ValueError for anything else."""
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION or metadata.keys() != KEYS:
        raise ValueError(f"it says {brief(dict(metadata))}; expected {FORMAT}, version {VERSION}, with {sorted(KEYS)}")
    request, settings = json.loads(metadata["request"]), json.loads(metadata["settings"])
    if request is not None:
        Forget.from_dict(request)
    if not isinstance(settings, dict) or not all(isinstance(v, str | int | float | None) for v in settings.values()):
        raise ValueError(f"settings: {brief(settings)}; expected names with numbers, texts, True or False")
    json.dumps([request, settings], allow_nan=False)  # raises ValueError where a number is not finite
    texts = {key: metadata[key] for key in TEXTS}
    for key, text in {**texts, "settings": "".join(map(str, [*settings, *settings.values()]))}.items():
        if len(text) > 4_000 or not printable(text):
            raise ValueError(f"{key}: {brief(text)}; expected printable texts of at most 4,000 characters")
    return texts | {"request": request, "settings": settings}
