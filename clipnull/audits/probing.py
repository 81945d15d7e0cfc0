"""Can it still be read from features? Probes on every stage of the tower, and relearning from a few labels."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..auditing import bare_tower, linear_probe, projection_matrix
from ..data import Images
from ..embedding import embed
from ..errors import import_extra
from ..evaluate import wilson
from ..models import Clip, uncompiled
from .case import Case
from .findings import Finding, above_clean, curve, finding

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


def probes(case: Case) -> list[Finding]:
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
