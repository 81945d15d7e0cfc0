"""Names, prompts, and what to forget."""

import itertools
import json
import warnings

import pytest
import torch
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

import clipnull as cn
from clipnull.vocabulary import PROMPTS, TEMPLATES, format_prompt, read_vocabulary

VOCABULARY = cn.Vocabulary(("cat", "dog", "fish"), ("photo", "line"))


def test_prompt_sets_that_evaluate_never_build_edits():
    assert list(TEMPLATES) == ["build", "free", "domain"] and sorted(PROMPTS) == sorted(TEMPLATES)
    built = set(TEMPLATES["build"])
    assert not built & set(TEMPLATES["free"]) and not built & set(TEMPLATES["domain"])
    assert all("{d}" not in t for t in TEMPLATES["free"])
    assert all("{d}" in t for t in (*TEMPLATES["build"], *TEMPLATES["domain"]))


@pytest.mark.parametrize(
    ("template", "class_name", "domain", "prompt"),
    [
        ("a {d} of {a}", "elephant", "art_painting", "a painting of an elephant"),
        ("a {d} of {a}", "hot_dog", "infograph", "an infographic of a hot dog"),
        ("a {d} showing {a}", "owl", "oil_painting", "an oil painting showing an owl"),
        ("the {n}, alone", "hot_dog", "", "the hot dog, alone"),
    ],
)
def test_prompts_are_english(template, class_name, domain, prompt):
    assert format_prompt(template, class_name, domain) == prompt


@pytest.mark.parametrize(
    ("classes", "domains", "name"),
    [
        (("dog",), ("photo",), "classes: .*'dog'"),
        (("dog", "dog"), ("photo",), "classes: 'dog'"),
        (("dog", "cat"), (), "domains"),
        (("dog", 3), ("photo",), "classes: 3"),
        (("alarm clock", "alarm_clock"), ("photo",), "classes: 'alarm clock' and 'alarm_clock'"),
        (("a  b", "c", " A b"), ("photo",), "classes: 'a  b' and ' A b'"),
        (("caf\u00e9", "cafe\u0301"), ("photo",), "classes"),  # composed or not
        (("dog", "cat"), ("photo", "real"), "domains: 'photo' and 'real'"),
        ({"dog": ["dog", "hound"], "cat": ["cat", "Hound"]}, ("photo",), "classes: 'dog' and 'cat' .*'hound'"),
        ({"dog": [], "cat": ["cat"]}, ("photo",), "classes: dog"),
    ],
)
def test_bad_vocabularies_are_refused(classes, domains, name):
    with pytest.raises(ValueError, match=name):
        cn.Vocabulary(classes, domains)


def test_domains_of_known_data_sets_are_of_different_words():
    for domains in (
        ["art_painting", "cartoon", "photo", "sketch"],
        ["Art", "Clipart", "Product", "Real World"],
        ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"],
        ["cartoon", "flat", "line", "photo", "shaded", "silhouette", "3d", "pixel"],
    ):
        assert cn.Vocabulary(["cat", "dog"], domains).domains == tuple(domains)


@pytest.mark.parametrize(
    ("spelled", "known"),
    [("alarm_clock", "alarm clock"), ("AlarmClock", "alarm clock"), ("gold fish", "GoldFish"),
     ("cafe\u0301", "caf\u00e9"), ("TV monitor", "TVMonitor"), ("PUPPY", "dog")],
)  # fmt: skip
def test_one_normal_form_of_names_at_every_door(spelled, known, tmp_path):
    names = {name: (name,) for name in ("alarm clock", "GoldFish", "caf\u00e9", "TVMonitor")} | {
        "dog": ("dog", "puppy")
    }
    vocabulary = cn.Vocabulary(names, ["OilPainting"])
    mask = cn.Forget([spelled], ["oil_painting"]).mask(vocabulary)
    assert mask[:, 0].nonzero().tolist() == [[list(names).index(known)]]
    assert format_prompt("{n}", spelled).lower() == format_prompt("{n}", known).lower() or known == "dog"
    (tmp_path / "names.txt").write_text(f"{spelled}\nother\n", encoding="utf-8")
    assert known == "dog" or cn.Forget([known]).mask(read_vocabulary(tmp_path / "names.txt"))[0].all()


