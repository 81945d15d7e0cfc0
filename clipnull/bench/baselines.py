"""Other people's ways to make a CLIP forget, on the same work as our methods; each in a few lines, with its source.

They are sketches of an idea, not the authors' code (but for LEACE, which is theirs): each is as its source has it in
what it needs and in what it minimises. Those that train, train one layer, the last: a matrix P (d, d) behind the
projection W, which starts as the identity, so that W becomes W P. That is cheap, as all pictures go through the tower
once, and every rival is then an edit like ours; what a rival would gain from the layers before is not seen here.
Their settings were chosen on the train splits of miniworld and PACS, like ours.

The paper's edit, as we reconstruct it, and CCUP (arXiv 2512.14137) are `nullspace` and `ridge` among the methods. The
clean model, which was trained without what is to be forgotten (`clipnull.models`), is no rival but the yardstick.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..embedding import embed, readable
from ..errors import at_least, import_extra
from ..images import Images
from ..methods import solve
from ..methods.cells import Cells
from ..models import Clip
from ..prototypes import Prototypes, are_made, cell_prototypes
from ..subspace import basis
from ..unlearning import chosen_cells, embed_vocabulary
from ..vocabulary import Vocabulary

# --- What methods and rivals are made from: texts, synthesized pictures with noise, and pictures with labels.

COPIES, NOISE = 8, 0.25
"""Noisy copies of each synthesized picture; the standard deviation of their noise, of pixels in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Material:
    """What rivals are made from.

    Attributes
    ----------
    cells : Cells
        Texts and prototypes, as all methods have them; C classes, K domains.
    scale : float
        The factor on cosines in the model's softmax.
    z : (n, d), optional
        Embeddings of pictures with labels, of a train split.
    classes, domains : (n,) int64, optional
        Their labels.
    noisy : (seeds, C, K, 1 + COPIES, d), optional
        Embeddings of synthesized pictures, the first without noise, the others with; NaN where a cell has none.
    """

    cells: Cells
    scale: float
    z: Tensor | None = None
    classes: Tensor | None = None
    domains: Tensor | None = None
    noisy: Tensor | None = None

    def after(self, edit: Edit) -> "Material":
        """The same of the edited model: what comes from pictures is edited, texts stay."""
        cells, d = self.cells, self.cells.texts.shape[-1]
        v = None if cells.prototypes is None else edit.images(cells.prototypes.flatten(0, 1))
        mean = None if cells.mean is None else edit.images(cells.mean[None])[0]
        return replace(
            self,
            cells=replace(
                cells, prototypes=None if v is None else F.normalize(v, dim=-1).view_as(cells.texts), mean=mean
            ),
            z=None if self.z is None else edit.images(self.z),
            noisy=None if self.noisy is None else edit.images(self.noisy.reshape(-1, d)).view_as(self.noisy),
        )

    @property
    def kinds(self) -> set[str]:
        """The kinds of pictures that there are, see `Rival.pictures`."""
        found = {"none": True, "labelled": self.z is not None, "synthesized": self.noisy is not None}
        return {kind for kind, there in found.items() if there}


def gather(clip: Clip, vocabulary: Vocabulary, labelled: Images | None = None, seeds: int = 1) -> Material:
    """What rivals get of an unedited `clip`: all of it is embedded here, once.

    labelled: pictures with the same names, of which none is measured; without them, rivals that need some are left out.
    seeds: how many times noise is drawn. A file of embeddings has no synthesized pictures to put noise on.

    Raises ValueError for `labelled` of other names, and for an edited `clip`.
    """
    at_least("seeds", seeds, 1)
    if clip.edits:
        raise ValueError(f"clip: it carries {len(clip.edits)} edits; expected the unedited model, clip.base")
    made: Prototypes | bool = True
    noisy = None
    if clip.encoder:
        few = None if are_made(clip, vocabulary) else chosen_cells(vocabulary.shape)
        made = cell_prototypes(clip, vocabulary, few)
        noisy = torch.full((seeds, *vocabulary.shape, 1 + COPIES, clip.width), torch.nan)
        x, config = made.pixels[made.mask].float() / 255, clip.model.visual.preprocess_cfg
        mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
        for seed in range(seeds):
            draw = torch.Generator().manual_seed(seed)
            copies = [x, *(x + NOISE * torch.randn(x.shape, generator=draw) for _ in range(COPIES))]
            parts = [clip.embed_pixels((copy.clamp(0, 1) - mean) / std) for copy in copies]
            noisy[seed][made.mask] = torch.stack(parts, 1)
    cells = embed_vocabulary(clip, vocabulary, made)
    if labelled is None:
        return Material(cells, clip.logit_scale, noisy=noisy)
    if labelled.vocabulary != vocabulary:
        raise ValueError(
            f"labelled: pictures of {labelled.vocabulary.shape} classes and domains, with other names than those "
            f"measured, {vocabulary.shape}; expected the same"
        )
    labelled, (z,) = readable(labelled, embed(clip, labelled))
    return Material(cells, clip.logit_scale, z, labelled.classes, labelled.domains, noisy)


