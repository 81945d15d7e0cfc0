"""How the texts and pictures of a model lie: cone, modality gap, what texts vary by, angles between classes.

`data/results/geometry` holds the same figures of OpenAI's ViT-B/32, measured on public embeddings by
`python data/build/geometry.py FILE.npz`: numbers only, so that a reader can compare another model with it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..embedding import readable
from ..images import Images
from ..models import Clip
from ..prompts import embed_cells
from ..subspace import basis, captured_energy, principal_angles

FIGURES = {
    "pictures": ("pictures", "{:.0f}"),
    "classes": ("classes", "{:.0f}"),
    "domains": ("domains", "{:.0f}"),
    "text_cosine": ("cosine of two texts of cells", "{:.2f}"),
    "picture_cosine": ("cosine of two pictures", "{:.2f}"),
    "own_cosine": ("cosine of a picture and the text of its cell", "{:.2f}"),
    "gap": ("modality gap", "{:.2f}"),
    "class_share": ("class, of the variance of texts (%)", "{:.0f}"),
    "domain_share": ("domain, of the variance of texts (%)", "{:.0f}"),
    "interaction_share": ("interaction, of the variance of texts (%)", "{:.0f}"),
    "domain_agreement": ("cosine of what a domain adds to texts with what it adds to pictures", "{:.2f}"),
    "smallest_angle": ("smallest angle between the texts of two classes (degrees)", "{:.0f}"),
    "mean_angle": ("their mean angle (degrees)", "{:.0f}"),
    "kept_energy": ("energy of another class in the span of a class (%)", "{:.0f}"),
    "centred_kept_energy": ("that energy, the mean subtracted first (%)", "{:.0f}"),
}
"""Figure -> (label, format). All but the first three are means: over pairs of texts, pictures, classes."""


def measure(clip: Clip, images: Images, features: Tensor) -> dict[str, float]:
    """The figures of FIGURES, for the (class, domain) cells of `images` and the prompts that build edits.

    features: (n, d), those of the pictures; rows with NaN do not count. Angles are in degrees, shares and energies in
    percent. `domain_agreement` uses the classes that have pictures in every domain; NaN if fewer than two have.
    """
    texts = embed_cells(clip, images.vocabulary).double()  # (C, K, d), unit rows
    images, (features,) = readable(images, features)
    z = F.normalize(features.double(), dim=-1)
    cell_texts = texts[images.classes, images.domains]  # (n, d)
    figures = [len(images), *images.vocabulary.shape, _mean_cosine(texts.flatten(0, 1)), _mean_cosine(z)]
    figures += [float((z * cell_texts).sum(1).mean()), float((z.mean(0) - cell_texts.mean(0)).norm())]
    figures += [*_variance_shares(texts), _domain_agreement(texts, z, images), *_angles(texts)]
    figures += [_kept_energy(texts), _kept_energy(texts - texts.mean((0, 1)))]
    return dict(zip(FIGURES, figures, strict=True))


def _mean_cosine(x: Tensor) -> float:
    """Mean over all pairs of unit rows (n, d)."""
    n = len(x)
    return float((x.sum(0).square().sum() - x.square().sum()) / (n * (n - 1)))


def _variance_shares(texts: Tensor) -> list[float]:
    """Percent of the variance of texts (C, K, d) that the class, the domain and their interaction explain."""
    mean = texts.mean((0, 1))
    by_class, by_domain = texts.mean(1) - mean, texts.mean(0) - mean
    rest = texts - mean - by_class[:, None] - by_domain
    variance = [float(part.square().sum(-1).mean()) for part in (by_class, by_domain, rest)]
    return [100 * v / sum(variance) for v in variance]


def _angles(texts: Tensor) -> tuple[float, float]:
    """The smallest principal angle between the spans of two classes, and the mean one: means over pairs, degrees."""
    pairs = [(p, q) for p in range(len(texts)) for q in range(p)]
    angles = [principal_angles(texts[p], texts[q]).rad2deg() for p, q in pairs]  # as many as the smaller rank
    return float(torch.stack([a[0] for a in angles]).mean()), float(torch.stack([a.mean() for a in angles]).mean())


def _kept_energy(texts: Tensor) -> float:
    """Energy of the rows of a class in the span of another: a mean over pairs, percent."""
    flat, spans = texts.flatten(0, 1), [basis(rows) for rows in texts]
    energy = torch.stack([captured_energy(flat, u).view(texts.shape[:2]).mean(1) for u in spans])  # (C, C)
    return 100 * float(energy[~torch.eye(len(texts), dtype=torch.bool)].mean())


def _domain_agreement(texts: Tensor, z: Tensor, images: Images) -> float:
    """Mean cosine, over domains, of its mean text with its mean picture, each minus the mean of all domains."""
    whole = (images.counts() > 0).all(1).nonzero()[:, 0]
    if len(whole) < 2 or texts.shape[1] < 2:
        return math.nan
    cells = [[(images.classes == c) & (images.domains == k) for k in range(texts.shape[1])] for c in whole.tolist()]
    of_pictures = torch.stack([torch.stack([z[mask].mean(0) for mask in row]) for row in cells]).mean(0)  # (K, d)
    of_texts = texts[whole].mean(0)
    centred = of_pictures - of_pictures.mean(0), of_texts - of_texts.mean(0)
    return float(F.cosine_similarity(*centred, dim=1).mean())
