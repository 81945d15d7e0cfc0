"""Stored embeddings: a file in place of model and pictures."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clipnull as cn
from clipnull import stored
from clipnull.bench import sweep as bench
from clipnull.commands import cli
from clipnull.prompts import embed_cells, embed_classes, embed_domains, prompt_sets
from clipnull.prototypes import cell_prototypes, synthesize

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
    found = cn.compare(clip, after, images, request)
    assert found.rates["forgetting_rate"] >= 0.5
    given = cn.compare(clip, after, images, request, features=(z, cn.embed(after, images)))
    assert torch.equal(found.before, given.before) and torch.equal(found.after, given.after)
    assert cn.Edit.load(edit.save(tmp_path / "patch.safetensors"), clip).same(edit)


@pytest.mark.parametrize("missing", OPTIONAL)
def test_an_optional_field_is_done_without(file, missing):
    together = {"other_texts": "other_names", "common_texts": "common_names"}
    together |= {names: texts for texts, names in together.items()}
    path = file(**{missing: None, together.get(missing, missing): None})
    clip, images = cn.load(path, device="cpu"), cn.load_images(path)
    rows = bench.sweep(clip, images, ["nullspace"], ["global"])
    assert {row["prompts"] for row in rows} == set(prompt_sets(clip)) >= {"free", "build"}
    assert ("domain" in prompt_sets(clip)) == (missing != "texts_domain")


def test_half_precision_and_rows_of_any_length(file):
    made = fields()
    texts = (7 * made["texts_build"]).astype(np.float16)
    clip = cn.load(file(texts_build=texts, images=made["images"].astype(np.float16)), device="cpu")
    torch.testing.assert_close(
        embed_cells(clip, clip.model.stored.vocabulary),
        F.normalize(torch.from_numpy(texts).float(), dim=-1),
    )


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


def at(name, value):
    """The second row of a field full of `value`."""
    values = fields()[name].copy()
    values.reshape(-1, D)[1] = value
    return {name: values}


def nan(name):
    values = fields()[name].copy()
    values.reshape(-1, D)[1, 0] = np.nan
    return {name: values}


def zero(name):
    values = fields()[name].copy()
    values.reshape(-1, D)[2] = 0
    return {name: values}


BAD = {
    "missing": ({"texts_free": None}, r"lacks texts_free; expected the fields images"),
    "misspelt": ({"text_free": np.ones((C, D))}, r"unknown field: .*text_free.*did you mean 'texts_free'"),
    "shapes": ({"texts_free": np.ones((C + 1, D))}, r"texts_free of shape \(4, 8\); expected C = 3, as in texts_build"),
    "width": ({"images": np.ones((N, D + 1))}, r"of shape .*; expected d = 9, as in images"),
    "axes": ({"images": np.ones(N)}, r"images of shape \(30,\); expected \(n, d\)"),
    "empty": ({"images": np.ones((0, D))}, r"images of shape \(0, 8\)"),
    "NaN": (nan("images"), r"NaN, infinite or too large values in row 1 of images"),
    "zero": (zero("texts_build"), r"a row of length zero: 2 of texts_build"),
    "object": ({"classes": np.array(["cat"] * N, dtype=object)}, r"cannot be read"),
    "label": ({"classes": np.array(["cat"] * (N - 1) + ["cow"])}, r"classes without a name: .cow.; expected .cat."),
    "numbers": ({"classes": np.arange(N)}, r"classes as int64; expected texts"),
    "whole numbers": ({"images": np.ones((N, D), int)}, r"images as int64; expected floating-point"),
    "mask": ({"prototype_mask": np.ones((C, K))}, r"prototype_mask as float64; expected bool"),
    "twice": ({"class_names": np.array(["cat", "cat", "house"])}, r"unfit names"),
    "large": (at("images", 1e300), r"NaN, infinite or too large values in row 1 of images"),
    "short": (at("texts_free", 1e-20), r"a row of length zero: 1 of texts_free"),
    "control": ({"model": np.array("a\x1b[2J")}, r"model that cannot be printed, such as 'a\\x1b\[2J'"),
    "code": ({"note": np.array([0x110000], "u4").view("U1").reshape(())}, r"note with characters that there are not"),
    "swapped": ({"note": np.array([0x11], "u4").view(">U1").reshape(())}, r"note with characters that there are not"),
    "long": ({"classes": np.array(["x" * 9_000] * N)}, r"classes without a name: 'x{60}'; expected .cat."),
    "others": ({"other_names": None}, r"only one of other_texts and other_names"),
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
        with pytest.raises(ValueError, match="expected model and pictures of one file of embeddings"):
            cn.embed(one, other)
    with pytest.raises(ValueError, match="embeddings of 30 pictures are stored, not the pictures"):
        pictures.image(0)
    with pytest.raises(ValueError, match="pretrained: 'openai' given"):
        cn.load(path, "openai")
    with pytest.raises(ValueError, match="is not there; expected a file of embeddings"):
        cn.load(str(tmp_path / "none.npz"))


def test_an_edit_of_other_weights_is_refused_or_warned_of(file):
    first = cn.load(file(), device="cpu")
    edit = cn.unlearn(first, cn.Forget(["dog"]), first.model.stored.vocabulary)
    with pytest.raises(ValueError, match="do not match"):
        edit.apply(cn.load(file(fingerprint=np.array("f" * 16)), device="cpu"))
    with pytest.warns(UserWarning, match="does not say which weights it is of; the edit is for ViT-B-32"):
        edit.apply(cn.load(file(fingerprint=None), device="cpu"))


def test_a_damaged_file_gives_nothing_but_a_value_error(file, tmp_path):
    whole, generator = Path(file()).read_bytes(), np.random.default_rng(0)
    path = tmp_path / "broken.npz"
    for _ in range(300):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), generator.integers(1, 9)):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(damaged[: generator.integers(1, len(whole))] if generator.random() < 0.3 else damaged)
        try:
            cn.load(str(path), device="cpu")
        except ValueError as error:
            assert "broken.npz" in str(error)


@pytest.mark.filterwarnings("error")
def test_what_is_large_is_refused_without_another_word(file):
    with pytest.raises(ValueError, match="too large values in row 1"):
        stored.read_stored(file(**at("images", 1e300)))


def test_a_member_that_is_no_array_is_refused(file):
    path = file(note=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("note", b"plain text")
    with pytest.raises(ValueError, match=r"made\.npz' holds note as bytes; expected arrays of NumPy"):
        stored.read_stored(path)


def test_whatever_byte_stands_for_true_is_true(file):
    mask = np.full((C, K), 2, np.uint8).view(bool)
    found = stored.read_stored(file(prototype_mask=mask))
    assert (found.mask.view(torch.uint8) == 1).all() and found.vectors["prototypes"].norm(dim=-1).min() > 0


@pytest.mark.promise("No file of data runs code")
def test_a_pickle_in_an_archive_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return pytest.fail, ("a pickle was run",)

    path, content = tmp_path / "evil.npz", io.BytesIO()
    np.lib.format.write_array(content, np.array([Evil()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content.getvalue())
    with pytest.raises(ValueError, match="cannot be read"):
        cn.load(str(path), device="cpu")


def test_bench_takes_a_file(file, tmp_path, capsys):
    out = tmp_path / "found.json"
    assert cli.main(["bench", file(), "--methods", "oblique", "gated", "--json", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["name"], found["model"], found["pretrained"], found["pictures"]) == ("made", "ViT-B-32", "openai", N)
    assert {row["method"] for row in found["rows"]} == {"oblique", "gated"}
    assert "global: 3 requests" in capsys.readouterr().out
