import itertools
import json

import pytest
import torch
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

import clipnull as cn

VOCABULARY = cn.Vocabulary(("cat", "dog", "fish"), ("photo", "line"))


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
    assert cn.Forget.from_dict(json.loads(json.dumps(both.as_dict()))) == both
    assert (cn.Forget(["dog"]) | cn.Forget(["cat"])).paradigm == "global"
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


@examples(60)
@given(st.lists(requests(), min_size=1, max_size=4))
def test_a_union_forgets_what_any_of_its_requests_names(asked):
    union = asked[0]
    for request in asked[1:]:
        union |= request
    expected = torch.zeros(VOCABULARY.shape, dtype=torch.bool)
    for request, (i, c), (j, k) in itertools.product(
        asked, enumerate(VOCABULARY.classes), enumerate(VOCABULARY.domains)
    ):
        expected[i, j] |= c in (request.classes or VOCABULARY.classes) and k in (request.domains or VOCABULARY.domains)
    if expected.all():
        with pytest.raises(ValueError, match="request: all 6 cells"):
            union.mask(VOCABULARY)
    else:
        assert torch.equal(union.mask(VOCABULARY), expected)
    assert cn.Forget.from_dict(json.loads(json.dumps(union.as_dict()))) == union and len(union.also) == len(asked) - 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (dict(), "neither is given"),
        (dict(classes=[]), "classes: the list is empty"),
        (dict(classes="dog"), r"classes: 'dog' is not a list of names; expected for example \['dog'\]"),
        (dict(classes=["dog", "dog"]), "classes: 'dog' given twice"),
        (dict(classes=["dgo"]), "classes: 'dgo' is not known; did you mean 'dog'"),
        (dict(classes=["Dog"]), "did you mean 'dog'"),
        (dict(domains=["lines"]), "domains: 'lines' is not known; did you mean 'line'"),
        (dict(classes=["cat", "dog", "fish"]), "request: all 6 cells"),
        (dict(domains=["photo", "line"]), "request: all 6 cells"),
        (dict(classes=[3]), "classes: 3 is no name; expected text"),
        (dict(classes=[""]), "classes: '' is blank; expected a name"),
        (dict(domains=[" "]), "domains: ' ' is blank; expected a name"),
        (dict(classes=["dog"], also=(3,)), r"also: \(3,\) is not valid; expected a tuple of Forget"),
        (dict(classes=["dog"], also="cat"), "also: 'cat' is not valid; expected a tuple of Forget"),
    ],
)
def test_bad_requests_are_refused(request_, message):
    with pytest.raises(ValueError, match=message):
        cn.Forget(**request_).mask(VOCABULARY)


def test_requests_inside_requests_are_told_too():
    inner = cn.Forget(["cat"], also=(cn.Forget(["fish"], ["photo"]),))
    outer = cn.Forget(["dog"], ["line"], (inner,))
    assert outer == cn.Forget(["dog"], ["line"]) | cn.Forget(["cat"]) | cn.Forget(["fish"], ["photo"])
    assert outer.mask(VOCABULARY).sum() == 4 and cn.Forget.from_dict(outer.as_dict()) == outer


DOG = {"classes": ["dog"], "domains": None, "also": []}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (None, "request: None; expected classes, domains and also"),
        ([], r"request: \[\]; expected classes"),
        ("dog", "request: 'dog'; expected classes"),
        ({"classes": ["dog"]}, "expected classes, domains and also"),
        (DOG | {"more": 1}, "expected classes, domains and also"),
        (DOG | {"classes": "dog"}, "classes: 'dog'; expected None or a list"),
        (DOG | {"classes": {"dog": 1}}, "classes: {'dog': 1}; expected None or a list"),
        (DOG | {"classes": 3}, "classes: 3; expected None or a list"),
        (DOG | {"classes": [3]}, "classes: 3 is no name"),
        (DOG | {"classes": [["dog"]]}, r"classes: \['dog'\] is no name"),
        (DOG | {"classes": None}, "neither is given"),
        (DOG | {"classes": []}, "the list is empty"),
        (DOG | {"classes": ["dog"] * 100_001}, "a list of at most 100000 names"),
        (DOG | {"domains": False}, "domains: False; expected None or a list"),
        (DOG | {"also": None}, "also: None; expected a list"),
        (DOG | {"also": {}}, "also: {}; expected a list"),
        (DOG | {"also": ["dog"]}, "request: 'dog'; expected"),
        (DOG | {"also": [DOG] * 1_001}, "at most 1000 requests"),
        (DOG | {"also": [DOG | {"also": [DOG]}]}, "also: a request in it has further ones"),
    ],
)
def test_what_is_no_request_is_refused(told, message):
    with pytest.raises(ValueError, match=message):
        cn.Forget.from_dict(told)
