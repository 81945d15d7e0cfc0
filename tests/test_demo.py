"""The demo: the browser computes what Python computes, from less than a megabyte."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from browsing import tab, visit

import clipnull as cn
from clipnull.course import demo
from clipnull.prompts import embed_classes

REQUESTS = {
    "a cell": (["dog"], ["line"]),
    "a cell without pictures": (["car"], ["photo"]),
    "two classes in two domains": (["bird", "shoe"], ["flat", "silhouette"]),
    "a class": (["train"], []),
    "two classes": (["dog", "umbrella"], []),
    "a class, all domains named": (["fish"], ["cartoon", "flat", "line", "photo", "shaded", "silhouette"]),
    "a domain": ([], ["silhouette"]),
    "two domains": ([], ["photo", "line"]),
    "all domains but one": ([], ["cartoon", "flat", "line", "photo", "shaded"]),
}


@pytest.fixture(scope="module")
def rounded(z):
    return demo.rounded(z)


@pytest.fixture(scope="module")
def known(clip, images):
    return cn.embed_vocabulary(clip, images.vocabulary.with_forms(None))


@pytest.fixture
def page(site, serve, devtools):
    """The demo in a tab."""
    with tab(devtools, f"{serve(site)}/demo.html", 1280) as opened:
        yield opened
        assert opened.complaints == []


def choose(page, classes=(), domains=(), method="nullspace") -> None:
    """Set the form and tell it so, as a click would."""
    page.run(f"""{{ const wanted = {json.dumps([*classes, *domains, method])};
        for (const input of document.querySelectorAll("#demo input")) input.checked = wanted.includes(input.value);
        document.querySelector("#demo input").dispatchEvent(new Event("change", {{ bubbles: true }})) }}""")


# --- what Python gives the page


@pytest.mark.slow
def test_the_length_of_an_embedding_and_its_rounding_change_no_answer(clip, images, z, rounded, known):
    texts = embed_classes(clip, images.vocabulary.names)
    masks = [cn.Forget(classes=[c]).mask(images.vocabulary) for c in images.vocabulary.classes[::3]]
    masks += [cn.Forget(["dog"], [k]).mask(images.vocabulary) for k in ("line", "flat")]
    masks += [cn.Forget(domains=[k]).mask(images.vocabulary) for k in ("line", "photo")]
    assert rounded.abs().amax(1).eq(32767).all() and rounded.eq(rounded.to(torch.int16)).all()
    for method in demo.SHOWN:
        for mask in masks:
            edit = cn.solve(known, mask, method)
            exact, whole = ((edit.images(x) @ texts.T).argmax(1) for x in (z, rounded))
            assert exact.equal(whole), (method, mask)


def test_the_page_knows_every_method_and_its_settings(clip, images, z):
    assert list(demo.SHOWN) == [name for name in cn.METHODS if cn.METHODS[name].strength]
    settings = demo.data(clip, images, z)["settings"]
    assert settings["nullspace"] == {"alpha": 1.0, "energy": 0.9, "center": True} and all(settings.values())


# --- what the page makes of it


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.nightly if name != "gated" else ()) for name in demo.SHOWN]
)
def test_the_browser_gives_the_answers_and_rates_of_python(page, clip, images, rounded, known, texts_once, method):
    texts, names = embed_classes(clip, images.vocabulary.names).double(), images.vocabulary.classes
    for name, (classes, domains) in REQUESTS.items():
        request = cn.Forget(classes or None, domains or None)
        edit = cn.solve(known, request.mask(images.vocabulary), method)
        wanted = cn.compare(clip, clip, images, request, features=(rounded, edit.images(rounded)))
        query = names.index(classes[0]) if classes else 0
        chosen = f"place(DATA.classes, {json.dumps(classes)}), place(DATA.domains, {json.dumps(domains)})"
        got = page.run(f"""(() => {{ const place = (all, some) => some.map((name) => all.indexOf(name));
            const {{ z, answers, rates }} = forget(maskOf({chosen}), "{method}");
            const first = retrieve(z, queries[{query}]).slice(0, 12);
            return {{ answers, rates, first, was: before.answers }} }})()""")
        assert got["was"] == wanted.answers[0].tolist()
        assert got["answers"] == wanted.answers[1].tolist(), name
        rates = {key: math.nan if value is None else value for key, value in got["rates"].items()}
        expected = {key: value for key, value in wanted.rates.items() if key != "collateral"}
        assert rates == pytest.approx(expected, abs=1e-6, nan_ok=True), name
        cosines = F.normalize(edit.images(rounded.double()), dim=1) @ texts[query]
        order = (1e9 * cosines).round().sort(descending=True, stable=True).indices
        assert got["first"] == order[:12].tolist(), name


@pytest.mark.nightly
def test_the_matrix_shows_the_counts_of_python(page, clip, images, rounded, known, texts_once):
    choose(page, ["dog"], ["line"], "oblique")
    edit = cn.solve(known, cn.Forget(["dog"], ["line"]).mask(images.vocabulary), "oblique")
    result = cn.compare(clip, clip, images, cn.Forget(["dog"], ["line"]), features=(rounded, edit.images(rounded)))
    shown = page.run("""[...document.querySelectorAll("#matrix tbody tr")].map(row =>
        [...row.querySelectorAll("td")].map(cell => cell.textContent))""")
    counts = images.counts()
    for c in range(len(counts)):
        for k, n in enumerate(counts[c].tolist()):
            was, now = (round(float(x[c, k]) * n) if n else 0 for x in (result.before, result.after))
            text = f"{now}/{n}" + (f"{'▼' if now < was else '▲'} {was} before" if now != was else "")
            mark = "✕ to forget: " if result.mask[c, k] else ""
            assert shown[c][k] == mark + (text if n else "–no pictures"), (c, k)


@pytest.mark.nightly
def test_the_keyboard_reaches_everything_and_changes_it(page):
    status, active = "document.querySelector('#told').textContent", "document.activeElement.value || ''"
    page.run("document.querySelector('#classes input').focus()")
    first = page.run(status)
    page.press(" ", " ")
    assert page.run(active) == "bird" and page.run(status) != first
    reached = []
    for _ in range(13 + 6 + 3):
        page.press("Tab")
        reached.append(page.run("document.activeElement.value || document.activeElement.textContent"))
    assert reached[12:20] == ["umbrella", "cartoon", "flat", "line", "photo", "shaded", "silhouette", "Choose nothing"]
    assert reached[20:] == ["nullspace", "bird"]  # the chosen method, then what is searched for
    page.run("document.querySelector('#methods input:checked').focus()")
    before = page.run(status)
    page.press("ArrowDown")
    assert page.run(active) == "residual" and page.run(status) != before


@pytest.mark.nightly
def test_scripts_and_embeddings_are_within_a_megabyte_and_the_page_needs_no_server(site, devtools):
    files = {path.name: path.stat().st_size for path in (site / "_static" / "demo").iterdir()}
    assert sum(files[name] for name in (*demo.SCRIPTS, "data.js", "demo.css")) <= 1_000_000, files
    assert files["thumbnails.webp"] <= 700_000
    page = visit(devtools, (site / "demo.html").as_uri())
    assert page.complaints == [] and page.text > 1000
    assert any(link.endswith("/LICENSES.html") for link in page.links)
