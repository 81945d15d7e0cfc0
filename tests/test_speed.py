"""What data/results/speed.py and device_speed.py measure, on small inputs; the times themselves are the benchmark's."""

import json
import math
import sys
from types import SimpleNamespace

import device_speed
import pytest
import speed
import torch
import torch.nn.functional as F
from helpers import VIT, gated, plain, random

import clipnull as cn
from clipnull.embedding import AGREE_MIXED

METHODS = list(cn.METHODS)
REQUESTS = ["one class", "one cell", "one domain", "half of all classes"]


@pytest.fixture
def tiny(clip, corner, monkeypatch):
    """Few and narrow embeddings, miniclip in the place of a ViT-B-32, and a LEACE that does nothing."""
    sizes = {
        "CLASSES": 5, "DOMAINS": 2, "WIDTH": 16, "PICTURES": 20, "MANY": 50, "MANY_WIDTH": 16, "JPEGS": 3, "ROWS": 5000,
        "SOME_NAMES": 5, "SOME_STEPS": 1, "PROTOTYPES": 2,
    }  # fmt: skip
    for name, value in sizes.items():
        monkeypatch.setattr(speed, name, value)

    def least_seconds(call, patience=0.2):
        call()
        return 0.01

    monkeypatch.setattr(speed, "alone", lambda call, *arguments: call(*arguments))
    monkeypatch.setattr(speed, "load", lambda *_, **__: clip)
    monkeypatch.setattr(speed, "load_images", lambda: corner)
    monkeypatch.setattr(speed, "embed", lambda clip, images: torch.randn(len(images), clip.width))
    monkeypatch.setattr(speed, "least_seconds", least_seconds)
    leace = SimpleNamespace(fit=lambda x, labels: None)
    monkeypatch.setitem(sys.modules, "concept_erasure", SimpleNamespace(LeaceEraser=leace))


@pytest.mark.slow
def test_every_part_is_measured_and_reported(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(speed.tempfile, "tempdir", str(tmp_path))
    figures = json.loads(json.dumps(speed.measure(), allow_nan=False))
    assert figures["closed_form"] == {method: dict.fromkeys(REQUESTS, 0.01) for method in METHODS}
    assert figures["added"] == {method: 1.0 if method in ("neuron", "gated") else 0.0 for method in METHODS}
    assert list(figures["many"]["seconds"]) == METHODS
    assert list(figures["index"]["apply"]) == ["bare", *speed.FORMS] and figures["index"]["query"] == 1e-5
    assert figures["index"]["forget"] > 0 and not any(tmp_path.iterdir())
    assert len(speed.section(figures)[1].splitlines()) == 2 + 3 * len(METHODS) + len(speed.FORMS) + 5


@pytest.mark.nightly
def test_memory_beyond_the_embeddings_does_not_grow_with_them():
    d = 128
    edits = {"linear": plain(d), "bias": plain(d, bias=random(d).double()), "gated": gated(d)}
    classifiers = F.normalize(random(6, 345, d), dim=-1)
    few, more = 60_000, 240_000
    peaks = [speed.alone(speed.edit_many, n, edits, classifiers)["peak"] for n in (few, more)]
    if None in peaks:
        pytest.skip("this system does not report the peak memory of a process")
    embeddings = 4 * d * (more - few)  # bytes; what the allocator keeps varies by 20 MB, a copy would be 92 MB
    assert embeddings / 2 < peaks[1] - peaks[0] < embeddings * 4 / 3


def test_a_device_is_timed_on_each_model(small, monkeypatch):
    sizes = {"PICTURES": 4, "PROTOTYPES": 1, "STEPS": 1, "ROWS": 20, "FILES": 3}
    for name, value in sizes.items():
        monkeypatch.setattr(device_speed, name, value)
    monkeypatch.setattr(speed, "CLASSES", 5)
    models, clock = [], iter(range(1000))
    monkeypatch.setattr(device_speed, "load", lambda *arguments: models.append(arguments) or small(VIT))
    monkeypatch.setattr(device_speed, "rates", lambda *_: {"bare": 2.0, "clipnull": 1.0})
    monkeypatch.setattr(device_speed.time, "perf_counter", lambda: next(clock))  # each call takes one second
    figures = json.loads(json.dumps(device_speed.measure("cpu", ["ViT-B-32", "ViT-L-14"])))
    assert models == [("ViT-B-32", "none", "cpu"), ("ViT-L-14", "none", "cpu")]
    assert "| pictures per second, float32 | 4.0 | 4.0 |" in device_speed.section(figures)[-1]


def test_on_a_gpu_files_are_read_and_the_cpu_is_compared(small):
    clip = small(VIT)
    rates = speed.rates(clip, 3, device_speed.bare_loader, 2)
    assert set(rates) == {"bare", "clipnull"} and all(0 < rate < math.inf for rate in rates.values())
    far = device_speed.far_from_the_cpu(clip, torch.randn(2, 3, clip.image_size, clip.image_size))
    assert abs(far["float32"]) < abs(far["mixed"]) < AGREE_MIXED
