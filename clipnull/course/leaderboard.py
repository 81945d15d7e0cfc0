"""A leaderboard: the patches that students hand in, measured on pictures that only the instructor has.

A patch is data, so nothing that is handed in runs. `name.json` beside `name.safetensors` may hold its author's
predictions: an interval for each rate, such as {"forgetting_rate": [0.9, 1], "worst_cell_drop": [5, 20]}.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from ..edit import Edit
from ..embedding import embed
from ..errors import brief, one_line
from ..evaluate import compare
from ..files import markdown
from ..images import Images
from ..models import Clip
from ..vocabulary import Forget

RATES = {"forgetting_rate": "forgetting", "retain_drop": "retain drop", "worst_cell_drop": "worst cell"}
TO_POINTS = {"forgetting_rate": 100.0}
"""A rate from 0 to 1 counts in points, as the others do, in the score of a prediction."""
MIN_SHARE_OF_BEST = 0.9
"""The rule: of those that forget at least this share of the best, the smallest worst-cell drop."""
MARKUP = re.compile(r"[<>|`\\]|\](?=\()")
"""What would begin a tag, a cell, code or a link in Markdown."""
MAX_BYTES = 10_000
MISS = 40.0
"""The score of a prediction is its width and so many for each point outside: 2/α for a 95 % interval (Winkler)."""


def leaderboard(clip: Clip, images: Images, request: Forget, patches: Sequence[Path]) -> str:
    """Measure `patches` on `images`: a Markdown table, the best first, and below it the patches that were refused.

    The instructor's `request` counts, not the one a patch names. Raises ValueError for names that `images` lack, if no
    patch is given, and if two bear one name.
    """
    stems = [Path(path).stem for path in patches]
    if not stems or len(set(stems)) < len(stems):
        raise ValueError(f"patches: {stems}; expected one or more files whose names differ")
    request.mask(images.vocabulary)
    z, rows, refused = embed(clip, images), [], []
    for path in map(Path, patches):
        name = re.sub(r"[^\w.-]", "_", path.stem)  # in a table, a name is no markup
        try:
            edit, predictions = Edit.load(path, clip), _read_predictions(path.with_suffix(".json"))
            z_after = edit.images(z)
            if not torch.equal(z.isfinite(), z_after.isfinite()):
                raise ValueError("embeddings of whole pictures become NaN or infinite; expected finite ones")
            rates = compare(clip, edit.apply(clip), images, request, features=(z, z_after)).rates
            rows.append((name, {name: rates[name] for name in RATES}, score(rates, predictions)))
        except Exception as error:  # whatever one has handed in, the others are measured
            refused.append(f"- {name}: refused, {MARKUP.sub('_', one_line(error))}")
    best = max((rates["forgetting_rate"] for _, rates, _ in rows), default=0.0)
    table = []
    for number, (name, rates, points) in enumerate(sorted(rows, key=lambda row: _rank(row[1], best)), 1):
        numbers = f"{rates['forgetting_rate']:.2f}", f"{rates['retain_drop']:+.1f}", f"{rates['worst_cell_drop']:.0f}"
        table.append((number, name, *numbers, "none" if math.isnan(points) else f"{points:.0f}"))
    text = markdown(table, ("", "who", *RATES.values(), "prediction (smaller is better)"))
    return "\n".join([f"{request}, {len(images)} pictures kept back\n", text, *([""] if refused else []), *refused])


def _rank(rates: dict[str, float], best: float) -> tuple[bool, float, float]:
    if rates["forgetting_rate"] >= MIN_SHARE_OF_BEST * best:
        return False, rates["worst_cell_drop"], rates["retain_drop"]
    return True, -rates["forgetting_rate"], rates["worst_cell_drop"]


def _read_predictions(path: Path) -> dict[str, tuple[float, float]]:
    """The intervals in a file of predictions; none where it is missing. Raises ValueError for anything else in it."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name}: {path.stat().st_size} bytes; expected a few intervals")
    table = json.loads(path.read_text(encoding="utf-8"))
    for name, interval in table.items() if isinstance(table, dict) else [("the file", table)]:
        numbers = isinstance(interval, list) and len(interval) == 2 and all(type(x) in (int, float) for x in interval)
        if name not in RATES or not numbers or not -1000 <= interval[0] <= interval[1] <= 1000:
            expected = f"[low, high] for some of {', '.join(RATES)}"
            raise ValueError(f"{path.name}: {name} is {brief(interval)}; expected {expected}")
    return {name: (low, high) for name, (low, high) in table.items()}


def score(rates: dict[str, float], predictions: dict[str, tuple[float, float]]) -> float:
    """The interval score of predictions, in points: a mean over the predicted rates, NaN without a prediction.

    Examples
    --------
    >>> score({"worst_cell_drop": 12.0}, {"worst_cell_drop": (5.0, 10.0)})
    85.0
    """
    points = []
    for name, (low, high) in predictions.items():
        outside = max(low - rates[name], rates[name] - high, 0.0)
        points.append(TO_POINTS.get(name, 1.0) * (high - low + MISS * outside))
    return sum(points) / len(points) if points else math.nan
