"""Pictures synthesized from text, and the cache that holds them."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import VIT, plain
from safetensors.torch import load_file, save_file

import clipnull as cn
from clipnull import prototypes
from clipnull.prototypes import cell_prototypes, synthesize
from clipnull.vocabulary import TEMPLATES

VOCABULARY = cn.Vocabulary(("dog", "fish", "house"), ("photo", "line"))
MASK = torch.tensor([[True, True], [False, True], [False, False]])
PAIR = cn.Vocabulary(("cat", "dog"), ("photo", "line"))


# --- the ascent


@pytest.mark.slow
def test_the_ascent_reaches_its_target_and_no_other(clip):
    targets = clip.embed_texts(["a photo of a dog", "a line drawing of a house"])
    pixels, z = synthesize(clip, targets, steps=60)
    assert pixels.shape == (2, 3, clip.image_size, clip.image_size) and pixels.min() >= 0 and pixels.max() <= 1
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
    cosines = z @ targets.T
    assert cosines.diagonal().min() > 0.5 and (cosines.diagonal() - cosines.flip(1).diagonal()).min() > 0.2
    few = synthesize(clip, targets, steps=1)[1]
    assert ((few * targets).sum(1) < cosines.diagonal() - 0.2).all()


def test_code_that_makes_other_pictures_has_another_version(clip):
    """Threads change these numbers by 1e-6; a setting that differs by a tenth changes them by 0.015 or more."""
    pixels, _ = synthesize(clip, clip.embed_texts(["a photo of a dog"]), steps=5)
    expected = torch.tensor(
        [0.7806, 0.7578, 0.8376, 0.8551, 0.7185, 0.6766, 0.7459, 0.6466]
        + [0.7728, 0.7015, 0.6621, 0.6800, 0.7599, 0.7020, 0.8181, 0.7069]
    )
    assert prototypes.ALGORITHM == 2, "synthesize gives other pictures than version 2 did: enter the new numbers here"
    torch.testing.assert_close(F.adaptive_avg_pool2d(pixels.mean(1), 4).flatten(), expected, atol=3e-3, rtol=0)


def test_bad_arguments_are_refused(clip):
    for call, argument in (
        (lambda: synthesize(clip, torch.zeros(2, 7)), "targets"),
        (lambda: synthesize(clip, torch.ones(1, clip.width), steps=0), "steps: 0"),
        (lambda: cell_prototypes(plain(clip.width).apply(clip), PAIR), "clip"),
        (lambda: cell_prototypes(clip, VOCABULARY, torch.zeros(3, 2, dtype=torch.bool)), "mask"),
        (lambda: cell_prototypes(clip, VOCABULARY, torch.ones(2, 3, dtype=torch.bool)), "mask"),
    ):
        with pytest.raises(ValueError, match=f"{argument}.*expected"):
            call()


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


def test_prototypes_are_made_once_and_only_those_that_are_missing(tiny, cache, capfd):
    first = cell_prototypes(tiny, VOCABULARY, MASK, steps=2)
    progress = capfd.readouterr().err
    assert "3/3" in progress
    assert first.embeddings[MASK].norm(dim=1).min() > 0.99 and not first.embeddings[~MASK].any()
    again = cell_prototypes(tiny, VOCABULARY, MASK, steps=2)
    assert capfd.readouterr().err == ""
    assert torch.equal(first.pixels[MASK], again.pixels[MASK])
    more = cell_prototypes(tiny, VOCABULARY, steps=2)
    assert "3/3" in capfd.readouterr().err
    torch.testing.assert_close(more.embeddings[MASK], first.embeddings[MASK])
    cell_prototypes(tiny, VOCABULARY, MASK, steps=3, progress=False)  # other settings, other file
    assert capfd.readouterr().err == ""
    assert len(stored(cache)) == 2 and not list(cache.glob(".*"))


def test_only_what_is_made_takes_room_on_disk(tiny, cache):
    """Two prototypes of 400 names, which would be 2.5 MB with all that are not made."""
    names = cn.Vocabulary([f"thing {i}" for i in range(400)], ("photo", "line"))
    mask = torch.zeros(names.shape, dtype=torch.bool)
    mask[7, 0] = mask[300, 1] = True
    first = make(tiny, names, mask=mask)
    (path,) = stored(cache)
    assert path.stat().st_size < 60_000
    mask[8, 1] = True
    more = make(tiny, names, mask=mask)
    assert torch.equal(more.pixels[7, 0], first.pixels[7, 0]) and path.stat().st_size < 60_000
    assert torch.equal(more.embeddings[300, 1], first.embeddings[300, 1]) and more.mask.equal(mask)


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: save_file(without(load_file(path), "mask"), path),
        lambda path: save_file({k: v[:1].contiguous() for k, v in load_file(path).items()}, path),
        lambda path: save_file(load_file(path) | {"pixels": load_file(path)["pixels"][:1].contiguous()}, path),
        lambda path: save_file(load_file(path) | {"embeddings": torch.full((4, 64), torch.nan)}, path),
        lambda path: save_file(load_file(path) | {"embeddings": load_file(path)["embeddings"].half()}, path),
        lambda path: path.write_bytes((99_990).to_bytes(8, "little") + b"[" * 99_990),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["empty", "cut", "no mask", "one class", "one picture", "NaN", "half", "brackets", "FIFO"],
)
@pytest.mark.promise("What is damaged is refused")
def test_a_damaged_file_is_named_and_made_again(damage, tiny, cache):
    whole = make(tiny)
    (path,) = stored(cache)
    damage(path)
    with pytest.warns(UserWarning, match=rf"cache: '{path}' is damaged"):
        again = make(tiny)
    assert torch.equal(again.pixels, whole.pixels) and torch.equal(again.embeddings, whole.embeddings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(make(tiny).embeddings, whole.embeddings)
    assert stored(cache) == [path]


def test_a_file_is_found_by_all_that_prototypes_depend_on(tiny, cache, monkeypatch):
    changed = replace(tiny, model=plain(tiny.width).apply(tiny).model)  # other weights
    others = cn.Vocabulary(PAIR.classes, ("photo", "flat")), cn.Vocabulary(("dog", "cat"), PAIR.domains)
    for _ in range(2):
        make(tiny), make(tiny, seed=1), make(tiny, steps=2), make(changed)
        make(tiny, others[0]), make(tiny, others[1])
        assert len(stored(cache)) == 6
    with monkeypatch.context() as patch:
        patch.setattr(prototypes, "ALGORITHM", prototypes.ALGORITHM + 1)
        make(tiny)
    monkeypatch.setitem(TEMPLATES, "build", TEMPLATES["build"][:-1])
    make(tiny)
    assert len(stored(cache)) == 8


def test_a_cache_that_can_be_read_but_not_written_is_served(tiny, cache, monkeypatch):
    whole = make(tiny)

    def locked():
        raise OSError("cache: it cannot be written")

    monkeypatch.setattr(prototypes, "cache_folder", locked)  # the administrator of a system may write anywhere
    assert torch.equal(make(tiny).embeddings, whole.embeddings)
    monkeypatch.setattr(prototypes, "synthesize", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(OSError, match="cache: "):
        make(tiny, seed=1)


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


def test_two_that_want_the_same_at_once_share_it(tiny, cache, monkeypatch):
    sizes = []

    def counted(clip, targets, *arguments, **settings):
        sizes.append(len(targets))
        return synthesize(clip, targets, *arguments, **settings)

    monkeypatch.setattr(prototypes, "synthesize", counted)
    with ThreadPoolExecutor(2) as threads:  # their locks are those of two processes
        one, other = threads.map(lambda _: make(tiny), range(2))
    assert sizes == [4] and torch.equal(one.embeddings, other.embeddings)
    assert len(stored(cache)) == 1 and not list(cache.glob(".*"))
