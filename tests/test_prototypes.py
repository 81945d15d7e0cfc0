import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import clipnull as cn

VOCABULARY = cn.Vocabulary(("dog", "fish", "house"), ("photo", "line"))
MASK = torch.tensor([[True, True], [False, True], [False, False]])


def test_the_ascent_reaches_its_target_and_no_other(clip):
    targets = clip.embed_texts(["a photo of a dog", "a line drawing of a house"])
    pixels, z = cn.synthesize(clip, targets, steps=30, progress=False)
    assert pixels.shape == (2, 3, clip.image_size, clip.image_size) and pixels.min() >= 0 and pixels.max() <= 1
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
    cosines = z @ targets.T
    assert cosines.diagonal().min() > 0.5 and (cosines.diagonal() - cosines.flip(1).diagonal()).min() > 0.2
    few = cn.synthesize(clip, targets, steps=1, progress=False)[1]
    assert ((few * targets).sum(1) < cosines.diagonal() - 0.2).all()


def test_the_same_seed_gives_the_same_picture(clip):
    target = clip.embed_texts(["a photo of a dog"])
    a, b, c = (cn.synthesize(clip, target, steps=2, seed=s, progress=False)[0] for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_prototypes_are_made_once_and_only_those_asked_for(clip, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path))
    first = cn.cell_prototypes(clip, VOCABULARY, MASK, steps=2)
    assert "prototypes" in capfd.readouterr().err
    assert first.embeddings[MASK].norm(dim=1).min() > 0.99 and not first.embeddings[~MASK].any()
    again = cn.cell_prototypes(clip, VOCABULARY, MASK, steps=2)
    assert capfd.readouterr().err == ""
    assert torch.equal(first.pixels[MASK], again.pixels[MASK])
    more = cn.cell_prototypes(clip, VOCABULARY, steps=2)
    torch.testing.assert_close(more.embeddings[MASK], first.embeddings[MASK])
    cn.cell_prototypes(clip, VOCABULARY, MASK, steps=3)                    # other settings, other file
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("mask", [torch.zeros(3, 2, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)])
def test_bad_masks_are_refused(clip, mask):
    with pytest.raises(ValueError, match="mask"):
        cn.cell_prototypes(clip, VOCABULARY, mask)


def test_bad_arguments_are_refused(clip):
    with pytest.raises(ValueError, match="targets"):
        cn.synthesize(clip, torch.zeros(2, 7))
    with pytest.raises(ValueError, match="steps: 0 is not valid"):
        cn.synthesize(clip, torch.ones(1, clip.width), steps=0)


def test_a_killed_run_leaves_a_whole_cache_or_none(tmp_path, clip, monkeypatch):
    """Killed again and again, right after each write began; what lies there then is whole, and the next run goes on."""
    code = ("import os, signal, torch, clipnull as cn\nfrom clipnull import prototypes\n"
            "whole = prototypes.save_file\n"
            "def half(tensors, path):\n"
            "    whole(tensors, path)\n"
            "    kill_at = int(os.environ['KILL_AT'])\n"
            "    if kill_at >= 0:\n"
            "        os.truncate(path, kill_at)\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "prototypes.save_file = half\n"
            "vocabulary = cn.Vocabulary(('cat', 'dog'), ('photo', 'line'))\n"
            "cn.cell_prototypes(cn.load(device='cpu'), vocabulary, steps=1, progress=False)\n")
    folder = tmp_path / "cache"
    for kill_at in (0, 1000, 100_000, -1):
        env = {**os.environ, "CLIPNULL_CACHE": str(folder), "KILL_AT": str(kill_at)}
        run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert run.returncode == (0 if kill_at < 0 else -signal.SIGKILL), run.stderr
        assert len(list(folder.glob("*.safetensors"))) == (kill_at < 0)
    monkeypatch.setenv("CLIPNULL_CACHE", str(folder))
    stored = folder.glob("*.safetensors")
    assert load_file(next(stored))["mask"].all()
    vocabulary = cn.Vocabulary(("cat", "dog"), ("photo", "line"))
    torch.testing.assert_close(cn.cell_prototypes(clip, vocabulary, steps=1).embeddings.norm(dim=2), torch.ones(2, 2))


def test_prototypes_of_an_edited_model_are_refused(clip):
    edited = cn.Edit(*cn.nullspace(torch.randn(2, clip.width)), "nullspace").apply(clip)
    with pytest.raises(ValueError, match="clip: it carries 1 edits; expected the unedited model"):
        cn.cell_prototypes(edited, cn.Vocabulary(("cat", "dog"), ("photo", "line")))
