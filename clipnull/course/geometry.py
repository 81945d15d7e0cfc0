"""The geometry of a model's embeddings: cone, modality gap, sources of text variance, angles between classes.

`data/results/geometry` stores the same figures of OpenAI's ViT-B/32 for comparison, measured on public embeddings by
`python data/build/geometry.py FILE.npz`.
"""

import math
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..embedding import readable
from ..images import Images
from ..models import Clip
from ..prompts import embed_cells
from ..subspace import basis, captured_energy, principal_angles

FIGURES = {
    "pictures": "pictures",
    "classes": "classes",
    "domains": "domains",
    "text_cosine": "cosine of two texts of cells",
    "picture_cosine": "cosine of two pictures",
    "own_cosine": "cosine of a picture with the text of its cell",
    "gap": "modality gap",
    "class_share": "variance of texts explained by the class (%)",
    "domain_share": "variance of texts explained by the domain (%)",
    "interaction_share": "variance of texts explained by the interaction (%)",
    "domain_agreement": "cosine of a domain's shift of texts with its shift of pictures",
    "smallest_angle": "smallest angle between the texts of two classes (degrees)",
    "mean_angle": "mean angle between the texts of two classes (degrees)",
    "kept_energy": "energy of another class in the span of a class (%)",
    "centred_kept_energy": "the same energy after centring (%)",
}
"""Labels of the figures. All but the first three are means: over pictures, or pairs of texts, pictures or classes."""


def measure(clip: Clip, images: Images, features: Tensor) -> dict[str, float]:
    """Measure FIGURES for the (class, domain) cells of `images`, with the prompts that build edits.

    features: embeddings of the pictures, (n, d); rows with NaN are skipped. Angles are in degrees, shares and energies
    in percent. `domain_agreement` uses classes with pictures in every domain; NaN if there are fewer than two.
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
    """Return the mean cosine over all pairs of unit rows (n, d)."""
    return float((x.sum(0).square().sum() - len(x)) / (len(x) * (len(x) - 1)))


def _variance_shares(texts: Tensor) -> list[float]:
    """Return the percentages of the variance of texts (C, K, d) due to class, domain and their interaction."""
    texts = texts - texts.mean((0, 1))
    by_class, by_domain = texts.mean(1, keepdim=True), texts.mean(0, keepdim=True)
    parts = by_class, by_domain, texts - by_class - by_domain
    return [100 * float(part.square().sum(-1).mean() / texts.square().sum(-1).mean()) for part in parts]


def _angles(texts: Tensor) -> tuple[float, float]:
    """Return the smallest and the mean principal angle between two classes, in degrees, averaged over pairs."""
    angles = [principal_angles(p, q).rad2deg() for p, q in combinations(texts, 2)]  # lengths differ with the rank
    return float(torch.stack([a[0] for a in angles]).mean()), float(torch.stack([a.mean() for a in angles]).mean())


def _kept_energy(texts: Tensor) -> float:
    """Return the energy of one class's rows in the span of another, in percent, averaged over pairs."""
    energy = torch.stack([captured_energy(texts.flatten(0, 1), basis(rows)) for rows in texts])  # (C, C K)
    return 100 * float(energy.view(len(texts), *texts.shape[:2])[~torch.eye(len(texts), dtype=torch.bool)].mean())


def _domain_agreement(texts: Tensor, z: Tensor, images: Images) -> float:
    """Return the mean cosine over domains between the centred mean text and the centred mean picture of a domain."""
    counts = images.counts()
    complete = (counts > 0).all(1)
    if complete.sum() < 2 or texts.shape[1] < 2:
        return math.nan
    sums = torch.zeros_like(texts).index_put_((images.classes, images.domains), z, accumulate=True)  # (C, K, d)
    means = [cells[complete].mean(0) for cells in (texts, sums / counts[..., None])]  # (K, d) each
    return float(F.cosine_similarity(*(x - x.mean(0) for x in means), dim=1).mean())
