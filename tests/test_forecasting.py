"""What an edit will do, before a picture is seen: simulated embeddings, and forecasts made of them."""

import json
import math
from dataclasses import replace
from functools import partial

import forecasts
import pytest
import torch
import torch.nn.functional as F

import clipnull as cn
from clipnull.bench.sweep import every_request
from clipnull.evaluate import accuracy_matrix, classify, rates
from clipnull.forecasting import outlook, simulation
from clipnull.forecasting.choosing import simulator_of

NAMES = cn.Vocabulary(("cat", "dog", "house"), ("photo", "line"))
DOG = cn.Forget(["dog"], ["line"])


@pytest.fixture(scope="module")
def cells(clip):
    return cn.embed_vocabulary(clip, NAMES, prototypes=False)


@pytest.fixture(scope="module")
def known(clip, images):
    """The cells of miniworld, with the prototypes that come with the model."""
    return cn.embed_vocabulary(clip, images.vocabulary)


def test_simulated_embeddings_are_unit_rows_and_repeat(cells):
    drawn, again = (simulation.draw(cells, draws=3, pictures=4) for _ in range(2))
    assert drawn.shape == (3, 3, 2, 4, 256) and torch.equal(drawn, again)
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(3, 3, 2, 4))
    assert not torch.equal(drawn, simulation.draw(cells, seed=1, draws=3, pictures=4))


def test_they_lie_where_pictures_do(known, images, z):
    """Nearer to the mean of their own cell of real pictures than to that of any other, for most of 71 cells."""
    drawn = F.normalize(simulation.draw(known).mean((0, 3)).flatten(0, 1), dim=-1)
    place = images.classes * len(images.vocabulary.domains) + images.domains
    real = torch.zeros_like(drawn).index_add_(0, place, F.normalize(z, dim=-1))
    filled = images.counts().flatten() > 0
    real = F.normalize(real[filled] - real[filled].mean(0), dim=-1)
    drawn = F.normalize(drawn[filled] - drawn[filled].mean(0), dim=-1)
    nearest = (drawn @ real.T).argmax(1) == torch.arange(len(real))
    assert nearest.double().mean() > 0.75


def test_centres_follow_texts_where_there_is_nothing_else(cells):
    middle = simulation.centres(cells).double()
    parts = cells.texts - cells.texts.mean((0, 1))
    assert F.cosine_similarity(middle, parts, dim=-1).min() > 0.95
    mean = torch.randn(256, generator=torch.Generator().manual_seed(0))
    moved = simulation.centres(replace(cells, mean=mean)).double() - middle
    assert F.cosine_similarity(moved, mean.double(), dim=-1).min() > 0.999


def test_no_edit_changes_nothing(clip, cells):
    edit = cn.solve(cells, DOG.mask(NAMES), "nullspace", alpha=0.0)
    expected = cn.forecast(clip, DOG, NAMES, edit, prototypes=False)
    assert torch.equal(expected.before, expected.after) and expected.rates["forgetting_rate"] == 0
    assert expected.rates["retain_drop"] == 0 and expected.intervals["worst_cell_drop"] == (0, -10, 10)


@pytest.mark.slow
def test_it_has_the_figures_of_compare_and_is_near_the_truth(clip, images, z):
    """What the paper's edit costs siblings is forecast, and that the gate costs far less."""
    request, drops = cn.Forget(["car"], ["line"]), {}
    for method, form in (("nullspace", "linear"), ("gated", "module")):
        edit = cn.unlearn(clip, request, images.vocabulary, method)
        expected = cn.forecast(clip, request, images.vocabulary, edit)
        measured = cn.compare(clip, edit.apply(clip), images, request, features=(z, edit.images(z)))
        assert expected.rates.keys() == measured.rates.keys() and expected.before.shape == measured.before.shape
        assert torch.equal(expected.mask, measured.mask)
        assert (expected.edit, edit.form) == (edit, form)
        for name, (mean, low, high) in expected.intervals.items():
            assert low <= mean <= high and name.replace("_", " ") in str(expected)
        drops[method] = [result.rates["sibling_class_drop"] for result in (expected, measured)]
        assert abs(expected.rates["retain_drop"] - measured.rates["retain_drop"]) < 3
    assert all(bad > 4 * good > 0 for bad, good in zip(drops["nullspace"], drops["gated"], strict=True))


