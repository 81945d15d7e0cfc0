"""Probes for forgotten classes in features: linear probes at several stages, and relearning from few pictures."""

import contextlib
import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..embedding import embed
from ..errors import import_extra
from ..files import counted
from ..images import Images
from ..models import Clip
from ..towers import find_projection, share, uncompiled
from .context import Context
from .findings import Finding, above_retrained, finding, json_number

BLOCKS = ("blocks", "stages", "layers", "resblocks")
SHOTS, DRAWS = (1, 2, 4, 8, 16), 20
PROBE, RELEARNED = 5.0, 0.05
"""Limits above the retrained model: points of accuracy for PROBE, AUC for RELEARNED."""


def projection_matrix(clip: Clip) -> tuple[Tensor, Tensor]:
    """Return W (D, d) and b (d,) of the image projection z = f(x) W + b, in float64 on the CPU.

    Without a projection (SigLIP), W is the identity. Without a bias, b is zero.
    """
    projection = find_projection(clip.model)
    weight, bias = torch.eye(projection.width), torch.zeros(projection.width)
    if projection.weight is not None:
        weight = projection.weight.detach().T if projection.transposed else projection.weight.detach()
    if projection.bias is not None:
        bias = projection.bias.detach()
    return weight.cpu().double(), bias.cpu().double()


def weight_difference(clip: Clip, after: Clip) -> Tensor:
    """Return an orthonormal basis (d, r) of the rows of W' - W above rounding error: what two weight files reveal."""
    change = projection_matrix(after)[0] - projection_matrix(clip)[0]
    values, vectors = torch.linalg.svd(change, full_matrices=False)[1:]
    return vectors[values > 1e-4 * values[0]].T


def features_before_projection(clip: Clip, images: Images) -> Tensor:
    """Compute f(x), the features before the projection, of all pictures: (n, D) float32."""
    return embed(bare_tower(clip), images)


def bare_tower(clip: Clip) -> Clip:
    """Return `clip` with the identity as W and without edits after it. It shares all other weights."""
    clip.validate_encoder()
    projection, model = find_projection(clip.model), share(clip.model)
    visual = uncompiled(model.visual)
    if hasattr(visual, "edits"):
        visual.edits = nn.Identity()
    if projection.weight is not None:
        holder, width = model.get_submodule(projection.module), projection.weight.shape[projection.transposed]
        identity = torch.eye(width, dtype=projection.weight.dtype, device=projection.weight.device)
        setattr(holder, "weight" if projection.transposed else "proj", nn.Parameter(identity, requires_grad=False))
        if projection.bias is not None:
            holder.register_parameter("bias", None)
    return replace(clip, model=model)


def blocks_of(visual: Any) -> dict[str, nn.Module]:
    """Return the blocks of an image tower by name, in order; empty if the architecture is unknown."""
    tower = uncompiled(visual)
    for path, blocks in tower.named_modules():
        name = path.rpartition(".")[2]
        if name in BLOCKS and isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks) > 1:
            return {f"{name} {i + 1} of {len(blocks)}": block for i, block in enumerate(blocks)}
    return {name: getattr(tower, name) for name in ("layer1", "layer2", "layer3", "layer4") if hasattr(tower, name)}


def stage_features(clip: Clip, images: Images) -> dict[str, Tensor]:
    """Return mean-pooled features of three evenly spaced blocks, (n, width) each, and last f(x), (n, D)."""
    bare, outputs = bare_tower(clip), defaultdict(list)
    blocks = list(blocks_of(bare.model.visual).items())

    def keep(name: str, _: nn.Module, inputs: tuple, output: Any) -> None:
        outputs[name].append(_pool(output[0] if isinstance(output, tuple) else output).float().cpu())

    with contextlib.ExitStack() as stack:
        for i in dict.fromkeys(np.linspace(0, len(blocks) - 1, 4).astype(int)[:-1]) if blocks else ():
            name, block = blocks[i]
            stack.callback(block.register_forward_hook(partial(keep, name)).remove)
        last = embed(bare, images)
    stages = {name: torch.cat(parts) for name, parts in outputs.items()}
    return {name: x for name, x in stages.items() if len(x) == len(images)} | {"before the projection": last}


def _pool(x: Tensor) -> Tensor:
    """Average over positions, (b, width, h, w) or (b, h, w, width), or over tokens, (b, tokens, width): (b, width)."""
    if x.ndim == 4:
        return x.mean((1, 2)) if x.shape[1] == x.shape[2] != x.shape[3] else x.mean((2, 3))
    return x.mean(1) if x.ndim == 3 else x


