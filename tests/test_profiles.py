"""Profiles: what they set, and what they need."""

import pytest
from conftest import ROOT

from clipnull.course import notebooks, profiles
from clipnull.course.run import run

PICTURES = "# parameters\ndata = ''  # folder\nforget_domain = 'line'  # of the examples"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    for module in ("clipnull.course.profiles", "clipnull.course.run"):
        monkeypatch.setattr(f"{module}.default_profile", lambda: "mini")


def test_a_profile_sets_what_a_notebook_has_in_those_that_it_runs(notebook, monkeypatch):
    monkeypatch.setenv("CLIPNULL_DATA", "/pictures")
    monkeypatch.setenv("CLIPNULL_EMBEDDINGS", "/embeddings")
    plain, lesson_02, lesson_03 = notebook("a", "x = 1"), notebook("02_a", PICTURES), notebook("03_b", PICTURES)
    pacs = {"data": "/pictures/test", "forget_domain": "sketch"}
    realclip = {"data": "/embeddings/vitb32_style.npz", "forget_domain": "drawing"}
    for profile, expected in {"mini": [{}, {}, {}], "pacs": [{}, pacs, pacs], "realclip": [{}, {}, realclip]}.items():
        assert [notebooks.preset_for(path, profile) for path in (plain, lesson_02, lesson_03)] == expected


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("pacs", "expected the variable CLIPNULL_DATA to name"),
        ("realclip", "expected the variable CLIPNULL_EMBEDDINGS"),
        ("gpu", "needs a GPU; torch finds none"),
        ("max", "expected one of 'mini', 'gpu'"),
    ],
)
def test_a_profile_without_what_it_needs_is_refused(notebook, monkeypatch, tmp_path, profile, words):
    for variable in ("CLIPNULL_DATA", "CLIPNULL_EMBEDDINGS"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match=f"profile: '{profile}' .*{words}"):
        run([notebook("a", "x = 1")], tmp_path / "out", profile=profile)
    assert not (tmp_path / "out").exists()


def test_every_parameter_of_a_profile_is_known_to_a_notebook():
    known = {name for path in (ROOT / "notebooks").glob("*.ipynb") for name in notebooks.parameters_of(path)}
    for name, profile in profiles.PROFILES.items():
        assert set(profile.parameters) <= known, name
        assert profile.goldens in profiles.PROFILES
