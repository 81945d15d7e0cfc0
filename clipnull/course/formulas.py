"""Formulas: LaTeX becomes MathML, which browsers draw without a script and screen readers can read."""

import base64
import re
from pathlib import Path

from ..errors import import_extra

FENCES = {r"\lVert": "‖", r"\rVert": "‖", r"\Vert": "‖", r"\|": "‖", r"\lvert": "|", r"\rvert": "|"}
"""What latex2mathml does not convert after \\big and \\Big."""

FONT = Path(__file__).parent / "fonts" / "formulas.woff2"
"""Brackets, roots and braces grow only in a font with mathematical tables, which few computers have."""


def style(address: str = "") -> str:
    """The style sheet of formulas, with FONT from `address`, or embedded without one."""
    address = address or f"data:font/woff2;base64,{base64.b64encode(FONT.read_bytes()).decode('ascii')}"
    return (
        f'@font-face {{ font-family: "Clipnull Formulas"; src: url("{address}") format("woff2") }}\n'
        'math { font-family: "Clipnull Formulas", math; font-size: 108% }\n'
    )


def mathml(latex: str, display: bool) -> str:
    """A formula as MathML: a block of its own with `display`, else part of a line.

    Raises ValueError for a formula that latex2mathml cannot convert completely.
    """
    converter = import_extra("latex2mathml.converter", "course")
    known = re.sub(r"\\arg(?![a-z])", r"\\operatorname{arg}", latex)
    try:
        text = converter.convert(known, display="block" if display else "inline")
    except Exception as error:
        raise ValueError(f"latex: {latex!r} cannot be converted ({error}); expected a complete formula") from error
    for name, sign in FENCES.items():
        text = text.replace(f">{name}<", f">{sign}<")
    text = re.sub(r"<mo>(‖|&#x02016;|&#x02225;|\||&#x0007C;)</mo>", r'<mo stretchy="false">\1</mo>', text)
    text = re.sub(r"<mi>([a-z]{2,})</mi>(<mo[^>]*>&#x00028;)?", _function, text)
    if unknown := re.findall(r">([^<]*\\[^<]*)<", text):
        raise ValueError(f"latex: {' '.join(unknown)} in {latex!r} is not known; expected what latex2mathml renders")
    return text


def _function(match: re.Match) -> str:
    """The name of a function is an operator, with a thin space on both sides, but none before a bracket."""
    after = "0" if match[2] else "0.17em"
    return f'<mo lspace="0.17em" rspace="{after}">{match[1]}</mo>{match[2] or ""}'
