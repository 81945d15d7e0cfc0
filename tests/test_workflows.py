"""The workflows of GitHub: well formed, and what they promise."""
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parent.parent / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))


def load(name: str) -> tuple[dict, dict, list[dict]]:
    """The triggers, the one job and its steps."""
    text = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    (job,) = text["jobs"].values()
    return text[True], job, job["steps"]                       # YAML 1.1 reads the key `on` as true


def first(steps: list[dict], words: str) -> int:
    return next(i for i, step in enumerate(steps) if words in step.get("run", "") + step.get("uses", ""))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_workflow_follows_the_schema_of_github(path):
    main = pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed").main
    assert main(["--builtin-schema", "vendor.github-workflows", str(path)], standalone_mode=False) in (None, 0)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_workflows_may_only_read_and_always_keep_what_was_executed(path):
    text = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert text["permissions"] == {"contents": "read"}
    steps = load(path.name)[2]
    assert steps[-1]["if"] == "always()" and steps[-1]["with"]["path"] == "build/"
    assert any("diff.txt" in step.get("run", "") and step["if"] == "always()" for step in steps)


def test_cpu_runs_on_every_change_on_a_hosted_runner_with_a_cached_model_folder():
    triggers, job, steps = load("cpu.yml")
    assert set(triggers) == {"push", "pull_request"} and job["runs-on"] == "ubuntu-latest"
    assert first(steps, "actions/cache") < first(steps, "make test") < first(steps, "upload-artifact")


def test_gpu_runs_nightly_and_on_demand_on_our_own_runner_and_never_for_forks():
    triggers, job, steps = load("gpu.yml")
    assert set(triggers) == {"schedule", "workflow_dispatch"} and "self-hosted" in job["runs-on"]
    assert job["if"] == "github.event.repository.fork == false" and job["env"]["CLIPNULL_CACHE"]
    assert first(steps, "cuda.is_available()") < first(steps, "--profile gpu --jobs 1 --check")
