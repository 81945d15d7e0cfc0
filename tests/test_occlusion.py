"""Occlusion: which pixels matter for the margin of a class."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clipnull.course.occlusion import importance

S = 24


def corner(pixels):
    """How bright the top left quarter is, and a constant: (n, 3, S, S) -> (n, 2)."""
    bright = pixels[:, 0, : S // 2, : S // 2].mean((1, 2))
    return torch.stack([bright, torch.ones(len(bright))], 1)


def arrays(picture):
    return torch.tensor(np.asarray(picture)).permute(2, 0, 1).float() / 255


@pytest.fixture
def looks_left():
    """A tower that sees only the top left quarter."""
    return SimpleNamespace(preprocess=arrays, embed_pixels=corner, validate_encoder=lambda: None)


def drawing(*corners):
    """White strokes in some quarters of a black page: (row, column) of each."""
    page = np.zeros((S, S, 3), "u1")
    for row, column in corners:
        page[row * S // 2 + 4 : row * S // 2 + 8, column * S // 2 + 4 : column * S // 2 + 8] = 255
    return Image.fromarray(page)


def test_what_the_tower_sees_matters_and_nothing_else(looks_left):
    (pixels,) = importance(looks_left, drawing((0, 0), (1, 1)), torch.eye(2), 0, [lambda z: z], side=0.25, steps=7)
    top, left = divmod(int(pixels.argmax()), S)
    assert pixels.shape == (S, S) and pixels.max() > 0.01
    assert 3 <= top < 9 and 3 <= left < 9  # the stroke, and what the same squares cover
    assert pixels[S // 2 + 3 :].abs().max() < 1e-6 > pixels[:, S // 2 + 3 :].abs().max()


def test_an_edit_that_takes_the_class_away_leaves_a_map_of_zeros_beside_the_one_before(looks_left):
    gone = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    before, after = importance(looks_left, drawing((0, 0)), torch.eye(2), 0, [lambda z: z, lambda z: z @ gone])
    assert before.max() > 0.01 and torch.equal(after, torch.zeros(S, S))


def test_settings_out_of_range_are_refused(looks_left):
    for wrong, message in (({"steps": 1}, "steps: 1 "), ({"side": 1}, "side: 1 "), ({"steps": 3}, "side: 0.3 ")):
        with pytest.raises(ValueError, match=message):
            importance(looks_left, drawing(), torch.eye(2), 0, [lambda z: z], **wrong)
