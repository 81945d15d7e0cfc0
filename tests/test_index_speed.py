"""What is timed of an index, and how it is told; the times themselves are the benchmark's."""

import math
import re

import index_speed
import pytest
import speed
import torch
from index_speed import measure, report

import clipnull as cn


@pytest.fixture
def tiny(clip, monkeypatch):
    monkeypatch.setattr(index_speed, "ROWS", 5000)
    monkeypatch.setattr(index_speed, "SOME", 5)
    monkeypatch.setattr(index_speed, "STEPS", 1)
    monkeypatch.setattr(speed, "alone", lambda call: call())
    monkeypatch.setattr(index_speed, "load", lambda *_: clip)
    monkeypatch.setattr(index_speed, "FEW", 2)
    monkeypatch.setattr(speed, "least_seconds", lambda call, patience: call() or 0.01)


def test_everything_is_measured(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(index_speed.tempfile, "tempdir", str(tmp_path))
    found = measure(rounds=1)
    assert list(found) == ["apply", "query", "forget"] and measure(speed.PARTS) == {}
    assert list(found["apply"]) == ["bare", *index_speed.FORMS] and all(0 < s < 60 for s in found["apply"].values())
    assert found["query"] == 1e-5 and found["forget"] > 0 and not any(tmp_path.iterdir())
    assert (index_speed.SHARE, index_speed.QUERY, index_speed.FORGET) == (0.7, 20e-6, 600)


def test_a_method_of_each_form_stands_for_all(monkeypatch):
    monkeypatch.setattr(speed, "report", lambda found: "the rest")
    forms = {method: index_speed.edit_of_one(method).form for method in cn.METHODS}
    assert {forms[method] for method in index_speed.FORMS} == {*forms.values()} and len(index_speed.FORMS) == 3
    told = re.findall(r"\w+", index_speed.FORMS["oblique"])
    assert {"oblique", *told} >= {method for method in forms if forms[method] == "linear"}
    before = report({"index": {"apply": {"bare": 1.0, "neuron": 1.2, "ridge": 1.2}}}).splitlines()[-2:]
    assert before[0].endswith(" 0.83 (a hidden layer)") and before[1].endswith(" 0.83")  # of an earlier version


def test_seconds_of_all_names_and_steps_are_extrapolated(tiny, monkeypatch):
    clock = [0.0]

    def taking(seconds, made=None):
        def call(*_, **__):
            clock[0] += seconds
            return made

        return call

    monkeypatch.setattr(index_speed.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(index_speed, "unlearn", taking(100.0))
    monkeypatch.setattr(index_speed, "embed_cells", taking(1.0, torch.zeros(5, 1, 4)))
    monkeypatch.setattr(index_speed, "ascend", taking(0.5, []))
    assert index_speed.forget() == {"seconds": 100 + (1000 / 5 - 1) * 1.0 + 61 / 2 * 0.5}


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
    for part in own:
        assert report({"index": {part: own[part]}}).count("Target") == 1
