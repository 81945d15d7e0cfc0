"""The pages beside the files in data/results, RESULTS.md and the README say what these files say."""

import json
from pathlib import Path

import pytest
import write as results

ROOT = Path(__file__).parent.parent
PICTURES = {"forgotten": 9, "before": 8, "after": 1, "kept": 90, "lost": 3, "gained": 2, "worst_of": 7, "worst_lost": 2,
            "others": 100, "renamed": 5}  # fmt: skip


def sweep(**changes):
    """What `clipnull bench --json` writes, made up: three methods on every paradigm."""
    summary = [
        {
            "paradigm": paradigm, "method": method, "prompts": prompts, "requests": 2 + (paradigm == "selective"),
            "measured": 2, "forgetting_rate": [0.85, 0.7, 1.0] if prompts == "free" else [0.0, 0.0, 0.1],
            "retain_drop": [2.0, -1.0, 5.04], "sibling_class_drop": [None] * 3, "sibling_domain_drop": [None] * 3,
            "worst_cell_drop": [4.0, 0.0, 9.0], "collateral": [5.0, 3.0, 8.0], "pictures": PICTURES,
        }
        for paradigm in ("global", "selective", "complete")
        for method in results.BEST
        for prompts in ("free", "build")
    ]  # fmt: skip
    entry = {"kind": "bench", "name": "My Pictures", "model": "miniclip", "pretrained": None, "stored": False}
    entry |= {"note": "", "prototypes": True, "pictures": 10, "classes": 4, "domains": 2, "requests": {"global": 2}}
    return entry | {"summary": summary, "rows": []} | changes


@pytest.fixture
def clone(tmp_path):
    """A folder with the marks of a clone's pages, and nothing measured."""
    (tmp_path / "data" / "results").mkdir(parents=True)
    for name, parts in (("README.md", ["picture", "results"]), ("RESULTS.md", ["best", "targets", "pages"])):
        marks = [f"<!-- {part}: written by `make results` -->\nold\n<!-- end of {part} -->\n" for part in parts]
        (tmp_path / name).write_text(f"# A\n\n{''.join(marks)}\nend\n", encoding="utf-8")
    return tmp_path


def measured(folder, entry):
    path = folder / "measured.json"
    path.write_text(json.dumps(entry), encoding="utf-8")
    return path


def read(path):
    return path.read_text(encoding="utf-8")


def test_the_committed_pages_are_those_of_the_committed_files():
    known = results.read(ROOT)
    assert {entry["kind"] for entry in known} == set(results.SECTIONS)
    pages = {f"{results.stem(entry)}.md": results.page(entry) for entry in known}
    assert pages == {path.name: read(path) for path in (ROOT / "data" / "results").glob("*.md")}
    for name, filled in (("RESULTS.md", results.in_results), ("README.md", results.in_readme)):
        assert (text := read(ROOT / name)) == filled(text, known)
    assert len(read(ROOT / "RESULTS.md").encode()) <= 15_000


def test_a_measurement_becomes_means_with_intervals_pages_and_a_table(clone):
    written = results.write([measured(clone, sweep())], clone)
    names = ["my-pictures.json", "my-pictures.md", "RESULTS.md", "README.md", "search.png"]
    assert [path.name for path in written] == names
    entry = json.loads(read(written[0]))
    assert {row["prompts"] for row in entry["summary"]} == {"free"} and not {"rows", "requests"} & {*entry}
    page, summary, readme = map(read, written[1:4])
    figures = "0.850 [0.700, 1.000] | +2.0 [-1.0, +5.0] | – |"
    assert f"| global | `oblique` | 2 of 2 | {figures} – | +4.0 [+0.0, +9.0] | 5.0 [3.0, 8.0] |" in page
    assert "| global | `oblique` | 2 of 2 | 8 → 1 of 9 | 3, 2 of 90 | 2 of 7 | 5 of 100 |" in page
    assert "| selective | `gated` | 2 of 3 |" in page, "a request with nothing to lose is counted"
    assert f"| global | `oblique` | {figures} +4.0 [+0.0, +9.0] | 5.0 [3.0, 8.0] |" in summary
    assert "| `oblique`, complete | ≥ 0.900 / ≤ 1.5 / – / ≤ 9.0 | **0.850** / **+2.0** / – / +4.0 |" in summary
    assert "| `gated`, global | ≥ 0.990 / ≤ 0.0 / – / ≤ 1.0 | **0.850** / **+2.0** / – / **+4.0** |" in summary
    assert "data/results/my-pictures.md" in summary and "old" not in readme + summary
    assert "| `gated` | 0.85 / +2.0 / +4 / 5 % | " in readme and readme.endswith("end\n")
    assert results.write([], clone) == written[1:], "without files, only the pages are written"


def test_stored_embeddings_stand_first_and_say_what_edits_are_made_from(clone):
    name = "OpenAI ViT-B/32, photo and drawing"
    about = {"stored": True, "prototypes": False, "note": "a C", "model": "ViT-B-32-quickgelu", "pretrained": "openai"}
    results.write([measured(clone, sweep())], clone)
    path, *_ = results.write([measured(clone, sweep(name=name, pictures=99) | about)], clone)
    assert path.name == "openai-vit-b-32-photo-and-drawing.json", "a slash is no folder"
    page = read(path.with_suffix(".md"))
    assert "Stored embeddings of ViT-B-32-quickgelu, openai" in page
    assert "made from texts alone (a C)" in page
    assert f"worst cell | target | {name} | My Pictures |" in read(clone / "RESULTS.md")
    assert f"| {name} | global |" in read(clone / "README.md")


@pytest.mark.parametrize(
    "entry, message",
    [({"kind": "bench"}, "holds no measurement"), (sweep(kind="bensh"), "'bensh' is unknown; did you mean 'bench'")],
)
def test_what_is_no_measurement_is_refused(clone, entry, message):
    with pytest.raises(ValueError, match=message):
        results.write([measured(clone, entry)], clone)
    assert not [*(clone / "data" / "results").iterdir()]
