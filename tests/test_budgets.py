"""What a user can afford, and what contradicts itself."""

import math

import pytest

from clipnull.forecasting.outlook import Budget

GOOD = {"forgetting_rate": 0.97, "retain_drop": 0.2, "sibling_class_drop": 1.0, "sibling_domain_drop": math.nan}


def test_a_budget_is_read():
    limits = Budget(" Forget >= .9 ,worst  drop <= 5, retain drop<=1.5").limits
    assert limits == {"forget": (0.9, 1.0), "worst drop": (-100, 5), "retain drop": (-100, 1.5)}
    assert Budget("forget >= .5, forget <= .9, forget >= .6").limits == {"forget": (0.6, 0.9)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("forget >= .95, forget <= .5", "forget >= 0.95 and forget <= 0.5 contradict each other"),
        ("worst drop <= 1, retain drop >= 2", "retain drop >= 2 and worst drop <= 1 contradict each other"),
        ("sibling drop >= 9, worst drop <= 5", "sibling drop >= 9 and worst drop <= 5 contradict"),
        ("forget >= 95", "forget >= 95 is out of range; expected a number from 0 to 1"),
        ("worst drop <= 500", "out of range; expected a number from -100 to 100"),
        ("forgot >= .9", "'forgot' is not known; did you mean 'forget'"),
        ("forget = .9", "'forget = .9' cannot be read; expected for example 'forget >= .95, worst drop <= 5'"),
        ("", "'' cannot be read"),
        (0.95, "0.95 is no text"),
    ],
)
def test_a_budget_that_cannot_be_kept_or_read_is_refused(text, told):
    with pytest.raises(ValueError, match="^budget: ") as error:
        Budget(text)
    assert told in str(error.value)


def test_it_says_what_misses_and_by_how_much():
    budget = Budget("forget >= .95, worst drop <= 5, sibling domain drop <= 1")
    assert budget.excess(GOOD | {"worst_cell_drop": 5.0}) == {}  # a figure that does not exist misses nothing
    missed = budget.excess(GOOD | {"worst_cell_drop": 7.0, "forgetting_rate": 0.9})
    assert missed == pytest.approx({"forgetting_rate": 5, "worst_cell_drop": 2})
    assert (
        Budget.told("forgetting_rate", 0.9) == "forget 0.900" and Budget.told("worst_cell_drop", 7) == "worst drop 7.0"
    )
