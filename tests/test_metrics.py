"""What a notebook records, and how it is read."""

import math

import nbformat
import numpy as np
import pytest

from clipnull.course import metrics
from clipnull.course.run import execute


@pytest.mark.slow
def test_record_gives_one_output_that_metrics_of_reads(notebook, tmp_path):
    path = notebook("a", "import clipnull as cn, numpy as np", "cn.record(angle=np.float32(1.5), count=7)")
    nb = nbformat.read(execute(path, tmp_path / "out"), 4)
    assert metrics.metrics_of(nb) == {"angle": 1.5, "count": 7.0}
    (out,) = [out for cell in nb.cells for out in cell.outputs]
    loaded = out.metadata["clipnull"]["modules"]
    assert "clipnull.course.metrics" in loaded and "clipnull.edit" not in loaded
    assert {"text/plain", "text/html", metrics.MIME} == set(out.data)
    assert "angle" in out.data["text/plain"] and "<td>angle</td><td>1.5</td>" in out.data["text/html"]


def test_record_prints_outside_a_notebook(capsys):
    metrics.record(accuracy=np.float64(2 / 3), n=7)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["accuracy", "0.6667"], ["n", "7"]]


@pytest.mark.parametrize("value", [math.nan, math.inf, "a", None, np.ones(2)])
def test_what_is_not_one_finite_number_is_refused(value):
    nb = {"cells": [{"outputs": [{"data": {metrics.MIME: {"accuracy": value}}}]}]}
    for action in (lambda: metrics.record(accuracy=value), lambda: metrics.metrics_of(nb)):
        with pytest.raises(ValueError, match=r"(?s)^accuracy: .* expected one finite number"):
            action()


def test_a_notebook_records_once_and_something():
    for times in (0, 2):
        outputs = [{"data": {metrics.MIME: {"a": 1.0}}}] * times
        with pytest.raises(ValueError, match=f"{times} outputs"):
            metrics.metrics_of({"cells": [{"outputs": outputs}]})
    with pytest.raises(ValueError, match="expected at least one"):
        metrics.record()
