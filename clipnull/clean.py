"""Models that never knew: miniclip trained again without one class or domain, as the yardstick of forgetting.

"Accuracy fell" is not "the model forgot". What a model answers that was never taught a class says what forgetting
would look like. Three such models come with miniclip, "miniclip-no-dog", "miniclip-no-house" and "miniclip-no-cartoon":
the same script, settings and seeds, without a picture and without a caption of the class or the domain or a near word
of it (`data/clean/README.md` says how, and what they still answer).

They are stored as differences to miniclip: of each weight that differs its values, of the table of tokens only the
rows that differ by more than rounding. A row that no caption of the last stage holds only decays there.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .files import data_folder

BASE = "miniclip"
NAMES = tuple(f"{BASE}-no-{what}" for what in ("dog", "house", "cartoon"))
ROWS, TABLE = "rows", "token_embedding.weight"
ROUNDING = 2.0**-9
"""Weights come in float16, of 11 bits: two that differ by no more than this share went through other roundings."""


def difference(base: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of the weights `other` differs from those of `base`, for `restore`; rows of tokens by more than ROUNDING.

    Raises ValueError if the two have not the same names and shapes.
    """
    shapes = [{key: tuple(value.shape) for key, value in weights.items()} for weights in (base, other)]
    if shapes[0] != shapes[1]:
        keys = sorted(key for key in {*shapes[0], *shapes[1]} if shapes[0].get(key) != shapes[1].get(key))
        raise ValueError(f"other: {keys[0]} is {shapes[1].get(keys[0])}; expected {shapes[0].get(keys[0])}, as in base")
    found = {key: value for key, value in other.items() if key != TABLE and not torch.equal(value, base[key])}
    mine, theirs = base[TABLE].float(), other[TABLE].float()
    rows = ((theirs - mine).abs() > ROUNDING * mine.abs()).any(1).nonzero()[:, 0]
    return found | {ROWS: rows.to(torch.int32), TABLE: other[TABLE][rows]}


def restore(base: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights of the model whose `difference` to `base` is `found`."""
    table = base[TABLE].clone()
    table[found[ROWS].long()] = found[TABLE].to(table.dtype)
    return {**base, **{key: value for key, value in found.items() if key != ROWS}, TABLE: table}


def weights(name: str, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the clean model `name`, one of NAMES, from those of miniclip on any device: on the CPU."""
    return restore({key: value.cpu() for key, value in base.items()}, load_file(path_of(name)))


def path_of(name: str) -> Path:
    """The file of the clean model `name`."""
    return data_folder("clean") / f"{name.removeprefix(BASE + '-')}.safetensors"
