"""Every request x every method: what forgetting achieves on a whole data set, what it costs, and how fast it is.

`python -m clipnull bench [DATA]`   every single class, cell and domain of a folder <domain>/<class>/* in turn
`python -m clipnull bench --speed`  the closed form on random embeddings, held against targets
"""
import argparse
import json
import math
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed
from scipy import stats
from torch import Tensor

from .data import World, load_images
from .edit import Edit, written
from .errors import names, one_of
from .evaluate import PROMPTS, accuracy_matrix, classify, embed, macro, rates, readouts
from .models import Clip, load
from .unlearning import METHODS, Concepts, Forget, concepts, solve

PARADIGMS = ("global", "selective", "complete")
COLUMNS = {"forgetting_rate": "forgetting rate", "retain_drop": "retain drop", "sibling_class_drop": "sibling class",
           "sibling_domain_drop": "sibling domain", "worst_cell_drop": "worst cell"}


# --- the sweep ---------------------------------------------------------------------------------------------------

def requests(world: World, paradigms: Iterable[str] = PARADIGMS) -> list[Forget]:
    """Every single class, every single cell that holds pictures, every single domain; in the vocabulary's order."""
    classes, domains = world.vocabulary.classes, world.vocabulary.domains
    every = [*(Forget(classes=[c]) for c in classes),
             *(Forget([classes[c]], [domains[k]]) for c, k in world.counts().nonzero().tolist()),
             *(Forget(domains=[k]) for k in domains)]
    return [request for request in every if request.paradigm in paradigms]


def sweep(clip: Clip, world: World, methods: Sequence[str] | None = None,
          paradigms: Sequence[str] = PARADIGMS) -> list[dict]:
    """One row for each request, method (by default all) and prompt set; texts and pictures are embedded once.

    A row is ready for JSON, None where a figure does not exist. `classes`, `domains`: None for all of them;
    `forgetting_rate` and the drops (in percentage points): see `evaluate.rates`; `accuracy`: on the forgotten cells;
    `chance`: 1/C; `prompts`: see `evaluate.readouts`; `seconds`: of the closed form. A request whose cells had nothing
    to lose has no row.

    Requests are independent jobs of joblib: one after another here, or where `joblib.parallel_config` sends them.
    """
    methods = names("methods", METHODS if methods is None else methods, tuple(METHODS))
    asked = requests(world, names("paradigms", paradigms, PARADIGMS))
    known = concepts(clip, world.vocabulary)
    z = embed(clip, world)
    texts = {prompts: readouts(clip, world.vocabulary, prompts) for prompts in PROMPTS}
    start = time.perf_counter()
    jobs = (delayed(rows_of)(request, methods, world, known, z, texts) for request in asked)
    rows, said = [], start
    for done, found in enumerate(Parallel(return_as="generator")(jobs), 1):
        rows += found
        if done == len(asked) or time.perf_counter() > said + 2:
            said = time.perf_counter()
            print(f"bench: {done} of {len(asked)} requests x {len(methods)} methods x {len(PROMPTS)} prompt sets, "
                  f"{said - start:.1f} s after embedding", file=sys.stderr, flush=True)
    return rows


def rows_of(request: Forget, methods: Iterable[str], world: World, known: Concepts, z: Tensor,
            texts: dict[str, Tensor]) -> list[dict]:
    """The rows of one request. z: pictures (n, d); texts: by prompt set, the readouts (C, K, d)."""
    mask, rows = request.mask(world.vocabulary), []
    before = {prompts: accuracy_matrix(classify(z, t, world.domains), world) for prompts, t in texts.items()}
    for method in methods:
        start = time.perf_counter()
        edit = solve(known, mask, method)
        seconds = time.perf_counter() - start
        edited = edit.transform(z)
        for prompts, t in texts.items():
            after = accuracy_matrix(classify(edited, t, world.domains), world)
            found = rates(before[prompts], after, mask)
            if math.isnan(found["forgetting_rate"]):
                continue
            accuracy = {"before": macro(before[prompts], mask), "after": macro(after, mask)}
            rows.append({"paradigm": request.paradigm, "classes": request.classes and list(request.classes),
                         "domains": request.domains and list(request.domains), "method": method, "prompts": prompts,
                         **{name: None if math.isnan(value) else value for name, value in found.items()},
                         "accuracy": accuracy, "chance": 1 / len(mask), "seconds": seconds})
    return rows


