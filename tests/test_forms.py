"""A class in all its forms: "dogs" and "two dogs" go down with "dog", and kept classes stay in theirs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import clipnull as cn
from clipnull.methods.cells import FORM_REACH, Cells
from clipnull.prompts import embed_forms
from clipnull.vocabulary import FORMS, plural

HELD_OUT = ("a picture of {p}", "three {p}", "several {p} here", "look at the {p}", "photos of {p}", "what a nice {n}")
"""Forms that build no edit."""


def test_forms_are_of_all_names_and_leave_other_classes_theirs():
    names = cn.Vocabulary({"glass": ["glass", "tumbler"], "glasses": ["glasses"]}, ["photo"])
    tumblers = ("tumbler", "the tumbler", "tumblers", "the tumblers", "two tumblers", "many tumblers")
    assert names.forms_of("Glass") == ("glass", "the glass", *tumblers)
    plain = cn.Vocabulary(["cat", "dog"], ["photo"], forms=None)
    assert plain.forms_of("dog") == () and plain == cn.Vocabulary(["cat", "dog"], ["photo"])  # in what is measured
    with pytest.raises(ValueError, match="forms: 'de' is unknown"):
        cn.Vocabulary(["Hund", "Katze"], ["Foto"], forms="de")


@given(st.text(min_size=1, max_size=20).filter(str.strip))
def test_any_name_has_a_plural(name):
    assert plural(name).strip()


def test_texts_of_forms(clip):
    names = cn.Vocabulary({"dog": ["dog", "hound"], "犬": ["犬"], "cat": ["cat"]}, ["photo"])
    texts = embed_forms(clip, names)
    assert texts is not None and texts.shape == (3, 2 * len(FORMS), clip.width)
    torch.testing.assert_close(texts[2, : len(FORMS)], texts[2, len(FORMS) :])  # in turn, as often as the others
    assert embed_forms(clip, cn.Vocabulary(names.classes, ["photo"], forms=None)) is None


def test_each_form_goes_down_and_others_stay():
    texts, forms, row = torch.randn(5, 2, 96).double(), torch.randn(5, 3, 96).double(), torch.tensor([True, True])
    cells = Cells(F.normalize(texts, dim=-1), forms=F.normalize(forms, dim=-1))
    m = cells.form_margins
    assert m.shape == (5, 4, 96) and torch.equal(m[:, 0], cells.margins)
    moved = torch.einsum("cd,jfd->cjf", cells.duals, m)
    torch.testing.assert_close(moved[range(5), range(5)].mean(1), torch.ones(5).double())
    others = moved[~torch.eye(5, dtype=torch.bool)] + 1 / 4  # margins are over the mean, which goes down along
    assert others.abs().mean() < 0.05 and moved[range(5), range(5)].min() > 0.8
    margins = (cells.texts[1] @ m[1].T).mean(0).clamp(min=0)
    everywhere = torch.full((4,), FORM_REACH) * margins.max()
    for where, wanted in ((row, everywhere), (~row | row.cumsum(0).eq(1), None)):
        down = m[1] @ cells.push(1, where)
        wanted = (cells.texts[1, where] @ m[1].T).mean(0).clamp(min=0) if wanted is None else wanted.double()
        torch.testing.assert_close((down * wanted).sum(), wanted.square().sum())
        assert F.cosine_similarity(down, wanted, dim=0) > 0.95


def test_a_gate_takes_away_what_the_form_that_fits_best_reads(clip, tmp_path):
    names = cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    cells = cn.embed_vocabulary(clip, names, prototypes=False)
    edit = cn.solve(cells, cn.Forget(["dog"]).mask(names), "gated", strength=1.0)
    z = cells.texts.flatten(0, 1)
    changed, reads = edit.images(z) - z, (z @ cells.form_margins[1].T).amax(1)
    fires = changed.abs().amax(1) > 0
    assert fires.tolist() == [False, False, True, True, False, False]
    torch.testing.assert_close(changed[fires], -reads[fires, None] * cells.duals[1])
    again = cn.Edit.load(edit.save(tmp_path / "edit.safetensors"))
    assert again.same(edit) and again.gate is not None and again.gate.forms is not None
    torch.testing.assert_close(again.images(z), edit.images(z), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "method, as_is",
    [("gated", 0.02), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("oblique", 0.05), ("neuron", 0.04)))],
)
def test_a_word_is_forgotten_in_forms_that_nobody_listed(clip, images, z, method, as_is):
    """The share of what six forms found that they still find, mean over the 14 classes; as_is: more, without forms."""
    v, z = images.vocabulary, F.normalize(z.double(), dim=-1)
    texts = [[t.replace("{n}", c).replace("{p}", plural(c)) for c in v.classes] for t in HELD_OUT]
    classifiers = torch.stack([clip.embed_texts(form) for form in texts]).double()
    shares = []
    for vocabulary in (v, v.with_forms(None)):
        cells, after, before = cn.embed_vocabulary(clip, vocabulary), 0, 0
        for c, name in enumerate(v.classes):
            pictures = z[images.classes == c]
            edited = cn.solve(cells, cn.Forget([name]).mask(v), method).images(pictures)
            before += ((pictures @ classifiers.mT).argmax(-1) == c).double().mean()
            after += ((edited @ classifiers.mT).argmax(-1) == c).double().mean()
        shares.append(float(after / before))
    assert shares[0] <= 0.02 and as_is < shares[1]
