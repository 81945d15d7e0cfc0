"""The exercises of the notebooks: what an answer is given, what it should return, and hints that speak of shapes.

An exercise of notebook NN is four cells in a row, between the last question and the summary:

1. Markdown: **Exercise k** (5 min, easy). The task, then <details><summary>Hint</summary>...</details>
   (minutes a whole number; easy, medium or hard).
2. Code, tagged `exercise`: a stub, one function whose docstring gives shapes and whose last line is
   `raise NotImplementedError`. Its name is used nowhere else in the notebook, the solution's neither.
3. Code: `cn.check("NN-k", stub)`. It prints PASS, TODO or FAIL with a hint and never raises for a wrong answer, so that
   Run All goes through for a student.
4. Code, tagged `solution`, with `"jupyter": {"source_hidden": true}`: the solution under a name of its own and
   `cn.check("NN-k", name, strict=True)`, which raises unless it is right. `python -m clipnull student` leaves it out.

Its check is a function here, decorated with `exercise`: the reference that the answer is compared with. The decorator
takes the cases, a function that gives lists of arguments (from fixed seeds, of two shapes at least, so that no answer
can know them by heart), and what to think of when an answer is wrong. Where more than one answer is right, `views`
takes what they have in common: `U U^T` for a basis U. tests/test_exercises.py wants, for every exercise, two plausible
wrong answers, which must fail, and a right one written differently, which must pass.
"""
import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from .. import auditing, evaluate, subspace
from ..bench import mean_and_half
from ..errors import one_of

TOLERANCE = 1e-4
"""How far a value may be from the reference, in units of the largest expected value or 1: answers may be float32."""


@dataclass(frozen=True)
class Exercise:
    """A reference, the arguments it is compared on, and the hint for a wrong answer."""

    reference: Callable
    cases: Callable[[], list[tuple]]
    hint: str
    views: Callable[[object], Mapping[str, object]]


EXERCISES: dict[str, Exercise] = {}


def exercise(identity: str, cases: Callable[[], list[tuple]], hint: str,
             views: Callable[[object], Mapping[str, object]] = lambda result: {"the result": result}) -> Callable:
    """A decorator that enters a reference as exercise `identity`, "NN-k"; see the head of this file."""
    def enter(reference: Callable) -> Callable:
        if identity in EXERCISES:
            raise ValueError(f"identity: {identity!r} is taken; expected each exercise once")
        EXERCISES[identity] = Exercise(reference, cases, hint, views)
        return reference
    return enter


def check(identity: str, answer: Callable, strict: bool = False) -> None:
    """Print PASS, TODO or FAIL with a hint for the function `answer` to the exercise `identity`, such as "04-1".

    With `strict`, raise AssertionError unless it passes. ValueError for an unknown `identity`.
    """
    verdict, why = judge(identity, answer)
    if strict and verdict != "PASS":
        raise AssertionError(f"{verdict} {identity}: {why}")
    print(f"{verdict} {identity}" + (f": {why}" if why else ""))


def judge(identity: str, answer: Callable) -> tuple[str, str]:
    """("PASS", ""), ("TODO", what to do) or ("FAIL", what is wrong, what was given, a hint)."""
    task = EXERCISES[one_of("identity", identity, EXERCISES)]
    for arguments in task.cases():
        given = copy.deepcopy(arguments)
        try:
            result = answer(*given)
            fault = "returned nothing; is there a return?" if result is None else _compare(task, result, arguments)
        except Exception as error:
            if type(error) is NotImplementedError and not error.args:
                return "TODO", "write the function above, run its cell, then this one"
            fault = f"raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if not fault and any(_difference(a, b) for a, b in zip(given, arguments, strict=True)):
            fault = "changed its arguments in place; it should make new ones"
        if fault:
            names = inspect.signature(task.reference).parameters
            told = ", ".join(f"{name} {_form(value)}" for name, value in zip(names, arguments, strict=True))
            return "FAIL", f"{fault}\n  given: {told}\n  hint: {task.hint}"
    return "PASS", ""


def _compare(task: Exercise, result: object, arguments: tuple) -> str:
    """What is wrong with `result`, or nothing. Shapes come first: the views of a wrong shape may not exist."""
    expected = task.reference(*copy.deepcopy(arguments))
    if isinstance(expected, Tensor):
        try:
            result = torch.as_tensor(result).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            return f"returned {_form(result)}; expected a tensor of shape {tuple(expected.shape)}"
        fault = _shape_fault(result, expected)
        if fault:
            return fault
        if expected.is_floating_point():
            result, expected = result.double(), expected.double()
    shown, wanted = task.views(result), task.views(expected)
    faults = (f"{name}: {fault}" for name in wanted if (fault := _difference(shown[name], wanted[name])))
    return next(faults, "")


