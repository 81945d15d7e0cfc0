"""The toolkit of the lessons: open a lesson, then show tables, claims, answers and figures.

    from clipnull.course import lesson as course
    lesson = course.open(model, data, seed, forget_class, forget_domain)

A prediction starts as Markdown that begins with "**Predict.**"; `answer` resolves it after the run. All tensors are
float64 with unit rows, so lessons never cast or normalise.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..datasets.loading import load_images
from ..edit import Edit
from ..embedding import embed, readable
from ..errors import expect, import_extra
from ..evaluate import accuracy_matrix, classify, rates
from ..files import data_folder, markdown
from ..from_names import embed_vocabulary
from ..images import Images
from ..methods.cells import Cells
from ..models import Clip, load
from ..prompts import embed_cells, embed_classes
from ..stored import is_stored
from ..vocabulary import Forget
from .drawings import STYLE, drawn

if TYPE_CHECKING:
    import IPython as ipython
    import matplotlib.pyplot as plt
    import pandas as pd
else:
    ipython, plt, pd = (import_extra(name, "course") for name in ("IPython", "matplotlib.pyplot", "pandas"))

Change = Callable[[Tensor], Tensor] | Tensor | Edit | None
"""A change of embeddings (n, d): a function of them, a matrix (d, d) applied from the right, an edit, or None."""

GREY = '<span style="color: #767676">{}</span>'
REAL = "openai-vit-b-32-photo-and-drawing"  # the results of OpenAI's ViT-B/32


# --- opening a lesson


@dataclass(eq=False)
class Lesson:
    """The model, pictures and tensors of a lesson: n pictures, C classes, K domains, width d.

    z: embeddings of the pictures, (n, d). T, V: texts and prototypes of all (class, domain) cells, (C, K, d); `cells`
    holds both. classifier: texts "a picture of a ...", (C, d). before: predictions of the unedited model, (n,).
    mask: the cells to forget, (C, K) bool. c, k: indices of the class and domain to forget; -1 without one.
    """

    clip: Clip
    images: Images
    z: Tensor
    request: Forget
    class_name: str
    domain: str
    seed: int

    def __post_init__(self) -> None:
        self.vocabulary = self.images.vocabulary
        self.classes, self.domains = self.vocabulary.classes, self.vocabulary.domains
        self.c = self.classes.index(self.class_name) if self.class_name else -1
        self.k = self.domains.index(self.domain) if self.domain else -1
        self.mask = self.request.mask(self.vocabulary)
        self.z = F.normalize(self.z.double(), dim=-1)
        self.T = embed_cells(self.clip, self.vocabulary).double()
        self.classifier = embed_classes(self.clip, self.vocabulary.names).double()
        self.before = self.answers()

    @cached_property
    def cells(self) -> Cells:
        return embed_vocabulary(self.clip, self.vocabulary)  # synthesizes prototypes if the model has none

    @property
    def V(self) -> Tensor:
        return self.cells.pictures

    @cached_property
    def groups(self) -> dict[str, Tensor]:
        """Masks of the pictures to forget, of their siblings and of all others, (n,) bool each."""
        forgotten = self.mask[self.images.classes, self.images.domains]
        siblings = self.mask.any(1)[self.images.classes] & ~forgotten
        return {"forgotten": forgotten, "siblings": siblings, "others": ~forgotten & ~siblings}

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def change(self, change: Change) -> Tensor:
        """Return the embeddings after `change`, unit rows (n, d)."""
        if isinstance(change, Tensor):
            return F.normalize(self.z @ change.double(), dim=-1)
        function = change.images if isinstance(change, Edit) else change
        return self.z if function is None else F.normalize(function(self.z), dim=-1)

    def answers(self, change: Change = None) -> Tensor:
        """Classify each picture after `change`: (n,)."""
        return classify(self.change(change), self.classifier, self.images.domains)

    def accuracy(self, change: Change = None) -> Tensor:
        """Return the accuracy in each (class, domain) cell after `change`: (C, K), NaN in cells without pictures."""
        return accuracy_matrix(self.answers(change), self.images)

    def search(self, change: Change = None) -> Tensor:
        """Rank all pictures by their score for the class to forget: indices (n,), best first."""
        return (self.change(change) @ self.classifier[self.c]).argsort(descending=True)

    def counts(self, change: Change = None) -> dict[str, int]:
        """Count the correctly classified pictures of each nonempty group; `of_GROUP` is the size of the group."""
        correct, groups = self.answers(change) == self.images.classes, self.groups
        counts = {name: int((correct & group).sum()) for name, group in groups.items() if group.any()}
        return counts | {f"of_{name}": int(groups[name].sum()) for name in counts}

    def examples(self, class_name: str) -> list[int]:
        """Return the index of the first picture of a class in each domain, K of them; -1 where there is none."""
        of_class = self.images.classes == self.classes.index(class_name)
        first = {int(self.images.domains[i]): int(i) for i in of_class.nonzero().flip(0)}
        return [first.get(k, -1) for k in range(len(self.domains))]

    def pixels(self, what: str) -> bool:
        """Return True if the lesson has pixels; else note in grey that `what` is skipped."""
        if not self.images.has_pixels:
            note(f"Skipped, because this run has embeddings but no pixels: {what}.")
        return self.images.has_pixels


def open(  # noqa: A001, as in `course.open`
    model: str = "miniclip", data: str = "", seed: int = 0, forget_class: str = "dog", forget_domain: str = ""
) -> Lesson:
    """Open a lesson: load model and pictures, embed them, and prepare the request.

    model: "miniclip", or "ARCHITECTURE/TAG" of open_clip ("ViT-B-32/openai"). data: a folder or table of pictures, or
    a file of embeddings (.npz) that replaces the model; miniworld if empty. forget_class, forget_domain: an empty
    domain forgets the class in all domains, an empty class the whole domain. Broken pictures are skipped with a
    warning. Raise ValueError for an argument of the wrong type.
    """
    expect(str, model=model, data=data, forget_class=forget_class, forget_domain=forget_domain)
    expect(int, seed=seed)
    plt.rcParams.update(STYLE)
    images = load_images(data or None)
    request = Forget([forget_class] if forget_class else None, [forget_domain] if forget_domain else None)
    mask, counts = request.mask(images.vocabulary), images.counts()
    if not counts[mask].sum():
        filled = [d for d, n in zip(images.vocabulary.domains, counts[mask.any(1)].sum(0), strict=True) if n]
        raise ValueError(f"forget_domain: {forget_domain!r} has no {forget_class}; expected one of {', '.join(filled)}")
    name, _, tag = (model, "", "") if ":" in model else model.partition("/")
    clip = load(data) if is_stored(data) else load(name, tag or None)
    whole, (z,) = readable(images, embed(clip, images))
    return Lesson(clip, whole, z, request, forget_class, forget_domain, seed)


# --- showing


def _show(text: str, **fields: Any) -> None:
    if ipython.get_ipython() is None:
        return print(text)
    data, metadata = {"text/markdown": text, "text/plain": text}, {"clipnull": fields} if fields else {}
    ipython.display.display(data, metadata=metadata, raw=True)


def note(text: str) -> None:
    """Show a grey line, such as what this run skips or how another model differs."""
    _show(GREY.format(text))


def table(rows: Any, caption: str, form: str = "{:.2f}") -> None:
    """Show `rows`, any input of a DataFrame, as a Markdown table below `caption`.

    form: the format of floats. An index of names becomes the first column.
    """
    frame = pd.DataFrame(rows)
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.rename_axis(str(frame.index.name or "")).reset_index()
    texts = frame.map(lambda v: "–" if v != v else form.format(v) if isinstance(v, float) else str(v))
    texts = texts.apply(lambda column: column.str.replace("|", "\\|"))
    numbers = [texts[column].str.match(r"[-+–\d]").all() for column in texts]
    _show(f"**{caption}**\n\n{markdown(texts.to_numpy(), [*texts], numbers)}")


def claim(text: str, when: object = True, fold: str = "", **numbers: Any) -> None:
    """Show a sentence with numbers of this run; if it is untrue in this run, show only the numbers, in grey.

    text: a template for `str.format`. when: the condition under which the text is true. fold: a summary to fold the
    sentence under. numbers: values for the text; tests compare them with the recorded metrics of the same names.

    >>> claim("Dogs become cars: {cars} of {dogs}.", when=22 > 2, cars=22, dogs=45)
    Dogs become cars: 22 of 45.
    """
    values = {name: value.item() if hasattr(value, "item") else value for name, value in numbers.items()}
    holds = bool(when) and all(value == value for value in values.values())  # NaN differs from itself
    items = [f"{n.replace('_', ' ')} {f'{v:.4g}' if isinstance(v, float) else v}" for n, v in values.items()]
    sentence = text.format(**values) if holds else GREY.format(f"In this run: {', '.join(items)}.")
    if fold:
        sentence = f"<details><summary>{fold}</summary>\n\n{sentence}\n\n</details>"
    _show(sentence, claim=text, holds=holds, numbers=values)


def answer(text: str, when: object = True, **numbers: Any) -> None:
    """Show the answer to a prediction, a folded `claim`."""
    claim(text, when, "Answer", **numbers)


def figure(fig: plt.Figure, alt: str) -> None:
    """Display a figure as PNG with the alternative text `alt`, one sentence. Its title must state the finding."""
    titles = [fig.get_suptitle(), *(ax.get_title(loc) for ax in fig.axes for loc in ("center", "left"))]
    if len(alt) < 20 or not any(titles):
        raise ValueError(f"alt: {alt!r}, titles {titles}; expected a sentence, and a title that states the finding")
    full, compact = io.BytesIO(), io.BytesIO()
    fig.savefig(full, format="png")
    plt.close(fig)
    Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(compact, "PNG", optimize=True)
    data = {"image/png": base64.b64encode(compact.getvalue()).decode(), "text/plain": alt}
    ipython.display.display(data, metadata={"image/png": {"alt": alt}, "clipnull": {"drawn": drawn(fig)}}, raw=True)


# --- measurements of OpenAI's CLIP


def content(results: str, kind: str = "") -> dict[str, Any]:
    """Load data/results/KIND-RESULTS.json."""
    expect(str, results=results)
    file = data_folder("results") / f"{kind}-{results}.json".removeprefix("-")
    if not file.is_file():
        raise ValueError(f"results: {str(file)!r} does not exist; expected the name of a results file without ending")
    return json.loads(file.read_text(encoding="utf-8"))


def measured(name: str = REAL, part: str = "summary", **match: object) -> pd.DataFrame:
    """Return the rows of data/results/NAME.json with the values `match`; of (mean, low, high) keep the mean.

    >>> measured(paradigm="global", method="nullspace").forgetting_rate.round(3).tolist()
    [0.996]
    """
    rows = content(name)[part]
    rows = [row for row in (rows if isinstance(rows, list) else [rows]) if match.items() <= row.items()]
    return pd.DataFrame([{k: v[0] if isinstance(v, list) and v else v for k, v in row.items()} for row in rows])


def real_clip(rows: Any, note: str, form: str = "{:.2f}") -> None:
    """Show the box "On OpenAI's ViT-B/32": a table of measurements, such as rows of `measured`, below `note`."""
    table(rows, f"On OpenAI's ViT-B/32 · {note}", form)


# --- compare edits


def rates_of(before: Tensor, after: Tensor, masks: Sequence[Tensor]) -> pd.DataFrame:
    """Return `evaluate.rates` of each edit as rows: before (C, K), after (m R, C, K), with m edits for each of R masks.

    >>> before, after = torch.ones(2, 1), torch.tensor([[[0.0], [1.0]], [[0.5], [0.9]]])
    >>> rates_of(before, after, [torch.tensor([[True], [False]])]).forgetting_rate.tolist()
    [1.0, 0.5]
    """
    edits = len(after) // len(masks)
    return pd.DataFrame([rates(before, matrix, masks[i // edits]) for i, matrix in enumerate(after)])


def story(lesson: Lesson, **changes: Change) -> None:
    """Show how many pictures of each group are classified correctly, unedited and after each of `changes`."""
    heads = {"forgotten": lesson.request, "siblings": f"{lesson.class_name} elsewhere", "others": "everything else"}
    rows = {}
    for label, change in {"unedited": None, **changes}.items():
        n = lesson.counts(change)
        rows[label.replace("_", " ")] = {str(heads[g]): f"{n[g]} of {n[f'of_{g}']}" for g in heads if g in n}
    table(pd.DataFrame(rows).T, "Pictures named right")


def try_edit(lesson: Lesson, change: Change, reference: Change, hint: str = "") -> None:
    """Compare a student's edit with the reference on every picture; show its `story`, or both if they differ.

    hint: advice on the most likely mistake. A mistake never raises; pass a function of z to delay building the edit.
    """
    try:
        z = lesson.change(change)
        if z.shape != lesson.z.shape:
            raise ValueError(f"embeddings of shape {tuple(z.shape)}; expected {tuple(lesson.z.shape)}")
    except NotImplementedError:
        return _show("TODO: write the function above, run it, then run this again.")
    except Exception as error:  # the student's code may raise anything
        return _show(f"FAIL: {type(error).__name__}: {str(error).partition(chr(10))[0]}. {hint}")
    gap = float((z - lesson.change(reference)).norm(dim=1).nan_to_num(2.0).max())
    _show("PASS" if gap < 1e-3 else f"FAIL: a picture lies {gap:.2g} away from the reference. {hint}")
    story(lesson, your_edit=change, **({} if gap < 1e-3 else {"reference": reference}))
