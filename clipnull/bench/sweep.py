"""Every request x every method: what forgetting achieves on a whole data set, and what it costs."""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from joblib import delayed
from torch import Tensor

from ..datasets.shards import results_of
from ..embedding import embed
from ..errors import names, one_of
from ..evaluate import Others, accuracy_matrix, classify, is_measurable, macro, others_of, rates
from ..images import Images
from ..methods import METHODS, solve
from ..methods.cells import Cells
from ..models import Clip
from ..prompts import prompt_sets, text_classifiers
from ..unlearning import embed_vocabulary
from ..vocabulary import PROMPTS, Forget
from . import bootstrap

# --- What is told of a request beside its rates: forgetting among two names, and counts in each domain.


def pair_forgetting(
    features: Tensor,
    classifiers: Tensor,
    images: Images,
    request: Forget,
    change: Callable[[Tensor], Tensor],
) -> float | None:
    """The forgetting rate where only two names may be given, the forgotten one and another: mean over the others.

    A label set of many hides much: a class that only falls behind its nearest rival is "forgotten" among all. Among
    two, ignorance is .5; 1 is a mark, as easy to find as the class was. None but for one class in every domain.

    features (n, d), classifiers (K, C, d), change: as `classify` takes them.
    """
    mask = request.mask(images.vocabulary)
    classes = mask.all(1).nonzero()[:, 0].tolist()
    if request.paradigm != "global" or len(classes) != 1:
        return None
    own, cells = classes[0], images.classes == classes[0]
    of_each = classifiers[images.domains[cells]]  # (m, C, d)
    wins = []
    for z in (features[cells], change(features[cells])):
        scores = torch.einsum("nd,ncd->nc", F.normalize(z, dim=-1), of_each)
        wins.append((scores[:, own, None] > scores).double())
    counts = torch.zeros(len(images.vocabulary.domains), dtype=torch.float64)
    counts.index_add_(0, images.domains[cells], torch.ones(int(cells.sum()), dtype=torch.float64))
    share = (1 / counts)[images.domains[cells]]  # every domain counts the same
    before, after = ((share[:, None] * w).sum(0) for w in wins)
    others = torch.arange(mask.shape[0]) != own
    return float((1 - after[others] / before[others].clamp(min=1e-12)).mean())


def mean_pairs(rows: Sequence[dict]) -> dict[str, Any]:
    """Of rows of one method and paradigm: the `form` of its edits, and the mean `pair_forgetting`, None without any."""
    found = [row["pair_forgetting"] for row in rows if row.get("pair_forgetting") is not None]
    return {
        "form": rows[0].get("form") if rows else None,
        "pair_forgetting": round(sum(found) / len(found), 6) if found else None,
    }


def by_domain(request: Forget, images: Images, *right: Tensor) -> dict[str, list[int]] | None:
    """Of a single class, how many pictures there are in each domain, and how many of these each of `right` holds."""
    if request.classes is None or len(request.classes) != 1:
        return None
    own = images.classes == images.vocabulary.classes.index(request.classes[0])
    here = {name: own & (images.domains == k) for k, name in enumerate(images.vocabulary.domains)}
    return {name: [int(x.sum()) for x in (chosen, *(chosen & r for r in right))] for name, chosen in here.items()}


# --- bench

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

COUNTS = ("forgotten", "before", "after", "kept", "lost", "gained", "worst_of", "worst_lost", "others", "renamed")
COUNTED = ("forgotten, right", "kept: lost, gained", "worst cell: lost", "others renamed")
"""What is counted of pictures, added over requests."""


def every_request(images: Images, paradigms: Iterable[str] = PARADIGMS) -> list[Forget]:
    """Every single class and, of several domains, every cell that holds pictures and every domain; in order."""
    classes, domains, several = images.vocabulary.classes, images.vocabulary.domains, images.vocabulary.shape[1] > 1
    every = [
        *(Forget(classes=[c]) for c in classes),
        *(Forget([classes[c]], [domains[k]]) for c, k in images.counts().nonzero().tolist() if several),
        *(Forget(domains=[k]) for k in domains if several),
    ]
    return [request for request in every if request.paradigm in paradigms]


