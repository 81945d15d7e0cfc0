"""Arrays whose axes have letters fit together where each letter is one size: "nd" and "d" are (n, d) and (d,)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

LARGEST = 1e12
"""The largest value in an edit: the product of two such, times an embedding, is far from what float32 can hold."""


def validate_shapes(axes: Mapping[str, str], arrays: Mapping[str, Any], may_be_empty: str = "") -> None:
    """Raises ValueError for the first of `arrays` with other axes than it should have or than those before it.

    Names that are missing or None are passed over. may_be_empty: the letters whose size can be zero.
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
    """Raises ValueError for one that is not of floating numbers, all finite and none beyond LARGEST. None is passed."""
    for name, value in tensors.items():
        if value is None:
            continue
        if value.is_complex() or not value.is_floating_point() or not (value.detach().abs() <= LARGEST).all():
            raise ValueError(f"{name}: {value.dtype}, or its values; expected finite floats of at most {LARGEST:g}")
