"""Edited models for others: what stock open_clip loads, and a program that needs neither."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import BARE, COCA, RESNET, SIGLIP, VIT, gated, pixels, plain, random, stock

import clipnull as cn
from clipnull import exporting
from clipnull.evaluate import predict
from clipnull.exporting import export, fuse

MODELS = {"miniclip": None, "vit": VIT, "bare": BARE, "siglip": SIGLIP}


def edited(which, clip, small):
    """A model with two linear edits, the second with a bias where open_clip has a place for one; and its edits."""
    clip = clip if which == "miniclip" else small(MODELS[which])
    biased = {} if which == "vit" else {"bias": random(clip.width).double()}
    edits = [plain(clip.width, 0), plain(clip.width, 1, **biased)]
    return clip, edits, edits[1].apply(edits[0].apply(clip))


@pytest.mark.parametrize("which", ["miniclip", "vit", "bare", pytest.param("siglip", marks=pytest.mark.slow)])
def test_what_is_fused_is_the_edited_model(which, clip, small, tmp_path):
    clip, edits, after = edited(which, clip, small)
    folder = fuse(after, tmp_path / "new" / "fused")
    assert {"open_clip_config.json", "open_clip_model.safetensors"} <= {file.name for file in folder.iterdir()}
    again, x = cn.load(f"local-dir:{folder}", device="cpu"), pixels(clip)
    expected = edits[1].images(edits[0].images(clip.embed_pixels(x)))
    torch.testing.assert_close(again.embed_pixels(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.embed_pixels(x), after.embed_pixels(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(again.embed_texts(["a dog"]), clip.embed_texts(["a dog"]))
    assert list(again.preprocess.transforms[-1].mean) == list(clip.preprocess.transforms[-1].mean)


STOCK = """
out = []
for folder in args[1:]:
    name = "local-dir:" + folder
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    text = model.encode_text(open_clip.get_tokenizer(name)(["a dog"]), normalize=True)
    picture = model.encode_image(pixels[folder], normalize=True)
    out.append(torch.nn.functional.pad(torch.cat([picture, text]), (0, 256 - text.shape[1])))