# --- the table ---------------------------------------------------------------------------------------------------

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
        lines = [f"{paradigm}: {kept} requests, prompts {prompts!r}{left_out}",
                 f"  {'':<10}" + "".join(f"{title:>18}" for title in COLUMNS.values())]
        for method in methods:
            cells = [_cell(name, *mean_and_half(row[name] for row in mine if row["method"] == method))
                     for name in COLUMNS]
            lines.append(f"  {method:<10}" + "".join(f"{cell:>18}" for cell in cells))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cell(name: str, mean: float, half: float) -> str:
    form = ".3f" if name == "forgetting_rate" else "+.1f"
    if math.isnan(mean):
        return "-"
    return f"{mean:{form}}" + ("" if math.isnan(half) else f" ± {half:{form.removeprefix('+')}}")


# --- speed -------------------------------------------------------------------------------------------------------

CLASSES, DOMAINS, WIDTH, PICTURES = 345, 6, 1024, 10_000                        # DomainNet, in the space of a ViT-H-14
CLOSED_FORM, TIMES_LEACE, GATE = 0.150, 2, 0.02                                 # seconds; factor; share of a forward


def speed() -> None:
    """Print how long the closed form takes, next to LEACE, and what an edit adds to a forward pass, with targets.

    Raises ValueError if concept-erasure is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
            from concept_erasure import LeaceEraser
    except ImportError as error:
        raise ValueError("concept-erasure: not installed; expected for --speed, as in pip install 'clipnull[dev]'"
                         ) from error
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PICTURES, WIDTH, generator=generator)
    labels = F.one_hot(torch.randint(CLASSES, (PICTURES,), generator=generator), CLASSES)
    leace = least_seconds(partial(LeaceEraser.fit, x, labels))
    print(f"{torch.get_num_threads()} threads. LEACE, fitted on {PICTURES} x {WIDTH} embeddings with {CLASSES} labels: "
          f"{1000 * leace:.0f} ms")
    known, masks = random_concepts(WIDTH, generator), speed_masks()
    limit = min(CLOSED_FORM, leace / TIMES_LEACE)
    print(f"closed form, {CLASSES} classes x {DOMAINS} domains, d = {WIDTH}; it reads no pictures, however many there "
          f"are. Target: at most {1000 * CLOSED_FORM:.0f} ms and LEACE / {TIMES_LEACE}")
    start = time.perf_counter()
    solve(known, masks["class"], "oblique")
    first = time.perf_counter() - start
    print(f"the first request of a vocabulary, which prepares for the others: {1000 * first:.0f} ms")
    for method in METHODS:
        for group in (("class", "cell", "domain"), ("half the classes",)):
            times = {what: least_seconds(partial(solve, known, masks[what], method)) for what in group}
            each, worst = ", ".join(f"{what} {1000 * t:.0f}" for what, t in times.items()), max(times.values())
            print(f"{verdict(worst <= limit)} {method:<10} {1000 * worst:6.0f} ms  ({each})", flush=True)
    _speed_of_inference(generator)


def _speed_of_inference(generator: torch.Generator) -> None:
    clip = load("ViT-B-32", None, "cpu")
    known, masks = random_concepts(clip.width, generator), speed_masks()
    pixels = torch.randn(8, 3, clip.image_size, clip.image_size, generator=generator)
    with torch.inference_mode():
        forward, z = least_seconds(partial(clip.model.encode_image, pixels)), clip.model.encode_image(pixels)
        print(f"ViT-B-32 forward pass of {len(pixels)} pictures: {1000 * forward:.0f} ms. Target: a fused edit adds "
              f"nothing, a gated one at most {100 * GATE:.0f} %")
        for method in METHODS:
            edits = [solve(known, masks["class"], method)]
            if not edits[0].linear:
                edits = [solve(known, mask, method) for mask in masks.values()]
            added = max(_added(edit, clip, z) for edit in edits) / forward
            what = f"{100 * added:.2f} %" if added else "nothing: the same modules and shapes"
            print(f"{verdict(added <= (0 if edits[0].linear else GATE))} {method:<10} adds {what}", flush=True)


def _added(edit: Edit, clip: Clip, z: Tensor) -> float:
    """Seconds that what an edited tower has and `clip` lacks takes on z (n, d); infinite unless that runs behind it."""
    towers = [model.visual for model in (clip.model, edit.apply(clip).model)]
    behind = getattr(towers[1], "behind", None)
    shapes = [[(name, p.shape) for name, p in tower.named_parameters()] for tower in towers]
    modules = [[name for name, _ in tower.named_modules() if not name.startswith("behind")] for tower in towers]
    if shapes[0] != shapes[1] or modules[0] != modules[1]:
        return math.inf
    return least_seconds(partial(behind, z)) if behind else 0.0


def random_concepts(width: int, generator: torch.Generator) -> Concepts:
    """Random unit vectors in the place of CLASSES x DOMAINS texts and prototypes."""
    texts, prototypes = torch.randn(2, CLASSES, DOMAINS, width, generator=generator)
    return Concepts(F.normalize(texts, dim=-1), F.normalize(prototypes, dim=-1))


def speed_masks() -> dict[str, Tensor]:
    """Requests of every paradigm and one of many classes, as masks (CLASSES, DOMAINS)."""
    masks = {what: torch.zeros(CLASSES, DOMAINS, dtype=torch.bool)
             for what in ("class", "cell", "domain", "half the classes")}
    masks["class"][0], masks["cell"][0, 0], masks["domain"][:, 0] = True, True, True
    masks["half the classes"][:CLASSES // 2] = True
    return masks


def least_seconds(call: Callable[[], object], patience: float = 2.0) -> float:
    """The least time of as many calls as begin within `patience` seconds: what is more is other processes."""
    start = last = time.perf_counter()
    least = math.inf
    while last - start < patience:
        begun = time.perf_counter()
        call()
        last = time.perf_counter()
        least = min(least, last - begun)
    return least


def verdict(reached: bool) -> str:
    return "[OK]  " if reached else "[MISS]"


# --- command line ------------------------------------------------------------------------------------------------

def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m clipnull bench", description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", metavar="DATA", help="folder <domain>/<class>/* [the embedded miniworld]")
    parser.add_argument("--model", default="miniclip", help="of open_clip [the embedded miniclip]")
    parser.add_argument("--pretrained", metavar="TAG", help="its weights")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=f"[{' '.join(METHODS)}]")
    parser.add_argument("--paradigms", nargs="+", default=list(PARADIGMS), help=f"[{' '.join(PARADIGMS)}]")
    parser.add_argument("--prompts", default="free", help=f"those of the table: {', '.join(PROMPTS)} [free]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows there")
    parser.add_argument("--speed", action="store_true", help="time the closed form instead")
    args = parser.parse_args(arguments)
    try:
        if args.speed:
            speed()
            return 0
        names("methods", args.methods, tuple(METHODS))
        names("paradigms", args.paradigms, PARADIGMS)
        one_of("prompts", args.prompts, PROMPTS)
        if args.json and (args.json.is_dir() or not os.access(args.json.parent, os.W_OK)):
            raise ValueError(f"json: {str(args.json)!r} cannot be written; expected a file in a folder that can be")
        world = load_images(args.data)
        rows = sweep(load(args.model, args.pretrained), world, args.methods, args.paradigms)
        if args.json:
            with written(args.json) as temporary:
                temporary.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(table(rows, requests(world, args.paradigms), args.prompts))
        return 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
