"""The promises of .github/SECURITY.md: each has tests with its mark, and some of them are here."""

import ast
import pickle
import re
import socket

import pytest
import torch
from conftest import ROOT
from helpers import VIT, plain
from safetensors.torch import save_file
from test_sources import Code

import clipnull as cn
from clipnull.course import goldens, notebooks
from clipnull.files import write_text, written
from clipnull.prototypes import cell_prototypes

promise = pytest.mark.promise


def test_every_promise_has_a_test_by_day_and_every_mark_a_promise():
    text = (ROOT / ".github" / "SECURITY.md").read_text(encoding="utf-8")
    section = text.partition("## What is promised")[2].partition("\n## ")[0]
    promises = re.findall(r"(?m)^\d\. \*\*(.*?)\.\*\*", section)
    marked = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        content = path.read_text(encoding="utf-8")
        for node in ast.parse(content).body if "promise(" in content else ():
            marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", ())]
            if not any("nightly" in mark for mark in marks):
                marked |= {match[1] for mark in marks if (match := re.fullmatch(r".*promise\('(.*)'\)", mark))}
    assert promises and set(promises) == marked


def cached(path, clip):
    """Have the prototypes of `clip` read from `path`."""
    names = cn.Vocabulary(["cat", "dog"], ["photo"])
    cell_prototypes(clip, names, steps=1, progress=False)
    (file,) = path.parent.glob("prototypes-*.safetensors")
    file.write_bytes(path.read_bytes())
    with pytest.warns(UserWarning, match="is damaged"):
        cell_prototypes(clip, names, steps=1, progress=False)


def pictures(path, clip):
    for name in ("d0/c0", "d0/c1", "d1/c0", "d1/c1"):
        (path.parent / "pictures" / name).mkdir(parents=True)
        (path.parent / "pictures" / name / "a.png").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="left out: 'd0/c0/a.png"):
        cn.load_images(path.parent / "pictures")


def fails(read):
    def check(path, _):
        with pytest.raises(ValueError):
            read(path)

    return check


READERS = {
    "patch": fails(cn.Edit.load),
    "pictures": pictures,
    "prototypes": cached,
    "model": fails(lambda path: cn.load("RN50", str(path), device="cpu")),
    "notebook": fails(notebooks.read),
    "goldens": fails(lambda path: goldens.read(path, "mini")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["plain", "of torch"])
@promise("No file of data runs code")
def test_a_pickle_runs_nothing_whatever_reads_it(small, tmp_path, monkeypatch, reader, kind):
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path))
    clip, marker, path = small(VIT), tmp_path / "ran", tmp_path / "file"
    content = {"a": Code(marker)}
    torch.save(content, path) if kind == "of torch" else path.write_bytes(pickle.dumps(content))
    READERS[reader](path, clip)
    assert not marker.exists()
    torch.load(path, weights_only=False) if kind == "of torch" else pickle.loads(path.read_bytes())
    assert marker.exists()  # it would have run


def tensors(path, _):
    with written(path) as temporary:
        save_file({"a": torch.zeros(1)}, temporary)


def fused(path, clip):
    (path.parent / "open_clip_config.json").symlink_to(path.resolve())
    (path.parent / "open_clip_model.safetensors").symlink_to(path.resolve())
    cn.fuse(plain(clip.width).apply(clip), path.parent)


WRITERS = {
    "text": lambda path, _: write_text(path, "new"),
    "tensors": tensors,
    "patch": lambda path, clip: plain(clip.width).save(path),
    "fused": fused,
}


@pytest.mark.parametrize("writer", WRITERS)
@promise("Nothing is written outside its target")
def test_a_link_is_replaced_and_not_what_it_leads_to(small, tmp_path, writer):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.write_text("of somebody else")
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    WRITERS[writer](inside / "link", small(VIT))
    assert outside.read_text() == "of somebody else"
    assert not [file for file in inside.iterdir() if file.is_symlink() and (writer != "fused" or file.name != "link")]


@promise("Nothing is written outside its target")
def test_only_the_target_changes(small, tmp_path, monkeypatch):
    """Not the folder in which one works, not the home, and no temporary file stays."""
    for name in ("here", "home", "temporary", "target"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    edited, target = plain(small(VIT).width).apply(small(VIT)), tmp_path / "target"
    cn.Edit.load(edited.edits[0].save(target / "edit.safetensors"))
    cn.load(f"local-dir:{cn.fuse(edited, target / 'fused')}", device="cpu")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    fused = {f"target/fused/{name}" for name in ("open_clip_config.json", "open_clip_model.safetensors")}
    assert files == fused | {"target/edit.safetensors"}


@promise("Nothing is sent anywhere")
def test_no_socket_is_opened(small, monkeypatch, tmp_path):
    def refuse(*_, **__):
        pytest.fail("something is sent or asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    clip = cn.load(device="cpu")
    images = cn.load_images()
    edit = cn.unlearn(clip, cn.Forget(["dog"]), images.vocabulary, "nullspace", prototypes=False)
    after = cn.Edit.load(edit.save(tmp_path / "edit.safetensors"), clip).apply(clip)
    assert after.embed_texts(["a dog"]).shape == (1, 256)
