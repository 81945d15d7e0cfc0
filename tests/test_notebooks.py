"""The notebooks: as committed, and executed with their metrics against the goldens."""

import ast
import copy
import importlib
import io
import json
import os
import re
import tokenize
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import papermill
import pytest
from pages import page_faults

import clipnull
from clipnull.course import goldens, notebooks, plots
from clipnull.course.metrics import metrics_of
from clipnull.course.profiles import PROFILES, default_profile
from clipnull.course.run import run
from clipnull.files import write_text

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GOLDENS = json.loads((ROOT / "tests" / "goldens.json").read_text(encoding="utf-8"))
MACHINE = re.compile(r"(?<![\w.])/(work|root|home|tmp|Users)/")
PICTURE = re.compile(r"data:image/(?:png|webp);base64,[A-Za-z0-9+/=]*")
SHOWN = ("01", "05")  # on a real CLIP with each change; `make nightly` executes all
ALWAYS = "00"  # the fastest notebook: it finds an environment that broke
LARGEST, ALL = 500_000, 4_000_000  # bytes a notebook, and of all of them


# --- what is asked of a notebook: each function gives a list of faults


def parameter_faults(nb) -> list[str]:
    cells = [c for c in nb.cells if "parameters" in c.metadata.get("tags", ())]
    if len(cells) != 1:
        return [f"{len(cells)} cells tagged parameters, not one"]
    source, faults = cells[0].source, []
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.parse(source).body:
        line = ast.unparse(node)
        try:
            assert isinstance(node, ast.Assign) and [type(t) for t in node.targets] == [ast.Name]
            assert type(ast.literal_eval(node.value)) in (str, int, float, bool)
        except (AssertionError, ValueError):
            faults.append(f"not `name = <str, int, float or bool>`: {line}")
        if node.lineno != node.end_lineno or node.lineno not in comments:
            faults.append(f"not one line with a comment at its end: {line}")
    return faults


def record_faults(nb) -> list[str]:
    code = [c for c in nb.cells if c.cell_type == "code"]
    calls = [c for c in code if re.search(r"\brecord\(", c.source)]
    return [] if len(calls) == 1 and calls[0] is code[-1] else ["not exactly the last code cell records metrics"]


def output_faults(nb) -> list[str]:
    faults = ["has no committed outputs"] if not any(c.get("outputs") for c in nb.cells) else []
    if "widgets" in nb.metadata:
        faults.append("holds widget state")
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            faults.append(f"cell {number} was not executed")
        if MACHINE.search(cell.source):
            faults.append(f"cell {number} names a path of one machine")
        for out in cell.get("outputs", ()):
            data = out.get("data", {})
            text = PICTURE.sub("", json.dumps(out))
            if out.output_type == "error":
                faults.append(f"cell {number} failed")
            if MACHINE.search(text):
                faults.append(f"output of cell {number} names a path of one machine")
            if re.search(r"\b0x[0-9a-f]{6,}", text):
                faults.append(f"output of cell {number} shows an address in memory, which changes from run to run")
            if any(k.startswith("image/") and not out.metadata.get(k, {}).get("alt") for k in data):
                faults.append(f"cell {number} shows a picture without text; use `figure` of clipnull.course.lesson")
            if any("widget" in kind for kind in data):
                faults.append(f"cell {number} shows a widget")
            faults += [
                f"cell {number} has an <img> without alt" for alt in alternatives(data.get("text/html", "")) if not alt
            ]
    return faults


def alternatives(text: str) -> list[str]:
    """The alternative text of each picture in a piece of HTML."""
    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == "img":
                found.append((dict(attributes).get("alt") or "").strip())

    Parser().feed(text)
    return found


def golden_faults(name: str, metrics, golden) -> list[str]:
    for metric, entry in golden.items():
        if set(entry) != {"value", "atol", "null"} or not all(type(v) in (int, float) for v in entry.values()):
            return [f"{metric}: expected numbers for value, atol and null: {entry}"]
    weak = {m: goldens.weakness(e["value"], e["null"], e["atol"]) for m, e in golden.items()}
    return goldens.differences({name: metrics}, {name: golden}) + [f"{m}: {why}" for m, why in weak.items() if why]


