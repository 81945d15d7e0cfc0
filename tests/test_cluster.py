"""A sweep on a cluster of several processes, one of which is killed in the middle."""
import functools
import os
import signal
import sys
from pathlib import Path

import cloudpickle
import joblib
import pytest
import torch
import torch.nn.functional as F

import clipnull as cn
from clipnull import bench

distributed = pytest.importorskip("distributed", reason="distributed is not installed")


def mortal(request, *rest, victim, scene):
    """The rows of a request; the first worker that is given `victim` is killed at it, and leaves its number."""
    if request == victim and not scene.exists():
        scene.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return original(request, *rest)


original = bench.rows_of


def known(clip, vocabulary):
    texts = cn.embed_cells(clip, vocabulary)
    noise = torch.randn(texts.shape, generator=torch.Generator().manual_seed(0)) / texts.shape[-1] ** 0.5
    return cn.Concepts(texts, F.normalize(texts + noise, dim=-1))


def results(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_killed_worker_changes_nothing(clip, world, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "concepts", known)                       # prototypes would take a minute
    alone = bench.sweep(clip, world, ["nullspace", "oblique"], ["global", "complete"])
    assert len(alone) == (16 + 6) * 2 * 3
    scene, victim = tmp_path / "scene", cn.Forget(classes=[world.vocabulary.classes[8]])
    monkeypatch.setattr(bench, "rows_of", functools.partial(mortal, victim=victim, scene=scene))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])         # workers cannot import a test
    try:
        with distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None,
                                      local_directory=str(tmp_path)) as cluster, distributed.Client(cluster) as client:
            before = set(client.run(os.getpid).values())
            with joblib.parallel_config(backend="dask"):
                together = bench.sweep(clip, world, ["nullspace", "oblique"], ["global", "complete"])
            client.wait_for_workers(3, timeout=60)
            after = set(client.run(os.getpid).values())
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    dead = int(Path(scene).read_text())
    assert len(before) == 3 and os.getpid() not in before and dead in before and dead not in after
    assert results(together) == results(alone)
