"""Published ways to make a CLIP forget, each in a few lines with its source, for the same requests as our methods.

Only LEACE runs its authors' code; the others sketch an idea. Baselines with gradient steps train one matrix P (d, d)
behind the projection W, so that W becomes W P. Pictures therefore pass the tower only once, and a baseline is an edit
like ours. Settings were chosen on the train splits of miniworld and PACS, as were ours.

The paper's edit (our reconstruction) and CCUP (arXiv 2512.14137) are the methods `nullspace` and `ridge`. The retrained
model ("clean") never saw the forgotten class or domain; it is the yardstick, not a baseline.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..embedding import embed, readable
from ..errors import import_extra
from ..from_names import chosen_cells, embed_vocabulary
from ..images import Images
from ..methods import solve
from ..methods.cells import Cells
from ..models import Clip
from ..prototypes import Prototypes, are_made, cell_prototypes
from ..subspace import basis
from ..vocabulary import Vocabulary

COPIES, NOISE = 8, 0.25
"""Noisy copies of each synthesized picture, and the standard deviation of the noise on pixels in [0, 1]."""
FORGOTTEN = 0.05  # gradient methods stop at this accuracy on the forgotten pictures they train on
NONE, NO_LABELS = torch.zeros(0), torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The inputs of all baselines: texts, noisy synthesized pictures, and labelled pictures of a train split."""

    cells: Cells  # texts and prototypes of C classes and K domains, the input of every method
    scale: float  # logit scale of the model's softmax
    z: Tensor = NONE  # (n, d), embeddings of labelled pictures
    classes: Tensor = NO_LABELS  # (n,) int64
    domains: Tensor = NO_LABELS  # (n,) int64
    noisy: Tensor = NONE  # (seeds, C, K, 1 + COPIES, d), first without noise; NaN where a cell has no picture

    def after(self, edit: Edit) -> "TrainingData":
        """Return the training data of the edited model: embeddings of pictures change, texts stay."""

        def edited(x: Tensor | None) -> Any:
            return edit.images(x.reshape(-1, x.shape[-1])).view_as(x) if x is not None and len(x) else x

        v = edited(self.cells.prototypes)
        cells = replace(self.cells, prototypes=v if v is None else F.normalize(v, dim=-1), mean=edited(self.cells.mean))
        return replace(self, cells=cells, z=edited(self.z), noisy=edited(self.noisy))

    def inside(self, mask: Tensor) -> Tensor:
        """Return (n,) bool, True for labelled pictures in a forgotten cell."""
        return mask[self.classes, self.domains]

    @property
    def kinds(self) -> set[str]:
        """The available kinds of pictures (`Baseline.pictures`)."""
        pictures = {"labelled": self.z, "synthesized": self.noisy}
        return {"none", *(kind for kind, x in pictures.items() if len(x))}


def gather(clip: Clip, vocabulary: Vocabulary, labelled: Images | None = None, seeds: int = 1) -> TrainingData:
    """Embed the training data of all baselines for an unedited `clip`.

    labelled: pictures with the same class and domain names; none of them may be measured later. seeds: number of draws
    of the noise. A file of embeddings has no synthesized pictures, so it gets no noisy copies.
    """
    if clip.edits:
        raise ValueError(f"clip: it carries {len(clip.edits)} edits; expected the unedited model, `clip.base`")
    if labelled is not None and labelled.vocabulary != vocabulary:
        problem = f"its {labelled.vocabulary.shape} class and domain names differ from the measured {vocabulary.shape}"
        raise ValueError(f"labelled: {problem}; expected the same names")
    if clip.stored:
        data = TrainingData(embed_vocabulary(clip, vocabulary), clip.logit_scale)
    else:
        subset = None if are_made(clip, vocabulary) else chosen_cells(vocabulary.shape)
        prototypes = cell_prototypes(clip, vocabulary, subset)
        noisy = torch.stack([_noisy(clip, prototypes, seed) for seed in range(seeds)])
        data = TrainingData(embed_vocabulary(clip, vocabulary, prototypes), clip.logit_scale, noisy=noisy)
    if labelled is None:
        return data
    labelled, (z,) = readable(labelled, embed(clip, labelled))
    return replace(data, z=z, classes=labelled.classes, domains=labelled.domains)


