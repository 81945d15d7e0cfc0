"""Published weights: every pair of architecture and tag that open_clip lists is built as it was trained."""

import copy
import logging
import warnings
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from helpers import VIT
from test_architectures import create_shallow
from torch import nn

import clipnull as cn
from clipnull.models import uses_quick_gelu

PAIRS = open_clip.list_pretrained()


@pytest.fixture
def offline(monkeypatch):
    """Weights that hold nothing, no tokenizers, configurations of transformers from thin air, towers of one layer."""
    transformers = pytest.importorskip("transformers", reason="open_clip needs transformers for some text towers")
    kinds = {"xlm": "xlm-roberta", "roberta": "roberta", "nllb": "m2m_100", "mt5": "mt5"}

    def config(name, *args, **kwargs):
        kind = next(kind for start, kind in kinds.items() if start in name.lower())
        return transformers.AutoConfig.for_model(kind)

    shallow = copy.deepcopy(open_clip.factory._MODEL_CONFIGS)
    for tower in (built[part] for built in shallow.values() for part in ("vision_cfg", "text_cfg")):
        if "layers" in tower:
            tower["layers"] = [1] * 4 if isinstance(tower["layers"], list) else 1
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", shallow)
    monkeypatch.setattr(timm, "create_model", create_shallow)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *args, **kwargs: "weights.safetensors")
    monkeypatch.setattr(open_clip.factory, "load_checkpoint", lambda *args, **kwargs: None)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *args, **kwargs: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", config)


def trained_as(name, tag):
    """(QuickGELU, preprocessing) as the tag says, and where it is silent, as the architecture does."""
    said, built = open_clip.get_pretrained_cfg(name, tag), open_clip.get_model_config(name)
    prepared = {key: said[key] for key in ("mean", "std", "interpolation", "resize_mode") if said.get(key) is not None}
    return said.get("quick_gelu", built.get("quick_gelu", False)), prepared


def built_as(name, tag):
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error", UserWarning)
        clip = cn.load(name, tag, device="meta")
    return uses_quick_gelu(clip.model), clip.model.visual.preprocess_cfg


def test_open_clip_lists_what_was_looked_at():
    assert len(PAIRS) >= 196
    wrong = [p for p in PAIRS if trained_as(*p)[0] != open_clip.get_model_config(p[0]).get("quick_gelu", False)]
    assert len(wrong) >= 27 and ("ViT-B-16", "openai") in wrong  # an architecture alone would be built with GELU


@pytest.mark.parametrize(
    "pairs",
    [
        [("ViT-B-16", "openai"), ("ViT-B-32", "metaclip_400m"), ("ViT-B-32", "laion2b_s34b_b79k"), ("RN50", "openai")],
        pytest.param(PAIRS, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_a_tag_is_built_as_it_was_trained(offline, pairs):
    for name, tag in pairs:
        quick, prepared = trained_as(name, tag)
        found, preprocessing = built_as(name, tag)
        assert found == quick, (name, tag)
        assert {key: preprocessing[key] for key in prepared} == prepared, (name, tag)


def test_the_fingerprint_tells_activations_and_preprocessing_apart_and_no_names(small):
    clip = small(VIT)
    quick = copy.deepcopy(clip.model)
    for block in quick.visual.transformer.resblocks:
        block.mlp.gelu = open_clip.transformer.QuickGELU()
    assert uses_quick_gelu(quick) and not uses_quick_gelu(clip.model)
    squashed = copy.deepcopy(clip.model)
    squashed.visual.preprocess_cfg["resize_mode"] = "squash"
    assert len({replace(clip, model=model).fingerprint for model in (clip.model, quick, squashed)}) == 3

    class Renamed(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner, self.visual = model, nn.Module()
            self.visual.preprocess_cfg = model.visual.preprocess_cfg

    assert replace(clip, model=Renamed(clip.model)).fingerprint == clip.fingerprint


def test_a_fused_checkpoint_keeps_the_activation(small, tmp_path):
    clip = small({**VIT, "quick_gelu": True})
    folder = cn.fuse(clip, tmp_path / "fused")
    assert uses_quick_gelu(open_clip.create_model(f"local-dir:{folder}"))


def test_what_cannot_be_downloaded_says_what_to_do(monkeypatch, caplog):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", unreachable)
    with pytest.raises(
        OSError, match=r"pretrained: 'openai' of ViT-B-32 cannot be downloaded .*no route.*HF_HOME.*FILE"
    ):
        cn.load("ViT-B-32", "openai", device="cpu")
    assert not caplog.records  # told once


@pytest.mark.filterwarnings("ignore:`torch.jit.s")
def test_a_program_in_place_of_weights_is_refused_and_not_loaded(tmp_path, monkeypatch):
    path = tmp_path / "openai.pt"
    torch.jit.script(nn.Linear(2, 2)).save(path)
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("a program was loaded"))
    with pytest.raises(ValueError, match=r"pretrained: .*openai\.pt.* cannot be read .*TorchScript.*no code"):
        cn.load("ViT-B-32", str(path), device="cpu")


def test_warnings_that_concern_the_user_are_heard(monkeypatch, caplog):
    create = open_clip.create_model_and_transforms

    def warning(*args, **kwargs):
        logging.info("a step of loading")
        logging.warning("position embeddings were resized")
        return create(*args, **kwargs)

    monkeypatch.setattr(open_clip, "create_model_and_transforms", warning)
    with caplog.at_level(logging.INFO):
        cn.load(device="cpu")
    assert [record.getMessage() for record in caplog.records] == ["position embeddings were resized"]
