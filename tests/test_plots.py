"""Figures: a name in them is shown as it is."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import clipnull as cn
from clipnull.course import plots
from clipnull.evaluate import Comparison

ODD = ["$x$", "a$b$c", "$\\frac{$", "$", "5 $ or 6 $", r"\\$a\\$", "plain", "$\\nosuch$"]


def drawn(fig):
    """All texts of a figure that is drawn: what is shown, and whether it was read as a formula."""
    fig.canvas.draw()
    return {text._preprocess_math(text.get_text()) for text in fig.findobj(plt.Text) if text.get_text()}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", ODD)
def test_a_dollar_sign_in_a_name_begins_no_formula(name, images, capsys):
    ax = plots.matrix(torch.eye(2), [name, "b"], [name, "c"], title=name)
    figures = [ax.figure, plots.pictures([np.zeros((4, 4, 3))], [name])]
    figures.append(plots.scatter(np.zeros((2, 2)), [name, "b"]).figure)
    few = images.select(["dog", "car"], ["line"])
    vocabulary = cn.Vocabulary([name, *few.vocabulary.classes[1:]], [name, *few.vocabulary.domains[1:]])
    figures.append(plots.one_per_cell(cn.Images(few.files, few.classes, few.domains, vocabulary), [name]))
    for fig in figures:
        texts = drawn(fig)
        assert (name, False) in texts and not any(formula for _, formula in texts), texts


def test_a_caption_is_text_and_the_alternative_text_says_something_else(monkeypatch):
    shown, odd = [], "&lt;b&gt;$x$&lt;/b&gt;"
    monkeypatch.setattr(plots.ipython, "display", lambda page: shown.append(page.data))
    plots.show(plt.figure(), 'what "<b>$x$</b>" & <script> are in a figure')
    ax = plots.matrix(torch.eye(2), [name := "<b>$x$</b>", "b"], ["c", "d"], title=name)
    plots.show(ax.figure, f"One sentence. {'X' * 400} {name}.")
    assert f"<figcaption>what &quot;{odd}" in shown[0] and 'alt="A drawing."' in shown[0] and "<details" not in shown[0]
    assert f'alt="Heat map “{odd}”: 2 rows from {odd} to b, 2 columns from c to d."' in shown[1]
    assert "<figcaption>One sentence.</figcaption></figure><details>" in shown[1] and f"X {odd}.</p><table>" in shown[1]
    assert not any("<b>" in page or "<script>" in page for page in shown)


def test_a_share_of_few_pictures_is_written_as_a_count():
    shares = torch.tensor([[75.0, 75.0], [float("nan"), 0.0]])
    ax = plots.matrix(shares, ["a", "b"], ["c", "d"], counts=torch.tensor([[8, 400], [0, plots.FEW - 1]]))
    assert [text.get_text() for text in ax.texts] == ["6/8", "75", "0/19"]
    ax = plots.matrix(shares - 50, ["a", "b"], ["c", "d"], low=-100, told=shares, counts=torch.full((2, 2), plots.FEW))
    assert [text.get_text() for text in ax.texts] == ["75", "75", "0"]


def test_a_comparison_shows_counts_before_and_after(images):
    counts = images.counts()
    before = torch.where(counts > 0, 1.0, torch.nan).double()
    request = cn.Forget(["dog"], ["line"])
    mask = request.mask(images.vocabulary)
    result = Comparison(before, before * ~mask, mask, images, request, "free", torch.zeros(2, len(images)))
    sizes, gone = counts[counts > 0].tolist(), mask[counts > 0].tolist()
    shown = [[text.get_text() for text in ax.texts] for ax in plots.comparison(result).axes]
    assert shown[0] == [f"{n}/{n}" for n in sizes]
    assert shown[1] == [f"{0 if forgotten else n}/{n}" for n, forgotten in zip(sizes, gone, strict=True)]
