import importlib
import json
import math
import pickle
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import joblib
import pytest
import torch
import torch.nn.functional as F

import clipnull as cn
from clipnull import bench, evaluate, models
from clipnull.data import World
from clipnull.prompts import Vocabulary
from clipnull.unlearning import METHODS as KNOWN
from clipnull.unlearning import concepts

METHODS = list(KNOWN)
DROPS = ["retain_drop", "sibling_class_drop", "sibling_domain_drop", "worst_cell_drop"]
KEYS = ["paradigm", "classes", "domains", "method", "prompts", "forgetting_rate", *DROPS, "accuracy", "chance",
        "seconds"]


@pytest.fixture(scope="module", autouse=True)
def prototypes():
    """Texts with noise, in the place of prototypes that take seconds to make."""

    def noisy(clip, vocabulary):
        texts = cn.embed_cells(clip, vocabulary)
        noise = torch.randn(texts.shape, generator=torch.Generator().manual_seed(0)) / texts.shape[-1] ** 0.5
        mask = torch.ones(vocabulary.shape, dtype=torch.bool)
        return cn.Prototypes(torch.zeros(*mask.shape, 3, 2, 2), F.normalize(texts + noise, dim=-1), mask)

    concepts.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("clipnull.unlearning"), "cell_prototypes", noisy)
        yield
    concepts.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes x two domains of miniworld: no photos of cars, no windmills in line drawings."""
    root = tmp_path_factory.mktemp("pictures")
    for cell in ("line/bird", "line/car", "photo/bird", "photo/windmill"):
        shutil.copytree(models.data_folder("miniworld") / "test" / cell, root / cell)
    return root


@pytest.fixture(scope="module")
def small(folder):
    return cn.load_images(folder)


@pytest.fixture(scope="module")
def rows(clip, small):
    return bench.sweep(clip, small)


def without_time(rows):
    return [{**row, "seconds": None} for row in rows]


# --- the sweep ---------------------------------------------------------------------------------------------------

def test_requests_are_every_class_every_filled_cell_and_every_domain(small):
    asked = [str(r) for r in bench.requests(small)]
    assert asked == ["bird everywhere", "car everywhere", "windmill everywhere", "bird in line", "bird in photo",
                     "car in line", "windmill in photo", "everything in line", "everything in photo"]
    assert [str(r) for r in bench.requests(small, ["complete"])] == asked[-2:]


def test_each_request_has_a_row_for_each_method_and_prompt_set_in_order(rows, small):
    found = [(row["classes"], row["domains"], row["method"], row["prompts"]) for row in rows]
    assert found == [(r.classes and list(r.classes), r.domains and list(r.domains), method, prompts)
                     for r in bench.requests(small) for method in METHODS for prompts in ("free", "domain", "seen")]


def test_rows_hold_what_they_promise(rows):
    for row in rows:
        assert list(row) == KEYS
        assert row["paradigm"] in ("global", "selective", "complete")
        assert row["forgetting_rate"] <= 1 and row["chance"] == pytest.approx(1 / 3) and 0 < row["seconds"] < 10
        assert list(row["accuracy"]) == ["before", "after"] and 0 <= row["accuracy"]["after"] <= 1
        assert all(row[d] is None or -100 <= row[d] <= 100 for d in DROPS)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_siblings_that_do_not_exist_are_none(rows):
    for row in rows:
        if row["paradigm"] != "selective":
            assert row["sibling_class_drop"] is None and row["sibling_domain_drop"] is None
        else:                                        # a car has no photo: nothing is left of the class to be hurt
            assert (row["sibling_class_drop"] is None) == (row["classes"] in (["car"], ["windmill"]))
            assert row["sibling_domain_drop"] is not None


@pytest.mark.parametrize("request_", [cn.Forget(["bird"]), cn.Forget(["bird"], ["line"]), cn.Forget(None, ["photo"])],
                         ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_row_says_what_compare_says_of_the_edited_model(clip, small, rows, method, request_):
    after = cn.unlearn(clip, request_, small.vocabulary, method).apply(clip)
    for prompts in ("free", "domain", "seen"):
        c = cn.compare(clip, after, small, request_, prompts)
        (row,) = (row for row in rows if (row["method"], row["prompts"]) == (method, prompts)
                  and cn.Forget(row["classes"], row["domains"]) == request_)
        expected = {name: None if math.isnan(value) else pytest.approx(value) for name, value in c.rates.items()}
        assert {name: row[name] for name in expected} == expected
        assert row["accuracy"] == pytest.approx({"before": cn.macro(c.before, c.forget),
                                                 "after": cn.macro(c.after, c.forget)})


def test_a_class_is_forgotten_and_others_are_not(rows):
    found = {row["method"]: row for row in rows if row["classes"] == ["bird"] and row["paradigm"] == "global"
             and row["prompts"] == "domain"}
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
    bench.sweep(clip, world := cn.load_images(folder), METHODS[:1], ["complete"])
    once = dict(calls)
    assert once["pixels"] == len(world)
    bench.sweep(clip, cn.load_images(folder))
    assert calls["pixels"] == 2 * once["pixels"] and calls["texts"] <= 2 * once["texts"]


def test_jobs_run_where_joblib_sends_them(clip, small, rows):
    with joblib.parallel_config("threading", n_jobs=3):
        assert without_time(bench.sweep(clip, small)) == without_time(rows)


def test_jobs_can_be_sent_to_another_process(clip, small):
    texts = {"free": evaluate.readouts(clip, small.vocabulary)}
    job = (cn.Forget(["bird"]), METHODS, small, concepts(clip, small.vocabulary), cn.embed(clip, small), texts)
    assert without_time(bench.rows_of(*pickle.loads(pickle.dumps(job)))) == without_time(bench.rows_of(*job))


# --- rows by hand ------------------------------------------------------------------------------------------------

@pytest.fixture
def cats(monkeypatch):
    """Two pictures in each cell of 3 classes x 2 domains, an edit that is a table, and the row it gives.

    A picture is its class (three numbers) and itself (twelve); texts look at the class only.
    """
    world = World(files=tuple("abcdefghijkl"), classes=torch.arange(12) // 4, domains=torch.arange(12) // 2 % 2,
                  vocabulary=Vocabulary(("cat", "dog", "fish"), ("line", "photo")))
    texts = {"free": F.pad(torch.eye(3), (0, 12))[:, None].expand(-1, 2, -1)}

    def picture(classes):
        return torch.cat([F.one_hot(torch.as_tensor(classes), 3).float(), torch.eye(12)], dim=1)

    def row(request, before, after, **more):
        edit = SimpleNamespace(transform=lambda z: picture(after))
        monkeypatch.setattr(bench, "solve", lambda known, mask, method: edit)
        more = {prompts: texts["free"].roll(shift, 0) for prompts, shift in more.items()}
        return bench.rows_of(request, ["nullspace"], world, None, picture(before), texts | more)

    return row


#         cat: line photo  dog: line photo  fish: line photo
BEFORE = [0, 0, 0, 0,      1, 0, 1, 1,      2, 2, 0, 2]
AFTER = [1, 2, 0, 1,       1, 1, 1, 1,      2, 2, 0, 0]      # line cats gone; +1 photo cat, -1 line dog, +1 photo fish


def test_drops_by_hand(cats):
    (row,) = cats(cn.Forget(["cat"], ["line"]), BEFORE, AFTER)
    assert row["forgetting_rate"] == 1 and row["accuracy"] == {"before": 1, "after": 0}
    assert row["retain_drop"] == pytest.approx((50 - 50 + 0 + 0 + 50) / 5)
    assert row["sibling_class_drop"] == pytest.approx(50)                    # photo cats
    assert row["sibling_domain_drop"] == pytest.approx((-50 + 0) / 2)        # line dogs and line fish
    assert row["worst_cell_drop"] == pytest.approx(50)


def test_whole_domains_go_to_chance_by_hand(cats):
    (row,) = cats(cn.Forget(domains=["line"]), BEFORE, [0] * 2 + BEFORE[2:4] + [0] * 2 + BEFORE[6:8] + [0] * 2 + [0, 2])
    before, after = (1 + 0.5 + 1) / 3, 1 / 3                                 # every line drawing is taken for a cat
    assert row["accuracy"] == pytest.approx({"before": before, "after": after})
    assert row["forgetting_rate"] == 1 and row["retain_drop"] == 0 and row["chance"] == pytest.approx(1 / 3)
    (row,) = cats(cn.Forget(domains=["line"]), BEFORE, BEFORE)
    assert row["forgetting_rate"] == 0


def test_requests_with_nothing_to_lose_are_left_out_and_counted(cats):
    wrong = [1, 1, *BEFORE[2:]]
    asked = [cn.Forget(["cat"], ["line"]), cn.Forget(["dog"], ["line"])]
    rows = [row for request in asked for row in cats(request, wrong, AFTER)]
    assert [row["classes"] for row in rows] == [["dog"]]
    assert "selective: 1 requests, prompts 'free'; 1 left out" in bench.table(rows, asked)
    assert "selective: 0 requests, prompts 'free'; 2 left out" in bench.table([], asked)


def test_each_prompt_set_has_its_own_before(cats):
    rows = cats(cn.Forget(["cat"], ["line"]), BEFORE, AFTER, seen=1)         # where every class is taken for the next
    assert [row["prompts"] for row in rows] == ["free"]
    rows = cats(cn.Forget(["cat"], ["line"]), [2, *BEFORE[1:]], AFTER, seen=1)
    assert [(row["prompts"], row["accuracy"]["before"]) for row in rows] == [("free", 0.5), ("seen", 0.5)]


# --- the table ---------------------------------------------------------------------------------------------------

def test_mean_and_interval_by_hand():
    mean, half = bench.mean_and_half([1.0, None, 2.0, 3.0])
    assert (mean, half) == (2, pytest.approx(4.302653 / 3 ** 0.5, rel=1e-6))         # t of two degrees of freedom
    assert bench.mean_and_half([5.0])[0] == 5 and math.isnan(bench.mean_and_half([5.0])[1])
    assert all(map(math.isnan, bench.mean_and_half([None])))


def test_table_shows_the_chosen_prompts(rows, small):
    for prompts in ("free", "seen"):
        text = bench.table(rows, bench.requests(small), prompts)
        assert [line for line in text.splitlines() if ":" in line] == [
            f"{paradigm}: {n} requests, prompts '{prompts}'" for paradigm, n in
            (("global", 3), ("selective", 4), ("complete", 2))]
        values = [row["retain_drop"] for row in rows if (row["paradigm"], row["method"], row["prompts"])
                  == ("global", "ridge", prompts)]
        line = next(line for line in text.splitlines() if line.startswith("  ridge"))
        assert f"{sum(values) / 3:+.1f} ± " in line and line.split().count("-") == 2     # no siblings
    with pytest.raises(ValueError, match="prompts: 'fre' is not known; did you mean 'free'"):
        bench.table(rows, bench.requests(small), "fre")


# --- command line ------------------------------------------------------------------------------------------------

@pytest.fixture
def command(clip, monkeypatch, capsys):
    monkeypatch.setattr(bench, "load", lambda name, pretrained: clip)

    def call(*arguments):
        return bench.main([str(a) for a in arguments]), *capsys.readouterr()

    return call


def test_command_writes_rows_and_prints_the_table(command, folder, rows, small, tmp_path):
    file = tmp_path / "rows.json"
    file.write_text("old")
    status, out, err = command(folder, "--json", file)
    assert status == 0 and out.strip() == bench.table(rows, bench.requests(small))
    assert "9 of 9 requests x 5 methods x 3 prompt sets" in err

    def strict(constant):
        raise ValueError(f"{constant} is not JSON")

    written = json.loads(file.read_text(), parse_constant=strict)
    assert without_time(written) == without_time(rows)
    assert [f.name for f in tmp_path.iterdir()] == ["rows.json"]


def test_command_takes_some_methods_and_paradigms(command, folder, tmp_path):
    status, out, _ = command(folder, "--methods", "gated", "ridge", "--paradigms", "complete", "--prompts", "domain",
                             "--json", tmp_path / "rows.json")
    assert status == 0 and out.startswith("complete: 2 requests, prompts 'domain'") and "nullspace" not in out
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["method"], row["prompts"]) for row in rows[:4]] == [
        ("gated", "free"), ("gated", "domain"), ("gated", "seen"), ("ridge", "free")]
    assert len(rows) == 2 * 2 * 3


@pytest.mark.parametrize("arguments, message", [
    (["--methods", "oblik"], "methods: 'oblik' is not known; did you mean 'oblique'?"),
    (["--methods", "ridge", "ridge"], "methods: 'ridge' given twice"),
    (["--paradigms", "total"], "paradigms: 'total' is not known"),
    (["--prompts", "fre"], "prompts: 'fre' is not known; did you mean 'free'?"),
    (["--json", "no/such/folder.json"], "json: 'no/such/folder.json' cannot be written"),
    (["--json", "."], "json: '.' cannot be written"),
])
def test_wrong_arguments_are_told_before_any_work(command, folder, monkeypatch, arguments, message):
    monkeypatch.setattr(bench, "load_images", lambda _: pytest.fail("work began"))
    status, out, err = command(folder, *arguments)
    assert (status, out) == (1, "") and message in err


def test_folders_that_cannot_be_measured_are_told(command, folder, tmp_path):
    status, _, err = command(tmp_path / "none")
    assert status == 1 and "is not a folder" in err
    shutil.copytree(folder / "line" / "bird", tmp_path / "line" / "bird")
    shutil.copytree(folder / "photo" / "bird", tmp_path / "photo" / "bird")
    status, _, err = command(tmp_path)
    assert status == 1 and "holds 1 class with readable pictures (bird); expected at least two" in err


def test_a_file_is_replaced_whole_or_not_at_all(command, folder, tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    file.write_text("old")
    monkeypatch.setattr(bench, "sweep", lambda *_: [{"forgetting_rate": math.nan}])
    status, _, err = command(folder, "--json", file)
    assert status == 1 and "not JSON compliant" in err
    assert file.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["rows.json"]


def test_python_m_clipnull_bench_comes_here():
    done = subprocess.run([sys.executable, "-m", "clipnull", "bench", "no-such-folder"], capture_output=True, text=True)
    assert done.returncode == 1 and "folder: 'no-such-folder' is not a folder" in done.stderr


# --- speed -------------------------------------------------------------------------------------------------------

def test_speed_needs_leace(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "concept_erasure", None)
    status, _, err = command("--speed")
    assert status == 1 and "concept-erasure: not installed" in err


@pytest.mark.parametrize("leace, passes", [(1.0, True), (0.0, False)])
def test_speed_holds_every_method_against_the_targets(clip, command, monkeypatch, leace, passes):
    for name, value in (("CLASSES", 5), ("DOMAINS", 2), ("WIDTH", 16), ("PICTURES", 20)):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "load", lambda name, pretrained, device: clip)
    fit = SimpleNamespace(fit=lambda x, z: None)
    monkeypatch.setitem(sys.modules, "concept_erasure", SimpleNamespace(LeaceEraser=fit))
    took = {fit.fit: leace, bench.solve: 0.01, clip.model.encode_image: 1.0}
    monkeypatch.setattr(bench, "least_seconds", lambda call: took.get(call.func, 0.03) + 0 * (call() is None))
    status, out, _ = command("--speed")
    lines = out.splitlines()
    closed = [line for line in lines if line.endswith((" 10 ms  (class 10, cell 10, domain 10)",
                                                       " 10 ms  (half the classes 10)"))]
    assert status == 0 and [line.split()[1] for line in closed] == [m for m in METHODS for _ in range(2)]
    assert all(line.startswith("[OK]" if passes else "[MISS]") for line in closed)
    assert [line for line in lines if "adds" in line][-1] == "[MISS] gated      adds 3.00 %"
    assert sum("adds nothing" in line and line.startswith("[OK]") for line in lines) == len(METHODS) - 1


def test_an_edit_adds_what_runs_behind_the_tower(clip, small):
    z = cn.embed(clip, small)
    for method in METHODS:
        edit = cn.unlearn(clip, cn.Forget(["bird"], ["line"]), small.vocabulary, method)
        assert (bench._added(edit, clip, z) > 0) == (not edit.linear)


def test_the_least_time_counts():
    waits = iter([0.1, 0.001, 0.2])
    assert 0.001 <= bench.least_seconds(lambda: time.sleep(next(waits)), patience=0.15) < 0.1
