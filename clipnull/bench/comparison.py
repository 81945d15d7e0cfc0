"""Our methods and their rivals on the same requests, in one run: what each takes, achieves and costs."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from joblib import delayed
from torch import Tensor

from ..datasets.shards import results_of
from ..edit import Edit
from ..embedding import embed
from ..errors import at_least, names, one_of
from ..evaluate import Others, accuracy_matrix, classify, is_measurable, macro, others_of, predict
from ..images import Images
from ..methods import METHODS, solve
from ..models import EMBEDDED, RETRAINED, Clip, load, retrained_file
from ..prompts import text_classifiers
from ..vocabulary import PROMPTS, Forget
from . import bootstrap, sweep
from .baselines import RIVALS, Material, Rival

ALL = {name: Rival(None) for name in METHODS} | RIVALS
"""What may take part, by name: the methods, which need no pictures and do not train, then the rivals."""
ADU = ("Mem", "For", "H")
"""Of whole domains, in percent, as ADU reports them (Kawamura et al. 2025, arXiv 2510.08132): accuracy on kept domains,
100 minus that on forgotten ones, and their harmonic mean; accuracies here are means over cells."""


@dataclass(frozen=True, eq=False)
class Field:
    """What all are measured on: n pictures, and what the unedited model answers.

    Attributes
    ----------
    images : Images
    z : (n, d)
        Their embeddings.
    classifier : (K, C, d)
        The text classifiers of one prompt set.
    before : (n,) int64
        What they are classified as.
    others : Others, optional
        Unrelated pictures and words.
    clean : dict of str to (n,) int64 and int
        By request: what the model answers that never knew it, and the bytes of its file.
    prompts : str
    """

    images: Images
    z: Tensor
    classifier: Tensor
    before: Tensor
    others: Others | None
    clean: dict[str, tuple[Tensor, int]]
    prompts: str


def field(clip: Clip, images: Images, prompts: str = "free") -> Field:
    """Embed `images` and, where `clip` is miniclip, also under the models that never knew what a request names."""
    z = embed(clip, images)
    classifier = text_classifiers(clip, images.vocabulary, one_of("prompts", prompts, PROMPTS))
    known: dict[str, tuple[Tensor, int]] = {}
    for name in RETRAINED if clip.name == EMBEDDED and images.has_pixels else ():
        what = name.removeprefix(f"{EMBEDDED}-no-")
        request = None
        if what in images.vocabulary.classes:
            request = Forget(classes=[what])
        elif what in images.vocabulary.domains:
            request = Forget(domains=[what])
        if request:
            other = load(name, device=str(clip.device))
            size = retrained_file(name).stat().st_size
            known[str(request)] = predict(other, images, prompts), size
    before = classify(z, classifier, images.domains)
    return Field(images, z, classifier, before, others_of(clip, images.vocabulary), known, prompts)


def edit_of(name: str, material: Material, mask: Tensor, seed: int = 0) -> Edit | None:
    """The edit of a method or rival that forgets the cells in `mask` (C, K); None where it makes none.

    Raises ValueError for an unknown name, a mask that does not fit, and pictures that `material` lacks.
    """
    if one_of("name", name, ALL) in METHODS:
        return solve(material.cells, mask, name)
    rival = RIVALS[name]
    if rival.make is None:
        return None
    material.cells.validate(mask)
    if rival.pictures not in material.kinds:
        raise ValueError(f"material: no {rival.pictures} pictures; expected some, for {name!r} (`materials.gather`)")
    return rival.make(material, mask, seed)


def left_out(material: Material, on: Field | None = None) -> dict[str, str]:
    """Which rivals cannot take part, and why."""
    found = {
        name: f"needs {rival.pictures} pictures"
        for name, rival in RIVALS.items()
        if rival.pictures not in (*material.kinds, "all")
    }
    if on is not None and not on.clean:
        found["clean"] = "no model is there that never knew what is forgotten"
    return found


def size_of(edit: Edit) -> int:
    """Bytes of what has to be carried of an edit, in float32: two thin factors, or one whole matrix if that is less."""
    d, r = edit.left.shape
    total = sum(x.numel() * x.element_size() for x in edit.tensors().values())
    return total - max(0, 2 * d * r - d * d) * 4 if edit.form == "linear" and 2 * r > d else total


def rows_of(request: Forget, entrants: Iterable[str], material: Material, on: Field, seeds: int) -> list[dict]:
    """A row of `bench.row_of` for each entrant and, of those that are drawn, each seed; None where it has no answer.

    And `seed`; `seconds` of the processor to make the edit; `bytes` of it, see `size_of`; `adu` before and after, where
    domains go.
    """
    mask, images, rows = request.mask(on.images.vocabulary), on.images, []
    for name in entrants:
        for seed in range(seeds if ALL[name].drawn else 1):
            start = time.process_time()  # of the processor: others may keep it busy
            edit = edit_of(name, material, mask, seed)
            seconds = time.process_time() - start
            after, changed, size = _answers(name, edit, request, mask, on)
            row = sweep.row_of(request, name, on.prompts, on.before, after, images, changed)
            whole = request.paradigm == "complete" and after is not None
            rows.append(
                row
                | {
                    "seed": seed,
                    "seconds": seconds if edit else None,
                    "bytes": size,
                    "form": edit.form if edit else None,
                    "adu": [adu(answers, images, mask) for answers in (on.before, after)] if whole else None,
                }
            )
    return rows


def _answers(
    name: str, edit: Edit | None, request: Forget, mask: Tensor, on: Field
) -> tuple[Tensor | None, Tensor | None, int | None]:
    """What the pictures are classified as, which unrelated ones get another answer, and bytes; None: there is none."""
    others = on.others if is_measurable(request) else None
    if name == "clean":
        after, size = on.clean.get(str(request), (None, None))
        return after, None, size
    if name == "filter":
        left = (~mask.any(1)).nonzero()[:, 0]
        if not len(left):
            return None, None, None
        after = left[classify(on.z, on.classifier[:, left], on.images.domains)]
        return after, torch.zeros(len(others.images), dtype=torch.bool) if others else None, 0
    if edit is None:
        return None, None, None
    if ALL[name].texts:
        classifier = F.normalize(edit.queries(on.classifier.flatten(0, 1)), dim=-1).view_as(on.classifier)
        changed = None
        if others:
            changed = (
                replace(others, texts=F.normalize(edit.queries(others.texts), dim=-1)).answers() != others.unedited
            )
        return classify(on.z, classifier, on.images.domains), changed, size_of(edit)
    after = classify(on.z, on.classifier, on.images.domains, edit.images)
    return after, others.changed(edit.images) if others else None, size_of(edit)


def adu(predicted: Tensor, images: Images, mask: Tensor) -> list[float]:
    """Mem, For and H of predictions (n,), see ADU."""
    right = accuracy_matrix(predicted, images)
    kept, forgotten = 100 * macro(right, ~mask), 100 * (1 - macro(right, mask))
    return [kept, forgotten, 2 * kept * forgotten / (kept + forgotten) if kept + forgotten else 0.0]


def run(
    on: Field,
    material: Material,
    entrants: Sequence[str] | None = None,
    paradigms: Sequence[str] = sweep.PARADIGMS,
    seeds: int = 3,
) -> list[dict]:
    """The rows of all requests, see `rows_of`. entrants: by default all that can take part. Jobs are joblib's."""
    out = left_out(material, on)
    chosen = names("entrants", entrants or [name for name in ALL if name not in out], list(ALL))
    if missing := [name for name in chosen if name in out]:
        raise ValueError(f"entrants: {missing[0]!r} {out[missing[0]]}; expected others, or these pictures")
    at_least("seeds", seeds, 1)
    if material.noisy is not None and len(material.noisy) < seeds and "lipschitz" in chosen:
        raise ValueError(f"seeds: {seeds}, and noise was drawn {len(material.noisy)} times; expected at most that")
    asked = sweep.every_request(on.images, names("paradigms", paradigms, sweep.PARADIGMS))
    start = printed = time.perf_counter()
    jobs = (delayed(rows_of)(request, chosen, material, on, seeds) for request in asked)
    rows: list[dict] = []
    for done, found in enumerate(results_of(jobs), 1):
        rows += found
        if done == len(asked) or time.perf_counter() > printed + 5:
            printed = time.perf_counter()
            print(f"rivals: {done} of {len(asked)} requests, {printed - start:.0f} s", file=sys.stderr, flush=True)
    return rows


