"""What is told of a request beside its rates."""

from pathlib import Path

import pytest
import torch

import clipnull as cn
from clipnull.bench.sweep import mean_pairs, pair_forgetting

IMAGES = cn.Images(
    files=tuple(map(Path, "abcdef")),
    classes=torch.tensor([0, 0, 0, 0, 1, 2]),
    domains=torch.tensor([0, 0, 0, 1, 0, 1]),
    vocabulary=cn.Vocabulary(("cat", "dog", "fish"), ("line", "photo")),
)
EYE = torch.eye(3).expand(2, -1, -1)


def test_pairs_by_hand():
    z = torch.tensor([[3.0, 1, 2], [3, 2, 1], [1, 2, 0], [3, 1, 1], [0, 1, 0], [0, 0, 1]])
    # cat against dog: of the drawings 2 of 3, of the photos 1 of 1: 5/6. Against fish: 1.
    after = torch.tensor([[1.5, 1, 2], [1.5, 2, 1], [0, 2, 0.5], [1.5, 1, 2], [0, 1, 0], [0, 0, 1]])
    # Then: dog 1 of 3 and 1 of 1: 2/3. Fish 1 of 3 and 0 of 1: 1/6.
    found = pair_forgetting(z, EYE, IMAGES, cn.Forget(["cat"]), lambda rows: after[: len(rows)])
    assert found == pytest.approx(((1 - (2 / 3) / (5 / 6)) + (1 - 1 / 6)) / 2)
    assert pair_forgetting(z, EYE, IMAGES, cn.Forget(["cat"]), lambda rows: rows) == 0


def test_pairs_are_of_one_class_in_every_domain():
    z = torch.eye(3)[IMAGES.classes]
    for request in (cn.Forget(["cat"], ["line"]), cn.Forget(domains=["line"]), cn.Forget(["cat", "dog"])):
        assert pair_forgetting(z, EYE, IMAGES, request, lambda rows: rows) is None


def test_means_are_over_what_there_is():
    assert mean_pairs([]) == {"form": None, "pair_forgetting": None}
    rows = [{"form": "layer", "pair_forgetting": x} for x in (0.5, 1.0, None)]
    assert mean_pairs(rows) == {"form": "layer", "pair_forgetting": 0.75}
    assert mean_pairs(rows[2:]) == {"form": "layer", "pair_forgetting": None}
