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
    pictures = notebook("b", "# parameters\ndata = ''  # folder\nforget_domain = 'line'  # of the examples")
    for path, profile in ((plain, "mini"), (plain, "pacs"), (pictures, "mini")):
        assert notebooks.preset_for(path, profile) == {}
    assert notebooks.preset_for(pictures, "pacs") == {"data": "/pictures/test", "forget_domain": "sketch"}


def test_a_profile_leaves_out_the_notebooks_that_it_goes_without(notebook, monkeypatch, no_gpu):
    monkeypatch.setenv("CLIPNULL_EMBEDDINGS", "/embeddings")
    parameters = "# parameters\ndata = ''  # folder\nforget_class = 'dog'  # of the examples"
    with_pixels, with_embeddings = notebook("02_pictures", parameters), notebook("03_angles", parameters)
    assert notebooks.preset_for(with_pixels, "realclip") == {}
    assert notebooks.preset_for(with_pixels, "mini") == {} == notebooks.preset_for(with_embeddings, "mini")
    assert notebooks.preset_for(with_embeddings, "realclip") == {
        "data": "/embeddings/vitb32_style.npz",
        "forget_class": "cat",
    }


def test_a_profile_without_what_it_needs_is_refused(notebook, monkeypatch, no_gpu, tmp_path):
    for variable in ("CLIPNULL_DATA", "CLIPNULL_EMBEDDINGS"):
        monkeypatch.delenv(variable, raising=False)
    path = notebook("a", PARAMETERS)
    for profile, words in (
        ("pacs", "needs the variable CLIPNULL_DATA; expected the folder of PACS"),
        ("realclip", "needs the variable CLIPNULL_EMBEDDINGS; expected the folder of vitb32_style.npz"),
        ("gpu", "no*n*e"),
        ("max", "expected one of mini, gpu, pacs, realclip"),
    ):
        with pytest.raises(ValueError, match=f"profile: '{profile}' .*{words}"):
            run([path], tmp_path / "out", profile=profile)
    assert not (tmp_path / "out").exists()


def test_every_parameter_of_a_profile_is_known_to_a_notebook():
    found = (Path(__file__).parent.parent / "notebooks").glob("*.ipynb")
    known = {name for path in found for name in notebooks.parameters_of(path)}
    for name, profile in profiles.PROFILES.items():
        assert set(profile.parameters) <= known, name
        assert profile.goldens in profiles.PROFILES
