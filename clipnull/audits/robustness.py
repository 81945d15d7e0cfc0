"""Does it hold, and can it be undone? Fewer bits, averaged weights, fine-tuning; the patch taken back out."""

import copy
from dataclasses import replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..embedding import embed
from ..images import Images
from ..models import Clip
from .context import Context
from .findings import Finding, figure, finding

GONE = 0.05
"""Limit: the share of the forgetting that may be gone after weights or embeddings were rounded."""

MAX_PICTURES = 200
"""Forgotten pictures that are embedded anew by each rounded model; kept ones, by each fine-tuned one."""

STEPS, BATCH, RATE = (0, 3, 10, 30, 100), 32, 1e-5
"""Of fine-tuning: the steps after which we measure, pictures a step, and the rate."""


def rounded(x: Tensor, kind: str) -> Tensor:
    """`x` in fewer bits and back: "float16", "bfloat16", or "int8", symmetric, with one scale for each row."""
    if kind != "int8":
        return x.to(getattr(torch, kind)).to(x.dtype)
    rows = x.flatten(1)
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return ((rows / scale).round() * scale).view_as(x).to(x.dtype)


def _rounded_model(clip: Clip, kind: str) -> Clip:
    """`clip` with the weights of its image tower in fewer bits; int8 leaves vectors, such as biases, in float32."""
    model = copy.deepcopy(clip.model)
    with torch.no_grad():
        for value in [*model.visual.parameters(), *model.visual.buffers()]:
            if value.is_floating_point() and (kind != "int8" or value.ndim > 1) and value.numel():
                value.copy_(rounded(value.data, kind))
    return replace(clip, model=model)


def survival(context: Context) -> list[Finding]:
    """What is left of the forgetting in fewer bits, and halfway back to the unedited weights.

    Judged: the share of the forgetting, in points of accuracy on forgotten pictures, that is gone.
    """
    right = {m: context.usual[m] for m in ("unedited", "edited")}
    lost = right["unedited"] - right["edited"]
    if lost <= 0:
        return []
    edited, features = context.models["edited"], context.features
    shares = {"embeddings in int8": _right(context, rounded(features["edited"], "int8"))}
    if not edited.stored:
        where = context.inside & (context.inside.cumsum(0) <= MAX_PICTURES)
        for kind in ("float16", "bfloat16", "int8"):
            z = torch.full_like(features["edited"], torch.nan)
            z[where] = embed(_rounded_model(edited, kind), context.images.where(where))
            shares[f"weights in {kind}"] = _right(context, z, where)
    findings = []
    for asked, share in shares.items():
        judged = (share - right["edited"]) / lost, GONE, "of the forgetting gone"
        findings.append(finding("survival", asked, "%", right | {"edited": share}, judged))
    if edited.edits and all(edit.linear for edit in edited.edits):  # then that of the mean of both weights
        halfway = {"edited": _right(context, (features["unedited"] + features["edited"]) / 2)}
        findings.append(finding("survival", "the mean of edited and unedited weights", "%", right | halfway))
    return findings


def _right(context: Context, z: Tensor, where: Tensor | None = None) -> float:
    return context.right(context.answers("edited", features=z.float()), where)


def reversal(context: Context) -> list[Finding]:
    """What somebody can undo: with the base weights all; with the patch, edited embeddings turned back.

    Not judged: no edit of the last layer promises anything here.
    """
    edits = context.models["edited"].edits
    if not edits:
        return []
    right = {m: context.usual[m] for m in ("unedited", "edited")}
    back = reduce(_turned_back, reversed(edits), context.features["edited"].double())
    return [
        finding("reversal", "with the base weights", "%", right | {"edited": right["unedited"]}),
        finding("reversal", "with the patch and edited embeddings", "%", right | {"edited": _right(context, back)}),
    ]


def _turned_back(z: Tensor, edit: Edit, steps: int = 50) -> Tensor:
    """A linear edit by its pseudo-inverse; another one step by step, from z = z' + (z - edit(z))."""
    if edit.linear:
        bias = 0 if edit.bias is None else edit.bias
        return (z - bias) @ torch.linalg.pinv(edit.matrix().double(), rtol=1e-6)
    back = z.clone()
    for _ in range(steps):
        back = z + (back - edit.images(back))
    return back if back.isfinite().all() else z


def fine_tuning(context: Context, train: Images) -> list[Finding]:
    """Further contrastive training of each image tower on kept pictures only: what comes back of the forgotten?

    The text tower stays; the forgotten classes stay candidates, as for an owner who does not know. All models see the
    same batches: an accuracy that rises in the retrained one, too, does not come from what the edit left. Not judged.
    """
    kept = train.where(~context.request.mask(train.vocabulary)[train.classes, train.domains])
    if train.vocabulary != context.images.vocabulary or len(kept) < BATCH:
        raise ValueError(
            f"train: {len(kept)} kept pictures of {len(train.vocabulary.classes)} classes; expected at least {BATCH}, "
            "in the vocabulary of images"
        )
    curves = context.each("fine-tuning", lambda name: _fine_tuned(context, name, kept))
    first = curves["edited"]["forgotten"][0]
    lost = curves["unedited"]["forgotten"][0] - first
    all_curves = {f"{part}, {m}": [*map(figure, y)] for m, parts in curves.items() for part, y in parts.items()}
    findings = []
    for steps in sorted({10, STEPS[-1]} & {*STEPS}):
        shares = {name: parts["forgotten"][STEPS.index(steps)] for name, parts in curves.items()}
        back = figure((shares["edited"] - first) / lost) if lost > 0 else None
        details = {"steps": list(STEPS), "of what was lost": back} | all_curves
        findings.append(
            finding("survival", f"{steps} steps of fine-tuning on kept pictures", "%", shares, details=details)
        )
    return findings


def _fine_tuned(context: Context, name: str, kept: Images) -> dict[str, list[float]]:
    """Percent named right after each of STEPS, of forgotten and of some kept pictures. The model is untouched."""
    clip, texts, curves = context.models[name], context.texts[name], {"forgotten": [], "kept": []}
    model, device = copy.deepcopy(clip.model), clip.device
    optimizer = torch.optim.AdamW(model.visual.requires_grad_(True).parameters(), lr=RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(context.seed)
    others = (~context.inside).nonzero()[:, 0]
    measured, z = context.inside.clone(), torch.full_like(context.features[name], torch.nan)
    measured[others[torch.linspace(0, len(others) - 1, min(MAX_PICTURES, len(others))).long()]] = True
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            z[measured] = embed(replace(clip, model=model), context.images.where(measured))
            answers = context.answers(name, features=z)
            curves["forgotten"].append(context.right(answers))
            curves["kept"].append(context.right(answers, measured & ~context.inside))
        if step == STEPS[-1]:
            break
        chosen = torch.randperm(len(kept), generator=generator)[:BATCH]
        pixels = torch.stack([clip.preprocess(kept.image(i)) for i in chosen.tolist()]).to(device)
        with torch.enable_grad():
            scores = F.normalize(model.encode_image(pixels), dim=-1) @ texts.T.to(device)
            optimizer.zero_grad()
            F.cross_entropy(clip.logit_scale * scores, kept.classes[chosen].to(device)).backward()
            optimizer.step()
    return curves
