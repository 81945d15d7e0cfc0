"""The features before the projection, what a probe reads from features, and the neighbours of a picture."""

import open_clip
import pytest
import torch
from helpers import gated, project, random
from torchvision.transforms.functional import pil_to_tensor, resize

import clipnull as cn
from clipnull.audits.probes import (
    features_before_projection,
    linear_probe,
    projection_matrix,
    stage_features,
    weight_difference,
)
from clipnull.audits.retrieval import retrieval_precision
from clipnull.models import Clip
from clipnull.towers import find_projection

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VIT = {"layers": 4, "width": 24, "head_width": 8, "patch_size": 16, "image_size": 32}
TOWERS = {
    "Parameter": (open_clip.CLIP, VIT),
    "Parameter, CoCa": (
        open_clip.CoCa,
        VIT | {"attentional_pool": True, "output_tokens": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
    ),
    "Linear with bias in an attention pool": (open_clip.CLIP, {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}),
    "Linear": (
        open_clip.CustomTextCLIP,
        {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    ),
    "Linear with bias": (
        open_clip.CustomTextCLIP,
        {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None, "image_size": 160},
    ),
    "none": (
        open_clip.CustomTextCLIP,
        {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
    ),
}


@pytest.fixture(params=TOWERS, scope="module")
def small(request):
    """An untrained model for each place where a projection can be."""
    kind, vision = TOWERS[request.param]
    torch.manual_seed(0)
    extra = {"multimodal_cfg": TEXT} if kind is open_clip.CoCa else {}
    width = 64 if request.param == "none" else 12
    text = TEXT | ({"embed_cls": True, "output_tokens": True} if extra else {})
    model = kind(embed_dim=width, vision_cfg=vision, text_cfg=text, **extra).eval().requires_grad_(False)
    projection = find_projection(model)
    if projection.bias is not None:
        torch.nn.init.normal_(projection.bias)
    if extra:  # open_clip leaves this one as memory was, possibly NaN
        torch.nn.init.zeros_(model.text_decoder.text_projection)
    side = vision["image_size"]
    return Clip(model, lambda picture: resize(pil_to_tensor(picture), [side, side]) / 255, None, request.param, None)


@pytest.fixture(scope="module")
def few(images):
    return images.select(["dog", "car"], ["line"])


def edits(clip):
    rows = random(2, clip.width, seed=1)
    return [project(rows), gated(clip.width), cn.Edit(rows.T, rows.T, "biased", bias=rows[0].double())]


def test_features_times_the_projection_are_the_embeddings(small, few):
    f, (w, b) = features_before_projection(small, few), projection_matrix(small)
    assert f.shape == (len(few), w.shape[0]) and w.shape[1] == len(b) == small.width
    torch.testing.assert_close((f.double() @ w + b).float(), cn.embed(small, few), atol=1e-5, rtol=1e-4)


def test_no_edit_reaches_what_is_before_the_projection(small, few):
    f, after = features_before_projection(small, few), small
    for edit in edits(small):
        after = edit.apply(after)
        torch.testing.assert_close(features_before_projection(after, few), f, atol=1e-6, rtol=1e-5)
    assert len(after.edits) == 3 and not torch.allclose(cn.embed(after, few), cn.embed(small, few))


def test_two_files_of_weights_show_the_edit(small):
    linear = edits(small)[0]
    u = weight_difference(small, linear.apply(small))
    assert u.shape == (small.width, 2)
    assert float((u @ u.T @ linear.right - linear.right).norm()) < 1e-3 * float(linear.right.norm())
    assert weight_difference(small, small).shape == (small.width, 0)
    assert weight_difference(small, edits(small)[1].apply(small)).shape == (small.width, 0)


def test_stages_have_a_row_for_each_picture(small, few):
    stages = stage_features(small, few)
    assert list(stages)[-1] == "before the projection" and len(stages) == (1 if small.name == "Linear" else 4)
    assert all(len(x) == len(few) and x.isfinite().all() for x in stages.values())
    torch.testing.assert_close(stages["before the projection"], features_before_projection(small, few))


WRONG = torch.zeros(6), torch.tensor([0, 0, 0, 0, 0, 1]), torch.arange(6), torch.zeros(5)


def blobs(per_label=20, labels=3, d=6, apart=4.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(labels).repeat_interleave(per_label)
    centres = apart * torch.randn(labels, d, generator=generator)
    return torch.randn(len(y), d, generator=generator) + centres[y], y


def test_a_probe_finds_what_is_there_and_nothing_else():
    x, y = blobs()
    probe = linear_probe(x, y)
    assert probe.accuracy > 0.95 and probe.accuracy == pytest.approx(float((probe.predicted == y).double().mean()))
    noise = linear_probe(torch.randn(300, 6, generator=torch.Generator().manual_seed(1)), torch.arange(300) % 3)
    assert abs(noise.accuracy - 1 / 3) < 0.12


def test_features_that_are_all_alike_give_chance():
    for labels in (torch.arange(20) % 2, torch.arange(20) < 4):
        assert linear_probe(torch.ones(20, 3), labels).accuracy == 0.5


def test_a_label_with_one_picture_is_only_missed(recwarn):
    x, y = blobs(per_label=3)
    assert linear_probe(torch.cat([x, x[:1]]), torch.cat([y, torch.tensor([3])])).predicted[-1] != 3
    assert not recwarn.list


def test_neighbours_by_hand():
    angles = torch.tensor([0.0, 0.1, 0.25, 1.5, 1.65])
    z = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([1.0, 9.0, 3.0, 2.0, 5.0])[:, None]
    y = torch.tensor([0, 0, 1, 1, 1])
    assert retrieval_precision(z, y, 1).tolist() == [1, 1, 0, 1, 1]
    assert retrieval_precision(z, y, 2).tolist() == [0.5, 0.5, 0, 1, 1]


def test_equal_embeddings_have_neighbours_by_chance():
    y = torch.tensor([0, 0, 0, 1, 1])
    expected = torch.tensor([2, 2, 2, 1, 1]) / 4
    for k in (1, 2, 4):
        torch.testing.assert_close(retrieval_precision(torch.ones(5, 3), y, k), expected.double())


def test_neighbours_of_some_pictures_are_looked_for_among_all():
    x, y = blobs(per_label=9, apart=0.8)
    where = torch.arange(len(x)) % 3 == 0
    torch.testing.assert_close(retrieval_precision(x, y, 4, where), retrieval_precision(x, y, 4)[where])
    assert retrieval_precision(x, y, 4, torch.zeros(len(x), dtype=torch.bool)).shape == (0,)


@pytest.mark.parametrize(
    "call, message",
    [
        *((lambda x, y=y: linear_probe(x, y), "labels: .* expected one for each picture") for y in WRONG),
        *((lambda x, k=k: retrieval_precision(x, torch.zeros(6), k), "k: ") for k in (0, 6, 2.0)),
        (lambda x: linear_probe(x / 0, torch.arange(6) % 2), "features: 6 rows are not finite; expected"),
        (lambda x: retrieval_precision(x / 0, torch.zeros(6)), "features: 6 rows are not finite; expected"),
    ],
)
def test_what_cannot_be_probed_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(6, 2))
