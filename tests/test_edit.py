"""What an edit promises: exact, removable, small on disk, refused where it does not fit."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import BARE, COCA, RESNET, SIGLIP, VIT, examples, gated, pixels, plain, project, random
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clipnull import edit as edit_module
from clipnull.edit import Edit
from clipnull.subspace import principal_angles

seeds = st.integers(0, 10**6)


@given(seeds, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_a_gate_leaves_what_it_is_not_open_for_bit_identical(seed, dtype):
    edit, z = gated(16, seed), random(40, 16, seed=seed + 9).to(dtype)
    z[0] = -0.0
    k = (F.normalize(z.double(), dim=-1) @ edit.gate.domains.T).argmax(1)
    out = edit.transform(z)
    closed = ~edit.gate.open.any(1)[k] & ~edit.gate.replaced[k]
    assert torch.equal(out[closed].view(torch.uint8), z[closed].view(torch.uint8))
    assert (out[edit.gate.replaced[k]] == edit.gate.average.to(dtype)).all()
    read = (z.double() @ edit.left).relu() * edit.gate.open[k]
    acts = edit.gate.open.any(1)[k] & ~edit.gate.replaced[k]
    torch.testing.assert_close(out[acts], (z.double() - read @ edit.right.T).to(dtype)[acts])


@given(seeds)
def test_the_offset_is_a_threshold(seed):
    edit, z = gated(16, seed), random(20, 16, seed=seed + 9)
    never = replace(edit, gate=replace(edit.gate, offset=torch.tensor([-9.0, -9, -9, -9, 9])))
    assert torch.equal(never.transform(z), z)


@given(seeds, st.integers(1, 5))
def test_a_linear_edit_is_its_matrix(seed, n):
    edit, z = plain(16, seed, bias=random(16, seed=seed + 1).double()), random(n, 16, seed=seed + 2).double()
    torch.testing.assert_close(edit.transform(z), z @ edit.matrix() + edit.bias)


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
        after, expected = edit.apply(after), edit.transform(expected)
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
            after, expected = edit.apply(after), edit.transform(expected)
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
    torch.testing.assert_close(F.normalize(got, dim=-1), F.normalize(edit.transform(z), dim=-1), atol=1e-2, rtol=0)


@pytest.mark.parametrize("make", [plain, gated])
@pytest.mark.parametrize(
    "config", [BARE, COCA, pytest.param(SIGLIP, marks=pytest.mark.slow)], ids=["bare", "coca", "siglip"]
)
def test_towers_of_other_kinds(small, config, make):
    clip = small(config)
    edit, x = make(clip.width), pixels(clip)
    z, after = clip.embed_pixels(x), edit.apply(clip)
    torch.testing.assert_close(after.embed_pixels(x), edit.transform(z), atol=1e-5, rtol=1e-4)
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
    expected = edit.transform(clip.embed_pixels(x))
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
    torch.testing.assert_close(after.embed_pixels(x), edit.transform(z), atol=1e-4, rtol=1e-3)
    assert edit.transform(z.cuda()).is_cuda


def test_a_bias_without_a_place_runs_behind_the_tower(small):
    clip = small(VIT)
    edit, x = plain(clip.width, bias=random(clip.width).double()), pixels(clip)
    torch.testing.assert_close(
        edit.apply(clip).embed_pixels(x), edit.transform(clip.embed_pixels(x)), atol=1e-5, rtol=1e-4
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
    torch.testing.assert_close(back.transform(z), edit.transform(z), atol=1e-4, rtol=1e-4)
    assert Edit.load(back.save(tmp_path / "again.safetensors")).same(back)
    Edit.load(path, back.apply(clip))  # an edited model has the same fingerprint


def test_a_file_is_small(tmp_path):
    request = {"classes": None, "domains": [f"domain {k}" for k in range(8)]}
    assert gated(512, domains=56, rank=40, request=request).save(tmp_path / "a.safetensors").stat().st_size <= 1e6
    assert plain(512).save(tmp_path / "b.safetensors").stat().st_size <= 1e4  # left is right: kept once
    assert plain(512, bias=random(512)).save(tmp_path / "c.safetensors").stat().st_size <= 2e4


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(share, tmp_path):
    path = gated(64).save(tmp_path / "edit.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: math.floor(share * len(whole))])
    with pytest.raises(ValueError, match="path: .*edit.safetensors' is no whole safetensors file"):
        Edit.load(path)


def tamper(path, change=lambda tensors: None, **metadata):
    """Write the file at `path` again with changed tensors or metadata."""
    with safe_open(path, "pt") as file:
        metadata = (file.metadata() or {}) | metadata
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {k: v for k, v in metadata.items() if v is not None})


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda t: t["left"].view(-1)[:1].fill_(math.nan), {}, "holds no valid edit: left, right: NaN"),
        (lambda t: t["gate.average"].view(-1)[:1].fill_(math.inf), {}, "holds no valid edit: gate: average"),
        (lambda t: t.pop("left"), {}, "holds no valid edit: 'left'"),
        (lambda t: t.pop("gate.open"), {}, "holds no valid edit: .*open"),
        (lambda t: t.update(left=t["left"][:-1]), {}, "expected the same"),
        (lambda t: t.update(other=torch.zeros(1)), {}, "holds no valid edit: .*other"),
        (lambda t: t.update({"gate.domains": 2 * t["gate.domains"]}), {}, "expected unit rows"),
        (lambda t: None, {"settings": "{"}, "holds no valid edit"),
        (lambda t: None, {"fingerprint": None}, "holds no valid edit: 'fingerprint'"),
        (lambda t: None, {"version": "2"}, "says format 'clipnull-edit', version '2'; expected 'clipnull-edit', '1'"),
        (lambda t: None, {"format": None}, "says format None"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(change, metadata, message, tmp_path):
    path = gated(32).save(tmp_path / "edit.safetensors")
    tamper(path, change, **metadata)
    with pytest.raises(ValueError, match=f"path: .*{message}"):
        Edit.load(path)


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


def test_a_half_written_file_is_never_left(tmp_path, monkeypatch):
    path = plain(32).save(tmp_path / "edit.safetensors")
    before = path.read_bytes()

    def breaks(tensors, file, metadata=None):
        with open(file, "wb") as out:
            out.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(edit_module, "save_file", breaks)
    with pytest.raises(OSError, match="no space left"):
        plain(32, 1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.rglob("*")] == ["edit.safetensors"]


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
    with pytest.raises(ValueError, match="a gated edit is no single matrix"):
        gated(16).matrix()
    with pytest.raises(ValueError, match=r"z: shape \(2, 15\) is not valid; expected \(n, 16\)"):
        plain(16).transform(torch.zeros(2, 15))


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
