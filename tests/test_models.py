import copy
import json
from dataclasses import replace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from helpers import VIT, plain, python, random
from safetensors.torch import load_file, save_file

import clipnull as cn
from clipnull.files import data_folder
from clipnull.models import find_projection


@pytest.mark.slow
def test_stock_open_clip_loads_the_embedded_model_without_clipnull(clip):
    code = (
        "import sys, open_clip, torch\n"
        "model, _, preprocess = open_clip.create_model_and_transforms('local-dir:' + sys.argv[1])\n"
        "tokens = open_clip.get_tokenizer('local-dir:' + sys.argv[1])(['a dog'])\n"
        "z = model.eval().encode_text(tokens, normalize=True)\n"
        "assert 'clipnull' not in sys.modules\n"
        "print(z[0, :4].tolist())"
    )
    out = torch.tensor(json.loads(python(code, data_folder("miniclip"))))
    torch.testing.assert_close(out, clip.embed_texts(["a dog"])[0, :4], atol=1e-5, rtol=0)


def test_embedded_model_is_what_its_card_says(clip):
    folder = data_folder("miniclip")
    assert (folder / "open_clip_model.safetensors").stat().st_size <= 30e6
    assert isinstance(clip.model, open_clip.CLIP)
    assert isinstance(clip.tokenizer, open_clip.SimpleTokenizer)
    assert clip.width >= 256
    assert not any(p.requires_grad for p in clip.model.parameters())


def test_text_embeddings_are_unit_and_know_words(clip):
    z = clip.embed_texts(["a dog", "a puppy", "a house"])
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    assert z[0] @ z[1] > z[0] @ z[2] + 0.1


ARCHITECTURES = {
    "RN50": "visual.attnpool.c_proj",
    "ViT-B-32": "visual",
    "convnext_base": "visual.head.proj",
    "convnext_large_d": "visual.head.mlp.fc2",
    "MobileCLIP-S1": "visual.trunk.head.fc",
    "EVA02-B-16": "visual.trunk.head",
    "coca_base": "visual",
}
SLOW = ("convnext_base", "convnext_large_d", "MobileCLIP-S1")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ARCHITECTURES]
)
def test_the_projection_of_real_architectures_is_found_and_linear(name):
    with torch.device("meta"):
        model = open_clip.create_model(name, load_weights=False, pretrained_text=False, device="meta")
    projection = find_projection(model)
    config = open_clip.get_model_config(name)
    assert projection.module == ARCHITECTURES[name]
    assert projection.width == config["embed_dim"]


@pytest.mark.slow
def test_an_edit_is_exact_on_a_real_architecture():
    clip = cn.load("RN50", device="cpu")  # the one whose weights bypass the module's forward
    edit, pixels = plain(clip.width), random(2, 3, clip.image_size, clip.image_size, seed=1)
    torch.nn.init.normal_(clip.model.visual.attnpool.c_proj.bias)
    expected = F.normalize(edit.transform(clip.embed_pixels(pixels)), dim=-1)
    got = F.normalize(edit.apply(clip).embed_pixels(pixels), dim=-1)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_tower_without_a_linear_end_has_a_place_for_one():
    with torch.device("meta"):
        model = open_clip.create_model("ViT-B-16-SigLIP", load_weights=False, pretrained_text=False, device="meta")
    projection = find_projection(model)
    assert (projection.module, projection.weight, projection.width) == ("visual.head.proj", None, 768)


def test_towers_without_a_linear_end_are_refused():
    with pytest.raises(ValueError, match="image tower .Conv2d. does not end in a linear projection"):
        find_projection(torch.nn.Conv2d(3, 4, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B32",), "name: 'ViT-B32' is not known; did you mean 'ViT-B-32'"),
        (("miniclpi",), "did you mean 'miniclip'"),
        (("ViT-B-32", "opnai"), "pretrained: 'opnai' is not known; did you mean 'openai'"),
        (("miniclip", "openai"), "pretrained: 'openai' given for miniclip"),
    ],
)
def test_unknown_models_and_tags_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cn.load(*arguments)


def test_weights_that_do_not_match_are_refused(tmp_path):
    weights = load_file(data_folder("miniclip") / "open_clip_model.safetensors")
    weights["visual.head.proj.weight"] = torch.zeros(128, 1280)
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_bytes((data_folder("miniclip") / "open_clip_config.json").read_bytes())
    with pytest.raises(ValueError, match="do not match the architecture"):
        cn.load(f"local-dir:{tmp_path}")


def test_texts_must_be_a_list(clip):
    for bad in ("a dog", []):
        with pytest.raises(ValueError, match="texts"):
            clip.embed_texts(bad)


def test_a_fingerprint_is_of_every_weight_and_of_the_unedited_model(small):
    clip = small(VIT)
    assert (
        len(clip.fingerprint) == 16 and clip.fingerprint == replace(clip, model=copy.deepcopy(clip.model)).fingerprint
    )
    assert plain(clip.width).apply(clip).fingerprint == clip.fingerprint
    for name, weight in clip.model.state_dict().items():
        if name.endswith(("ln_post.bias", "logit_scale", "text_projection")):
            model = copy.deepcopy(clip.model)
            model.state_dict()[name].view(-1)[:1] += 1e-3
            assert replace(clip, model=model).fingerprint != clip.fingerprint, f"{name} {tuple(weight.shape)}"


def test_what_a_clip_says_of_itself(clip):
    assert (clip.name, clip.pretrained, clip.edits, clip.base) == ("miniclip", None, (), None)
    assert (clip.width, clip.image_size, clip.device.type) == (256, 112, "cpu")
    assert clip.weights is clip.model.visual.head.proj.weight
    assert clip.logit_scale == pytest.approx(float(clip.model.logit_scale.exp()))


def test_embeddings_do_not_depend_on_the_batch(clip):
    texts, pixels = ["a dog", "a house", "a red car"], random(3, 3, clip.image_size, clip.image_size)
    torch.testing.assert_close(clip.embed_texts(texts, batch=1), clip.embed_texts(texts), atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.embed_pixels(pixels, batch=2), clip.embed_pixels(pixels), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="batch: 0"):
        clip.embed_pixels(pixels, batch=0)
