import math

import pytest
import torch

import clipnull as cn
from clipnull import evaluate

NAN = float("nan")
BEFORE = torch.tensor([[0.8, 0.6], [1.0, NAN], [0.5, 0.9]], dtype=torch.float64)
AFTER = torch.tensor([[0.2, 0.4], [0.9, NAN], [0.6, 0.9]], dtype=torch.float64)


def mask(*cells):
    m = torch.zeros(3, 2, dtype=torch.bool)
    for c in cells:
        m[c] = True
    return m


def test_rates_of_a_selective_request_by_hand():
    r = cn.rates(BEFORE, AFTER, mask((0, 0)))
    assert r["forgetting_rate"] == pytest.approx(0.75)
    assert r["retain_drop"] == pytest.approx((20 + 10 - 10 + 0) / 4)
    assert r["sibling_class_drop"] == pytest.approx(20)              # same class, other domain
    assert r["sibling_domain_drop"] == pytest.approx((10 - 10) / 2)  # same domain, other classes
    assert r["worst_cell_drop"] == pytest.approx(20)


@pytest.mark.parametrize("left, rate", [(0.9, 0.0), (0.7, 0.2 / (0.9 - 1 / 3)), (1 / 3, 1.0), (0.0, 1.0),
                                        (1.0, -0.1 / (0.9 - 1 / 3))])
def test_whole_domains_are_measured_on_the_way_to_chance(left, rate):
    before, after = BEFORE.clone(), BEFORE.clone()
    before[:, 0], after[:, 0] = torch.tensor([0.9, NAN, 0.9]), torch.tensor([left, NAN, left])
    assert cn.rates(before, after, mask((0, 0), (1, 0), (2, 0)))["forgetting_rate"] == pytest.approx(rate)


def test_chance_is_for_whole_domains_only():
    zero = torch.zeros_like(BEFORE)
    for m in (mask((0, 0)), mask((0, 0), (0, 1)), mask((0, 0), (2, 0))):
        half = cn.rates(BEFORE, BEFORE / 2, m)["forgetting_rate"]
        assert half == pytest.approx(0.5) and cn.rates(BEFORE, zero, m)["forgetting_rate"] == 1


def test_a_domain_at_chance_has_nothing_to_lose():
    low = torch.full((3, 2), 1 / 3, dtype=torch.float64)
    assert math.isnan(cn.rates(low, low, mask((0, 0), (1, 0), (2, 0)))["forgetting_rate"])
    assert cn.rates(low, low, mask((0, 0)))["forgetting_rate"] == 0


def test_kept_cells_without_pictures_give_no_drop():
    only = torch.full((3, 2), NAN, dtype=torch.float64)
    only[0] = 0.5
    r = cn.rates(only, only, mask((0, 0), (0, 1)))
    assert r["forgetting_rate"] == 0 and math.isnan(r["retain_drop"]) and math.isnan(r["worst_cell_drop"])


def test_siblings_are_undefined_for_whole_classes_and_whole_domains():
    for m in (mask((0, 0), (0, 1)), mask((0, 0), (1, 0), (2, 0))):
        r = cn.rates(BEFORE, AFTER, m)
        assert math.isnan(r["sibling_class_drop"]) and math.isnan(r["sibling_domain_drop"])
    assert cn.rates(BEFORE, AFTER, mask((0, 0), (0, 1)))["forgetting_rate"] == pytest.approx(0.8 / 1.4)


def test_cells_without_pictures_count_for_nothing():
    r = cn.rates(BEFORE, AFTER, mask((1, 0), (1, 1)))
    assert r["forgetting_rate"] == pytest.approx(0.1)
    assert cn.macro(BEFORE) == pytest.approx((0.8 + 0.6 + 1.0 + 0.5 + 0.9) / 5)


def test_nothing_to_forget_gives_no_rate():
    zero = torch.zeros(3, 2, dtype=torch.float64)
    assert math.isnan(cn.rates(zero, zero, mask((0, 0)))["forgetting_rate"])


