"""Files of others as models: nothing runs, nothing is read outside, and what is damaged is named."""

import copy
import functools
import json
import os
import pickle
from pathlib import Path

import open_clip
import pytest
import torch
from conftest import ROOT
from helpers import VIT
from safetensors.torch import load, save, save_file

import clipnull as cn

PREPARED = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}


class Code:
    """What a pickle of it runs when it is read: a file appears at `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@functools.cache
def weights():
    """Those of a small untrained model, as a safetensors file holds them."""
    with torch.random.fork_rng():
        return save(open_clip.CLIP(**VIT).state_dict())


@pytest.fixture
def folder(tmp_path):
    """`folder(text={...}, files={...})`: a small model in a folder, with settings of its towers and more files."""

    def make(text=(), vision=(), files=(), trained=True, prepared=True):
        path = tmp_path / "model"
        path.mkdir(exist_ok=True)
        towers = {"text_cfg": VIT["text_cfg"] | dict(text), "vision_cfg": VIT["vision_cfg"] | dict(vision)}
        config = {"model_cfg": VIT | towers, "preprocess_cfg": PREPARED if prepared else {}}
        (path / "open_clip_config.json").write_text(json.dumps(config))
        if trained:
            (path / "open_clip_model.safetensors").write_bytes(weights())
        for name, content in dict(files).items():
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return make


def refusal(name, pretrained=None, match=None):
    """The message with which `cn.load` refuses, in one line."""
    with pytest.raises(ValueError, match=match) as caught:
        cn.load(name, pretrained, device="cpu")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 1000
    return str(caught.value)


def test_a_folder_is_loaded_with_its_weights(folder):
    path = folder(text={"tokenizer_kwargs": {"clean": "canonicalize"}})
    clip = cn.load(f"local-dir:{path}", device="cpu")
    assert torch.equal(clip.model.state_dict()["visual.proj"], load(weights())["visual.proj"])
    assert clip.embed_texts(["a dog"]).shape == (1, 64) and clip.model.visual.preprocess_cfg["mean"] == [0.5] * 3
    folder(prepared=False)
    with pytest.warns(UserWarning, match="name: .*default to OpenAI's CLIP"):
        cn.load(f"local-dir:{path}", device="cpu")


@pytest.mark.parametrize(
    "text",
    [
        {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": None}},  # transformers would ask
        {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"deep": [{"trust_remote_code": True}]}},
        {"hf_tokenizer_name": "x"},
        {"hf_model_name": "{folder}"},
    ],
    ids=["none", "deep", "auto_map", "tower"],
)
@pytest.mark.promise("No file of data runs code")
def test_code_in_a_folder_never_runs(folder, tmp_path, monkeypatch, text):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whatever a person would answer
    marker, path = tmp_path / "ran", tmp_path / "model"
    text = {k: v.format(folder=path) if isinstance(v, str) else v for k, v in text.items()}
    auto_map = {"AutoTokenizer": ["code.T", None], "AutoConfig": "code.T", "AutoModel": "code.T"}
    code = f"open({str(marker)!r}, 'w').close()\nfrom transformers import BertTokenizer\nclass T(BertTokenizer): pass"
    settings = {"auto_map": auto_map, "tokenizer_class": "T", "model_type": "unheard-of"}
    folder(text=text, files={"code.py": code, "tokenizer_config.json": settings, "config.json": settings})
    assert str(path) in refusal(f"local-dir:{path}", match="name: .*no code") and not marker.exists()


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("text", {"hf_model_name": "{folder}/link"}),
        ("text", {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}),
        ("text", {"tokenizer_kwargs": {"bpe_paths": ["..\\secret"]}}),
        ("vision", {"timm_model_name": "local-dir:/etc"}),
    ],
)
@pytest.mark.promise("No path is followed out of a folder")
def test_no_path_leads_out_of_a_folder(folder, tmp_path, part, settings):
    path = tmp_path / "model"
    (tmp_path / "other").mkdir()
    folder(**{part: {k: v.format(folder=path) if isinstance(v, str) else v for k, v in settings.items()}})
    (path / "link").symlink_to(tmp_path / "other", target_is_directory=True)
    refusal(f"local-dir:{path}", match="name: .*open_clip_config.json")


@pytest.fixture
def hub(monkeypatch):
    """`hub(folder)`: the hub gives the files of `folder`; returns the names of those that are downloaded."""
    import huggingface_hub

    def serve(path):
        names = []

        def download(repo_id, filename, **_):
            names.append(filename)
            if not (path / filename).is_file():
                raise FileNotFoundError(f"no {filename}\nin {repo_id}")
            return str(path / filename)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", download)
        return names

    return serve


@pytest.mark.parametrize(
    "text",
    [
        {"hf_tokenizer_name": "x/y", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"hf_tokenizer_name": "tests"},  # a folder here, which transformers would prefer to the hub
        {"hf_model_name": "x/y"},
    ],
)
@pytest.mark.promise("No file of data runs code")
def test_a_model_of_the_hub_with_code_is_refused_before_anything_else_is_downloaded(folder, hub, monkeypatch, text):
    def brings_code(name, trust_remote_code):
        assert (name, trust_remote_code) == ("x/y", False)
        raise ValueError("The repository x/y contains custom code ...\npass the argument `trust_remote_code=True`")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", brings_code)
    monkeypatch.chdir(ROOT)
    names = hub(folder(text=text))
    refusal("hf-hub:some/model", match="name: .*open_clip_config.json' .*(trust_remote_code|hf_)")
    assert names == ["open_clip_config.json"]


def test_a_model_of_the_hub_is_loaded_or_named(folder, hub):
    names = hub(folder())
    assert cn.load("hf-hub:some/model", device="cpu").width == 64 and "open_clip_model.safetensors" in names
    hub(folder().parent)  # out of reach
    with pytest.raises(OSError, match="'hf-hub:some/model'.*open_clip_config.json"):
        cn.load("hf-hub:some/model")
    hub(folder())
    (folder() / "open_clip_model.safetensors").unlink()
    refusal("hf-hub:some/model", match="name: 'hf-hub:some/model'")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[" * 100_000, "\udcff", '{"model_cfg": {"text_cfg": [], "vision_cfg": {}}}', " " * 1_000_001],
    ids=["empty", "list", "deep", "bytes", "towers", "long"],
)
@pytest.mark.promise("What is damaged is refused")
def test_a_damaged_configuration_is_named(folder, content):
    path = folder()
    (path / "open_clip_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert str(path) in refusal(f"local-dir:{path}", match="name: ")


def test_a_folder_without_a_model_is_named(folder, tmp_path):
    for place in ("", tmp_path / "none", __file__):
        refusal(f"local-dir:{place}", match="name: .*open_clip_config.json")
    path = folder()
    with pytest.raises(ValueError, match="pretrained: 'openai' .*local-dir:"):  # which open_clip would leave out
        cn.load(f"local-dir:{path}", "openai")
    (path / "open_clip_config.json").unlink()
    assert str(path / "open_clip_config.json") in refusal(f"local-dir:{path}", match="name: ")
    os.mkfifo(path / "open_clip_config.json")
    refusal(f"local-dir:{path}", match="name: ")


@pytest.mark.promise("What is damaged is refused")
def test_no_untrained_model_takes_the_place_of_missing_weights(folder):
    path = folder(trained=False, files={"tokenizer.json": "{}"})
    refusal(f"local-dir:{path}", match="name: .*open_clip_model.safetensors")
    os.mkfifo(path / "model.bin")  # opened, it would wait for ever
    refusal(f"local-dir:{path}", match="name: .*open_clip_model.safetensors")
    refusal("ViT-B-32", str(path / "model.bin"), match="pretrained: .*model.bin' is unknown")


def pickled(content):
    return "bin", lambda path: torch.save(content(path), path)


def safe(change):
    return "safetensors", lambda path: save_file({k: change(k, v) for k, v in load(weights()).items()}, path)


GARBAGE = {
    "cut": ("bin", lambda path: (torch.save({"a": torch.zeros(99)}, path), os.truncate(path, 700))),
    "pickle": ("bin", lambda path: path.write_bytes(pickle.dumps([1, 2]))),
    "legacy": ("bin", lambda path: torch.save({"a": Code(path)}, path, _use_new_zipfile_serialization=False)),
    "other": pickled(lambda _: {"a": torch.zeros(3)}),
    "code": pickled(lambda path: {"a": Code(path.parent / "ran")}),
    "code and TypeError": pickled(lambda path: {"a": Code(path.parent / "ran"), "b": {1}.union}),
    "safe cut": ("safetensors", lambda path: path.write_bytes(weights()[:-1])),
    "safe NaN": safe(lambda key, value: value * torch.nan if key == "visual.proj" else value),
    "safe shapes": safe(lambda key, value: value[..., None]),
    "safe nothing": ("safetensors", lambda path: save_file({}, path)),
}


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.promise("No file of data runs code")
def test_a_checkpoint_that_is_garbage_is_named_and_runs_nothing(folder, monkeypatch, kind):
    path, (ending, write) = folder(trained=False), GARBAGE[kind]
    file = path / f"weights.{ending}"
    write(file)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", copy.deepcopy(VIT))
    assert str(path) in refusal(f"local-dir:{path}") and str(file) in refusal("tiny", str(file))
    assert not (path / "ran").exists()


@pytest.mark.promise("No file of data runs code")
def test_every_pickle_of_a_folder_is_examined_before_open_clip_sees_one(folder, monkeypatch):
    """open_clip reads again, without a guard, what makes the guarded reader say TypeError."""
    path = folder()
    torch.save({"a": Code(path / "ran")}, path / "model.pth")
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_, **__: pytest.fail("open_clip saw it"))
    refusal(f"local-dir:{path}", match="name: .*model.pth'")
    assert not (path / "ran").exists()
