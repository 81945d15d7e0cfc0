"""Every exercise of every notebook: its check tells right from wrong, and its cells keep the conventions.

Answers are kept here as source, and run with the imports of their notebook alone.
"""

import ast
import inspect
import re
from pathlib import Path
from textwrap import dedent

import nbformat
import pytest
import torch
from conftest import ROOT

from clipnull.course import checking
from clipnull.course.exercises import EXERCISES, exercise

TASK = re.compile(
    r"(?s)\*\*Exercise (\d)\*\* \((\d+) min, (easy|medium|hard)\)\. .+"
    r"<details><summary>Hint</summary>\n\n.+</details>$"
)

WRONG = {  # identity -> a typical wrong answer
    "00-1": "def f(z): return z / z.norm()",
    "00-2": "def f(z, t, k): return (z @ t).argsort(descending=True)[:k]",
    "01-1": "def f(x, p, s): return (s * x @ p.T).softmax(1)",
    "01-2": "def f(texts): return texts.mean(0) - texts.mean((0, 1))",
    "01-3": "def f(t, c, k): return t[c].mean(0) + t[:, k].mean(0) - t.mean((0, 1))",
    "02-1": """
        def f(x, embed, t, rate):
            x = x.detach().requires_grad_()
            loss = F.cosine_similarity(embed(x), t[None]).sum()
            return (x - rate * torch.autograd.grad(loss, x)[0]).detach()
    """,
    "02-2": "def f(a, target): return F.normalize(a @ target, dim=0)",
    "03-1": """
        def f(rows, energy):
            u, s, v = torch.linalg.svd(rows, full_matrices=False)
            return v[:int((s.cumsum(0) / s.sum() < energy - 1e-12).sum()) + 1].T
    """,
    "03-2": "def f(u, v): return torch.acos(torch.linalg.svdvals(u.T @ v).clamp(max=1)).rad2deg()",
    "04-1": """
        def f(W, texts, c, rank):
            X = texts[c] - texts[c].mean(0)
            U = torch.linalg.svd(X, full_matrices=False).Vh[:rank].T
            return W - W @ U @ U.T
    """,
    "04-2": "def f(z, words, U): return (z @ U) @ (words @ U).T",
    "04-3": "def f(forgetting, drop, least): return int((forgetting >= least).int().argmax()) + 1",
    "05-1": "def f(observed, random): return (random > observed[:, None]).double().mean(1)",
    "05-2": """
        def f(values, places):
            half = 1.959964 * values[places].std(1).mean()
            return torch.stack([values.mean() - half, values.mean() + half])
    """,
    "06-1": "def f(v, r): return torch.eye(len(v), dtype=v.dtype) - torch.outer(r, v)",
    "06-2": "def f(z, v, r, o): return z - (z @ v - o).relu()[:, None] * r",
    "06-3": "def f(z, scores, k, v, r): return z - ((z @ v) * (scores.argmax(1) == k))[:, None] * r",
    "07-1": "def f(before, after, classes): return (before - after) / before",
    "07-2": """
        def f(classifier, decoy, margin):
            r = classifier[decoy] - classifier.mean(0)
            return margin * r / (r @ r)
    """,
    "08-1": """
        def f(features, labels):
            cosines = F.normalize(features, dim=1) @ F.normalize(features, dim=1).T
            return float((labels[cosines.argmax(1)] == labels).double().mean())
    """,
    "08-2": """
        def f(scores, positive):
            return float((scores[positive][:, None] > scores[~positive]).double().mean())
    """,
    "08-3": "def f(edited, left, right): return edited + (edited @ left) @ right.T",
    "09-1": "def f(scores, forgotten): return (scores * ~forgotten).argmax(1)",
    "09-3": """
        def f(first, second):
            from scipy import stats
            n = len(first)
            half = stats.t.ppf(0.975, n - 1) * (first.var() / n + second.var() / n).sqrt()
            centre = (first - second).mean()
            return torch.stack([centre - half, centre + half])
    """,
    "09-2": """
        def f(z, labelled, positive):
            s = labelled[positive].mean(0) - labelled[~positive].mean(0)
            return z - ((z - labelled.mean(0)) @ s / (s @ s))[:, None] * s
    """,
    "10-1": """
        def f(right, n):
            p = right / n
            half = 1.959964 * (p * (1 - p) / n) ** 0.5
            return torch.tensor([p - half, p + half], dtype=torch.float64)
    """,
    "10-2": "def f(here, there): return float((here.max(1).values - there.max(1).values).mean())",
    "10-3": "def f(weight, left, right): return weight - (weight @ right) @ left.T",
    "11-1": "def f(t, left, right): return t - (t @ left) @ right.T",
    "11-2": "def f(z, t, left, right): return (z @ (t - (t @ right) @ left.T)).argsort(descending=True)",
}


