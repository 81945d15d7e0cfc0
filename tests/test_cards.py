"""The card of an edit: what it says is what was measured, and what it says to run runs."""

import html
import json
import re
from dataclasses import replace

import pytest
import torch
import yaml
from helpers import noisy_cells

import clipnull as cn
from clipnull.audits.probes import Probe, features_before_projection, linear_probe
from clipnull.bench import cards
from clipnull.bench.cards import card
from clipnull.edit import history
from clipnull.evaluate import macro
from clipnull.files import as_text
from clipnull.prompts import PROMPTS

pytestmark = [pytest.mark.usefixtures("texts_once"), pytest.mark.slow]


@pytest.fixture(scope="module")
def features(clip, corner):
    return cn.embed(clip, corner)


@pytest.fixture
def quick(features, monkeypatch):
    """Embeddings are edited, not made anew by the edited model, and nothing is probed."""
    monkeypatch.setattr(cards, "embed", lambda clip, corner: clip.edited(features))
    monkeypatch.setattr(cards, "features_before_projection", lambda *_: features)
    monkeypatch.setattr(cards, "linear_probe", lambda *_: Probe(torch.zeros(1), 0.5))


@pytest.fixture(scope="module")
def make(clip, corner):
    cells = noisy_cells(clip, corner.vocabulary)

    def edit(request, method="oblique"):
        made = cn.solve(cells, request.mask(corner.vocabulary), method)
        return replace(made, request=request, fingerprint=clip.fingerprint, model=clip.name)

    return edit


@pytest.fixture(scope="module")
def selective(make):
    return make(cn.Forget(["bird"], ["flat"]), "nullspace")


@pytest.fixture(scope="module")
def text(selective, clip, corner):
    return card(selective, clip, corner, "cc-by-4.0")


def table(text, heading):
    """The cells of the first table below a heading."""
    block = re.search(r"(?:^\|.*\n)+", text[text.index(f"## {heading}") :], re.M).group()
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()[2:]]


def test_the_head_is_yaml_that_a_hub_reads(text):
    head = {"base_model": "miniclip", "library_name": "clipnull", "tags": ["clip", "machine-unlearning"]}
    assert yaml.safe_load(text.split("---")[1]) == head | {"license": "cc-by-4.0"}


def test_its_figures_are_those_of_compare(text, selective, clip, corner, features):
    rows, after = table(text, "Measured"), selective.apply(clip)
    both = features, cn.embed(after, corner)
    for row, prompts in zip(rows, PROMPTS, strict=True):
        result = cn.compare(clip, after, corner, selective.request, prompts, both)
        r = result.rates
        before, after_ = (100 * macro(accuracy, result.mask) for accuracy in (result.before, result.after))
        assert row[1] == f"{before:.1f} % → {after_:.1f} %"
        names = ["forgetting_rate", "retain_drop", "sibling_class_drop", "sibling_domain_drop", "worst_cell_drop"]
        for cell, name in zip(row[2:], [*names, "collateral"], strict=False):
            mean, low, high = (float(x) for x in re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", cell).groups())
            assert mean == pytest.approx(r[name], abs=5e-4 if name == "forgetting_rate" else 0.05)
            assert low <= mean <= high and low < high, "an interval over pictures"
        right = result.answers == result.images.classes
        kept = ~result.mask[result.images.classes, result.images.domains]
        lost, gained = (int((kept & x).sum()) for x in (right[0] & ~right[1], right[1] & ~right[0]))
        counts = [int(answers[~kept].sum()) for answers in right]
        assert row[8] == "{} → {} of {}".format(*counts, int((~kept).sum()))
        assert row[9] == f"{lost}, {gained} of {int(kept.sum())}"


def test_the_worst_cells_the_probes_and_the_request_are_listed(text, selective, clip, corner, features):
    after = selective.apply(clip)
    both = features, cn.embed(after, corner)
    result = cn.compare(clip, after, corner, selective.request, features=both)
    drop = (100 * (result.before - result.after))[~result.mask]
    shown = [100 * (int(before) - int(after)) / int(n) for *_, n, before, after in table(text, "Whom it hurts")]
    assert shown == pytest.approx(sorted(drop[drop > 0].tolist(), reverse=True)[:5], abs=1e-9) and shown
    assert f"{int((drop > 0).sum())} of {int((~drop.isnan()).sum())} kept cells" in text
    labels = selective.request.mask(corner.vocabulary)[corner.classes, corner.domains]
    for z in (features_before_projection(after, corner), *both):
        assert f"{100 * linear_probe(z, labels).accuracy:.0f} %" in text[text.index("## What remains") :]
    assert clip.fingerprint in text and "energy = 0.9" in text and "Method nullspace" in text


def test_the_code_in_it_runs(selective, clip, corner, tmp_path, monkeypatch):
    folder = cn.release(tmp_path / "patch", selective, clip, corner)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "edit.safetensors"]
    monkeypatch.chdir(folder)
    names = {}
    exec(re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.S).group(1), names)
    assert names["edit"].same(selective) and names["edit"].request == selective.request.as_dict()
    assert card(names["edit"], clip, corner) == (folder / "README.md").read_text(encoding="utf-8")
    assert "license" not in (folder / "README.md").read_text(encoding="utf-8").split("---")[1]


def test_the_form_of_an_edit_and_whole_domains_are_described(make, clip, corner, quick):
    gated = card(make(cn.Forget(domains=["photo"]), "gated"), clip, corner)
    assert "cannot be multiplied into weights" in gated and "costs nothing" not in gated
    assert table(gated, "Measured")[0][4:6] == ["–", "–"], "no siblings of whole domains"
    linear = make(cn.Forget(["person"], ["flat"]))
    none = card(replace(linear, left=torch.zeros(clip.width, 1).double()), clip, corner)
    assert "costs nothing at inference" in none and "No kept cell lost a picture." in none