def test_intervals_hold_what_held_out_pictures_show(clip, images, z, known):
    """Of every second class and one domain, after two linear edits: nine of ten."""
    simulator = simulator_of(clip, images.vocabulary, known)
    before = classify(z, simulator.classifier, images.domains)
    held = {name: [] for name in ("forgetting_rate", "retain_drop")}
    for request in [*every_request(images, ["global"])[::2], cn.Forget(domains=["line"])]:
        mask = request.mask(images.vocabulary)
        for method in ("nullspace", "oblique"):
            edit = cn.solve(known, mask, method)
            after = classify(z, simulator.classifier, images.domains, edit.images)
            truth = rates(accuracy_matrix(before, images), accuracy_matrix(after, images), mask)
            forecast = simulator.forecast(edit, mask, request)
            for name, inside in held.items():
                _, low, high = forecast.intervals[name]
                inside.append(low <= truth[name] <= high)
    assert all(sum(inside) >= 0.9 * len(inside) for inside in held.values()), held


def test_edits_before_count(clip, cells):
    """What is forgotten already cannot be lost again."""
    edited = cn.unlearn(clip, cn.Forget(["dog"]), NAMES, "neuron", prototypes=False).apply(clip)
    expected = cn.forecast(edited, cn.Forget(["cat"]), NAMES, "neuron", prototypes=False)
    assert expected.before[1].max() < 0.2 < 0.8 < expected.before[0].min()
    assert expected.after[0].max() < 0.2 and expected.after[2].min() > 0.8


@pytest.mark.slow
def test_forecasts_are_checked_beside_the_truth(clip, corner, monkeypatch):
    monkeypatch.setattr(outlook, "draw", partial(simulation.draw, draws=4))
    rows, choices = forecasts.check(clip, corner, ["global"], prototypes=False)
    requests = every_request(corner, ["global"])
    entry = json.loads(json.dumps(forecasts.to_json("corner", rows, choices)))
    assert entry["requests"] == len(choices) == len(requests) and entry["kind"] == "forecast"
    assert len(rows) % len(requests) == 0
    whole, *methods = entry["errors"]
    assert whole["method"] == "all" and [row["method"] for row in methods] == list(cn.METHODS)
    errors = [abs(r["retain_drop"][0] - r["retain_drop"][1]) for r in rows if r["usual"]]
    assert whole["retain_drop"][0] == pytest.approx(sum(errors) / len(errors), abs=1e-3)
    choice = entry["choice"]
    assert choice["chosen"] <= choice["best"] and sum(choice["methods"].values()) == len(requests)
    text = "\n".join(forecasts.section(entry))
    assert "3 requests" in text and "gated" in text and f"{choice['best']:.1f}" in text


def test_noise_is_what_few_pictures_leave_open(corner):
    """Half of n forgotten pictures are right after: the rate of n - 1 drawn anew is off as a binomial is."""
    mask = cn.Forget(["car"], [corner.vocabulary.domains[0]]).mask(corner.vocabulary)
    forgotten = mask[corner.classes, corner.domains].nonzero()[:, 0]
    half, n, after = forgotten[: len(forgotten) // 2], len(forgotten), corner.classes.clone()
    after[half] = (after[half] + 1) % len(mask)
    noise = forecasts.Redrawn(corner, times=2000).noise(corner.classes, after, mask)
    m, p = n - 1, len(half) / n
    expected = sum(math.comb(m, k) * p**k * (1 - p) ** (m - k) * abs(k / m - p) for k in range(m + 1))
    assert noise["forgetting_rate"] == pytest.approx(expected, rel=0.06) and noise["retain_drop"] == 0
    assert forecasts.Redrawn(corner).noise(corner.classes, corner.classes, mask)["forgetting_rate"] == 0
