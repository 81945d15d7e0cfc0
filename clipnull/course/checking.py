"""Check a student's answer against the reference of the exercise and explain the first difference."""

import copy
import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import one_of
from .exercises import EXERCISES

TOLERANCE = 1e-4  # relative to the largest expected value, or to 1 if that is larger; answers may be float32


def check(identity: str, answer: Callable, strict: bool = False) -> None:
    """Print PASS, TODO or FAIL with a hint for an answer to an exercise. A wrong answer never raises.

    identity: notebook and number of the exercise, such as "04-1". answer: a function with the signature of the stub
    in the notebook. strict: raise AssertionError unless the answer passes; the solutions use this. Raise ValueError
    for an unknown `identity` and suggests similar ones.

    >>> import clipnull as cn
    >>> cn.check("00-1", lambda z: z / z.norm(dim=1, keepdim=True))
    PASS 00-1
    >>> cn.check("07-1", lambda before, after, classes: (before - after) / before)
    FAIL 07-1: 0.444444; expected 0.5
      given: before 0.9, after 0.5, classes 10
      hint: chance is 1 / classes. The share of the way to chance is (before - after) / (before - chance), at most 1
    """
    verdict, reason = judge(identity, answer)
    if strict and verdict != "PASS":
        raise AssertionError(f"{verdict} {identity}: {reason}")
    print(f"{verdict} {identity}" + (f": {reason}" if reason else ""))


def passing(identity: str, answer: Callable) -> Callable:
    """Return `answer` if it passes exercise `identity`, else the reference, so that the lesson can go on."""
    return answer if judge(identity, answer)[0] == "PASS" else EXERCISES[identity].reference


def judge(identity: str, answer: Callable) -> tuple[str, str]:
    """Return the verdict, "PASS", "TODO" or "FAIL", and its reason; a FAIL also lists the arguments and a hint."""
    task = EXERCISES[one_of("identity", identity, EXERCISES)]
    for arguments in task.cases:
        copies = copy.deepcopy(arguments)
        try:
            fault = _fault(answer(*copies), task.reference(*arguments), task.invariant)
        except Exception as error:
            if type(error) is NotImplementedError and not error.args:  # torch passes a message
                return "TODO", "write the function above, run it, then run this check again"
            fault = f"raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if not fault and any(isinstance(a, Tensor) and not a.equal(b) for a, b in zip(arguments, copies, strict=True)):
            fault = "changed its arguments in place; return new tensors instead"
        if fault:
            names = inspect.signature(task.reference).parameters
            inputs = ", ".join(f"{name} {_describe(value)}" for name, value in zip(names, arguments, strict=True))
            return "FAIL", f"{fault}\n  given: {inputs}\n  hint: {task.hint}"
    return "PASS", ""


def _fault(result: object, expected: Tensor | float, invariant: Callable[[Tensor], Tensor]) -> str:
    """Describe what is wrong with `result` and guess why, shape before values; return "" if nothing is."""
    if result is None:
        return "returned None; is the return statement missing?"
    b = torch.as_tensor(expected)
    try:
        a = torch.as_tensor(result).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return f"returned {_describe(result)}; expected a tensor of shape {tuple(b.shape)}, or a number"
    if a.shape != b.shape:
        return f"shape {tuple(a.shape)}; expected {tuple(b.shape)}{_guess(a, b)}"
    if a.is_floating_point() != b.is_floating_point() and not isinstance(expected, float):
        return f"dtype {a.dtype}; expected {b.dtype}"
    a, b = invariant(a).double(), invariant(b).double()
    if not a.isfinite().all():
        return f"{int((~a.isfinite()).sum())} of {a.numel()} values are NaN or infinite"
    allowed = TOLERANCE * max(1.0, float(b.abs().max()))

    def near(x: Tensor, y: Tensor = b) -> bool:
        return bool(((x - y).abs() <= allowed).all())

    if near(a):
        return ""
    if near(-a):
        return "the sign is flipped"
    if b.numel() == 1:
        return f"{float(a):.6g}; expected {float(b):.6g}"
    factor = float((a * b).sum() / (b * b).sum())  # the least-squares solution of a = factor b
    if abs(factor) > 1e-6 and near(a / factor):
        return f"{factor:.4g} times the expected values; a sum and a mean mixed up, or a missing normalisation?"
    if near(a.flatten().sort()[0], b.flatten().sort()[0]):
        return "the values are correct but in the wrong order"
    off = (a - b).abs()
    return f"{int((off > allowed).sum())} of {b.numel()} values are off by up to {float(off.max()):.3g}"


def _guess(result: Tensor, expected: Tensor) -> str:
    """Guess why a shape is wrong."""
    if expected.ndim == 2 and result.shape == expected.T.shape:
        return "; is it transposed?"
    if result.squeeze().shape == expected.squeeze().shape:
        return "; is there an axis of length 1 too many or too few?"
    return "; did you sum over an axis that should stay?" if result.ndim < expected.ndim else ""


def _describe(value: object) -> str:
    """Describe a value in a word or two: the shape of a tensor, not its numbers."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape)) + ("" if value.is_floating_point() else f" {str(value.dtype)[6:]}")
    text = "(a function)" if callable(value) else repr(value)
    return text if len(text) < 60 else f"({type(value).__name__})"
