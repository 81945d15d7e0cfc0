"""The notebooks: as committed, and executed with their metrics against the goldens."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from pages import page_faults

from clipnull.course import goldens, lesson, notebooks
from clipnull.course.metrics import MIME, metrics_of
from clipnull.course.profiles import PROFILES, default_profile
from clipnull.course.run import run
from clipnull.files import write_text

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GOLDENS = json.loads((ROOT / "tests" / "goldens.json").read_text(encoding="utf-8"))
MACHINE = r"(?<![\w.])/(work|root|home|tmp|Users)/"
SHOWN = ("01", "05")  # on a real CLIP with each change; `make nightly` executes all
ALWAYS = "00"  # the fastest notebook: it finds an environment that broke
LARGEST, ALL = 500_000, 4_000_000  # bytes a notebook, and of all of them


# --- what is asked of a notebook: each function gives a list of faults


PARAMETER = re.compile(r"""\w+ = ("[^"]*"|-?\d+(\.\d+)?|True|False) +# .+""")


def parameter_faults(nb) -> list[str]:
    cells = [c for c in nb.cells if "parameters" in c.metadata.get("tags", ())]
    if len(cells) != 1:
        return [f"{len(cells)} cells tagged parameters, not one"]
    lines = cells[0].source.splitlines()
    return [f"not `name = <text, number or bool>  # what for`: {line}" for line in lines if not PARAMETER.match(line)]


def record_faults(nb) -> list[str]:
    code = [c for c in nb.cells if c.cell_type == "code"]
    calls = [c for c in code if re.search(r"\brecord\(", c.source)]
    return [] if len(calls) == 1 and calls[0] is code[-1] else ["not exactly the last code cell records metrics"]


NOT_SHOWN = {
    '"output_type": "error"': "an exception",
    MACHINE: "a path of one machine",
    r"\b0x[0-9a-f]{6,}": "an address in memory, which changes from run to run",
    r"vnd\.jupyter\.widget": "a widget",
    "<img": "a picture in HTML; use `figure` of clipnull.course.lesson",
}


def output_faults(nb) -> list[str]:
    faults = ["holds widget state"] if "widgets" in nb.metadata else []
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            faults.append(f"cell {number} was not executed")
        if re.search(MACHINE, cell.source):
            faults.append(f"cell {number} names a path of one machine")
        for out in cell.get("outputs", ()):
            text = json.dumps(out)
            faults += [f"cell {number} shows {fault}" for part, fault in NOT_SHOWN.items() if re.search(part, text)]
            if "image/png" in out.get("data", {}) and not out.metadata.get("image/png", {}).get("alt"):
                faults.append(f"cell {number} shows a picture without text; use `figure` of clipnull.course.lesson")
    return faults


NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")


def difference(stored, executed) -> list[str]:
    """Where the outputs of two versions of a notebook differ: texts exactly, their numbers by 2 % or the last digit.

    Of a figure the data that `drawings.drawn` gave are compared.
    """
    injected = "injected-parameters"
    before, after = ([c for c in nb.cells if injected not in c.metadata.get("tags", ())] for nb in (stored, executed))
    faults = [] if len(before) == len(after) else ["another number of cells"]
    for number, pair in enumerate(zip(before, after, strict=False), 1):
        texts = [" ".join(map(shown, cell.get("outputs", ()))) for cell in pair]
        if len({NUMBER.sub("#", text) for text in texts}) > 1:
            faults.append(f"cell {number}: other text")
        elif off := [(a, b) for a, b in zip(*map(NUMBER.findall, texts), strict=True) if not near(a, b)]:
            faults.append(f"cell {number}: {off[0][0]} is stored, and {off[0][1]} came out")
    return faults


def near(a: str, b: str) -> bool:
    x, y = (float(text.replace("−", "-")) for text in (a, b))
    digit = 10.0 ** -len(a.partition("e")[0].partition(".")[2])
    return abs(x - y) <= max(1.01 * digit, 0.02 * abs(x))


def shown(output) -> str:
    """What an output shows, as text: of a figure its caption and its data."""
    data = output.get("data", {})
    if any(kind == MIME for kind in data):
        return ""  # goldens compare metrics
    text = output.get("text") or data.get("text/markdown") or data.get("text/html") or data.get("text/plain", "")
    return text + json.dumps(output.get("metadata", {}).get("clipnull", {}).get("drawn", ""))


def is_fresh(nb) -> bool:
    return nb.metadata.get("clipnull", {}).get("stamp") == notebooks.stamp(nb)


# --- the notebooks as committed


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def path(request):
    return request.param


@pytest.fixture
def nb(path):
    return nbformat.read(path, 4)


