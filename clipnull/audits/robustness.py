"""Robustness of forgetting: to fewer bits, averaged weights, fine-tuning, and attempts to undo the patch."""

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
from .findings import Finding, finding, json_number

GONE = 0.05
"""Limit: the share of the forgetting that rounding may undo."""

MAX_PICTURES = 200
"""Maximum number of forgotten pictures to embed with a rounded model, and of kept ones with a fine-tuned model."""

STEPS, BATCH, RATE = (0, 3, 10, 30, 100), 32, 1e-5
"""For fine-tuning: the steps to evaluate at, the batch size, and the learning rate."""


def rounded(x: Tensor, kind: str) -> Tensor:
    """Round `x` to "float16", "bfloat16", or symmetric "int8" with one scale per row, and convert it back."""
    if kind != "int8":
        return x.to(getattr(torch, kind)).to(x.dtype)
    rows = x.flatten(1)
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return ((rows / scale).round() * scale).view_as(x).to(x.dtype)


def _rounded_model(clip: Clip, kind: str) -> Clip:
    """Return `clip` with a rounded image tower; int8 leaves vectors, such as biases, as they are."""
    model = copy.deepcopy(clip.model)
    with torch.no_grad():
        for value in [*model.visual.parameters(), *model.visual.buffers()]:
            if value.is_floating_point() and (kind != "int8" or value.ndim > 1) and value.numel():
                value.copy_(rounded(value.data, kind))
    return replace(clip, model=model)


def survival(context: Context) -> list[Finding]:
    """Report the accuracy on forgotten pictures after rounding, and for the mean of edited and unedited weights.

    Judged: the share of the lost accuracy that rounding restores.
    """
    usual = {m: context.usual[m] for m in ("unedited", "edited")}
    lost = usual["unedited"] - usual["edited"]
    if lost <= 0:
        return []
    edited, features = context.models["edited"], context.features
    shares = {"embeddings in int8": _accuracy(context, rounded(features["edited"], "int8"))}
    if not edited.stored:
        where = context.inside & (context.inside.cumsum(0) <= MAX_PICTURES)
        for kind in ("float16", "bfloat16", "int8"):
            z = torch.full_like(features["edited"], torch.nan)
            z[where] = embed(_rounded_model(edited, kind), context.images.where(where))
            shares[f"weights in {kind}"] = _accuracy(context, z, where)
    findings = []
    for asked, share in shares.items():
        judged = (share - usual["edited"]) / lost, GONE, "of the forgetting gone"
        findings.append(finding("survival", asked, "%", usual | {"edited": share}, judged))
    if edited.edits and all(edit.linear for edit in edited.edits):
        mean = (features["unedited"] + features["edited"]) / 2  # what the mean of both weights would compute
        shares = usual | {"edited": _accuracy(context, mean)}
        findings.append(finding("survival", "the mean of edited and unedited weights", "%", shares))
    return findings


def _accuracy(context: Context, z: Tensor, where: Tensor | None = None) -> float:
    return context.accuracy(context.answers("edited", features=z.float()), where)


def reversal(context: Context) -> list[Finding]:
    """Report the accuracy that returns with the base weights, and with the patch, by inverting the edit.

    Not judged, since an edit of the last layer cannot prevent either.
    """
    edits = context.models["edited"].edits
    if not edits:
        return []
    usual = {m: context.usual[m] for m in ("unedited", "edited")}
    back = reduce(_turned_back, reversed(edits), context.features["edited"].double())
    return [
        finding("reversal", "with the base weights", "%", usual | {"edited": usual["unedited"]}),
        finding("reversal", "with the patch and edited embeddings", "%", usual | {"edited": _accuracy(context, back)}),
    ]


def _turned_back(z: Tensor, edit: Edit, steps: int = 50) -> Tensor:
    """Invert a linear edit by its pseudo-inverse, others by iterating x = z + (x - edit(x))."""
    if edit.linear:
        bias = 0 if edit.bias is None else edit.bias
        return (z - bias) @ torch.linalg.pinv(edit.matrix().double(), rtol=1e-6)
    back = z.clone()
    for _ in range(steps):
        back = z + (back - edit.images(back))
    return back if back.isfinite().all() else z


def fine_tuning(context: Context, train: Images) -> list[Finding]:
    """Fine-tune each image tower on kept pictures only and report how the accuracy on the forgotten ones recovers.

    The text tower is frozen. The forgotten classes stay candidates, as for an owner unaware of the edit. All models see
    the same batches. A rise that the retrained model shows as well does not come from the edit. Not judged.
    """
    kept = train.where(~context.request.mask(train.vocabulary)[train.classes, train.domains])
    if train.vocabulary != context.images.vocabulary or len(kept) < BATCH:
        counts = f"{len(kept)} kept pictures of {len(train.vocabulary.classes)} classes"
        raise ValueError(f"train: {counts}; expected at least {BATCH}, with the vocabulary of images")
    curves = context.each("fine-tuning", lambda name: _fine_tuned(context, name, kept))
    first = curves["edited"]["forgotten"][0]
    lost = curves["unedited"]["forgotten"][0] - first
    all_curves = {f"{part}, {m}": [*map(json_number, y)] for m, parts in curves.items() for part, y in parts.items()}
    findings = []
    for steps in sorted({10, STEPS[-1]} & {*STEPS}):
        shares = {name: parts["forgotten"][STEPS.index(steps)] for name, parts in curves.items()}
        back = json_number((shares["edited"] - first) / lost) if lost > 0 else None
        details = {"steps": list(STEPS), "of what was lost": back} | all_curves
        asked = f"{steps} steps of fine-tuning on kept pictures"
        findings.append(finding("survival", asked, "%", shares, details=details))
    return findings


def _fine_tuned(context: Context, name: str, kept: Images) -> dict[str, list[float]]:
    """Return the accuracy on forgotten and on some kept pictures at each of STEPS, from a copy of the model."""
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
            curves["forgotten"].append(context.accuracy(answers))
            curves["kept"].append(context.accuracy(answers, measured & ~context.inside))
        if step == STEPS[-1]:
            break
        batch = torch.randperm(len(kept), generator=generator)[:BATCH]
        pixels = torch.stack([clip.preprocess(kept.image(i)) for i in batch.tolist()]).to(device)
        with torch.enable_grad():
            scores = F.normalize(model.encode_image(pixels), dim=-1) @ texts.T.to(device)
            optimizer.zero_grad()
            F.cross_entropy(clip.logit_scale * scores, kept.classes[batch].to(device)).backward()
            optimizer.step()
    return curves
