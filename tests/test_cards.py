"""The card of an edit: what it says is what was measured, and what it says to run runs."""

import html
import json
import re
import threading
import time
from dataclasses import replace
from functools import reduce

import pytest
import torch
import yaml
from helpers import noisy_cells

import clipnull as cn
from clipnull.audits.probes import Probe, features_before_projection, linear_probe
from clipnull.bench import cards
from clipnull.bench import cards as markup
from clipnull.bench.cards import card
from clipnull.edit import history
from clipnull.evaluate import macro
from clipnull.prompts import PROMPTS

pytestmark = [pytest.mark.usefixtures("texts_once"), pytest.mark.slow]


@pytest.fixture(scope="module")
def features(clip, corner):
    return cn.embed(clip, corner)


@pytest.fixture
def quick(features, monkeypatch):
    """Embeddings are edited, not made anew by the edited model, and nothing is probed."""
    monkeypatch.setattr(cards, "embed", lambda clip, corner: reduce(lambda z, e: e.images(z), clip.edits, features))
    monkeypatch.setattr(cards, "features_before_projection", lambda *_: features)
    monkeypatch.setattr(cards, "linear_probe", lambda *_: Probe(torch.zeros(1), 0.5, 0.5))


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
    head = yaml.safe_load(text.split("---")[1])
    assert head == {
        "base_model": "miniclip",
        "library_name": "clipnull",
        "tags": ["clip", "machine-unlearning"],
        "license": "cc-by-4.0",
    }


def test_its_figures_are_those_of_compare(text, selective, clip, corner, features):
    rows, after = table(text, "Measured"), selective.apply(clip)
    both = features, cn.embed(after, corner)
    for row, prompts in zip(rows[:-1], PROMPTS, strict=True):
        result = cn.compare(clip, after, corner, selective.request, prompts, both)
        r = result.rates
        assert row[1] == (
            f"{100 * macro(result.before, result.mask):.1f} % → {100 * macro(result.after, result.mask):.1f} %"
        )
        names = ["forgetting_rate", "retain_drop", "sibling_class_drop", "sibling_domain_drop", "worst_cell_drop"]
        for cell, name in zip(row[2:], [*names, "collateral"], strict=False):
            mean, low, high = (float(x) for x in re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", cell).groups())
            assert mean == pytest.approx(r[name], abs=5e-4 if name == "forgetting_rate" else 0.05)
            assert low <= mean <= high and low < high, "an interval over pictures"
        right = result.answers == result.images.classes
        kept = ~result.mask[result.images.classes, result.images.domains]
        lost, gained = (int((kept & x).sum()) for x in (right[0] & ~right[1], right[1] & ~right[0]))
        assert row[8] == f"{lost}, {gained} of {int(kept.sum())}" and re.fullmatch(r"-?\d+ of \d+", row[9])
    renamed = result.renamed
    assert f"of {len(renamed)} unrelated pictures, {int(renamed.sum())} got another name" in text


def test_a_forecast_stands_beside_the_truth(text, selective, clip, corner):
    row = table(text, "Measured")[-1]
    found = cn.forecast(clip, selective.request, corner.vocabulary, selective, prototypes=False)
    assert row[0] == "forecast of the first row, from names alone"
    assert row[1] == f"{100 * macro(found.before, found.mask):.1f} % → {100 * macro(found.after, found.mask):.1f} %"
    assert float(row[2].split()[0]) == pytest.approx(found.rates["forgetting_rate"], abs=5e-4)
    assert row[7:] == ["–", "–", "–"]


def test_the_worst_cells_are_the_worst(text, selective, clip, corner, features):
    both = features, selective.images(features)
    result = cn.compare(clip, selective.apply(clip), corner, selective.request, features=both)
    drop, rows = 100 * (result.before - result.after), table(text, "Whom it hurts")
    found = [100 * (int(before) - int(after)) / int(n) for _, n, before, after in rows]
    kept = drop[~result.mask]
    assert found == pytest.approx(sorted(kept[kept > 0].tolist(), reverse=True)[:5], abs=1e-9) and found
    assert f"{int((kept > 0).sum())} of {int((~kept.isnan()).sum())} kept cells" in text


def test_the_probes_are_told(text, selective, clip, corner, features):
    labels = selective.request.mask(corner.vocabulary)[corner.classes, corner.domains]
    after = selective.apply(clip)
    for z in (features_before_projection(after, corner), features, cn.embed(after, corner)):
        assert f"{100 * linear_probe(z, labels).accuracy:.0f} %" in text[text.index("## What remains") :]


def test_the_request_and_the_weights_are_told(text, selective, clip):
    assert json.loads(re.search(r"```json\n(.*)\n", text).group(1)) == selective.request.as_dict()
    assert clip.fingerprint in text and "energy = 0.9" in text and "`nullspace`" in text


@pytest.mark.slow
def test_the_code_in_it_runs(selective, clip, corner, tmp_path, monkeypatch):
    folder = cn.release(tmp_path / "patch", selective, clip, corner)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "edit.safetensors"]
    monkeypatch.chdir(folder)
    names = {}
    exec(re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.S).group(1), names)
    assert names["edit"].same(selective) and names["edit"].request == selective.request.as_dict()
    assert card(names["edit"], clip, corner) == (folder / "README.md").read_text(encoding="utf-8")
    assert "license" not in (folder / "README.md").read_text(encoding="utf-8").split("---")[1]


