"""Can it still be read from features? The features before the projection, linear probes, and relearning."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..embedding import embed
from ..errors import at_least, import_extra
from ..evaluate import wilson
from ..images import Images
from ..models import Clip
from ..towers import find_projection, share, uncompiled
from .context import Context
from .findings import Finding, above_retrained, curve, finding

CHECKED = 4
"""Pictures on which z = f(x) W + b is checked."""
SHOTS, DRAWS = (1, 2, 4, 8, 16), 20
PROBE, RELEARNED = 5.0, 0.05
"""Limits: points of accuracy and AUC above the retrained model."""


def projection_matrix(clip: Clip) -> tuple[Tensor, Tensor]:
    """W (D, d) and the bias b (d,) of the image projection, z = f(x) W + b, in float64 on the CPU.

    Where the tower has none (SigLIP), W is the identity; where it has no bias, b is zero.
    """
    projection = find_projection(clip.model)
    weight, bias = torch.eye(projection.width), torch.zeros(projection.width)
    if projection.weight is not None:
        weight = (projection.weight.T if projection.transposed else projection.weight).detach()
    if projection.bias is not None:
        bias = projection.bias.detach()
    return weight.cpu().double(), bias.cpu().double()


def weight_difference(clip: Clip, after: Clip) -> Tensor:
    """What two weight files show of the edit between them: an orthonormal basis of the rows of W' - W, (d, r).

    Directions at rounding level of float32 weights are left out; r is 0 if no weight changed.
    """
    change = projection_matrix(after)[0] - projection_matrix(clip)[0]
    values, vectors = torch.linalg.svd(change, full_matrices=False)[1:]
    return vectors[values > 1e-4 * values[0]].T


def features_before_projection(clip: Clip, images: Images) -> Tensor:
    """f(x), the features before the projection, of all pictures: (n, D) float32.

    The tower runs with the identity in the place of W and without the module of a gated edit. It shares all other
    weights with `clip`, which is untouched. Raises ValueError for a file of embeddings, which lie after the projection.
    """
    return embed(bare_tower(clip), images)


def bare_tower(clip: Clip) -> Clip:
    """`clip` with the identity in the place of W and without what an edit put after it: it gives f(x)."""
    clip.validate_encoder()
    projection = find_projection(clip.model)
    model = share(clip.model)
    visual = uncompiled(model.visual)
    if hasattr(visual, "edits"):
        visual.edits = nn.Identity()
    if projection.weight is not None:
        holder = model.get_submodule(projection.module)
        width = projection.weight.shape[1 if projection.transposed else 0]
        identity = torch.eye(width, dtype=projection.weight.dtype, device=projection.weight.device)
        setattr(holder, "weight" if projection.transposed else "proj", nn.Parameter(identity, requires_grad=False))
        if projection.bias is not None:
            holder.register_parameter("bias", None)
    return replace(clip, model=model)


def blocks_of(visual: Any) -> dict[str, nn.Module]:
    """The blocks of an image tower in their order, by the names that their libraries give them; empty if unknown."""
    tower = uncompiled(visual)
    for path in ("trunk.blocks", "trunk.stages", "trunk.layers", "trunk.encoder.layers", "transformer.resblocks"):
        try:
            blocks = tower.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks) > 1:
            return {f"{path.rpartition('.')[2]} {i + 1} of {len(blocks)}": block for i, block in enumerate(blocks)}
    return {name: getattr(tower, name) for name in ("layer1", "layer2", "layer3", "layer4") if hasattr(tower, name)}


def stage_features(clip: Clip, images: Images, most: int = 3) -> dict[str, Tensor]:
    """Features of `most` blocks, evenly spaced, means over places or tokens: (n, width) each; and f(x), (n, D).

    The last is named "before the projection". One pass through the tower.
    """
    bare = bare_tower(clip)
    blocks = blocks_of(bare.model.visual)
    chosen = np.unique(np.linspace(0, len(blocks) - 1, most + 1).astype(int)[:-1]) if blocks else []
    seen: dict[str, list[Tensor]] = {list(blocks)[i]: [] for i in chosen}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple, output: Any) -> None:
            seen[name].append(_mean_place(output[0] if isinstance(output, tuple) else output).float().cpu())

        return hook

    handles = [blocks[name].register_forward_hook(watch(name)) for name in seen]
    try:
        last = embed(bare, images)
    finally:
        for handle in handles:
            handle.remove()
    stages = {name: torch.cat(parts) for name, parts in seen.items()}
    return {name: x for name, x in stages.items() if len(x) == len(images)} | {"before the projection": last}


def _mean_place(x: Tensor) -> Tensor:
    """The mean over places, (b, width, h, w) or with the width last, or over tokens, (b, tokens, width): (b, width)."""
    if x.ndim == 4:
        return x.mean((1, 2)) if x.shape[1] == x.shape[2] and x.shape[3] != x.shape[2] else x.mean((2, 3))
    return x.mean(1) if x.ndim == 3 else x


def through(clip: Clip, images: Images) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Embeddings (n, d) as `embed` gives them, and the `stage_features` on the way, in one pass through the tower.

    z = f(x) W + b is checked against `embed` on a few pictures; where it differs, or a picture is broken, the pictures
    go through the tower again and the stages are None. They are None, too, for a file of embeddings.
    """
    if clip.stored or len(images) < 2 * CHECKED:
        return embed(clip, images), None
    stages = stage_features(clip, images)
    weight, bias = projection_matrix(clip)
    f = stages["before the projection"].double()
    z = (f @ weight + bias).float() if f.shape[1] == len(weight) else f.float()
    few = torch.arange(len(images)) < CHECKED
    expected = embed(clip, images.where(few))
    if not z.isfinite().all() or z[few].shape != expected.shape or (z[few] - expected).norm() > 1e-5 * expected.norm():
        return embed(clip, images), None
    return z, stages


