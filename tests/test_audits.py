"""What an audit asks, how findings are ordered and told, and what it says of wrong arguments."""

import json
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import open_clip
import pytest
import torch
from helpers import plain
from reporting import audit_part
from test_stored import fields

import clipnull as cn
from clipnull import audits
from clipnull.audits import deep, languages
from clipnull.audits import probes as probing
from clipnull.audits import robustness as surviving
from clipnull.audits import side_effects as traces
from clipnull.audits import words as wordings
from clipnull.audits.context import Case
from clipnull.audits.findings import Audit, finding, ordered, told
from clipnull.audits.probes import features_before_projection
from clipnull.commands import cli
from clipnull.course import plots


@pytest.fixture(scope="module")
def few(images):
    """Four classes in two domains: 60 pictures or so."""
    return images.select(["boat", "car", "fish", "dog"], ["flat", "line"])


@pytest.fixture(scope="module")
def edit(clip, few):
    return cn.unlearn(clip, cn.Forget(["dog"]), few.vocabulary, "oblique")


@pytest.fixture(scope="module")
def report(clip, few, edit):
    return cn.audit(clip, edit, few, cn.Forget(["dog"]), clean=False, words={"dog": ["puppy"]})


# --- the whole


@pytest.mark.slow
def test_every_kind_of_question_is_asked(report):
    assert {f.check for f in report.findings} == {
        "probe", "relearning", "words", "retrieval", "answers", "damage", "mark", "membership", "survival", "reversal",
    }  # fmt: skip
    assert all(f.clean is None for f in report.findings) and "never knew" in report.left_out[-1]
    by_name = {f.asked: f for f in report.findings}
    assert by_name["the usual prompt"].edited < 20 < by_name["the usual prompt"].unedited
    assert by_name["other names, given"].details == {"best": "dog: puppy", "tried": 1}
    assert by_name["weights in int8"].excess <= 0.05
    assert by_name["with the patch and edited embeddings"].edited == by_name["the usual prompt"].unedited


@pytest.mark.slow
def test_the_worst_comes_first_and_what_is_not_judged_last(report):
    times = [f.times for f in report.findings]
    assert times == sorted(times, reverse=True) and times[-1] == -math.inf
    assert report.worst == report.findings[:3]


@pytest.mark.slow
def test_it_is_json_and_a_table(report):
    read = json.loads(report.to_json())
    assert read["request"] == "dog everywhere" and read["methods"] == ["oblique"] and read["clean"] is None
    assert [f["asked"] for f in read["findings"]] == [f.asked for f in report.findings]
    assert len(report.table().splitlines()) == 2 + len(report.findings) and "| –" in report.table()
    assert str(report).splitlines()[0].startswith("forget dog everywhere: ") and report._repr_markdown_()


@pytest.mark.slow
def test_it_can_be_drawn(report):
    fig = plots.audit(report)
    judged = [f for f in report.findings if f.excess is not None and f.times > 0]
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == [f"{f.check}: {f.asked}" for f in judged]
    plt.close(fig)
    with pytest.raises(ValueError, match="nothing in it is judged"):
        plots.audit(Audit((finding("a", "b", "%", {"edited": 1.0}),), {"request": "x"}))


@pytest.mark.slow
def test_an_edit_that_does_nothing_forgets_nothing(clip, few):
    """Then no answer differs between the two models, and there is no forgetting that could survive."""
    nothing = cn.Edit(torch.zeros(clip.width, 1).double(), torch.zeros(clip.width, 1).double(), "none")
    same = cn.audit(clip, nothing, few, cn.Forget(["dog"]), clean=False)
    assert same["survival"] == ()
    assert all(f.unedited == f.edited for f in same.findings if f.unedited is not None and "patch" not in f.asked)


@pytest.mark.slow
def test_a_collapsed_model_can_be_read_by_nobody(clip, few):
    """All embeddings alike: probes and neighbours at chance, and the damage tells the price."""
    gone = cn.Edit(torch.eye(clip.width).double(), torch.eye(clip.width).double(), "all", bias=torch.ones(clip.width))
    report = cn.audit(clip, gone, few, cn.Forget(["dog"]), clean=False)
    probe = {f.asked: f for f in report["probe"]}
    assert probe["after the projection"].edited <= 50 < probe["before the projection"].edited
    kept = next(f for f in report["damage"] if f.asked == "kept classes")
    assert kept.excess > 50 and kept.within is False


@pytest.mark.slow
def test_pictures_of_a_whole_domain(clip, few):
    request = cn.Forget(domains=["line"])
    report = cn.audit(clip, cn.unlearn(clip, request, few.vocabulary, "gated"), few, request, clean=False)
    assert report["membership"] == () and report.about["paradigm"] == "complete"
    assert next(f for f in report["damage"]).asked == "kept domains"


