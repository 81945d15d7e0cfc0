"""Edits of a CLIP: apply them to embeddings, put them into a model, remove, save and load them."""

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
    from .models import Clip  # importing models loads open_clip, which patching an index does not need

Array = TypeVar("Array", Tensor, np.ndarray)

FACTORS = {"left": "dr", "right": "dr", "bias": "d", "threshold": "r"}
FORMAT, VERSION = "clipnull-edit", "2"
TEXTS = ("method", "model", "fingerprint", "after")
KEYS = {"format", "version", "request", "settings", "sha256", *TEXTS}
MAX_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit z -> z - (z left) right^T (+ bias), stored as thin factors instead of a matrix.

    left, right: (d, r) float64; z left measures the forgotten directions in z, and `right` is subtracted in proportion.
    method, request, settings: how it was made. fingerprint, model: the unedited model it fits; empty for any model.
    bias: (d,). gate: a condition for the edit (`layers.Gate`). threshold: (r,); the edit is then a hidden layer, with
    relu(z left - threshold |z|) in place of z left. At most one of bias, gate and threshold is given.
    after: `history` of the edits before it. Shapes that do not fit together raise ValueError.

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
            raise ValueError(f"{', '.join(forms)}: given together; expected at most one of them")

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def form(self) -> str:
        """The kind of edit: "linear" (a matrix for the projection), "layer" (one hidden layer) or "module" (a gate)."""
        return "module" if self.gate else "layer" if self.threshold is not None else "linear"

    @property
    def linear(self) -> bool:
        """True if the edit can be multiplied into the projection."""
        return self.form == "linear"

    def matrix(self) -> Tensor:
        """Return P = I - left right^T, (d, d). A linear edit maps z to z P + bias."""
        if not self.linear:
            raise ValueError(f"edit: form {self.form!r} is not a single matrix; expected a linear edit")
        return torch.eye(len(self.left), dtype=self.left.dtype) - self.left @ self.right.T

    def images(self, z: Array) -> Array:
        """Edit embeddings of pictures, (n, d) -> (n, d), in float64. Type and dtype stay; nothing is normalised.

        A unit row becomes 1 - m to 1 + m long, with m = |images(z) - z|.
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
        """Edit queries for an unedited index, t -> t P^T for (n, d) or (d,), not normalised.

        <z P, t> = <z, t P^T>, so each picture z scores as if edited by `images` and not normalised afterwards.
        Raise ValueError unless the edit is a single matrix, since other edits depend on the picture.
        """
        if isinstance(t, np.ndarray):
            return cast(Array, self.queries(_tensor_of(t)).numpy())
        if not self.linear or self.bias is not None:
            reason = f"form {self.form!r}" if self.bias is None else "a bias"
            raise ValueError(f"edit: {reason} does not apply to queries; expected a single matrix, or use `images`")
        if t.ndim not in (1, 2) or t.shape[-1] != len(self.left) or not t.is_floating_point():
            raise ValueError(f"t: {t.dtype} of shape {tuple(t.shape)}; expected rows of {len(self.left)} floats")
        x = t.double()
        left, right = self.left.to(x), self.right.to(x)
        return (x - (x @ right) @ left.T).to(t.dtype)

    def layer(self, dtype: torch.dtype = torch.float32) -> EditLayer:
        """Return the edit as a module, (n, d) -> (n, d), that computes in `dtype`."""
        return EditLayer(self, dtype)

    def apply(self, clip: Clip) -> Clip:
        """Return `clip` with this edit on top. `clip` itself does not change; both share all other weights.

        A linear edit is multiplied into a copy of the projection: W becomes W P, and a bias b becomes b P + bias. Other
        edits run after the tower, as do all edits that follow them. Only the pooled embedding changes: CoCa's captions
        come from tokens before the projection. Raise ValueError as `validate_for` does.
        """
        expect_types(clip=clip)
        self.validate_for(clip)
        return rebuild(clip.base or clip, (*clip.edits, self))

    def remove(self, clip: Clip) -> Clip:
        """Return `clip` without this edit. Raise ValueError if it lacks the edit, or if another was made after it."""
        matches = [i for i, edit in enumerate(clip.edits) if self.same(edit)]
        if not matches:
            raise ValueError(f"clip: this edit ({self.method}) is not among its {len(clip.edits)} edits")
        edits = clip.edits[: matches[-1]] + clip.edits[matches[-1] + 1 :]
        for i, edit in enumerate(edits):
            if edit.after and edit.after != history(edits[:i]):
                raise ValueError(f"clip: its edit {i + 2} ({edit.method}) was made after this one; remove it first")
        return rebuild(clip.base or clip, edits)

    def validate_for(self, clip: Clip) -> None:
        """Raise ValueError if the edit was made for another width, for other weights or after other edits."""
        if len(self.left) != clip.width:
            raise ValueError(f"clip: its width is {clip.width}; expected {len(self.left)}, the width of this edit")
        if self.fingerprint and not clip.fingerprint:
            warnings.warn(
                f"clip: {clip.name} has no fingerprint of its weights; the edit is for {self.model}", stacklevel=3
            )
        elif self.fingerprint and self.fingerprint != clip.fingerprint:
            raise ValueError(
                f"clip: its weights ({clip.name}, fingerprint {clip.fingerprint}) do not match; expected "
                f"those the edit was made for ({self.model or 'a model'}, {self.fingerprint})"
            )
        if self.after and self.after != history(clip.edits):
            raise ValueError(
                f"clip: it carries {len(clip.edits)} edits; expected those this edit was made after ({self.after})"
            )

    def tensors(self) -> dict[str, Tensor]:
        """Return factors and gate as they are saved, in float32 and bool. `right` is omitted if it equals `left`."""
        values: dict[str, Tensor | None] = {name: getattr(self, name) for name in FACTORS}
        if self.gate:
            values |= {f"gate.{name}": value for name, value in vars(self.gate).items()}
        if torch.equal(self.left, self.right):
            del values["right"]
        present = {name: value for name, value in values.items() if value is not None}
        return {name: (t if t.dtype == torch.bool else t.float()).cpu().contiguous() for name, t in present.items()}

    def same(self, other: Edit) -> bool:
        """Return True if both edits act equally on embeddings, to the precision of a file."""
        return checksum(self.tensors(), {}) == checksum(other.tensors(), {})

    def save(self, path: str | Path) -> Path:
        """Save the edit as a safetensors file with factors in float32. Return its path.

        Raise ValueError for a request or settings that `load` would refuse, and OSError if the file cannot be written.
        """
        request = self.request.as_dict() if isinstance(self.request, Forget) else self.request
        tensors = self.tensors()
        metadata = {"format": FORMAT, "version": VERSION} | {key: getattr(self, key) for key in TEXTS}
        try:
            for name, value in (("request", request), ("settings", self.settings)):
                metadata[name] = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"request, settings: {error}; expected values that JSON can store") from error
        metadata["sha256"] = checksum(tensors, metadata)
        _fields_of(metadata)
        with written(path) as temporary:
            temporary.write_bytes(_in_order(save(tensors, metadata)))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, clip: Clip | None = None) -> Edit:
        """Load an edit from a file that `save` wrote. Its request becomes a dict, as returned by `Forget.as_dict`.

        clip: the model it must fit. The file may come from anyone: nothing in it is run. Raise ValueError for a file
        that is damaged, holds NaN or is not an edit, and for a `clip` with other weights.
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
                raise ValueError("its checksum does not match its content")
            if any(t.dtype == torch.bool and (t.view(torch.uint8) > 1).any() for t in tensors.values()):
                raise ValueError("its booleans hold bytes other than 0 and 1")
            tensors.pop("mean_text", None)  # stored in patches made before 2026-11-29
            parts: dict[str, Any] = {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}
            gate = {name.removeprefix("gate."): parts.pop(name) for name in tensors if name.startswith("gate.")}
            parts.setdefault("right", parts["left"])
            edit = cls(**parts, **fields, gate=Gate(**gate) if gate else None)
        except (TypeError, ValueError, KeyError, RecursionError, SafetensorError) as error:
            raise ValueError(
                f"path: {str(path)!r} is not a valid edit ({brief(str(error), 300)}); expected a file from Edit.save"
            ) from error
        if clip:
            edit.validate_for(clip)
        return edit


