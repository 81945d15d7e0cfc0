"""Pictures become embeddings: broken or not, read by processes or here, in two precisions."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import VIT

import clipnull as cn
from clipnull import embedding
from clipnull.datasets.shards import embed_shards
from clipnull.embedding import AGREE, AGREE_MIXED, embed_files

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_pictures_in_several_batches_are_those_in_one(small, corner, tmp_path, monkeypatch):
    clip, broken = small(VIT), tmp_path / "broken.webp"
    broken.write_bytes(corner.files[4].read_bytes()[:400])  # its header is sound
    images = replace(corner, files=(*corner.files[:4], broken, *corner.files[5:]))
    with pytest.raises(ValueError, match=r"file: '.*broken\.webp' cannot be read \(.*\); expected a picture in one of"):
        images.image(4)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match=rf"1 of {len(images)} pictures are broken, .* NaN: file: '.*broken\."):
        whole = cn.embed(clip, images)
    monkeypatch.setattr(embedding, "BATCH", 3)
    with pytest.warns(UserWarning, match="are broken"):
        parts = cn.embed(clip, images)
    torch.testing.assert_close(parts, whole, equal_nan=True, atol=1e-5, rtol=1e-4)
    assert parts.isnan().all(1).nonzero().flatten().tolist() == [4]
    assert torch.equal(torch.get_rng_state(), state)
    assert cn.embed(clip, images.where(torch.zeros(len(images), dtype=torch.bool))).shape == (0, clip.width)
    gone = replace(images, files=(*images.files[:-1], tmp_path / "none.png"))
    with pytest.raises(OSError, match="none.png"):
        cn.embed(clip, gone)


@pytest.mark.slow  # the two processes end 10 s later
def test_processes_read_what_a_thread_reads(small, corner, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    batches = [corner.files[:3], [*corner.files[3:5], tmp_path / "broken.png"], [tmp_path / "none.png"]]
    here, processes = (iter(embedding._read(small(VIT), batches, readers)) for readers in (0, 2))
    for _ in range(2):
        (x, faults), (y, others) = next(here), next(processes)
        assert torch.equal(x, y) and faults == others
    assert faults[:2] == ["", ""] and "broken.png" in faults[2]
    for items in (here, processes):
        with pytest.raises(FileNotFoundError, match="none.png"):
            next(items)


# --- full and mixed precision, CPU and GPU


def far(mine, theirs):
    """How far the least of the cosines is from 1."""
    return 1 - float(F.cosine_similarity(mine.double(), theirs.double()).min())


def mixed(clip, images):
    ((z, _),) = embed_files(clip, [images.files], mixed=True)
    return z


def test_mixed_precision_agrees_with_full(clip, corner):
    few = corner.select(["bird"], ["line"])  # float16 is slow on the CPU
    assert 0 < far(mixed(clip, few), cn.embed(clip, few)) < AGREE_MIXED


@torch.inference_mode()
def test_what_float16_cannot_hold_is_computed_in_full(small, corner, monkeypatch):
    clip, scale = small(VIT), 1e6 * torch.eye(64)
    encode = clip.model.encode_image
    monkeypatch.setattr(clip.model, "encode_image", lambda x, normalize: F.linear(encode(x), scale) / 1e6)
    with torch.autocast("cpu", torch.float16):
        assert not clip.embed_pixels(torch.randn(2, 3, 32, 32)).isfinite().all()
    few = corner.select(["bird"], ["line"])
    torch.testing.assert_close(mixed(clip, few), cn.embed(clip, few))


@cuda
def test_cuda_agrees_with_the_cpu(clip, corner, tmp_path):
    there, z = replace(clip, model=copy.deepcopy(clip.model).cuda()), cn.embed(clip, corner)
    assert far(cn.embed(there, corner), z) < AGREE and far(mixed(there, corner), z) < AGREE_MIXED
    first, again = (embed_shards(there, corner, tmp_path / name).paths[0].read_bytes() for name in ("a", "b"))
    assert first == again


@cuda
def test_a_gpu_without_memory_halves_the_batch(clip):
    there, n = replace(clip, model=copy.deepcopy(clip.model).cuda()), 4096
    pixels = torch.randn(8, 3, clip.image_size, clip.image_size).repeat(n // 8, 1, 1, 1)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2e9) / total)
    try:
        with pytest.warns(UserWarning, match=r"no memory for \d+ rows; continuing with"):
            z = there.embed_pixels(pixels, batch=n)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.testing.assert_close(z[[0, 8, n - 1]], clip.embed_pixels(pixels[[0, 8, n - 1]]), atol=1e-3, rtol=1e-3)
