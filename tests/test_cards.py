import importlib
import json
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import yaml

import clipnull as cn
from clipnull.evaluate import PROMPTS

card = importlib.import_module("clipnull.cards")


@pytest.fixture(scope="module")
def world(world):
    """A part of the pictures, in the whole vocabulary: probes are quick."""
    return world.select(["bird", "dog", "person", "tree"])


@pytest.fixture(scope="module")
def known(clip, world):
    texts = cn.embed_cells(clip, world.vocabulary)
    noise = torch.randn(texts.shape, generator=torch.Generator().manual_seed(0)) / texts.shape[-1] ** 0.5
    return cn.Concepts(texts, F.normalize(texts + noise, dim=-1))


@pytest.fixture(scope="module")
def make(clip, world, known):
    def edit(request, method="oblique"):
        made = cn.solve(known, request.mask(world.vocabulary), method)
        return replace(made, request=request, fingerprint=clip.fingerprint, model=clip.name)
    return edit


@pytest.fixture(scope="module")
def selective(make):
    return make(cn.Forget(["person"], ["flat"]), "nullspace")


@pytest.fixture(scope="module")
def text(selective, clip, world):
    return cn.card(selective, clip, world, "cc-by-4.0")


def table(text, heading):
    """The cells of the first table below a heading."""
    block = re.search(r"(?:^\|.*\n)+", text[text.index(f"## {heading}"):], re.M).group()
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()[2:]]


def test_the_head_is_yaml_that_a_hub_reads(text):
    head = yaml.safe_load(text.split("---")[1])
    assert head == {"base_model": "miniclip", "library_name": "clipnull", "tags": ["clip", "machine-unlearning"],
                    "license": "cc-by-4.0"}


def test_its_figures_are_those_of_compare(text, selective, clip, world):
    rows = table(text, "Measured")
    for row, prompts in zip(rows, PROMPTS, strict=True):
        result = cn.compare(clip, selective.apply(clip), world, selective.request, prompts)
        r = result.rates
        assert row[1] == (f"{100 * cn.macro(result.before, result.forget):.1f} % → "
                          f"{100 * cn.macro(result.after, result.forget):.1f} %")
        assert float(row[2]) == pytest.approx(r["forgetting_rate"], abs=5e-4)
        assert [float(x) for x in row[3:]] == pytest.approx([r[name] for name in (
            "retain_drop", "sibling_class_drop", "sibling_domain_drop", "worst_cell_drop")], abs=0.05)


def test_the_worst_cells_are_the_worst(text, selective, clip, world):
    result = cn.compare(clip, selective.apply(clip), world, selective.request)
    drop, rows = 100 * (result.before - result.after), table(text, "Whom it hurts")
    found = [100 * (int(before) - int(after)) / int(n) for _, n, before, after in rows]
    kept = drop[~result.forget]
    assert found == pytest.approx(sorted(kept[kept > 0].tolist(), reverse=True)[:5], abs=1e-9) and found
    assert f"{int((kept > 0).sum())} of {int((~kept.isnan()).sum())} kept cells" in text


def test_the_probes_are_told(text, selective, clip, world):
    labels = selective.request.mask(world.vocabulary)[world.classes, world.domains]
    after = selective.apply(clip)
    for features in (cn.tower(after, world), cn.embed(clip, world), cn.embed(after, world)):
        assert f"{100 * cn.linear_probe(features, labels).accuracy:.0f} %" in text[text.index("## What remains"):]


def test_the_request_and_the_weights_are_told(text, selective, clip):
    assert json.loads(re.search(r"```json\n(.*)\n", text).group(1)) == selective.request.as_dict()
    assert clip.fingerprint in text and "energy = 0.9" in text and "`nullspace`" in text


def test_the_code_in_it_runs(selective, clip, world, tmp_path, monkeypatch):
    folder = cn.release(tmp_path / "patch", selective, clip, world)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "edit.safetensors"]
    monkeypatch.chdir(folder)
    names = {}
    exec(re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.S).group(1), names)
    assert names["edit"].same(selective) and names["edit"].request == selective.request.as_dict()
    assert cn.card(names["edit"], clip, world) == (folder / "README.md").read_text(encoding="utf-8")
    assert "license" not in (folder / "README.md").read_text(encoding="utf-8").split("---")[1]


def test_a_gated_edit_says_what_it_is(make, clip, world):
    gated = cn.card(make(cn.Forget(["person"], ["flat"]), "gated"), clip, world)
    assert "cannot be multiplied into weights" in gated and "costs nothing" not in gated
    assert "costs nothing at inference" in cn.card(make(cn.Forget(["person"], ["flat"])), clip, world)


def test_whole_domains_are_told_with_chance(make, clip, world):
    text = cn.card(make(cn.Forget(domains=["photo"]), "gated"), clip, world)
    assert "the way gone to chance, 6.2 %" in text and table(text, "Measured")[0][4:6] == ["–", "–"]


def test_nobody_hurt_is_said(make, clip, world):
    none = replace(make(cn.Forget(["person"], ["flat"])), left=torch.zeros(clip.width, 1).double())
    assert "No kept cell lost a picture." in cn.card(none, clip, world)


def test_a_probe_needs_pictures(make, clip, world):
    few = world.select(["dog", "car"], ["line"])
    alone = cn.World(few.files[:3], few.classes[:3], few.domains[:3], few.vocabulary)
    one = int((alone.classes == alone.classes[0]).sum())
    request = cn.Forget([alone.vocabulary.classes[int(alone.classes[0])]], ["line"])
    assert ("no probe could be trained" in cn.card(make(request), clip, alone)) == (min(one, 3 - one) < 2)


@pytest.mark.parametrize("harm, message", [
    (lambda e: replace(e, request=None), "edit: its request is None; expected a Forget"),
    (lambda e: replace(e, fingerprint="0" * 16), "clip: its weights"),
    (lambda e: replace(e, request=cn.Forget(["dgo"])), "did you mean 'dog'"),
], ids=["no request", "other weights", "unknown class"])
def test_what_cannot_be_told_is_refused_and_nothing_written(harm, message, selective, clip, world, tmp_path):
    with pytest.raises(ValueError, match=message):
        cn.release(tmp_path / "patch", harm(selective), clip, world)
    assert not (tmp_path / "patch").exists()


def test_pictures_without_the_forgotten_cells_are_refused(make, clip, world):
    with pytest.raises(ValueError, match="none of its .* pictures is in a forgotten cell"):
        cn.card(make(cn.Forget(["person"], ["flat"])), clip, world.select(["dog"]))


def test_no_path_of_the_machine_is_told(tmp_path):
    weights = tmp_path / "mine.pt"
    weights.touch()
    assert card._public(str(weights)) == "mine.pt" and card._public(f"local-dir:{tmp_path}/model") == "model"
    assert [card._public(n) for n in ("ViT-B-16", "openai", "hf-hub:a/b")] == ["ViT-B-16", "openai", "hf-hub:a/b"]