# --- the conventions for the cells of exercises


def tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", ())


def exercises_of(path: Path) -> dict[str, list]:
    """Identity -> the four cells of each exercise, wherever a cell is tagged `exercise`."""
    cells = nbformat.read(path, 4).cells
    stubs = [i for i, cell in enumerate(cells) if tagged(cell, "exercise")]
    return {f"{path.name[:2]}-{k}": cells[max(0, i - 1) : i + 3] for k, i in enumerate(stubs, 1)}


def exercise_faults(number: str, nb) -> list[str]:
    cells, faults = nb.cells, []
    stubs = [i for i, cell in enumerate(cells) if tagged(cell, "exercise")]
    if not 2 <= len(stubs) <= 4:
        faults.append(f"{len(stubs)} exercises, not two to four")
    if sum(tagged(cell, "solution") for cell in cells) != len(stubs):
        faults.append("not one solution for each exercise")
    for k, i in enumerate(stubs, 1):
        text, stub, soft, solution = cells[i - 1 : i + 3]
        task = TASK.search(text.source) if text.cell_type == "markdown" else None
        if not task or task[1] != str(k):
            faults.append(f"no task before exercise {k}, with number, minutes, difficulty and a folded hint at its end")
        name, last, documented = defined(stub)
        if last != "raise NotImplementedError" or not documented:
            faults.append(f"exercise {k}: the stub is not one documented function that raises NotImplementedError")
        if not re.fullmatch(rf'cn\.check\("{number}-{k}", {name}\)(\ncourse\.try_edit\(.+\))?', soft.source):
            faults.append(f"exercise {k}: the soft check does not follow the stub")
        answer = defined(solution)[0]
        if not tagged(solution, "solution") or not solution.metadata.get("jupyter", {}).get("source_hidden"):
            faults.append(f"exercise {k}: no folded solution follows the check")
        if not solution.source.endswith(f'cn.check("{number}-{k}", {answer}, strict=True)') or answer == name:
            faults.append(f"exercise {k}: the solution has no name of its own, or is not checked strictly")
        plugged = re.compile(r"\b(?:passing|try_function|course\.try_edit)\(")  # where an answer is put into the story
        others = [c.source for j, c in enumerate(cells) if c.cell_type == "code" and not i <= j <= i + 2]
        used = [source for source in others if re.search(rf"\b({name}|{answer})\b(?=\s*[(),])", source)]
        if not all(map(plugged.search, used)):
            faults.append(f"exercise {k}: {name} or {answer} is used elsewhere")
    return faults


def defined(cell) -> tuple[str, str, bool]:
    """Name of the first function of a code cell, its last statement, and whether it is alone and documented."""
    body = ast.parse(cell.source).body if cell.cell_type == "code" else []
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    if not functions:
        return "?", "", False
    last = ast.unparse(functions[0].body[-1])
    return functions[0].name, last, len(body) == 1 and bool(ast.get_docstring(functions[0]))


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IN_NOTEBOOKS = {identity: (path, cells) for path in NOTEBOOKS for identity, cells in exercises_of(path).items()}


