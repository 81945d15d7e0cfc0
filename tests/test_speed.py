"""What is timed, and how it is told; the times themselves are the benchmark's (`clipnull bench --speed`)."""

import json
import math
import sys
import time
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
WHATS = ["one class", "one cell", "one domain", "half of all classes"]


@pytest.fixture
def tiny(clip, corner, monkeypatch):
    """Few and narrow embeddings, miniclip in the place of a ViT-B-32, and a LEACE that does nothing.

    `tiny(leace, closed_form, ...)` says how many seconds each thing takes; each is called once.
    """
    fitted = []
    leace = SimpleNamespace(fit=lambda x, labels: fitted.append((x.shape, labels.shape)))
    for name, value in (("CLASSES", 5), ("DOMAINS", 2), ("WIDTH", 16), ("PICTURES", 20), ("MANY", 50), ("JPEGS", 3)):
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(speed, "MANY_WIDTH", 16)
    monkeypatch.setattr(speed, "alone", lambda call, *arguments: call(*arguments))
    monkeypatch.setattr(speed, "load", lambda *_, **__: clip)
    monkeypatch.setattr(speed, "load_images", lambda: corner)
    monkeypatch.setattr(speed, "embed", lambda clip, images: torch.randn(len(images), clip.width))
    monkeypatch.setitem(sys.modules, "concept_erasure", SimpleNamespace(LeaceEraser=leace))

    def takes(fit, closed_form, forward, layers, answer):
        known = {leace.fit: fit, speed.solve: closed_form, clip.model.encode_image: forward}

        def least(call):
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
    assert list(found) == ["threads", "leace", "first", "closed_form", "forward", "added", "answer", "many", "embed"]
    assert found["closed_form"] == {method: dict.fromkeys(WHATS, 0.01) for method in METHODS}
    assert found["added"] == {method: 0.03 if method in ("neuron", "gated") else 0.0 for method in METHODS}
    assert (found["leace"], found["forward"], found["answer"]) == (0.5, 1.0, 0.1)
    assert found["threads"] == torch.get_num_threads() and found["first"] > 0
    assert list(found["many"]["seconds"]) == METHODS and found["many"]["input"] == 50 * 16 * 4
    assert all(rate > 0 for rate in found["embed"].values())
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_leace_is_needed_and_the_extra_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "concept_erasure", None)
    with pytest.raises(ImportError, match="concept_erasure is not installed; expected the extra 'baselines'"):
        speed.measure(["closed_form"])


def test_a_part_is_measured_alone_and_told_alone(tiny):
    tiny(0.5, 0.01, 1.0, 0.03, 0.1)
    found = speed.measure(["answer"])
    assert list(found) == ["threads", "answer"]
    assert verdicts(speed.report(found)) == (1, 0) and len(speed.report(found).splitlines()) == 2


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
        "many": many(),
        "embed": {"bare": 50.0, "clipnull": 48.0},
    }
    return made | changes


def many(seconds=7.0, peak=2_500_000_000):
    times = dict.fromkeys(METHODS, 7.0) | {"ridge": seconds}
    return {"seconds": times, "input": 1_228_800_000, "beyond": peak and 100_000_000, "peak": peak}


def verdicts(text):
    """How many figures reached their target, and how many did not."""
    lines = text.splitlines()
    return sum(line.startswith("[OK]") for line in lines), sum(line.startswith("[MISS]") for line in lines)


def test_a_report_holds_every_figure_against_its_target():
    text = speed.report(found())
    assert verdicts(text) == (3 * len(METHODS) + 3, 0)
    assert "2 threads. LEACE, fitted on 10000 x 1024 embeddings with 345 labels: 1000 ms" in text
    assert "the first request of a vocabulary, which prepares for the others: 123 ms" in text
    assert "[OK]   gated      adds 1.23 %" in text and "[OK]   ridge      adds nothing" in text
    assert (
        "600000 x 512 embeddings edited and classified, 345 classes x 6 domains, one class forgotten; all but " in text
    )
    assert "2.50 GB: the embeddings 1.23 GB, to edit and classify them 0.10 GB, and the programs" in text
    assert "48.0 pictures a second, 0.96 of a bare loop of open_clip (50.0). Target: at least 0.95" in text
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
        ({"many": many(seconds=15.0)}, "[OK]   ridge        15.0 s"),
        ({"many": many(seconds=15.1)}, "[MISS] ridge        15.1 s"),
        ({"many": many(peak=3_000_000_000)}, "[OK]   memory     3.00 GB"),
        ({"many": many(peak=3_010_000_000)}, "[MISS] memory     3.01 GB"),
        ({"many": many(peak=None)}, "memory: this system does not tell"),
        ({"embed": {"bare": 100.0, "clipnull": 95.0}}, "[OK]   clipnull embed, ViT-B-32"),
        ({"embed": {"bare": 100.0, "clipnull": 94.9}}, "[MISS] clipnull embed, ViT-B-32"),
    ],
)
def test_each_target_has_two_sides(changes, line):
    text = speed.report(found(**changes))
    assert sum(told.startswith(line) for told in text.splitlines()) == 1
    assert verdicts(text)[1] == line.startswith("[MISS]")


def test_the_targets_are_those_that_were_promised():
    assert (speed.CLASSES, speed.DOMAINS, speed.WIDTH, speed.PICTURES) == (345, 6, 1024, 10_000)
    assert (speed.CLOSED_FORM, speed.TIMES_LEACE, speed.GATE, speed.ANSWER) == (0.150, 2, 0.02, 0.200)
    assert (speed.MANY, speed.MANY_WIDTH, speed.MANY_SECONDS, speed.MANY_BYTES) == (600_000, 512, 15, 3e9)
    assert speed.EMBED == 0.95


