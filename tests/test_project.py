"""The files around the package agree with one another, and the modules keep their order."""

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
REQUIRED = [
    Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
]
LOCK = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
MODULES = sorted((ROOT / "clipnull").rglob("*.py"))
CONDA_NAMES = {"torch": "pytorch", "lazy-loader": "lazy_loader"}
TOP_LEVEL = """
notebooks clipnull data tests environment.yml README.md RESULTS.md CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE
Makefile pyproject.toml requirements.lock .ci .github .binder .devcontainer .gitignore .gitattributes
"""
TOP_LEVEL = set(TOP_LEVEL.split())
# Written in pieces, so that this file does not match.
HERE_ONLY = re.compile(
    "|".join(
        [r"(?<![\w.])/" + folder + "/" for folder in ("work", "root")]
        + ["file:" + "//", "index" + "-url", "find" + "-links"]
    )
)
HOSTS = re.compile("https?:" + r"//|pypi\." + "|pythonhosted|download" + r"\.pytorch")
NO_HOSTS = {"requirements.lock", "environment.yml", "pyproject.toml", "Makefile", "env.sh", "cpu_torch.py"}


def tracked() -> list[Path]:
    """The files git knows or would add."""
    answer = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


def lower_bound(requirement: Requirement) -> str:
    (bound,) = requirement.specifier
    assert bound.operator == ">=", f"{requirement}: expected one lower bound"
    return bound.version


def holds_on_linux(requirement: Requirement, python: str = "3.11.7") -> bool:
    linux = {"sys_platform": "linux", "platform_machine": "x86_64", "python_full_version": python}
    return requirement.marker is None or requirement.marker.evaluate(linux)


# --- versions


def test_conda_environment_has_the_dependencies_of_pyproject_and_no_others():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (pip,) = (e["pip"] for e in entries if isinstance(e, dict))
    assert pip[0] == "-e ."
    entries += pip[1:]  # what conda-forge does not have
    expected = {"python": PROJECT["requires-python"].removeprefix(">="), "pip": ""}
    for r in REQUIRED:
        name = canonicalize_name(r.name)
        expected[CONDA_NAMES.get(name, name)] = lower_bound(r)
    assert dict(e.partition(">=")[::2] for e in entries if isinstance(e, str)) == expected


def test_one_answer_everywhere_to_which_python():
    oldest = Version(PROJECT["requires-python"].removeprefix(">="))
    told = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert Version(told[0]) == oldest
    short = f"py{oldest.major}{oldest.minor}"
    assert SETTINGS["tool"]["ruff"]["target-version"] == short
    assert SETTINGS["tool"]["pyrefly"]["python-version"] == str(oldest)
    for name in ("Makefile", "README.md", "CONTRIBUTING.md"):
        assert f"Python {oldest}" in (ROOT / name).read_text(encoding="utf-8"), name
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "cpu.yml").read_text(encoding="utf-8"))["jobs"]
    tested = [Version(v) for v in jobs["test"]["strategy"]["matrix"]["python"]]
    assert min(tested) == oldest and max(tested) == Version(told[-1])


def test_the_version_is_told_once_and_the_other_files_follow():
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert SETTINGS["tool"]["hatch"]["version"]["path"] == "clipnull/__init__.py"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert citation["version"] == newest == clipnull.__version__


def test_lock_pins_exactly_and_from_the_public_index():
    for r in LOCK:
        (pin,) = r.specifier
        assert pin.operator == "==" and r.url is None and Version(pin.version).local is None, r


def test_lock_satisfies_every_range_of_pyproject():
    for wanted in REQUIRED:
        pins = [r for r in LOCK if canonicalize_name(r.name) == canonicalize_name(wanted.name)]
        assert pins, f"{wanted} is not in requirements.lock: make lock"
        for pin in pins:
            assert wanted.specifier.contains(next(iter(pin.specifier)).version), f"{pin} is not {wanted}"


def test_lock_names_no_library_of_cuda():
    """torch names their versions itself; pinned here, an environment without a GPU would download them too."""
    assert not [r for r in LOCK if re.match("nvidia-|cuda-|triton", r.name)]


@pytest.mark.parametrize("python", ["3.11.7", "3.13.0"])
def test_lock_pins_each_package_once_on_linux(python):
    names = [canonicalize_name(r.name) for r in LOCK if holds_on_linux(r, python)]
    assert len(names) == len(set(names))


# --- what the package says of itself


def test_the_licence_names_that_of_the_code_and_of_every_picture():
    told = set(re.split(r"\s+AND\s+", PROJECT["license"]))
    with (ROOT / "data" / "miniworld" / "index.csv").open(encoding="utf-8", newline="") as file:
        pictures = {row["licence"] for row in csv.DictReader(file)}
    own_words = {"PD": "LicenseRef-Public-Domain", "free for any use": "LicenseRef-Symbola"}
    assert told == {"MIT"} | {own_words.get(name, name) for name in pictures}
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])


def test_the_library_alone_needs_nothing_of_the_course():
    library = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    course = {canonicalize_name(Requirement(line).name) for line in EXTRAS["course"]}
    assert not library & course
    assert {"jupyterlab", "ipython", "matplotlib", "seaborn", "scikit-learn"} <= course


def test_every_extra_that_a_message_names_exists():
    named = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
                module, extra = node.args
                name = module.value if isinstance(module, ast.Constant) else ""  # else it is computed
                named.add((name.partition(".")[0], ast.literal_eval(extra)))
    distributions = {"sklearn": "scikit-learn"}
    assert named
    for module, extra in named:
        assert extra in EXTRAS
        if module not in ("", "docutils", "jinja2"):  # these come with sphinx, and with nbconvert
            brought = {canonicalize_name(Requirement(line).name) for line in EXTRAS[extra]}
            assert canonicalize_name(distributions.get(module, module)) in brought, (module, extra)


# --- files and folders


def test_top_level_holds_only_what_belongs_there():
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} == TOP_LEVEL


def test_no_file_names_a_path_or_index_of_one_machine():
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        text = re.sub("data:image/png;base64,[A-Za-z0-9+/=]*", "", text)
        published = path.parent.name == "reveal"  # of others, as it came: tests/test_slides.py looks at it
        found = None if published else HERE_ONLY.search(text)
        assert not found, f"{path.relative_to(ROOT)}: {found}"
        if path.name in NO_HOSTS or path.parent.name == "workflows":
            assert not HOSTS.search(text), f"{path.relative_to(ROOT)}: {HOSTS.search(text)}"
        if path != ROOT / ".ci" / "run":
            assert "../shared" + "/" not in text, path.relative_to(ROOT)


@pytest.mark.parametrize("text", ["see /" + "work/x", "at /" + "root/x", "file:" + "///x", "--extra-index" + "-url x"])
def test_machine_paths_are_recognised(text):
    assert HERE_ONLY.search(text)
