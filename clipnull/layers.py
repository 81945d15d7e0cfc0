"""An edit at work: a layer behind the tower, the gate that says when it acts, and a model that carries edits."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .towers import Projection, find_projection, share, uncompiled

if TYPE_CHECKING:
    from .models import Clip

Edits = tuple[Any, ...]
"""Of `edit.Edit`, which stands on this module."""

LARGEST = 1e12
"""The largest value in an edit: the product of two such, times an embedding, is far from what float32 can hold."""

ROWS = 8192
"""Embeddings that are edited or classified at a time: what is computed for them stays small, however many there are."""


def is_sound(value: Tensor) -> bool:
    """Whether `value` is of real floating numbers, all finite and none beyond LARGEST."""
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return False
    return bool((value.detach().abs() <= LARGEST).all())  # NaN is not


@dataclass(frozen=True, eq=False)
class Gate:
    """When an edit acts: a picture is classified as one of K domains, and only what is open there is taken away.

    domains: (K, d) unit rows; the largest of normalize(z) @ domains^T + offset names the domain.
    open: (K, r) bool; column j of the edit's factors acts on pictures classified as domain k.
    replaced: (K,) bool; pictures classified as such a domain all get the embedding `average` (d,), nothing else.
    offset: (K,), added to the scores: a threshold.
    spread: (d, q), optional; what reads no more than |z spread| in a picture is left alone.
    """

    domains: Tensor
    open: Tensor
    replaced: Tensor
    average: Tensor
    offset: Tensor
    spread: Tensor | None = None

    def __post_init__(self) -> None:
        k, d = self.domains.shape if self.domains.ndim == 2 else (0, 0)
        shapes = {"domains": (k, d), "open": (k, self.open.numel() // max(1, k)), "replaced": (k,)}
        shapes |= {"average": (d,), "offset": (k,)}
        if self.spread is not None:
            shapes["spread"] = (d, self.spread.numel() // max(1, d))
        for name, shape in shapes.items():
            value = getattr(self, name)
            valid = value.dtype == torch.bool if name in ("open", "replaced") else is_sound(value)
            if not (k and d and valid and value.shape == shape):
                raise ValueError(
                    f"gate: {name} of shape {tuple(value.shape)}, {value.dtype}; expected finite domains "
                    "(K, d), average (d,), offset (K,), spread (d, q), and bool open (K, r), replaced (K,)"
                )
        if ((self.domains.norm(dim=1) - 1).abs() > 1e-3).any():
            raise ValueError("gate: domains with rows that are not of length 1; expected unit rows")


class EditLayer(nn.Module):
    """An `Edit` as a module after the tower: (n, d) -> (n, d), computed in `dtype`; not part of a state dict."""

    left: Tensor
    right: Tensor
    bias: Tensor | None
    domains: Tensor
    open: Tensor
    replaced: Tensor
    average: Tensor
    offset: Tensor
    spread: Tensor | None
    threshold: Tensor | None

    def __init__(self, edit: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.gated = edit.gate is not None
        values = {name: getattr(edit, name) for name in ("left", "right", "bias", "threshold")}
        for name, value in (values | (vars(edit.gate) if edit.gate else {})).items():
            moved = value if value is None or value.dtype == torch.bool else value.to(dtype)
            self.register_buffer(name, moved, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        wide = z.to(self.left.dtype)
        if self.threshold is None and not self.gated:
            out = wide - wide @ self.left @ self.right.T
            return (out if self.bias is None else out + self.bias).to(z.dtype)
        read, replaced = self._read(wide, wide.norm(dim=-1))
        if self.gated and self.spread is not None:
            read = read * (read > (wide @ self.spread).norm(dim=-1, keepdim=True))
        out = torch.where((read > 0).any(1)[:, None], (wide - read @ self.right.T).to(z.dtype), z)
        if replaced is None:
            return out
        replaced = replaced & (z == z).all(-1)  # NaN, the features of a broken picture, stay NaN
        return torch.where(replaced[:, None], self.average.to(z.dtype), out)

    def touched(self, z: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Which rows of z (n, d) `forward` may change, and what they become, (m,) and (m, d): of a gate or threshold.

        The others are left out of most of the work. How many there are depends on z, so that this cannot be exported,
        as `forward` can. length: (n,), of the rows, if it is known.
        """
        wide = z.to(self.left.dtype)
        read, replaced = self._read(wide, wide.norm(dim=-1) if length is None else length.to(wide.dtype))
        acts = (read > 0).any(1) if replaced is None else (read > 0).any(1) | replaced
        index = acts.nonzero()[:, 0]
        return index, self(z.index_select(0, index))

    def _read(self, wide: Tensor, length: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is read of each direction where it may act, (n, r), 0 elsewhere; and which rows are replaced, (n,)."""
        if self.threshold is not None:
            return (F.linear(wide, self.left.T.contiguous()) - self.threshold * length[:, None]).relu(), None
        both = F.linear(wide, torch.cat([self.left.T, self.domains]))  # the rows are passed over once, not twice
        read, scores = both.tensor_split([self.left.shape[1]], dim=1)
        k = (scores / length[:, None].clamp(min=1e-12) + self.offset).argmax(-1)
        return read.relu() * (self.open & ~self.replaced[:, None])[k], self.replaced[k]


def rebuild(base: Clip, edits: Edits) -> Clip:
    """`base` with `edits` in order: the leading linear ones in a copy of its projection, the rest after the tower."""
    if not edits:
        return base
    projection = find_projection(base.model)
    fits = [edit.linear and (edit.bias is None or takes_bias(projection)) for edit in edits]
    first = [*fits, False].index(False)
    model = share(base.model, but=(projection.weight, projection.bias) if first else ())
    if first:
        multiply_in(model, edits[:first])
    if first < len(edits):
        tower = uncompiled(model.visual)
        tower.add_module("edits", nn.Sequential(*(edit.layer() for edit in edits[first:])).to(base.device))
        tower.register_forward_hook(run_edits)
    return replace(base, model=model, edits=edits, base=base)


def takes_bias(projection: Projection) -> bool:
    """Whether open_clip can load the projection with a bias: it has one, or its config can ask for one."""
    return projection.bias is not None or projection.module.startswith("visual.head.")


def run_edits(visual: Any, inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
    """Forward hook of an image tower: its pooled embedding goes through `visual.edits`."""
    if isinstance(output, tuple):  # CoCa: (pooled, tokens)
        return visual.edits(output[0]), *output[1:]
    return visual.edits(output)


@torch.no_grad()
def multiply_in(model: Any, edits: Edits) -> None:
    """Multiply linear `edits` into the projection of `model`, in float64, in place; put one in where there is none."""
    projection = find_projection(model)
    if projection.weight is None:
        tower = uncompiled(model.visual)
        last = list(tower.parameters())[-1]
        linear = nn.Linear(projection.width, projection.width, bias=False, device=last.device, dtype=last.dtype)
        nn.init.eye_(linear.weight)
        head: OrderedDict[str, nn.Module] = OrderedDict(proj=linear.requires_grad_(last.requires_grad))
        tower.head = nn.Sequential(head).train(tower.training)
        projection = find_projection(model)
    stored = projection.weight
    assert stored is not None
    weight = stored.T if projection.transposed else stored
    if projection.bias is None and any(edit.bias is not None for edit in edits):
        zeros = nn.Parameter(torch.zeros_like(weight[0]), requires_grad=stored.requires_grad)
        model.get_submodule(projection.module).bias = zeros
        projection = find_projection(model)
    wide, bias = weight.double(), None if projection.bias is None else projection.bias.double()
    for edit in edits:
        left, right = edit.left.to(wide), edit.right.to(wide)
        wide = wide - (wide @ left) @ right.T
        if bias is not None:
            bias = bias - (bias @ left) @ right.T + (0 if edit.bias is None else edit.bias.to(wide))
    weight.copy_(wide)
    if bias is not None and projection.bias is not None:
        projection.bias.copy_(bias)
    if not (torch.isfinite(weight).all() and (projection.bias is None or torch.isfinite(projection.bias).all())):
        raise ValueError(
            f"clip: with {len(edits)} edits multiplied in, its projection is beyond what {weight.dtype} holds; "
            "expected edits with smaller factors"
        )