def sweep(
    clip: Clip, images: Images, methods: Sequence[str] | None = None, paradigms: Sequence[str] = PARADIGMS
) -> list[dict]:
    """One row for each request, method (by default all) and prompt set; texts and pictures are embedded once.

    What is in a row: see `row_of`. The prompts are those that `clip` has texts of. A request whose cells had nothing to
    lose has no row.

    Requests are independent jobs of joblib: one after another here, or where `joblib.parallel_config` sends them.
    """
    methods = names("methods", METHODS if methods is None else methods, tuple(METHODS))
    asked = every_request(images, names("paradigms", paradigms, PARADIGMS))
    cells = embed_vocabulary(clip, images.vocabulary)
    z = embed(clip, images)
    classifiers = {prompts: text_classifiers(clip, images.vocabulary, prompts) for prompts in prompt_sets(clip)}
    others = others_of(clip, images.vocabulary)
    start = time.perf_counter()
    jobs = (delayed(rows_of)(request, methods, images, cells, z, classifiers, others) for request in asked)
    rows, printed = [], start
    for done, found in enumerate(results_of(jobs), 1):
        rows += found
        if done == len(asked) or time.perf_counter() > printed + 2:
            printed = time.perf_counter()
            what = f"{len(asked)} requests x {len(methods)} methods x {len(classifiers)} prompt sets"
            print(f"bench: {done} of {what}, {printed - start:.1f} s after embedding", file=sys.stderr, flush=True)
    return rows


def rows_of(
    request: Forget,
    methods: Iterable[str],
    images: Images,
    cells: Cells,
    z: Tensor,
    classifiers: dict[str, Tensor],
    others: Others | None = None,
) -> list[dict]:
    """The rows of one request, with seconds and form. z: embeddings (n, d); classifiers: by prompt set, (K, C, d)."""
    mask, rows = request.mask(images.vocabulary), []
    before = {prompts: classify(z, classifier, images.domains) for prompts, classifier in classifiers.items()}
    for method in methods:
        start = time.perf_counter()
        edit = solve(cells, mask, method)
        seconds = time.perf_counter() - start
        changed = others.changed(edit.images) if others and is_measurable(request) else None
        for prompts, classifier in classifiers.items():
            after = classify(z, classifier, images.domains, edit.images)
            row = row_of(request, method, prompts, before[prompts], after, images, changed)
            if row["forgetting_rate"] is not None:
                pairs = pair_forgetting(z, classifier, images, request, edit.images)
                rows.append(row | {"seconds": seconds, "form": edit.form, "pair_forgetting": pairs})
    return rows