def test_stored_embeddings_are_audited_without_pixels(tmp_path):
    np.savez(tmp_path / "made.npz", **fields(n=160))
    clip, images = cn.load(str(tmp_path / "made.npz")), cn.load_images(tmp_path / "made.npz")
    request = cn.Forget([images.vocabulary.classes[0]])
    edit = cn.unlearn(clip, request, images.vocabulary, "oblique")
    report = cn.audit(clip, edit, images, request)
    assert [f.asked for f in report["probe"]] == ["after the projection"]
    assert any("only embeddings are stored" in line for line in report.left_out)


@pytest.mark.slow
def test_beside_a_model_that_never_knew(clip, images):
    """Dogs in miniworld, with all that is judged: the model that never met a dog is found and asked."""
    request = cn.Forget(["dog"])
    report = cn.audit(clip, cn.unlearn(clip, request, images.vocabulary, "nullspace"), images, request)
    assert report.about["clean"] == "miniclip-no-dog" and len(report.left_out) == 1
    assert report.left_out[0].startswith("other languages: nothing says")
    found = {f"{f.check}: {f.asked}": f for f in report.findings}
    assert found["probe: after the projection"].clean > 60  # what tells dogs is useful for other animals, too
    auc = found["mark: the score of the forgotten class finds its pictures"]
    assert auc.unedited > 0.9 and auc.clean < 0.65
    assert found["membership: the forgotten class is named from the patch"].edited == 1
    assert all(f.limit is not None for f in report["probe"])


@pytest.mark.slow
def test_the_command_writes_all_of_it(tmp_path, capsys, images):
    options = [
        "--classes",
        "dog",
        "--domains",
        "line",
        "--methods",
        "ridge",
        "gated",
        "--chance",
        "--words",
        "puppy, hound",
    ]
    files = ["--json", str(tmp_path / "a.json"), "--figure", str(tmp_path / "a.png")]
    assert cli.main(["audit", *options, *files]) == 0
    out = capsys.readouterr().out
    assert out.startswith("forget dog in line: ") and "beyond their limit" in out
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["kind"], found["name"]) == ("audit", "audit, miniworld, dog in line")
    assert [(one["methods"], one.get("aim")) for one in found["audits"]] == [
        (["ridge"], None), (["gated"], None), (["gated"], "chance")
    ]  # fmt: skip
    assert found["audits"][0]["clean"] == "miniclip-no-dog"
    table, said = audit_part(found)[2].splitlines(), audit_part(found)[-1]
    assert said.startswith("Left out: other languages")
    assert table[0] == "| question | unedited | clean | `ridge` | `gated` | `gated` at chance | limit |"
    assert len(table) == 2 + len({(f["check"], f["asked"]) for one in found["audits"] for f in one["findings"]})
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


# --- the parts


def test_findings_are_judged_in_units_of_their_limit():
    bad, good, plainly = (
        finding("a", "bad", "%", {"edited": 3}, 3.0, 1.0),
        finding("a", "good", "%", {"edited": -3}, -3.0, 1.0),
        finding("a", "told", "%", {"edited": float("nan")}, float("nan"), 1.0, "x"),
    )
    assert ordered([plainly, good, bad]) == (bad, good, plainly)
    assert (bad.within, good.within, plainly.within) == (False, True, None) and good.times == 0
    assert plainly.edited is None and plainly.limit is None and plainly.judged == ""
    assert [told(x) for x in (None, 0.123, 12.34, 100.0, -1.0)] == ["–", "0.12", "12.3", "100", "-1.00"]


@pytest.mark.parametrize("kind, bits", [("float16", 11), ("bfloat16", 8), ("int8", 7)])
def test_rounding_moves_no_value_by_more_than_half_a_step(kind, bits):
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 20)[:, None]
    error = (surviving.rounded(x, kind) - x).abs() / x.abs().amax(1, keepdim=True)
    assert 0 < float(error.max()) <= 2.0**-bits
    assert torch.equal(surviving.rounded(torch.zeros(2, 3), kind), torch.zeros(2, 3))


@pytest.mark.parametrize("method", ["oblique", "gated", "neuron"])
def test_a_patch_is_turned_back(clip, few, z, images, method):
    """Linear edits by their inverse, others step by step: what comes out is edited to the same embeddings."""
    edit = cn.unlearn(clip, cn.Forget(["dog"]), few.vocabulary, method)
    edited = edit.images(z[:80].double())
    back = surviving._turned_back(edit, edited)
    assert torch.allclose(edit.images(back), edited, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["oblique", "gated"])
