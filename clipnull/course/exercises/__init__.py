"""The exercises of the notebooks: the arguments of an answer, the result it should return, and a hint about shapes.

An exercise of notebook NN is four cells in a row, between the last question and the summary, in a lesson
where it belongs:

1. Markdown: **Exercise k** (5 min, easy). The task, then <details><summary>Hint</summary>...</details>
   (minutes a whole number; easy, medium or hard).
2. Code, tagged `exercise`: a stub, one function whose docstring gives shapes and whose last line is
   `raise NotImplementedError`. Its name is used nowhere else in the notebook, and neither is the name of the solution.
3. Code: `cn.check("NN-k", stub)`. It prints PASS, TODO or FAIL with a hint and never raises for a wrong answer, so that
   Run All finishes for a student.
4. Code, tagged `solution`, with `"jupyter": {"source_hidden": true}`: the solution under a name of its own and
   `cn.check("NN-k", name, strict=True)`, which raises unless it is right. `clipnull student` leaves it out.

An answer is compared with its reference, a function in one of the modules here, decorated with `exercise` (see
`registry`). tests/test_exercises.py holds a typical wrong answer to every exercise, which must fail.
"""

from . import audits, comparing, edits, spaces
from .registry import EXERCISES, Exercise, exercise

__all__ = ["EXERCISES", "Exercise", "audits", "comparing", "edits", "exercise", "spaces"]
