"""Live: choose what to forget and how, and watch the matrix change. For a notebook that somebody sits in front of."""
import html
import os
import sys

import ipywidgets as widgets
import matplotlib as mpl
from IPython import get_ipython
from IPython.display import display
from torch import Tensor

from ..data import World
from ..errors import one_of
from ..evaluate import accuracy_matrix, classify, embed, rates, readouts
from ..models import Clip
from ..unlearning import METHODS, Concepts, Forget, solve

DIALS = {                                               # the setting of each method that says how hard it hits
    "nullspace": ("alpha", 0.0, 1.0, 1.0), "residual": ("alpha", 0.0, 1.0, 1.0), "ridge": ("forgetting", 0, 5, 1000.0),
    "oblique": ("strength", 0.0, 5.0, 2.2), "gated": ("strength", 0.0, 5.0, 1.5),
}
"""Method -> (setting, lowest, highest, at first); for `ridge`, powers of ten."""


def attended() -> bool:
    """Whether the kernel was started for a person: by JupyterLab, Notebook, VS Code or Colab, not by papermill."""
    shell = get_ipython()
    return bool(os.environ.get("JPY_SESSION_NAME") or "google.colab" in sys.modules
                or (shell and "__vsc_ipynb_file__" in shell.user_ns))


class Panel:
    """Controls for a request and a method, and beside them the accuracy that the edit leaves.

    known: of the unedited `clip`, see `concepts`. Pictures are those of `world`, embedded once. `box` is the widget.
    """

    def __init__(self, clip: Clip, world: World, known: Concepts, request: Forget, method: str = "gated") -> None:
        vocabulary = world.vocabulary
        request.mask(vocabulary)                        # raises for unknown names
        self.world, self.known = world, known
        self.z, self.texts = embed(clip, world), readouts(clip, vocabulary)
        self.before = self.accuracy(self.z)
        self.classes, self.domains = (
            widgets.SelectMultiple(options=options, value=chosen or (), description=name, rows=min(16, len(options)))
            for name, options, chosen in (("classes", vocabulary.classes, request.classes),
                                          ("domains", vocabulary.domains, request.domains)))
        self.method = widgets.Dropdown(options=list(METHODS), value=one_of("method", method, METHODS),
                                       description="method")
        self.dials = {}
        for name, (setting, low, high, value) in DIALS.items():
            kind, step = (widgets.FloatLogSlider, 0.1) if name == "ridge" else (widgets.FloatSlider, 0.05)
            self.dials[name] = kind(value, min=low, max=high, step=step, description=setting)
        self.shown = widgets.HTML()
        for control in (self.classes, self.domains, self.method, *self.dials.values()):
            control.observe(self.update, "value")
        hint = widgets.HTML("<small>Ctrl or Shift picks several.<br>No class: all. No domain: all.</small>")
        left = widgets.VBox([self.classes, self.domains, hint, self.method, *self.dials.values()],
                            layout=widgets.Layout(flex="0 0 auto"))
        self.box = widgets.HBox([left, self.shown])
        self.update()

    def accuracy(self, z: Tensor) -> Tensor:
        return accuracy_matrix(classify(z, self.texts, self.world.domains), self.world)

    def update(self, _: object = None) -> None:
        """Make the edit that the controls ask for, and show what is left."""
        method = self.method.value
        for name, dial in self.dials.items():
            dial.layout.display = None if name == method else "none"
        try:
            forget = Forget(self.classes.value or None, self.domains.value or None)
            mask = forget.mask(self.world.vocabulary)
        except ValueError:
            self.shown.value = "<p role='status'>Choose a class or a domain to forget, and leave something to keep.</p>"
            return
        edit = solve(self.known, mask, method, **{DIALS[method][0]: self.dials[method].value})
        after = self.accuracy(edit.transform(self.z))
        told = "; ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in
                         rates(self.before, after, mask).items() if value == value)
        self.shown.value = (f"<p role='status'>Forget {html.escape(str(forget))}: {told}</p>"
                            + matrix_html(self.before, after, mask, self.world))


def matrix_html(before: Tensor, after: Tensor, forget: Tensor, world: World) -> str:
    """Accuracy after an edit in % and its change in points, a cell each, as a table: orange lost, purple gained.

    Forgotten cells have a frame and a cross; cells without pictures are empty.
    """
    colours, head = mpl.colormaps["PuOr"], "".join(f"<th scope='col'>{html.escape(d)}</th>"
                                                   for d in world.vocabulary.domains)
    body = []
    for c, name in enumerate(world.vocabulary.classes):
        cells = []
        for old, new, gone in zip(before[c].tolist(), after[c].tolist(), forget[c].tolist(), strict=True):
            if old != old:
                cells.append("<td></td>")
                continue
            red, green, blue, _ = colours((new - old + 1) / 2)
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            style = f"padding: 2px 6px; color: {ink}; background: {mpl.colors.to_hex((red, green, blue))}"
            style += "; outline: 3px solid #D55E00; outline-offset: -3px" if gone else ""
            cells.append(f"<td style='{style}'>"
                         f"{100 * new:.0f} ({100 * (new - old):+.0f}){' ×' if gone else ''}</td>")
        body.append(f"<tr><th scope='row'>{html.escape(name)}</th>{''.join(cells)}</tr>")
    return (f"<table><caption>% right after the edit (change in points); × and frame: to be forgotten</caption>"
            f"<tr><td></td>{head}</tr>{''.join(body)}</table>")


def live(clip: Clip, world: World, known: Concepts, request: Forget, method: str = "gated") -> None:
    """Display a `Panel` where somebody can use it; elsewhere (papermill, CI) say so in one line and do nothing.

    Arguments as for `Panel`.
    """
    if attended():
        display(Panel(clip, world, known, request, method).box)
    else:
        print("The controls appear when this cell runs in JupyterLab.")