def function(source: str, path: Path):
    """The last function that `source` defines, with the imports of the notebook at `path`."""
    code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    trees = [ast.parse(re.sub(r"(?m)^!.*$", "", cell)) for cell in code]  # without commands in a terminal
    imports = [node for tree in trees for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    tree = ast.parse(dedent(source))
    tree.body = [*imports, *(node for node in tree.body if isinstance(node, ast.FunctionDef))]  # no calls of check
    exec(compile(tree, path.name, "exec"), space := {})
    return space[tree.body[-1].name]


# --- every exercise


def test_exercises_keep_the_conventions():
    faults = {path.name: exercise_faults(path.name[:2], nbformat.read(path, 4)) for path in NOTEBOOKS}
    assert not any(faults.values()), faults


@pytest.mark.parametrize("identity", sorted(EXERCISES))
def test_the_stub_is_to_do_the_solution_passes_and_a_wrong_answer_fails_with_a_hint(identity):
    path, (_, stub, _, solution) = IN_NOTEBOOKS[identity]
    blank, right, wrong = (function(source, path) for source in (stub.source, solution.source, WRONG[identity]))
    task = EXERCISES[identity]
    assert [*inspect.signature(blank).parameters] == [*inspect.signature(task.reference).parameters]
    assert checking.judge(identity, blank)[0] == "TODO"
    assert checking.judge(identity, right) == ("PASS", "")
    verdict, why = checking.judge(identity, wrong)
    assert verdict == "FAIL" and "\n  given: " in why and why.endswith(task.hint) and len(task.hint) > 20
    assert len({str([checking._describe(a) for a in case]) for case in task.cases}) > 1, "one shape"


def test_every_exercise_is_in_a_notebook():
    assert set(IN_NOTEBOOKS) == set(EXERCISES) == set(WRONG)


def test_the_instructor_page_gives_the_minutes_of_the_exercises():
    table = (ROOT / "notebooks" / "INSTRUCTOR.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        (row,) = re.findall(rf"(?m)^\| \[{path.name[:2]} [^]]+\]\({path.name}\) \| (.+) \|$", table)
        minutes = sum(int(TASK.search(cells[0].source)[2]) for p, cells in IN_NOTEBOOKS.values() if p == path)
        assert row.split(" | ")[1] == str(minutes), path.name
        assert all(number.isdigit() for number in row.split(" | ")[:2]), path.name


# --- the verdicts


@pytest.fixture
def task():
    """An exercise of its own: the two column means of (n, d) rows."""
    exercise("99-1", (torch.arange(6.0).view(3, 2),), (torch.ones(2, 5),))(means)
    yield "99-1"
    del EXERCISES["99-1"]


def means(rows):
    """mean over rows"""
    return rows.mean(0)


def stub(rows):
    raise NotImplementedError


def half(rows):
    raise NotImplementedError('"addmm" not implemented for Half')  # of torch: no stub


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda rows: None, "returned None"),
        (lambda rows: rows.mean(1), r"shape \(3,\); expected \(2,\)"),
        (lambda rows: rows.mean(0, keepdim=True), "an axis of length 1"),
        (lambda rows: rows.mean(), "sum over an axis"),
        (lambda rows: -rows.mean(0), "the sign is flipped"),
        (lambda rows: rows.sum(0), "3 times the expected values"),
        (lambda rows: rows.mean(0) + torch.tensor([0.0, 1.0]), "1 of 2 values are off by up to 1"),
        (lambda rows: rows.mean(0) / 0, "2 of 2 values are NaN or infinite"),
        (lambda rows: rows.mean(0).long(), "dtype torch.int64; expected torch.float32"),
        (lambda rows: rows.add_(1).mean(0) - 1, "changed its arguments"),
        (half, "raised NotImplementedError"),
        (None, "raised TypeError"),
    ],
    ids=range(12),
)
def test_a_wrong_answer_is_described(task, answer, words):
    verdict, why = checking.judge(task, answer)
    assert verdict == "FAIL" and re.search(words, why.partition("\n")[0]), why
    assert "\n  given: rows (3, 2)\n  hint: mean over rows" in why


def test_the_soft_check_prints_and_the_strict_one_raises(task, capsys):
    for answer in (stub, lambda rows: rows.mean(1), means):
        checking.check(task, answer)
    printed = r"(?s)TODO 99-1: write .*\nFAIL 99-1: shape .*\n  hint: mean over rows\nPASS 99-1\n"
    assert re.fullmatch(printed, capsys.readouterr().out)
    for answer in (stub, lambda rows: rows.mean(1)):
        with pytest.raises(AssertionError, match="99-1"):
            checking.check(task, answer, strict=True)
    with pytest.raises(ValueError, match="identity: '99-2' is unknown; did you mean '99-1'"):
        checking.check("99-2", len)


def test_what_follows_an_exercise_runs_with_the_answer_or_else_with_the_reference(task):
    assert checking.passing(task, stub) is means and checking.passing(task, torch.sum) is means
    right = lambda rows: rows.sum(0) / len(rows)  # noqa: E731
    assert checking.passing(task, right) is right
