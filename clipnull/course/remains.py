"""Attacks on a forgotten class: measure how well words, neighbours and probes still find it (lesson 08).

`data/results/remains` stores the same figures for every retrained model on both data sets and for edits of OpenAI's
ViT-B/32, measured by `python data/build/remains.py`. Pictures of the same family never help to find each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..audits import retrained_for
from ..audits.probes import features_before_projection, linear_probe, projection_matrix
from ..audits.words import OTHER_FORMS
from ..edit import Edit
from ..embedding import embed
from ..errors import expect, import_extra
from ..images import Images, families
from ..models import Clip
from ..vocabulary import format_prompt
from .drawings import FORGOTTEN, INK, OTHER, SIBLING
from .exercises import EXERCISES
from .lesson import Lesson, measured, note, table

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    import pandas as pd
    import seaborn as sns
    from sklearn.metrics import roc_auc_score
else:
    pd, plt, sns = (import_extra(name, "course") for name in ("pandas", "matplotlib.pyplot", "seaborn"))
    roc_auc_score = import_extra("sklearn.metrics", "course").roc_auc_score

WORD = "a picture of {a}"
FORMS = (*OTHER_FORMS, "what a nice {n}")  # prompts that no edit is built from
MADE_UP = "wug", "florp"  # nonsense names
DRAWS = 20
FIGURES = {
    "named": "named by the word (%)",
    "nearest": "nearest picture shows it (%)",
    "probe": "probe on z (%)",
    "features": "probe on f(x) (%)",
    "auc": "score of the word (AUC)",
    "few": "from 4 labelled pictures (AUC)",
}


@dataclass(frozen=True, eq=False)
class Model:
    """A model as an attacker sees it: texts from `clip`, embeddings z, (n, d) unit rows, and optionally f, (n, D), the
    features before the projection."""

    clip: Clip
    z: Tensor
    f: Tensor | None = None


def opened(clip: Clip, images: Images) -> Model:
    """Embed `images`, with features before the projection unless the embeddings come from a file."""
    if clip.stored:
        return Model(clip, F.normalize(embed(clip, images).double(), dim=-1))
    f, (weight, bias) = features_before_projection(clip, images), projection_matrix(clip)
    return Model(clip, F.normalize(f.double() @ weight + bias, dim=-1), f)


def models(lesson: Lesson, edits: Mapping[str, Edit]) -> dict[str, Model]:
    """Return the lesson's model unedited, after each edit, and retrained without the class if such a model exists."""
    models = {name: Model(lesson.clip, lesson.change(edit)) for name, edit in {"unedited": None, **edits}.items()}
    if retrained := retrained_for(lesson.clip, lesson.request, lesson.images):
        models["retrained"] = Model(retrained, F.normalize(embed(retrained, lesson.images).double(), dim=-1))
    return models


# --- attacks


def texts(clip: Clip, classes: Sequence[str], template: str = WORD, c: int = -1, word: str = "") -> Tensor | None:
    """Build a text classifier (C, d) that calls class c `word`; return None if a file of embeddings lacks a prompt."""
    prompts = [format_prompt(template, word if word and i == c else name) for i, name in enumerate(classes)]
    return clip.embed_texts(prompts).double() if all(map(clip.knows, prompts)) else None


def asked(lesson: Lesson, model: Model, template: str = WORD, word: str = "") -> float:
    """Count the correctly named pictures of the lesson's class if it is called `word`; NaN if a file lacks a prompt."""
    classifier = texts(model.clip, lesson.classes, template, lesson.c, word)
    if classifier is None:
        return np.nan
    return float(((model.z @ classifier.T).argmax(1) == lesson.c)[lesson.images.classes == lesson.c].sum())


def relatives(images: Images) -> Tensor:
    """Return the pairs of pictures from the same family, (n, n) bool; the diagonal is True."""
    numbers = torch.from_numpy(np.unique(families(images), return_inverse=True)[1])
    return numbers[:, None] == numbers


def nearest(z: Tensor, kin: Tensor) -> Tensor:
    """Return the index of the nearest picture outside the family: unit rows z (n, d), kin (n, n) -> (n,)."""
    return (z @ z.T).masked_fill(kin, -2).argmax(1)


def probed(features: Tensor, labels: Tensor, kin: Tensor, seed: int = 0) -> Tensor:
    """Classify each picture with a linear probe trained on other families: (n,)."""
    return linear_probe(features.float(), labels, seed, groups=kin.int().argmax(1).tolist()).predicted


