"""Intervals of means over requests: what is drawn, how far they reach, and that they hold the truth."""

import numpy as np
import pytest
import torch

import clipnull as cn
from clipnull.bench import bootstrap
from clipnull.bench.bootstrap import Group, intervals, of_mean
from clipnull.evaluate import RANGES, accuracy_matrix, rates
from clipnull.images import Images, families


def pictures(c=4, k=3, n=10, seed=0):
    """About n pictures in each cell, of which only embeddings are stored."""
    generator = np.random.default_rng(seed)
    classes, domains = generator.integers(0, c, n * c * k), generator.integers(0, k, n * c * k)
    names = cn.Vocabulary([f"class {i}" for i in range(c)], [f"domain {i}" for i in range(k)])
    return Images((), torch.from_numpy(classes), torch.from_numpy(domains), names, torch.zeros(len(classes), 1))


def forget(images, paradigm="selective"):
    """The masks of all single classes, cells or domains: (R, C, K)."""
    c, k = images.vocabulary.shape
    if paradigm == "global":
        return np.eye(c, dtype=bool)[:, :, None].repeat(k, 2)
    if paradigm == "complete":
        return np.eye(k, dtype=bool)[:, None].repeat(c, 1)
    return np.eye(c * k, dtype=bool).reshape(c * k, c, k)


def trial(images, masks, before=0.8, gone=0.9, flips=0.05, seed=1):
    """A group as chance makes it: most forgotten pictures become wrong, and some kept ones flip."""
    generator = np.random.default_rng(seed)
    n = len(images)
    right = generator.random(n) < before
    inside = masks[:, images.classes.numpy(), images.domains.numpy()]
    lost = right & (generator.random((len(masks), n)) < gone)
    changed = np.where(inside, lost, generator.random(inside.shape) < flips)
    return Group(masks, right, list(changed))


@pytest.mark.parametrize("paradigm", ["global", "selective", "complete"])
def test_means_are_those_of_the_rates_of_each_request(paradigm):
    images = pictures()
    group = trial(images, forget(images, paradigm))
    (ends,) = intervals(images, [group], times=20)
    before = accuracy_matrix(torch.where(torch.from_numpy(group.right), images.classes, images.classes + 1), images)
    rows = []
    for mask, changed in zip(group.masks, group.changed, strict=True):
        right = torch.from_numpy(group.right ^ changed)
        after = accuracy_matrix(torch.where(right, images.classes, images.classes + 1), images)
        rows.append(rates(before, after, torch.from_numpy(mask)))
    for name in rows[0]:
        expected = np.nanmean([row[name] for row in rows]) if any(row[name] == row[name] for row in rows) else np.nan
        assert ends[name][0] == pytest.approx(expected, abs=1e-4, nan_ok=True), name
        assert ends[name][1] <= ends[name][0] <= ends[name][2] or np.isnan(expected)


def test_an_interval_stays_in_its_range_and_nothing_is_certain():
    images = pictures(n=2)
    nothing = Group(forget(images), np.ones(len(images), bool), [np.zeros(len(images), bool)] * 12)
    everything = trial(images, forget(images), before=1.1, gone=1.1, flips=0)
    for group, rate in ((nothing, 0.0), (everything, 1.0)):
        (ends,) = intervals(images, [group])
        for name, (low, high) in RANGES.items():
            mean, a, b = ends[name]
            assert name == "collateral" or low <= a < b <= high, "an interval without width, or out of range"
        n = len(images)
        least = bootstrap.Z**2 / (n + bootstrap.Z**2)
        assert ends["forgetting_rate"][0] == rate and ends["forgetting_rate"][1] <= rate - least + 1e-6
        assert ends["retain_drop"] == pytest.approx((0, -100 * least, 100 * least), abs=1e-4)


def test_where_no_cell_lost_anything_all_kept_cells_are_the_worst():
    images = pictures()
    group = trial(images, forget(images, "global"), flips=0)
    (ends,) = intervals(images, [group])
    assert ends["worst_cell_drop"] == pytest.approx(ends["retain_drop"], abs=1e-4), "and not the first of them"


