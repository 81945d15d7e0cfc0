"""A sweep and an embedding on a cluster of several processes, one of which is killed in the middle."""

import contextlib
import functools
import os
import signal
import sys
import time
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest
import torch
from helpers import VIT

import clipnull as cn
from clipnull.bench import sweep as bench
from clipnull.datasets import shards

dask = pytest.importorskip("dask", reason="dask is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")


def mortal(request, *rest, victim, scene):
    """The rows of a request; the first worker that is given `victim` is killed at it, and leaves its number."""
    if request == victim and not scene.exists():
        scene.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return original(request, *rest)


def mortal_shards(clip, files, *rest, victim, scene):
    """The shards of `files`; the first worker that is given `victim` is killed when half of its shard is written."""

    def cut_off(file, rows):
        file.write(b"half")
        scene.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)

    shards.np.save = cut_off if victim in files and not scene.exists() else save
    return make(clip, files, *rest)


original, make, save = bench.rows_of, shards.make, np.save


def ready() -> int:
    """The number of the process of a worker, which then has all it needs: to import it in a task would stall it."""
    import clipnull.bench.sweep
    import clipnull.datasets.shards  # noqa: F401

    return os.getpid()


@contextlib.contextmanager
def three(folder, scene):
    """A cluster of three processes; in the end, one of them, whose number is in `scene`, was killed and replaced."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    patient = dask.config.set({"distributed.comm.timeouts.tcp": "300s", "distributed.comm.timeouts.connect": "120s"})
    cluster = functools.partial(
        distributed.LocalCluster,
        n_workers=3,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(folder),
    )
    try:
        with patient, cluster() as machines, distributed.Client(machines) as client:
            before = set(client.run(ready).values())
            yield
            dead, after = int(Path(scene).read_text()), set()
            for _ in range(600):  # dask takes a while to see that one is dead, and to start another
                after = {*client.run(os.getpid, on_error="ignore").values()} - {dead}
                if len(after) == 3:
                    break
                time.sleep(1)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert len(before) == 3 and os.getpid() not in before and dead in before and len(after) == 3


def results(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.nightly
def test_a_killed_worker_changes_nothing(clip, images, cells, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "embed_vocabulary", lambda *_: cells)  # prototypes would take a minute
    alone = bench.sweep(clip, images, ["nullspace", "oblique"], ["global", "complete"])
    assert len(alone) == (len(images.vocabulary.classes) + 6) * 2 * 3
    scene, victim = tmp_path / "scene", cn.Forget(classes=[images.vocabulary.classes[8]])
    monkeypatch.setattr(bench, "rows_of", functools.partial(mortal, victim=victim, scene=scene))
    with three(tmp_path, scene), joblib.parallel_config(backend="dask"):
        together = bench.sweep(clip, images, ["nullspace", "oblique"], ["global", "complete"])
    assert results(together) == results(alone)


@pytest.fixture
def many(small, images, monkeypatch):
    """A small model on all pictures, in shards of 32, on one thread as in a process of dask: the bytes are compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(shards, "SHARD", 32)
    yield small(VIT), images
    torch.set_num_threads(threads)


def content(found):
    return {path.name: path.read_bytes() for path in found.paths}


@pytest.mark.nightly
@pytest.mark.parametrize("scattered", [False, True])
def test_the_shards_of_a_killed_worker_are_made_by_the_others(many, tmp_path, monkeypatch, scattered):
    clip, images = many
    alone, scene = shards.embed_shards(clip, images, tmp_path / "alone"), tmp_path / "scene"
    monkeypatch.setattr(shards, "make", functools.partial(mortal_shards, victim=images.files[300], scene=scene))
    sent = {"scatter": [clip]} if scattered else {}
    with three(tmp_path, scene), joblib.parallel_config(backend="dask", **sent):
        together = shards.embed_shards(clip, images, tmp_path / "together")
    assert len(alone.paths) == -(-len(images) // 32) and together.whole.all()
    assert content(together) == content(alone)


def test_who_lacks_ray_is_told_before_anything_is_embedded(many, tmp_path, monkeypatch):
    monkeypatch.delitem(joblib.parallel.BACKENDS, "ray", raising=False)  # as where nobody called register_ray
    refused = pytest.raises(ValueError, match=r"Invalid backend: ray, expected one of \[.*'loky'")
    with refused, joblib.parallel_config(backend="ray", n_jobs=-1):
        shards.embed_shards(*many, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


@pytest.mark.nightly
def test_ray_embeds_the_same_even_where_a_process_is_killed(many, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    register = pytest.importorskip("ray.util.joblib", reason="ray is not installed").register_ray
    clip, images = many
    alone, scene = content(shards.embed_shards(clip, images, tmp_path / "alone")), tmp_path / "scene"
    monkeypatch.setenv("HOME", str(tmp_path))  # where ray keeps a token
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    ray.init(num_cpus=3, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        register()
        again = {"max_restarts": 2, "max_task_retries": 2}
        with joblib.parallel_config(backend="ray", n_jobs=-1, ray_remote_args=again):
            assert content(shards.embed_shards(clip, images, tmp_path / "together")) == alone
            monkeypatch.setattr(shards, "make", functools.partial(mortal_shards, victim=images.files[300], scene=scene))
            assert content(shards.embed_shards(clip, images, tmp_path / "fewer")) == alone
    finally:
        ray.shutdown()
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert int(scene.read_text()) != os.getpid()
