"""Figures: numbers of heat maps, and names beside their points."""

import matplotlib.pyplot as plt
import pytest
import torch

from clipnull.course import plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_share_of_few_pictures_is_written_as_a_count():
    shares, enough = torch.tensor([[75.0, 75.0], [float("nan"), 0.0]]), plots.MIN_FOR_PERCENT
    ax = plots.matrix(shares, ["a", "b"], ["c", "d"], counts=torch.tensor([[8, 400], [0, enough - 1]]))
    assert [text.get_text() for text in ax.texts] == ["6/8", "75", "0/19"]
    counts = torch.full((2, 2), enough)
    ax = plots.matrix(shares - 50, ["a", "b"], ["c", "d"], written=shares, counts=counts)
    assert [text.get_text() for text in ax.texts] == ["75", "75", "0"]


def test_a_trade_off_names_each_point_and_its_kind_without_names_on_points():
    points = {name: ([x, x - 0.1, x + 0.1], [y, y - 1, y + 1]) for name, x, y in
              (("a", 0.5, 3), ("b", 0.52, 3.2), ("c", 0.9, 9), ("free", 0.0, 0))}  # fmt: skip
    fig = plots.trade_off(points, {"a": "ours", "b": "ours", "c": "theirs", "free": "control"}, ("x", "y"), "Title")
    (ax,) = fig.axes
    assert {text.get_text() for text in ax.texts} == {*points}
    assert [text.get_text() for text in ax.get_legend().texts] == ["ours", "theirs", "control"]
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
