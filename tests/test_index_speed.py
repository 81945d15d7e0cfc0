"""What is timed of an index, and how it is told; the times themselves are the benchmark's."""

import math

import pytest

import clipnull as cn
from clipnull import index_speed, speed
from clipnull.index_speed import measure, report


@pytest.fixture
def tiny(clip, monkeypatch):
    monkeypatch.setattr(index_speed, "ROWS", 5000)
    monkeypatch.setattr(index_speed, "NAMES", 5)
    monkeypatch.setenv("CLIPNULL_CACHE", "as it was")  # and will be again
    monkeypatch.setattr(speed, "alone", lambda call: call())
    monkeypatch.setattr(index_speed, "load", lambda *_: clip)
    monkeypatch.setattr(index_speed, "FEW", 0)
    monkeypatch.setattr(speed, "least_seconds", lambda call, patience: call() or 0.01)


def test_everything_is_measured(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(index_speed.tempfile, "tempdir", str(tmp_path))
    found = measure(rounds=1)
    assert list(found["apply"]) == ["bare", *cn.METHODS] and all(0 < s < 60 for s in found["apply"].values())
    assert found["query"] == 1e-5 and 0 < found["forget"] < 60 and not any(tmp_path.iterdir())
    assert (index_speed.SHARE, index_speed.QUERY, index_speed.FORGET) == (0.7, 20e-6, 600)


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, 0),
        ({"apply": {"bare": 1.0, "oblique": 1.0 / 0.69}}, 1),
        ({"query": 21e-6}, 1),
        ({"forget": 601.0}, 1),
        ({"apply": {"bare": 1.0, "oblique": math.inf, "gated": 2.0}, "query": 1.0, "forget": 999.0}, 4),
    ],
)
def test_a_missed_target_is_told(changes, missed, monkeypatch):
    monkeypatch.setattr(speed, "report", lambda found: "the rest")
    own = {"apply": {"bare": 1.0, "oblique": 1.0 / 0.71}, "query": 19e-6, "forget": 599.0} | changes
    text = report({"index": own})
    assert text.startswith("the rest") and text.count("[MISS]") == missed
    assert report({}) == "the rest"