# --- rivals

FORGOTTEN = 0.05
"""Gradient methods stop at this accuracy on the forgotten pictures that they have; at chance, for whole domains."""


# --- without pictures --------------------------------------------------------------------------------------------


def random(material: Material, mask: Tensor, seed: int) -> Edit:
    """A random subspace of the rank of `nullspace` is projected away: what an edit of that size does anyway."""
    d, rank = material.cells.texts.shape[-1], solve(material.cells, mask, "nullspace").rank
    draw = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(d, rank, generator=draw, dtype=torch.float64))[0]
    return Edit(u, u, "random")


def uce(material: Material, mask: Tensor, seed: int = 0, ridge: float = 0.003) -> Edit:
    """Unified Concept Editing (Gandikota et al. 2024, arXiv 2308.14761) of texts: t -> t A, by `Edit.queries`.

    A minimises |X_F A - t*|^2 + |X_R A - X_R|^2 + ridge |A - I|^2: texts of forgotten cells go to an anchor t*, here
    the mean text, which many pictures are near; those of kept cells stay. Pictures are left alone, so that none can be
    treated by its domain.
    """
    t = material.cells.texts
    x = t[mask]
    a = t.flatten(0, 1).T @ t.flatten(0, 1) + ridge * torch.eye(t.shape[-1], dtype=t.dtype)
    return Edit((x - t.mean((0, 1))).T, torch.linalg.solve(a, x.T), "uce")


def speed(material: Material, mask: Tensor, seed: int = 0, energy: float = 0.7, ridge: float = 0.01) -> Edit:
    """A hard null space of what is kept, after SPEED (Li et al. 2026, arXiv 2503.07392).

    Forgotten rows X go to the mean X* of their kind, and kept rows do not move at all: z -> z - z N X^T (X N X^T +
    ridge I)^-1 (X - X*), N the projection on the null space of those kept rows that the edit without N moves by more
    than the average (influence-based filtering), of rank truncated to `energy` of their sum of squares. Kept rows are
    the texts and prototypes of kept cells and the common words. On OpenAI's ViT-B/32, whose texts lie closer together,
    an energy of .9 forgets more (.82 in place of .53, global), and elsewhere less.
    """
    cells = material.cells
    x, difference = cells.rows(mask), cells.rows(mask, center=True)
    kept = torch.cat([cells.rows(~mask), *([] if cells.common is None else [cells.common])])

    def factor(through: Tensor) -> Tensor:  # (d, d) -> (d, n)
        gram = x @ through @ x.T + ridge * torch.eye(len(x), dtype=x.dtype)
        return torch.linalg.solve(gram, x @ through).T

    shift = (kept @ factor(torch.eye(x.shape[1], dtype=x.dtype)) @ difference).norm(dim=1)
    u = basis(kept[shift >= shift.mean()], energy)
    return Edit(factor(torch.eye(len(u), dtype=u.dtype) - u @ u.T), difference.T, "speed")


