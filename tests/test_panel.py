import importlib
import re
import time

import pytest
import torch
import torch.nn.functional as F

import clipnull as cn

live = importlib.import_module("clipnull.course.panel")


@pytest.fixture(scope="module")
def known(clip, world):
    texts = cn.embed_cells(clip, world.vocabulary)
    noise = torch.randn(texts.shape, generator=torch.Generator().manual_seed(0)) / texts.shape[-1] ** 0.5
    return cn.Concepts(texts, F.normalize(texts + noise, dim=-1))


@pytest.fixture
def panel(clip, world, known):
    return live.Panel(clip, world, known, cn.Forget(["dog"], ["line"]), "oblique")


def numbers(text):
    """(after, change, forgotten) of each cell that is shown, in reading order."""
    found = re.findall(r">(\d+) \(([+-]\d+)\)( ×)?</td>", text)
    return [(int(after), int(change), bool(cross)) for after, change, cross in found]


@pytest.mark.parametrize("method", cn.METHODS)
@pytest.mark.parametrize("classes, domains", [(["bird"], None), (["bird", "car"], ["line"]), (None, ["photo"])])
def test_the_matrix_is_that_of_the_edit(panel, clip, world, known, method, classes, domains):
    panel.method.value = method
    panel.classes.value, panel.domains.value = classes or (), domains or ()
    mask = cn.Forget(classes, domains).mask(world.vocabulary)
    edit = cn.solve(known, mask, method)                                # the dials begin at the defaults
    names = cn.embed_classes(clip, world.vocabulary.classes)
    after = cn.accuracy_matrix((F.normalize(edit.transform(cn.embed(clip, world)), dim=-1) @ names.T).argmax(1), world)
    before = cn.zero_shot(clip, world)
    there = ~before.isnan()
    shown = numbers(panel.shown.value)
    assert [a for a, _, _ in shown] == [int(f"{100 * v:.0f}") for v in after[there].tolist()]
    assert [c for _, c, _ in shown] == [int(f"{100 * v:.0f}") for v in (after - before)[there].tolist()]
    assert [x for _, _, x in shown] == mask[there].tolist()


def test_the_dial_of_the_method_is_shown_and_acts(panel):
    for method in cn.METHODS:
        panel.method.value = method
        assert [name for name, dial in panel.dials.items() if dial.layout.display is None] == [method]
        full = panel.shown.value
        panel.dials[method].value = panel.dials[method].min if method != "ridge" else 1.0
        weak = sum(abs(change) for _, change, _ in numbers(panel.shown.value))
        assert weak < sum(abs(change) for _, change, _ in numbers(full)), method
        assert method == "ridge" or weak == 0


def test_every_change_is_answered_in_time(panel, world):
    took = []
    for method in cn.METHODS:
        for classes, domains in ((["car"], ()), (["car", "dog"], ["line"]), ((), ["line"])):
            for control, value in ((panel.method, method), (panel.classes, classes), (panel.domains, domains),
                                   (panel.dials[method], panel.dials[method].value * 0.9)):
                start = time.perf_counter()
                control.value = value
                took.append(time.perf_counter() - start)
    assert sorted(took)[len(took) // 2] < 0.2, max(took)                # the median: other work may run beside a test


def test_nothing_and_everything_are_no_requests(panel, world):
    panel.classes.value, panel.domains.value = (), ()
    assert "Choose a class or a domain" in panel.shown.value
    panel.domains.value = world.vocabulary.domains
    assert "leave something to keep" in panel.shown.value
    panel.classes.value = ("dog",)
    assert numbers(panel.shown.value)


def test_the_table_says_what_colour_shows(panel):
    text = panel.shown.value
    assert "<caption>" in text and text.count("scope='row'") == 16 and text.count("scope='col'") == 6
    assert text.count("outline:") == text.count(" ×<") == 1


def test_unknown_names_are_refused(clip, world, known):
    with pytest.raises(ValueError, match="did you mean 'dog'"):
        live.Panel(clip, world, known, cn.Forget(["dgo"]))
    with pytest.raises(ValueError, match="method: 'oblik'"):
        live.Panel(clip, world, known, cn.Forget(["dog"]), "oblik")


def test_without_a_person_nothing_is_made(clip, world, known, monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(live, "Panel", None)
    assert cn.live(clip, world, known, cn.Forget(["dog"])) is None
    assert "JupyterLab" in capsys.readouterr().out


def test_with_a_person_the_panel_is_shown(clip, world, known, monkeypatch):
    shown = []
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    monkeypatch.setattr(live, "display", shown.append)
    cn.live(clip, world, known, cn.Forget(["dog"]))
    assert len(shown) == 1 and [type(child).__name__ for child in shown[0].children] == ["VBox", "HTML"]
