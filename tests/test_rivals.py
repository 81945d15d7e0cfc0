"""Each rival does what its source says, on embeddings made up so that this can be checked."""

import pytest
import torch
import torch.nn.functional as F
from helpers import made_of_numbers, random

import clipnull as cn
from clipnull.bench import baselines as materials
from clipnull.bench import baselines as rivals
from clipnull.methods.cells import Cells
from clipnull.prototypes import Prototypes

C, K, D = 4, 2, 48


@pytest.fixture(scope="module")
def material():
    return made_of_numbers()


@pytest.fixture
def mask():
    chosen = torch.zeros(C, K, dtype=torch.bool)
    chosen[1] = True
    return chosen


def right(material, z):
    return (F.normalize(z.double(), dim=-1) @ material.cells.classifier.T).argmax(1) == material.classes


def shares(material, mask, edit):
    """The share named right of forgotten and of kept pictures."""
    inside, found = mask[material.classes, material.domains], right(material, edit.images(material.z)).double()
    return float(found[inside].mean()), float(found[~inside].mean())


def test_random_is_a_projection_of_the_rank_of_nullspace_and_only_the_seed_decides(material, mask):
    a, b, c = (rivals.random(material, mask, seed) for seed in (0, 0, 1))
    p = a.matrix()
    assert a.rank == cn.solve(material.cells, mask, "nullspace").rank and torch.allclose(p @ p, p)
    assert torch.equal(a.left, b.left) and not torch.allclose(a.left, c.left)


def test_uce_minimises_what_it_says(material, mask):
    ridge = 0.2
    a = (torch.eye(D).double() - rivals.uce(material, mask, ridge=ridge).matrix().T).neg() + torch.eye(D)
    t, anchor = material.cells.texts, material.cells.texts.mean((0, 1))
    a.requires_grad_()
    loss = (t[mask] @ a - anchor).square().sum() + (t[~mask] @ a - t[~mask]).square().sum()
    (loss + ridge * (a - torch.eye(D)).square().sum()).backward()
    assert a.grad.abs().max() < 1e-9


def test_uce_sends_texts_to_the_anchor_and_keeps_the_others(material, mask):
    t = material.cells.texts
    moved = rivals.uce(material, mask, ridge=1e-6).queries(t.flatten(0, 1)).view_as(t)
    assert (moved[mask] - t.mean((0, 1))).norm(dim=1).max() < 1e-3
    assert (moved[~mask] - t[~mask]).norm(dim=1).max() < 1e-3


def test_speed_leaves_what_it_would_move_most_exactly_where_it_was(material, mask):
    edit = rivals.speed(material, mask, energy=1.0)
    kept = material.cells.rows(~mask)
    moved = (edit.images(kept) - kept).norm(dim=1)
    assert (moved < 1e-9).sum() >= 3 and moved.max() > 1e-3, "those that hardly change without it are filtered out"
    forgotten, _ = shares(material, mask, edit)
    assert forgotten < shares(material, mask, rivals.random(material, mask, 0))[0] - 0.5


def test_double_moves_nothing_that_is_kept_and_what_goes_into_its_span(material, mask):
    edit = rivals.double(material, mask, energy=1.0, ridge=1e-9)
    kept, gone = material.cells.rows(~mask), material.cells.rows(mask)
    assert (edit.images(kept) - kept).norm(dim=1).max() < 1e-6
    moved, span = edit.images(gone), torch.linalg.qr(kept.T)[0]
    assert (
        (gone - gone @ span @ span.T).norm(dim=1).min() > 0.1 > 1e-5 > (moved - moved @ span @ span.T).norm(dim=1).max()
    )


def test_lipschitz_stops_where_synthesized_pictures_are_no_longer_named(material, mask):
    edit = rivals.lipschitz(material, mask, 0)
    x = material.noisy[0, 1, :, 0].double() @ edit.matrix()
    assert ((x @ material.cells.classifier.T).argmax(1) != 1).all()
    assert not torch.allclose(edit.matrix(), rivals.lipschitz(material, mask, 1).matrix())
    none = materials.replace(material, noisy=torch.full_like(material.noisy, torch.nan))
    assert rivals.lipschitz(none, mask, 0) is None


def test_leace_makes_the_means_equal_and_its_orthogonal_form_is_a_projection(material, mask):
    inside = mask[material.classes, material.domains]
    for make in (rivals.leace, rivals.orthogonal):
        edit = make(material, mask)
        z = edit.images(material.z.double())
        before = (material.z[inside].mean(0) - material.z[~inside].mean(0)).norm()
        assert edit.rank == 1 and (z[inside].mean(0) - z[~inside].mean(0)).norm() < 0.05 * before
    p = edit.matrix()
    assert torch.allclose(p, p.T) and torch.allclose(p @ p, p, atol=1e-9)


