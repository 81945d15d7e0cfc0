"""Embeddings of many pictures in files of at most SHARD rows, each made once: shards.

A shard is found by content: its name is a hash of VERSION, of the model's fingerprint, of what its preprocessing makes
of a picture, of the precision, and of all bytes of its pictures. It appears whole or not at all, with a checksum, and
one that was damaged later is made again. After a killed run, the same call repeats at most one shard a process, and
gets the same bytes on the same kind of machine.

Shards are jobs of joblib. `joblib.parallel_config(backend="dask")` sends them to a cluster that sees the same files and
`folder`; so does `(backend="ray", n_jobs=-1)` after `ray.util.joblib.register_ray()`. A job brings the model along;
with `(backend="dask", scatter=[clip])`, each process of dask gets it once for all jobs.
"""

import copy
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..embedding import BATCH, embed_files, read_or_fault, warn_of_broken
from ..files import cache_folder, written
from ..images import Images
from ..models import Clip

VERSION = 3
"""Of how a shard is made: a higher number wherever the same pictures give other bytes than before."""

SHARD, ON_CUDA = 1024, 16
"""Pictures in a shard; shards in a job on a GPU, so that the processes that read pictures are rarely started."""


def results_of(jobs: Iterable[Any]) -> Iterator[Any]:
    """The results of `jobs`, made by `joblib.delayed`, in their order, here or where `parallel_config` sends them.

    Each comes as soon as it is ready, or all at the end with a backend that cannot do so, such as ray's.
    """
    try:
        parallel: Any = Parallel(return_as="generator")
    except ValueError:
        parallel = Parallel()
    yield from parallel(jobs)


@dataclass(frozen=True, eq=False)
class Shards:
    """Embeddings of n pictures in .npz files, `paths`, in their order. whole: (n,) bool, False for broken ones."""

    paths: tuple[Path, ...]
    whole: Tensor

    def chunks(self) -> Iterator[Tensor]:
        """The rows of each shard, (m, d) float32, NaN for broken pictures, read when they are asked for."""
        for path in self.paths:
            with np.load(path, allow_pickle=False) as archive:
                yield torch.from_numpy(archive["rows"])


def embed_shards(
    clip: Clip, images: Images, folder: str | Path | None = None, device: str | None = None, progress: str = ""
) -> Shards:
    """Embeddings of all pictures, as `embed` gives them, in shards; those that `folder` has already are not made again.

    In mixed precision on CUDA, see `clipnull.embedding`. Memory does not grow with the number of pictures, but for
    their list. To find a shard that is there, its pictures are read once, not decoded. Broken ones are warned of.

    clip: with an encoder, and without edits. folder: by default `shards` in the cache folder. device: where each job
    puts the model, such as "cuda" where only the cluster has GPUs; by default where it is. progress: what is embedded,
    such as "pictures", for a progress bar.

    >>> import clipnull as cn, tempfile
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["dog"], ["line"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shards = embed_shards(clip, images, folder)
    ...     [rows.shape == (len(images), clip.width) for rows in shards.chunks()]
    [True]
    """
    clip.validate_encoder()
    images.validate_pixels()
    if clip.edits:
        raise ValueError(f"clip: it carries {len(clip.edits)} edits; expected the unedited model, clip.base")
    folder = cache_folder() / "shards" if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device, files = device or str(clip.device), images.files
    size = SHARD * (ON_CUDA if torch.device(device).type == "cuda" else 1)
    assert clip.fingerprint  # computed here once: a job brings it along
    jobs = (delayed(make)(clip, files[i : i + size], folder, device) for i in range(0, len(files), size))
    paths: list[Path] = []
    with tqdm(total=len(files), desc=f"embed {progress}", disable=not progress) as bar:
        for made in results_of(jobs):
            paths += made
            bar.update(min(size, len(files) - bar.n))
    shards = Shards(tuple(paths), torch.empty(0))
    whole = torch.cat([torch.ones(0, dtype=torch.bool), *(~rows[:, 0].isnan() for rows in shards.chunks())])
    broken = (~whole).nonzero()[:, 0].tolist()
    warn_of_broken([read_or_fault(files[i])[1] for i in broken[:5]], len(broken), len(files))
    return replace(shards, whole=whole)


def make(clip: Clip, files: Sequence[Path], folder: Path, device: str) -> list[Path]:
    """One job: the shards of `files`, in order. Those that `folder` lacks are made on `device`."""
    parts = [files[i : i + SHARD] for i in range(0, len(files), SHARD)]
    with ThreadPoolExecutor() as threads:
        contents = [list(threads.map(content, part)) for part in parts]
    mixed = torch.device(device).type == "cuda"
    made_by = clip.fingerprint + prepared(clip)
    paths = [folder / f"{key(made_by, hashes, mixed)}.npz" for hashes in contents]
    missing = [i for i, path in enumerate(paths) if not is_whole(path, (len(parts[i]), clip.width))]
    if missing and clip.device.type != torch.device(device).type:
        clip = replace(clip, model=copy.deepcopy(clip.model).to(device))
    # No batch reaches into the next shard: the bytes of a row may depend on the rows beside it.
    batches = [parts[i][j : j + BATCH] for i in missing for j in range(0, len(parts[i]), BATCH)]
    rows = (z for z, _ in embed_files(clip, batches, mixed))
    for i in missing:
        shard = torch.cat([next(rows) for _ in range(0, len(parts[i]), BATCH)])
        with written(paths[i]) as temporary, open(temporary, "wb") as file:
            np.savez(file, rows=shard.numpy())
    return paths


def content(file: Path) -> str:
    """A hash of the bytes of `file`; "" for what is no regular file, which is not opened. OSError if it is gone."""
    if not stat.S_ISREG(os.stat(file).st_mode):
        return ""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def prepared(clip: Clip) -> str:
    """A hash of what a model's preprocessing makes of a picture with detail in it, up to rounding."""
    ramp = np.arange(300 * 200 * 3, dtype=np.uint32) * 2_654_435_761 >> 24
    pixels = clip.preprocess(Image.fromarray(ramp.astype(np.uint8).reshape(200, 300, 3)))
    return hashlib.sha256(np.round(pixels.numpy() * 1e3).astype(np.int32).tobytes()).hexdigest()


def key(made_by: str, contents: Sequence[str], mixed: bool) -> str:
    """The name of a shard: 32 hexadecimal digits."""
    made_of = [VERSION, made_by, "mixed" if mixed else "float32", *contents]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a shard of that shape is at `path`, as its checksum says, which a zip file carries."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            rows = archive["rows"]
    except Exception:  # whatever is wrong with it
        return False
    return rows.shape == shape and rows.dtype == np.float32
