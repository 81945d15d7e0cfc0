"""What is installed: the wheel, the library without extras, and the environment that `make env` makes."""

import ctypes
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clipnull
from clipnull import models
from clipnull.audits import retrained_for
from clipnull.files import data_folder

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEART = """
import clipnull as cn, torch
clip, images = cn.load(device="cpu"), cn.load_images()
request = cn.Forget(classes=["dog"])
edit = cn.unlearn(clip, request, images.vocabulary, method="oblique", prototypes=False)
after = edit.apply(clip)
edit.save("edit.safetensors")
assert cn.Edit.load("edit.safetensors").same(edit)
dog = images.classes == images.vocabulary.classes.index("dog")
few = images.where((images.domains < 2) & (dog | (torch.arange(len(images)) % 5 == 0)))
result = cn.compare(clip, after, few, request)
right_before, right_after = (accuracy[result.mask].nansum() for accuracy in (result.before, result.after))
assert right_after < right_before / 2, (right_before, right_after)
"""


# --- the wheel, and the library without any extra

one_worker = pytest.mark.xdist_group("wheel")  # built once
nightly = pytest.mark.nightly


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def alone(unpacked, tmp_path):
    """`alone(code)`: run it in a process that imports clipnull from the wheel and nothing that an extra brings."""
    extras = [SETTINGS["project"]["optional-dependencies"][e] for e in ("course", "hf", "onnx", "index", "baselines")]
    names = {canonicalize_name(Requirement(line).name) for lines in extras for line in lines}
    brought = packages_distributions().items()
    modules = [module for module, packages in brought if {*map(canonicalize_name, packages)} & names]

    def run(code: str) -> subprocess.CompletedProcess:
        head = f"import sys; sys.path.insert(0, {str(unpacked)!r}); sys.modules.update(dict.fromkeys({modules}))\n"
        environment = os.environ | {"CLIPNULL_CACHE": str(tmp_path / "cache"), "PYTHONPATH": ""}
        command = [sys.executable, "-c", head + code]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@one_worker
@pytest.mark.slow
def test_the_wheel_holds_what_is_needed_outside_a_clone(wheel):
    assert wheel.stat().st_size <= 35e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
        (scripts,) = (archive.read(n).decode() for n in names if n.endswith("entry_points.txt"))
    for folder in ("data/miniworld", "data/miniclip", "data/results", "notebooks"):
        files = {p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        inside = {f"clipnull/_data/{p.relative_to(ROOT).as_posix().removeprefix('data/')}" for p in files}
        assert inside <= names, folder
    sources = {p for p in (ROOT / "clipnull").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {p.relative_to(ROOT).as_posix() for p in sources} | {"clipnull/_data/goldens.json"} <= names
    assert not {n for n in names if n.startswith(("tests/", "data/")) or "__pycache__" in n}
    licences = {n.partition(".dist-info/licenses/")[2] for n in names if ".dist-info/licenses/" in n}
    assert licences == set(SETTINGS["project"]["license-files"])
    assert f"Version: {clipnull.__version__}\n" in metadata and "License-Expression: MIT AND " in metadata
    assert "clipnull = clipnull.commands.cli:main" in scripts


@pytest.mark.slow
def test_a_retrained_model_that_did_not_come_along_is_said_to_be_and_can_be_added(monkeypatch, tmp_path, clip, images):
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "cache"))
    installed = tmp_path / "site" / "miniclip"
    shutil.copytree(data_folder("miniclip"), installed)
    monkeypatch.setattr(models, "data_folder", lambda name: installed.with_name(name))
    missing = r"miniclip-no-dog.*expected '.*clean/no-dog.safetensors', a copy of data"
    with pytest.raises(FileNotFoundError, match=missing):
        clipnull.load("miniclip-no-dog", device="cpu")
    with pytest.warns(UserWarning, match="no retrained model to compare with: name: 'miniclip-no-dog'"):
        assert retrained_for(clip, clipnull.Forget(["dog"]), images) is None
    shutil.copytree(ROOT / "data" / "clean", tmp_path / "cache" / "clean")
    assert clipnull.load("miniclip-no-dog", device="cpu").fingerprint != clip.fingerprint


@one_worker
@nightly
def test_the_library_alone_unlearns_and_a_missing_extra_is_named_in_one_line(alone, tmp_path):
    run = alone(HEART)
    assert not run.returncode, run.stderr[-2000:]
    assert not (tmp_path / "cache").exists(), "prototypes=False wrote into the cache"
    run = alone("""
from clipnull.commands.cli import main
print(main(["course", "my course"]), main(["run", "my course/00_start_here.ipynb"]))
""")
    assert run.stdout.endswith("0 2\n"), run.stderr
    assert "expected the extra 'course': pip install 'clipnull[course]'" in run.stderr.splitlines()[0]
    written = {p.name: p.read_bytes() for p in (tmp_path / "my course").glob("*.ipynb")}
    assert written == {p.name: p.read_bytes() for p in (ROOT / "notebooks").glob("*.ipynb")} and written


