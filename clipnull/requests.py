"""What to forget: a request, and the cells it means."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .errors import brief, distinct, names
from .wording import Vocabulary

MOST_NAMES, MOST_PARTS = 100_000, 1_000
"""Of a request that is read from a file."""


@dataclass(frozen=True)
class Forget:
    """A request: forget `classes` in `domains`; leave one out to mean all of them. `a | b` asks for both.

    Parameters
    ----------
    classes, domains : sequence of str, optional
        Distinct names of a vocabulary. Classes alone: the *global* paradigm; both: *selective*; domains alone:
        *complete*.
    also : tuple of Forget
        Further requests, as `|` collects them.

    Raises
    ------
    ValueError
        If neither is given, if a list is empty, names something twice or holds what is no name, and if `also` holds
        what is no request.

    Examples
    --------
    >>> import clipnull as cn
    >>> names = cn.Vocabulary(["cat", "dog"], ["photo", "line"])
    >>> cn.Forget(classes=["dog"]).mask(names)                      # dogs in every domain
    tensor([[False, False],
            [ True,  True]])
    >>> request = cn.Forget(["dog"], ["line"]) | cn.Forget(["cat"], ["photo"])
    >>> print(request, "-", request.paradigm)
    dog in line and cat in photo - selective
    """

    classes: Sequence[str] | None = None
    domains: Sequence[str] | None = None
    also: tuple["Forget", ...] = ()

    def __post_init__(self) -> None:
        if self.classes is None and self.domains is None:
            raise ValueError("classes, domains: neither is given; expected a list of names for at least one of them")
        for argument in ("classes", "domains"):
            values = getattr(self, argument)
            if values is not None:
                object.__setattr__(self, argument, distinct(argument, values))
        if not isinstance(self.also, tuple | list) or not all(isinstance(other, Forget) for other in self.also):
            raise ValueError(f"also: {self.also!r} is not valid; expected a tuple of Forget, as `|` collects them")
        flat = tuple(
            part for other in self.also for part in (replace(other, also=()) if other.also else other, *other.also)
        )
        object.__setattr__(self, "also", flat)

    def __or__(self, other: "Forget") -> "Forget":
        if not isinstance(other, Forget):
            return NotImplemented
        return replace(self, also=(*self.also, other))

    @property
    def paradigm(self) -> str:
        """ "global", "selective" or "complete"; "mixed" for a union of several kinds."""
        own = "global" if self.domains is None else "complete" if self.classes is None else "selective"
        return own if {own} == {own, *(other.paradigm for other in self.also)} else "mixed"

    def mask(self, vocabulary: Vocabulary) -> Tensor:
        """F, the cells to forget: (C, K) bool. Raises ValueError for unknown names and if nothing would be kept."""
        mask = torch.zeros(vocabulary.shape, dtype=torch.bool)
        for part in (replace(self, also=()), *self.also):
            classes, domains = part.classes or vocabulary.classes, part.domains or vocabulary.domains
            rows = [vocabulary.classes.index(c) for c in names("classes", classes, vocabulary.classes)]
            columns = [vocabulary.domains.index(k) for k in names("domains", domains, vocabulary.domains)]
            mask[torch.tensor(rows)[:, None], torch.tensor(columns)] = True
        if mask.all():
            raise ValueError(
                f"request: all {mask.numel()} cells of the vocabulary would be forgotten; expected at least one to keep"
            )
        return mask

    def as_dict(self) -> dict:
        """The request in JSON's types; `Forget.from_dict` reads it."""
        return {
            "classes": self.classes and list(self.classes),
            "domains": self.domains and list(self.domains),
            "also": [other.as_dict() for other in self.also],
        }

    @classmethod
    def from_dict(cls, request: Any) -> "Forget":
        """The request that `as_dict` wrote. All it holds is checked: raises ValueError for what is none."""
        if not isinstance(request, dict) or not {"classes", "domains"} <= set(request) <= {
            "classes",
            "domains",
            "also",
        }:
            raise ValueError(
                f"request: {brief(request)}; expected classes, domains and also, as Forget.as_dict gives them"
            )
        for argument in ("classes", "domains"):
            values = request[argument]
            if values is not None and (not isinstance(values, list) or len(values) > MOST_NAMES):
                raise ValueError(f"{argument}: {brief(values)}; expected None or a list of at most {MOST_NAMES} names")
        also = request.get("also", [])
        if not isinstance(also, list) or len(also) > MOST_PARTS:
            raise ValueError(f"also: {brief(also)}; expected a list of at most {MOST_PARTS} requests")
        if any(isinstance(other, dict) and other.get("also") for other in also):
            raise ValueError("also: a request in it has further ones; expected a flat list, as Forget.as_dict gives it")
        return cls(request["classes"], request["domains"], tuple(map(cls.from_dict, also)))

    def __str__(self) -> str:
        what = ", ".join(self.classes) if self.classes else "everything"
        own = f"{what} in {', '.join(self.domains)}" if self.domains else f"{what} everywhere"
        return " and ".join([own, *map(str, self.also)])
