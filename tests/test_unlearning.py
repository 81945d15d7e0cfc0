"""From a request to an edit of a model, from names alone."""

import functools
import warnings

import pytest
import torch
import torch.nn.functional as F

import clipnull as cn
from clipnull import from_names
from clipnull.bench.sweep import pair_forgetting
from clipnull.edit import history
from clipnull.evaluate import classify
from clipnull.forecasting.choosing import chance_strength, simulator_of
from clipnull.prompts import embed_cells, embed_domains, text_classifiers
from clipnull.prototypes import are_made, cell_prototypes
from clipnull.vocabulary import FORMS

VOCABULARY = cn.Vocabulary(("cat", "dog", "fish"), ("photo", "line"))


@pytest.fixture
def quick(monkeypatch):
    """Prototypes after one step in place of 60, kept in the cache of the tests."""
    monkeypatch.setattr(from_names, "cell_prototypes", functools.partial(cell_prototypes, steps=1))


def test_a_vocabulary_is_embedded_from_its_names_alone(clip):
    cells, texts = cn.embed_vocabulary(clip, VOCABULARY, prototypes=False), embed_cells(clip, VOCABULARY)
    assert torch.equal(cells.texts, texts.double()) and cells.prototypes is None and len(cells.kinds) == 1
    domains = embed_domains(clip, VOCABULARY.domains) + F.normalize(texts.mean(0), dim=-1)
    torch.testing.assert_close(cells.domains, F.normalize(domains.double(), dim=-1))


def test_an_edit_knows_its_request_its_model_and_what_it_comes_after(clip):
    request = cn.Forget(["dog"], ["line"])
    edit = cn.unlearn(clip, request, VOCABULARY, "ridge", prototypes=False)
    assert (edit.request, edit.method, edit.model, edit.after) == (request, "ridge", "miniclip", "")
    assert edit.fingerprint == clip.fingerprint and edit.settings["prototypes"] is False
    cells = cn.embed_vocabulary(clip, VOCABULARY, prototypes=False)
    assert edit.same(cn.solve(cells, request.mask(VOCABULARY), "ridge"))
    edited = edit.apply(clip)
    second = cn.unlearn(edited, cn.Forget(["cat"], ["line"]), VOCABULARY, "oblique", prototypes=False)
    assert second.after == history([edit]) and second.apply(edited).edits == (edit, second)
    with pytest.raises(ValueError, match="clip: .*0 edits"):
        second.apply(clip)


def test_unlearn_zeroes_what_it_was_built_from(clip, quick):
    request, texts = cn.Forget(classes=["dog"]), embed_cells(clip, VOCABULARY)
    edit = cn.unlearn(clip, request, VOCABULARY, energy=1.0, center=False)
    assert edit.rank == 4 + len(FORMS)  # texts, prototypes and forms
    assert edit.images(texts[1]).norm(dim=1).max() < 1e-5
    assert edit.images(texts[0]).norm(dim=1).min() > 0.3  # cats are still there


