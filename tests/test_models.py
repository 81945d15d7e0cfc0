"""Loading a model, what a Clip says of itself, and how its batches fit into memory."""

import copy
import logging
import warnings
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from helpers import VIT, pixels, plain
from safetensors.torch import save_file
from test_architectures import create_shallow, one_layer
from torch import nn

import clipnull as cn
from clipnull import embedding
from clipnull.files import data_folder
from clipnull.models import Batch, settings_of, uses_quick_gelu


def test_the_embedded_model_is_what_its_card_says(clip):
    assert (data_folder("miniclip") / "open_clip_model.safetensors").stat().st_size <= 30e6
    assert isinstance(clip.model, open_clip.CLIP) and not any(p.requires_grad for p in clip.model.parameters())
    assert (clip.name, clip.pretrained, clip.edits, clip.base, clip.stored) == ("miniclip", None, (), None, None)
    assert (clip.width, clip.image_size, clip.device.type) == (256, 112, "cpu")


def test_text_embeddings_are_unit_and_know_words(clip):
    z = clip.embed_texts(["a dog", "a puppy", "a house"])
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    assert z[0] @ z[1] > z[0] @ z[2] + 0.1
    for bad in ("a dog", []):
        with pytest.raises(ValueError, match="texts"):
            clip.embed_texts(bad)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("ViT-B32",), "name: 'ViT-B32' .*'ViT-B-32'"),
        (("miniclpi",), "name: 'miniclpi' .*'miniclip'"),
        (("ViT-B-32", "opnai"), "pretrained: 'opnai' .*'openai'"),
        (("miniclip", "openai"), "pretrained: 'openai' .*miniclip"),
        (("miniclip", None, "cpuu"), "device: 'cpuu'"),
        (("miniclip", None, "cuda:77"), "device: 'cuda:77'"),
    ],
)
def test_unknown_models_tags_and_devices_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        cn.load(*arguments)


def test_a_fingerprint_is_of_every_weight_of_activation_and_preprocessing_and_of_no_names(small):
    class Renamed(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner, self.visual = model, nn.Module()
            self.visual.preprocess_cfg = model.visual.preprocess_cfg

    clip = small(VIT)
    same = [copy.deepcopy(clip.model), Renamed(clip.model)]
    assert {replace(clip, model=model).fingerprint for model in same} == {clip.fingerprint}
    assert len(clip.fingerprint) == 16 and plain(clip.width).apply(clip).fingerprint == clip.fingerprint
    others = {name: copy.deepcopy(clip.model) for name in ("visual.ln_post.bias", "logit_scale", "text_projection")}
    for name, model in others.items():
        model.state_dict()[name].view(-1)[:1] += 1e-3
    quick, squashed = copy.deepcopy(clip.model), copy.deepcopy(clip.model)
    for block in quick.visual.transformer.resblocks:
        block.mlp.gelu = open_clip.transformer.QuickGELU()
    squashed.visual.preprocess_cfg["resize_mode"] = "squash"
    assert uses_quick_gelu(quick) and not uses_quick_gelu(clip.model)
    models = [clip.model, quick, squashed, *others.values()]
    assert len({replace(clip, model=model).fingerprint for model in models}) == len(models)


# --- batches, and a GPU that runs out of memory


def test_embeddings_do_not_depend_on_the_batch(small):
    clip = small(VIT)
    x = pixels(clip)
    torch.testing.assert_close(clip.embed_pixels(x, batch=2), clip.embed_pixels(x), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="batch: 0"):
        clip.embed_pixels(x, batch=0)


def test_pictures_are_embedded_in_smaller_batches(small, corner, monkeypatch):
    clip, sizes = small(VIT), []
    expected, encode = cn.embed(clip, corner), clip.model.encode_image

    def scarce(rows, normalize):
        sizes.append(len(rows))
        if len(rows) > 5:
            raise torch.OutOfMemoryError
        return encode(rows, normalize=normalize)

    monkeypatch.setattr(clip.model, "encode_image", scarce)
    monkeypatch.setattr(embedding, "BATCH", 8)
    with pytest.warns(UserWarning, match="batch: .* 8 .* 4") as warned:
        torch.testing.assert_close(cn.embed(clip, corner), expected)
    assert len(warned) == 1 and sizes.count(8) == 1  # from one batch that is read to the next

    def never(rows):
        raise torch.OutOfMemoryError("Tried to allocate 2 GiB")

    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"), pytest.warns(UserWarning):
        Batch(4).through(never, 4)


# --- published weights: every pair of architecture and tag that open_clip lists is built as it was trained

PAIRS = open_clip.list_pretrained()


@pytest.fixture
def offline(monkeypatch):
    """Weights that hold nothing, no tokenizers, configurations of transformers from thin air, towers of one layer."""
    transformers = pytest.importorskip("transformers", reason="open_clip needs transformers for some text towers")
    kinds = {"xlm": "xlm-roberta", "roberta": "roberta", "nllb": "m2m_100", "mt5": "mt5"}

    def for_name(name, *args, **kwargs):
        kind = next(kind for start, kind in kinds.items() if start in name.lower())
        return transformers.AutoConfig.for_model(kind)

    shallow = copy.deepcopy(open_clip.factory._MODEL_CONFIGS)
    for config in shallow.values():
        config |= {part: one_layer(config[part]) for part in ("vision_cfg", "text_cfg")}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", shallow)
    monkeypatch.setattr(timm, "create_model", create_shallow)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *args, **kwargs: "weights.safetensors")
    monkeypatch.setattr(open_clip.factory, "load_checkpoint", lambda *args, **kwargs: None)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *args, **kwargs: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", for_name)


