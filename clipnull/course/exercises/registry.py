"""The table of exercises, and the decorator that enters a reference into it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exercise:
    """A reference, the arguments it is compared on, and the hint for a wrong answer."""

    reference: Callable
    cases: Callable[[], list[tuple]]
    hint: str
    views: Callable[[Any], Mapping[str, object]]


EXERCISES: dict[str, Exercise] = {}


def exercise(
    identity: str,
    cases: Callable[[], list[tuple]],
    hint: str,
    views: Callable[[Any], Mapping[str, object]] = lambda result: {"the result": result},
) -> Callable[[Callable], Callable]:
    """A decorator that enters a reference as exercise `identity`, "NN-k".

    cases: gives lists of arguments from fixed seeds, of two shapes at least, so that no answer can know them by heart.
    hint: what to think of when an answer is wrong. views: where more than one answer is right, what they have in
    common, such as U U^T for a basis U.
    """

    def enter(reference: Callable) -> Callable:
        if identity in EXERCISES:
            raise ValueError(f"identity: {identity!r} is taken; expected each exercise once")
        EXERCISES[identity] = Exercise(reference, cases, hint, views)
        return reference

    return enter


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values of `shape`, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
