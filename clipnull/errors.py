"""Argument validation: a wrong argument is named, with its value and what was expected."""

import importlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import ModuleType

KINDS = {str: "text, in quotes", int: "a whole number", float: "a number", bool: "True or False"}


def near(value: object, options: Iterable[str]) -> list[str]:
    """Those of `options` that `value` may have been meant for, best first."""
    options = list(options)
    found = get_close_matches(str(value), options, n=3, cutoff=0.5)
    return found + [o for o in options if str(value).lower() == o.lower() and o not in found]


def one_of(argument: str, value: object, options: Iterable[str]) -> str:
    """`value` if it is one of `options`; else a ValueError that suggests near matches."""
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    found = near(value, options)
    hint = f"did you mean {' or '.join(map(repr, found))}?" if found else f"expected one of {shorten(options)}"
    raise ValueError(f"{argument}: {value!r} is not known; {hint}")


def names(argument: str, values: object, options: Sequence[str]) -> tuple[str, ...]:
    """`values` as a tuple of distinct known names; a lone string is refused (a common slip)."""
    values = distinct(argument, values, options)
    return tuple(one_of(argument, v, options) for v in values)


def distinct(argument: str, values: object, options: Sequence[str] = ()) -> tuple[str, ...]:
    """`values` as a tuple of distinct names, of which nothing else is known; `options` are told if there are none.

    A name is text that is more than blanks and underscores, without control characters; a line break is a blank.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{argument}: {values!r} is not a list of names; expected for example [{values!r}]")
    values = tuple(values)
    if not values:
        some = f"at least one of {shorten(options)}" if options else "at least one name"
        raise ValueError(f"{argument}: the list is empty; expected {some}")
    twice = sorted(v for v, count in Counter(v for v in values if isinstance(v, str)).items() if count > 1)
    if twice:
        raise ValueError(f"{argument}: {', '.join(map(repr, twice))} given twice; expected each name once")
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{argument}: {value!r} is no name; expected text, such as 'dog'")
        if not value.replace("_", " ").strip():
            raise ValueError(f"{argument}: {value!r} is blank; expected a name, such as 'dog'")
        if not printable(value):
            raise ValueError(
                f"{argument}: {value!r} holds characters that are none to read; expected a name as printed"
            )
    return values


def printable(text: str) -> bool:
    """Whether `text` holds nothing but what can be printed: no control characters but blanks, no half of a pair."""
    return not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r" for c in text)


def within(argument: str, value: object, low: float, high: float) -> float:
    """`value` as a float in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{argument}: {value!r} is out of range; expected a number in [{low:g}, {high:g}]")
    return float(value)


def at_least(argument: str, value: object, low: int) -> int:
    """`value` as an int of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{argument}: {value!r} is not valid; expected a whole number of at least {low}")
    return value


def shorten(options: Iterable[object], most: int = 12) -> str:
    """`options` in one line, the first `most` of them."""
    told = [repr(o) for o in options]
    return ", ".join(told[:most]) + (f", ... ({len(told)} in all)" if len(told) > most else "")


def brief(value: object, most: int = 60) -> str:
    """`value` for a message, cut where it is long."""
    told = repr(value)
    return told if len(told) <= most else f"{told[:most]}... ({len(told)} characters)"


def one_line(value: object, most: int = 200) -> str:
    """`value` as text in one line: its beginning and, of several lines, the last one, which often is the reason."""
    lines = [line for line in (" ".join(line.split()) for line in str(value).splitlines()) if line]
    told = " ".join(lines)
    if len(told) <= most:
        return told
    first, last = lines[0], lines[-1] if len(lines) > 1 else ""
    return f"{first[:most]} ... {last[:most]}".rstrip()


def expect(kind: type, **values: object) -> None:
    """Check that all `values` are of type `kind`: what a notebook does with its parameters before anything else.

    A whole number passes for a float. Raises ValueError that names the first value which is not.
    """
    for name, value in values.items():
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{name}: {value!r} is not valid; expected {KINDS[kind]}")


def import_extra(module: str, extra: str) -> ModuleType:
    """The optional `module`, such as "sklearn.metrics"; an ImportError that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if error.name and error.name.partition(".")[0] != package:
            raise  # the package is there, and something it needs is not
        raise ImportError(
            f"{package} is not installed; expected the extra {extra!r}: pip install 'clipnull[{extra}]'", name=package
        ) from error
