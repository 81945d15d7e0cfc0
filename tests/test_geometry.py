"""Geometry: the figures are what they are called, and those stored of OpenAI's CLIP are those of its embeddings."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_stored import CLASSES, N, fields

import clipnull as cn
from clipnull.course import geometry
from clipnull.files import data_folder
from clipnull.subspace import basis, captured_energy, principal_angles

STORED = json.loads((data_folder("results/geometry") / "openai-vit-b-32.json").read_text(encoding="utf-8"))
REAL = Path(os.environ.get("CLIPNULL_EMBEDDINGS", ""))


@pytest.fixture
def made(tmp_path):
    np.savez(tmp_path / "made.npz", **fields())
    path = str(tmp_path / "made.npz")
    return cn.load(path, device="cpu"), cn.load_images(path)


def measured(clip, images):
    return geometry.measure(clip, images, cn.embed(clip, images))


def test_figures_are_means_over_pairs(made):
    clip, images = made
    figures, texts = measured(clip, images), F.normalize(torch.from_numpy(fields()["texts_build"]), dim=-1)
    flat, z = texts.flatten(0, 1), F.normalize(images.stored.double(), dim=-1)
    for name, rows in (("text_cosine", flat), ("picture_cosine", z)):
        pairs = (rows @ rows.T)[~torch.eye(len(rows), dtype=torch.bool)]
        assert figures[name] == pytest.approx(float(pairs.mean()), abs=1e-6)
    cell_texts = texts[images.classes, images.domains]
    assert figures["own_cosine"] == pytest.approx(float((z * cell_texts).sum(1).mean()), abs=1e-6)
    assert figures["gap"] == pytest.approx(float((z.mean(0) - cell_texts.mean(0)).norm()), abs=1e-6)
    pairs = [(p, q) for p in range(len(CLASSES)) for q in range(len(CLASSES)) if p != q]
    angles = torch.stack([principal_angles(texts[p], texts[q]).rad2deg() for p, q in pairs])
    assert figures["smallest_angle"] == pytest.approx(float(angles.min(1).values.mean()), abs=1e-4)
    assert figures["mean_angle"] == pytest.approx(float(angles.mean()), abs=1e-4)
    for name, rows in (("kept_energy", texts), ("centred_kept_energy", texts - texts.mean((0, 1)))):
        energy = [captured_energy(rows[q], basis(rows[p])).mean() for p, q in pairs]
        assert figures[name] == pytest.approx(100 * float(torch.stack(energy).mean()), abs=1e-4)
    assert (figures["pictures"], figures["classes"], figures["domains"]) == (N, 3, 2)


def test_shares_are_of_the_whole_and_a_domain_that_texts_name_is_found_in_pictures(made):
    figures = measured(*made)
    assert figures["class_share"] + figures["domain_share"] + figures["interaction_share"] == pytest.approx(100)
    assert figures["class_share"] > figures["domain_share"] > figures["interaction_share"] > 0
    assert figures["domain_agreement"] > 0.9  # pictures were made from the texts


def test_broken_pictures_do_not_count_and_too_few_whole_classes_give_no_agreement(made):
    clip, images = made
    features = cn.embed(clip, images)
    features[0] = torch.nan
    there = torch.arange(N) > 0
    assert geometry.measure(clip, images, features) == geometry.measure(clip, images.where(there), features[there])
    some = images.where((images.classes == 0) | (images.domains == 0))
    figures = measured(clip, some)
    assert math.isnan(figures["domain_agreement"])


@pytest.mark.skipif(not os.environ.get("CLIPNULL_EMBEDDINGS"), reason="CLIPNULL_EMBEDDINGS names no folder")
def test_what_is_stored_is_what_the_embeddings_give():
    path = REAL / STORED["file"]
    clip, images = cn.load(str(path), device="cpu"), cn.load_images(path)
    assert (clip.name, clip.pretrained) == (STORED["model"], STORED["pretrained"])
    assert measured(clip, images) == pytest.approx(STORED["figures"], abs=1e-3)
