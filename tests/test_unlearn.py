import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clipnull as cn

VOCABULARY = cn.Vocabulary(("cat", "dog", "fish"), ("photo", "line"))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 1))
def test_nullspace_theorem(seed, n, alpha):
    rows = torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))
    p = cn.Edit(*cn.nullspace(rows), "nullspace").matrix()
    torch.testing.assert_close(p, p.T)
    torch.testing.assert_close(p, p @ p)
    assert (rows.double() @ p).norm() < 1e-6 * rows.norm()
    assert round(float(p.trace())) == 32 - n
    weak = cn.Edit(*cn.nullspace(rows, alpha), "nullspace").matrix()
    torch.testing.assert_close(rows.double() @ weak, (1 - alpha) * rows.double())


def test_an_edit_below_full_strength_can_be_undone():
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    u, alpha = cn.basis(rows), 0.9
    p = cn.Edit(*cn.nullspace(rows, alpha), "nullspace").matrix()
    inverse = torch.eye(16, dtype=torch.float64) + alpha / (1 - alpha) * u @ u.T
    torch.testing.assert_close(p @ inverse, torch.eye(16, dtype=torch.float64))


def test_masks_of_the_three_paradigms():
    t, f = True, False
    cases = {cn.Forget(classes=["dog"]): ("global", [[f, f], [t, t], [f, f]]),
             cn.Forget(classes=["dog"], domains=["line"]): ("selective", [[f, f], [f, t], [f, f]]),
             cn.Forget(domains=["line"]): ("complete", [[f, t], [f, t], [f, t]])}
    for request, (paradigm, mask) in cases.items():
        assert request.paradigm == paradigm
        assert request.mask(VOCABULARY).tolist() == mask
    assert str(cn.Forget(classes=["dog"], domains=["line"])) == "dog in line"


@pytest.mark.parametrize(("request_", "message"), [
    (dict(), "neither is given"),
    (dict(classes=[]), "classes: the list is empty"),
    (dict(classes="dog"), r"classes: 'dog' is not a list of names; expected for example \['dog'\]"),
    (dict(classes=["dog", "dog"]), "classes: 'dog' given twice"),
    (dict(classes=["dgo"]), "classes: 'dgo' is not known; did you mean 'dog'"),
    (dict(classes=["Dog"]), "did you mean 'dog'"),
    (dict(domains=["lines"]), "domains: 'lines' is not known; did you mean 'line'"),
    (dict(classes=["cat", "dog", "fish"]), "all 6 cells"),
    (dict(domains=["photo", "line"]), "all 6 cells"),
])
def test_bad_requests_are_refused(request_, message):
    with pytest.raises(ValueError, match=message):
        cn.Forget(**request_).mask(VOCABULARY)


@pytest.mark.parametrize(("settings_", "message"), [
    (dict(method="nulspace"), "method: 'nulspace' is not known; did you mean 'nullspace'"),
    (dict(alpha=1.1), r"alpha: 1.1 is out of range; expected a number in \[0, 1\]"),
    (dict(alpha=-0.1), "alpha"),
    (dict(alpha=float("nan")), "alpha"),
    (dict(alpha="1"), "alpha"),
])
def test_bad_settings_are_refused(clip, settings_, message):
    with pytest.raises(ValueError, match=message):
        cn.unlearn(clip, cn.Forget(classes=["dog"]), VOCABULARY, prototypes=False, **settings_)


def test_unlearn_zeroes_what_it_was_built_from(clip):
    request = cn.Forget(classes=["dog"])
    edit = cn.unlearn(clip, request, VOCABULARY, energy=1.0, prototypes=False, center=False)
    texts = cn.embed_cells(clip, VOCABULARY)
    assert edit.rank == 2
    assert edit.transform(texts[1]).norm(dim=1).max() < 1e-5
    assert edit.transform(texts[0]).norm(dim=1).min() > 0.3          # cats are still there
    assert cn.unlearn(clip, request, VOCABULARY, energy=1.0, center=False).rank == 4   # both modalities


def test_centred_rows_leave_the_forgotten_cells_average(clip):
    texts = cn.embed_cells(clip, VOCABULARY)
    edit = cn.unlearn(clip, cn.Forget(classes=["dog"]), VOCABULARY, energy=1.0, prototypes=False)
    average = edit.transform(texts.mean((0, 1))[None])
    torch.testing.assert_close(edit.transform(texts[1]), average.expand(2, -1), atol=1e-5, rtol=0)
    assert (edit.transform(texts[0]) - average).norm(dim=1).min() > 0.3


def test_prototypes_of_all_cells_are_needed(clip):
    some = cn.cell_prototypes(clip, VOCABULARY, torch.tensor([[True, False]] * 3), steps=1)
    with pytest.raises(ValueError, match="prototypes: 3 cells have none"):
        cn.unlearn(clip, cn.Forget(classes=["dog"]), VOCABULARY, prototypes=some)


def test_apply_leaves_the_given_model_untouched_and_shares_its_weights(clip):
    edit = cn.unlearn(clip, cn.Forget(classes=["dog"]), VOCABULARY, energy=1.0, prototypes=False)
    pixels = torch.randn(2, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(0))
    z, fingerprint = clip.embed_pixels(pixels), clip.fingerprint
    after = edit.apply(clip)
    torch.testing.assert_close(after.embed_pixels(pixels), edit.transform(z), atol=1e-4, rtol=1e-4)
    assert torch.equal(clip.embed_pixels(pixels), z)
    assert cn.Clip.fingerprint.func(clip) == fingerprint != after.fingerprint
    shared = {p.data_ptr() for p in clip.model.parameters()} & {p.data_ptr() for p in after.model.parameters()}
    assert len(shared) == len(list(clip.model.parameters())) - 1
    assert after.edits == (edit,) and clip.edits == ()


def test_an_edit_fits_only_the_model_it_was_made_for(clip):
    edit = cn.unlearn(clip, cn.Forget(classes=["dog"]), VOCABULARY, energy=1.0, prototypes=False)
    with pytest.raises(ValueError, match="fingerprint"):
        edit.apply(edit.apply(clip))
    narrow = cn.Edit(torch.zeros(8, 1), torch.zeros(8, 1), "nullspace")
    with pytest.raises(ValueError, match="wide"):
        narrow.apply(clip)


@pytest.mark.parametrize(("left", "right"), [(torch.zeros(4, 2), torch.zeros(4, 1)), (torch.zeros(4), torch.zeros(4)),
                                             (torch.full((4, 1), torch.nan), torch.zeros(4, 1))])
def test_bad_factors_are_refused(left, right):
    with pytest.raises(ValueError, match="left, right"):
        cn.Edit(left, right, "nullspace")
