"""Does it hold, and can it be undone? Fewer bits, averaged weights, fine-tuning; the patch taken back out."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..embedding import embed
from ..images import Images
from ..models import Clip
from .context import Case
from .findings import Finding, curve, finding

KEPT = 0.05
"""Limit: the share of the forgetting that may be gone after weights or embeddings were rounded."""

MOST = 200
"""Forgotten pictures that are embedded anew by each rounded model; kept ones, by each fine-tuned one."""

STEPS, BATCH, RATE = (0, 3, 10, 30, 100), 32, 1e-5
"""Of fine-tuning: after how many steps it is looked at, pictures a step, and the rate."""


def rounded(x: Tensor, kind: str) -> Tensor:
    """`x` in fewer bits and back: "float16", "bfloat16", or "int8", symmetric, with one scale for each row."""
    if kind != "int8":
        return x.to(getattr(torch, kind)).to(x.dtype)
    rows = x.flatten(1) if x.ndim > 1 else x[None]
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


def survival(case: Case) -> list[Finding]:
    """What is left of the forgetting in fewer bits, and halfway back to the unedited weights.

    Judged: the share of the forgetting, in points of accuracy on forgotten pictures, that is gone.
    """
    right = {m: case.right(case.answers(m)) for m in ("unedited", "edited")}
    lost = right["unedited"] - right["edited"]
    if lost <= 0:
        return []
    findings, edited = [], case.models["edited"]

    def add(asked: str, now: float, limit: float | None = KEPT) -> None:
        gone = (now - right["edited"]) / lost if limit else None
        both = {"unedited": right["unedited"], "edited": now}
        findings.append(finding("survival", asked, "%", both, gone, limit, "of the forgetting gone"))

    add("embeddings in int8", _right(case, rounded(case.features["edited"], "int8"), case.inside))
    if edited.encoder:
        where = case.inside & (torch.cumsum(case.inside, 0) <= MOST)
        some = case.images.where(where)
        for kind in ("float16", "bfloat16", "int8"):
            z = torch.full_like(case.features["edited"], float("nan"))
            z[where] = embed(_rounded_model(edited, kind), some)
            add(f"weights in {kind}", _right(case, z, where))
    if edited.edits and all(edit.linear for edit in edited.edits):
        mean = (case.features["unedited"] + case.features["edited"]) / 2  # linear: that of the mean of both weights
        add("the mean of edited and unedited weights", _right(case, mean, case.inside), limit=None)
    return findings


def _right(case: Case, z: Tensor, where: Tensor) -> float:
    answer = (F.normalize(z.float(), dim=-1).nan_to_num() @ case.texts["edited"].T).argmax(1)
    return case.right(answer, where)


def reversal(case: Case) -> list[Finding]:
    """What somebody can undo: with the base weights all; with the patch, edited embeddings turned back.

    A linear edit is inverted as far as it has an inverse (pseudo-inverse); another one step by step, from
    z = z' + (z - edit(z)). Told, not judged: no edit of the last layer promises anything here.
    """
    edits = case.models["edited"].edits
    if not edits:
        return []
    right = {m: case.right(case.answers(m)) for m in ("unedited", "edited")}
    z = case.features["edited"].double()
    back = z.clone()
    for edit in reversed(edits):
        back = _turned_back(edit, back)
    again = _right(case, back, case.inside)
    exact = float((reduce(lambda x, e: e.images(x), edits, back) - z).norm() / z.norm())
    return [
        finding("reversal", "with the base weights", "%", {**right, "edited": right["unedited"]}),
        finding(
            "reversal",
            "with the patch and edited embeddings",
            "%",
            {**right, "edited": again},
            details={"edited again, relative error": round(exact, 9)},
        ),
    ]


def _turned_back(edit: Any, z: Tensor, steps: int = 50) -> Tensor:
    if edit.linear:
        bias = 0 if edit.bias is None else edit.bias
        return (z - bias) @ torch.linalg.pinv(edit.matrix().double(), rtol=1e-6)
    found = z.clone()
    for _ in range(steps):
        found = z + (found - edit.images(found))
    return found if found.isfinite().all() else z


def fine_tuning(case: Case, train: Images, told: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Further contrastive training of each image tower on kept pictures only: what comes back of the forgotten?

    AdamW, rate RATE, batches of BATCH pictures of `train` outside the request, against the free prompts of all
    classes; the text tower stays. The forgotten classes stay candidates, as they would for an owner who does not know.
    The unedited and the clean model are trained on the same batches: an accuracy that rises there, too, does not come
    from what the edit left. A finding for 10 steps and one for the last; curves in their details. Told, not judged.
    """
    mask = case.request.mask(train.vocabulary)
    kept = train.where(~mask[train.classes, train.domains])
    if train.vocabulary != case.images.vocabulary or len(kept) < BATCH:
        raise ValueError(
            f"train: {len(kept)} kept pictures of {len(train.vocabulary.classes)} classes; expected at least {BATCH}, "
            "in the vocabulary of images"
        )
    curves = case.each("fine-tuning", lambda name: _fine_tuned(case, name, kept, told))
    lost = curves["unedited"]["forgotten"][0] - curves["edited"]["forgotten"][0]
    findings = []
    for i, steps in enumerate(STEPS):
        if steps in (10, STEPS[-1]):
            now = {name: own["forgotten"][i] for name, own in curves.items()}
            back = (now["edited"] - curves["edited"]["forgotten"][0]) / lost if lost > 0 else float("nan")
            details = {"steps": list(STEPS), "of what was lost": curve([back])[0]}
            details |= {f"{part}, {name}": curve(own[part]) for name, own in curves.items() for part in own}
            findings.append(
                finding("survival", f"{steps} steps of fine-tuning on kept pictures", "%", now, details=details)
            )
    return findings


def _fine_tuned(case: Case, name: str, kept: Images, told: Callable[[str], None]) -> dict[str, list[float]]:
    """Percent named right after each of STEPS, of forgotten pictures and of MOST kept ones. The model is untouched."""
    clip, found = case.models[name], {"forgotten": [], "kept": []}
    texts, model = case.texts[name].to(clip.device), copy.deepcopy(clip.model)
    model.visual.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.visual.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(case.seed)
    others = (~case.inside).nonzero()[:, 0]
    seen = case.inside.clone()
    seen[others[torch.linspace(0, len(others) - 1, min(MOST, len(others))).long()]] = True
    some = case.images.where(seen)
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            answer = torch.full_like(case.images.classes, -1)
            answer[seen] = (F.normalize(embed(replace(clip, model=model), some), dim=-1) @ case.texts[name].T).argmax(1)
            found["forgotten"].append(case.right(answer))
            found["kept"].append(case.right(answer, seen & ~case.inside))
            told(f"fine-tuning {name}, step {step}: {found['forgotten'][-1]:.0f} % of the forgotten are named right")
        if step == STEPS[-1]:
            break
        chosen = torch.randperm(len(kept), generator=generator)[:BATCH]
        pixels = torch.stack([clip.preprocess(kept.image(i)) for i in chosen.tolist()]).to(clip.device)
        with torch.enable_grad():
            z = F.normalize(model.encode_image(pixels), dim=-1)
            loss = F.cross_entropy(clip.logit_scale * z @ texts.T, kept.classes[chosen].to(clip.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return found
