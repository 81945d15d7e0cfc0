"""The exercises of the notebooks: a reference function, a hint and test arguments for each.

In a notebook, an exercise is four consecutive notebook cells:
1. the task in Markdown, with minutes, difficulty and a folded hint;
2. a stub, tagged `exercise`;
3. `cn.check("NN-k", stub)`, which never raises for a wrong answer, so "Run All" works for students;
4. the folded solution, tagged `solution` and checked with `strict=True`. `clipnull student` removes it.
tests/test_exercises.py enforces this and keeps a typical wrong answer to every exercise.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from .. import evaluate, subspace
from ..audits.retrieval import retrieval_precision


@dataclass(frozen=True)
class Exercise:
    """A reference function with its test arguments. The docstring of the reference is the hint for students."""

    reference: Callable
    cases: tuple[tuple, ...]
    invariant: Callable[[Tensor], Tensor]

    @property
    def hint(self) -> str:
        return " ".join((self.reference.__doc__ or "").split())


EXERCISES: dict[str, Exercise] = {}


def exercise(identity: str, *cases: tuple, invariant: Callable[[Tensor], Tensor] = lambda result: result) -> Callable:
    """Register the decorated function as the reference of exercise `identity`, such as "04-1".

    cases: argument tuples from fixed seeds, in at least two shapes so that no answer can hard-code them. invariant: map
    results to what all correct answers share, such as U to U U^T for a basis; the identity by default.
    """

    def register(reference: Callable) -> Callable:
        EXERCISES[identity] = Exercise(reference, cases, invariant)
        return reference

    return register


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return standard normal values of `shape`, reproducible by seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


double = functools.partial(normal, dtype=torch.float64)


@exercise("00-1", (normal(1, 5, 8),), (3 * normal(2, 2, 3),))
def unit_rows(z: Tensor) -> Tensor:
    """divide each *row* by its own length. Keep the last axis of the lengths, so that they have shape (n, 1)"""
    return F.normalize(z, dim=-1)


@exercise(
    "00-2", (normal(1, 9, 8) * torch.arange(1, 10)[:, None], normal(2, 8), 4), (normal(3, 5, 3), 2 * normal(4, 3), 5)
)
def nearest_pictures(z: Tensor, t: Tensor, k: int) -> Tensor:
    """normalise the rows first, or long vectors win. Then sort z @ t with argsort and descending=True"""
    return (F.normalize(z, dim=-1) @ t).argsort(descending=True)[:k]


@exercise("01-1", (normal(1, 4, 8), 2 * normal(2, 3, 8), 10.0), (normal(3, 2, 5), normal(4, 6, 5), 1.0))
def zero_shot_probabilities(pictures: Tensor, prompts: Tensor, scale: float) -> Tensor:
    """normalise the rows of both matrices first. Pictures (n, d) times the transpose of prompts (C, d) gives cosines
    (n, C). Take the softmax over classes, so that every row sums to one"""
    return (scale * F.normalize(pictures, dim=-1) @ F.normalize(prompts, dim=-1).T).softmax(1)


@exercise("01-2", (1 + normal(1, 5, 3, 8),), (normal(2, 4, 2, 6),))
def class_directions(texts: Tensor) -> Tensor:
    """axis 0 is the class and axis 1 the domain. The mean over domains has shape (C, d), the mean over both axes (d,).
    The directions of all classes must sum to zero"""
    return texts.mean(1) - texts.mean((0, 1))


@exercise("01-3", (normal(1, 4, 3, 8), 1, 2), (normal(2, 3, 2, 5), 0, 1))
def predict_text(texts: Tensor, c: int, k: int) -> Tensor:
    """torch.arange(C) != c selects the other classes. Average class c over the other domains only, and domain k over
    the other classes only. Add both means, then subtract the mean of the cells that share neither"""
    other_c, other_k = torch.arange(texts.shape[0]) != c, torch.arange(texts.shape[1]) != k
    return texts[c, other_k].mean(0) + texts[other_c, k].mean(0) - texts[other_c][:, other_k].mean((0, 1))


def _network(seed: int, pixels: int, d: int) -> Callable[[Tensor], Tensor]:
    weights = normal(seed, pixels, d) / pixels**0.5
    return lambda x: torch.tanh(x.flatten(1) @ weights)


@exercise(
    "02-1",
    (normal(1, 2, 3, 4, 4), _network(2, 48, 6), 2 * normal(3, 6), 1.0),
    (normal(4, 3, 3, 2, 2), _network(5, 12, 4), normal(6, 4), 0.5),
)
def ascent_step(x: Tensor, embed: Callable[[Tensor], Tensor], target: Tensor, rate: float) -> Tensor:
    """the gradient of the *sum* of the n cosines contains each picture's own gradient; torch.autograd.grad returns it
    in the shape of x. A cosine divides by both lengths. Gradient ascent adds the step"""
    x = x.detach().requires_grad_()
    cosines = F.cosine_similarity(embed(x), target[None], dim=-1)
    return (x + rate * torch.autograd.grad(cosines.sum(), x)[0]).detach()


@exercise("02-2", (double(1, 6, 3), double(2, 3)), (double(3, 4, 4), double(4, 4)))
def best_picture(a: Tensor, target: Tensor) -> Tensor:
    """there are at least as many pixels as dimensions, so x A = target has a solution, and torch.linalg.pinv gives the
    shortest one. x is a row, so write target @ pinv(A). Then normalise x to length 1"""
    return F.normalize(target @ torch.linalg.pinv(a), dim=0)


TALL = double(1, 5, 9) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)[:, None]


@exercise("03-1", (TALL, 0.9), (double(2, 6, 4), 0.95), invariant=lambda u: u @ u.T)
def basis_of(rows: Tensor, energy: float) -> Tensor:
    """return the directions as columns, (d, r). Energy is a share of the *squared* singular values: keep the fewest
    directions that reach it. The check compares U U^T"""
    return subspace.basis(rows, energy)


BASES = [torch.linalg.qr(double(seed, 8, r))[0] for seed, r in enumerate((2, 3, 3), 1)]


@exercise("03-2", (BASES[0], BASES[1]), (BASES[1], BASES[2]))
def angles_between(u1: Tensor, u2: Tensor) -> Tensor:
    """the min(r, q) singular values of U1^T U2, shape (r, q), are the cosines, largest first. Their arccos gives the
    angles in radians, smallest first"""
    return subspace.principal_angles(u1.T, u2.T)


@exercise("04-1", (double(1, 9, 7), double(2, 4, 3, 7), 1, 1), (double(3, 5, 6), double(4, 5, 4, 6), 3, 2))
def forget_rows(W: Tensor, texts: Tensor, c: int, rank: int) -> Tensor:
    """subtract the mean of all texts, over classes and domains, from the rows of class c. The leading directions are
    the first `rank` rows of Vh and become the columns of U. P = I - U U^T multiplies from the right: W @ P"""
    u = subspace.basis(texts[c] - texts.mean((0, 1)))[:, :rank]
    return W - (W @ u) @ u.T


@exercise(
    "04-2",
    (double(10, 6, 5), double(11, 3, 5), torch.linalg.qr(double(12, 5, 2))[0]),
    (double(13, 4, 7), double(14, 8, 7), torch.linalg.qr(double(15, 7, 1))[0]),
)
def score_change(z: Tensor, words: Tensor, U: Tensor) -> Tensor:
    """z P t^T - z t^T = -(z U) (t U)^T. This is one product of (n, r) and (r, C) with a minus sign"""
    return -(z @ U) @ (words @ U).T


@exercise(
    "04-3",
    (torch.tensor([0.90, 0.97, 0.99, 1.00]), torch.tensor([0.2, 0.9, 0.7, 2.1]), 0.95),
    (torch.tensor([0.99, 0.98, 1.00]), torch.tensor([0.7, 1.1, 1.9]), 0.95),
)
def choose_rank(forgetting: Tensor, drop: Tensor, least: float) -> int:
    """first exclude the ranks that forget less than `least`, then take the one with the smallest drop. Ranks start at
    1, indices at 0"""
    return int(torch.where(forgetting >= least, drop, torch.inf).argmin()) + 1


@exercise(
    "05-1",
    (normal(1, 4), normal(2, 4, 9)),
    (torch.tensor([2.0, 1.0]), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])),
)
def chance_share(observed: Tensor, random: Tensor) -> Tensor:
    """compare (m, B) with (m, 1); a tie counts as larger. Then add 1 to the count and 1 to B for the observed value
    itself, so that no share is zero"""
    return (1 + (random >= observed[:, None]).sum(1)) / (1 + random.shape[1])


@exercise(
    "05-2",
    (double(1, 8), torch.randint(8, (200, 8), generator=torch.Generator().manual_seed(1))),
    (3 + double(2, 5), torch.randint(5, (90, 4), generator=torch.Generator().manual_seed(2))),
)
def bootstrap_interval(values: Tensor, places: Tensor) -> Tensor:
    """values[places] has the shape of places, (B, m). Its row means, (B,), are the bootstrap means; 95 % of them lie
    between the quantiles .025 and .975"""
    means = values[places].mean(1)
    return torch.stack([means.quantile(0.025), means.quantile(0.975)])


@exercise("06-1", (double(1, 5), double(2, 5)), (double(3, 3), double(4, 3)))
def read_and_write(v: Tensor, r: Tensor) -> Tensor:
    """for a row z, z @ P must be z minus the number z v^T times r, so P is the identity minus v^T r. torch.outer(v, r)
    is v^T r; torch.outer(r, v) is its transpose"""
    return torch.eye(len(v), dtype=v.dtype) - torch.outer(v, r)


@exercise(
    "06-2", (double(1, 9, 6), double(2, 6), double(3, 6), 0.5), (double(4, 7, 4), double(5, 4), double(6, 4), 0.2)
)
def act_above(z: Tensor, v: Tensor, r: Tensor, o: float) -> Tensor:
    """the threshold is proportional to the length of each row: relu(z v^T - o |z|), where |z| is z.norm(dim=1)"""
    return z - (z @ v - o * z.norm(dim=1)).relu()[:, None] * r


@exercise(
    "06-3",
    (double(1, 9, 6), double(2, 9, 3), 1, double(3, 6), double(4, 6)),
    (double(5, 8, 4), double(6, 8, 2), 0, double(7, 4), double(8, 4)),
)
def act_behind_gate(z: Tensor, scores: Tensor, k: int, v: Tensor, r: Tensor) -> Tensor:
    """change a row only where domain k has the highest score and the reading z @ v is positive"""
    return z - ((z @ v).relu() * (scores.argmax(1) == k))[:, None] * r


@exercise("07-1", (0.9, 0.5, 10), (0.8, 0.02, 4))
def way_to_chance(before: float, after: float, classes: int) -> float:
    """chance is 1 / classes. The share of the way to chance is (before - after) / (before - chance), at most 1"""
    return min(1.0, (before - after) / (before - 1 / classes))


@exercise("07-2", (double(1, 4, 9), 2, 0.5), (double(2, 6, 7), 0, 2.0))
def decoy_shift(classifier: Tensor, decoy: int, margin: float) -> Tensor:
    """every other class c sets one condition, (w_decoy - w_c) r = margin. Stack the differences into a matrix of shape
    (C - 1, d). Its pseudoinverse (torch.linalg.pinv) gives the shortest r that meets all conditions"""
    apart = classifier[decoy] - torch.cat([classifier[:decoy], classifier[decoy + 1 :]])
    return torch.linalg.pinv(apart) @ torch.full((len(apart),), margin, dtype=apart.dtype)


LENGTHS = torch.tensor([0.2, 5.0, 1.0, 3.0, 0.5, 2.0, 1.5, 0.1])[:, None]


@exercise(
    "08-1",
    (LENGTHS * normal(1, 8, 3), torch.arange(8) % 2),
    (normal(2, 7, 4), torch.arange(7) // 3),
    (LENGTHS[:5] * normal(8, 5, 2), torch.tensor([0, 0, 1, 1, 1])),
)
def same_neighbour(features: Tensor, labels: Tensor) -> float:
    """normalise the rows to get cosines (n, n). Each picture is nearest to itself, so exclude the diagonal. Then
    compare labels[nearest], (n,), with labels"""
    return float(retrieval_precision(features, labels, 1).mean())


@exercise(
    "08-2",
    (normal(1, 9), torch.arange(9) % 3 == 0),
    (normal(2, 12).round(), torch.arange(12) < 5),
    (torch.tensor([0.1, 0.5, 0.5, 0.5]), torch.tensor([True, True, False, False])),
)
def area_under_curve(scores: Tensor, positive: Tensor) -> float:
    """compare every positive with every negative. A pair counts 1 if the positive scores higher and 0.5 for a tie. Take
    the mean over all pairs"""
    above = scores[positive][:, None] - scores[~positive]
    return float((above > 0).double().mean() + (above == 0).double().mean() / 2)


@exercise(
    "08-3", (double(1, 4, 6), double(2, 6, 2), double(3, 6, 2)), (double(4, 3, 5), double(5, 5, 1), 2 * double(6, 5, 1))
)
def undo(edited: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """z' L = (z L) (I - R^T L). Solve this r x r system for z L, (n, r); the matrix stands on the right of z L. Then
    z = z' + (z L) R^T"""
    return edited @ torch.linalg.inv(torch.eye(len(left), dtype=left.dtype) - left @ right.T)


