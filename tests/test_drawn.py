"""What is read from a figure: a text that says what its caption does not, and its numbers."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns

from clipnull.course import plots as drawn


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def read(fig) -> tuple[str, list[list[list[str]]]]:
    """The alternative text of a figure, and its tables as texts."""
    assert drawn.source(fig).startswith("data:image/")
    tables = re.findall(r"<table>.*?</table>", drawn.numbers(fig))
    cell = r"<t[hd][^>]*>(.*?)</t[hd]>"
    return drawn.alternative(fig), [
        [re.findall(cell, row) for row in re.findall(r"<tr>.*?</tr>", table)] for table in tables
    ]


def test_a_heat_map_tells_what_is_written_in_it_and_its_bar_of_colours_nothing():
    fig, ax = plt.subplots()
    options = {"xticklabels": ["line", "flat"], "yticklabels": [r"a\$", "b<"], "mask": np.array([[0, 1], [0, 0]])}
    sns.heatmap(np.array([[0.5, 0.0], [1.0, 0.25]]), annot=np.array([["4/8", "-"], ["8/8", "2/8"]]), fmt="", **options)
    ax.set_title("before")
    text, tables = read(fig)
    assert text == "Heat map “before”: 2 rows from a$ to b<, 2 columns from line to flat."
    assert tables == [[["", "line", "flat"], ["a$", "4/8", ""], ["b&lt;", "8/8", "2/8"]]]


def test_lines_share_a_table_and_what_only_marks_a_value_is_no_line():
    fig, ax = plt.subplots()
    x = np.arange(101)
    ax.plot(x, x / 100, label="with $x$")
    ax.plot(x, x**2, label="squared")
    ax.axhline(3, label="limit")
    ax.set(xlabel="step", ylabel="cosine")
    text, (table,) = read(fig)
    assert text == "Lines: with x, squared; across step, 0 to 100, up cosine, 0 to 10,000."
    assert table[0] == ["step", "with x", "squared"] and len(table) == 1 + drawn.MOST // 2
    assert table[1] == ["0", "0", "0"] and table[-1] == ["100", "1", "10,000"]


def test_points_of_methods_are_told_by_name_and_many_dots_by_group():
    fig, axes = plt.subplots(1, 2)
    for name, rate in (("ridge", 0.25), ("gated", 0.75)):
        axes[0].errorbar([rate], [10 * rate], xerr=[0.1], label=name)
    rng = np.random.default_rng(0)
    for place in (0, 1):
        axes[1].scatter(place + rng.uniform(-0.2, 0.2, 31), np.linspace(place, place + 1, 31))
    axes[1].set_xticks([0, 1], ["texts", "both"])
    text, tables = read(fig)
    assert text.startswith("2 panels. Lines: ridge, gated; across 0.") and "62 dots; across texts to both" in text
    assert tables[0][1:] == [["ridge", "0.25", "2.5"], ["gated", "0.75", "7.5"]]
    assert tables[1][1:] == [["texts", "31", "0", "0.5", "1"], ["both", "31", "1", "1.5", "2"]]


def test_dots_beside_words_on_the_left_are_grouped_by_them():
    fig, ax = plt.subplots()
    ax.scatter(np.linspace(0, 1, 31), np.zeros(31))
    ax.set_yticks([0], ["both"])
    ax.set(xlabel="cosine")
    assert read(fig)[1] == [[["", "dots", "lowest cosine", "median", "highest"], ["both", "31", "0", "0.5", "1"]]]


@pytest.mark.parametrize("flat", [False, True])
def test_bars_are_told_by_the_words_at_their_feet(flat):
    fig, ax = plt.subplots()
    (ax.barh if flat else ax.bar)(["ridge", "gated"], [3, 1.5], **{"xerr" if flat else "yerr": [1, 1]})
    ax.set(**{"xlabel" if flat else "ylabel": "points"})
    text, (table,) = read(fig)
    assert text == "Bars of 2 groups from ridge to gated; points."
    assert table == [["", "points"], ["ridge", "3"], ["gated", "1.5"]]


def test_pictures_are_named_and_what_is_long_has_no_table():
    fig, axes = plt.subplots(1, 3)
    for ax in axes[:2]:
        ax.imshow(np.zeros((2, 2, 3)))
        ax.set_title("a dog\n0.9")
    axes[2].hist(np.arange(200), 100)
    text, tables = read(fig)
    assert "2 pictures: a dog 0.9, a dog 0.9." in text and tables == []
    assert read(plt.figure()) == ("A drawing.", [])


def test_a_long_caption_keeps_whole_sentences_and_nothing_is_lost():
    first, second, third = "Rates at 0.5, by method.", f"Means: {'ridge 1.00; ' * 30}end.", "Below: chance."
    assert drawn.caption(f"{first} {second} {third}") == (first, f"{second} {third}")
    assert drawn.caption(f"{first} {third}") == (f"{first} {third}", "")
    assert drawn.caption(second) == (second, "")
