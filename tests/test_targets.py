"""What the cards promise of the embedded model, on pictures it was not trained on."""
import os
from pathlib import Path

import pytest

import clipnull as cn


def test_miniworld(clip, world):
    assert cn.macro(cn.zero_shot(clip, world)) >= 0.85
    assert cn.macro(cn.zero_shot(clip, world, "domain")) >= 0.85


@pytest.mark.skipif(not os.environ.get("CLIPNULL_DATA"), reason="CLIPNULL_DATA names no folder that holds PACS")
def test_pacs(clip):
    pacs = cn.load_images(Path(os.environ["CLIPNULL_DATA"]) / "test")
    assert cn.macro(cn.zero_shot(clip, pacs)) >= 0.90
    assert cn.macro(cn.domain_accuracy(clip, pacs)) >= 0.92
    request = cn.Forget(classes=["dog"])
    edit = cn.unlearn(clip, request, pacs.vocabulary, prototypes=False)
    rates = cn.compare(clip, edit.apply(clip), pacs, request).rates
    assert rates["forgetting_rate"] > 0.9 and rates["retain_drop"] < 2 and rates["worst_cell_drop"] < 10
