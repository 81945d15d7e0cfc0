"""Formulas as MathML."""

import base64
import re

import pytest
from browsing import tab

from clipnull.course.formulas import FONT, mathml, style


@pytest.mark.parametrize(
    "latex, part",
    [
        (r"\Big\lVert x \Big\rVert", "‖"),
        (r"\arg\max_x y", ">arg<"),
        (r"\frac1n", "mfrac"),
        (r"\lVert x\rVert_F^2", '<msubsup><mo stretchy="false">&#x02016;</mo>'),
        (r"s\log C", '<mo lspace="0.17em" rspace="0.17em">log</mo><mi>C'),
        (r"\exp(s)", 'rspace="0">exp</mo><mo stretchy="false">&#x00028;'),
        (r"\underbrace{a}_{\text{b c}}", "munder"),
    ],
)
def test_formulas_become_mathml(latex, part):
    text = mathml(latex, display=True)
    assert text.startswith("<math") and 'display="block"' in text and part in text and "\\" not in text
    assert 'display="inline"' in mathml(latex, display=False)


@pytest.mark.parametrize("latex", [r"x \nonsense y", r"\left( x"])
def test_a_formula_that_would_not_be_drawn_is_refused(latex):
    with pytest.raises(ValueError, match=re.escape(repr(latex))):
        mathml(latex, display=False)


@pytest.mark.slow
def test_the_font_of_formulas_comes_along_and_brackets_grow_with_what_is_between_them(tmp_path, serve, devtools):
    data = base64.b64decode(re.search(r'url\("data:font/woff2;base64,([^"]+)"\)', style())[1])
    assert data == FONT.read_bytes() and data[:4] == b"wOF2" and len(data) < 80_000
    assert 'url("a.woff2")' in style("a.woff2") and "SIL OPEN FONT LICENSE" in FONT.with_name("OFL.txt").read_text()
    text = mathml(r"\left(\frac{\frac{a}{b}}{\frac{c}{d}}\right)", display=True)
    (tmp_path / "index.html").write_text(f"<!doctype html><style>{style()}</style>{text}", encoding="utf-8")
    with tab(devtools, f"{serve(tmp_path)}/index.html") as page:
        page.run("document.fonts.ready.then(() => 0)")
        assert page.run("document.fonts.check('16px \"Clipnull Formulas\"', '(')")
        high = "document.querySelector('%s').getBoundingClientRect().height"
        assert page.run(high % "mo") > 0.8 * page.run(high % "mfrac") > 30