def _shape_fault(result: Tensor, expected: Tensor) -> str:
    if result.shape != expected.shape:
        guess = ""
        if expected.ndim == 2 and result.shape == expected.T.shape:
            guess = "; is it transposed?"
        elif [n for n in result.shape if n != 1] == [n for n in expected.shape if n != 1]:
            guess = "; an axis of length 1 is too many or missing"
        elif result.ndim < expected.ndim:
            guess = "; was an axis summed over that should stay?"
        return f"shape {tuple(result.shape)}; expected {tuple(expected.shape)}{guess}"
    if result.is_floating_point() != expected.is_floating_point():
        return f"dtype {result.dtype}; expected {expected.dtype}"
    return ""


def _difference(result: object, expected: object) -> str:
    """How two values differ, with a guess at the reason; empty if they agree."""
    if callable(expected):
        return ""
    if not isinstance(expected, (Tensor, float)):
        return "" if type(result) is type(expected) and result == expected else f"{result!r}; expected {expected!r}"
    try:
        a, b = torch.as_tensor(result).double(), torch.as_tensor(expected).double()
    except (TypeError, ValueError, RuntimeError):
        return f"{_form(result)}; expected a number"
    if a.shape != b.shape:
        return f"shape {tuple(a.shape)}; expected {tuple(b.shape)}"
    if bool((a.isfinite() != b.isfinite()).any()):
        wrong, right = (int((~x.isfinite()).sum()) for x in (a, b))
        return f"{wrong} of {a.numel()} values are NaN or infinite; expected {right}"
    a, b = a.nan_to_num(), b.nan_to_num()
    allowed = TOLERANCE * max(1.0, float(b.abs().max())) if b.numel() else 0.0

    def near(c: Tensor) -> bool:
        return bool(((c - b).abs() <= allowed).all())

    if near(a):
        return ""
    factor = float((a * b).sum() / (b * b).sum()) if bool(b.any()) else math.nan
    if near(-a):
        return "the sign is the other way round"
    if b.numel() > 1 and math.isfinite(factor) and abs(factor) > 1e-6 and near(a / factor):
        return f"{factor:.4g} times what is expected; a mean for a sum, or a missing normalisation?"
    if b.numel() > 1 and bool(((a.flatten().sort()[0] - b.flatten().sort()[0]).abs() <= allowed).all()):
        return "the right values in another order"
    if b.numel() == 1:
        return f"{float(a):.6g}; expected {float(b):.6g}"
    return f"right shape, but {int(((a - b).abs() > allowed).sum())} of {b.numel()} values are off, by up to " \
           f"{float((a - b).abs().max()):.3g}"


