"""Zero-shot accuracy of a model in each (class, domain) cell, and how an edit changes it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import compress

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from .embedding import embed, readable
from .errors import expect_types, one_of
from .files import data_folder
from .images import Images
from .layers import ROWS
from .models import Clip
from .prompts import embed_domains, kept_names, text_classifiers
from .vocabulary import PROMPTS, Forget, Vocabulary, is_near, words

RANGES = {
    "forgetting_rate": (-float("inf"), 1.0), "retain_drop": (-100.0, 100.0), "sibling_class_drop": (-100.0, 100.0),
    "sibling_domain_drop": (-100.0, 100.0), "worst_cell_drop": (-100.0, 100.0), "collateral": (0.0, 100.0),
}  # fmt: skip
"""The range of each figure that is reported with an interval."""

Interval = tuple[float, float, float]  # mean, low, high; NaN if undefined


def classify(
    features: Tensor, classifiers: Tensor, domains: Tensor, change: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the class with the largest cosine, (n,) int64, or -1 (no answer) for features with NaN.

    features: embeddings (n, d). classifiers: unit rows (C, d), or (K, C, d) for one text classifier per domain.
    domains: the domain of each picture, (n,). change: applied to ROWS features at a time before they are classified,
    such as `edit.images`.
    """
    if not classifiers.isfinite().all():
        raise ValueError("classifiers: NaN or infinite values; expected finite unit rows")
    predicted = torch.empty(len(features), dtype=torch.int64, device=features.device)
    for first in range(0, len(features), ROWS):
        rows = slice(first, first + ROWS)
        z, domain, answer = features[rows], domains[rows], predicted[rows]
        z = z if change is None else change(z)
        length = z.norm(dim=-1)
        if length.isinf().any():
            row = first + int(length.isinf().nonzero()[0])
            raise ValueError(f"features: row {row} is infinite; expected finite values, or NaN for no answer")
        z = F.normalize(z, dim=-1)
        for k, classifier in enumerate(classifiers if classifiers.ndim == 3 else classifiers[None]):
            of_domain = domain == k if classifiers.ndim == 3 else slice(None)
            answer[of_domain] = (z[of_domain] @ classifier.T).argmax(1)
        answer[length.isnan()] = -1
    return predicted


def predict(clip: Clip, images: Images, prompts: str = "free", features: Tensor | None = None) -> Tensor:
    """Classify each picture: (n,) int64, -1 if the picture is broken. prompts, features: see `zero_shot`."""
    expect_types(clip=clip, images=images)
    z = embed(clip, images) if features is None else features
    return classify(z, text_classifiers(clip, images.vocabulary, prompts), images.domains)


def accuracy_matrix(predicted: Tensor, images: Images, labels: Tensor | None = None) -> Tensor:
    """Return the share of right answers in each cell, (C, K) float64; NaN for a cell without pictures.

    predicted: (n,), where -1 (no answer) does not count. labels: the right answers, (n,); by default the classes.
    """
    c, k = images.vocabulary.shape
    cells, answered = images.classes * k + images.domains, (predicted != -1).double()
    right = answered * (predicted == (images.classes if labels is None else labels))
    right, count = (torch.zeros(c * k, dtype=torch.float64).index_add_(0, cells, x) for x in (right, answered))
    return (right / count).view(c, k)


def zero_shot(clip: Clip, images: Images, prompts: str = "free", features: Tensor | None = None) -> Tensor:
    """Return the accuracy of `clip` in each cell, (C, K) float64; NaN for a cell without pictures.

    images: n pictures; broken ones do not count. prompts: "free", "domain" or "build", see `prompts.text_classifiers`.
    features: precomputed embeddings (n, d); by default `embed(clip, images)`.

    >>> import clipnull as cn
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["boat", "car"], ["line"])
    >>> float(cn.zero_shot(clip, images).nanmean()) > 0.7
    True
    """
    return accuracy_matrix(predict(clip, images, prompts, features), images)


def domain_accuracy(clip: Clip, images: Images, features: Tensor | None = None) -> Tensor:
    """Return the accuracy in recognising the domain of a picture, in each cell: (C, K). features: see `zero_shot`."""
    z = embed(clip, images) if features is None else features
    predicted = classify(z, embed_domains(clip, images.vocabulary.domains), images.domains)
    return accuracy_matrix(predicted, images, images.domains)


