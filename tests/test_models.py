"""Loading a model, what a Clip says of itself, and how its batches fit into memory."""

import copy
import json
import logging
import warnings
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from helpers import VIT, pixels, plain, python, random
from safetensors.torch import save_file
from test_architectures import create_shallow
from torch import nn

import clipnull as cn
from clipnull import embedding, prototypes
from clipnull.commands.cli import main
from clipnull.files import data_folder
from clipnull.models import Batch, settings_of, uses_quick_gelu


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


def test_the_embedded_model_is_what_its_card_says(clip):
    folder = data_folder("miniclip")
    assert (folder / "open_clip_model.safetensors").stat().st_size <= 30e6
    assert isinstance(clip.model, open_clip.CLIP) and isinstance(clip.tokenizer, open_clip.SimpleTokenizer)
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert (clip.name, clip.pretrained, clip.edits, clip.base, clip.stored) == ("miniclip", None, (), None, None)
    assert (clip.width, clip.image_size, clip.device.type) == (256, 112, "cpu")
    assert clip.weights is clip.model.visual.head.proj.weight
    assert clip.logit_scale == pytest.approx(float(clip.model.logit_scale.exp()))


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


def test_a_fingerprint_is_of_every_weight_and_of_the_unedited_model(small):
    clip = small(VIT)
    same = replace(clip, model=copy.deepcopy(clip.model))
    assert len(clip.fingerprint) == 16 and clip.fingerprint == same.fingerprint
    assert plain(clip.width).apply(clip).fingerprint == clip.fingerprint
    for name, weight in clip.model.state_dict().items():
        if name.endswith(("ln_post.bias", "logit_scale", "text_projection")):
            model = copy.deepcopy(clip.model)
            model.state_dict()[name].view(-1)[:1] += 1e-3
            assert replace(clip, model=model).fingerprint != clip.fingerprint, f"{name} {tuple(weight.shape)}"


def test_a_fingerprint_depends_on_activation_and_preprocessing_and_on_no_names(small):
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


# --- batches, and a GPU that runs out of memory


def test_embeddings_do_not_depend_on_the_batch(small):
    clip = small(VIT)
    texts, x = ["a dog", "a house", "a red car"], pixels(clip)
    torch.testing.assert_close(clip.embed_texts(texts, batch=1), clip.embed_texts(texts), atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.embed_pixels(x, batch=2), clip.embed_pixels(x), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="batch: 0"):
        clip.embed_pixels(x, batch=0)


class Scarce(nn.Module):
    """A model on a device that has no memory for more than `most` rows at once; `sizes` are those it was asked for."""

    def __init__(self, model, most):
        super().__init__()
        self.inside, self.most, self.sizes = model, most, []
        self.visual, self.logit_scale = model.visual, model.logit_scale

    def _within(self, rows):
        self.sizes.append(len(rows))
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return rows

    def encode_image(self, rows, normalize=False):
        return self.inside.encode_image(self._within(rows), normalize=normalize)

    def encode_text(self, rows, normalize=False):
        return self.inside.encode_text(self._within(rows), normalize=normalize)


def scarce(clip, most):
    model = Scarce(clip.model, most)
    return replace(clip, model=model), model.sizes


def test_batches_stay_as_small_as_they_had_to_become():
    batch, calls = Batch(8), []

    def call(rows):
        calls.append((rows.start, rows.stop))
        if rows.stop - rows.start > 3:
            raise torch.OutOfMemoryError
        return calls[-1]

    with pytest.warns(UserWarning, match="batch: .* 8 .* 4") as warned:
        parts = batch.through(call, 5 + 8)
    assert calls[:3] == [(0, 8), (0, 4), (0, 2)] and len(warned) == 2 and batch.size == 2
    assert parts == calls[2:] and [row for part in parts for row in range(*part)] == list(range(13))
    assert Batch.of(batch) is batch
    assert Batch(4).through(lambda rows: (rows.start, rows.stop), 0) == [(0, 0)]

    def never(rows):
        raise torch.OutOfMemoryError("Tried to allocate 2 GiB")

    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"), pytest.warns(UserWarning):
        Batch(4).through(never, 4)


def test_pictures_and_texts_are_embedded_in_smaller_batches(small, corner, monkeypatch):
    clip = small(VIT)
    tight, sizes = scarce(clip, 5)
    with pytest.warns(UserWarning, match="batch"):
        torch.testing.assert_close(tight.embed_pixels(pixels(clip, 9)), clip.embed_pixels(pixels(clip, 9)))
        torch.testing.assert_close(tight.embed_texts(["a dog"] * 9), clip.embed_texts(["a dog"] * 9))
    monkeypatch.setattr(embedding, "BATCH", 8)
    sizes.clear()
    with pytest.warns(UserWarning, match="batch") as warned:
        torch.testing.assert_close(cn.embed(tight, corner), cn.embed(clip, corner))
    assert len(warned) == 1 and sizes.count(8) == 1  # from one batch that is read to the next


def test_pictures_are_synthesized_in_smaller_batches(small):
    clip = small(VIT)
    tight, sizes = scarce(clip, 2)
    settings = {"targets": random(5, clip.width), "steps": 2}
    expected = prototypes.synthesize(clip, **settings)
    with pytest.warns(UserWarning, match="batch: .* 5 .* 2"):
        synthesized = prototypes.synthesize(tight, **settings)
    for mine, theirs in zip(synthesized, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    assert sizes[0] == 5 and max(sizes[1:]) == 2


# --- published weights: every pair of architecture and tag that open_clip lists is built as it was trained

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
    for tower in (config[part] for config in shallow.values() for part in ("vision_cfg", "text_cfg")):
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
    """`checkpoint(**changes)`: a file of weights of the architecture "tiny", which open_clip does not know."""
    torch.manual_seed(0)
    weights = open_clip.CLIP(**VIT).state_dict()

    def write(name="weights.safetensors", **changes):
        path = tmp_path_factory.mktemp("weights") / name
        save_file(weights | changes, path)
        return path

    return write


@pytest.fixture
def tiny(monkeypatch):
    """`tiny(**tags)`: that architecture, with published weights of these settings."""

    def publish(**tags):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", copy.deepcopy(VIT))
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)

    return publish


