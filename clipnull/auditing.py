"""What remains in an edited model: features before the projection, probes, other words, neighbours, weights."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Images
from .embedding import embed
from .errors import at_least, import_extra, one_of
from .models import Clip, find_projection, uncompiled
from .wording import format_prompt


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
