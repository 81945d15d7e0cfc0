"""The scripts that made the embedded pictures and models: what they promise, as far as it can be seen without them."""

import importlib
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import random

from clipnull.files import data_folder
from clipnull.models import restore

BUILD = data_folder("build")


@pytest.fixture(scope="module")
def build():
    """Import a script of data/build by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BUILD))
        yield importlib.import_module
    for name in {path.stem for path in BUILD.glob("*.py")}:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def rows(build):
    return build("render").read_index()


def test_no_design_family_is_in_both_splits(build, rows):
    split = build("split")
    family, part = split.families(rows), split.splits(rows)
    families = {p: {f for f, other in zip(family, part, strict=True) if other == p} for p in ("train", "test")}
    assert families["test"] and not families["test"] & families["train"]


def test_a_model_without_a_class_meets_neither_its_pictures_nor_its_words(build):
    train, captions = build("train"), build("captions")
    for name, near in (("dog", "a photo of a poodle"), ("house", "two cottages"), ("cartoon", "a comic drawing")):
        words = [near, *captions.SYNONYMS.get(name, [name])]  # every word that a picture of the class may be called by
        assert all(captions.mentions((name,)).search(word) for word in words), name
        assert not captions.mentions((name,)).search("a sketch of a horse")
    assert not captions.mentions(()).search("a dog in a house")
    assert set(train.CLEAN) == set(captions.WITHOUT) and [stage.name for stage in train.STAGES][-1] == "last"


def test_the_recipe_changes_with_settings_words_pictures_and_what_came_before(build):
    train = build("train")
    stage, groups = train.STAGES[-1], [["dog", "a hound"]]

    def of_two(weight=(0.5, 0.5), second="dog"):
        about = {"names": [["cat"], [second]], "classes": ["cat", "dog"], "domains": ["line"]}
        return SimpleNamespace(**about, weight=np.array(weight), pixels=np.zeros((2, 1, 1, 4)))

    recipes = [
        ("", stage, of_two(), groups),
        ("before", stage, of_two(), groups),
        ("", replace(stage, steps=stage.steps + 1), of_two(), groups),
        ("", stage, of_two((0.25, 0.75)), groups),
        ("", stage, of_two(second="hound"), groups),
        ("", stage, of_two(), [["dog"]]),
    ]
    assert len({train.recipe_of(*recipe) for recipe in recipes for _ in range(2)}) == len(recipes)


def test_a_checkpoint_of_another_recipe_is_refused_before_anything_is_trained(build, tmp_path):
    train = build("train")
    model = train.open_clip.CLIP(**train.CONFIG)
    torch.save({"model": model.state_dict(), "recipe": "of before"}, tmp_path / "words.pt")
    before = (tmp_path / "words.pt").read_bytes()
    with pytest.raises(SystemExit, match=r"words\.pt: a checkpoint of another recipe \(of before"):
        train.train(model, None, train.STAGES[0], None, [], tmp_path, "of now")
    assert (tmp_path / "words.pt").read_bytes() == before and not (tmp_path / "log.jsonl").exists()


def test_a_retrained_model_is_restored_from_its_difference(build):
    export = build("export")

    def weights(seed):
        table, w = random(6, 3, seed=seed).half(), random(2, 2, seed=seed).half()
        return {"token_embedding.weight": table, "w": w, "n": torch.tensor(5)}

    base, other = weights(0), weights(1)
    other["token_embedding.weight"][1:] = base["token_embedding.weight"][1:]
    other["token_embedding.weight"][2] *= 1 + export.ROUNDING / 2  # rounding alone: not stored
    difference = export.difference(base, other)
    assert difference["rows"].tolist() == [0] and "n" not in difference
    other["token_embedding.weight"][2] = base["token_embedding.weight"][2]
    restored = restore(base, difference)
    assert restored.keys() == other.keys() and all(torch.equal(restored[key], other[key]) for key in other)
    assert torch.equal(base["token_embedding.weight"], weights(0)["token_embedding.weight"])  # base is not touched
    for name, value in (("w", torch.zeros(3, 2)), ("v", torch.zeros(1))):
        with pytest.raises(ValueError, match=f"other: {name}"):
            export.difference(base, base | {name: value})