def row_of(
    request: Forget,
    method: str,
    prompts: str,
    before: Tensor,
    after: Tensor | None,
    images: Images,
    changed: Tensor | None = None,
) -> dict:
    """What a method did to one request, ready for JSON but for `bits`; None where a figure does not exist.

    Parameters
    ----------
    request, method, prompts
        What was asked, and of whom.
    before, after : (n,) int64
        The classes that the pictures are classified as; -1 in `before`, no answer: that picture does not count. `after`
        None: the method does not take part, and has no figure.
    images : Images
    changed : (m,) bool, optional
        Which unrelated pictures got another answer, see `collateral.Others`.

    Returns
    -------
    dict
        `classes`, `domains`: None for all of them. `forgetting_rate` and the drops, in percentage points: see
        `evaluate.rates`. `collateral`: share of unrelated pictures whose answer changed, in percent. `accuracy`: on the
        forgotten cells. `chance`: 1/C. `pictures`: how many are in forgotten cells and right before and after; how many
        are in kept cells, right only before (lost) or after (gained); what the worst of these cells lost, of how many;
        how many unrelated ones there are, and how many got another answer (renamed).
        `by_domain`: of a single class, [pictures, right before, right after] in each domain. `bits`, for `summary`:
        which pictures count; of these, which were right before, and which changed; which unrelated ones did.
    """
    mask, answered = request.mask(images.vocabulary), before != -1
    if not answered.all():
        images, before, after = images.where(answered), before[answered], None if after is None else after[answered]
    start = accuracy_matrix(before, images)
    end = start if after is None else accuracy_matrix(after, images)
    found = rates(start, end, mask) | {
        "collateral": math.nan if changed is None else 100 * float(changed.double().mean())
    }
    if after is None:
        found, after = dict.fromkeys(found, math.nan), before
    right, right_after = before == images.classes, after == images.classes
    inside = mask[images.classes, images.domains]
    drop = (start - end).masked_fill(mask, math.nan)
    place = int(drop.nan_to_num(nan=-2.0).argmax())
    worst = ~inside & (images.classes * mask.shape[1] + images.domains == place)
    counts = {
        "forgotten": inside, "before": inside & right, "after": inside & right_after, "kept": ~inside,
        "lost": ~inside & right & ~right_after, "gained": ~inside & ~right & right_after, "worst_of": worst,
    }  # fmt: skip
    pictures = {name: int(chosen.sum()) for name, chosen in counts.items()}
    pictures["worst_lost"] = int((worst & right).sum()) - int((worst & right_after).sum())
    pictures |= (
        {"others": 0, "renamed": 0} if changed is None else {"others": len(changed), "renamed": int(changed.sum())}
    )
    return {
        "paradigm": request.paradigm,
        "classes": request.classes and list(request.classes),
        "domains": request.domains and list(request.domains),
        "method": method,
        "prompts": prompts,
        **{name: None if math.isnan(value) else value for name, value in found.items()},
        "accuracy": {"before": macro(start, mask), "after": macro(end, mask)},
        "chance": 1 / len(mask),
        "pictures": pictures,
        "by_domain": by_domain(request, images, right, right_after),
        "bits": [None if x is None else bootstrap.pack(x) for x in (answered, right, right != right_after, changed)],
    }


def summary(rows: Sequence[dict], images: Images, asked: Sequence[Forget]) -> list[dict]:
    """For each paradigm, method and prompt set: the figures of COLUMNS, means over requests with 95 % intervals.

    Parameters
    ----------
    rows : sequence of dict
        Of `row_of`, all on the same pictures.
    images : Images
        These pictures.
    asked : sequence of Forget
        All requests, those of the rows among them, so that those without a row can be counted.

    Returns
    -------
    list of dict
        Ready for JSON. Each figure is [mean, low, high], see `clipnull.bench.bootstrap`, None where there is none;
        `requests`: how many were asked; `measured`: how many have a row; `pictures`: their counts, see `row_of`, added;
        `form`: of the edits, see `Edit.form`; `pair_forgetting`: mean over global requests, see `clipnull.bench.sweep`.
    """
    if rows:
        images = images.where(torch.from_numpy(bootstrap.unpack(rows[0]["bits"][0], len(images))))
    number, found = Counter(request.paradigm for request in asked), []
    methods, sets = (dict.fromkeys(row[key] for row in rows) for key in ("method", "prompts"))
    groups: dict[tuple[str, str, str], list[dict]] = {key: [] for key in product(number, methods, sets)}
    for row in rows:
        if any(row[name] is not None for name in COLUMNS):  # else the method took no part
            groups[row["paradigm"], row["method"], row["prompts"]].append(row)
    m = max((row["pictures"]["others"] for row in rows), default=0)
    drawn = iter(bootstrap.intervals(images, [_group(own, images) for own in groups.values() if own], m))
    for (paradigm, method, prompts), own in groups.items():
        ends, figures = next(drawn) if own else {}, {}
        for name in COLUMNS:
            values = [row[name] for row in own if row[name] is not None]
            figures[name] = [round(x, 6) for x in (float(np.mean(values)), *ends[name][1:])] if values else [None] * 3
        measured = sum(row["forgetting_rate"] is not None for row in own)
        about = {
            "paradigm": paradigm,
            "method": method,
            "prompts": prompts,
            "requests": number[paradigm],
            "measured": measured,
        }
        counts = {name: sum(row["pictures"][name] for row in own) for name in COUNTS}
        found.append(about | mean_pairs(own) | figures | {"pictures": counts})
    return found


