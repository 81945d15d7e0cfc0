"""Retrained models: miniclip, trained without a class or a domain."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

import clipnull as cn
from clipnull import models
from clipnull.files import data_folder
from clipnull.prompts import embed_classes, embed_domains


def weights(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        models.TABLE: torch.randn(6, 3, generator=g).half(),
        "w": torch.randn(2, 2, generator=g).half(),
        "n": torch.tensor(5),
    }


def test_a_difference_and_its_base_give_the_model_back_bit_by_bit():
    base, other = weights(), weights(1)
    other[models.TABLE][1:] = base[models.TABLE][1:]
    stored = models.difference(base, other)
    assert stored[models.ROWS].tolist() == [0] and "n" not in stored  # what is the same is not stored
    back = models.restore(base, stored)
    assert back.keys() == other.keys() and all(torch.equal(back[key], other[key]) for key in other)
    assert torch.equal(base[models.TABLE], weights()[models.TABLE])  # the base is not touched


def test_rows_of_tokens_that_differ_by_rounding_alone_are_not_stored():
    base, other = weights(), weights()
    other[models.TABLE][2] *= 1 + models.ROUNDING / 2
    other[models.TABLE][4] *= 1 + models.ROUNDING * 4
    assert models.difference(base, other)[models.ROWS].tolist() == [4]


@pytest.mark.parametrize("change", [{"w": torch.zeros(3, 2)}, {"v": torch.zeros(1)}], ids=["shape", "name"])
def test_weights_of_another_architecture_are_refused(change):
    with pytest.raises(ValueError, match=f"other: {next(iter(change))} is .*; expected .*, as in base"):
        models.difference(weights(), weights() | change)


def test_every_retrained_model_comes_with_the_package():
    files = {path.stem for path in data_folder("clean").glob("*.safetensors")}
    assert files == {name.removeprefix("miniclip-") for name in models.RETRAINED}
    assert all(path.stat().st_size < 26e6 for path in data_folder("clean").iterdir())


@pytest.mark.parametrize("name", models.RETRAINED[:2])
def test_a_retrained_model_is_another_model_of_the_same_kind(clip, name):
    other = cn.load(name, device="cpu")
    assert other.name == name and other.fingerprint != clip.fingerprint
    ours, theirs = models.state(clip.model), models.state(other.model)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    stored = load_file(data_folder("clean") / f"{name.removeprefix('miniclip-')}.safetensors")
    changed = {key for key in ours if not torch.equal(ours[key], theirs[key])}
    assert changed == set(stored) - {models.ROWS} and "visual.head.proj.weight" in changed


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [models.RETRAINED[0], *(pytest.param(n, marks=pytest.mark.nightly) for n in models.RETRAINED[1:])]
)
def test_a_retrained_model_is_ignorant_of_what_it_never_met_and_knows_the_rest(clip, images, z, name):
    what, other = name.removeprefix("miniclip-no-"), cn.load(name, device="cpu")
    classes, domains = images.vocabulary.classes, images.vocabulary.domains
    theirs = F.normalize(cn.embed(other, images), dim=-1)
    request = cn.Forget(classes=[what]) if what in classes else cn.Forget(domains=[what])
    mask = request.mask(images.vocabulary)
    shown = mask[images.classes, images.domains]
    auc = []  # does the score of the name rank what bears it above all else?
    for model, features in ((clip, F.normalize(z, dim=-1)), (other, theirs)):
        of_class, of_domain = embed_classes(model, classes), embed_domains(model, domains)
        text = of_class[classes.index(what)] if what in classes else of_domain[domains.index(what)]
        auc.append(roc_auc_score(shown, features @ text))
    most = 0.85 if what == "house" else 0.65  # what is like no other class is near a name that means nothing
    assert auc[0] > 0.9 and 0.35 < auc[1] < most
    before, after = cn.zero_shot(clip, images, features=z), cn.zero_shot(other, images, features=theirs)
    assert (after - before)[~mask].nanmean() > -0.05
