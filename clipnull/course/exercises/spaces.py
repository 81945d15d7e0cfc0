"""Exercises of notebooks 00 to 03: vectors, classifiers, prototypes, subspaces and their angles."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import subspace
from .registry import double, exercise, normal

# --- 00 start here


@exercise(
    "00-1",
    [(normal(1, 5, 8),), (3 * normal(2, 2, 3),), (normal(3, 1, 4),)],
    "divide each *row* by its own length: the lengths of (n, d) rows need shape (n, 1); sum over the last axis and "
    "keep it",
)
def unit_rows(z: Tensor) -> Tensor:
    return F.normalize(z, dim=-1)


@exercise(
    "00-2",
    [(normal(1, 9, 8) * torch.arange(1, 10)[:, None], normal(2, 8), 4), (normal(3, 5, 3), 2 * normal(4, 3), 5)],
    "unit rows first, or long vectors win; then z @ t, and argsort with descending=True",
)
def nearest_pictures(z: Tensor, t: Tensor, k: int) -> Tensor:
    return (F.normalize(z, dim=-1) @ t).argsort(descending=True)[:k]


# --- 01 text-prompt embeddings


@exercise(
    "01-1",
    [(normal(1, 4, 8), 2 * normal(2, 3, 8), 10.0), (normal(3, 2, 5), normal(4, 6, 5), 1.0)],
    "unit rows on both sides first; pictures (n, d) times the transpose of prompts (C, d) gives cosines (n, C); "
    "the softmax runs over classes, so every row sums to one",
)
def zero_shot_probabilities(pictures: Tensor, prompts: Tensor, scale: float) -> Tensor:
    return (scale * F.normalize(pictures, dim=-1) @ F.normalize(prompts, dim=-1).T).softmax(1)


@exercise(
    "01-2",
    [(1 + normal(1, 5, 3, 8),), (normal(2, 4, 2, 6),)],
    "axis 0 is the class, axis 1 the domain: a mean over domains leaves (C, d), a mean over both leaves (d,); "
    "the directions of all classes sum to zero",
)
def class_directions(texts: Tensor) -> Tensor:
    return texts.mean(1) - texts.mean((0, 1))


@exercise(
    "01-3",
    [(normal(1, 4, 3, 8), 1, 2), (normal(2, 3, 2, 5), 0, 1)],
    "other classes are torch.arange(C) != c; the mean of the class runs over other domains only, and so on; add the "
    "means of class and domain, subtract that of the cells that share neither",
)
def predict_text(texts: Tensor, c: int, k: int) -> Tensor:
    other_c, other_k = torch.arange(texts.shape[0]) != c, torch.arange(texts.shape[1]) != k
    return texts[c, other_k].mean(0) + texts[other_c, k].mean(0) - texts[other_c][:, other_k].mean((0, 1))


# --- 02 synthesized prototypes


def _network(seed: int, pixels: int, d: int) -> Callable[[Tensor], Tensor]:
    weights = normal(seed, pixels, d) / pixels**0.5
    return lambda x: torch.tanh(x.flatten(1) @ weights)


@exercise(
    "02-1",
    [
        (normal(1, 2, 3, 4, 4), _network(2, 48, 6), 2 * normal(3, 6), 1.0),
        (normal(4, 3, 3, 2, 2), _network(5, 12, 4), normal(6, 4), 0.5),
    ],
    "torch.autograd.grad of the *sum* of the n cosines gives each picture its own gradient, of the shape of x; "
    "a cosine divides by both lengths; the ascent goes up, so the step is added",
)
def ascent_step(x: Tensor, embed: Callable[[Tensor], Tensor], target: Tensor, rate: float) -> Tensor:
    x = x.detach().requires_grad_()
    cosines = F.cosine_similarity(embed(x), target[None], dim=-1)
    return (x + rate * torch.autograd.grad(cosines.sum(), x)[0]).detach()


@exercise(
    "02-2",
    [(double(1, 6, 3), double(2, 3)), (double(3, 4, 4), double(4, 4)), (3 * double(5, 7, 2), double(6, 2))],
    "more pixels than dimensions: x A = target has a solution, and torch.linalg.pinv gives the shortest; target comes "
    "first, as x is a row; then give x length 1",
)
def best_picture(a: Tensor, target: Tensor) -> Tensor:
    return F.normalize(target @ torch.linalg.pinv(a), dim=0)


# --- 03 subspace angles


TALL = double(1, 5, 9) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)[:, None]


@exercise(
    "03-1",
    [(TALL, 0.9), (TALL, 0.5), (double(2, 6, 4), 0.95), (double(3, 3, 7), 1.0)],
    "directions of (n, d) rows have length d and are the columns of the result: (d, r). Energy is a share of the "
    "*squared* singular values; keep the fewest directions that hold at least that share",
    lambda u: {"U^T U, which should be the identity": u.T @ u, "the projection U U^T": u @ u.T},
)
def basis_of(rows: Tensor, energy: float) -> Tensor:
    return subspace.basis(rows, energy)


BASES = [torch.linalg.qr(double(seed, 8, r))[0] for seed, r in ((1, 2), (2, 3), (3, 3))]


@exercise(
    "03-2",
    [(BASES[0], BASES[1]), (BASES[1], BASES[2]), (BASES[2], BASES[0])],
    "U1^T U2 has shape (r, q), and its min(r, q) singular values are cosines, largest first; their arccos, in "
    "radians, comes out smallest first",
)
def angles_between(u1: Tensor, u2: Tensor) -> Tensor:
    return subspace.principal_angles(u1.T, u2.T)
