"""From a request to an edit of a model, from names alone."""

import functools
import inspect

import pytest
import torch
import torch.nn.functional as F

import clipnull as cn
from clipnull import unlearning
from clipnull.prompts import embed_cells, embed_domains
from clipnull.prototypes import cell_prototypes

VOCABULARY = cn.Vocabulary(("cat", "dog", "fish"), ("photo", "line"))


@pytest.fixture
def quick(monkeypatch):
    """Prototypes after two steps in place of 60, kept in the cache of the tests."""
    monkeypatch.setattr(unlearning, "cell_prototypes", functools.partial(cell_prototypes, steps=2))


def test_a_vocabulary_is_embedded_from_its_names_alone(clip):
    cells = cn.embed_vocabulary(clip, VOCABULARY, prototypes=False)
    texts = embed_cells(clip, VOCABULARY)
    assert torch.equal(cells.texts, texts.double()) and cells.prototypes is None and len(cells.kinds) == 1
    expected = F.normalize(
        (embed_domains(clip, VOCABULARY.domains) + F.normalize(texts.mean(0), dim=-1)).double(), dim=-1
    )
    torch.testing.assert_close(cells.domains, expected)


def test_unlearn_zeroes_what_it_was_built_from(clip, quick):
    request = cn.Forget(classes=["dog"])
    edit = cn.unlearn(clip, request, VOCABULARY, energy=1.0, prototypes=False, center=False)
    texts = embed_cells(clip, VOCABULARY)
    assert edit.rank == 2
    assert edit.transform(texts[1]).norm(dim=1).max() < 1e-5
    assert edit.transform(texts[0]).norm(dim=1).min() > 0.3  # cats are still there
    assert cn.unlearn(clip, request, VOCABULARY, energy=1.0, center=False).rank == 4  # both modalities


def test_centred_rows_leave_the_forgotten_cells_average(clip):
    texts = embed_cells(clip, VOCABULARY)
    edit = cn.unlearn(clip, cn.Forget(classes=["dog"]), VOCABULARY, energy=1.0, prototypes=False)
    average = edit.transform(texts.mean((0, 1))[None])
    torch.testing.assert_close(edit.transform(texts[1]), average.expand(2, -1), atol=1e-5, rtol=0)
    assert (edit.transform(texts[0]) - average).norm(dim=1).min() > 0.3


@pytest.mark.parametrize("method", cn.METHODS)
def test_an_edit_knows_its_request_and_its_model(clip, method):
    request = cn.Forget(["dog"], ["line"])
    edit = cn.unlearn(clip, request, VOCABULARY, method, prototypes=False)
    assert (edit.request, edit.method, edit.model) == (request, method, "miniclip")
    assert edit.fingerprint == clip.fingerprint and edit.settings["prototypes"] is False
    cells = cn.embed_vocabulary(clip, VOCABULARY, prototypes=False)
    assert edit.same(cn.solve(cells, request.mask(VOCABULARY), method))
    assert edit.apply(clip).edits == (edit,)


def test_forgetting_in_turn_reads_prototypes_through_the_edits_before(clip, quick):
    first = cn.unlearn(clip, cn.Forget(["dog"]), VOCABULARY)
    after = first.apply(clip)
    cells, plain = cn.embed_vocabulary(after, VOCABULARY), cn.embed_vocabulary(clip, VOCABULARY)
    assert torch.equal(cells.texts, plain.texts)
    expected = F.normalize(first.transform(plain.prototypes.flatten(0, 1)), dim=-1)
    torch.testing.assert_close(cells.prototypes.flatten(0, 1), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(cells.prototypes, plain.prototypes, atol=1e-2)
    second = cn.unlearn(after, cn.Forget(["cat"]), VOCABULARY, "ridge").apply(after)
    assert len(second.edits) == 2


def test_prototypes_are_synthesized_by_default(clip, monkeypatch):
    asked = []
    monkeypatch.setattr(unlearning, "cell_prototypes", lambda *arguments: asked.append(arguments))
    cn.unlearn(clip, cn.Forget(["dog"]), VOCABULARY)
    assert asked == [(clip, VOCABULARY)]
    assert inspect.signature(cell_prototypes).parameters["steps"].default == 60


def test_prototypes_given_are_used(clip):
    made = cell_prototypes(clip, VOCABULARY, steps=1)
    cells = cn.embed_vocabulary(clip, VOCABULARY, made)
    torch.testing.assert_close(cells.prototypes, made.embeddings.double(), atol=1e-6, rtol=0)


def test_prototypes_of_all_cells_are_needed(clip):
    some = cell_prototypes(clip, VOCABULARY, torch.tensor([[True, False]] * 3), steps=1)
    with pytest.raises(ValueError, match="prototypes: 3 cells have none"):
        cn.unlearn(clip, cn.Forget(classes=["dog"]), VOCABULARY, prototypes=some)


@pytest.mark.parametrize(
    ("request_", "settings", "message"),
    [
        (["dog"], dict(method="nulspace"), "method: 'nulspace' is not known; did you mean 'nullspace'"),
        (["dog"], dict(alhpa=1), "settings: 'alhpa' is not known; did you mean 'alpha'"),
        (["dog"], dict(method="ridge", keeping=-1), "keeping: -1 is out of range"),
        (["dgo"], dict(), "classes: 'dgo' is not known; did you mean 'dog'"),
        (["cat", "dog", "fish"], dict(), "request: all 6 cells"),
    ],
)
def test_what_is_wrong_is_told(clip, request_, settings, message):
    with pytest.raises(ValueError, match=message):
        cn.unlearn(clip, cn.Forget(request_), VOCABULARY, **{"prototypes": False} | settings)


@pytest.mark.parametrize(("request_", "method"), [(["dgo"], "ridge"), (["dog"], "rigde")])
def test_it_is_told_before_anything_is_synthesized(clip, monkeypatch, request_, method):
    monkeypatch.setattr(unlearning, "cell_prototypes", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match="is not known"):
        cn.unlearn(clip, cn.Forget(request_), VOCABULARY, method)
