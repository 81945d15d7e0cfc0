"""Goldens: comparing with them, and taking values over into them."""

import json
import os

import pytest

from clipnull.commands import cli
from clipnull.course import goldens
from clipnull.files import write_text

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
        (10.0, 0.0, None, ""),
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
    assert cli.main(command) == 1
    assert "04: new" in capsys.readouterr().err
    assert json.loads(path.read_text())["mini"]["04"] == {"new": {"value": 1.0, "atol": None, "null": None}}
    assert cli.main([*command, "--profile", "pacs"]) == 1
    assert set(json.loads(path.read_text())["pacs"]["04"]) == {"new"}


def test_a_broken_file_is_named(tmp_path, capsys):
    path = tmp_path / "metrics.json"
    path.write_text("{")
    assert cli.main(["goldens", str(path), "--goldens", str(tmp_path / "goldens.json")]) == 2
    assert capsys.readouterr().err.startswith(f"{path}: not JSON")
    with pytest.raises(ValueError, match="metrics.json: not JSON"):
        goldens.read(path, "mini")


def test_goldens_are_those_of_the_clone_else_those_that_are_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(goldens, "PACKAGE", tmp_path / "installed")
    assert goldens.default_goldens() == goldens.IN_CLONE, "neither is there: what a first run would write"
    installed = tmp_path / "installed" / "_data" / "goldens.json"
    installed.parent.mkdir(parents=True)
    installed.write_text("{}")
    assert goldens.default_goldens() == installed
    (tmp_path / "metrics.json").write_text("{}")
    assert cli.main(["goldens", "metrics.json"]) == 2, "those that are installed are not written"
    assert "expected --goldens FILE" in capsys.readouterr().err and installed.read_text() == "{}"
    (tmp_path / "tests").mkdir()
    assert cli.main(["goldens", "metrics.json"]) == 0
    assert goldens.default_goldens() == goldens.IN_CLONE and goldens.IN_CLONE.is_file()


@pytest.mark.parametrize("kept", ["old", None])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, kept):
    path = tmp_path / "goldens.json"
    if kept:
        path.write_text(kept)
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        goldens.update({"04": {"gap": 1.0}}, path) if not kept else write_text(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == ([("goldens.json", kept)] if kept else [])