def test_leace_takes_a_bit_for_each_class_that_goes_or_one_for_the_name_of_a_domain(material):
    mask = torch.zeros(C, K, dtype=torch.bool)
    mask[:2] = True
    assert rivals.leace(material, mask).rank == 2
    mask[:] = False
    mask[:, 0] = True
    assert rivals.leace(material, mask).rank >= C - 1 and rivals.leace(material, mask, of="domain").rank == 1
    nowhere = materials.replace(material, domains=torch.ones_like(material.domains))
    assert rivals.leace(nowhere, mask) is None and rivals.slug(nowhere, mask) is None
    assert rivals.finetune(nowhere, mask, 0) is None


def test_slug_takes_the_smallest_step_that_is_enough(material, mask):
    edit, eye = rivals.slug(material, mask), torch.eye(D).double()
    step, inside = edit.matrix() - eye, mask[material.classes, material.domains]
    z, labels = material.z[inside].double(), material.classes[inside]
    shares = [rivals._accuracy(z @ (eye + share * step), labels, material) for share in (0.9, 1.0)]
    assert shares[0] > rivals.FORGOTTEN >= shares[1]
    domain = torch.arange(K).expand(C, K) == 0
    assert rivals._enough(mask) == rivals.FORGOTTEN and rivals._enough(domain) == 1 / C


def test_finetuning_forgets_and_keeps(material, mask):
    edit = rivals.finetune(material, mask, 0)
    forgotten, kept = shares(material, mask, edit)
    assert forgotten == 0 and kept > 0.95
    assert torch.equal(edit.left, rivals.finetune(material, mask, 0).left)


def test_every_rival_that_makes_an_edit_is_in_the_table_and_answers(material, mask):
    for name, rival in rivals.RIVALS.items():
        if rival.make:
            edit = rival.make(material, mask, 0)
            assert edit.linear and edit.left.isfinite().all(), name
            assert rival.pictures in material.kinds
        else:
            assert name in ("filter", "clean")


def test_material_of_an_edited_model_is_that_of_its_pictures(material, mask):
    edit = rivals.finetune(material, mask, 0)
    after = material.after(edit)
    assert torch.allclose(after.z, edit.images(material.z)) and torch.equal(after.cells.texts, material.cells.texts)
    v = F.normalize(edit.images(material.cells.prototypes.flatten(0, 1)), dim=-1)
    assert torch.allclose(after.cells.prototypes.flatten(0, 1), v)
    assert torch.allclose(after.noisy[0, 0, 0], edit.images(material.noisy[0, 0, 0]))
    bare = materials.Material(Cells(material.cells.texts), 40.0)
    assert bare.after(edit).z is None and bare.kinds == {"none"}


def made_up(clip, vocabulary, mask):
    """Grey pictures with noise, in the place of synthesized ones that take a second each."""
    shape, s = vocabulary.shape, clip.image_size
    pixels = (128 + 40 * random(*shape, 3, s, s)).clamp(0, 255).to(torch.uint8)
    return Prototypes(pixels, F.normalize(random(*shape, clip.width), dim=-1) * mask[..., None], mask)


def test_material_is_gathered_from_names_noise_and_labelled_pictures(clip, corner, monkeypatch):
    monkeypatch.setattr(materials, "cell_prototypes", made_up)
    monkeypatch.setattr(materials, "COPIES", 1)
    found = materials.gather(clip, corner.vocabulary, corner, seeds=2)
    assert found.kinds == {"none", "labelled", "synthesized"} and found.noisy.shape == (2, 3, 3, 2, clip.width)
    assert torch.allclose(found.z, cn.embed(clip, corner)) and torch.equal(found.classes, corner.classes)
    plain, noisy = found.noisy.unbind(3)
    assert torch.allclose(plain[0], plain[1]) and not torch.allclose(noisy[0], noisy[1]), "seeds draw other noise"


def test_material_refuses_labels_of_other_names_and_edited_models(clip, corner, images, monkeypatch):
    monkeypatch.setattr(materials, "cell_prototypes", made_up)
    monkeypatch.setattr(materials, "COPIES", 0)
    with pytest.raises(ValueError, match="labelled: pictures of .14, 6. classes and domains, with other names"):
        materials.gather(clip, corner.vocabulary, images)
    u = F.normalize(random(clip.width, 1).double(), dim=0)
    with pytest.raises(ValueError, match="clip: it carries 1 edits; expected the unedited"):
        materials.gather(cn.Edit(u, u, "by hand").apply(clip), corner.vocabulary)
    with pytest.raises(ValueError, match="seeds: 0"):
        materials.gather(clip, corner.vocabulary, seeds=0)