def _form(value: object) -> str:
    """What a value is, in a word or two: shapes rather than numbers."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape)) + ("" if value.is_floating_point() else f" {str(value.dtype)[6:]}")
    if callable(value):
        return "(a function)"
    text = repr(value)
    return text if len(text) < 60 else f"({type(value).__name__} of length {len(value)})"


def _normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- 00 check your machine ---------------------------------------------------------------------------------------

def _reports() -> list[tuple]:
    return [("[OK]   Python 3.11.7 on Linux\n[FAIL] memory: 0.4 GB free; expected 1 GB\n       -> close programs\n"
             "[OK]   no line above starts with [FAIL]\n[FAIL] disk: 0.1 GB free\n       -> make room",),
            ("[OK]   all is well",), ("",)]


@exercise("00-1", _reports, "go through report.splitlines(); a line counts if it *starts* with [FAIL]")
def failed_checks(report: str) -> list[str]:
    return [line.removeprefix("[FAIL]").strip() for line in report.splitlines() if line.startswith("[FAIL]")]


@exercise("00-2", lambda: [(_normal(1, 5, 8),), (3 * _normal(2, 2, 3),), (_normal(3, 1, 4),)],
          "each *row* has a length of its own: the lengths of (n, d) rows need shape (n, 1) to divide row by row; sum "
          "over the last axis and keep it")
def unit_rows(z: Tensor) -> Tensor:
    return F.normalize(z, dim=-1)


# --- 01 text-prompt embeddings -----------------------------------------------------------------------------------

@exercise("01-1", lambda: [(_normal(1, 4, 8), 2 * _normal(2, 3, 8), 10.0), (_normal(3, 2, 5), _normal(4, 6, 5), 1.0)],
          "unit rows on both sides first; pictures (n, d) times the transpose of prompts (C, d) gives cosines (n, C); "
          "the softmax runs over classes, so every row sums to one")
def zero_shot_belief(pictures: Tensor, prompts: Tensor, scale: float) -> Tensor:
    return (scale * F.normalize(pictures, dim=-1) @ F.normalize(prompts, dim=-1).T).softmax(1)


@exercise("01-2", lambda: [(1 + _normal(1, 5, 3, 8),), (_normal(2, 4, 2, 6),)],
          "axis 0 is the class, axis 1 the domain: a mean over domains leaves (C, d), a mean over both leaves (d,); "
          "the directions of all classes sum to zero")
def class_directions(cells: Tensor) -> Tensor:
    return cells.mean(1) - cells.mean((0, 1))


# --- 02 synthesized prototypes -----------------------------------------------------------------------------------

def _ascents() -> list[tuple]:
    def network(seed: int, pixels: int, d: int) -> Callable[[Tensor], Tensor]:
        weights = _normal(seed, pixels, d) / pixels ** 0.5
        return lambda x: torch.tanh(x.flatten(1) @ weights)

    return [(_normal(1, 2, 3, 4, 4), network(2, 48, 6), 2 * _normal(3, 6), 1.0),
            (_normal(4, 3, 3, 2, 2), network(5, 12, 4), _normal(6, 4), 0.5)]


@exercise("02-1", _ascents,
          "torch.autograd.grad of the *sum* of the n cosines gives each picture its own gradient, of the shape of x; "
          "a cosine divides by both lengths; the ascent goes up, so the step is added")
def ascent_step(x: Tensor, embed: Callable[[Tensor], Tensor], target: Tensor, rate: float) -> Tensor:
    x = x.detach().requires_grad_()
    cosines = F.cosine_similarity(embed(x), target[None], dim=-1)
    return (x + rate * torch.autograd.grad(cosines.sum(), x)[0]).detach()


@exercise("02-2", lambda: [(_normal(1, 2, 3, 5, 5),), (_normal(2, 3, 3, 4, 6),)],
          "x.diff(dim=-1) holds differences of horizontal neighbours, x.diff(dim=-2) of vertical ones; square, take "
          "the mean over all axes but the first, (n, 3, h, w) -> (n,), and add the two")
def roughness(x: Tensor) -> Tensor:
    return x.diff(dim=-1).square().mean((1, 2, 3)) + x.diff(dim=-2).square().mean((1, 2, 3))


# --- 03 subspace angles ------------------------------------------------------------------------------------------

def _spectra() -> list[tuple]:
    tall = _normal(1, 5, 9, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)[:, None]
    return [(tall, 0.9), (tall, 0.5), (_normal(2, 6, 4, dtype=torch.float64), 0.95),
            (_normal(3, 3, 7, dtype=torch.float64), 1.0)]


@exercise("03-1", _spectra,
          "directions of (n, d) rows have length d and stand in columns: (d, r). Energy is a share of the *squared* "
          "singular values; keep the fewest directions that hold at least that share",
          lambda u: {"U^T U, which should be the identity": u.T @ u, "the projection U U^T": u @ u.T})
def basis_of(rows: Tensor, energy: float) -> Tensor:
    return subspace.basis(rows, energy)


def _pairs() -> list[tuple]:
    bases = [torch.linalg.qr(_normal(seed, 8, r, dtype=torch.float64))[0] for seed, r in ((1, 2), (2, 3), (3, 3))]
    return [(bases[0], bases[1]), (bases[1], bases[2]), (bases[2], bases[0])]


@exercise("03-2", _pairs,
          "U^T V has shape (r, s), and its min(r, s) singular values are cosines, largest first; their arccos, in "
          "radians, comes out smallest first")
def angles_between(u: Tensor, v: Tensor) -> Tensor:
    return subspace.principal_angles(u.T, v.T)


# --- 04 global unlearning ----------------------------------------------------------------------------------------

@exercise("04-1", lambda: [(_normal(1, 3, 6, dtype=torch.float64), 1.0), (_normal(2, 2, 5, dtype=torch.float64), 0.4)],
          "P has shape (d, d). The rows are neither orthogonal nor of length 1: take an orthonormal basis U (d, r) of "
          "their span first (cn.basis), then I - alpha U U^T")
def null_projector(rows: Tensor, alpha: float) -> Tensor:
    u = subspace.basis(rows)
    return torch.eye(rows.shape[1], dtype=rows.dtype) - alpha * u @ u.T


def _matrices() -> list[tuple]:
    nan = math.nan
    before = torch.tensor([[0.9, 0.5, nan], [0.8, 1.0, 0.6], [nan, 0.7, 0.9]], dtype=torch.float64)
    after = torch.tensor([[0.3, 0.4, nan], [0.9, 0.8, 0.6], [nan, 0.1, 0.9]], dtype=torch.float64)
    first, last = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    first[0] = last[1] = True
    return [(before, after, first), (before[1:], after[1:], last)]


@exercise("04-2", _matrices,
          "take the forgotten cells with before[forget]; cells without pictures are NaN, so use nanmean; the rate is "
          "relative to the mean accuracy before: (mean before - mean after) / mean before")
def rate_of_forgetting(before: Tensor, after: Tensor, forget: Tensor) -> float:
    return float(evaluate.rates(before, after, forget)["forgetting_rate"])


# --- 05 selective unlearning -------------------------------------------------------------------------------------

@exercise("05-1", lambda: [(_normal(1, 4, 3, 6),), (2 + _normal(2, 2, 5, 4),)],
          "the class mean is over axis 1, the domain mean over axis 0; both contain the common mean: add it once")
def own_part(cells: Tensor) -> Tensor:
    x = cells - cells.mean((0, 1))
    return x - x.mean(1, keepdim=True) - x.mean(0, keepdim=True)


@exercise("05-2", lambda: [(_normal(1, 6, 5), _normal(2, 5, 3), _normal(3, 5, 3), _normal(4, 6, 3) > 0),
                           (_normal(5, 4, 7), _normal(6, 7, 1), _normal(7, 7, 1), _normal(8, 4, 1) < 0)],
          "z @ left is (n, r); negative readings and closed columns count as 0; what is subtracted is that @ right.T")
def act_if_open(z: Tensor, left: Tensor, right: Tensor, opened: Tensor) -> Tensor:
    return z - torch.where(opened, z @ left, 0.0).clamp(min=0) @ right.T


# --- 06 complete unlearning --------------------------------------------------------------------------------------

def _ways() -> list[tuple]:
    return [(0.9, 0.5, 10), (0.8, 0.02, 4), (0.5, 0.6, 2 + 3)]


@exercise("06-1", _ways, "chance is one in classes; the way gone is (before - after) / (before - chance), at most 1")
def way_to_chance(before: float, after: float, classes: int) -> float:
    return min(1.0, (before - after) / (before - 1 / classes))


@exercise("06-2", lambda: [(_normal(1, 5, 4), 10.0), (_normal(2, 3, 7), 1.5)],
          "softmax over classes (dim 1) of scale * scores; entropy is -sum p log p; divide by the log of the number of "
          "classes")
def relative_entropy(scores: Tensor, scale: float) -> Tensor:
    p = (scale * scores).softmax(1)
    return -(p * p.log()).sum(1) / math.log(scores.shape[1])


# --- 07 what remains ---------------------------------------------------------------------------------------------

def _labelled() -> list[tuple]:
    lengths = torch.tensor([0.2, 5.0, 1.0, 3.0, 0.5, 2.0, 1.5, 0.1])[:, None]
    return [(lengths * _normal(1, 8, 3), torch.arange(8) % 2), (_normal(2, 7, 4), torch.arange(7) // 3),
            (lengths[:5] * _normal(8, 5, 2), torch.tensor([0, 0, 1, 1, 1]))]


@exercise("07-1", _labelled,
          "cosines (n, n) need unit rows; each picture is nearest to itself, so that the diagonal must not win; then "
          "compare labels[nearest], (n,), with labels")
def same_neighbour(features: Tensor, labels: Tensor) -> float:
    return float(auditing.retrieval_precision(features, labels, 1).mean())


def _scores() -> list[tuple]:
    return [(_normal(1, 9), torch.arange(9) % 3 == 0), (_normal(2, 12).round(), torch.arange(12) < 5),
            (torch.tensor([0.1, 0.5, 0.5, 0.5]), torch.tensor([True, True, False, False]))]


@exercise("07-2", _scores,
          "compare every positive with every negative, (positives, negatives): 1 if the positive is higher, 0.5 for a "
          "tie; the mean over all pairs")
def area_under_curve(scores: Tensor, positive: Tensor) -> float:
    return float(roc_auc_score(positive, scores))


def _edited() -> list[tuple]:
    double = torch.float64
    return [(_normal(1, 4, 6, dtype=double), _normal(2, 6, 2, dtype=double), _normal(3, 6, 2, dtype=double)),
            (_normal(4, 3, 5, dtype=double), _normal(5, 5, 1, dtype=double), 2 * _normal(6, 5, 1, dtype=double))]


@exercise("07-3", _edited,
          "z' L = (z L) (I - R^T L), so that z L (n, r) comes from a system of size r; then z = z' + (z L) R^T. Mind "
          "the side: z L stands on the left of the matrix")
def undo(edited: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return edited @ torch.linalg.inv(torch.eye(len(left), dtype=left.dtype) - left @ right.T)


# --- 08 methods compared -----------------------------------------------------------------------------------------

def _lists() -> list[tuple]:
    return [(_normal(1, 6, 4), torch.tensor([True, False, False, True])),
            (_normal(2, 5, 3).abs().neg(), torch.tensor([False, True, False])),
            (_normal(3, 4, 5), torch.tensor([True, True, False, False, False]))]


@exercise("08-1", _lists,
          "what must not be answered needs a score that no other can be below, such as -inf: 0 wins against negative "
          "scores. Removing columns changes the numbers of the classes behind them; keep (n, C) until the argmax")
def name_filter(scores: Tensor, forgotten: Tensor) -> Tensor:
    return scores.masked_fill(forgotten, -math.inf).argmax(1)


def _pairs_of_results() -> list[tuple]:
    hard = 10 * _normal(1, 9, dtype=torch.float64)
    return [(hard + _normal(2, 9, dtype=torch.float64), hard), (_normal(3, 4, dtype=torch.float64),
                                                               3 + _normal(4, 4, dtype=torch.float64))]


@exercise("08-2", _pairs_of_results,
          "the standard deviation of the *differences*, not of each method: what both find hard cancels. Divide it by "
          "sqrt(n), multiply by t with n - 1 degrees of freedom; (2,): low, high")
def paired_interval(first: Tensor, second: Tensor) -> Tensor:
    mean, half = mean_and_half((first - second).tolist())
    return torch.tensor([mean - half, mean + half], dtype=torch.float64)


def _bits() -> list[tuple]:
    def case(seed: int, n: int, d: int, share: int) -> tuple[Tensor, Tensor]:
        positive = torch.arange(n) % share == 0
        z = _normal(seed, n, d, dtype=torch.float64) @ _normal(seed + 1, d, d, dtype=torch.float64)
        return z + 5 + positive[:, None] * _normal(seed + 2, d, dtype=torch.float64), positive

    return [case(1, 30, 4, 3), case(5, 40, 3, 2)]


@exercise("08-3", _bits,
          "subtract from each row a multiple of s (d,), the difference of the means; how much is a number per row, "
          "(n,): (z - mean) @ direction / (s @ direction) with direction = Sigma^-1 s, the mean over all rows")
def erase_bit(z: Tensor, positive: Tensor) -> Tensor:
    s = z[positive].mean(0) - z[~positive].mean(0)
    direction = torch.linalg.solve(z.T.cov(), s)
    return z - ((z - z.mean(0)) @ direction / (s @ direction))[:, None] * s


# --- 09 your own model and pictures ------------------------------------------------------------------------------

@exercise("09-1", lambda: [(0, 4), (3, 4), (40, 50), (9, 9)],
          "the middle is (p + q^2 / 2n) / (1 + q^2 / n) and not p; half the width is divided by the same (1 + q^2 / n)")
def wilson_interval(right: int, n: int) -> Tensor:
    return torch.tensor(evaluate.wilson(right, n), dtype=torch.float64)


@exercise("09-2", lambda: [(torch.tensor([2, 0, 2, 2, 1, 0, 2, 0]),), (torch.tensor([5, 5, 5, 3, 3]),),
                           (torch.tensor([0]),)],
          "count, for each picture, the *earlier* ones of the same cell: an even number means it is the first, third, "
          "... of its cell; a cell with a single picture gives it")
def every_second(cells: Tensor) -> Tensor:
    return (cells[:, None] == cells).tril(-1).sum(1) % 2 == 0


@exercise("09-3", lambda: [(_normal(1, 7, 5), _normal(2, 5, 2), _normal(3, 5, 2)),
                           (_normal(4, 4, 4), _normal(5, 4, 1), _normal(6, 4, 1))],
          "z = f W, so that z L = f (W L) with W L of shape (D, r); what remains behind f is W - (W L) R^T")
def fused_weight(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return weight - (weight @ left) @ right.T
