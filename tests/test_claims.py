"""Lessons with other classes, domains and pictures than their prose was written for; numbers are never NaN."""

import math
import os
import re
from pathlib import Path

import nbformat
import pytest
from test_notebooks import GOLDENS, NOTEBOOKS, ROOT

from clipnull.course import notebooks
from clipnull.course.profiles import PROFILES
from clipnull.course.run import run


def text_of(nb) -> str:
    """Return all text in the outputs: prints, tables, and the alternative texts of figures."""
    parts = []
    for cell in nb.cells:
        for out in cell.get("outputs", ()):
            parts += [out.get("text", ""), out.get("data", {}).get("text/markdown", "")]
            parts.append(out.get("metadata", {}).get("image/png", {}).get("alt", ""))
    return "\n".join(parts)


def nan_faults(text: str) -> list[str]:
    return [f"a number that is none: {line.strip()[:90]}" for line in re.findall(r"(?m)^.*\bnan\b.*$", text)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_outputs_show_no_nan(path):
    text = text_of(nbformat.read(path, 4))
    assert len(text) > 200 and nan_faults(text) == []


# --- the same, of other classes, domains and pictures than the prose was written for

OTHER = {"mini": ("house", "shaded"), "pacs": ("horse", "cartoon"), "realclip": ("dog", "photo")}  # by profile
PLACES = {"pacs": "CLIPNULL_DATA", "realclip": "CLIPNULL_EMBEDDINGS"}
ASKING = [path for path in NOTEBOOKS if path.name[:2] != "08"]  # for a class or a domain


def others(path: Path, profile: str) -> dict[str, str]:
    """The parameters of a notebook that name classes and domains, with others in their place."""
    name, domain = OTHER[profile]
    wanted = dict.fromkeys(("forget_class", "forgotten", "forget_classes"), name)
    wanted |= dict.fromkeys(("forget_domain", "domain", "forget_domains"), domain) | {"other_words": ""}
    return {key: value for key, value in wanted.items() if key in notebooks.parameters_of(path)}


def faults_with_others(path: Path, profile: str) -> list[str]:
    """Execute the notebook with others; what fails, what is recorded otherwise, and what is claimed wrongly."""
    out, given = ROOT / "build" / f"test-others-{profile}-{path.stem}", others(path, profile)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    metrics, failures = run([path], out, given, profile=profile, jobs=workers)
    if failures:
        return failures
    recorded, known = metrics[path.stem], GOLDENS[PROFILES[profile].goldens][path.stem]
    faults = [f"recorded {sorted(recorded)}; expected {sorted(known)}"] if not set(recorded) <= set(known) else []
    faults += [f"{metric} is {value}" for metric, value in recorded.items() if not math.isfinite(value)]
    text = text_of(nbformat.read(out / path.name, 4))
    faults += [f"{value!r} is missing from the outputs" for value in given.values() if value not in text]
    return faults + nan_faults(text)


@pytest.mark.notebooks
@pytest.mark.nightly
@pytest.mark.parametrize("path", ASKING, ids=lambda p: p.stem)
@pytest.mark.parametrize("profile", OTHER)
def test_a_notebook_holds_with_others(path, profile):
    if profile in PLACES and not os.environ.get(PLACES[profile]):
        pytest.skip(f"{PLACES[profile]} names no folder")
    if path.stem not in GOLDENS[PROFILES[profile].goldens]:
        pytest.skip(f"it is not for the pictures of {profile}")
    assert faults_with_others(path, profile) == []
