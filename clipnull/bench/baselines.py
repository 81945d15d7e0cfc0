"""Other people's ways to make a CLIP forget, on the same requests as our methods; each in a few lines, with its source.

They are sketches of an idea, not the authors' code (but for LEACE, which is theirs). Those that train, train one matrix
P (d, d) behind the projection W, so that W becomes W P: all pictures go through the tower once, and a baseline is an
edit like ours. Their settings were chosen on the train splits of miniworld and PACS, like ours.

The paper's edit, as we reconstruct it, and CCUP (arXiv 2512.14137) are `nullspace` and `ridge` among the methods. The
retrained model ("clean"), which never saw what is to be forgotten, is the yardstick and not a baseline.
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
"""Noisy copies of each synthesized picture; the standard deviation of their noise, of pixels in [0, 1]."""
FORGOTTEN = 0.05
"""Gradient methods stop at this accuracy on the forgotten pictures that they have."""
NONE, NO_LABELS = torch.zeros(0), torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What edits are made from: texts, synthesized pictures with noise, and pictures with labels of a train split."""

    cells: Cells  # texts and prototypes, as all methods have them; C classes, K domains
    scale: float  # the factor on cosines in the model's softmax
    z: Tensor = NONE  # (n, d), embeddings of pictures with labels
    classes: Tensor = NO_LABELS  # (n,) int64
    domains: Tensor = NO_LABELS  # (n,) int64
    noisy: Tensor = NONE  # (seeds, C, K, 1 + COPIES, d), the first without noise; NaN where a cell has none

    def after(self, edit: Edit) -> "TrainingData":
        """The same of the edited model: what comes from pictures is edited, texts stay."""

        def edited(x: Tensor | None) -> Any:
            return edit.images(x.reshape(-1, x.shape[-1])).view_as(x) if x is not None and len(x) else x

        v = edited(self.cells.prototypes)
        cells = replace(self.cells, prototypes=v if v is None else F.normalize(v, dim=-1), mean=edited(self.cells.mean))
        return replace(self, cells=cells, z=edited(self.z), noisy=edited(self.noisy))

    def inside(self, mask: Tensor) -> Tensor:
        """Which pictures with labels are to be forgotten: (n,) bool."""
        return mask[self.classes, self.domains]

    @property
    def kinds(self) -> set[str]:
        """The kinds of pictures that there are, see `Baseline.pictures`."""
        pictures = {"labelled": self.z, "synthesized": self.noisy}
        return {"none", *(kind for kind, x in pictures.items() if len(x))}


def gather(clip: Clip, vocabulary: Vocabulary, labelled: Images | None = None, seeds: int = 1) -> TrainingData:
    """Embed, once, all that edits of an unedited `clip` are made from.

    labelled: pictures with the same names, none of which is measured. seeds: how many times noise is drawn. A file of
    embeddings has no synthesized pictures to put noise on.
    """
    if clip.edits:
        raise ValueError(f"clip: it carries {len(clip.edits)} edits; expected the unedited model, clip.base")
    if labelled is not None and labelled.vocabulary != vocabulary:
        names = f"{labelled.vocabulary.shape} classes and domains, with other names than those measured"
        raise ValueError(f"labelled: pictures of {names}, {vocabulary.shape}; expected the same")
    if clip.stored:
        data = TrainingData(embed_vocabulary(clip, vocabulary), clip.logit_scale)
    else:
        few = None if are_made(clip, vocabulary) else chosen_cells(vocabulary.shape)
        prototypes = cell_prototypes(clip, vocabulary, few)
        noisy = torch.stack([_noisy(clip, prototypes, seed) for seed in range(seeds)])
        data = TrainingData(embed_vocabulary(clip, vocabulary, prototypes), clip.logit_scale, noisy=noisy)
    if labelled is None:
        return data
    labelled, (z,) = readable(labelled, embed(clip, labelled))
    return replace(data, z=z, classes=labelled.classes, domains=labelled.domains)


