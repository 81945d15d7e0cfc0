"""What lesson 09 fits: a quick probe reads what the slow one reads."""

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from clipnull.audits.probes import linear_probe
from clipnull.course.probing import probe
from clipnull.images import families


def test_the_probe_reads_what_the_slow_one_reads_and_nothing_from_noise(images):
    kin = families(images.where(torch.arange(len(images)) < 300))
    positive, z = torch.arange(300) % 6 == 0, torch.randn(300, 20, generator=torch.Generator().manual_seed(0))
    signal = z + positive[:, None] * torch.linspace(0, 1.2, 20)
    says = probe(signal, positive, kin)
    quick = balanced_accuracy_score(positive, says)
    assert quick == pytest.approx(linear_probe(signal, positive).accuracy, abs=0.05) and quick > 0.8
    assert balanced_accuracy_score(positive, probe(z, positive, kin)) == pytest.approx(0.5, abs=0.1)
    assert probe(7 * signal + 3, positive, kin).equal(says), "scale and shift"
