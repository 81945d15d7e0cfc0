"""What an edit promises: exact, removable, small on disk, refused where it does not fit."""

import base64
import copy
import errno
import math
import os
import stat
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import BARE, COCA, RESNET, SIGLIP, VIT, examples, gated, pixels, plain, project, random
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clipnull import edit as patches
from clipnull.edit import Edit, history
from clipnull.layers import LARGEST
from clipnull.prompts import Vocabulary
from clipnull.subspace import principal_angles
from clipnull.unlearning import unlearn
from clipnull.vocabulary import Forget

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
    assert torch.equal(index, lengths[0]) and torch.equal(rows, lengths[1])
    untouched = torch.ones(60, dtype=torch.bool).index_fill(0, index, False)
    assert torch.equal(expected[untouched].view(torch.uint8), z[untouched].view(torch.uint8)) and untouched[2]
    torch.testing.assert_close(rows, expected[index], equal_nan=True)
    assert 0 < len(index) < 60 and len(index.unique()) == len(index)


@given(seeds)
def test_the_offset_is_a_threshold(seed):
    edit, z = gated(16, seed), random(20, 16, seed=seed + 9)
    never = replace(edit, gate=replace(edit.gate, offset=torch.tensor([-9.0, -9, -9, -9, 9])))
    assert torch.equal(never.images(z), z)


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
    """The bound in the docstring of `images`, and what it says of the order of pictures."""
    edit, z = plain(16, seed), F.normalize(random(30, 16, seed=seed + 2).double(), dim=1)
    edit = replace(edit, left=size * edit.left)
    t = random(16, seed=seed + 3).double()
    moved, scores = edit.images(z), z @ edit.queries(t)
    lengths, m = moved.norm(dim=1), (moved - z).norm(dim=1)
    assert ((lengths >= 1 - m - 1e-9) & (lengths <= 1 + m + 1e-9)).all()
    torch.testing.assert_close(F.normalize(moved, dim=1) @ t, scores / lengths)
    if (most := float(m.max())) < 1:
        high = scores[scores > 0].sort(descending=True).values
        apart = high[:-1] > high[1:] * (1 + most) / (1 - most)
        cosines = (F.normalize(moved, dim=1) @ t)[scores.argsort(descending=True)][: len(high)]
        assert (cosines[:-1] > cosines[1:])[apart].all()


def test_what_cannot_be_done_to_a_query_is_said():
    wide = plain(16)
    t = torch.zeros(2, 16)
    for edit, why in (
        (gated(16), "'module' decides for each picture"),
        (replace(wide, threshold=torch.ones(wide.rank).double()), "'layer' decides for each picture"),
        (replace(wide, bias=torch.ones(16).double()), "its bias adds"),
    ):
        with pytest.raises(ValueError, match=f"edit: .*{why}.*; expected a linear one without bias"):
            edit.queries(t)
    with pytest.raises(ValueError, match=r"t: shape \(2, 15\) is not valid; expected \(n, 16\)"):
        wide.queries(torch.zeros(2, 15))


@given(seeds, st.floats(-3, 3), st.integers(1, 6), st.integers(1, 6))
def test_the_order_of_two_projections_matters_as_their_angles_say(seed, mix, n, m):
    """|P Q - Q P| is the largest sin cos of the principal angles (two-projection theorem): at most a half."""
    a, b = random(n, 24, seed=seed), random(m, 24, seed=seed + 1)
    b[0] += mix * a[0]
    p, q = (project(rows, energy=1.0).matrix() for rows in (a, b))
    angles = principal_angles(a, b)
    effect = torch.linalg.matrix_norm(p @ q - q @ p, 2)
    torch.testing.assert_close(effect, (angles.sin() * angles.cos()).max(), atol=1e-6, rtol=0)
    assert effect <= 0.5 + 1e-9


@pytest.mark.slow
def test_ten_edits_and_more_in_sequence(clip):
    x = pixels(clip)
    edits = [plain(clip.width, seed, fingerprint=clip.fingerprint) for seed in range(12)]
    after, expected = clip, clip.embed_pixels(x)
    for edit in edits:
        after, expected = edit.apply(after), edit.images(expected)
    assert after.edits == tuple(edits) and after.base is clip and after.fingerprint == clip.fingerprint
    torch.testing.assert_close(after.embed_pixels(x), expected, atol=2e-4, rtol=1e-4)
    backwards = clip
    for edit in reversed(edits):
        backwards = edit.apply(backwards)
    effect = (after.embed_pixels(x) - backwards.embed_pixels(x)).norm(dim=1) / expected.norm(dim=1)
    assert 1e-3 < effect.max() < 0.5  # orders differ, and not by much
    last = after.embed_pixels(x).double() @ edits[-1].right  # of the last one nothing is left
    assert last.norm(dim=1).max() < 1e-4 * expected.norm(dim=1).max()