def from_few(z: Tensor, shown: Tensor, kin: Tensor, k: int, seed: int = 0) -> float:
    """Return the AUC of finding `shown`, (n,) bool, from k positive and k negative examples; mean over DRAWS draws.

    The score is the difference of the cosines with the two means. Relatives of the examples are not scored.
    """
    random, areas = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        positive, negative = (random.choice(mask.nonzero()[:, 0].numpy(), k, replace=False) for mask in (shown, ~shown))
        rest = ~kin[[*positive, *negative]].any(0)
        w = F.normalize(z[positive].mean(0), dim=0) - F.normalize(z[negative].mean(0), dim=0)
        areas.append(roc_auc_score(shown[rest], z[rest] @ w))
    return float(np.mean(areas))


def measure(model: Model, labels: Tensor, classifier: Tensor, c: int, kin: Tensor, seed: int = 0) -> dict[str, float]:
    """Measure FIGURES for label c, in percent of its pictures or as AUC, and count its pictures."""
    z, shown = model.z, labels == c
    answers = {"named": (z @ classifier.T).argmax(1), "nearest": labels[nearest(z, kin)]}
    answers["probe"] = probed(z, labels, kin, seed)
    if model.f is not None:
        answers["features"] = probed(model.f, labels, kin, seed)
    figures = {"pictures": int(shown.sum())}
    figures |= {name: 100 * float((answer == c)[shown].double().mean()) for name, answer in answers.items()}
    return figures | {"auc": float(roc_auc_score(shown, z @ classifier[c])), "few": from_few(z, shown, kin, 4, seed)}


def attackers(lesson: Lesson, models: Mapping[str, Model], words: Sequence[str], kin: Tensor) -> pd.DataFrame:
    """Count the pictures of the class that each attack (row) finds in each model (column); NaN if it does not apply."""
    labels, shown = lesson.images.classes, lesson.images.classes == lesson.c
    columns: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        columns[name] = {
            "the word": asked(lesson, model),
            "the best other form": max(asked(lesson, model, form) for form in FORMS),
            "the best other word": max([asked(lesson, model, WORD, word) for word in words], default=np.nan),
            "the nearest picture shows one": int(shown[nearest(model.z, kin)][shown].sum()),
            "labels, and z": int((probed(model.z, labels, kin, lesson.seed) == lesson.c)[shown].sum()),
        }
        unedited = columns["unedited"]["the word"]
        columns[name]["the public weights"] = np.nan if name == "retrained" else unedited
    return pd.DataFrame(columns).dropna(how="all")


# --- models that were never taught a class


def ignorance(figure: str, story: Mapping[str, float], here: str, title: str) -> plt.Figure:
    """Plot the `story`'s values by model above the stored values of all retrained models on both data sets.

    figure: a key of FIGURES. here: the label of the story's row.
    """
    rows = measured("remains/retrained", "rows").rename(columns={figure: "value"})
    never = rows.loc[rows["model"] == "retrained", "value"]
    rows["what"] += ", " + rows["data"]
    here_rows = pd.DataFrame({"value": story, "what": here}).rename_axis("model").reset_index()
    edits = [name for name in story if name not in ("unedited", "retrained")]
    looks = {"unedited": ("o", OTHER), **{name: (m, SIBLING) for name, m in zip(edits, "v^sP", strict=False)}}
    looks["retrained"] = "D", FORGOTTEN
    markers, palette = ({name: look[i] for name, look in looks.items()} for i in (0, 1))
    fig, ax = plt.subplots(figsize=(8.6, 4.1))
    sns.scatterplot(
        pd.concat([here_rows, rows]), x="value", y="what", hue="model", style="model", markers=markers, palette=palette,
        s=100, alpha=0.8, ax=ax,
    )  # fmt: skip
    ax.axvspan(never.min(), never.max(), color=FORGOTTEN, alpha=0.12, lw=0, label="never taught")
    ax.axhline(0.5, color=INK, lw=0.8)
    ax.set(xlabel=FIGURES[figure], ylabel="", title=title, xlim=(-0.03, 1.03) if never.max() <= 1 else (-3, 103))
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=11)
    return fig


def words_of(other_words: str) -> list[str]:
    """Split a parameter of words at commas and blanks."""
    expect(str, other_words=other_words)
    return other_words.replace(",", " ").split()


# --- the student's own function


def try_function(
    identity: str, function: Callable, cases: Mapping[str, tuple], caption: str, read: Callable[[Any], Any]
) -> None:
    """Show the results of the student's function for named `cases` above the reference; a mistake never raises.

    identity: the exercise. read: convert a result to what the table shows.
    """
    rows = {}
    try:
        rows["yours"] = {name: read(function(*arguments)) for name, arguments in cases.items()}
    except NotImplementedError:
        note("Your own row appears above the reference once you have written the function.")
    except Exception as error:  # the student's code may raise anything
        note(f"Your function raised {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    reference = EXERCISES[identity].reference
    rows["reference"] = {name: read(reference(*arguments)) for name, arguments in cases.items()}
    table(pd.DataFrame(rows).T, caption)
