"""Figures: a name in them is shown as it is."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import clipnull as cn
from clipnull import plots

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


def test_an_alternative_text_is_text(monkeypatch):
    shown = []
    monkeypatch.setattr(plots.ipython, "display", lambda page: shown.append(page.data))
    plots.show(plt.figure(), 'what "<b>$x$</b>" & <script> are in a figure')
    assert shown[0].count("&lt;b&gt;$x$&lt;/b&gt;") == 2 and "<b>" not in shown[0] and "<script>" not in shown[0]
