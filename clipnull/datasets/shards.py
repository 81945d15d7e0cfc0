"""Embed many pictures once, into shards: files of at most SHARD rows.

The name of a shard is a hash of VERSION, the model's fingerprint, its preprocessing of a test picture, the precision,
and the bytes of all its pictures. A shard appears whole or not at all. If its checksum reveals later damage, it is
computed again. When a killed run is repeated, each process recomputes at most one shard. The result has the same bytes
on the same kind of machine.

Shards are joblib jobs. `joblib.parallel_config(backend="dask")` sends them to a cluster with the same files and
`folder`; so does `(backend="ray", n_jobs=-1)` after `ray.util.joblib.register_ray()`. Each job carries the model. With
`(backend="dask", scatter=[clip])` each dask process receives it only once.
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

VERSION = 3  # increase this whenever the same pictures give other bytes than before
SHARD, ON_CUDA = 1024, 16  # pictures in a shard; shards in a job on a GPU, so that reader processes rarely start


def results_of(jobs: Iterable[Any]) -> Iterator[Any]:
    """Yield the results of joblib's `delayed` jobs in order; they run here or where `parallel_config` sends them.

    Each result comes as soon as it is ready, or all come at the end if the backend, such as ray, cannot stream them.
    """
    try:
        parallel: Any = Parallel(return_as="generator")
    except ValueError:
        parallel = Parallel()
    yield from parallel(jobs)


@dataclass(frozen=True, eq=False)
class Shards:
    """Embeddings of n pictures in the .npz files `paths`, in order. whole: (n,) bool, False for broken pictures."""

    paths: tuple[Path, ...]
    whole: Tensor

    def chunks(self) -> Iterator[Tensor]:
        """Yield the rows of each shard, (m, d) float32, with NaN for broken pictures."""
        for path in self.paths:
            with np.load(path, allow_pickle=False) as archive:
                yield torch.from_numpy(archive["rows"])


def embed_shards(
    clip: Clip, images: Images, folder: str | Path | None = None, device: str | None = None, progress: str = ""
) -> Shards:
    """Embed pictures as `embed` does, into shards; shards that `folder` already holds are not computed again.

    CUDA runs in mixed precision, see `clipnull.embedding`. Apart from the list of files, memory use does not grow with
    their number. Finding a shard reads its pictures once without decoding them. Broken pictures cause a warning.

    clip: a model with an encoder and without edits. folder: by default `shards` in the cache folder. device: where each
    job puts the model, such as "cuda" if only the cluster has GPUs; by default, where it is. progress: a noun for the
    progress bar, such as "pictures"; no bar if empty.

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
    assert clip.fingerprint  # computed here once, before jobs copy the model
    jobs = (delayed(make)(clip, files[i : i + size], folder, device) for i in range(0, len(files), size))
    paths: list[Path] = []
    with tqdm(total=len(files), desc=f"embed {progress}", disable=not progress) as bar:
        for job_paths in results_of(jobs):
            paths += job_paths
            bar.update(min(size, len(files) - bar.n))
    shards = Shards(tuple(paths), torch.empty(0))
    whole = torch.cat([torch.ones(0, dtype=torch.bool), *(~rows[:, 0].isnan() for rows in shards.chunks())])
    broken = (~whole).nonzero()[:, 0].tolist()
    warn_of_broken([read_or_fault(files[i])[1] for i in broken[:5]], len(broken), len(files))
    return replace(shards, whole=whole)


def make(clip: Clip, files: Sequence[Path], folder: Path, device: str) -> list[Path]:
    """Run one job: return the shards of `files` in order, and compute those that `folder` lacks on `device`."""
    parts = [files[i : i + SHARD] for i in range(0, len(files), SHARD)]
    with ThreadPoolExecutor() as threads:
        contents = [list(threads.map(content, part)) for part in parts]
    mixed = torch.device(device).type == "cuda"
    encoder = clip.fingerprint + preprocessing_hash(clip)
    paths = [folder / f"{key(encoder, hashes, mixed)}.npz" for hashes in contents]
    missing = [i for i, path in enumerate(paths) if not is_whole(path, (len(parts[i]), clip.width))]
    if missing and clip.device.type != torch.device(device).type:
        clip = replace(clip, model=copy.deepcopy(clip.model).to(device))
    # A batch never spans two shards, since the bytes of a row may depend on the other rows of its batch.
    batches = [parts[i][j : j + BATCH] for i in missing for j in range(0, len(parts[i]), BATCH)]
    rows = (z for z, _ in embed_files(clip, batches, mixed))
    for i in missing:
        shard = torch.cat([next(rows) for _ in range(0, len(parts[i]), BATCH)])
        with written(paths[i]) as temporary, open(temporary, "wb") as file:
            np.savez(file, rows=shard.numpy())
    return paths


def content(file: Path) -> str:
    """Return a hash of the bytes of `file`, or "" for a special file, which is not opened. Raise OSError if missing."""
    if not stat.S_ISREG(os.stat(file).st_mode):
        return ""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def preprocessing_hash(clip: Clip) -> str:
    """Return a hash of a detailed test picture after the model's preprocessing, up to rounding."""
    ramp = np.arange(300 * 200 * 3, dtype=np.uint32) * 2_654_435_761 >> 24
    pixels = clip.preprocess(Image.fromarray(ramp.astype(np.uint8).reshape(200, 300, 3)))
    return hashlib.sha256(np.round(pixels.numpy() * 1e3).astype(np.int32).tobytes()).hexdigest()


def key(encoder: str, contents: Sequence[str], mixed: bool) -> str:
    """Return the name of a shard, 32 hexadecimal digits."""
    parts = [VERSION, encoder, "mixed" if mixed else "float32", *contents]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Return True if `path` holds an undamaged shard of this shape; zip files carry checksums."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            rows = archive["rows"]
    except Exception:  # zlib and the header parser raise their own types
        return False
    return rows.shape == shape and rows.dtype == np.float32
