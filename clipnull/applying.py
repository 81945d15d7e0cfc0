"""Edits in a model: multiplied into the projection where a matrix can hold them, after the tower otherwise."""

import copy
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .models import Clip, Projection, find_projection, uncompiled
from .projections import find_text_projection

if TYPE_CHECKING:
    from .edit import Edit


def rebuild(base: Clip, edits: "tuple[Edit, ...]") -> Clip:
    """`base` with `edits` in order: the leading linear ones in a copy of its projection, the rest after the tower."""
    if not edits:
        return base
    own = find_projection(base.model)
    fits = [edit.linear and (edit.bias is None or takes_bias(own)) for edit in edits]
    first = [*fits, False].index(False)
    mine = {id(own.weight), id(own.bias)} if first else set()
    shared = {id(t): t for t in [*base.model.parameters(), *base.model.buffers()] if id(t) not in mine}
    model = copy.deepcopy(base.model, shared)  # the memo makes deepcopy keep what it maps
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
def multiply_in(model: Any, edits: "tuple[Edit, ...]") -> None:
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


@torch.no_grad()
def on_texts(clip: Clip) -> Clip:
    """`clip` with its edits in the text tower in place of the image tower, as a model of its own, without `edits`.

    The text projection W_t becomes W_t P^T, and a bias b_t becomes b_t P^T: what `Edit.queries` does to an embedding.
    Inner products are those of the edited image tower. Cosines are not, and stock code of both libraries takes cosines:
    with |z| = |t| = 1, that of the edited text is |z P| / |t P^T| times that of the edited picture.

    - One text, many pictures (a search): |t P^T| is the same for all, and |z P| is near one: .97 to 1.02 there (see
      below). The order of pictures hardly changes.
    - One picture, many texts (zero-shot): what is left of a forgotten text is scaled up to length one again, and the
      text is named again. On OpenAI's ViT-B/32 and 16 classes, mean over all global requests, `nullspace` forgets .49
      this way in place of 1.00, `ridge` .40 of .98, `oblique` .82 of 1.00. Who divides texts by their former length,
      or by none, gets 1.00, .98 and 1.00 again.

    Raises ValueError for edits that texts cannot carry (`Edit.queries`), and for a text tower without a projection.
    """
    base = clip.base or clip
    own = find_text_projection(base.model)
    mine = {id(own.weight), id(own.bias)}
    shared = {id(t): t for t in [*base.model.parameters(), *base.model.buffers()] if id(t) not in mine}
    model = copy.deepcopy(base.model, shared)  # the memo makes deepcopy keep what it maps
    found = find_text_projection(model)
    assert found.weight is not None
    weight = found.weight.T if found.transposed else found.weight
    for value in (weight, found.bias):
        if value is not None:
            wide = value.double()
            for edit in reversed(clip.edits):  # <z P1 P2, t> = <z, t P2^T P1^T>
                wide = edit.queries(wide)
            value.copy_(wide)
    return replace(base, model=model)
