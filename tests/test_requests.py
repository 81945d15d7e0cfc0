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
    ],
)
def test_bad_requests_are_refused(request_, message):
    with pytest.raises(ValueError, match=message):
        cn.Forget(**request_).mask(VOCABULARY)
