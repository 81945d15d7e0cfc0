"""Run every request with every method: how much is forgotten on a whole data set, and at what cost."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from joblib import delayed
from torch import Tensor
from tqdm import tqdm

from ..datasets.shards import results_of
from ..embedding import embed, readable
from ..errors import names, shorten
from ..evaluate import Others, accuracy_matrix, classify, is_measurable, others_of, rates
from ..files import markdown
from ..from_names import embed_vocabulary
from ..images import Images
from ..methods import METHODS, solve
from ..methods.cells import Cells
from ..models import Clip
from ..prompts import prompt_sets, text_classifiers
from ..vocabulary import Forget
from . import bootstrap

PARADIGMS = ("global", "selective", "complete")
COLUMNS = {
    "forgetting_rate": "forgetting rate",
    "retain_drop": "retain drop",
    "sibling_class_drop": "sibling class",
    "sibling_domain_drop": "sibling domain",
    "worst_cell_drop": "worst cell",
    "collateral": "collateral",
}
"""The figures of a row. The forgetting rate is a share, collateral in percent, all else in percentage points."""
COUNTED = ("forgotten, right", "kept: lost, gained", "worst cell: lost", "others renamed")  # summed over requests


def every_request(images: Images, paradigms: Iterable[str] = PARADIGMS) -> list[Forget]:
    """Return a request per class and, with several domains, per (class, domain) cell with pictures and per domain."""
    paradigms = names("paradigms", paradigms, PARADIGMS)
    classes, domains = images.vocabulary.classes, images.vocabulary.domains
    requests = [Forget(classes=[c]) for c in classes]
    if len(domains) > 1:
        requests += [Forget([classes[c]], [domains[k]]) for c, k in images.counts().nonzero().tolist()]
        requests += [Forget(domains=[k]) for k in domains]
    if selected := [request for request in requests if request.paradigm in paradigms]:
        return selected
    raise ValueError(f"paradigms: {shorten(paradigms)} needs several domains; expected 'global' for a single one")


def sweep(
    clip: Clip,
    images: Images,
    methods: Sequence[str] | None = None,
    paradigms: Sequence[str] = PARADIGMS,
    z: Tensor | None = None,
) -> list[dict]:
    """Return one row (`row_of`) for each request, method and prompt set of `clip`; requests run as joblib jobs.

    z: embeddings of `images` (n, d); by default `embed(clip, images)`. Requests with nothing to lose are skipped.
    """
    methods = names("methods", METHODS if methods is None else methods, tuple(METHODS))
    requests = every_request(images, paradigms)
    cells = embed_vocabulary(clip, images.vocabulary)
    z = embed(clip, images) if z is None else z
    classifiers = {prompts: text_classifiers(clip, images.vocabulary, prompts) for prompts in prompt_sets(clip)}
    others = others_of(clip, images.vocabulary)
    jobs = [delayed(rows_of)(request, methods, images, cells, z, classifiers, others) for request in requests]
    return rows_of_all(jobs, "bench")


def rows_of_all(jobs: Sequence[Any], name: str) -> list[dict]:
    """Run joblib jobs that return lists of rows, one job a request, and join the rows; show progress on stderr."""
    progress = tqdm(results_of(jobs), name, len(jobs), unit=" requests", mininterval=2)
    return [row for rows in progress for row in rows]


def rows_of(
    request: Forget,
    methods: Iterable[str],
    images: Images,
    cells: Cells,
    z: Tensor,
    classifiers: dict[str, Tensor],
    others: Others | None = None,
) -> list[dict]:
    """Return the rows of one request. z: embeddings (n, d). classifiers: text classifiers (K, C, d) by prompt set."""
    mask, rows = request.mask(images.vocabulary), []
    before = {prompts: classify(z, classifier, images.domains) for prompts, classifier in classifiers.items()}
    for method in methods:
        edit = solve(cells, mask, method)
        changed = others.changed(edit.images) if others and is_measurable(request) else None
        for prompts, classifier in classifiers.items():
            after = classify(z, classifier, images.domains, edit.images)
            row = row_of(request, before[prompts], after, images, changed)
            if row["forgetting_rate"] is not None:
                pairs = pair_forgetting(z, classifier, images, request, edit.images)
                rows.append(row | {"method": method, "prompts": prompts, "form": edit.form, "pair_forgetting": pairs})
    return rows


def row_of(request: Forget, before: Tensor, after: Tensor, images: Images, changed: Tensor | None = None) -> dict:
    """Measure one request: return its row for `summary`, ready for JSON except `bits`. Undefined figures are None.

    before, after: predicted classes of the readable pictures (n,) int64. changed: (m,) bool, True where an unrelated
    picture changed its answer.

    The row holds `classes` and `domains` (None for all), the figures of `evaluate.rates`, `collateral` (percent of
    `changed`), and `pictures`: counts of forgotten, kept and unrelated pictures and of the worst cell.
    """
    if (before == -1).any():
        raise ValueError("before: -1 marks a broken picture; expected readable pictures (`embedding.readable`)")
    mask = request.mask(images.vocabulary)
    start, end = accuracy_matrix(before, images), accuracy_matrix(after, images)
    figures = rates(start, end, mask)
    renamed = torch.zeros(0) if changed is None else changed.double()
    figures["collateral"] = 100 * float(renamed.mean())  # NaN without unrelated pictures
    right, right_after = before == images.classes, after == images.classes
    forgotten, lost, gained = mask[images.classes, images.domains], right & ~right_after, right_after & ~right
    worst = int((start - end).masked_fill(mask, math.nan).nan_to_num(nan=-2.0).argmax())
    in_worst = ~forgotten & (images.classes * mask.shape[1] + images.domains == worst)
    pictures = {"forgotten": forgotten, "before": forgotten & right, "after": forgotten & right_after}
    pictures |= {"kept": ~forgotten, "lost": ~forgotten & lost, "gained": ~forgotten & gained, "worst_of": in_worst}
    counts = {name: int(x.sum()) for name, x in pictures.items()}
    counts["worst_lost"] = int((in_worst & lost).sum()) - int((in_worst & gained).sum())
    counts |= {"others": len(renamed), "renamed": int(renamed.sum())}
    return {
        "paradigm": request.paradigm,
        "classes": request.classes and list(request.classes),
        "domains": request.domains and list(request.domains),
        **{name: None if math.isnan(value) else value for name, value in figures.items()},
        "pictures": counts,
        "bits": [None if x is None else np.packbits(x) for x in (right, lost | gained, changed)],
    }


def pair_forgetting(
    features: Tensor, classifiers: Tensor, images: Images, request: Forget, change: Callable[[Tensor], Tensor]
) -> float | None:
    """Return the pairwise forgetting rate: the forgotten name against one other name, mean over the others.

    Ignorance scores .5. A score of 1 is a signature of the edit, as easy to find as the class was. Return None unless
    the request is one class in every domain. features (n, d), classifiers (K, C, d) and change: see `classify`.
    """
    if request.paradigm != "global" or len(request.classes or ()) != 1:
        return None
    c = int(request.mask(images.vocabulary).all(1).nonzero()[0])
    forgotten, others = images.classes == c, torch.arange(classifiers.shape[1]) != c
    domains = images.domains[forgotten]

    def wins(z: Tensor) -> Tensor:
        """Return how often the name beats each other name, (C - 1,); every domain counts the same."""
        scores = torch.einsum("nd,ncd->nc", F.normalize(z, dim=-1), classifiers[domains])
        above = (scores[:, c, None] > scores[:, others]).double()
        return torch.stack([above[domains == k].mean(0) for k in domains.unique()]).mean(0)

    before, after = wins(features[forgotten]), wins(change(features[forgotten]))
    return float((1 - after / before.clamp(min=1e-12)).mean())


def summary(rows: Sequence[dict], images: Images, requests: Sequence[Forget]) -> list[dict]:
    """Average rows over requests: one entry for each paradigm, method and prompt set, ready for JSON.

    rows: from `row_of`, all on `images`. requests: all that ran. Each figure of COLUMNS is [mean, low, high] with the
    95 % interval of `clipnull.bench.bootstrap`, None if undefined. `requests` counts all, `measured` those with a
    forgetting rate. `pictures` are sums, `form` is the form of the edits, `pair_forgetting` a mean.
    """
    totals, groups = Counter(request.paradigm for request in requests), {}
    for row in rows:
        groups.setdefault((row["paradigm"], row["method"], row["prompts"]), []).append(row)
    m = max((row["pictures"]["others"] for row in rows), default=0)
    intervals = bootstrap.intervals(images, (_group(group, images, m) for group in groups.values()), m)
    entries = []
    for ((paradigm, method, prompts), group), ends in zip(groups.items(), intervals, strict=True):
        entry = {"paradigm": paradigm, "method": method, "prompts": prompts, "requests": totals[paradigm]}
        entry["measured"] = sum(row["forgetting_rate"] is not None for row in group)
        entry |= {"form": group[0].get("form"), "pair_forgetting": mean_of(group, "pair_forgetting")}
        for name in COLUMNS:
            mean = mean_of(group, name)
            entry[name] = [None] * 3 if mean is None else [mean, *(round(x, 6) for x in ends[name][1:])]
        entries.append(entry | {"pictures": pd.DataFrame([row["pictures"] for row in group]).sum().to_dict()})
    return entries


def mean_of(rows: Sequence[dict], name: str) -> float | None:
    """Return the mean of one figure over the rows that have it."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return round(float(np.mean(values)), 6) if values else None


