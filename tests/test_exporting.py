"""Edited models for others: what stock open_clip loads, and a program that needs neither."""

import copy
import json
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import BARE, COCA, RESNET, SIGLIP, VIT, gated, pixels, plain, random, stock

import clipnull as cn
from clipnull.interop import exporting
from clipnull.interop.exporting import export, fuse, on_texts

nightly = pytest.mark.nightly
MODELS = {"miniclip": None, "vit": VIT, "bare": BARE, "siglip": SIGLIP}


def edited(which, clip, small):
    """A model with two linear edits, the second with a bias where open_clip has a place for one; and its edits."""
    clip = clip if which == "miniclip" else small(MODELS[which])
    bias = {} if which == "vit" else {"bias": random(clip.width).double()}
    edits = [plain(clip.width, 0), plain(clip.width, 1, **bias)]
    return clip, edits, edits[1].apply(edits[0].apply(clip))


def hidden_layer(features):
    """A hidden layer that fires on about half of `features` (n, d), and moves what it fires on."""
    n, d = features.shape
    units = F.normalize(features[:2] - features.mean(0), dim=1).T.double()
    read = features.double() @ units / features.double().norm(dim=1, keepdim=True)
    threshold = read.quantile(0.5, dim=0).clamp(min=0.01)
    return cn.Edit(units, 3 * random(d, 2, seed=5).double() / d**0.5, "neuron", threshold=threshold)


# --- Into weights


@pytest.mark.parametrize("which", ["miniclip", "vit", "bare", pytest.param("siglip", marks=nightly)])
def test_a_fused_model_is_the_edited_model(which, clip, small, tmp_path):
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
for folder in args[2:]:
    name = "local-dir:" + folder
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    text = model.encode_text(open_clip.get_tokenizer(name)(["a dog"]), normalize=True)
    picture = model.encode_image(pixels[folder], normalize=True)
    out.append(torch.nn.functional.pad(torch.cat([picture, text]), (0, 256 - text.shape[1])))
