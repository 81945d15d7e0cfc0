"""Every request x every method on a data set: the rows, the table and the command."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import noisy_cells

import clipnull as cn
from clipnull import models, unlearning
from clipnull.bench import sweep
from clipnull.commands import cli
from clipnull.files import aligned, data_folder
from clipnull.images import Images
from clipnull.prompts import PROMPTS

METHODS = list(cn.METHODS)


@pytest.fixture(scope="module", autouse=True)
def quick(texts_once):
    """Texts with noise, in the place of prototypes that take seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "embed_vocabulary", noisy_cells)
        patch.setattr(unlearning, "embed_vocabulary", noisy_cells)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three pictures in cells of three classes x two domains: no photos of cars, no fish in line drawings."""
    root = tmp_path_factory.mktemp("pictures")
    for cell in ("line/bird", "line/car", "photo/bird", "photo/fish"):
        (root / cell).mkdir(parents=True)
        for file in sorted((data_folder("miniworld") / "test" / cell).iterdir())[:3]:
            shutil.copy(file, root / cell)
    return root


@pytest.fixture(scope="module")
def few(folder):
    return cn.load_images(folder)


@pytest.fixture(scope="module")
def rows(clip, few):
    return sweep.sweep(clip, few)


def request_of(row):
    return cn.Forget(row["classes"], row["domains"])


# --- the sweep


def test_requests_are_every_class_every_filled_cell_and_every_domain(few):
    requests = [str(r) for r in sweep.every_request(few)]
    assert requests[:3] == ["bird everywhere", "car everywhere", "fish everywhere"]
    assert requests[3:7] == ["bird in line", "bird in photo", "car in line", "fish in photo"]
    assert requests[7:] == ["everything in line", "everything in photo"]
    assert [str(r) for r in sweep.every_request(few, ["complete"])] == requests[-2:]
    one = replace(few, vocabulary=cn.Vocabulary(["bird", "car", "fish"], ["x"]), domains=torch.zeros_like(few.domains))
    assert {r.paradigm for r in sweep.every_request(one)} == {"global"}, "of one domain, classes alone"
    with pytest.raises(ValueError, match="paradigms: 'selective' needs several domains; expected 'global'"):
        sweep.every_request(one, ["selective"])


def test_each_request_has_a_row_for_each_method_and_prompt_set_in_order(rows, few):
    assert [(request_of(row), row["method"], row["prompts"]) for row in rows] == [
        (request, method, prompts) for request in sweep.every_request(few) for method in METHODS for prompts in PROMPTS
    ]
    for row in rows:
        assert row["forgetting_rate"] <= 1
        assert (row["collateral"] is None) == (row["paradigm"] == "complete"), "known of miniclip, but for domains"
        siblings = row["sibling_class_drop"] is not None, row["sibling_domain_drop"] is not None
        selective = row["paradigm"] == "selective"
        assert siblings == (selective and row["classes"] == ["bird"], selective), "a car has no photo to be hurt"


def test_rows_say_what_compare_says_of_the_edited_model(clip, few, rows):
    before = cn.embed(clip, few)
    for request, method in (
        (cn.Forget(["bird"]), "oblique"),
        (cn.Forget(["bird"], ["line"]), "gated"),
        (cn.Forget(None, ["photo"]), "neuron"),
    ):
        after = cn.unlearn(clip, request, few.vocabulary, method).apply(clip)
        features = before, cn.embed(after, few)
        for prompts in PROMPTS:
            c = cn.compare(clip, after, few, request, prompts, features)
            (row,) = (r for r in rows if (r["method"], r["prompts"], request_of(r)) == (method, prompts, request))
            expected = {name: None if math.isnan(value) else pytest.approx(value) for name, value in c.rates.items()}
            assert {name: row[name] for name in expected} == expected


# --- rows by hand


def cats_and_dogs():
    """Two pictures in each cell of 3 classes x 2 domains."""
    classes, domains = torch.arange(12) // 4, torch.arange(12) // 2 % 2
    vocabulary = cn.Vocabulary(("cat", "dog", "fish"), ("line", "photo"))
    return Images(tuple(map(Path, "abcdefghijkl")), classes, domains, vocabulary)


#         cat: line photo  dog: line photo  fish: line photo
BEFORE = [0, 0, 0, 0, 1, 0, 1, 1, 2, 2, 0, 2]
AFTER = [1, 2, 0, 1, 1, 1, 1, 1, 2, 2, 0, 0]  # line cats gone; -1 photo cat, +1 line dog, -1 photo fish
LINE_CATS = cn.Forget(["cat"], ["line"])


def row_of(request, before, after):
    row = sweep.row_of(request, torch.as_tensor(before), torch.as_tensor(after), cats_and_dogs())
    return row | {"method": "x", "prompts": "free"}


def test_counts_by_hand():
    row = row_of(LINE_CATS, BEFORE, AFTER)
    assert row["forgetting_rate"] == 1 and row["worst_cell_drop"] == pytest.approx(50)
    counts = {"forgotten": 2, "before": 2, "after": 0, "kept": 10, "lost": 2, "gained": 1}
    counts |= {"worst_of": 2, "worst_lost": 1, "others": 0, "renamed": 0}
    assert row["pictures"] == counts and row["collateral"] is None
    (entry,) = sweep.summary([row], cats_and_dogs(), [LINE_CATS])
    assert entry["pictures"] == row["pictures"]
    assert sweep.format_counts(entry) == ["2 → 0 of 2", "2, 1 of 10", "1 of 2", "–"]


def test_requests_with_nothing_to_lose_are_left_out_and_counted(monkeypatch):
    """A picture is its class (three numbers) and itself (twelve); the classifiers look at the class only."""
    images, requests = cats_and_dogs(), [LINE_CATS, cn.Forget(["dog"], ["line"])]

    def picture(classes):
        return torch.cat([F.one_hot(torch.as_tensor(classes), 3).float(), torch.eye(12)], dim=1)

    edit = SimpleNamespace(images=lambda z: picture(AFTER)[: len(z)], form="linear")
    monkeypatch.setattr(sweep, "solve", lambda cells, mask, method: edit)
    free = F.pad(torch.eye(3), (0, 12)).expand(2, -1, -1)
    z = picture([1, 1, *BEFORE[2:]])
    rows = [row for r in requests for row in sweep.rows_of(r, ["nullspace"], images, None, z, {"free": free})]
    assert [row["classes"] for row in rows] == [["dog"]]
    entries = sweep.summary(rows, images, requests)
    assert [(entry["requests"], entry["measured"]) for entry in entries] == [(2, 1)]
    assert "| selective | `nullspace` | 1 of 2 |" in sweep.tables(entries)[0]


PAIRS = Images(
    files=tuple(map(Path, "abcdef")),
    classes=torch.tensor([0, 0, 0, 0, 1, 2]),
    domains=torch.tensor([0, 0, 0, 1, 0, 1]),
    vocabulary=cn.Vocabulary(("cat", "dog", "fish"), ("line", "photo")),
)
EYE = torch.eye(3).expand(2, -1, -1)


def test_pairwise_forgetting_by_hand():
    z = torch.tensor([[3.0, 1, 2], [3, 2, 1], [1, 2, 0], [3, 1, 1], [0, 1, 0], [0, 0, 1]])
    # cat against dog: of the drawings 2 of 3, of the photos 1 of 1: 5/6. Against fish: 1.
    after = torch.tensor([[1.5, 1, 2], [1.5, 2, 1], [0, 2, 0.5], [1.5, 1, 2], [0, 1, 0], [0, 0, 1]])
    # Then: dog 1 of 3 and 1 of 1: 2/3. Fish 1 of 3 and 0 of 1: 1/6.
    rate = sweep.pair_forgetting(z, EYE, PAIRS, cn.Forget(["cat"]), lambda rows: after[: len(rows)])
    assert rate == pytest.approx(((1 - (2 / 3) / (5 / 6)) + (1 - 1 / 6)) / 2)
    assert sweep.pair_forgetting(z, EYE, PAIRS, cn.Forget(["cat"]), lambda rows: rows) == 0
    for request in (LINE_CATS, cn.Forget(domains=["line"]), cn.Forget(["cat", "dog"])):
        assert sweep.pair_forgetting(z, EYE, PAIRS, request, lambda rows: rows) is None


def test_broken_pictures_count_for_nothing(clip, few, monkeypatch):
    keep = torch.arange(len(few)) % 4 > 0
    z = cn.embed(clip, few).masked_fill(~keep[:, None], math.nan)
    monkeypatch.setattr(sweep, "embed", lambda clip, images: z if len(images) == len(few) else z[keep])
    every, whole = (sweep.to_json(clip, images, "x", ["ridge"], ["global"]) for images in (few, few.where(keep)))
    assert every == whole and every["pictures"] == int(keep.sum())
    with pytest.raises(ValueError, match="before: -1 marks a broken picture"):
        row_of(LINE_CATS, [-1, *BEFORE[1:]], AFTER)


# --- the summary, the table and the command


def test_a_summary_has_the_means_of_the_rows_and_intervals_around_them(rows, few):
    entries = sweep.summary(rows, few, sweep.every_request(few))
    assert len(entries) == 3 * len(METHODS) * len(PROMPTS)
    for entry in entries:
        group = [row for row in rows if all(row[key] == entry[key] for key in ("paradigm", "method", "prompts"))]
        assert entry["measured"] == len(group)
        for name in sweep.COLUMNS:
            values = [row[name] for row in group if row[name] is not None]
            mean, low, high = entry[name]
            if not values:
                assert entry[name] == [None, None, None]
                continue
            assert mean == pytest.approx(sum(values) / len(values), abs=1e-5) and low <= mean <= high and low < high


def test_the_command_writes_rows_and_prints_the_tables(clip, folder, rows, few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "load", lambda name, pretrained: clip)
    options = ["--name", "mine", "--methods", "ridge", "--json", str(tmp_path / "rows.json")]
    assert cli.main(["bench", str(folder), *options]) == 0
    out, err = capsys.readouterr()
    rows = [row for row in rows if row["method"] == "ridge"]
    entries = sweep.summary(rows, few, sweep.every_request(few))
    assert "prompts 'free'" in out and "9/9" in err
    assert out.endswith("\n\n".join(sweep.tables(entries, "free", aligned)) + "\n")
    entry = json.loads((tmp_path / "rows.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert entry["rows"] == json.loads(json.dumps(sweep.without_bits(rows)))
    assert entry["requests"] == {"global": 3, "selective": 4, "complete": 2}
    assert [entry[name] for name in ("kind", "name", "model", "pretrained")] == ["bench", "mine", "miniclip", None]
    assert [entry[name] for name in ("pictures", "classes", "domains")] == [len(few), 3, 2]