out = torch.stack(out)
"""


@pytest.mark.slow
def test_stock_open_clip_loads_what_is_fused(clip, small, tmp_path):
    made = {str(tmp_path / which): edited(which, clip, small) for which in MODELS}
    x = {folder: pixels(model) for folder, (model, _, _) in made.items()}
    torch.save(x, tmp_path / "pixels")
    got = stock(STOCK, tmp_path / "pixels", *(fuse(after, folder) for folder, (_, _, after) in made.items()))
    for found, (folder, (model, edits, _)) in zip(got, made.items(), strict=True):
        expected = edits[1].images(edits[0].images(model.embed_pixels(x[folder])))
        found = found[:, : model.width]
        torch.testing.assert_close(found[:-1], F.normalize(expected, dim=-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(found[-1:], model.embed_texts(["a dog"]), atol=1e-5, rtol=0)


def test_an_unedited_model_is_fused_as_it_is(small, tmp_path):
    clip = small(BARE)
    again = cn.load(f"local-dir:{fuse(clip, tmp_path)}", device="cpu")
    assert torch.equal(again.embed_pixels(pixels(clip)), clip.embed_pixels(pixels(clip)))
    assert again.fingerprint == clip.fingerprint


def test_to_fuse_changes_nothing_in_the_model(small, tmp_path):
    clip = small(BARE)
    after = plain(clip.width, bias=random(clip.width).double()).apply(clip)
    before, config = after.embed_pixels(pixels(clip)), copy.deepcopy(clip.model.visual.preprocess_cfg)
    fuse(after, tmp_path)
    assert torch.equal(after.embed_pixels(pixels(clip)), before) and clip.model.visual.preprocess_cfg == config
    named = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    assert (named["timm_proj"], named["timm_proj_bias"]) == ("linear", True)
    assert "timm_proj_bias" not in json.loads((fuse(clip, tmp_path) / "open_clip_config.json").read_text())["model_cfg"]


def test_a_bias_without_a_place_is_not_fused(small, tmp_path):
    clip = small(VIT)
    after = plain(clip.width, bias=random(clip.width).double()).apply(clip)
    with pytest.raises(ValueError, match="adds a bias, and open_clip has no place for one at visual of local-dir"):
        fuse(after, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def cut(features, threshold=0.5):
    """A hidden layer that fires on about half of `features` (n, d), and moves what it fires on."""
    n, d = features.shape
    left = F.normalize(features[:2] - features.mean(0), dim=1).T.double()
    read = features.double() @ left / features.double().norm(dim=1, keepdim=True)
    least = read.quantile(threshold, dim=0)
    return cn.Edit(left, 3 * random(d, 2, seed=5).double() / d**0.5, "neuron", threshold=least.clamp(min=0.01))


@pytest.mark.parametrize("first", [False, True], ids=["alone", "after a matrix"])
def test_a_hidden_layer_goes_into_a_stock_checkpoint(clip, images, z, first, tmp_path):
    before = plain(clip.width, 3).apply(clip) if first else clip
    features = plain(clip.width, 3).images(z) if first else z
    edit = cut(features)
    folder = fuse(edit.apply(before), tmp_path / "fused")
    vision = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    assert vision["timm_proj"] == "mlp"
    again = cn.load(f"local-dir:{folder}", device="cpu")
    fires = (features.double() @ edit.left > edit.threshold * features.double().norm(dim=1, keepdim=True)).any(1)
    assert 0.2 < fires.double().mean() < 0.9
    cosine = F.cosine_similarity(cn.embed(again, images), edit.images(features))
    moved = F.cosine_similarity(features, edit.images(features))[fires]
    assert cosine.mean() > 0.999 and cosine.min() > 0.97 and moved.mean() < 0.95  # so it is more than the identity


def test_an_edit_by_neuron_answers_alike_in_a_stock_checkpoint(clip, images, z, tmp_path):
    request = cn.Forget(["dog"], ["line"]) | cn.Forget(["house"])
    edit = cn.unlearn(clip, request, images.vocabulary, "neuron", prototypes=False)
    again = cn.load(f"local-dir:{fuse(edit.apply(clip), tmp_path)}", device="cpu")
    answers = [predict(m, images, features=x) for m, x in ((clip, edit.images(z)), (again, cn.embed(again, images)))]
    assert (answers[0] == answers[1]).double().mean() > 0.98


def test_a_hidden_layer_without_a_place_is_not_fused(clip, small, tmp_path):
    vit = small(VIT)
    edit = cut(random(50, vit.width))
    with pytest.raises(ValueError, match="a hidden layer, and open_clip has no place for one at visual of .*'oblique'"):
        fuse(edit.apply(vit), tmp_path / "fused")
    edit = cut(random(50, clip.width))
    with pytest.raises(ValueError, match="is a hidden layer and another one follows"):
        fuse(edit.apply(edit.apply(clip)), tmp_path / "fused")
    many = cn.Edit(edit.left.repeat(1, 40), edit.right.repeat(1, 40), "m", threshold=edit.threshold.repeat(40))
    with pytest.raises(ValueError, match="has 80 units; expected at most 64 in 256 dimensions"):
        fuse(many.apply(clip), tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


@pytest.mark.slow
def test_a_gated_edit_is_not_fused_but_exported(small, tmp_path):
    clip = small(VIT)
    x, after = pixels(clip), gated(clip.width).apply(plain(clip.width, 99).apply(clip))
    with pytest.raises(ValueError, match="'gated' is gated.*cannot be fused into weights.*`export`"):
        fuse(after, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
    model = torch.export.load(export(after, tmp_path / "edited.pt2")).module()
    for some in (x, x[:1], torch.cat([x, x])):  # any number of pictures
        torch.testing.assert_close(model(some), F.normalize(after.embed_pixels(some), dim=-1), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_what_is_exported_runs_without_clipnull(small, tmp_path):
    clip = small(VIT)
    x, after = pixels(clip), gated(clip.width).apply(plain(clip.width, 99).apply(clip))
    torch.save(x, tmp_path / "pixels")
    got = stock(
        "model = torch.export.load(args[1]).module()\nout = torch.cat([model(pixels), model(pixels[:1])])",
        tmp_path / "pixels",
        export(after, tmp_path / "edited.pt2"),
    )
    torch.testing.assert_close(got, F.normalize(after.embed_pixels(torch.cat([x, x[:1]])), dim=-1), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [BARE, COCA, RESNET, pytest.param(SIGLIP, marks=pytest.mark.nightly)],
    ids=["bare", "coca", "resnet", "siglip"],
)
def test_every_kind_of_tower_is_exported(small, config, tmp_path):
    clip = small(config)
    x, after = pixels(clip, 3), gated(clip.width).apply(clip)
    program = torch.export.load(export(after, tmp_path / "edited.pt2")).module()
    torch.testing.assert_close(program(x), F.normalize(after.embed_pixels(x), dim=-1), atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [plain, gated])
def test_a_model_on_cuda_is_exported(small, make, tmp_path):
    clip = small(VIT)
    clip = replace(clip, model=copy.deepcopy(clip.model).cuda())
    x, after = pixels(clip), make(clip.width).apply(clip)
    program = torch.export.load(export(after, tmp_path / "edited.pt2")).module()
    torch.testing.assert_close(program(x.cuda()).cpu(), F.normalize(after.embed_pixels(x), dim=-1), atol=1e-4, rtol=0)


def test_a_half_written_file_is_never_left(small, tmp_path, monkeypatch):
    clip = small(VIT)

    def breaks(tensors, file, *_):
        with open(file, "wb") as out:
            out.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(exporting, "save_file", breaks)
    monkeypatch.setattr(torch.export, "save", breaks)
    with pytest.raises(OSError, match="no space left"):
        fuse(plain(clip.width).apply(clip), tmp_path / "fused")
    with pytest.raises(OSError, match="no space left"):
        export(clip, tmp_path / "edited.pt2")
    assert [p.name for p in tmp_path.rglob("*")] == ["fused"]
