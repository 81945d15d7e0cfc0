"""Each method keeps its theorem; all have one signature; another package can bring one."""

import inspect
import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import examples, python, random
from hypothesis import given
from hypothesis import strategies as st

import clipnull as cn
from clipnull import methods
from clipnull.evaluate import accuracy_matrix, classify, rates
from clipnull.methods.cells import Cells
from clipnull.methods.gated import spread
from clipnull.methods.nullspace import nullspace
from clipnull.methods.oblique import detector
from clipnull.methods.residual import residual
from clipnull.methods.ridge import ridge
from clipnull.prompts import text_classifiers
from clipnull.subspace import basis

SEEDS = st.integers(0, 10**6)
NAMES = list(cn.METHODS)


def noise(seed, *shape):
    return random(*shape, seed=seed, dtype=torch.float64)


def moment(x):
    return x.double().T @ x.double() / len(x)


def of_rows(rows, others):
    """Rows to forget (n, d) and rows to keep (m, d) as cells of one domain, and the mask of the former."""
    mask = torch.arange(len(rows) + len(others))[:, None] < len(rows)
    return Cells(torch.cat([rows, others])[:, None]), mask


def random_cells(seed, c=5, k=3, d=24):
    """Nearly additive cells, as CLIP's are: class + domain + a little of both."""

    def embeddings(s):
        return F.normalize(noise(s, c, 1, d) + noise(s + 1, 1, k, d) + 0.3 * noise(s + 2, c, k, d), dim=-1)

    texts = embeddings(seed)
    return Cells(texts, F.normalize(texts + 0.3 * embeddings(seed + 3), dim=-1))


def one_of_each():
    """A mask with a whole class and a cell of another."""
    mask = torch.zeros(5, 3, dtype=torch.bool)
    mask[1], mask[2, 0] = True, True
    return mask


@st.composite
def masks(draw, c=5, k=3):
    cells = draw(st.lists(st.booleans(), min_size=c * k, max_size=c * k).filter(lambda x: any(x) and not all(x)))
    return torch.tensor(cells).view(c, k)


# --- nullspace


@given(SEEDS, st.integers(1, 8), st.floats(0, 1))
def test_nullspace_theorem(seed, n, alpha):
    rows = noise(seed, n, 32)
    cells, mask = of_rows(rows, noise(seed + 1, 1, 32))
    p = nullspace(cells, mask, energy=1.0, center=False).matrix()
    torch.testing.assert_close(p, p.T)
    torch.testing.assert_close(p, p @ p)
    assert (rows @ p).norm() < 1e-6 * rows.norm()
    assert round(float(p.trace())) == 32 - n
    weak = nullspace(cells, mask, alpha=alpha, energy=1.0, center=False).matrix()
    torch.testing.assert_close(rows @ weak, (1 - alpha) * rows)


@given(SEEDS, st.integers(1, 6))
def test_nullspace_is_the_nearest_map_that_zeroes_the_rows(seed, n):
    rows = noise(seed, n, 12)
    p = nullspace(*of_rows(rows, noise(seed + 1, 1, 12)), energy=1.0, center=False).matrix()
    eye = torch.eye(12, dtype=torch.float64)
    free = eye - torch.linalg.pinv(rows) @ rows  # another map of that kind: p + free @ anything
    for i in range(3):
        other = p + 0.1 * free @ noise(seed + 2 + i, 12, 12)
        assert (rows @ other).norm() < 1e-6 * rows.norm()
        assert (other - eye).norm() > (p - eye).norm()


