"""Pictures are read ahead of the tower: in their order, not too many, and faults arrive where they are awaited."""

import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image

import clipnull as cn
from clipnull import embedding
from clipnull.embedding import ahead


def test_the_next_is_made_while_the_caller_works():
    begun = [threading.Event() for _ in range(5)]

    def make(place):
        begun[place].set()
        return torch.tensor(place)

    found = []
    for value in ahead(make, range(5)):
        found.append(int(value))
        if len(found) < 5:
            assert begun[len(found)].wait(10)  # without anybody asking for it
            assert not any(event.is_set() for event in begun[len(found) + 1 :])
    assert found == [0, 1, 2, 3, 4]
    assert list(ahead(make, [])) == []


def test_a_fault_arrives_in_its_turn_and_no_thread_stays():
    def make(place):
        if place == 2:
            raise OSError("gone")
        return torch.tensor(place)

    before, found = threading.active_count(), []
    with pytest.raises(OSError, match="gone"):
        found.extend(int(value) for value in ahead(make, range(9)))
    assert threading.active_count() == before


def test_pictures_in_several_batches_are_those_in_one(clip, corner, tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "a.png").read_bytes()[:40])
    images = replace(corner, files=(*corner.files[:4], broken, *corner.files[5:]))
    with pytest.warns(UserWarning, match=f"1 of {len(images)} pictures are broken, .*broken.png"):
        whole = cn.embed(clip, images)
    monkeypatch.setattr(embedding, "BATCH", 3)
    with pytest.warns(UserWarning, match="are broken"):
        parts = cn.embed(clip, images)
    torch.testing.assert_close(parts, whole, equal_nan=True, atol=1e-5, rtol=1e-4)
    assert parts.isnan().all(1).nonzero().flatten().tolist() == [4]
    gone = replace(images, files=(*images.files[:-1], tmp_path / "none.png"))
    with pytest.raises(OSError, match="none.png"):
        cn.embed(clip, gone)
