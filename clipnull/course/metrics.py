"""Metrics: what a notebook records in its last code cell, for the runner and for its reader."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import brief, import_extra

MIME = "application/vnd.clipnull.metrics+json"
Metrics = dict[str, float]  # metric name -> value


def record(**metrics: float) -> None:
    """Display `metrics` as one output: JSON for the runner and a table for the reader.

    metrics: one finite number for each name, at least one, in the unit that the name says. The last code cell of a
    notebook calls it once; the output names the loaded modules of clipnull, which its stamp covers. Outside a notebook
    it prints the table. Raises ValueError for a value that is not one finite number.

    >>> import clipnull as cn
    >>> cn.record(accuracy=0.917, pictures=329)
    accuracy                         0.917
    pictures                         329
    """
    if not metrics:
        raise ValueError("metrics: none given; expected at least one, as in record(accuracy=71.5)")
    values = _numbers(metrics)
    text = "\n".join(f"{name:<32} {value:.4g}" for name, value in values.items())
    rows = "".join(f"<tr><td>{name}</td><td>{value:.4g}</td></tr>" for name, value in values.items())
    page = f"<table><tr><th>metric</th><th>value</th></tr>{rows}</table>"
    if import_extra("IPython", "course").get_ipython() is None:
        print(text)
        return
    loaded = sorted(name for name in sys.modules if name.partition(".")[0] == "clipnull")
    data, metadata = {MIME: values, "text/plain": text, "text/html": page}, {"clipnull": {"modules": loaded}}
    import_extra("IPython.display", "course").display(data, metadata=metadata, raw=True)


def metrics_of(nb: Mapping) -> Metrics:
    """The metrics that an executed notebook recorded; ValueError unless it has exactly one such output."""
    outputs = [out.get("data", {}) for cell in nb["cells"] for out in cell.get("outputs", ())]
    recorded = [data[MIME] for data in outputs if MIME in data]
    if len(recorded) != 1:
        raise ValueError(f"nb: {len(recorded)} outputs of type {MIME}; expected one, from record in the last cell")
    return _numbers(recorded[0])


def _numbers(metrics: Mapping[str, Any]) -> Metrics:
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            numbers[name] = math.nan
        if not math.isfinite(numbers[name]):
            raise ValueError(f"{name}: {brief(value)} cannot be recorded; expected one finite number")
    return numbers