def history(edits: Sequence[Edit]) -> str:
    """Return 16 hexadecimal digits that identify the effect of a sequence of edits; an empty string for no edits."""
    checksums = "".join(checksum(edit.tensors(), {}) for edit in edits)
    return hashlib.sha256(checksums.encode()).hexdigest()[:16] if edits else ""


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of `tensors`, and of `metadata` without its checksum."""
    shapes = [[name, str(value.dtype), list(value.shape)] for name, value in sorted(tensors.items())]
    texts = sorted((key, value) for key, value in metadata.items() if key != "sha256")
    digest = hashlib.sha256(json.dumps([shapes, texts]).encode())
    for _, value in sorted(tensors.items()):
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensor_of(array: np.ndarray) -> Tensor:
    """Convert an array to a tensor, even if it is read-only, in the other byte order or has negative strides."""
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _in_order(content: bytes) -> bytes:
    """Sort the header of a safetensors file by name, so that one edit is always saved as the same bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _fields_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields in the metadata of a patch. Raise ValueError unless all are valid."""
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION or metadata.keys() != KEYS:
        raise ValueError(f"metadata: {brief(dict(metadata))}; expected {FORMAT} {VERSION} with keys {sorted(KEYS)}")
    request, settings = json.loads(metadata["request"]), json.loads(metadata["settings"])
    if request is not None:
        Forget.from_dict(request)
    if not isinstance(settings, dict) or not all(isinstance(v, str | int | float | None) for v in settings.values()):
        raise ValueError(f"settings: {brief(settings)}; expected a dict of numbers, texts, True, False or None")
    json.dumps([request, settings], allow_nan=False)  # raises ValueError for NaN and infinity
    texts = {key: metadata[key] for key in TEXTS}
    for key, text in {**texts, "settings": "".join(map(str, [*settings, *settings.values()]))}.items():
        if len(text) > 4_000 or not printable(text):
            raise ValueError(f"{key}: {brief(text)}; expected printable text of at most 4,000 characters")
    return texts | {"request": request, "settings": settings}