def _group(rows: Sequence[dict], images: Images, m: int) -> bootstrap.Group:
    masks = np.stack([Forget(row["classes"], row["domains"]).mask(images.vocabulary).numpy() for row in rows])
    right, changed, others = zip(*(row["bits"] for row in rows), strict=True)
    renamed = (None if x is None else _unpacked(x, m) for x in others)
    return bootstrap.Group(
        masks, _unpacked(right[0], len(images)), (_unpacked(x, len(images)) for x in changed), renamed
    )


def _unpacked(bits: np.ndarray, n: int) -> np.ndarray:
    return np.unpackbits(bits, count=n).view(bool)


def tables(
    entries: Sequence[dict], prompts: str = "free", table: Callable[[list, list[str]], str] = markdown
) -> list[str]:
    """Format `entries` of `summary`: a table of figures and one of counts. table: `files.markdown` or `aligned`."""
    figures, counts = [], []
    for row in (row for row in entries if row["prompts"] == prompts):
        start = [row["paradigm"], f"`{row['method']}`", f"{row['measured']} of {row['requests']}"]
        pairs = "–" if row.get("pair_forgetting") is None else f"{row['pair_forgetting']:.2f}"
        figures.append([*start, *format_figures(row), pairs, row.get("form") or "–"])
        counts.append([*start, *format_counts(row)])
    head = ["paradigm", "method", "requests"]
    return [table(figures, [*head, *COLUMNS.values(), "pairwise", "form"]), table(counts, [*head, *COUNTED])]


