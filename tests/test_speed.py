"""What is timed, and how it is told; the times themselves are the benchmark's (`clipnull bench --speed`)."""

import json
import math
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from helpers import gated, plain

import clipnull as cn
from clipnull import speed

METHODS = list(cn.METHODS)
WHATS = ["one class", "one cell", "one domain", "half of all classes"]


@pytest.fixture
def tiny(clip, corner, monkeypatch):
    """Few and narrow embeddings, miniclip in the place of a ViT-B-32, and a LEACE that does nothing.

    `tiny(leace, closed_form, ...)` says how many seconds each thing takes; each is called once.
    """
    fitted = []
    leace = SimpleNamespace(fit=lambda x, labels: fitted.append((x.shape, labels.shape)))
    for name, value in (("CLASSES", 5), ("DOMAINS", 2), ("WIDTH", 16), ("PICTURES", 20)):
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(speed, "load", lambda *_, **__: clip)
    monkeypatch.setattr(speed, "load_images", lambda: corner)
    monkeypatch.setattr(speed, "embed", lambda clip, images: torch.randn(len(images), clip.width))
    monkeypatch.setitem(sys.modules, "concept_erasure", SimpleNamespace(LeaceEraser=leace))

    def takes(fit, closed_form, forward, layers, answer):
        known = {leace.fit: fit, speed.solve: closed_form, clip.model.encode_image: forward}

        def least(call, patience=2.0):
            call()
            if call.func in known:
                return known[call.func]
            return layers if isinstance(call.func, torch.nn.Module) else answer

        monkeypatch.setattr(speed, "least_seconds", least)
        return fitted

    return takes


@pytest.mark.slow
def test_measure_times_every_method_on_every_request(tiny):
    fitted = tiny(0.5, 0.01, 1.0, 0.03, 0.1)
    found = speed.measure()
    assert fitted == [((20, 16), (20, 5))]
    assert list(found) == ["threads", "leace", "first", "closed_form", "forward", "added", "answer"]
    assert found["closed_form"] == {method: dict.fromkeys(WHATS, 0.01) for method in METHODS}
    assert found["added"] == {method: 0.03 if method == "gated" else 0.0 for method in METHODS}
    assert (found["leace"], found["forward"], found["answer"]) == (0.5, 1.0, 0.1)
    assert found["threads"] == torch.get_num_threads() and found["first"] > 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_leace_is_needed_and_the_extra_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "concept_erasure", None)
    with pytest.raises(ImportError, match="concept_erasure is not installed; expected the extra 'baselines'"):
        speed.measure()


def found(**changes):
    """Made-up figures that reach every target, but for `changes`."""
    times = {method: dict.fromkeys(WHATS, 0.010) for method in METHODS}
    made = {
        "threads": 2,
        "leace": 1.0,
        "first": 0.123,
        "closed_form": times,
        "forward": 0.5,
        "added": dict.fromkeys(METHODS, 0.0) | {"gated": 0.0123},
        "answer": 0.100,
    }
    return made | changes


def verdicts(text):
    """How many figures reached their target, and how many did not."""
    lines = text.splitlines()
    return sum(line.startswith("[OK]") for line in lines), sum(line.startswith("[MISS]") for line in lines)