def test_words_beside_a_forgotten_name_are_told(make, clip, corner, quick):
    text = card(make(cn.Forget(["bird"])), clip, corner)
    told = text[text.index("## Whom it hurts") : text.index("## What remains")]
    words = re.search(r"^- bird: (.*)$", told, re.M).group(1)
    assert len(re.findall(r"\(-?0\.\d\d\)", words)) == 3 and "may be named in its place" in told
    assert "may be named in its place" not in card(make(cn.Forget(domains=["photo"])), clip, corner)


def test_a_gated_edit_says_what_it_is(make, clip, corner, quick):
    gated = card(make(cn.Forget(["person"], ["flat"]), "gated"), clip, corner)
    assert "cannot be multiplied into weights" in gated and "costs nothing" not in gated
    assert "costs nothing at inference" in card(make(cn.Forget(["person"], ["flat"])), clip, corner)


def test_whole_domains_are_told_with_chance(make, clip, corner, quick):
    text = card(make(cn.Forget(domains=["photo"]), "gated"), clip, corner)
    assert "the way gone to chance, 33.3 %" in text and table(text, "Measured")[0][4:6] == ["–", "–"]


def test_nobody_hurt_is_said(make, clip, corner, quick):
    none = replace(make(cn.Forget(["person"], ["flat"])), left=torch.zeros(clip.width, 1).double())
    assert "No kept cell lost a picture." in card(none, clip, corner)


