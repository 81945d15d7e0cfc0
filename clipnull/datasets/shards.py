"""Embeddings of many pictures in files of at most SHARD rows, each made once: shards.

A shard is found by content: its name is a hash of VERSION, of the model's fingerprint (weights, and how pictures are
prepared), of the precision, and of all bytes of its pictures. Where these are and what they are called plays no role;
a picture more at the front moves all that follow into other shards. A shard appears whole or not at all. Whoever is
killed and starts again makes at most one shard (and process) anew, and gets the same bytes on the same kind of machine.
Two who make the same shard at once both do the work, and the last one stays, whole: nobody waits for a lock.

Shards are jobs of joblib. `joblib.parallel_config(backend="dask")` sends them to a cluster that sees the same files and
`folder`; so does `(backend="ray", n_jobs=-1)` after `ray.util.joblib.register_ray()`. A job brings the model along;
with `(backend="dask", scatter=[clip])`, each process of dask gets it once for all jobs.
"""

import copy
import hashlib
import json
import os
import stat
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from ..embedding import BATCH, embed_files
from ..files import cache_folder, written
from ..images import Images, read_picture
from ..models import Clip

# --- Independent jobs of joblib: one after another here, or wherever `joblib.parallel_config` sends them.


def results_of(jobs: Iterable[Any]) -> Iterator[Any]:
    """What each of `jobs`, made by `joblib.delayed`, returns: in their order, as soon as it is there.

    All together at the end with a backend that cannot do so, such as ray's.

    >>> from joblib import delayed
    >>> list(results_of(delayed(abs)(i) for i in (-1, 2)))
    [1, 2]
    """
    try:
        parallel: Any = Parallel(return_as="generator")
    except ValueError:
        parallel = Parallel()
    yield from parallel(jobs)


# --- shards

VERSION = 2
"""Of how a shard is made: a higher number wherever the same pictures give other bytes than before."""

SHARD, ON_CUDA = 1024, 16
"""Pictures in a shard; shards in a job on a GPU, so that the processes that read pictures are not begun too often."""


@dataclass(frozen=True, eq=False)
class Shards:
    """Embeddings of n pictures, in files.

    Attributes
    ----------
    paths : tuple of Path
        In the order of the pictures: .npy files of (m, d) float32.
    width : int
        d.
    whole : (n,) bool
        Which pictures are not broken; the rows of the others are NaN.
    """

    paths: tuple[Path, ...]
    width: int
    whole: Tensor

    def chunks(self) -> Iterator[Tensor]:
        """The rows of each shard, (m, d), read when it is asked for."""
        for path in self.paths:
            yield torch.from_numpy(np.load(path, allow_pickle=False))


def embed_shards(
    clip: Clip, images: Images, folder: str | Path | None = None, device: str | None = None, progress: str = ""
) -> Shards:
    """Embeddings of all pictures, as `embed` gives them, in shards; those that `folder` has already are not made again.

    In mixed precision on CUDA, see `clipnull.embedding`. Memory does not grow with the number of pictures, but for
    their list. To find a shard that is there, its pictures are read once, not decoded.

    Parameters
    ----------
    clip : Clip
        With an encoder, and without edits.
    images : Images
        n pictures.
    folder : str or Path, optional
        Made if need be. By default `shards` in the cache folder (`files.cache_path`).
    device : str, optional
        Where each job puts the model, such as "cuda" where only the cluster has GPUs; by default where it is.
    progress : str
        What is embedded, such as "pictures": standard error then tells the rate and the time left, after each job.

    Returns
    -------
    Shards

    Raises
    ------
    ValueError
        For an edited model or stored embeddings.
    OSError
        For a picture that is gone, and if `folder` cannot be written.

    Warns
    -----
    UserWarning
        For pictures that are broken, with their number and the names of the first.

    Examples
    --------
    >>> import clipnull as cn, tempfile
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["dog"], ["line"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = embed_shards(clip, images, folder)
    ...     [rows.shape == (len(images), clip.width) for rows in found.chunks()]
    [True]
    """
    clip.validate_encoder()
    images.validate_pixels()
    if clip.edits:
        raise ValueError(f"clip: it carries {len(clip.edits)} edits; expected the unedited model, clip.base")
    folder = cache_folder() / "shards" if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device = device or str(clip.device)
    n, size, start = len(images), SHARD * (ON_CUDA if _is_cuda(device) else 1), time.perf_counter()
    assert clip.fingerprint  # which a job then brings along
    jobs = (delayed(make)(clip, images.files[i : i + size], folder, device) for i in range(0, n, size))
    paths, whole, made = [], torch.ones(n, dtype=torch.bool), 0
    for found, new in results_of(jobs):
        for path in found:
            first = len(paths) * SHARD
            whole[first : first + SHARD] = torch.from_numpy(~np.isnan(np.load(path, mmap_mode="r")[:, 0]))
            paths.append(path)
        made += new
        if progress:
            done = min(len(paths) * SHARD, n)
            print(told(progress, done, n, made, time.perf_counter() - start), file=sys.stderr, flush=True)
    if not whole.all():
        broken = (~whole).nonzero()[:, 0].tolist()
        some = "; ".join(_reason(images.files[i]) for i in broken[:5])
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        warnings.warn(f"{len(broken)} of {n} pictures are broken, their features NaN: {some}{more}", stacklevel=2)
    return Shards(tuple(paths), clip.width, whole)