def trained_as(name, tag):
    """(QuickGELU, preprocessing) as the tag says, and where it is silent, as the architecture does."""
    published, built = open_clip.get_pretrained_cfg(name, tag), open_clip.get_model_config(name)
    keys = [key for key in ("mean", "std", "interpolation", "resize_mode") if published.get(key) is not None]
    return published.get("quick_gelu", built.get("quick_gelu", False)), {key: published[key] for key in keys}


@pytest.mark.parametrize(
    "pairs",
    [
        [("ViT-B-16", "openai"), ("ViT-B-32", "metaclip_400m"), ("ViT-B-32", "laion2b_s34b_b79k"), ("RN50", "openai")],
        pytest.param(PAIRS, marks=pytest.mark.nightly),
    ],
    ids=["some", "all"],
)
def test_a_tag_is_built_as_it_was_trained(offline, pairs):
    for name, tag in pairs:
        quick_gelu, prepared = trained_as(name, tag)
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("error", UserWarning)
            clip = cn.load(name, tag, device="meta")
        assert uses_quick_gelu(clip.model) == quick_gelu, (name, tag)
        assert {key: clip.model.visual.preprocess_cfg[key] for key in prepared} == prepared, (name, tag)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file of weights of the architecture "tiny", which open_clip does not know."""
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**VIT).state_dict(), path := tmp_path_factory.mktemp("weights") / "weights.safetensors")
    return path


@pytest.fixture
def tiny(monkeypatch):
    """`tiny(**tags)`: that architecture, with published weights of these settings."""

    def publish(**tags):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", copy.deepcopy(VIT))
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)

    return publish


SQUASHED = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "interpolation": "bilinear", "resize_mode": "squash", "url": ""}


def test_a_file_of_weights_gets_the_settings_of_its_tag(tiny, checkpoint):
    path, quick = checkpoint, SQUASHED | {"quick_gelu": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(first=quick, second=quick)
        alike = cn.load("tiny", str(path), device="cpu")
        tiny(first=quick, second={"url": ""})
        first, second = (cn.load("tiny", f"{tag}@{path}", device="cpu") for tag in ("first", "second"))
    assert alike.fingerprint == first.fingerprint != second.fingerprint and uses_quick_gelu(first.model)
    assert first.model.visual.preprocess_cfg.items() >= {k: v for k, v in SQUASHED.items() if k != "url"}.items()
    with pytest.warns(UserWarning, match="pretrained: .*'TAG@FILE'.*'first', 'second'"):
        assert cn.load("tiny", str(path), device="cpu").fingerprint == second.fingerprint
    tags = [(name, tag) for name in open_clip.list_models() for tag in open_clip.list_pretrained_tags_by_model(name)]
    for name, tag in tags:  # what a file gets by `TAG@FILE` is what the tag itself gets
        quick_gelu, prepared = trained_as(name, tag)
        expected = {"force_quick_gelu": quick_gelu} | {f"image_{key}": value for key, value in prepared.items()}
        assert (settings := settings_of(name, tag)) | expected == settings


@pytest.mark.parametrize(
    ("name", "pretrained", "match"),
    [
        ("tiny", None, "which weights of tiny.* expected 'first', 'second', a file, or 'none'"),
        ("ViT-S-32", None, "which weights of ViT-S-32.* expected a file, or 'none'"),
        ("miniclip", "none", "'none' given for miniclip"),
        ("tiny", "frist", "'frist' .*'first'"),
        ("tiny", "{file}x", "is unknown; did you mean '{file}'"),
        ("tiny", "first@{file}x", "is unknown; did you mean '{file}'"),
        ("tiny", "{folder}/model.safetensors.index.json", "cannot be read"),
        ("tiny", "{folder}/biased.safetensors", "belong together"),
    ],
)
def test_weights_that_are_not_there_or_of_another_kind_are_named(tiny, checkpoint, name, pretrained, match):
    tiny(first=SQUASHED, second={"url": ""})
    file = checkpoint
    save_file({"logit_bias": torch.tensor(-10.0)}, file.with_name("biased.safetensors"))
    file.with_name("model.safetensors.index.json").touch()
    places = {"file": file, "folder": file.parent}
    with pytest.raises(ValueError, match=f"pretrained: .*{match.format(**places)}"):
        cn.load(name, pretrained and pretrained.format(**places), device="cpu")
    assert cn.load("tiny", "none", device="cpu").pretrained == "none"


def test_what_cannot_be_downloaded_says_what_to_do(monkeypatch):
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: 1 / 0)
    with pytest.raises(OSError, match=r"pretrained: 'openai' .*by zero.*HF_HOME.*FILE"):
        cn.load("ViT-B-32", "openai", device="cpu")


@pytest.mark.filterwarnings("ignore:`torch.jit.s")
def test_a_program_in_place_of_weights_is_refused_and_not_loaded(tmp_path, monkeypatch):
    path = tmp_path / "openai.pt"
    torch.jit.script(nn.Linear(2, 2)).save(path)
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("a program was loaded"))
    with pytest.raises(ValueError, match=r"pretrained: .*openai\.pt.*TorchScript"):
        cn.load("ViT-B-32", str(path), device="cpu")


def test_loading_is_silent_but_for_warnings_and_leaves_the_logger_as_it_was(monkeypatch, caplog):
    create, root = open_clip.create_model_and_transforms, logging.root
    before = root.handlers[:], root.manager.disable

    def warning(*args, **kwargs):
        logging.info("a step of loading")
        logging.warning("position embeddings were resized")
        return create(*args, **kwargs)

    monkeypatch.setattr(open_clip, "create_model_and_transforms", warning)
    with caplog.at_level(logging.INFO):
        cn.load(device="cpu")
    assert caplog.messages == ["position embeddings were resized"]
    assert (root.handlers, root.manager.disable) == before
