"""An edit of an index in files, and back: exact rows, nothing half-written, nothing of the source touched."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from helpers import gated, plain, python, random
from safetensors.torch import load_file, save_file

import clipnull as cn
from clipnull.edit import Edit
from clipnull.index import files, patching, rewriting
from clipnull.index.checking import read_queries
from clipnull.index.files import open_tables, open_vectors
from clipnull.index.patching import apply_edit, inverted, undo
from clipnull.index.rewriting import record_of

N, D = 300, 16
Z = F.normalize(random(N, D, seed=1), dim=1)
LINEAR, OTHER = (replace(plain(D, i), left=size * plain(D, i).left) for i, size in ((0, 0.7), (9, 0.5)))
EDITS = {
    "linear": LINEAR,
    "bias": plain(D, bias=0.1 * random(D, seed=5).double()),
    "layer": replace(plain(D), threshold=0.1 * torch.ones(3).double()),
    "module": gated(D),
}
EPS = {torch.float64: 1e-7, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def npy(path, z):
    np.save(path, z.numpy())


def npz(path, z):
    np.savez(path, images=z.numpy(), ids=np.arange(len(z)), model=np.array("a model"))


def tensors(path, z):
    save_file({"images": z.contiguous(), "more": torch.ones(5, 3), "a": torch.zeros(2, 2)}, path, {"model": "a model"})


def lists(path, z):
    table = pa.table({"id": np.arange(len(z)), "embedding": [*z.numpy()], "caption": ["?"] * len(z)})
    pq.write_table(table.replace_schema_metadata({"model": "a model"}), path, row_group_size=128)


def fixed(path, z):
    pq.write_table(pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(z.numpy().reshape(-1)), D)}), path)


def folder(path, z):
    for name in ("img_emb", "text_emb", "metadata"):
        (path / name).mkdir(parents=True)
    for i, part in enumerate(z.split(120)):
        np.save(path / "img_emb" / f"img_emb_{i}.npy", part.numpy())
        np.save(path / "text_emb" / f"text_emb_{i}.npy", part.flip(0).numpy())
        pq.write_table(pa.table({"caption": ["?"] * len(part)}), path / "metadata" / f"metadata_{i}.parquet")


KINDS = {
    "npy": (npy, ".npy"), "npz": (npz, ".npz"), "safetensors": (tensors, ".safetensors"),
    "lists": (lists, ".parquet"), "fixed": (fixed, ".parquet"), "folder": (folder, ""),
}  # fmt: skip


def rows_of(path, side="images"):
    return torch.cat([chunk.clone() for table in open_tables(path, side) for chunk in table.chunks()])


def content(path):
    paths = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return {f.relative_to(path.parent).as_posix(): f.read_bytes() for f in paths}


def assert_edited(path, edit=LINEAR):
    torch.testing.assert_close(rows_of(path), edit.images(Z), atol=2e-6, rtol=1e-5)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 64)
    monkeypatch.setattr(patching, "BLOCK", 40)


@pytest.fixture
def source(tmp_path):
    npy(tmp_path / "in.npy", Z)
    return tmp_path / "in.npy"


@pytest.fixture
def before_each_chunk(monkeypatch):
    """Lets a function run before each chunk is changed; a list of those chunks' lengths."""

    def prepare(act):
        calls, real = [], patching.changing

        def changing(*arguments):
            change = real(*arguments)

            def changed(chunk):
                calls.append(len(chunk))
                act(len(calls))
                return change(chunk)

            return changed

        monkeypatch.setattr(patching, "changing", changing)
        return calls

    return prepare


# --- there and back


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, torch.float32) for kind in KINDS), ("npy", torch.float64), ("npz", torch.float16),
     ("lists", torch.float16), ("safetensors", torch.bfloat16)],
)  # fmt: skip
def test_every_kind_of_file_there_and_back(kind, dtype, tmp_path):
    write, suffix = KINDS[kind]
    source, out, z = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", Z.to(dtype)
    write(source, z)
    before = content(source)
    assert torch.equal(rows_of(source), z)
    result = apply_edit(LINEAR, source, out)
    assert (result["rows"], result["broken"]) == (N, 0) and content(source) == before
    edited = rows_of(out)
    assert edited.dtype == dtype
    torch.testing.assert_close(edited.double(), LINEAR.images(z.double()), atol=EPS[dtype], rtol=0)
    assert [p.name for p in tmp_path.rglob("*.partial")] == []
    undo(LINEAR, out, tmp_path / f"exact{suffix}")
    assert [*content(tmp_path / f"exact{suffix}").values()] == [*before.values()]
    shutil.rmtree(source) if source.is_dir() else source.unlink()
    how = undo(LINEAR, out, tmp_path / f"back{suffix}")
    error = float(how.split("within ")[1].split(" ")[0])
    assert "inverse" in how and error < 100 * torch.finfo(dtype).eps
    gap = (rows_of(tmp_path / f"back{suffix}").double() - z.double()).norm(dim=1)
    assert gap.max() <= error


