import ast
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import VIT, plain, python
from safetensors.torch import load_file, save_file

import clipnull as cn
from clipnull import prototypes
from clipnull.prompts import TEMPLATES
from clipnull.prototypes import cell_prototypes, synthesize

VOCABULARY = cn.Vocabulary(("dog", "fish", "house"), ("photo", "line"))
MASK = torch.tensor([[True, True], [False, True], [False, False]])
PAIR = cn.Vocabulary(("cat", "dog"), ("photo", "line"))

# The code that makes the pictures, as ALGORITHM says: it goes up by one where the same seed gives another picture.
DIGEST = (2, "53c09c63f796abda")


# --- the ascent


@pytest.mark.slow
def test_the_ascent_reaches_its_target_and_no_other(clip):
    targets = clip.embed_texts(["a photo of a dog", "a line drawing of a house"])
    pixels, z = synthesize(clip, targets, steps=60, progress=False)
    assert pixels.shape == (2, 3, clip.image_size, clip.image_size) and pixels.min() >= 0 and pixels.max() <= 1
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
    cosines = z @ targets.T
    assert cosines.diagonal().min() > 0.5 and (cosines.diagonal() - cosines.flip(1).diagonal()).min() > 0.2
    few = synthesize(clip, targets, steps=1, progress=False)[1]
    assert ((few * targets).sum(1) < cosines.diagonal() - 0.2).all()


