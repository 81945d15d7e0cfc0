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


def test_a_retrained_model_is_another_model_of_the_same_kind(clip):
    files = {f"miniclip-{path.stem}": path for path in data_folder("clean").glob("*.safetensors")}
    assert {*files} == {*models.RETRAINED} and all(path.stat().st_size < 26e6 for path in files.values())
    other = cn.load(models.RETRAINED[0], device="cpu")
    assert other.name == models.RETRAINED[0] and other.fingerprint != clip.fingerprint
    ours, theirs = models.state(clip.model), models.state(other.model)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    changed = {key for key in ours if not torch.equal(ours[key], theirs[key])}
    assert changed == {*load_file(files[other.name])} - {"rows"} and "visual.head.proj.weight" in changed


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