def make(clip: Clip, files: Sequence[Path], folder: Path, device: str) -> tuple[list[Path], int]:
    """One job: the shards of `files`, in order, and how many pictures were in none; these are embedded, on `device`."""
    parts = [files[i : i + SHARD] for i in range(0, len(files), SHARD)]
    with ThreadPoolExecutor() as threads:
        digests = [list(threads.map(content, part)) for part in parts]
    mixed = _is_cuda(device)
    paths = [folder / f"{key(clip.fingerprint, own, mixed)}.npy" for own in digests]
    missing = [i for i, path in enumerate(paths) if not is_whole(path, (len(parts[i]), clip.width))]
    wanted = [file for i in missing for file in parts[i]]
    if not wanted:
        return paths, 0
    if clip.device.type != torch.device(device).type:
        clip = replace(clip, model=copy.deepcopy(clip.model).to(device))
    batches, ends = [], []
    for i in missing:  # no batch reaches into the next shard: a row's bytes could depend on what is beside it
        first = batches[-1].stop if batches else 0
        end = first + len(parts[i])
        batches += [range(j, min(j + BATCH, end)) for j in range(first, end, BATCH)]
        ends.append(end)
    rows, place = [], 0
    for batch, (z, _) in zip(batches, embed_files(clip, wanted, batches, mixed), strict=True):
        rows.append(z)
        if batch.stop == ends[place]:
            with written(paths[missing[place]]) as temporary, open(temporary, "wb") as file:
                np.save(file, torch.cat(rows).numpy())
            rows, place = [], place + 1
    return paths, len(wanted)


def content(file: Path) -> str:
    """A hash of the bytes of `file`; nothing is read of what is no regular file. Raises OSError if it is gone."""
    if not stat.S_ISREG(os.stat(file).st_mode):
        return ""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def key(fingerprint: str, contents: Sequence[str], mixed: bool) -> str:
    """The name of a shard: 32 hexadecimal digits."""
    told = [VERSION, fingerprint, "mixed" if mixed else "float32", *contents]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a shard of that shape is at `path`; not so if it was cut off, or holds something else."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return found.shape == shape and found.dtype == np.float32


def told(what: str, done: int, n: int, made: int, seconds: float) -> str:
    """Progress in a line: how many are done, and, if some were made, how many a second and how long for the rest.

    >>> told("pictures", 2048, 10240, 1024, 50.0)
    'embed: 2048 of 10240 pictures, 20.5 a second, 0:06:40 left'
    """
    line = f"embed: {done} of {n} {what}"
    if not made:
        return line
    return f"{line}, {made / seconds:.1f} a second, {timedelta(seconds=round((n - done) * seconds / made))} left"


def _is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _reason(file: Path) -> str:
    try:
        read_picture(file)
    except ValueError as error:
        return str(error)
    return str(file)