def _noisy(clip: Clip, prototypes: Prototypes, seed: int) -> Tensor:
    """Embed the synthesized pictures and their noisy copies for one seed of `TrainingData.noisy`."""
    x, config = prototypes.pixels[prototypes.mask].float() / 255, clip.model.visual.preprocess_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    draw = torch.Generator().manual_seed(seed)
    copies = [x, *(x + NOISE * torch.randn(x.shape, generator=draw) for _ in range(COPIES))]
    noisy = torch.full((*prototypes.mask.shape, 1 + COPIES, clip.width), torch.nan)
    noisy[prototypes.mask] = torch.stack([clip.embed_pixels((c.clamp(0, 1) - mean) / std) for c in copies], 1)
    return noisy


# --- baselines without pictures


def random(data: TrainingData, mask: Tensor, seed: int) -> Edit:
    """Project away a random subspace with the rank of `nullspace`, to show what any edit of that size does."""
    d, rank = data.cells.texts.shape[-1], solve(data.cells, mask, "nullspace").rank
    draw = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(d, rank, generator=draw, dtype=torch.float64))[0]
    return Edit(u, u, "random")


def uce(data: TrainingData, mask: Tensor, seed: int = 0, ridge: float = 0.003) -> Edit:
    """Edit texts by Unified Concept Editing (Gandikota et al. 2024, arXiv 2308.14761): t -> t A (`Edit.queries`).

    A minimises |X_F A - t*|^2 + |X_R A - X_R|^2 + ridge |A - I|^2. It sends forgotten texts X_F to the mean text t* and
    holds kept texts X_R in place. Pictures do not change.
    """
    t = data.cells.texts
    x = t[mask]
    a = t.flatten(0, 1).T @ t.flatten(0, 1) + ridge * torch.eye(t.shape[-1], dtype=t.dtype)
    return Edit((x - t.mean((0, 1))).T, torch.linalg.solve(a, x.T), "uce")


def speed(data: TrainingData, mask: Tensor, seed: int = 0, energy: float = 0.7, ridge: float = 0.01) -> Edit:
    """Edit within a null space of kept rows, after SPEED (Li et al. 2026, arXiv 2503.07392).

    Forgotten rows X go to X*, the mean of their kind: z -> z - z N X^T (X N X^T + ridge I)^-1 (X - X*). N projects onto
    the null space of the kept rows that would move more than average without N. Their span is truncated to `energy` of
    the sum of squares.
    """
    x, difference, kept = data.cells.rows(mask), data.cells.rows(mask, center=True), _kept_rows(data.cells, mask)
    shift = (kept @ _within(x, x, ridge) @ difference).norm(dim=1)
    u = basis(kept[shift >= shift.mean()], energy)
    return Edit(_within(x, x - x @ u @ u.T, ridge), difference.T, "speed")


def double(data: TrainingData, mask: Tensor, seed: int = 0, energy: float = 0.5, ridge: float = 0.01) -> Edit:
    """Edit by Double Projections (Zhang et al., CVPR 2026, arXiv 2604.10032), from abstract and public summaries.

    Like `speed`, but N projects onto the null space of all kept rows, truncated to `energy` of the sum of squares.
    Forgotten rows X go to their projections on the kept span, so X - X* is X N.
    """
    x, u = data.cells.rows(mask), basis(_kept_rows(data.cells, mask), energy)
    beyond = x - x @ u @ u.T
    return Edit(_within(x, beyond, ridge), beyond.T, "double")


def _within(x: Tensor, beyond: Tensor, ridge: float) -> Tensor:
    """Return N X^T (X N X^T + ridge I)^-1, (d, n), from `x` = X (n, d) and `beyond` = X N for a projection N."""
    return torch.linalg.solve(beyond @ x.T + ridge * torch.eye(len(x), dtype=x.dtype), beyond).T


def _kept_rows(cells: Cells, mask: Tensor) -> Tensor:
    """Return the texts and prototypes of kept cells and the common words, (n, d)."""
    return torch.cat([cells.rows(~mask), *([] if cells.common is None else [cells.common])])


def wring(data: TrainingData, mask: Tensor, seed: int = 0) -> Edit:
    """Rotate by WRING (Gerych et al., ICLR 2026; from abstract and public notes): z -> z - z U U^T + |z U| w.

    The part of z in the span of U (from `nullspace`) turns onto one direction w in that span, so z keeps its length.
    We choose w towards the mean kept text, seen from the mean of all texts.
    """
    u, texts = solve(data.cells, mask, "nullspace").right, data.cells.texts
    w = u @ (u.T @ (texts[~mask].mean(0) - texts.mean((0, 1))))
    return Rotation(u, u, "wring", onto=F.normalize(w, dim=0))