def double(material: Material, mask: Tensor, seed: int = 0, energy: float = 0.5, ridge: float = 0.01) -> Edit:
    """Double Projections (Zhang et al., CVPR 2026, arXiv 2604.10032), from its abstract and public summaries.

    First projection: forgotten rows X get proxies X* in the span of what is kept. Second: X goes to X* by a map that
    acts in the null space of what is kept alone, z -> z - z N X^T (X N X^T + ridge I)^-1 (X - X*). Both spans are that
    of all kept rows, of rank truncated to `energy` of their sum of squares; then X - X* is X N, and the edit is the
    hard relative of our `residual`. Kept rows are those of `speed`. On OpenAI's ViT-B/32 an energy of .8 forgets more
    (.81 in place of .57, global).
    """
    cells = material.cells
    x, common = cells.rows(mask), [] if cells.common is None else [cells.common]
    u = basis(torch.cat([cells.rows(~mask), *common]), energy)
    beyond = x - x @ u @ u.T  # X N, and X - X*
    gram = beyond @ beyond.T + ridge * torch.eye(len(x), dtype=x.dtype)
    return Edit(torch.linalg.solve(gram, beyond).T, beyond.T, "double")


# --- synthesized pictures ----------------------------------------------------------------------------------------


def lipschitz(material: Material, mask: Tensor, seed: int, steps: int = 100, rate: float = 0.1) -> Edit | None:
    """Flat outputs around synthesized pictures (Kravets and Namboodiri 2025, arXiv 2407.07485).

    Gradient steps on mean |x P - x' P| / |x - x'| over synthesized pictures of what is to be forgotten and noisy copies
    x' of them, until hardly any of the pictures is named right. Theirs has 64 pictures a class, picks layers by their
    gradients and smooths texts, too; ours has the prototypes of the cells, and the last layer only. None without any.
    """
    assert material.noisy is not None
    x = material.noisy[seed][mask]
    there = x.isfinite().all((1, 2))
    x, labels = x[there].float(), mask.nonzero()[there, 0]  # (m, 1 + COPIES, d), (m,)
    if not len(x):
        return None
    p = torch.eye(x.shape[2], dtype=x.dtype, requires_grad=True)
    descent = torch.optim.SGD([p], lr=rate)
    for _ in range(steps):
        y = x @ p
        if _accuracy(y[:, 0], labels, material) <= _enough(mask):
            break
        descent.zero_grad()
        (y[:, 1:] - y[:, :1]).norm(dim=-1).mean().backward()  # |x - x'| hardly varies: noise of many pixels
        descent.step()
    return _dense(p, "lipschitz")


# --- labelled pictures -------------------------------------------------------------------------------------------


def leace(material: Material, mask: Tensor, seed: int = 0, method: str = "leace", of: str = "forgotten") -> Edit | None:
    """LEACE (Belrose et al. 2023, arXiv 2306.03819), by its authors' package: a label becomes linearly unreadable.

    The label has a bit for each class that goes, in one domain or in all: is this picture one of it, and to be
    forgotten? of: "domain" takes one bit in all, to be forgotten or not, which of a whole domain erases the name and
    not what is in it. method: "orth" is the orthogonal projection. None where no picture, or every one, is to be
    forgotten.
    """
    assert material.z is not None and material.classes is not None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        package = import_extra("concept_erasure", "baselines")
    inside = mask[material.classes, material.domains]
    if not inside.any() or inside.all():
        return None
    bits = inside[:, None]
    if of == "forgotten":
        bits = F.one_hot(material.classes, len(mask)).bool() & bits
        bits = bits[:, bits.any(0)]
    z, least = material.z.double(), 1e-3 if method == "orth" else 0.01  # 0.01 would drop the label of a single cell
    eraser = package.LeaceEraser.fit(z, bits.double(), method=method, svd_tol=least)
    left, right = eraser.proj_right.T, eraser.proj_left
    return Edit(left, right, "leace", bias=(eraser.bias @ left) @ right.T)


def orthogonal(material: Material, mask: Tensor, seed: int = 0) -> Edit | None:
    """The orthogonal form of LEACE: the directions of the differences of means are projected away."""
    return leace(material, mask, seed, method="orth")


def slug(material: Material, mask: Tensor, seed: int = 0, halvings: int = 12) -> Edit | None:
    """A single gradient step on one layer (SLUG: Cai, Tan and Asif 2025, arXiv 2407.11867).

    P = I - step * G, G the gradient of the mean cosine between forgotten pictures and their class. The step is the
    smallest, by bisection, at which hardly any of these pictures is named right. Theirs also chooses the layer.
    """
    assert material.z is not None and material.classes is not None
    inside = mask[material.classes, material.domains]
    if not inside.any():
        return None
    z, labels = F.normalize(material.z[inside].double(), dim=-1), material.classes[inside]
    p = torch.eye(z.shape[1], dtype=z.dtype, requires_grad=True)
    F.cosine_similarity(z @ p, material.cells.classifier[labels]).mean().backward()
    assert p.grad is not None
    low, high, gradient = 0.0, 1.0, p.grad

    def left(step: float) -> float:
        return _accuracy(z - step * z @ gradient, labels, material)

    while left(high) > _enough(mask) and high < 1e6:
        low, high = high, 2 * high
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) <= _enough(mask) else (middle, high)
    return _dense(p.detach() - high * gradient, "slug")


