"""The table of exercises, and the decorator that enters a reference into it."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exercise:
    """A reference, the arguments it is compared on, and the hint for a wrong answer."""

    reference: Callable
    cases: list[tuple]
    hint: str
    views: Callable[[Any], Mapping[str, object]]


EXERCISES: dict[str, Exercise] = {}


def exercise(
    identity: str,
    cases: list[tuple],
    hint: str,
    views: Callable[[Any], Mapping[str, object]] = lambda result: {"the result": result},
) -> Callable[[Callable], Callable]:
    """A decorator that enters a reference as exercise `identity`, "NN-k".

    cases: lists of arguments from fixed seeds, in at least two shapes, so that no answer can hard-code them. hint:
    about the easiest mistake. views: what all right answers share where there are several, such as U U^T for a basis U.
    """

    def enter(reference: Callable) -> Callable:
        EXERCISES[identity] = Exercise(reference, cases, hint, views)
        return reference

    return enter


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values of `shape`, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


double = functools.partial(normal, dtype=torch.float64)
