"""What is installed: the wheel, the library without any extra, and the environment that `make env` makes."""

import ctypes
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clipnull
from clipnull.course.geometry import KNOWN

ROOT = Path(__file__).parent.parent
COURSE = "IPython jupyterlab ipywidgets matplotlib seaborn sklearn papermill nbformat psutil sphinx concept_erasure"
EXTRA = "is not installed; expected the extra 'course': pip install 'clipnull[course]'"
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


# --- a lazy import


def test_an_import_loads_nothing_that_is_costly_until_a_name_asks_for_it():
    code = """
import json, sys
import clipnull
names = dir(clipnull)
print(json.dumps([sorted(sys.modules), names]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, names = json.loads(run.stdout)
    costly = {"torch", "numpy", "scipy", "PIL", "open_clip", *COURSE.split()}
    assert not costly & {name.partition(".")[0] for name in loaded}
    assert set(clipnull.__all__) <= set(names)


# --- the wheel, and the library without any extra

one_worker = pytest.mark.xdist_group("wheel")  # built once


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


def closure(requirements) -> set[str]:
    """The names of all installed distributions that `requirements` lead to."""
    found, todo = set(), [(Requirement(line), "") for line in requirements]
    seen = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for asked in ("", *requirement.extras):
            key = canonicalize_name(requirement.name), asked
            if key not in seen:
                seen.add(key)
                try:
                    lines = distribution(requirement.name).requires or []
                except PackageNotFoundError:
                    continue
                found.add(requirement.name)
                todo += [(Requirement(line), asked) for line in lines]
    return found


@pytest.fixture(scope="module")
def library(unpacked) -> Path:
    """A folder to import from that holds the wheel, and links to what the library alone depends on."""
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    lines = [
        line.partition(": ")[2] for line in metadata.read_text(encoding="utf-8").splitlines() if "Requires-Dist" in line
    ]
    for name in closure(line for line in lines if "extra ==" not in line):
        installed = distribution(name)
        for part in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            if not part.endswith(".pth") and not (unpacked / part).exists():
                (unpacked / part).symlink_to(Path(str(installed.locate_file(part))))
    return unpacked


@pytest.fixture
def alone(library, tmp_path):
    """`alone(code)`: run it in a process that can import `library` and no more; returns the finished process."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess:
        code = f"import sys; sys.path.append({str(library)!r})\n{code}"
        environment = os.environ | {"CLIPNULL_CACHE": str(tmp_path / "cache")} | environment
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@one_worker
@pytest.mark.slow
def test_the_wheel_holds_what_is_needed_outside_a_clone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
        (scripts,) = (archive.read(n).decode() for n in names if n.endswith("entry_points.txt"))
    for folder, pattern in (
        ("data/miniworld", "**/*"),
        ("data/miniclip", "*"),
        ("data/clean", "*"),
        ("notebooks", "*"),
    ):
        inside = {
            f"clipnull/_data/{p.relative_to(ROOT / 'data' if 'data' in folder else ROOT)}"
            for p in (ROOT / folder).glob(pattern)
            if p.is_file()
        }
        assert inside <= names, folder
    sources = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "clipnull").rglob("*")
        if p.suffix in (".py", ".pyi", ".typed", ".woff2", ".txt", ".md", ".js", ".css", ".toml")
    }
    assert sources | {"clipnull/py.typed", "clipnull/__init__.pyi", "clipnull/_data/goldens.json"} <= names
    assert {f"clipnull/_data/results/geometry/{name}.json" for name in KNOWN} <= names
    shown = ("pacs-test", "openai-vit-b-32-photo-and-drawing")  # in notebook 04
    assert {f"clipnull/_data/results/{name}.json" for name in shown} <= names
    assert not {n for n in names if n.startswith(("tests/", "data/")) or "__pycache__" in n}
    assert {n.partition(".dist-info/licenses/")[2] for n in names if ".dist-info/licenses/" in n} == {
        "LICENSE",
        "data/miniworld/LICENSES.md",
        "data/miniworld/index.csv",
        "clipnull/course/fonts/OFL.txt",
        "clipnull/course/reveal/LICENSE",
    }
    assert f"Version: {clipnull.__version__}\n" in metadata and "License-Expression: MIT AND " in metadata
    assert "clipnull = clipnull.commands.cli:main" in scripts


