"""An edit inside a model: the layer after the tower, the gate that decides when it acts, and a model with edits."""

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

Edits = tuple[Any, ...]  # of `edit.Edit`, whose module imports this one
ROWS = 8192  # embeddings to edit or classify per batch, which bounds the memory for intermediate results
GATE = dict(domains="Kd", open="Kr", replaced="K", average="d", offset="K", spread="dq", forms="Fdr")


@dataclass(frozen=True, eq=False)
class Gate:
    """A condition for an edit. It classifies a picture as one of K domains and removes only the directions open there.

    domains: (K, d) unit rows; the domain is the argmax of normalize(z) @ domains^T + offset.
    open: (K, r) bool; open[k, j] lets column j of the edit's factors act on pictures of domain k.
    replaced: (K,) bool; pictures of such a domain all get the embedding `average` (d,) and no other edit.
    offset: (K,), thresholds added to the scores.
    spread: (d, q), optional; a component of at most |z spread| is not removed.
    forms: (F, d, r), optional variants of each direction; where it acts, the largest component is removed.
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
        masks = {"open": self.open, "replaced": self.replaced}
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise ValueError(f"{name}: {mask.dtype}; expected bool")
        validate_values(**{name: value for name, value in vars(self).items() if name not in masks})
        if ((self.domains.norm(dim=1) - 1).abs() > 1e-3).any():
            raise ValueError("domains: some rows do not have length 1; expected unit rows")


class EditLayer(nn.Module):
    """An `Edit` as a module after the tower, (n, d) -> (n, d), computed in `dtype`.

    The factors of the edit and its gate become buffers of the same names. They are not part of the state dict.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, edit: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        factors = {name: getattr(edit, name) for name in ("left", "right", "bias", "threshold")}
        gate = vars(edit.gate) if edit.gate else dict.fromkeys(GATE)
        for name, value in (factors | gate).items():
            cast = value if value is None or value.dtype == torch.bool else value.to(dtype)
            self.register_buffer(name, cast, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        x = z.to(self.left.dtype)
        if self.threshold is None and self.domains is None:
            out = x - x @ self.left @ self.right.T
            return (out if self.bias is None else out + self.bias).to(z.dtype)
        components, replaced = self._components(x, x.norm(dim=-1))
        if self.spread is not None:
            components = components * (components > (x @ self.spread).norm(dim=-1, keepdim=True))
        if self.forms is not None:
            components = torch.where(components > 0, torch.maximum(components, (x @ self.forms).amax(0)), components)
        out = torch.where((components > 0).any(1)[:, None], (x - components @ self.right.T).to(z.dtype), z)
        if replaced is None:
            return out
        replaced = replaced & (z == z).all(-1)  # broken pictures keep their NaN
        return torch.where(replaced[:, None], self.average.to(z.dtype), out)

    def touched(self, z: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return indices (m,) and edited values (m, d) of the rows of z (n, d) that a gate or threshold may change.

        This saves most of the work for other rows. It cannot be exported, unlike `forward`, since m depends on z.
        length: norms of the rows (n,); by default computed here.
        """
        x = z.to(self.left.dtype)
        components, replaced = self._components(x, x.norm(dim=-1) if length is None else length.to(x.dtype))
        acts = (components > 0).any(1)
        index = (acts if replaced is None else acts | replaced).nonzero()[:, 0]
        return index, self(z.index_select(0, index))

    def _components(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return components along the directions that act, (n, r), 0 for others; and rows to replace, (n,) or None."""
        if self.threshold is not None:
            return (F.linear(x, self.left.T.contiguous()) - self.threshold * length[:, None]).relu(), None
        products = F.linear(x, torch.cat([self.left.T, self.domains]))  # one pass over the rows, not two
        components, scores = products.tensor_split([self.left.shape[1]], dim=1)
        k = (scores / length[:, None].clamp(min=1e-12) + self.offset).argmax(-1)
        return components.relu() * (self.open & ~self.replaced[:, None])[k], self.replaced[k]


def rebuild(base: Clip, edits: Edits) -> Clip:
    """Return `base` with `edits` in order: the leading linear ones in a copied projection, the rest after the tower."""
    if not edits:
        return base
    projection = find_projection(base.model)
    fits = [edit.linear and (edit.bias is None or takes_bias(projection)) for edit in edits]
    leading = [*fits, False].index(False)
    model = share(base.model, but=(projection.weight, projection.bias) if leading else ())
    if leading:
        multiply_in(model, edits[:leading])
    if leading < len(edits):
        tower = uncompiled(model.visual)
        tower.add_module("edits", nn.Sequential(*(edit.layer() for edit in edits[leading:])).to(base.device))
        tower.register_forward_hook(run_edits)
    return replace(base, model=model, edits=edits, base=base)


def takes_bias(projection: Projection) -> bool:
    """Return True if open_clip can load the projection with a bias: it has one, or its config can ask for one."""
    return projection.bias is not None or projection.module.startswith("visual.head.")


def run_edits(visual: Any, inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
    """Pass the pooled embedding of an image tower through `visual.edits`, as its forward hook."""
    if isinstance(output, tuple):  # CoCa: (pooled, tokens)
        return visual.edits(output[0]), *output[1:]
    return visual.edits(output)


@torch.no_grad()
def multiply_in(model: Any, edits: Edits) -> None:
    """Multiply linear `edits` into the projection of `model` in place, in float64. Add a projection if it has none."""
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
    matrix = (rows if bias is None else torch.cat([rows, bias[None]])).double()  # (D, d), and the bias below it
    for edit in edits:
        matrix = matrix - (matrix @ edit.left.to(matrix)) @ edit.right.to(matrix).T
        if edit.bias is not None:
            matrix[-1] += edit.bias.to(matrix)
    if not torch.isfinite(matrix.to(weight.dtype)).all():
        raise ValueError(f"clip: {len(edits)} edits overflow its projection ({weight.dtype}); expected smaller factors")
    rows.copy_(matrix[: len(rows)])
    if bias is not None:
        bias.copy_(matrix[-1])


def add_projection(model: Any, width: int) -> None:
    """Add a (width, width) identity as the projection of a tower without one, where open_clip looks for it."""
    tower = uncompiled(model.visual)
    last = list(tower.parameters())[-1]
    linear = nn.Linear(width, width, bias=False, device=last.device, dtype=last.dtype)
    nn.init.eye_(linear.weight)
    head: OrderedDict[str, nn.Module] = OrderedDict(proj=linear.requires_grad_(last.requires_grad))
    tower.head = nn.Sequential(head).train(tower.training)
