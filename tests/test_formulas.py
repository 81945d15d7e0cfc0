"""Formulas as MathML."""

import pytest

from clipnull.course.formulas import mathml


@pytest.mark.parametrize(
    "latex, part",
    [
        (r"\Big\lVert x \Big\rVert", "‖"),
        (r"\arg\max_x y", ">arg<"),
        (r"\arg", ">arg<"),
        (r"\frac1n", "mfrac"),
        (r"\underbrace{a}_{\text{b c}}", "munder"),
        (r"\mathbb{R}^{d}", "msup"),
    ],
)
def test_formulas_become_mathml(latex, part):
    text = mathml(latex, display=True)
    assert text.startswith("<math") and 'display="block"' in text and part in text and "\\" not in text


def test_a_formula_of_a_line_is_inline():
    assert 'display="inline"' in mathml("x", display=False)


def test_a_formula_that_would_not_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"\\nonsense"):
        mathml(r"x \nonsense y", display=False)