def _noisy(clip: Clip, prototypes: Prototypes, seed: int) -> Tensor:
    """Embeddings of synthesized pictures and noisy copies, as `TrainingData.noisy` has them for one seed."""
    x, config = prototypes.pixels[prototypes.mask].float() / 255, clip.model.visual.preprocess_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    draw = torch.Generator().manual_seed(seed)
    copies = [x, *(x + NOISE * torch.randn(x.shape, generator=draw) for _ in range(COPIES))]
    noisy = torch.full((*prototypes.mask.shape, 1 + COPIES, clip.width), torch.nan)
    noisy[prototypes.mask] = torch.stack([clip.embed_pixels((c.clamp(0, 1) - mean) / std) for c in copies], 1)
    return noisy


# --- baselines that need no pictures


def random(data: TrainingData, mask: Tensor, seed: int) -> Edit:
    """A random subspace of the rank of `nullspace` is projected away: what an edit of that size does anyway."""
    d, rank = data.cells.texts.shape[-1], solve(data.cells, mask, "nullspace").rank
    draw = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(d, rank, generator=draw, dtype=torch.float64))[0]
    return Edit(u, u, "random")


def uce(data: TrainingData, mask: Tensor, seed: int = 0, ridge: float = 0.003) -> Edit:
    """Unified Concept Editing (Gandikota et al. 2024, arXiv 2308.14761) of texts: t -> t A, by `Edit.queries`.

    A minimises |X_F A - t*|^2 + |X_R A - X_R|^2 + ridge |A - I|^2: texts of forgotten cells go to the mean text t*,
    those of kept cells stay. Pictures are left alone.
    """
    t = data.cells.texts
    x = t[mask]
    a = t.flatten(0, 1).T @ t.flatten(0, 1) + ridge * torch.eye(t.shape[-1], dtype=t.dtype)
    return Edit((x - t.mean((0, 1))).T, torch.linalg.solve(a, x.T), "uce")


def speed(data: TrainingData, mask: Tensor, seed: int = 0, energy: float = 0.7, ridge: float = 0.01) -> Edit:
    """A hard null space of what is kept, after SPEED (Li et al. 2026, arXiv 2503.07392).

    Forgotten rows X go to the mean X* of their kind: z -> z - z N X^T (X N X^T + ridge I)^-1 (X - X*). N projects on
    the null space of those kept rows that the edit without N moves by more than the average, truncated to `energy` of
    their sum of squares.
    """
    x, difference, kept = data.cells.rows(mask), data.cells.rows(mask, center=True), _kept_rows(data.cells, mask)
    shift = (kept @ _within(x, x, ridge) @ difference).norm(dim=1)
    u = basis(kept[shift >= shift.mean()], energy)
    return Edit(_within(x, x - x @ u @ u.T, ridge), difference.T, "speed")


def double(data: TrainingData, mask: Tensor, seed: int = 0, energy: float = 0.5, ridge: float = 0.01) -> Edit:
    """Double Projections (Zhang et al., CVPR 2026, arXiv 2604.10032), from its abstract and public summaries.

    As `speed`, but N is the null space of all that is kept, and forgotten rows X go to proxies in its span: X - X* is
    X N. The span is truncated to `energy` of its sum of squares.
    """
    x, u = data.cells.rows(mask), basis(_kept_rows(data.cells, mask), energy)
    beyond = x - x @ u @ u.T
    return Edit(_within(x, beyond, ridge), beyond.T, "double")


def _within(x: Tensor, beyond: Tensor, ridge: float) -> Tensor:
    """N X^T (X N X^T + ridge I)^-1: (d, n). x: X (n, d); beyond: X N, N a projection."""
    return torch.linalg.solve(beyond @ x.T + ridge * torch.eye(len(x), dtype=x.dtype), beyond).T


def _kept_rows(cells: Cells, mask: Tensor) -> Tensor:
    """Texts and prototypes of kept cells, and the common words: (n, d)."""
    return torch.cat([cells.rows(~mask), *([] if cells.common is None else [cells.common])])


