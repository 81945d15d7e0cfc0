"""Every request x every method: what forgetting achieves on a whole data set, and what it costs."""

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
"""The figures of a row. All but the first are in percentage points or, collateral, in percent."""
COUNTED = ("forgotten, right", "kept: lost, gained", "worst cell: lost", "others renamed")
"""Counts of pictures, added over requests."""


def every_request(images: Images, paradigms: Iterable[str] = PARADIGMS) -> list[Forget]:
    """Every single class and, of several domains, every cell that holds pictures and every domain; in order."""
    paradigms = names("paradigms", paradigms, PARADIGMS)
    classes, domains = images.vocabulary.classes, images.vocabulary.domains
    requests = [Forget(classes=[c]) for c in classes]
    if len(domains) > 1:
        requests += [Forget([classes[c]], [domains[k]]) for c, k in images.counts().nonzero().tolist()]
        requests += [Forget(domains=[k]) for k in domains]
    if chosen := [request for request in requests if request.paradigm in paradigms]:
        return chosen
    raise ValueError(f"paradigms: {shorten(paradigms)} of pictures in one domain; expected 'global' among them")


def sweep(
    clip: Clip,
    images: Images,
    methods: Sequence[str] | None = None,
    paradigms: Sequence[str] = PARADIGMS,
    z: Tensor | None = None,
) -> list[dict]:
    """One row (`row_of`) for each request, method and prompt set that `clip` has texts of.

    z: embeddings of `images`, (n, d). A request with nothing to lose has no row. Requests are jobs of joblib.
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
    """The rows of all jobs of joblib, one a request; standard error shows how far they are."""
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
    """The rows of one request. z: embeddings (n, d); classifiers: by prompt set, (K, C, d)."""
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
                about = {"method": method, "prompts": prompts, "form": edit.form, "pair_forgetting": pairs}
                rows.append(row | about)
    return rows


def row_of(request: Forget, before: Tensor, after: Tensor, images: Images, changed: Tensor | None = None) -> dict:
    """What was done to one request, ready for JSON but for `bits`, for `summary`; None where no figure exists.

    before, after: (n,) int64, the classes that the pictures, all of them readable, are classified as. changed: (m,)
    bool, which unrelated pictures got another answer.

    The row holds `classes` and `domains`, None for all of them; the figures of `evaluate.rates` and `collateral`, the
    percentage of `changed`; and `pictures`, counts of forgotten, kept and unrelated ones and of the worst cell.
    """
    if (before == -1).any():
        raise ValueError("before: -1 for a broken picture; expected readable pictures (`embedding.readable`)")
    mask = request.mask(images.vocabulary)
    start, end = accuracy_matrix(before, images), accuracy_matrix(after, images)
    figures = rates(start, end, mask)
    figures["collateral"] = math.nan if changed is None else 100 * float(changed.double().mean())
    right, right_after = before == images.classes, after == images.classes
    gone, lost, gained = mask[images.classes, images.domains], right & ~right_after, right_after & ~right
    worst = int((start - end).masked_fill(mask, math.nan).nan_to_num(nan=-2.0).argmax())
    in_worst = ~gone & (images.classes * mask.shape[1] + images.domains == worst)
    pictures = {"forgotten": gone, "before": gone & right, "after": gone & right_after}
    pictures |= {"kept": ~gone, "lost": ~gone & lost, "gained": ~gone & gained, "worst_of": in_worst}
    counts = {name: int(chosen.sum()) for name, chosen in pictures.items()}
    counts["worst_lost"] = int((in_worst & lost).sum()) - int((in_worst & gained).sum())
    counts |= (
        {"others": 0, "renamed": 0} if changed is None else {"others": len(changed), "renamed": int(changed.sum())}
    )
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
    """The forgetting rate where only two names may be given, the forgotten one and another: mean over the others.

    Between two names, ignorance is .5; 1 is a signature of the edit, as easy to find as the class was. None but for one
    class in every domain. features (n, d), classifiers (K, C, d), change: as `classify` takes them.
    """
    if request.paradigm != "global" or len(request.classes or ()) != 1:
        return None
    c = int(request.mask(images.vocabulary).all(1).nonzero()[0])
    shown, others = images.classes == c, torch.arange(classifiers.shape[1]) != c
    domains = images.domains[shown]

    def wins(z: Tensor) -> Tensor:
        """How often the name is above each other one, every domain counting the same: (C - 1,)."""
        scores = torch.einsum("nd,ncd->nc", F.normalize(z, dim=-1), classifiers[domains])
        above = (scores[:, c, None] > scores[:, others]).double()
        return torch.stack([above[domains == k].mean(0) for k in domains.unique()]).mean(0)

    before, after = wins(features[shown]), wins(change(features[shown]))
    return float((1 - after / before.clamp(min=1e-12)).mean())


def summary(rows: Sequence[dict], images: Images, requests: Sequence[Forget]) -> list[dict]:
    """For each paradigm, method and prompt set: the figures of COLUMNS, means over requests with 95 % intervals.

    rows: of `row_of`, all on `images`. requests: all that were made. Ready for JSON: each figure is [mean, low, high]
    (`clipnull.bench.bootstrap`), None where there is none; `requests` and `measured` count those made and those with a
    forgetting rate; `pictures` are counts, added; `form` is that of the edits, `pair_forgetting` its mean.
    """
    number, groups = Counter(request.paradigm for request in requests), {}
    for row in rows:
        groups.setdefault((row["paradigm"], row["method"], row["prompts"]), []).append(row)
    m = max((row["pictures"]["others"] for row in rows), default=0)
    intervals = bootstrap.intervals(images, (_group(group, images, m) for group in groups.values()), m)
    entries = []
    for ((paradigm, method, prompts), group), ends in zip(groups.items(), intervals, strict=True):
        entry = {"paradigm": paradigm, "method": method, "prompts": prompts, "requests": number[paradigm]}
        entry["measured"] = sum(row["forgetting_rate"] is not None for row in group)
        entry |= {"form": group[0].get("form"), "pair_forgetting": mean_of(group, "pair_forgetting")}
        for name in COLUMNS:
            mean = mean_of(group, name)
            entry[name] = [None] * 3 if mean is None else [mean, *(round(x, 6) for x in ends[name][1:])]
        entries.append(entry | {"pictures": pd.DataFrame([row["pictures"] for row in group]).sum().to_dict()})
    return entries


def mean_of(rows: Sequence[dict], name: str) -> float | None:
    """The mean of one figure over the rows that have it."""
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
    """`entries` of `summary` as two tables: the figures with intervals, then counts of pictures. table: of `files`."""
    figures, counts = [], []
    for row in (row for row in entries if row["prompts"] == prompts):
        start = [row["paradigm"], f"`{row['method']}`", f"{row['measured']} of {row['requests']}"]
        pairs = "–" if row.get("pair_forgetting") is None else f"{row['pair_forgetting']:.2f}"
        figures.append([*start, *format_figures(row), pairs, row.get("form") or "–"])
        counts.append([*start, *format_counts(row)])
    head = ["paradigm", "method", "requests"]
    return [table(figures, [*head, *COLUMNS.values(), "pairwise", "form"]), table(counts, [*head, *COUNTED])]


def format_ends(name: str, ends: Sequence[float | None]) -> str:
    """A mean and its interval, a rate with three digits, points and percentages with one; a dash where it is None."""
    mean, low, high = ends
    form = ".3f" if name == "forgetting_rate" else ".1f" if name == "collateral" else "+.1f"
    return "–" if mean is None else f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def format_figures(row: dict, names: Iterable[str] = COLUMNS) -> list[str]:
    """Figures of an entry of `summary`, with their intervals."""
    return [format_ends(name, row[name]) for name in names]


def format_counts(row: dict) -> list[str]:
    """The counts of an entry of `summary` in the order of COUNTED."""
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
    """The rows of a sweep over all readable pictures, and their summary. name: of the pictures, for results."""
    images, (z,) = readable(images, embed(clip, images))
    rows, requests = sweep(clip, images, methods, paradigms, z), every_request(images, paradigms)
    return about("bench", name, clip, images) | {
        "note": clip.stored.words.get("note", "") if clip.stored else "",
        "prototypes": bool(clip.stored.mask.all()) if clip.stored else True,
        "requests": dict(Counter(request.paradigm for request in requests)),
        "summary": summary(rows, images, requests),
        "rows": without_bits(rows),
    }


def about(kind: str, name: str, clip: Clip, images: Images) -> dict[str, Any]:
    """What a measurement was made on, for results."""
    model = {"model": clip.name, "pretrained": clip.pretrained, "stored": clip.stored is not None}
    shape = dict(zip(("classes", "domains"), images.vocabulary.shape, strict=True))
    return {"kind": kind, "name": name} | model | {"pictures": len(images)} | shape


def without_bits(rows: Sequence[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "bits"} for row in rows]
