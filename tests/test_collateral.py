"""Collateral: unrelated pictures that get another name, from a file of embeddings or beside the embedded model."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import plain, random

import clipnull as cn
from clipnull import evaluate as collateral
from clipnull.evaluate import Others, is_near, others_of
from clipnull.files import data_folder


def made(tmp_path, **fields):
    """A file of embeddings with three other words and six other pictures, two of each."""
    d = 8
    eye = np.eye(d, dtype=np.float32)
    arrays = {
        "images": eye[[0, 1, 0, 1]] + 0.1, "classes": np.array(["cat", "dog", "cat", "dog"]),
        "domains": np.array(["line", "line", "photo", "photo"]), "class_names": np.array(["cat", "dog"]),
        "domain_names": np.array(["line", "photo"]), "texts_build": np.stack([eye[:2], eye[:2] + 0.1], 1),
        "texts_free": eye[:2], "other_images": eye[[3, 3, 4, 4, 5, 5]] * 2 + 0.1 * eye[[4, 5, 5, 3, 3, 4]],
        "other_texts": 3 * eye[3:6], "other_names": np.array(["boat", "hat", "tree"]),
    }  # fmt: skip
    path = tmp_path / "file.npz"
    arrays |= fields
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return str(path)


def away(*axes):
    """An edit that takes axes of the space away."""
    u = torch.eye(8, dtype=torch.float64)[:, list(axes)]
    return cn.Edit(u, u, "nullspace")


def test_the_share_of_changed_answers_by_hand(tmp_path):
    path = made(tmp_path)
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


@pytest.mark.parametrize("fields", [{"other_images": None}, {"other_texts": None, "other_names": None}])
def test_it_is_not_known_without_pictures_or_words(tmp_path, fields):
    path = made(tmp_path, **fields)
    clip, images = cn.load(path, device="cpu"), cn.load_images(path)
    assert others_of(clip, images.vocabulary) is None
    result = cn.compare(clip, away(3).apply(clip), images, cn.Forget(["cat"]))
    assert math.isnan(result.rates["collateral"]) and "collateral" not in str(result)


def test_it_is_not_known_of_two_models(tmp_path):
    path = made(tmp_path)
    clip, other, images = cn.load(path, device="cpu"), cn.load(path, device="cpu"), cn.load_images(path)
    assert math.isnan(cn.compare(clip, other, images, cn.Forget(["cat"])).rates["collateral"])


@pytest.mark.parametrize(
    "name, near",
    [("cat", True), ("Cats", True), ("wild cat", True), ("fire truck", True), ("truck", True), ("firetruck", True),
     ("cattle", False), ("caterpillar", False), ("tree", False)],
)  # fmt: skip
def test_words_that_hold_or_nearly_equal_a_class_are_left_out(name, near):
    assert is_near(name, ["cat", "fire_truck"]) == near


def test_near_words_of_a_file_are_left_out(tmp_path):
    path = made(tmp_path, other_names=np.array(["boat", "big cat", "tree"]))
    others = others_of(cn.load(path, device="cpu"), cn.load_images(path).vocabulary)
    assert others.names == ("boat", "tree") and others.texts.shape == (2, 8) and len(others.images) == 6


# --- the pictures that come with miniclip


def test_what_comes_with_the_model_belongs_to_it(clip):
    (path,) = data_folder("miniclip").glob("others-*.npz")
    assert path.stem == f"others-{clip.fingerprint}" and path.stat().st_size < 1.5e6
    with np.load(path, allow_pickle=False) as found:
        images, texts = found["other_images"], found["other_texts"]
        assert images.dtype == texts.dtype == np.float16 and np.isfinite(images).all()
        assert images.shape[1] == texts.shape[1] == clip.width and len(found["shows"]) == len(images) >= 500
        assert len(found["other_names"]) == len(texts) >= 150
        names = found["other_names"].tolist()
        right = (F.normalize(torch.from_numpy(texts).float(), dim=1) @ torch.from_numpy(images).float().T).argmax(0)
        assert (right.numpy() == found["shows"]).mean() > 0.3, "the words are those of the pictures"
    some = names[:5]
    expected = clip.embed_texts([f"a picture of {'an' if n[0] in 'aeiou' else 'a'} {n}" for n in some])
    assert torch.allclose(torch.from_numpy(texts[:5]).float(), expected, atol=2e-3)


def test_neither_miniworld_nor_pacs_is_among_them(clip, images):
    pacs = cn.Vocabulary(("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"), ("photo", "sketch"))
    for vocabulary in (images.vocabulary, pacs):
        others = others_of(clip, vocabulary)
        assert len(others.names) >= 150 and not {*others.names} & {*vocabulary.classes}
        assert not any(is_near(name, vocabulary.classes) for name in others.names)
        assert (others.unedited == others.shows).double().mean() > 0.5, "labels stay with their pictures and names"
    some = others.names[0]
    fewer = others_of(clip, cn.Vocabulary((some, "dog"), ("photo", "line")))
    assert some not in fewer.names and len(fewer.images) < len(others.images), "what shows it is left out, too"


def test_another_model_has_none_of_its_own(clip, images, small):
    from helpers import VIT

    assert others_of(small(VIT), images.vocabulary) is None


def test_an_edit_of_the_embedded_model_changes_some_answers(clip, corner):
    result = cn.compare(clip, plain(clip.width).apply(clip), corner, cn.Forget(["car"]))
    assert 0 < result.rates["collateral"] < 50
    assert others_of(clip, corner.vocabulary).changed(plain(clip.width).images).sum() == result.renamed.sum()


def test_rows_at_a_time_change_nothing(monkeypatch):
    others = Others(random(50, 8), F.normalize(random(9, 8, seed=1), dim=1), tuple("abcdefghi"))
    edit = plain(8)
    whole = others.changed(edit.images)
    monkeypatch.setattr(collateral, "ROWS", 7)
    assert torch.equal(Others(others.images, others.texts, others.names).changed(edit.images), whole)