def validate_finite(features: Tensor) -> None:
    """Raise ValueError with the first row of `features` (n, d) that is not finite."""
    bad = (~features.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(
            f"features: {len(bad)} rows are not finite, such as {bad[0]}; expected pictures that can be read, see "
            "`embedding.readable`"
        )


@dataclass(frozen=True, eq=False)
class Probe:
    """What a classifier trained on labelled features predicts for the pictures it was not trained on."""

    predicted: Tensor  # (n,) int64
    accuracy: float  # balanced: the mean over labels of the share named right
    chance: float  # 1 / number of labels


def linear_probe(
    features: Tensor, labels: Tensor, seed: int = 0, folds: int = 5, groups: Sequence[str] | None = None
) -> Probe:
    """Logistic regression on standardised features, cross-validated: each picture is named by one that never saw it.

    features: (n, d); labels: (n,) integers or bool; all labels weigh the same. `seed` draws the stratified `folds`.
    groups: of n pictures, such as `images.families`; no relative of a picture helps to name it.
    Raises ValueError unless at least two labels have two pictures each, and for features that are not finite, such as
    those of broken pictures (see `embedding.readable`); ImportError without scikit-learn.
    """
    linear_model, metrics, model_selection, pipeline, preprocessing = (
        import_extra(f"sklearn.{name}", "course")
        for name in ("linear_model", "metrics", "model_selection", "pipeline", "preprocessing")
    )
    validate_finite(features)
    y = labels.long().numpy()
    values, counts = np.unique(y, return_counts=True)
    at_least("folds", folds, 2)
    if len(y) != len(features) or (counts >= 2).sum() < 2:
        by_label = dict(zip(values.tolist(), counts.tolist(), strict=True))
        raise ValueError(
            f"labels: {len(y)} for {len(features)} pictures, number by label {by_label}; expected one for "
            "each picture, and two labels that have two pictures each"
        )
    splitter = model_selection.StratifiedKFold if groups is None else model_selection.StratifiedGroupKFold
    splits = splitter(min(folds, int(counts.max())), shuffle=True, random_state=seed)
    regression = linear_model.LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # it is in fewer folds
        predicted = model_selection.cross_val_predict(model, features.double().numpy(), y, groups=groups, cv=splits)
        accuracy = metrics.balanced_accuracy_score(y, predicted)
    return Probe(torch.from_numpy(predicted), float(accuracy), 1 / len(values))


def by_stage(context: Context) -> list[Finding]:
    """Linear probes, relatives kept out: percent of the forgotten pictures named right from each stage.

    Limit: PROBE points above the retrained model. An edit of the projection leaves what comes before it alone.
    """
    labels, n = context.images.classes, int(context.inside.sum())

    def probe(features: Tensor) -> tuple[float, list[float]]:
        predicted = linear_probe(features, labels, context.seed, groups=context.families).predicted
        hits = int((predicted == labels)[context.inside].sum())
        return context.right(predicted), [100 * end for end in wilson(hits, n)]

    findings = []
    for stage, features in {"after the projection": context.features, **_before_projection(context)}.items():
        untouched = features["edited"] is features["unedited"]
        probed = context.each(
            f"probe {stage}",
            lambda model, x=features, same=untouched: (math.nan, []) if same and model == "edited" else probe(x[model]),
        )
        if untouched:
            probed["edited"] = probed["unedited"]
        shares = {model: share for model, (share, _) in probed.items()}
        intervals = {model: curve(interval) for model, (_, interval) in probed.items()}
        details = {"interval": intervals, "pictures": n}
        judged = above_retrained(shares), PROBE, "points above retrained"
        findings.append(finding("probe", stage, "%", shares, *judged, details))
    return findings


def _before_projection(context: Context) -> dict[str, dict[str, Tensor]]:
    """Features of each stage and model; none for embeddings in a file."""
    if context.models["unedited"].stored:
        return {}
    stages = context.each(
        "stages", lambda name: {} if name == "edited" else stage_features(context.models[name], context.images)
    )
    stages["edited"] = stages["unedited"]
    return {stage: {model: own[stage] for model, own in stages.items()} for stage in stages["unedited"]}


def relearning(context: Context) -> list[Finding]:
    """From 1 to 16 labelled pictures: the AUC with which the forgotten pictures are told from others of their domains.

    The score is the cosine to the mean of the labelled pictures minus that to the mean of as many others, both of
    unedited length 1; the mean over DRAWS draws and the forgotten classes, relatives of labelled pictures left out.
    """
    metrics = import_extra("sklearn.metrics", "course")
    families, generator = np.array(context.families), np.random.default_rng(context.seed)
    curves: dict[str, list[list[float]]] = {model: [[] for _ in SHOTS] for model in context.features}
    units = {model: context.unit(model) for model in context.features}
    for c in context.forgotten:
        positive = (context.inside & (context.images.classes == c)).numpy()
        domains = torch.isin(context.images.domains, context.images.domains[torch.from_numpy(positive)]).numpy()
        negative = domains & (context.images.classes != c).numpy()
        for i, k in enumerate(SHOTS):
            if positive.sum() < k + 2 or negative.sum() < k + 2:
                continue
            for _ in range(DRAWS):
                shown = generator.choice(np.flatnonzero(positive), k, replace=False)
                others = generator.choice(np.flatnonzero(negative), k, replace=False)
                rest = (positive | negative) & ~np.isin(families, families[np.r_[shown, others]])
                if not positive[rest].any() or positive[rest].all():
                    continue
                for model, z in units.items():
                    w = F.normalize(z[shown].mean(0), dim=0) - F.normalize(z[others].mean(0), dim=0)
                    curves[model][i].append(float(metrics.roc_auc_score(positive[rest], (z[rest] @ w).numpy())))
    means = {model: [float(np.mean(v)) if v else float("nan") for v in c] for model, c in curves.items()}
    at = next((i for i in (2, 1, 0) if means["edited"][i] == means["edited"][i]), None)
    if at is None:
        return []
    values = {model: aucs[at] for model, aucs in means.items()}
    details = {"pictures": list(SHOTS), "AUC": {model: curve(aucs) for model, aucs in means.items()}}
    asked = f"from {SHOTS[at]} labelled picture{'s' * (SHOTS[at] > 1)}"
    judged = above_retrained(values), RELEARNED, "above retrained"
    return [finding("relearning", asked, "AUC", values, *judged, details)]