@dataclass(frozen=True, eq=False)
class Rotation(Edit):
    """z -> z - z U U^T + |z U| w on embeddings only, for U = left = right and a unit vector w = `onto` in its span."""

    onto: Tensor = NONE
    form = "module"

    def images(self, z: Any) -> Any:
        inside = z.double() @ self.left
        return (z - inside @ self.right.T + inside.norm(dim=1, keepdim=True) * self.onto).to(z.dtype)

    def apply(self, clip: Clip) -> Clip:
        raise ValueError("edit: a rotation only works on embeddings; expected an edit that fits into a model")

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"onto": self.onto.float()}


def pour(data: TrainingData, mask: Tensor, seed: int = 0) -> Edit:
    """Project away the direction of each forgotten class, as POUR-P does (CVPR 2026, arXiv 2511.19339; its abstract).

    Our direction is the mean text of the forgotten cells of a class, minus the mean of all texts. The authors use means
    of labelled pictures.
    """
    t = data.cells.texts
    u = basis(torch.stack([t[c, mask[c]].mean(0) for c in mask.any(1).nonzero()[:, 0]]) - t.mean((0, 1)), 1.0)
    return Edit(u, u, "pour")


def calibration(data: TrainingData, mask: Tensor, seed: int = 0, strength: float = 1000.0) -> Edit:
    """Edit texts by a calibrated orthogonal projection (Chuang et al. 2023, arXiv 2302.00070): t -> t P^T.

    P = P0 (I + strength M)^-1. P0 projects away the forgotten texts. M is the mean of (a - b)(a - b)^T over pairs of
    texts that should agree; ours pair each forgotten cell with the mean kept text. Pictures do not change.
    """
    t = data.cells.texts
    u, difference = basis(t[mask], 1.0), t[mask] - t[~mask].mean(0)
    eye = torch.eye(t.shape[-1], dtype=t.dtype)
    calibrated = torch.linalg.inv(eye + strength * difference.T @ difference / len(difference))
    return _dense((eye - u @ u.T) @ calibrated, "calibration")


# --- baselines from synthesized pictures


def lipschitz(data: TrainingData, mask: Tensor, seed: int, steps: int = 100, rate: float = 0.1) -> Edit | None:
    """Flatten outputs around synthesized pictures (Kravets and Namboodiri 2025, arXiv 2407.07485).

    Descend on the mean |x P - x' P| over forgotten prototypes x and their noisy copies x' until `_is_forgotten` holds
    for the x. The authors also select layers by gradient and smooth texts. Return None without prototypes.
    """
    x = data.noisy[seed][mask]
    finite = x.isfinite().all((1, 2))
    x, labels = x[finite].float(), mask.nonzero()[finite, 0]  # (m, 1 + COPIES, d), (m,)
    if not len(x):
        return None
    p = torch.eye(x.shape[2], dtype=x.dtype, requires_grad=True)
    descent = torch.optim.SGD([p], lr=rate)
    for _ in range(steps):
        y = x @ p
        if _is_forgotten(y[:, 0], labels, data, mask):
            break
        descent.zero_grad()
        (y[:, 1:] - y[:, :1]).norm(dim=-1).mean().backward()  # |x - x'| barely varies
        descent.step()
    return _dense(p, "lipschitz")


# --- baselines from labelled pictures, some of them to be forgotten


