"""The file of an edit: it comes back whole, and any other bytes end in a ValueError that names the file."""

import json
import math
import os
from dataclasses import replace

import pytest
import torch
from helpers import NIGHTLY, gated, mangled, plain, random
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clipnull import edit as patches
from clipnull.edit import Edit
from clipnull.shapes import LARGEST
from clipnull.vocabulary import Forget

D = 8
REQUEST = (Forget(["dog"], ["line"]) | Forget(["cat"])).as_dict()
FIELDS = {"request": REQUEST, "settings": {"alpha": 1.0, "center": True}, "fingerprint": "0" * 16, "model": "miniclip"}
KINDS = {
    "linear": plain(D, **FIELDS),
    "oblique": replace(plain(D, **FIELDS), right=random(D, 2, seed=1).double(), mean_text=random(D).double()),
    "bias": plain(D, bias=random(D).double(), **FIELDS),
    "layer": replace(plain(D, **FIELDS), threshold=torch.full((plain(D).rank,), 0.2).double()),
    "gated": gated(D, **FIELDS),
    "spread": replace(gated(D, **FIELDS), gate=replace(gated(D).gate, spread=random(D, 3).double())),
    "after": plain(D, after="1" * 16, **FIELDS),
}


def assert_sound(edit):
    """Its numbers are finite, it acts, and what it says of itself fits into JSON."""
    floating = [edit.left, edit.right, edit.bias, edit.threshold, edit.mean_text]
    if edit.gate:
        floating += [edit.gate.domains, edit.gate.average, edit.gate.offset, edit.gate.spread]
        assert all((mask.view(torch.uint8) <= 1).all() for mask in (edit.gate.open, edit.gate.replaced))
    assert all(v is None or v.dtype == torch.float64 and (v.abs() <= LARGEST).all() for v in floating)
    z = random(5, len(edit.left))
    assert torch.isfinite(edit.images(z)).all() and torch.isfinite(edit.layer()(1e3 * z)).all()
    assert edit.request is None or str(Forget.from_dict(edit.request))
    json.dumps([edit.request, edit.settings], allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_comes_back(kind, tmp_path):
    edit = KINDS[kind]
    path = edit.save(tmp_path / "edit.safetensors")
    back = Edit.load(path)
    path.write_bytes(bytes(path.stat().st_size))  # what is loaded does not hang on the file
    assert back.same(edit) and back.request == REQUEST and (back.mean_text is None) == (edit.mean_text is None)
    for field in ("method", "settings", "fingerprint", "model", "after", "form"):
        assert getattr(back, field) == getattr(edit, field)
    torch.testing.assert_close(back.images(random(20, D)), edit.images(random(20, D)), atol=1e-4, rtol=1e-4)
    assert Edit.load(back.save(path)).same(edit)
    assert_sound(back)


def test_requests_and_the_smallest_edits_come_back(tmp_path):
    path, request = tmp_path / "edit.safetensors", Forget(["dog"])
    assert Edit.load(plain(D, request=request).save(path)).request == request.as_dict()
    one = torch.ones(1, 8).double()[:, :1]  # of one number, with a stride of eight
    for edit in (Edit(one, one, "x"), Edit(one, -one, "x", bias=one[0]), Edit(one[:, :0], one[:, :0], "x")):
        assert Edit.load(edit.save(path)).same(edit)
    assert plain(512).save(path).stat().st_size <= 1e4  # left is right: saved once


def tamper(path, change=lambda tensors: None, **metadata):
    """Write the file at `path` again with changed tensors or metadata, and with the checksum of those."""
    with safe_open(path, "pt") as file:
        metadata = (file.metadata() or {}) | metadata
    tensors = load_file(path)
    change(tensors)
    metadata = {k: v for k, v in metadata.items() if v is not None}
    metadata["sha256"] = patches.checksum(tensors, metadata)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)


def becomes(name, make):
    """A change of the tensor `name` by a function of what it was."""
    return lambda tensors: tensors.update({name: make(tensors[name])})


