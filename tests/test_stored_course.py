"""The course on a file of embeddings: notebooks and cards do what they can."""

import functools
import json
import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from test_stored import CLASSES, DOMAINS, fields

import clipnull as cn
from clipnull.audits.probes import features_before_projection
from clipnull.audits.words import paraphrases
from clipnull.bench.cards import card
from clipnull.from_names import prototypes_of
from clipnull.stored import NEEDED

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = {"forget_class": CLASSES[1], "forget_domain": DOMAINS[1]}
GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text(encoding="utf-8"))["mini"]
TAKING = ("00", "01", "03", "04", "06", "07", "08", "09", "10")


@pytest.fixture
def file(tmp_path):
    def write(whole=True, **changes):
        made = fields(n=120, **changes)
        np.savez(tmp_path / "made.npz", **(made if whole else {name: made[name] for name in NEEDED}))
        return str(tmp_path / "made.npz")

    return write


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """Figures are drawn, on few pixels, and closed."""
    monkeypatch.setattr(plt.Figure, "savefig", functools.partialmethod(plt.Figure.savefig, dpi=20))
    yield
    plt.close("all")


def begun(number, monkeypatch, **changes):
    """The names after imports and parameters, changed, and the code cells behind them."""
    monkeypatch.chdir(FOLDER)
    (path,) = FOLDER.glob(f"{number}_*.ipynb")
    imports, parameters, *rest = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    names = {}
    exec(f"{imports}\n{parameters}", names)
    return names | {name: value for name, value in (NAMES | changes).items() if name in names}, rest


UNRECORDED = {
    "03": ([], ["prototypes_own", "both_own"]),
    "08": (["plural", "left"], []),
    "09": ([], ["random_renamed", "neuron", "nullspace", "low", "high"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "whole",
    [pytest.param(True, id="every field"), pytest.param(False, id="needed fields", marks=pytest.mark.nightly)],
)
@pytest.mark.parametrize("number", TAKING)
def test_a_notebook_runs_on_a_file(number, whole, file, monkeypatch):
    recorded = {}
    names, rest = begun(number, monkeypatch, data=file(whole), other_words="bell, hound")
    monkeypatch.setattr(cn, "record", lambda **metrics: recorded.update(metrics))
    for source in rest:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tiny samples
            exec(source, names)
    (path,) = FOLDER.glob(f"{number}_*.ipynb")
    missing, more = UNRECORDED.get(number, ([], []))
    assert set(recorded) == set(GOLDENS[path.stem]) - {*missing} - {*(() if whole else more)}
    assert [name for name, value in recorded.items() if value != value] == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"file: 'none\.npz' does not exist; expected a file of embeddings"),
        ({"texts_free": None}, r"file: '.*made\.npz' .*lacks texts_free"),
    ],
)
def test_the_first_code_cell_refuses_an_unfit_file(data, message, file, monkeypatch):
    names, rest = begun("00", monkeypatch, data=file(**data) if data else "none.npz")
    with pytest.raises(ValueError, match=message):
        exec(rest[0], names)


@pytest.mark.slow
def test_a_lesson_that_makes_pictures_goes_on_with_those_of_the_course(file, monkeypatch, capsys):
    names, rest = begun("02", monkeypatch, data=file())
    exec(rest[0], names)
    assert names["lesson"].images.has_pixels and "This lesson makes pictures" in capsys.readouterr().out


def test_which_texts_pictures_and_prototypes_there_are(file, clip, images):
    model, pictures = cn.load(file(), device="cpu"), cn.load_images(file())
    assert model.knows("a picture of a dog") and model.knows("a picture of a bell")
    assert not model.knows("a dog") and not model.knows("a picture of a cow") and clip.knows("a cow")
    assert images.has_pixels and not pictures.has_pixels and images.validate_pixels() is None
    assert paraphrases(model, CLASSES, "a picture of {a}", {"dog": "bell"}).shape == (3, model.width)
    assert torch.equal(prototypes_of(model, pictures.vocabulary, seed=3).mask, torch.ones(3, 2, dtype=torch.bool))
    assert prototypes_of(cn.load(file(prototypes=None, prototype_mask=None), device="cpu"), pictures.vocabulary) is None
    assert prototypes_of(model, cn.Vocabulary(CLASSES[:2], DOMAINS)) is None
    with pytest.raises(ValueError, match="is a file of embeddings, without an encoder"):
        features_before_projection(model, pictures)


@pytest.mark.parametrize("fingerprint", [np.array("0123456789abcdef"), None], ids=["known weights", "unknown weights"])
def test_a_card_is_written_for_a_file(file, tmp_path, fingerprint):
    path = file(texts_domain=None, fingerprint=fingerprint)
    clip, images = cn.load(path, device="cpu"), cn.load_images(path)
    edit = cn.unlearn(clip, cn.Forget(["dog"]), images.vocabulary, "oblique")
    text = (cn.release(tmp_path / "out", edit, clip, images) / "README.md").read_text(encoding="utf-8")
    assert 'clip = cn.load("ViT-B-32", "openai")' in text and "On 120 stored embeddings, 3 classes" in text
    assert text.count("| the class alone, held-out wording |") == 1 and "class and domain, held-out" not in text
    assert re.search(r"is not measured on features before the projection.* On embeddings it is \d+ % before", text)
    assert ("raises ValueError for other weights" in text) == (fingerprint is not None)
    assert ("cannot check the weights: make sure" in text) == (fingerprint is None)
    assert card(edit, clip, images) == text