def test_a_probe_needs_two_pictures_on_either_side(make, clip, corner):
    bird, cars = corner.select(["bird"], ["line"]).files[:1], corner.select(["car"], ["line"]).files[:4]
    few = corner.where(torch.tensor([file in bird + cars for file in corner.files]))
    assert "No probe could be trained here" in card(make(cn.Forget(["bird"], ["line"])), clip, few)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"request": None}, "edit: its request is None; expected a Forget"),
        ({"fingerprint": "0" * 16}, "clip: its weights"),
        ({"request": cn.Forget(["brid"])}, "did you mean 'bird'"),
        ({"request": cn.Forget(["person"], ["photo"])}, "none of its .* pictures is in a forgotten cell"),
    ],
)
def test_what_cannot_be_described_is_refused_and_nothing_written(changes, message, selective, clip, corner, tmp_path):
    birds = replace(corner, classes=torch.zeros_like(corner.classes))
    with pytest.raises(ValueError, match=message):
        cn.release(tmp_path / "patch", replace(selective, **changes), clip, birds)
    assert not (tmp_path / "patch").exists()


@pytest.mark.promise("Names and parameters are text")
def test_no_path_of_the_machine_is_told(tmp_path):
    weights = tmp_path / "mine.pt"
    weights.touch()
    assert cards.public_name(str(weights)) == "mine.pt"
    assert cards.public_name(f"local-dir:{tmp_path}/model") == "model"
    assert [cards.public_name(n) for n in ("ViT-B-16", "openai", "hf-hub:a/b")] == ["ViT-B-16", "openai", "hf-hub:a/b"]


# --- names of anybody

ODD = [
    "a|b", "`code`", "```", "<script>alert(1)</script>", "two\nlines", "# head", "*star*", "[link](http://x)",
    "![i](http://x/y.png)", "$x$", "a&amp;b", "🐶", "alarm_clock", "\\|", "--- |", "~~s~~",
]  # fmt: skip


def rendered(text):
    """The HTML that a reader of Markdown with tables makes of a card without its head."""
    from markdown_it import MarkdownIt

    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text.split("\n---\n", 1)[1])


def visible(page):
    return html.unescape(re.sub("<[^>]*>", "", page))


@pytest.mark.promise("Names and parameters are text")
def test_a_name_is_shown_as_it_is_and_is_no_markup():
    plain = {f"<{s}{t}>" for s in ("", "/") for t in ("h1", "table", "thead", "tbody", "tr", "th", "td")}
    for name in ODD:
        text = as_text(name)
        page = rendered(f"\n---\n# Forget {text}\n\n| a | b |\n|---|---|\n| {text}, x | 3 |\n")
        assert set(re.findall("<[^>]*>", page)) <= plain, page
        line = " ".join(name.split())
        assert visible(re.search("<h1>(.*)</h1>", page).group(1)) == f"Forget {line}"
        assert [visible(cell) for cell in re.findall("<td>(.*?)</td>", page)] == [f"{line}, x", "3"]
        quoted = cards.as_json(name)
        assert json.loads(quoted) == eval(quoted) == name and "\n" not in quoted and not set("<>&`") & set(quoted)


@pytest.mark.promise("Names and parameters are text")
def test_a_card_of_odd_names_holds_no_markup_of_theirs(make, selective, clip, corner, quick, text):
    names = dict(zip(corner.vocabulary.classes, ["<b>|`x`\nbird", "![c](http://x)", "$a$ <script>"], strict=True))
    other = cn.Vocabulary([names[c] for c in corner.vocabulary.classes], ["fl|at", "<i>line</i>", "photo\n# head"])
    odd = replace(corner, vocabulary=other)
    request = cn.Forget([other.classes[2]], [other.domains[0]])
    edit = replace(selective, request=request, settings={"a|`<b>": "<i>\n# x"}, method="`<b>")
    text_ = card(edit, clip, odd)
    assert not re.search("<(b|i|script|img)>", text_) and "\n# x" not in text_ and "\n# head" not in text_
    page = rendered(text_)
    plain = set(re.findall("<[a-z0-9]+", rendered(text)))
    assert set(re.findall("<[a-z0-9]+", page)) <= plain
    assert len(re.findall("<h[12]>", page)) == len(re.findall("<h[12]>", rendered(text)))
    assert json.loads(re.search(r"```json\n(.*)\n", text_).group(1)) == edit.request.as_dict()


def test_an_edit_made_on_an_edited_model_says_so(make, clip, corner, quick):
    first = make(cn.Forget(["bird"], ["line"]))
    edited = first.apply(clip)
    second = replace(make(cn.Forget(["person"], ["flat"])), after=history(edited.edits))
    text_ = card(second, edited, corner)
    assert "the edits that this one was made after" in text_ and "made after" not in card(first, clip, corner)
    with pytest.raises(ValueError, match="clip: .* 0 edits; expected those this edit was made after"):
        card(second, clip, corner)


def test_broken_pictures_are_named_and_count_for_nothing(clip, corner, tmp_path):
    broken = tmp_path / "broken.webp"
    broken.write_bytes(corner.files[0].read_bytes()[:200])
    edit = cn.unlearn(clip, cn.Forget(["bird"]), corner.vocabulary, "oblique", prototypes=False)
    keep = torch.arange(len(corner)) > 0
    hurt = replace(corner, files=(broken, *corner.files[1:]))
    with pytest.warns(UserWarning, match="1 of .* pictures are broken.*broken.webp"):
        assert card(edit, clip, hurt) == card(edit, clip, corner.where(keep))