DAMAGE = {
    "NaN": becomes("left", lambda t: t.index_fill(0, torch.tensor([0]), math.nan)),
    "infinite": becomes("gate.average", lambda t: t.fill_(math.inf)),
    "too large": becomes("right", lambda t: t.fill_(-2 * LARGEST)),
    "whole numbers": becomes("left", torch.Tensor.int),
    "shape": becomes("left", lambda t: t[:-1]),
    "float mask": becomes("gate.open", torch.Tensor.float),
    "scalar mask": becomes("gate.open", lambda t: t[0, 0]),
    "bytes that are no bool": becomes("gate.open", lambda t: t.view(torch.uint8).add(2).view(torch.bool)),
    "long rows": becomes("gate.domains", lambda t: 2 * t),
    "no mask": lambda tensors: tensors.pop("gate.open"),
    "more": lambda tensors: tensors.update(other=torch.zeros(1)),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.promise("What is damaged is refused")
def test_a_damaged_or_foreign_file_is_refused(kind, tmp_path):
    path = gated(32).save(tmp_path / "edit.safetensors")
    tamper(path, DAMAGE[kind])
    with pytest.raises(ValueError, match=r"path: .*edit.safetensors'"):
        Edit.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("settings", "{"), ("settings", "[1]"), ("settings", '{"a": {}}'), ("settings", '{"a": 1e999}'),
        ("settings", '{"a": "\\u001b[2J"}'), ("settings", '{"a": ' + "9" * 5_000 + "}"), ("request", "3"),
        ("request", "[" * 100_000 + "]" * 100_000), ("request", '{"classes": ["\\ud800"], "domains": null}'),
        ("method", "a\x1b[2J"), ("model", "x" * 5_000), ("fingerprint", None), ("more", "1"), ("version", "1"),
    ],
)  # fmt: skip
def test_strange_metadata_are_refused(field, value, tmp_path):
    path = plain(8).save(tmp_path / "edit.safetensors")
    tamper(path, **{field: value})
    with pytest.raises(ValueError, match=r"path: .*edit.safetensors'") as error:
        Edit.load(path)
    assert len(str(error.value)) < 1_000 and "\x1b" not in str(error.value)


@pytest.mark.parametrize("kind", ["linear", "gated"])
@pytest.mark.promise("What is damaged is refused")
def test_a_flipped_bit_is_refused_or_changes_nothing(kind, tmp_path):
    """At night all bits of the file, else some. None in the tensors is let through: the checksum covers them."""
    path, edit = tmp_path / "edit.safetensors", KINDS[kind]
    content = edit.save(path).read_bytes()
    tensors = 8 + int.from_bytes(content[:8], "little")
    for bit in range(0, 8 * len(content), 1 if NIGHTLY else 97):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            back = Edit.load(path)
        except ValueError as error:
            assert "edit.safetensors" in str(error)
        else:
            assert bit < 8 * tensors, f"bit {bit} of the tensors, which begin at {8 * tensors}"
            assert back.same(edit) and (back.request, back.settings) == (edit.request, edit.settings)


def test_files_of_others_are_refused_and_nothing_is_waited_for(tmp_path):
    (tmp_path / "text").write_text("left, right")
    save_file({"left": torch.zeros(2, 1)}, tmp_path / "other")
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**30 + 1)
    names = ["text", "other", "folder", "huge"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        names.append("pipe")
    for name in names:
        with pytest.raises(ValueError, match=f"path: .*{name}'"):
            Edit.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Edit.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("field", "value"), [("request", ["dog"]), ("request", object()), ("settings", {"a": [1.0]}), ("method", "a\x00")]
)
def test_what_could_not_be_loaded_is_not_saved(field, value, tmp_path):
    with pytest.raises(ValueError, match=field):
        replace(plain(8), **{field: value}).save(tmp_path / "edit.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_patch_made_twice_is_the_same_bytes(tmp_path):
    assert len({KINDS["gated"].save(tmp_path / f"{i}").read_bytes() for i in range(5)}) == 1


@settings(max_examples=10_000 if NIGHTLY else 30)
@given(st.data())
def test_nothing_but_value_errors_that_name_the_file(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    path = KINDS[data.draw(st.sampled_from(sorted(KINDS)))].save(folder / "fuzzed.safetensors")
    path.write_bytes(data.draw(mangled(path.read_bytes(), length=True)))
    try:
        edit = Edit.load(path)
    except ValueError as error:
        assert "fuzzed.safetensors" in str(error) and len(str(error)) < 1_000
    else:
        assert_sound(edit)
        assert Edit.load(edit.save(folder / "again.safetensors")).same(edit)
