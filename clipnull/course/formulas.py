"""Formulas: convert LaTeX to MathML, which browsers render without scripts and screen readers can read."""

import base64
import re
from pathlib import Path

from ..errors import import_extra

FENCES = {r"\lVert": "‖", r"\rVert": "‖", r"\Vert": "‖", r"\|": "‖", r"\lvert": "|", r"\rvert": "|"}
"""Delimiters that latex2mathml does not convert after \\big and \\Big."""

FONT = Path(__file__).parent / "fonts" / "formulas.woff2"
"""A font with mathematical tables, which brackets, roots and braces need to grow; few computers have one."""


def style(address: str = "") -> str:
    """Return the style sheet of formulas, with FONT linked from `address`, or embedded by default."""
    address = address or f"data:font/woff2;base64,{base64.b64encode(FONT.read_bytes()).decode('ascii')}"
    return (
        f'@font-face {{ font-family: "Clipnull Formulas"; src: url("{address}") format("woff2") }}\n'
        'math { font-family: "Clipnull Formulas", math; font-size: 108% }\n'
    )


def mathml(latex: str, display: bool) -> str:
    """Convert a formula to MathML, as a block if `display`, else inline.

    Raise ValueError if latex2mathml cannot convert it completely.
    """
    converter = import_extra("latex2mathml.converter", "course")
    source = re.sub(r"\\arg(?![a-z])", r"\\operatorname{arg}", latex)  # latex2mathml does not know \arg
    try:
        text = converter.convert(source, display="block" if display else "inline")
    except Exception as error:
        raise ValueError(f"latex: {latex!r} cannot be converted ({error}); expected a complete formula") from error
    for name, sign in FENCES.items():
        text = text.replace(f">{name}<", f">{sign}<")
    text = re.sub(r"<mo>(‖|&#x02016;|&#x02225;|\||&#x0007C;)</mo>", r'<mo stretchy="false">\1</mo>', text)
    text = re.sub(r"<mi>([a-z]{2,})</mi>(<mo[^>]*>&#x00028;)?", _function, text)
    if unknown := re.findall(r">([^<]*\\[^<]*)<", text):
        raise ValueError(f"latex: {' '.join(unknown)} in {latex!r} is unknown; expected LaTeX that latex2mathml knows")
    return text


def _function(match: re.Match) -> str:
    """Mark up the name of a function as an operator with thin spaces, but with no space before a bracket."""
    after = "0" if match[2] else "0.17em"
    return f'<mo lspace="0.17em" rspace="{after}">{match[1]}</mo>{match[2] or ""}'