program, x = torch.export.load(args[1]).module(), pixels["program"]
out.append(torch.nn.functional.pad(torch.cat([program(x), program(x[:1])]), (0, 256 - 64)))
out = torch.stack(out)
"""


@pytest.mark.slow
def test_what_is_fused_or_exported_runs_without_clipnull(clip, small, tmp_path):
    """One process for all of them: it has open_clip and torch, and no clipnull."""
    models = {str(tmp_path / which): edited(which, clip, small) for which in ("miniclip", "vit", "bare")}
    x = {folder: pixels(model) for folder, (model, _, _) in models.items()}
    after = gated(64).apply(plain(64, 99).apply(small(VIT)))
    x["program"] = pixels(after)
    torch.save(x, tmp_path / "pixels")
    folders = [fuse(model, folder) for folder, (_, _, model) in models.items()]
    *results, exported = stock(STOCK, tmp_path / "pixels", export(after, tmp_path / "edited.pt2"), *folders)
    for result, (folder, (model, edits, _)) in zip(results, models.items(), strict=True):
        expected = edits[1].images(edits[0].images(model.embed_pixels(x[folder])))
        result = result[:, : model.width]
        torch.testing.assert_close(result[:-1], F.normalize(expected, dim=-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(result[-1:], model.embed_texts(["a dog"]), atol=1e-5, rtol=0)
    expected = F.normalize(after.embed_pixels(x["program"]), dim=-1)
    torch.testing.assert_close(exported[:, :64], torch.cat([expected, expected[:1]]), atol=1e-5, rtol=0)


def test_fusing_leaves_the_model_as_it_was(small, tmp_path):
    clip = small(BARE)
    again = cn.load(f"local-dir:{fuse(clip, tmp_path / 'unedited')}", device="cpu")
    assert torch.equal(again.embed_pixels(pixels(clip)), clip.embed_pixels(pixels(clip)))
    assert again.fingerprint == clip.fingerprint

    after = plain(clip.width, bias=random(clip.width).double()).apply(clip)
    before, config = after.embed_pixels(pixels(clip)), copy.deepcopy(clip.model.visual.preprocess_cfg)
    fuse(after, tmp_path)
    assert torch.equal(after.embed_pixels(pixels(clip)), before) and clip.model.visual.preprocess_cfg == config
    vision = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    assert (vision["timm_proj"], vision["timm_proj_bias"]) == ("linear", True)


@pytest.mark.slow
@pytest.mark.parametrize("first", [pytest.param(False, marks=nightly), True], ids=["alone", "after a matrix"])
def test_a_hidden_layer_goes_into_a_stock_checkpoint(clip, images, z, first, tmp_path):
    third = torch.arange(len(images)) % 3 == 0
    images, z, train = images.where(third), z[third], cn.load_images(split="train")
    before, features = (plain(256, 3).apply(clip), plain(256, 3).images(z)) if first else (clip, z)
    edit, few = hidden_layer(features), train.where(torch.arange(len(train)) % 4 == 0)
    folder = fuse(edit.apply(before), tmp_path / "fused", few if first else None)
    vision = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    assert vision["timm_proj"] == "mlp"
    again = cn.load(f"local-dir:{folder}", device="cpu")
    fires = (features.double() @ edit.left > edit.threshold * features.double().norm(dim=1, keepdim=True)).any(1)
    assert 0.2 < fires.double().mean() < 0.9
    cosine = F.cosine_similarity(cn.embed(again, images), edit.images(features))
    moved = F.cosine_similarity(features, edit.images(features))[fires]
    assert cosine.mean() > 0.999 and cosine.min() > 0.97 and moved.mean() < 0.95  # so it is more than the identity


def test_an_edit_without_a_place_is_not_fused(clip, small, tmp_path):
    vit = small(VIT)
    layer, layer64 = hidden_layer(random(50, 256)), hidden_layer(random(50, 64))
    many = cn.Edit(layer.left.repeat(1, 40), layer.right.repeat(1, 40), "m", threshold=layer.threshold.repeat(40))
    for after, message in [
        (plain(64, bias=random(64).double()).apply(vit), "adds a bias, .* no place for one at visual of local-dir"),
        (gated(64).apply(plain(64, 99).apply(vit)), "'gated' is gated.*expected linear edits .*`export`"),
        (layer64.apply(vit), "is a hidden layer, .* no place for one at visual of .*'oblique'"),
        (layer.apply(layer.apply(clip)), "is a hidden layer, but another edit follows"),
        (many.apply(clip), "has 80 units; expected at most 64, a quarter"),
    ]:
        with pytest.raises(ValueError, match=message):
            fuse(after, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


# --- The text side


@pytest.mark.parametrize("which", ["vit", "bare", pytest.param("coca", marks=nightly)])
def test_edits_on_texts_give_the_same_products(which, small, tmp_path):
    clip = small({"vit": VIT, "bare": BARE, "coca": COCA}[which])
    edits = [plain(clip.width, 0), plain(clip.width, 1)]
    skew = cn.Edit(random(clip.width, 2).double(), random(clip.width, 2, seed=1).double(), "oblique")
    after, x = skew.apply(edits[1].apply(edits[0].apply(clip))), pixels(clip)
    moved, tokens = on_texts(after), clip.tokenizer(["a dog", "a house", "two cars"])
    with torch.inference_mode():
        t, t_moved = (model.model.encode_text(tokens, normalize=False) for model in (clip, moved))
    expected, z = after.embed_pixels(x) @ t.T, clip.embed_pixels(x)
    torch.testing.assert_close(z @ t_moved.T, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, z @ t.T, atol=1e-3)
    assert torch.equal(moved.embed_pixels(x), z) and not moved.edits and moved.fingerprint != clip.fingerprint

    again = cn.load(f"local-dir:{fuse(after, tmp_path / 'texts', side='text')}", device="cpu")
    assert torch.equal(again.embed_pixels(x), z)
    torch.testing.assert_close(again.embed_texts(["a dog"]), moved.embed_texts(["a dog"]), atol=1e-6, rtol=0)
    assert on_texts(clip).fingerprint == clip.fingerprint


def test_a_cosine_on_texts_is_the_one_on_pictures_times_two_lengths(small):
    """What the docstring of `on_texts` says of it, in numbers."""
    clip = small(VIT)
    edit = cn.Edit(random(64, 2).double() / 8, random(64, 2, seed=1).double() / 8, "oblique")
    x, texts, p = pixels(clip, 5), ["a dog", "a house"], edit.matrix()
    z = F.normalize(clip.embed_pixels(x).double(), dim=1)
    t = clip.embed_texts(texts).double()
    lengths = (z @ p).norm(dim=1)[:, None] / (t @ p.T).norm(dim=1)
    after = F.normalize(edit.apply(clip).embed_pixels(x).double(), dim=1) @ t.T
    torch.testing.assert_close(z @ on_texts(edit.apply(clip)).embed_texts(texts).double().T, after * lengths)


def test_an_edit_that_texts_cannot_carry_is_refused(small, tmp_path):
    clip = small(VIT)
    for edit, message in [
        (plain(64, bias=random(64).double()), "edit: a bias does not apply"),
        (gated(64), "edit: form 'module' does not apply"),
        (hidden_layer(random(50, 64)), "edit: form 'layer' does not apply"),
    ]:
        with pytest.raises(ValueError, match=message):
            fuse(edit.apply(clip), tmp_path / "fused", side="text")
    with pytest.raises(ValueError, match="side: 'txt' is unknown; did you mean 'text'"):
        fuse(clip, tmp_path / "fused", side="txt")
    model = copy.deepcopy(clip.model)
    model.text_projection = None
    with pytest.raises(ValueError, match=r"its text tower \(CLIP\) does not end in a linear projection"):
        on_texts(plain(64).apply(replace(clip, model=model)))
    assert not (tmp_path / "fused").exists()


# --- Into a program


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [BARE, RESNET, pytest.param(COCA, marks=nightly), pytest.param(SIGLIP, marks=nightly)],
    ids=["bare", "resnet", "coca", "siglip"],
)
def test_every_kind_of_tower_is_exported(small, config, tmp_path):
    clip = small(config)
    x, after = pixels(clip, 3), gated(clip.width).apply(clip)
    program = torch.export.load(export(after, tmp_path / "edited.pt2")).module()
    for some in (x, x[:1]):  # any number of pictures
        torch.testing.assert_close(program(some), F.normalize(after.embed_pixels(some), dim=-1), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_an_onnx_model_gives_the_same_embeddings(small, tmp_path):
    clip = small(VIT)
    d, x = clip.width, pixels(clip, 7)
    after = hidden_layer(random(50, d)).apply(gated(d).apply(plain(d, 99).apply(clip)))  # an edit of every form
    path = export(after, tmp_path / "edited.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["edited.onnx"]
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for some in (x, x[:1], x[:2]):  # any number of pictures
        embeddings = torch.from_numpy(session.run(["embeddings"], {"pixels": some.numpy()})[0])
        torch.testing.assert_close(embeddings, F.normalize(after.embed_pixels(some), dim=-1), atol=1e-5, rtol=0)


def test_an_onnx_model_is_tried_before_it_gets_its_name(small, tmp_path, monkeypatch):
    runtime, clip = pytest.importorskip("onnxruntime"), small(VIT)

    class Program:
        def save(self, path, external_data):
            path.write_bytes(b"a model")

    class Session:
        def __init__(self, path, providers):
            pass

        def run(self, names, inputs):
            return [(F.normalize(clip.embed_pixels(torch.from_numpy(inputs["pixels"])), dim=-1) + 2e-5).numpy()]

    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: Program())
    monkeypatch.setattr(runtime, "InferenceSession", Session)
    with pytest.raises(RuntimeError, match="a.onnx' is not written because .* differ by 2.0e-05"):
        export(clip, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_what_one_onnx_file_cannot_hold_is_refused(small, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"weights of torch.bfloat16, .* expected torch.float32"):
        export(small(VIT, "bf16"), tmp_path / "a.onnx")
    monkeypatch.setattr(exporting, "ONNX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"[\d,]+ bytes; expected .* less than 1,000 bytes for ONNX"):
        export(small(VIT), tmp_path / "a.onnx")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patch, pytest.raises(ImportError, match=f"{name} is not .*the extra 'onnx'"):
            patch.setitem(sys.modules, name, None)
            export(small(VIT), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_cuda_is_exported(small, tmp_path):
    clip = small(VIT)
    clip = replace(clip, model=copy.deepcopy(clip.model).cuda())
    x, after = pixels(clip), gated(clip.width).apply(plain(clip.width).apply(clip))
    program = torch.export.load(export(after, tmp_path / "edited.pt2")).module()
    torch.testing.assert_close(program(x.cuda()).cpu(), F.normalize(after.embed_pixels(x), dim=-1), atol=1e-4, rtol=0)


@pytest.mark.promise("Nothing is written outside its target")
def test_a_half_written_file_is_never_left(small, tmp_path, monkeypatch):
    clip = small(VIT)

    def breaks(tensors, file, *_):
        with open(file, "wb") as out:
            out.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(exporting, "save_file", breaks)
    monkeypatch.setattr(torch.export, "export", lambda *args, **kwargs: None)
    monkeypatch.setattr(torch.export, "save", breaks)
    with pytest.raises(OSError, match="no space left"):
        fuse(plain(clip.width).apply(clip), tmp_path / "fused")
    with pytest.raises(OSError, match="no space left"):
        export(clip, tmp_path / "edited.pt2")
    assert [p.name for p in tmp_path.rglob("*")] == ["fused"]