def test_all_else_in_a_file_stays_and_it_says_itself_that_it_was_edited(tmp_path):
    for kind in ("npz", "safetensors", "lists"):
        write, suffix = KINDS[kind]
        write(tmp_path / f"in{suffix}", Z)
        apply_edit(LINEAR, tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        assert archive["ids"].tolist() == [*range(N)] and str(archive["model"]) == "a model"
    others = load_file(tmp_path / "out.safetensors")
    assert torch.equal(others["more"], torch.ones(5, 3)) and torch.equal(others["a"], torch.zeros(2, 2))
    old, new = pq.read_table(tmp_path / "in.parquet"), pq.read_table(tmp_path / "out.parquet")
    assert new.schema.equals(old.schema) and new.drop(["embedding"]).equals(old.drop(["embedding"]))
    for suffix in (".npz", ".safetensors", ".parquet"):
        words = open_vectors(tmp_path / f"out{suffix}").words
        assert words.pop("clipnull_edited").startswith("images: ") and words == {"model": "a model"}
        shutil.copy(tmp_path / f"out{suffix}", tmp_path / f"alone{suffix}")
        with pytest.raises(ValueError, match="says that it was edited; expected its record"):
            apply_edit(replace(OTHER, model="a model"), tmp_path / f"alone{suffix}", tmp_path / f"twice{suffix}")
        (tmp_path / f"in{suffix}").unlink()
        undo(LINEAR, tmp_path / f"out{suffix}", tmp_path / f"back{suffix}")
        assert open_vectors(tmp_path / f"back{suffix}").words == {"model": "a model"}


def test_queries_in_place_of_pictures(tmp_path):
    folder(tmp_path / "in", Z)
    apply_edit(LINEAR, tmp_path / "in", tmp_path / "out", "queries")
    texts = rows_of(tmp_path / "in", "queries")
    torch.testing.assert_close(rows_of(tmp_path / "out", "queries"), LINEAR.queries(texts), atol=2e-6, rtol=0)
    assert torch.equal(rows_of(tmp_path / "out"), Z)  # the pictures are as they were
    undo(LINEAR, tmp_path / "out", tmp_path / "back")
    assert [*content(tmp_path / "back").values()] == [*content(tmp_path / "in").values()]
    with pytest.raises(ValueError, match="edit: form 'module' does not apply to queries"):
        apply_edit(EDITS["module"], tmp_path / "in", tmp_path / "no", "queries")


def test_of_two_arrays_the_edited_one_is_restored(tmp_path, monkeypatch):
    np.savez(tmp_path / "in.npz", one=Z.numpy(), two=Z.flip(0).numpy())
    apply_edit(LINEAR, tmp_path / "in.npz", tmp_path / "out.npz", name="two")
    (tmp_path / "in.npz").unlink()
    undo(LINEAR, tmp_path / "out.npz", tmp_path / "back.npz")
    with np.load(tmp_path / "back.npz") as back:
        np.testing.assert_array_equal(back["one"], Z.numpy())
        np.testing.assert_allclose(back["two"], Z.flip(0).numpy(), atol=1e-5)
    monkeypatch.setattr(files, "LARGE", 1)
    with pytest.warns(UserWarning, match="back.npz.*read whole"):
        open_vectors(tmp_path / "back.npz", name="two")


def test_what_lies_behind_links_is_copied_and_stamped(tmp_path):
    folder(tmp_path / "in", Z)
    (tmp_path / "disk").mkdir()
    for name in ("metadata", "text_emb", "img_emb/img_emb_1.npy"):
        place = shutil.move(tmp_path / "in" / name, tmp_path / "disk" / name.replace("/", "-"))
        (tmp_path / "in" / name).symlink_to(place)
    apply_edit(LINEAR, tmp_path / "in", tmp_path / "out")
    assert len(content(tmp_path / "out")) == 9 + 1 and not any(path.is_symlink() for path in tmp_path.glob("out/**/*"))
    assert_edited(tmp_path / "out")
    np.save(tmp_path / "disk" / "img_emb-img_emb_1.npy", 2 * Z[:120].numpy())
    assert "inverse" in undo(LINEAR, tmp_path / "out", tmp_path / "back")  # the original has changed


@pytest.mark.parametrize("side", ["images", "queries"])
def test_a_search_index_of_unedited_vectors_is_left_out(side, tmp_path):
    folder(tmp_path / "in", Z)
    (tmp_path / "in" / "faiss").mkdir()
    for name in ("image.index", "text.index", "faiss/knn.index", "image_index_infos.json"):
        (tmp_path / "in" / name).write_bytes(b"built of the vectors as they were")
    result = apply_edit(LINEAR, tmp_path / "in", tmp_path / "out", side)
    stale = {"images": ["faiss/knn.index", "image.index"], "queries": ["faiss/knn.index", "text.index"]}[side]
    before, after = ({path[len(name) + 1 :] for path in content(tmp_path / name)} for name in ("in", "out"))
    assert result["left_out"] == stale and after == before - {*stale} | {"clipnull.json"}


def test_rows_of_any_length_are_edited_in_proportion(tmp_path):
    size = 10 ** random(N, seed=3)
    z = Z * size[:, None]
    z[7], z[9, 3], z[11, 0] = 0.0, torch.nan, torch.inf
    npy(tmp_path / "in.npy", z)
    for form, edit in EDITS.items():
        result = apply_edit(edit, tmp_path / "in.npy", tmp_path / f"{form}.npy")
        assert result["broken"] == 2 and result["not_unit"] > 290
        edited, sound = rows_of(tmp_path / f"{form}.npy"), z.isfinite().all(1)
        torch.testing.assert_close(edited[~sound], z[~sound], atol=0, rtol=0, equal_nan=True)
        if form != "module":  # which replaces some rows by one and the same
            sizes = size[:, None].clamp(min=1e-3)
            expected = edit.images(Z.double()) * size[:, None].double()
            expected[7] = 0.0
            gap = edited[sound] / sizes[sound] - (expected / sizes)[sound].float()
            assert gap.abs().max() < 1e-5


def test_rows_of_unit_length_on_demand(source, tmp_path):
    apply_edit(LINEAR, source, tmp_path / "out.npy", normalize=True)
    torch.testing.assert_close(rows_of(tmp_path / "out.npy"), F.normalize(LINEAR.images(Z), dim=1), atol=2e-6, rtol=0)
    source.unlink()
    assert "unit length" in undo(LINEAR, tmp_path / "out.npy", tmp_path / "back.npy")
    torch.testing.assert_close(rows_of(tmp_path / "back.npy"), Z, atol=1e-5, rtol=0)


# --- whole or not at all


def test_a_begun_folder_is_taken_up_by_the_same_job_alone(tmp_path, monkeypatch):
    folder(tmp_path / "in", Z)
    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            apply_edit(OTHER, tmp_path / "in", tmp_path / "out")
    apply_edit(LINEAR, tmp_path / "in", tmp_path / "out")
    assert_edited(tmp_path / "out")


def test_of_two_patches_for_one_output_one_is_refused(source, tmp_path):
    def apply(edit):
        try:
            return apply_edit(edit, source, tmp_path / "out.npy")["rows"]
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        results = [*pool.map(apply, [LINEAR, OTHER])]
    assert sorted(map(type, results), key=str) == [int, str] and any("already exists" in str(r) for r in results)
    assert_edited(tmp_path / "out.npy", [LINEAR, OTHER][results.index(N)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_no_half_file(kind, tmp_path, before_each_chunk):
    """Finished files of a folder stay under a hidden name, and the same call goes on with the next one."""
    write, suffix = KINDS[kind]
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write(source, Z)
    before = content(tmp_path)

    def fill(n):
        if n == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    calls = before_each_chunk(fill)
    with pytest.raises(OSError, match="No space left on device"):
        apply_edit(LINEAR, source, out)
    after = {name: text for name, text in content(tmp_path).items() if ".partial/" not in name}
    assert after == before and not [path for path in tmp_path.rglob(".*.partial") if path.is_file()]
    apply_edit(LINEAR, source, out)
    assert len(calls) == {"folder": 3 + 1 + 2 + 1}.get(kind, 4 + 5)  # chunks of 64, in parts of 120 in a folder
    assert_edited(out)


def test_a_copy_has_the_permissions_of_its_source(source, tmp_path):
    folder(tmp_path / "in", Z)
    places = [source, tmp_path / "in" / "img_emb" / "img_emb_1.npy", tmp_path / "in" / "img_emb"]
    for place in places:
        place.chmod(0o700 if place.is_dir() else 0o600)
    for suffix in (".npy", ""):
        apply_edit(LINEAR, tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    for place in places:
        copy = tmp_path / place.relative_to(tmp_path).as_posix().replace("in", "out", 1)
        assert copy.stat().st_mode == place.stat().st_mode


def test_a_source_that_is_written_to_is_refused(source, tmp_path, before_each_chunk):
    def append(n):
        with open(source, "ab") as file:
            file.write(b"more")

    before_each_chunk(append)
    with pytest.raises(ValueError, match="changed while it was copied; expected no other writer"):
        apply_edit(LINEAR, source, tmp_path / "out.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["in.npy"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.promise("What is damaged is refused")
def test_a_truncated_file_is_refused(kind, tmp_path):
    write, suffix = KINDS[kind]
    source = tmp_path / f"in{suffix}"
    write(source, Z)
    cut = source / "img_emb" / "img_emb_1.npy" if kind == "folder" else source
    whole = cut.read_bytes()
    for share in (0.99, 0.02, 0.0):
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="file: .*in"):
            apply_edit(LINEAR, source, tmp_path / f"out{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


# --- of which model, and edited before or not


def test_another_model_is_refused(source, tmp_path):
    edit = replace(LINEAR, model="ViT-B-16", fingerprint="f" * 16)
    npy(tmp_path / "wide.npy", random(N, 20))
    npz(tmp_path / "in.npz", Z)
    save_file({"images": Z}, tmp_path / "in.safetensors", {"fingerprint": "0" * 16, "model": "ViT-B-16"})
    for name, model, message in (
        ("wide.npy", "", "has width 20; expected 16, the width of the patch"),
        ("in.npz", "", "is from a model; expected ViT-B-16 ffff"),
        ("in.safetensors", "", "is from ViT-B-16 0000000000000000; expected ViT-B-16 ffff"),
        ("in.npy", "ViT-L-14", "is from ViT-L-14; expected ViT-B-16 ffff"),
        ("in.npy", "", "does not name its model; expected --model ViT-B-16"),
    ):
        with pytest.raises(ValueError, match=f"index: .*{message}"):
            apply_edit(edit, tmp_path / name, tmp_path / f"out-{name}", model=model)
    assert "according to --model" in apply_edit(edit, source, tmp_path / "out.npy", model="ViT-B-16")["belongs"]
    other = replace(OTHER, model="ViT-B-32", fingerprint="0" * 16)
    with pytest.raises(ValueError, match="is from ViT-B-16 f{16}; expected ViT-B-32"):
        apply_edit(other, tmp_path / "out.npy", tmp_path / "x.npy")  # as its record says


def test_twice_is_refused_and_several_in_turn_are_not(source, tmp_path):
    first, second, third, fourth = (tmp_path / f"{i}.npy" for i in range(1, 5))
    apply_edit(LINEAR, source, first)
    with pytest.raises(ValueError, match="was edited with this patch before"):
        apply_edit(LINEAR, first, second)
    with pytest.raises(ValueError, match="holds edited images; expected queries"):
        apply_edit(OTHER, first, second, "queries")
    apply_edit(OTHER, first, second)
    assert len(json.loads(record_of(second).read_text())["edits"]) == 2
    with pytest.raises(ValueError, match="was last edited with another patch"):
        undo(LINEAR, second, third)
    undo(OTHER, second, third)
    undo(LINEAR, third, fourth)
    assert torch.equal(rows_of(fourth), Z) and not record_of(fourth).exists()


def test_the_same_job_again_has_nothing_to_do(source, tmp_path):
    assert apply_edit(LINEAR, source, tmp_path / "out.npy")["rows"] == N
    before = content(tmp_path)
    assert apply_edit(LINEAR, source, tmp_path / "out.npy") == {}
    for change in ({"normalize": True}, {"side": "queries"}):
        with pytest.raises(ValueError, match="out: .* already exists"):
            apply_edit(LINEAR, source, tmp_path / "out.npy", **change)
    assert content(tmp_path) == before


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_record_is_of_its_file_alone(kind, tmp_path):
    """An index that was built anew under the name of an edited one is neither undone nor edited as that."""
    write, suffix = KINDS[kind]
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write(source, Z)
    apply_edit(LINEAR, source, out)
    if out.is_dir():
        np.save(out / "img_emb" / "img_emb_0.npy", Z[:200].numpy())
    else:
        write(out, Z[:200])
    with pytest.raises(ValueError, match="has changed since its record .* was written; expected the edited index"):
        undo(LINEAR, out, tmp_path / f"back{suffix}")
    with pytest.raises(ValueError, match="has changed since its record"):
        apply_edit(OTHER, out, tmp_path / f"twice{suffix}")


def test_an_edited_file_of_embeddings_does_not_pass_for_the_model(tmp_path):
    """Neither with its record nor without, neither its pictures nor its texts."""
    names, texts = np.array(["cat", "dog", "tree"]), random(3, D).numpy()
    labels = {"classes": names[np.arange(N) % 3], "domains": ["a", "b"] * (N // 2), "domain_names": ["a", "b"]}
    fields = {"images": Z.numpy(), "class_names": names, "texts_free": texts, "texts_build": random(3, 2, D).numpy()}
    np.savez(tmp_path / "whole.npz", **fields, **labels)
    np.savez(tmp_path / "texts.npz", class_names=names, class_texts=texts)
    for name, side in (("whole", "images"), ("texts", "queries")):
        assert cn.load(str(tmp_path / f"{name}.npz")).stored
        apply_edit(LINEAR, tmp_path / f"{name}.npz", tmp_path / f"{name}-out.npz", side)
        shutil.copy(tmp_path / f"{name}-out.npz", tmp_path / f"{name}-alone.npz")
        for place in ("out", "alone"):
            with pytest.raises(ValueError, match="holds edited embeddings"):
                cn.load(str(tmp_path / f"{name}-{place}.npz"))
    with pytest.raises(ValueError, match="queries: .*were edited"):
        read_queries(tmp_path / "texts-out.npz", 5)
    undo(None, tmp_path / "whole-out.npz", tmp_path / "back.npz")
    assert cn.load(str(tmp_path / "back.npz")).stored


def test_an_original_is_known_by_content_and_restored_without_the_patch(source, tmp_path):
    out = tmp_path / "out.npy"
    apply_edit(EDITS["module"], source, out)
    source.touch()
    with pytest.raises(ValueError, match="another patch .gated, [0-9a-f]{16}.*or none if the original still exists"):
        undo(LINEAR, out, tmp_path / "back.npy")
    assert undo(None, out, tmp_path / "back.npy").startswith("restored exactly")
    assert torch.equal(rows_of(tmp_path / "back.npy"), Z)
    times = source.stat()
    npy(source, Z.flip(0))  # of the same size and time
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ValueError, match="original: .* is not what was edited"):
        undo(None, out, tmp_path / "again.npy")


def test_an_edit_without_inverse_is_undone_by_the_original_alone(source, tmp_path):
    for edit, message in (
        (EDITS["layer"], "one with form 'layer' has no inverse"),
        (EDITS["module"], "'module' has no inverse"),
        (EDITS["bias"], "edit: one with a bias"),
        (plain(D), "nullspace removes 3 directions for good; expected the original"),
    ):
        with pytest.raises(ValueError, match=message):
            inverted(edit)
    out, back, original = tmp_path / "out.npy", tmp_path / "back.npy", tmp_path / "original.npy"
    apply_edit(EDITS["layer"], source, out)
    shutil.move(source, original)
    with pytest.raises(ValueError, match="'layer' has no inverse"):
        undo(EDITS["layer"], out, back)
    with pytest.raises(ValueError, match="original: .* is not what was edited"):
        undo(EDITS["layer"], out, back, out)
    with pytest.raises(ValueError, match="index: .*has no record of an edit"):
        undo(EDITS["layer"], original, back)
    assert undo(EDITS["layer"], out, back, original).startswith("restored exactly") and torch.equal(rows_of(back), Z)


# --- files that do not fit


def test_places_that_do_not_fit(source, tmp_path):
    folder(tmp_path / "set", Z)
    for place, out, message in (
        ("in.npy", "out.npz", "ends in '.npz'; expected '.npy'"),
        ("in.npy", "in.npy", "already exists; expected a new name"),
        ("in.npy", "no/out.npy", "has no place"),
        ("set", "set/out", "outside the source"),
    ):
        with pytest.raises(ValueError, match=f"out: .*{message}"):
            apply_edit(LINEAR, tmp_path / place, tmp_path / out)


def test_tables_that_do_not_fit(tmp_path):
    np.save(tmp_path / "a.npy", Z.numpy().astype(">f4"))
    np.save(tmp_path / "b.npy", np.arange(9))
    np.save(tmp_path / "c.npy", np.asfortranarray(Z.numpy()))
    np.save(tmp_path / "d.npy", np.array([{}, {}]), allow_pickle=True)
    np.save(tmp_path / "e.npy", np.empty((0, 5), "f4"))
    np.savez(tmp_path / "f.npz", one=Z.numpy(), two=Z.numpy())
    np.savez(tmp_path / "g.npz", ids=np.arange(3))
    (tmp_path / "h.txt").write_text("1 2 3")
    pq.write_table(pa.table({"embedding": [[1.0, 2.0], None], "id": [1, 2]}), tmp_path / "i.parquet")
    (tmp_path / "j").mkdir()
    for name, message in (
        ("a.npy", "expected rows"), ("b.npy", "expected rows"), ("c.npy", "expected rows"), ("d.npy", "cannot be read"),
        ("e.npy", "holds 0 rows"), ("f.npz", "'one, two'; expected the name of one"), ("g.npz", "no table of vectors"),
        ("h.txt", "does not exist or has"), ("i.parquet", "holds empty rows or"), ("j", "has no img_emb"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            [table.rows() for table in open_tables(tmp_path / name)]
    folder(tmp_path / "set", Z)
    np.save(tmp_path / "set" / "img_emb" / "img_emb_10.npy", np.ones((2, 4), "f4"))
    with pytest.raises(ValueError, match="img_emb_10.npy' has width 4; expected 16, the width of img_emb_0.npy"):
        open_tables(tmp_path / "set")
    assert open_vectors(tmp_path / "f.npz", name="two").shape == (N, D)
    with pytest.raises(ValueError, match="name: 'tow' is unknown; did you mean 'two'"):
        open_vectors(tmp_path / "f.npz", name="tow")


KILLED = """
import sys, time, torch
import clipnull as cn
from clipnull.edit import Edit
from clipnull.index import patching
from clipnull.index.patching import apply_edit
u = torch.eye(512, dtype=torch.float64)[:, :1]
patching.BLOCK, real = 64, patching.changing


def slow(*given):
    change = real(*given)
    return lambda chunk: time.sleep(0.2) or change(chunk)


patching.changing = slow
print("begun", flush=True)
apply_edit(Edit(u, u, "by hand"), sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_process_leaves_the_source_and_no_half_file(tmp_path):
    npy(tmp_path / "in.npy", F.normalize(random(20_000, 512), dim=1))
    before = content(tmp_path)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    process.stdout.readline()
    while not any(tmp_path.glob(".*.partial")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "in.npy").read_bytes() == [*before.values()][0] and not (tmp_path / "out.npy").exists()
    u = torch.eye(512, dtype=torch.float64)[:, :1]
    apply_edit(Edit(u, u, "by hand"), tmp_path / "in.npy", tmp_path / "out.npy")
    assert rows_of(tmp_path / "out.npy")[:, 0].abs().max() == 0


MEASURED = """
import sys, torch
import clipnull as cn
from clipnull.edit import Edit
import resource
from clipnull.index.patching import apply_edit
u = torch.eye(256, dtype=torch.float64)[:, :1]
for name in sys.argv[2:]:
    apply_edit(Edit(u, u, "by hand"), f"{sys.argv[1]}/{name}", f"{sys.argv[1]}/out-{name}")
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="in kilobytes on Linux alone")
@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_memory_does_not_grow_with_the_number_of_rows(suffix, tmp_path, monkeypatch):
    for name, n in (("small", 10_000), ("large", 150_000)):
        z = F.normalize(random(n, 256), dim=1)
        if suffix == ".parquet":
            flat = pa.FixedSizeListArray.from_arrays(pa.array(z.numpy().reshape(-1)), 256)
            pq.write_table(pa.table({"embedding": flat}), tmp_path / f"{name}{suffix}")
        else:
            {".npy": npy, ".safetensors": tensors}[suffix](tmp_path / f"{name}{suffix}", z)
    small, large = map(int, python(MEASURED, tmp_path, f"small{suffix}", f"large{suffix}").split())
    assert large - small < 60e6  # of 154e6 bytes of rows
