"""Every architecture of open_clip: its projection is found, and stock open_clip loads a fused edit exactly.

`python tests/test_architectures.py` writes the table clipnull/ARCHITECTURES.md anew.
"""

import json
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import plain, project

import clipnull as cn
from clipnull.interop.exporting import fuse
from clipnull.layers import takes_bias
from clipnull.models import Clip, quiet
from clipnull.towers import Projection, find_projection

TABLE = Path(cn.__file__).parent / "ARCHITECTURES.md"
NAMES = open_clip.list_models()
TEXT = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
SHALLOW = {
    "convnext": {"depths": (1, 1, 1, 1)},
    "swin": {"depths": (1, 1, 1, 1)},
    "fastvit": {"layers": (1, 1, 1, 1)},
    "fastvit_mci3": {"layers": (1, 1, 1, 1, 1)},
    "fastvit_mci4": {"layers": (1, 1, 1, 1, 1)},
}
CREATE = timm.create_model


def tower_of(name: str) -> str:
    """The configuration of the image tower of an architecture."""
    config = open_clip.get_model_config(name)
    return json.dumps([config["vision_cfg"], config["embed_dim"]], sort_keys=True)


@cache
def projection_of(tower: str) -> Projection:
    """The projection of an image tower with one layer a stage, without memory; more layers leave it in its place."""
    vision, embed_dim = json.loads(tower)
    model = torch.nn.Module()
    with torch.device("meta"):
        model.visual = open_clip.model._build_vision_tower(embed_dim, one_layer(vision))
    projection = find_projection(model)
    assert projection.width == embed_dim
    return projection


def one_layer(vision: dict) -> dict:
    """The configuration of an image tower with one layer a stage."""
    layers = {"layers": [1] * 4 if isinstance(vision["layers"], list) else 1} if "layers" in vision else {}
    return vision | layers


def row_of(name: str) -> tuple[str, str, str]:
    """Where an architecture has its projection, and what becomes of a linear edit and of one with a bias."""
    captions = "; captions still leak" if "multimodal_cfg" in open_clip.get_model_config(name) else ""
    projection = projection_of(tower_of(name))
    where = projection.module if projection.transposed else f"{projection.module}.proj"
    if projection.weight is None:
        return f"none; its place is `{where}`", "inserted: `timm_proj: linear`", "inserted: `timm_proj_bias: true`"
    if projection.bias is not None:
        return f"`{where}`, Linear with bias", "fused", "fused"
    if takes_bias(projection):
        return f"`{where}`, Linear", "fused", "inserted: `timm_proj_bias: true`"
    return f"`{where}`, Parameter", f"fused{captions}", "after the tower; `fuse` refuses, `export` takes it"


HEAD = """# The {} architectures of open_clip

Where each keeps its image projection, and what `edit.apply` and `fuse` make of an edit there. *Fused*: multiplied into
the weights, at no cost. *Inserted*: open_clip has a place for what the tower lacks; `apply` puts it in and `fuse` names
it in the config, so that stock open_clip loads the result. Gated edits run after any tower; `export` takes them.
Written by `python tests/test_architectures.py`; the tests there measure every distinct tower.

| architectures | number | projection | a linear edit | one with a bias |
|---|---|---|---|---|
"""


def table() -> str:
    rows = defaultdict(list)
    for name in NAMES:
        rows[row_of(name)].append(name)
    return HEAD.format(len(NAMES)) + "".join(
        f"| {', '.join(names)} | {len(names)} | {' | '.join(row)} |\n" for row, names in rows.items()
    )


def size(vision: dict) -> int:
    """Pixels a side of as small a picture as the tower `shallow` makes can take."""
    trunk = vision.get("timm_model_name", "")
    return 224 if "swin" in trunk else 56 if "patch14" in trunk else 2 * (vision.get("patch_size") or 32)


def shallow(name: str) -> dict:
    """The configuration of `name` with one layer a stage, for small pictures, and with next to no text tower."""
    config = open_clip.get_model_config(name)
    coca = "multimodal_cfg" in config
    config["vision_cfg"] = one_layer(config["vision_cfg"]) | {"image_size": size(config["vision_cfg"])}
    config["custom_text"] = config.get("custom_text", False) or "hf_model_name" in config["text_cfg"]
    config["text_cfg"] = TEXT | {"embed_cls": coca, "output_tokens": coca}
    if coca:
        config["multimodal_cfg"] = TEXT
    config.pop("quick_gelu", None)
    return config


