"""Argument checks. Every message names the argument, its value and the expected value."""

import importlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import ModuleType

TYPES = {
    "clip": ("Clip", "a model, such as cn.load() returns"),
    "after": ("Clip", "a model, such as cn.load() returns"),
    "images": ("Images", "pictures, such as cn.load_images() returns"),
    "request": ("Forget", "a request, such as cn.Forget(['dog'])"),
    "vocabulary": ("Vocabulary", "a vocabulary, such as cn.Vocabulary(['cat', 'dog'], ['photo'])"),
    "cells": ("Cells", "cells, such as cn.embed_vocabulary() returns"),
    "edit": ("Edit", "an edit, such as cn.unlearn() returns"),
}
"""The required class of each checked argument, and how a message describes it."""


def near(value: object, options: Iterable[str]) -> list[str]:
    """Return the options closest to `value`, best first."""
    options = list(options)
    matches = get_close_matches(str(value), options, n=3, cutoff=0.5)
    return matches + [o for o in options if str(value).lower() == o.lower() and o not in matches]


def one_of(argument: str, value: object, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`; otherwise raise a ValueError that suggests close matches."""
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    matches = " or ".join(map(repr, near(value, options)))
    hint = f"did you mean {matches}?" if matches else f"expected one of {shorten(options)}"
    raise ValueError(f"{argument}: {value!r} is unknown; {hint}")


def names(argument: str, values: object, options: Sequence[str]) -> tuple[str, ...]:
    """Return `values` as a tuple of distinct names, each one of `options`."""
    return tuple(one_of(argument, value, options) for value in distinct(argument, values, options))


def distinct(argument: str, values: object, options: Sequence[str] = ()) -> tuple[str, ...]:
    """Return `values` as a tuple of distinct printable names. options: names to suggest if the list is empty."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{argument}: {values!r} is not a list of names; expected a list, such as [{values!r}]")
    values = tuple(values)
    if not values:
        expected = f"at least one of {shorten(options)}" if options else "at least one name"
        raise ValueError(f"{argument}: the list is empty; expected {expected}")
    for value in values:
        if not isinstance(value, str) or not value.replace("_", " ").strip() or not printable(value):
            raise ValueError(f"{argument}: {value!r} is not a name; expected printable text, such as 'dog'")
    if duplicates := sorted(value for value, count in Counter(values).items() if count > 1):
        raise ValueError(f"{argument}: {', '.join(map(repr, duplicates))} given twice; expected each name once")
    return values


def printable(text: str) -> bool:
    """Return True if `text` has no lone surrogates, and no control characters except tabs and line breaks."""
    return not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r" for c in text)


def within(argument: str, value: object, low: float, high: float) -> float:
    """Return `value` as a float; raise ValueError unless it is a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{argument}: {value!r} is out of range; expected a number in [{low:g}, {high:g}]")
    return float(value)


def at_least(argument: str, value: object, low: int) -> int:
    """Return `value`; raise ValueError unless it is an int of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{argument}: {value!r} is not valid; expected a whole number of at least {low}")
    return value


def shorten(options: Iterable[object], most: int = 12) -> str:
    """Return the first `most` options in one line, followed by the total if there are more."""
    texts = [repr(option) for option in options]
    return ", ".join(texts[:most]) + (f", ... ({len(texts)} in all)" if len(texts) > most else "")


def one_line(value: object, most: int = 200) -> str:
    """Return `value` as one line. If it is long, keep the beginning and the end, which often gives the reason."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def brief(value: object, most: int = 60) -> str:
    """Return the repr of `value` in one short line, for a message."""
    return one_line(repr(value), most)


def expect(kind: type[str] | type[int], **values: object) -> None:
    """Raise ValueError unless all `values`, the parameters of a notebook, are of type `kind`."""
    for name, value in values.items():
        if type(value) is not kind:
            expected = "text, in quotes" if kind is str else "a whole number"
            raise ValueError(f"{name}: {value!r} is not valid; expected {expected}")


def expect_types(**values: object) -> None:
    """Raise ValueError unless each argument has the class that TYPES requires for its name."""
    for name, value in values.items():
        kind, expected = TYPES[name]
        if kind not in {base.__name__ for base in type(value).__mro__}:
            raise ValueError(f"{name}: {brief(value)} is not valid; expected {expected}")


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional module, such as "sklearn.metrics"; if it is missing, name its extra in an ImportError."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if error.name and error.name.partition(".")[0] != package:
            raise  # the package is installed, but one of its dependencies is not
        message = f"{package} is not installed; expected the extra {extra!r}: pip install 'clipnull[{extra}]'"
        raise ImportError(message, name=package) from error