def format_ends(name: str, ends: Sequence[float | None]) -> str:
    """Format a mean and its interval: rates with three digits, all else with one; a dash for None."""
    mean, low, high = ends
    form = ".3f" if name == "forgetting_rate" else ".1f" if name == "collateral" else "+.1f"
    return "–" if mean is None else f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def format_figures(row: dict, names: Iterable[str] = COLUMNS) -> list[str]:
    """Format the figures of an entry of `summary` with their intervals."""
    return [format_ends(name, row[name]) for name in names]


def format_counts(row: dict) -> list[str]:
    """Format the counts of an entry of `summary` in the order of COUNTED."""
    if row["forgetting_rate"][0] is None:
        return ["–"] * len(COUNTED)
    n = row["pictures"]
    return [
        f"{n['before']} → {n['after']} of {n['forgotten']}",
        f"{n['lost']}, {n['gained']} of {n['kept']}",
        f"{n['worst_lost']} of {n['worst_of']}",
        f"{n['renamed']} of {n['others']}" if n["others"] else "–",
    ]


def to_json(
    clip: Clip, images: Images, name: str, methods: Sequence[str] | None = None, paradigms: Sequence[str] = PARADIGMS
) -> dict:
    """Sweep over all readable pictures and return rows and summary, ready for JSON. name: title of the pictures."""
    images, (z,) = readable(images, embed(clip, images))
    rows, requests = sweep(clip, images, methods, paradigms, z), every_request(images, paradigms)
    return header("bench", name, clip, images) | {
        "note": clip.stored.words.get("note", "") if clip.stored else "",
        "prototypes": bool(clip.stored.mask.all()) if clip.stored else True,
        "requests": dict(Counter(request.paradigm for request in requests)),
        "summary": summary(rows, images, requests),
        "rows": without_bits(rows),
    }


def header(kind: str, name: str, clip: Clip, images: Images) -> dict[str, Any]:
    """Return the fields of a measurement that name its model and pictures."""
    model = {"model": clip.name, "pretrained": clip.pretrained, "stored": clip.stored is not None}
    shape = dict(zip(("classes", "domains"), images.vocabulary.shape, strict=True))
    return {"kind": kind, "name": name} | model | {"pictures": len(images)} | shape


def without_bits(rows: Sequence[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "bits"} for row in rows]
