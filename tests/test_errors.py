"""A message names the argument, its value and what was expected."""

import sys

import pytest

from clipnull.errors import at_least, brief, distinct, import_extra, names, near, one_line, one_of, within


def test_near_matches_come_best_first_and_know_capitals():
    assert near("nulspace", ["ridge", "nullspace", "residual"]) == ["nullspace"]
    assert near("DOG", ["cat", "dog"]) == ["dog"] and near(3, ["cat"]) == []


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: one_of("method", "rigde", ["ridge", "gated"]), "method: 'rigde' .*'ridge'"),
        (lambda: one_of("k", "zzz", ["cat", "dog"]), "k: 'zzz' .*'cat', 'dog'"),
        (lambda: names("classes", "dog", ["dog"]), r"classes: 'dog' .*\['dog'\]"),
        (lambda: names("classes", [], ["dog"]), "classes: .*'dog'"),
        (lambda: distinct("classes", ["a", "b", "a"]), "classes: 'a' "),
        (lambda: distinct("classes", ["dog", " _\n"]), r"classes: ' _\\n' "),
        (lambda: distinct("classes", ["\x1b[31mdog"]), r"classes: '\\x1b\[31mdog' "),
        (lambda: distinct("classes", ["\udc80"]), r"classes: '\\udc80' "),
        (lambda: within("alpha", 2, 0, 1), r"alpha: 2 .*\[0, 1\]"),
        (lambda: within("alpha", True, 0, 1), "alpha: True "),
        (lambda: at_least("k", 0, 1), "k: 0 .*at least 1"),
        (lambda: at_least("k", 2.0, 1), "k: 2.0 "),
    ],
)
def test_a_message_names_argument_value_and_what_was_expected(call, parts):
    with pytest.raises(ValueError, match=f"^{parts}"):
        call()


def test_long_values_are_cut_to_one_line():
    assert brief("dog") == "'dog'" and len(brief("x" * 100)) == 60 + len(" ... ")
    assert one_line(ValueError("bad:\n\tx  y\n\n")) == "bad: x y" and one_line("") == ""
    assert one_line("a" * 300 + "\nthe reason", 20) == "a" * 10 + " ... the reason"


def test_odd_and_many_names_are_names():
    odd = ["two\nlines", "a\tb", "👩‍🚀", "x" * 250, "ünï", "$x$", "<b>|`", " a "]
    many = [*odd, *(f"name {i}" for i in range(50_000))]  # the square of that would not end
    assert distinct("classes", many) == tuple(many) and names("classes", ["a\tb"], odd) == ("a\tb",)


@pytest.mark.parametrize(("module", "extra"), [("sklearn.metrics", "course"), ("nosuch", "book")])
def test_a_missing_package_names_the_extra_that_brings_it(module, extra, monkeypatch):
    assert import_extra("json.decoder", "course") is sys.modules["json.decoder"]
    package = module.partition(".")[0]
    for name in (package, module):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{package} .*pip install 'clipnull\[{extra}\]'"):
        import_extra(module, extra)


def test_what_an_installed_package_lacks_keeps_its_name(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there'"):
        import_extra("half_there", "course")
