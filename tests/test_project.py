"""The files around the package agree with one another."""
import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import clipnull

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRED = [Requirement(line) for line in
            [*PROJECT["dependencies"], *(d for group in PROJECT["optional-dependencies"].values() for d in group)]]
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")]
CONDA_NAMES = {"torch": "pytorch"}
PIPELINE = ["errors", "models", "prompts", "prototypes", "subspace", "edit", "unlearn", "data", "evaluate", "audit",
            "card", "plots", "live", "bench", "exercises", "book", "course", "__init__", "__main__"]
TOP_LEVEL = {"notebooks", "clipnull", "data", "tests", "environment.yml", "README.md", "pyproject.toml",
             "requirements.lock", "Makefile", "LICENSE", ".ci", ".github", ".gitignore", ".gitattributes"}
# Written in pieces, so that this file does not match.
HERE_ONLY = re.compile("|".join([r"(?<![\w.])/" + folder + "/" for folder in ("work", "root")]
                                + ["file:" + "//", "index" + "-url", "find" + "-links"]))
HOSTS = re.compile("https?:" + r"//|pypi\." + "|pythonhosted")


def tracked() -> list[Path]:
    """The files git knows or would add."""
    answer = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, text=True)
    if answer.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


def lower_bound(requirement: Requirement) -> str:
    (bound,) = requirement.specifier
    assert bound.operator == ">=", f"{requirement}: expected one lower bound"
    return bound.version


def conda_dependencies() -> dict[str, str]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (pip,) = (e["pip"] for e in entries if isinstance(e, dict))
    assert pip[0] == "-e ."
    entries += pip[1:]                                   # what conda-forge does not have
    return dict(e.partition(">=")[::2] for e in entries if isinstance(e, str))


def test_conda_environment_has_the_dependencies_of_pyproject_and_no_others():
    expected = {"python": PROJECT["requires-python"].removeprefix(">="), "pip": ""}
    for r in REQUIRED:
        name = canonicalize_name(r.name)
        expected[CONDA_NAMES.get(name, name)] = lower_bound(r)
    assert conda_dependencies() == expected


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


def test_lock_keeps_cuda_to_linux():
    """torch's CUDA wheels exist for Linux only; without a marker `make env` fails elsewhere."""
    cuda = [r for r in LOCK if re.match("nvidia-|cuda-|triton", r.name)]
    assert cuda
    for r in cuda:
        assert not r.marker.evaluate({"sys_platform": "darwin", "platform_machine": "arm64"}), r
        assert r.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64",
                                  "python_full_version": "3.11.7"}), r


def test_lock_pins_each_package_once_for_python_3_11_on_linux():
    linux = {"sys_platform": "linux", "platform_machine": "x86_64", "python_full_version": "3.11.7"}
    names = [canonicalize_name(r.name) for r in LOCK if r.marker is None or r.marker.evaluate(linux)]
    assert len(names) == len(set(names))


def test_version_is_told_once():
    assert clipnull.__version__ == PROJECT["version"]


def test_top_level_holds_only_what_belongs_there():
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} == TOP_LEVEL


def test_no_file_names_a_path_or_index_of_one_machine():
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        text = re.sub("data:image/png;base64,[A-Za-z0-9+/=]*", "", text)
        found = HERE_ONLY.search(text)
        assert not found, f"{path.relative_to(ROOT)}: {found}"
        if path.name in ("requirements.lock", "environment.yml", "pyproject.toml", "Makefile", "cpu.yml", "gpu.yml"):
            assert not HOSTS.search(text), f"{path.relative_to(ROOT)}: {HOSTS.search(text)}"
        if path != ROOT / ".ci" / "run":
            assert "../shared" + "/" not in text, path.relative_to(ROOT)


@pytest.mark.parametrize("text", ["see /" + "work/x", "at /" + "root/x", "file:" + "///x", "--extra-index" + "-url x"])
def test_machine_paths_are_recognised(text):
    assert HERE_ONLY.search(text)


def imports(source: str) -> set[str]:
    """The modules of the package that a module of it imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "clipnull"):
            module = (node.module or "").removeprefix("clipnull").strip(".")
            found |= {module.split(".")[0]} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name + ".__init__").split(".")[1] for alias in node.names
                      if alias.name.split(".")[0] == "clipnull"}
    return found


@pytest.mark.parametrize("source, found", [
    ("from .edit import Edit", {"edit"}), ("from . import plots, data", {"plots", "data"}),
    ("def f():\n from clipnull.data import World", {"data"}), ("import clipnull.models", {"models"}),
    ("import clipnull as cn", {"__init__"}), ("from clipnull import course", {"course"}), ("import torch.nn", set()),
])
def test_imports_are_recognised(source, found):
    assert imports(source) == found


@pytest.mark.parametrize("path", sorted((ROOT / "clipnull").glob("*.py")), ids=lambda p: p.stem)
def test_a_module_imports_only_from_those_before_it(path):
    assert path.stem in PIPELINE, f"{path.name} has no place in the pipeline: add it to PIPELINE"
    before = PIPELINE[:PIPELINE.index(path.stem)]
    assert imports(path.read_text(encoding="utf-8")) <= set(before)
