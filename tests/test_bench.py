"""Every request x every method on a data set: the rows, the table and the command."""

import json
import math
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import joblib
import pytest
import torch
import torch.nn.functional as F
from helpers import noisy_cells

import clipnull as cn
from clipnull import models, unlearning
from clipnull.bench import sweep as bench
from clipnull.commands import cli
from clipnull.evaluate import macro
from clipnull.files import data_folder
from clipnull.prompts import PROMPTS, text_classifiers

METHODS = list(cn.METHODS)
DROPS = ["retain_drop", "sibling_class_drop", "sibling_domain_drop", "worst_cell_drop"]
KEYS = [
    "paradigm",
    "classes",
    "domains",
    "method",
    "prompts",
    "forgetting_rate",
    *DROPS,
    "collateral",
    "accuracy",
    "chance",
    "pictures",
    "by_domain",
    "bits",
    "seconds",
    "form",
    "pair_forgetting",
]


@pytest.fixture(scope="module", autouse=True)
def quick(texts_once):
    """Texts with noise, in the place of prototypes that take seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "embed_vocabulary", noisy_cells)
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
def small(folder):
    return cn.load_images(folder)


@pytest.fixture(scope="module")
def z(clip, small):
    return cn.embed(clip, small)


@pytest.fixture(scope="module")
def rows(clip, small):
    return bench.sweep(clip, small)


def without_time(rows):
    return [{**row, "seconds": None} for row in rows]


def without_bits(rows):
    return [{key: value for key, value in row.items() if key != "bits"} for row in rows]


# --- the sweep ---------------------------------------------------------------------------------------------------


def test_requests_are_every_class_every_filled_cell_and_every_domain(small):
    asked = [str(r) for r in bench.every_request(small)]
    assert asked == [
        "bird everywhere",
        "car everywhere",
        "fish everywhere",
        "bird in line",
        "bird in photo",
        "car in line",
        "fish in photo",
        "everything in line",
        "everything in photo",
    ]
    assert [str(r) for r in bench.every_request(small, ["complete"])] == asked[-2:]


def test_of_one_domain_classes_alone_are_requests(small):
    names = cn.Vocabulary(["bird", "car"], ["image"])
    one = replace(small, vocabulary=names, classes=small.classes.clamp(max=1), domains=torch.zeros_like(small.domains))
    assert bench.every_request(one) == [cn.Forget(["bird"]), cn.Forget(["car"])]


def test_each_request_has_a_row_for_each_method_and_prompt_set_in_order(rows, small):
    found = [(row["classes"], row["domains"], row["method"], row["prompts"]) for row in rows]
    assert found == [
        (r.classes and list(r.classes), r.domains and list(r.domains), method, prompts)
        for r in bench.every_request(small)
        for method in METHODS
        for prompts in PROMPTS
    ]


def test_rows_hold_what_they_promise(rows):
    for row in rows:
        assert list(row) == KEYS
        assert row["paradigm"] in ("global", "selective", "complete")
        assert row["forgetting_rate"] <= 1 and row["chance"] == pytest.approx(1 / 3) and row["seconds"] > 0
        assert list(row["accuracy"]) == ["before", "after"] and 0 <= row["accuracy"]["after"] <= 1
        assert all(row[d] is None or -100 <= row[d] <= 100 for d in DROPS)
        assert (row["collateral"] is None) == (row["paradigm"] == "complete"), "known of miniclip, but for domains"
        assert row["collateral"] is None or 0 <= row["collateral"] <= 100
    plain = without_bits(rows)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_counts_of_pictures_agree_with_the_figures(rows, small):
    n = small.counts()
    for row in rows:
        mask, seen = cn.Forget(row["classes"], row["domains"]).mask(small.vocabulary), row["pictures"]
        assert seen["forgotten"] == n[mask].sum() and seen["kept"] == n[~mask].sum()
        assert row["worst_cell_drop"] == pytest.approx(100 * seen["worst_lost"] / seen["worst_of"])
        if row["collateral"] is not None:
            assert row["collateral"] == pytest.approx(100 * seen["renamed"] / seen["others"]) and seen["others"] > 400
        if row["paradigm"] == "selective" and mask.sum() == 1:  # a single cell
            (before, after), cell = row["accuracy"].values(), row["by_domain"][row["domains"][0]]
            assert [before, after] == pytest.approx([seen[k] / seen["forgotten"] for k in ("before", "after")])
            assert cell == [seen["forgotten"], seen["before"], seen["after"]]
        assert (row["by_domain"] is None) == (row["classes"] is None)


def test_siblings_that_do_not_exist_are_none(rows):
    for row in rows:
        if row["paradigm"] != "selective":
            assert row["sibling_class_drop"] is None and row["sibling_domain_drop"] is None
        else:  # a car has no photo: nothing is left of the class to be hurt
            assert (row["sibling_class_drop"] is None) == (row["classes"] in (["car"], ["fish"]))
            assert row["sibling_domain_drop"] is not None


@pytest.mark.parametrize(
    "request_", [cn.Forget(["bird"]), cn.Forget(["bird"], ["line"]), cn.Forget(None, ["photo"])], ids=str
)
@pytest.mark.parametrize("method", METHODS)
def test_a_row_says_what_compare_says_of_the_edited_model(clip, small, z, rows, method, request_):
    after = cn.unlearn(clip, request_, small.vocabulary, method).apply(clip)
    features = z, cn.embed(after, small)
    for prompts in PROMPTS:
        c = cn.compare(clip, after, small, request_, prompts, features)
        (row,) = (
            row
            for row in rows
            if (row["method"], row["prompts"]) == (method, prompts)
            and cn.Forget(row["classes"], row["domains"]) == request_
        )
        expected = {name: None if math.isnan(value) else pytest.approx(value) for name, value in c.rates.items()}
        assert {name: row[name] for name in expected} == expected
        assert row["accuracy"] == pytest.approx({"before": macro(c.before, c.mask), "after": macro(c.after, c.mask)})


def test_a_class_is_forgotten_and_others_are_not(rows):
    found = {
        row["method"]: row
        for row in rows
        if row["classes"] == ["fish"] and row["paradigm"] == "global" and row["prompts"] == "domain"
    }
    for method in ("ridge", "gated"):
        assert found[method]["forgetting_rate"] > 0.9 and found[method]["retain_drop"] < 10


def test_pictures_and_texts_are_embedded_once(clip, folder, monkeypatch):
    calls = {"texts": 0, "pixels": 0}

    def counted(name, function):
        def call(self, x, *args):
            calls[name] += len(x)
            return function(self, x, *args)

        return call

    for name in calls:
        monkeypatch.setattr(cn.Clip, f"embed_{name}", counted(name, getattr(cn.Clip, f"embed_{name}")))
    bench.sweep(clip, images := cn.load_images(folder), METHODS[:1], ["complete"])
    once = dict(calls)
    assert once["pixels"] == len(images)
    bench.sweep(clip, cn.load_images(folder))
    assert calls["pixels"] == 2 * once["pixels"] and calls["texts"] <= 2 * once["texts"]


def test_jobs_run_where_joblib_sends_them(clip, small, rows):
    with joblib.parallel_config("threading", n_jobs=3):
        assert without_time(bench.sweep(clip, small)) == without_time(rows)


def test_jobs_can_be_sent_to_another_process(clip, small, z):
    classifiers = {"free": text_classifiers(clip, small.vocabulary)}
    cells = noisy_cells(clip, small.vocabulary)
    job = (cn.Forget(["bird"]), METHODS, small, cells, z, classifiers)
    assert without_time(bench.rows_of(*pickle.loads(pickle.dumps(job)))) == without_time(bench.rows_of(*job))


# --- rows by hand ------------------------------------------------------------------------------------------------


def cats_and_dogs():
    """Two pictures in each cell of 3 classes x 2 domains."""
    return cn.Images(
        files=tuple(map(Path, "abcdefghijkl")),
        classes=torch.arange(12) // 4,
        domains=torch.arange(12) // 2 % 2,
        vocabulary=cn.Vocabulary(("cat", "dog", "fish"), ("line", "photo")),
    )


@pytest.fixture
def cats(monkeypatch):
    """Two pictures in each cell of 3 classes x 2 domains, an edit that is a table, and the row it gives.

    A picture is its class (three numbers) and itself (twelve); the classifiers look at the class only.
    """
    images = cats_and_dogs()
    classifiers = {"free": F.pad(torch.eye(3), (0, 12)).expand(2, -1, -1)}

    def picture(classes):
        return torch.cat([F.one_hot(torch.as_tensor(classes), 3).float(), torch.eye(12)], dim=1)

    def row(request, before, after, **more):
        edit = SimpleNamespace(images=lambda z: picture(after)[: len(z)], form="linear")
        monkeypatch.setattr(bench, "solve", lambda cells, mask, method: edit)
        more = {prompts: classifiers["free"].roll(shift, 1) for prompts, shift in more.items()}
        return bench.rows_of(request, ["nullspace"], images, None, picture(before), classifiers | more)

    return row


#         cat: line photo  dog: line photo  fish: line photo
BEFORE = [0, 0, 0, 0, 1, 0, 1, 1, 2, 2, 0, 2]
AFTER = [1, 2, 0, 1, 1, 1, 1, 1, 2, 2, 0, 0]  # line cats gone; +1 photo cat, -1 line dog, +1 photo fish


def test_drops_by_hand(cats):
    (row,) = cats(cn.Forget(["cat"], ["line"]), BEFORE, AFTER)
    assert row["forgetting_rate"] == 1 and row["accuracy"] == {"before": 1, "after": 0}
    assert row["retain_drop"] == pytest.approx((50 - 50 + 0 + 0 + 50) / 5)
    assert row["sibling_class_drop"] == pytest.approx(50)  # photo cats
    assert row["sibling_domain_drop"] == pytest.approx((-50 + 0) / 2)  # line dogs and line fish
    assert row["worst_cell_drop"] == pytest.approx(50)


def test_whole_domains_go_to_chance_by_hand(cats):
    (row,) = cats(cn.Forget(domains=["line"]), BEFORE, [0] * 2 + BEFORE[2:4] + [0] * 2 + BEFORE[6:8] + [0] * 2 + [0, 2])
    before, after = (1 + 0.5 + 1) / 3, 1 / 3  # every line drawing is classified as a cat
    assert row["accuracy"] == pytest.approx({"before": before, "after": after})
    assert row["forgetting_rate"] == 1 and row["retain_drop"] == 0 and row["chance"] == pytest.approx(1 / 3)
    (row,) = cats(cn.Forget(domains=["line"]), BEFORE, BEFORE)
    assert row["forgetting_rate"] == 0


def test_requests_with_nothing_to_lose_are_left_out_and_counted(cats):
    wrong = [1, 1, *BEFORE[2:]]
    asked = [cn.Forget(["cat"], ["line"]), cn.Forget(["dog"], ["line"])]
    rows = [row for request in asked for row in cats(request, wrong, AFTER)]
    assert [row["classes"] for row in rows] == [["dog"]]
    found = bench.summary(rows, cats_and_dogs(), asked)
    assert [(row["requests"], row["measured"]) for row in found] == [(2, 1)]
    assert "selective: 1 requests, prompts 'free'; 1 left out" in bench.table(found, asked)
    assert "selective: 0 requests, prompts 'free'; 2 left out" in bench.table([], asked)


def test_counts_by_hand(cats):
    (row,) = cats(cn.Forget(["cat"], ["line"]), BEFORE, AFTER)
    seen = {"forgotten": 2, "before": 2, "after": 0, "kept": 10, "lost": 2, "gained": 1, "worst_of": 2, "worst_lost": 1}
    assert row["pictures"] == seen | {"others": 0, "renamed": 0} and row["collateral"] is None
    assert row["by_domain"] == {"line": [2, 2, 0], "photo": [2, 2, 1]}
    (found,) = bench.summary([row], cats_and_dogs(), [cn.Forget(["cat"], ["line"])])
    assert found["pictures"] == row["pictures"]
    assert bench.counted(found) == ["2 → 0 of 2", "2, 1 of 10", "1 of 2", "-"]


def test_an_approach_that_takes_no_part_has_no_figure():
    images, answers = cats_and_dogs(), torch.as_tensor(BEFORE)
    request = cn.Forget(domains=["line"])
    row = bench.row_of(request, "filter", "free", answers, None, images)
    assert all(row[name] is None for name in bench.COLUMNS)
    (found,) = bench.summary([row], images, [request])
    assert found["measured"] == 0 and bench.told("forgetting_rate", found["forgetting_rate"]) == "-"
    assert bench.counted(found) == ["-"] * 4


def test_pictures_without_an_answer_count_for_nothing(cats):
    images, request = cats_and_dogs(), cn.Forget(["cat"], ["line"])
    before, after = torch.as_tensor(BEFORE), torch.as_tensor(AFTER)
    broken = torch.arange(12) == 5
    row = bench.row_of(request, "x", "free", before.masked_fill(broken, -1), after.masked_fill(broken, -1), images)
    whole = bench.row_of(request, "x", "free", before[~broken], after[~broken], images.where(~broken))
    assert without_bits([row]) == without_bits([whole]) and row["pictures"]["kept"] == 9
    assert bench.summary([row], images, [request]) == bench.summary([whole], images.where(~broken), [request])


def test_each_prompt_set_has_its_own_before(cats):
    rows = cats(cn.Forget(["cat"], ["line"]), BEFORE, AFTER, build=1)  # where every class is classified as the next
    assert [row["prompts"] for row in rows] == ["free"]
    rows = cats(cn.Forget(["cat"], ["line"]), [2, *BEFORE[1:]], AFTER, build=1)
    assert [(row["prompts"], row["accuracy"]["before"]) for row in rows] == [("free", 0.5), ("build", 0.5)]


# --- the table ---------------------------------------------------------------------------------------------------


def test_a_summary_has_the_means_of_the_rows_and_intervals_around_them(rows, small):
    asked = bench.every_request(small)
    found = bench.summary(rows, small, asked)
    assert len(found) == 3 * len(METHODS) * len(PROMPTS) and json.loads(json.dumps(found, allow_nan=False)) == found
    for entry in found:
        own = [row for row in rows if all(row[key] == entry[key] for key in ("paradigm", "method", "prompts"))]
        assert entry["measured"] == len(own)
        for name in bench.COLUMNS:
            values = [row[name] for row in own if row[name] is not None]
            mean, low, high = entry[name]
            if not values:
                assert entry[name] == [None, None, None]
                continue
            assert mean == pytest.approx(sum(values) / len(values), abs=1e-5) and low <= mean <= high and low < high
            assert high <= (1 if name == "forgetting_rate" else 100)
    assert found == bench.summary(rows, small, asked), "a fixed seed"


def test_table_shows_the_chosen_prompts(rows, small):
    found = bench.summary(rows, small, bench.every_request(small))
    for prompts in ("free", "build"):
        text = bench.table(found, bench.every_request(small), prompts)
        assert [line for line in text.splitlines() if "requests" in line] == [
            f"{paradigm}: {n} requests, prompts '{prompts}'"
            for paradigm, n in (("global", 3), ("selective", 4), ("complete", 2))
        ]
        values = [
            row["retain_drop"]
            for row in rows
            if (row["paradigm"], row["method"], row["prompts"]) == ("global", "ridge", prompts)
        ]
        line = next(line for line in text.splitlines() if line.startswith("  ridge"))
        assert f"{sum(values) / 3:+.1f} [" in line and line.split().count("-") == 2  # no siblings
    with pytest.raises(ValueError, match="prompts: 'fre' is not known; did you mean 'free'"):
        bench.table(found, bench.every_request(small), "fre")


# --- from pictures to a file


def test_a_document_holds_the_rows_and_what_they_were_measured_on(clip, small, rows):
    found = bench.document(clip, small, "mine", rows)
    assert found["rows"] == without_bits(rows) and found["requests"] == {"global": 3, "selective": 4, "complete": 2}
    assert [found[name] for name in ("kind", "name", "model", "pretrained")] == ["bench", "mine", "miniclip", None]
    assert [found[name] for name in ("pictures", "classes", "domains")] == [len(small), 3, 2]
    assert bench.document(clip, small, "mine", [], ["complete"])["requests"] == {"complete": 2}


def test_the_command_writes_rows_and_prints_the_table(clip, folder, rows, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "load", lambda name, pretrained: clip)
    assert cli.main(["bench", str(folder), "--json", str(tmp_path / "rows.json")]) == 0
    out, err = capsys.readouterr()
    asked = bench.every_request(small)
    assert out.strip() == bench.table(bench.summary(rows, small, asked), asked)
    assert f"9 of 9 requests x {len(METHODS)} methods x 3 prompt sets" in err

    def strict(constant):
        raise ValueError(f"{constant} is not JSON")

    written = json.loads((tmp_path / "rows.json").read_text(), parse_constant=strict)
    assert without_time(written["rows"]) == without_time(without_bits(rows))


def test_unknown_methods_paradigms_and_prompts_are_refused(clip, small, rows):
    with pytest.raises(ValueError, match="methods: 'rigde' is not known; did you mean 'ridge'"):
        bench.sweep(clip, small, ["rigde"])
    with pytest.raises(ValueError, match="paradigms: 'total' is not known"):
        bench.sweep(clip, small, paradigms=["total"])
