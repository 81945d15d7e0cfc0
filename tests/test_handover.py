"""CLIP_benchmark, where it is installed, measures a fused model on packed pictures as we do (notebooks/HANDOVER.md).

Its command is found on PATH, or the variable CLIP_BENCHMARK names it: it may live in an environment of its own.
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
    edit = cn.unlearn(clip, cn.Forget(["bird"]), names, "oblique", prototypes=False)
    after = edit.apply(clip)
    cn.fuse(after, tmp_path / "edited")
    pack(corner, tmp_path / "mine")
    asked = "eval --model local-dir:edited --pretrained  --dataset wds/mine --dataset_root mine --output edited.json"
    done = subprocess.run(
        [str(COMMAND), *asked.split(" "), "--no_amp", "--num_workers", "0"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-3000:]
    told = json.loads((tmp_path / "edited.json").read_text())["metrics"]
    answers = classify(cn.embed(after, corner), text_classifiers(clip, names, "free"), corner.domains)
    right = answers == corner.classes
    recall = torch.stack([right[corner.classes == c].double().mean() for c in range(len(names.classes))])
    assert told["acc1"] == pytest.approx(float(right.double().mean()))
    assert told["mean_per_class_recall"] == pytest.approx(float(recall.mean()))
    assert recall[0] < recall[1:].min() and cn.load_images(tmp_path / "mine").vocabulary == names
