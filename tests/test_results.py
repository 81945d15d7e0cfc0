"""RESULTS.md and the README's table are what the files in data/results say."""

import copy
import json
from pathlib import Path

import pytest
import reporting
import write as results
from PIL import Image

ROOT = Path(__file__).parent.parent
PICTURES = {"forgotten": 9, "before": 8, "after": 1, "kept": 90, "lost": 3, "gained": 2, "worst_of": 7, "worst_lost": 2,
            "others": 100, "renamed": 5}  # fmt: skip
CATS = {"drawing": [20, 10, 1], "photo": [30, 29, 27]}


def sweep(**changes):
    """What `clipnull bench --json` writes, made up: two methods on every paradigm."""
    summary = [
        {
            "paradigm": paradigm, "method": method, "prompts": prompts, "requests": 2 + (paradigm == "selective"),
            "measured": 2, "forgetting_rate": [0.85, 0.7, 1.0] if prompts == "free" else [0.0, 0.0, 0.1],
            "retain_drop": [2.0, -1.0, 5.04], "sibling_class_drop": [None] * 3, "sibling_domain_drop": [None] * 3,
            "worst_cell_drop": [4.0, 0.0, 9.0], "collateral": [5.0, 3.0, 8.0], "pictures": PICTURES,
        }
        for paradigm in ("global", "selective", "complete")
        for method in ("oblique", "neuron", "gated")
        for prompts in ("free", "build")
    ]  # fmt: skip
    asked = {"classes": ["cat"], "domains": ["drawing"], "by_domain": CATS}
    rows = [asked | {"method": method, "prompts": "free"} for method in ("oblique", "gated")]
    rows += [row | {"prompts": "build", "by_domain": {}} for row in rows] + [rows[0] | {"classes": ["dog"]}]
    requests = {"global": 2, "selective": 3, "complete": 2}
    found = {"kind": "bench", "name": "My Pictures", "model": "miniclip", "pretrained": None, "stored": False}
    found |= {"note": "", "prototypes": True, "pictures": 10, "classes": 4, "domains": 2}
    return found | {"requests": requests, "summary": summary, "rows": rows} | changes


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "data" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text(
        f"# A\n\n{results.SHOW}\nold\n{results.SHOWN}\n{results.BEGIN}\nold\n{results.END}\n\nend\n", encoding="utf-8"
    )
    return tmp_path


def measured(folder, found):
    path = folder / "found.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def test_the_committed_page_and_table_are_those_of_the_committed_files():
    known = results.read(ROOT)
    assert {entry["kind"] for entry in known} == set(results.KINDS)
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == results.page(known)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == results.in_readme(readme, known)


def test_of_a_measurement_of_rivals_all_but_the_rows_is_kept():
    known = next(entry for entry in results.read(ROOT) if entry["kind"] == "rivals")
    assert results.summary(known | {"rows": [1]}, "file") == known
    assert f"## R{known['name'][1:]}" in results.page([known])


def test_a_measurement_becomes_means_with_intervals_a_page_and_a_table(clone):
    written = results.write([measured(clone, sweep())], clone)
    assert [path.name for path in written] == ["my-pictures.json", "RESULTS.md", "README.md"]
    entry = json.loads(written[0].read_text())
    assert {row["prompts"] for row in entry["summary"]} == {"free"} and "rows" not in entry
    assert entry["example"] == {"oblique": CATS, "gated": CATS}
    page, readme = ((clone / name).read_text(encoding="utf-8") for name in ("RESULTS.md", "README.md"))
    assert (
        "| global | `oblique` | 2 of 2 | 0.850 [0.700, 1.000] | +2.0 [-1.0, +5.0] | – | – | +4.0 [+0.0, +9.0] "
        "| 5.0 [3.0, 8.0] |" in page
    )
    assert "| global | `oblique` | 2 of 2 | 8 → 1 of 9 | 3, 2 of 90 | 2 of 7 | 5 of 100 |" in page
    assert "| selective | `gated` | 2 of 3 |" in page, "a request with nothing to lose is counted"
    assert "| `oblique`, complete | ≥ 0.900 / ≤ 1.5 / – / ≤ 9.0 | **0.850** / **+2.0** / – / +4.0 |" in page
    assert "| `gated`, global | ≥ 0.990 / ≤ 0.0 / – / ≤ 1.0 | **0.850** / **+2.0** / – / **+4.0** |" in page
    assert "old" not in readme and "| `gated` | 0.85 / +2.0 / +4 / 5 % | " in readme and readme.endswith("end\n")
    assert "names 29 of 30 photographs and 10 of 20 children's drawings" in readme
    assert results.write([], clone) == written[1:], "without files, only the pages are written"


