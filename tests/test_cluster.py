"""A sweep on a cluster of several processes, one of which is killed in the middle."""

import functools
import os
import signal
import sys
from pathlib import Path

import cloudpickle
import joblib
import pytest

import clipnull as cn
from clipnull import bench

dask = pytest.importorskip("dask", reason="dask is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")


def mortal(request, *rest, victim, scene):
    """The rows of a request; the first worker that is given `victim` is killed at it, and leaves its number."""
    if request == victim and not scene.exists():
        scene.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return original(request, *rest)


original = bench.rows_of


def ready() -> int:
    """The number of the process of a worker, which then has all it needs: to import it in a task would stall it."""
    import clipnull.bench  # noqa: F401

    return os.getpid()


def results(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.nightly
def test_a_killed_worker_changes_nothing(clip, images, cells, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "embed_vocabulary", lambda *_: cells)  # prototypes would take a minute
    alone = bench.sweep(clip, images, ["nullspace", "oblique"], ["global", "complete"])
    assert len(alone) == (len(images.vocabulary.classes) + 6) * 2 * 3
    scene, victim = tmp_path / "scene", cn.Forget(classes=[images.vocabulary.classes[8]])
    monkeypatch.setattr(bench, "rows_of", functools.partial(mortal, victim=victim, scene=scene))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    patient = dask.config.set({"distributed.comm.timeouts.tcp": "300s", "distributed.comm.timeouts.connect": "120s"})
    cluster = functools.partial(
        distributed.LocalCluster,
        n_workers=3,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(tmp_path),
    )
    try:
        with patient, cluster() as machines, distributed.Client(machines) as client:
            before = set(client.run(ready).values())
            with joblib.parallel_config(backend="dask"):
                together = bench.sweep(clip, images, ["nullspace", "oblique"], ["global", "complete"])
            client.wait_for_workers(3, timeout=120)
            after = set(client.run(os.getpid).values())
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    dead = int(Path(scene).read_text())
    assert len(before) == 3 and os.getpid() not in before and dead in before and dead not in after
    assert results(together) == results(alone)
