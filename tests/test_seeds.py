"""Tolerances from several seeds."""

import json

import pytest

from clipnull.course.run import NotebookError
from clipnull.course.seeds import seeds

PARAMETERS = "# parameters\nseed = 3  # of the draw\nrate = 0.5  # share"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    for module in ("profiles", "run", "seeds"):
        monkeypatch.setattr(f"clipnull.course.{module}.default_profile", lambda: "mini")


def test_seeds_propose_tolerances_from_the_spread(notebook, tmp_path, capsys, monkeypatch):
    def run(paths, out, parameters, *_):
        assert [p.stem for p in paths] == ["a"] and out.name == f"seed-{parameters['seed']}"
        out.mkdir(parents=True)
        return {"a": {"seed": float(parameters["seed"]), "rate": 0.5, "twice": 2.0 * parameters["seed"]}}, []

    monkeypatch.setattr("clipnull.course.seeds.run", run)
    paths = [notebook("a", PARAMETERS), notebook("b", "# parameters\nx = 1  # no seed")]
    held = {
        "seed": {"value": 2.0, "atol": 1.5, "null": 8.0},
        "rate": {"value": 0.5, "atol": 0.1, "null": 0.0},
        "twice": {"value": 4.0, "atol": 5.0, "null": 24.0},
    }
    goldens = tmp_path / "goldens.json"
    goldens.write_text(json.dumps({"mini": {"a": held}}))
    found = seeds(paths, tmp_path / "out", 5, 4.0, goldens)
    assert json.loads((tmp_path / "out" / "seeds.json").read_text()) == found
    assert found["a"]["seed"] == {"values": [0, 1, 2, 3, 4], "mean": 2.0, "sd": pytest.approx(2.5**0.5), "atol": 6.3}
    assert found["a"]["rate"]["atol"] == 0.005, "all seeds agree: 1 % of the mean"
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if line.split()[:2] == ["a", "seed"] and "outside" in line]
    assert row.split()[2:9] == ["2", "0", "4", "1.581", "2", "1.5", "6.3"]
    assert row.endswith("a seed is outside, null accepted")
    (row,) = [line for line in printed.splitlines() if line.split()[:2] == ["a", "twice"]]
    assert row.endswith("  13  tolerance over half the way to null")
    (row,) = [line for line in printed.splitlines() if line.split()[:2] == ["a", "rate"]]
    assert row.split()[-1] == "0.005"
    assert "b: left out" in printed and "4 x the standard deviation over 5 seeds" in printed


def test_seeds_want_five(notebook, tmp_path):
    with pytest.raises(ValueError, match="count: 4 is too few; expected at least five"):
        seeds([notebook("a", PARAMETERS)], tmp_path, 4)


@pytest.mark.nightly
@pytest.mark.slow
def test_seeds_run_the_notebook_and_stop_at_a_failure(notebook, tmp_path):
    path = notebook("a", PARAMETERS, "assert seed != 0")
    with pytest.raises(NotebookError, match=r"seed 0:\na.ipynb, cell 2 \(assert seed != 0\)"):
        seeds([path], tmp_path / "out")