def through(clip: Clip, images: Images) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the embeddings (n, d) and the `stage_features` of one pass; stored embeddings have no stages."""
    if clip.stored:
        return embed(clip, images), {}
    stages, (weight, bias) = stage_features(clip, images), projection_matrix(clip)
    f = stages["before the projection"].double()
    return (f @ weight + bias if f.shape[1] == len(weight) else f).float(), stages


def validate_finite(features: Tensor) -> None:
    """Raise ValueError unless all `features` (n, d) are finite."""
    if bad := int((~features.isfinite().all(1)).sum()):
        raise ValueError(f"features: {bad} rows are not finite; expected pictures that are `embedding.readable`")


@dataclass(frozen=True, eq=False)
class Probe:
    """Cross-validated predictions of a classifier trained on labelled features."""

    predicted: Tensor  # (n,) int64
    accuracy: float  # balanced: the mean over labels of the share predicted correctly


def linear_probe(
    features: Tensor, labels: Tensor, seed: int = 0, folds: int = 5, groups: Sequence[str] | None = None
) -> Probe:
    """Cross-validate a logistic regression on standardised features.

    features: (n, d); labels: (n,) integers or bool, all weighted the same. groups: one per picture, such as
    `images.families`; a group is never split between training and test.
    """
    import_extra("sklearn", "course")
    from sklearn import linear_model, metrics, model_selection, pipeline, preprocessing

    validate_finite(features)
    y = labels.long().numpy()
    counts = np.unique(y, return_counts=True)[1]
    if len(y) != len(features) or (counts >= 2).sum() < 2:
        sizes = f"{len(y)} for {len(features)} pictures, {counts.tolist()} by label"
        raise ValueError(f"labels: {sizes}; expected one for each picture, and two pictures for at least two labels")
    splitter = model_selection.StratifiedKFold if groups is None else model_selection.StratifiedGroupKFold
    splits = splitter(min(folds, int(counts.max())), shuffle=True, random_state=seed)
    regression = linear_model.LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # some folds lack such a label
        predicted = model_selection.cross_val_predict(model, features.double().numpy(), y, groups=groups, cv=splits)
        accuracy = metrics.balanced_accuracy_score(y, predicted)
    return Probe(torch.from_numpy(predicted), float(accuracy))


def by_stage(context: Context) -> list[Finding]:
    """Report the accuracy of linear probes on forgotten pictures at each stage.

    Limit: PROBE points above the retrained model. An edit of the projection does not touch the stages before it.
    """
    labels, findings = context.images.classes, []
    stages = [stage for stage in context.stages["unedited"] if all(stage in x for x in context.stages.values())]
    for stage in ("after the projection", *stages):
        untouched = stage in stages

        def share(name: str, stage: str = stage, untouched: bool = untouched) -> float:
            features = context.stages[name][stage] if untouched else context.features[name]
            return context.accuracy(linear_probe(features, labels, context.seed, groups=context.families).predicted)

        shares = context.each(f"probe {stage}", share, untouched)
        findings.append(finding("probe", stage, "%", shares, above_retrained(shares, PROBE)))
    return findings


def relearning(context: Context) -> list[Finding]:
    """Report how well a few labelled pictures separate the rest of a forgotten class from others in its domains.

    A picture's score is its cosine to the mean of the labelled pictures minus its cosine to the mean of as many others.
    The AUC is averaged over DRAWS draws and the forgotten classes. Families of labelled pictures are left out.
    """
    metrics = import_extra("sklearn.metrics", "course")
    families, generator = np.array(context.families), np.random.default_rng(context.seed)
    areas: dict[str, dict[int, list[float]]] = {model: {k: [] for k in SHOTS} for model in context.features}
    units = {model: context.unit(model) for model in context.features}
    for c in context.forgotten:
        positive, negative = (where.numpy() for where in context.positives_and_negatives(c))
        for k in (k for k in SHOTS if min(positive.sum(), negative.sum()) >= k + 2):
            for _ in range(DRAWS):
                shots, contrast = (generator.choice(np.flatnonzero(x), k, replace=False) for x in (positive, negative))
                rest = (positive | negative) & ~np.isin(families, families[np.r_[shots, contrast]])
                if not positive[rest].any() or positive[rest].all():
                    continue
                for model, z in units.items():
                    w = F.normalize(z[shots].mean(0), dim=0) - F.normalize(z[contrast].mean(0), dim=0)
                    areas[model][k].append(float(metrics.roc_auc_score(positive[rest], (z[rest] @ w).numpy())))
    means = {m: {k: float(np.mean(v)) if v else math.nan for k, v in by_k.items()} for m, by_k in areas.items()}
    few = next((k for k in (4, 2, 1) if areas["edited"][k]), None)
    if few is None:
        return []
    values = {model: by_k[few] for model, by_k in means.items()}
    details = {"pictures": list(SHOTS), "AUC": {m: [*map(json_number, by_k.values())] for m, by_k in means.items()}}
    judged = above_retrained(values, RELEARNED, "above retrained")
    return [finding("relearning", f"from {counted(few, 'labelled picture')}", "AUC", values, judged, details)]
