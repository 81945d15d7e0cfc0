"""The exercises of the notebooks: a reference for each, with a hint, and arguments on which an answer is compared.

An exercise of notebook NN is four cells in a row, in a lesson where it belongs:

1. Markdown: **Exercise k** (5 min, easy). The task, then <details><summary>Hint</summary>...</details>
   (minutes a whole number; easy, medium or hard).
2. Code, tagged `exercise`: a stub, one function whose docstring gives shapes and whose last line is
   `raise NotImplementedError`. Its name is used nowhere else in the notebook, and neither is the name of the solution.
3. Code: `cn.check("NN-k", stub)`. It prints PASS, TODO or FAIL with a hint and never raises for a wrong answer, so that
   Run All finishes for a student.
4. Code, tagged `solution`, with `"jupyter": {"source_hidden": true}`: the solution under a name of its own and
   `cn.check("NN-k", name, strict=True)`, which raises unless it is right. `clipnull student` leaves it out.

tests/test_exercises.py holds a typical wrong answer to every exercise, which must fail.
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
    """A reference, the arguments to compare on, and what all right answers share. Its hint is the docstring."""

    reference: Callable
    cases: tuple[tuple, ...]
    invariant: Callable[[Tensor], Tensor]

    @property
    def hint(self) -> str:
        return " ".join((self.reference.__doc__ or "").split())


EXERCISES: dict[str, Exercise] = {}


def exercise(identity: str, *cases: tuple, invariant: Callable[[Tensor], Tensor] = lambda result: result) -> Callable:
    """A decorator that enters a reference as exercise `identity`, "NN-k"; its docstring hints at the easiest mistake.

    cases: arguments from fixed seeds, in at least two shapes, so that no answer can hard-code them. invariant: what all
    right answers share where there are several, such as U U^T for a basis U.
    """

    def enter(reference: Callable) -> Callable:
        EXERCISES[identity] = Exercise(reference, cases, invariant)
        return reference

    return enter


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values of `shape`, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


double = functools.partial(normal, dtype=torch.float64)


# --- 00 start here


@exercise("00-1", (normal(1, 5, 8),), (3 * normal(2, 2, 3),))
def unit_rows(z: Tensor) -> Tensor:
    """divide each *row* by its own length: the lengths of (n, d) rows need shape (n, 1); sum over the last axis and
    keep it"""
    return F.normalize(z, dim=-1)


@exercise(
    "00-2", (normal(1, 9, 8) * torch.arange(1, 10)[:, None], normal(2, 8), 4), (normal(3, 5, 3), 2 * normal(4, 3), 5)
)
def nearest_pictures(z: Tensor, t: Tensor, k: int) -> Tensor:
    """unit rows first, or long vectors win; then z @ t, and argsort with descending=True"""
    return (F.normalize(z, dim=-1) @ t).argsort(descending=True)[:k]


# --- 01 text-prompt embeddings


@exercise("01-1", (normal(1, 4, 8), 2 * normal(2, 3, 8), 10.0), (normal(3, 2, 5), normal(4, 6, 5), 1.0))
def zero_shot_probabilities(pictures: Tensor, prompts: Tensor, scale: float) -> Tensor:
    """unit rows on both sides first; pictures (n, d) times the transpose of prompts (C, d) gives cosines (n, C); the
    softmax runs over classes, so every row sums to one"""
    return (scale * F.normalize(pictures, dim=-1) @ F.normalize(prompts, dim=-1).T).softmax(1)


@exercise("01-2", (1 + normal(1, 5, 3, 8),), (normal(2, 4, 2, 6),))
def class_directions(texts: Tensor) -> Tensor:
    """axis 0 is the class, axis 1 the domain: a mean over domains leaves (C, d), a mean over both leaves (d,); the
    directions of all classes sum to zero"""
    return texts.mean(1) - texts.mean((0, 1))


@exercise("01-3", (normal(1, 4, 3, 8), 1, 2), (normal(2, 3, 2, 5), 0, 1))
def predict_text(texts: Tensor, c: int, k: int) -> Tensor:
    """other classes are torch.arange(C) != c; the mean of the class runs over other domains only, and so on; add the
    means of class and domain, subtract that of the cells that share neither"""
    other_c, other_k = torch.arange(texts.shape[0]) != c, torch.arange(texts.shape[1]) != k
    return texts[c, other_k].mean(0) + texts[other_c, k].mean(0) - texts[other_c][:, other_k].mean((0, 1))


# --- 02 synthesized prototypes


def _network(seed: int, pixels: int, d: int) -> Callable[[Tensor], Tensor]:
    weights = normal(seed, pixels, d) / pixels**0.5
    return lambda x: torch.tanh(x.flatten(1) @ weights)


@exercise(
    "02-1",
    (normal(1, 2, 3, 4, 4), _network(2, 48, 6), 2 * normal(3, 6), 1.0),
    (normal(4, 3, 3, 2, 2), _network(5, 12, 4), normal(6, 4), 0.5),
)
def ascent_step(x: Tensor, embed: Callable[[Tensor], Tensor], target: Tensor, rate: float) -> Tensor:
    """torch.autograd.grad of the *sum* of the n cosines gives each picture its own gradient, of the shape of x; a
    cosine divides by both lengths; the ascent goes up, so the step is added"""
    x = x.detach().requires_grad_()
    cosines = F.cosine_similarity(embed(x), target[None], dim=-1)
    return (x + rate * torch.autograd.grad(cosines.sum(), x)[0]).detach()


@exercise("02-2", (double(1, 6, 3), double(2, 3)), (double(3, 4, 4), double(4, 4)))
def best_picture(a: Tensor, target: Tensor) -> Tensor:
    """more pixels than dimensions: x A = target has a solution, and torch.linalg.pinv gives the shortest; target
    comes first, as x is a row; then give x length 1"""
    return F.normalize(target @ torch.linalg.pinv(a), dim=0)


# --- 03 subspace angles

TALL = double(1, 5, 9) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)[:, None]


@exercise("03-1", (TALL, 0.9), (double(2, 6, 4), 0.95), invariant=lambda u: u @ u.T)
def basis_of(rows: Tensor, energy: float) -> Tensor:
    """directions of (n, d) rows have length d and are the columns of the result: (d, r). Energy is a share of the
    *squared* singular values; keep the fewest directions that hold at least that share. U U^T is compared"""
    return subspace.basis(rows, energy)


BASES = [torch.linalg.qr(double(seed, 8, r))[0] for seed, r in enumerate((2, 3, 3), 1)]


@exercise("03-2", (BASES[0], BASES[1]), (BASES[1], BASES[2]))
def angles_between(u1: Tensor, u2: Tensor) -> Tensor:
    """U1^T U2 has shape (r, q), and its min(r, q) singular values are cosines, largest first; their arccos, in
    radians, comes out smallest first"""
    return subspace.principal_angles(u1.T, u2.T)


# --- 04 global unlearning


@exercise("04-1", (double(1, 9, 7), double(2, 4, 3, 7), 1, 1), (double(3, 5, 6), double(4, 5, 4, 6), 3, 2))
def forget_rows(W: Tensor, texts: Tensor, c: int, rank: int) -> Tensor:
    """the mean of all texts, over classes and domains, is subtracted from the rows of class c; the leading `rank`
    directions are rows of Vh, and U has them as columns; P = I - U U^T stands on the right: W @ P"""
    u = subspace.basis(texts[c] - texts.mean((0, 1)))[:, :rank]
    return W - (W @ u) @ u.T


@exercise(
    "04-2",
    (double(10, 6, 5), double(11, 3, 5), torch.linalg.qr(double(12, 5, 2))[0]),
    (double(13, 4, 7), double(14, 8, 7), torch.linalg.qr(double(15, 7, 1))[0]),
)
def score_change(z: Tensor, words: Tensor, U: Tensor) -> Tensor:
    """z P t^T - z t^T = -(z U) (t U)^T: one product of (n, r) and (r, C), with a minus sign"""
    return -(z @ U) @ (words @ U).T


@exercise(
    "04-3",
    (torch.tensor([0.90, 0.97, 0.99, 1.00]), torch.tensor([0.2, 0.9, 0.7, 2.1]), 0.95),
    (torch.tensor([0.99, 0.98, 1.00]), torch.tensor([0.7, 1.1, 1.9]), 0.95),
)
def choose_rank(forgetting: Tensor, drop: Tensor, least: float) -> int:
    """first leave out the ranks that forget less than `least`, then take the one with the smallest drop; the first
    rank is 1, and places count from 0"""
    return int(torch.where(forgetting >= least, drop, torch.inf).argmin()) + 1


# --- 05 is it true


@exercise(
    "05-1",
    (normal(1, 4), normal(2, 4, 9)),
    (torch.tensor([2.0, 1.0]), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])),
)
def chance_share(observed: Tensor, random: Tensor) -> Tensor:
    """compare (m, B) with (m, 1), where a tie counts as large; then one more on top and below, for the observed
    value itself, so that no share is zero"""
    return (1 + (random >= observed[:, None]).sum(1)) / (1 + random.shape[1])


@exercise(
    "05-2",
    (double(1, 8), torch.randint(8, (200, 8), generator=torch.Generator().manual_seed(1))),
    (3 + double(2, 5), torch.randint(5, (90, 4), generator=torch.Generator().manual_seed(2))),
)
def bootstrap_interval(values: Tensor, places: Tensor) -> Tensor:
    """values[places] has the shape of places, (B, m): one mean a row, (B,); the middle 95 % of those means lies
    between their quantiles .025 and .975"""
    means = values[places].mean(1)
    return torch.stack([means.quantile(0.025), means.quantile(0.975)])


# --- 06 selective unlearning


@exercise("06-1", (double(1, 5), double(2, 5)), (double(3, 3), double(4, 3)))
def read_and_write(v: Tensor, r: Tensor) -> Tensor:
    """for a row z, z @ P must be z minus the number z v^T times r: the identity minus v^T r. torch.outer(v, r) is
    v^T r; torch.outer(r, v) is its transpose"""
    return torch.eye(len(v), dtype=v.dtype) - torch.outer(v, r)


@exercise(
    "06-2", (double(1, 9, 6), double(2, 6), double(3, 6), 0.5), (double(4, 7, 4), double(5, 4), double(6, 4), 0.2)
)
def act_above(z: Tensor, v: Tensor, r: Tensor, o: float) -> Tensor:
    """the threshold goes with the length of each row: relu(z v^T - o |z|), with z.norm(dim=1); below it, a row stays"""
    return z - (z @ v - o * z.norm(dim=1)).relu()[:, None] * r


@exercise(
    "06-3",
    (double(1, 9, 6), double(2, 9, 3), 1, double(3, 6), double(4, 6)),
    (double(5, 8, 4), double(6, 8, 2), 0, double(7, 4), double(8, 4)),
)
def act_behind_gate(z: Tensor, scores: Tensor, k: int, v: Tensor, r: Tensor) -> Tensor:
    """two conditions: the row's highest score is that of domain k, and the reading z @ v is positive. Where one
    fails, the row stays"""
    return z - ((z @ v).relu() * (scores.argmax(1) == k))[:, None] * r


# --- 07 complete unlearning


@exercise("07-1", (0.9, 0.5, 10), (0.8, 0.02, 4))
def way_to_chance(before: float, after: float, classes: int) -> float:
    """chance is 1 / classes; the share of the way is (before - after) / (before - chance), at most 1"""
    return min(1.0, (before - after) / (before - 1 / classes))


@exercise("07-2", (double(1, 4, 9), 2, 0.5), (double(2, 6, 7), 0, 2.0))
def decoy_shift(classifier: Tensor, decoy: int, margin: float) -> Tensor:
    """C - 1 conditions: (w_decoy - w_c) r = margin for every other class c. Stack the differences into a matrix (C -
    1, d); of all r that meet them, the pseudoinverse (torch.linalg.pinv) gives the shortest"""
    apart = classifier[decoy] - torch.cat([classifier[:decoy], classifier[decoy + 1 :]])
    return torch.linalg.pinv(apart) @ torch.full((len(apart),), margin, dtype=apart.dtype)


# --- 08 what remains


LENGTHS = torch.tensor([0.2, 5.0, 1.0, 3.0, 0.5, 2.0, 1.5, 0.1])[:, None]


@exercise(
    "08-1",
    (LENGTHS * normal(1, 8, 3), torch.arange(8) % 2),
    (normal(2, 7, 4), torch.arange(7) // 3),
    (LENGTHS[:5] * normal(8, 5, 2), torch.tensor([0, 0, 1, 1, 1])),
)
def same_neighbour(features: Tensor, labels: Tensor) -> float:
    """cosines (n, n) need unit rows; each picture is nearest to itself, so exclude the diagonal; then compare
    labels[nearest], (n,), with labels"""
    return float(retrieval_precision(features, labels, 1).mean())


@exercise(
    "08-2",
    (normal(1, 9), torch.arange(9) % 3 == 0),
    (normal(2, 12).round(), torch.arange(12) < 5),
    (torch.tensor([0.1, 0.5, 0.5, 0.5]), torch.tensor([True, True, False, False])),
)
def area_under_curve(scores: Tensor, positive: Tensor) -> float:
    """compare every positive with every negative, (positives, negatives): 1 if the positive is higher, 0.5 for a
    tie; the mean over all pairs"""
    above = scores[positive][:, None] - scores[~positive]
    return float((above > 0).double().mean() + (above == 0).double().mean() / 2)


@exercise(
    "08-3", (double(1, 4, 6), double(2, 6, 2), double(3, 6, 2)), (double(4, 3, 5), double(5, 5, 1), 2 * double(6, 5, 1))
)
def undo(edited: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """z' L = (z L) (I - R^T L), so a system of size r gives z L (n, r); then z = z' + (z L) R^T. Mind the side: z L
    is on the left of the matrix"""
    return edited @ torch.linalg.inv(torch.eye(len(left), dtype=left.dtype) - left @ right.T)


# --- 09 methods compared


@exercise(
    "09-1",
    (normal(1, 6, 4), torch.tensor([True, False, False, True])),
    (normal(2, 5, 3).abs().neg(), torch.tensor([False, True, False])),
)
def name_filter(scores: Tensor, forgotten: Tensor) -> Tensor:
    """give a forgotten class a score below all others, such as -inf: 0 wins against negative scores. Removing
    columns changes the numbers of the classes behind them; keep (n, C) until the argmax"""
    return scores.masked_fill(forgotten, -math.inf).argmax(1)


def _bit(seed: int, n: int, d: int, share: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to erase from, labelled rows, and their labels."""
    positive, mix = torch.arange(n) % share == 0, double(seed + 1, d, d)
    return (
        double(seed + 3, 7, d) @ mix + 5,
        double(seed, n, d) @ mix + 5 + positive[:, None] * double(seed + 2, d),
        positive,
    )