def finetune(material: Material, mask: Tensor, seed: int, steps: int = 200, rate: float = 1e-3) -> Edit | None:
    """Fine-tuning with real pictures: what a data owner would do, the usual strong baseline.

    Cross-entropy: kept pictures with their class, those to be forgotten with all classes that are kept in their domain,
    evenly; where none is, with all classes, as the baselines of ADU do (Kawamura et al. 2025, arXiv 2510.08132).
    """
    assert material.z is not None and material.classes is not None and material.domains is not None
    inside = mask[material.classes, material.domains]
    if not inside.any():
        return None
    z, texts = material.z.float(), material.cells.classifier.float()
    others = (~mask | mask.all(0)).T[material.domains].float()  # (n, C)
    labels = F.one_hot(material.classes, len(mask)).float()
    wanted = torch.where(inside[:, None], others / others.sum(1, keepdim=True), labels)
    p = torch.eye(z.shape[1], dtype=z.dtype, requires_grad=True)
    adam, draw = torch.optim.Adam([p], lr=rate), torch.Generator().manual_seed(seed)
    weight = torch.where(inside, 0.5 / inside.sum(), 0.5 / (~inside).sum().clamp(min=1))
    for _ in range(steps):
        rows = torch.randint(len(z), (64,), generator=draw)
        scores = material.scale * F.normalize(z[rows] @ p, dim=-1) @ texts.T
        adam.zero_grad()
        (len(z) * weight[rows] * F.cross_entropy(scores, wanted[rows], reduction="none")).mean().backward()
        adam.step()
    return _dense(p, "finetune")


def _enough(mask: Tensor) -> float:
    """The accuracy on what is to be forgotten at which it counts as forgotten."""
    return max(FORGOTTEN, 1 / len(mask)) if mask.all(0).any() else FORGOTTEN


def _accuracy(z: Tensor, labels: Tensor, material: Material) -> float:
    """The share of embeddings (n, d) that are named right among all classes."""
    return float(((z.detach() @ material.cells.classifier.to(z).T).argmax(1) == labels).double().mean())


def _dense(p: Tensor, method: str) -> Edit:
    """z -> z P as an edit: z - z (I - P) I."""
    eye = torch.eye(len(p), dtype=torch.float64)
    return Edit(eye - p.detach().double(), eye, method)


@dataclass(frozen=True)
class Rival:
    """How a rival makes an edit, and what it takes.

    Attributes
    ----------
    make : callable, optional
        (material, mask, seed) -> Edit, or None where it has no answer. None: it makes no edit.
    pictures : str
        Which it needs: "none", "synthesized", "labelled"; "all": those that the model was trained on.
    trains : bool
        Whether it takes gradient steps.
    drawn : bool
        Whether it depends on the seed.
    texts : bool
        Whether its edit is one of texts, `Edit.queries`, and not of pictures.
    """

    make: Callable[[Material, Tensor, int], Edit | None] | None
    pictures: str = "none"
    trains: bool = False
    drawn: bool = False
    texts: bool = False


RIVALS = {
    "random": Rival(random, drawn=True),
    "filter": Rival(None),
    "uce": Rival(uce, texts=True),
    "speed": Rival(speed),
    "double": Rival(double),
    "lipschitz": Rival(lipschitz, "synthesized", trains=True, drawn=True),
    "leace": Rival(leace, "labelled"),
    "orthogonal": Rival(orthogonal, "labelled"),
    "slug": Rival(slug, "labelled", trains=True),
    "finetune": Rival(finetune, "labelled", trains=True, drawn=True),
    "clean": Rival(None, "all", trains=True),
}
"""The rivals by name. `filter` takes the forgotten names off the list of answers, `clean` is another model: neither is
an edit, see `clipnull.bench.comparison`."""
