"""Methods and baselines on the same requests: rows, seeds, what each takes, and the report."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import grey_prototypes

import clipnull as cn
from clipnull.bench import baselines, comparison, report, sweep
from clipnull.commands import cli
from clipnull.evaluate import accuracy_matrix, classify, predict, rates
from clipnull.files import aligned, data_folder

POINTS = [
    {"method": "slug", "way": way, "classes": n, "orders": 2, "forgetting_rate": [f, 0.5, 1.0],
     "retain_drop": [1.0, 0.0, 2.0], "beyond_filter": [2.25, 1.0, 3.0], "worst_cell_drop": [9.0, 8.0, 10.0]}
    for way, f in (("union", 1.0), ("after", 0.75), ("apart", 0.8)) for n in (1, 2)
]  # fmt: skip
SOME = ["nullspace", "random", "filter", "uce", "slug"]
CAR = cn.Forget(["car"])


@pytest.fixture(scope="module")
def requests(on):
    return sweep.every_request(on.images)


@pytest.fixture(scope="module")
def rows(on, data):
    return comparison.run(on, data, SOME, seeds=2)


@pytest.fixture(scope="module")
def entries(rows, on, requests):
    return comparison.summary(rows, on.images, requests)


def entry(entries, paradigm, name):
    return next(row for row in entries if (row["paradigm"], row["method"]) == (paradigm, name))


def test_each_request_has_a_row_for_each_entrant_and_for_what_is_drawn_one_for_each_seed(rows, requests, on, data):
    assert len(requests) == 4 + 8 + 2 and len(rows) == len(requests) * 6 - 2, "the filter has no answer for domains"
    assert [row["seed"] for row in rows if row["method"] == "random"][:4] == [0, 1, 0, 1]
    assert {row["seed"] for row in rows if row["method"] != "random"} == {0}
    row = next(row for row in rows if row["method"] == "slug" and row["paradigm"] == "selective")
    mask = cn.Forget(row["classes"], row["domains"]).mask(on.images.vocabulary)
    after = classify(on.z, on.classifier, on.images.domains, comparison.edit_of("slug", data, mask).images)
    wanted = rates(accuracy_matrix(on.before, on.images), accuracy_matrix(after, on.images), mask)
    assert all(row[name] == pytest.approx(value) for name, value in wanted.items())
    assert row["bytes"] == 4 * 48 * 48 and row["seconds"] >= 0 and row["adu"] is None


def test_the_filter_forgets_all_it_can_name_and_changes_nothing_else(rows):
    for row in (row for row in rows if row["method"] == "filter"):
        assert row["forgetting_rate"] == 1 and row["bytes"] == 0 and row["collateral"] == 0
        assert (row["sibling_class_drop"] or 0) == (100 if row["paradigm"] == "selective" else 0)


def test_an_edit_of_texts_changes_texts_and_words_and_no_picture(on, data):
    edit = comparison.edit_of("uce", data, CAR.mask(on.images.vocabulary))
    (row,) = comparison.rows_of(CAR, ["uce"], data, on, 1)
    scores = F.normalize(edit.queries(on.classifier[0]), dim=-1) @ on.z.T
    assert row["pictures"]["after"] == int((scores.argmax(0) == 1)[on.images.classes == 1].sum())
    words = F.normalize(edit.queries(on.others.texts), dim=-1)
    assert row["pictures"]["renamed"] == int(((on.others.images @ words.T).argmax(1) != on.others.unedited).sum())


def test_an_index_sees_lengths_by_inner_product_and_not_by_cosine(on, data):
    mask, kept = CAR.mask(on.images.vocabulary), on.images.classes != 1
    rows = {row["method"]: row for row in comparison.rows_of(CAR, ["nullspace", "filter", "wring", "uce"], data, on, 1)}
    z = comparison.edit_of("nullspace", data, mask).images(F.normalize(on.z.double(), dim=-1))
    assert rows["nullspace"]["length"] == pytest.approx(float(z[kept].norm(dim=1).mean()), abs=1e-6) and z.norm() < 15
    for name in ("filter", "wring", "uce"):
        row = rows[name]
        assert row["length"] == pytest.approx(1) and row["recall_cosine"] == row["recall_inner"]
    z = on.z * (1 - 0.9 * (on.images.classes == 0).float())[:, None]
    shrunk = comparison.index_of(mask, data, on)(z)
    assert shrunk["recall_cosine"] == shrunk["recall_before"] > shrunk["recall_inner"] + 10, "those of class 0 are last"


def test_a_retrained_model_answers_the_requests_it_was_made_for(on, data):
    knows = replace(on, retrained={str(CAR): (torch.where(on.before == 1, 0, on.before), 99)})
    assert "clean" in comparison.left_out(data, on) and "clean" not in comparison.left_out(data, knows)
    (row,) = comparison.rows_of(CAR, ["clean"], data, knows, 1)
    assert row["forgetting_rate"] == 1 and row["retain_drop"] == 0 and row["bytes"] == 99 and row["seconds"] is None
    assert row["collateral"] is None and row["length"] is None, "its embeddings are not known"
    assert comparison.rows_of(cn.Forget(["dog"]), ["clean"], data, knows, 1) == []


def test_mem_for_and_h_are_those_of_adu(on):
    mask, truth = cn.Forget(domains=["line"]).mask(on.images.vocabulary), on.images.classes
    wrong = (truth + 1) % 4
    half = torch.where((on.images.domains == 1) & (torch.arange(240) < 120), wrong, truth)
    assert comparison.adu(half, on.images, mask) == [50, 0, 0]
    assert comparison.adu(torch.where(on.images.domains == 0, wrong, truth), on.images, mask) == [100, 100, 100]
    assert comparison.adu(wrong, on.images, mask)[2] == 0


def test_of_what_is_drawn_the_mean_is_over_seeds_and_the_interval_over_all_of_theirs(rows, entries, on, requests):
    seeds = [[r for r in rows if r["seed"] == s and r["method"] == "random"] for s in (0, 1)]
    alone = [comparison.summary(one, on.images, requests) for one in seeds]
    for paradigm in sweep.PARADIGMS:
        a, b, both = (entry(of, paradigm, "random")["retain_drop"] for of in (*alone, entries))
        assert both == pytest.approx([(a[0] + b[0]) / 2, min(a[1], b[1]), max(a[2], b[2])], abs=1e-5)


def test_a_summary_holds_seconds_bytes_and_domains(entries):
    slug, name_filter = entry(entries, "global", "slug"), entry(entries, "global", "filter")
    assert slug["bytes"] == 4 * 48 * 48 and slug["seconds"] >= 0
    assert name_filter["seconds"] is None and name_filter["adu"] == {}
    scores = entry(entries, "complete", "nullspace")["adu"]
    assert scores["before"]["Mem"][0] > 90 and all(low <= mean <= high for mean, low, high in scores["after"].values())
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries


def test_what_lacks_pictures_is_left_out_and_cannot_be_asked_for(on, data):
    bare, mask = baselines.TrainingData(data.cells, 40.0), CAR.mask(on.images.vocabulary)
    reasons = comparison.left_out(bare, on)
    assert set(reasons) == {"lipschitz", "leace", "orthogonal", "slug", "finetune", "clean"}
    for entrants, message in ((["random", "leace"], "'leace' needs labelled"), (["leece"], "'leece' is unknown")):
        with pytest.raises(ValueError, match=f"entrants: {message}"):
            comparison.run(on, bare, entrants)
    with pytest.raises(ValueError, match="data: no labelled pictures; expected some for 'slug'"):
        comparison.edit_of("slug", bare, mask)
    names = {row["method"] for row in comparison.run(on, bare, paradigms=["complete"], seeds=1)}
    assert names == {n for n, entrant in comparison.ALL.items() if entrant.pictures == "none" and n != "filter"}


# --- the report


def report_of(entries, **changes):
    covered = {"requests": ["car everywhere"], "summary": [r for r in entries if r["paradigm"] == "global"]}
    about = {"kind": "rivals", "name": "baselines, numbers", "model": "m", "stored": False, "seeds": 2}
    about |= {"pictures": 240, "labelled": 240, "classes": 4, "domains": 2, "left_out": {"clean": "none"}}
    return about | {"covered": covered, "summary": entries, "sequences": POINTS, "audit": None} | changes


def test_winners_forget_most_or_cost_least_among_those_that_forget(entries):
    best = report.winners(entries)
    assert best["global", "collateral"] == {"filter"} and "filter" in best["global", "forgetting_rate"]
    assert not any("random" in names for names in best.values()), "random forgets nothing"
    copy = [dict(row) for row in entries]
    entry(copy, "global", "uce").update(collateral=[-9.0] * 3, forgetting_rate=[0.95, 0.9, 1.0])
    assert report.winners(copy)["global", "collateral"] == {"uce"}


def test_the_tables_hold_every_figure_and_mark_the_best(entries):
    page, slug = "\n".join(report.section(report_of(entries))), entry(entries, "global", "slug")
    h = entry(entries, "complete", "slug")["adu"]["after"]["H"][0]
    for text in (page, report.tables(report_of(entries), aligned)):
        assert sweep.format_ends("forgetting_rate", slug["forgetting_rate"]) in text and f"{h:.1f} [" in text
        assert f"{slug['length']:.3f}" in text and "**0.0 [0.0" in text and "clean (none)" in text
        assert "1.00 (0.50 to 1.00) / +2.2 (+1.0 to +3.0); –" in text and "1: forgets 0.75" in text
    assert "| filter | 4 of 4 | none | no | – | 0.0 |" in page
    assert "| filter | 0 of" not in page, "what does not take part has no line"
    finding = {"check": "mark", "asked": "pairs", "unit": "%", "edited": 20.0, "clean": 80.0}
    worst = {"slug": {"beyond": 3, "judged": 9, "findings": [finding | {"excess": 60.0, "limit": 10.0}] * 3}}
    audit = {"request": "x", "clean": None, "worst": worst}
    page = "\n".join(report.section(report_of(entries, audit=audit)))
    assert f"| slug | 3 of 9 |{' mark: pairs: 20.0 %, clean 80.0 (6.0 ×) |' * 3}" in page


@pytest.mark.slow
def test_retrained_models_are_found_by_what_they_lack(clip, images):
    dogs = images.classes == images.vocabulary.classes.index("dog")
    few = images.where(dogs & (torch.arange(len(images)) % 9 == 0))
    on = comparison.evaluation_set(clip, few)
    assert set(on.retrained) == {"dog everywhere", "house everywhere", "everything in cartoon"}
    answers, size = on.retrained["dog everywhere"]
    assert torch.equal(answers, predict(cn.load("miniclip-no-dog", device="cpu"), few)) and size > 1e6


@pytest.mark.slow
def test_the_command_measures_writes_and_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(baselines, "cell_prototypes", grey_prototypes)
    monkeypatch.setattr(baselines, "COPIES", 0)
    for cell in ("line/bird", "line/car", "photo/bird", "photo/fish"):
        (tmp_path / "few" / cell).mkdir(parents=True)
        for file in sorted((data_folder("miniworld") / "test" / cell).iterdir())[:2]:
            shutil.copy(file, tmp_path / "few" / cell)
    command = ["bench", "--baselines", str(tmp_path / "few"), "--paradigms", "global", "--seeds", "1"]
    for arguments, message in (
        (["--methods", "slug"], "labelled pictures"),
        (["--labelled", str(tmp_path / "few")], "8 of its pictures are measured, too"),
    ):
        assert cli.main([*command, *arguments]) == 2 and message in capsys.readouterr().err
    path = tmp_path / "measured.json"
    assert cli.main([*command, "--methods", "ridge", "speed", "filter", "--json", str(path)]) == 0
    entry, out = json.loads(path.read_text(encoding="utf-8")), capsys.readouterr().out
    assert {row["method"] for row in entry["rows"]} == {"ridge", "speed", "filter"}
    assert {point["method"] for point in entry["sequences"]} == {"ridge", "speed"}
    assert entry["audit"]["worst"].keys() == {"ridge", "speed"}
    assert all(text in out for text in ("Class after class", "of bird everywhere", "leace (needs labelled pictures)"))