def test_stored_embeddings_have_a_section_that_tells_what_holds_and_what_is_unknown(clone):
    name = "OpenAI ViT-B/32, photo and drawing"
    about = {"stored": True, "prototypes": False, "note": "a C", "model": "ViT-B-32-quickgelu", "pretrained": "openai"}
    written = results.write([measured(clone, sweep(name=name, pictures=99) | about)], clone)
    assert written[0].name == "openai-vit-b-32-photo-and-drawing.json", "a slash is no folder"
    page, readme = ((clone / name).read_text(encoding="utf-8") for name in ("RESULTS.md", "README.md"))
    part = page[page.index(f"## Forgetting: {name}") :]
    for told in (
        "Stored embeddings of ViT-B-32-quickgelu, openai", "texts alone, without any picture (a C)",
        "Global: 0.850 [0.700, 1.000] forgotten (8 pictures right before, 1 after)", "vislearnlab/across-site-draw",
        "61b2b6e", "what other backbones do, and PACS. No prototypes", "clipnull embed PACS/test", "clipnull bench",
    ):  # fmt: skip
        assert told in part, told
    assert f"worst cell | target | {name} |" in page, "targets are told of a real model, too"
    assert f"| {name}: forgetting rate / retain drop / worst cell / collateral | global |" in readme
    results.write([measured(clone, sweep())], clone)
    page = (clone / "RESULTS.md").read_text(encoding="utf-8")
    assert (
        page.index("My Pictures") < page.index(f"## Forgetting: {name}") and "My Pictures |" in page.split("Targets")[1]
    )


def test_the_picture_shows_the_counts_of_the_file(clone):
    with pytest.raises(ValueError, match="picture: no file in data/results has the example"):
        results.picture(clone)
    results.write([measured(clone, sweep())], clone)
    path = results.picture(clone)
    with Image.open(path) as picture:
        assert picture.width >= 1600 and picture.info["dpi"][0] > 150, "for screens of twice the resolution"
        drawn = json.loads(picture.info["Description"])
    assert drawn["unedited"] == {"drawing": [20, 10], "photo": [30, 29]}
    assert drawn["gated"] == drawn["oblique"] == {"drawing": [20, 1], "photo": [30, 27]}


def test_the_committed_picture_and_its_caption_are_those_of_the_committed_file():
    entry = reporting.examples(results.read(ROOT))
    with Image.open(ROOT / results.PICTURE) as picture:
        assert json.loads(picture.info["Description"]) == reporting.shown(entry)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert reporting.caption(entry) in readme
    for found in entry["example"].values():
        assert f"{found['photo'][2]} and {found['drawing'][2]}" in readme
        assert found["photo"][:2] == next(iter(entry["example"].values()))["photo"][:2], "one model before"


def test_a_sweep_of_an_older_version_is_refused(clone):
    old = {key: value for key, value in sweep().items() if key != "summary"}
    with pytest.raises(ValueError, match="holds no intervals; expected what today's `clipnull bench --json` writes"):
        results.write([measured(clone, old)], clone)


@pytest.mark.parametrize(
    "found, message",
    [
        ([1], "holds no measurement"),
        ({"kind": "bench"}, "holds no measurement"),
        (sweep(kind="bensh"), "kind: 'bensh' is not known; did you mean 'bench'"),
    ],
)
def test_what_is_no_measurement_is_refused_and_nothing_written(clone, found, message):
    before = copy.deepcopy(sorted(path.name for path in clone.rglob("*")))
    with pytest.raises(ValueError, match=message):
        results.write([measured(clone, found)], clone)
    assert sorted(path.name for path in clone.rglob("*") if path.name != "found.json") == before


def test_a_readme_without_its_marks_and_a_folder_that_is_no_clone_are_refused(clone, tmp_path_factory):
    (clone / "README.md").write_text("# A", encoding="utf-8")
    with pytest.raises(ValueError, match="README: expected the marks"):
        results.write([], clone)
    with pytest.raises(ValueError, match="root: .* does not exist; expected the folder of a clone"):
        results.write([], tmp_path_factory.mktemp("elsewhere"))
