import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import clipnull as cn

VOCABULARY = cn.Vocabulary(("cat", "dog", "fish"), ("photo", "line"))


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 1))
def test_nullspace_theorem(seed, n, alpha):
    rows = torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))
    p = cn.Edit(*cn.nullspace(rows, energy=1.0), "nullspace").matrix()
    torch.testing.assert_close(p, p.T)
    torch.testing.assert_close(p, p @ p)
    assert (rows.double() @ p).norm() < 1e-6 * rows.norm()
    assert round(float(p.trace())) == 32 - n
    weak = cn.Edit(*cn.nullspace(rows, alpha, 1.0), "nullspace").matrix()
    torch.testing.assert_close(rows.double() @ weak, (1 - alpha) * rows.double())


def moment(x):
    return x.double().T @ x.double() / len(x)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(factors):
    return cn.Edit(*factors, "test").matrix()


def largest(p):
    return torch.linalg.matrix_norm(p, 2)


SEEDS = st.integers(0, 10**6)


@given(SEEDS, st.integers(1, 8), st.integers(1, 20))
def test_residual_leaves_every_kept_embedding_fixed(seed, n, m):
    rows, kept = noise(seed, n, 32), noise(seed + 1, m, 32)
    p = matrix(cn.residual(rows, moment(kept), tau=0.0, energy=1.0))
    torch.testing.assert_close(kept @ p, kept)
    assert round(float(p.trace())) == 32 - min(n, 32 - m)                      # and it does forget: what is left over
    outside = rows - rows @ kept.T @ torch.linalg.pinv(kept.T)
    assert (outside @ p).norm() < 1e-6 * rows.norm()


@given(SEEDS, st.integers(1, 8), st.integers(1, 20), st.floats(1e-4, 1))
def test_residual_moves_kept_embeddings_within_its_bound(seed, n, m, tau):
    rows, kept = noise(seed, n, 32), noise(seed + 1, m, 32)
    left, u = cn.residual(rows, moment(kept), tau=tau)
    s = tau * torch.linalg.inv(moment(kept) + tau * torch.eye(32))
    moved = (kept @ matrix((left, u)) - kept).norm(dim=1)
    inside = (kept @ s).norm(dim=1)
    assert (moved <= inside * largest(torch.linalg.solve(s, u)) + 1e-9).all()
    assert (inside <= (m * tau) ** 0.5 / 2 + 1e-9).all()


def test_residual_finds_nothing_in_what_is_kept():
    kept = noise(0, 5, 16)
    left, right = cn.residual(noise(1, 3, 5) @ kept, moment(kept), tau=0.0)
    assert left.shape == right.shape == (16, 0)


@given(SEEDS, st.integers(1, 6), st.integers(1, 6))
def test_ridge_tends_to_its_limits(seed, n, m):
    rows, kept = noise(seed, n, 32), noise(seed + 1, m, 32)
    none = matrix(cn.ridge(rows, moment(kept), forgetting=1e-9))
    torch.testing.assert_close(none, torch.eye(32, dtype=torch.float64), atol=1e-6, rtol=0)
    all_ = matrix(cn.ridge(rows, moment(kept), forgetting=1e9, keeping=0.0))
    torch.testing.assert_close(all_, matrix(cn.nullspace(rows, energy=1.0)), atol=1e-4, rtol=0)
    kind = matrix(cn.ridge(rows, moment(kept), forgetting=1.0, keeping=1e9))
    torch.testing.assert_close(kind @ kept.T, kept.T, atol=1e-4, rtol=0)       # scores against kept embeddings stay
    assert largest(torch.eye(32) - kind) > 1e-3                               # while something is forgotten


@given(SEEDS, st.floats(0.1, 1e4), st.floats(0, 1e4))
def test_ridge_minimises_what_it_says(seed, lam, mu):
    rows, kept = noise(seed, 3, 12), noise(seed + 1, 5, 12)

    def loss(p):
        return ((p - torch.eye(12)).square().sum() + lam * (p @ rows.T).square().sum() / 3
                + mu * (p @ kept.T - kept.T).square().sum() / 5)

    best = matrix(cn.ridge(rows, moment(kept), lam, mu))
    for i in range(5):
        assert loss(best) < loss(best + 1e-3 * noise(seed + 2 + i, 12, 12))


def random_cells(seed, c=5, k=3, d=24):
    """Nearly additive cells, as CLIP's are: class + domain + a little of both."""
    def cells(s):
        return F.normalize(noise(s, c, 1, d) + noise(s + 1, 1, k, d) + 0.3 * noise(s + 2, c, k, d), dim=-1)

    texts = cells(seed)
    return cn.Concepts(texts, F.normalize(texts + 0.3 * cells(seed + 3), dim=-1))


@st.composite
def masks(draw, c=5, k=3):
    cells = draw(st.lists(st.booleans(), min_size=c * k, max_size=c * k).filter(lambda x: any(x) and not all(x)))
    return torch.tensor(cells).view(c, k)


@given(SEEDS, masks())
def test_oblique_moves_kept_scores_within_its_bound(seed, mask):
    cells = random_cells(seed)
    edit, w, z = cn.solve(cells, mask, "oblique"), cells.readouts, noise(seed + 9, 20, 24)
    moved = (edit.transform(z) - z) @ w.T
    bound = (z @ edit.left).abs() @ (edit.right.T @ w.T).abs()
    assert (moved.abs() <= bound + 1e-9).all()
    g = w @ w.T
    cross = cells.duals @ w.T
    cross.fill_diagonal_(0)
    eye = torch.eye(len(g), dtype=torch.float64)
    assert cross.abs().max() <= 0.01 * largest(torch.linalg.inv(g + 0.01 * eye)) + 1e-9
    if not mask.all(0).any():                                    # no decoy: only forgotten classes are moved on purpose
        push = edit.right.norm(dim=0) / cells.duals.norm(dim=1).min()
        limit = (z @ edit.left).abs() @ push * cross.abs().max()
        assert (moved[:, ~mask.any(1)].abs() <= limit[:, None] + 1e-9).all()