def test_fine_tuning_is_a_curve_for_each_model(clip, few, edit, method, monkeypatch):
    """A few steps on few pictures: what is forgotten stays so, what is kept stays known, the models are untouched."""
    monkeypatch.setattr(surviving, "STEPS", (0, 1, 3))
    train = cn.load_images(split="train").select(list(few.vocabulary.classes), list(few.vocabulary.domains))
    edited = cn.unlearn(clip, cn.Forget(["dog"]), few.vocabulary, method).apply(clip)
    models = {"unedited": clip, "edited": edited}
    features = {name: cn.embed(model, few) for name, model in models.items()}
    case = Case.of(models, few, cn.Forget(["dog"]), features, [str(i) for i in range(len(few))], 0)
    weights = [model.weights.clone() for model in models.values()]
    (found,) = surviving.fine_tuning(case, train)
    assert found.asked == "3 steps of fine-tuning on kept pictures" and found.details["steps"] == [0, 1, 3]
    curves = {name: found.details[f"forgotten, {name}"] for name in models}
    assert curves["edited"][0] == pytest.approx(case.right(case.answers("edited")))
    assert curves["edited"][0] < 20 < 40 < curves["unedited"][0] and len(curves["edited"]) == 3
    assert max(curves["edited"]) < curves["unedited"][0]
    assert min(found.details["kept, edited"]) > 60 and found.edited == pytest.approx(curves["edited"][-1])
    assert -0.2 < found.details["of what was lost"] < 0.5 and found.limit is None
    assert all(torch.equal(before, model.weights) for before, model in zip(weights, models.values(), strict=True))
    assert not any(p.requires_grad for model in models.values() for p in model.model.parameters())
    with pytest.raises(ValueError, match="train: 0 kept pictures of 14 classes; expected at least 32"):
        surviving.fine_tuning(case, train.select(["dog"]))


def test_what_no_edit_changes_is_asked_once(clip, few):
    asked = []
    known: dict = {}
    for _ in range(2):
        case = Case({"unedited": clip, "edited": clip, "clean": clip}, few, cn.Forget(["dog"]), {}, {}, [], 0, known)
        assert case.each("x", lambda name: asked.append(name) or name) == {n: n for n in case.models}
    assert asked == ["unedited", "edited", "clean", "edited"]


def test_other_languages_are_asked_of_towers_that_read_them(clip):
    classes = ["dog", "fish", "gryphon"]
    assert languages.prompts_of(clip, classes, ["dog"]) == {}
    assert languages.left_out(clip, ["dog"]).startswith("other languages: nothing says that the text tower of miniclip")
    reader = replace(clip, name="xlm-roberta-base-ViT-B-32")
    found = languages.prompts_of(reader, classes, ["dog"])
    assert found["German"] == ["ein Bild von einem Hund", "ein Bild von einem Fisch", None] and len(found) == 3
    assert languages.left_out(reader, ["dog"]) is None and languages.prompts_of(reader, classes, ["gryphon"]) == {}
    assert "no translation of 'gryphon' is known here" in languages.left_out(reader, ["dog", "gryphon"])