def source_faults(nb) -> list[str]:
    """Outputs that show source or docstrings of the library and are not what they would be today."""
    faults = []
    for number, cell in enumerate(nb.cells, 1):
        asked = re.findall(r"display\(Markdown\((\w+)\.__doc__\)\)", cell.source) if cell.cell_type == "code" else []
        if cell.cell_type == "code" and cell.source.count("__doc__") != len(asked):
            faults.append(f"cell {number} shows a docstring; use display(Markdown(name.__doc__)), name imported")
        plain = [
            o.data["text/markdown"]
            for o in cell.get("outputs", ())
            if "text/markdown" in o.get("data", {}) and "clipnull" not in o.metadata
        ]
        if asked and plain != [imports_of(nb)[name].__doc__ for name in asked]:
            faults.append(f"cell {number} shows docstrings of {', '.join(asked)} that are not today's")
        for out in cell.get("outputs", ()):
            names = out.get("metadata", {}).get("clipnull", {}).get("source", [])
            text = out.get("data", {}).get("text/markdown", "")
            if names and text != source_shown(*map(named, names))[0]:
                faults.append(f"cell {number} shows source of {', '.join(names)} that is not today's")
            elif not names and text.startswith("```python\n") and "def " in text:
                faults.append(f"cell {number} shows source of which nothing is known; use plots.show_source")
    return faults


def imports_of(nb) -> dict:
    """What the imports of a notebook name."""
    trees = [ast.parse(cell.source) for cell in nb.cells if cell.cell_type == "code"]
    found = [node for tree in trees for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {}
    exec(compile(ast.Module(found, []), "imports", "exec"), names)
    return names


def source_shown(*functions) -> tuple[str, dict]:
    """What `plots.show_source` displays: Markdown and metadata."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", lambda thing, metadata: made.append((thing.data, metadata)))
        plots.show_source(*functions)
    return made[0]


def named(name: str):
    """What a name such as "clipnull.edit.Edit.apply" means: the module is its longest part that can be imported."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        for part in parts[i:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


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


def test_papermill_sees_every_parameter(path, nb):
    (cell,) = (c for c in nb.cells if "parameters" in c.metadata.get("tags", ()))
    plain = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(cell.source).body}
    seen = {name: ast.literal_eval(p["default"]) for name, p in papermill.inspect_notebook(str(path)).items()}
    assert seen == plain


@pytest.fixture
def begin(nb, path, monkeypatch, clip, images):
    """The names after the imports and the parameters of a notebook, and the code cell that follows them."""
    monkeypatch.chdir(path.parent)
    code = [c for c in nb.cells if c.cell_type == "code"]
    last = next(i for i, c in enumerate(code) if "parameters" in c.metadata.get("tags", ()))
    names = {}
    for cell in code[: last + 1]:
        exec(cell.source, names)
    monkeypatch.setattr(clipnull, "load", lambda *_: clip)
    monkeypatch.setattr(clipnull, "load_images", lambda *_, **__: images)
    parameters = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(code[last].source).body}
    return names, parameters, code[last + 1].source


def test_the_first_code_cell_refuses_parameters_of_another_type(begin):
    names, parameters, source = begin
    for name, value in parameters.items():
        for wrong in (3 if isinstance(value, str) else "3", None):
            with pytest.raises(ValueError, match=rf"^{name}: {wrong!r} is not valid; expected "):
                exec(source, {**names, name: wrong})


def test_the_first_code_cell_refuses_unknown_names(begin, images):
    names, parameters, source = begin
    for kind in ("classes", "domains"):
        for name in (n for n, value in parameters.items() if value in getattr(images.vocabulary, kind)):
            with pytest.raises(ValueError, match=f"^{kind}: 'dgo' is not known"):
                exec(source, {**names, name: "dgo"})


