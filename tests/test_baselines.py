"""Each baseline does what its source says, on embeddings made up so that this can be checked."""

import pytest
import torch
import torch.nn.functional as F
from helpers import grey_prototypes, noisy_cells, random

import clipnull as cn
from clipnull.bench import baselines
from clipnull.bench.comparison import edit_of
from clipnull.methods.cells import Cells

C, K, D = 4, 2, 48


@pytest.fixture
def mask():
    chosen = torch.zeros(C, K, dtype=torch.bool)
    chosen[1] = True
    return chosen


def named(data, z):
    return (z.double() @ data.cells.classifier.T).argmax(1)


def shares(data, mask, edit):
    """The share named right of forgotten and of kept pictures."""
    right = (named(data, edit.images(data.z)) == data.classes).double()
    return float(right[data.inside(mask)].mean()), float(right[~data.inside(mask)].mean())


def test_random_is_a_projection_of_the_rank_of_nullspace_and_only_the_seed_decides(data, mask):
    a, b, c = (baselines.random(data, mask, seed) for seed in (0, 0, 1))
    p = a.matrix()
    assert a.rank == cn.solve(data.cells, mask, "nullspace").rank and torch.allclose(p @ p, p)
    assert torch.equal(a.left, b.left) and not torch.allclose(a.left, c.left)


def test_uce_minimises_what_it_says(data, mask):
    ridge = 0.2
    a = (torch.eye(D).double() - baselines.uce(data, mask, ridge=ridge).matrix().T).neg() + torch.eye(D)
    t, anchor = data.cells.texts, data.cells.texts.mean((0, 1))
    a.requires_grad_()
    loss = (t[mask] @ a - anchor).square().sum() + (t[~mask] @ a - t[~mask]).square().sum()
    (loss + ridge * (a - torch.eye(D)).square().sum()).backward()
    assert a.grad.abs().max() < 1e-9


def test_speed_leaves_what_it_would_move_most_exactly_where_it_was(data, mask):
    edit = baselines.speed(data, mask, energy=1.0)
    kept = data.cells.rows(~mask)
    moved = (edit.images(kept) - kept).norm(dim=1)
    assert (moved < 1e-9).sum() >= 3 and moved.max() > 1e-3, "those that hardly change without it are filtered out"
    forgotten, _ = shares(data, mask, edit)
    assert forgotten < shares(data, mask, baselines.random(data, mask, 0))[0] - 0.5


def test_double_moves_nothing_that_is_kept_and_what_goes_into_its_span(data, mask):
    edit = baselines.double(data, mask, energy=1.0, ridge=1e-9)
    kept, gone = data.cells.rows(~mask), data.cells.rows(mask)
    assert (edit.images(kept) - kept).norm(dim=1).max() < 1e-6
    moved, span = edit.images(gone), torch.linalg.qr(kept.T)[0]
    before, after = ((rows - rows @ span @ span.T).norm(dim=1) for rows in (gone, moved))
    assert before.min() > 0.1 and after.max() < 1e-5


def test_wring_keeps_the_length_and_what_lies_outside_its_span(data, mask):
    edit, z = baselines.wring(data, mask), data.z.double()
    u, moved = edit.left, edit.images(data.z.double())
    assert torch.allclose(moved.norm(dim=1), z.norm(dim=1)) and torch.allclose(edit.onto.norm(), z.new_ones(()))
    assert torch.allclose(moved - moved @ u @ u.T, z - z @ u @ u.T, atol=1e-9)
    assert torch.allclose(moved @ edit.onto, (z @ u).norm(dim=1)), "all of the part in the span lies along w"
    assert edit.images(data.z).dtype == data.z.dtype and edit.tensors().keys() == {"left", "onto"}
    assert shares(data, mask, edit)[0] < 0.1
    with pytest.raises(ValueError, match="a rotation only works on embeddings"):
        edit.apply(None)


def test_pour_leaves_of_a_simplex_a_simplex(mask):
    simplex = torch.eye(C, D).double()[:, None].expand(C, K, D)
    edit = baselines.pour(baselines.TrainingData(Cells(simplex), 1.0), mask)
    centred = simplex[:, 0] - simplex.mean((0, 1))
    kept = F.normalize(edit.images(centred)[~mask.any(1)], dim=1)
    cosines = (kept @ kept.T)[~torch.eye(C - 1, dtype=torch.bool)]
    assert edit.rank == 1 and torch.allclose(cosines, torch.tensor(-1 / (C - 2)).double())
    one_cell = mask & (torch.arange(K) == 0)
    assert baselines.pour(baselines.TrainingData(Cells(simplex), 1.0), one_cell).rank == 1


