"""Figures: captions, numbers of heat maps, and names that are shown as they are."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import clipnull as cn
from clipnull.course import plots
from clipnull.evaluate import Comparison
from clipnull.images import Images


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """The HTML of each figure that is displayed."""
    pages = []
    monkeypatch.setattr(plots.ipython, "display", lambda page, metadata: pages.append(page.data))
    return pages


# --- showing a figure


def test_a_long_caption_unfolds_and_its_first_sentence_is_the_alternative_text(shown):
    plots.show(plt.figure(), f"One <i>sentence</i>. {'X' * 400} <b>.")
    (page,) = shown
    picture = re.search('<img alt="One &lt;i&gt;sentence&lt;/i&gt;." src="data:image/webp;base64,([^"]+)"', page)[1]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).width > 100
    assert "<figcaption>One &lt;i&gt;sentence&lt;/i&gt;.</figcaption></figure><details>" in page
    assert "X &lt;b&gt;.</p></details>" in page and "<b>" not in page


def test_a_short_caption_is_shown_whole_and_nothing_unfolds(shown):
    plots.show(plt.figure(), "Rates at 0.5, by method. Below: chance.")
    assert 'alt="Rates at 0.5, by method."' in shown[0] and "method. Below: chance.</figcaption>" in shown[0]
    assert "<details" not in shown[0]
    with pytest.raises(ValueError, match="alt: 'short' is not valid"):
        plots.show(plt.figure(), "short")


def test_a_caption_is_split_between_sentences_and_nothing_is_lost():
    first, second, third = "Rates at 0.5, by method.", f"Means: {'ridge 1.00; ' * 30}end.", "Below: chance."
    assert plots.split_caption(f"{first} {second} {third}") == (first, f"{second} {third}")
    assert plots.split_caption(f"{first} {third}") == (f"{first} {third}", "")
    assert plots.split_caption(second) == (second, "")


# --- what is drawn

ODD = ["$x$", "$\\frac{$", "5 $ or 6 $", "plain"]


def texts_of(fig):
    """Each text of a figure, and whether it is read as a formula."""
    fig.canvas.draw()
    return {text._preprocess_math(text.get_text()) for text in fig.findobj(plt.Text) if text.get_text()}


@pytest.mark.parametrize("name", ODD)
def test_a_dollar_sign_in_a_name_begins_no_formula(name, images):
    ax = plots.matrix(torch.eye(2), [name, "b"], [name, "c"], title=name)
    figures = [ax.figure, plots.pictures([np.zeros((4, 4, 3))], [name])]
    figures.append(plots.scatter(np.zeros((2, 2)), [name, "b"]).figure)
    few = images.select(["dog", "car"], ["line"])
    vocabulary = cn.Vocabulary([name, *few.vocabulary.classes[1:]], [name, *few.vocabulary.domains[1:]])
    figures.append(plots.one_per_cell(Images(few.files, few.classes, few.domains, vocabulary), [name]))
    for fig in figures:
        texts = texts_of(fig)
        assert (name, False) in texts and not any(formula for _, formula in texts), texts


def test_a_share_of_few_pictures_is_written_as_a_count():
    shares, enough = torch.tensor([[75.0, 75.0], [float("nan"), 0.0]]), plots.MIN_FOR_PERCENT
    ax = plots.matrix(shares, ["a", "b"], ["c", "d"], counts=torch.tensor([[8, 400], [0, enough - 1]]))
    assert [text.get_text() for text in ax.texts] == ["6/8", "75", "0/19"]
    counts = torch.full((2, 2), enough)
    ax = plots.matrix(shares - 50, ["a", "b"], ["c", "d"], low=-100, written=shares, counts=counts)
    assert [text.get_text() for text in ax.texts] == ["75", "75", "0"]


def test_a_comparison_shows_counts_before_and_after(images):
    counts = images.counts()
    before = torch.where(counts > 0, 1.0, torch.nan).double()
    request = cn.Forget(["dog"], ["line"])
    mask = request.mask(images.vocabulary)
    result = Comparison(before, before * ~mask, mask, images, request, "free", torch.zeros(2, len(images)))
    sizes, forgotten = counts[counts > 0].tolist(), mask[counts > 0].tolist()
    shown = [[text.get_text() for text in ax.texts] for ax in plots.comparison(result).axes]
    assert shown[0] == [f"{n}/{n}" for n in sizes]
    assert shown[1] == [f"{0 if gone else n}/{n}" for n, gone in zip(sizes, forgotten, strict=True)]


def test_a_trade_off_names_each_point_and_its_kind_without_names_on_points():
    points = {name: ([x, x - 0.1, x + 0.1], [y, y - 1, y + 1]) for name, x, y in
              (("a", 0.5, 3), ("b", 0.52, 3.2), ("c", 0.9, 9), ("free", 0.0, 0))}  # fmt: skip
    fig = plots.trade_off(points, {"a": "ours", "b": "ours", "c": "theirs", "free": "control"}, ("x", "y"), "Title")
    (ax,) = fig.axes
    assert {text.get_text() for text in ax.texts} == {*points}
    assert [text.get_text() for text in ax.get_legend().texts] == ["ours", "theirs", "control"]
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