@examples(20)
@given(st.permutations(range(4)), st.permutations(range(4)))
def test_edits_are_removed_in_any_order(small, order, taken):
    clip = small(VIT)
    edits = [plain(clip.width, 0), gated(clip.width, 1), plain(clip.width, 2), gated(clip.width, 3)]
    after = clip
    for i in order:
        after = edits[i].apply(after)
    assert after.edits == tuple(edits[i] for i in order)
    left = list(order)
    for i in taken:
        after = edits[i].remove(after)
        left.remove(i)
        assert after.edits == tuple(edits[j] for j in left)
    assert after is clip


def test_removing_restores_every_bit(small, tmp_path):
    clip = small(VIT)
    x, before = pixels(clip), {k: v.clone() for k, v in clip.model.state_dict().items()}
    z = clip.embed_pixels(x)
    first, second = plain(clip.width, 1), gated(clip.width, 2)
    after = second.apply(first.apply(clip))
    again = Edit.load(first.save(tmp_path / "first.safetensors")).remove(after)  # found by what it does
    assert again.edits == (second,)
    assert torch.equal(again.embed_pixels(x), second.apply(clip).embed_pixels(x))
    back = second.remove(again)
    assert torch.equal(back.embed_pixels(x), z) and before.keys() == back.model.state_dict().keys()
    assert all(torch.equal(v, back.model.state_dict()[k]) for k, v in before.items())
    with pytest.raises(ValueError, match="is not among its 1 edits"):
        first.remove(again)
    with pytest.raises(ValueError, match="is not among its 0 edits"):
        first.remove(clip)


def test_sequences_of_linear_and_gated_edits_are_exact(clip):
    x = pixels(clip, 2)
    for makers in ((plain, gated, plain), (gated, gated), (plain, plain, gated)):
        after, expected = clip, clip.embed_pixels(x)
        for seed, make in enumerate(makers):
            edit = make(clip.width, seed)
            after, expected = edit.apply(after), edit.images(expected)
        torch.testing.assert_close(after.embed_pixels(x), expected, atol=1e-3, rtol=1e-4)
        assert after.model.state_dict().keys() == clip.model.state_dict().keys()


@pytest.mark.parametrize("make", [plain, gated])
@pytest.mark.parametrize(
    ("config", "precision"),
    [
        (VIT, "fp16"),
        (VIT, "bf16"),
        (VIT, "pure_fp16"),
        (VIT, "pure_bf16"),
        (RESNET, "fp16"),
        (BARE, "fp16"),
        pytest.param(SIGLIP, "fp16", marks=pytest.mark.nightly),
    ],
    ids=["vit-fp16", "vit-bf16", "vit-pure_fp16", "vit-pure_bf16", "resnet-fp16", "bare-fp16", "siglip-fp16"],
)
def test_half_precision(small, config, precision, make):
    clip = small(config, precision)
    edit, x = make(clip.width), pixels(clip)
    z, got = clip.embed_pixels(x), edit.apply(clip).embed_pixels(x)
    assert edit.apply(clip).weights.dtype == clip.weights.dtype != torch.float32
    torch.testing.assert_close(F.normalize(got, dim=-1), F.normalize(edit.images(z), dim=-1), atol=1e-2, rtol=0)


