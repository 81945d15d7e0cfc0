"""The live panel: its controls act, and it appears only for a person."""

import re

import pytest
import torch.nn.functional as F

import clipnull as cn
from clipnull.course import panel as panels
from clipnull.evaluate import accuracy_matrix
from clipnull.prompts import embed_classes

OURS = [name for name in cn.METHODS if cn.METHODS[name].strength]
pytestmark = pytest.mark.slow  # the embedded pictures are embedded for it


@pytest.fixture
def panel(clip, images, cells, z, monkeypatch):
    monkeypatch.setattr(panels, "embed", lambda *_: z.clone())
    return panels.Panel(clip, images, cells, cn.Forget(["dog"], ["line"]), "oblique")


def numbers(text):
    """(after, change, forgotten) of each cell that is shown, in reading order."""
    cells = re.findall(r">(\d+) \(([+-]\d+)\)( ×)?</td>", text)
    return [(int(after), int(change), bool(cross)) for after, change, cross in cells]


@pytest.mark.parametrize(
    "method, classes, domains",
    [*[(method, ["bird", "car"], ["line"]) for method in OURS], ("gated", None, ["photo"])],
)
def test_the_matrix_is_that_of_the_edit(panel, clip, images, cells, z, method, classes, domains):
    panel.method.value = method
    panel.classes.value, panel.domains.value = classes or (), domains or ()
    mask = cn.Forget(classes, domains).mask(images.vocabulary)
    edit = cn.solve(cells, mask, method)  # the dials begin at the defaults
    names = embed_classes(clip, images.vocabulary.classes)
    after = accuracy_matrix((F.normalize(edit.images(z), dim=-1) @ names.T).argmax(1), images)
    before = cn.zero_shot(clip, images, features=z)
    filled = ~before.isnan()
    shown = numbers(panel.shown.value)
    assert [a for a, _, _ in shown] == [int(f"{100 * v:.0f}") for v in after[filled].tolist()]
    assert [c for _, c, _ in shown] == [int(f"{100 * v:.0f}") for v in (after - before)[filled].tolist()]
    assert [x for _, _, x in shown] == mask[filled].tolist()


def test_the_dial_of_the_method_is_shown_and_acts(panel):
    for method in OURS:
        panel.method.value = method
        assert [name for name, dial in panel.dials.items() if dial.layout.display is None] == [method]
        full = panel.shown.value
        panel.dials[method].value = panel.dials[method].min if method != "ridge" else 1.0
        weak = sum(abs(change) for _, change, _ in numbers(panel.shown.value))
        assert weak < sum(abs(change) for _, change, _ in numbers(full)), method
        assert method == "ridge" or weak == 0


def test_nothing_and_everything_are_not_requests(panel, images):
    for domains in ((), images.vocabulary.domains):
        panel.classes.value, panel.domains.value = (), domains
        assert "Choose a class or a domain to forget, and leave something to keep" in panel.shown.value


def test_the_table_shows_in_text_what_its_colours_show(panel):
    text = panel.shown.value
    assert "<caption>" in text and text.count("scope='row'") == 14 and text.count("scope='col'") == 6
    assert text.count("outline:") == text.count(" ×<") == 1
    assert set(re.findall(r"background: ([^;']+)", text)) > {"#f6f6f6"}, "hexadecimal; unchanged cells are white"


def test_unknown_names_are_refused(clip, images, cells, z, monkeypatch):
    monkeypatch.setattr(panels, "embed", lambda *_: z)
    with pytest.raises(ValueError, match="did you mean 'dog'"):
        panels.Panel(clip, images, cells, cn.Forget(["dgo"]))
    with pytest.raises(ValueError, match="method: 'oblik'"):
        panels.Panel(clip, images, cells, cn.Forget(["dog"]), "oblik")


def test_the_panel_is_shown_to_a_person_alone(clip, images, cells, z, monkeypatch, capsys):
    shown = []
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    panels.live(clip, images, cells, cn.Forget(["dog"]))
    assert "JupyterLab" in capsys.readouterr().out and not shown
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setattr(panels, "embed", lambda *_: z)
    panels.live(clip, images, cells, cn.Forget(["dog"]))
    assert len(shown) == 1 and [type(child).__name__ for child in shown[0].children] == ["VBox", "HTML"]
