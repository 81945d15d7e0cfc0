"""Any bytes at all as a file of embeddings: sound ones come out, or ValueError that names the file. Nothing else, ever.

50 inputs in `make check`, 500 in `make test`, 10,000 in the nightly run. Run with -s, it prints what came of them.
"""

import io
import math
import time
import warnings
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import examples, headed, mangled, npy
from hypothesis import given
from hypothesis import strategies as st

from clipnull import stored
from clipnull.errors import printable

C, K, D, N = 3, 2, 4, 6
CLASSES, DOMAINS = np.array(["cat", "dog", "house"]), np.array(["photo", "line"])
DTYPES = [
    "<f4", ">f4", "f2", "f8", "g", "i8", "u1", "?", "c8", "S3", "U3", "U0", ">U4", "V4", "V0", "M8[s]", "m8[s]",
    "(2,)f4", "f4,i4",
]  # fmt: skip
VALUES = [0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 3e38, -1e300, 1e-45, 1e-30, 1e-18, 1e-9, 65504.0, 1e12]
TEXTS = [
    "", " ", "_", "cat", "CAT", "dog ", "a_b", "a b", "{a}", "{", "%s", "<b>", "\x00", "a\x00", "\x1b[2J", "\n", "🐶",
    "é", "e\u0301", "../x", "x" * 5_000, "\u202e", "nan",
]  # fmt: skip
SHAPES = [
    lambda a: a[None], lambda a: a[..., 0], lambda a: a.ravel(), lambda a: a[:0], lambda a: a[..., :0],
    lambda a: a[:-1], lambda a: a.T, lambda a: np.concatenate([a, a]), lambda a: a.ravel()[0],
    lambda a: a.reshape((1,) * (20 - a.ndim) + a.shape), lambda a: np.asfortranarray(a),
]  # fmt: skip
HEADERS = [
    "", "{", "{}", "[]", "()" * 9, "[" * 3_000, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 4), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (6, 4), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-6, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (6.0, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (6L, 4), }",
    "{'descr': '<f4', 'fortran_order': 2, 'shape': (6, 4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6, 4), }",
    "{'descr': '<U3', 'fortran_order': False, 'shape': (6,), }",
    "{'descr': '|b1', 'fortran_order': False, 'shape': (3, 2), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1" + ", 1" * 70 + "), }",
    "{'descr': '<U999999999', 'fortran_order': False, 'shape': (6,), }",
    "__import__('os').abort()",
]  # fmt: skip


def whole():
    """A sound file: every field."""
    draw = np.random.default_rng(0).normal
    made = {name: draw(size=[{"C": C, "K": K, "d": D, "n": N}.get(a, 2) for a in axes]) + 2
            for name, axes in stored.VECTORS.items()}  # fmt: skip
    made |= {name: value.astype(np.float32) for name, value in made.items() if name != "texts_free"}
    made |= {"classes": CLASSES[np.arange(N) % C], "domains": DOMAINS[np.arange(N) % K]}
    made |= {"class_names": CLASSES, "domain_names": DOMAINS, "other_names": np.array(["apple", "bell"])}
    made |= {"common_names": np.array(["kettle", "tench"])}
    return made | {"prototype_mask": np.ones((C, K), bool)} | {name: np.array("text") for name in stored.WORDS}


