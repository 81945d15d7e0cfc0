"""Embeddings in shards: found by content, whole or not there, the same bytes whoever was killed in between."""

import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import VIT

import clipnull as cn
from clipnull.datasets import shards
from clipnull.datasets.shards import embed_shards


@pytest.fixture
def model(small):
    return small(VIT)


@pytest.fixture(autouse=True)
def in_small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 10)
    monkeypatch.setattr(shards, "BATCH", 4)


@pytest.fixture
def made(monkeypatch):
    """How many pictures went through the tower, job by job."""
    counts, embed_files = [], shards.embed_files

    def counted(clip, batches, *rest):
        if batches:
            counts.append(sum(map(len, batches)))
        return embed_files(clip, batches, *rest)

    monkeypatch.setattr(shards, "embed_files", counted)
    return counts


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_hold_what_embed_gives_in_the_order_of_the_pictures(model, corner, tmp_path, made, capsys):
    embeddings, n = embed_shards(model, corner, tmp_path / "new" / "folder", progress="pictures"), len(corner)
    assert [len(rows) for rows in embeddings.chunks()] == made == [10] * (n // 10) + [n % 10] and embeddings.whole.all()
    torch.testing.assert_close(torch.cat(list(embeddings.chunks())), cn.embed(model, corner))
    assert f"embed pictures: 100%|██████████| {n}/{n}" in capsys.readouterr().err
    again = embed_shards(model, corner, tmp_path / "new" / "folder")
    assert again.paths == embeddings.paths and sum(made) == n and not capsys.readouterr().err


def test_what_is_there_is_found_by_content_and_by_nothing_else(model, small, corner, tmp_path, made):
    copies = []
    for i, file in enumerate(corner.files):
        copies.append(tmp_path / f"{i}.moved")
        copies[-1].write_bytes(file.read_bytes())
    first = embed_shards(model, corner, tmp_path / "a")
    made.clear()
    moved = replace(corner, files=tuple(copies))
    assert embed_shards(model, moved, tmp_path / "a").paths == first.paths and made == []
    copies[11].write_bytes(copies[0].read_bytes())  # of the second shard
    changed = embed_shards(model, moved, tmp_path / "a")
    assert made == [10] and [a == b for a, b in zip(changed.paths, first.paths, strict=True)].count(False) == 1
    grey = replace(model, preprocess=lambda picture: model.preprocess(picture.convert("L").convert("RGB")))
    for other in (grey, small(VIT | {"embed_dim": 32})):
        assert not {*embed_shards(other, corner, tmp_path / "a").paths} & {*first.paths}
    keys = {shards.key(*made_of) for made_of in (("f", "ab", False), ("f", "ab", True), ("f", "ba", False))}
    assert len(keys | {shards.key("g", "ab", False)}) == 4


@pytest.mark.parametrize("damage", ["cut", "other", "zeros", "zero rows"])
def test_a_damaged_shard_is_made_again(model, corner, tmp_path, made, damage):
    first = embed_shards(model, corner, tmp_path)
    whole, path = content(tmp_path), first.paths[1]
    rows = whole[path.name]
    if damage == "other":
        with open(path, "wb") as file:
            np.savez(file, rows=np.zeros((10, 3), np.float32))
    else:  # zeros: as after a power cut
        zeros = {"cut": rows[:-5], "zeros": bytes(len(rows)), "zero rows": rows[:1000] + bytes(500) + rows[1500:]}
        path.write_bytes(zeros[damage])
    made.clear()
    embed_shards(model, corner, tmp_path)
    assert made == [10] and content(tmp_path) == whole


def test_several_shards_of_a_job_have_the_bytes_of_each_alone(model, corner, tmp_path, made):
    embed_shards(model, corner, tmp_path / "alone")
    (tmp_path / "job").mkdir()
    made.clear()
    paths = shards.make(model, corner.files, tmp_path / "job", "cpu")
    assert made == [len(corner)] and len(paths) == -(-len(corner) // 10)
    assert content(tmp_path / "job") == content(tmp_path / "alone")
    paths[0].unlink(), paths[2].unlink(), made.clear()
    assert shards.make(model, corner.files, tmp_path / "job", "cpu") == paths and made == [20]
    assert content(tmp_path / "job") == content(tmp_path / "alone")


def test_broken_pictures_are_named_at_the_end_also_of_shards_that_were_there(model, corner, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    images = replace(corner, files=(*corner.files[:12], broken, *corner.files[13:]))
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"1 of {len(images)} pictures are broken, .*broken.png' cannot be read"):
            embeddings = embed_shards(model, images, tmp_path / "a")
        assert (~embeddings.whole).nonzero().tolist() == [[12]]
    with pytest.raises(OSError, match="none.png"):
        embed_shards(model, replace(corner, files=(*corner.files[:-1], tmp_path / "none.png")), tmp_path / "a")


KILLED = """
import os, signal, sys
import numpy as np
import torch
import clipnull as cn
from clipnull.datasets import shards

torch.set_num_threads(int(sys.argv[2]))
shards.SHARD, shards.BATCH, saved, save = 4, 4, [], np.savez

def cut_off(file, rows):
    save(file, rows=rows)
    saved.append(file)
    if len(saved) == 3:
        file.truncate(file.tell() // 2)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

np.savez = cut_off
shards.embed_shards(cn.load(device="cpu"), cn.load_images().select(["dog"], ["flat", "line", "photo"]), sys.argv[1])
"""


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_repeats_one_shard_and_gets_the_same_bytes(clip, images, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 4)
    some = images.select(["dog"], ["flat", "line", "photo"])
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(torch.get_num_threads())])
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npz", ".npz", ".partial"]
    before, whole = content(tmp_path), embed_shards(clip, some, tmp_path)
    assert before.items() <= content(tmp_path).items() and len(whole.paths) > 3
    embed_shards(clip, some, tmp_path / "at once")
    assert {p.name: p.read_bytes() for p in whole.paths} == content(tmp_path / "at once")


def test_an_interrupted_run_leaves_whole_shards(model, corner, tmp_path, monkeypatch):
    saved, save = [], np.savez

    def interrupted(file, rows):
        saved.append(len(rows))
        if len(saved) == 3:
            raise KeyboardInterrupt
        save(file, rows=rows)

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_shards(model, corner, tmp_path)
    assert [np.load(path)["rows"].shape for path in tmp_path.iterdir()] == [(10, model.width)] * 2
