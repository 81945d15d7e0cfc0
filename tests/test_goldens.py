"""Goldens: comparing with them, taking values over into them, and tolerances from several seeds."""

import json
import os
import re
from pathlib import Path

import pytest

from clipnull.course import goldens
from clipnull.course.run import NotebookError

GOLDEN = {"04": {"gap": {"value": 10.0, "atol": 0.5, "null": 0.0}}}
PARAMETERS = "# parameters\nseed = 3  # of the draw"


@pytest.mark.parametrize(
    "metrics, words",
    [
        ({"04": {"gap": 10.5}}, None),
        ({"04": {"gap": 9.49}}, "04: gap: expected 10 ± 0.5, got 9.49; executed: out/04.ipynb"),
        ({}, "04: gap: expected 10 ± 0.5, got nothing; executed: out/04.ipynb"),
        ({"04": {"gap": 10.0, "new": 2.0}}, "04: new: expected no golden, got 2; executed: out/04.ipynb"),
    ],
)
def test_a_difference_names_notebook_metric_expected_and_got(metrics, words):
    table, failures = goldens.compare(metrics, GOLDEN, Path("out"))
    assert failures == ([words] if words else []) and table.count("FAILED") == bool(words)


@pytest.mark.parametrize(
    "value, null, atol, words",
    [
        (10.0, 0.0, 5.0, ""),
        (10.0, 0.0, 5.01, "tolerance over half the way to null"),
        (-10.0, 0.0, 9.99, "tolerance over half the way to null"),
        (10.0, 0.0, 10.0, "null accepted"),
        (0.0, 0.0, 0.0, ""),  # no tolerance at all tells the value from any other
    ],
)
def test_a_golden_must_tell_its_value_from_null(value, null, atol, words):
    assert goldens.weakness(value, null, atol) == words


def test_values_are_taken_over_atol_is_kept_and_what_is_empty_is_named(tmp_path, monkeypatch):
    path = tmp_path / "goldens.json"
    path.write_text(json.dumps({"mini": {**GOLDEN, "05": GOLDEN["04"]}, "pacs": GOLDEN}))
    assert goldens.update({"04": {"gap": 11.0}}, path, "mini") == []
    assert goldens.update({"04": {"new": 1.0}}, path, "pacs") == ["04: new"]
    expected = {
        "mini": {"04": {"gap": {"value": 11.0, "atol": 0.5, "null": 0.0}}, "05": GOLDEN["04"]},
        "pacs": {"04": {"new": {"value": 1.0, "atol": None, "null": None}}},
    }
    assert json.loads(path.read_text()) == expected
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        goldens.update({"04": {"gap": 12.0}}, path, "mini")
    assert json.loads(path.read_text()) == expected and [*tmp_path.iterdir()] == [path]


def test_seeds_propose_tolerances_from_the_spread(notebook, tmp_path, capsys, monkeypatch):
    def run(paths, out, parameters, profile):
        assert [p.stem for p in paths] == ["a"] and out.name == f"seed-{parameters['seed']}"
        out.mkdir(parents=True)
        return {"a": {"seed": float(parameters["seed"]), "rate": 0.5, "twice": 2.0 * parameters["seed"]}}, []

    monkeypatch.setattr(goldens, "run", run)
    monkeypatch.setattr(goldens, "default_goldens", lambda: tmp_path / "goldens.json")
    paths = [notebook("a", PARAMETERS), notebook("b", "# parameters\nx = 1  # no seed")]
    golden = {"seed": {"value": 2.0, "atol": 1.5, "null": 8.0}, "twice": {"value": 4.0, "atol": 5.0, "null": 24.0}}
    (tmp_path / "goldens.json").write_text(json.dumps({"mini": {"a": golden}}))
    (path,) = goldens.seeds(paths, tmp_path / "out", "mini")
    rows = {row["metric"]: row for row in json.loads(path.read_text())}
    expected = {"mean": 2.0, "min": 0.0, "max": 4.0, "value": 2.0, "atol": 1.5, "proposed": 6.3}
    assert rows["seed"].items() >= (expected | {"note": "a seed is outside, null accepted"}).items()
    assert rows["seed"]["std"] == pytest.approx(2.5**0.5)
    assert rows["twice"]["note"] == "tolerance over half the way to null"
    assert rows["rate"]["proposed"] == 0.005, "all seeds agree: 1 % of the mean"
    assert rows["rate"]["note"] == "" and rows["rate"]["value"] is None
    assert re.search(r"6\.3 +a seed is outside, null accepted", capsys.readouterr().out)
    monkeypatch.setattr(goldens, "run", lambda *_, **__: ({}, ["a.ipynb: why"]))
    with pytest.raises(NotebookError, match="seed 0:\na.ipynb: why"):
        goldens.seeds(paths, tmp_path, "mini")
