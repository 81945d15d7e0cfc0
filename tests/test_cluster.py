"""An embedding on several processes, one of which is killed in the middle; and the page on clusters."""

import contextlib
import functools
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from types import ModuleType

import cloudpickle
import joblib
import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import VIT

from clipnull import embedding
from clipnull.commands import cli
from clipnull.datasets import shards

dask = pytest.importorskip("dask", reason="dask is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")

PAGE = (ROOT / "notebooks" / "CLUSTER.md").read_text(encoding="utf-8")
BLOCKS = {re.match(r"(?:# )?(\S+)", text)[1]: text for text in re.findall(r"^```\w+\n(.*?)^```", PAGE, re.M | re.S)}


# --- one process is killed


def mortal_shards(clip, files, *rest, victim, scene):
    """The shards of `files`; the first worker that is given `victim` is killed when half of its shard is written."""

    def cut_off(file, rows):
        file.write(b"half")
        scene.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)

    shards.np.savez = cut_off if victim in files and not scene.exists() else save
    return make(clip, files, *rest)


make, save = shards.make, np.savez


def ready() -> int:
    """The number of the process of a worker, with everything imported: to import it in a task would stall it."""
    import clipnull.datasets.shards  # noqa: F401

    return os.getpid()


@contextlib.contextmanager
def three(folder, scene):
    """A cluster of three processes, of which one, whose number is in `scene` in the end, was killed."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    patient = dask.config.set({"distributed.comm.timeouts.tcp": "300s", "distributed.comm.timeouts.connect": "120s"})
    settings = {"n_workers": 3, "threads_per_worker": 1, "dashboard_address": None, "local_directory": str(folder)}
    try:
        with patient, distributed.LocalCluster(**settings) as machines, distributed.Client(machines) as client:
            processes = set(client.run(ready).values())
            yield
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert len(processes) == 3 and int(scene.read_text()) in processes - {os.getpid()}


@pytest.fixture
def many(small, images, monkeypatch):
    """A small model on all pictures, in shards of 32, on one thread as in a process of dask: the bytes are compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(shards, "SHARD", 32)
    yield small(VIT), images
    torch.set_num_threads(threads)


def content(embeddings):
    return {path.name: path.read_bytes() for path in embeddings.paths}


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