def test_calibration_minimises_what_it_says_before_it_projects(data, mask):
    t = data.cells.texts
    edit = baselines.calibration(data, mask, strength=3.0)
    assert edit.queries(t[~mask]).matmul(t[mask].T).abs().max() < 1e-9, "nothing is left along the forgotten texts"
    difference = t[mask] - t[~mask].mean(0)
    p = torch.linalg.inv(torch.eye(D) + 3 * difference.T @ difference / len(difference)).requires_grad_()
    away = torch.eye(D).double() - torch.linalg.pinv(t[mask]) @ t[mask]
    assert torch.allclose(edit.matrix(), away @ p.detach(), atol=1e-8)
    loss = (p - torch.eye(D)).square().sum() + 3 * (difference @ p.T).square().sum() / len(difference)
    loss.backward()
    assert p.grad.abs().max() < 1e-8


def test_lipschitz_stops_where_synthesized_pictures_are_no_longer_named(data, mask):
    edit = baselines.lipschitz(data, mask, 0)
    x = data.noisy[0, 1, :, 0].double() @ edit.matrix()
    assert ((x @ data.cells.classifier.T).argmax(1) != 1).all()
    assert not torch.allclose(edit.matrix(), baselines.lipschitz(data, mask, 1).matrix())
    none = baselines.replace(data, noisy=torch.full_like(data.noisy, torch.nan))
    assert baselines.lipschitz(none, mask, 0) is None


def test_leace_makes_the_means_equal_and_its_orthogonal_form_is_a_projection(data, mask):
    inside = mask[data.classes, data.domains]
    for name in ("leace", "orthogonal"):
        edit = baselines.BASELINES[name].make(data, mask, 0)
        z = edit.images(data.z.double())
        before = (data.z[inside].mean(0) - data.z[~inside].mean(0)).norm()
        assert edit.rank == 1 and (z[inside].mean(0) - z[~inside].mean(0)).norm() < 0.05 * before
    p = edit.matrix()
    assert torch.allclose(p, p.T) and torch.allclose(p @ p, p, atol=1e-9)


def test_leace_takes_a_bit_for_each_class_that_goes_and_none_has_an_answer_without_pictures(data):
    two, domain = torch.arange(C)[:, None].expand(C, K) < 2, torch.arange(K).expand(C, K) == 0
    assert baselines.leace(data, two).rank == 2 and baselines.leace(data, domain).rank >= C - 1
    nowhere = baselines.replace(data, domains=torch.ones_like(data.domains))
    assert all(edit_of(name, nowhere, domain) is None for name in ("leace", "slug", "finetune"))


def test_slug_takes_the_smallest_step_that_is_enough(data, mask):
    edit, eye = baselines.slug(data, mask), torch.eye(D).double()
    step, inside = edit.matrix() - eye, mask[data.classes, data.domains]
    z, labels = data.z[inside].double(), data.classes[inside]
    shares = [(named(data, z @ (eye + share * step)) == labels).double().mean() for share in (0.9, 1.0)]
    assert shares[0] > baselines.FORGOTTEN >= shares[1]


def test_finetuning_forgets_and_keeps(data, mask):
    edit = baselines.finetune(data, mask, 0)
    forgotten, kept = shares(data, mask, edit)
    assert forgotten == 0 and kept > 0.95
    assert torch.equal(edit.left, baselines.finetune(data, mask, 0).left)


def test_training_data_of_an_edited_model_is_that_of_its_pictures(data, mask):
    edit = baselines.finetune(data, mask, 0)
    after = data.after(edit)
    assert torch.allclose(after.z, edit.images(data.z)) and torch.equal(after.cells.texts, data.cells.texts)
    v = F.normalize(edit.images(data.cells.prototypes.flatten(0, 1)), dim=-1)
    assert torch.allclose(after.cells.prototypes.flatten(0, 1), v)
    assert torch.allclose(after.noisy[0, 0, 0], edit.images(data.noisy[0, 0, 0]))
    bare = baselines.TrainingData(Cells(data.cells.texts), 40.0)
    assert not len(bare.after(edit).z) and bare.kinds == {"none"}


def test_training_data_are_gathered_from_names_noise_and_labelled_pictures(clip, corner, images, monkeypatch):
    monkeypatch.setattr(baselines, "cell_prototypes", grey_prototypes)
    monkeypatch.setattr(baselines, "embed_vocabulary", noisy_cells)
    monkeypatch.setattr(baselines, "COPIES", 1)
    data = baselines.gather(clip, corner.vocabulary, corner, seeds=2)
    assert data.kinds == {"none", "labelled", "synthesized"} and data.noisy.shape == (2, 3, 3, 2, clip.width)
    assert torch.allclose(data.z, cn.embed(clip, corner)) and torch.equal(data.classes, corner.classes)
    plain, noisy = data.noisy.unbind(3)
    assert torch.allclose(plain[0], plain[1]) and not torch.allclose(noisy[0], noisy[1]), "seeds draw other noise"
    with pytest.raises(ValueError, match="labelled: its .14, 6. class and domain names differ"):
        baselines.gather(clip, corner.vocabulary, images)
    u = F.normalize(random(clip.width, 1).double(), dim=0)
    with pytest.raises(ValueError, match="clip: it carries 1 edits"):
        baselines.gather(cn.Edit(u, u, "by hand").apply(clip), corner.vocabulary)
