"""Occlusion: which pixels matter for the lead of a class."""

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
    (found,) = importance(looks_left, drawing((0, 0), (1, 1)), torch.eye(2), 0, [lambda z: z], side=0.25, steps=7)
    top, left = divmod(int(found.argmax()), S)
    assert found.shape == (S, S) and found.max() > 0.01
    assert 3 <= top < 9 and 3 <= left < 9  # the stroke, and what the same squares cover
    assert found[S // 2 + 3 :].abs().max() < 1e-6 > found[:, S // 2 + 3 :].abs().max()


def test_the_other_class_gains_what_one_loses(looks_left):
    one, other = (importance(looks_left, drawing((0, 0)), torch.eye(2), c, [lambda z: z])[0] for c in (0, 1))
    assert torch.allclose(one, -other, atol=1e-6) and one.abs().max() > 0.01


def test_an_edit_that_takes_the_class_away_leaves_a_map_of_zeros_beside_the_one_before(looks_left):
    gone = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    before, after = importance(looks_left, drawing((0, 0)), torch.eye(2), 0, [lambda z: z, lambda z: z @ gone])
    assert before.max() > 0.01 and torch.equal(after, torch.zeros(S, S))


def test_paper_on_paper_changes_nothing(looks_left):
    page = Image.new("RGB", (S, S), (200, 10, 30))
    assert importance(looks_left, page, torch.eye(2), 0, [lambda z: z]).abs().max() < 1e-6


def test_every_pixel_is_covered(looks_left):
    for side, steps in ((0.5, 2), (0.3, 9), (0.99, 2)):
        assert not importance(looks_left, drawing((0, 0)), torch.eye(2), 0, [lambda z: z], side, steps).isnan().any()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"steps": 1}, "steps: 1 is not valid"),
        ({"side": 0}, "side: 0 is not valid; expected at least 1 / steps"),
        ({"side": 1}, "side: 1 is not valid"),
        ({"c": 2}, "c: 2 is not valid; expected a row"),
        ({"c": -1}, "c: -1 is not valid"),
        ({"classifier": torch.eye(2)[:1]}, "c: 0 is not valid"),
        ({"side": 0.3, "steps": 3}, "side: 0.3 is not valid"),
    ],
)
def test_settings_out_of_range_are_refused(looks_left, wrong, message):
    given = {"classifier": torch.eye(2), "c": 0, "changes": [lambda z: z]} | wrong
    with pytest.raises(ValueError, match=message):
        importance(looks_left, drawing(), **given)
