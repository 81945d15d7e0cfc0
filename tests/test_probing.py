"""The quick probe of a lesson: what it reads, and that relatives stay together."""

import pytest
import torch

from clipnull.audits.probes import linear_probe
from clipnull.course import probing
from clipnull.images import families


def test_relatives_are_in_one_part_and_the_parts_are_alike(images):
    fold, names = probing.family_folds(images, 0), families(images)
    assert len({*zip(names, fold.tolist(), strict=True)}) == len(set(names)) < len(names)
    assert fold.bincount().min() > 0.15 * len(fold) and not torch.equal(fold, probing.family_folds(images, 1))


def test_the_probe_reads_what_the_slow_one_reads_and_nothing_from_noise():
    draw = torch.Generator().manual_seed(0)
    positive, fold = torch.arange(300) % 6 == 0, torch.arange(300) % 5
    z = torch.randn(300, 20, generator=draw)
    told = z + positive[:, None] * torch.linspace(0, 1.2, 20)
    quick = probing.balanced(probing.probe(told, positive, fold), positive)
    assert quick == pytest.approx(linear_probe(told, positive).accuracy, abs=0.05) and quick > 0.8
    assert probing.balanced(probing.probe(z, positive, fold), positive) == pytest.approx(0.5, abs=0.1)
    assert probing.probe(7 * told + 3, positive, fold).equal(probing.probe(told, positive, fold)), "scale and shift"