@one_worker
@nightly
@pytest.mark.notebooks
def test_the_course_from_a_wheel_runs(unpacked, tmp_path):
    environment, command = os.environ | {"PYTHONPATH": str(unpacked)}, [sys.executable, "-m", "clipnull"]
    for words in ("course here", "run here/00_start_here.ipynb --compare --profile mini"):
        run = subprocess.run([*command, *words.split()], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert not run.returncode, run.stdout + run.stderr
    executed = json.loads((tmp_path / "build" / "00_start_here.ipynb").read_text(encoding="utf-8"))
    outputs = json.dumps([cell.get("outputs", ()) for cell in executed["cells"]])
    assert "PASS 00-1" in outputs and "FAIL" not in outputs


# --- the environment of `make env`: which PyTorch

FAKE = """#!/bin/bash
# A Python that makes environments like itself and writes down what it is asked for.
echo "$*" >> "$LOG"
case "$*" in
  "-c "*) exit "${OLD:-0}" ;;
  "-m venv "*) mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python" ;;
  "-m pip "*" uv=="*) exit "${NO_UV:-0}" ;;
  "-m uv "*"--torch-backend=cpu"*) exit "${NO_INDEX:-0}" ;;
  "-m uv "*) exit "${NO_UV:-0}" ;;
  *"cpu_torch.py try") exit "${BROKEN:-0}" ;;
  *"cpu_torch.py") echo "cuda-toolkit[cudart]==0" ;;
esac
"""
STEPS = {  # the first of these that a command holds says what it does
    "--torch-backend=cpu --no-deps torch==": "cpu",
    "cpu_torch.py try": "try",
    "cpu_torch.py": "stand-in",
    "cuda-toolkit[cudart]==0": "runtime",
    "uv==": "uv",
    "--no-deps -r ": "no-deps",
    "-r ": "all",
}


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize(
    ("setting", "words", "steps"),
    [
        ({}, "PyTorch's CPU build", "uv cpu no-deps"),
        ({"GPU": "1"}, "of your package index", "uv all"),
        ({"NO_INDEX": "2"}, "cannot be used from here", "uv cpu no-deps stand-in runtime try"),
        ({"NO_INDEX": "2", "BROKEN": "1"}, "starting again", "uv cpu no-deps stand-in runtime try all"),
        ({"NO_UV": "1", "NO_INDEX": "1"}, "uv is not on your package index", "uv cpu no-deps stand-in runtime try"),
        ({"TORCH": "gpu"}, "TORCH=gpu: expected auto, cpu or cuda", ""),
        ({"OLD": "1"}, "older than 3.11", ""),
    ],
)
def test_make_env_installs_the_pytorch_that_fits(tmp_path, setting, words, steps):
    """The script with a fake Python: its output, its status, and which commands it runs."""
    if "GPU" not in setting and (Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists()):
        pytest.skip("a GPU is here")
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    smi = f"#!/bin/bash\nexit {int('GPU' not in setting)}\n"
    for name, text in {"python": FAKE, "nvidia-smi": smi, "uname": "#!/bin/bash\necho Linux\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    faked = {"PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(log), "PYTHON": str(tools / "python")}
    environment = {k: v for k, v in os.environ.items() if k != "TORCH"} | faked | setting
    command = ["bash", ROOT / ".ci" / "env.sh", tmp_path / "env"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = log.read_text().splitlines() if log.exists() else []
    called = [line for line in lines if " install " in line or "cpu_torch" in line]
    taken = dict.fromkeys(next(step for part, step in STEPS.items() if part in line) for line in called)
    assert words in done.stdout and " ".join(taken) == steps and (done.returncode == 0) == bool(steps)


# --- torch without CUDA's libraries


@pytest.fixture(scope="module")
def cpu_torch():
    spec = importlib.util.spec_from_file_location("cpu_torch", ROOT / ".ci" / "cpu_torch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="ELF is of Linux")
def test_a_stand_in_is_a_library_whose_functions_return_an_error(cpu_torch, tmp_path):
    names = [b"cudnnCreate", b"ncclInit", *(b"cuThing%d" % i for i in range(500))]
    path = tmp_path / "stand-in.so"
    path.write_bytes(cpu_torch.library(names, [b"libcudnn.so.9", b"NVSHMEM"], platform.machine()))
    loaded = ctypes.CDLL(str(path))
    assert {getattr(loaded, name.decode())() for name in names} == {35}
    with pytest.raises(AttributeError):
        loaded.cudnnDestroy  # noqa: B018
