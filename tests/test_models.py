import copy
import json
import logging
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from helpers import VIT, plain, python, random
from safetensors.torch import load, load_file, save, save_file

import clipnull as cn
from clipnull import sources
from clipnull.files import data_folder
from clipnull.models import quiet
from clipnull.towers import find_projection


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
    expected = F.normalize(edit.images(clip.embed_pixels(pixels)), dim=-1)
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


# --- files of others: nothing runs, nothing is silent


class Code:
    """What a pickle of it runs when it is read: a file appears at `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def folder(tmp_path):
    """`folder(text={...}, files={...}, **config)`: a small model in a folder, with settings of its text tower."""

    def make(text=(), vision=(), files=(), weights=True, **config):
        path = tmp_path / "model"
        path.mkdir(exist_ok=True)
        config = VIT | config
        config["text_cfg"] = VIT["text_cfg"] | dict(text)
        config["vision_cfg"] = VIT["vision_cfg"] | dict(vision)
        (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        if weights:
            (path / "open_clip_model.safetensors").write_bytes(WEIGHTS[0])
        for name, content in dict(files).items():
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    if not WEIGHTS:
        with torch.random.fork_rng():
            model = open_clip.CLIP(**VIT)
        WEIGHTS.append(save(model.state_dict()))
    return make


WEIGHTS = []
TOKENIZER = "open(MARKER, 'w').close()\nfrom transformers import BertTokenizer\nclass T(BertTokenizer): pass\n"


def refused(name, pretrained=None, match=None):
    """The message with which `cn.load` refuses, in one line."""
    with pytest.raises(ValueError, match=match) as caught:
        cn.load(name, pretrained, device="cpu")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 1000
    return str(caught.value)


def test_a_folder_is_loaded_with_its_weights(folder):
    path = folder(text={"tokenizer_kwargs": {"clean": "canonicalize"}})
    clip = cn.load(f"local-dir:{path}", device="cpu")
    weights = load_file(path / "open_clip_model.safetensors")
    assert torch.equal(clip.model.state_dict()["visual.proj"], weights["visual.proj"])
    assert clip.embed_texts(["a dog"]).shape == (1, 64)


@pytest.mark.parametrize(
    "text",
    [
        {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": 1}},
        {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": None}},  # transformers would ask
        {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"deep": [{"trust_remote_code": True}]}},
        {"hf_tokenizer_name": "x"},
        {"hf_model_name": "{folder}"},
        {"hf_model_name": "{folder}", "hf_model_config": {"trust_remote_code": True}},
    ],
    ids=["true", "one", "ask", "deep", "auto_map", "tower", "config"],
)
@pytest.mark.promise("No file of data runs code")
def test_code_in_a_folder_never_runs(folder, tmp_path, monkeypatch, text):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whatever a person would answer
    marker = tmp_path / "ran"
    path = tmp_path / "model"
    text = {k: v.format(folder=path) if isinstance(v, str) else v for k, v in text.items()}
    auto_map = {"AutoTokenizer": ["code.T", None], "AutoConfig": "code.T", "AutoModel": "code.T"}
    code = TOKENIZER.replace("MARKER", repr(str(marker)))
    settings = {"auto_map": auto_map, "tokenizer_class": "T", "model_type": "unheard-of"}
    folder(text=text, files={"code.py": code, "tokenizer_config.json": settings, "config.json": settings})
    told = refused(f"local-dir:{path}", match="runs code of the model's own; expected settings and weights only")
    assert str(path) in told and not marker.exists()


def test_code_that_nothing_asks_for_is_no_reason_to_refuse(folder):
    """Many repositories hold a model for transformers beside that of open_clip."""
    path = folder(files={"config.json": {"auto_map": {"AutoModel": "code.T"}}})
    assert cn.load(f"local-dir:{path}", device="cpu").width == 64


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text", "hf_model_name", "/etc"),
        ("text", "hf_model_name", ".."),
        ("text", "hf_model_name", "{folder}/../other"),
        ("text", "hf_model_name", "{folder}/link"),
        ("text", "hf_model_name", 7),
        ("text", "tokenizer_kwargs", {"bpe_path": "/etc/passwd"}),
        ("text", "tokenizer_kwargs", {"bpe_path": "..\\secret"}),
        ("vision", "timm_model_name", "local-dir:/etc"),
    ],
)
@pytest.mark.promise("No path is followed out of a folder")
def test_no_path_leads_out_of_a_folder(folder, tmp_path, part, key, value):
    path = tmp_path / "model"
    (tmp_path / "other").mkdir()
    value = value.format(folder=path) if isinstance(value, str) else value
    folder(**{part: {key: value}})
    (path / "link").symlink_to(tmp_path / "other", target_is_directory=True)
    refused(f"local-dir:{path}", match="expected a name on the hub, or a path inside its folder")


@pytest.fixture
def hub(monkeypatch):
    """`hub(folder)`: the hub gives the files of `folder`; returns the names of those it was asked for."""
    import huggingface_hub

    def serve(path):
        asked = []

        def download(repo_id, filename, **_):
            asked.append(filename)
            if not (path / filename).is_file():
                raise FileNotFoundError(f"no {filename}\nin {repo_id}")
            return str(path / filename)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", download)
        return asked

    return serve


def test_a_model_of_the_hub_is_loaded(folder, hub):
    asked = hub(folder())
    assert cn.load("hf-hub:some/model", device="cpu").width == 64 and "open_clip_model.safetensors" in asked


@pytest.mark.parametrize(
    "text",
    [
        {"hf_tokenizer_name": "x/y", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"hf_tokenizer_name": "/etc"},
        {"hf_tokenizer_name": "tests"},  # a folder here, which transformers would prefer to the hub
        {"hf_model_name": "../tests"},
    ],
)
@pytest.mark.promise("No file of data runs code")
def test_a_model_of_the_hub_with_code_is_refused_before_anything_else_is_downloaded(folder, hub, monkeypatch, text):
    monkeypatch.chdir(ROOT)
    asked = hub(folder(text=text))
    refused("hf-hub:some/model", match="open_clip_config.json' says (trust_remote_code|hf_)")
    assert asked == ["open_clip_config.json"]


@pytest.mark.promise("No file of data runs code")
def test_a_text_tower_of_the_hub_with_code_is_refused(folder, hub, monkeypatch):
    transformers = pytest.importorskip("transformers")

    def brings_code(name, trust_remote_code):
        assert (name, trust_remote_code) == ("x/y", False)
        raise ValueError("The repository x/y contains custom code ...\npass the argument `trust_remote_code=True`")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", brings_code)
    asked = hub(folder(text={"hf_model_name": "x/y"}))
    refused("hf-hub:some/model", match="hf_model_name = 'x/y', which runs code")
    assert asked == ["open_clip_config.json"]


def test_a_hub_out_of_reach_is_told(folder, hub):
    hub(folder().parent)
    with pytest.raises(OSError, match="'hf-hub:some/model': its open_clip_config.json cannot be had .*no open_clip"):
        cn.load("hf-hub:some/model")
    hub(folder(weights=False))  # nothing but the configuration
    (folder() / "open_clip_model.safetensors").unlink()
    refused("hf-hub:some/model", match="'hf-hub:some/model' cannot be loaded .*weights")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("[]", "it holds a list"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "recursion"),
        ("\udcff", "can't decode"),
        ("{}", "is no configuration of open_clip"),
        ('{"model_cfg": {"text_cfg": [], "vision_cfg": {}}}', "is no configuration of open_clip"),
        (" " * 1_000_001, "more than 1000000 bytes"),
        ('{"model_cfg": {"text_cfg": {}, "vision_cfg": {}}}', "cannot be loaded"),
        ('{"model_cfg": {"embed_dim": "x", "text_cfg": {}, "vision_cfg": {"layers": -1}}}', "cannot be loaded"),
        ('{"model_cfg": {"embed_dim": 8, "text_cfg": {"a": 1}, "vision_cfg": {"layers": 1}}}', "cannot be loaded"),
        ('{"model_cfg": {"embed_dim": 8, "text_cfg": {}, "vision_cfg": {"timm_model_name": "x"}}}', "cannot be loaded"),
    ],
)
@pytest.mark.promise("What is damaged is refused")
def test_a_damaged_configuration_is_named(folder, content, message):
    path = folder()
    (path / "open_clip_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert str(path) in refused(f"local-dir:{path}", match=message)


def test_a_folder_without_a_model_is_named(folder, tmp_path):
    for place in ("", tmp_path / "none", __file__):
        refused(f"local-dir:{place}", match="is not a folder; expected one with open_clip_config.json and weights")
    path = folder()
    (path / "open_clip_config.json").unlink()
    assert str(path / "open_clip_config.json") in refused(f"local-dir:{path}", match="it is no file")
    os.mkfifo(path / "open_clip_config.json")
    refused(f"local-dir:{path}", match="it is no file")


@pytest.mark.promise("What is damaged is refused")
def test_weights_missing_in_a_folder_are_told_and_no_untrained_model_is_made(folder):
    path = folder(weights=False, files={"tokenizer.json": "{}"})
    (path / "more.safetensors").mkdir()
    assert str(path) in refused(f"local-dir:{path}", match="no weights in .*; expected open_clip_model.safetensors, or")


def test_weights_are_not_given_for_a_folder_that_brings_its_own(folder):
    """open_clip leaves them out without a word, and a card would name them."""
    refused(
        f"local-dir:{folder()}", "openai", match="pretrained: 'openai' given for local-dir:.*, which brings its own"
    )


def pickled(thing):
    def write(path):
        torch.save(thing(path) if callable(thing) else thing, path)

    return write


def safe(change):
    def write(path):
        save_file({k: change(k, v) for k, v in load(WEIGHTS[0]).items()}, path)

    return write


GARBAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("these are no weights\n" * 9),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "cut": lambda path: (torch.save({"a": torch.zeros(99)}, path), os.truncate(path, 700)),
    "zip": lambda path: zipfile.ZipFile(path, "w").close(),
    "pickle": lambda path: path.write_bytes(pickle.dumps([1, 2])),
    "legacy": lambda path: torch.save({"a": Code(path)}, path, _use_new_zipfile_serialization=False),
    "list": pickled([torch.zeros(3)]),
    "nothing": pickled({}),
    "number": pickled(7),
    "numbers": pickled({"a": 1, "b": 2}),
    "other": pickled({"a": torch.zeros(3)}),
    "nested": pickled({"state_dict": {}}),
    "keys": pickled({1: torch.zeros(3)}),
    "code": pickled(lambda path: {"a": Code(path.parent / "ran")}),
    "code and TypeError": pickled(lambda path: {"a": Code(path.parent / "ran"), "b": {1}.union}),
}
GARBAGE_SAFE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("these are no weights\n" * 9),
    "cut": lambda path: path.write_bytes(WEIGHTS[0][:-1]),
    "head": lambda path: path.write_bytes(WEIGHTS[0][:100]),
    "NaN": safe(lambda key, value: value * torch.nan if key == "visual.proj" else value),
    "infinite": safe(lambda key, value: value + torch.inf if key == "logit_scale" else value),
    "whole numbers": safe(lambda key, value: value.long()[..., None]),
    "other": lambda path: save_file({"a": torch.zeros(3)}, path),
    "none": lambda path: save_file({}, path),
}


@pytest.mark.parametrize("how", ["folder", "file"])
@pytest.mark.parametrize(
    ("name", "write"),
    [*(("weights.bin", w) for w in GARBAGE.values()), *(("weights.safetensors", w) for w in GARBAGE_SAFE.values())],
    ids=[*GARBAGE, *(f"safe {name}" for name in GARBAGE_SAFE)],
)
@pytest.mark.promise("No file of data runs code")
def test_a_checkpoint_that_is_garbage_is_named_and_runs_nothing(folder, monkeypatch, name, write, how):
    path = folder(weights=False)
    write(path / name)
    if how == "folder":
        assert str(path) in refused(f"local-dir:{path}")
    else:
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", copy.deepcopy(VIT))
        assert str(path / name) in refused("tiny", str(path / name))
    assert not (path / "ran").exists()


@pytest.mark.promise("No file of data runs code")
def test_a_pickle_with_code_is_refused_whatever_open_clip_would_do(folder, monkeypatch):
    """open_clip reads again, without a guard, what makes the guarded reader say TypeError."""
    path = folder(weights=False)
    torch.save({"a": Code(path / "ran")}, path / "model.pth")
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_, **__: pytest.fail("open_clip saw it"))
    refused(f"local-dir:{path}", match="model.pth' cannot be read .*expected weights in safetensors, or a checkpoint")
    assert not (path / "ran").exists()


def test_the_file_that_is_examined_is_the_one_that_open_clip_takes(tmp_path):
    some = [*sources.WEIGHTS, "a.bin", "b.safetensors", "a.pth", "training_args.bin"]
    for name in some:
        (tmp_path / name).touch()
    for _ in some:
        chosen = open_clip.factory._find_checkpoint_in_dir(tmp_path)
        assert str(sources.weights_in(tmp_path)) == chosen
        Path(chosen).unlink()
    assert sources.weights_in(tmp_path) is None


def test_a_device_that_is_not_there_is_told():
    for device in ("cpuu", "cuda:77", "meta2"):
        with pytest.raises(ValueError, match=f"device: '{device}' cannot be used .*; expected"):
            cn.load(device=device)


# --- quiet


def test_quiet_hides_the_course_of_loading_and_leaves_the_root_logger_as_it_was(caplog):
    root = logging.root
    before = root.level, root.filters[:], root.handlers[:]
    with quiet():
        logging.info("step 1")
        logging.warning("No pretrained weights loaded for model 'x'")
        logging.warning("positions resized")
    logging.warning("later")
    assert [record.getMessage() for record in caplog.records] == ["positions resized", "later"]
    assert (root.level, root.filters, root.handlers) == before


@pytest.mark.slow
def test_what_quiet_hides_is_what_open_clip_says_of_loading():
    code = (
        "import logging, clipnull as cn\ncn.load(device='cpu')\nassert logging.root.handlers == []\n"
        "logging.basicConfig(format='mine: %(message)s')\nlogging.warning('hello')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "mine: hello\n")