def test_last_code_cell_records(nb):
    assert record_faults(nb) == []


def test_outputs_are_whole_small_and_of_no_one_machine(path, nb):
    assert output_faults(nb) == []
    assert path.stat().st_size <= LARGEST


def test_all_notebooks_together_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) <= ALL


def test_outputs_come_from_this_source(nb):
    fresh = is_fresh(nb)
    assert fresh, "stale outputs: make outputs"


def test_source_in_outputs_is_that_of_today(nb):
    """The stamp does not follow docstrings; where a notebook shows them, this does."""
    assert source_faults(nb) == []


def test_committed_metrics_match_goldens_that_reject_their_null(path, nb):
    assert golden_faults(path.stem, metrics_of(nb), GOLDENS["mini"].get(path.stem, {})) == []


@pytest.mark.parametrize("profile", GOLDENS)
def test_goldens_of_every_profile_reject_their_null(profile):
    found = [
        (name, fault)
        for name, golden in GOLDENS[profile].items()
        for fault in golden_faults(name, {metric: entry["value"] for metric, entry in golden.items()}, golden)
    ]
    assert found == []
    assert set(GOLDENS[profile]) <= {p.stem for p in NOTEBOOKS}


# --- the same, executed now


def execution_faults(path: Path, profile: str) -> list[str]:
    """Execute the notebook once, into a folder of its own with diff.txt in it; what is wrong with what it gave.

    By day a notebook is skipped whose stored outputs come from this source.
    """
    if not os.environ.get("CLIPNULL_NIGHTLY") and not path.name.startswith(ALWAYS) and is_fresh(notebooks.read(path)):
        pytest.skip("fresh: its outputs come from this source")
    held = {path.stem: GOLDENS[PROFILES[profile].goldens].get(path.stem, {})}
    out = ROOT / "build" / f"test-{profile}-{path.stem}"
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # others execute beside this one: share cores
    metrics, failures = run([path], out, profile=profile, jobs=workers)
    if failures:
        return failures
    write_text(out / "diff.txt", goldens.diff(metrics, held) + "\n")
    page = (out / f"{path.stem}.html").read_text(encoding="utf-8")
    return goldens.differences(metrics, held, out) + page_faults(page)


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_executed_metrics_match_goldens(path):
    """On the GPU where there is one, else the CPU."""
    assert execution_faults(path, default_profile()) == []


@pytest.mark.notebooks
@pytest.mark.nightly
@pytest.mark.skipif(not os.environ.get("CLIPNULL_DATA"), reason="CLIPNULL_DATA names no folder of PACS")
@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem in GOLDENS.get("pacs", {})], ids=lambda p: p.stem
)
def test_executed_metrics_on_pacs_match_goldens(path):
    assert execution_faults(path, "pacs") == []


@pytest.mark.notebooks
@pytest.mark.skipif(not os.environ.get("CLIPNULL_EMBEDDINGS"), reason="CLIPNULL_EMBEDDINGS names no folder")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path.name.startswith(SHOWN) else pytest.mark.nightly)
        for path in NOTEBOOKS
        if path.stem in GOLDENS.get("realclip", {})
    ],
)
def test_executed_metrics_on_a_real_clip_match_goldens(path):
    assert execution_faults(path, "realclip") == []


def test_goldens_of_a_real_clip_are_of_all_notebooks_that_take_its_embeddings(monkeypatch):
    monkeypatch.setenv("CLIPNULL_EMBEDDINGS", "/embeddings")
    taking = {path.stem for path in NOTEBOOKS if notebooks.preset_for(path, "realclip")}
    assert set(GOLDENS["realclip"]) == taking
    assert {path.name[:2] for path in NOTEBOOKS} - {name[:2] for name in taking} == {"02", "09"}
    assert sum(name.startswith(SHOWN) for name in taking) == len(SHOWN) == 2