def leace(data: TrainingData, mask: Tensor, seed: int = 0, method: str = "leace") -> Edit | None:
    """Make a label linearly unreadable with the authors' LEACE (Belrose et al. 2023, arXiv 2306.03819).

    The label has one bit per forgotten class, set on the pictures of that class that are to be forgotten. method:
    "orth" projects away the differences of means instead.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        package = import_extra("concept_erasure", "baselines")
    inside = data.inside(mask)
    if inside.all():
        return None
    bits = F.one_hot(data.classes, len(mask)).bool() & inside[:, None]
    z, tolerance = data.z.double(), 1e-3 if method == "orth" else 0.01  # 0.01 would drop the label of a single cell
    eraser = package.LeaceEraser.fit(z, bits[:, bits.any(0)].double(), method=method, svd_tol=tolerance)
    left, right = eraser.proj_right.T, eraser.proj_left
    return Edit(left, right, "leace", bias=(eraser.bias @ left) @ right.T)


def slug(data: TrainingData, mask: Tensor, seed: int = 0, halvings: int = 12) -> Edit | None:
    """Take a single gradient step on the last layer, after SLUG (Cai, Tan and Asif 2025, arXiv 2407.11867).

    P = I - step * G, where G is the gradient of the mean cosine between forgotten pictures and their class. Bisection
    finds the smallest step at which `_is_forgotten` holds. The authors also choose the layer.
    """
    inside = data.inside(mask)
    z, labels = F.normalize(data.z[inside].double(), dim=-1), data.classes[inside]
    p = torch.eye(z.shape[1], dtype=z.dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.cosine_similarity(z @ p, data.cells.classifier[labels]).mean(), p)

    def is_enough(step: float) -> bool:
        return _is_forgotten(z - step * z @ gradient, labels, data, mask)

    low, high = 0.0, 1.0
    while not is_enough(high) and high < 1e6:
        low, high = high, 2 * high
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return _dense(p.detach() - high * gradient, "slug")


def finetune(data: TrainingData, mask: Tensor, seed: int, steps: int = 200, rate: float = 1e-3) -> Edit | None:
    """Fine-tune with labelled pictures and cross-entropy, as the owner of the data would.

    The target of a kept picture is its class. The target of a forgotten picture is uniform over the classes kept in its
    domain, or over all classes if none is kept, like the baselines of ADU (Kawamura et al. 2025, arXiv 2510.08132).
    """
    inside = data.inside(mask)
    z, texts = data.z.float(), data.cells.classifier.float()
    allowed = (~mask | mask.all(0)).T[data.domains].float()  # (n, C)
    labels = F.one_hot(data.classes, len(mask)).float()
    goals = torch.where(inside[:, None], allowed / allowed.sum(1, keepdim=True), labels)
    p = torch.eye(z.shape[1], dtype=z.dtype, requires_grad=True)
    adam, draw = torch.optim.Adam([p], lr=rate), torch.Generator().manual_seed(seed)
    weight = torch.where(inside, 0.5 / inside.sum(), 0.5 / (~inside).sum().clamp(min=1))
    for _ in range(steps):
        rows = torch.randint(len(z), (64,), generator=draw)
        scores = data.scale * F.normalize(z[rows] @ p, dim=-1) @ texts.T
        adam.zero_grad()
        (len(z) * weight[rows] * F.cross_entropy(scores, goals[rows], reduction="none")).mean().backward()
        adam.step()
    return _dense(p, "finetune")


def _is_forgotten(z: Tensor, labels: Tensor, data: TrainingData, mask: Tensor) -> bool:
    """Return True if the accuracy on z (m, d) is at most FORGOTTEN, or at most chance when a whole domain goes."""
    right = ((z.detach() @ data.cells.classifier.to(z).T).argmax(1) == labels).double().mean()
    return float(right) <= max(FORGOTTEN, 1 / len(mask) if mask.all(0).any() else 0)


def _dense(p: Tensor, method: str) -> Edit:
    """Return z -> z P as an edit, z - z (I - P) I."""
    eye = torch.eye(len(p), dtype=torch.float64)
    return Edit(eye - p.detach().double(), eye, method)


@dataclass(frozen=True)
class Baseline:
    """A function that makes an edit, and what it needs."""

    make: Callable[[TrainingData, Tensor, int], Edit | None] | None  # None if the baseline is not an edit
    pictures: str = "none"  # required: "none", "synthesized", "labelled", or "all" that the model was trained on
    trains: bool = False
    drawn: bool = False  # True if the edit depends on the seed
    texts: bool = False  # True if it edits texts (`Edit.queries`) instead of pictures
    tuned: bool = True  # True if settings were chosen on labelled training pictures
    notes: bool = False  # True if we only know the abstract and public notes of its source


BASELINES = {
    "random": Baseline(random, drawn=True, tuned=False),
    "filter": Baseline(None, tuned=False),
    "uce": Baseline(uce, texts=True),
    "speed": Baseline(speed),
    "double": Baseline(double, notes=True),
    "wring": Baseline(wring, notes=True),
    "pour": Baseline(pour, tuned=False, notes=True),
    "calibration": Baseline(calibration, texts=True, tuned=False),
    "lipschitz": Baseline(lipschitz, "synthesized", trains=True, drawn=True),
    "leace": Baseline(leace, "labelled"),
    "orthogonal": Baseline(partial(leace, method="orth"), "labelled"),
    "slug": Baseline(slug, "labelled", trains=True),
    "finetune": Baseline(finetune, "labelled", trains=True, drawn=True),
    "clean": Baseline(None, "all", trains=True, tuned=False),
}
"""The baselines by name. Two make no edit: `filter` removes the forgotten names from the candidates, and `clean` is a
retrained model (see `clipnull.bench.comparison`)."""
