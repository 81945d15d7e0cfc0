"""Argument validation: a wrong argument is named, with its value and what was expected."""

import importlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import ModuleType

TYPES = {
    "clip": ("Clip", "a model, such as cn.load() gives"),
    "after": ("Clip", "a model, such as cn.load() gives"),
    "images": ("Images", "pictures, such as cn.load_images() gives"),
    "request": ("Forget", "a request, such as cn.Forget(['dog'])"),
    "vocabulary": ("Vocabulary", "names, such as cn.Vocabulary(['cat', 'dog'], ['photo'])"),
    "cells": ("Cells", "what cn.embed_vocabulary gives"),
    "edit": ("Edit", "an edit, such as cn.unlearn gives"),
}
"""The class of each argument of the public functions, by its name, and what to say of another."""


def near(value: object, options: Iterable[str]) -> list[str]:
    """Those of `options` that `value` may have been meant for, best first."""
    options = list(options)
    matches = get_close_matches(str(value), options, n=3, cutoff=0.5)
    return matches + [o for o in options if str(value).lower() == o.lower() and o not in matches]


def one_of(argument: str, value: object, options: Iterable[str]) -> str:
    """`value` if it is one of `options`; else a ValueError that suggests near matches."""
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    matches = " or ".join(map(repr, near(value, options)))
    hint = f"did you mean {matches}?" if matches else f"expected one of {shorten(options)}"
    raise ValueError(f"{argument}: {value!r} is not known; {hint}")


def names(argument: str, values: object, options: Sequence[str]) -> tuple[str, ...]:
    """`values` as a tuple of distinct known names."""
    return tuple(one_of(argument, value, options) for value in distinct(argument, values, options))


def distinct(argument: str, values: object, options: Sequence[str] = ()) -> tuple[str, ...]:
    """`values` as a tuple of distinct names, printable and not blank. options: what to suggest for an empty list."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{argument}: {values!r} is not a list of names; expected for example [{values!r}]")
    values = tuple(values)
    if not values:
        some = f"at least one of {shorten(options)}" if options else "at least one name"
        raise ValueError(f"{argument}: the list is empty; expected {some}")
    for value in values:
        if not isinstance(value, str) or not value.replace("_", " ").strip() or not printable(value):
            raise ValueError(f"{argument}: {value!r} is not a name; expected printable text, such as 'dog'")
    if twice := sorted(value for value, count in Counter(values).items() if count > 1):
        raise ValueError(f"{argument}: {', '.join(map(repr, twice))} given twice; expected each name once")
    return values


def printable(text: str) -> bool:
    """Whether `text` has no control characters but blanks, and no half of a surrogate pair."""
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
    texts = [repr(option) for option in options]
    return ", ".join(texts[:most]) + (f", ... ({len(texts)} in all)" if len(texts) > most else "")


def one_line(value: object, most: int = 200) -> str:
    """`value` as one line of text; of a long one the beginning and the end, which often says the reason."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def brief(value: object, most: int = 60) -> str:
    """`value` as Python writes it, for a message."""
    return one_line(repr(value), most)


def expect(kind: type[str] | type[int], **values: object) -> None:
    """Check that all `values`, parameters of a notebook, are of type `kind`."""
    for name, value in values.items():
        if type(value) is not kind:
            expected = "text, in quotes" if kind is str else "a whole number"
            raise ValueError(f"{name}: {value!r} is not valid; expected {expected}")


def expect_types(**values: object) -> None:
    """Check that arguments are of the classes that TYPES gives for their names."""
    for name, value in values.items():
        kind, expected = TYPES[name]
        if kind not in {base.__name__ for base in type(value).__mro__}:
            raise ValueError(f"{name}: {brief(value)} is not valid; expected {expected}")


def import_extra(module: str, extra: str) -> ModuleType:
    """The optional `module`, such as "sklearn.metrics"; an ImportError that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if error.name and error.name.partition(".")[0] != package:
            raise  # the package is there, and something it needs is not
        message = f"{package} is not installed; expected the extra {extra!r}: pip install 'clipnull[{extra}]'"
        raise ImportError(message, name=package) from error
