"""What remains in an edited model: features before the projection, probes, other words, neighbours, weights."""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..embedding import embed
from ..errors import at_least, import_extra, one_of
from ..evaluate import wilson
from ..images import Images
from ..models import Clip
from ..towers import find_projection, uncompiled
from ..vocabulary import format_prompt
from .context import Case
from .findings import Finding, above_clean, curve, finding


def projection_matrix(clip: Clip) -> tuple[Tensor, Tensor]:
    """W (D, d) and the bias b (d,) of the image projection, z = f(x) W + b, in float64 on the CPU.

    Where the tower has none (SigLIP), W is the identity; where it has no bias, b is zero.
    """
    found = find_projection(clip.model)
    weight, bias = torch.eye(found.width), torch.zeros(found.width)
    if found.weight is not None:
        weight = (found.weight.T if found.transposed else found.weight).detach()
    if found.bias is not None:
        bias = found.bias.detach()
    return weight.cpu().double(), bias.cpu().double()


def features_before_projection(clip: Clip, images: Images) -> Tensor:
    """f(x), the features before the projection, of all pictures: (n, D) float32.

    The tower runs as it is, but with the identity in the place of W and without what a gated edit put after it. It
    shares all other weights with `clip`, which is untouched. Raises ValueError for a file of embeddings, which are
    those after the projection.
    """
    return embed(bare_tower(clip), images)


def bare_tower(clip: Clip) -> Clip:
    """`clip` with the identity in the place of W and without what an edit put after it: it gives f(x)."""
    clip.validate_encoder()
    found = find_projection(clip.model)
    shared = {id(t): t for t in [*clip.model.parameters(), *clip.model.buffers()]}
    model = copy.deepcopy(clip.model, shared)  # the memo makes deepcopy keep what it maps
    visual = uncompiled(model.visual)
    if hasattr(visual, "edits"):
        visual.edits = nn.Identity()
    if found.weight is not None:
        holder, width = model.get_submodule(found.module), found.weight.shape[1 if found.transposed else 0]
        identity = torch.eye(width, dtype=found.weight.dtype, device=found.weight.device)
        setattr(holder, "weight" if found.transposed else "proj", nn.Parameter(identity, requires_grad=False))
        if found.bias is not None:
            holder.register_parameter("bias", None)
    return replace(clip, model=model)