def test_the_same_seed_gives_the_same_picture(clip):
    target = clip.embed_texts(["a photo of a dog"])
    a, b, c = (synthesize(clip, target, steps=2, seed=s, progress=False)[0] for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_bad_arguments_are_refused(clip):
    with pytest.raises(ValueError, match="targets"):
        synthesize(clip, torch.zeros(2, 7))
    with pytest.raises(ValueError, match="steps: 0 is not valid"):
        synthesize(clip, torch.ones(1, clip.width), steps=0)
    with pytest.raises(ValueError, match="seeds: 1 given; expected 2"):
        synthesize(clip, torch.ones(2, clip.width), seeds=[0])


def test_prototypes_of_an_edited_model_are_refused(clip):
    with pytest.raises(ValueError, match="clip: it carries 1 edits; expected the unedited model"):
        cell_prototypes(plain(clip.width).apply(clip), PAIR)


@pytest.mark.parametrize("mask", [torch.zeros(3, 2, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)])
def test_bad_masks_are_refused(clip, mask):
    with pytest.raises(ValueError, match="mask"):
        cell_prototypes(clip, VOCABULARY, mask)


# --- the cache, with a model so small that a prototype costs nothing


@pytest.fixture
def tiny(small):
    return small(VIT)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


def make(clip, vocabulary=PAIR, **settings):
    return cell_prototypes(clip, vocabulary, **{"steps": 1, "progress": False} | settings)


def test_prototypes_are_made_once_and_only_those_asked_for(tiny, cache, capfd):
    first = cell_prototypes(tiny, VOCABULARY, MASK, steps=2)
    told = capfd.readouterr().err
    assert "prototypes: 3 of 3 cells have none yet; synthesizing them once" in told and "3 of 3 cells\n" in told
    assert "the model is not trained), kept in $CLIPNULL_CACHE" in told
    assert first.embeddings[MASK].norm(dim=1).min() > 0.99 and not first.embeddings[~MASK].any()
    again = cell_prototypes(tiny, VOCABULARY, MASK, steps=2)
    assert capfd.readouterr().err == ""
    assert torch.equal(first.pixels[MASK], again.pixels[MASK])
    more = cell_prototypes(tiny, VOCABULARY, steps=2)
    assert "prototypes: 3 of 6 cells have none yet" in capfd.readouterr().err
    torch.testing.assert_close(more.embeddings[MASK], first.embeddings[MASK])
    cell_prototypes(tiny, VOCABULARY, MASK, steps=3, progress=False)  # other settings, other file
    assert capfd.readouterr().err == ""
    assert len(stored(cache)) == 2 and not list(cache.glob(".*"))


def test_the_cache_at_home_is_named_without_the_name_of_its_owner(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("CLIPNULL_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    cell_prototypes(tiny, PAIR, steps=1)
    told = capfd.readouterr().err
    assert "kept in ~/.cache/clipnull" in told and str(tmp_path) not in told
    assert len(stored(tmp_path / ".cache" / "clipnull")) == 1


def test_what_is_handed_out_cannot_corrupt_what_is_kept(tiny, cache):
    first = make(tiny)
    kept = first.embeddings.clone()
    first.embeddings.zero_(), first.pixels.zero_(), first.mask.zero_()
    assert torch.equal(make(tiny).embeddings, kept)


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_text("no safetensors at all, but long enough to be read as the length of a head"),
        lambda path: save_file(without(load_file(path), "mask"), path),
        lambda path: save_file(load_file(path) | {"more": torch.zeros(1)}, path),
        lambda path: save_file({k: v[:1].contiguous() for k, v in load_file(path).items()}, path),
        lambda path: save_file(load_file(path) | {"embeddings": torch.full((2, 2, 64), torch.nan)}, path),
        lambda path: save_file(load_file(path) | {"embeddings": torch.zeros(2, 2, 64)}, path),
        lambda path: save_file(load_file(path) | {"embeddings": load_file(path)["embeddings"].half()}, path),
        lambda path: save_file(load_file(path) | {"embeddings": torch.full((2, 2, 64), torch.inf)}, path),
        lambda path: save_file(load_file(path) | {"mask": torch.zeros(2, 2, dtype=torch.bool)}, path),
        lambda path: save_file(without(load_file(path), "pixels"), path),
        lambda path: save_file({}, path),
        lambda path: path.write_bytes((2**63).to_bytes(8, "little") + path.read_bytes()[8:]),
        lambda path: path.write_bytes((99_990).to_bytes(8, "little") + b"[" * 99_990),
        lambda path: (path.unlink(), path.symlink_to(path)),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=[
        *("empty", "head cut", "end cut", "text", "no mask", "more", "one class", "NaN", "zeros", "half", "infinite"),
        *("other mask", "no pixels", "nothing", "huge head", "brackets", "loop", "FIFO"),
    ],
)
@pytest.mark.promise("What is damaged is refused")
def test_a_damaged_file_is_named_and_made_again(damage, tiny, cache):
    whole = make(tiny)
    (path,) = stored(cache)
    damage(path)
    with pytest.warns(UserWarning, match=r"cache: '.*\.safetensors' is damaged .*made again") as told:
        again = make(tiny)
    assert str(path) in str(told[0].message)
    assert torch.equal(again.pixels, whole.pixels) and torch.equal(again.embeddings, whole.embeddings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(make(tiny).embeddings, whole.embeddings)
    assert stored(cache) == [path]


def test_a_file_is_found_by_all_that_prototypes_depend_on(tiny, cache, monkeypatch):
    def new() -> bool:
        before = len(stored(cache))
        make(tiny)
        return len(stored(cache)) > before

    assert new() and not new()
    make(tiny, seed=1)
    make(tiny, steps=2)
    make(tiny, cn.Vocabulary(PAIR.classes, ("photo", "flat")))
    make(tiny, cn.Vocabulary(("dog", "cat"), PAIR.domains))
    changed = replace(tiny, model=plain(tiny.width).apply(tiny).model)  # other weights
    make(changed)
    assert len(stored(cache)) == 6 and not new()
    with monkeypatch.context() as patch:
        patch.setattr(prototypes, "ALGORITHM", prototypes.ALGORITHM + 1)
        assert new() and not new()
    with monkeypatch.context() as patch:
        patch.setitem(TEMPLATES, "build", TEMPLATES["build"][:-1])
        assert new() and not new()
    assert not new()


def test_a_file_is_found_whatever_the_source_looks_like(tiny, cache, tmp_path, monkeypatch):
    whole = make(tiny)
    source = Path(prototypes.__file__).read_text(encoding="utf-8")
    (tmp_path / "other.py").write_text(f"{source}\n# a comment\n\n\ndef more() -> None:\n    ...\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("clipnull.other", tmp_path / "other.py")
    other = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "clipnull.other", other)
    spec.loader.exec_module(other)
    monkeypatch.setattr(other, "synthesize", lambda *_, **__: pytest.fail("made again"))
    assert torch.equal(other.cell_prototypes(tiny, PAIR, steps=1).embeddings, whole.embeddings)


def test_a_cache_that_cannot_be_written_serves_what_it_holds(tiny, cache, monkeypatch):
    whole = make(tiny)

    def locked():
        raise OSError("cache: it cannot be written")

    monkeypatch.setattr(prototypes, "cache_folder", locked)
    assert torch.equal(make(tiny).embeddings, whole.embeddings)
    with pytest.raises(OSError, match="cannot be written"):
        make(tiny, seed=1)


def test_a_cache_that_cannot_be_written_is_named_before_anything_is_made(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(prototypes, "synthesize", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(OSError, match=r"'.*file.cache' cannot be written .*set the variable CLIPNULL_CACHE"):
        make(tiny)


def test_a_cache_that_can_be_read_but_not_written_is_served_and_left_as_it_is(tiny, cache):
    whole = make(tiny)
    (path,) = stored(cache)
    for lock in cache.glob("*.lock"):
        lock.unlink()
    before = sorted(cache.iterdir())
    path.chmod(0o444), cache.chmod(0o555)
    try:
        assert torch.equal(make(tiny).embeddings, whole.embeddings)
        assert sorted(cache.iterdir()) == before
        if not os.access(cache, os.W_OK):  # the administrator may write anywhere
            with pytest.raises(OSError, match="cannot be written .*set the variable CLIPNULL_CACHE"):
                make(tiny, seed=1)
    finally:
        cache.chmod(0o755)


@pytest.mark.promise("Nothing is written outside its target")
def test_a_full_disk_leaves_what_was_there_and_the_next_run_recovers(tiny, cache, monkeypatch):
    first = make(tiny, mask=torch.tensor([[True, False], [False, False]]))
    (path,) = stored(cache)
    before = path.read_bytes()

    def full(tensors, file):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prototypes, "save_file", full)
        with pytest.raises(OSError, match="No space left on device"):
            make(tiny)
    assert path.read_bytes() == before and stored(cache) == [path] and not list(cache.glob(".*"))
    assert torch.equal(make(tiny).embeddings[0, 0], first.embeddings[0, 0])


TWO = """
import os, sys, time, pathlib, clipnull as cn
from clipnull import prototypes

clip, vocabulary, whole = cn.load(device="cpu"), cn.Vocabulary(("cat", "dog"), ("photo", "line")), prototypes.synthesize
folder, me, you = pathlib.Path(sys.argv[1]), *sys.argv[2:]

def counted(clip, targets, *arguments, **settings):
    print("made", len(targets))
    return whole(clip, targets, *arguments, **settings)

prototypes.synthesize = counted
(folder / me).touch()
while not (folder / you).exists():
    time.sleep(0.01)
found = prototypes.cell_prototypes(clip, vocabulary, steps=1, progress=False)
print("sum", found.embeddings.double().sum().item())
"""


@pytest.mark.slow
def test_two_processes_share_one_cache(cache, tmp_path):
    """Both ask for the same at once: it is made once, and both have it."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", TWO, tmp_path, *names], stdout=subprocess.PIPE, text=True, env=env)
        for names in ("ab", "ba")
    ]
    told = [line.split() for process in both for line in process.communicate(timeout=300)[0].splitlines()]
    assert not any(process.returncode for process in both)
    assert [line for line in told if line[0] == "made"] == [["made", "4"]]
    sums = [line[1] for line in told if line[0] == "sum"]
    assert len(sums) == 2 and len(set(sums)) == 1
    assert len(stored(cache)) == 1 and not list(cache.glob(".*"))


KILLED = """
import os, signal, sys, torch, clipnull as cn
from clipnull import prototypes

clip, vocabulary, whole = cn.load(device="cpu"), cn.Vocabulary(("cat", "dog"), ("photo", "line")), prototypes.save_file

def child(kill_at):
    def half(tensors, path):
        whole(tensors, path)
        if kill_at >= 0:
            os.truncate(path, kill_at)
            os.kill(os.getpid(), signal.SIGKILL)

    prototypes.save_file = half
    prototypes.cell_prototypes(clip, vocabulary, steps=1, progress=False)
    os._exit(0)

for kill_at in (0, 1000, 100_000, -1):
    pid = os.fork()
    if not pid:
        child(kill_at)
    folder = os.environ["CLIPNULL_CACHE"]
    print(os.waitpid(pid, 0)[1], sum(name.endswith(".safetensors") for name in os.listdir(folder)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.promise("Nothing is written outside its target")
def test_a_killed_run_leaves_a_whole_cache_or_none(clip, cache):
    """Killed again and again, right after each write began; what lies there then is whole, and the next run goes on."""
    out = python(KILLED, CLIPNULL_CACHE=str(cache), OMP_NUM_THREADS="1")
    assert out.split("\n")[:4] == [f"{int(signal.SIGKILL)} 0"] * 3 + ["0 1"]
    assert load_file(stored(cache)[0])["mask"].all()
    torch.testing.assert_close(cell_prototypes(clip, PAIR, steps=1).embeddings.norm(dim=2), torch.ones(2, 2))


# --- the version of the algorithm


def form(node: object) -> object:
    """The syntax tree without docstrings, places and what is empty: the same on every version of Python."""
    if isinstance(node, list):
        return [form(n) for n in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
        fields["body"] = fields["body"][1:]
    return type(node).__name__, [(k, form(v)) for k, v in fields.items() if v is not None and v != []]


def digest(source: str) -> str:
    """Of the functions and constants that a prototype's pixels depend on."""
    functions, constants = (
        {"ascend", "_view", "_embed", "synthesize", "_hash"},
        {"SCALES", "COLOURS", "WHITE", "NOISE", "VIEWS"},
    )
    found, code = set(), []
    for node in ast.parse(source).body:
        names = {node.name} if isinstance(node, ast.FunctionDef) else set()
        if isinstance(node, ast.Assign):
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if names & (functions | constants):
            found |= names
            code.append(form(node))
    assert found == functions | constants | {"SMOOTH"}, f"{found}: name here what pictures depend on"
    return hashlib.sha256(repr(code).encode()).hexdigest()[:16]


def test_code_that_makes_other_pictures_has_another_version():
    now = digest(Path(prototypes.__file__).read_text(encoding="utf-8"))
    assert (prototypes.ALGORITHM, now) == DIGEST, (
        "clipnull/prototypes.py: the code that makes the pictures has changed. Raise ALGORITHM there or, if pictures "
        f"stay the same, only update DIGEST here: ({prototypes.ALGORITHM}, {now!r})"
    )


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""Gradient ascent from noise', '"""Climbing from noise', True),
        ("# coarse shapes grow faster", "# they grow faster", True),
        ("WHITE, SMOOTH = 1.0, 10.0", "WHITE, SMOOTH = 1.0, 11.0", False),
        ("weights = [s ** 0.3", "weights = [s ** 0.4", False),
        ("0.85 + 0.15 * zoom", "0.8 + 0.2 * zoom", False),
    ],
)
def test_the_digest_sees_code_and_not_words(old, new, same):
    source = Path(prototypes.__file__).read_text(encoding="utf-8").replace("s**0.3", "s ** 0.3")
    assert old in source
    assert (digest(source.replace(old, new)) == digest(source)) == same
