"""A word stops working in an index: from names to a patch, to the switch and back, in FAISS and sqlite-vec."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from helpers import plain, random

import clipnull as cn
from clipnull.commands import cli
from clipnull.index.checking import check_index, forgotten, read_queries, says
from clipnull.index.files import open_tables
from clipnull.index.patching import LEAN, SPREAD, belonging
from clipnull.prompts import embed_classes, near
from clipnull.stored import LAYOUT, read_stored
from clipnull.vocabulary import read_vocabulary

FOLDER = os.environ.get("CLIPNULL_EMBEDDINGS")
PAIRS = Path(FOLDER or "", "vitb16_pairs.npz")
real = pytest.mark.skipif(not FOLDER or not PAIRS.is_file(), reason="CLIPNULL_EMBEDDINGS names no folder with pairs")
WORDS = ("cat", "airplane", "motorcycle", "toilet")


def command(*arguments):
    """Run a command that is to go well."""
    assert cli.main([str(a) for a in arguments]) == 0


def refused(capsys, *arguments):
    """The line in which a command tells an error."""
    assert cli.main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    return err.strip()


# --- names


def test_a_vocabulary_is_a_file_with_a_name_a_line(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\ufeff# animals\ncat, kitten,tomcat\n\n dog \nhot dog\n", encoding="utf-8")
    found = read_vocabulary(path)
    assert found.names == (("cat", "kitten", "tomcat"), ("dog",), ("hot dog",)) and found.domains == ("photo",)
    path.write_text("cat\ndomain: photo\ndog\nDomain: sketch\n")
    assert read_vocabulary(path) == cn.Vocabulary(["cat", "dog"], ["photo", "sketch"])
    path = tmp_path / "names.json"
    path.write_text('{"classes": {"cat": ["cat", "kitten"], "dog": ["dog"]}, "domains": ["a", "b"]}')
    assert read_vocabulary(path) == cn.Vocabulary({"cat": ["cat", "kitten"], "dog": ["dog"]}, ["a", "b"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "cat\n", "classes: only 'cat' given; expected at least two"),
        ("a.txt", "# nothing\n", "classes: the list is empty"),
        ("a.txt", "cat\ndog\ncat\n", "classes: 'cat' given twice"),
        ("a.txt", "cat\ndog\nCAT\n", "become the same words"),
        ("a.txt", "cat, dog\ndog\n", "become the same words"),
        ("a.txt", ",\ndog\n", "is not a name"),
        ("a.json", "[1, 2]", "not of the form"),
        ("a.json", "{", "is not valid"),
        ("b.txt", None, "is not there"),
    ],
)
def test_vocabularies_that_are_none(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"vocabulary: .*{name}.*{message}"):
        read_vocabulary(tmp_path / name)


@pytest.fixture
def texts_file(tmp_path):
    """A file of texts alone: 6 classes, one of which has a near one."""
    texts = random(6, 32, seed=2)
    texts[5] = texts[0] + 0.5 * texts[5]
    path = tmp_path / "texts.npz"
    names = np.array(["cat", "dog", "house", "tree", "car", "kitten"])
    np.savez(path, class_names=names, class_texts=texts.numpy(), model=np.array("some CLIP"), captions=names)
    return path


def test_texts_alone_stand_in_for_a_model(texts_file, tmp_path, capsys):
    clip = cn.load(str(texts_file))
    vocabulary = clip.stored.vocabulary
    assert vocabulary.shape == (6, 1) and (clip.name, clip.width) == ("some CLIP", 32)
    rows = F.normalize(torch.from_numpy(np.load(texts_file)["class_texts"]), dim=1)
    torch.testing.assert_close(embed_classes(clip, vocabulary.names), rows)
    assert near(clip, cn.Forget(["cat"]), vocabulary)["cat"][0][0] == "kitten"
    command("near", "--classes", "cat", "--embeddings", texts_file, "--most", 2)
    assert capsys.readouterr().out.startswith("cat: kitten 0.")
    for method in ("nullspace", "ridge", "oblique", "neuron", "gated"):  # kittens protect cats from `residual`
        edit = cn.unlearn(clip, cn.Forget(["cat"]), vocabulary, method)
        assert edit.model == "some CLIP" and edit.mean_text is not None
        cat, dog = rows[:1], rows[1:2]
        assert (edit.images(cat) @ cat.T) < 0.3 and (edit.images(dog) @ dog.T) > 0.95, method


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": np.array(["a", "b"])}, {"class_texts": np.ones((6, 3, 2), "f4")},
        {"class_texts": np.full((6, 4), np.nan)}, {"class_texts": np.ones((6, 4), "i4")},
        {"class_names": np.array(["a"] * 6)}, {"class_names": np.array([{}] * 6)},
        {"class_names": np.array(["a"]), "class_texts": np.ones((1, 4), "f4")},
    ],
)  # fmt: skip
def test_texts_that_are_none(change, texts_file):
    with np.load(texts_file) as archive:
        fields = dict(archive) | change
    np.savez(texts_file, **fields)
    with pytest.raises(ValueError, match="file: .*(class_texts|cannot be read)"):
        read_stored(texts_file)


def test_no_field_of_a_whole_file_is_taken_for_texts_alone():
    assert "class_texts" not in LAYOUT


# --- with a model: the embedded one


@pytest.fixture(scope="module")
def shop(tmp_path_factory, clip, images, z):
    """A small picture search on the embedded pictures, and a patch against dogs made of one list of names."""
    folder = tmp_path_factory.mktemp("shop")
    vocabulary = images.vocabulary
    (folder / "names.txt").write_text("\n".join(vocabulary.classes) + "\n")
    np.save(folder / "pictures.npy", F.normalize(z, dim=1).numpy())
    names = [*vocabulary.classes, "puppy", "tractor", "sailing ship", "red", "winter", "a toy"]
    np.save(folder / "queries.npy", embed_classes(clip, names).numpy())
    (folder / "queries.txt").write_text("\n".join(names) + "\n")
    out = folder / "no-dog.safetensors"
    command("forget", "--classes", "dog", "--vocabulary", folder / "names.txt", "--prototypes", 0, "--out", out)
    return folder


def precision(order, images, name):
    """The share of the class among as many first answers as it has pictures."""
    relevant = images.classes == images.vocabulary.classes.index(name)
    return float(relevant[torch.as_tensor(np.asarray(order)[: int(relevant.sum())])].double().mean())


def test_a_patch_from_one_list_of_names(shop, clip, images):
    edit = cn.Edit.load(shop / "no-dog.safetensors", clip)
    assert edit.method == "oblique" and edit.linear and edit.rank == 1 and forgotten(edit) == ["dog"]
    vocabulary = read_vocabulary(shop / "names.txt")
    assert vocabulary.shape == (len(images.vocabulary.classes), 1)
    assert edit.same(cn.unlearn(clip, cn.Forget(["dog"]), vocabulary, "oblique", prototypes=False))
    lean, spread = belonging(edit, torch.from_numpy(np.load(shop / "pictures.npy")))
    assert lean > LEAN and spread > 3 * SPREAD  # so that the index is known to be of the model


def test_faiss_forgets_by_the_index_and_by_the_query(shop, clip, images, tmp_path):
    faiss = pytest.importorskip("faiss")
    z, edit = np.load(shop / "pictures.npy"), cn.Edit.load(shop / "no-dog.safetensors", clip)
    texts = dict(zip(images.vocabulary.classes, embed_classes(clip, images.vocabulary.classes), strict=True))
    before = faiss.IndexFlatIP(z.shape[1])
    before.add(z)
    command("apply", shop / "no-dog.safetensors", "--index", shop / "pictures.npy", "--normalize",
            "--out", tmp_path / "new.npy")  # fmt: skip
    after = faiss.IndexFlatIP(z.shape[1])
    after.add(np.load(tmp_path / "new.npy"))

    def found(index, t):
        return index.search(t[None].numpy(), len(z))[1][0]

    assert precision(found(before, texts["dog"]), images, "dog") > 0.55
    assert precision(found(after, texts["dog"]), images, "dog") <= 0.05
    assert precision(found(before, edit.queries(texts["dog"])), images, "dog") <= 0.05
    kept = [name for name in texts if name != "dog"]
    ways = [(before, lambda t: t), (after, lambda t: t), (before, edit.queries)]
    told = np.array([[precision(found(index, turn(texts[n])), images, n) for n in kept] for index, turn in ways])
    assert (told[0].mean() - told.mean(1) <= 0.06).all()  # miniclip has horses beside dogs
    command("undo", shop / "no-dog.safetensors", "--index", tmp_path / "new.npy", "--out", tmp_path / "back.npy")
    assert np.array_equal(np.load(tmp_path / "back.npy"), z)


def test_sqlite_vec_is_switched_in_one_transaction_and_back(shop, clip, images):
    sqlite_vec = pytest.importorskip("sqlite_vec")
    z, edit = torch.from_numpy(np.load(shop / "pictures.npy")), cn.Edit.load(shop / "no-dog.safetensors", clip)
    apsw = pytest.importorskip("apsw")  # as Python's own sqlite3 may be built without extensions
    store = apsw.Connection(":memory:")
    store.enable_load_extension(True)
    store.load_extension(sqlite_vec.loadable_path())
    store.execute(f"create virtual table pictures using vec0(z float[{z.shape[1]}] distance_metric=cosine)")

    def put(rows):
        with store:
            store.execute("delete from pictures")
            put = "insert into pictures(rowid, z) values (?, ?)"
            store.executemany(put, [(i, row.numpy().tobytes()) for i, row in enumerate(rows)])

    def found(t):
        asked = "select rowid from pictures where z match ? order by distance limit 100"
        return [row for (row,) in store.execute(asked, [t.numpy().tobytes()])]

    dog = embed_classes(clip, ["dog"])[0]
    put(z)
    first = found(dog)
    assert precision(first, images, "dog") > 0.55 and precision(found(edit.queries(dog)), images, "dog") <= 0.05
    put(edit.images(z))
    assert precision(found(dog), images, "dog") <= 0.05
    put(z)
    assert found(dog) == first


def test_check_tells_what_answers_before_anything_is_switched(shop, tmp_path, capsys):
    before = {f.name: f.read_bytes() for f in shop.iterdir()}
    command("check", shop / "no-dog.safetensors", "--index", shop / "pictures.npy", "--queries", shop / "queries.npy",
            "--names", shop / "queries.txt", "--json", tmp_path / "check.json")  # fmt: skip
    told, out = json.loads((tmp_path / "check.json").read_text()), capsys.readouterr().out
    word = told["words"]["dog"]
    assert told["sides"] == ["before", "index edited", "query edited"]
    assert (word["k"], word["named"], word["precision"][0]) == (10, False, 1.0) and max(word["precision"][1:]) <= 0.1
    assert told["still"]["dog"] == {} and told["kept"]["n"] == 0
    assert told["collateral"]["percent"][0] == 0 and told["collateral"]["n"] == len(read_lines(shop)) - 1
    assert "dog: of 10 answers before, share among the first 10" in out and "dog: none of these queries" in out
    assert {f.name: f.read_bytes() for f in shop.iterdir()} == before


def test_an_index_that_is_written_to_is_not_judged(shop, tmp_path, capsys, monkeypatch):
    for name in ("pictures.npy", "queries.npy"):
        shutil.copy(shop / name, tmp_path / name)
    monkeypatch.setattr("clipnull.index.checking.check_index", lambda *_: shutil.copy(shop / "queries.npy", index))
    index, asked = tmp_path / "pictures.npy", ("--queries", tmp_path / "queries.npy", "--names", shop / "queries.txt")
    line = refused(capsys, "check", shop / "no-dog.safetensors", "--index", index, *asked)
    assert "pictures.npy' was written to meanwhile; expected a file at rest" in line


def test_queries_of_another_width_are_refused(shop, tmp_path, capsys):
    np.save(tmp_path / "queries.npy", np.ones((20, 7), "f4"))
    asked = ("--queries", tmp_path / "queries.npy", "--names", shop / "queries.txt")
    line = refused(capsys, "check", shop / "no-dog.safetensors", "--index", shop / "pictures.npy", *asked)
    assert line == "queries: 7 wide; expected 256, as the index is"


def read_lines(shop):
    return (shop / "queries.txt").read_text().split("\n")[:-1]


def test_what_check_counts():
    """By hand: 6 pictures on the axes, captions of the same, the first of which is forgotten."""
    from clipnull.index.checking import Queries
    from clipnull.index.files import Vectors

    class Table(Vectors):
        def chunks(self):
            yield from torch.eye(6).split(4)

    u = torch.eye(6, dtype=torch.float64)[:, :1]
    edit = cn.Edit(u, u, "by hand", cn.Forget(["cat"]))
    texts = ("a cat", "dog", "a house", "a tree", "a car", "a boat", "cat", "dogs")
    vectors = torch.cat([torch.eye(6), torch.eye(6)[:1], torch.eye(6)[1:2] + 0.9 * torch.eye(6)[:1]])
    queries = Queries(F.normalize(vectors, dim=1), texts, torch.tensor([0, 1, 2, 3, 4, 5, -1, -1]))
    found = check_index(edit, [Table(Path("x.npy"), "", (6, 6), torch.float32)], queries)
    assert found["words"]["cat"]["k"] == 1 and found["words"]["cat"]["named"]
    assert found["words"]["cat"]["precision"][0] == 1
    assert found["kept"] == {"n": 5, "to_image": [100, 100, 100], "to_text": [100, 100, 100]}
    assert found["collateral"] == {"n": 1, "percent": [0, 0, 0]}  # "dogs" answer with a dog, as before
    assert found["still"]["cat"] == {}
    u = torch.eye(6, dtype=torch.float64)[:, 1:2]  # takes away dogs where it should take cats
    wrong = cn.Edit(u, u, "by hand", cn.Forget(["cat"]))
    found = check_index(wrong, [Table(Path("x.npy"), "", (6, 6), torch.float32)], queries)
    assert found["words"]["cat"]["precision"] == [1, 1, 1] and found["collateral"]["percent"] == [0, 100, 100]
    assert found["still"]["cat"] == {"dogs": [0, 1, 1]}


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("A cat.", "cat", True), ("two CATS", "cat", True), ("a category", "cat", False), ("bobcat", "cat", False),
        ("a traffic_light at night", "traffic light", True), ("buses", "bus", True), ("c++ and c", "c++", True),
    ],
)  # fmt: skip
def test_a_caption_names_a_class_as_a_word(text, name, expected):
    assert says(text, name) == expected


def test_queries_of_every_kind(tmp_path):
    t, names = random(5, 8).numpy(), ["a", "b", "c", "d", "e"]
    np.savez(tmp_path / "a.npz", texts=t, captions=names, class_texts=t[:2], class_names=["x", "y"])
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(t.reshape(-1)), 8), "caption": names})
    pq.write_table(table, tmp_path / "a.parquet")
    for name in ("text_emb", "metadata"):
        (tmp_path / "set" / name).mkdir(parents=True)
    np.save(tmp_path / "set" / "text_emb" / "text_emb_0.npy", t)
    pq.write_table(pa.table({"caption": names}), tmp_path / "set" / "metadata" / "metadata_0.parquet")
    np.save(tmp_path / "a.npy", t)
    (tmp_path / "names.txt").write_text("\n".join(names))
    for name in ("a.npz", "a.parquet", "set", "a.npy"):
        found = read_queries(tmp_path / name, 5, tmp_path / "names.txt" if name == "a.npy" else None)
        assert found.texts[:5] == tuple(names) and found.rows[:5].tolist() == [*range(5)]
        torch.testing.assert_close(found.vectors[:5], F.normalize(torch.from_numpy(t), dim=1))
        assert (read_queries(tmp_path / name, 6, tmp_path / "names.txt" if name == "a.npy" else None).rows == -1).all()
    assert read_queries(tmp_path / "a.npz", 5).texts[5:] == ("x", "y")
    with pytest.raises(ValueError, match="holds 5 vectors and 0 texts; expected one text for each"):
        read_queries(tmp_path / "a.npy", 5)
    with pytest.raises(ValueError, match="none asks for 'z'"):
        found.place("z")


def test_errors_of_the_commands_are_one_line(shop, texts_file, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("cat\n")
    out = ("--out", tmp_path / "p.safetensors")
    for arguments, message in (
        (("forget", "--classes", "cat", "--vocabulary", tmp_path / "one.txt", *out), "expected at least two"),
        (("forget", "--classes", "cta", "--embeddings", texts_file, *out), "'cta' is not known; did you mean 'cat'"),
        (("forget", "--classes", "cat", *out), "vocabulary: not given"),
        (
            ("forget", "--classes", "cat", "--embeddings", texts_file, "--model", "x", *out),
            "model: given with embeddings",
        ),
        (("forget", "--classes", "cat", "--embeddings", texts_file, "--out", tmp_path / "p.pt"), "does not end in"),
        (("forget", "--embeddings", texts_file, *out), "classes, domains: neither is given"),
        (("forget", "--classes", "cat", "--embeddings", texts_file, "--method", "gatd", *out), "did you mean 'gated'"),
        (
            ("apply", shop / "no-dog.safetensors", "--index", tmp_path / "no.npy", "--out", tmp_path / "o.npy"),
            "not there",
        ),
        (("apply", shop / "names.txt", "--index", shop / "pictures.npy", "--out", tmp_path / "o.npy"), "no valid edit"),
    ):
        assert message in refused(capsys, *arguments), arguments
    np.save(tmp_path / "wide.npy", random(9, 512).numpy())
    assert "is 512 wide; expected 256" in refused(
        capsys, "apply", shop / "no-dog.safetensors", "--index", tmp_path / "wide.npy", "--out", tmp_path / "o.npy"
    )
    assert not (tmp_path / "o.npy").exists() and not (tmp_path / "p.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nullspace", "residual", "ridge", "oblique", "neuron", "gated"])
def test_prototypes_of_one_domain(method, clip):
    names = cn.Vocabulary(["cat", "dog", "house", "car"], ["photo"])
    edit = cn.unlearn(clip, cn.Forget(["dog"]), names, method, prototypes=2)
    assert edit.settings["prototypes"]
    t = embed_classes(clip, names.classes)
    before, after = t @ t.T, edit.images(t) @ t.T
    lead = [float(scores[1, 1] - scores[1, [0, 2, 3]].max()) for scores in (before, after)]  # over the next name
    assert lead[1] < 0.2 * lead[0] and after.argmax(1)[[0, 2, 3]].tolist() == [0, 2, 3]


# --- OpenAI's ViT-B/16 and pictures of COCO


@real
def test_a_word_on_a_real_clip(tmp_path, capsys):
    """The targets: means over four words. Told word by word where they fail."""
    faiss = pytest.importorskip("faiss")
    with np.load(PAIRS, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    z, t, named = (
        F.normalize(torch.from_numpy(found[n].astype("f4")), dim=1) for n in ("images", "texts", "class_texts")
    )
    table = {}
    for word in WORDS:
        patch, out = tmp_path / f"{word}.safetensors", tmp_path / f"{word}.npz"
        command("forget", "--classes", word, "--embeddings", PAIRS, "--out", patch)
        command("check", patch, "--index", PAIRS, "--queries", PAIRS, "--json", tmp_path / "check.json")
        told = json.loads((tmp_path / "check.json").read_text())
        command("apply", patch, "--index", PAIRS, "--out", out)
        moved = F.normalize(torch.from_numpy(np.load(out)["images"].astype("f4")), dim=1)
        relevant = torch.tensor(
            [re.search(rf"\b{word}s?\b", c.lower()) is not None for c in found["captions"].tolist()]
        )
        edit, k, query = cn.Edit.load(patch), int(relevant.sum()), named[found["class_names"].tolist().index(word)]
        rows = []
        for pictures, change in ((z, lambda x: x), (moved, lambda x: x), (z, edit.queries)):
            index = faiss.IndexFlatIP(z.shape[1])
            index.add(pictures.numpy())
            texts, own = F.normalize(change(t), dim=1), torch.arange(len(t))[:, None]
            first = torch.from_numpy(index.search(change(query)[None].numpy(), k)[1][0])
            forth = torch.from_numpy(index.search(texts.numpy(), 5)[1])
            back = (pictures @ texts.T).topk(5).indices
            recalls = [100 * float((hit == own).any(1)[~relevant].double().mean()) for hit in (forth, back)]
            rows.append([float(relevant[first].double().mean()), *recalls])
        table[word] = rows
        np.testing.assert_allclose(np.transpose(rows)[0], told["words"][word]["precision"], atol=1e-6)
        np.testing.assert_allclose(
            np.transpose(rows)[1:], [told["kept"]["to_image"], told["kept"]["to_text"]], atol=0.5
        )
        command("undo", patch, "--index", out, "--out", tmp_path / f"{word}-back.npz")
        assert (tmp_path / f"{word}-back.npz").read_bytes() == PAIRS.read_bytes()
    mean = np.mean([*table.values()], axis=0)  # (side, figure)
    assert mean[0, 0] > 0.5 and (mean[1:, 0] <= 0.05).all(), table
    assert (mean[0, 1:] - mean[1:, 1:] <= 1.0).all(), table


@real
def test_a_foreign_index_of_the_same_width_is_known(tmp_path, capsys):
    style = PAIRS.with_name("vitb32_style.npz")
    command("forget", "--classes", "cat", "--embeddings", PAIRS, "--out", tmp_path / "cat.safetensors")
    with np.load(style, allow_pickle=False) as file:
        np.save(tmp_path / "other.npy", file["images"])
    with np.load(PAIRS, allow_pickle=False) as file:
        np.save(tmp_path / "own.npy", file["images"])
    for source, message in ((style, "is of ViT-B-32"), (tmp_path / "other.npy", "as if of another model")):
        assert message in refused(
            capsys, "apply", tmp_path / "cat.safetensors", "--index", source, "--out", tmp_path / f"o{source.suffix}"
        )
    command("apply", tmp_path / "cat.safetensors", "--index", tmp_path / "own.npy", "--out", tmp_path / "new.npy")
    shutil.rmtree(tmp_path)


def test_an_edit_by_hand_can_be_applied_too(tmp_path):
    plain(8).save(tmp_path / "p.safetensors")
    np.save(tmp_path / "z.npy", random(9, 8).numpy())
    command("apply", tmp_path / "p.safetensors", "--index", tmp_path / "z.npy", "--out", tmp_path / "o.npy")
    np.testing.assert_allclose(
        np.load(tmp_path / "o.npy"), plain(8).images(torch.from_numpy(np.load(tmp_path / "z.npy"))), atol=1e-6
    )
    assert open_tables(tmp_path / "o.npy")[0].shape == (9, 8)
