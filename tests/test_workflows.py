"""The workflows and forms of GitHub: well formed, and what they promise."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))


def load(name: str) -> tuple[dict, dict, list[dict]]:
    """The triggers, the one job and its steps."""
    text = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    (job,) = text["jobs"].values()
    return text[True], job, job["steps"]  # YAML 1.1 reads the key `on` as true


def first(steps: list[dict], words: str) -> int:
    return next(i for i, step in enumerate(steps) if words in step.get("run", "") + step.get("uses", ""))


SCHEMAS = [(path, "github-workflows") for path in FILES]
SCHEMAS += [
    (path, "github-issue-config" if path.name == "config.yml" else "github-issue-forms")
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
]
SCHEMAS += [(ROOT / "CITATION.cff", "citation-file-format")]


@pytest.mark.parametrize("path, schema", SCHEMAS, ids=lambda value: getattr(value, "name", ""))
def test_a_file_follows_its_schema(path, schema):
    main = pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed").main
    kind = ["--default-filetype", "yaml"]
    assert main(["--builtin-schema", f"vendor.{schema}", *kind, str(path)], standalone_mode=False) in (None, 0)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_workflows_may_only_read_and_always_keep_what_was_executed(path):
    text = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert text["permissions"] == {"contents": "read"}
    _, job, steps = load(path.name)
    if path.name == "book.yml":  # executes nothing
        return
    assert "permissions" not in job
    assert steps[-1]["if"] == "always()" and steps[-1]["with"]["path"] == "build/"
    assert any("diff.txt" in step.get("run", "") and step["if"] == "always()" for step in steps)


def test_cpu_runs_on_every_change_on_a_hosted_runner_with_a_cached_model_folder():
    triggers, job, steps = load("cpu.yml")
    assert set(triggers) == {"push", "pull_request"} and job["runs-on"] == "${{ matrix.os }}"
    assert job["strategy"]["matrix"]["os"] == ["ubuntu-latest"] and job["defaults"]["run"]["shell"] == "bash"
    assert first(steps, "actions/cache") < first(steps, "make test") < first(steps, "upload-artifact")
    python = steps[first(steps, "setup-python")]["with"]["python-version"]
    assert python == "${{ matrix.python }}" and len(job["strategy"]["matrix"]["python"]) == 2
    name = steps[-1]["with"]["name"]
    assert "${{ matrix.os }}" in name and "${{ matrix.python }}" in name, "the artifacts of two jobs need two names"


def test_cpu_tries_windows_and_macos_without_make_and_does_not_claim_that_they_pass():
    _, job, steps = load("cpu.yml")
    others = job["strategy"]["matrix"]["include"]
    assert [entry["os"] for entry in others] == ["windows-latest", "macos-latest"]
    assert job["continue-on-error"] == "${{ matrix.os != 'ubuntu-latest' }}"
    made = [step for step in steps if "make " in step.get("run", "")]
    assert made and all(step["if"] == "runner.os == 'Linux'" for step in made)
    assert steps[first(steps, "pytest")]["if"] == "runner.os != 'Linux'"


def test_nightly_runs_everything_from_an_empty_cache_and_never_for_forks():
    triggers, job, steps = load("nightly.yml")
    assert set(triggers) == {"schedule", "workflow_dispatch"}
    assert job["if"] == "github.event.repository.fork == false"
    assert first(steps, "make nightly") and not any("actions/cache" in step.get("uses", "") for step in steps)


def test_the_book_is_published_with_each_release_by_the_one_job_that_may_write_pages():
    triggers, job, steps = load("book.yml")
    assert triggers == {"release": {"types": ["published"]}, "workflow_dispatch": None}
    assert job["if"] == "github.event.repository.fork == false" and job["environment"]["name"] == "github-pages"
    assert job["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    assert first(steps, "make book") < first(steps, "upload-pages-artifact") < first(steps, "deploy-pages")
    assert steps[first(steps, "upload-pages-artifact")]["with"]["path"] == "build/book"


def test_every_target_that_a_workflow_makes_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = {m for path in FILES for m in re.findall(r"\bmake ([a-z]+)", path.read_text(encoding="utf-8"))}
    assert {"env", "test", "nightly"} <= made <= targets


def test_gpu_runs_nightly_and_on_demand_on_our_own_runner_and_never_for_forks():
    triggers, job, steps = load("gpu.yml")
    assert set(triggers) == {"schedule", "workflow_dispatch"} and "self-hosted" in job["runs-on"]
    assert job["if"] == "github.event.repository.fork == false" and job["env"]["CLIPNULL_CACHE"]
    asked = [first(steps, words) for words in ("nvidia-smi", "make env TORCH=cuda", "cuda.is_available()")]
    assert asked[0] == 0 and asked == sorted(asked) and asked[2] < first(steps, "--profile gpu --jobs 1 --compare")
    assert (
        asked[2] < first(steps, "device_speed.py cuda")
        and "success" in steps[first(steps, "device_speed.py cuda")]["if"]
    )