def finite(features: Tensor) -> None:
    """Raises ValueError with the first row of `features` (n, d) that is not finite."""
    bad = (~features.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(
            f"features: {len(bad)} rows are not finite, such as {bad[0]}; expected pictures that can be read, see "
            "`evaluate.readable`"
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
    groups: of n pictures, such as `bootstrap.families`; one never saw a relative of the picture either.
    Raises ValueError unless at least two labels have two pictures each, and for features that are not finite, such as
    those of broken pictures (see `evaluate.readable`); ImportError without scikit-learn.
    """
    linear_model, metrics, model_selection, pipeline, preprocessing = (
        import_extra(f"sklearn.{name}", "course")
        for name in ("linear_model", "metrics", "model_selection", "pipeline", "preprocessing")
    )
    finite(features)
    y = labels.long().numpy()
    values, counts = np.unique(y, return_counts=True)
    at_least("folds", folds, 2)
    if len(y) != len(features) or (counts >= 2).sum() < 2:
        told = dict(zip(values.tolist(), counts.tolist(), strict=True))
        raise ValueError(
            f"labels: {len(y)} for {len(features)} pictures, number by label {told}; expected one for "
            "each picture, and two labels that have two pictures each"
        )
    of = model_selection.StratifiedKFold if groups is None else model_selection.StratifiedGroupKFold
    splits = of(min(folds, int(counts.max())), shuffle=True, random_state=seed)
    regression = linear_model.LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # it is in fewer folds
        predicted = model_selection.cross_val_predict(model, features.double().numpy(), y, groups=groups, cv=splits)
        accuracy = metrics.balanced_accuracy_score(y, predicted)
    return Probe(torch.from_numpy(predicted), float(accuracy), 1 / len(values))


def paraphrases(
    clip: Clip, classes: Sequence[str], template: str = "{a}", synonyms: Mapping[str, str] | None = None
) -> Tensor:
    """A text classifier in other words: unit rows, (C, d).

    template: as in `prompts.TEMPLATES`: {a} is the class with its article, {n} without. synonyms: what to call a class
    in place of its name, {"dog": "hound"}; all others keep theirs.
    """
    words = {one_of("synonyms", name, classes): word for name, word in (synonyms or {}).items()}
    return clip.embed_texts([format_prompt(template, words.get(c, c)) for c in classes])


def retrieval_precision(features: Tensor, labels: Tensor, k: int = 5, where: Tensor | None = None) -> Tensor:
    """The share of pictures of the same label among the k nearest others by cosine, for each picture: (n,) float64.

    where: (n,) bool, only for these m pictures, among all others: (m,).

    Others at equal distance share the last places, so that embeddings which are all alike score chance. Raises
    ValueError for features that are not finite, such as those of broken pictures (see `evaluate.readable`).
    """
    finite(features)
    if at_least("k", k, 1) >= len(features):
        raise ValueError(f"k: {k} neighbours of {len(features)} pictures; expected fewer than there are others")
    if where is not None and (where.shape != (len(features),) or where.dtype != torch.bool):
        raise ValueError(f"where: {tuple(where.shape)} {where.dtype}; expected bool ({len(features)},)")
    z, precision = F.normalize(features.double(), dim=-1), []
    chosen = torch.arange(len(z)) if where is None else where.nonzero()[:, 0]
    for rows in chosen.split(1024):
        cosines = z[rows] @ z.T
        cosines[torch.arange(len(rows)), rows] = -2.0  # not its own neighbour
        last = cosines.topk(k).values[:, -1:]
        same, inside, tied = labels[rows, None] == labels, cosines > last + 1e-9, (cosines - last).abs() <= 1e-9
        places = k - inside.sum(1)
        precision.append(((inside & same).sum(1) + places * (tied & same).sum(1) / tied.sum(1)).double() / k)
    return torch.cat(precision)


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many pictures of each class (rows) are classified as each class (columns): (C, C) int64.

    Pictures with -1, no answer, are left out.
    """
    answered = predicted != -1
    both = labels[answered] * classes + predicted[answered]
    return torch.bincount(both, minlength=classes**2).view(classes, classes)


def weight_difference(clip: Clip, after: Clip) -> Tensor:
    """What two weight files tell of the edit between them: an orthonormal basis of the rows of W' - W, (d, r).

    Directions at rounding level of float32 weights are left out; r is 0 if no weight changed.
    """
    change = projection_matrix(after)[0] - projection_matrix(clip)[0]
    values, vectors = torch.linalg.svd(change, full_matrices=False)[1:]
    return vectors[values > 1e-4 * values[0]].T


# --- Can it still be read from features? Probes on every stage of the tower, and relearning from a few labels.

FEW = 4
"""Pictures on which z = f(x) W + b is tried."""
SHOTS, DRAWS = (1, 2, 4, 8, 16), 20
PROBE, RELEARNED = 5.0, 0.05
"""Limits: points of accuracy and AUC above the clean model."""


def blocks_of(visual: Any) -> dict[str, nn.Module]:
    """The blocks of an image tower in their order, by the names that their libraries give them; empty if unknown."""
    tower = uncompiled(visual)
    for path in ("trunk.blocks", "trunk.stages", "trunk.layers", "trunk.encoder.layers", "transformer.resblocks"):
        try:
            found = tower.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.Sequential | nn.ModuleList) and len(found) > 1:
            return {f"{path.rpartition('.')[2]} {i + 1} of {len(found)}": block for i, block in enumerate(found)}
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
            x = output[0] if isinstance(output, tuple) else output
            if x.ndim == 4:  # (b, width, h, w), or the width last
                x = x.mean((1, 2)) if x.shape[1] == x.shape[2] and x.shape[3] != x.shape[2] else x.mean((2, 3))
            elif x.ndim == 3:
                x = x.mean(1)
            seen[name].append(x.float().cpu())

        return hook

    handles = [blocks[name].register_forward_hook(watch(name)) for name in seen]
    try:
        last = embed(bare, images)
    finally:
        for handle in handles:
            handle.remove()
    stages = {name: torch.cat(parts) for name, parts in seen.items()}
    return {name: x for name, x in stages.items() if len(x) == len(images)} | {"before the projection": last}


def through(clip: Clip, images: Images) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Embeddings (n, d) as `embed` gives them, and the `stage_features` on the way, in one pass through the tower.

    z = f(x) W + b is held against `embed` on a few pictures; where it is something else, or a picture is broken, the
    stages are None and the pictures go through the tower again. None, too, for a file of embeddings.
    """
    if not clip.encoder or len(images) < 2 * FEW:
        return embed(clip, images), None
    stages = stage_features(clip, images)
    weight, bias = projection_matrix(clip)
    f = stages["before the projection"].double()
    z = (f @ weight + bias).float() if f.shape[1] == len(weight) else f.float()
    few = torch.arange(len(images)) < FEW
    own = embed(clip, images.where(few))
    if not z.isfinite().all() or z[few].shape != own.shape or (z[few] - own).norm() > 1e-5 * own.norm():
        return embed(clip, images), None
    return z, stages


def by_stage(case: Case) -> list[Finding]:
    """Linear probes, relatives kept out: percent of the forgotten pictures named right from each stage.

    Limit: PROBE points above the clean model. An edit of the projection leaves what comes before it alone.
    """
    labels, n = case.images.classes, int(case.inside.sum())
    read: dict[str, dict[str, Tensor]] = {"after the projection": case.features}
    if case.models["unedited"].encoder:
        stages = case.each("stages", lambda model: {} if model == "edited" else _stages(case, model))
        stages["edited"] = stages["unedited"]
        read |= {stage: {model: own[stage] for model, own in stages.items()} for stage in stages["unedited"]}

    def read_from(features: Tensor) -> tuple[float, list[float]]:
        predicted = linear_probe(features, labels, case.seed, groups=case.families).predicted
        hits = int((predicted == labels)[case.inside].sum())
        return case.right(predicted), [100 * end for end in wilson(hits, n)]

    findings = []
    for stage, features in read.items():
        untouched = features["edited"] is features["unedited"]
        both = case.each(
            f"probe {stage}",
            lambda model, x=features, same=untouched: (
                (math.nan, []) if same and model == "edited" else read_from(x[model])
            ),
        )
        if untouched:
            both["edited"] = both["unedited"]
        found = {model: share for model, (share, _) in both.items()}
        findings.append(
            finding(
                "probe",
                stage,
                "%",
                found,
                above_clean(found),
                PROBE,
                "points above clean",
                {"interval": {model: curve(ends) for model, (_, ends) in both.items()}, "pictures": n},
            )
        )
    return findings


def _stages(case: Case, model: str) -> dict[str, Tensor]:
    return stage_features(case.models[model], case.images)


def relearning(case: Case) -> list[Finding]:
    """From 1 to 16 labelled pictures: the AUC with which the forgotten pictures are told from others of their domains.

    The score is the cosine to the mean of the labelled pictures minus that to the mean of as many others, both of
    unedited length 1; the mean over DRAWS draws and the forgotten classes, relatives of labelled pictures left out.
    """
    metrics = import_extra("sklearn.metrics", "course")
    families, generator = np.array(case.families), np.random.default_rng(case.seed)
    curves: dict[str, list[list[float]]] = {model: [[] for _ in SHOTS] for model in case.features}
    units = {model: case.unit(model) for model in case.features}
    for c in case.forgotten:
        own = (case.inside & (case.images.classes == c)).numpy()
        domains = torch.isin(case.images.domains, case.images.domains[torch.from_numpy(own)]).numpy()
        rest = domains & (case.images.classes != c).numpy()
        for i, k in enumerate(SHOTS):
            if own.sum() < k + 2 or rest.sum() < k + 2:
                continue
            for _ in range(DRAWS):
                shown = generator.choice(np.flatnonzero(own), k, replace=False)
                others = generator.choice(np.flatnonzero(rest), k, replace=False)
                asked = (own | rest) & ~np.isin(families, families[np.r_[shown, others]])
                if not own[asked].any() or own[asked].all():
                    continue
                for model, z in units.items():
                    w = F.normalize(z[shown].mean(0), dim=0) - F.normalize(z[others].mean(0), dim=0)
                    curves[model][i].append(float(metrics.roc_auc_score(own[asked], (z[asked] @ w).numpy())))
    means = {model: [float(np.mean(v)) if v else float("nan") for v in c] for model, c in curves.items()}
    at = next((i for i in (2, 1, 0) if means["edited"][i] == means["edited"][i]), None)
    if at is None:
        return []
    found = {model: values[at] for model, values in means.items()}
    return [
        finding(
            "relearning",
            f"from {SHOTS[at]} labelled picture{'s' * (SHOTS[at] > 1)}",
            "AUC",
            found,
            above_clean(found),
            RELEARNED,
            "above clean",
            {"pictures": list(SHOTS), "AUC": {model: curve(values) for model, values in means.items()}},
        )
    ]