def macro(matrix: Tensor, mask: Tensor | None = None) -> float:
    """Return the mean over the cells of `mask` (by default all) that hold pictures; NaN if there are none."""
    return float((matrix if mask is None else matrix[mask]).nanmean())


def rates(before: Tensor, after: Tensor, mask: Tensor) -> dict[str, float]:
    """Summarise an edit by the accuracy before and after it, (C, K) each, and the `mask` of forgotten cells.

    Figures are means over cells, and NaN if there are no such cells with pictures.
    forgetting_rate: (A_F - A'_F) / A_F, the lost share of the accuracy on forgotten cells; NaN if there was none to
        lose. If whole domains are forgotten, guessing is the floor. The rate is then the share of the way to chance,
        min(1, (A_F - A'_F) / (A_F - 1/C)), and NaN if A_F was no better than chance.
    Drops are in percentage points; a negative drop is a gain.
    retain_drop: over kept cells. worst_cell_drop: the largest of them. The next two are NaN unless the request is
    selective.
    sibling_class_drop: over kept cells of a forgotten class (photographed dogs when drawn dogs are forgotten).
    sibling_domain_drop: over kept cells of a forgotten domain (drawn cats).
    """
    drop, kept = 100 * (before - after), ~mask
    same_class, same_domain = mask.any(1, keepdim=True), mask.any(0, keepdim=True)
    whole_classes, whole_domains = (bool((mask.all(i) == mask.any(i)).all()) for i in (1, 0))
    selective = not whole_classes and not whole_domains
    a, a_after, floor = macro(before, mask), macro(after, mask), 1 / len(mask) if whole_domains else 0.0
    return {
        "forgetting_rate": min(1.0, (a - a_after) / (a - floor)) if a > floor else float("nan"),
        "retain_drop": macro(drop, kept),
        "sibling_class_drop": macro(drop, kept & same_class) if selective else float("nan"),
        "sibling_domain_drop": macro(drop, kept & same_domain) if selective else float("nan"),
        "worst_cell_drop": max(drop[kept & ~drop.isnan()].tolist(), default=float("nan")),
    }


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the share `right` of `n` (Wilson 1927): within [0, 1], and sound for small n."""
    interval = stats.binomtest(right, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Accuracy on `images` before and after an edit, (C, K) each; `mask` (C, K) bool marks the forgotten cells.

    answers: the predicted classes of the n pictures before and after, (2, n). renamed: (m,) bool, True where an
    unrelated picture changed its answer; None without such pictures, for a complete request or if the bases differ.
    """

    before: Tensor
    after: Tensor
    mask: Tensor
    images: Images
    request: Forget
    prompts: str
    answers: Tensor
    renamed: Tensor | None = None

    @property
    def rates(self) -> dict[str, float]:
        """The figures of `evaluate.rates`, and `collateral`, the percentage of True in `renamed` (NaN if None)."""
        collateral = float("nan") if self.renamed is None else 100 * float(self.renamed.double().mean())
        return rates(self.before, self.after, self.mask) | {"collateral": collateral}

    def __repr__(self) -> str:
        before, after = (100 * macro(matrix, self.mask) for matrix in (self.before, self.after))
        lines = [
            f"forget {self.request}: {before:.1f} % -> {after:.1f} % right on forgotten cells, prompts "
            f"{self.prompts!r}, {len(self.images)} pictures"
        ]
        for name, value in self.rates.items():
            if value == value:
                unit = {"forgetting_rate": "", "collateral": " %"}.get(name, " points")
                lines.append(f"  {name.replace('_', ' '):20} {value:8.3f}{unit}")
        return "\n".join(lines)