def test_notebooks_are_numbered_in_one_row_and_have_goldens():
    assert [p.name[:3] for p in NOTEBOOKS] == [f"{i:02d}_" for i in range(len(NOTEBOOKS))] != []
    assert set(GOLDENS) <= {profile.goldens for profile in PROFILES.values()}
    assert set(GOLDENS["mini"]) == {p.stem for p in NOTEBOOKS}


def test_parameters_are_plain(nb):
    assert parameter_faults(nb) == []


def test_the_first_code_cell_refuses_wrong_parameters(nb, path, monkeypatch, clip, images, z):
    monkeypatch.chdir(path.parent)
    code, names = [cell.source for cell in nb.cells if cell.cell_type == "code"], {}
    parameters = notebooks.parameters_of(path)
    while parameters.keys() - names:  # the imports, and the parameters themselves
        exec(code.pop(0), names)
    for name, known in {"load": clip, "load_images": images, "embed": z}.items():
        monkeypatch.setattr(lesson, name, lambda *_, known=known, **__: known)
    for name, value in parameters.items():
        for wrong in (3 if isinstance(value, str) else "3", None):
            with pytest.raises(ValueError, match=rf"^{name}: {wrong!r} is not valid; expected "):
                exec(code[0], {**names, name: wrong})
        for kind in ("classes", "domains"):
            if value in getattr(images.vocabulary, kind):
                with pytest.raises(ValueError, match=f"^{kind}: 'dgo' is unknown"):
                    exec(code[0], {**names, name: "dgo"})


def test_last_code_cell_records(nb):
    assert record_faults(nb) == []


def test_outputs_are_whole_small_and_of_no_one_machine(path, nb):
    assert output_faults(nb) == []
    assert path.stat().st_size <= LARGEST and sum(path.stat().st_size for path in NOTEBOOKS) <= ALL


def test_outputs_come_from_this_source(nb):
    fresh = is_fresh(nb)  # or pytest would print the whole notebook
    assert fresh, "stale outputs: make outputs"


def test_committed_metrics_match_goldens(path, nb):
    golden = {path.stem: GOLDENS["mini"][path.stem]}
    assert goldens.compare({path.stem: metrics_of(nb)}, golden, path.parent)[1] == []


@pytest.mark.parametrize("profile", GOLDENS)
def test_goldens_reject_their_null(profile):
    for name, golden in GOLDENS[profile].items():
        for metric, entry in golden.items():
            assert goldens.weakness(**entry) == "", (name, metric)  # value, null and atol, and nothing else


# --- the same, executed now


def executions() -> list:
    """The profile and the notebook of each execution: with that of this machine all, on a real CLIP some by day."""
    cases = []
    for profile, variable in {"": "PATH", "pacs": "CLIPNULL_DATA", "realclip": "CLIPNULL_EMBEDDINGS"}.items():
        for path in NOTEBOOKS:
            if not profile or path.stem in GOLDENS[profile]:
                marks = [pytest.mark.skipif(not os.environ.get(variable), reason=f"{variable} names no folder")]
                by_day = not profile or (profile == "realclip" and path.name.startswith(SHOWN))
                marks += [] if by_day else [pytest.mark.nightly]
                cases.append(pytest.param(profile, path, id=f"{profile}-{path.stem}".strip("-"), marks=marks))
    return cases


@pytest.mark.notebooks
@pytest.mark.parametrize(("profile", "path"), executions())
def test_executed_metrics_match_goldens(profile, path):
    """Each is executed once, into a folder of its own; by day unless its stored outputs come from this source."""
    profile, nightly = profile or default_profile(), os.environ.get("CLIPNULL_NIGHTLY")
    if not nightly and not path.name.startswith(ALWAYS) and is_fresh(notebooks.read(path)):
        pytest.skip("fresh: its outputs come from this source")
    golden = {path.stem: GOLDENS[PROFILES[profile].goldens].get(path.stem, {})}
    out = ROOT / "build" / f"test-{profile}-{path.stem}"
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # others execute beside this one: share cores
    metrics, failures = run([path], out, profile=profile, jobs=workers)
    assert failures == []
    table, faults = goldens.compare(metrics, golden, out)
    write_text(out / "diff.txt", f"{table}\n")
    faults += page_faults((out / f"{path.stem}.html").read_text(encoding="utf-8"))
    if nightly and profile in ("mini", "gpu"):
        faults += difference(notebooks.read(path), notebooks.read(out / path.name))
    assert faults == []


def test_goldens_of_a_profile_are_of_all_notebooks_that_take_its_data(monkeypatch):
    for profile, variable in (("pacs", "CLIPNULL_DATA"), ("realclip", "CLIPNULL_EMBEDDINGS")):
        monkeypatch.setenv(variable, "/data")
        assert {*GOLDENS[profile]} == {path.stem for path in NOTEBOOKS if notebooks.preset_for(path, profile)} != set()