@pytest.mark.parametrize("make", [plain, gated])
@pytest.mark.parametrize(
    "config", [BARE, COCA, pytest.param(SIGLIP, marks=pytest.mark.slow)], ids=["bare", "coca", "siglip"]
)
def test_towers_of_other_kinds(small, config, make):
    clip = small(config)
    edit, x = make(clip.width), pixels(clip)
    z, after = clip.embed_pixels(x), edit.apply(clip)
    torch.testing.assert_close(after.embed_pixels(x), edit.images(z), atol=1e-5, rtol=1e-4)
    texts = ["a dog", "a house"]
    if config is COCA:
        assert torch.equal(after.model._encode_image(x)[1], clip.model._encode_image(x)[1])  # the tokens stay
    assert torch.equal(after.embed_texts(texts), clip.embed_texts(texts))


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["model", "tower"])
@pytest.mark.parametrize("make", [plain, gated])
def test_compiled_models(small, make, whole):
    clip = small(VIT)
    model, x = copy.deepcopy(clip.model), pixels(clip)
    if whole:
        model = torch.compile(model, backend="eager")
    else:
        model.visual = torch.compile(model.visual, backend="eager")
    compiled = replace(clip, model=model)
    assert compiled.fingerprint == clip.fingerprint
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
    torch.testing.assert_close(
        edit.apply(clip).embed_pixels(x), edit.images(clip.embed_pixels(x)), atol=1e-5, rtol=1e-4
    )


def test_a_gated_edit_costs_next_to_nothing():
    """A multiplication for each number it holds: less than a five-hundredth of a ViT-B-32's 4.4 billion."""
    layer = gated(512, domains=7, rank=56).layer()
    assert sum(b.numel() for b in layer.buffers()) < 4.4e9 / 500


@pytest.mark.parametrize("make", [plain, gated])
def test_what_is_saved_comes_back(clip, make, tmp_path):
    class Request:
        def as_dict(self):
            return {"classes": ["dog"], "domains": None}

    edit = make(
        clip.width,
        request=Request(),
        settings={"alpha": 1.0, "center": True},
        fingerprint=clip.fingerprint,
        model="miniclip",
    )
    path = edit.save(tmp_path / "edit.safetensors")
    back = Edit.load(path, clip)
    assert back.same(edit) and not back.same(plain(clip.width, 9))
    assert back.request == Request().as_dict()
    assert [getattr(back, f) for f in ("method", "settings", "fingerprint", "model", "linear")] == [
        getattr(edit, f) for f in ("method", "settings", "fingerprint", "model", "linear")
    ]
    z = random(20, clip.width)
    torch.testing.assert_close(back.images(z), edit.images(z), atol=1e-4, rtol=1e-4)
    assert Edit.load(back.save(tmp_path / "again.safetensors")).same(back)
    Edit.load(path, back.apply(clip))  # an edited model has the same fingerprint


def test_the_smallest_edits_come_back(tmp_path):
    one = torch.ones(1, 8).double()[:, :1]  # of one number, with a stride of eight
    for edit in (Edit(one, one, "x"), Edit(one, -one, "x", bias=one[0]), Edit(one[:, :0], one[:, :0], "x")):
        assert Edit.load(edit.save(tmp_path / "edit.safetensors")).same(edit)


def test_a_file_is_small(tmp_path):
    request = {"classes": None, "domains": [f"domain {k}" for k in range(8)]}
    assert gated(512, domains=56, rank=40, request=request).save(tmp_path / "a.safetensors").stat().st_size <= 1e6
    assert plain(512).save(tmp_path / "b.safetensors").stat().st_size <= 1e4  # left is right: kept once
    assert plain(512, bias=random(512)).save(tmp_path / "c.safetensors").stat().st_size <= 2e4


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.promise("What is damaged is refused")
def test_a_truncated_file_is_refused(share, tmp_path):
    path = gated(64).save(tmp_path / "edit.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: math.floor(share * len(whole))])
    with pytest.raises(ValueError, match="path: .*edit.safetensors' is no whole safetensors file"):
        Edit.load(path)


def tamper(path, change=lambda tensors: None, seal=True, **metadata):
    """Write the file at `path` again with changed tensors or metadata, `seal`: and the checksum of those."""
    with safe_open(path, "pt") as file:
        metadata = (file.metadata() or {}) | metadata
    tensors = load_file(path)
    change(tensors)
    metadata = {k: v for k, v in metadata.items() if v is not None}
    if seal and "sha256" in metadata:
        metadata["sha256"] = patches.checksum(tensors, metadata)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)


def becomes(**changed):
    """A change of tensors: those named, "gate_open" for "gate.open", each by a function of what it was."""

    def change(tensors):
        for name, make in changed.items():
            name = name.replace("gate_", "gate.")
            tensors[name] = make(tensors[name])

    return change


