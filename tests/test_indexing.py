"""A word stops working in an index: from names to a patch, to the switch and back, in FAISS."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from helpers import plain, python, random

import clipnull as cn
from clipnull import models
from clipnull.commands import cli
from clipnull.index import checking
from clipnull.index.checking import Queries, check_index, forgotten, naming, read_queries
from clipnull.index.files import open_tables
from clipnull.prompts import embed_classes, near
from clipnull.vocabulary import read_vocabulary, words

FOLDER = os.environ.get("CLIPNULL_EMBEDDINGS")
PAIRS = Path(FOLDER or "", "vitb16_pairs.npz")
real = pytest.mark.skipif(not FOLDER or not PAIRS.is_file(), reason="CLIPNULL_EMBEDDINGS names no folder with pairs")
FORMS_OF_DOG = ("dog", "the dog", "dogs", "the dogs", "two dogs", "many dogs")
MODEL = ("--model", "miniclip")
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


@pytest.fixture(autouse=True, scope="module")
def loaded_once(clip):
    """Commands get the embedded model of this process in place of loading it each time."""
    load = models.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda name, tag=None: clip if name == "miniclip" else load(name, tag))
        yield


# --- names


def test_a_vocabulary_is_a_file_with_a_name_a_line(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\ufeff# animals\ncat, kitten,tomcat\n\n dog \nhot dog\n", encoding="utf-8")
    vocabulary = read_vocabulary(path)
    assert vocabulary.names == (("cat", "kitten", "tomcat"), ("dog",), ("hot dog",))
    assert vocabulary.domains == ("photo",)
    path.write_text("cat\ndomain: photo\ndog\nDomain: sketch\n")
    assert read_vocabulary(path) == cn.Vocabulary(["cat", "dog"], ["photo", "sketch"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n", "classes: only 'cat' given; expected at least two"),
        ("# nothing\n", "classes: the list is empty"),
        ("cat\ndog\nCAT\n", "become the same words"),
        (None, "cannot be read"),
    ],
)
def test_vocabularies_that_are_none(text, message, tmp_path):
    if text is not None:
        (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"vocabulary: .*a.txt.*{message}"):
        read_vocabulary(tmp_path / "a.txt")


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
    (tmp_path / "words.txt").write_text("kitten\nhouse\n")
    command("near", "--classes", "cat", "--embeddings", texts_file, "--most", 2, "--candidates", tmp_path / "words.txt")
    assert capsys.readouterr().out.startswith("cat: kitten 0.")
    for method in ("nullspace", "ridge", "oblique", "neuron", "gated"):  # kittens protect cats from `residual`
        edit = cn.unlearn(clip, cn.Forget(["cat"]), vocabulary, method)
        assert edit.model == "some CLIP"
        cat, dog = rows[:1], rows[1:2]
        assert (edit.images(cat) @ cat.T) < 0.3 and (edit.images(dog) @ dog.T) > 0.95, method


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


def test_faiss_forgets_by_the_index_and_by_the_query(shop, clip, images, tmp_path):
    faiss = pytest.importorskip("faiss")
    z, edit = np.load(shop / "pictures.npy"), cn.Edit.load(shop / "no-dog.safetensors", clip)
    vocabulary = read_vocabulary(shop / "names.txt")
    assert edit.same(cn.unlearn(clip, cn.Forget(["dog"]), vocabulary, "oblique", prototypes=False))
    texts = dict(zip(images.vocabulary.classes, embed_classes(clip, images.vocabulary.classes), strict=True))
    before = faiss.IndexFlatIP(z.shape[1])
    before.add(z)
    command("apply", shop / "no-dog.safetensors", "--index", shop / "pictures.npy", "--normalize", *MODEL,
            "--out", tmp_path / "new.npy")  # fmt: skip
    after = faiss.IndexFlatIP(z.shape[1])
    after.add(np.load(tmp_path / "new.npy"))

    def answers(index, t):
        return index.search(t[None].numpy(), len(z))[1][0]

    assert precision(answers(before, texts["dog"]), images, "dog") > 0.55
    assert precision(answers(after, texts["dog"]), images, "dog") <= 0.05
    assert precision(answers(before, edit.queries(texts["dog"])), images, "dog") <= 0.05
    others = [name for name in texts if name != "dog"]
    ways = [(before, lambda t: t), (after, lambda t: t), (before, edit.queries)]
    shares = np.array([[precision(answers(index, turn(texts[n])), images, n) for n in others] for index, turn in ways])
    assert (shares[0].mean() - shares.mean(1) <= 0.06).all()  # miniclip has horses beside dogs
    command("undo", shop / "no-dog.safetensors", "--index", tmp_path / "new.npy", "--out", tmp_path / "back.npy")
    assert np.array_equal(np.load(tmp_path / "back.npy"), z)


def test_check_names_what_is_not_forgotten_and_who_is_hurt(shop, tmp_path, capsys):
    """Nothing is switched; the limits decide on the exit status; what an alias of the class loses is no harm."""
    before = {f.name: f.read_bytes() for f in shop.iterdir()}
    queries = ("--queries", shop / "queries.npy", "--names", shop / "queries.txt", "--json", tmp_path / "check.json")
    check = [str(a) for a in ("check", shop / "no-dog.safetensors", "--index", shop / "pictures.npy", *queries, *MODEL)]
    assert cli.main([*check, "--max-lost", "3"]) == 1
    out, result = capsys.readouterr().out, json.loads((tmp_path / "check.json").read_text())
    assert result["sides"] == ["before", "index edited", "query edited"] and result["kept"]["n"] == 0
    assert {"patch", "index", "date", "version", "patch_content", "limits"} <= {*result}
    dog, puppy = result["queries"]["dog"], result["queries"]["puppy"]
    assert (dog["forgotten"], dog["found"][0]) == ("dog", 10) and max(dog["found"][1:]) <= 1
    assert puppy["forgotten"] is None and puppy["found"][0] < 10  # of its first answers, the dogs do not count
    assert re.search(r"(?m)^forgotten: dog +10 +\d +\d$", out)
    lost = {text: q["found"][0] - min(q["found"][1:]) for text, q in result["queries"].items() if not q["forgotten"]}
    hurt = [text for text in lost if lost[text] > 3]
    assert hurt and result["beyond"] == hurt and re.findall(r"(?m)^HURT: (.+?)  ", out)[0] == max(hurt, key=lost.get)
    unlisted = [text for text in lost if not re.search(rf"(?m)^(HURT: )?{text}  ", out)]
    assert f"not listed: {len(unlisted)} that lost at most {max(lost[text] for text in unlisted)} of their 10" in out
    assert cli.main([*check, "--max-lost", "10"]) == 0 == cli.main([*check, "--max-lost", "10", "--max-left", "0"])
    weak = replace(cn.Edit.load(shop / "no-dog.safetensors"), left=torch.zeros(256, 1).double())
    weak.save(tmp_path / "weak.safetensors")
    assert cli.main([check[0], str(tmp_path / "weak.safetensors"), *check[2:]]) == 1
    assert "NOT FORGOTTEN: dog" in capsys.readouterr().out
    assert {f.name: f.read_bytes() for f in shop.iterdir()} == before


def test_a_broken_row_stays_and_no_query_finds_it(shop, tmp_path, capsys):
    z = np.load(shop / "pictures.npy")
    z[7, 3] = np.nan
    np.save(tmp_path / "in.npy", z)
    patch = shop / "no-dog.safetensors"
    command("apply", patch, "--index", tmp_path / "in.npy", "--out", tmp_path / "out.npy", *MODEL)
    assert "; 1 with NaN or infinity" in capsys.readouterr().out
    queries = ("--queries", shop / "queries.npy", "--names", shop / "queries.txt", "--max-lost", 10)
    command("check", patch, "--index", tmp_path / "in.npy", *queries, *MODEL)
    assert "1 with NaN or infinity, which no query finds" in capsys.readouterr().out
    line = refused(capsys, "check", patch, "--index", tmp_path / "out.npy", *queries, *MODEL)
    assert "was edited with this patch before; expected the original" in line


def test_a_word_is_forgotten_and_checked_in_its_forms(clip, images, z, tmp_path, capsys):
    np.save(tmp_path / "z.npy", z.numpy())
    (tmp_path / "words.txt").write_text("dog\nhorse\n")
    (tmp_path / "names.txt").write_text("\n".join(images.vocabulary.classes))
    command("queries", tmp_path / "words.txt", "--forms", "dog", "--out", tmp_path / "queries.npz")
    names = ("--vocabulary", tmp_path / "names.txt", "--classes", "dog")
    command("near", *names, "--candidates", tmp_path / "words.txt")
    listed = f"forms of dog, forgotten with it: {', '.join(FORMS_OF_DOG)}"
    assert listed in capsys.readouterr().out
    counts = {}
    for name, options in (("forms", ()), ("name", ("--as-named",))):
        patch = tmp_path / f"{name}.safetensors"
        command("forget", *names, "--prototypes", 0, "--out", patch, *options)
        assert (listed in capsys.readouterr().out) == (name == "forms")
        check = ("check", patch, "--index", tmp_path / "z.npy", "--queries", tmp_path / "queries.npz")
        cli.main([*map(str, check), *MODEL])
        text = capsys.readouterr().out
        rows = [re.search(rf"(?mi)forgotten: {form} +(\d+) +(\d+) +(\d+)$", text) for form in FORMS_OF_DOG]
        counts[name] = [[*map(int, row.groups())] for row in rows]
    assert all(before >= 9 and after <= 1 for before, after, _ in counts["forms"]) and counts["forms"] != counts["name"]


def test_captions_of_many_parts_belong_to_their_rows(tmp_path):
    """Parts without leading zeros, of different lengths, on another disk; a part that lacks a text is refused."""
    for name in ("set/img_emb", "set/text_emb", "disk"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "set" / "metadata").symlink_to(tmp_path / "disk", target_is_directory=True)
    for i in range(13):
        rows = np.full((1 + i % 3, 4), i + 1, "f4")
        for side in ("img_emb", "text_emb"):
            np.save(tmp_path / "set" / side / f"{side}_{i}.npy", rows)
        table = pa.table({"caption": [f"part {i}, row {j}" for j in range(len(rows))]})
        pq.write_table(table, tmp_path / "disk" / f"metadata_{i}.parquet")
    rows = torch.cat([table.rows() for table in open_tables(tmp_path / "set")])
    queries = read_queries(tmp_path / "set", len(rows))
    assert [int(text.split()[1][:-1]) for text in queries.texts] == (rows[:, 0] - 1).int().tolist()
    assert queries.rows.tolist() == [*range(len(rows))]
    pq.write_table(pa.table({"caption": ["one too many", "?"]}), tmp_path / "disk" / "metadata_0.parquet")
    with pytest.raises(ValueError, match=r"holds \[1, 2, 3, .* vectors and \[2, 2, 3, .* texts; expected one text for"):
        read_queries(tmp_path / "set", len(rows))


def test_queries_from_a_text_file_and_aliases(shop, clip, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("dog\n\na red boat\n")
    command("queries", tmp_path / "texts.txt", "--out", tmp_path / "queries.npz")
    queries = read_queries(tmp_path / "queries.npz", 2)
    assert queries.texts == ("dog", "a red boat") and queries.rows.tolist() == [-1, -1]
    torch.testing.assert_close(queries.vectors, clip.embed_texts(["dog", "a red boat"]))
    names, out = tmp_path / "names.txt", tmp_path / "p.safetensors"
    names.write_text("dog, Puppy\nhorse\nboat\n")
    forget = ("forget", "--vocabulary", names, "--prototypes", 0, "--out", out)
    assert "'cat' is unknown" in refused(capsys, *forget, "--classes", "cat")
    command(*forget, "--classes", "puppy")
    first = out.read_bytes()
    assert forgotten(cn.Edit.load(out)) == ["dog"]
    assert "a new .safetensors" in refused(capsys, *forget, "--classes", "boat") and out.read_bytes() == first


@pytest.mark.slow
def test_the_commands_of_an_index_load_no_model_library(tmp_path):
    """They start in a second or two: open_clip, torchvision and transformers take ten."""
    plain(8, request=cn.Forget(["dog"])).save(tmp_path / "p.safetensors")
    np.save(tmp_path / "z.npy", random(9, 8).numpy())
    np.savez(tmp_path / "q.npz", other_texts=random(2, 8).numpy(), other_names=["dog", "cat"])
    code = """