def wring(data: TrainingData, mask: Tensor, seed: int = 0) -> Edit:
    """WRING (Gerych et al., ICLR 2026), from abstract and public notes: z -> z - z U U^T + |z U| w keeps the length.

    The part of a picture in the span of U, that of `nullspace`, turns onto one direction w of it: ours is where the
    mean kept text lies in it, seen from the mean text.
    """
    u, texts = solve(data.cells, mask, "nullspace").right, data.cells.texts
    w = u @ (u.T @ (texts[~mask].mean(0) - texts.mean((0, 1))))
    return Rotation(u, u, "wring", onto=F.normalize(w, dim=0))


@dataclass(frozen=True, eq=False)
class Rotation(Edit):
    """z -> z - z U U^T + |z U| w, with U = left = right and a unit row w = `onto` in its span; into no model."""

    onto: Tensor = NONE
    form = "module"

    def images(self, z: Any) -> Any:
        inside = z.double() @ self.left
        return (z - inside @ self.right.T + inside.norm(dim=1, keepdim=True) * self.onto).to(z.dtype)

    def apply(self, clip: Clip) -> Clip:
        raise ValueError("edit: a rotation is measured on embeddings alone; expected one that goes into a model")

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"onto": self.onto.float()}


def pour(data: TrainingData, mask: Tensor, seed: int = 0) -> Edit:
    """POUR-P (CVPR 2026, arXiv 2511.19339), from its abstract: the direction of each forgotten class is projected away.

    Their directions are class means of labelled pictures; ours are texts: the mean of the forgotten cells of a class,
    minus the mean text.
    """
    t = data.cells.texts
    u = basis(torch.stack([t[c, mask[c]].mean(0) for c in mask.any(1).nonzero()[:, 0]]) - t.mean((0, 1)), 1.0)
    return Edit(u, u, "pour")


def calibration(data: TrainingData, mask: Tensor, seed: int = 0, strength: float = 1000.0) -> Edit:
    """Orthogonal projection, calibrated by positive pairs (Chuang et al. 2023, arXiv 2302.00070): texts t -> t P^T.

    P = P0 (I + strength M)^-1, P0 the projection away from the forgotten texts, M the mean of (a - b)(a - b)^T over
    pairs of texts that should agree: ours are a forgotten cell and the mean kept text. Pictures are left alone.
    """
    t = data.cells.texts
    u, difference = basis(t[mask], 1.0), t[mask] - t[~mask].mean(0)
    eye = torch.eye(t.shape[-1], dtype=t.dtype)
    calibrated = torch.linalg.inv(eye + strength * difference.T @ difference / len(difference))
    return _dense((eye - u @ u.T) @ calibrated, "calibration")


# --- from synthesized pictures


def lipschitz(data: TrainingData, mask: Tensor, seed: int, steps: int = 100, rate: float = 0.1) -> Edit | None:
    """Flat outputs around synthesized pictures (Kravets and Namboodiri 2025, arXiv 2407.07485).

    Gradient steps on the mean |x P - x' P| over prototypes x of the forgotten cells and noisy copies x' of them, until
    hardly any x is named right. Theirs picks layers by their gradients and smooths texts, too. None without prototypes.
    """
    x = data.noisy[seed][mask]
    exist = x.isfinite().all((1, 2))
    x, labels = x[exist].float(), mask.nonzero()[exist, 0]  # (m, 1 + COPIES, d), (m,)
    if not len(x):
        return None
    p = torch.eye(x.shape[2], dtype=x.dtype, requires_grad=True)
    descent = torch.optim.SGD([p], lr=rate)
    for _ in range(steps):
        y = x @ p
        if _is_forgotten(y[:, 0], labels, data, mask):
            break
        descent.zero_grad()
        (y[:, 1:] - y[:, :1]).norm(dim=-1).mean().backward()  # |x - x'| hardly varies
        descent.step()
    return _dense(p, "lipschitz")


# --- from labelled pictures, some of which are to be forgotten


