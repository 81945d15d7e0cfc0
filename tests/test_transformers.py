"""Models of transformers: wrapped, they are what open_clip's are; fused, stock transformers loads them."""

import copy
import json

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import gated, pixels, plain, random
from PIL import Image
from test_architectures import create_shallow
from torch import nn

import clipnull as cn
from clipnull.audits.probes import blocks_of, features_before_projection, projection_matrix, stage_features
from clipnull.interop.exporting import on_texts
from clipnull.interop.transformers import preprocess_config, recipe
from clipnull.interop.weight_names import as_open_clip
from clipnull.models import Clip, quiet, uses_quick_gelu
from clipnull.prototypes import synthesize

transformers = pytest.importorskip("transformers")

TEXTS = ["a photo of a dog", "a drawing of two houses and a cat in front of them, in blue"]
OPEN = {  # what the configurations below are for open_clip
    "embed_dim": 48,
    "vision_cfg": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
BOTH = {"num_hidden_layers": 2, "num_attention_heads": 2}
VISION = BOTH | {"hidden_size": 64, "intermediate_size": 256, "patch_size": 16, "image_size": 32}
TEXT = BOTH | {"hidden_size": 32, "intermediate_size": 128, "max_position_embeddings": 8, "vocab_size": 49408}
ENDS = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` with no weight left at zero or one, so that none can be confused with another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator) * (not name.startswith("logit")))
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """CLIP's tokenizer for transformers, of the vocabulary that comes with open_clip."""
    folder, ours = tmp_path_factory.mktemp("tokenizer"), open_clip.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps({names.get(k, k): v for k, v in ours.encoder.items()}))
    merges = "\n".join(" ".join(pair) for pair in ours.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    return transformers.CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def clip_of_hf(tokenizer):
    """`clip_of_hf(activation)`: a CLIPModel of random weights, and its processor."""

    def make(activation: str = "gelu", size: int = 32, **settings):
        config = transformers.CLIPConfig(
            text_config=TEXT | ENDS | {"hidden_act": activation} | settings,
            vision_config=VISION | {"hidden_act": activation},
            projection_dim=48,
        )
        crop = {"height": size, "width": size}
        images = transformers.CLIPImageProcessor(size={"shortest_edge": size}, crop_size=crop)
        torch.manual_seed(0)
        processor = transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer)
        return filled(transformers.CLIPModel(config)), processor

    return make


@pytest.fixture(scope="module")
def siglip_of_hf(tokenizer):
    """A SiglipModel of random weights with its processor; GELU as open_clip has it, not the one by tanh."""

    def make(**vision: int):
        vision = VISION | {"hidden_act": "gelu"} | vision
        text = TEXT | {"hidden_act": "gelu", "projection_size": vision["hidden_size"]}
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        size = {"height": vision["image_size"], "width": vision["image_size"]}
        images = transformers.SiglipImageProcessor(size=size)
        torch.manual_seed(0)
        processor = transformers.SiglipProcessor(image_processor=images, tokenizer=tokenizer)
        return filled(transformers.SiglipModel(config)), processor

    return make


def in_open_clip(config: dict, weights: dict, tmp_path, **settings) -> Clip:
    """The Clip of a model that open_clip builds from `config`, with `weights`, none of them left over."""
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, **settings}))
    source = f"local-dir:{tmp_path}"
    with quiet():
        model, _, preprocess = open_clip.create_model_and_transforms(source, load_weights=False)
    model.load_state_dict(weights)
    return Clip(model.eval().requires_grad_(False), preprocess, open_clip.get_tokenizer(source), source, None)


def assert_same(one: Clip, other: Clip) -> None:
    x = pixels(one)
    assert one.fingerprint == other.fingerprint and len(one.fingerprint) == 16
    torch.testing.assert_close(one.embed_pixels(x), other.embed_pixels(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.embed_texts(TEXTS), other.embed_texts(TEXTS), atol=1e-5, rtol=0)
    assert one.logit_scale == pytest.approx(other.logit_scale) and one.width == other.width


# --- the same weights in both libraries


@pytest.mark.parametrize("quick", [False, True])
def test_one_patch_fits_the_same_weights_in_both_libraries(quick, clip_of_hf, tmp_path):
    wrapped = cn.wrap(*clip_of_hf("quick_gelu" if quick else "gelu"))
    twin = in_open_clip(OPEN | {"quick_gelu": quick}, wrapped.model.as_open_clip(), tmp_path)
    assert_same(wrapped, twin)
    assert uses_quick_gelu(wrapped.model) == quick
    names = cn.Vocabulary(["dog", "cat", "house"], ["photo", "line"])
    edit = cn.unlearn(wrapped, cn.Forget(["dog"]), names, "oblique", prototypes=False)
    again = cn.Edit.load(edit.save(tmp_path / "patch.safetensors"), twin)
    x = pixels(wrapped)
    got, expected = again.apply(twin).embed_pixels(x), edit.apply(wrapped).embed_pixels(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("eos", [2, 49407])
@torch.inference_mode()
def test_padding_after_the_end_of_a_text_is_cut(clip_of_hf, eos):
    """Old configurations say 2, whatever the tokenizer: there the largest token is the end."""
    model, processor = clip_of_hf(eos_token_id=eos, max_position_embeddings=20)
    clip, lengths = cn.wrap(model, processor), []
    clip.model.inner.text_model.encoder.register_forward_hook(
        lambda *call: lengths.append(call[2]["inputs_embeds"].shape[1]), with_kwargs=True
    )
    tokens = clip.tokenizer(["a dog", "a photo of a dog"])
    expected = model.get_text_features(input_ids=tokens)
    expected = getattr(expected, "pooler_output", expected)  # of transformers 5
    torch.testing.assert_close(clip.model.encode_text(tokens), expected, atol=1e-5, rtol=0)
    assert lengths == [7]


@pytest.mark.slow
def test_siglip_is_the_same_in_both_libraries(siglip_of_hf, tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "create_model", create_shallow)
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 1}
    model, processor = siglip_of_hf(**shape, image_size=64)
    wrapped = cn.wrap(model, processor)
    config = open_clip.get_model_config("ViT-B-16-SigLIP")
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 8, "width": 32, "heads": 2, "layers": 2}
    config["text_cfg"].pop("hf_tokenizer_name")
    config["vision_cfg"]["image_size"] = 64
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    twin = in_open_clip(config, wrapped.model.as_open_clip(), tmp_path, preprocess_cfg=preprocess)
    twin = Clip(twin.model, twin.preprocess, wrapped.tokenizer, twin.name, None)
    assert_same(wrapped, twin)


def test_other_weights_or_another_preprocessing_have_another_fingerprint(clip_of_hf):
    model, processor = clip_of_hf()
    clips = [cn.wrap(model, processor)]
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.vision_model.encoder.layers[1].self_attn.k_proj.weight[3, 3] += 1e-3
    clips.append(cn.wrap(other, processor))
    swapped = copy.deepcopy(model)
    attention = swapped.vision_model.encoder.layers[0].self_attn
    attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj
    clips.append(cn.wrap(swapped, processor))
    plainer = copy.deepcopy(processor)
    plainer.image_processor.image_mean = [0.5, 0.5, 0.5]
    clips.append(cn.wrap(model, plainer))
    assert len({clip.fingerprint for clip in clips}) == 4
    with pytest.raises(ValueError, match="do not match; expected those the edit was made for"):
        plain(48, fingerprint=clips[0].fingerprint).apply(clips[1])
    with pytest.raises(ValueError, match=r"open_clip has no place for its weight 'vision_model.adapter.weight'"):
        as_open_clip(model.state_dict() | {"vision_model.adapter.weight": torch.zeros(1)}, "CLIP")


# --- in


def test_a_wrapped_model_gives_what_transformers_gives(clip_of_hf, siglip_of_hf):
    noise = Image.effect_noise((50, 40), 60).convert("RGB")
    for model, processor in (clip_of_hf(), siglip_of_hf()):
        clip = cn.wrap(model, processor)
        inputs = processor(text=TEXTS[:1], images=noise, return_tensors="pt", padding="max_length", max_length=8)
        with torch.inference_mode():
            output = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"])
        z = clip.embed_pixels(clip.preprocess(noise)[None])
        torch.testing.assert_close(F.normalize(z, dim=-1), output.image_embeds, atol=1e-6, rtol=0)
        torch.testing.assert_close(clip.embed_texts(TEXTS[:1]), output.text_embeds, atol=1e-6, rtol=0)


def test_a_wrapped_model_shares_its_weights_and_stays_as_it_is(clip_of_hf):
    model, processor = clip_of_hf()
    model.train()
    clip = cn.wrap(model, processor, "mine")
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not clip.model.training and not any(p.requires_grad for p in clip.model.parameters())
    assert clip.weights.data_ptr() == model.visual_projection.weight.data_ptr() and clip.name == "mine"
    before = copy.deepcopy(model.state_dict())
    plain(48).apply(clip)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert cn.wrap(torch.compile(model, backend="eager"), processor).fingerprint == clip.fingerprint


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_edits_of_every_form_act_on_a_wrapped_model(kind, clip_of_hf, siglip_of_hf):
    clip = cn.wrap(*(clip_of_hf() if kind == "clip" else siglip_of_hf()))
    d, x = clip.width, pixels(clip)
    z = clip.embed_pixels(x)
    left, right = random(d, 2).double(), random(d, 2, seed=1).double()
    unit = cn.Edit(left, right, "neuron", threshold=torch.tensor([0.1, 0.2]).double())
    edits = [plain(d), plain(d, 1, bias=random(d).double()), unit, gated(d)]
    for edit in edits:
        after = edit.apply(clip)
        torch.testing.assert_close(after.embed_pixels(x), edit.images(z), atol=1e-4, rtol=1e-4)
        assert torch.equal(after.embed_texts(TEXTS), clip.embed_texts(TEXTS))
        assert edit.remove(after) is clip and after.fingerprint == clip.fingerprint
    both = edits[1].apply(edits[0].apply(clip))
    expected = edits[1].images(edits[0].images(z))
    torch.testing.assert_close(both.embed_pixels(x), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(clip.embed_pixels(x), z)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_prototypes_and_audits_work_on_a_wrapped_model(kind, clip_of_hf, siglip_of_hf, corner):
    clip = cn.wrap(*(clip_of_hf() if kind == "clip" else siglip_of_hf()))
    targets = F.normalize(random(2, clip.width), dim=1)
    before, after = (synthesize(clip, targets, steps, rate=rate)[1] for steps, rate in ((1, 0.0), (3, 0.1)))
    assert ((after * targets).sum(1) > (before * targets).sum(1)).all()
    few = corner.where(torch.arange(len(corner)) < 3)
    f, (w, b) = features_before_projection(clip, few), projection_matrix(clip)
    torch.testing.assert_close(f.double() @ w + b, cn.embed(clip, few).double(), atol=1e-4, rtol=1e-4)
    assert list(blocks_of(clip.model.visual)) == ["layers 1 of 2", "layers 2 of 2"]
    stages = stage_features(clip, few)
    assert [tuple(x.shape) for x in stages.values()] == [(3, 64)] * 2  # one block, and what is before the projection


def test_unlearn_compare_and_cards_work_on_a_wrapped_model(clip_of_hf, corner):
    clip, request = cn.wrap(*clip_of_hf(), "openai/clip-vit-base-patch32"), cn.Forget(["bird"])
    edit = cn.unlearn(clip, request, corner.vocabulary, "nullspace", prototypes=False)
    assert edit.model == clip.name and edit.fingerprint == clip.fingerprint
    assert cn.compare(clip, edit.apply(clip), corner, request).before.shape == (3, 3)
    arguments = 'from_pretrained("openai/clip-vit-base-patch32")'
    assert recipe(clip, '"openai/clip-vit-base-patch32"') == (
        f"cn.wrap(transformers.CLIPModel.{arguments}, transformers.AutoProcessor.{arguments})"
    )


# --- a model and a processor that do not match


def changed(make, part, **settings):
    """A model and its processor with other `settings` of the `part` "image_processor" or "tokenizer"."""
    model, processor = make()
    processor = copy.deepcopy(processor)
    for name, value in settings.items():
        setattr(getattr(processor, part), name, value)
    return model, processor


REFUSED = {
    "a linear layer": (lambda make: (nn.Linear(2, 2), None), "model: Linear; expected a CLIPModel or SiglipModel"),
    "a tokenizer": (lambda make: (make()[0], make()[1].tokenizer), r"processor: \w+; expected one with an image_proc"),
    "other pictures": (lambda make: (make()[0], make(size=48)[1]), r"processor: .* \(48, 48\) pixels; .* \(32, 32\)"),
    "too many tokens": (lambda make: make(vocab_size=1000, eos_token_id=999), "49,408 tokens; expected at most 1,000"),
    "another end": (lambda make: make(eos_token_id=5, bos_token_id=4), "ends .* with the token 49407; expected 5"),
    "factor": (lambda make: changed(make, "image_processor", rescale_factor=1 / 127.5), "factor': 0.0078.*1/255"),
    "size": (lambda make: changed(make, "image_processor", do_center_crop=False), r"size = \{.*expected the shortest"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_model_and_a_processor_that_do_not_match_are_refused(what, clip_of_hf):
    make, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        cn.wrap(*make(clip_of_hf))


def test_an_image_processor_as_open_clips_preprocess_cfg(clip_of_hf, siglip_of_hf):
    images = clip_of_hf()[1].image_processor
    assert preprocess_config(images) == open_clip.transform.PreprocessCfg(size=(32, 32)).__dict__
    squashed = preprocess_config(siglip_of_hf()[1].image_processor)
    assert squashed["resize_mode"] == "squash" and squashed["mean"] == (0.5, 0.5, 0.5)
    larger = copy.deepcopy(images)
    larger.size, larger.do_normalize, larger.resample = {"shortest_edge": 36}, False, 2
    expected = {"resize_mode": "shortest 36", "size": (32, 32), "mean": (0.0, 0.0, 0.0), "interpolation": "bilinear"}
    assert preprocess_config(larger).items() >= expected.items()


# --- out


def test_a_fused_model_is_the_edited_one_and_wraps_again(clip_of_hf, siglip_of_hf, tmp_path):
    model, processor = clip_of_hf()
    clip = cn.wrap(model, processor)
    folder = cn.fuse(plain(48).apply(clip), tmp_path / "fused")
    again = cn.wrap(transformers.CLIPModel.from_pretrained(folder), transformers.CLIPProcessor.from_pretrained(folder))
    x = pixels(clip)
    torch.testing.assert_close(again.embed_pixels(x), plain(48).images(clip.embed_pixels(x)), atol=1e-5, rtol=1e-4)
    assert torch.equal(again.embed_texts(TEXTS), clip.embed_texts(TEXTS)) and again.fingerprint != clip.fingerprint

    siglip = cn.wrap(*siglip_of_hf())
    after = plain(siglip.width).apply(siglip)
    folder = cn.fuse(after, tmp_path / "siglip", side="text")  # its image tower has no place for an edit
    again = cn.wrap(transformers.SiglipModel.from_pretrained(folder), siglip.preprocess.processor)
    torch.testing.assert_close(again.embed_texts(TEXTS), on_texts(after).embed_texts(TEXTS), atol=1e-5, rtol=0)


def test_an_edit_that_stock_transformers_cannot_hold_is_refused(clip_of_hf, siglip_of_hf, tmp_path):
    clip, siglip = cn.wrap(*clip_of_hf()), cn.wrap(*siglip_of_hf())
    d = clip.width
    for after, message in [
        (plain(d, bias=random(d).double()).apply(clip), "'nullspace' cannot be fused into a CLIPModel"),
        (gated(d).apply(clip), "'gated' cannot be fused into a CLIPModel; expected a linear edit without a bias"),
        (plain(siglip.width).apply(siglip), "'nullspace' cannot be fused into a SiglipModel; .* side='text'"),
    ]:
        with pytest.raises(ValueError, match=message):
            cn.fuse(after, tmp_path / "fused")
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_and_replaces_nothing(clip_of_hf, tmp_path, monkeypatch):
    clip, folder = cn.wrap(*clip_of_hf()), tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"folder: .*mine' exists and is not empty; expected a new one"):
        cn.fuse(clip, folder)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(type(clip.preprocess.processor), "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        cn.fuse(clip, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