@one_worker
@pytest.mark.slow
def test_the_library_alone_unlearns_compares_and_saves(alone, tmp_path):
    absent = f"from importlib.util import find_spec; assert not [n for n in {COURSE.split()} if find_spec(n)]"
    run = alone(absent + HEART)
    assert not run.returncode, run.stderr[-2000:]
    assert not (tmp_path / "cache").exists(), "prototypes=False wrote into the cache"


@one_worker
@pytest.mark.slow
def test_what_needs_an_extra_names_it(alone):
    codes = [
        "from clipnull import plots",
        "import clipnull.course.plots",
        "from clipnull.audits.probes import linear_probe; linear_probe(torch.ones(4, 2), torch.arange(4) % 2)",
        "from clipnull.course.panel import live; live(None, None, None, None)",
        "from clipnull.course.metrics import record; record(rate=1.0)",
        "from clipnull.course.formulas import mathml; mathml('x', False)",
    ]
    run = alone(f"""
import torch
for code in {codes!r}:
    try:
        exec(code)
    except ImportError as error:
        print(error)
""")
    assert not run.returncode, run.stderr[-2000:]
    assert [line.partition(" ")[2] for line in run.stdout.splitlines()] == [EXTRA] * len(codes), run.stdout


@one_worker
@pytest.mark.slow
def test_the_course_is_written_from_a_wheel_and_what_it_lacks_is_named_in_one_line(alone, tmp_path):
    commands = [["course", "my course"], ["run", "my course/00_check_your_machine.ipynb"], ["student"], ["book"]]
    run = alone(f"""
import os
from clipnull.commands.cli import main
print(main({commands[0]}), main({commands[1]}), end=" ")
os.chdir("my course")
print(main({commands[2]}), main({commands[3]}))
""")
    assert run.stdout.endswith("0 2 2 2\n"), run.stdout + run.stderr
    assert len(run.stderr.splitlines()) == 3 and run.stderr.count(EXTRA) >= 2, run.stderr
    written = {p.name: p.read_bytes() for p in (tmp_path / "my course").glob("*.ipynb")}
    assert written == {p.name: p.read_bytes() for p in (ROOT / "notebooks").glob("*.ipynb")} and written


