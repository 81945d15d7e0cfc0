"""What an audit asks, how findings are ordered and shown, and what it says of wrong arguments."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import VIT, plain
from test_stored import fields
from write import audit_section

import clipnull as cn
from clipnull.audits import _relatives, audit_each, retrained_for, robustness, side_effects
from clipnull.audits.context import Context
from clipnull.audits.findings import Audit, Count, finding
from clipnull.commands import cli
from clipnull.images import families

DOG = cn.Forget(["dog"])


@pytest.fixture(scope="session")
def few(images):
    """Four classes in two domains: 60 pictures or so."""
    return images.select(["boat", "car", "fish", "dog"], ["flat", "line"])


@pytest.fixture(scope="session")
def edits(clip, few):
    """One that forgets, one that does nothing, and one that makes all embeddings alike."""
    nothing = torch.zeros(clip.width, 1).double()
    everything = torch.eye(clip.width).double()
    return {
        "oblique": cn.unlearn(clip, DOG, few.vocabulary, "oblique"),
        "nothing": cn.Edit(nothing, nothing, "none"),
        "everything": cn.Edit(everything, everything, "all", bias=torch.ones(clip.width)),
    }


@pytest.fixture(scope="session")
def reports(clip, few, edits):
    """One audit of each of `edits`, beside the model that never met a dog."""
    each = audit_each(clip, list(edits.values()), few, DOG, words={"dog": ["puppy"]})
    return dict(zip(edits, each, strict=True))


@pytest.fixture
def report(reports):
    return reports["oblique"]


def of(report, check):
    return {f.asked: f for f in report.findings if f.check == check}


def context_of(models, few, request=DOG, features=None):
    features = features or {name: cn.embed(model, few) for name, model in models.items()}
    return Context(models, few, request, features, [str(i) for i in range(len(few))], 0, {})


def test_a_model_that_no_edit_changes_is_asked_once(clip, few):
    models, calls, known = dict.fromkeys(("unedited", "edited", "retrained"), clip), [], {}
    for _ in range(2):
        context = replace(context_of(models, few, features=models), known=known)
        assert context.each("x", lambda name: calls.append(name) or name) == {n: n for n in models}
    assert calls == ["unedited", "edited", "retrained", "edited"]


@pytest.mark.slow
def test_every_kind_of_question_is_asked(report):
    kinds = "probe relearning words retrieval answers damage mark membership survival reversal"
    assert {f.check for f in report.findings} == {*kinds.split()}
    by_name = {f.asked: f for f in report.findings}
    assert by_name["the usual prompt"].edited < 20 < by_name["the usual prompt"].unedited
    assert by_name["other names, given"].details == {"best": "dog: puppy", "tried": 1}
    assert by_name["weights in int8"].excess <= 0.05
    assert by_name["with the patch and edited embeddings"].edited == by_name["the usual prompt"].unedited
    assert by_name["a prompt found by gradient"].edited > by_name["the usual prompt"].edited + 20
    assert by_name["the forgotten class is named from the patch"].edited == 1


@pytest.mark.slow
def test_a_retrained_model_is_asked_beside(report):
    assert report.about["clean"] == "miniclip-no-dog" and report.left_out == ()
    times = [f.times for f in report.findings]
    assert times == sorted(times, reverse=True) and times[-1] == -math.inf and report.judged[0] == report.findings[0]
    auc = of(report, "mark")["the score of the forgotten class finds its pictures"]
    assert auc.unedited > 0.9 and auc.retrained < 0.75
    probes = of(report, "probe")
    assert all(probes[f"{when} the projection"].retrained > 40 for when in ("before", "after"))
    assert all(f.limit is not None for f in probes.values())


@pytest.mark.slow
def test_it_is_json_and_a_table(report):
    read = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert read["request"] == "dog everywhere" and read["methods"] == ["oblique"]
    assert [(f["asked"], f["clean"]) for f in read["findings"]] == [(f.asked, f.retrained) for f in report.findings]
    assert len(report._repr_markdown_().splitlines()) == 2 + len(report.findings)
    assert str(report).splitlines()[0].startswith("forget dog everywhere: ")


@pytest.mark.slow
def test_an_edit_that_does_nothing_forgets_nothing(reports):
    """Then no answer differs between the two models, and there is no forgetting that could survive."""
    same = reports["nothing"]
    assert of(same, "survival") == {}
    assert all(f.unedited == f.edited for f in same.findings if f.unedited is not None and "patch" not in f.asked)


@pytest.mark.slow
def test_nobody_can_read_a_collapsed_model(reports):
    """All embeddings alike: probes at chance, and the damage shows the price."""
    probe = of(reports["everything"], "probe")
    assert probe["after the projection"].edited <= 50 < probe["before the projection"].edited
    damage = of(reports["everything"], "damage")["kept classes"]
    assert damage.excess > 50 and damage.within is False


@pytest.mark.slow
def test_stored_embeddings_are_audited_without_pixels(tmp_path):
    np.savez(tmp_path / "made.npz", **fields(n=160))
    clip, images = cn.load(str(tmp_path / "made.npz")), cn.load_images(tmp_path / "made.npz")
    request = cn.Forget([images.vocabulary.classes[0]])
    report = cn.audit(clip, cn.unlearn(clip, request, images.vocabulary, "oblique"), images, request)
    assert [*of(report, "probe")] == ["after the projection"]
    assert all(f.retrained is None for f in report.findings)
    assert "only embeddings are stored" in report.left_out[0] and report.left_out[1].startswith("a retrained model")


@pytest.mark.nightly
def test_the_stored_audit_is_found_again(clip, images):
    """The first of data/results: nullspace, dogs everywhere, on all of miniworld."""
    stored = json.loads((ROOT / "data/results/audit-miniworld-dog-everywhere.json").read_text())["audits"][0]
    report = cn.audit(clip, cn.unlearn(clip, DOG, images.vocabulary, "nullspace"), images, DOG)
    today = {(f["check"], f["asked"]): f for f in report.as_dict()["findings"]}
    for known in stored["findings"]:
        if "fine-tuning" not in known["asked"]:
            again = today[known["check"], known["asked"]]
            for model in ("unedited", "edited", "clean"):
                assert again[model] == pytest.approx(known[model], abs=0.5 if known["unit"] == "%" else 0.02), known


def test_what_is_hurt_is_named_the_worst_first():
    others = [Count("horse", False, 12, 10, 3), Count("car", False, 9, 9, 8), Count("fox", False, 40, 40, 39)]
    audit = Audit((finding("a", "b", "%", {}),), {"request": "dog"}, (), (Count("dog", True, 8, 7, 0), *others))
    assert audit.as_dict()["hurt"] == ["horse 10 -> 3 of 12", "car 9 -> 8 of 9"]
    assert str(audit).splitlines()[1:3] == ["forgotten: dog 7 -> 0 of 8", "HURT: horse 10 -> 3 of 12; car 9 -> 8 of 9"]
    lenient = replace(audit, limits={"max_left": 0, "max_lost": 60})
    assert lenient.hurt == () and "hurt: no kept class" in str(lenient)
    assert Count("x", True, 8, 8, 3).beyond(10, 5) and not Count("x", True, 8, 8, 3, 30).beyond(10, 5)


@pytest.mark.parametrize(
    "forget, first",
    [
        (DOG, ["dog"]),
        (cn.Forget(["dog"], ["line"]), ["dog", "boat", "dog elsewhere"]),
        (cn.Forget(domains=["line"]), ["everything in line"]),
    ],
)
def test_pictures_are_counted_by_class(clip, few, forget, first):
    """Each picture lies at the text of its class; after the edit dogs and boats lie at that of cars."""
    texts, car = cn.prompts.embed_classes(clip, few.vocabulary.names), few.vocabulary.classes.index("car")
    gone = torch.isin(few.classes, torch.tensor([few.vocabulary.classes.index(name) for name in ("dog", "boat")]))
    features = {"unedited": texts[few.classes], "edited": texts[few.classes.masked_fill(gone, car)]}
    context = context_of(dict.fromkeys(features, clip), few, forget, features)
    counts = side_effects.counts(context)
    assert [c.name for c in counts][: len(first)] == first and [c.forgotten for c in counts].count(True) == 1
    assert sum(c.pictures for c in counts) == sum(c.before for c in counts) == len(few)
    assert sum(c.after for c in counts) == len(few) - int(gone.sum())
    lost = [(c.before - c.after) / c.pictures for c in counts if not c.forgotten]
    assert lost == sorted(lost, reverse=True)
    if forget.classes is None:
        assert counts[0].chance == pytest.approx(100 / 14) and side_effects.membership(context) == []
        assert side_effects.damage(context)[0].asked == "kept domains"


def test_the_command_writes_all_findings(monkeypatch, tmp_path, capsys, few):
    """The audit itself is a stand-in."""
    damage = finding("damage", "kept classes", "%", {"unedited": 90.0, "edited": 80.0}, (10.0, 0.5, "points lost"))
    seen = {}

    def audit_each(clip, edits, images, request, retrained, words, train, seed):
        seen.update(retrained=retrained, words=words, train=train, seed=seed)
        about = {"model": clip.name, "pictures": 1, "forgotten": 1, "clean": None, "request": str(request)}
        rest = ("a retrained model",), (Count("horse", False, 10, 10, 9),)
        return [Audit((damage,), about | {"methods": [edit.method]}, *rest) for edit in edits]

    monkeypatch.setattr("clipnull.audits.audit_each", audit_each)
    monkeypatch.setattr("clipnull.datasets.loading.load_images", lambda data: few)
    monkeypatch.setattr("clipnull.unlearning.unlearn", lambda *_, strength=1: SimpleNamespace(method=_[3]))
    options = ["--classes", "dog", "--domains", "line", "--methods", "ridge", "gated", "--chance", "--seed", "3"]
    files = ["--words", "puppy, hound", "--json", str(tmp_path / "a.json")]
    assert cli.main(["audit", *options, "--max-lost", "10"]) == 0 and "HURT" not in capsys.readouterr().out
    assert cli.main(["audit", *options, *files]) == 1  # a class is beyond a limit
    assert capsys.readouterr().out.count("forget dog in line: 1 of 1 findings beyond their limit") == 3
    assert seen == {"words": {"dog": ["puppy", "hound"]}, "seed": 3, "retrained": True, "train": None}
    entry = json.loads((tmp_path / "a.json").read_text())
    assert (entry["kind"], entry["name"]) == ("audit", "audit, miniworld, dog in line")
    assert entry["version"] == cn.__version__ and entry["date"][:2] == "20" and entry["patch"] is None
    assert entry["audits"][0]["hurt"] == ["horse 10 -> 9 of 10"]
    runs = [(["ridge"], None), (["gated"], None), (["gated"], "chance")]
    assert [(one["methods"], one.get("aim")) for one in entry["audits"]] == runs
    about, table, *_, left_out = audit_section(entry)
    assert left_out == "Left out: a retrained model." and "1 pictures, 1 to be forgotten" in about
    assert table.splitlines()[0] == "| question | unedited | clean | `ridge` | `gated` | `gated` at chance | limit |"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "classes, domains: neither is given"),
        (["--classes", "dog", "--max-lost", "nan"], "max_lost: nan is out of range; expected a number in [0, 100]"),
        (["--classes", "dog", "--methods", "obliqe"], "methods: 'obliqe' is unknown; did you mean 'oblique'?"),
        (["--domains", "line", "--words", "x"], "words: given for everything in line; expected one class"),
        (["x", "--classes", "dog", "--slow"], "slow: fine-tuning needs training pictures"),
        (["--classes", "dog", "--methods", "ridge", "--chance"], "chance: no method has a strength"),
    ],
)
def test_the_command_names_wrong_arguments(arguments, message, monkeypatch, capsys, few):
    monkeypatch.setattr("clipnull.datasets.loading.load_images", lambda data: few)
    assert cli.main(["audit", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_findings_are_judged_in_units_of_their_limit():
    bad = finding("a", "bad", "%", {"edited": 3}, (3.0, 1.0, "x"))
    good = finding("a", "good", "%", {"edited": -3}, (-3.0, 1.0, "x"))
    open_ = finding("a", "open", "%", {"edited": math.nan}, (math.nan, 1.0, "x"))
    assert (bad.times, good.times, open_.times) == (3, 0, -math.inf)
    assert (bad.within, good.within, open_.within) == (False, True, None)
    assert open_.edited is None and open_.limit is None and open_.judged == ""


@pytest.mark.parametrize("kind, bits", [("float16", 11), ("bfloat16", 8), ("int8", 7)])
def test_rounding_moves_no_value_by_more_than_half_a_step(kind, bits):
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 20)[:, None]
    error = (robustness.rounded(x, kind) - x).abs() / x.abs().amax(1, keepdim=True)
    assert 0 < float(error.max()) <= 2.0**-bits
    assert torch.equal(robustness.rounded(torch.zeros(2, 3), kind), torch.zeros(2, 3))


@pytest.mark.parametrize("method", ["oblique", "gated", "neuron"])
def test_a_patch_is_turned_back(clip, few, z, method):
    """Linear edits by their inverse, others step by step: what comes out is edited to the same embeddings."""
    edit = cn.unlearn(clip, DOG, few.vocabulary, method, prototypes=False)
    edited = edit.images(z[:80].double())
    assert torch.allclose(edit.images(robustness._turned_back(edited, edit)), edited, atol=1e-4)


@pytest.mark.slow
def test_fine_tuning_is_a_curve_for_each_model(clip, few, monkeypatch):
    """A few steps on few pictures: what is forgotten stays so, what is kept stays known, the models are untouched."""
    monkeypatch.setattr(robustness, "STEPS", (0, 1, 3))
    train = cn.load_images(split="train").select(list(few.vocabulary.classes), list(few.vocabulary.domains))
    models = {"unedited": clip, "edited": cn.unlearn(clip, DOG, few.vocabulary, "gated").apply(clip)}
    context, weights = context_of(models, few), [model.weights.clone() for model in models.values()]
    (tuned,) = robustness.fine_tuning(context, train)
    assert tuned.asked == "3 steps of fine-tuning on kept pictures" and tuned.details["steps"] == [0, 1, 3]
    before, after = (tuned.details[f"forgotten, {name}"] for name in models)
    assert after[0] == pytest.approx(context.usual["edited"]) and tuned.edited == pytest.approx(after[-1])
    assert max(after) < 20 < 40 < before[0] and min(tuned.details["kept, edited"]) > 60
    assert -0.2 < tuned.details["of what was lost"] < 0.5 and tuned.limit is None
    assert all(torch.equal(w, model.weights) for w, model in zip(weights, models.values(), strict=True))
    assert not any(p.requires_grad for model in models.values() for p in model.model.parameters())
    with pytest.raises(ValueError, match="train: 0 kept pictures of 14 classes; expected at least 32"):
        robustness.fine_tuning(context, train.select(["dog"]))


def test_unmentioned_classes_are_counted_by_their_labels(clip, few):
    """Taking a direction away costs some of them their name; taking nothing away costs none."""
    half = torch.eye(clip.width)[:, : clip.width // 2]
    for taken, lost in ((torch.zeros(clip.width, 1), False), (half, True)):
        edited = cn.Edit(taken, taken, "made").apply(clip)
        models = {"unedited": clip, "edited": edited}
        context = context_of(models, few, features=models)
        _, mean, worst = side_effects._unrelated(context)
        assert mean.unedited > 50 and mean.details["classes"] > 150 and mean.limit == side_effects.LOSS
        assert (mean.edited < mean.unedited) == lost
        assert worst.limit is None, "one of four pictures is 25 points: not judged"


def test_a_copy_of_a_picture_is_of_its_family(few):
    """Else a probe would meet the pictures that it was trained on."""
    z = torch.randn(len(few), 6, generator=torch.Generator().manual_seed(0))
    z[5] = 2 * z[3] + 1e-7
    names = _relatives(few, z)
    assert names[5] == names[3] and len(set(names)) == len(set(families(few))) - (families(few)[5] != families(few)[3])


def test_names_of_anybody_are_no_markup_and_one_line():
    hurt = finding("damage", "kept", "%", {}, (9.0, 1.0, "lost"), {"class": "a|b <b>\n# c"})
    audit = Audit((hurt,), {"request": "x\ny"}, (), (Count("p\nq", False, 4, 4, 0),))
    (row,) = audit._repr_markdown_().splitlines()[2:]
    assert row.startswith(r"| damage\: kept, a\|b &lt;b&gt; \# c \(%\) | – |")
    first, second, *_ = str(audit).splitlines()
    assert first.startswith("forget x y: 1 of 1 findings") and second == "HURT: p q 4 -> 0 of 4"


def test_wrong_arguments_are_named(clip, few, small):
    three, few = few.where(torch.arange(len(few)) < 3), few.where(torch.arange(len(few)) % 2 == 0)
    for message, images, request, settings in [
        (r"words: 'car': \['auto'\]; expected a list of words", few, DOG, {"words": {"car": ["auto"]}}),
        ("words: 'dog': 'puppy'", few, DOG, {"words": {"dog": "puppy"}}),
        ("retrained: miniclip has the same weights as clip", few, DOG, {"retrained": clip}),
        ("did you mean 'dog'", few, cn.Forget(["dgo"]), {}),
        ("seed: 'x' is not valid", few, DOG, {"seed": "x"}),
        (r"images: \d readable pictures to forget and \d to keep; expected at least 4 of", three, DOG, {}),
    ]:
        with pytest.raises(ValueError, match=message):
            cn.audit(clip, plain(clip.width), images, request, **{"retrained": False} | settings)
    with pytest.raises(ValueError, match="its width is 256"):
        cn.audit(clip, plain(8), few, DOG)
    with pytest.raises(ValueError, match="after: 3 is not valid; expected a model or an edit"):
        cn.audit(clip, 3, few, DOG)
    with pytest.raises(ValueError, match="after: .* has width 64; expected 256, like miniclip"):
        cn.audit(clip, small(VIT), few, DOG)


def test_the_request_finds_the_retrained_model(clip, few):
    assert retrained_for(clip, cn.Forget(["dog"], ["line"]), few).name == "miniclip-no-dog"
    assert retrained_for(clip, cn.Forget(["dog", "fish"]), few) is None
    assert retrained_for(clip, cn.Forget(["fish"]), few) is None