def test_forgetting_in_turn_reads_prototypes_through_the_edits_before(clip, quick):
    first = cn.unlearn(clip, cn.Forget(["dog"]), VOCABULARY)
    cells, plain = (cn.embed_vocabulary(model, VOCABULARY) for model in (first.apply(clip), clip))
    assert torch.equal(cells.texts, plain.texts)
    expected = F.normalize(first.images(plain.prototypes.flatten(0, 1)), dim=-1)
    torch.testing.assert_close(cells.prototypes.flatten(0, 1), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(cells.prototypes, plain.prototypes, atol=1e-2)


def test_prototypes_at_hand_are_used(clip):
    made = cell_prototypes(clip, VOCABULARY, steps=1)
    cells = cn.embed_vocabulary(clip, VOCABULARY, made)
    torch.testing.assert_close(cells.prototypes, made.embeddings.double(), atol=1e-6, rtol=0)
    some = cell_prototypes(clip, VOCABULARY, torch.tensor([[True, False]] * 3), steps=1)
    with pytest.raises(ValueError, match="prototypes: .*line"):
        cn.unlearn(clip, cn.Forget(classes=["dog"]), VOCABULARY, prototypes=some)


# --- few prototypes, domains that are alike


@pytest.mark.parametrize("shape", [(7, 4), (345, 6), (2, 3), (5, 40)])
def test_prototypes_of_a_large_vocabulary_are_few_and_balanced(shape):
    mask = from_names.chosen_cells(shape, 64)
    each = mask.sum(0)
    assert (each == each[0]).all() and each[0] >= 2 and (mask.sum() <= 64 or each[0] == 2)
    if each[0] < shape[0] and shape[1] < 10:
        assert mask.any(1).sum() >= min(shape[0], int(mask.sum())) * 0.8  # classes taken in turn


def test_a_text_is_carried_to_where_the_picture_of_its_cell_is(clip):
    names = cn.Vocabulary(("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
                          ("art_painting", "cartoon", "photo", "sketch"))  # fmt: skip
    assert are_made(clip, names)
    cells = cn.embed_vocabulary(clip, names)
    mask = from_names.chosen_cells(names.shape, 8)
    carried = from_names.carried(cells.texts, cells.prototypes, mask)
    assert torch.equal(carried[mask], cells.prototypes[mask])
    torch.testing.assert_close(carried.norm(dim=-1), torch.ones(names.shape, dtype=torch.float64))
    near, text = ((x * cells.prototypes).sum(-1)[~mask].mean() for x in (carried, cells.texts))
    assert near > 0.75 and near > text  # as far as the text alone is from it
    assert torch.equal(from_names.carried(cells.texts, cells.prototypes, torch.ones_like(mask)), cells.prototypes)


def test_domains_that_nothing_tells_apart_are_named(clip):
    twins = cn.Vocabulary(("cat", "dog", "fish"), ("photo", "photograph", "line"))
    cells = cn.embed_vocabulary(clip, twins, prototypes=False)
    with pytest.warns(UserWarning, match="is barely distinguished from") as warned:
        from_names.warn_of_alike(cells, cn.Forget(["dog"], ["photo"]).mask(twins), twins)
    assert "'photo' is barely distinguished from 'photograph'; expect to lose about 50 %" in str(warned[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for request in (cn.Forget(["dog"]), cn.Forget(domains=["line"])):  # domains do not matter, or differ
            from_names.warn_of_alike(cells, request.mask(twins), twins)


def test_the_mean_of_pictures_moves_the_middle(clip):
    request, leaning = cn.Forget(["dog"], ["line"]), 5 * embed_domains(clip, ["line"])[0]
    plain = cn.unlearn(clip, request, VOCABULARY, "gated", prototypes=False)
    moved = cn.unlearn(clip, request, VOCABULARY, "gated", prototypes=False, mean=leaning)
    assert not plain.settings["origin"] and moved.settings["origin"]
    assert plain.gate and moved.gate and not plain.gate.offset.any() and moved.gate.offset.any()
    with pytest.raises(ValueError, match=r"mean: shape \(3,\)"):
        cn.embed_vocabulary(clip, VOCABULARY, prototypes=False, mean=torch.ones(3))


# --- a strength that aims at chance


@pytest.mark.slow
def test_chance_is_aimed_at_from_names_and_reached_on_pictures(clip, images, z):
    """Among two names a picture is named by chance, where the usual strength leaves a signature."""
    request, v = cn.Forget(["dog"]), images.vocabulary
    mask, cells = request.mask(v), cn.embed_vocabulary(clip, v)
    simulator, classifiers = simulator_of(clip, v, cells), text_classifiers(clip, v)
    dogs = images.classes == v.classes.index("dog")
    for method in ("oblique", "neuron", "gated"):
        settings = {"strength": chance_strength(method, cells, mask, simulator, v, {})}
        edit = cn.solve(cells, mask, method, **settings)
        assert simulator.pairwise(edit, mask) == pytest.approx(0.5, abs=0.01)
        assert pair_forgetting(z, classifiers, images, request, edit.images) == pytest.approx(0.5, abs=0.15)
        named = classify(z[dogs], classifiers, images.domains[dogs], edit.images)
        assert (named == images.classes[dogs]).double().mean() < 0.1
    made = cn.unlearn(clip, request, v, "gated", strength="chance")
    assert made.settings["strength"] == settings["strength"]


@pytest.mark.parametrize(
    ("request_", "method", "name"),
    [
        (cn.Forget(["dog"]), "nullspace", "method.*: 'nullspace'"),
        (cn.Forget(domains=["line"]), "oblique", "strength: 'chance'"),
        (cn.Forget(["dog"]), "auto", "settings: strength"),
    ],
)
def test_chance_is_for_classes_and_methods_with_a_strength(clip, images, request_, method, name):
    with pytest.raises(ValueError, match=name):
        cn.unlearn(clip, request_, images.vocabulary, method, strength="chance")
