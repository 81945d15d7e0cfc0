"""Profiles: ways to run the course, and the goldens that hold for each."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """A way to run the course: what is set in notebooks that know the parameter, and which goldens hold."""

    goldens: str
    parameters: Mapping[str, str]  # {CLIPNULL_DATA} stands for the variable of the environment
    device: str = ""  # "cpu" hides every GPU, "cuda" demands one


PROFILES = {
    "mini": Profile("mini", {}, "cpu"),
    "gpu": Profile("mini", {}, "cuda"),
    "pacs": Profile(
        "pacs",
        {"data": "{CLIPNULL_DATA}/test", "shown_domain": "sketch", "forget_domain": "sketch", "domain": "sketch"},
    ),
}
"""`mini`: the embedded model and pictures on the CPU. `gpu`: the same on a GPU, with the same goldens. `pacs`: the
notebooks that take pictures, on those of PACS in the folder that the variable CLIPNULL_DATA names."""


def default_profile() -> str:
    """`gpu` where there is one, else `mini`."""
    import torch

    return "gpu" if torch.cuda.is_available() else "mini"


def preset(profile: str) -> dict[str, str]:
    """What `profile` sets in every notebook that has the parameter, by name.

    Raises ValueError for an unknown profile, and where a variable or device that it needs is missing.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile: {profile!r} is not known; expected one of {', '.join(PROFILES)}")
    if PROFILES[profile].device == "cuda" and default_profile() != "gpu":
        raise ValueError(f"profile: {profile!r} needs a GPU; torch sees none")
    parameters = PROFILES[profile].parameters
    folder = os.environ.get("CLIPNULL_DATA", "")
    if not folder and "{CLIPNULL_DATA}" in "".join(parameters.values()):
        raise ValueError(f"profile: {profile!r} needs the variable CLIPNULL_DATA; expected the folder of PACS")
    return {name: value.replace("{CLIPNULL_DATA}", folder) for name, value in parameters.items()}