def test_a_report_holds_every_figure_against_its_target():
    text = speed.report(found())
    assert verdicts(text) == (2 * len(METHODS) + 1, 0)
    assert "2 threads. LEACE, fitted on 10000 x 1024 embeddings with 345 labels: 1000 ms" in text
    assert "the first request of a vocabulary, which prepares for the others: 123 ms" in text
    assert "[OK]   gated      adds 1.23 %" in text and "[OK]   ridge      adds nothing" in text
    line = next(line for line in text.splitlines() if line.startswith("[OK]   oblique"))
    assert line.split(maxsplit=4)[2:4] == ["10", "ms"]
    assert line.endswith("(one class 10, one cell 10, one domain 10, half of all classes 10)")


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize(
    ("seconds", "leace", "reached"),
    [
        (0.150, 1.0, True),
        (0.151, 1.0, False),  # over the limit
        (0.100, 0.200, True),
        (0.101, 0.200, False),  # over half of LEACE
    ],
)
def test_the_slowest_request_of_a_method_counts(what, seconds, leace, reached):
    times = found()["closed_form"] | {"ridge": dict.fromkeys(WHATS, 0.010) | {what: seconds}}
    text = speed.report(found(closed_form=times, leace=leace))
    assert verdicts(text)[1] == (not reached)
    (line,) = (line for line in text.splitlines() if f"{what} {1000 * seconds:.0f}" in line)
    assert line.split()[:3] == ["[OK]" if reached else "[MISS]", "ridge", f"{1000 * seconds:.0f}"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"added": dict.fromkeys(METHODS, 0.0) | {"gated": 0.0200}}, "[OK]   gated      adds 2.00 %"),
        ({"added": dict.fromkeys(METHODS, 0.0) | {"gated": 0.0201}}, "[MISS] gated      adds 2.01 %"),
        ({"added": dict.fromkeys(METHODS, 0.0) | {"ridge": math.inf}}, "[MISS] ridge      adds inf %"),
        ({"answer": 0.200}, "[OK]   a changed request on the embedded pictures: 200 ms"),
        ({"answer": 0.201}, "[MISS] a changed request on the embedded pictures: 201 ms"),
    ],
)
def test_each_target_has_two_sides(changes, line):
    text = speed.report(found(**changes))
    assert sum(told.startswith(line) for told in text.splitlines()) == 1
    assert verdicts(text)[1] == line.startswith("[MISS]")


def test_the_targets_are_those_that_were_promised():
    assert (speed.CLASSES, speed.DOMAINS, speed.WIDTH, speed.PICTURES) == (345, 6, 1024, 10_000)
    assert (speed.CLOSED_FORM, speed.TIMES_LEACE, speed.GATE, speed.ANSWER) == (0.150, 2, 0.02, 0.200)


def test_requests_of_every_paradigm_are_timed(monkeypatch):
    monkeypatch.setattr(speed, "CLASSES", 6), monkeypatch.setattr(speed, "DOMAINS", 2)
    masks = speed.speed_masks()
    assert {what: int(mask.sum()) for what, mask in masks.items()} == dict(zip(WHATS, (2, 1, 6, 6), strict=True))
    assert masks["one class"].any(1).sum() == masks["one domain"].any(0).sum() == 1
    cells = speed.random_cells(16, torch.Generator().manual_seed(0))
    assert cells.shape == (6, 2) and len(cells.kinds) == 2
    torch.testing.assert_close(cells.texts.norm(dim=-1), torch.ones(6, 2, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [plain, gated])
def test_an_edit_adds_what_runs_behind_the_tower(clip, make, monkeypatch):
    timed = []
    monkeypatch.setattr(speed, "least_seconds", lambda call: timed.append(call.func) or 0.5)
    added = speed._added(make(clip.width), clip, torch.randn(2, clip.width))
    assert added == (0.5 if make is gated else 0.0)
    assert [len(layers) for layers in timed] == ([1] if make is gated else [])


def test_an_edit_that_changes_the_tower_is_never_free(clip):
    class Deeper:
        def apply(self, clip):
            after = plain(clip.width).apply(clip)
            after.model.visual.add_module("more", torch.nn.Linear(2, 2))
            return after

    assert speed._added(Deeper(), clip, torch.randn(2, clip.width)) == math.inf


def test_the_least_time_counts(monkeypatch):
    clock = [0.0]
    waits = iter([0.1, 0.001, 0.2, 0.0001])

    def call():
        clock[0] += next(waits)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert speed.least_seconds(call, patience=0.15) == pytest.approx(0.001)  # the third begins in time, no fourth
    assert list(waits) == [0.0001]
