"""Writing a file of embeddings."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import clipnull as cn
from clipnull.commands import cli
from clipnull.datasets import storing
from clipnull.datasets.storing import store, unrelated_words
from clipnull.files import data_folder
from clipnull.prompts import PROMPTS, prompt_sets
from clipnull.prototypes import Prototypes
from clipnull.stored import read_stored


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of one's own: shards are found again by content."""
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def few_words(monkeypatch):
    """Twenty words in the place of a thousand, which take seconds."""
    monkeypatch.setattr(storing, "unrelated_words", lambda vocabulary: unrelated_words(vocabulary)[:20])


@pytest.fixture
def folder(tmp_path):
    """Two pictures in each of four cells."""
    for cell in ("line/bird", "line/car", "flat/bird", "flat/car"):
        place = tmp_path / "pictures" / cell
        place.mkdir(parents=True)
        for file in sorted((data_folder("miniworld") / "test" / cell).iterdir())[:2]:
            shutil.copy(file, place)
    return tmp_path / "pictures"


@pytest.fixture
def other(tmp_path):
    (tmp_path / "other" / "deep").mkdir(parents=True)
    for i in range(3):
        Image.effect_noise((32, 32), 30 + i).save(tmp_path / "other" / "deep" / f"{i}.png")
    shutil.copytree(tmp_path / "other" / "deep", tmp_path / "other" / ".ipynb_checkpoints")
    return tmp_path / "other"


@pytest.mark.slow
def test_a_file_says_what_the_model_says(clip, folder, other, tmp_path, monkeypatch):
    images = cn.load_images(folder)
    v = torch.nn.functional.normalize(torch.randn(*images.vocabulary.shape, clip.width), dim=-1)
    made = Prototypes(torch.zeros(0), v, torch.ones(images.vocabulary.shape, dtype=torch.bool))
    monkeypatch.setattr(storing, "cell_prototypes", lambda *args, **kwargs: made)
    path = str(store(clip, images, tmp_path / "a.npz", other))
    model, pictures = cn.load(path, device="cpu"), cn.load_images(path)
    assert (model.name, model.pretrained, model.fingerprint) == ("miniclip", None, clip.fingerprint)
    assert prompt_sets(model) == PROMPTS and pictures.vocabulary == images.vocabulary
    torch.testing.assert_close(cn.embed(model, pictures), cn.embed(clip, images))
    for prompts in PROMPTS:
        torch.testing.assert_close(cn.zero_shot(model, pictures, prompts), cn.zero_shot(clip, images, prompts))
    request = cn.Forget(["bird"], ["line"])
    mine, theirs = (cn.unlearn(c, request, images.vocabulary, "oblique", prototypes=made) for c in (clip, model))
    torch.testing.assert_close(mine.matrix(), theirs.matrix(), atol=1e-5, rtol=1e-5)
    assert theirs.apply(clip).edits == (theirs,)  # made from the file, for the model
    content = model.model.stored
    assert content.vectors["other_images"].shape == (3, clip.width) and len(content.other_names) > 900
    torch.testing.assert_close(content.vectors["image_mean"], content.vectors["other_images"].mean(0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "cache", "other", "pictures"]


def test_a_broken_picture_is_left_out_with_its_label(clip, folder, few_words, tmp_path):
    images = cn.load_images(folder)
    images.files[0].write_bytes(images.files[0].read_bytes()[:200])
    with pytest.warns(UserWarning, match="1 of 8 pictures are broken"):
        store(clip, images, tmp_path / "a.npz", prototypes=False)
    stored = read_stored(tmp_path / "a.npz")
    names = [file.relative_to(folder).as_posix() for file in images.files]
    assert stored.files == tuple(names[1:]) and stored.dropped == (names[0],)
    labels = zip(stored.domains.tolist(), stored.classes.tolist(), strict=True)
    cells = [f"{images.vocabulary.domains[k]}/{images.vocabulary.classes[c]}" for k, c in labels]
    assert cells == [name.rpartition("/")[0] for name in stored.files]


def test_words_that_are_unrelated():
    names = unrelated_words(cn.Vocabulary(["dog", "tree_frog", "boxer"], ["photo"]))
    assert "goldfish" in names and len(names) == len({*names}) > 900
    assert not [name for name in names if "dog" in name.split() or name in ("boxer", "tree frog")]


def test_unfit_input_writes_nothing(clip, folder, tmp_path):
    images = cn.load_images(folder)
    edit = cn.unlearn(clip, cn.Forget(["bird"]), images.vocabulary, prototypes=False)
    (tmp_path / "empty").mkdir()
    embeddings = replace(images, files=(), stored=torch.ones(len(images), clip.width))
    for arguments, message in (
        ((edit.apply(clip), images, tmp_path / "a.npz"), "clip: it carries 1 edits; expected the unedited"),
        ((clip, embeddings, tmp_path / "a.npz"), "images: embeddings of 8 pictures are stored"),
        ((clip, images, tmp_path / "a.npy"), r"path: '.*a\.npy' does not end in \.npz"),
        ((clip, images, tmp_path / "a.npz", tmp_path / "empty"), "other: '.*empty' holds no pictures"),
    ):
        with pytest.raises(ValueError, match=message):
            store(*arguments, prototypes=False)
    with pytest.raises(OSError):  # before anything is embedded
        store(clip, images, images.files[0] / "a.npz", prototypes=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "pictures"]


def test_the_command(folder, few_words, tmp_path, capsys):
    out = tmp_path / "a.npz"
    assert cli.main(["embed", str(folder), "--model", "miniclip", "--out", str(out), "--no-prototypes"]) == 0
    printed = capsys.readouterr()
    assert "written: " in printed.out and "8/8" in printed.err
    with np.load(out, allow_pickle=False) as archive:
        assert archive["images"].shape[0] == 8 and "prototypes" not in archive.files