def leace(data: TrainingData, mask: Tensor, seed: int = 0, method: str = "leace") -> Edit | None:
    """LEACE (Belrose et al. 2023, arXiv 2306.03819), by its authors' package: a label becomes linearly unreadable.

    The label has a bit for each class that goes: is this picture one of it, and to be forgotten? method: "orth"
    projects the directions of the differences of means away.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        package = import_extra("concept_erasure", "baselines")
    inside = data.inside(mask)
    if inside.all():
        return None
    bits = F.one_hot(data.classes, len(mask)).bool() & inside[:, None]
    z, least = data.z.double(), 1e-3 if method == "orth" else 0.01  # 0.01 would drop the label of a single cell
    eraser = package.LeaceEraser.fit(z, bits[:, bits.any(0)].double(), method=method, svd_tol=least)
    left, right = eraser.proj_right.T, eraser.proj_left
    return Edit(left, right, "leace", bias=(eraser.bias @ left) @ right.T)


def slug(data: TrainingData, mask: Tensor, seed: int = 0, halvings: int = 12) -> Edit | None:
    """A single gradient step on one layer (SLUG: Cai, Tan and Asif 2025, arXiv 2407.11867, which also chooses it).

    P = I - step * G, G the gradient of the mean cosine between forgotten pictures and their class. The step is the
    smallest, by bisection, at which hardly any of these pictures is named right.
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
    """Fine-tuning with real pictures: what the owner of the data would do.

    Cross-entropy: kept pictures with their class, those to be forgotten with all classes that are kept in their domain,
    evenly; where none is, with all classes, as the baselines of ADU do (Kawamura et al. 2025, arXiv 2510.08132).
    """
    inside = data.inside(mask)
    z, texts = data.z.float(), data.cells.classifier.float()
    others = (~mask | mask.all(0)).T[data.domains].float()  # (n, C)
    labels = F.one_hot(data.classes, len(mask)).float()
    wanted = torch.where(inside[:, None], others / others.sum(1, keepdim=True), labels)
    p = torch.eye(z.shape[1], dtype=z.dtype, requires_grad=True)
    adam, draw = torch.optim.Adam([p], lr=rate), torch.Generator().manual_seed(seed)
    weight = torch.where(inside, 0.5 / inside.sum(), 0.5 / (~inside).sum().clamp(min=1))
    for _ in range(steps):
        rows = torch.randint(len(z), (64,), generator=draw)
        scores = data.scale * F.normalize(z[rows] @ p, dim=-1) @ texts.T
        adam.zero_grad()
        (len(z) * weight[rows] * F.cross_entropy(scores, wanted[rows], reduction="none")).mean().backward()
        adam.step()
    return _dense(p, "finetune")


def _is_forgotten(z: Tensor, labels: Tensor, data: TrainingData, mask: Tensor) -> bool:
    """Whether hardly any of the embeddings (m, d) is named right among all classes; at chance, for whole domains."""
    right = ((z.detach() @ data.cells.classifier.to(z).T).argmax(1) == labels).double().mean()
    return float(right) <= max(FORGOTTEN, 1 / len(mask) if mask.all(0).any() else 0)


def _dense(p: Tensor, method: str) -> Edit:
    """z -> z P as an edit: z - z (I - P) I."""
    eye = torch.eye(len(p), dtype=torch.float64)
    return Edit(eye - p.detach().double(), eye, method)


@dataclass(frozen=True)
class Baseline:
    """How a baseline makes an edit, and what it takes."""

    make: Callable[[TrainingData, Tensor, int], Edit | None] | None  # None of no answer; no function: it makes no edits
    pictures: str = "none"  # needed: "none", "synthesized", "labelled", or "all", those that the model was trained on
    trains: bool = False
    drawn: bool = False  # whether the edit depends on the seed
    texts: bool = False  # whether the edit is one of texts, `Edit.queries`, and not of pictures
    tuned: bool = True  # whether its settings were chosen on labelled training pictures
    notes: bool = False  # whether its source was read in abstract and public notes only


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
"""The baselines by name. `filter` takes the forgotten names off the list of answers, and `clean` is a retrained model:
neither is an edit, see `clipnull.bench.comparison`."""
