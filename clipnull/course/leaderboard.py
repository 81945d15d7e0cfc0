"""A leaderboard of the patches that students submit, measured on pictures that only the instructor has.

A patch is data, so no submitted code runs. `name.json` beside `name.safetensors` may hold its author's predictions, an
interval per rate, such as {"forgetting_rate": [0.9, 1], "worst_cell_drop": [5, 20]}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from ..edit import Edit
from ..embedding import embed
from ..errors import brief, one_line
from ..evaluate import compare
from ..files import as_text, markdown
from ..images import Images
from ..models import Clip
from ..vocabulary import Forget

RATES = {"forgetting_rate": "forgetting", "retain_drop": "retain drop", "worst_cell_drop": "worst cell"}
MIN_SHARE_OF_BEST = 0.9  # patches that forget at least this share of the best rank first, by worst-cell drop
MAX_CHARACTERS = 10_000  # read from a file of predictions
MISS = 40.0  # penalty per point outside an interval, added to its width: 2/α for a 95 % interval (Winkler's score)


def leaderboard(clip: Clip, images: Images, request: Forget, patches: Sequence[Path]) -> str:
    """Rank `patches` by their rates on `images`: return a Markdown table and the rejected patches with reasons.

    The instructor's `request` counts, not the one in a patch. Raise ValueError for names that `images` lack, for
    duplicate file names, and without patches.
    """
    stems = [Path(path).stem for path in patches]
    if not stems or len(set(stems)) < len(stems):
        raise ValueError(f"patches: {stems} are none or not distinct; expected one or more files whose names differ")
    request.mask(images.vocabulary)
    z, rows, rejected = embed(clip, images), [], []
    for path in map(Path, patches):
        try:
            edit, predictions = Edit.load(path, clip), read_predictions(path.with_suffix(".json"))
            z_after = edit.images(z)
            if not torch.equal(z.isfinite(), z_after.isfinite()):
                raise ValueError("patch: embeddings become NaN or infinite; expected finite values")
            rates = compare(clip, edit.apply(clip), images, request, features=(z, z_after)).rates
            rows.append((as_text(path.stem), *(rates[name] for name in RATES), score(rates, predictions)))
        except Exception as error:  # a broken patch must not stop the others
            rejected.append(f"- {as_text(path.stem)}: rejected, {as_text(one_line(error))}")
    threshold = MIN_SHARE_OF_BEST * max((row[1] for row in rows), default=0.0)
    rows.sort(key=lambda row: (0, row[3], row[2]) if row[1] >= threshold else (1, -row[1], row[3]))
    table = [
        (number, name, f"{forgetting:.2f}", f"{drop:+.1f}", f"{worst:.0f}", "none" if math.isnan(p) else f"{p:.0f}")
        for number, (name, forgetting, drop, worst, p) in enumerate(rows, 1)
    ]
    text = markdown(table, ("", "patch", *RATES.values(), "prediction (smaller is better)"))
    return "\n".join([f"{request}, {len(images)} held-out pictures\n", text, *([""] if rejected else []), *rejected])


def read_predictions(path: Path) -> dict[str, tuple[float, float]]:
    """Read the intervals in a file of predictions, {} if it is missing; raise an error for any other content."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        predictions = dict(json.loads(file.read(MAX_CHARACTERS)))
    for name, interval in predictions.items():
        low, high = interval
        if name not in RATES or not -1000 <= low <= high <= 1000:
            expected = f"[low, high] for one of {', '.join(RATES)}"
            raise ValueError(f"{path.name}: {name} is {brief(interval)}; expected {expected}")
    return predictions


def score(rates: dict[str, float], predictions: dict[str, tuple[float, float]]) -> float:
    """Compute the mean interval score of the predicted rates, in points; NaN without predictions.

    >>> score({"worst_cell_drop": 12.0}, {"worst_cell_drop": (5.0, 10.0)})
    85.0
    """
    points = []
    for name, (low, high) in predictions.items():
        outside = max(low - rates[name], rates[name] - high, 0.0)
        points.append((high - low + MISS * outside) * (100.0 if name == "forgetting_rate" else 1.0))
    return sum(points) / len(points) if points else math.nan