@exercise(
    "09-1",
    (normal(1, 6, 4), torch.tensor([True, False, False, True])),
    (normal(2, 5, 3).abs().neg(), torch.tensor([False, True, False])),
)
def name_filter(scores: Tensor, forgotten: Tensor) -> Tensor:
    """set the scores of forgotten classes to -inf; a score of 0 would still beat negative scores. Keep all C columns
    until the argmax, because removing columns renumbers the classes after them"""
    return scores.masked_fill(forgotten, -math.inf).argmax(1)


def _bit(seed: int, n: int, d: int, share: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows to erase from, labelled rows, and their labels."""
    positive, mix = torch.arange(n) % share == 0, double(seed + 1, d, d)
    labelled = double(seed, n, d) @ mix + 5 + positive[:, None] * double(seed + 2, d)
    return double(seed + 3, 7, d) @ mix + 5, labelled, positive


@exercise("09-2", _bit(1, 30, 4, 3), _bit(5, 40, 3, 2))
def erase_bit(z: Tensor, labelled: Tensor, positive: Tensor) -> Tensor:
    """compute the mean and the covariance Sigma of all labelled rows, and delta, the difference of the two class means.
    With direction = Sigma^-1 delta, subtract (z - mean) @ direction / (delta @ direction) times delta from each row"""
    s = labelled[positive].mean(0) - labelled[~positive].mean(0)
    direction = torch.linalg.solve(labelled.T.cov(), s)
    return z - ((z - labelled.mean(0)) @ direction / (s @ direction))[:, None] * s


@exercise("09-3", (10 * double(1, 9) + double(2, 9), 10 * double(1, 9)), (double(3, 4), 3 + double(4, 4)))
def paired_interval(first: Tensor, second: Tensor) -> Tensor:
    """take the standard deviation of the *differences*, because difficulty that both methods share cancels. Divide it
    by sqrt(n) and multiply by the t quantile with n - 1 degrees of freedom. Return low and high, shape (2,)"""
    difference = first - second
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std() / len(difference) ** 0.5
    return torch.stack([difference.mean() - half, difference.mean() + half])


@exercise("10-1", (0, 4), (3, 4), (40, 50), (9, 9))
def wilson_interval(right: int, n: int) -> Tensor:
    """the centre is (p + q^2 / 2n) / (1 + q^2 / n), not p. Divide half the width by the same (1 + q^2 / n)"""
    return torch.tensor(evaluate.wilson(right, n), dtype=torch.float64)


@exercise("10-2", (double(1, 5, 4), double(2, 5, 4)), (double(3, 1, 7), double(4, 1, 7)))
def winners_curse(here: Tensor, there: Tensor) -> float:
    """the winner of each cut is here.argmax(1), (m,). Compare its score here with its own score there, not with the
    best score there"""
    winner = here.argmax(1, keepdim=True)
    return float((here - there).gather(1, winner).mean())


@exercise(
    "10-3", (normal(1, 7, 5), normal(2, 5, 2), normal(3, 5, 2)), (normal(4, 4, 4), normal(5, 4, 1), normal(6, 4, 1))
)
def fused_weight(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """W P = W - (W L) R^T, with W L of shape (D, r)"""
    return weight - (weight @ left) @ right.T


@exercise("11-1", (normal(1, 6), normal(2, 6, 2), normal(3, 6, 2)), (normal(4, 4), normal(5, 4, 1), normal(6, 4, 1)))
def edited_query(t: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """P^T = I - R L^T. A query meets R first and L second; a picture meets L first"""
    return t - (t @ right) @ left.T


@exercise(
    "11-2",
    (double(1, 9, 6), double(2, 6), double(3, 6, 2), double(4, 6, 2)),
    (double(5, 7, 4), double(6, 4), double(7, 4, 1), double(8, 4, 1)),
)
def same_order(z: Tensor, t: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """the inner products of z with t P^T are correct already. Divide each by the length of its row of z P, (n,)"""
    moved = z - (z @ left) @ right.T
    return (moved @ t / moved.norm(dim=1)).argsort(descending=True)
