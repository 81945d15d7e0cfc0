"""`clipnull doctor`: check that this machine can run the course."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shutil
import time
from collections.abc import Callable

from .console import add_command

PACKAGES = "torch open_clip_torch numpy scikit-learn safetensors pillow matplotlib seaborn pandas papermill ipykernel"
MEMORY_GB, DISK_GB, SLOWEST = 1.0, 0.5, 5.0  # least free memory and disk; fewest pictures a second


def add(commands: argparse._SubParsersAction) -> None:
    add_command(commands, "doctor", doctor, "check that this machine can run the course")


def doctor(args: argparse.Namespace) -> int:
    facts, faults = [], []
    for check, remedy in CHECKS.items():
        try:
            facts.append(check())
        except Exception as error:  # this command reports whatever is missing or broken
            name = check.__name__.lstrip("_").replace("_", " ")
            faults.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}\n  -> {remedy}")
    print("\n".join(faults) if faults else f"ready: {', '.join(facts)}")
    return int(bool(faults))


def _packages() -> str:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES.split()}
    return f"Python {platform.python_version()}, torch {versions['torch']}"


def _memory_and_disk() -> str:
    import psutil

    from ..files import cache_folder

    memory, disk = psutil.virtual_memory().available / 1e9, shutil.disk_usage(cache_folder()).free / 1e9
    assert memory >= MEMORY_GB, f"{memory:.1f} GB of memory free; expected {MEMORY_GB:g} GB"
    assert disk >= DISK_GB, f"{disk:.1f} GB free for the cache; expected {DISK_GB:g} GB"
    return f"{memory:.1f} GB of memory and {disk:.1f} GB of disk free"


def _kernel() -> str:
    from ..course.notebooks import import_jupyter

    import_jupyter("jupyter_client.kernelspec").KernelSpecManager().get_kernel_spec("python3")
    return "the kernel python3"


def _model_and_pictures() -> str:
    import torch

    from ..datasets.loading import load_images
    from ..models import load

    clip, images = load(device="cpu"), load_images()
    pixels, start = torch.zeros(16, 3, clip.image_size, clip.image_size), time.perf_counter()
    assert clip.embed_pixels(pixels).isfinite().all(), "embeddings are not finite"
    rate = len(pixels) / (time.perf_counter() - start)
    assert rate >= SLOWEST, f"{rate:.1f} pictures a second; expected {SLOWEST:g}"
    return f"miniclip, {len(images)} pictures, {rate:.0f} a second"


CHECKS: dict[Callable[[], str], str] = {
    _packages: "make env (or: pip install -e '.[course]'; Python 3.11 or later), then choose that environment's kernel",
    _memory_and_disk: "close other programs; free disk space, or set CLIPNULL_CACHE to a folder on another disk",
    _kernel: "python -m ipykernel install --sys-prefix --name python3",
    _model_and_pictures: "git checkout -- data; if its files are tiny text files, git did not fetch them in full",
}
"""The checks, with the remedy for each."""