@exercise("09-2", _bit(1, 30, 4, 3), _bit(5, 40, 3, 2))
def erase_bit(z: Tensor, labelled: Tensor, positive: Tensor) -> Tensor:
    """subtract from each row of z a multiple of delta (d,), the difference of the means. The multiples, (n,), are (z
    - mean) @ direction / (delta @ direction), with direction = Sigma^-1 delta; delta, mean, Sigma: those of the
    labelled rows, all of them"""
    s = labelled[positive].mean(0) - labelled[~positive].mean(0)
    direction = torch.linalg.solve(labelled.T.cov(), s)
    return z - ((z - labelled.mean(0)) @ direction / (s @ direction))[:, None] * s


@exercise("09-3", (10 * double(1, 9) + double(2, 9), 10 * double(1, 9)), (double(3, 4), 3 + double(4, 4)))
def paired_interval(first: Tensor, second: Tensor) -> Tensor:
    """take the standard deviation of the *differences*, not of each method: what is hard for both cancels. Divide it
    by sqrt(n), multiply by t with n - 1 degrees of freedom; (2,): low, high"""
    difference = first - second
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std() / len(difference) ** 0.5
    return torch.stack([difference.mean() - half, difference.mean() + half])


# --- 10 your own model and pictures


@exercise("10-1", (0, 4), (3, 4), (40, 50), (9, 9))
def wilson_interval(right: int, n: int) -> Tensor:
    """the middle is (p + q^2 / 2n) / (1 + q^2 / n) and not p; half the width is divided by the same (1 + q^2 / n)"""
    return torch.tensor(evaluate.wilson(right, n), dtype=torch.float64)