def test_what_was_measured_before_there_were_these_figures_is_still_told():
    old = found()
    del old["many"], old["embed"]
    assert verdicts(speed.report(old)) == (2 * len(METHODS) + 1, 0)


@pytest.mark.slow
def test_memory_beyond_the_embeddings_does_not_grow_with_them():
    """Each in a process of its own; what is left to grow are the answers, some bytes for each of n."""
    d = 128
    edits = {"linear": plain(d), "bias": plain(d, bias=random(d).double()), "gated": gated(d)}
    classifiers = F.normalize(random(6, 345, d), dim=-1)
    few, more = (speed.alone(speed.edit_many, n, edits, classifiers) for n in (60_000, 240_000))
    assert list(few["seconds"]) == list(edits) and few["input"] == 60_000 * d * 4 == more["input"] / 4
    if few["peak"] is None:
        pytest.skip("this system does not tell how much memory a process had")
    grown = more["beyond"] - few["beyond"]  # what the allocator keeps varies by 20 MB, a copy would be 92 MB
    assert few["input"] < few["peak"] and grown < (more["input"] - few["input"]) / 3


def test_memory_is_asked_of_linux_then_of_resource_then_of_nobody(monkeypatch):
    assert speed.peak_memory() is None or speed.peak_memory() > 10_000_000
    monkeypatch.setattr(speed.Path, "is_file", lambda self: False)
    monkeypatch.setitem(sys.modules, "resource", SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: Usage()))
    assert speed.peak_memory() == 5
    monkeypatch.setitem(sys.modules, "resource", None)
    assert speed.peak_memory() is None


class Usage:
    ru_maxrss = 5


def test_a_bare_loop_gives_what_embed_gives(clip, tmp_path):
    files = speed.jpegs(tmp_path, 3)
    nowhere = torch.zeros(3, dtype=torch.int64)
    images = cn.Images(files, nowhere, nowhere, cn.Vocabulary(["a", "b"], ["c"]))
    assert images.image(0).size == (640, 480) and len({file.read_bytes() for file in files}) == 3
    torch.testing.assert_close(speed.bare_loop(clip, images), cn.embed(clip, images))


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
    assert speed.least_seconds(call, patience=0.05) == pytest.approx(0.001)  # three at least, and no fourth
    assert list(waits) == [0.0001]


def test_a_device_is_timed_on_each_model(small, monkeypatch):
    monkeypatch.setattr(speed, "CLASSES", 5)
    asked, clock = [], iter(range(1000))
    monkeypatch.setattr(device_speed, "load", lambda *arguments: asked.append(arguments) or small(VIT))
    monkeypatch.setattr(device_speed.time, "perf_counter", lambda: next(clock))  # each call takes one second
    found = json.loads(json.dumps(device_speed.measure("cpu", ["ViT-B-32", "ViT-L-14"])))
    assert asked == [("ViT-B-32", None, "cpu"), ("ViT-L-14", None, "cpu")]
    text = device_speed.report(found)
    assert "CPU, " in text and text.count("4.0 pictures a second in float32") == 2
    assert "a prototype (1 at once), 1 steps: 1.00 s; 60 of them by arithmetic 60.0 s" in text
    assert "oblique made in 1000 ms on the CPU, 20000 rows a second; gated made" in text
    made = found["models"]["ViT-B-32"]["synthesize"] | {"prototypes": 32, "steps": 60}
    found["models"]["ViT-B-32"]["synthesize"] = made
    assert "a prototype (32 at once), 60 steps: 0.03 s\n" in device_speed.report(found)


def test_on_a_gpu_files_are_read_and_the_cpu_is_asked_too(small):
    clip = small(VIT)
    rates = device_speed.rates_of_files(clip, 3)
    assert set(rates) == {"bare", "clipnull"} and all(0 < rate < math.inf for rate in rates.values())
    pixels = torch.randn(2, 3, clip.image_size, clip.image_size)
    far = device_speed.far_from_the_cpu(clip, pixels)
    assert abs(far["float32"]) < abs(far["mixed"]) < AGREE_MIXED
    own = {
        "embed": {"mixed": 1.0},
        "synthesize": {"prototypes": 1, "steps": 60, "seconds": 1.0},
        "solve": {},
        "edit": {},
    }
    own |= {"far": far, "files": {"bare": 100.0, "clipnull": 94.0}}
    text = device_speed.report({"device": "GPU", "torch": "2", "models": {"A": own}})
    assert "[MISS] 0.94 of a bare loop of open_clip (100.0)" in text and "in float32, " in text


def test_more_calls_than_three_have_time(monkeypatch):
    clock, calls = [0.0], []

    def call():
        clock[0] += 0.1
        calls.append(1)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert speed.least_seconds(call, patience=0.55) == pytest.approx(0.1) and len(calls) == 6


def test_of_a_tenth_ten_times_the_seconds_count(monkeypatch):
    clock, sizes = [0.0], []

    def edited(z):
        clock[0] += 0.01 * len(z)
        sizes.append(len(z))
        return z

    edits = dict.fromkeys(("a", "b"), SimpleNamespace(images=edited))
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    told = speed.edit_many(50, edits, F.normalize(random(2, 3, 8), dim=-1), ["b"])
    assert told["seconds"] == pytest.approx({"a": 0.5, "b": 0.5}) and sum(sizes) == 55