DOG = {"classes": ["dog"], "domains": None, "also": []}


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda t: t["left"].view(-1)[:1].fill_(math.nan), {}, "holds no valid edit: left, right: NaN"),
        (lambda t: t["gate.average"].view(-1)[:1].fill_(math.inf), {}, "holds no valid edit: gate: average"),
        (lambda t: t.pop("left"), {}, "holds no valid edit: 'left' is missing"),
        (lambda t: t.pop("gate.open"), {}, "holds no valid edit: .*open"),
        (lambda t: t.update(left=t["left"][:-1]), {}, "expected the same"),
        (lambda t: t.update(other=torch.zeros(1)), {}, "holds no valid edit: a tensor 'other'; expected some of left"),
        (lambda t: t.update({"gate.domains": 2 * t["gate.domains"]}), {}, "expected unit rows"),
        (becomes(left=lambda t: t.fill_(3e38)), {}, "left, right: .*too large values"),
        (becomes(right=lambda t: t.fill_(-2e12)), {}, "left, right: .*too large values"),
        (becomes(gate_offset=lambda t: t.fill_(1e30)), {}, "gate: offset"),
        (becomes(left=torch.Tensor.int), {}, "left of type I32; expected a floating one"),
        (becomes(left=lambda t: torch.complex(t, t)), {}, "left of type C64; expected a floating one"),
        (becomes(left=lambda t: t > 0), {}, "left of type BOOL; expected a floating one"),
        (becomes(left=lambda t: t.to(torch.float8_e4m3fn)), {}, "left of type F8_E4M3; expected a floating one"),
        (becomes(gate_open=torch.Tensor.float), {}, "gate.open of type F32; expected BOOL"),
        (becomes(gate_open=lambda t: t[:, 0]), {}, r"gate.open of shape \(5,\); expected 2 dimensions"),
        (becomes(gate_open=lambda t: t[0, 0]), {}, r"gate.open of shape \(\); expected 2 dimensions"),
        (becomes(gate_average=lambda t: t[None]), {}, r"gate.average of shape \(1, 32\); expected 1 dim"),
        (becomes(gate_domains=lambda t: t[0]), {}, r"gate.domains of shape \(32,\); expected 2 dim"),
        (becomes(gate_replaced=lambda t: t[:-1]), {}, "gate: replaced"),
        (becomes(left=lambda t: t[None]), {}, r"left of shape \(1, 32, 4\); expected 2 dim"),
        (becomes(left=lambda t: t[:0], right=lambda t: t[:0]), {}, "d = 0; expected .*d at least 1"),
        (becomes(left=lambda t: torch.zeros(2**20, 0)), {}, "none over 65,536"),
        (
            lambda t: [t.pop(k) for k in list(t) if k != "left"] and t.update(left=torch.zeros(0, 2)),
            {},
            "d = 0; expected .*d at least 1",
        ),
        (lambda t: None, {"settings": "{"}, "holds no valid edit"),
        (lambda t: None, {"settings": "[1]"}, r"settings: \[1\]; expected names with finite numbers"),
        (lambda t: None, {"settings": "null"}, "settings: None; expected names with"),
        (lambda t: None, {"settings": '{"a": {"b": 1}}'}, "settings: {'a': {'b': 1}}; expected names with"),
        (lambda t: None, {"settings": '{"a": [1]}'}, "expected names with"),
        (lambda t: None, {"settings": '{"a": NaN}'}, "settings: NaN; expected finite numbers"),
        (lambda t: None, {"settings": '{"a": 1e999}'}, "expected names with finite numbers"),
        (lambda t: None, {"settings": '{"a": ' + "9" * 5_000 + "}"}, "settings: .* is no JSON"),
        (lambda t: None, {"settings": '{"a": "' + "x" * 100_000 + '"}'}, "settings: 100,009 characters"),
        (lambda t: None, {"settings": "[" * 5_000}, "settings: brackets 5,000 deep; expected at most 8"),
        (lambda t: None, {"request": "[" * 5_000 + "]" * 5_000}, "request: brackets 5,000 deep; expected at most 8"),
        (lambda t: None, {"request": '{"a":' * 5_000}, "request: brackets 5,000 deep; expected at most 8"),
        (lambda t: None, {"request": '"' + "\\" * 999_999}, "request: .* characters; expected at most|is no JSON"),
        (lambda t: None, {"request": "3"}, "request: 3; expected classes, domains and also"),
        (lambda t: None, {"request": '{"classes": "dog", "domains": null}'}, "classes: 'dog'; expected None or a list"),
        (lambda t: None, {"request": '{"classes": ["\\ud800"], "domains": null}'}, "holds characters"),
        (lambda t: None, {"method": "a\x1b[2J"}, r"method: 'a.x1b\[2J'; expected a text"),
        (lambda t: None, {"model": "x" * 5_000}, "model: .*5002 characters.*; expected a text"),
        (lambda t: None, {"after": "x"}, "after: 'x'; expected nothing or 16 hexadecimal digits"),
        (lambda t: None, {"fingerprint": None}, "holds no valid edit: 'fingerprint' is missing"),
        (lambda t: None, {"sha256": None}, "holds no valid edit: "),
        (lambda t: None, {"more": "1"}, "holds no valid edit: 'more' is not known"),
        (lambda t: None, {"version": "1"}, "holds no valid edit: 'after' is not known"),  # no way round the checksum
        (lambda t: None, {"version": "3"}, "says format 'clipnull-edit', version '3'; expected 'clipnull-edit', ver"),
        (lambda t: None, {"format": None}, "says format None"),
    ],
)
@pytest.mark.promise("What is damaged is refused")
def test_a_damaged_or_foreign_file_is_refused(change, metadata, message, tmp_path):
    path = gated(32).save(tmp_path / "edit.safetensors")
    tamper(path, change, **metadata)
    with pytest.raises(ValueError, match=f"path: .*edit.safetensors.*{message}"):
        Edit.load(path)


