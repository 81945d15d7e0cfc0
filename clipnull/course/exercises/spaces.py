"""Exercises of notebooks 00 to 03: vectors, classifiers, prototypes, subspaces and their angles."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import subspace
from .registry import exercise, normal

# --- 00 start here -----------------------------------------------------------------------------------------------


@exercise(
    "00-1",
    lambda: [(normal(1, 5, 8),), (3 * normal(2, 2, 3),), (normal(3, 1, 4),)],
    "divide each *row* by its own length: the lengths of (n, d) rows need shape (n, 1); sum over the last axis and "
    "keep it",
)
def unit_rows(z: Tensor) -> Tensor:
    return F.normalize(z, dim=-1)


@exercise(
    "00-2",
    lambda: [(normal(1, 9, 8) * torch.arange(1, 10)[:, None], normal(2, 8), 4), (normal(3, 5, 3), 2 * normal(4, 3), 5)],
    "unit rows first, or long vectors win; then z @ t, and argsort with descending=True",
)
def nearest_pictures(z: Tensor, t: Tensor, k: int) -> Tensor:
    return (F.normalize(z, dim=-1) @ t).argsort(descending=True)[:k]


# --- 01 text-prompt embeddings -----------------------------------------------------------------------------------


@exercise(
    "01-1",
    lambda: [(normal(1, 4, 8), 2 * normal(2, 3, 8), 10.0), (normal(3, 2, 5), normal(4, 6, 5), 1.0)],
    "unit rows on both sides first; pictures (n, d) times the transpose of prompts (C, d) gives cosines (n, C); "
    "the softmax runs over classes, so every row sums to one",
)
def zero_shot_probabilities(pictures: Tensor, prompts: Tensor, scale: float) -> Tensor:
    return (scale * F.normalize(pictures, dim=-1) @ F.normalize(prompts, dim=-1).T).softmax(1)


@exercise(
    "01-2",
    lambda: [(1 + normal(1, 5, 3, 8),), (normal(2, 4, 2, 6),)],
    "axis 0 is the class, axis 1 the domain: a mean over domains leaves (C, d), a mean over both leaves (d,); "
    "the directions of all classes sum to zero",
)
def class_directions(texts: Tensor) -> Tensor:
    return texts.mean(1) - texts.mean((0, 1))


@exercise(
    "01-3",
    lambda: [(normal(1, 4, 3, 8), 1, 2), (normal(2, 3, 2, 5), 0, 1)],
    "other classes are torch.arange(C) != c; the mean of the class runs over other domains only, and so on; add the "
    "means of class and domain, subtract that of the cells that share neither",
)
def predict_text(texts: Tensor, c: int, k: int) -> Tensor:
    other_c, other_k = torch.arange(texts.shape[0]) != c, torch.arange(texts.shape[1]) != k
    return texts[c, other_k].mean(0) + texts[other_c, k].mean(0) - texts[other_c][:, other_k].mean((0, 1))


# --- 02 synthesized prototypes -----------------------------------------------------------------------------------


def _ascents() -> list[tuple]:
    def network(seed: int, pixels: int, d: int) -> Callable[[Tensor], Tensor]:
        weights = normal(seed, pixels, d) / pixels**0.5
        return lambda x: torch.tanh(x.flatten(1) @ weights)

    return [
        (normal(1, 2, 3, 4, 4), network(2, 48, 6), 2 * normal(3, 6), 1.0),
        (normal(4, 3, 3, 2, 2), network(5, 12, 4), normal(6, 4), 0.5),
    ]


@exercise(
    "02-1",
    _ascents,
    "torch.autograd.grad of the *sum* of the n cosines gives each picture its own gradient, of the shape of x; "
    "a cosine divides by both lengths; the ascent goes up, so the step is added",
)
def ascent_step(x: Tensor, embed: Callable[[Tensor], Tensor], target: Tensor, rate: float) -> Tensor:
    x = x.detach().requires_grad_()
    cosines = F.cosine_similarity(embed(x), target[None], dim=-1)
    return (x + rate * torch.autograd.grad(cosines.sum(), x)[0]).detach()


def _towers() -> list[tuple]:
    double = torch.float64
    return [
        (normal(1, 3, 6, dtype=double), normal(2, 6, dtype=double)),
        (normal(3, 4, 4, dtype=double), normal(4, 4, dtype=double)),
        (normal(5, 2, 7, dtype=double) * 3, normal(6, 7, dtype=double)),
    ]


@exercise(
    "02-2",
    _towers,
    "x A is a combination of the rows of A. Of all vectors in their span, the orthogonal projection of the target has "
    "the smallest angle to it: solve x A = projection (torch.linalg.pinv or lstsq), then give x length 1",
)
def best_picture(a: Tensor, target: Tensor) -> Tensor:
    return F.normalize(target @ torch.linalg.pinv(a), dim=0)


# --- 03 subspace angles ------------------------------------------------------------------------------------------


def _spectra() -> list[tuple]:
    tall = normal(1, 5, 9, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)[:, None]
    return [
        (tall, 0.9),
        (tall, 0.5),
        (normal(2, 6, 4, dtype=torch.float64), 0.95),
        (normal(3, 3, 7, dtype=torch.float64), 1.0),
    ]


@exercise(
    "03-1",
    _spectra,
    "directions of (n, d) rows have length d and are the columns of the result: (d, r). Energy is a share of the "
    "*squared* singular values; keep the fewest directions that hold at least that share",
    lambda u: {"U^T U, which should be the identity": u.T @ u, "the projection U U^T": u @ u.T},
)
def basis_of(rows: Tensor, energy: float) -> Tensor:
    return subspace.basis(rows, energy)


def _pairs() -> list[tuple]:
    bases = [torch.linalg.qr(normal(seed, 8, r, dtype=torch.float64))[0] for seed, r in ((1, 2), (2, 3), (3, 3))]
    return [(bases[0], bases[1]), (bases[1], bases[2]), (bases[2], bases[0])]


@exercise(
    "03-2",
    _pairs,
    "U^T V has shape (r, s), and its min(r, s) singular values are cosines, largest first; their arccos, in "
    "radians, comes out smallest first",
)
def angles_between(u: Tensor, v: Tensor) -> Tensor:
    return subspace.principal_angles(u.T, v.T)
