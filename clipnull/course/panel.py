"""A live panel for a notebook: choose what to forget and how, and watch the accuracy matrix change."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..embedding import embed
from ..errors import import_extra, one_of
from ..evaluate import accuracy_matrix, classify, rates
from ..images import Images
from ..methods import METHODS, Method, solve
from ..methods.cells import Cells
from ..models import Clip
from ..prompts import text_classifiers
from ..vocabulary import Forget


class Panel:
    """Controls for a request and a method beside the accuracy after the edit; `box` is the widget.

    cells: of the unedited `clip`, from `embed_vocabulary`. The pictures of `images` are embedded once.
    """

    def __init__(self, clip: Clip, images: Images, cells: Cells, request: Forget, method: str = "gated") -> None:
        widgets = import_extra("ipywidgets", "course")
        vocabulary = images.vocabulary
        request.mask(vocabulary)  # raises for unknown names
        self.images, self.cells = images, cells
        self.z, self.classifiers = embed(clip, images), text_classifiers(clip, vocabulary)
        self.before = self.accuracy(self.z)

        def choice(argument: str, chosen: Sequence[str] | None) -> Any:
            options = getattr(vocabulary, argument)
            value = [options[i] for i in vocabulary.places(argument, chosen)] if chosen else ()
            return widgets.SelectMultiple(
                options=options, value=value, description=argument, rows=min(16, len(options))
            )

        self.classes = choice("classes", request.classes)
        self.domains = choice("domains", request.domains)
        chosen = one_of("method", method, METHODS)
        self.method = widgets.Dropdown(options=list(METHODS), value=chosen, description="method")
        self.dials = {name: _dial(METHODS[name]) for name in METHODS if METHODS[name].strength}
        self.shown = widgets.HTML()
        for control in (self.classes, self.domains, self.method, *self.dials.values()):
            control.observe(self.update, "value")
        hint = widgets.HTML("<small>Ctrl or Shift picks several.<br>No class: all. No domain: all.</small>")
        controls = [self.classes, self.domains, hint, self.method, *self.dials.values()]
        self.box = widgets.HBox([widgets.VBox(controls, layout=widgets.Layout(flex="0 0 auto")), self.shown])
        self.update()

    def accuracy(self, z: Tensor) -> Tensor:
        """The accuracy matrix (C, K) of embeddings z (n, d), with prompts that name no domain."""
        return accuracy_matrix(classify(z, self.classifiers, self.images.domains), self.images)

    def update(self, _: object = None) -> None:
        """Make the edit that the controls ask for, and show the accuracy after it."""
        method = self.method.value
        for name, dial in self.dials.items():
            dial.layout.display = None if name == method else "none"
        try:
            request = Forget(self.classes.value or None, self.domains.value or None)
            mask = request.mask(self.images.vocabulary)
        except ValueError:
            self.shown.value = "<p role='status'>Choose a class or a domain to forget, and leave something to keep.</p>"
            return
        settings = {METHODS[method].strength: self.dials[method].value} if method in self.dials else {}
        after = self.accuracy(solve(self.cells, mask, method, **settings).images(self.z))
        finite = {name: value for name, value in rates(self.before, after, mask).items() if value == value}
        summary = "; ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in finite.items())
        status = f"<p role='status'>Forget {html.escape(str(request))}: {summary}</p>"
        self.shown.value = status + _table(self.before, after, mask, self.images)


def _dial(method: Method) -> Any:
    """A slider for the strength of a method, which begins at its default."""
    widgets, name = import_extra("ipywidgets", "course"), method.strength
    value = method.defaults[name]
    if name == "forgetting":  # a weight: powers of ten
        return widgets.FloatLogSlider(value, min=0, max=5, step=0.1, description=name)
    return widgets.FloatSlider(value, min=0.0, max=1.0 if name == "alpha" else 5.0, step=0.05, description=name)


def _table(before: Tensor, after: Tensor, mask: Tensor, images: Images) -> str:
    """Accuracy after an edit in % and its change in points, as a table: orange lost, purple gained.

    Forgotten cells, those of the mask, have a frame and a cross; cells without pictures are empty.
    """
    head = "".join(f"<th scope='col'>{html.escape(domain)}</th>" for domain in images.vocabulary.domains)
    body = ""
    for c, name in enumerate(images.vocabulary.classes):
        cells = map(_cell, before[c].tolist(), after[c].tolist(), mask[c].tolist())
        body += f"<tr><th scope='row'>{html.escape(name)}</th>{''.join(cells)}</tr>"
    caption = "% right after the edit (change in points); × and frame: to be forgotten"
    return f"<table><caption>{caption}</caption><tr><td></td>{head}</tr>{body}</table>"


def _cell(before: float, after: float, forgotten: bool) -> str:
    if before != before:
        return "<td></td>"
    colors, change = import_extra("matplotlib", "course"), after - before
    red, green, blue, _ = colors.colormaps["PuOr"]((change + 1) / 2, bytes=True)
    style = f"padding: 2px 6px; background: #{red:02x}{green:02x}{blue:02x}"
    style += "; color: white" if 0.3 * red + 0.59 * green + 0.11 * blue < 127 else "; color: black"
    style += "; outline: 3px solid #D55E00; outline-offset: -3px" if forgotten else ""
    return f"<td style='{style}'>{100 * after:.0f} ({100 * change:+.0f}){' ×' if forgotten else ''}</td>"


def live(clip: Clip, images: Images, cells: Cells, request: Forget, method: str = "gated") -> None:
    """Display a `Panel` (same arguments) where a person can use it; elsewhere (papermill, CI) print one line.

    JupyterLab and Notebook name their session, Colab and VS Code leave a mark of their own.
    """
    shell = import_extra("IPython", "course").get_ipython()
    here = os.environ.get("JPY_SESSION_NAME") or "google.colab" in sys.modules
    if here or (shell and "__vsc_ipynb_file__" in shell.user_ns):
        import_extra("IPython.display", "course").display(Panel(clip, images, cells, request, method).box)
    else:
        print("The controls appear when you run this code in JupyterLab.")
