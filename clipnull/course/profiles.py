"""Profiles: named ways to run the course, each with its goldens."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import one_of


@dataclass(frozen=True)
class Profile:
    """A way to run the course. Each parameter is set in the notebooks that have it."""

    goldens: str
    parameters: Mapping[str, str]  # may contain environment variables, such as $CLIPNULL_DATA
    device: str = ""  # "cpu" hides every GPU, "cuda" requires one
    without: tuple[str, ...] = ()  # numbers of the excluded notebooks


PROFILES = {
    "mini": Profile("mini", {}, "cpu"),
    "gpu": Profile("mini", {}, "cuda"),
    "pacs": Profile("pacs", {"data": "$CLIPNULL_DATA/test", "forget_class": "dog", "forget_domain": "sketch"}),
    "realclip": Profile(
        "realclip", {"data": "$CLIPNULL_EMBEDDINGS/vitb32_style.npz", "forget_class": "cat", "forget_domain": "drawing",
                     "other_words": "kitten, pet"}, "cpu", without=("02", "11")),
}  # fmt: skip
"""`mini`: the embedded model and pictures on the CPU. `gpu`: the same on a GPU, with the same goldens. `pacs`: PACS
pictures from the folder $CLIPNULL_DATA, for notebooks that accept pictures. `realclip`: OpenAI's ViT-B/32 embeddings of
drawings and photographs from the folder $CLIPNULL_EMBEDDINGS, for notebooks that need neither pixels nor an encoder."""


def default_profile() -> str:
    """Return "gpu" if torch finds one, else "mini"."""
    if sys.platform == "linux" and not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))):
        return "mini"  # without a driver, skip importing torch, which takes seconds
    import torch

    return "gpu" if torch.cuda.is_available() else "mini"


def preset(profile: str) -> dict[str, str]:
    """Return the parameters of `profile` with environment variables expanded.

    Raise ValueError if the profile is unknown or a required variable or device is missing.
    """
    entry = PROFILES[one_of("profile", profile, PROFILES)]
    if entry.device == "cuda" and default_profile() != "gpu":
        raise ValueError(f"profile: {profile!r} needs a GPU; torch finds none")
    variable, _, _ = entry.parameters.get("data", "").removeprefix("$").partition("/")
    if variable and not os.environ.get(variable):
        raise ValueError(f"profile: {profile!r} needs a folder of data; expected the variable {variable} to name it")
    return {name: os.path.expandvars(value) for name, value in entry.parameters.items()}