def test_goldens_of_pacs_are_of_all_notebooks_that_take_pictures(monkeypatch):
    monkeypatch.setenv("CLIPNULL_DATA", "/pictures")
    taking = {path.stem for path in NOTEBOOKS if notebooks.preset_for(path, "pacs")}
    assert set(GOLDENS["pacs"]) == taking != set()


# --- each fault is found


def sound():
    code = nbformat.v4.new_code_cell
    page = '<figure><img alt="A rising line." src="x"></figure>'
    figure = nbformat.v4.new_output("display_data", {"text/html": page})
    return nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Title"),
            code("seed = 3  # of the draw\nname = 'a'  # any", metadata={"tags": ["parameters"]}, execution_count=1),
            code("show(fig, 'A rising line.')", outputs=[figure], execution_count=2),
            code("cn.record(x=1.0)", execution_count=3),
        ]
    )


def faults(nb):
    return parameter_faults(nb) + record_faults(nb) + output_faults(nb)


def test_a_sound_notebook_has_no_faults():
    assert faults(sound()) == []


@pytest.mark.parametrize(
    "source",
    [
        "seed = 3",
        "seed = [1]  # list",
        "seed = None  # nothing",
        "seed = 2 * 3  # derived",
        "import os  # no",
        "seed = (\n 3)  # two lines",
        "a = b = 3  # two names",
        "seed = 3  # first\nother = seed  # derived",
        "seed: int = 3  # annotated",
    ],
)
def test_parameter_faults_are_found(source):
    nb = sound()
    nb.cells[1].source = source
    assert parameter_faults(nb)


@pytest.mark.parametrize("tags", [[], ["parameters"]])
def test_a_missing_and_a_second_parameters_cell_are_found(tags):
    nb = sound()
    nb.cells[1].metadata["tags"] = tags
    nb.cells[2].metadata["tags"] = tags
    assert parameter_faults(nb)


def test_record_faults_are_found():
    nb = sound()
    nb.cells.append(nbformat.v4.new_code_cell("more"))
    assert record_faults(nb)
    nb = sound()
    nb.cells[2].source = "cn.record(y=2.0)"
    assert record_faults(nb)


@pytest.mark.parametrize(
    "output",
    [
        nbformat.v4.new_output("error", ename="E", evalue="", traceback=[]),
        nbformat.v4.new_output("stream", text="wrote /tmp/x"),
        nbformat.v4.new_output("stream", text="<Thing at 0x7f3a2b1c>"),
        nbformat.v4.new_output("display_data", {"image/png": "x"}),
        nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}}),
        nbformat.v4.new_output("display_data", {"text/html": '<img src="x">'}),
        nbformat.v4.new_output("display_data", {"text/html": '<img alt=" " src="x">'}),
    ],
    ids=["error", "path", "address", "picture", "widget", "no alt", "empty alt"],
)
def test_output_faults_are_found(output):
    nb = sound()
    nb.cells[2].outputs.append(output)
    assert len(output_faults(nb)) == 1


@pytest.mark.parametrize(
    "harm",
    [
        lambda nb: nb.cells[2].update(outputs=[]),
        lambda nb: nb.metadata.update(widgets={}),
        lambda nb: nb.cells[3].update(execution_count=None),
        lambda nb: nb.cells[0].update(source="in /home/me/x"),
    ],
    ids=["no outputs", "widget state", "not executed", "path in source"],
)
def test_faults_of_the_whole_are_found(harm):
    nb = sound()
    harm(nb)
    assert len(output_faults(nb)) == 1


def test_a_path_within_a_picture_is_no_fault():
    nb = sound()
    nb.cells[2].outputs[0].data["text/html"] = '<img alt="A line." src="data:image/png;base64,iVBOR+/tmp/x==">'
    assert output_faults(nb) == []