@given(SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_centred_rows_make_forgotten_cells_look_average(seed, n, m):
    rows, others = noise(seed, n, 32), noise(seed + 1, m, 32)
    p = nullspace(*of_rows(rows, others), energy=1.0).matrix()
    average = torch.cat([rows, others]).mean(0) @ p
    torch.testing.assert_close(rows @ p, average.expand(n, -1))


# --- residual


@given(SEEDS, st.integers(1, 8), st.integers(1, 20))
def test_residual_leaves_every_kept_embedding_fixed(seed, n, m):
    rows, others = noise(seed, n, 32), noise(seed + 1, m, 32)
    p = residual(*of_rows(rows, others), tau=0.0, energy=1.0, center=False).matrix()
    torch.testing.assert_close(others @ p, others)
    assert round(float(p.trace())) == 32 - min(n, 32 - m)  # and it does forget: what is left over
    outside = rows - rows @ others.T @ torch.linalg.pinv(others.T)
    assert (outside @ p).norm() < 1e-6 * rows.norm()


@given(SEEDS, st.integers(1, 8), st.integers(1, 20), st.floats(1e-4, 1), st.booleans())
def test_residual_moves_kept_embeddings_within_its_bound(seed, n, m, tau, center):
    rows, others = noise(seed, n, 32), noise(seed + 1, m, 32)
    edit = residual(*of_rows(rows, others), tau=tau, center=center)
    s = tau * torch.linalg.inv(moment(others) + tau * torch.eye(32))
    moved = (others @ edit.matrix() - others).norm(dim=1)
    inside = (others @ s).norm(dim=1)
    assert (moved <= inside * torch.linalg.matrix_norm(torch.linalg.solve(s, edit.right), 2) + 1e-9).all()
    assert (inside <= (m * tau) ** 0.5 / 2 + 1e-9).all()


# --- ridge


@given(SEEDS, st.integers(1, 6), st.integers(1, 6))
def test_ridge_tends_to_its_limits(seed, n, m):
    rows, others = noise(seed, n, 32), noise(seed + 1, m, 32)
    cells, mask = of_rows(rows, others)
    none = ridge(cells, mask, forgetting=1e-9, center=False).matrix()
    torch.testing.assert_close(none, torch.eye(32, dtype=torch.float64), atol=1e-6, rtol=0)
    all_ = ridge(cells, mask, forgetting=1e9, keeping=0.0, center=False).matrix()
    away = nullspace(cells, mask, energy=1.0, center=False).matrix()
    torch.testing.assert_close(all_, away, atol=1e-4, rtol=0)
    kind = ridge(cells, mask, forgetting=1.0, keeping=1e9, center=False).matrix()
    torch.testing.assert_close(kind @ others.T, others.T, atol=1e-4, rtol=0)  # scores against kept embeddings stay
    assert torch.linalg.matrix_norm(torch.eye(32) - kind, 2) > 1e-3  # while something is forgotten


@given(SEEDS, st.floats(0.1, 1e4), st.floats(0, 1e4), st.booleans())
def test_ridge_minimises_what_it_says(seed, lam, mu, center):
    rows, others = noise(seed, 3, 12), noise(seed + 1, 5, 12)
    away = rows - torch.cat([rows, others]).mean(0) if center else rows

    def loss(p):
        return (
            (p - torch.eye(12)).square().sum()
            + lam * (p @ away.T).square().sum() / 3
            + mu * (p @ others.T - others.T).square().sum() / 5
        )

    edit = ridge(*of_rows(rows, others), forgetting=lam, keeping=mu, center=center)
    assert edit.rank == 3
    for i in range(5):
        assert loss(edit.matrix()) < loss(edit.matrix() + 1e-3 * noise(seed + 2 + i, 12, 12))


@pytest.mark.parametrize("center", [True, False])
def test_many_forgotten_rows_give_what_their_formulas_say(center):
    """More rows than dimensions: computed through (d, d), in the place of (n, d)."""
    cells, mask, eye = random_cells(0), torch.ones(5, 3, dtype=torch.bool), torch.eye(24, dtype=torch.float64)
    mask[4, 2] = False
    rows, others = cells.rows(mask, center), moment(cells.rows(~mask))
    u = basis(rows @ torch.linalg.inv(others + 0.015 * eye), 0.9)
    torch.testing.assert_close(residual(cells, mask, center=center).matrix(), eye - u @ u.T)
    away = 1000 * moment(rows)
    edit = ridge(cells, mask, center=center)
    torch.testing.assert_close(edit.matrix(), eye - away @ torch.linalg.inv(eye + away + 100 * others))
    assert len(rows) == 28 and edit.rank == 24


# --- oblique


def margin_of(cells, c, row):
    """The mean margin of class c in its cells of the domains `row`; 0 where it has none."""
    return max(0.0, float((cells.pictures[c, row] @ cells.margins[c]).mean()))


@given(SEEDS, masks())
def test_oblique_moves_kept_scores_within_its_bound(seed, mask):
    cells = random_cells(seed)
    edit, w, z = cn.solve(cells, mask, "oblique"), cells.classifier, noise(seed + 9, 20, 24)
    moved = (edit.images(z) - z) @ w.T
    torch.testing.assert_close(moved, -(z @ edit.left) @ (edit.right.T @ w.T))
    if not mask.all(0).any():  # no decoy: forgotten classes lose what is read of their margin
        classes = mask.any(1).nonzero()[:, 0]
        losses = (edit.right.T @ cells.margins[classes].T).diag()
        torch.testing.assert_close(losses.tolist(), [1.15 * margin_of(cells, c, mask[c]) for c in classes.tolist()])


@given(SEEDS, st.booleans(), st.booleans())
def test_detectors_are_one_apart_on_the_cells_they_were_made_for(seed, visual, common):
    cells = random_cells(seed)
    cells = Cells(cells.texts, cells.prototypes if visual else None, None, noise(seed + 5, 7, 24) if common else None)
    x, row = cells.pictures, torch.tensor([True, False, False])
    r = cells.class_detector(2)
    assert abs(float(x[2].mean(0) @ r - x.mean((0, 1)) @ r) - 1) < 1e-9
    assert not cells.domain_detector(torch.ones(3, dtype=torch.bool)).any()
    mask = torch.arange(15).view(5, 3) == 7
    answers = torch.stack([kind @ detector(cells, mask, [~mask], rho=1e-6) for kind in cells.kinds])
    assert abs(answers[:, mask].mean() - 1) < 1e-9 and answers[:, ~mask].square().mean() < 0.1
    if not cells.domain_origin.any():
        r = cells.domain_detector(row)
        assert abs(float((x[:, row].mean((0, 1)) - x[:, ~row].mean((0, 1))) @ r) - 2) < 1e-9


@given(SEEDS)
def test_the_middle_is_a_mean_picture_only_where_it_leans(seed):
    cells = random_cells(seed)
    assert cells.domain_origin.norm() == 0 or cells.domain_lean > 0.5
    apart = 3 * cells.domain_directions[1]  # a mean that is all of one domain
    moved = Cells(cells.texts, None, None, None, apart)
    assert moved.domain_lean > 0.5 and torch.equal(moved.domain_origin, apart)
    assert abs(float(moved.domain_detector(torch.tensor([True, False, False])) @ apart)) < 1e-9
    assert Cells(cells.texts).domain_lean == 0 and not Cells(cells.texts).domain_origin.any()


# --- neuron


@given(SEEDS, masks())
def test_neuron_is_the_identity_where_its_units_are_silent_and_bounded_where_they_fire(seed, mask):
    cells = random_cells(seed)
    edit, z = cn.solve(cells, mask, "neuron"), noise(seed + 9, 60, 24).float()
    after, wide = edit.images(z), z.double()
    fire = (wide @ edit.left - edit.threshold * wide.norm(dim=1, keepdim=True)).relu()
    silent = (fire == 0).all(1)
    assert torch.equal(after[silent], z[silent]) and edit.form == "layer" and not edit.linear
    torch.testing.assert_close(after, (wide - fire @ edit.right.T).float())
    bound = ((edit.left.norm(dim=0) - edit.threshold).clamp(min=0) * edit.right.norm(dim=0)).sum() * wide.norm(dim=1)
    assert ((after - z).norm(dim=1) <= bound + 1e-5).all()


# --- gated


@given(SEEDS, masks())
def test_gated_is_the_identity_where_its_gate_is_shut(seed, mask):
    cells = random_cells(seed)
    edit, z = cn.solve(cells, mask, "gated"), noise(seed + 9, 60, 24).float()
    after = edit.images(z)
    s = cells.domain_directions
    domain = (F.normalize(z.double(), dim=1) @ s.T - s @ cells.domain_origin).argmax(1)
    whole = mask.all(0)
    ahead = z.double() @ cells.margins.T > 0  # five classes: too few to speak of a spread
    shut = ~whole[domain] & ~(ahead & mask.T[domain]).any(1)
    assert torch.equal(after[shut], z[shut])
    opened = ~whole[domain] & (ahead & mask.T[domain] & ~whole[domain, None]).any(1)
    assert not torch.isclose(after[opened], z[opened]).all(1).any()
    replaced = after[whole[domain]]
    assert torch.equal(replaced, replaced[:1].expand_as(replaced))  # all pictures become one


@given(SEEDS, st.integers(2, 40))
def test_the_spread_is_the_standard_deviation_over_names(seed, n):
    margins = noise(seed, n, 24)
    margins = margins - margins.mean(0)
    z = noise(seed + 1, 9, 24)
    torch.testing.assert_close((z @ spread(margins)).norm(dim=1), (z @ margins.T).std(1))


@pytest.mark.parametrize("visual", [True, False])
def test_gated_leaves_alone_what_does_not_stand_out(visual):
    cells, mask = random_cells(0, 9, 2, 48), torch.zeros(9, 2, dtype=torch.bool)
    cells = cells if visual else Cells(cells.texts)
    mask[3] = True
    edit, z = cn.solve(cells, mask, "gated", deviations=1.0), noise(5, 300, 48)
    margins = z @ (cells.margins if visual else cells.clear_margins).T
    out = margins[:, 3] > (1.0 if visual else 0.9) * margins.std(1)
    assert 20 < out.sum() < 100 and torch.equal((edit.images(z) != z).any(1), out)


# --- cells


@given(SEEDS, masks(), st.booleans())
def test_cells_give_rows_and_moments_of_a_mask(seed, mask, visual):
    cells = random_cells(seed)
    cells = cells if visual else Cells(cells.texts)
    assert cells.shape == (5, 3) and len(cells.kinds) == 1 + visual
    torch.testing.assert_close(cells.rows(mask), torch.cat([kind[mask] for kind in cells.kinds]))
    centred = torch.cat([kind[mask] - kind.flatten(0, 1).mean(0) for kind in cells.kinds])
    torch.testing.assert_close(cells.rows(mask, center=True), centred)
    for some in (mask, ~mask):
        torch.testing.assert_close(cells.moment(some), moment(cells.rows(some)))
        for center in (True, False):
            gone, others = cells.rows(some, center), cells.rows(~some)
            torch.testing.assert_close(cells.grams(some, center), (gone.T @ gone, others.T @ others))
    assert not cells.moment(torch.zeros_like(mask)).any()


def test_the_classifier_and_its_duals_by_their_formulas():
    cells, eye = random_cells(0), torch.eye(24, dtype=torch.float64)
    w = F.normalize(cells.texts.mean(1), dim=-1)
    x = w - w.mean(0)
    torch.testing.assert_close((cells.classifier, cells.margins), (w, x))
    for common in (None, noise(3, 4, 24), noise(3, 40, 24)):  # fewer names than dimensions, and more
        known = Cells(cells.texts, None, None, common)
        for weight, rho in ((100, 0.05), (20, 0.2)):
            y = x if common is None else torch.cat([x, (common - common.mean(0)) * (weight / len(common)) ** 0.5])
            u = torch.linalg.solve(y.T @ y + rho * eye, x.T).T
            if weight == 100:
                torch.testing.assert_close(known.duals, u / (u * x).sum(1, keepdim=True))
            else:
                torch.testing.assert_close(F.normalize(known.clear_margins), F.normalize(u))
                torch.testing.assert_close((known.clear_margins * w).sum(1), (x * w).sum(1))
    many, common = random_cells(0, 30).texts, noise(3, 4, 24)  # names weigh no more than 20
    x, y = Cells(many).margins, (common - common.mean(0)) * 5**0.5
    expected = torch.linalg.solve(20 / 30 * x.T @ x + y.T @ y + 0.2 * eye, x.T).T
    torch.testing.assert_close(F.normalize(Cells(many, None, None, common).clear_margins), F.normalize(expected))


def test_cells_are_of_one_shape_and_in_float64():
    texts = random_cells(0).texts
    torch.testing.assert_close(Cells(texts).domains, F.normalize(texts.mean(0), dim=-1))
    named = Cells(texts.float(), None, 3 * noise(7, 3, 24))
    torch.testing.assert_close(named.domains, F.normalize(noise(7, 3, 24), dim=-1))
    assert {t.dtype for t in (*named.kinds, named.domains)} == {torch.float64}
    shapes = {"texts": (4, 8), "prototypes": (2, 3, 4), "domains": (2, 3), "common": (7, 3), "mean": (3,)}
    for name, shape in shapes.items():
        with pytest.raises(ValueError, match=f"{name}: "):
            Cells(**{"texts": torch.zeros(2, 2, 4), name: torch.zeros(shape)})


def test_with_more_names_than_dimensions_a_class_goes_farther_down():
    few, many, mask = random_cells(0), random_cells(0, 120), torch.zeros(120, 3, dtype=torch.bool)
    moved = (many.duals @ many.margins.T).square().sum(1)  # 1 / leverage
    assert few.growth == 1 and many.growth == 5**0.5 and 5 < moved.mean() < 6
    mask[7], mask[9, 0] = True, True
    margins = [margin_of(many, c, mask[c]) for c in (7, 9)]
    for method, strength, grown in (("oblique", 1.15, [5**0.5, 1]), ("neuron", 1.5, [5**0.5] * 2)):
        down = (cn.solve(many, mask, method).right.T @ many.margins[[7, 9]].T).diag()
        torch.testing.assert_close(down.tolist(), [strength * g * x for g, x in zip(grown, margins, strict=True)])


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CLIPNULL_EMBEDDINGS"), reason="CLIPNULL_EMBEDDINGS names no folder")
@pytest.mark.parametrize("method", ["oblique", "neuron", "gated"])
def test_forgetting_among_few_names_holds_for_an_edit_built_on_many(method):
    """Global requests: built on 16 names or on 1,171, forgotten among the 16 and among all."""
    path = Path(os.environ["CLIPNULL_EMBEDDINGS"]) / "vitb32_style.npz"
    clip, images = cn.load(path), cn.load_images(path)
    z, names = cn.embed(clip, images), images.vocabulary
    few, classifier = cn.embed_vocabulary(clip, names), text_classifiers(clip, names)[0]
    with np.load(path, allow_pickle=False) as file:
        words = F.normalize(torch.from_numpy(file["other_texts"].astype("f4")).double(), dim=1)
    added = few.texts.mean(0) - few.texts.mean((0, 1))  # what a domain adds to a text
    more = F.normalize(words[:, None] + added, dim=-1)
    many = Cells(torch.cat([few.texts, more]), None, few.domains, few.common)
    for cells in (few, many):
        for texts in (classifier, torch.cat([classifier, words.to(classifier.dtype)])):
            before, forgotten = accuracy_matrix(classify(z, texts, images.domains), images), []
            for c in range(16):
                mask = (torch.arange(len(cells.texts)) == c)[:, None].expand(cells.shape)
                edit = cn.solve(cells, mask, method)
                after = accuracy_matrix(classify(z, texts, images.domains, edit.images), images)
                forgotten.append(rates(before, after, mask[:16])["forgetting_rate"])
            assert np.nanmean(forgotten) >= 0.99, (cells.shape, len(texts), forgotten)


@pytest.mark.parametrize(
    "mask", [torch.zeros(5, 3).bool(), torch.ones(5, 3).bool(), torch.ones(5, 3), one_of_each()[:4]]
)
def test_bad_masks_are_refused(mask):
    for call in (cn.METHODS["ridge"], cn.solve):
        with pytest.raises(ValueError, match="mask: "):
            call(random_cells(0), mask)


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_shares_no_memory_with_the_cells_it_was_made_of(name):
    cells, mask = random_cells(0), one_of_each()
    first = cn.solve(cells, mask, name)
    expected = {key: tensor.clone() for key, tensor in first.tensors().items()}
    for tensor in (first.left, first.right, *(vars(first.gate).values() if first.gate else ())):
        if tensor is not None:
            tensor.zero_()
    again = cn.solve(cells, mask, name).tensors()
    assert all(torch.equal(again[key], expected[key]) for key in expected)


@examples(20)
@given(SEEDS, masks())
def test_every_method_answers_every_mask(seed, mask):
    cells = random_cells(seed)
    for name in NAMES:
        assert torch.isfinite(cn.solve(cells, mask, name).images(noise(seed + 9, 5, 24))).all()


# --- the table, and one signature


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_one_signature(name):
    method = cn.METHODS[name]
    cells, mask, *settings = inspect.signature(method.function).parameters.values()
    assert (cells.name, mask.name) == ("cells", "mask") and method.about
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in settings) and settings
    assert method.defaults[method.strength] in method.values and list(method.values) == sorted(method.values)


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_holds_all_settings_of_its_method(name):
    cells, method = Cells(random_cells(0).texts), cn.METHODS[name]
    edit = cn.solve(cells, one_of_each(), name)
    assert type(edit) is cn.Edit and edit.same(method(cells, one_of_each())) and edit.rank >= 1
    assert (edit.method, edit.form) == (name, method.form)
    about_cells = {"prototypes": False, "origin": bool(cells.domain_origin.any()), "forms": False}
    assert edit.settings == method.defaults | about_cells
    weaker = cn.solve(cells, one_of_each(), name, **{method.strength: 0.5})
    assert weaker.settings == edit.settings | {method.strength: 0.5} and not weaker.same(edit)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(method="nulspace"), "method: 'nulspace' .*'nullspace'"),
        (dict(alpha=float("nan")), "alpha: nan"),
        (dict(method="oblique", alpha=1), "settings: 'alpha' .*'strength'"),
        (dict(method="ridge", keeping=-1), "keeping: -1"),
        (dict(method="gated", offset=float("inf")), "offset: inf"),
    ],
)
def test_bad_methods_and_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        cn.solve(random_cells(0), one_of_each(), **settings)


