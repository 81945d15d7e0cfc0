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
from clipnull.index import files, rewriting
from clipnull.index.checking import read_queries
from clipnull.index.files import open_tables, open_vectors
from clipnull.index.patching import MAX_CHANCE, apply_edit, chance, inverted, undo
from clipnull.index.rewriting import files_in, record_of

N, D = 300, 16
Z = F.normalize(random(N, D, seed=1), dim=1)
EDITS = {
    "linear": replace(plain(D), left=0.7 * plain(D).left),
    "bias": plain(D, bias=0.1 * random(D, seed=5).double()),
    "layer": replace(plain(D), threshold=0.1 * torch.ones(3).double()),
    "module": gated(D),
}
EPS = {torch.float64: 1e-7, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def npy(path, z):
    np.save(path, z.numpy())


def npz(path, z, save=np.savez):
    save(path, images=z.numpy(), ids=np.arange(len(z)), model=np.array("a model"))


def packed(path, z):
    npz(path, z, np.savez_compressed)


def tensors(path, z):
    save_file({"images": z.contiguous(), "more": torch.ones(5, 3), "a": torch.zeros(2, 2)}, path, {"model": "a model"})


def column(kind):
    def write(path, z):
        flat = pa.array(z.numpy().reshape(-1))
        ends = np.arange(0, z.numel() + 1, D)
        lists = {
            "list": lambda: pa.ListArray.from_arrays(ends.astype("i4"), flat),
            "large": lambda: pa.LargeListArray.from_arrays(ends, flat),
            "fixed": lambda: pa.FixedSizeListArray.from_arrays(flat, D),
        }[kind]()
        table = pa.table({"id": np.arange(len(z)), "embedding": lists, "caption": [f"row {i}" for i in range(len(z))]})
        table = table.replace_schema_metadata({"model": "a model"})
        pq.write_table(table, path, row_group_size=128, compression="zstd")

    return write


def folder(path, z):
    for name in ("img_emb", "text_emb", "metadata"):
        (path / name).mkdir(parents=True)
    for i, part in enumerate(z.split(120)):
        np.save(path / "img_emb" / f"img_emb_{i}.npy", part.numpy())
        np.save(path / "text_emb" / f"text_emb_{i}.npy", part.flip(0).numpy())
        pq.write_table(pa.table({"caption": ["?"] * len(part)}), path / "metadata" / f"metadata_{i}.parquet")


KINDS = {
    "npy": (npy, ".npy"), "npz": (npz, ".npz"), "packed": (packed, ".npz"), "safetensors": (tensors, ".safetensors"),
    "list": (column("list"), ".parquet"), "large": (column("large"), ".parquet"),
    "fixed": (column("fixed"), ".parquet"), "folder": (folder, ""),
}  # fmt: skip


def rows_of(path, side="images"):
    return torch.cat([chunk.clone() for table in open_tables(path, side) for chunk in table.chunks()])


def content(path):
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return {f.relative_to(path.parent).as_posix(): f.read_bytes() for f in files}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 64)
    monkeypatch.setattr(rewriting, "BLOCK", 40)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, t) for kind in KINDS for t in list(EPS)[:3]), ("safetensors", torch.bfloat16)],
)
def test_every_kind_of_file_there_and_back(kind, dtype, tmp_path):
    write, suffix = KINDS[kind]
    source, out, z = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", Z.to(dtype)
    write(source, z)
    before, edit = content(source), EDITS["linear"]
    assert torch.equal(rows_of(source), z)
    result = apply_edit(edit, source, out)
    assert (result["rows"], result["broken"]) == (N, 0) and content(source) == before
    edited = rows_of(out)
    assert edited.dtype == dtype
    torch.testing.assert_close(edited.double(), edit.images(z.double()), atol=EPS[dtype], rtol=0)
    assert [p.name for p in tmp_path.glob("*.partial")] == []
    undo(edit, out, tmp_path / f"exact{suffix}")
    assert [*content(tmp_path / f"exact{suffix}").values()] == [*before.values()]
    shutil.rmtree(source) if source.is_dir() else source.unlink()
    how = undo(edit, out, tmp_path / f"back{suffix}")
    error = float(how.split("within ")[1].split(" ")[0])
    assert "inverse" in how and error < 100 * torch.finfo(dtype).eps
    gap = (rows_of(tmp_path / f"back{suffix}").double() - z.double()).norm(dim=1)
    assert gap.max() <= error