def test_accuracy_is_counted_by_cell():
    world = cn.World(files=("a", "b", "c", "d"), classes=torch.tensor([0, 0, 1, 1]), domains=torch.tensor([0, 0, 0, 1]),
                     vocabulary=cn.Vocabulary(("cat", "dog", "fish"), ("line", "photo")))
    m = cn.accuracy_matrix(torch.tensor([0, 1, 1, 0]), world)
    assert m[0, 0] == 0.5 and m[1].tolist() == [1.0, 0.0] and m[2].isnan().all() and m[0, 1].isnan()


@pytest.mark.parametrize("right, n, low, high", [(0, 4, 0.0, 0.4899), (4, 4, 0.5101, 1.0), (3, 4, 0.3006, 0.9544),
                                                 (8, 10, 0.4902, 0.9433)])
def test_wilson_intervals_by_the_formula(right, n, low, high):
    assert cn.wilson(right, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("right, n, message", [(3, 2, "right: 3 of 2"), (-1, 2, "right: -1"), (0, 0, "n: 0"),
                                               (1.0, 2, "right: 1.0")])
def test_wilson_refuses_what_is_no_share(right, n, message):
    with pytest.raises(ValueError, match=message):
        cn.wilson(right, n)


def test_zero_shot_beats_chance_by_far_and_names_domains(clip, world):
    assert cn.macro(cn.zero_shot(clip, world)) > 0.7
    assert cn.macro(cn.domain_accuracy(clip, world)) > 0.7


def test_forgetting_a_class_on_pictures(clip, world):
    request = cn.Forget(classes=["car"])
    edit = cn.unlearn(clip, request, world.vocabulary)
    after = edit.apply(clip)
    result = cn.compare(clip, after, world, request)
    assert result.rates["forgetting_rate"] > 0.5
    assert result.rates["retain_drop"] < 10
    assert "forget car everywhere" in str(result)
    other = cn.compare(clip, after, world, cn.Forget(classes=["tree"]))
    assert other.rates["forgetting_rate"] < 0.3                         # the request, not the edit, makes the mask
    g = torch.Generator().manual_seed(0)
    random = cn.Edit(*cn.nullspace(torch.randn(edit.rank, clip.width, generator=g)), "nullspace")
    assert cn.compare(clip, random.apply(clip), world, request).rates["forgetting_rate"] < 0.2


def test_each_picture_is_read_by_the_classifier_of_its_domain():
    texts = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])          # the second domain swaps them
    z = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.1, 0.3]])
    assert evaluate.classify(z, texts, torch.tensor([0, 1, 0])).tolist() == [0, 1, 1]


def test_readouts_without_domains_are_the_same_for_all(clip, world):
    free = evaluate.readouts(clip, world.vocabulary)
    assert free.shape == (16, 6, clip.width) and torch.equal(free[:, 0], free[:, 5])
    assert torch.equal(free[:, 0], cn.embed_classes(clip, world.vocabulary.classes))
    for prompts, templates in (("domain", "domain"), ("seen", "build")):
        texts = evaluate.readouts(clip, world.vocabulary, prompts)
        assert torch.equal(texts, cn.embed_cells(clip, world.vocabulary, templates))
        predicted = torch.einsum("nd,cnd->nc", cn.embed(clip, world), texts[:, world.domains]).argmax(1)
        assert torch.equal(cn.predict(clip, world, prompts), predicted)


def test_prompts_are_checked(clip, world):
    with pytest.raises(ValueError, match="prompts: 'fre' is not known; did you mean 'free'"):
        cn.compare(clip, clip, world, cn.Forget(classes=["car"]), prompts="fre")
    for prompts in ("free", "domain", "seen"):
        assert cn.predict(clip, world, prompts).shape == (len(world),)


def test_evaluation_prompts_never_build_edits():
    from clipnull.prompts import TEMPLATES
    built = set(TEMPLATES["build"])
    assert not built & set(TEMPLATES["free"]) and not built & set(TEMPLATES["domain"])
    assert all("{d}" not in t for t in TEMPLATES["free"])


def test_prompts_are_said_in_english():
    assert cn.say("a {d} of {a}", "elephant", "art_painting") == "a painting of an elephant"
    assert cn.say("a {d} of {a}", "hot_dog", "infograph") == "an infographic of a hot dog"
    with pytest.raises(ValueError, match="classes: only 'dog' given"):
        cn.Vocabulary(("dog",), ("photo",))