@pytest.mark.parametrize("birds", [1, 2, 3, 4])  # of five pictures
def test_a_probe_needs_two_pictures_on_either_side(birds, make, clip, corner, monkeypatch):
    """So many line-drawn birds are forgotten, and the cars among them kept."""
    probed = []
    monkeypatch.setattr(cards, "linear_probe", lambda z, labels: probed.append(labels) or linear_probe(z, labels))
    some = {name: corner.select([name], ["line"]) for name in ("bird", "car")}
    chosen = [some["bird"].files[:birds], some["car"].files[: 5 - birds]]
    assert [len(files) for files in chosen] == [birds, 5 - birds]
    alone = corner.where(torch.tensor([file in chosen[0] + chosen[1] for file in corner.files]))
    text = card(make(cn.Forget(["bird"], ["line"])), clip, alone)
    remains = text[text.index("## What remains") :]
    if birds in (1, 4):
        assert "With fewer than two forgotten or kept pictures, no probe could be trained here." in remains
        assert not probed and "A linear probe" not in remains
    else:
        assert "A linear probe that is trained" in remains and "no probe" not in remains
        assert [int(labels.sum()) for labels in probed] == [birds] * 3


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda e: replace(e, request=None), "edit: its request is None; expected a Forget"),
        (lambda e: replace(e, fingerprint="0" * 16), "clip: its weights"),
        (lambda e: replace(e, request=cn.Forget(["brid"])), "did you mean 'bird'"),
    ],
    ids=["no request", "other weights", "unknown class"],
)
def test_what_cannot_be_told_is_refused_and_nothing_written(harm, message, selective, clip, corner, tmp_path):
    with pytest.raises(ValueError, match=message):
        cn.release(tmp_path / "patch", harm(selective), clip, corner)
    assert not (tmp_path / "patch").exists()


def test_pictures_without_the_forgotten_cells_are_refused(make, clip, corner):
    with pytest.raises(ValueError, match="none of its .* pictures is in a forgotten cell"):
        card(make(cn.Forget(["person"], ["flat"])), clip, corner.select(["bird"]))


@pytest.mark.promise("Names and parameters are text")
def test_no_path_of_the_machine_is_told(tmp_path):
    weights = tmp_path / "mine.pt"
    weights.touch()
    assert markup.public_name(str(weights)) == "mine.pt"
    assert markup.public_name(f"local-dir:{tmp_path}/model") == "model"
    assert [markup.public_name(n) for n in ("ViT-B-16", "openai", "hf-hub:a/b")] == ["ViT-B-16", "openai", "hf-hub:a/b"]


# --- names of anybody

ODD = [
    "a|b", "`code`", "```", "<b>bold</b>", "<script>alert(1)</script>", "two\nlines", "# head", "*star*", "_under_",
    "[link](http://x)", "![i](http://x/y.png)", "$x$", "a&amp;b", "🐶", "x" * 250, "alarm_clock", "\\|", "--- |",
    "~~s~~",
]  # fmt: skip


def rendered(text):
    """The HTML that a reader of Markdown with tables makes of a card without its head."""
    from markdown_it import MarkdownIt

    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text.split("\n---\n", 1)[1])


def shown(markup):
    return html.unescape(re.sub("<[^>]*>", "", markup))


@pytest.mark.parametrize("name", ODD)
@pytest.mark.promise("Names and parameters are text")
def test_a_name_is_shown_as_it_is_and_is_no_markup(name):
    from markdown_it import MarkdownIt

    page = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    told = page.render(f"# Forget {markup.as_text(name)}\n\n| a | b |\n|---|---|\n| {markup.as_text(name)}, x | 3 |\n")
    tags = re.findall("<[^>]*>", told)
    assert set(tags) <= {f"<{s}{t}>" for s in ("", "/") for t in ("h1", "table", "thead", "tbody", "tr", "th", "td")}, (
        told
    )
    line = " ".join(name.split())
    assert shown(re.search("<h1>(.*)</h1>", told).group(1)) == f"Forget {line}"
    assert [shown(cell) for cell in re.findall("<td>(.*?)</td>", told)] == [f"{line}, x", "3"]
    quoted = page.render(f"Method {markup.as_code(name)} of")
    assert set(re.findall("<[^>]*>", quoted)) == {"<p>", "</p>", "<code>", "</code>"}
    assert shown(quoted).replace("‹", "<").replace("›", ">").strip() == f"Method {line} of"
    assert json.loads(markup.as_json(name)) == yaml.safe_load(markup.as_json(name)) == name
    assert "\n" not in markup.as_json(name) and not set("<>&`") & set(markup.as_json(name))
    assert eval(markup.as_json(name)) == name  # and as Python


