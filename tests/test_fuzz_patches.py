"""Any bytes at all as a patch: a sound edit comes out, or ValueError that names the file. Nothing else, ever."""

import json
import math
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from helpers import NIGHTLY, examples, gated, mangled, plain, random
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clipnull import edit as patches
from clipnull.edit import Edit
from clipnull.layers import LARGEST
from clipnull.vocabulary import Forget

D = 8
REQUEST = (Forget(["dog"], ["line"]) | Forget(["cat"])).as_dict()
TOLD = {"request": REQUEST, "settings": {"alpha": 1.0, "center": True}, "fingerprint": "0" * 16, "model": "miniclip"}
KINDS = {
    "linear": plain(D, **TOLD),
    "oblique": replace(plain(D, **TOLD), right=random(D, 2, seed=1).double()),
    "bias": plain(D, bias=random(D).double(), **TOLD),
    "gated": gated(D, **TOLD),
    "after": plain(D, after="1" * 16, **TOLD),
}
TEXTS = st.sampled_from(
    [
        "", "x", "1", "2", "0", "-1", "null", "true", "NaN", "Infinity", "1e999", "9" * 5_000, "{}", "[]", "[[]]",
        "[" * 5_000, "[" * 5_000 + "]" * 5_000, '{"a":' * 5_000, '"' + "\\" * 5_001, "{", '"', "\x00", "\x1b[2J", "🐶",
        '{"classes": null, "domains": null}',
        '{"classes": [3], "domains": null}', '{"classes": "dog", "domains": null}',
        '{"classes": [""], "domains": null}', '{"classes": ["a", "a"], "domains": null}', '{"classes": ["dog"]}',
        '{"classes": ["dog"], "domains": null, "also": [{}]}', '{"classes": ["dog"], "domains": null, "also": 3}',
        '{"classes": ["\\ud800"], "domains": null}', '{"alpha": [1]}', '{"alpha": {"a": 1}}', '{"alpha": NaN}',
        '{"alpha": 1e999}', '{"alpha": null}', '{"": ""}', '{"\\u0000": 1}', "x" * 200_000, "clipnull-edit",
    ]
) | st.text(max_size=20)  # fmt: skip
DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool,
    torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip
SHAPES = [
    lambda t: t[None], lambda t: t[..., 0], lambda t: t.flatten(), lambda t: t[:0], lambda t: t[..., :0],
    lambda t: t[:-1], lambda t: t.transpose(0, -1), lambda t: torch.cat([t, t]), lambda t: t.flatten()[0],
    lambda t: torch.zeros(2**20, 0),
]  # fmt: skip
VALUES = [0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, 1e12, -1e12, 1.1e12, 65504.0, 1e30]


@st.composite
def tampered(draw, path, head):
    """Change tensors and texts of the file at `path`, and mostly seal it anew, as one who means harm would."""
    tensors = load_file(path)
    for _ in range(draw(st.integers(1, 2))):
        name, what = draw(st.sampled_from(sorted(tensors) or ["left"])), draw(st.integers(0, 8))
        value = tensors.get(name, torch.zeros(1))
        if what == 0:
            tensors[name] = value.to(draw(st.sampled_from(DTYPES)))
        elif what == 1 and value.ndim and value.numel():
            tensors[name] = draw(st.sampled_from(SHAPES))(value)
        elif what == 2 and value.numel() and value.dtype in DTYPES[:4]:
            flat = value.double().flatten().clone()
            flat[draw(st.integers(0, value.numel() - 1))] = draw(st.sampled_from(VALUES))
            tensors[name] = flat.to(value.dtype).view(value.shape)
        elif what == 3 and value.dtype in DTYPES[:4]:
            tensors[name] = torch.full(value.shape, draw(st.sampled_from(VALUES)), dtype=torch.float64).to(value.dtype)
        elif what == 4:
            tensors.pop(name, None)
        elif what == 5:
            other = draw(st.sampled_from(sorted(patches.RANKS)) | st.text(max_size=8))
            tensors[other] = tensors.pop(name, value)
        else:
            key = draw(st.sampled_from([*patches.TEXTS, "after", "sha256"]) | st.text(max_size=8))
            if draw(st.booleans()):
                head.pop(key, None)
            else:
                head[key] = draw(TEXTS)
    if "sha256" in head and draw(st.integers(0, 3)):
        head["sha256"] = patches.checksum(tensors, head)
    try:
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path, head)
    except Exception:  # what safetensors itself does not write
        save_file({}, path, head)


