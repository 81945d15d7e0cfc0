"""Profiles: what they set, and what they need."""

from pathlib import Path

import pytest

from clipnull.course import notebooks, profiles
from clipnull.course.run import run

PARAMETERS = "# parameters\nseed = 3  # of the draw\nrate = 0.5  # share"


@pytest.fixture
def no_gpu(monkeypatch):
    for module in ("clipnull.course.profiles", "clipnull.course.run"):
        monkeypatch.setattr(f"{module}.default_profile", lambda: "mini")


def test_a_profile_sets_only_what_a_notebook_has(notebook, monkeypatch, no_gpu):
    monkeypatch.setenv("CLIPNULL_DATA", "/pictures")
    plain = notebook("a", PARAMETERS)
    pictures = notebook("b", "# parameters\ndata = ''  # folder\ndomain = 'line'  # of the examples")
    for path, profile in ((plain, "mini"), (plain, "pacs"), (pictures, "mini")):
        assert notebooks.preset_for(path, profile) == {}
    assert notebooks.preset_for(pictures, "pacs") == {"data": "/pictures/test", "domain": "sketch"}


def test_a_profile_without_what_it_needs_is_refused(notebook, monkeypatch, no_gpu, tmp_path):
    monkeypatch.delenv("CLIPNULL_DATA", raising=False)
    path = notebook("a", PARAMETERS)
    for profile, words in (("pacs", "CLIPNULL_DATA"), ("gpu", "no*n*e"), ("max", "expected one of mini, gpu, pacs")):
        with pytest.raises(ValueError, match=f"profile: '{profile}' .*{words}"):
            run([path], tmp_path / "out", profile=profile)
    assert not (tmp_path / "out").exists()


def test_every_parameter_of_a_profile_is_known_to_a_notebook():
    found = (Path(__file__).parent.parent / "notebooks").glob("*.ipynb")
    known = {name for path in found for name in notebooks.parameters_of(path)}
    for name, profile in profiles.PROFILES.items():
        assert set(profile.parameters) <= known, name
        assert profile.goldens in profiles.PROFILES
