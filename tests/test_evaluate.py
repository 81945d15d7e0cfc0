"""What an edit changed: answers, rates by hand, and unrelated pictures."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import VIT, gated, plain, random

import clipnull as cn
from clipnull import edit as edit_module
from clipnull import evaluate
from clipnull.audits.probes import features_before_projection
from clipnull.evaluate import accuracy_matrix, classify, macro, others_of, rates, wilson
from clipnull.files import data_folder
from clipnull.images import Images
from clipnull.vocabulary import format_prompt, is_near

NAN = float("nan")
BEFORE = torch.tensor([[0.8, 0.6], [1.0, NAN], [0.5, 0.9]], dtype=torch.float64)
AFTER = torch.tensor([[0.2, 0.4], [0.9, NAN], [0.6, 0.9]], dtype=torch.float64)


def mask(*cells):
    m = torch.zeros(3, 2, dtype=torch.bool)
    for c in cells:
        m[c] = True
    return m


def test_rates_of_a_selective_request_by_hand():
    r = rates(BEFORE, AFTER, mask((0, 0)))
    assert r["forgetting_rate"] == pytest.approx(0.75)
    assert r["retain_drop"] == pytest.approx((20 + 10 - 10 + 0) / 4)
    assert r["sibling_class_drop"] == pytest.approx(20)  # same class, other domain
    assert r["sibling_domain_drop"] == pytest.approx((10 - 10) / 2)  # same domain, other classes
    assert r["worst_cell_drop"] == pytest.approx(20)


@pytest.mark.parametrize(
    "after, rate", [(0.9, 0.0), (0.7, 0.2 / (0.9 - 1 / 3)), (1 / 3, 1.0), (0.0, 1.0), (1.0, -0.1 / (0.9 - 1 / 3))]
)
def test_whole_domains_are_measured_on_the_way_to_chance(after, rate):
    first, last = BEFORE.clone(), BEFORE.clone()
    first[:, 0], last[:, 0] = torch.tensor([0.9, NAN, 0.9]), torch.tensor([after, NAN, after])
    assert rates(first, last, mask((0, 0), (1, 0), (2, 0)))["forgetting_rate"] == pytest.approx(rate)


def test_rates_at_the_edges():
    zero, low = torch.zeros_like(BEFORE), torch.full((3, 2), 1 / 3, dtype=torch.float64)
    row, classes, corner = mask((0, 0), (1, 0), (2, 0)), mask((0, 0), (0, 1)), mask((0, 0))
    for m in (corner, classes, mask((0, 0), (2, 0))):  # chance counts for whole domains only
        assert rates(BEFORE, BEFORE / 2, m)["forgetting_rate"] == pytest.approx(0.5)
        assert rates(BEFORE, zero, m)["forgetting_rate"] == 1
    assert math.isnan(rates(low, low, row)["forgetting_rate"]) and rates(low, low, corner)["forgetting_rate"] == 0
    assert math.isnan(rates(zero, zero, corner)["forgetting_rate"])
    for m in (classes, row):
        r = rates(BEFORE, AFTER, m)
        assert math.isnan(r["sibling_class_drop"]) and math.isnan(r["sibling_domain_drop"])
    only = torch.full((3, 2), NAN, dtype=torch.float64)
    only[0] = 0.5
    r = rates(only, only, classes)
    assert r["forgetting_rate"] == 0 and math.isnan(r["retain_drop"]) and math.isnan(r["worst_cell_drop"])
    assert macro(BEFORE) == pytest.approx((0.8 + 0.6 + 1.0 + 0.5 + 0.9) / 5)


def test_accuracy_is_counted_by_cell_without_pictures_that_have_no_answer():
    names = cn.Vocabulary(("cat", "dog", "fish"), ("line", "photo"))
    images = Images(("a", "b", "c", "d"), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1]), names)
    m = accuracy_matrix(torch.tensor([0, 1, 1, 0]), images)
    assert m[0, 0] == 0.5 and m[1].tolist() == [1.0, 0.0] and m[2].isnan().all() and m[0, 1].isnan()
    m = accuracy_matrix(torch.tensor([0, -1, -1, 0]), images)
    assert m[0, 0] == 1 and m[1, 1] == 0 and m[1, 0].isnan() and m[0, 1].isnan()
    labels = torch.tensor([1, -1, 0, 0])  # a label of -1 is not right either
    assert accuracy_matrix(torch.tensor([1, -1, 0, 0]), images, labels)[0, 0] == 1


def test_wilson_intervals_by_the_formula():
    for right, n, low, high in ((0, 4, 0, 0.4899), (4, 4, 0.5101, 1), (3, 4, 0.3006, 0.9544), (8, 10, 0.4902, 0.9433)):
        assert wilson(right, n) == pytest.approx((low, high), abs=1e-4)
    for bad in ((3, 2), (-1, 2), (0, 0), (1.5, 2)):  # as scipy says
        with pytest.raises((ValueError, TypeError)):
            wilson(*bad)


def test_each_picture_is_scored_by_the_classifier_of_its_domain():
    classifiers = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])  # the second domain swaps them
    z, domains = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.1, 0.3], [NAN, 1.0]]), torch.tensor([0, 1, 0, 1])
    assert classify(z, classifiers, domains).tolist() == [0, 1, 1, -1]
    assert classify(z, classifiers[0], domains).tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize("row", [[math.inf, 0.0], [0.0, -math.inf], [3e38, 3e38]])
def test_what_is_infinite_is_refused(row, monkeypatch):
    monkeypatch.setattr(evaluate, "ROWS", 2)
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], row])
    with pytest.raises(ValueError, match="features: row 3"):
        classify(z, torch.eye(2), torch.zeros(4, dtype=torch.int64))
    for value in (NAN, math.inf):
        with pytest.raises(ValueError, match="classifiers"):
            classify(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, value]]), torch.tensor([0, 0]))


EDITS = {"linear": plain(8), "bias": plain(8, bias=random(8, seed=3).double()), "gated": gated(8)}


@pytest.mark.parametrize("kind", EDITS)
def test_rows_are_edited_and_classified_some_at_a_time_with_the_same_result(kind, monkeypatch):
    edit, z, domains = EDITS[kind], random(23, 8, seed=4), torch.arange(23) % 3
    z[[5, 6, 22]] = NAN  # broken pictures, on both sides of a border
    whole, sizes = edit.layer(torch.float64)(z), []
    for module in (evaluate, edit_module):
        monkeypatch.setattr(module, "ROWS", 7)
    torch.testing.assert_close(edit.images(z), whole, equal_nan=True, atol=1e-6, rtol=1e-6)
    assert len(edit.images(z[:0])) == 0 and edit.images(z.double()).dtype == torch.float64
    for classifiers in (F.normalize(random(4, 8), dim=-1), F.normalize(random(3, 4, 8), dim=-1)):
        named = classify(z, classifiers, domains, lambda rows: sizes.append(len(rows)) or edit.images(rows))
        scores = torch.einsum("nd,ncd->nc", whole, classifiers.expand(3, 4, 8)[domains])
        assert named.tolist() == [-1 if i in (5, 6, 22) else int(scores[i].argmax()) for i in range(23)]
    assert max(sizes) <= 7 and sum(sizes) == 46


def test_a_gradient_goes_through_the_rows(monkeypatch):
    monkeypatch.setattr(edit_module, "ROWS", 2)
    z, edit = random(5, 8).requires_grad_(), EDITS["linear"]
    edit.images(z).sum().backward()
    torch.testing.assert_close(z.grad, edit.matrix().sum(1).float().expand(5, 8), atol=1e-5, rtol=1e-5)


def test_broken_pictures_count_neither_before_nor_after(clip, corner):
    few = corner.select(domains=["photo"])
    z = cn.embed(clip, few)
    edit, request = plain(clip.width), cn.Forget(["bird"])
    after, z_after = edit.apply(clip), edit.images(z)
    hurt, hurt_after, keep = z.clone(), z_after.clone(), torch.ones(len(few), dtype=torch.bool)
    hurt[1], hurt_after[4], keep[[1, 4]] = NAN, NAN, False
    result = cn.compare(clip, after, few, request, features=(hurt, hurt_after))
    whole = cn.compare(clip, after, few.where(keep), request, features=(z[keep], z_after[keep]))
    torch.testing.assert_close((result.before, result.after), (whole.before, whole.after), equal_nan=True)
    assert len(result.images) == len(few) - 2 and str(result) == str(whole)


@pytest.mark.parametrize(
    ("call", "argument", "expected"),
    [
        (lambda clip, images: cn.unlearn(clip, "dog", images.vocabulary), "request: 'dog'", "cn.Forget"),
        (lambda clip, images: cn.unlearn("miniclip", cn.Forget(["dog"]), images.vocabulary), "clip", "cn.load"),
        (lambda clip, images: cn.unlearn(clip, cn.Forget(["dog"]), ["dog", "cat"]), "vocabulary", "cn.Vocabulary"),
        (lambda clip, images: cn.solve(clip, torch.ones(2, 2).bool()), "cells", "cn.embed_vocabulary"),
        (lambda clip, images: cn.forecast(clip, ["dog"], images.vocabulary), "request", "cn.Forget"),
        (lambda clip, images: cn.compare(clip, plain(256), images, cn.Forget(["dog"])), "after: Edit", "cn.load"),
        (lambda clip, images: cn.zero_shot(clip, "folder"), "images: 'folder'", "cn.load_images"),
        (lambda clip, images: cn.audit(clip, clip, images, "dog"), "request", "cn.Forget"),
        (lambda clip, images: cn.audit(clip, "edit", images, cn.Forget(["dog"])), "after", "a model or an edit"),
        (lambda clip, images: cn.release("out", "edit", clip, images), "edit", "cn.unlearn"),
        (lambda clip, images: cn.export("clip", "out"), "clip", "cn.load"),
    ],
)
def test_a_wrong_type_is_named_where_it_enters(clip, images, call, argument, expected):
    with pytest.raises(ValueError, match=rf"{argument}.*; expected .*{expected}"):
        call(clip, images)


# --- nothing is kept


def test_edited_models_are_freed(clip, corner):
    few, request = corner.select(["bird", "car"], ["flat"]), cn.Forget(["car"])
    after = gated(clip.width).apply(clip)
    model = weakref.ref(after.model)
    cn.embed(after, few), cn.compare(clip, after, few, request), features_before_projection(after, few)
    del after
    gc.collect()
    assert model() is None


# --- unrelated pictures, of a file of embeddings or those that come with miniclip


def embeddings(tmp_path, without=""):
    """A file of embeddings with three other words and six other pictures, two of each."""
    eye = np.eye(8, dtype=np.float32)
    arrays = {
        "images": eye[[0, 1, 0, 1]] + 0.1, "classes": np.array(["cat", "dog", "cat", "dog"]),
        "domains": np.array(["line", "line", "photo", "photo"]), "class_names": np.array(["cat", "dog"]),
        "domain_names": np.array(["line", "photo"]), "texts_build": np.stack([eye[:2], eye[:2] + 0.1], 1),
        "texts_free": eye[:2], "other_images": eye[[3, 3, 4, 4, 5, 5]] * 2 + 0.1 * eye[[4, 5, 5, 3, 3, 4]],
        "other_texts": 3 * eye[3:6], "other_names": np.array(["boat", "hat", "tree"]),
    }  # fmt: skip
    path = tmp_path / "file.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if name != without})
    return str(path)


def away(*axes):
    """An edit that takes axes of the space away."""
    u = torch.eye(8, dtype=torch.float64)[:, list(axes)]
    return cn.Edit(u, u, "nullspace")


def test_the_share_of_changed_answers_by_hand(tmp_path):
    path = embeddings(tmp_path)
    clip, images = cn.load(path, device="cpu"), cn.load_images(path)
    others = others_of(clip, images.vocabulary)
    assert others.names == ("boat", "hat", "tree") and others.unedited.tolist() == [0, 0, 1, 1, 2, 2]
    assert others.answers(away(3).images).tolist() == [1, 2, 1, 1, 2, 2], "of a boat, what little else is in it"
    assert others.changed(away(3).images).tolist() == [True, True, False, False, False, False]
    request = cn.Forget(["cat"])
    result = cn.compare(clip, away(3).apply(clip), images, request)
    assert result.rates["collateral"] == pytest.approx(100 / 3) and "collateral" in str(result)
    assert cn.compare(clip, clip, images, request).rates["collateral"] == 0
    both = away(3).apply(clip)
    assert cn.compare(both, away(4).apply(both), images, request).rates["collateral"] == pytest.approx(100 / 2)
    rows = cn.compare(clip, away(3).apply(clip), images, cn.Forget(domains=["line"]))
    assert math.isnan(rows.rates["collateral"]) and rows.renamed is None, "a whole domain takes others along"


def test_it_is_not_known_without_pictures_or_words(tmp_path):
    clips = [cn.load(embeddings(tmp_path, without), device="cpu") for without in ("other_images", "")]
    images, request = cn.load_images(embeddings(tmp_path)), cn.Forget(["cat"])
    assert others_of(clips[0], images.vocabulary) is None
    result = cn.compare(clips[0], away(3).apply(clips[0]), images, request)
    assert math.isnan(result.rates["collateral"]) and "collateral" not in str(result)
    assert math.isnan(cn.compare(*clips, images, request).rates["collateral"])  # nor between two models


def test_what_comes_with_the_model_belongs_to_it(clip, small, corner):
    (path,) = data_folder("miniclip").glob("others-*.npz")
    assert path.stem == f"others-{clip.fingerprint}" and path.stat().st_size < 1.5e6
    with np.load(path, allow_pickle=False) as file:
        texts, names = torch.from_numpy(file["other_texts"][:5]).float(), file["other_names"][:5].tolist()
    expected = clip.embed_texts([format_prompt("a picture of {a}", name) for name in names])
    torch.testing.assert_close(texts, expected, atol=2e-3, rtol=0)
    assert others_of(small(VIT), corner.vocabulary) is None  # another model has none of its own


def test_neither_miniworld_nor_pacs_is_among_them(clip, images):
    pacs = cn.Vocabulary(("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"), ("photo", "sketch"))
    for vocabulary in (images.vocabulary, pacs):
        others = others_of(clip, vocabulary)
        assert len(others.names) >= 150 and not {*others.names} & {*vocabulary.classes}
        assert not any(is_near(name, vocabulary.classes) for name in others.names)
        assert (others.unedited == others.shows).double().mean() > 0.5, "labels stay with their pictures and names"
    word = others.names[0]
    fewer = others_of(clip, cn.Vocabulary((word, "dog"), ("photo", "line")))
    assert word not in fewer.names and len(fewer.images) < len(others.images), "what shows it is left out, too"
