"""Profiles: ways to run the course, and the goldens that hold for each."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import one_of


@dataclass(frozen=True)
class Profile:
    """A way to run the course: what is set in notebooks that know the parameter, and which goldens hold."""

    goldens: str
    parameters: Mapping[str, str]  # $CLIPNULL_DATA stands for the variable of the environment
    device: str = ""  # "cpu" hides every GPU, "cuda" demands one
    without: tuple[str, ...] = ()  # numbers of notebooks that cannot run so


PROFILES = {
    "mini": Profile("mini", {}, "cpu"),
    "gpu": Profile("mini", {}, "cuda"),
    "pacs": Profile("pacs", {"data": "$CLIPNULL_DATA/test", "forget_class": "dog", "forget_domain": "sketch"}),
    "realclip": Profile(
        "realclip", {"data": "$CLIPNULL_EMBEDDINGS/vitb32_style.npz", "forget_class": "cat", "forget_domain": "drawing",
                     "other_words": "kitten, pet"}, "cpu", without=("02", "11")),
}  # fmt: skip
"""`mini`: the embedded model and pictures on the CPU. `gpu`: the same on a GPU, with the same goldens. `pacs`: the
notebooks that take pictures, on those of PACS in the folder that the variable CLIPNULL_DATA names. `realclip`: those
that take a file of embeddings, on what OpenAI's ViT-B/32 made of drawings and photographs, in the folder that the
variable CLIPNULL_EMBEDDINGS names; the others need pixels or an encoder."""


def default_profile() -> str:
    """`gpu` where there is one, else `mini`."""
    if sys.platform == "linux" and not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))):
        return "mini"  # no driver; torch would take seconds to say so
    import torch

    return "gpu" if torch.cuda.is_available() else "mini"


def preset(profile: str) -> dict[str, str]:
    """What `profile` sets in every notebook that has the parameter, by name.

    Raises ValueError for an unknown profile, and where a variable or device that it needs is missing.
    """
    known = PROFILES[one_of("profile", profile, PROFILES)]
    if known.device == "cuda" and default_profile() != "gpu":
        raise ValueError(f"profile: {profile!r} needs a GPU; torch sees none")
    variable, _, _ = known.parameters.get("data", "").removeprefix("$").partition("/")
    if variable and not os.environ.get(variable):
        raise ValueError(f"profile: {profile!r} reads pictures; expected the variable {variable} to name their folder")
    return {name: os.path.expandvars(value) for name, value in known.parameters.items()}