def _group(rows: Sequence[dict], images: Images) -> bootstrap.Group:
    masks = np.stack([Forget(row["classes"], row["domains"]).mask(images.vocabulary).numpy() for row in rows])
    _, right, changed, others = zip(*(row["bits"] for row in rows), strict=True)
    return bootstrap.Group(masks, bootstrap.unpack(right[0], len(images)), changed, others)


def table(found: Sequence[dict], asked: Sequence[Forget], prompts: str = "free") -> str:
    """For each paradigm, the mean over requests and its 95 % interval by method, then counts of pictures: plain text.

    found: of `summary`. asked: all requests, so that paradigms without a row are told.
    """
    found = [row for row in found if row["prompts"] == one_of("prompts", prompts, PROMPTS)]
    blocks = []
    for paradigm, n in Counter(request.paradigm for request in asked).items():
        mine = [row for row in found if row["paradigm"] == paradigm]
        kept = max((row["measured"] for row in mine), default=0)
        left_out = f"; {n - kept} left out, with nothing to lose" if kept < n else ""
        lines = [
            f"{paradigm}: {kept} requests, prompts {prompts!r}{left_out}",
            f"  {'':<10}" + "".join(f"{title:>24}" for title in COLUMNS.values()),
            *(f"  {row['method']:<10}" + "".join(f"{told(name, row[name]):>24}" for name in COLUMNS) for row in mine),
            f"  {'pictures':<10}" + "".join(f"{title:>24}" for title in COUNTED),
            *(f"  {row['method']:<10}" + "".join(f"{text:>24}" for text in counted(row)) for row in mine),
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def told(name: str, ends: Sequence[float | None], none: str = "-") -> str:
    """A mean and its interval as text, a rate with three digits, points and percent with one; `none` for none."""
    mean, low, high = (math.nan if x is None else x for x in ends)
    form = ".3f" if name == "forgetting_rate" else ".1f" if name == "collateral" else "+.1f"
    if math.isnan(mean):
        return none
    return f"{mean:{form}}" + ("" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def counted(row: dict, none: str = "-") -> list[str]:
    """The counts of a row of `summary` as text, in the order of COUNTED; `none` where the method took no part."""
    if row["forgetting_rate"][0] is None:
        return [none] * len(COUNTED)
    n = row["pictures"]
    return [
        f"{n['before']} → {n['after']} of {n['forgotten']}",
        f"{n['lost']}, {n['gained']} of {n['kept']}",
        f"{n['worst_lost']} of {n['worst_of']}",
        f"{n['renamed']} of {n['others']}" if n["others"] else none,
    ]


def document(clip: Clip, images: Images, name: str, rows: Sequence[dict], paradigms: Sequence[str] = PARADIGMS) -> dict:
    """What a sweep found with what it was run on, ready for JSON. name: of the pictures, as results tell it."""
    asked = every_request(images, paradigms)
    return {
        "kind": "bench",
        "name": name,
        "model": clip.name,
        "pretrained": clip.pretrained,
        "stored": not clip.encoder,
        "note": "" if clip.encoder else clip.model.stored.words.get("note", ""),
        "prototypes": clip.encoder or bool(clip.model.stored.mask.all()),
        "pictures": len(images),
        **dict(zip(("classes", "domains"), images.vocabulary.shape, strict=True)),
        "requests": dict(Counter(request.paradigm for request in asked)),
        "summary": summary(rows, images, asked),
        "rows": [{key: value for key, value in row.items() if key != "bits"} for row in rows],
    }