@pytest.mark.parametrize("make", [plain, gated])
def test_what_was_changed_without_its_checksum_is_refused(make, tmp_path):
    for i, (change, metadata) in enumerate(
        [
            (becomes(left=lambda t: t.neg()), {}),
            (becomes(left=torch.Tensor.double), {}),
            (lambda t: None, {"method": "other"}),
            (lambda t: None, {"settings": '{"alpha": 2.0}'}),
            (lambda t: None, {"fingerprint": "0" * 16}),
            (lambda t: None, {"after": "0" * 16}),
            (lambda t: None, {"sha256": "0" * 64}),
        ]
    ):
        path = make(16, request=DOG).save(tmp_path / f"{i}.safetensors")
        tamper(path, change, seal=False, **metadata)
        with pytest.raises(ValueError, match=f"path: .*{i}.safetensors' holds no valid edit: its checksum is not that"):
            Edit.load(path)


VERSION_1 = {  # as they were written before there was a second
    "linear": (
        "c-kdUOHRcw41{B_tGo`VA3l$6-i{SFXsgOJ&TFK6N|GX>st18H!JUYUSN6<kJof4O>ZlFI(NaQ*3C9uI4U~2l3QN!~K?`M7H}?;Z"
        "Pp4;mn<Oa^V7(-hDXX2Hj9xMn=zXQg`mKk_V2l)dXp61~=`TGDqTtS=b_ecOV;Djc{h=H7>=G%ZygdHfpjl>Qvbrl-JCREi7)W6y"
        ")+-+@@={L0mbWBz%ESkSsJ+Wf#d#^sUgm)%alwgT7hp&wK3AsCg);fl)Er?(p1MX<gMi~HUa1@`hw4gE)x*9QT;E?eXa3*s&+GXQ"
        "?{sHs"
    ),
    "gated": (
        "c-q^*!~h1>O7ZczsU?Xii6x2g@k&<JN@b}<#hLkeN>)mSN;*o#sU;<udFjPKZgq@Oep(t(AV$eb!9dTT7AT#TUzD3z0+dY7$t=h#"
        "&B@VCP01_)N))9QmZlb$K(r<2Bo-H^7K8Lf$0()br^hJ8>L`F%xrv#1U~!OMkWgYyaXwgGEXerW{FKxjpc%QDd6^&^Ktib{8Tlzd"
        "vGl}})D(~tfX+)TDk#d#1KDO^Xk=_+YG!U>nV6KElA5Mes{>Z4mk9J%VtOjbhbbkM1we+9o3RndhZ%_=UbIQ9juJQ&Af5#JINCtR"
        "&@2{a0MxO#4KUWhVuYcYj+qJE42U=$BQOmxGtn^zJ0d4F4UbL}9V1M==4LvE1{NUAMVaXtr0NE0)iE?NKsdf2H4oVcCx3q*6z^j*"
        "!vq+HCWt^RN-fAqOa{gq9&@mn0`!Q9Wo&J&g5vEHcHiHo?CYAkc;5=US^JmHHL@4dn_#!!snvG*S#^7r7d`vBjL+{)O3&TDgEi0Y"
        "Ql-&;^QnjTx&D;e|KpzGUIrx4u-MnWjosKz&1#$N0vXx;=QV9@<&@X&*EqAr&OWEnepBVy{d)xR>^P$M9qeC3*l$}m)1Gn0*?kw<"
        "x9u0oNVf+X!3ahG!rm4A"
    ),
}


