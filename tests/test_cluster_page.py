"""The page on clusters: its programs compile and run, its Kubernetes file fits them, its table is what they print."""

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from conftest import ROOT

from clipnull import embedding
from clipnull.commands import cli
from clipnull.datasets import shards

PAGE = (ROOT / "notebooks" / "CLUSTER.md").read_text(encoding="utf-8")
BLOCKS = {}
for language, text in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
    BLOCKS[re.match(r"(?:# )?([\w.]+)", text)[1]] = language, text


def run(name, folder, monkeypatch, **environment):
    """The names that a program of the page defines, with `folder` as the one that all machines share."""
    for key, value in ({"SHARED": str(folder)} | environment).items():
        monkeypatch.setenv(key, value)
    scope = {"__name__": "page"}
    exec(compile(BLOCKS[name][1], name, "exec"), scope)
    return scope


def in_place_of_slurm(monkeypatch, n):
    """Let `dask_jobqueue` begin n processes here; the list of what it was asked for."""
    distributed, asked = pytest.importorskip("distributed", reason="distributed is not installed"), []

    class Local(distributed.LocalCluster):
        def __init__(self, **settings):
            asked.append(settings)
            super().__init__(n_workers=n, threads_per_worker=1, dashboard_address=None)

        def scale(self, n=0, jobs=None):
            return super().scale(n) if jobs is None else asked.append(jobs)

    module = ModuleType("dask_jobqueue")
    module.SLURMCluster = Local
    monkeypatch.setitem(sys.modules, "dask_jobqueue", module)
    return asked


def test_all_blocks_are_known():
    languages = {name: language for name, (language, _) in BLOCKS.items()}
    assert languages == {
        "grid.py": "python",
        "grid.yaml": "yaml",
        "embed.py": "python",
        "python": "sh",
        "plan.py": "python",
    }


def test_each_place_of_the_grid_is_a_command_and_what_is_there_stays(tmp_path, monkeypatch):
    scope, asked = run("grid.py", tmp_path, monkeypatch), []
    monkeypatch.setattr(scope["subprocess"], "run", lambda command, check: asked.append(list(map(str, command))))
    outs = [scope["one"](place) for place in range(len(scope["GRID"]))]
    assert len({*outs}) == len(outs) == len(asked) == 15
    args = cli.parser()[0].parse_args(asked[7][3:])
    given = {"model": "ViT-B-16", "pretrained": "openai", "data": str(tmp_path / "pacs"), "seed": "2"}
    assert args.command == "run" and dict(args.parameters) == given and args.limit == 14400
    assert args.notebooks == [scope["NOTEBOOK"]] and (ROOT / scope["NOTEBOOK"]).is_file()
    done = args.out / scope["NOTEBOOK"].name
    done.parent.mkdir(parents=True)
    done.write_text("")
    scope["one"](7)
    assert len(asked) == 15


def test_kubernetes_asks_for_every_place_of_the_grid(tmp_path, monkeypatch):
    job = yaml.safe_load(BLOCKS["grid.yaml"][1])
    spec, (container,) = job["spec"], job["spec"]["template"]["spec"]["containers"]
    assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    assert spec["completions"] == len(run("grid.py", tmp_path, monkeypatch)["GRID"])
    assert container["command"][-1].split() == ["python", "/shared/grid.py", "$JOB_COMPLETION_INDEX"]
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # as indexed jobs demand


def test_the_table_is_what_the_plan_prints(tmp_path, monkeypatch, capsys):
    scope = run("plan.py", tmp_path, monkeypatch)
    assert capsys.readouterr().out in PAGE and scope["SHARD"] == shards.SHARD and len(scope["MODELS"]) == 10
    assert "573 shards are 36 jobs" in PAGE and -(-573 // shards.ON_CUDA) == 36


def test_the_plan_knows_the_shapes_of_the_towers(tmp_path, monkeypatch):
    import open_clip

    for name, shape in run("plan.py", tmp_path, monkeypatch)["MODELS"].items():
        config = open_clip.get_model_config(name)
        tower = config["vision_cfg"]
        hidden = int(tower["width"] * tower.get("mlp_ratio", 4.0))
        told = config["embed_dim"], tower["layers"], tower["width"], hidden, tower["patch_size"], tower["image_size"]
        assert shape == told, name


def test_how_far_cpu_and_gpu_may_differ_is_what_the_tests_hold():
    told = re.findall(r"^\| embeddings in (full|mixed) precision.*?\| ([\de-]+), ", PAGE, re.MULTILINE)
    assert {kind: float(bound) for kind, bound in told} == {"full": embedding.AGREE, "mixed": embedding.AGREE_MIXED}


def test_the_lines_for_a_shell_are_commands(tmp_path, monkeypatch):
    first, second = BLOCKS["python"][1].replace("\\\n", "").splitlines()
    words, wrapped = shlex.split(first), shlex.split(shlex.split(second)[-1])
    assert words[:2] == ["python", "embed.py"] and len(words[2:]) == 3
    args = cli.parser()[0].parse_args(wrapped[1:])
    assert (wrapped[0], args.command, args.model, args.pretrained, args.data) == ("clipnull", "embed", *words[2:])


@pytest.mark.nightly
def test_the_grid_runs_on_three_processes(tmp_path, monkeypatch, notebook):
    scope, asked = run("grid.py", tmp_path, monkeypatch), in_place_of_slurm(monkeypatch, 3)
    parameters = '# parameters\nmodel = ""  # a name\npretrained = ""  # a tag\ndata = ""  # a folder\nseed = 0  # any'
    scope["NOTEBOOK"] = notebook("01_small", parameters, "import clipnull as cn\ncn.record(seed=float(seed))")
    scope["GRID"][:] = scope["GRID"][3:7]
    outs = [Path(out) for out in scope["all_on_slurm"]()]
    assert asked[1] == 4 and "--gres=gpu:1" in asked[0]["job_extra_directives"]
    assert outs == [tmp_path / "grid" / f"{model}-{seed}" for model, seed in scope["GRID"]]
    found = [json.loads((out / "metrics.json").read_text())["01_small"]["seed"] for out in outs]
    assert found == [3.0, 4.0, 0.0, 1.0] and all((out / "01_small.ipynb").is_file() for out in outs)


@pytest.mark.nightly
def test_the_program_that_embeds_leaves_shards_that_are_found(clip, corner, tmp_path, monkeypatch):
    scope = run("embed.py", tmp_path, monkeypatch, DEVICE="cpu", CLIPNULL_CACHE=str(tmp_path / "cache"))
    asked = in_place_of_slurm(monkeypatch, 4)
    monkeypatch.setattr("clipnull.load_images", lambda folder: corner)
    scope["main"]("miniclip", None, "folder")
    assert asked[1] == 4
    monkeypatch.setattr(shards, "embed_files", lambda *_: pytest.fail("embedded again"))
    assert len(shards.embed_shards(clip, corner).paths) == 1