def archive(members, method=zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w", method) as file:
        warnings.simplefilter("ignore")  # a name that is there twice
        for name, data in members:
            file.writestr(name.partition("\x00")[0] or "x", data)
    return content.getvalue()


@st.composite
def tampered(draw):
    """A file whose fields, members and headers are changed, and which is sealed anew with sums that are right."""
    arrays, texts = whole(), st.sampled_from(TEXTS) | st.text(max_size=6)
    for name in draw(st.lists(st.sampled_from(sorted(set(arrays) - set(stored.NEEDED))), max_size=4, unique=True)):
        del arrays[name]
    members = {f"{name}.npy": npy(value) for name, value in arrays.items()}
    for _ in range(draw(st.integers(0, 2))):
        name, what = draw(st.sampled_from(sorted(arrays))), draw(st.integers(0, 9))
        value, key = arrays[name].copy(), f"{name}.npy"
        if what == 0:
            try:
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = value.astype(draw(st.sampled_from(DTYPES)))
            except (TypeError, ValueError):  # what NumPy itself does not convert
                value = np.zeros(value.shape, "V4")
        elif what == 1 and value.ndim:
            value = draw(st.sampled_from(SHAPES))(value)
        elif what in (2, 3) and value.dtype.kind == "f":
            value, row = value.astype("f8"), draw(st.integers(0, value.size // value.shape[-1] - 1))
            rows = value.reshape(-1, value.shape[-1])
            rows[row, : draw(st.sampled_from([1, D]))] = draw(st.sampled_from(VALUES))
        elif what in (2, 3) and value.dtype.kind == "U":
            value = value.astype(object)
            value[draw(st.integers(0, value.size - 1)) if value.ndim else ()] = draw(texts)
            value = value.astype(str)
        elif what == 4:
            members.pop(key, None)
            key = draw(st.sampled_from(sorted(stored.LAYOUT)) | st.text(max_size=8) | st.just("y" * 9_000)) + draw(
                st.sampled_from([".npy", "", ".npy.npy"])
            )
        elif what == 5:
            value = np.array([{}] * max(1, value.size), dtype=object)
        members[key] = npy(value)
        if what == 6:
            members[key] = headed(draw(st.sampled_from(HEADERS)), members[key][128:], draw(st.integers(0, 4)))
        elif what == 7:
            members[key] = draw(mangled(members[key]))
        elif what == 8:
            members[key] = members[key][:128] + draw(st.binary(min_size=4, max_size=4)) * (len(members[key]) // 4 - 32)
        elif what == 9:
            members[f"./{key}"] = members.pop(key)
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    return archive([*members.items(), *draw(st.lists(st.sampled_from(sorted(members.items())), max_size=1))], method)


def assert_sound(found):
    """Shapes that fit, finite rows of a direction, names to print; and a model can be made of it."""
    c, k = found.vocabulary.shape
    sizes = {"C": c, "K": k, "d": found.width, "n": len(found.classes), "w": len(found.other_names)}
    sizes["v"] = len(found.common_names)
    sizes["m"] = len(found.vectors.get("other_images", ()))
    assert set(stored.NEEDED) & set(stored.VECTORS) <= found.vectors.keys() <= set(stored.VECTORS)
    for name, value in found.vectors.items():
        assert value.shape == tuple(sizes[axis] for axis in stored.VECTORS[name]) and value.dtype == torch.float32
        unit = torch.nn.functional.normalize(value.reshape(-1, found.width), dim=-1).norm(dim=1)
        made = found.mask.flatten() if name == "prototypes" else torch.ones(len(unit), dtype=torch.bool)
        torch.testing.assert_close(unit, made.float(), atol=1e-4, rtol=0)
    assert found.mask.dtype == torch.bool and found.mask.shape == (c, k)
    assert (found.mask.view(torch.uint8) <= 1).all() and ("prototypes" in found.vectors or not found.mask.any())
    for places, size in ((found.classes, c), (found.domains, k)):
        assert places.shape == found.vectors["images"].shape[:1] and places.min() >= 0 and places.max() < size
    told = [
        *found.vocabulary.classes,
        *found.vocabulary.domains,
        *found.other_names,
        *found.common_names,
        *found.words.values(),
    ]
    assert all(isinstance(text, str) and printable(text) for text in told) and {*found.words} <= {*stored.WORDS}
    texts = stored.StoredTexts(found)
    model = stored.StoredModel(found, texts.table)
    assert model.encode_text(texts([*texts.rows])).isfinite().all()
    assert model.encode_image(found.vectors["images"]).isfinite().all()


@pytest.mark.parametrize("n", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_nothing_but_value_errors_that_name_the_file(n, tmp_path):
    path, told, slowest = tmp_path / "fuzzed.npz", Counter(), [0.0]
    sound = archive([(f"{name}.npy", npy(value)) for name, value in whole().items()])

    @examples(n)
    @given(st.data())
    def fuzz(data):
        path.write_bytes(data.draw(mangled(sound) if data.draw(st.integers(0, 3)) == 0 else tampered()))
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = stored.read_stored(path)
        except ValueError as error:
            told["ValueError"] += 1
            assert "fuzzed.npz" in str(error) and len(str(error)) < 2_000, str(error)
            assert printable(str(error)), str(error)
        else:
            told["accepted"] += 1
            assert_sound(found)
        finally:
            told["inputs"] += 1
            slowest[0] = max(slowest[0], time.perf_counter() - start)

    fuzz()
    print(f"\nembeddings: {dict(told)}; slowest {1e3 * slowest[0]:.0f} ms")
    assert told["inputs"] >= 0.9 * n and told["ValueError"] > told["inputs"] / 4 and told["accepted"] > 0, told


def test_what_is_fuzzed_is_read_as_it_is(tmp_path):
    path = tmp_path / "whole.npz"
    path.write_bytes(archive([(f"{name}.npy", npy(value)) for name, value in whole().items()]))
    found = stored.read_stored(path)
    assert_sound(found)
    assert {*found.vectors} == {*stored.VECTORS} and found.words == dict.fromkeys(stored.WORDS, "text")
