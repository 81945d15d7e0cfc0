"""An edit at work: a layer behind the tower, the gate that says when it acts, and a model that carries edits."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .shapes import validate_shapes, validate_values
from .towers import Projection, find_projection, share, uncompiled

if TYPE_CHECKING:
    from .models import Clip

Edits = tuple[Any, ...]
"""Of `edit.Edit`, which stands on this module."""

ROWS = 8192
"""Embeddings that are edited or classified at a time: what is computed for them stays small, however many there are."""


GATE = {
    "domains": "Kd", "open": "Kr", "replaced": "K", "average": "d", "offset": "K", "spread": "dq", "forms": "Fdr",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Gate:
    """When an edit acts: a picture is classified as one of K domains, and only what is open there is taken away.

    domains: (K, d) unit rows; the largest of normalize(z) @ domains^T + offset names the domain.
    open: (K, r) bool; column j of the edit's factors acts on pictures classified as domain k.
    replaced: (K,) bool; pictures classified as such a domain all get the embedding `average` (d,), nothing else.
    offset: (K,), added to the scores: a threshold.
    spread: (d, q), optional; what reads no more than |z spread| in a picture is left alone.
    forms: (F, d, r), optional: further readings of each direction; where it acts, the largest is taken away.
    """

    domains: Tensor
    open: Tensor
    replaced: Tensor
    average: Tensor
    offset: Tensor
    spread: Tensor | None = None
    forms: Tensor | None = None

    def __post_init__(self) -> None:
        validate_shapes(GATE, vars(self), may_be_empty="rqF")
        for name in ("open", "replaced"):
            if getattr(self, name).dtype != torch.bool:
                raise ValueError(f"{name}: {getattr(self, name).dtype}; expected bool")
        validate_values(**{name: value for name, value in vars(self).items() if name not in ("open", "replaced")})
        if ((self.domains.norm(dim=1) - 1).abs() > 1e-3).any():
            raise ValueError("domains: rows that are not of length 1; expected unit rows")


class EditLayer(nn.Module):
    """An `Edit` as a module after the tower: (n, d) -> (n, d), computed in `dtype`; not part of a state dict.

    Its factors and those of its gate are buffers of the same names.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, edit: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        factors = {name: getattr(edit, name) for name in ("left", "right", "bias", "threshold")}
        gate = vars(edit.gate) if edit.gate else dict.fromkeys(GATE)
        for name, value in (factors | gate).items():
            moved = value if value is None or value.dtype == torch.bool else value.to(dtype)
            self.register_buffer(name, moved, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        wide = z.to(self.left.dtype)
        if self.threshold is None and self.domains is None:
            out = wide - wide @ self.left @ self.right.T
            return (out if self.bias is None else out + self.bias).to(z.dtype)
        read, replaced = self._read(wide, wide.norm(dim=-1))
        if self.spread is not None:
            read = read * (read > (wide @ self.spread).norm(dim=-1, keepdim=True))
        if self.forms is not None:
            read = torch.where(read > 0, torch.maximum(read, (wide @ self.forms).amax(0)), read)
        out = torch.where((read > 0).any(1)[:, None], (wide - read @ self.right.T).to(z.dtype), z)
        if replaced is None:
            return out
        replaced = replaced & (z == z).all(-1)  # NaN, the features of a broken picture, stay NaN
        return torch.where(replaced[:, None], self.average.to(z.dtype), out)

    def touched(self, z: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Which rows of z (n, d) `forward` may change, and what they become, (m,) and (m, d): of a gate or threshold.

        Most rows are left out of most of the work. m depends on z, so `forward` can be exported and this cannot.
        length: (n,), of the rows, if it is known.
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
        add_projection(model, projection.width)
        projection = find_projection(model)
    weight = projection.weight
    assert weight is not None
    if projection.bias is None and any(edit.bias is not None for edit in edits):
        zeros = nn.Parameter(weight.new_zeros(projection.width), requires_grad=weight.requires_grad)
        model.get_submodule(projection.module).bias = zeros
        projection = find_projection(model)
    rows, bias = weight.T if projection.transposed else weight, projection.bias
    wide = (rows if bias is None else torch.cat([rows, bias[None]])).double()  # (D, d), and the bias below it
    for edit in edits:
        wide = wide - (wide @ edit.left.to(wide)) @ edit.right.to(wide).T
        if edit.bias is not None:
            wide[-1] += edit.bias.to(wide)
    if not torch.isfinite(wide.to(weight.dtype)).all():
        raise ValueError(
            f"clip: with {len(edits)} edits multiplied in, its projection is beyond what {weight.dtype} holds; "
            "expected edits with smaller factors"
        )
    rows.copy_(wide[: len(rows)])
    if bias is not None:
        bias.copy_(wide[-1])


def add_projection(model: Any, width: int) -> None:
    """Give a tower without a projection an identity of that width, where open_clip has a place for one."""
    tower = uncompiled(model.visual)
    last = list(tower.parameters())[-1]
    linear = nn.Linear(width, width, bias=False, device=last.device, dtype=last.dtype)
    nn.init.eye_(linear.weight)
    head: OrderedDict[str, nn.Module] = OrderedDict(proj=linear.requires_grad_(last.requires_grad))
    tower.head = nn.Sequential(head).train(tower.training)