@pytest.mark.parametrize("kind", VERSION_1)
def test_the_first_version_of_the_format_is_still_read(kind, tmp_path):
    path = tmp_path / "edit.safetensors"
    path.write_bytes(zlib.decompress(base64.b85decode(VERSION_1[kind])))
    edit = Edit.load(path)
    assert (edit.method, edit.linear) == (("nullspace", True) if kind == "linear" else ("gated", False))
    assert (edit.request, edit.fingerprint, edit.model, edit.after) == (DOG, "0123456789abcdef", "miniclip", "")
    if kind == "linear":
        torch.testing.assert_close(edit.left, torch.tensor([[0.6], [0.0], [0.8]]).double())
        assert edit.settings == {"alpha": 1.0, "center": True}
    else:
        assert edit.same(gated(4, domains=3, rank=2))
    with safe_open(edit.save(path), "pt") as file:
        assert file.metadata()["version"] == "2" and len(file.metadata()["sha256"]) == 64
    assert Edit.load(path).same(edit)


def test_files_of_others_are_refused(tmp_path):
    (tmp_path / "text").write_text("left, right")
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        Edit.load(tmp_path / "text")
    save_file({"left": torch.zeros(2, 1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="says format None"):
        Edit.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError):
        Edit.load(tmp_path / "nothing")


def test_another_base_model_is_refused(clip, small, tmp_path):
    edit = plain(clip.width, fingerprint=clip.fingerprint, model="miniclip")
    path = edit.save(tmp_path / "edit.safetensors")
    with pytest.raises(ValueError, match="joint space is 64 wide; expected 256"):
        Edit.load(path, small(VIT))
    other = copy.deepcopy(clip.model)
    other.logit_scale.add_(1e-3)
    other = replace(clip, model=other)
    for use in (lambda: Edit.load(path, other), lambda: edit.apply(other)):
        with pytest.raises(
            ValueError, match="do not match; expected those the edit was made for .miniclip, " + clip.fingerprint
        ):
            use()


@pytest.mark.parametrize("step", ["write_bytes", "chmod", "replace"])
def test_a_full_disk_leaves_nothing_half_written_and_the_next_time_goes_well(step, tmp_path, monkeypatch):
    path = plain(32).save(tmp_path / "edit.safetensors")
    before = path.read_bytes()

    def full(place, *content):
        if step == "write_bytes":
            with open(place, "wb") as out:
                out.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path if step == "write_bytes" else os, step, full)
        with pytest.raises(OSError, match="No space left"):
            plain(32, 1).save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.rglob("*")] == ["edit.safetensors"]
    assert Edit.load(plain(32, 1).save(path)).same(plain(32, 1))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_process_that_may_write_no_more_leaves_the_old_file(tmp_path):
    """As a full disk, from the system itself: no file of this process may grow beyond 1,000 bytes."""
    path = plain(32).save(tmp_path / "edit.safetensors")
    before = path.read_bytes()
    code = (
        "import resource, signal, sys; from helpers import plain; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: plain(512, 1).save(sys.argv[1])\nexcept OSError as error: print(type(error).__name__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert run.stdout.strip() == "OSError", run.stderr
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_patch_is_for_all_to_read_as_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    path = plain(8).save(tmp_path / "edit.safetensors")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_two_who_save_to_one_path_do_not_mix(tmp_path):
    path, edits, found = tmp_path / "edit.safetensors", [plain(16, seed) for seed in range(3)], []

    def save(edit):
        try:
            for _ in range(10):
                back = Edit.load(edit.save(path))
                found.append(any(e.same(back) for e in edits))
        except BaseException as error:
            found.append(error)

    savers = [threading.Thread(target=save, args=(edit,)) for edit in edits]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    assert found == [True] * 30 and list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    with pytest.raises(ValueError, match="is no file; expected one that Edit.save wrote"):
        Edit.load(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="pipe' is no file"):
            Edit.load(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(ValueError, match="huge' is of 1,073,741,825 bytes; expected at most 1,073,741,824"):
        Edit.load(tmp_path / "huge")


def test_a_loaded_edit_does_not_change_with_its_file(tmp_path):
    edit = gated(16)
    path = edit.save(tmp_path / "edit.safetensors")
    back = Edit.load(path)
    path.write_bytes(bytes(path.stat().st_size))  # in place
    assert back.same(edit)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"request": ["dog"]}, r"request: \['dog'\]; expected classes"),
        ({"request": {"classes": [3], "domains": None}}, "classes: 3 is no name"),
        ({"settings": {"alpha": [1.0]}}, "settings: .*expected names with finite numbers"),
        ({"settings": {"alpha": math.nan}}, "request, settings: .*expected values that JSON knows"),
        ({"method": "a\x00"}, "method: 'a.x00'; expected a text"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        replace(plain(8), **fields).save(tmp_path / "edit.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="request, settings: .*not JSON serializable"):
        plain(8, request=object()).save(tmp_path / "edit.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"open": torch.ones(5, 4)}, "gate: open"),
        ({"open": torch.ones(4, 4, dtype=torch.bool)}, "gate: open"),
        ({"replaced": torch.zeros(5)}, "gate: replaced"),
        ({"average": torch.zeros(15)}, "gate: average"),
        ({"offset": torch.full((5,), math.nan)}, "gate: offset"),
        ({"domains": torch.zeros(5, 16)}, "gate: domains with rows of length"),
        ({"domains": torch.zeros(0, 16)}, "gate: domains"),
        ({"domains": torch.zeros(5)}, "gate: domains"),
        ({"open": torch.ones(5, dtype=torch.bool)}, "gate: open"),
        ({"open": torch.tensor(True)}, "gate: open"),
        ({"replaced": torch.tensor(True)}, "gate: replaced"),
        ({"average": torch.zeros(16, dtype=torch.int64)}, "gate: average"),
        ({"average": torch.full((16,), 2 * LARGEST)}, "gate: average"),
    ],
)
def test_bad_gates_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(gated(16).gate, **fields)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.zeros(4, 2), torch.zeros(4, 1)),
        (torch.zeros(4), torch.zeros(4)),
        (torch.full((4, 1), torch.nan), torch.zeros(4, 1)),
        (torch.zeros(4, 1), torch.full((4, 1), torch.inf)),
        (torch.zeros(4, 1), torch.full((4, 1), 3e38)),
        (torch.full((4, 1), -2 * LARGEST), torch.zeros(4, 1)),
        (torch.zeros(4, 1, dtype=torch.int64), torch.zeros(4, 1, dtype=torch.int64)),
        (torch.zeros(4, 1, dtype=torch.complex64), torch.zeros(4, 1, dtype=torch.complex64)),
        (torch.zeros(4, 1, dtype=torch.bool), torch.zeros(4, 1, dtype=torch.bool)),
        (torch.zeros(4, 1), torch.zeros(4, 1).double()),
        (torch.zeros(0, 1), torch.zeros(0, 1)),
    ],
)
def test_bad_factors_are_refused(left, right):
    with pytest.raises(ValueError, match="left, right"):
        Edit(left, right, "nullspace")


