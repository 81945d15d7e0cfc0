"""Stored embeddings: a file in place of model and pictures."""

import math
import warnings
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import HEADERS, archive, examples, headed, mangled, npy
from hypothesis import given
from hypothesis import strategies as st

import clipnull as cn
from clipnull import stored
from clipnull.bench.sweep import sweep
from clipnull.errors import printable
from clipnull.prompts import embed_cells, embed_classes, embed_domains, embed_forms, prompt_sets
from clipnull.prototypes import cell_prototypes, synthesize
from clipnull.shapes import validate_shapes
from clipnull.vocabulary import FORMS

C, K, D, N = 3, 2, 8, 30
CLASSES, DOMAINS = ("cat", "dog", "house"), ("photo", "line")


def fields(n=N, **changes):
    """A whole file: n pictures near the texts of their cells. None leaves a field out."""
    draw = np.random.default_rng(0).normal
    texts = draw(size=(C, 1, D)) + 0.5 * draw(size=(1, K, D))
    c, k = np.arange(n) % C, np.arange(n) // C % K
    made = {
        "images": 3 * texts[c, k] + 0.1 * draw(size=(n, D)),
        "classes": np.array(CLASSES)[c],
        "domains": np.array(DOMAINS)[k],
        "class_names": np.array(CLASSES),
        "domain_names": np.array(DOMAINS),
        "texts_build": texts,
        "texts_free": texts.mean(1),
        "texts_domain": texts + 0.01,
        "texts_forms": texts.mean(1, keepdims=True) + 0.1 * draw(size=(C, len(FORMS), D)),
        "domain_texts": texts.mean(0),
        "prototypes": texts + 0.1 * draw(size=texts.shape),
        "prototype_mask": np.ones((C, K), bool),
        "image_mean": draw(size=D),
        "other_images": draw(size=(5, D)),
        "other_texts": draw(size=(4, D)),
        "other_names": np.array(["apple", "bell", "candle", "drum"]),
        "common_texts": draw(size=(2, D)),
        "common_names": np.array(["kettle", "tench"]),
        "model": np.array("ViT-B-32"),
        "pretrained": np.array("openai"),
        "fingerprint": np.array("0123456789abcdef"),
        "note": np.array("made up"),
        "files": np.array([f"{i}.png" for i in range(n)]),
        "dropped": np.array(["broken.png"]),
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


@pytest.fixture
def file(tmp_path):
    def write(**changes):
        np.savez(tmp_path / "made.npz", **fields(**changes))
        return str(tmp_path / "made.npz")

    return write


OPTIONAL = sorted(set(stored.LAYOUT) - set(stored.NEEDED))


def test_a_file_is_a_model_and_its_pictures(file):
    path, made = file(), fields()
    clip, images = cn.load(path, device="cpu"), cn.load_images(path)
    assert (clip.name, clip.pretrained, clip.fingerprint, clip.width) == ("ViT-B-32", "openai", "0123456789abcdef", D)
    assert images.vocabulary == cn.Vocabulary(CLASSES, DOMAINS) and len(images) == N
    assert "images" not in clip.model.stored.vectors  # or memory would hold them twice
    unit = {name: F.normalize(torch.from_numpy(made[name]).float(), dim=-1) for name in stored.VECTORS}
    for prompts in ("build", "domain"):
        torch.testing.assert_close(embed_cells(clip, images.vocabulary, prompts), unit[f"texts_{prompts}"])
    torch.testing.assert_close(embed_classes(clip, CLASSES), unit["texts_free"])
    torch.testing.assert_close(embed_domains(clip, DOMAINS), unit["domain_texts"])
    torch.testing.assert_close(embed_forms(clip, images.vocabulary), unit["texts_forms"])
    torch.testing.assert_close(embed_classes(clip, ["drum", "bell"]), unit["other_texts"][[3, 1]])
    torch.testing.assert_close(cell_prototypes(clip, images.vocabulary).embeddings, unit["prototypes"])
    torch.testing.assert_close(cn.embed(clip, images), torch.from_numpy(made["images"]).float())
    assert cn.zero_shot(clip, images).nanmean() > 0.9
    some = images.select(["dog"], ["line"])
    assert len(some) == N // (C * K) and cn.embed(clip, some).shape == (len(some), D)


@pytest.mark.parametrize("method", cn.METHODS)
def test_edits_act_on_stored_embeddings_as_in_a_model(file, method, tmp_path):
    clip, images = cn.load(file(), device="cpu"), cn.load_images(file())
    request = cn.Forget(["dog"])
    edit = cn.unlearn(clip, request, images.vocabulary, method)
    after, z = edit.apply(clip), cn.embed(clip, images)
    torch.testing.assert_close(cn.embed(after, images), edit.images(z).float(), atol=1e-5, rtol=1e-5)
    comparison = cn.compare(clip, after, images, request)
    assert comparison.rates["forgetting_rate"] >= 0.5
    given = cn.compare(clip, after, images, request, features=(z, cn.embed(after, images)))
    assert torch.equal(comparison.before, given.before) and torch.equal(comparison.after, given.after)
    assert cn.Edit.load(edit.save(tmp_path / "patch.safetensors"), clip).same(edit)


@pytest.mark.parametrize("missing", OPTIONAL)
def test_an_optional_field_is_done_without(file, missing):
    together = {"other_texts": "other_names", "common_texts": "common_names"}
    together |= {names: texts for texts, names in together.items()}
    path = file(**{missing: None, together.get(missing, missing): None})
    clip, images = cn.load(path, device="cpu"), cn.load_images(path)
    rows = sweep(clip, images, ["nullspace"], ["global"])
    assert {row["prompts"] for row in rows} == set(prompt_sets(clip)) >= {"free", "build"}
    assert ("domain" in prompt_sets(clip)) == (missing != "texts_domain")


def test_prototypes_of_some_cells_do_if_each_domain_has_two(file):
    mask = np.ones((C, K), bool)
    mask[0, 0] = False
    prototypes = fields()["prototypes"]
    prototypes[0, 0] = np.nan  # which nobody made
    clip = cn.load(file(prototypes=prototypes, prototype_mask=mask), device="cpu")
    cells = cn.embed_vocabulary(clip, clip.model.stored.vocabulary)
    there, made = torch.from_numpy(mask), F.normalize(torch.from_numpy(prototypes), dim=-1).double()
    torch.testing.assert_close(cells.prototypes[there], made[there], atol=1e-6, rtol=0)
    assert cells.prototypes[0, 0] @ cells.texts[0, 0] > 0.5  # carried over from its text
    mask[1, 0] = False
    prototypes[1, 0] = np.nan
    clip = cn.load(file(prototypes=prototypes, prototype_mask=mask), device="cpu")
    assert cn.embed_vocabulary(clip, clip.model.stored.vocabulary).prototypes is None


def at(name, value, row=1):
    """A row of a field full of `value`."""
    values = fields()[name].copy()
    values.reshape(-1, D)[row] = value
    return {name: values}


BAD = {
    "missing": ({"texts_free": None}, r"lacks texts_free; expected the fields images"),
    "misspelt": ({"text_free": np.ones((C, D))}, r"field: 'text_free' is unknown; did you mean 'texts_free'"),
    "shapes": ({"texts_free": np.ones((C + 1, D))}, r"texts_free: shape \(4, 8\); expected C = 3, as in texts_build"),
    "empty": ({"images": np.ones((0, D))}, r"images: shape \(0, 8\)"),
    "NaN": (at("images", np.nan), r"images: row 1 has length nan; expected finite"),
    "large": (at("images", 1e300), r"images: row 1 has length inf"),
    "zero": (at("texts_build", 0, 2), r"texts_build: row 2 has length 0"),
    "object": ({"classes": np.array(["cat"] * N, dtype=object)}, r"allow_pickle"),
    "label": ({"classes": np.array(["cat"] * (N - 1) + ["cow"])}, r"classes: 'cow' not among the names; .*'cat'"),
    "numbers": ({"classes": np.arange(N)}, r"classes: int64; expected texts"),
    "mask": ({"prototype_mask": np.ones((C, K))}, r"prototype_mask: float64; expected bool"),
    "twice": ({"class_names": np.array(["cat", "cat", "house"])}, r"classes: 'cat' given twice"),
    "control": ({"model": np.array("a\x1b[2J")}, r"model: 'a\\x1b\[2J' cannot be printed"),
    "code": ({"note": np.array([0x110000], "u4").view("U1").reshape(())}, r"note: characters that do not exist"),
    "long": ({"classes": np.array(["x" * 9_000] * N)}, r"classes: 'x{60}' not among the names"),
    "others": ({"other_names": None}, r"other_texts, other_names: only one is given"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.promise("What is damaged is refused")
def test_an_unfit_file_is_refused_with_its_name_and_the_field(file, case):
    changes, message = BAD[case]
    path = file(**changes)
    for call in (lambda: cn.load(path, device="cpu"), lambda: cn.load_images(path)):
        with pytest.raises(ValueError, match=r"file: '.*made\.npz' .*" + message):
            call()


def test_what_needs_an_encoder_says_so(file, clip, images, tmp_path):
    path = file()
    model, pictures = cn.load(path, device="cpu"), cn.load_images(path)
    with pytest.raises(ValueError, match=r"texts: 'a zebra' is not in '.*made\.npz', which holds embeddings"):
        model.embed_texts(["a zebra"])
    for call in (
        lambda: cn.fuse(model, tmp_path / "fused"),
        lambda: cn.export(model, tmp_path / "a.pt2"),
        lambda: synthesize(model, torch.ones(1, D)),
    ):
        with pytest.raises(ValueError, match=r"clip: ViT-B-32 is a file of embeddings, without an encoder"):
            call()
    for one, other in ((clip, pictures), (model, images)):
        with pytest.raises(ValueError, match="expected both or neither from one file of embeddings"):
            cn.embed(one, other)
    with pytest.raises(ValueError, match="embeddings of 30 pictures are stored, but no pixels"):
        pictures.image(0)
    with pytest.raises(ValueError, match="pretrained: 'openai' given"):
        cn.load(path, "openai")
    with pytest.raises(ValueError, match="does not exist; expected a file of embeddings"):
        cn.load(str(tmp_path / "none.npz"))


def test_an_edit_of_other_weights_is_refused_or_warned_of(file):
    first = cn.load(file(), device="cpu")
    edit = cn.unlearn(first, cn.Forget(["dog"]), first.model.stored.vocabulary)
    with pytest.raises(ValueError, match="do not match"):
        edit.apply(cn.load(file(fingerprint=np.array("f" * 16)), device="cpu"))
    with pytest.warns(UserWarning, match="has no fingerprint of its weights; the edit is for ViT-B-32"):
        edit.apply(cn.load(file(fingerprint=None), device="cpu"))


def test_a_member_that_is_no_array_is_refused(file):
    path = file(note=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("note", b"plain text")
    with pytest.raises(ValueError, match=r"made\.npz' .*note: bytes; expected texts"):
        stored.read_stored(path)


@pytest.mark.promise("No file of data runs code")
def test_a_pickle_in_an_archive_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return pytest.fail, ("a pickle was run",)

    path, evil = tmp_path / "evil.npz", np.array([Evil()], dtype=object)
    path.write_bytes(archive({f"{name}.npy": npy(evil) for name in stored.NEEDED}))
    with pytest.raises(ValueError, match=r"evil\.npz' is not a file of embeddings"):
        cn.load(str(path), device="cpu")


# --- any bytes at all: 20 files by day, 400 at night. With -s, the test prints what became of them

DTYPES = ["<f4", ">f4", "f2", "g", "i8", "u1", "?", "c8", "S3", "U3", ">U4", "V4", "M8[s]", "(2,)f4", "f4,i4"]
VALUES = [0.0, -0.0, math.nan, math.inf, -math.inf, 3e38, -1e300, 1e-45, 1e-30, 1e-9, 65504.0, 1e12]
TEXTS = ["", " ", "cat", "CAT", "a_b", "{a}", "%s", "a\x00", "\x1b[2J", "\n", "🐶", "e\u0301", "x" * 5_000, "\u202e"]
SHAPES = [
    lambda a: a[None], lambda a: a[..., 0], lambda a: a[:0], lambda a: a[..., :0], lambda a: a[:-1], lambda a: a.T,
    lambda a: np.concatenate([a, a]), lambda a: a.ravel()[0], lambda a: a.reshape((1,) * (20 - a.ndim) + a.shape),
]  # fmt: skip


@st.composite
def tampered(draw):
    """A file whose fields, members and headers are changed, and which is sealed anew with sums that are right."""
    arrays = fields(6)
    for name in draw(st.lists(st.sampled_from(sorted(set(arrays) - set(stored.NEEDED))), max_size=4, unique=True)):
        del arrays[name]
    members = {f"{name}.npy": npy(value) for name, value in arrays.items()}
    for _ in range(draw(st.integers(0, 2))):
        name, what = draw(st.sampled_from(sorted(arrays))), draw(st.integers(0, 7))
        value, key = arrays[name].copy(), f"{name}.npy"
        if what == 0:
            try:
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = value.astype(draw(st.sampled_from(DTYPES)))
            except (TypeError, ValueError):  # what NumPy itself does not convert
                value = np.array([{}] * max(1, value.size), dtype=object)
        elif what == 1 and value.ndim:
            value = draw(st.sampled_from(SHAPES))(value)
        elif what in (2, 3) and value.dtype.kind == "f":
            value = value.astype("f8")
            row = draw(st.integers(0, value.size // value.shape[-1] - 1))
            value.reshape(-1, value.shape[-1])[row] = draw(st.sampled_from(VALUES))
        elif what in (2, 3) and value.dtype.kind == "U":
            value = value.astype(object)
            value[draw(st.integers(0, value.size - 1)) if value.ndim else ()] = draw(st.sampled_from(TEXTS))
            value = value.astype(str)
        elif what == 4:
            members.pop(key, None)
            key = draw(st.sampled_from([f"{name}.npy" for name in stored.LAYOUT]) | st.text(max_size=8))
        members[key] = npy(value)
        if what == 5:
            members[key] = headed(draw(st.sampled_from(HEADERS)), members[key][128:], draw(st.integers(0, 4)))
        elif what == 6:
            members[key] = draw(mangled(members[key]))
        elif what == 7:
            members[key] = members[key][:128] + draw(st.binary(min_size=4, max_size=4)) * (len(members[key]) // 4 - 32)
    return archive(members, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])))


def assert_sound(content):
    """Shapes that fit, finite rows of a direction, names to print; and a model can be made of it."""
    validate_shapes(stored.VECTORS, {"texts_build": content.vectors["texts_build"], **content.vectors})
    for name, value in content.vectors.items():
        made = content.mask if name == "prototypes" else torch.ones(value.shape[:-1], dtype=torch.bool)
        torch.testing.assert_close(F.normalize(value, dim=-1).norm(dim=-1), made.float(), atol=1e-4, rtol=0)
    assert (content.mask.view(torch.uint8) <= 1).all() and ("prototypes" in content.vectors or not content.mask.any())
    for places, size in zip((content.classes, content.domains), content.vocabulary.shape, strict=True):
        assert len(places) == len(content.vectors["images"]) and places.min() >= 0 and places.max() < size
    names = (*content.vocabulary.classes, *content.vocabulary.domains, *content.other_names, *content.common_names)
    assert all(printable(text) for text in (*names, *content.words.values()))
    texts = stored.StoredTexts(content)
    model = stored.StoredModel(content, texts.table)
    assert model.encode_text(texts([*texts.rows])).isfinite().all()
    assert model.encode_image(content.vectors["images"]).isfinite().all()


@pytest.mark.promise("What is damaged is refused")
def test_any_bytes_are_read_soundly_or_refused(tmp_path):
    path, outcomes = tmp_path / "fuzzed.npz", Counter()
    sound = archive({f"{name}.npy": npy(value) for name, value in fields(6).items()})

    @examples(20)
    @given(st.data())
    def fuzz(data):
        path.write_bytes(data.draw(mangled(sound) if data.draw(st.integers(0, 3)) == 0 else tampered()))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                content = stored.read_stored(path)
        except ValueError as error:
            outcomes["refused"] += 1
            assert "fuzzed.npz" in str(error) and len(str(error)) < 2_000 and printable(str(error)), str(error)
        else:
            outcomes["accepted"] += 1
            assert_sound(content)

    fuzz()
    print(f"\nembeddings: {dict(outcomes)}")
    assert outcomes["refused"] > outcomes.total() / 4 and outcomes["accepted"] > 0, outcomes