@given(SEEDS)
def test_a_detector_is_one_on_its_cells_and_low_elsewhere(seed):
    cells = random_cells(seed)
    mask = torch.zeros(5, 3, dtype=torch.bool)
    mask[2, 1] = True
    v = cn.detector(cells, mask, [~mask], rho=1e-6)
    answers = torch.einsum("mckd,d->mck", cells.cells, v)
    assert abs(answers[:, mask].mean() - 1) < 1e-9
    assert answers[:, ~mask].square().mean() < 0.1


@given(SEEDS, masks(), st.booleans())
def test_detectors_of_many_classes_are_those_of_each(seed, mask, visual):
    cells = random_cells(seed)
    cells = cells if visual else cn.Concepts(cells.texts)
    whole = mask.all(0)
    for c in (mask & ~whole).any(1).nonzero()[:, 0]:
        alike = (mask == mask[c]).all(1).nonzero()[:, 0]
        got = cn.detectors(cells, mask, alike, rho=0.02)[alike == c][0]
        its = (torch.arange(5) == c)[:, None]
        kept_in = ~mask[c] if not mask[c].all() else ~whole
        expected = cn.detector(cells, mask & ~whole & its, [~mask & its, ~mask & kept_in], rho=0.02)
        torch.testing.assert_close(got, expected)


@given(SEEDS, masks())
def test_gated_is_the_identity_where_its_gate_is_shut(seed, mask):
    cells = random_cells(seed)
    edit, z = cn.solve(cells, mask, "gated"), noise(seed + 9, 60, 24).float()
    after = edit.transform(z)
    domain = (F.normalize(z.double(), dim=1) @ cells.domains.T).argmax(1)
    whole = mask.all(0)
    leads = z.double() @ (cells.readouts - cells.readouts.mean(0)).T > 0
    shut = ~whole[domain] & ~(leads & mask.T[domain]).any(1)
    assert torch.equal(after[shut], z[shut])
    opened = ~whole[domain] & (leads & mask.T[domain] & ~whole[domain, None]).any(1)
    assert not torch.isclose(after[opened], z[opened]).all(1).any()
    gone = after[whole[domain]]
    assert torch.equal(gone, gone[:1].expand_as(gone))           # nothing tells one picture from another


@pytest.mark.parametrize("method", sorted(cn.METHODS))
def test_moments_are_those_of_the_rows(method):
    cells, mask = random_cells(0), torch.zeros(5, 3, dtype=torch.bool)
    mask[1], mask[2, 0] = True, True
    for some in (mask, ~mask):
        torch.testing.assert_close(cells.moment(some), moment(cells.rows(some)))
    edit = cn.solve(cells, mask, method)
    assert edit.rank >= 1 and edit.method == method and edit.settings["prototypes"] is True
    assert edit.linear == (method != "gated")


def test_unions_of_requests():
    both = cn.Forget(classes=["dog"], domains=["line"]) | cn.Forget(classes=["fish"]) | cn.Forget(domains=["photo"])
    assert both.mask(VOCABULARY).tolist() == [[True, False], [True, True], [True, True]]
    assert both.paradigm == "mixed" and str(both) == "dog in line and fish everywhere and everything in photo"
    assert cn.Forget.from_dict(json.loads(json.dumps(both.as_dict()))) == both
    assert (cn.Forget(["dog"]) | cn.Forget(["cat"])).paradigm == "global"
    with pytest.raises(TypeError):
        cn.Forget(["dog"]) | "cat"


def test_forgetting_in_turn_reads_prototypes_through_the_edits_before(clip):
    first = cn.unlearn(clip, cn.Forget(["dog"]), VOCABULARY)
    after = first.apply(clip)
    cells, plain = cn.concepts(after, VOCABULARY), cn.concepts(clip, VOCABULARY)
    assert torch.equal(cells.texts, plain.texts)
    expected = F.normalize(first.transform(plain.prototypes), dim=-1)
    torch.testing.assert_close(cells.prototypes, expected, atol=1e-6, rtol=0)
    second = cn.unlearn(after, cn.Forget(["cat"]), VOCABULARY, "ridge").apply(after)
    assert len(second.edits) == 2


def test_an_edit_below_full_strength_can_be_undone():
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    u, alpha = cn.basis(rows), 0.9
    p = cn.Edit(*cn.nullspace(rows, alpha, 1.0), "nullspace").matrix()
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
    (dict(alhpa=1), "settings: 'alhpa' is not known; did you mean 'alpha'"),
    (dict(method="oblique", alpha=1), "settings: 'alpha' is not known; expected one of 'strength', 'rho'"),
    (dict(method="ridge", keeping=-1), "keeping: -1 is out of range"),
    (dict(method="residual", tau=-2), "tau: -2 is out of range"),
    (dict(method="oblique", rho=0), "rho: 0 is out of range"),
    (dict(method="gated", offset=float("inf")), "offset: inf is out of range"),
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


@pytest.mark.parametrize(("left", "right"), [(torch.zeros(4, 2), torch.zeros(4, 1)), (torch.zeros(4), torch.zeros(4)),
                                             (torch.full((4, 1), torch.nan), torch.zeros(4, 1))])
def test_bad_factors_are_refused(left, right):
    with pytest.raises(ValueError, match="left, right"):
        cn.Edit(left, right, "nullspace")