def test_the_seed_decides_and_few_draws_at_a_time_say_about_the_same(monkeypatch):
    images = pictures()
    group = trial(images, forget(images))
    whole, again, other = (intervals(images, [group], seed=s)[0] for s in (0, 0, 1))
    assert str(whole) == str(again) != str(other)
    monkeypatch.setattr(bootstrap, "MEMORY", 10 * len(images))
    (parts,) = intervals(images, [group])
    for name in ("forgetting_rate", "retain_drop"):
        width = whole[name][2] - whole[name][1]
        assert parts[name] == pytest.approx(whole[name], abs=0.15 * width) and width > 0


def test_pictures_of_one_family_are_drawn_together(monkeypatch):
    """Ten redrawings of one design are no ten pictures: what they have in common makes the interval wider."""
    images = pictures(c=2, k=2, n=40)
    mask = forget(images, "global")[:1]  # a single request: nothing else varies
    classes, domains = images.classes.numpy(), images.domains.numpy()
    cell, place = classes * 2 + domains, np.zeros(len(images), int)
    for at in range(4):
        place[cell == at] = np.arange((cell == at).sum()) // 8
    gone = mask[0][classes, domains] & (place % 2 == 0)  # all pictures of a family are forgotten, or none
    group = Group(mask, np.ones(len(images), bool), [gone])
    alone = intervals(images, [group])[0]["forgetting_rate"]
    monkeypatch.setattr(bootstrap, "families", lambda images: [str(i) for i in place])
    together = intervals(images, [group])[0]["forgetting_rate"]
    assert alone[0] == pytest.approx(together[0])
    assert together[2] - together[1] > 1.3 * (alone[2] - alone[1])


def test_families_are_those_of_the_index(images, tmp_path):
    names = families(images)
    assert len(names) == len(images) and 0.3 * len(images) < len({*names}) < len(images)
    assert families(pictures()) == [str(i) for i in range(120)]
    file, index = tmp_path / "line" / "dog" / "a.png", tmp_path / "index.csv"
    one = Images((file,), torch.tensor([0]), torch.tensor([0]), cn.Vocabulary(["dog", "cat"], ["line"]))
    for content, family in ((b"\xff\xfe\x00", "0"), (b"file,family\nline/dog/a.png,fluent:dog\n", "family fluent:dog")):
        index.write_bytes(content)
        assert families(one) == [family]


def test_collateral_is_drawn_over_other_pictures():
    images, masks = pictures(), forget(pictures(), "global")
    others = np.random.default_rng(0).random((len(masks), 200)) < 0.1
    group = trial(images, masks)
    group = Group(masks, group.right, group.changed, [*others[:3], None])
    (ends,) = intervals(images, [group], others=200)
    mean, low, high = ends["collateral"]
    assert mean == pytest.approx(100 * others[:3].mean(), abs=1e-3) and 0 <= low < mean < high < 25
    (ends,) = intervals(images, [Group(masks, group.right, group.changed, [None] * 4)], others=200)
    assert all(map(np.isnan, ends["collateral"]))


def test_most_intervals_hold_the_truth():
    """Pictures of a world in which 90 % are forgotten and 5 points lost: about 95 of 100 intervals say so."""
    held = {"forgetting_rate": 0, "retain_drop": 0}
    for seed in range(40):
        images = pictures(c=3, k=2, n=12, seed=seed)
        group = trial(images, forget(images, "global"), before=1.1, seed=seed)
        (ends,) = intervals(images, [group], times=300)
        for name, truth in (("forgetting_rate", 0.9), ("retain_drop", 5.0)):
            held[name] += ends[name][1] <= truth <= ends[name][2]
    assert all(count >= 35 for count in held.values()), held


def test_a_mean_of_requests_alone():
    values = np.random.default_rng(0).normal(0.7, 0.1, 30)
    mean, low, high = of_mean([*values, None, np.nan], 0, 1)
    half = 1.96 * values.std(ddof=1) / 30**0.5
    assert mean == pytest.approx(values.mean()) and (low, high) == pytest.approx((mean - half, mean + half), abs=0.012)
    assert of_mean([0.99, 1.0, 0.2], 0, 1)[2] <= 1 and all(map(np.isnan, of_mean([None], 0, 1)))
