"""The choice of an edit by forecast: budgets, "auto", and words that the text tower cannot tell apart."""

import math

import pytest
import torch

import clipnull as cn
from clipnull.forecasting import choosing
from clipnull.forecasting.choosing import best_of, excess, read_budget, simulator_of
from clipnull.forecasting.outlook import Forecast

NAMES = cn.Vocabulary(("cat", "dog", "house"), ("photo", "line"))
DOG = cn.Forget(["dog"], ["line"])
GOOD = {"forgetting_rate": 0.97, "retain_drop": 0.2, "sibling_class_drop": 1.0, "sibling_domain_drop": math.nan}


@pytest.fixture(scope="module")
def cells(clip):
    return cn.embed_vocabulary(clip, NAMES, prototypes=False)


def test_a_budget_is_read():
    budget = read_budget(" Forget >= .9 ,worst drop<=5, sibling domain drop <= -1.5")
    assert budget == [("forgetting_rate", ">=", 0.9), ("worst_cell_drop", "<=", 5), ("sibling_domain_drop", "<=", -1.5)]


@pytest.mark.parametrize(
    "text, expected",
    [
        *((text, "expected for example") for text in ("forget = .9", "forget >= .9;", "", 0.95, "forget >= 95")),
        ("forgot >= .9", "did you mean 'forget'"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused(text, expected):
    with pytest.raises(ValueError, match=f"^budget: .*{expected}"):
        read_budget(text)


def test_a_miss_is_counted_in_points():
    limits = read_budget("forget >= .95, worst drop <= 5, sibling domain drop <= 1")
    assert excess(limits, GOOD | {"worst_cell_drop": 5.0}) == {}  # a figure that does not exist misses nothing
    misses = excess(limits, GOOD | {"worst_cell_drop": 7.0, "forgetting_rate": 0.9})
    assert misses == pytest.approx({"forgetting_rate": 5, "worst_cell_drop": 2})


@pytest.mark.slow
def test_auto_takes_what_is_worth_most_within_the_budget(clip, cells):
    mask, budget = DOG.mask(NAMES), "forget >= .8, worst drop <= 10"
    edit = cn.unlearn(clip, DOG, NAMES, "auto", prototypes=False, budget=budget)
    expected = cn.forecast(clip, DOG, NAMES, "auto", prototypes=False, budget=budget)
    assert (edit.method, edit.settings) == (expected.edit.method, expected.edit.settings) and edit.request == DOG
    assert edit.fingerprint == clip.fingerprint and not excess(read_budget(budget), expected.rates)
    simulator = simulator_of(clip, NAMES, cells, prototypes=False)
    for other in choosing.candidates(cells, mask):
        rival = simulator.forecast(other, mask, DOG)
        assert excess(read_budget(budget), rival.rates) or rival.points <= expected.points + choosing.TIE


def test_of_equals_the_simplest_form_is_taken(cells):
    mask, forecasts = torch.ones(3, 2, dtype=torch.bool), []
    for method, rate in (("gated", 0.99), ("neuron", 0.99), ("oblique", 0.9)):
        ends = {"forgetting_rate": (rate, 0, 1), "retain_drop": (0, 0, 0), "sibling_class_drop": (0, 0, 0)}
        edit = cn.solve(cells, DOG.mask(NAMES), method)
        forecasts.append(Forecast(mask.double(), mask.double(), mask, DOG, edit, ends))
    assert best_of(forecasts).edit.form == "layer"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "auto", "budget": "forget > .9"}, "is not a limit"),
        ({"method": "auto", "strength": 2.0}, "strength given with method 'auto'"),
        ({"method": "gated", "budget": "forget >= .9"}, "given with method 'gated'; expected method='auto'"),
        ({"method": "gatet"}, "did you mean 'gated'"),
    ],
)
@pytest.mark.parametrize("function", [cn.unlearn, cn.forecast])
def test_arguments_that_do_not_go_together_are_refused(function, arguments, message, clip):
    with pytest.raises(ValueError, match=message):
        function(clip, DOG, NAMES, prototypes=False, **arguments)


def test_a_budget_that_no_method_keeps_to_is_refused_with_the_nearest(clip):
    with pytest.raises(ValueError, match=r"the nearest is '\w+' \(\w+ = [\d.]+\) with retain_drop -?[\d.]+; expected"):
        cn.unlearn(clip, DOG, NAMES, "auto", prototypes=False, budget="retain drop <= -50")


@pytest.mark.parametrize("forgotten, other", [("horse", "pony"), ("pony", "horse")])
def test_words_that_the_tower_cannot_tell_apart_are_named(clip, forgotten, other):
    names = cn.Vocabulary(("horse", "pony", "house"), ("photo", "line"))
    with pytest.raises(ValueError, match=f"barely distinguishes {forgotten!r} from {other!r}"):
        cn.forecast(clip, cn.Forget([forgotten]), names, prototypes=False)


def test_near_words_are_warned_of(clip):
    names = cn.Vocabulary(("dog", "puppy", "house"), ("photo", "line"))
    with pytest.warns(UserWarning, match="barely distinguishes 'dog' from 'puppy'"):
        choosing.choose_edit(clip, cn.Forget(["dog"]), names, "oblique", prototypes=False)