@pytest.mark.promise("Names and parameters are text")
def test_a_card_of_odd_names_holds_no_markup_of_theirs(make, selective, clip, corner, quick, text):
    names = dict(zip(corner.vocabulary.classes, ["<b>|`x`\nbird", "![c](http://x)", "$a$ <script>"], strict=True))
    other = cn.Vocabulary([names[c] for c in corner.vocabulary.classes], ["fl|at", "<i>line</i>", "photo\n# head"])
    odd = replace(corner, vocabulary=other)
    edit = replace(
        selective,
        request=cn.Forget([other.classes[2]], [other.domains[0]]),
        settings={"a|`<b>": "<i>\n# x"},
        method="`<b>",
    )
    told = card(edit, clip, odd)
    assert not re.search("<(b|i|script|img)>", told) and "\n# x" not in told and "\n# head" not in told
    page = rendered(told)
    plain = set(re.findall("<[a-z0-9]+", rendered(text)))
    assert set(re.findall("<[a-z0-9]+", page)) <= plain
    assert len(re.findall("<h[12]>", page)) == len(re.findall("<h[12]>", rendered(text)))
    assert json.loads(re.search(r"```json\n(.*)\n", told).group(1)) == edit.request.as_dict()
    for row in table(told, "Whom it hurts"):
        assert len(re.split(r"(?<!\\)[|]", " | ".join(row))) == len(row)


def test_a_request_that_is_none_is_refused(selective, clip, corner):
    for request in ({"classes": [3], "domains": None}, ["dog"], "dog", {"classes": ["dog"]}):
        with pytest.raises(ValueError, match="edit: its request is .*; expected a Forget"):
            card(replace(selective, request=request), clip, corner)


def test_an_edit_made_on_an_edited_model_says_so(make, clip, corner, quick):
    first = make(cn.Forget(["bird"], ["line"]))
    edited = first.apply(clip)
    second = replace(make(cn.Forget(["person"], ["flat"])), after=history(edited.edits))
    told = card(second, edited, corner)
    assert "the edits that this one was made after" in told and "made after" not in card(first, clip, corner)
    with pytest.raises(ValueError, match="expected the edited model it was made on"):
        card(second, clip, corner)


def test_two_releases_into_one_folder_do_not_mix(make, clip, corner, quick, tmp_path):
    """The patch is that of the card, whoever comes last."""
    edits = [make(cn.Forget([name], ["flat"])) for name in ("person", "bird")]
    texts = {card(edit, clip, corner): edit for edit in edits}
    assert len(texts) == 2
    folder, failed = tmp_path / "patch", []
    monitor = cards.write_text

    def slow(path, text):
        time.sleep(0.05 * (edits[0] is texts[text]))
        return monitor(path, text)

    def release(edit):
        try:
            cn.release(folder, edit, clip, corner)
        except BaseException as error:
            failed.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards, "write_text", slow)
        patch.setattr(cards, "card", lambda edit, *_: next(t for t, e in texts.items() if e is edit))
        threads = [threading.Thread(target=release, args=(edit,)) for edit in edits]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed and sorted(p.name for p in folder.iterdir()) == ["README.md", "edit.safetensors"]
    edit = texts[(folder / "README.md").read_text(encoding="utf-8")]
    assert cn.Edit.load(folder / "edit.safetensors").same(edit)


def test_broken_pictures_are_told_and_count_for_nothing(clip, corner, tmp_path):
    broken = tmp_path / "broken.webp"
    broken.write_bytes(corner.files[0].read_bytes()[:200])
    edit = cn.unlearn(clip, cn.Forget(["bird"]), corner.vocabulary, "oblique", prototypes=False)
    keep = torch.arange(len(corner)) > 0
    hurt = replace(corner, files=(broken, *corner.files[1:]))
    with pytest.warns(UserWarning, match="1 of .* pictures are broken.*broken.webp"):
        assert card(edit, clip, hurt) == card(edit, clip, corner.where(keep))
