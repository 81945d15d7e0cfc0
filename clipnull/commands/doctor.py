"""`clipnull doctor`: whether this machine can run the course; one line when all is well."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import platform
import shutil
import sys
import time
from collections.abc import Callable

from .console import add_command

PACKAGES = ("torch", "open_clip_torch", "numpy", "scikit-learn", "safetensors", "pillow", "matplotlib", "seaborn")
COURSE = ("pandas", "papermill", "nbclient", "ipykernel")
MEMORY_GB, DISK_GB, SLOWEST = 1.0, 0.5, 5.0
"""What should be free, and the pictures a second below which lessons take unpleasantly long."""


def add(commands: argparse._SubParsersAction) -> None:
    """Put the parser of this command among those of `clipnull`."""
    add_command(commands, "doctor", doctor, "check this machine for the course: one line when all is well")


def doctor(args: argparse.Namespace) -> int:
    facts, faults = [], []
    for check, remedy in CHECKS.items():
        try:
            facts.append(check())
        except Exception as error:  # whatever is missing or broken is what this command is for
            name = check.__name__.lstrip("_").replace("_", " ")
            faults.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}\n  -> {remedy}")
    print("\n".join(faults) if faults else f"ready: {', '.join(facts)}")
    return int(bool(faults))


def _python() -> str:
    assert sys.version_info >= (3, 11), f"{platform.python_version()} is too old; expected 3.11 or later"
    return f"Python {platform.python_version()}"


def _packages() -> str:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES + COURSE}
    return f"torch {versions['torch']}"


def _memory() -> str:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    assert free >= MEMORY_GB, f"{free:.1f} GB free; expected {MEMORY_GB:g} GB"
    return f"{free:.1f} GB of memory"


def _disk() -> str:
    from ..files import cache_folder

    free = shutil.disk_usage(cache_folder()).free / 1e9
    assert free >= DISK_GB, f"{free:.1f} GB free for the cache; expected {DISK_GB:g} GB"
    return f"{free:.1f} GB of disk free"


def _kernel() -> str:
    from ..course.notebooks import import_jupyter

    import_jupyter("jupyter_client.kernelspec").KernelSpecManager().get_kernel_spec("python3")
    return "the kernel python3"


def _figures() -> str:
    from matplotlib.figure import Figure

    Figure(figsize=(2, 1)).savefig(picture := io.BytesIO(), format="png")
    assert picture.getvalue()[:4] == b"\x89PNG", "no PNG was drawn"
    return "figures"


def _model_and_pictures() -> str:
    import torch

    from ..datasets.loading import load_images
    from ..models import load

    clip, images = load(device="cpu"), load_images()
    pixels, start = torch.zeros(16, 3, clip.image_size, clip.image_size), time.perf_counter()
    assert clip.embed_pixels(pixels).isfinite().all(), "embeddings that are not finite"
    rate = len(pixels) / (time.perf_counter() - start)
    assert rate >= SLOWEST, f"{rate:.1f} pictures a second; expected {SLOWEST:g}"
    return f"miniclip, {len(images)} pictures, {rate:.0f} a second"


CHECKS: dict[Callable[[], str], str] = {
    _python: "install Python 3.11 or later, then: make env (or: conda env create -f environment.yml)",
    _packages: "make env (or: pip install -e '.[course]'), and choose that environment's kernel",
    _memory: "close other programs",
    _disk: "make room, or set the variable CLIPNULL_CACHE to a folder on another disk",
    _kernel: "python -m ipykernel install --sys-prefix --name python3",
    _figures: "pip install --force-reinstall matplotlib",
    _model_and_pictures: "git checkout -- data; if its files are tiny text files, git did not fetch them whole",
}
"""What is checked, and what to do where it fails."""
