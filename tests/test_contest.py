"""Methods and rivals on the same requests: rows, seeds, what each takes, and how they stand."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import field_of, made_of_numbers

import clipnull as cn
from clipnull.bench import baselines as materials
from clipnull.bench import comparison as contest
from clipnull.bench import report as standings
from clipnull.bench import sweep as bench
from clipnull.commands import cli
from clipnull.evaluate import accuracy_matrix, rates
from clipnull.files import data_folder

CURVES = [
    {"method": "slug", "way": way, "classes": n, "orders": 2, "forgetting_rate": [f, 0.5, 1.0],
     "retain_drop": [1.0, 0.0, 2.0], "beyond_filter": [2.25, 1.0, 3.0], "worst_cell_drop": [9.0, 8.0, 10.0]}
    for way, f in (("union", 1.0), ("after", 0.75), ("apart", 0.8)) for n in (1, 2)
]  # fmt: skip
SOME = ["nullspace", "random", "filter", "uce", "slug"]


@pytest.fixture(scope="module")
def material():
    return made_of_numbers()


@pytest.fixture(scope="module")
def on(material):
    return field_of(material)


@pytest.fixture(scope="module")
def asked(on):
    return bench.every_request(on.images)


@pytest.fixture(scope="module")
def rows(on, material):
    return contest.run(on, material, SOME, seeds=2)


@pytest.fixture(scope="module")
def found(rows, on, asked):
    return contest.summary(rows, on.images, asked)


def entry(found, paradigm, name):
    return next(row for row in found if (row["paradigm"], row["method"]) == (paradigm, name))


def test_each_request_has_a_row_for_each_entrant_and_for_what_is_drawn_one_for_each_seed(rows, asked):
    assert len(rows) == len(asked) * 6 and len(asked) == 4 + 8 + 2
    assert [row["seed"] for row in rows if row["method"] == "random"][:4] == [0, 1, 0, 1]
    assert {row["seed"] for row in rows if row["method"] != "random"} == {0}


def test_a_row_tells_what_the_edit_does(rows, on, material):
    row = next(row for row in rows if row["method"] == "slug" and row["paradigm"] == "selective")
    mask = cn.Forget(row["classes"], row["domains"]).mask(on.images.vocabulary)
    after = contest.classify(on.z, on.classifier, on.images.domains, contest.edit_of("slug", material, mask).images)
    wanted = rates(accuracy_matrix(on.before, on.images), accuracy_matrix(after, on.images), mask)
    assert all(row[name] == pytest.approx(value) for name, value in wanted.items())
    assert row["bytes"] == 4 * 48 * 48 and row["seconds"] >= 0 and row["adu"] is None


def test_the_filter_forgets_all_it_can_name_and_changes_nothing_else(rows):
    for row in rows:
        if row["method"] == "filter":
            if row["paradigm"] == "complete":
                assert row["forgetting_rate"] is None and row["adu"] is None and row["bytes"] is None
            else:
                assert row["forgetting_rate"] == 1 and row["bytes"] == 0 and row["collateral"] == 0
                assert (row["sibling_class_drop"] or 0) == (100 if row["paradigm"] == "selective" else 0)


def test_an_edit_of_texts_changes_texts_and_words_and_no_picture(on, material):
    mask = cn.Forget(["car"]).mask(on.images.vocabulary)
    edit = contest.edit_of("uce", material, mask)
    row = contest.rows_of(cn.Forget(["car"]), ["uce"], material, on, 1)[0]
    scores = torch.nn.functional.normalize(edit.queries(on.classifier[0]), dim=-1) @ on.z.T
    inside = on.images.classes == 1
    assert row["pictures"]["after"] == int((scores.argmax(0) == 1)[inside].sum())
    words = torch.nn.functional.normalize(edit.queries(on.others.texts), dim=-1)
    assert row["pictures"]["renamed"] == int(((on.others.images @ words.T).argmax(1) != on.others.unedited).sum())


def test_a_model_that_never_knew_answers_the_requests_it_was_made_for(on, material):
    request, never = cn.Forget(["car"]), torch.where(on.before == 1, 0, on.before)
    knows = replace(on, clean={str(request): (never, 99)})
    assert "clean" in contest.left_out(material, on) and "clean" not in contest.left_out(material, knows)
    row = contest.rows_of(request, ["clean"], material, knows, 1)[0]
    assert row["forgetting_rate"] == 1 and row["retain_drop"] == 0 and row["bytes"] == 99 and row["seconds"] is None
    assert row["collateral"] is None, "its embeddings of unrelated pictures are not known"
    other = contest.rows_of(cn.Forget(["dog"]), ["clean"], material, knows, 1)[0]
    assert other["forgetting_rate"] is None and other["bytes"] is None


def test_mem_for_and_h_are_those_of_adu(on):
    mask = cn.Forget(domains=["line"]).mask(on.images.vocabulary)
    half = torch.where((on.images.domains == 1) & (torch.arange(240) < 120), -2, on.images.classes)
    mem, forgotten, h = contest.adu(half.where(half != -2, (on.images.classes + 1) % 4), on.images, mask)
    assert (mem, forgotten) == (50, 0) and h == 0
    wrong = torch.where(on.images.domains == 0, (on.images.classes + 1) % 4, on.images.classes)
    assert contest.adu(wrong, on.images, mask) == [100, 100, 100]
    assert contest.adu((on.images.classes + 1) % 4, on.images, mask)[2] == 0


def test_of_what_is_drawn_the_mean_is_over_seeds_and_the_interval_over_all_of_theirs(rows, found, on, asked):
    one = [
        contest.summary([r for r in rows if r["seed"] == s and r["method"] == "random"], on.images, asked)
        for s in (0, 1)
    ]
    for paradigm in bench.PARADIGMS:
        each = [entry(of, paradigm, "random")["retain_drop"] for of in one]
        mean, low, high = entry(found, paradigm, "random")["retain_drop"]
        assert mean == pytest.approx((each[0][0] + each[1][0]) / 2, abs=1e-5)
        assert low == min(each[0][1], each[1][1]) and high == max(each[0][2], each[1][2])


def test_a_summary_tells_seconds_bytes_and_domains(found, on):
    assert entry(found, "global", "slug")["bytes"] == 4 * 48 * 48 and entry(found, "global", "slug")["seconds"] >= 0
    assert entry(found, "global", "filter")["seconds"] is None and entry(found, "global", "filter")["adu"] == {}
    scores = entry(found, "complete", "nullspace")["adu"]
    assert list(scores) == ["before", "after"] and list(scores["after"]) == list(contest.ADU)
    assert scores["before"]["Mem"][0] > 90 and all(low <= mean <= high for mean, low, high in scores["after"].values())
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_whole_matrix_is_counted_once():
    thin, whole = (cn.Edit(torch.ones(8, r).double(), torch.zeros(8, r).double(), "x") for r in (2, 8))
    assert contest.size_of(thin) == 2 * 2 * 8 * 4 and contest.size_of(whole) == 8 * 8 * 4
    biased = cn.Edit(torch.ones(8, 8).double(), torch.zeros(8, 8).double(), "x", bias=torch.ones(8).double())
    assert contest.size_of(biased) == 8 * 8 * 4 + 8 * 4


def test_who_lacks_pictures_is_left_out_and_cannot_be_asked_for(on, material):
    bare = materials.Material(material.cells, 40.0)
    out = contest.left_out(bare, on)
    assert set(out) == {"lipschitz", "leace", "orthogonal", "slug", "finetune", "clean"}
    assert out["leace"] == "needs labelled pictures" and out["lipschitz"] == "needs synthesized pictures"
    with pytest.raises(ValueError, match="entrants: 'leace' needs labelled pictures; expected others"):
        contest.run(on, bare, ["random", "leace"])
    with pytest.raises(ValueError, match="seeds: 3, and noise was drawn 2 times"):
        contest.run(on, material, ["lipschitz"], seeds=3)
    mask = cn.Forget(["car"]).mask(on.images.vocabulary)
    with pytest.raises(ValueError, match="material: no labelled pictures; expected some, for 'slug'"):
        contest.edit_of("slug", bare, mask)
    with pytest.raises(ValueError, match="mask: .* with 8 cells; expected bool"):
        contest.edit_of("slug", material, mask | True)
    assert contest.edit_of("filter", bare, mask) is None
    with pytest.raises(ValueError, match="entrants: 'leece' is not known; did you mean 'leace'"):
        contest.run(on, material, ["leece"])
    names = {row["method"] for row in contest.run(on, bare, paradigms=["complete"], seeds=1)}
    assert names == {*cn.METHODS, "random", "filter", "uce", "speed", "double"}


def test_labelled_pictures_must_not_be_measured(clip, corner):
    with pytest.raises(ValueError, match="labelled: 32 of its pictures are measured, too; expected others"):
        standings.document(clip, corner, "corner", corner)


# --- how they stand ----------------------------------------------------------------------------------------------


def told(found, **changes):
    about = {
        "name": "rivals, numbers",
        "model": "m",
        "pictures": 240,
        "labelled": 240,
        "classes": 4,
        "domains": 2,
        "stored": False,
    }
    covered = {"requests": ["car everywhere"], "summary": [r for r in found if r["paradigm"] == "global"]}
    return (
        about
        | {
            "kind": "rivals",
            "seeds": 2,
            "left_out": {"clean": "none"},
            "covered": covered,
            "summary": found,
            "sequences": CURVES,
        }
        | changes
    )


def test_winners_forget_most_or_cost_least_among_those_that_forget(found):
    best = standings.winners(found)
    assert best["global", "collateral"] == {"filter"} and "filter" in best["global", "forgetting_rate"]
    for (paradigm, column), names in best.items():
        assert "random" not in names, f"{paradigm}, {column}: random forgets nothing"
    copy = [dict(row) for row in found]
    entry(copy, "global", "uce")["collateral"] = [-9.0, -9.0, -9.0]
    entry(copy, "global", "uce")["forgetting_rate"] = [0.95, 0.9, 1.0]
    assert standings.winners(copy)["global", "collateral"] == {"uce"}
    assert "global, collateral: uce" in standings.wins(copy)
    alone = [row for row in found if row["method"] == "nullspace"]
    assert standings.wins(alone) == "nowhere"


def test_the_tables_tell_every_figure_and_mark_the_best(found):
    text, page = standings.text(told(found)), "\n".join(standings.part(told(found)))
    slug = entry(found, "global", "slug")
    assert bench.told("forgetting_rate", slug["forgetting_rate"]) in text and "9.0 kB" in page
    assert "**0.0 [0.0" in page and "| `filter` | 4 of 4 | none | no | – | 0.0 kB |" in page
    assert "| `filter` | 0 of" not in page, "who does not take part has no line"
    h = entry(found, "complete", "slug")["adu"]["after"]["H"][0]
    assert f"{h:.1f} [" in text and f"{h:.1f} [" in page and "| `unedited` |" in page
    assert "| `slug` | 1.00 (0.50 to 1.00) / +2.2 (+1.0 to +3.0); – | 0.75" in page and "1: forgets 0.75" in text
    assert "Only requests for which there is a model that never knew (car everywhere)" in page
    assert "Left out: `clean` (none)." in page and "left out: clean (none)" in text
    assert "Stored embeddings: no" in "\n".join(standings.part(told(found, stored=True))) and "Stored" not in page
    mark = {
        "check": "mark",
        "asked": "pairs",
        "unit": "%",
        "edited": 20.0,
        "clean": 80.0,
        "excess": 60.0,
        "limit": 10.0,
    }
    worst = {"slug": {"beyond": 3, "judged": 9, "findings": [mark] * 3}}
    page = "\n".join(standings.part(told(found, audit={"request": "x", "clean": None, "worst": worst})))
    assert f"| `slug` | 3 of 9 |{' mark: pairs: 20.0 %, clean 80.0 (6.0 ×) |' * 3}" in page and "Clean: none." in page
    assert "Left out" not in "\n".join(standings.part(told(found, left_out={}, sequences=[])))


@pytest.mark.slow
def test_models_that_never_knew_are_found_by_what_they_lack(clip, images):
    few = images.where(
        (images.classes == images.vocabulary.classes.index("dog")) & (torch.arange(len(images)) % 9 == 0)
    )
    on = contest.field(clip, few)
    assert set(on.clean) == {"dog everywhere", "house everywhere", "everything in cartoon"}
    other = cn.load("miniclip-no-dog", device="cpu")
    assert torch.equal(on.clean["dog everywhere"][0], contest.predict(other, few))
    assert on.clean["dog everywhere"][1] > 1e6


@pytest.mark.slow
def test_the_command_measures_writes_and_refuses(tmp_path, capsys, monkeypatch):
    from test_rivals import made_up

    monkeypatch.setattr(materials, "cell_prototypes", made_up)
    monkeypatch.setattr(materials, "COPIES", 0)
    for cell in ("line/bird", "line/car", "photo/bird", "photo/fish"):
        (tmp_path / "few" / cell).mkdir(parents=True)
        for file in sorted((data_folder("miniworld") / "test" / cell).iterdir())[:2]:
            shutil.copy(file, tmp_path / "few" / cell)
    asked = ["bench", "--rivals", str(tmp_path / "few"), "--paradigms", "global", "--seeds", "1"]
    path = tmp_path / "found.json"
    assert cli.main([*asked, "--methods", "ridge", "speed", "filter", "--json", str(path)]) == 0
    found, out = json.loads(path.read_text(encoding="utf-8")), capsys.readouterr().out
    assert {row["method"] for row in found["sequences"]} == {"ridge", "speed"} and "class after class" in out
    audit = found["audit"]
    assert audit["worst"].keys() == {"ridge", "speed"} and audit["left_out"] == {"filter": "edits no pictures"}
    assert all(len(one["findings"]) == 3 and one["beyond"] <= one["judged"] for one in audit["worst"].values())
    assert "audit of bird everywhere, findings beyond their limit, and the worst three" in out
    assert found["name"] == "rivals, few" and {row["method"] for row in found["rows"]} == {"ridge", "speed", "filter"}
    assert "leace (needs labelled pictures)" in out and "global: 3 requests" in out
    assert not any(math.isnan(x) for row in found["summary"] for x in row["retain_drop"])
    assert cli.main([*asked, "--methods", "rigde"]) == 2 and "did you mean 'ridge'" in capsys.readouterr().err
    assert cli.main([*asked, "--methods", "slug"]) == 2 and "labelled pictures" in capsys.readouterr().err
    assert cli.main([*asked, "--labelled", str(tmp_path / "few")]) == 2 and "measured, too" in capsys.readouterr().err
