"""Check an answer: compare it with the reference of its exercise, and describe what is wrong, shapes first."""

import copy
import inspect
import math
from collections.abc import Callable, Sized

import torch
from torch import Tensor

from ..errors import one_of
from .exercises import EXERCISES, Exercise

TOLERANCE = 1e-4
"""How far a value may be off, relative to the largest expected value or 1: answers may be float32."""


def check(identity: str, answer: Callable, strict: bool = False) -> None:
    """Print PASS, TODO or FAIL with a hint for an answer to an exercise. A wrong answer never raises.

    identity: notebook and number of the exercise, such as "04-1". answer: the function that answers it, with the
    arguments and result of the stub in the notebook. strict: raise AssertionError unless it passes, for solutions.
    Raises ValueError for an unknown `identity`, with near ones.

    >>> import clipnull as cn
    >>> cn.check("00-1", lambda z: z / z.norm(dim=1, keepdim=True))
    PASS 00-1
    >>> cn.check("07-1", lambda before, after, classes: (before - after) / before)
    FAIL 07-1: the result: 0.444444; expected 0.5
      given: before 0.9, after 0.5, classes 10
      hint: chance is 1 / classes; the share of the way is (before - after) / (before - chance), at most 1
    """
    verdict, why = judge(identity, answer)
    if strict and verdict != "PASS":
        raise AssertionError(f"{verdict} {identity}: {why}")
    print(f"{verdict} {identity}" + (f": {why}" if why else ""))


def passing(identity: str, answer: Callable) -> Callable:
    """`answer` if it passes exercise `identity`, else the reference: what follows in a lesson runs with either."""
    return answer if judge(identity, answer)[0] == "PASS" else EXERCISES[identity].reference


def judge(identity: str, answer: Callable) -> tuple[str, str]:
    """("PASS", ""), ("TODO", what to do) or ("FAIL", what is wrong, what was given, a hint)."""
    task = EXERCISES[one_of("identity", identity, EXERCISES)]
    for arguments in task.cases:
        given, expected = copy.deepcopy(arguments), task.reference(*copy.deepcopy(arguments))
        try:
            result = answer(*given)
            fault = "returned nothing; is there a return?" if result is None else _compare(task, result, expected)
        except Exception as error:
            if type(error) is NotImplementedError and not error.args:
                return "TODO", "write the function above and run its cell, then run this one"
            fault = f"raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if not fault and any(_difference(a, b) for a, b in zip(given, arguments, strict=True)):
            fault = "changed its arguments in place; expected new tensors"
        if fault:
            names = inspect.signature(task.reference).parameters
            inputs = ", ".join(f"{name} {_describe(value)}" for name, value in zip(names, arguments, strict=True))
            return "FAIL", f"{fault}\n  given: {inputs}\n  hint: {task.hint}"
    return "PASS", ""


def _compare(task: Exercise, result: object, expected: object) -> str:
    """What is wrong with `result`, or "". Shapes come first, as a result of a wrong shape may have no views."""
    if isinstance(expected, Tensor):
        try:
            result = torch.as_tensor(result).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            return f"returned {_describe(result)}; expected a tensor of shape {tuple(expected.shape)}"
        if fault := _shape_fault(result, expected):
            return fault
        if expected.is_floating_point():
            result, expected = result.double(), expected.double()
    views, references = task.views(result), task.views(expected)
    faults = (f"{name}: {fault}" for name in views if (fault := _difference(views[name], references[name])))
    return next(faults, "")


def _shape_fault(result: Tensor, expected: Tensor) -> str:
    if result.shape == expected.shape:
        same = result.is_floating_point() == expected.is_floating_point()
        return "" if same else f"dtype {result.dtype}; expected {expected.dtype}"
    guess = ""
    if expected.ndim == 2 and result.shape == expected.T.shape:
        guess = "; is it transposed?"
    elif [n for n in result.shape if n != 1] == [n for n in expected.shape if n != 1]:
        guess = "; is an axis of length 1 missing, or one too many?"
    elif result.ndim < expected.ndim:
        guess = "; did you sum over an axis that should stay?"
    return f"shape {tuple(result.shape)}; expected {tuple(expected.shape)}{guess}"


def _difference(result: object, expected: object) -> str:
    """How two values differ, with a guess at the reason; "" if they agree."""
    if callable(expected):
        return ""
    if not isinstance(expected, (Tensor, float)):
        return "" if type(result) is type(expected) and result == expected else f"{result!r}; expected {expected!r}"
    try:
        a, b = torch.as_tensor(result).double(), torch.as_tensor(expected).double()
    except (TypeError, ValueError, RuntimeError):
        return f"{_describe(result)}; expected a number"
    if a.shape != b.shape:
        return f"shape {tuple(a.shape)}; expected {tuple(b.shape)}"
    infinite = ~b.isfinite()
    if not torch.equal(~a.isfinite(), infinite):
        return f"{int((~a.isfinite()).sum())} of {a.numel()} values are NaN or infinite; expected {int(infinite.sum())}"
    if not torch.allclose(a[infinite], b[infinite], equal_nan=True):
        return "NaN and infinite values, or their signs, are exchanged"
    return _finite_difference(a.masked_fill(infinite, 0.0), b.masked_fill(infinite, 0.0))


def _finite_difference(a: Tensor, b: Tensor) -> str:
    """How a tensor `a` differs from the expected `b` of its shape."""
    allowed = TOLERANCE * max(1.0, float(b.abs().max())) if b.numel() else 0.0

    def near(x: Tensor, y: Tensor = b) -> bool:
        return bool(((x - y).abs() <= allowed).all())

    if near(a):
        return ""
    if near(-a):
        return "the sign is the other way round"
    if b.numel() == 1:
        return f"{float(a):.6g}; expected {float(b):.6g}"
    factor = float((a * b).sum() / (b * b).sum()) if bool(b.any()) else math.nan
    if math.isfinite(factor) and abs(factor) > 1e-6 and near(a / factor):
        return f"{factor:.4g} times what is expected; a mean in place of a sum, or a missing normalisation?"
    if near(a.flatten().sort()[0], b.flatten().sort()[0]):
        return "the right values in another order"
    off = (a - b).abs()
    return (
        f"right shape, but {int((off > allowed).sum())} of {b.numel()} values are off, by up to {float(off.max()):.3g}"
    )


def _describe(value: object) -> str:
    """A value in a word or two: the shape of a tensor, not its numbers."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape)) + ("" if value.is_floating_point() else f" {str(value.dtype)[6:]}")
    if callable(value):
        return "(a function)"
    text = repr(value)
    size = f" of length {len(value)}" if isinstance(value, Sized) else ""
    return text if len(text) < 60 else f"({type(value).__name__}{size})"