def summary(rows: Sequence[dict], images: Images, asked: Sequence[Forget]) -> list[dict]:
    """For each paradigm and entrant what `bench.summary` gives, with seconds, bytes and, of domains, Mem, For and H.

    Of what is drawn with several seeds, a figure is the mean over them, and its interval reaches over all of theirs;
    counts of pictures are those of the first seed.
    """
    rows = [row for row in rows if row["accuracy"]["before"] == row["accuracy"]["before"]]
    found: dict[tuple[str, str], list[dict]] = {}
    for seed in sorted({row["seed"] for row in rows}):
        for entry in sweep.summary([row for row in rows if row["seed"] == seed], images, asked):
            found.setdefault((entry["paradigm"], entry["method"]), []).append(entry)
    merged = []
    for (paradigm, name), entries in found.items():
        own = [row for row in rows if (row["paradigm"], row["method"]) == (paradigm, name)]
        figures: dict[str, Any] = {column: _over([entry[column] for entry in entries]) for column in sweep.COLUMNS}
        for key in ("seconds", "bytes"):
            values = [row[key] for row in own if row[key] is not None]
            figures[key] = float(np.mean(values)) if values else None
        scores: dict[str, list] = {}
        for row in own:
            if row["adu"]:
                scores.setdefault(str(row["domains"]), []).append(row["adu"])
        means = np.array([np.mean(of, axis=0) for of in scores.values()])  # (requests, 2, 3)
        figures["adu"] = {
            when: {n: _rounded(bootstrap.of_mean(means[:, i, j], 0, 100)) for j, n in enumerate(ADU)}
            for i, when in enumerate(("before", "after"))
            if len(means)
        }
        merged.append(entries[0] | figures)
    return merged


def _over(ends: Sequence[Sequence[float | None]]) -> list[float | None]:
    some = [x for x in ends if x[0] is not None]
    if not some:
        return [None] * 3
    mean, low, high = zip(*some, strict=True)
    return _rounded((float(np.mean(mean)), min(low), max(high)))


def _rounded(ends: Sequence[float]) -> list[float | None]:
    return [None if x != x else round(x, 6) for x in ends]
