"""CLIP_benchmark, where it is installed, measures a fused model on packed pictures as we do (notebooks/HANDOVER.md).

Its command is on PATH, or the variable CLIP_BENCHMARK names it: it may have an environment of its own.
"""

import json
import os
import shutil
import subprocess

import pytest
import torch

import clipnull as cn
from clipnull.datasets.webdataset import pack
from clipnull.evaluate import classify
from clipnull.prompts import text_classifiers

COMMAND = os.environ.get("CLIP_BENCHMARK") or shutil.which("clip_benchmark")


@pytest.mark.nightly
@pytest.mark.skipif(not COMMAND, reason="there is no clip_benchmark on PATH")
def test_clip_benchmark_measures_the_same(clip, corner, tmp_path):
    names = corner.vocabulary
    after = cn.unlearn(clip, cn.Forget(["bird"]), names, "oblique", prototypes=False).apply(clip)
    cn.fuse(after, tmp_path / "edited")
    pack(corner, tmp_path / "mine")
    options = "eval --model local-dir:edited --pretrained  --dataset wds/mine --dataset_root mine --output edited.json"
    command = [str(COMMAND), *options.split(" "), "--no_amp", "--num_workers", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "edited.json").read_text())["metrics"]
    right = classify(cn.embed(after, corner), text_classifiers(clip, names, "free"), corner.domains) == corner.classes
    recall = torch.stack([right[corner.classes == c].double().mean() for c in range(len(names.classes))])
    assert metrics["acc1"] == pytest.approx(float(right.double().mean()))
    assert metrics["mean_per_class_recall"] == pytest.approx(float(recall.mean()))
    assert recall[0] < recall[1:].min() and cn.load_images(tmp_path / "mine").vocabulary == names
