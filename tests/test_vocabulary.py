"""Names, prompts, and what to forget."""

import json
import warnings
from functools import reduce
from itertools import product
from operator import or_

import pytest
import torch
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

import clipnull as cn
from clipnull.vocabulary import PROMPTS, TEMPLATES, format_prompt

VOCABULARY = cn.Vocabulary(("cat", "dog", "fish"), ("photo", "line"))


def test_prompt_sets_that_evaluate_never_build_edits():
    assert sorted(PROMPTS) == sorted(TEMPLATES)
    assert not {*TEMPLATES["build"]} & {*TEMPLATES["free"], *TEMPLATES["domain"]}
    assert all("{d}" not in t for t in TEMPLATES["free"])
    assert all("{d}" in t for t in (*TEMPLATES["build"], *TEMPLATES["domain"]))


@pytest.mark.parametrize(
    ("classes", "domains", "name"),
    [
        (("dog", "dog"), ("photo",), "classes: 'dog'"),
        (("dog", "cat"), (), "domains"),
        (("dog", 3), ("photo",), "classes: 3"),
        (("alarm clock", "alarm_clock"), ("photo",), "classes: 'alarm clock' and 'alarm_clock'"),
        (("a  b", "c", " A b"), ("photo",), "classes: 'a  b' and ' A b'"),
        (("caf\u00e9", "cafe\u0301"), ("photo",), "classes"),  # composed or not
        (("dog", "cat"), ("photo", "real"), "domains: 'photo' and 'real'"),
        ({"dog": ["dog", "hound"], "cat": ["cat", "Hound"]}, ("photo",), "classes: 'dog' and 'cat' .*'hound'"),
    ],
)
def test_bad_vocabularies_are_refused(classes, domains, name):
    with pytest.raises(ValueError, match=name):
        cn.Vocabulary(classes, domains)


@pytest.mark.parametrize(
    ("spelled", "known"),
    [("alarm_clock", "alarm clock"), ("AlarmClock", "alarm clock"), ("gold fish", "GoldFish"),
     ("cafe\u0301", "caf\u00e9"), ("TV monitor", "TVMonitor"), ("PUPPY", "dog")],
)  # fmt: skip
def test_one_normal_form_of_names(spelled, known):
    known_names = ("alarm clock", "GoldFish", "caf\u00e9", "TVMonitor")
    names = {name: (name,) for name in known_names} | {"dog": ("dog", "puppy")}
    vocabulary = cn.Vocabulary(names, ["OilPainting"])
    mask = cn.Forget([spelled], ["oil_painting"]).mask(vocabulary)
    assert mask[:, 0].nonzero().tolist() == [[list(names).index(known)]]
    assert format_prompt("{n}", spelled).lower() == format_prompt("{n}", known).lower() or known == "dog"


def test_codes_are_warned_of_with_the_way_to_give_names():
    for names in (["n01855672", "dog"], ["0001", "dog"], ["0", "1"]):
        with pytest.warns(UserWarning, match="look like codes; .*a table with the columns path and class"):
            cn.Vocabulary(names, ["photo"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cn.Vocabulary(["A380", "747", "30 kmh", "7-Eleven", "4x4", "dog"], ["photo"])


# --- requests


def test_paradigms():
    cases = {
        "global": (cn.Forget(classes=["dog"]), [[0, 0], [1, 1], [0, 0]]),
        "selective": (cn.Forget(classes=["dog"], domains=["line"]), [[0, 0], [0, 1], [0, 0]]),
        "complete": (cn.Forget(domains=["line"]), [[0, 1], [0, 1], [0, 1]]),
    }
    for paradigm, (request, mask) in cases.items():
        assert request.paradigm == paradigm and request.mask(VOCABULARY).int().tolist() == mask


def test_unions_of_requests():
    both = cn.Forget(classes=["dog"], domains=["line"]) | cn.Forget(classes=["fish"]) | cn.Forget(domains=["photo"])
    assert both.paradigm == "mixed" and str(both) == "dog in line and fish everywhere and everything in photo"
    assert (cn.Forget(["dog"]) | cn.Forget(["cat"])).paradigm == "global"
    pairs = (cn.Forget(["dog"]) | cn.Forget(["cat"])) | (cn.Forget(["cow"]) | cn.Forget(["fish"]))
    assert [part.classes for part in pairs.also] == [("cat",), ("cow",), ("fish",)]
    with pytest.raises(TypeError):
        cn.Forget(["dog"]) | "cat"


def some(names):
    return st.lists(st.sampled_from(names), min_size=1, max_size=len(names), unique=True)


requests = st.tuples(st.none() | some(VOCABULARY.classes), st.none() | some(VOCABULARY.domains)).filter(any)


@examples(30)
@given(st.lists(requests.map(lambda names: cn.Forget(*names)), min_size=1, max_size=4))
def test_a_union_forgets_what_any_of_its_requests_names(parts):
    union, expected = reduce(or_, parts), torch.zeros(VOCABULARY.shape, dtype=torch.bool)
    for (i, c), (j, k) in product(enumerate(VOCABULARY.classes), enumerate(VOCABULARY.domains)):
        expected[i, j] = any(c in (p.classes or [c]) and k in (p.domains or [k]) for p in parts)
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