@one_worker
@pytest.mark.notebooks
def test_the_course_from_a_wheel_runs(unpacked, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    for command in (["course", "here"], ["run", "here/00_check_your_machine.ipynb", "--compare", "--profile", "mini"]):
        run = subprocess.run(
            [sys.executable, "-m", "clipnull", *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert not run.returncode, run.stdout + run.stderr
    executed = json.loads((tmp_path / "build" / "00_check_your_machine.ipynb").read_text(encoding="utf-8"))
    outputs = json.dumps([cell.get("outputs", ()) for cell in executed["cells"]])
    assert "[OK]" in outputs and "[FAIL]" not in outputs


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
needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="no bash")


@pytest.fixture
def make_env(tmp_path):
    """`make_env(gpu=False, **environment)`: run the script with a fake Python; its output, status, what it ran."""

    def run(gpu: bool = False, system: str = "Linux", **environment: str) -> tuple[str, int, list[str]]:
        if not gpu and (Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists()):
            pytest.skip("a GPU is here")
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        for name, text in (
            ("python", FAKE),
            ("nvidia-smi", f"#!/bin/bash\nexit {int(not gpu)}\n"),
            ("uname", f"#!/bin/bash\necho {system}\n"),
        ):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        log = tmp_path / "log"
        own = {"PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(log), "PYTHON": str(tools / "python")}
        done = subprocess.run(
            ["bash", ROOT / ".ci" / "env.sh", tmp_path / "env"],
            env={k: v for k, v in os.environ.items() if k != "TORCH"} | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = log.read_text().splitlines() if log.exists() else []
        return done.stdout, done.returncode, [x for x in lines if "install" in x or "cpu_torch" in x]

    return run


CPU, LOCK, NO_DEPS = "--torch-backend=cpu --no-deps torch==", "requirements.lock", "--no-deps -r "


@needs_bash
@pytest.mark.parametrize("setting", [{}, {"TORCH": "auto"}, {"TORCH": "cpu"}])
def test_without_a_gpu_the_cpu_build_is_installed(make_env, setting):
    said, status, ran = make_env(**setting)
    assert status == 0 and "CPU build" in said and len(said.splitlines()) == 1
    assert [CPU in ran[1], NO_DEPS in ran[2], LOCK in ran[2], len(ran)] == [True, True, True, 3]


@needs_bash
@pytest.mark.parametrize("setting", [{}, {"TORCH": "cuda"}])
def test_with_a_gpu_the_index_s_own_build_is_installed(make_env, setting):
    said, status, ran = make_env(gpu=True, **setting)
    assert status == 0 and len(ran) == 2 and LOCK in ran[1] and "--no-deps" not in ran[1]


@needs_bash
def test_the_switch_goes_before_what_is_found(make_env):
    assert CPU in make_env(gpu=True, TORCH="cpu")[2][1]
    ran = make_env(TORCH="cuda")[2]
    assert "--no-deps" not in ran[-1] and LOCK in ran[-1]


@needs_bash
def test_other_systems_have_only_one_build(make_env):
    _, status, ran = make_env(system="Darwin")
    assert status == 0 and len(ran) == 2 and LOCK in ran[1] and "torch-backend" not in ran[1]


@needs_bash
def test_where_pytorch_s_index_cannot_be_reached_cuda_s_libraries_are_left_out(make_env):
    said, status, ran = make_env(NO_INDEX="2")
    assert status == 0 and "cannot be used from here" in said and len(said.splitlines()) == 1
    assert CPU in ran[1] and NO_DEPS in ran[2] and ran[3].endswith("cpu_torch.py")
    assert ran[4].endswith("cuda-toolkit[cudart]==0") and ran[5].endswith("cpu_torch.py try") and len(ran) == 6


@needs_bash
def test_where_that_does_not_run_all_is_installed(make_env):
    said, status, ran = make_env(NO_INDEX="2", BROKEN="1")
    assert status == 0 and "starting again" in said
    assert LOCK in ran[-1] and "--no-deps" not in ran[-1]


@needs_bash
def test_without_uv_pip_installs(make_env):
    said, status, ran = make_env(NO_UV="1", NO_INDEX="1")
    assert status == 0 and "uv is not on your package index" in said
    assert any(line.startswith("-m pip install") and NO_DEPS in line for line in ran)


@needs_bash
def test_a_wrong_switch_or_an_old_python_is_named(make_env):
    said, status, ran = make_env(TORCH="gpu")
    assert (said, status, ran) == ("TORCH=gpu: expected auto, cpu or cuda\n", 2, [])
    said, status, ran = make_env(OLD="1")
    assert "older than 3.11" in said and status == 1 and not ran


# --- torch without CUDA's libraries


@pytest.fixture(scope="module")
def cpu_torch():
    spec = importlib.util.spec_from_file_location("cpu_torch", ROOT / ".ci" / "cpu_torch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="ELF is of Linux"
)


@linux
def test_a_stand_in_is_a_library_whose_functions_return_an_error(cpu_torch, tmp_path):
    names = [b"cudnnCreate", b"ncclInit", *(b"cuThing%d" % i for i in range(500))]
    path = tmp_path / "stand-in.so"
    path.write_bytes(cpu_torch.library(names, [b"libcudnn.so.9", b"NVSHMEM"], platform.machine()))
    loaded = ctypes.CDLL(str(path))
    assert {getattr(loaded, name.decode())() for name in names} == {35}
    with pytest.raises(AttributeError):
        loaded.cudnnDestroy  # noqa: B018


@linux
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler")
def test_a_program_linked_to_a_missing_library_loads_with_its_stand_in(cpu_torch, tmp_path):
    """As torch is: the function has a version, its address is taken, and all is resolved when it is loaded."""
    (tmp_path / "real.c").write_text("int cudnnCreate(void) { return 1; } int cudnnOther(void) { return 2; }")
    (tmp_path / "real.map").write_text("libcudnn.so.9 { global: *; };")
    (tmp_path / "user.c").write_text(
        "int cudnnCreate(void), cudnnOther(void);\n"
        "int (*kept)(void) = cudnnOther; int use(void) { return cudnnCreate() + kept(); }"
    )
    folder = tmp_path / "lib"
    folder.mkdir()
    for command in (
        "gcc -shared -fPIC real.c -o libcudnn.so.9 -Wl,--version-script=real.map,-soname,libcudnn.so.9",
        "gcc -shared -fPIC user.c -o lib/libuser.so -Wl,-rpath,$ORIGIN -L. -l:libcudnn.so.9",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    code = "import ctypes, os; print(ctypes.CDLL('lib/libuser.so', os.RTLD_NOW).use())"
    before = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "libcudnn.so.9: cannot open" in before.stderr
    assert cpu_torch.stand_in(folder, platform.machine()) == ["libcudnn.so.9"]
    after = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert after.stdout == "70\n", after.stderr