import os, sys
from clipnull.commands import cli
os.chdir(sys.argv[1])
assert cli.main("check p.safetensors --index z.npy --queries q.npz --max-lost 10 --max-left 10".split()) == 0
assert cli.main("apply p.safetensors --index z.npy --out o.npy".split()) == 0
assert cli.main("undo p.safetensors --index o.npy --out back.npy".split()) == 0
print([m for m in ("open_clip", "torchvision", "transformers", "timm", "PIL", "pyarrow") if m in sys.modules])
"""
    assert python(code, tmp_path).splitlines()[-1] == "[]"


def test_what_check_counts(monkeypatch, tmp_path):
    """By hand: 6 pictures on the axes, each with its caption, and the first answer is looked at."""
    monkeypatch.setattr(checking, "FIRST", 1)
    np.save(tmp_path / "x.npy", np.eye(6, dtype="f4"))
    (table,) = open_tables(tmp_path / "x.npy")
    u = torch.eye(6, dtype=torch.float64)
    texts = ("a cat", "a dog", "a house", "a tree", "a car", "a boat", "cat", "dogs", "a toy")
    toy = torch.eye(6)[1:2] + 0.9 * torch.eye(6)[:1]
    queries = Queries(F.normalize(torch.cat([torch.eye(6), torch.eye(6)[:2], toy]), dim=1), texts, torch.arange(9))
    queries.rows[6:] = -1
    for axis, cat, dogs in ((0, [1, 0, 0], [1, 1, 1]), (1, [1, 1, 1], [1, 0, 0])):
        forgets = cn.Edit(u[:, axis : axis + 1], u[:, axis : axis + 1], "by hand", cn.Forget(["cat"]))
        result = check_index(forgets, [table], queries)
        assert result["queries"]["cat"] == {"forgotten": "cat", "found": cat}
        assert result["queries"]["dogs"] == {"forgotten": None, "found": dogs}
        assert result["kept"] == {"n": 5, "percent": [100, 100, 100] if axis == 0 else [100, 80, 80]}


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("A cat.", "cat", True), ("two CATS", "cat", True), ("a category", "cat", False), ("bobcat", "cat", False),
        ("a traffic_light at night", "traffic light", True), ("buses", "bus", True), ("c++ and c", "c++", True),
        ("three blind mice", "mouse", True),
    ],
)  # fmt: skip
def test_a_caption_names_a_class_as_a_word(text, name, expected):
    assert naming(name)(words(text)) == expected


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
        queries = read_queries(tmp_path / name, 5, tmp_path / "names.txt" if name == "a.npy" else None)
        assert queries.texts[:5] == tuple(names) and queries.rows[:5].tolist() == [*range(5)]
        torch.testing.assert_close(queries.vectors[:5], F.normalize(torch.from_numpy(t), dim=1))
        assert (read_queries(tmp_path / name, 6, tmp_path / "names.txt" if name == "a.npy" else None).rows == -1).all()
    assert read_queries(tmp_path / "a.npz", 5).texts[5:] == ("x", "y")
    with pytest.raises(ValueError, match="holds .5. vectors and .. texts; expected one text for each"):
        read_queries(tmp_path / "a.npy", 5)
    np.savez(tmp_path / "b.npz", texts=t, captions=names, class_texts=t[:2, :4], class_names=["x", "y"])
    np.savez(tmp_path / "c.npz", texts=t, captions=names[:4], class_texts=t[:2], class_names=["x", "y", "z"])
    for name in ("b", "c"):
        with pytest.raises(ValueError, match=rf"queries: .*{name}.npz' holds .* and vectors of one width"):
            read_queries(tmp_path / f"{name}.npz", 5)
    with pytest.raises(ValueError, match="none asks for 'z'"):
        queries.place("z")


def test_errors_of_the_commands_are_one_line(shop, texts_file, tmp_path, capsys):
    np.save(tmp_path / "wide.npy", np.ones((20, 7), "f4"))
    patch, out = shop / "no-dog.safetensors", ("--out", tmp_path / "p.safetensors")
    cat, index = ("forget", "--classes", "cat"), ("--index", shop / "pictures.npy")
    texts, names = ("--embeddings", texts_file), ("--names", shop / "queries.txt")
    for arguments, message in (
        (("forget", "--classes", "cta", *texts, *out), "'cta' is unknown; did you mean 'cat'"),
        ((*cat, *texts, "--model", "x", *out), "expected FILE.npz, without --model"),
        ((*cat, *texts, "--out", tmp_path / "p.pt"), "expected a new .safetensors file"),
        (("forget", *texts, *out), "classes, domains: neither is given"),
        ((*cat, *texts, "--method", "gatd", *out), "did you mean 'gated'"),
        (("apply", patch, "--index", tmp_path / "no.npy", "--out", tmp_path / "o.npy"), "does not exist"),
        (("apply", shop / "names.txt", *index, "--out", tmp_path / "o.npy"), "not a valid edit"),
        (("apply", patch, "--index", tmp_path / "wide.npy", "--out", tmp_path / "o.npy"), "has width 7; expected 256"),
        (("check", patch, *index, "--queries", tmp_path / "wide.npy", *names, *MODEL), "width 7; expected 256"),
    ):
        assert message in refused(capsys, *arguments), arguments
    assert not (tmp_path / "o.npy").exists() and not (tmp_path / "p.safetensors").exists()


# --- OpenAI's ViT-B/16 and pictures of COCO


@real
def test_a_word_on_a_real_clip(tmp_path, capsys):
    """The targets: means over four words."""
    faiss = pytest.importorskip("faiss")
    with np.load(PAIRS, allow_pickle=False) as file:
        pairs = {name: file[name] for name in file.files}
    unit = {n: F.normalize(torch.from_numpy(pairs[n].astype("f4")), dim=1) for n in ("images", "texts", "class_texts")}
    z, t, named = unit.values()
    table = {}
    for word in WORDS:
        patch, out = tmp_path / f"{word}.safetensors", tmp_path / f"{word}.npz"
        command("forget", "--classes", word, "--embeddings", PAIRS, "--out", patch)
        command("check", patch, "--index", PAIRS, "--queries", PAIRS, "--json", tmp_path / "check.json",
                "--max-lost", 10)  # fmt: skip
        result = json.loads((tmp_path / "check.json").read_text())
        command("apply", patch, "--index", PAIRS, "--out", out)
        moved = F.normalize(torch.from_numpy(np.load(out)["images"].astype("f4")), dim=1)
        word_of = re.compile(rf"\b{word}s?\b", re.I)
        relevant = torch.tensor([word_of.search(caption) is not None for caption in pairs["captions"].tolist()])
        edit, k, query = cn.Edit.load(patch), int(relevant.sum()), named[pairs["class_names"].tolist().index(word)]
        rows, hits = [], []
        for pictures, change in ((z, lambda x: x), (moved, lambda x: x), (z, edit.queries)):
            index = faiss.IndexFlatIP(z.shape[1])
            index.add(pictures.numpy())
            texts, pair = F.normalize(change(t), dim=1), torch.arange(len(t))[:, None]
            first = torch.from_numpy(index.search(change(query)[None].numpy(), max(k, 10))[1][0])
            forth = torch.from_numpy(index.search(texts.numpy(), 5)[1])
            back = (pictures @ texts.T).topk(5).indices
            recalls = [100 * float((hit == pair).any(1)[~relevant].double().mean()) for hit in (forth, back)]
            rows.append([float(relevant[first[:k]].double().mean()), *recalls])
            hits.append(int(relevant[first[:10]].sum()))
        table[word] = rows
        assert result["queries"][word]["found"] == hits
        np.testing.assert_allclose(np.transpose(rows)[1], result["kept"]["percent"], atol=0.5)
        command("undo", patch, "--index", out, "--out", tmp_path / f"{word}-back.npz")
        assert (tmp_path / f"{word}-back.npz").read_bytes() == PAIRS.read_bytes()
    mean = np.mean([*table.values()], axis=0)  # (side, figure)
    assert mean[0, 0] > 0.5 and (mean[1:, 0] <= 0.05).all(), table
    assert (mean[0, 1:] - mean[1:, 1:] <= 1.0).all(), table


@real
def test_the_figures_of_lesson_11_are_what_the_embeddings_give(tmp_path, capsys):
    stored = json.loads((ROOT / "data" / "results" / "index" / "openai-vit-b-16.json").read_text(encoding="utf-8"))
    assert len(stored["source"]) > 20
    for method, entry in stored["methods"].items():
        patch = tmp_path / f"{method}.safetensors"
        command("forget", "--classes", "cat", "--embeddings", PAIRS, "--method", method, "--out", patch)
        command("check", patch, "--index", PAIRS, "--queries", PAIRS, "--json", tmp_path / "check.json")
        result = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
        hits = {text: row["found"] for text, row in result["queries"].items()}
        losing = [text for text in hits if text != "cat" and min(hits[text][1:]) < hits[text][0]]
        assert (hits["cat"], len(hits) - 1) == (entry["cat"], entry["others"])
        assert len(losing) == pytest.approx(entry["others_that_lose"], abs=3)
        assert result["kept"]["percent"] == pytest.approx(entry["kept_percent"], abs=0.5)


@real
def test_a_foreign_index_of_the_same_width_is_refused(tmp_path, capsys):
    patch, style, out = tmp_path / "cat.safetensors", PAIRS.with_name("vitb32_style.npz"), tmp_path / "out.npz"
    command("forget", "--classes", "cat", "--embeddings", PAIRS, "--out", patch)
    assert "is from ViT-B-32" in refused(capsys, "apply", patch, "--index", style, "--out", out)