def test_codes_are_warned_of_with_the_way_to_give_names():
    for names in (["n01855672", "dog"], ["0001", "dog"], ["0", "1"]):
        with pytest.warns(UserWarning, match="look like codes, .*a table with the columns path and class"):
            cn.Vocabulary(names, ["photo"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cn.Vocabulary(["A380", "747", "30 kmh", "7-Eleven", "4x4", "dog"], ["photo"])


# --- requests


def test_masks_of_the_three_paradigms():
    t, f = True, False
    cases = {
        cn.Forget(classes=["dog"]): ("global", [[f, f], [t, t], [f, f]]),
        cn.Forget(classes=["dog"], domains=["line"]): ("selective", [[f, f], [f, t], [f, f]]),
        cn.Forget(domains=["line"]): ("complete", [[f, t], [f, t], [f, t]]),
    }
    for request, (paradigm, mask) in cases.items():
        assert request.paradigm == paradigm
        assert request.mask(VOCABULARY).tolist() == mask
    assert str(cn.Forget(classes=["dog"], domains=["line"])) == "dog in line"


def test_unions_of_requests():
    both = cn.Forget(classes=["dog"], domains=["line"]) | cn.Forget(classes=["fish"]) | cn.Forget(domains=["photo"])
    assert both.mask(VOCABULARY).tolist() == [[True, False], [True, True], [True, True]]
    assert both.paradigm == "mixed" and str(both) == "dog in line and fish everywhere and everything in photo"
    assert (cn.Forget(["dog"]) | cn.Forget(["cat"])).paradigm == "global"
    pairs = (cn.Forget(["dog"]) | cn.Forget(["cat"])) | (cn.Forget(["cow"]) | cn.Forget(["fish"]))
    assert [part.classes for part in pairs.also] == [("cat",), ("cow",), ("fish",)]
    with pytest.raises(TypeError):
        cn.Forget(["dog"]) | "cat"


def some(names):
    return st.lists(st.sampled_from(names), min_size=1, max_size=len(names), unique=True)


@st.composite
def requests(draw):
    classes, domains = draw(st.none() | some(VOCABULARY.classes)), draw(st.none() | some(VOCABULARY.domains))
    if classes is None and domains is None:
        classes = draw(some(VOCABULARY.classes))
    return cn.Forget(classes, domains)


@examples(30)
@given(st.lists(requests(), min_size=1, max_size=4))
def test_a_union_forgets_what_any_of_its_requests_names(parts):
    union = parts[0]
    for request in parts[1:]:
        union |= request
    expected = torch.zeros(VOCABULARY.shape, dtype=torch.bool)
    for request, (i, c), (j, k) in itertools.product(
        parts, enumerate(VOCABULARY.classes), enumerate(VOCABULARY.domains)
    ):
        expected[i, j] |= c in (request.classes or VOCABULARY.classes) and k in (request.domains or VOCABULARY.domains)
    if expected.all():
        with pytest.raises(ValueError, match="request: .*6"):
            union.mask(VOCABULARY)
    else:
        assert torch.equal(union.mask(VOCABULARY), expected)
    assert cn.Forget.from_dict(json.loads(json.dumps(union.as_dict()))) == union and len(union.also) == len(parts) - 1


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "classes, domains"),
        ({"classes": []}, "classes"),
        ({"classes": ["dgo"]}, "classes: 'dgo' .*'dog'"),
        ({"domains": ["lines"]}, "domains: 'lines' .*'line'"),
        ({"classes": ["cat", "dog", "fish"]}, "request: .*6"),
        ({"classes": [3]}, "classes: 3"),
        ({"classes": ["dog"], "also": (3,)}, r"also: \(3,\)"),
        ({"classes": ["dog"], "also": (cn.Forget(["cat"]) | cn.Forget(["fish"]),)}, "also: .* a flat tuple"),
    ],
)
def test_bad_requests_are_refused(fields, name):
    with pytest.raises(ValueError, match=name):
        cn.Forget(**fields).mask(VOCABULARY)


DOG = {"classes": ["dog"], "domains": None, "also": []}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (None, "request: None"),
        ({"classes": ["dog"]}, "request: {"),
        (DOG | {"more": 1}, "request: {"),
        (DOG | {"classes": "dog"}, "classes: 'dog'"),
        (DOG | {"classes": [["dog"]]}, r"classes: \['dog'\]"),
        (DOG | {"classes": None}, "classes, domains"),
        (DOG | {"also": ["dog"]}, "request: 'dog'"),
        (DOG | {"also": [DOG | {"also": [DOG]}]}, "also"),
    ],
)
def test_json_that_is_no_request_is_refused(content, name):
    with pytest.raises(ValueError, match=name):
        cn.Forget.from_dict(content)
