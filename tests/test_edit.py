"""What an edit promises: exact, removable, refused where it does not fit."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import BARE, COCA, RESNET, SIGLIP, VIT, gated, pixels, plain, random
from hypothesis import given
from hypothesis import strategies as st

from clipnull.edit import Edit, history
from clipnull.shapes import LARGEST

seeds = st.integers(0, 10**6)


@given(seeds, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_a_gate_leaves_what_it_is_not_open_for_bit_identical(seed, dtype):
    edit, z = gated(16, seed), random(40, 16, seed=seed + 9).to(dtype)
    z[0] = -0.0
    k = (F.normalize(z.double(), dim=-1) @ edit.gate.domains.T).argmax(1)
    out = edit.images(z)
    closed = ~edit.gate.open.any(1)[k] & ~edit.gate.replaced[k]
    assert torch.equal(out[closed].view(torch.uint8), z[closed].view(torch.uint8))
    assert (out[edit.gate.replaced[k]] == edit.gate.average.to(dtype)).all()
    read = (z.double() @ edit.left).relu() * edit.gate.open[k]
    acts = edit.gate.open.any(1)[k] & ~edit.gate.replaced[k]
    torch.testing.assert_close(out[acts], (z.double() - read @ edit.right.T).to(dtype)[acts])


@given(seeds, st.sampled_from(["gate", "spread", "threshold"]), st.sampled_from([torch.float64, torch.float16]))
def test_the_rows_that_an_edit_touches_are_those_that_its_layer_changes(seed, form, dtype):
    """What is computed for some rows alone, for an index, is what a tower computes for all."""
    edit = plain(16, seed) if form == "threshold" else gated(16, seed)
    if form == "threshold":
        edit = replace(edit, threshold=torch.full((edit.rank,), 0.2).double())
    elif form == "spread":
        edit = replace(edit, gate=replace(edit.gate, spread=0.5 * random(16, 3, seed=seed + 7).double()))
    z, layer = random(60, 16, seed=seed + 9).to(dtype), edit.layer(torch.float64)
    z[0], z[1], z[2, 3], z[3] = 0.0, -0.0, torch.nan, torch.inf
    expected = layer(z)
    index, rows = layer.touched(z)
    lengths = layer.touched(z, z.double().norm(dim=1))
    assert torch.equal(index, lengths[0])
    torch.testing.assert_close(rows, lengths[1], equal_nan=True)
    untouched = torch.ones(60, dtype=torch.bool).index_fill(0, index, False)
    assert torch.equal(expected[untouched].view(torch.uint8), z[untouched].view(torch.uint8))
    torch.testing.assert_close(rows, expected[index], equal_nan=True)
    assert 0 < len(index) < 60 and len(index.unique()) == len(index)


@given(seeds, st.integers(1, 5))
def test_a_linear_edit_is_its_matrix(seed, n):
    edit, z = plain(16, seed, bias=random(16, seed=seed + 1).double()), random(n, 16, seed=seed + 2).double()
    torch.testing.assert_close(edit.images(z), z @ edit.matrix() + edit.bias)


@given(seeds, st.integers(1, 5), st.sampled_from([torch.float64, torch.float32, torch.float16]))
def test_a_query_is_edited_in_place_of_the_pictures(seed, n, dtype):
    edit, z, t = plain(16, seed), random(n, 16, seed=seed + 2).to(dtype), random(4, 16, seed=seed + 3).to(dtype)
    moved = edit.queries(t)
    scale = 1 + edit.left.norm() * edit.right.norm()
    rounding = 20 * torch.finfo(dtype).eps * z.double().norm(dim=1)[:, None] * t.double().norm(dim=1) * scale
    assert ((edit.images(z).double() @ t.double().T - z.double() @ moved.double().T).abs() <= rounding).all()
    torch.testing.assert_close(edit.queries(t[0]), moved[0])


@given(seeds, st.floats(0.01, 1.0))
def test_only_the_length_of_pictures_differs_between_the_two_sides(seed, size):
    """The bound in the docstring of `images`."""
    edit, z = plain(16, seed), F.normalize(random(30, 16, seed=seed + 2).double(), dim=1)
    edit = replace(edit, left=size * edit.left)
    t = random(16, seed=seed + 3).double()
    moved, scores = edit.images(z), z @ edit.queries(t)
    lengths, m = moved.norm(dim=1), (moved - z).norm(dim=1)
    assert ((lengths >= 1 - m - 1e-9) & (lengths <= 1 + m + 1e-9)).all()
    torch.testing.assert_close(F.normalize(moved, dim=1) @ t, scores / lengths)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2"])
def test_arrays_of_numpy_are_edited_as_tensors_are(dtype, tmp_path):
    z = random(9, 16).numpy().astype(dtype)
    np.save(tmp_path / "z.npy", z)
    for edit in (plain(16), gated(16)):
        expected = edit.images(torch.from_numpy(z.astype(dtype.replace(">", "<"))))
        for array in (z, np.load(tmp_path / "z.npy", mmap_mode="r"), z[::-1][::-1]):
            edited = edit.images(array)
            assert isinstance(edited, np.ndarray) and edited.dtype == z.dtype.newbyteorder("=")
            np.testing.assert_array_equal(edited, expected.numpy())
    with pytest.raises(ValueError, match="z: torch.int.* expected floats"):
        plain(16).images(np.ones((2, 16), int))


def test_a_query_cannot_carry_what_depends_on_the_picture():
    linear, t = plain(16), torch.zeros(2, 16)
    layer = replace(linear, threshold=torch.ones(linear.rank).double())
    for edit in (gated(16), layer, replace(linear, bias=torch.ones(16).double())):
        with pytest.raises(ValueError, match="edit: "):
            edit.queries(t)
    with pytest.raises(ValueError, match=r"t: .*shape \(2, 15\)"):
        linear.queries(torch.zeros(2, 15))


def test_a_sequence_of_edits_is_exact_and_its_order_is_named(small, tmp_path):
    clip = small(VIT)
    x, edits = pixels(clip, 2), [(plain, gated, plain, plain)[seed % 4](clip.width, seed) for seed in range(12)]
    after, expected = clip, clip.embed_pixels(x)
    for edit in edits:
        after, expected = edit.apply(after), edit.images(expected)
    torch.testing.assert_close(after.embed_pixels(x), expected, atol=1e-3, rtol=1e-3)
    assert after.model.state_dict().keys() == clip.model.state_dict().keys() and after.base is clip
    again = Edit.load(edits[0].save(tmp_path / "first.safetensors")).remove(after)  # found by what it does
    assert again.edits == tuple(edits[1:])
    with pytest.raises(ValueError, match="clip: .*not among"):
        edits[0].remove(again)
    a, b = edits[:2]
    histories = [history(edits) for edits in ([], [a], [b], [a, b], [b, a], [a, a])]
    assert histories[0] == "" and len(set(histories)) == 6 and history([replace(a, method="other")]) == histories[1]


NIGHTLY_HALF = [pytest.param(config, "fp16", marks=pytest.mark.nightly) for config in (RESNET, BARE, SIGLIP)]


@pytest.mark.parametrize(("config", "precision"), [(VIT, "fp16"), (VIT, "pure_bf16"), *NIGHTLY_HALF])
def test_half_precision(small, config, precision):
    clip = small(config, precision)
    x = pixels(clip)
    z = clip.embed_pixels(x)
    for edit in (plain(clip.width), gated(clip.width)):
        after = edit.apply(clip)
        assert after.weights.dtype == clip.weights.dtype != torch.float32
        expected = F.normalize(edit.images(z), dim=-1)
        torch.testing.assert_close(F.normalize(after.embed_pixels(x), dim=-1), expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("config", [BARE, COCA, RESNET, pytest.param(SIGLIP, marks=pytest.mark.slow)])
def test_towers_of_other_kinds(small, config):
    clip = small(config)
    x, texts = pixels(clip), ["a dog", "a house"]
    z = clip.embed_pixels(x)
    for edit in (plain(clip.width), gated(clip.width)):
        after = edit.apply(clip)
        torch.testing.assert_close(after.embed_pixels(x), edit.images(z), atol=1e-5, rtol=1e-4)
        if config is COCA:
            assert torch.equal(after.model._encode_image(x)[1], clip.model._encode_image(x)[1])  # the tokens stay
        assert torch.equal(after.embed_texts(texts), clip.embed_texts(texts))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["model", "visual"])
def test_compiled_models(small, part):
    clip = small(VIT)
    model, x = copy.deepcopy(clip.model), pixels(clip)
    if part == "model":
        model = torch.compile(model, backend="eager")
    else:
        model.visual = torch.compile(model.visual, backend="eager")
    compiled = replace(clip, model=model)
    assert compiled.fingerprint == clip.fingerprint
    for make in (plain, gated):
        edit = make(clip.width, fingerprint=clip.fingerprint)
        expected = edit.images(clip.embed_pixels(x))
        torch.testing.assert_close(edit.apply(compiled).embed_pixels(x), expected, atol=1e-5, rtol=1e-4)
        after = edit.apply(clip)
        after.model.visual = torch.compile(after.model.visual, backend="eager")  # and the other way round
        torch.testing.assert_close(after.embed_pixels(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [plain, gated])
def test_models_on_cuda(small, make):
    clip = small(VIT)
    clip = replace(clip, model=copy.deepcopy(clip.model).cuda())
    edit, x = make(clip.width), pixels(clip)
    z, after = clip.embed_pixels(x), edit.apply(clip)
    torch.testing.assert_close(after.embed_pixels(x), edit.images(z), atol=1e-4, rtol=1e-3)
    assert edit.images(z.cuda()).is_cuda


def test_a_bias_without_a_place_runs_behind_the_tower(small):
    clip = small(VIT)
    edit, x = plain(clip.width, bias=random(clip.width).double()), pixels(clip)
    expected = edit.images(clip.embed_pixels(x))
    torch.testing.assert_close(edit.apply(clip).embed_pixels(x), expected, atol=1e-5, rtol=1e-4)


# --- what does not fit


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("open", torch.ones(4, 4, dtype=torch.bool)),
        ("replaced", torch.zeros(5)),
        ("average", torch.full((16,), 2 * LARGEST)),
        ("offset", torch.full((5,), math.nan)),
        ("spread", torch.zeros(15, 2)),
        ("domains", torch.zeros(5, 16)),
    ],
)
def test_bad_gates_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        replace(gated(16).gate, **{field: value})


FOUR = torch.zeros(4, 1)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Edit(torch.zeros(4, 2), FOUR, "x"), "right"),
        (lambda: Edit(torch.zeros(4), torch.zeros(4), "x"), "left"),
        (lambda: Edit(FOUR + torch.nan, FOUR, "x"), "left"),
        (lambda: Edit(FOUR.int(), FOUR.int(), "x"), "left"),
        (lambda: Edit(FOUR, FOUR.double(), "x"), "right"),
        (lambda: Edit(FOUR[:0], FOUR[:0], "x"), "left"),
        (lambda: plain(16, bias=torch.zeros(15)), "bias"),
        (lambda: replace(gated(16), threshold=torch.zeros(4)), "gate, threshold"),
        (lambda: replace(plain(16), gate=gated(16).gate), "open: .* as in left"),
        (lambda: gated(16).matrix(), "edit"),
        (lambda: plain(16).images(torch.zeros(2, 15)), r"z: .*shape \(2, 15\)"),
    ],
)
def test_bad_edits_are_refused(make, argument):
    with pytest.raises(ValueError, match=argument):
        make()


def test_an_edit_is_for_the_weights_it_was_made_for(small, tmp_path):
    clip = small(VIT)
    plain(clip.width).validate_for(clip)  # of no particular model
    edit = plain(clip.width, fingerprint=clip.fingerprint, model="tiny")
    path, other = edit.save(tmp_path / "edit.safetensors"), copy.deepcopy(clip.model)
    other.logit_scale.add_(1e-3)
    other = replace(clip, model=other)
    for use in (edit.validate_for, edit.apply, lambda model: Edit.load(path, model)):
        use(clip)
        use(edit.apply(clip))  # an edited model has the same fingerprint
        with pytest.raises(ValueError, match="clip: .*32.*64"):
            use(small(VIT | {"embed_dim": 32}))
        with pytest.raises(ValueError, match=f"clip: .*{other.fingerprint}.*tiny, {clip.fingerprint}"):
            use(other)


def test_an_edited_model_shares_all_weights_but_the_projection(clip):
    after = plain(clip.width).apply(clip)
    weights = dict(clip.model.named_parameters())
    changed = {name for name, p in after.model.named_parameters() if p is not weights[name]}
    assert changed == {"visual.head.proj.weight"}
    behind = gated(clip.width).apply(clip)
    assert all(p is weights[name] for name, p in behind.model.named_parameters())
    assert behind.model.visual.edits is not None and not hasattr(clip.model.visual, "edits")


# --- edits on edited models


def test_an_edit_made_on_an_edited_model_is_for_that_one_alone(small, tmp_path):
    clip = small(VIT)
    first, other = (plain(clip.width, seed, fingerprint=clip.fingerprint) for seed in (1, 2))
    edited = first.apply(clip)
    second = plain(clip.width, 3, fingerprint=clip.fingerprint, after=history(edited.edits))
    loaded = Edit.load(second.save(tmp_path / "second.safetensors"), edited)
    both = loaded.apply(edited)
    assert both.edits == (first, loaded) and second.remove(both).edits == (first,)
    for model in (clip, other.apply(clip), other.apply(edited), first.apply(other.apply(clip)), both):
        for use in (second.apply, second.validate_for):
            with pytest.raises(ValueError, match=f"clip: .*{len(model.edits)} edits"):
                use(model)
    with pytest.raises(ValueError, match="clip: .*edit 2"):
        first.remove(both)
    third = plain(clip.width, 4)  # made on the bare model: it goes with any
    assert first.remove(second.remove(third.apply(both))).edits == (third,)


def test_mixed_edits_in_any_order_give_back_the_very_model(small):
    clip = small(VIT)
    x, before = pixels(clip), {k: v.clone() for k, v in clip.model.state_dict().items()}
    z, makers = clip.embed_pixels(x), [plain, gated, lambda d, s: plain(d, s, bias=random(d, seed=s).double())]
    edits = [makers[i % 3](clip.width, i) for i in range(12)]
    orders = [torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (0, 1)]
    after = clip
    for i in orders[0]:
        after = edits[i].apply(after)
    assert torch.isfinite(after.embed_pixels(x)).all() and after.edits == tuple(edits[i] for i in orders[0])
    for i in orders[1]:
        after = edits[i].remove(after)
    assert after is clip and torch.equal(after.embed_pixels(x), z)
    assert all(torch.equal(value, before[key]) for key, value in after.model.state_dict().items())


def test_edits_that_a_type_cannot_hold_are_refused(small):
    clip = small(VIT, "pure_fp16")
    u = random(clip.width, 1).double()
    with pytest.raises(ValueError, match="clip: .*float16"):
        Edit(1e4 * u, 1e4 * u, "by hand").apply(clip)
