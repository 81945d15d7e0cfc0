"""RESULTS.md and the README's table are what the files in data/results say."""

import copy
import json
from pathlib import Path

import pytest

from clipnull import results

ROOT = Path(__file__).parent.parent
ROW = {
    "paradigm": "global", "classes": ["dog"], "domains": None, "prompts": "free", "forgetting_rate": 1.0,
    "retain_drop": 0.5, "sibling_class_drop": None, "sibling_domain_drop": None, "worst_cell_drop": 4.0,
}  # fmt: skip


def sweep(**changes):
    """What `clipnull bench --json` writes, made up: two methods on every paradigm."""
    rows = [
        ROW | {"paradigm": paradigm, "method": method, "forgetting_rate": rate, "retain_drop": drop}
        for paradigm in ("global", "selective", "complete")
        for method in ("oblique", "gated")
        for rate, drop in ((0.9, 1.0), (0.8, 3.0))
    ]
    rows += [row | {"prompts": "build", "forgetting_rate": 0.0} for row in rows]
    requests = {"global": 2, "selective": 3, "complete": 2}
    found = {"kind": "bench", "name": "My Pictures", "model": "miniclip", "pretrained": None, "pictures": 10}
    return found | {"classes": 4, "domains": 2, "requests": requests, "rows": rows} | changes


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "data" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text(f"# A\n\n{results.BEGIN}\nold\n{results.END}\n\nend\n", encoding="utf-8")
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


def test_a_measurement_becomes_means_with_intervals_a_page_and_a_table(clone):
    written = results.write([measured(clone, sweep())], clone)
    assert [path.name for path in written] == ["my-pictures.json", "RESULTS.md", "README.md"]
    row = json.loads(written[0].read_text())["summary"][0]
    assert row["requests"] == row["measured"] == 2 and row["forgetting_rate"][0] == pytest.approx(0.85)
    assert row["retain_drop"] == pytest.approx([2.0, 12.706205], abs=1e-5) and row["sibling_class_drop"] == [None, None]
    page, readme = ((clone / name).read_text(encoding="utf-8") for name in ("RESULTS.md", "README.md"))
    assert "| global | `oblique` | 2 of 2 | 0.850 ± 0.635 | +2.0 ± 12.7 | – | – | +4.0 ± 0.0 |" in page
    assert "| selective | `gated` | 2 of 3 |" in page, "a request with nothing to lose is counted"
    assert "| `oblique`, complete | ≥ 0.850 / ≤ 6.0 / – / ≤ 20.0 | 0.850 / +2.0 / – / +4.0 |" in page
    assert "| `gated`, global | ≥ 0.990 / ≤ 0.3 / – / ≤ 2.0 | **0.850** / **+2.0** / – / **+4.0** |" in page
    assert "old" not in readme and "| `gated` | 0.85 / +2.0 / +4 | " in readme and readme.endswith("end\n")
    assert results.write([], clone) == written[1:], "without files, only the pages are written"


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