# --- a method of another package


def outside(cells, mask, *, share: float = 1.0):
    """The mean direction of the forgotten rows, projected away."""
    u = basis(cells.rows(mask).mean(0, keepdim=True))
    return cn.Edit(share * u, u, "whatever")


@pytest.fixture
def table(monkeypatch):
    """The table as it is where other packages bring a method, one that is broken, and one that bears a known name."""
    monkeypatch.setitem(sys.modules, "outside_package", sys.modules[__name__])
    others = {"mine": "outside_package:outside", "broken": "no_such_package:f", "ridge": "no_such_package:ridge"}
    points = {name: EntryPoint(name, value, "clipnull.methods") for name, value in others.items()}
    table = methods.Methods({name: cn.METHODS[name] for name in NAMES}, points)
    monkeypatch.setattr(methods, "METHODS", table)
    return table


def test_a_method_from_outside_is_solved_like_ours(table):
    assert list(table) == [*NAMES, "mine", "broken"]
    assert table["ridge"].function is ridge  # never in the place of ours
    cells, mask = random_cells(0), one_of_each()
    edit = cn.solve(cells, mask, "mine", share=0.5)
    assert edit.method == "mine" and edit.same(outside(cells, mask, share=0.5))
    assert edit.settings == {"share": 0.5, "prototypes": True, "origin": False, "forms": False}
    with pytest.raises(ValueError, match="settings: 'shre' .*'share'"):
        cn.solve(cells, mask, "mine", shre=1)
    with pytest.raises(ImportError, match="method: 'broken' .*no_such_package"):
        cn.solve(cells, mask, "broken")


@pytest.mark.nightly
def test_an_installed_package_brings_a_method(tmp_path):
    """It is imported when it is used, not before."""
    info = tmp_path / "brought-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clipnull.methods]\nmine = brought:mine\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import clipnull as cn; print([*cn.METHODS][-1:])"
    assert python(code, tmp_path).strip() == "['mine']"