def create_shallow(name: str, **kwargs) -> torch.nn.Module:
    """timm's trunk `name` with one layer a stage, for small pictures if it has to know."""
    family = next((start for start in sorted(SHALLOW, reverse=True) if name.startswith(start)), None)
    small = SHALLOW[family] if family else {"depth": 1, "img_size": size({"timm_model_name": name})}
    return CREATE(name, **small, **kwargs)


def distinct() -> list[str]:
    """One architecture for each image tower that differs in more than depth and picture size."""
    towers = {}
    for name in NAMES:
        config = shallow(name)
        if "timm_model_name" in config["vision_cfg"]:
            config["vision_cfg"]["timm_model_name"] = config["vision_cfg"]["timm_model_name"].rstrip("0123456789")
        towers.setdefault(json.dumps(config, sort_keys=True), name)
    return list(towers.values())


@pytest.fixture
def quick(monkeypatch):
    """One layer a stage, and initial weights without the inverse error function, which takes most of the time."""
    monkeypatch.setattr(timm, "create_model", create_shallow)
    monkeypatch.setattr(timm.layers.weight_init, "_trunc_normal_", lambda x, mean, std, a, b: x.uniform_(-std, std))
    with quiet():
        yield


@pytest.mark.slow
def test_every_architecture_is_fused_or_inserted_as_the_committed_table_says(quick):
    assert len(NAMES) >= 144
    assert TABLE.read_text(encoding="utf-8") == table()


NIGHTLY = pytest.mark.nightly
QUICK = ("ViT-B-32", "EVA02-B-16")  # a Parameter and a Linear with bias
KINDS = ("RN50", "coca_ViT-B-32", "convnext_base", "MobileCLIP2-S0", "ViT-B-32-SigLIP2-256")  # of other towers


def by_tier(name: str):
    return pytest.param(name, marks=() if name in QUICK else pytest.mark.slow if name in KINDS else NIGHTLY)


@pytest.mark.parametrize("name", [by_tier(name) for name in distinct()])
def test_a_fused_edit_is_exact(name, quick):
    with tempfile.TemporaryDirectory() as folder:  # tmp_path would keep gigabytes
        config, source = shallow(name), f"local-dir:{folder}"
        Path(folder, "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        torch.manual_seed(0)
        clip = Clip(open_clip.create_model(source).eval().requires_grad_(False), None, None, source, None)
        pixels = torch.randn(2, 3, clip.image_size, clip.image_size)
        projection = find_projection(clip.model)
        if projection.bias is not None:
            torch.nn.init.normal_(projection.bias)
        bias = torch.randn(clip.width) if takes_bias(projection) else None
        edit = project(torch.randn(3, config["embed_dim"]), bias=bias)

        z = clip.embed_pixels(pixels)
        assert z.norm(dim=1).min() > 0
        stock = open_clip.create_model(f"local-dir:{fuse(edit.apply(clip), Path(folder, 'fused'))}").eval()
        with torch.inference_mode():
            z_stock = stock.encode_image(pixels, normalize=True)
        torch.testing.assert_close(z_stock, F.normalize(edit.images(z), dim=-1), atol=1e-5, rtol=0)

        clip.model.bfloat16()
        expected = F.normalize(edit.images(clip.embed_pixels(pixels)), dim=-1)
        got = F.normalize(edit.apply(clip).embed_pixels(pixels), dim=-1)
        torch.testing.assert_close(got, expected, atol=1e-2, rtol=0)


@pytest.mark.slow
def test_a_text_tower_of_transformers_comes_through(quick, monkeypatch, tmp_path):
    transformers = pytest.importorskip("transformers", reason="open_clip needs transformers for these text towers")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 64}
    tiny = transformers.AutoConfig.for_model("roberta", **sizes)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *args, **kwargs: tiny)
    name, source = "roberta-ViT-B-32", f"local-dir:{tmp_path}"
    config = shallow(name) | {"text_cfg": open_clip.get_model_config(name)["text_cfg"]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    clip = Clip(open_clip.create_model(source, pretrained_text=False).eval(), None, None, source, None)
    edit = plain(clip.width)
    stock = open_clip.create_model(f"local-dir:{fuse(edit.apply(clip), tmp_path / 'fused')}").eval()
    texts, pixels = torch.randint(3, 64, (2, 6)), torch.randn(2, 3, clip.image_size, clip.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(stock.encode_text(texts), clip.model.encode_text(texts))
        got = stock.encode_image(pixels, normalize=True)
    torch.testing.assert_close(got, F.normalize(edit.images(clip.embed_pixels(pixels)), dim=-1), atol=1e-5, rtol=0)


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
