"""Goldens: comparing with them, taking values over into them, and tolerances from several seeds."""

import json
import os
import re

import pytest

from clipnull.commands import cli
from clipnull.course import goldens
from clipnull.course.run import NotebookError

GOLDEN = {"04": {"gap": {"value": 10.0, "atol": 0.5, "null": 0.0}}}


@pytest.mark.parametrize(
    "metrics, words",
    [
        ({"04": {"gap": 10.5}}, None),
        ({"04": {"gap": 9.49}}, "04: gap: expected 10 ± 0.5, got 9.49"),
        ({}, "04: gap: expected 10 ± 0.5, got nothing"),
        ({"04": {"gap": 10.0, "new": 2.0}}, "04: new: expected no golden, got 2"),
    ],
)
def test_a_difference_names_notebook_metric_expected_and_got(metrics, words):
    assert goldens.differences(metrics, GOLDEN) == ([words] if words else [])
    marks = [line.split()[-1] for line in goldens.diff(metrics, GOLDEN).splitlines()[1:]]
    assert marks.count("FAILED") == bool(words)


@pytest.mark.parametrize(
    "value, null, atol, words",
    [
        (10.0, 0.0, 5.0, ""),
        (10.0, 0.0, 5.01, "tolerance over half the way to null"),
        (-10.0, 0.0, 9.99, "tolerance over half the way to null"),
        (10.0, 0.0, 10.0, "null accepted"),
        (0.0, 0.0, 0.0, ""),  # no tolerance at all tells the value from any other
        (10.0, None, 99.0, ""),
    ],
)
def test_a_golden_must_tell_its_value_from_null(value, null, atol, words):
    assert goldens.weakness(value, null, atol) == words


def test_values_are_taken_over_atol_is_kept_and_new_metrics_are_refused(tmp_path, capsys):
    metrics, path = tmp_path / "metrics.json", tmp_path / "goldens.json"
    path.write_text(json.dumps({"mini": {**GOLDEN, "05": GOLDEN["04"]}, "pacs": GOLDEN}))
    metrics.write_text(json.dumps({"04": {"gap": 11.0}}))
    command = ["goldens", str(metrics), "--goldens", str(path)]
    assert cli.main(command) == 0
    assert "04: gap: 10.0 -> 11.0" in capsys.readouterr().out
    assert json.loads(path.read_text()) == {
        "mini": {"04": {"gap": {"value": 11.0, "atol": 0.5, "null": 0.0}}, "05": GOLDEN["04"]},
        "pacs": GOLDEN,
    }
    metrics.write_text(json.dumps({"04": {"new": 1.0}}))
    assert cli.main([*command, "--profile", "pacs"]) == 1
    assert "04: new" in capsys.readouterr().err
    assert json.loads(path.read_text())["pacs"]["04"] == {"new": {"value": 1.0, "atol": None, "null": None}}
    metrics.write_text("{")
    assert cli.main(command) == 2
    assert capsys.readouterr().err.startswith(f"{metrics}: not JSON")


def test_goldens_are_those_of_the_clone_else_those_that_are_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(goldens, "PACKAGE", tmp_path / "installed")
    installed = tmp_path / "installed" / "_data" / "goldens.json"
    installed.parent.mkdir(parents=True)
    installed.write_text("{}")
    assert goldens.default_goldens() == installed
    (tmp_path / "metrics.json").write_text("{}")
    assert cli.main(["goldens", "metrics.json"]) == 2, "those that are installed are not written"
    assert "goldens.json" in capsys.readouterr().err and installed.read_text() == "{}"
    (tmp_path / "tests").mkdir()
    assert cli.main(["goldens", "metrics.json"]) == 0
    assert goldens.default_goldens() == goldens.IN_CLONE and goldens.IN_CLONE.is_file()


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        goldens.update({"04": {"gap": 1.0}}, tmp_path / "goldens.json")
    assert [*tmp_path.iterdir()] == []


# --- several seeds

PARAMETERS = "# parameters\nseed = 3  # of the draw"


def test_seeds_propose_tolerances_from_the_spread(notebook, tmp_path, capsys, monkeypatch):
    def run(paths, out, parameters, profile):
        assert [p.stem for p in paths] == ["a"] and out.name == f"seed-{parameters['seed']}"
        out.mkdir(parents=True)
        return {"a": {"seed": float(parameters["seed"]), "rate": 0.5, "twice": 2.0 * parameters["seed"]}}, []

    monkeypatch.setattr(goldens, "run", run)
    paths = [notebook("a", PARAMETERS), notebook("b", "# parameters\nx = 1  # no seed")]
    held = {"seed": {"value": 2.0, "atol": 1.5, "null": 8.0}, "twice": {"value": 4.0, "atol": 5.0, "null": 24.0}}
    (tmp_path / "goldens.json").write_text(json.dumps({"mini": {"a": held}}))
    goldens.seeds(paths, tmp_path / "out", tmp_path / "goldens.json", "mini")
    rows = {row["metric"]: row for row in json.loads((tmp_path / "out" / "seeds.json").read_text())}
    seed = rows["seed"]
    assert [seed[name] for name in ("mean", "min", "max", "value", "atol", "proposed")] == [
        2.0,
        0.0,
        4.0,
        2.0,
        1.5,
        6.3,
    ]
    assert seed["std"] == pytest.approx(2.5**0.5) and seed["note"] == "a seed is outside, null accepted"
    assert rows["twice"]["note"] == "tolerance over half the way to null"
    assert rows["rate"]["proposed"] == 0.005, "all seeds agree: 1 % of the mean"
    assert rows["rate"]["note"] == "" and rows["rate"]["value"] is None
    assert re.search(r"6\.3 +a seed is outside, null accepted", capsys.readouterr().out)


def test_seeds_stop_at_a_failure(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(goldens, "run", lambda *_, **__: ({}, ["a.ipynb: why"]))
    with pytest.raises(NotebookError, match="seed 0:\na.ipynb: why"):
        goldens.seeds([notebook("a", PARAMETERS)], tmp_path, profile="mini")
