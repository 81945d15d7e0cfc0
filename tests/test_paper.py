"""`clipnull paper`: from folders to the page, with random weights on a few pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import write as results
from helpers import VIT
from PIL import Image
from test_stored import fields

import clipnull as cn
from clipnull.bench import paper, sweep
from clipnull.bench.paper import measure
from clipnull.commands import cli
from clipnull.datasets import storing

PAIR = ["ViT-B-16", "ViT-L-14"]


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def pictures(folder: Path, domains: tuple[str, ...], classes: tuple[str, ...], n: int = 3) -> Path:
    for k, domain in enumerate(domains):
        for c, name in enumerate(classes):
            for i in range(n):
                picture(folder / domain / name / f"{i}.png", 100 * k + 10 * c + i)
    return folder


@pytest.fixture
def pacs(tmp_path):
    return pictures(tmp_path / "data" / "pacs", ("art_painting", "sketch"), ("dog", "guitar", "house"))


@pytest.fixture
def tiny(monkeypatch, tmp_path, small):
    """Every model is a small one of random weights; which ones were loaded."""
    loaded = []

    def load(name, pretrained=None, device=None):
        if not name.endswith(".npz"):
            loaded.append(name)
        return cn.load(name, device="cpu") if name.endswith(".npz") else small(VIT)

    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paper, "load", load)
    monkeypatch.setattr(storing, "unrelated_words", lambda _: ["goldfish", "tench"])  # a thousand take seconds
    return loaded


def measured(folders, out, models=PAIR, **settings):
    return measure(
        folders, models, "openai", out, **{"methods": ["nullspace", "gated"], "prototypes": False} | settings
    )


def table(page: Path) -> list[list[str]]:
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_from_folders_to_a_page_beside_the_two_figures(tiny, pacs, tmp_path):
    """Figures are means over requests."""
    home = pictures(tmp_path / "data" / "Office Home", ("Art", "Real World"), ("Alarm_Clock", "TV"))
    page = measured([pacs, home], tmp_path / "out")
    stems = [f"{model}-{name}" for model in PAIR for name in ("pacs", "Office-Home")]
    made = [f"{stem}{ending}" for stem in stems for ending in (".npz", ".json")]
    assert sorted(p.name for p in page.parent.iterdir()) == sorted(["PAPER.md", *made]) and tiny == PAIR
    first, *rows = table(page)
    assert first == ["the paper", "average", "its edit", "", "0.923", "+0.76"]
    pairs = [f"{name} {model} openai" for model in PAIR for name in ("pacs", "Office-Home")]
    assert [*dict.fromkeys(row[0] for row in rows)] == pairs and {row[2] for row in rows} == {"`nullspace`", "`gated`"}
    text, entry = page.read_text(encoding="utf-8"), json.loads(page.with_name("ViT-B-16-pacs.json").read_text())
    assert "18 pictures, 3 classes × 2 domains; edits made from texts alone" in text
    for _, paradigm, method, requests, *figures in (row for row in rows if row[0] == pairs[0]):
        kind = paradigm, method.strip("`"), "free"
        group = [row for row in entry["rows"] if (row["paradigm"], row["method"], row["prompts"]) == kind]
        assert group and requests == f"{len(group)} of {entry['requests'][paradigm]}"
        for text, name in zip(figures, ("forgetting_rate", "retain_drop"), strict=True):
            values = [row[name] for row in group]
            assert float(text.split()[0]) == pytest.approx(sum(values) / len(values), abs=0.06)
    assert results.bench_section(results.summary(entry, "it")), "results take it"


def test_what_is_there_is_reused(tiny, pacs, tmp_path, monkeypatch):
    out, made = tmp_path / "out", []
    page = measured([pacs], out, PAIR[:1])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    original = sweep.sweep
    monkeypatch.setattr(sweep, "sweep", lambda *args: made.append(args[2]) or original(*args))
    page.unlink()
    measured([pacs], out, PAIR[:1])
    assert not made and before == {path.name: path.read_bytes() for path in out.iterdir()}
    measured([pacs], out, PAIR[:1], methods=["ridge"])
    assert made == [("ridge",)], "other methods need no other embeddings"


@pytest.mark.slow
def test_what_was_made_of_something_else_is_made_anew(tiny, tmp_path, small, monkeypatch):
    """Other labels of the same files, other pictures of the same size, other options, another model."""
    out, table = tmp_path / "out", tmp_path / "pictures.csv"
    for i in range(12):
        picture(tmp_path / f"{i}.bmp", i)

    def accuracy(shift=0, **settings):
        rows = [f"{i}.bmp,{'cdh'[(i // 4 + shift) % 3]},{'ls'[i % 2]}" for i in range(12)]
        table.write_text("\n".join(["path,class,domain", *rows]), encoding="utf-8")
        measured([table], out, PAIR[:1], **settings)
        return [next(out.glob(f"ViT-B-16-*.{ending}")).read_bytes() for ending in ("npz", "json")]

    first = accuracy()
    for changed in (accuracy(1), accuracy(most=1), accuracy(prototypes=True)):
        assert changed[0] != first[0] and changed[1] != first[1]
    assert accuracy()[0] == first[0]
    picture(tmp_path / "0.bmp", 99)
    assert accuracy()[0] != first[0]
    np.savez(next(out.glob("*.npz")), **fields(n=160))
    with pytest.raises(ValueError, match=r"npz' was not made by `clipnull paper`"):
        accuracy()


def test_where_a_model_cannot_be_had_the_others_stay_and_it_continues(tiny, pacs, tmp_path, monkeypatch):
    out, load = tmp_path / "out", paper.load

    def unreachable(name, pretrained=None):
        if name == "ViT-L-14":
            raise OSError("pretrained: 'openai' of ViT-L-14 cannot be downloaded; expected a network")
        return load(name, pretrained)

    monkeypatch.setattr(paper, "load", unreachable)
    with pytest.raises(OSError, match="expected a network"):
        measured([pacs], out)
    assert sorted(p.name for p in out.iterdir()) == ["PAPER.md", "ViT-B-16-pacs.json", "ViT-B-16-pacs.npz"]
    monkeypatch.setattr(paper, "load", load)
    before = (out / "ViT-B-16-pacs.json").stat().st_mtime_ns
    page = measured([pacs], out)
    assert {row[0] for row in table(page)} == {"the paper", "pacs ViT-B-16 openai", "pacs ViT-L-14 openai"}
    assert (out / "ViT-B-16-pacs.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"folders": ["pacs", "none"]}, "'none' is not a folder"),
        ({"folders": ["pacs", "other/pacs"]}, "folders: 'pacs' given twice"),
        ({"pretrained": "opnai"}, "pretrained: 'opnai' is unknown; did you mean 'openai'"),
        ({"folders": ["flat"], "paradigms": ["complete"]}, "paradigms: 'complete' needs several domains"),
        ({"most": 0}, "most: 0 is not valid; expected a whole number of at least 1"),
    ],
)
def test_unfit_arguments_are_named_before_anything_is_made(pacs, tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path / "data")
    monkeypatch.setattr(paper, "load", lambda *args: pytest.fail("a model was loaded"))
    pictures(tmp_path / "data", ("flat",), ("cat", "dog"), 1)
    pictures(tmp_path / "data" / "other" / "pacs", ("photo", "line"), ("cat", "dog"), 1)
    with pytest.raises(ValueError, match=message):
        measure(**{"folders": ["pacs"], "models": ["ViT-B-16"], "pretrained": "openai", "out": "out"} | settings)
    assert not (tmp_path / "data" / "out").exists()


# --- the command


def test_the_command_hands_on_its_options(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(paper, "measure", lambda *args: calls.append(args) or Path("PAPER.md"))
    assert cli.main(["paper", "pacs", "home"]) == 0 and capsys.readouterr().out == "written: PAPER.md\n"
    options = ["--models", "RN50", "--out", "x", "--methods", "ridge", "--most", "5", "--no-prototypes"]
    assert cli.main(["paper", "pacs", *options, "--paradigms", "global"]) == 0
    folders = [Path("pacs"), Path("home")]
    assert calls[0] == (folders, PAIR, "openai", Path("build/paper"), None, None, None, True)
    assert calls[1] == (folders[:1], ["RN50"], "openai", Path("x"), ["ridge"], ["global"], 5, False)
