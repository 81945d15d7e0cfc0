"""Live: choose what to forget and how, and watch the matrix change. For a notebook that somebody sits in front of."""

from __future__ import annotations

import html
import os
import sys

from torch import Tensor

from ..embedding import embed
from ..errors import import_extra, one_of
from ..evaluate import accuracy_matrix, classify, rates
from ..images import Images
from ..methods import METHODS, solve
from ..methods.cells import Cells
from ..models import Clip
from ..prompts import text_classifiers
from ..vocabulary import Forget

DIALS = {  # the setting of each method that says how hard it hits
    "nullspace": ("alpha", 0.0, 1.0, 1.0),
    "residual": ("alpha", 0.0, 1.0, 1.0),
    "ridge": ("forgetting", 0, 5, 1000.0),
    "oblique": ("strength", 0.0, 5.0, 1.15),
    "neuron": ("strength", 0.0, 5.0, 1.5),
    "gated": ("strength", 0.0, 5.0, 1.5),
}
"""Method -> (setting, lowest, highest, at first); for `ridge`, powers of ten. Any other method keeps its defaults."""


def attended() -> bool:
    """Whether the kernel was started for a person: by JupyterLab, Notebook, VS Code or Colab, not by papermill."""
    shell = import_extra("IPython", "course").get_ipython()
    return bool(
        os.environ.get("JPY_SESSION_NAME")
        or "google.colab" in sys.modules
        or (shell and "__vsc_ipynb_file__" in shell.user_ns)
    )


class Panel:
    """Controls for a request and a method, and beside them the accuracy that the edit leaves.

    cells: of the unedited `clip`, see `embed_vocabulary`. Pictures are those of `images`, embedded once. `box` is the
    widget.
    """

    def __init__(self, clip: Clip, images: Images, cells: Cells, request: Forget, method: str = "gated") -> None:
        widgets = import_extra("ipywidgets", "course")
        vocabulary = images.vocabulary
        request.mask(vocabulary)  # raises for unknown names
        self.images, self.cells = images, cells
        self.z, self.classifiers = embed(clip, images), text_classifiers(clip, vocabulary)
        self.before = self.accuracy(self.z)
        self.classes, self.domains = (
            widgets.SelectMultiple(options=options, value=chosen or (), description=name, rows=min(16, len(options)))
            for name, options, chosen in (
                ("classes", vocabulary.classes, request.classes),
                ("domains", vocabulary.domains, request.domains),
            )
        )
        self.method = widgets.Dropdown(
            options=list(METHODS), value=one_of("method", method, METHODS), description="method"
        )
        self.dials = {}
        for name, (setting, low, high, value) in DIALS.items():
            kind, step = (widgets.FloatLogSlider, 0.1) if name == "ridge" else (widgets.FloatSlider, 0.05)
            self.dials[name] = kind(value, min=low, max=high, step=step, description=setting)
        self.shown = widgets.HTML()
        for control in (self.classes, self.domains, self.method, *self.dials.values()):
            control.observe(self.update, "value")
        hint = widgets.HTML("<small>Ctrl or Shift picks several.<br>No class: all. No domain: all.</small>")
        left = widgets.VBox(
            [self.classes, self.domains, hint, self.method, *self.dials.values()],
            layout=widgets.Layout(flex="0 0 auto"),
        )
        self.box = widgets.HBox([left, self.shown])
        self.update()

    def accuracy(self, z: Tensor) -> Tensor:
        """The accuracy matrix (C, K) of embeddings z (n, d), with prompts that name no domain."""
        return accuracy_matrix(classify(z, self.classifiers, self.images.domains), self.images)

    def update(self, _: object = None) -> None:
        """Make the edit that the controls ask for, and show what is left."""
        method = self.method.value
        for name, dial in self.dials.items():
            dial.layout.display = None if name == method else "none"
        try:
            request = Forget(self.classes.value or None, self.domains.value or None)
            mask = request.mask(self.images.vocabulary)
        except ValueError:
            self.shown.value = "<p role='status'>Choose a class or a domain to forget, and leave something to keep.</p>"
            return
        settings = {DIALS[method][0]: self.dials[method].value} if method in DIALS else {}
        after = self.accuracy(solve(self.cells, mask, method, **settings).images(self.z))
        told = "; ".join(
            f"{name.replace('_', ' ')} {value:.2f}"
            for name, value in rates(self.before, after, mask).items()
            if value == value
        )
        self.shown.value = f"<p role='status'>Forget {html.escape(str(request))}: {told}</p>" + matrix_html(
            self.before, after, mask, self.images
        )


def matrix_html(before: Tensor, after: Tensor, mask: Tensor, images: Images) -> str:
    """Accuracy after an edit in % and its change in points, a cell each, as a table: orange lost, purple gained.

    Forgotten cells, those of the mask, have a frame and a cross; cells without pictures are empty.
    """
    colours = import_extra("matplotlib", "course").colormaps["PuOr"]
    vocabulary = images.vocabulary
    head = "".join(f"<th scope='col'>{html.escape(domain)}</th>" for domain in vocabulary.domains)
    body = []
    for c, name in enumerate(vocabulary.classes):
        row = []
        for old, new, gone in zip(before[c].tolist(), after[c].tolist(), mask[c].tolist(), strict=True):
            if old != old:
                row.append("<td></td>")
                continue
            red, green, blue = colours((new - old + 1) / 2)[:3]
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            paper = "#" + "".join(f"{round(255 * value):02x}" for value in (red, green, blue))
            style = f"padding: 2px 6px; color: {ink}; background: {paper}"
            style += "; outline: 3px solid #D55E00; outline-offset: -3px" if gone else ""
            row.append(f"<td style='{style}'>{100 * new:.0f} ({100 * (new - old):+.0f}){' ×' if gone else ''}</td>")
        body.append(f"<tr><th scope='row'>{html.escape(name)}</th>{''.join(row)}</tr>")
    return (
        "<table><caption>% right after the edit (change in points); × and frame: to be forgotten</caption>"
        f"<tr><td></td>{head}</tr>{''.join(body)}</table>"
    )


def live(clip: Clip, images: Images, cells: Cells, request: Forget, method: str = "gated") -> None:
    """Display a `Panel` where somebody can use it; elsewhere (papermill, CI) say so in one line and do nothing.

    Arguments as for `Panel`.
    """
    if attended():
        import_extra("IPython.display", "course").display(Panel(clip, images, cells, request, method).box)
    else:
        print("The controls appear when this cell runs in JupyterLab.")