def test_bad_edits_are_refused():
    with pytest.raises(ValueError, match="bias: shape"):
        plain(16, bias=torch.zeros(15))
    with pytest.raises(ValueError, match="gate: 16 wide, of rank 4; expected 16 and 3"):
        replace(plain(16), gate=gated(16).gate)
    with pytest.raises(ValueError, match="no bias"):
        replace(gated(16), bias=torch.zeros(16))
    with pytest.raises(ValueError, match="one of form 'module' is no single matrix"):
        gated(16).matrix()
    with pytest.raises(ValueError, match=r"z: shape \(2, 15\) is not valid; expected \(n, 16\)"):
        plain(16).images(torch.zeros(2, 15))


def test_validate_for_says_whether_an_edit_was_made_for_a_model(clip, small):
    plain(clip.width).validate_for(clip)  # of no particular model
    edit = plain(clip.width, fingerprint=clip.fingerprint, model="miniclip")
    edit.validate_for(clip)
    edit.validate_for(edit.apply(clip))
    with pytest.raises(ValueError, match="joint space is 64 wide; expected 256"):
        edit.validate_for(small(VIT))
    with pytest.raises(ValueError, match=f"do not match; expected those the edit was made for .a model, {'0' * 16}"):
        plain(clip.width, fingerprint="0" * 16).validate_for(clip)