def first_version(path):
    """The file at `path` as version 1 would have it."""
    with safe_open(path, "pt") as file:
        head = {k: v for k, v in file.metadata().items() if k in patches.TEXTS}
    save_file(load_file(path), path, head | {"version": "1"})


def assert_sound(edit):
    """It is an edit, of finite numbers, which does what an edit does, and can be saved again."""
    d, r = edit.left.shape
    assert d >= 1 and edit.right.shape == (d, r)
    floating = [edit.left, edit.right, *([] if edit.bias is None else [edit.bias])]
    if edit.gate:
        floating += [edit.gate.domains, edit.gate.average, edit.gate.offset]
        assert edit.gate.open.dtype == edit.gate.replaced.dtype == torch.bool
        assert all((mask.view(torch.uint8) <= 1).all() for mask in (edit.gate.open, edit.gate.replaced))
    assert all(value.dtype == torch.float64 and (value.abs() <= LARGEST).all() for value in floating)
    z = random(5, d)
    assert torch.isfinite(edit.images(z)).all() and torch.isfinite(edit.layer()(1e3 * z)).all()
    if edit.request is not None:
        assert str(Forget.from_dict(edit.request))
    assert all(isinstance(v, bool | int | float | str | None) for v in edit.settings.values())
    assert all(isinstance(v, str) for v in (edit.method, edit.fingerprint, edit.model, edit.after))
    json.dumps([edit.request, edit.settings], allow_nan=False)


@pytest.mark.slow
def test_nothing_but_value_errors_that_name_the_file(tmp_path):
    path, again, told = tmp_path / "fuzzed.safetensors", tmp_path / "again.safetensors", Counter()
    originals = {}
    for name, edit in KINDS.items():
        originals[name, "2"] = edit.save(path).read_bytes()
        if not edit.after:
            first_version(path)
            originals[name, "1"] = path.read_bytes()
    slowest = [0.0, ""]

    @examples(500)
    @given(st.data())
    def fuzz(data):
        kind, version = data.draw(st.sampled_from(sorted(originals)))
        content = originals[kind, version]
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(mangled(content, length=True)))
        else:
            path.write_bytes(content)
            with safe_open(path, "pt") as file:
                head = file.metadata()
            data.draw(tampered(path, head))
        start = time.perf_counter()
        try:
            edit = Edit.load(path)
        except ValueError as error:
            told["ValueError"] += 1
            assert "fuzzed.safetensors" in str(error) and len(str(error)) < 1_000, str(error)
        else:
            told["accepted"] += 1
            assert_sound(edit)
            assert Edit.load(edit.save(again)).same(edit)
        finally:
            told["inputs"] += 1
            slowest[:] = max(slowest, [time.perf_counter() - start, f"{kind} {version}"])

    fuzz()
    print(f"\npatches: {dict(told)}; slowest {1e3 * slowest[0]:.0f} ms ({slowest[1]})")
    assert told["inputs"] >= 450 and told["ValueError"] > told["inputs"] / 4 and told["accepted"] > 0, told


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "gated"])
def test_every_bit_flip_in_the_second_version_is_refused_or_changes_nothing(kind, tmp_path):
    """Of the nightly run all bits of the file, else some. None in the tensors is let through."""
    path, edit, told = tmp_path / "edit.safetensors", KINDS[kind], Counter()
    content = edit.save(path).read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    assert len(content) > begin
    for bit in range(0, 8 * len(content), 1 if NIGHTLY else 3 if kind == "linear" else 7):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            back = Edit.load(path)
        except ValueError as error:
            assert "edit.safetensors" in str(error)
            told["refused"] += 1
        else:
            assert bit < 8 * begin, f"bit {bit} of the tensors, which begin at {8 * begin}"
            assert back.same(edit) and (back.request, back.settings) == (edit.request, edit.settings)
            told["accepted"] += 1
    print(f"\n{kind}: {dict(told)}")
    assert told["accepted"] < told["refused"] / 50


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "after"])
def test_what_is_fuzzed_is_read_as_it_is(kind, version, tmp_path):
    path = KINDS[kind].save(tmp_path / "edit.safetensors")
    if version == "1":
        first_version(path)
    back = Edit.load(path)
    assert back.same(KINDS[kind]) and back.request == REQUEST
    assert_sound(back)