def compare(
    clip: Clip,
    after: Clip,
    images: Images,
    request: Forget,
    prompts: str = "free",
    features: tuple[Tensor, Tensor] | None = None,
) -> Comparison:
    """Compare `clip` and the edited `after` on the same pictures and prompts, with all classes as candidates.

    images: n pictures; those broken under either model are left out. request: defines the forgotten cells. prompts: see
    `zero_shot`. features: precomputed embeddings under `clip` and `after`, two tensors (n, d). The result's `rates` are
    those of `evaluate.rates`, and `collateral` if unrelated pictures of this model are available.

    >>> import clipnull as cn
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["car", "dog"], ["line"])
    >>> request = cn.Forget(["car"])
    >>> edit = cn.unlearn(clip, request, images.vocabulary, "oblique", prototypes=False)
    >>> result = cn.compare(clip, edit.apply(clip), images, request)
    >>> result.rates["forgetting_rate"] > 0.9, result.rates["retain_drop"] < 3
    (True, True)
    """
    expect_types(clip=clip, after=after, images=images, request=request)
    mask = request.mask(images.vocabulary)
    one_of("prompts", prompts, PROMPTS)
    if features is None:
        images, (z,) = readable(images, embed(clip, images))
        features = z, embed(after, images)
    answers = torch.stack([predict(m, images, prompts, z) for m, z in zip((clip, after), features, strict=True)])
    answered = (answers != -1).all(0)
    if not answered.all():
        images, answers = images.where(answered), answers[:, answered]
    accuracy, accuracy_after = (accuracy_matrix(predicted, images) for predicted in answers)
    base, renamed = clip.base or clip, None
    if (after.base or after) is base and is_measurable(request) and (others := others_of(base, images.vocabulary)):
        renamed = others.answers(after.edited) != others.answers(clip.edited)
    return Comparison(accuracy, accuracy_after, mask, images, request, prompts, answers, renamed)


# --- collateral damage: the share of unrelated pictures, unknown to all methods, whose answer changes


@dataclass(frozen=True, eq=False)
class Others:
    """Unrelated pictures, and words for them that no request mentions."""

    images: Tensor  # (m, d) float32, embeddings of the unedited model
    texts: Tensor  # (w, d)
    names: tuple[str, ...]  # w words
    shows: Tensor | None = None  # (m,) int64, the word for each picture, if known

    def answers(self, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the word with the largest cosine to each picture after `change`, such as `edit.images`: (m,) int64."""
        parts = (rows if change is None else change(rows) for rows in self.images.split(ROWS))
        return torch.cat([(rows @ self.texts.T).argmax(1) for rows in parts])

    @cached_property
    def unedited(self) -> Tensor:
        """The answers of the unedited model, (m,), computed once."""
        return self.answers()

    def changed(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return (m,) bool, True where `change` changes the answer; its mean is the collateral damage."""
        return self.answers(change) != self.unedited


def others_of(clip: Clip, vocabulary: Vocabulary) -> Others | None:
    """Return the unrelated pictures and words available for `clip`, or None for fewer than two words.

    miniclip ships with its own: held-out artworks of classes in neither miniworld nor PACS. Words that an edit may have
    met are left out with their pictures: words near a class (`vocabulary.is_near`), and `prompts.kept_names`.
    """
    others = _load_others(clip)
    if others is None:
        return None
    met = {*map(words, kept_names(clip))}
    new = torch.tensor([not is_near(name, vocabulary.classes) and words(name) not in met for name in others.names])
    if new.sum() < 2:
        return None
    images, shows = others.images, others.shows
    if shows is not None:
        images, shows = images[new[shows]], (new.cumsum(0) - 1)[shows[new[shows]]]
    return Others(images, F.normalize(others.texts[new], dim=-1), tuple(compress(others.names, new.tolist())), shows)


def is_measurable(request: Forget) -> bool:
    """Return False for a complete request: forgetting a whole domain has to change unrelated pictures, too."""
    return request.paradigm != "complete"


def _load_others(clip: Clip) -> Others | None:
    """Load all others from a file of embeddings, or from the file that data/build/others.py wrote for this model."""
    if clip.stored:
        images, texts = (clip.stored.vectors.get(name) for name in ("other_images", "other_texts"))
        return None if images is None or texts is None else Others(images, texts, clip.stored.other_names)
    path = data_folder("miniclip") / f"others-{clip.fingerprint}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        images, texts = (torch.from_numpy(file[name].astype(np.float32)) for name in ("other_images", "other_texts"))
        return Others(images, texts, tuple(file["other_names"].tolist()), torch.from_numpy(file["shows"]).long())