@pytest.mark.parametrize("name", ["00_a", "01_b"])
def test_a_fresh_notebook_is_executed_by_night_and_the_fastest_always(notebook, monkeypatch, name):
    path = notebook(name, "1")
    monkeypatch.setattr(f"{__name__}.run", lambda *_, **__: ({}, ["ran"]))
    monkeypatch.delenv("CLIPNULL_NIGHTLY", raising=False)
    assert execution_faults(path, "mini") == ["ran"], "stale: it has no stamp"
    nb = notebooks.read(path)
    nb.metadata["clipnull"] = {"stamp": notebooks.stamp(nb)}
    notebooks.write(path, nb)
    if name.startswith(ALWAYS):
        assert execution_faults(path, "mini") == ["ran"]
    else:
        with pytest.raises(pytest.skip.Exception, match="fresh"):
            execution_faults(path, "mini")
    monkeypatch.setenv("CLIPNULL_NIGHTLY", "1")
    assert execution_faults(path, "mini") == ["ran"]


@pytest.mark.parametrize("profile", ["mini", "pacs"])
def test_an_execution_is_held_against_goldens_and_its_page(notebook, tmp_path, monkeypatch, profile):
    """Its one process is left out here."""
    path = notebook("a", "1")
    page = tmp_path / "build" / f"test-{profile}-a" / "a.html"
    page.parent.mkdir(parents=True)
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    monkeypatch.setattr(f"{__name__}.GOLDENS", {profile: {"a": {"x": {"value": 1.0, "atol": 0.1, "null": 0.0}}}})
    given = {"metrics": {"a": {"x": 1.05}}, "failures": []}
    monkeypatch.setattr(f"{__name__}.run", lambda *_, **__: (given["metrics"], given["failures"]))
    page.write_text("<p>sound</p>")
    assert execution_faults(path, profile) == []
    assert "1.05" in page.with_name("diff.txt").read_text()
    page.write_text("<script></script>")
    assert execution_faults(path, profile) == ["has a script"]
    given["metrics"] = {"a": {"x": 1.2}}
    assert len(execution_faults(path, profile)) == 2
    given["failures"] = ["a.ipynb, cell 1"]
    assert execution_faults(path, profile) == given["failures"]


def test_source_that_is_not_of_today_is_found():
    text, metadata = source_shown(clipnull.Edit.apply, clipnull.METHODS["oblique"].function, clipnull.Forget)

    def found(text, metadata):
        output = nbformat.v4.new_output("display_data", {"text/markdown": text}, metadata=metadata)
        return source_faults(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])]))

    assert found(text, metadata) == [] == found("plain", {})
    (fault,) = found(text.replace('"""', '"""Formerly: ', 1), metadata)
    assert "clipnull.edit.Edit.apply, clipnull.methods.oblique.oblique, clipnull.vocabulary.Forget" in fault
    assert "use plots.show_source" in found(text, {})[0]


def test_a_docstring_that_is_not_of_today_is_found():
    from clipnull.methods import ridge

    def found(source, text):
        output = nbformat.v4.new_output("display_data", {"text/markdown": text})
        cells = [nbformat.v4.new_code_cell("from clipnull.methods import ridge")]
        return source_faults(
            nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(source, outputs=[output])])
        )

    asked = "display(Markdown(ridge.__doc__))"
    assert found(asked, ridge.__doc__) == []
    assert "docstrings of ridge that are not today's" in found(asked, "Formerly: " + ridge.__doc__)[0]
    assert "use display(Markdown(name.__doc__))" in found("print(ridge.__doc__)", "")[0]


@pytest.mark.parametrize(
    "change",
    [
        {"null": 9.8},
        {"null": 9.5},
        {"null": 9.01},
        {"null": 10.99},
        {"atol": None},
        {"null": None},
        {"value": 11.0},
        {"rtol": 0.1},
    ],
)
def test_golden_faults_are_found(change):
    golden = {"gap": {"value": 10.0, "atol": 0.5, "null": 0.0}}
    assert golden_faults("04", {"gap": 10.0}, golden) == []
    harmed = copy.deepcopy(golden)
    harmed["gap"].update(change)
    assert golden_faults("04", {"gap": 10.0}, harmed)