SQUASHED = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "interpolation": "bilinear", "resize_mode": "squash", "url": ""}


def test_an_untrained_model_is_asked_for_by_name(tiny, tmp_path):
    tiny(first=SQUASHED, second={"url": ""})
    for name, wanted in (("tiny", "'first', 'second', a file, or 'none'"), ("ViT-S-32", "a file, or 'none'")):
        with pytest.raises(ValueError, match=f"pretrained: which weights of {name}.* expected .*{wanted}"):
            cn.load(name, device="cpu")
    assert cn.load("tiny", "none", device="cpu").pretrained == "none"
    with pytest.raises(ValueError, match="pretrained: 'none' given for miniclip"):
        cn.load("miniclip", "none")
    out = tmp_path / "edit.safetensors"
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nfish\n")
    for command in (["near"], ["forget", "--out", str(out)]):
        assert main([*command, "--model", "tiny", "--classes", "dog", "--vocabulary", str(names)]) == 2
    assert not out.exists()


def test_a_file_of_weights_gets_the_settings_of_its_tag(tiny, checkpoint):
    path = checkpoint()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(first=SQUASHED | {"quick_gelu": True}, second=SQUASHED | {"quick_gelu": True})
        one = cn.load("tiny", str(path), device="cpu")
        tiny(first=SQUASHED | {"quick_gelu": True}, second={"url": ""})
        said = cn.load("tiny", f"first@{path}", device="cpu")
        plain = cn.load("tiny", f"second@{path}", device="cpu")
    for clip in (one, said):
        assert uses_quick_gelu(clip.model)
        assert {key: clip.model.visual.preprocess_cfg[key] for key in SQUASHED if key != "url"} == {
            key: value for key, value in SQUASHED.items() if key != "url"
        }
    assert not uses_quick_gelu(plain.model) and plain.model.visual.preprocess_cfg["interpolation"] == "bicubic"
    with pytest.warns(UserWarning, match="pretrained: .*'TAG@FILE' .*'first', 'second'.*'first@"):
        assert cn.load("tiny", str(path), device="cpu").fingerprint == plain.fingerprint
    tags = [(name, tag) for name in open_clip.list_models() for tag in open_clip.list_pretrained_tags_by_model(name)]
    for name, tag in tags:  # what a file gets by `TAG@FILE` is what the tag itself gets
        quick_gelu, prepared = trained_as(name, tag)
        expected = {"force_quick_gelu": quick_gelu} | {f"image_{key}": value for key, value in prepared.items()}
        assert (settings := settings_of(name, tag)) | expected == settings


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("weights.safetensors", {"logit_scale": torch.tensor(23.67)}, "logit_scale 23.67.* the logarithm"),
        ("weights.safetensors", {"logit_scale": torch.tensor(0.01)}, "logit_scale 0.01.* the logarithm"),
        ("weights.safetensors", {"logit_bias": torch.tensor(-10.0)}, "logit_bias, as SigLIP does, and tiny has none"),
        ("model-00001-of-00002.safetensors", {}, "a checkpoint in shards; expected all weights in one file"),
        ("model.safetensors.index.json", {}, "a checkpoint in shards; expected all weights in one file"),
    ],
)
def test_strange_weights_are_named(tiny, checkpoint, name, changes, match):
    tiny()
    with pytest.raises(ValueError, match=f"pretrained: .*{name}.*{match}"):
        cn.load("tiny", str(checkpoint(name, **changes)), device="cpu")


def test_a_mistyped_path_of_weights_is_a_path_and_no_tag(tiny, checkpoint):
    tiny(first=SQUASHED)
    path = checkpoint()
    for wrong in (path.with_name("weigths.safetensors"), f"first@{path}x"):
        with pytest.raises(ValueError, match="pretrained: .* is not a file; did you mean 'weights.safetensors'"):
            cn.load("tiny", str(wrong), device="cpu")
    with pytest.raises(ValueError, match="pretrained: .* is not a file; a folder is load.*local-dir:"):
        cn.load("tiny", str(path.parent), device="cpu")
    with pytest.raises(ValueError, match="pretrained: 'frist' .*'first'"):
        cn.load("tiny", "frist", device="cpu")


def test_some_tags_need_another_activation_than_their_architecture():
    wrong = [p for p in PAIRS if trained_as(*p)[0] != open_clip.get_model_config(p[0]).get("quick_gelu", False)]
    assert len(PAIRS) >= 196 and len(wrong) >= 27 and ("ViT-B-16", "openai") in wrong


def test_what_cannot_be_downloaded_says_what_to_do(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", unreachable)
    with pytest.raises(OSError, match=r"pretrained: 'openai' .*no route.*HF_HOME.*FILE"):
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
    before = root.level, root.filters[:], root.handlers[:], root.manager.disable

    def warning(*args, **kwargs):
        logging.info("a step of loading")
        logging.warning("position embeddings were resized")
        return create(*args, **kwargs)

    monkeypatch.setattr(open_clip, "create_model_and_transforms", warning)
    with caplog.at_level(logging.INFO):
        cn.load(device="cpu")
    assert [record.getMessage() for record in caplog.records] == ["position embeddings were resized"]
    assert (root.level, root.filters, root.handlers, root.manager.disable) == before