@pytest.mark.nightly
def test_ray_makes_the_same_shards(many, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    register = pytest.importorskip("ray.util.joblib", reason="ray is not installed").register_ray
    alone = content(shards.embed_shards(*many, tmp_path / "alone"))
    monkeypatch.setenv("HOME", str(tmp_path))  # where ray keeps a token
    ray.init(num_cpus=3, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        register()
        with joblib.parallel_config(backend="ray", n_jobs=-1):
            assert content(shards.embed_shards(*many, tmp_path / "together")) == alone
    finally:
        ray.shutdown()


def test_joblib_takes_the_jobs_wherever_it_is_told(many, tmp_path):
    clip, images = many
    alone = shards.embed_shards(clip, images.select(["dog"]), tmp_path / "alone")
    with joblib.parallel_config(backend="threading", n_jobs=2):
        together = shards.embed_shards(clip, images.select(["dog"]), tmp_path / "together")
    assert content(together).keys() == content(alone).keys()
    for mine, theirs in zip(together.chunks(), alone.chunks(), strict=True):
        torch.testing.assert_close(mine, theirs)


# --- the page


def run(name, folder, monkeypatch, **environment):
    """The names that a program of the page defines, with `folder` as the one that all machines share."""
    for key, value in ({"SHARED": str(folder)} | environment).items():
        monkeypatch.setenv(key, value)
    scope = {"__name__": "page"}
    exec(compile(BLOCKS[name], name, "exec"), scope)
    return scope


def in_place_of_slurm(monkeypatch, n):
    """Let `dask_jobqueue` begin n processes here; the list of the settings that it gets."""
    settings_of = []

    class Local(distributed.LocalCluster):
        def __init__(self, **settings):
            settings_of.append(settings)
            super().__init__(n_workers=n, threads_per_worker=1, dashboard_address=None)

        def scale(self, n=0, jobs=None):
            return super().scale(n) if jobs is None else settings_of.append(jobs)

    module = ModuleType("dask_jobqueue")
    module.SLURMCluster = Local
    monkeypatch.setitem(sys.modules, "dask_jobqueue", module)
    return settings_of


def test_each_place_of_the_grid_is_a_command_and_results_are_kept(tmp_path, monkeypatch):
    scope, commands = run("grid.py", tmp_path, monkeypatch), []
    monkeypatch.setattr(scope["subprocess"], "run", lambda command, check: commands.append(list(map(str, command))))
    outs = [scope["one"](place) for place in range(len(scope["GRID"]))]
    assert len({*outs}) == len(outs) == len(commands) == 15
    args = cli.parser()[0].parse_args(commands[7][3:])
    given = {"model": "ViT-B-16/openai", "data": str(tmp_path / "pacs"), "seed": "2"}
    assert args.command == "run" and dict(args.parameters) == given and args.limit == 14400
    assert args.notebooks == [scope["NOTEBOOK"]] and (ROOT / scope["NOTEBOOK"]).is_file()
    args.out.mkdir(parents=True)
    (args.out / scope["NOTEBOOK"].name).write_text("")
    scope["one"](7)
    assert len(commands) == 15


def test_the_commands_and_numbers_of_the_page_are_those_of_the_library():
    first, second = BLOCKS["python"].replace("\\\n", "").splitlines()
    words, wrapped = shlex.split(first), shlex.split(shlex.split(second)[-1])
    assert words[:2] == ["python", "embed.py"] and len(words[2:]) == 3
    args = cli.parser()[0].parse_args(wrapped[1:])
    assert (wrapped[0], args.command, args.model, args.pretrained, args.data) == ("clipnull", "embed", *words[2:])
    bounds = dict(re.findall(r"^\| embeddings in (full|mixed) precision.*?\| ([\de-]+), ", PAGE, re.MULTILINE))
    assert {kind: float(bound) for kind, bound in bounds.items()} == {
        "full": embedding.AGREE,
        "mixed": embedding.AGREE_MIXED,
    }
    assert f"shards of {shards.SHARD:,} pictures" in PAGE
    assert -(-586_575 // shards.SHARD) == 573 and -(-573 // shards.ON_CUDA) == 36


@pytest.mark.nightly
def test_the_grid_runs_on_three_processes(tmp_path, monkeypatch, notebook):
    scope, settings = run("grid.py", tmp_path, monkeypatch), in_place_of_slurm(monkeypatch, 3)
    parameters = '# parameters\nmodel = ""  # a name\ndata = ""  # a folder\nseed = 0  # any'
    scope["NOTEBOOK"] = notebook("01_small", parameters, "import clipnull as cn\ncn.record(seed=float(seed))")
    scope["GRID"][:] = scope["GRID"][3:7]
    outs = [Path(out) for out in scope["all_on_slurm"]()]
    assert settings[1] == 4 and "--gres=gpu:1" in settings[0]["job_extra_directives"]
    seeds = [json.loads((out / "metrics.json").read_text())["01_small"]["seed"] for out in outs]
    assert seeds == [3.0, 4.0, 0.0, 1.0] and all((out / "01_small.ipynb").is_file() for out in outs)


@pytest.mark.nightly
def test_the_program_that_embeds_leaves_shards_that_are_found(clip, corner, tmp_path, monkeypatch):
    scope = run("embed.py", tmp_path, monkeypatch, DEVICE="cpu", CLIPNULL_CACHE=str(tmp_path / "cache"))
    settings = in_place_of_slurm(monkeypatch, 4)
    monkeypatch.setattr("clipnull.load_images", lambda folder: corner)
    scope["main"]("miniclip", None, "folder")
    assert settings[1] == 4
    monkeypatch.setattr(shards, "embed_files", lambda *_: iter(()))  # nothing is embedded again
    assert len(shards.embed_shards(clip, corner).paths) == 1