def test_unmentioned_classes_are_counted_by_their_labels(clip, few):
    """Taking a direction away costs some of them their name; taking nothing away costs none."""
    request, half = cn.Forget(["dog"]), torch.eye(clip.width)[:, : clip.width // 2]
    for taken, lost in ((torch.zeros(clip.width, 1), False), (half, True)):
        edit = cn.Edit(taken, taken, "made")
        edited = edit.apply(clip)
        features = {"unedited": torch.ones(len(few), clip.width), "edited": torch.ones(len(few), clip.width)}
        case = Case.of({"unedited": clip, "edited": edited}, few, request, features, [], 0)
        mean, worst = traces._unmentioned(case)
        assert mean.unedited > 50 and mean.details["classes"] > 150 and mean.limit == traces.LOSS
        assert (mean.edited < mean.unedited, mean.details["classes that lose"] > 0) == (lost, lost)
        assert worst.limit is None and worst.details["pictures"] <= 4, "one of four pictures is 25 points: not judged"


def test_suspicion_is_a_share_of_pairs():
    suspicion = torch.tensor([0.1, 0.9, 0.5, 0.5])
    assert traces._placed(suspicion, [1]) == 1 and traces._placed(suspicion, [0]) == 0
    assert traces._placed(suspicion, [2]) == pytest.approx((1 + 0.5) / 3)


def test_misspelt_names_are_other_words():
    assert wordings.misspelt("dog") == ["odg", "dg", "ddog"]
    assert all(word != "a" and word.strip() for word in wordings.misspelt("a"))


@pytest.mark.parametrize(
    "vision",
    [
        {"layers": 4, "width": 24, "head_width": 8, "patch_size": 16, "image_size": 32},
        {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64},
        {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None, "image_size": 160},
    ],
    ids=["ViT", "ResNet", "timm"],
)
def test_stages_of_towers_have_a_row_for_each_picture(clip, few, vision):
    kind = open_clip.CustomTextCLIP if "timm_model_name" in vision else open_clip.CLIP
    text = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = kind(embed_dim=12, vision_cfg=vision, text_cfg=text).eval().requires_grad_(False)
    preprocess = open_clip.image_transform(model.visual.image_size, is_train=False)
    other = cn.Clip(model, preprocess, clip.tokenizer, "small", None)
    some = few.where(torch.arange(len(few)) < 5)
    stages = probing.stage_features(other, some, most=2)
    assert list(stages)[-1] == "before the projection" and len(stages) == 3
    assert all(len(x) == 5 and x.isfinite().all() for x in stages.values())
    assert stages["before the projection"].shape[1] == features_before_projection(other, some).shape[1]


@pytest.mark.slow
def test_a_prompt_found_by_gradient_beats_the_name_that_was_taken_away(clip, few, edit, report):
    """It goes through the text tower, and the tower is as it was: no hook and no gradient stays behind."""
    found = next(f for f in report.findings if f.asked == "a prompt found by gradient")
    usual = next(f for f in report.findings if f.asked == "the usual prompt")
    assert found.edited > usual.edited + 20
    assert not any(m._forward_hooks for m in clip.model.modules())
    assert not any(p.requires_grad for p in clip.model.parameters())


# --- arguments


def test_wrong_arguments_are_named(clip, few, edit):
    request = cn.Forget(["dog"])
    with pytest.raises(ValueError, match=r"words: 'car': \['auto'\]; expected for forgotten classes"):
        cn.audit(clip, edit, few, request, words={"car": ["auto"]})
    with pytest.raises(ValueError, match="words: 'dog': 'puppy'"):
        cn.audit(clip, edit, few, request, words={"dog": "puppy"})
    with pytest.raises(ValueError, match="clean: miniclip has the weights of clip; expected a model that never knew"):
        cn.audit(clip, edit, few, request, clean=clip)
    with pytest.raises(ValueError, match="did you mean 'dog'"):
        cn.audit(clip, edit, few, cn.Forget(["dgo"]))
    tiny = few.where(torch.arange(len(few)) < 3)
    with pytest.raises(ValueError, match="are forgotten; expected at least 4, and 4 kept"):
        cn.audit(clip, edit, tiny, request, clean=False)
    with pytest.raises(ValueError, match="its joint space is 256 wide"):
        cn.audit(clip, plain(8), few, request)


def test_the_clean_model_is_found_by_the_request(clip, few):
    assert audits.clean_for(clip, cn.Forget(["dog"], ["line"]), few).name == "miniclip-no-dog"
    assert audits.clean_for(clip, cn.Forget(["dog", "fish"]), few) is None
    assert audits.clean_for(clip, cn.Forget(["fish"]), few) is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "classes, domains: neither is given; expected names to forget, or a patch that tells them"),
        (["--classes", "dog", "--methods", "obliqe"], "methods: 'obliqe' is not known; did you mean 'oblique'?"),
        (["--domains", "line", "--words", "x"], "words: given for everything in line; expected one class"),
        (["x", "--classes", "dog", "--slow"], "slow: fine-tuning needs training pictures"),
        (
            ["--classes", "dog", "--methods", "ridge", "--chance"],
            "chance: no method with a strength is asked; expected",
        ),
    ],
)
def test_the_command_names_wrong_arguments(arguments, message, capsys):
    assert cli.main(["audit", *arguments]) == 2
    assert message in capsys.readouterr().err


# --- one step deeper


def test_the_rest_of_the_tower_gives_what_the_tower_gives(clip, few):
    some = few.where(torch.arange(len(few)) < 6)
    f, z = deep.behind(clip, deep.bottleneck(clip, some))
    assert torch.allclose(f, features_before_projection(clip, some), atol=1e-4)
    assert torch.allclose(z, cn.embed(clip, some), atol=1e-4)
    assert not clip.model.visual.trunk.conv_head._forward_pre_hooks


def test_a_span_is_gone_at_every_place():
    generator = torch.Generator().manual_seed(0)
    h, prototypes = torch.randn(5, 8, 2, 3, generator=generator), torch.randn(4, 3, 8, generator=generator)
    apart = prototypes[1] - prototypes.mean((0, 1))
    assert torch.einsum("nwij,kw->nkij", deep.without(h, prototypes, 1), apart).abs().max() < 1e-5


def test_other_towers_have_no_last_convolution(clip, few):
    vision = {"layers": 1, "width": 24, "head_width": 8, "patch_size": 16, "image_size": 32}
    text = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    other = cn.Clip(open_clip.CLIP(12, vision, text), clip.preprocess, clip.tokenizer, "ViT", None)
    with pytest.raises(ValueError, match="the tower of ViT has no 1 x 1 conv_head; expected an EfficientNet"):
        deep.bottleneck(other, few)
    with pytest.raises(ValueError, match="images, pixels: both or neither"):
        deep.bottleneck(clip)
