"""Every request x every method: what forgetting achieves on a whole data set, and what it costs."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from joblib import Parallel, delayed
from scipy import stats
from torch import Tensor

from .data import Images
from .embedding import embed
from .errors import names, one_of
from .evaluate import accuracy_matrix, classify, macro, rates
from .methods import METHODS, solve
from .methods.cells import Cells
from .models import Clip
from .prompts import prompt_sets, text_classifiers
from .requests import Forget
from .unlearning import embed_vocabulary
from .wording import PROMPTS

PARADIGMS = ("global", "selective", "complete")
COLUMNS = {
    "forgetting_rate": "forgetting rate",
    "retain_drop": "retain drop",
    "sibling_class_drop": "sibling class",
    "sibling_domain_drop": "sibling domain",
    "worst_cell_drop": "worst cell",
}


def every_request(images: Images, paradigms: Iterable[str] = PARADIGMS) -> list[Forget]:
    """Every single class, every single cell that holds pictures, every single domain; in the vocabulary's order."""
    classes, domains = images.vocabulary.classes, images.vocabulary.domains
    every = [
        *(Forget(classes=[c]) for c in classes),
        *(Forget([classes[c]], [domains[k]]) for c, k in images.counts().nonzero().tolist()),
        *(Forget(domains=[k]) for k in domains),
    ]
    return [request for request in every if request.paradigm in paradigms]


def sweep(
    clip: Clip, images: Images, methods: Sequence[str] | None = None, paradigms: Sequence[str] = PARADIGMS
) -> list[dict]:
    """One row for each request, method (by default all) and prompt set; texts and pictures are embedded once.

    A row is ready for JSON, None where a figure does not exist. `classes`, `domains`: None for all of them;
    `forgetting_rate` and the drops (in percentage points): see `evaluate.rates`; `accuracy`: on the forgotten cells;
    `chance`: 1/C; `prompts`: see `prompts.text_classifiers`, those that `clip` has texts of; `seconds`: of the closed
    form. A request whose cells had nothing to lose has no row.

    Requests are independent jobs of joblib: one after another here, or where `joblib.parallel_config` sends them.
    """
    methods = names("methods", METHODS if methods is None else methods, tuple(METHODS))
    asked = every_request(images, names("paradigms", paradigms, PARADIGMS))
    cells = embed_vocabulary(clip, images.vocabulary)
    z = embed(clip, images)
    classifiers = {prompts: text_classifiers(clip, images.vocabulary, prompts) for prompts in prompt_sets(clip)}
    start = time.perf_counter()
    jobs = (delayed(rows_of)(request, methods, images, cells, z, classifiers) for request in asked)
    rows, printed = [], start
    for done, found in enumerate(Parallel(return_as="generator")(jobs), 1):
        rows += found
        if done == len(asked) or time.perf_counter() > printed + 2:
            printed = time.perf_counter()
            print(
                f"bench: {done} of {len(asked)} requests x {len(methods)} methods x {len(classifiers)} prompt sets, "
                f"{printed - start:.1f} s after embedding",
                file=sys.stderr,
                flush=True,
            )
    return rows


def rows_of(
    request: Forget,
    methods: Iterable[str],
    images: Images,
    cells: Cells,
    z: Tensor,
    classifiers: dict[str, Tensor],
) -> list[dict]:
    """The rows of one request. z: embeddings of the images (n, d); classifiers: by prompt set, (K, C, d)."""
    mask, rows = request.mask(images.vocabulary), []
    before = {
        prompts: accuracy_matrix(classify(z, classifier, images.domains), images)
        for prompts, classifier in classifiers.items()
    }
    for method in methods:
        start = time.perf_counter()
        edit = solve(cells, mask, method)
        seconds = time.perf_counter() - start
        for prompts, classifier in classifiers.items():
            after = accuracy_matrix(classify(z, classifier, images.domains, edit.transform), images)
            found = rates(before[prompts], after, mask)
            if math.isnan(found["forgetting_rate"]):
                continue
            accuracy = {"before": macro(before[prompts], mask), "after": macro(after, mask)}
            rows.append(
                {
                    "paradigm": request.paradigm,
                    "classes": request.classes and list(request.classes),
                    "domains": request.domains and list(request.domains),
                    "method": method,
                    "prompts": prompts,
                    **{name: None if math.isnan(value) else value for name, value in found.items()},
                    "accuracy": accuracy,
                    "chance": 1 / len(mask),
                    "seconds": seconds,
                }
            )
    return rows


def mean_and_half(values: Iterable[float | None]) -> tuple[float, float]:
    """Mean of what is not None, half the width of its 95 % interval (Student's t); NaN where there is too little."""
    x = np.array([v for v in values if v is not None])
    if len(x) < 2:
        return float(x[0]) if len(x) else math.nan, math.nan
    return float(x.mean()), float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)


def table(rows: Sequence[dict], asked: Sequence[Forget], prompts: str = "free") -> str:
    """For each paradigm, the mean over requests and its 95 % interval by method, as plain text.

    asked: all requests of the sweep, so that those without a row can be counted.
    """
    rows = [row for row in rows if row["prompts"] == one_of("prompts", prompts, PROMPTS)]
    blocks = []
    for paradigm, n in Counter(request.paradigm for request in asked).items():
        mine = [row for row in rows if row["paradigm"] == paradigm]
        methods = dict.fromkeys(row["method"] for row in mine)
        kept = len(mine) // max(1, len(methods))
        left_out = f"; {n - kept} left out, with nothing to lose" if kept < n else ""
        lines = [
            f"{paradigm}: {kept} requests, prompts {prompts!r}{left_out}",
            f"  {'':<10}" + "".join(f"{title:>18}" for title in COLUMNS.values()),
        ]
        for method in methods:
            entries = [
                told(name, *mean_and_half(row[name] for row in mine if row["method"] == method)) for name in COLUMNS
            ]
            lines.append(f"  {method:<10}" + "".join(f"{entry:>18}" for entry in entries))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def told(name: str, mean: float, half: float) -> str:
    """A mean and half its interval as text, a rate with three digits, points with one."""
    form = ".3f" if name == "forgetting_rate" else "+.1f"
    if math.isnan(mean):
        return "-"
    return f"{mean:{form}}" + ("" if math.isnan(half) else f" ± {half:{form.removeprefix('+')}}")


def document(clip: Clip, images: Images, name: str, rows: Sequence[dict], paradigms: Sequence[str] = PARADIGMS) -> dict:
    """What a sweep found with what it was run on, ready for JSON. name: of the pictures, as results tell it."""
    return {
        "kind": "bench",
        "name": name,
        "model": clip.name,
        "pretrained": clip.pretrained,
        "pictures": len(images),
        "classes": images.vocabulary.shape[0],
        "domains": images.vocabulary.shape[1],
        "requests": dict(Counter(request.paradigm for request in every_request(images, paradigms))),
        "rows": list(rows),
    }