@exercise("10-2", (double(1, 5, 4), double(2, 5, 4)), (double(3, 1, 7), double(4, 1, 7)))
def winners_curse(here: Tensor, there: Tensor) -> float:
    """the winner of a cut is here.argmax(1), (m,); take that same candidate's score there, and not the best score
    there"""
    winner = here.argmax(1, keepdim=True)
    return float((here - there).gather(1, winner).mean())


@exercise(
    "10-3", (normal(1, 7, 5), normal(2, 5, 2), normal(3, 5, 2)), (normal(4, 4, 4), normal(5, 4, 1), normal(6, 4, 1))
)
def fused_weight(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """W P = W - (W L) R^T, with W L of shape (D, r)"""
    return weight - (weight @ left) @ right.T


# --- 11 an index in production


@exercise("11-1", (normal(1, 6), normal(2, 6, 2), normal(3, 6, 2)), (normal(4, 4), normal(5, 4, 1), normal(6, 4, 1)))
def edited_query(t: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """P^T = I - R L^T: the query meets R first and L second, the other way round than a picture"""
    return t - (t @ right) @ left.T


@exercise(
    "11-2",
    (double(1, 9, 6), double(2, 6), double(3, 6, 2), double(4, 6, 2)),
    (double(5, 7, 4), double(6, 4), double(7, 4, 1), double(8, 4, 1)),
)
def same_order(z: Tensor, t: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """the inner products z (t P^T) are those of the edited index; divide each by the length of its row of z P, (n,)"""
    moved = z - (z @ left) @ right.T
    return (moved @ t / moved.norm(dim=1)).argsort(descending=True)
