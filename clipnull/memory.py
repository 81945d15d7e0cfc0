"""As many rows at a time as a device has memory for."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from .errors import at_least

T = TypeVar("T")


@dataclass
class Batch:
    """How many rows go through a model at once: half as many after each time that a GPU has no memory for them.

    It stays so for the rows that follow. What is computed for a row does not depend on the batch, up to rounding.

    >>> Batch(2).through(lambda rows: rows.stop - rows.start, 5)
    [2, 2, 1]
    """

    size: int

    @staticmethod
    def of(batch: "int | Batch") -> "Batch":
        """`batch` itself, or a new one of so many rows; ValueError for fewer than one."""
        return batch if isinstance(batch, Batch) else Batch(at_least("batch", batch, 1))

    def through(self, call: Callable[[slice], T], n: int) -> list[T]:
        """What `call` gives for the rows of each batch of n, in order; it is called once where n is zero.

        Raises torch.OutOfMemoryError if there is no memory for a single row.

        Warns
        -----
        UserWarning
            Where the batch is halved.
        """
        parts, first = [], 0
        while first < n or not parts:
            rows = slice(first, min(first + self.size, n))
            try:
                parts.append(call(rows))
                first = rows.stop
                continue
            except torch.OutOfMemoryError:
                asked = rows.stop - rows.start
                if asked <= 1:
                    raise
                self.size = asked // 2
                told = f"batch: the device has no memory for {asked} rows at once; going on with {self.size} at a time"
                warnings.warn(told, stacklevel=2)
            torch.cuda.empty_cache()  # which the call still held while its error was there
        return parts
