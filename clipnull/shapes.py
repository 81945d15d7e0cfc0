"""Checks of shapes and values. One letter names each axis: "nd" is (n, d), and d is the same size in all arrays."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

LARGEST = 1e12
"""The largest value allowed in an edit. A product of two such values and an embedding does not overflow float32."""


def validate_shapes(axes: Mapping[str, str], arrays: Mapping[str, Any], may_be_empty: str = "") -> None:
    """Raise ValueError unless each array has its `axes`, with one size per letter. Missing ones and None are skipped.

    axes: the letters of each array, by name. may_be_empty: letters whose size may be zero.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, letters in axes.items():
        if arrays.get(name) is None:
            continue
        shape = tuple(arrays[name].shape)
        if len(shape) != len(letters):
            raise ValueError(f"{name}: shape {shape}; expected ({', '.join(letters)})")
        for letter, size in zip(letters, shape, strict=True):
            expected, first = sizes.setdefault(letter, (size, name))
            if size != expected:
                raise ValueError(f"{name}: shape {shape}; expected {letter} = {expected}, as in {first}")
            if not size and letter not in may_be_empty:
                raise ValueError(f"{name}: shape {shape}; expected {letter} of at least 1")


def validate_values(**tensors: Tensor | None) -> None:
    """Raise ValueError unless every tensor holds finite floats of at most LARGEST. None is skipped."""
    for name, value in tensors.items():
        if value is None:
            continue
        if not value.is_floating_point() or not (value.detach().abs() <= LARGEST).all():
            raise ValueError(f"{name}: {value.dtype} values are not valid; expected finite floats up to {LARGEST:g}")
