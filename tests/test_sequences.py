"""Forgetting class after class: three ways, random orders, and where a method breaks."""

import math

import pytest
import torch

import clipnull as cn
from clipnull.bench import baselines, comparison, sequences
from clipnull.evaluate import accuracy_matrix, classify, rates


@pytest.fixture(scope="module")
def rows(on, data):
    return sequences.sequence(on, data, ["nullspace", "gated", "slug"], orders=3)


def test_sizes_double_up_to_half_of_all_classes(rows):
    assert [sequences.sizes_of(n) for n in (2, 7, 14, 16)] == [[1], [1, 2, 3], [1, 2, 4, 7], [1, 2, 4, 8]]
    keys = {(row["method"], row["order"], row["classes"], row["way"]) for row in rows}
    assert len(keys) == len(rows) == 3 * 3 * 2 * 3 and all(len(row["forgotten"]) == row["classes"] for row in rows)


def test_the_ways_are_what_they_say(rows, on, data):
    measured = {row["way"]: row for row in rows if (row["method"], row["order"], row["classes"]) == ("slug", 0, 2)}
    masks = [cn.Forget([name]).mask(on.images.vocabulary) for name in measured["union"]["forgotten"]]
    union = comparison.edit_of("slug", data, masks[0] | masks[1]).images(on.z)
    apart, after, model = on.z, on.z, data
    for mask in masks:
        apart = comparison.edit_of("slug", data, mask).images(apart)
        edit = comparison.edit_of("slug", model, mask)
        after, model = edit.images(after), model.after(edit)
    before = accuracy_matrix(on.before, on.images)
    for way, z in (("union", union), ("apart", apart), ("after", after)):
        answers = classify(z, on.classifier, on.images.domains)
        wanted = rates(before, accuracy_matrix(answers, on.images), masks[0] | masks[1])
        for figure in ("forgetting_rate", "retain_drop"):
            assert measured[way][figure] == pytest.approx(wanted[figure])


def test_beyond_the_filter_nothing_is_lost_by_what_acts_as_it_does(on, data, monkeypatch):
    """An edit that changes nothing gains nothing, and the filter may: their difference is what is told."""
    zero = torch.zeros(48, 1).double()
    monkeypatch.setattr(sequences, "edit_of", lambda *_: cn.Edit(zero, zero, "nothing"))
    for row in sequences.sequence(on, data, ["ridge"], orders=1):
        mask = cn.Forget(row["forgotten"]).mask(on.images.vocabulary)
        filtered = comparison.filtered(mask, on)
        gain = rates(*(accuracy_matrix(p, on.images) for p in (on.before, filtered)), mask)["retain_drop"]
        assert row["retain_drop"] == 0 and row["beyond_filter"] == pytest.approx(-gain)


def test_curves_tell_the_mean_and_the_spread_over_orders(rows):
    points = sequences.curves(rows)
    assert len(points) == 3 * 3 * 2
    for point in points:
        values = [r["retain_drop"] for r in rows if all(r[key] == point[key] for key in ("method", "way", "classes"))]
        assert point["orders"] == 3
        assert point["retain_drop"] == pytest.approx([sum(values) / 3, min(values), max(values)])
    empty = sequences.curves([rows[0] | {"forgetting_rate": math.nan}])
    assert empty[0]["forgetting_rate"] == [None] * 3


def curve(way, *points):
    return [
        {"method": "m", "way": way, "classes": n, "forgetting_rate": [f], "beyond_filter": [d]} for n, f, d in points
    ]


def test_a_method_breaks_where_it_first_forgets_too_little_or_loses_too_much():
    points = curve("union", (1, 1.0, 0.0), (4, 0.5, 9.0), (2, 0.8, 1.0))
    points += curve("after", (1, 1.0, 5.0), (2, 0.95, 5.1)) + curve("apart", (1, 1.0, 0.0))
    union, after, apart = sequences.breaks(points).values()
    assert (union, after, apart) == ("2: forgets 0.80", "2: loses 5.1 points", "–")


@pytest.mark.parametrize(
    "entrants, message",
    [
        (["filter"], "entrants: 'filter' makes no edit of pictures"),
        (["slug"], "entrants: 'slug' needs labelled pictures"),
    ],
)
def test_what_cannot_be_asked_for_is_named(on, data, entrants, message):
    with pytest.raises(ValueError, match=message):
        sequences.sequence(on, baselines.TrainingData(data.cells, 40.0), entrants)
