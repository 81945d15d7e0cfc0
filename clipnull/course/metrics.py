"""Metrics: the numbers that a notebook records at its end, for the runner and the reader."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import brief, import_extra

MIME = "application/vnd.clipnull.metrics+json"
Metrics = dict[str, float]  # metric name -> value


def record(**metrics: float) -> None:
    """Display `metrics` as one output, with JSON for the runner and a table for the reader.

    Call this once, at the end of a notebook. The output also lists the loaded modules of clipnull for the stamp of the
    notebook. Outside a notebook, print the table. metrics: at least one name with a finite number; other values raise
    ValueError.

    >>> import clipnull as cn
    >>> cn.record(accuracy=0.917, pictures=329)
    accuracy                         0.917
    pictures                         329
    """
    if not metrics:
        raise ValueError("metrics: none were passed; expected at least one, as in record(accuracy=71.5)")
    values = _numbers(metrics)
    text = "\n".join(f"{name:<32} {value:.4g}" for name, value in values.items())
    rows = "".join(f"<tr><td>{name}</td><td>{value:.4g}</td></tr>" for name, value in values.items())
    table = f"<table><tr><th>metric</th><th>value</th></tr>{rows}</table>"
    if import_extra("IPython", "course").get_ipython() is None:
        print(text)
        return
    loaded = sorted(name for name in sys.modules if name.partition(".")[0] == "clipnull")
    data, metadata = {MIME: values, "text/plain": text, "text/html": table}, {"clipnull": {"modules": loaded}}
    import_extra("IPython.display", "course").display(data, metadata=metadata, raw=True)


def metrics_of(nb: Mapping) -> Metrics:
    """Return the metrics of an executed notebook; raise ValueError unless it recorded them exactly once."""
    outputs = [out.get("data", {}) for cell in nb["cells"] for out in cell.get("outputs", ())]
    recorded = [data[MIME] for data in outputs if MIME in data]
    if len(recorded) != 1:
        raise ValueError(f"nb: {len(recorded)} outputs of type {MIME}; expected one, from `record` at its end")
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
