"""Compare our methods with the baselines on the same requests: requirements, figures and costs."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from joblib import delayed
from torch import Tensor

from ..edit import Edit
from ..embedding import embed, readable
from ..errors import names, one_of
from ..evaluate import Others, accuracy_matrix, classify, is_measurable, macro, others_of, predict
from ..images import Images
from ..methods import METHODS, solve
from ..models import EMBEDDED, RETRAINED, Clip, load, retrained_file
from ..prompts import text_classifiers
from ..vocabulary import Forget
from . import bootstrap, sweep
from .baselines import BASELINES, Baseline, TrainingData

ALL = {name: Baseline(None) for name in METHODS} | BASELINES
"""All entrants by name: the methods, which need no pictures and do not train, then the baselines."""
CONTROLS = ("random", "filter", "clean")  # give figures their scale and do not compete
ADU = ("Mem", "For", "H")
"""The figures of ADU (Kawamura et al. 2025, arXiv 2510.08132) for whole domains, in percent: accuracy on kept domains,
100 minus accuracy on forgotten ones, and their harmonic mean. Our accuracies are means over (class, domain) cells."""


def kind_of(name: str) -> str:
    """Return the kind of an entrant: method, control, baseline from names alone, or baseline that needs pictures."""
    if name in METHODS or name in CONTROLS:
        return "method of this library" if name in METHODS else "control"
    return "baseline, from names" if ALL[name].pictures == "none" else "baseline, from pictures"


INDEX = {  # the effect of an edit on an index, see `index_of`
    "length": "length of kept pictures",
    "recall_before": "recall@5 of kept captions, unedited",
    "recall_cosine": "edited, cosine",
    "recall_inner": "edited, inner product",
}


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """The n pictures to measure on, with their embeddings and the answers of the unedited and retrained models."""

    images: Images
    z: Tensor  # (n, d), embeddings
    classifier: Tensor  # (K, C, d), the text classifiers of one prompt set
    before: Tensor  # (n,) int64, classes predicted by the unedited model
    others: Others | None  # unrelated pictures and words
    retrained: dict[str, tuple[Tensor, int]]  # by request: predictions (n,), and bytes of the file
    prompts: str


def evaluation_set(clip: Clip, images: Images) -> EvaluationSet:
    """Embed and classify `images`; for miniclip, also with each retrained model."""
    images, (z,) = readable(images, embed(clip, images))
    classifier = text_classifiers(clip, images.vocabulary, "free")
    before = classify(z, classifier, images.domains)
    retrained: dict[str, tuple[Tensor, int]] = {}
    for name in RETRAINED if clip.name == EMBEDDED and images.has_pixels else ():
        missing = name.removeprefix(f"{EMBEDDED}-no-")
        if missing in (*images.vocabulary.classes, *images.vocabulary.domains):
            request = Forget([missing]) if missing in images.vocabulary.classes else Forget(domains=[missing])
            answers = predict(load(name, device=str(clip.device)), images)
            retrained[str(request)] = answers, retrained_file(name).stat().st_size
    return EvaluationSet(images, z, classifier, before, others_of(clip, images.vocabulary), retrained, "free")


def left_out(data: TrainingData, on: EvaluationSet | None = None) -> dict[str, str]:
    """Return the baselines that cannot take part, each with its reason."""
    needed = {name: baseline.pictures for name, baseline in BASELINES.items()}
    reasons = {name: f"needs {kind} pictures" for name, kind in needed.items() if kind not in (*data.kinds, "all")}
    if on is not None and not on.retrained:
        reasons["clean"] = "no retrained model for any of these requests"
    return reasons


def able(entrants: Sequence[str] | None, reasons: dict[str, str]) -> tuple[str, ...]:
    """Return `entrants`, by default all without an entry in `reasons`; raise ValueError for one that has an entry."""
    entrants = names("entrants", entrants or [name for name in ALL if name not in reasons], list(ALL))
    for name in entrants:
        if name in reasons:
            raise ValueError(f"entrants: {name!r} {reasons[name]}; expected entrants that can take part")
    return entrants


def edit_of(name: str, data: TrainingData, mask: Tensor, seed: int = 0) -> Edit | None:
    """Return the edit by which a method or baseline forgets the cells in `mask` (C, K), or None if it makes none."""
    if one_of("name", name, ALL) in METHODS:
        return solve(data.cells, mask, name)
    baseline = BASELINES[name]
    if baseline.make is None:
        return None
    if baseline.pictures not in data.kinds:
        raise ValueError(f"data: no {baseline.pictures} pictures; expected some for {name!r} (`baselines.gather`)")
    if baseline.pictures == "labelled" and not data.inside(mask).any():
        return None
    return baseline.make(data, mask, seed)


def run(
    on: EvaluationSet,
    data: TrainingData,
    entrants: Sequence[str] | None = None,
    paradigms: Sequence[str] = sweep.PARADIGMS,
    seeds: int = 3,
) -> list[dict]:
    """Return the rows (`rows_of`) of all requests, one joblib job each. entrants: by default all that can take part."""
    entrants = able(entrants, left_out(data, on))
    requests = sweep.every_request(on.images, paradigms)
    return sweep.rows_of_all([delayed(rows_of)(r, entrants, data, on, seeds) for r in requests], "baselines")


def rows_of(request: Forget, entrants: Iterable[str], data: TrainingData, on: EvaluationSet, seeds: int) -> list[dict]:
    """Return a `sweep.row_of` for each entrant with an answer, and for each seed if it depends on one.

    Each row adds `seed`, `seconds` (CPU time to make the edit), its `bytes` (`size_of`) and `form`, INDEX (`index_of`),
    and for whole domains `adu` before and after. A request without forgotten pictures has no rows.
    """
    mask, rows = request.mask(on.images.vocabulary), []
    if not on.images.counts()[mask].any():
        return rows
    others, figures_of = on.others if is_measurable(request) else None, index_of(mask, data, on)
    for name in entrants:
        for seed in range(seeds if ALL[name].drawn else 1):
            start = time.process_time()  # CPU time, because other processes may be running
            edit = edit_of(name, data, mask, seed)
            seconds = time.process_time() - start if edit else None
            changed, index, size = None, dict.fromkeys(INDEX), size_of(edit) if edit else 0
            if edit:
                after, changed, index = _edited(edit, ALL[name].texts, on, others, figures_of)
            elif name == "filter" and not mask.any(1).all():
                after, index = filtered(mask, on), figures_of(on.z)
                changed = torch.zeros(len(others.images), dtype=torch.bool) if others else None
            elif name == "clean" and str(request) in on.retrained:
                after, size = on.retrained[str(request)]
            else:
                continue
            whole_domains = request.paradigm == "complete"
            adus = [adu(answers, on.images, mask) for answers in (on.before, after)] if whole_domains else None
            costs = {"seconds": seconds, "bytes": size, "form": edit.form if edit else None, "adu": adus}
            keys = {"method": name, "prompts": on.prompts, "seed": seed}
            rows.append(sweep.row_of(request, on.before, after, on.images, changed) | keys | costs | index)
    return rows


def _edited(
    edit: Edit, of_texts: bool, on: EvaluationSet, others: Others | None, figures_of: Callable[..., dict]
) -> tuple[Tensor, Tensor | None, dict]:
    """Return the predicted classes (n,), (m,) bool for changed unrelated pictures, and INDEX."""
    if not of_texts:
        z, changed = edit.images(on.z), others.changed(edit.images) if others else None
        return classify(z, on.classifier, on.images.domains), changed, figures_of(z)

    def move(texts: Tensor) -> Tensor:
        return F.normalize(edit.queries(texts.flatten(0, -2)), dim=-1).view_as(texts)

    changed = replace(others, texts=move(others.texts)).answers() != others.unedited if others else None
    return classify(on.z, move(on.classifier), on.images.domains), changed, figures_of(on.z, move)


def index_of(mask: Tensor, data: TrainingData, on: EvaluationSet) -> Callable[..., dict]:
    """Return a function that computes INDEX from edited pictures (n, d) and, if texts are edited, from that edit.

    INDEX holds the mean length of kept pictures, which is 1 before the edit, and recall@5 of kept captions in percent:
    in the unedited index, and in the edited one by cosine and by inner product. A caption is the text of a (class,
    domain) cell. It counts if one of its pictures is among the first 5 of all.
    """
    images, length = on.images, on.z.double().norm(dim=1, keepdim=True)
    c, k = (~mask & (images.counts() > 0)).nonzero().T
    captions, kept = data.cells.texts[c, k], ~mask[images.classes, images.domains]
    matches = (images.classes == c[:, None]) & (images.domains == k[:, None])  # (captions, n)

    def recall(z: Tensor, queries: Tensor) -> float:
        nearest = (queries @ z.T).topk(min(5, len(z))).indices
        return 100 * float(matches.gather(1, nearest).any(1).double().mean())

    before = recall(on.z.double() / length, captions)

    def figures(z: Tensor, move: Callable[[Tensor], Tensor] = Tensor.clone) -> dict:
        z, queries = z.double() / length, move(captions)
        recalls = before, recall(F.normalize(z, dim=-1), queries), recall(z, queries)
        return dict(zip(INDEX, (float(z[kept].norm(dim=1).mean()), *recalls), strict=True))

    return figures


def filtered(mask: Tensor, on: EvaluationSet) -> Tensor:
    """Return the predicted classes (n,) when the classes in `mask` (C, K) are no longer candidates."""
    candidates = (~mask.any(1)).nonzero()[:, 0]
    return candidates[classify(on.z, on.classifier[:, candidates], on.images.domains)]


def size_of(edit: Edit) -> int:
    """Return the bytes of an edit in float32, stored as two thin factors or as one matrix, whichever is smaller."""
    d, r = edit.left.shape
    total = sum(x.numel() * x.element_size() for x in edit.tensors().values())
    return total - max(0, 2 * d * r - d * d) * 4 if edit.form == "linear" else total


def adu(predicted: Tensor, images: Images, mask: Tensor) -> list[float]:
    """Compute Mem, For and H of predictions (n,), see ADU."""
    right = accuracy_matrix(predicted, images)
    kept, forgotten = 100 * macro(right, ~mask), 100 * (1 - macro(right, mask))
    return [kept, forgotten, 2 * kept * forgotten / (kept + forgotten) if kept + forgotten else 0.0]


def summary(rows: Sequence[dict], images: Images, requests: Sequence[Forget]) -> list[dict]:
    """Extend `sweep.summary` for each paradigm and entrant by seconds, bytes, INDEX and ADU.

    A figure is the mean over an entrant's seeds, and its interval spans their intervals. Counts of pictures come from
    the first seed.
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for seed in sorted({row["seed"] for row in rows}):
        for entry in sweep.summary([row for row in rows if row["seed"] == seed], images, requests):
            groups.setdefault((entry["paradigm"], entry["method"]), []).append(entry)
    merged = []
    for key, entries in groups.items():
        group = [row for row in rows if (row["paradigm"], row["method"]) == key]
        figures: dict[str, Any] = {column: _over([entry[column] for entry in entries]) for column in sweep.COLUMNS}
        figures |= {name: sweep.mean_of(group, name) for name in ("seconds", "bytes", *INDEX)}
        merged.append(entries[0] | figures | {"adu": _mean_adu(group)})
    return merged


def _over(ends: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the mean of several means, and the smallest interval around all of their intervals."""
    x = np.array([triple for triple in ends if triple[0] is not None])
    return [round(x[:, 0].mean(), 6), x[:, 1].min(), x[:, 2].max()] if len(x) else [None] * 3


def _mean_adu(rows: Sequence[dict]) -> dict[str, dict[str, list[float]]]:
    """Return ADU before and after, [mean, low, high] over requests of means over seeds; {} without whole domains."""
    table = pd.DataFrame([(str(row["domains"]), *np.ravel(row["adu"])) for row in rows if row["adu"]])
    if table.empty:
        return {}
    means = table.groupby(0, sort=False).mean().to_numpy().T  # (6, requests)
    ends = [[round(x, 6) for x in bootstrap.of_mean(of_requests, 0, 100)] for of_requests in means]
    return {"before": dict(zip(ADU, ends[:3], strict=True)), "after": dict(zip(ADU, ends[3:], strict=True))}