@pytest.mark.parametrize("form", EDITS)
def test_every_form_of_edit_does_what_images_does(form, tmp_path):
    npy(tmp_path / "in.npy", Z)
    apply_edit(EDITS[form], tmp_path / "in.npy", tmp_path / "out.npy")
    torch.testing.assert_close(rows_of(tmp_path / "out.npy"), EDITS[form].images(Z), atol=2e-6, rtol=1e-5)


def test_all_else_in_a_file_stays(tmp_path):
    npz(tmp_path / "in.npz", Z)
    tensors(tmp_path / "in.safetensors", Z)
    column("fixed")(tmp_path / "in.parquet", Z)
    for suffix in (".npz", ".safetensors", ".parquet"):
        apply_edit(EDITS["linear"], tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        assert archive["ids"].tolist() == [*range(N)] and str(archive["model"]) == "a model"
    tensors_out = load_file(tmp_path / "out.safetensors")
    assert torch.equal(tensors_out["more"], torch.ones(5, 3)) and torch.equal(tensors_out["a"], torch.zeros(2, 2))
    old, new = pq.read_table(tmp_path / "in.parquet"), pq.read_table(tmp_path / "out.parquet")
    assert new.schema.equals(old.schema) and new.drop(["embedding"]).equals(old.drop(["embedding"]))
    for suffix in (".npz", ".safetensors", ".parquet"):
        words = open_vectors(tmp_path / f"out{suffix}").words
        assert words.pop("clipnull_edited").startswith("images: ") and words == {"model": "a model"}
        (tmp_path / f"in{suffix}").unlink()
        undo(EDITS["linear"], tmp_path / f"out{suffix}", tmp_path / f"back{suffix}")
        assert open_vectors(tmp_path / f"back{suffix}").words == {"model": "a model"}


def test_queries_in_place_of_pictures(tmp_path):
    folder(tmp_path / "in", Z)
    edit = EDITS["linear"]
    apply_edit(edit, tmp_path / "in", tmp_path / "out", "queries")
    texts = rows_of(tmp_path / "in", "queries")
    torch.testing.assert_close(rows_of(tmp_path / "out", "queries"), edit.queries(texts), atol=2e-6, rtol=0)
    assert torch.equal(rows_of(tmp_path / "out"), Z)  # the pictures are as they were
    undo(edit, tmp_path / "out", tmp_path / "back")
    assert [*content(tmp_path / "back").values()] == [*content(tmp_path / "in").values()]
    with pytest.raises(ValueError, match="edit: of form 'module'"):
        apply_edit(EDITS["module"], tmp_path / "in", tmp_path / "no", "queries")


def test_a_begun_folder_is_taken_up_by_the_same_job_alone(tmp_path, monkeypatch):
    folder(tmp_path / "in", Z)
    other = replace(plain(D, 9), left=0.5 * plain(D, 9).left)
    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            apply_edit(other, tmp_path / "in", tmp_path / "out")
    apply_edit(EDITS["linear"], tmp_path / "in", tmp_path / "out")
    torch.testing.assert_close(rows_of(tmp_path / "out"), EDITS["linear"].images(Z), atol=2e-6, rtol=0)


def test_what_a_killed_undo_left_is_taken_up_by_no_other_job(tmp_path, monkeypatch):
    """An edit of the pictures and one of the queries: the undo of one is stopped, then that of the other is run."""
    folder(tmp_path / "in", Z)
    edit = EDITS["linear"]
    for out, side in (("a", "images"), ("b", "queries")):
        apply_edit(edit, tmp_path / "in", tmp_path / out, side)
    shutil.rmtree(tmp_path / "in")
    for first, second, side in (("a", "b", "queries"), ("b", "a", "images")):
        with monkeypatch.context() as patch:
            patch.setattr(rewriting, "write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                undo(edit, tmp_path / first, tmp_path / f"back-{second}")
        undo(edit, tmp_path / second, tmp_path / f"back-{second}")
        expected = Z if side == "images" else torch.cat([part.flip(0) for part in Z.split(120)])
        torch.testing.assert_close(rows_of(tmp_path / f"back-{second}", side), expected, atol=1e-5, rtol=0)
        assert torch.equal(rows_of(tmp_path / f"back-{second}"), Z) or side == "images"


@pytest.mark.parametrize("kind", ["npy", "folder"])
def test_of_two_patches_for_one_output_one_is_refused(kind, tmp_path):
    write, suffix = KINDS[kind]
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write(source, Z)
    edits = [EDITS["linear"], EDITS["module"]]

    def apply(edit):
        try:
            return apply_edit(edit, source, out)["rows"]
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        results = [*pool.map(apply, edits)]
    assert sorted(map(type, results), key=str) == [int, str] and any("is there already" in str(r) for r in results)
    torch.testing.assert_close(rows_of(out), edits[results.index(N)].images(Z), atol=2e-6, rtol=1e-5)


def test_what_others_left_beside_the_output_stays(tmp_path):
    """A folder that bears the name of a temporary one, or a link to one, is the user's own."""
    folder(tmp_path / "in", Z)
    for name in ("out.partial", ".out.partial", "away"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    (tmp_path / "out.tmp").symlink_to(tmp_path / "away")
    apply_edit(EDITS["linear"], tmp_path / "in", tmp_path / "out")
    for name in ("out.partial", ".out.partial", "away"):
        assert [f.name for f in (tmp_path / name).iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_no_half_file(kind, tmp_path, monkeypatch):
    """Finished files of a folder stay under a hidden name, and the same call goes on with the next one."""
    write, suffix = KINDS[kind]
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write(source, Z)
    before, real, calls = content(tmp_path), rewriting._changed, []

    def changed(*given):
        calls.append(given)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given)

    monkeypatch.setattr(rewriting, "_changed", changed)
    with pytest.raises(
        OSError, match=r"out: .*(out|img_emb_1)[^/]* cannot be written .No space left on device"
    ) as error:
        apply_edit(EDITS["linear"], source, out)
    assert "partial" not in str(error.value)
    after = {name: text for name, text in content(tmp_path).items() if ".partial/" not in name}
    assert after == before and not [*tmp_path.rglob(".????????????????????????????????.partial")]
    apply_edit(EDITS["linear"], source, out)
    assert len(calls) == {"folder": 3 + 1 + 2 + 1}.get(kind, 4 + 5)  # chunks of 64, in parts of 120 in a folder
    torch.testing.assert_close(rows_of(out), EDITS["linear"].images(Z), atol=2e-6, rtol=0)


def test_a_copy_has_the_permissions_of_its_source(tmp_path, monkeypatch):
    npy(tmp_path / "in.npy", Z)
    folder(tmp_path / "in", Z)
    places = [tmp_path / "in.npy", tmp_path / "in" / "img_emb" / "img_emb_1.npy", tmp_path / "in" / "img_emb"]
    for place in places:
        place.chmod(0o700 if place.is_dir() else 0o600)
    real, modes = rewriting._changed, []

    def changed(*given):
        modes.extend(f.stat().st_mode & 0o077 for f in tmp_path.rglob(".*.partial") if f.is_file())
        return real(*given)

    monkeypatch.setattr(rewriting, "_changed", changed)
    for suffix in (".npy", ""):
        apply_edit(EDITS["linear"], tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    for place in places:
        copy = tmp_path / place.relative_to(tmp_path).as_posix().replace("in", "out", 1)
        assert copy.stat().st_mode == place.stat().st_mode
    assert modes and not any(modes)  # nor can others read it while it is written


def test_an_uncompressed_parquet_file_and_what_lies_behind_links(tmp_path):
    """Metadata behind a link, a part behind a link, and an image that is none of ours are all in the copy."""
    column("list")(tmp_path / "zstd.parquet", Z)
    pq.write_table(pq.read_table(tmp_path / "zstd.parquet"), tmp_path / "in.parquet", compression="none")
    apply_edit(EDITS["linear"], tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0).column(0).compression == "UNCOMPRESSED"
    torch.testing.assert_close(rows_of(tmp_path / "out.parquet"), EDITS["linear"].images(Z), atol=2e-6, rtol=0)
    folder(tmp_path / "in", Z)
    for name in ("metadata", "text_emb", "img_emb/img_emb_1.npy"):
        (tmp_path / "disk").mkdir(exist_ok=True)
        place = shutil.move(tmp_path / "in" / name, tmp_path / "disk" / name.replace("/", "-"))
        (tmp_path / "in" / name).symlink_to(place)
    apply_edit(EDITS["linear"], tmp_path / "in", tmp_path / "out")
    names = {f.relative_to(tmp_path / "in").as_posix() for f in files_in(tmp_path / "in")}
    assert len(names) == 9 and {*names, "clipnull.json"} == {
        f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*") if f.is_file()
    }
    torch.testing.assert_close(rows_of(tmp_path / "out"), EDITS["linear"].images(Z), atol=2e-6, rtol=0)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_of_two_arrays_the_edited_one_is_restored(tmp_path):
    np.savez(tmp_path / "in.npz", one=Z.numpy(), two=Z.flip(0).numpy())
    apply_edit(EDITS["linear"], tmp_path / "in.npz", tmp_path / "out.npz", name="two")
    (tmp_path / "in.npz").unlink()
    undo(EDITS["linear"], tmp_path / "out.npz", tmp_path / "back.npz")
    with np.load(tmp_path / "back.npz") as back:
        np.testing.assert_array_equal(back["one"], Z.numpy())
        np.testing.assert_allclose(back["two"], Z.flip(0).numpy(), atol=1e-5)


def test_what_has_no_record_is_not_undone(tmp_path):
    npy(tmp_path / "in.npy", Z)
    with pytest.raises(ValueError, match="patch: .*has no record of an edit"):
        undo(EDITS["linear"], tmp_path / "in.npy", tmp_path / "back.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["in.npy"]


def test_a_source_that_is_written_to_is_refused(tmp_path, monkeypatch):
    npy(tmp_path / "in.npy", Z)
    real = rewriting._changed

    def changed(*given):
        with open(tmp_path / "in.npy", "ab") as file:
            file.write(b"more")
        return real(*given)

    monkeypatch.setattr(rewriting, "_changed", changed)
    with pytest.raises(ValueError, match="was written to meanwhile; expected a file at rest"):
        apply_edit(EDITS["linear"], tmp_path / "in.npy", tmp_path / "out.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["in.npy"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.99])
@pytest.mark.promise("What is damaged is refused")
def test_a_truncated_file_is_refused(kind, share, tmp_path):
    write, suffix = KINDS[kind]
    source = tmp_path / f"in{suffix}"
    write(source, Z)
    cut = source / "img_emb" / "img_emb_1.npy" if kind == "folder" else source
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    with pytest.raises(ValueError, match="file: .*in"):
        apply_edit(EDITS["linear"], source, tmp_path / f"out{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_another_model_is_refused(tmp_path):
    edit = replace(EDITS["linear"], model="ViT-B-16", fingerprint="f" * 16)
    npy(tmp_path / "wide.npy", random(N, 20))
    npz(tmp_path / "in.npz", Z)
    save_file({"images": Z}, tmp_path / "in.safetensors", {"fingerprint": "0" * 16, "model": "ViT-B-16"})
    npy(tmp_path / "in.npy", Z)
    for name, model, message in (
        ("wide.npy", "", "is 20 wide; expected 16, as the patch of ViT-B-16 is"),
        ("in.npz", "", "is of a model ; expected the model of the patch, ViT-B-16 ffff"),
        ("in.safetensors", "", "is of ViT-B-16 0000000000000000; expected the model of the patch, ViT-B-16 ffff"),
        ("in.npy", "ViT-L-14", "is of ViT-L-14 ; expected the model of the patch"),
    ):
        with pytest.raises(ValueError, match=f"index: .*{message}"):
            apply_edit(edit, tmp_path / name, tmp_path / f"out-{name}", model=model)
    assert "as --model says" in apply_edit(edit, tmp_path / "in.npy", tmp_path / "out.npy", model="ViT-B-16")["belongs"]
    with pytest.raises(
        ValueError, match="is of ViT-B-16 f{16}; expected the model of the patch, ViT-B-32"
    ):  # on record
        apply_edit(
            replace(plain(D, 9), model="ViT-B-32", fingerprint="0" * 16), tmp_path / "out.npy", tmp_path / "x.npy"
        )


def test_an_index_in_a_random_basis_is_taken_for_the_patchs_own_as_seldom_as_is_said(tmp_path, monkeypatch):
    """Rows that have a direction in common and spread most along what is forgotten, as a CLIP's do; and turned ones."""
    d = 64
    mean, spread = F.normalize(random(d, seed=2), dim=0), 0.2 + 2 * torch.arange(d).flip(0) / d
    z = F.normalize(random(400, d, seed=3) * spread + 8 * mean, dim=1)
    read = torch.eye(d)[:, :1].double()
    edit = cn.Edit(read, read, "by hand", model="ViT-B-16", mean_text=mean.double())
    turns = [torch.linalg.qr(random(d, d, seed=i))[0] for i in range(300)]
    shares = torch.tensor([chance(edit, z @ turn) for turn in turns])
    assert chance(edit, z) <= MAX_CHANCE and (shares <= MAX_CHANCE).double().mean() <= 0.02
    assert (shares <= 0.2).double().mean() == pytest.approx(0.2, abs=0.06)  # it says what it counts
    monkeypatch.setattr(files, "CHUNK", 4096)
    npy(tmp_path / "own.npy", z)
    npy(tmp_path / "other.npy", z @ turns[0])
    assert "% of random bases look as much" in apply_edit(edit, tmp_path / "own.npy", tmp_path / "out.npy")["belongs"]
    with pytest.raises(ValueError, match=r"% of random bases do; expected at most 1 %.*: --model ViT-B-16"):
        apply_edit(edit, tmp_path / "other.npy", tmp_path / "no.npy")


def test_a_record_is_of_its_file_alone(tmp_path):
    """An index that was built anew under the name of an edited one is neither undone nor edited as that."""
    edit = EDITS["linear"]
    for kind in ("npy", "npz", "list", "folder"):
        write, suffix = KINDS[kind]
        source, out = tmp_path / f"{kind}{suffix}", tmp_path / f"{kind}-out{suffix}"
        write(source, Z)
        apply_edit(edit, source, out)
        shutil.rmtree(out / "img_emb") if out.is_dir() else out.unlink()
        if out.is_dir():
            (out / "img_emb").mkdir()
            np.save(out / "img_emb" / "img_emb_0.npy", Z[:200].numpy())
        else:
            write(out, Z[:200])
        with pytest.raises(ValueError, match="has changed since its record .* was written; expected it as it was"):
            undo(edit, out, tmp_path / f"{kind}-back{suffix}")
        with pytest.raises(ValueError, match="has changed since its record"):
            apply_edit(replace(edit, left=0.5 * edit.left), out, tmp_path / f"{kind}-twice{suffix}")


@pytest.mark.parametrize("kind", ["npz", "safetensors", "fixed"])
def test_an_edited_file_without_its_record_says_so_itself(kind, tmp_path):
    write, suffix = KINDS[kind]
    write(tmp_path / f"in{suffix}", Z)
    apply_edit(EDITS["linear"], tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    shutil.copy(tmp_path / f"out{suffix}", tmp_path / f"alone{suffix}")
    with pytest.raises(ValueError, match="says that it was edited; expected its record"):
        apply_edit(replace(plain(D, 9), model="a model"), tmp_path / f"alone{suffix}", tmp_path / f"twice{suffix}")


def test_an_edited_file_of_embeddings_does_not_pass_for_the_model(tmp_path):
    """Neither with its record nor without, neither its pictures nor its texts."""
    names, texts = np.array(["cat", "dog", "tree"]), random(3, D).numpy()
    labels = {"classes": names[np.arange(N) % 3], "domains": ["a", "b"] * (N // 2), "domain_names": ["a", "b"]}
    fields = {"images": Z.numpy(), "class_names": names, "texts_free": texts, "texts_build": random(3, 2, D).numpy()}
    np.savez(tmp_path / "whole.npz", **fields, **labels)
    np.savez(tmp_path / "texts.npz", class_names=names, class_texts=texts)
    assert cn.load(str(tmp_path / "whole.npz")).stored and cn.load(str(tmp_path / "texts.npz")).stored
    apply_edit(EDITS["linear"], tmp_path / "whole.npz", tmp_path / "whole-out.npz")
    apply_edit(EDITS["linear"], tmp_path / "texts.npz", tmp_path / "texts-out.npz", "queries")
    for name, message in (("whole", "holds edited embeddings"), ("texts", "holds edited embeddings")):
        shutil.copy(tmp_path / f"{name}-out.npz", tmp_path / f"{name}-alone.npz")
        for place in ("out", "alone"):
            with pytest.raises(ValueError, match=message):
                cn.load(str(tmp_path / f"{name}-{place}.npz"))
    with pytest.raises(ValueError, match="queries: .*were edited"):
        read_queries(tmp_path / "texts-out.npz", 5)
    undo(None, tmp_path / "whole-out.npz", tmp_path / "back.npz")
    assert cn.load(str(tmp_path / "back.npz")).stored


def test_an_original_is_known_by_content_and_restored_without_the_patch(tmp_path):
    npy(tmp_path / "in.npy", Z)
    apply_edit(EDITS["module"], tmp_path / "in.npy", tmp_path / "out.npy")
    (tmp_path / "in.npy").touch()
    with pytest.raises(
        ValueError, match="another patch .gated, [0-9a-f]{16}.*Its original is there: leave the patch out"
    ):
        undo(EDITS["linear"], tmp_path / "out.npy", tmp_path / "back.npy")
    assert undo(None, tmp_path / "out.npy", tmp_path / "back.npy").startswith("exact")
    assert undo(None, tmp_path / "out.npy", tmp_path / "back.npy") == "nothing to do: it is the original"
    assert torch.equal(rows_of(tmp_path / "back.npy"), Z)
    times = (tmp_path / "in.npy").stat()
    npy(tmp_path / "in.npy", Z.flip(0))  # of the same size and time
    os.utime(tmp_path / "in.npy", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ValueError, match="original: .* is not what was edited"):
        undo(None, tmp_path / "out.npy", tmp_path / "again.npy")


def test_the_same_job_again_has_nothing_to_do(tmp_path):
    npy(tmp_path / "in.npy", Z)
    assert apply_edit(EDITS["linear"], tmp_path / "in.npy", tmp_path / "out.npy")["rows"] == N
    before = content(tmp_path)
    assert apply_edit(EDITS["linear"], tmp_path / "in.npy", tmp_path / "out.npy") == {}
    for change in ({"normalize": True}, {"side": "queries"}):
        with pytest.raises(ValueError, match="out: .* is there already"):
            apply_edit(EDITS["linear"], tmp_path / "in.npy", tmp_path / "out.npy", **change)
    assert content(tmp_path) == before


@pytest.mark.parametrize("side", ["images", "queries"])
def test_a_search_index_of_unedited_vectors_is_left_out(side, tmp_path):
    folder(tmp_path / "in", Z)
    (tmp_path / "in" / "faiss").mkdir()
    for name in ("image.index", "text.index", "faiss/knn.index", "image_index_infos.json"):
        (tmp_path / "in" / name).write_bytes(b"built of the vectors as they were")
    result = apply_edit(EDITS["linear"], tmp_path / "in", tmp_path / "out", side)
    stale = {"images": ["faiss/knn.index", "image.index"], "queries": ["faiss/knn.index", "text.index"]}[side]
    assert result["left_out"] == stale
    assert {*content(tmp_path / "in")} - {"in/" + name for name in stale} == {
        f.replace("out/", "in/") for f in content(tmp_path / "out") if not f.endswith("clipnull.json")
    }


def test_rows_of_any_length_are_edited_in_proportion_and_told(tmp_path):
    size = 10 ** random(N, seed=3)
    z = Z * size[:, None]
    z[7], z[9, 3], z[11, 0] = 0.0, torch.nan, torch.inf
    npy(tmp_path / "in.npy", z)
    for form, edit in EDITS.items():
        result = apply_edit(edit, tmp_path / "in.npy", tmp_path / f"{form}.npy")
        assert result["broken"] == 2 and result["not_unit"] > 290 and result["lengths"][0] == 0
        edited, sound = rows_of(tmp_path / f"{form}.npy"), z.isfinite().all(1)
        torch.testing.assert_close(edited[~sound], z[~sound], atol=0, rtol=0, equal_nan=True)
        if form != "module":  # which replaces some rows by one and the same
            sizes = size[:, None].clamp(min=1e-3)
            expected = edit.images(Z.double()) * size[:, None].double()
            expected[7] = 0.0
            gap = edited[sound] / sizes[sound] - (expected / sizes)[sound].float()
            assert gap.abs().max() < 1e-5


def test_rows_of_unit_length_on_demand(tmp_path):
    npy(tmp_path / "in.npy", Z)
    apply_edit(EDITS["linear"], tmp_path / "in.npy", tmp_path / "out.npy", normalize=True)
    torch.testing.assert_close(
        rows_of(tmp_path / "out.npy"), F.normalize(EDITS["linear"].images(Z), dim=1), atol=2e-6, rtol=0
    )
    (tmp_path / "in.npy").unlink()
    assert "unit length" in undo(EDITS["linear"], tmp_path / "out.npy", tmp_path / "back.npy")
    torch.testing.assert_close(rows_of(tmp_path / "back.npy"), Z, atol=1e-5, rtol=0)


def test_twice_is_refused_and_several_in_turn_are_not(tmp_path):
    npy(tmp_path / "0.npy", Z)
    first, second = EDITS["linear"], replace(plain(D, 9), left=0.5 * plain(D, 9).left)
    apply_edit(first, tmp_path / "0.npy", tmp_path / "1.npy")
    with pytest.raises(ValueError, match="was edited with this patch before"):
        apply_edit(first, tmp_path / "1.npy", tmp_path / "2.npy")
    with pytest.raises(ValueError, match="holds edited images; expected queries"):
        apply_edit(second, tmp_path / "1.npy", tmp_path / "2.npy", "queries")
    apply_edit(second, tmp_path / "1.npy", tmp_path / "2.npy")
    assert [e["patch"] for e in json.loads(record_of(tmp_path / "2.npy").read_text())["edits"]] != []
    with pytest.raises(ValueError, match="was last edited with another patch"):
        undo(first, tmp_path / "2.npy", tmp_path / "3.npy")
    undo(second, tmp_path / "2.npy", tmp_path / "3.npy")
    undo(first, tmp_path / "3.npy", tmp_path / "4.npy")
    assert torch.equal(rows_of(tmp_path / "4.npy"), Z) and not record_of(tmp_path / "4.npy").exists()


def test_what_cannot_be_undone_is_said(tmp_path):
    npy(tmp_path / "in.npy", Z)
    for form, message in (("layer", "one of form 'layer' has no inverse"), ("module", "'module' has no inverse")):
        apply_edit(EDITS[form], tmp_path / "in.npy", tmp_path / f"{form}.npy")
        with pytest.raises(ValueError, match=message):
            inverted(EDITS[form])
    with pytest.raises(ValueError, match="nullspace takes 3 directions away for good; expected the original"):
        inverted(plain(D))
    shutil.move(tmp_path / "in.npy", tmp_path / "kept.npy")
    with pytest.raises(ValueError, match="'layer' has no inverse"):
        undo(EDITS["layer"], tmp_path / "layer.npy", tmp_path / "back.npy")
    with pytest.raises(ValueError, match="original: .* is not what was edited"):
        undo(EDITS["layer"], tmp_path / "layer.npy", tmp_path / "back.npy", tmp_path / "module.npy")
    how = undo(EDITS["layer"], tmp_path / "layer.npy", tmp_path / "back.npy", tmp_path / "kept.npy")
    assert how.startswith("exact") and torch.equal(rows_of(tmp_path / "back.npy"), Z)


def test_the_inverse():
    edit = EDITS["linear"]
    inverse, condition = inverted(edit)
    torch.testing.assert_close(inverse.images(edit.images(Z.double())), Z.double())
    assert condition == pytest.approx(float(torch.linalg.cond(edit.matrix())))
    with pytest.raises(ValueError, match="edit: one of a bias"):
        inverted(EDITS["bias"])


def test_a_folder_behind_a_link_is_edited_and_stamped(tmp_path):
    folder(tmp_path / "disk", Z)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "img_emb").symlink_to(tmp_path / "disk" / "img_emb", target_is_directory=True)
    apply_edit(EDITS["linear"], tmp_path / "in", tmp_path / "out")
    torch.testing.assert_close(rows_of(tmp_path / "out"), EDITS["linear"].images(Z), atol=2e-6, rtol=0)
    np.save(tmp_path / "disk" / "img_emb" / "img_emb_0.npy", 2 * Z[:120].numpy())
    assert "inverse" in undo(EDITS["linear"], tmp_path / "out", tmp_path / "back")  # the original has changed


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.npz", "ends in '.npz'; expected '.npy'"),
        ("in.npy", "is there already; expected a new name"),
        ("no/out.npy", "has no place"),
    ],
)
def test_places_that_do_not_fit(out, message, tmp_path):
    npy(tmp_path / "in.npy", Z)
    with pytest.raises(ValueError, match=f"out: .*{message}"):
        apply_edit(EDITS["linear"], tmp_path / "in.npy", tmp_path / out)
    folder(tmp_path / "set", Z)
    with pytest.raises(ValueError, match="outside of the source"):
        apply_edit(EDITS["linear"], tmp_path / "set", tmp_path / "set" / "out")


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
        ("a.npy", "not rows"), ("b.npy", "not rows"), ("c.npy", "not rows"), ("d.npy", "cannot be read"),
        ("e.npy", "holds 0 rows"), ("f.npz", "'one, two': name the one"), ("g.npz", "no table of vectors"),
        ("h.txt", "is not there, or not"), ("i.parquet", "empty or of another length"),
        ("j", "has no img_emb"), ("nothing.npy", "is not there"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            [table.rows() for table in open_tables(tmp_path / name)]
    assert open_vectors(tmp_path / "f.npz", name="two").shape == (N, D)
    with pytest.raises(ValueError, match="name: 'tow' is not known; did you mean 'two'"):
        open_vectors(tmp_path / "f.npz", name="tow")


def test_shards_come_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "img_emb").mkdir()
    for i in range(12):
        np.save(tmp_path / "img_emb" / f"img_emb_{i}.npy", np.full((2, 3), i, "f4"))
    assert torch.cat([table.rows() for table in open_tables(tmp_path)])[:, 0].tolist() == sorted([*range(12)] * 2)
    np.save(tmp_path / "img_emb" / "img_emb_12.npy", np.ones((2, 4), "f4"))
    with pytest.raises(ValueError, match="is 4 wide, and img_emb_0.npy 3"):
        open_tables(tmp_path)


KILLED = """
import sys, time, torch
import clipnull as cn
from clipnull.edit import Edit
from clipnull.index import rewriting
from clipnull.index.patching import apply_edit
u = torch.eye(512, dtype=torch.float64)[:, :1]
rewriting.BLOCK, real = 64, rewriting._changed
rewriting._changed = lambda *given: time.sleep(0.02) or real(*given)
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
