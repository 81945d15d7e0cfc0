"""The files around the package agree with one another: versions, licences, extras, workflows, files and folders."""

import ast
import csv
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import clipnull

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
LOCK = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
CONDA_NAMES = {"torch": "pytorch", "lazy-loader": "lazy_loader"}
# Written in pieces, so that this file does not match.
PIECES = [r"(?<![\w.])/" + folder + "/" for folder in ("work", "root")]
HERE_ONLY = re.compile("|".join([*PIECES, "file:" + "//", "index" + "-url", "find" + "-links"]))
HOSTS = re.compile("https?:" + r"//|pypi\." + "|pythonhosted|download" + r"\.pytorch")
NO_HOSTS = {"requirements.lock", "environment.yml", "pyproject.toml", "Makefile", "env.sh", "cpu_torch.py"}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """The files git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if answer.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


# --- versions


def test_the_conda_environment_has_the_dependencies_of_pyproject_and_no_others():
    entries = yaml.safe_load(read("environment.yml"))["dependencies"]
    (pip,) = (entry["pip"] for entry in entries if isinstance(entry, dict))
    assert pip[0] == "-e ."
    entries += pip[1:]  # what conda-forge does not have
    expected = {"python": PROJECT["requires-python"].removeprefix(">="), "pip": ""}
    for requirement in REQUIRED:
        name, (bound,) = canonicalize_name(requirement.name), requirement.specifier
        assert bound.operator == ">=", f"{requirement}: expected one lower bound"
        expected[CONDA_NAMES.get(name, name)] = bound.version
    assert dict(entry.partition(">=")[::2] for entry in entries if isinstance(entry, str)) == expected


def test_every_file_names_the_same_versions_of_python():
    oldest = Version(PROJECT["requires-python"].removeprefix(">="))
    classified = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert Version(classified[0]) == oldest
    assert SETTINGS["tool"]["ruff"]["target-version"] == f"py{oldest.major}{oldest.minor}"
    assert SETTINGS["tool"]["pyrefly"]["python-version"] == str(oldest)
    for name in ("Makefile", "README.md", "CONTRIBUTING.md"):
        assert f"Python {oldest}" in read(name), name
    matrix = yaml.safe_load(read(".github", "workflows", "cpu.yml"))["jobs"]["test"]["strategy"]["matrix"]
    tested = [Version(version) for version in matrix["python"]]
    assert min(tested) == oldest and max(tested) == Version(classified[-1])


def test_the_version_is_in_one_place_and_the_other_files_follow():
    assert SETTINGS["tool"]["hatch"]["version"]["path"] == "clipnull/__init__.py" and "version" not in PROJECT
    newest = re.search(r"^## (\d\S+)", read("CHANGELOG.md"), re.MULTILINE)[1]
    assert yaml.safe_load(read("CITATION.cff"))["version"] == newest == clipnull.__version__


def test_the_lock_pins_every_package_once_within_the_ranges_of_pyproject():
    for requirement in LOCK:
        (pin,) = requirement.specifier
        assert pin.operator == "==" and requirement.url is None and Version(pin.version).local is None, requirement
        # torch names the versions of CUDA's libraries; pinned here, a machine without a GPU would download them too
        assert not re.match("nvidia-|cuda-|triton", requirement.name), requirement
    for wanted in REQUIRED:
        pins = [r for r in LOCK if canonicalize_name(r.name) == canonicalize_name(wanted.name)]
        assert pins, f"{wanted} is not in requirements.lock: make lock"
        for pin in pins:
            assert wanted.specifier.contains(next(iter(pin.specifier)).version), f"{pin} is not {wanted}"
    for python in ("3.11.7", "3.13.0"):
        linux = {"sys_platform": "linux", "platform_machine": "x86_64", "python_full_version": python}
        names = [canonicalize_name(r.name) for r in LOCK if r.marker is None or r.marker.evaluate(linux)]
        assert len(names) == len(set(names))


# --- licences and extras


def test_the_licence_names_that_of_the_code_and_of_every_picture():
    with (ROOT / "data" / "miniworld" / "index.csv").open(encoding="utf-8", newline="") as file:
        pictures = {row["licence"] for row in csv.DictReader(file)}
    aliases = {"PD": "LicenseRef-Public-Domain", "free for any use": "LicenseRef-Symbola"}
    expected = {"MIT"} | {aliases.get(name, name) for name in pictures}
    assert set(re.split(r"\s+AND\s+", PROJECT["license"])) == expected
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])


def test_every_extra_that_a_message_names_brings_the_module():
    calls = set()
    for path in (ROOT / "clipnull").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
                module, extra = node.args
                name = module.value if isinstance(module, ast.Constant) else ""  # else it is computed
                calls.add((name.partition(".")[0], ast.literal_eval(extra)))
    distributions = {"sklearn": "scikit-learn"}
    assert calls
    for module, extra in calls:
        if module not in ("", "docutils", "jinja2", "jupyter_client"):  # which come with sphinx, nbconvert, ipykernel
            packages = {canonicalize_name(Requirement(line).name) for line in EXTRAS[extra]}
            assert canonicalize_name(distributions.get(module, module)) in packages, (module, extra)
    library = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert not library & {canonicalize_name(Requirement(line).name) for line in EXTRAS["course"]}


# --- files and folders


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "RESULTS.md"])
def test_a_link_leads_to_a_file_and_the_readme_to_every_lesson(name):
    links = re.findall(r"\]\(([^):#]+)[^):]*\)", read(name))
    lessons = {path for path in links if re.match("notebooks/[0-9]", path)}
    assert links and [path for path in {*links} - lessons if not (ROOT / path).exists()] == []
    assert name != "README.md" or lessons >= {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("[0-9]*")}


def test_no_file_names_a_path_or_index_of_one_machine():
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT)
        text = re.sub("data:image/png;base64,[A-Za-z0-9+/=]*", "", text)
        assert path.parent.name == "reveal" or not HERE_ONLY.search(text), f"{name}: {HERE_ONLY.search(text)}"
        if path.name in NO_HOSTS or path in WORKFLOWS:
            assert not HOSTS.search(text), f"{name}: {HOSTS.search(text)}"
        assert path == ROOT / ".ci" / "run" or "../shared" + "/" not in text, name


# --- workflows and forms of GitHub


@pytest.mark.slow
def test_files_follow_their_schemas():
    main = pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed").main
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    for schema, paths in {
        "github-workflows": WORKFLOWS,
        "github-issue-config": [path for path in forms if path.name == "config.yml"],
        "github-issue-forms": [path for path in forms if path.name != "config.yml"],
        "citation-file-format": [ROOT / "CITATION.cff"],
    }.items():
        options = ["--builtin-schema", f"vendor.{schema}", "--default-filetype", "yaml", *map(str, paths)]
        assert main(options, standalone_mode=False) in (None, 0)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_runs_no_code_of_forks_and_keeps_what_was_executed(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    ((_, job),) = workflow["jobs"].items()
    assert workflow["permissions"] == {"contents": "read"}
    assert set(job.get("permissions", {"contents"})) <= {"contents", "pages", "id-token"}
    triggers = set(workflow[True])  # YAML 1.1 reads the key `on` as true
    assert "pull_request_target" not in triggers
    if path.name != "cpu.yml":
        assert "pull_request" not in triggers and job["if"] == "github.event.repository.fork == false"
    if path.name != "book.yml":  # which executes nothing
        assert job["steps"][-1]["if"] == "always()" and job["steps"][-1]["with"]["path"] == "build/"


def test_every_target_that_a_workflow_makes_exists():
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    made = {target for path in WORKFLOWS for target in re.findall(r"\bmake ([a-z]+)", path.read_text(encoding="utf-8"))}
    assert {"env", "test", "nightly"} <= made <= targets
