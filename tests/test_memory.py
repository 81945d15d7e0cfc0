"""Where a GPU runs out of memory, the batch is halved, and what comes out is the same."""

import warnings
from dataclasses import replace

import pytest
import torch
from helpers import VIT, pixels, random
from torch import nn

import clipnull as cn
from clipnull import embedding, prototypes
from clipnull.models import Batch


class Small(nn.Module):
    """A model on a device that has no memory for more than `most` rows at once."""

    def __init__(self, model, most):
        super().__init__()
        self.inside, self.most, self.asked = model, most, []
        self.visual, self.logit_scale = model.visual, model.logit_scale

    def _within(self, rows):
        self.asked.append(len(rows))
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return rows

    def encode_image(self, rows, normalize=False):
        return self.inside.encode_image(self._within(rows), normalize=normalize)

    def encode_text(self, rows, normalize=False):
        return self.inside.encode_text(self._within(rows), normalize=normalize)


def scarce(clip, most):
    """`clip` on such a device, and how many rows it was asked for."""
    model = Small(clip.model, most)
    return replace(clip, model=model), model.asked


def test_batches_stay_as_small_as_they_had_to_become():
    asked, batch = [], Batch(8)

    def call(rows):
        asked.append((rows.start, rows.stop))
        if rows.stop - rows.start > 3:
            raise torch.OutOfMemoryError
        return asked[-1]

    with pytest.warns(UserWarning, match="no memory for") as told:
        found = batch.through(call, 5 + 8)
    assert "no memory for 8 rows at once; going on with 4 at a time" in str(told[0].message)
    assert asked[:3] == [(0, 8), (0, 4), (0, 2)] and len(told) == 2 and batch.size == 2
    assert found == asked[2:] and [rows for pair in found for rows in range(*pair)] == list(range(13))
    assert Batch.of(batch) is batch
    with pytest.raises(ValueError, match="batch: 0 is not valid"):
        Batch.of(0)


def test_where_one_row_is_too_much_the_error_is_that_of_the_device():
    def never(rows):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"), pytest.warns(UserWarning):
        Batch(4).through(never, 4)


def test_pictures_and_texts_are_embedded_in_smaller_batches(small, corner):
    clip = small(VIT)
    tight, asked = scarce(clip, 5)
    with pytest.warns(UserWarning, match="going on with"):
        torch.testing.assert_close(tight.embed_pixels(pixels(clip, 9)), clip.embed_pixels(pixels(clip, 9)))
        torch.testing.assert_close(tight.embed_texts(["a dog"] * 9), clip.embed_texts(["a dog"] * 9))
    asked.clear()
    with pytest.warns(UserWarning, match="going on with"):
        z = cn.embed(tight, corner)
    torch.testing.assert_close(z, cn.embed(clip, corner))
    n = len(corner)
    assert asked == [n, n // 2, n // 4, n // 8, *[n // 8] * 7, n % 8][: len(asked)] and sum(asked[3:]) == n


def test_a_smaller_batch_is_remembered_from_one_read_batch_to_the_next(small, corner, monkeypatch):
    monkeypatch.setattr(embedding, "BATCH", 8)
    tight, asked = scarce(small(VIT), 4)
    with pytest.warns(UserWarning) as told:
        cn.embed(tight, corner)
    assert len(told) == 1 and asked.count(8) == 1


def test_pictures_are_synthesized_in_smaller_batches(small):
    clip = small(VIT)
    tight, asked = scarce(clip, 2)
    settings = {"targets": random(5, clip.width), "steps": 2, "progress": False}
    expected = prototypes.synthesize(clip, **settings)
    with pytest.warns(UserWarning, match="no memory for 5 rows at once; going on with 2 at a time"):
        found = prototypes.synthesize(tight, **settings)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    assert asked[0] == 5 and max(asked[1:]) == 2


def test_all_cells_of_a_vocabulary_meet_the_limit_once(small, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path))
    vocabulary = cn.Vocabulary([f"thing {i}" for i in range(40)], ["photo"])
    tight, asked = scarce(small(VIT), 20)
    monkeypatch.setattr(prototypes, "embed_cells", lambda clip, v, rows: random(len(rows), v.shape[1], clip.width))
    with pytest.warns(UserWarning) as told:
        made = prototypes.cell_prototypes(tight, vocabulary, steps=1, progress=False)
    assert made.mask.all() and len(told) == 1 and asked.count(32) == 1


def test_no_rows_are_asked_for_once_and_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Batch(4).through(lambda rows: (rows.start, rows.stop), 0) == [(0, 0)]