def test_an_edited_model_shares_all_weights_but_the_projection(clip):
    after = plain(clip.width).apply(clip)
    own = dict(clip.model.named_parameters())
    changed = {name for name, p in after.model.named_parameters() if p is not own[name]}
    assert changed == {"visual.head.proj.weight"}
    behind = gated(clip.width).apply(clip)
    assert all(p is own[name] for name, p in behind.model.named_parameters())
    assert behind.model.visual.edits is not None and not hasattr(clip.model.visual, "edits")


# --- edits on edited models


def test_an_edit_made_on_an_edited_model_is_for_that_one_alone(clip, tmp_path):
    first, other = (plain(clip.width, seed, fingerprint=clip.fingerprint) for seed in (1, 2))
    edited = first.apply(clip)
    second = plain(clip.width, 3, fingerprint=clip.fingerprint, after=history(edited.edits))
    path = second.save(tmp_path / "second.safetensors")
    loaded = Edit.load(path, edited)
    assert loaded.after == second.after and len(second.after) == 16
    both = loaded.apply(edited)
    assert both.edits == (first, loaded) and second.remove(both).edits == (first,)
    wrong = [clip, other.apply(clip), other.apply(edited), first.apply(other.apply(clip)), both]
    for model in wrong:
        for use in (second.apply, second.validate_for, lambda model: Edit.load(path, model)):
            message = rf"clip: it carries {len(model.edits)} edits, .* expected the edited model it was made on"
            with pytest.raises(ValueError, match=message):
                use(model)
    with pytest.raises(ValueError, match="clip: its edit 2 .nullspace. was made after this one .*removed first"):
        first.remove(both)
    third = plain(clip.width, 4)  # made on the bare model: it goes with any
    assert first.remove(second.remove(third.apply(both))).edits == (third,)
    again = Edit.load(first.save(tmp_path / "first.safetensors")).apply(clip)  # from a file it is the same edit
    assert second.apply(again).edits[1] is second


def test_a_history_names_edits_and_their_order():
    a, b = plain(16, 1), gated(16, 2)
    told = [history(edits) for edits in ([], [a], [b], [a, b], [b, a], [a, a])]
    assert told[0] == "" and len(set(told)) == 6 and history([replace(a, method="other")]) == told[1]


@pytest.mark.parametrize(
    "seed", [0, 1, pytest.param(2, marks=pytest.mark.nightly), pytest.param(3, marks=pytest.mark.nightly)]
)
def test_twenty_mixed_edits_in_any_order_give_back_the_very_model(small, seed, tmp_path):
    clip = small(VIT)
    x, before = pixels(clip), {k: v.clone() for k, v in clip.model.state_dict().items()}
    z = clip.embed_pixels(x)
    makers = [plain, gated, lambda d, s: plain(d, s, bias=random(d, seed=s).double())]
    edits = [makers[i % 3](clip.width, 100 * seed + i) for i in range(20)]
    edits[::4] = [Edit.load(e.save(tmp_path / f"{i}.safetensors"), clip) for i, e in enumerate(edits[::4])]
    orders = [torch.randperm(20, generator=torch.Generator().manual_seed(2 * seed + i)).tolist() for i in (0, 1)]
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
    with pytest.raises(ValueError, match="clip: with 1 edits multiplied in, .* beyond what torch.float16 holds"):
        Edit(1e4 * u, 1e4 * u, "by hand").apply(clip)


def test_unlearn_says_what_an_edit_comes_after(clip):
    names = Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    first = unlearn(clip, Forget(["dog"], ["line"]), names, "oblique", prototypes=False)
    edited = first.apply(clip)
    second = unlearn(edited, Forget(["cat"], ["line"]), names, "oblique", prototypes=False)
    assert first.after == "" and second.after == history([first])
    assert second.apply(edited).edits == (first, second)
    with pytest.raises(ValueError, match="clip: it carries 0 edits, .* made after; expected the edited model"):
        second.apply(clip)
