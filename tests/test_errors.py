"""A message names the argument, its value and what was expected."""

import re
import sys

import pytest

from clipnull import errors
from clipnull.errors import (
    at_least,
    brief,
    distinct,
    expect,
    import_extra,
    names,
    near,
    one_line,
    one_of,
    printable,
    shorten,
    within,
)


def test_near_matches_come_best_first_and_know_capitals():
    assert near("nulspace", ["ridge", "nullspace", "residual"]) == ["nullspace"]
    assert near("DOG", ["cat", "dog"]) == ["dog"]
    assert near("zzz", ["cat", "dog"]) == [] and near(3, ["cat"]) == []


def test_one_of_gives_what_is_known():
    assert one_of("method", "ridge", ["ridge", "gated"]) == "ridge"
    assert names("classes", ("dog", "cat"), ["cat", "dog"]) == ("dog", "cat")
    assert distinct("classes", ["anything"]) == ("anything",)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: one_of("method", "rigde", ["ridge", "gated"]), "method: 'rigde' is not known; did you mean 'ridge'?"),
        (lambda: one_of("k", "cats", ["cat", "car"]), "k: 'cats' is not known; did you mean 'cat' or 'car'?"),
        (lambda: one_of("k", "zzz", ["cat", "dog"]), "k: 'zzz' is not known; expected one of 'cat', 'dog'"),
        (lambda: one_of("k", None, ["cat"]), "k: None is not known; expected one of 'cat'"),
        (lambda: one_of("k", ["cat"], ["cat"]), "k: ['cat'] is not known; did you mean 'cat'?"),
        (
            lambda: names("classes", "dog", ["dog"]),
            "classes: 'dog' is not a list of names; expected for example ['dog']",
        ),
        (lambda: names("classes", 3, ["dog"]), "classes: 3 is not a list of names; expected for example [3]"),
        (lambda: names("classes", ["dgo"], ["dog"]), "classes: 'dgo' is not known; did you mean 'dog'?"),
        (lambda: names("classes", [], ["dog"]), "classes: the list is empty; expected at least one of 'dog'"),
        (lambda: distinct("classes", []), "classes: the list is empty; expected at least one name"),
        (
            lambda: distinct("classes", ["a", "b", "a"]),
            "classes: 'a' given twice; expected each name once",
        ),
        (lambda: distinct("classes", [None]), "classes: None is no name; expected text, such as 'dog'"),
        (lambda: distinct("classes", [""]), "classes: '' is blank; expected a name, such as 'dog'"),
        (lambda: distinct("classes", ["dog", " _\n"]), "classes: ' _\\n' is blank; expected a name, such as 'dog'"),
        (
            lambda: distinct("classes", ["\x1b[31mdog"]),
            "classes: '\\x1b[31mdog' holds characters that are none to read; expected a name as printed",
        ),
        (
            lambda: distinct("classes", ["\udc80"]),
            "classes: '\\udc80' holds characters that are none to read; expected a name as printed",
        ),
        (lambda: within("alpha", 2, 0, 1), "alpha: 2 is out of range; expected a number in [0, 1]"),
        (lambda: within("alpha", "1", 0, 1), "alpha: '1' is out of range; expected a number in [0, 1]"),
        (lambda: within("alpha", True, 0, 1), "alpha: True is out of range; expected a number in [0, 1]"),
        (
            lambda: within("alpha", float("nan"), 0, 1),
            "alpha: nan is out of range; expected a number in [0, 1]",
        ),
        (lambda: at_least("k", 0, 1), "k: 0 is not valid; expected a whole number of at least 1"),
        (lambda: at_least("k", 2.0, 1), "k: 2.0 is not valid; expected a whole number of at least 1"),
        (lambda: at_least("k", True, 1), "k: True is not valid; expected a whole number of at least 1"),
        (lambda: expect(str, data=3), "data: 3 is not valid; expected text, in quotes"),
        (lambda: expect(int, seed=1.0), "seed: 1.0 is not valid; expected a whole number"),
        (lambda: expect(int, seed=True), "seed: True is not valid; expected a whole number"),
        (lambda: expect(float, alpha="1"), "alpha: '1' is not valid; expected a number"),
        (lambda: expect(bool, fast=1), "fast: 1 is not valid; expected True or False"),
    ],
)
def test_what_is_wrong_is_told(call, message):
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        call()


def test_what_is_right_passes():
    assert within("alpha", 1, 0, 1) == 1.0 and type(within("alpha", 1, 0, 1)) is float
    assert at_least("k", 3, 3) == 3
    expect(float, alpha=1, rho=0.5)  # a whole number passes for a float
    expect(str, data="")
    expect(bool, fast=False)


def test_long_lists_are_shortened():
    assert shorten("abc") == "'a', 'b', 'c'"
    assert shorten(range(20), most=3) == "0, 1, 2, ... (20 in all)"


def test_long_values_are_cut():
    assert brief("dog") == "'dog'" and brief("x" * 100) == f"'{'x' * 59}... (102 characters)"


@pytest.mark.parametrize("name", ["two\nlines", "a\tb", "🐶", "👩‍🚀", "x" * 250, "ünï", "$x$", "<b>|`", " a "])
def test_odd_names_are_names(name):
    assert printable(name) and distinct("classes", [name]) == (name,)


def test_many_names_are_quick_to_check():
    many = [f"name {i}" for i in range(50_000)]  # the square of that would not end
    assert len(distinct("classes", many)) == 50_000


def test_an_optional_package_that_is_there_comes_back():
    assert import_extra("json.decoder", "course") is sys.modules["json.decoder"]


@pytest.mark.parametrize(
    ("module", "extra", "message"),
    [
        (
            "sklearn.metrics",
            "course",
            "sklearn is not installed; expected the extra 'course': pip install 'clipnull[course]'",
        ),
        ("nosuch", "book", "nosuch is not installed; expected the extra 'book': pip install 'clipnull[book]'"),
    ],
)
def test_a_missing_package_names_the_extra_that_brings_it(module, extra, message, monkeypatch):
    for name in (module.partition(".")[0], module):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=re.escape(message) + "$"):
        import_extra(module, extra)


def test_what_an_installed_package_lacks_is_told_by_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there'"):
        import_extra("half_there", "course")


def test_many_lines_are_told_in_one_with_the_last():
    assert one_line(ValueError("bad:\n\tx  y\n\n")) == "bad: x y"
    assert one_line("a" * 300 + "\nb\nthe reason") == "a" * 200 + " ... the reason"
    assert one_line("") == "" and one_line("a" * 9, most=3) == "aaa ..."


def test_every_function_is_tested_here():
    public = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    assert public == {
        "at_least", "brief", "distinct", "expect", "import_extra", "names", "near", "one_line", "one_of", "printable",
        "shorten", "within",
    }  # fmt: skip
