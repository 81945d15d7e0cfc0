"""Every exercise of every notebook: its check tells right from wrong, and its cells keep the conventions.

Answers are kept here as source, and run with the imports of their notebook alone.
"""

import ast
import inspect
import json
import re
import sys
from pathlib import Path
from textwrap import dedent

import nbformat
import pytest
import torch
from conftest import ROOT

from clipnull.course import checking
from clipnull.course.exercises import EXERCISES, registry

TASK = re.compile(
    r"(?s)\*\*Exercise (\d)\*\* \((\d+) min, (easy|medium|hard)\)\. .+"
    r"<details><summary>Hint</summary>\n\n.+</details>$"
)

OPEN = re.compile(r"## Open task\n\n\*\*[^*]+\*\* \(\d+ min, no check\)\. ")

# identity -> two plausible wrong answers, and a right one that is written differently from the solution
ANSWERS = {
    "00-1": (
        "def f(z): return z / z.norm()",
        "def f(z): return z / z.norm(dim=0)",
        "def f(z): return torch.einsum('nd,n->nd', z, z.square().sum(1).rsqrt())",
    ),
    "00-2": (
        "def f(z, t, k): return (z @ t).argsort(descending=True)[:k]",
        "def f(z, t, k): return (F.normalize(z, dim=1) @ t).argsort()[:k]",
        "def f(z, t, k): return F.cosine_similarity(z, t[None], dim=1).topk(k).indices",
    ),
    "01-1": (
        "def f(x, p, s): return (s * x @ p.T).softmax(1)",
        "def f(x, p, s): return (s * F.normalize(x, dim=1) @ F.normalize(p, dim=1).T).softmax(0)",
        """
             def f(x, p, s):
                 e = torch.exp(s * F.cosine_similarity(x[:, None], p[None], dim=-1))
                 return e / e.sum(1, keepdim=True)
             """,
    ),
    "01-2": (
        "def f(texts): return texts.mean(0) - texts.mean((0, 1))",
        "def f(texts): return texts.mean(1)",
        """
             def f(texts):
                 of_class = torch.einsum('ckd->cd', texts) / texts.shape[1]
                 return of_class - of_class.mean(0, keepdim=True)
             """,
    ),
    "01-3": (
        "def f(t, c, k): return t[c].mean(0) + t[:, k].mean(0) - t.mean((0, 1))",
        "def f(t, c, k): return t[c, torch.arange(t.shape[1]) != k].mean(0)",
        """
             def f(t, c, k):
                 C, K, _ = t.shape
                 of_class, of_domain = (t[c].sum(0) - t[c, k]) / (K - 1), (t[:, k].sum(0) - t[c, k]) / (C - 1)
                 rest = t.sum((0, 1)) - t[c].sum(0) - t[:, k].sum(0) + t[c, k]
                 return of_class + of_domain - rest / ((C - 1) * (K - 1))
             """,
    ),
    "02-1": (
        """
             def f(x, embed, t, rate):
                 x = x.detach().requires_grad_()
                 loss = F.cosine_similarity(embed(x), t[None]).sum()
                 return (x - rate * torch.autograd.grad(loss, x)[0]).detach()
             """,
        """
             def f(x, embed, t, rate):
                 x = x.detach().requires_grad_()
                 return (x + rate * torch.autograd.grad((embed(x) @ t).sum(), x)[0]).detach()
             """,
        """
             def f(x, embed, t, rate):
                 def cosine(one):
                     z = embed(one[None])[0]
                     return z @ t / (z.norm() * t.norm())
                 return torch.stack([one + rate * torch.func.grad(cosine)(one) for one in x])
             """,
    ),
    "02-2": (
        "def f(a, target): return F.normalize(a @ target, dim=0)",
        "def f(a, target): return target @ torch.linalg.pinv(a)",
        """
             def f(a, target):
                 x = torch.linalg.solve(a @ a.T, a @ target)
                 return x / x.norm()
             """,
    ),
    "03-1": (
        """
             def f(rows, energy):
                 u, s, v = torch.linalg.svd(rows, full_matrices=False)
                 return v[:int((s.cumsum(0) / s.sum() < energy - 1e-12).sum()) + 1].T
             """,
        """
             def f(rows, energy):
                 u, s, v = torch.linalg.svd(rows, full_matrices=False)
                 share = (s ** 2).cumsum(0) / (s ** 2).sum()
                 return v[:int((share < energy - 1e-12).sum()) + 1]
             """,
        """
             def f(rows, energy):
                 values, vectors = torch.linalg.eigh(rows.T @ rows)
                 values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
                 for r in range(1, len(rows) + 1):
                     if values[:r].sum() >= (energy - 1e-12) * values.sum():
                         return -vectors[:, :r]
                 return vectors[:, :len(rows)]
             """,
    ),
    "03-2": (
        "def f(u, v): return torch.acos(torch.linalg.svdvals(u.T @ v).clamp(max=1)).rad2deg()",
        "def f(u, v): return torch.linalg.svdvals(u.T @ v)",
        "def f(u, v): return torch.as_tensor(subspace_angles(u.numpy(), v.numpy())[::-1].copy())",
    ),
    "04-1": (
        """
             def f(z, u, own, rival):
                 return (z @ (own - rival)) / ((z @ u) @ (u.T @ (own - rival)))
             """,
        """
             def f(z, u, own, rival):
                 alpha = (z @ (own - rival)) / ((z @ u) @ (u.T @ own))
                 return torch.where((alpha >= 0) & (alpha <= 1), alpha, torch.inf)
             """,
        """
             def f(z, u, own, rival):
                 whole = torch.eye(len(own), dtype=z.dtype) - u @ u.T
                 start, end = z @ (own - rival), z @ whole @ (own - rival)
                 return torch.tensor([float(a / (a - b)) if b <= 0 else float("inf") for a, b in zip(start, end)])
             """,
    ),
    "04-2": (
        "def f(before, after, mask): return float((before - after)[mask].nanmean())",
        "def f(before, after, mask): return float(1 - after[mask].mean() / before[mask].mean())",
        """
             def f(before, after, mask):
                 there = mask & ~before.isnan()
                 return 1 - after[there].sum().item() / before[there].sum().item()
             """,
    ),
    "05-1": (
        "def f(wanted): return wanted.mean(1, keepdim=True) + wanted.mean(0, keepdim=True)",
        "def f(wanted): return wanted.mean(1, keepdim=True) * wanted.mean(0, keepdim=True) / wanted.mean()",
        """
             def f(wanted):
                 c, k = wanted.shape
                 of_class = torch.eye(c, dtype=wanted.dtype).repeat_interleave(k, 0)
                 of_domain = torch.eye(k, dtype=wanted.dtype).repeat(c, 1)
                 design = torch.cat([of_class, of_domain], 1)
                 return (design @ torch.linalg.pinv(design) @ wanted.flatten()).view(c, k)
             """,
    ),
    "05-2": (
        "def f(z, left, right, opened): return z - ((z @ left) * opened) @ right.T",
        "def f(z, left, right, opened): return z - (z @ left).relu() @ right.T",
        """
             def f(z, left, right, opened):
                 z = z.clone()
                 read = z @ left
                 for j in range(left.shape[1]):
                     acts = opened[:, j] & (read[:, j] > 0)
                     z[acts] -= read[acts, j, None] * right[:, j]
                 return z
             """,
    ),
    "06-1": (
        "def f(before, after, classes): return (before - after) / before",
        "def f(before, after, classes): return (before - after) / (before - 1 / classes)",
        "def f(before, after, classes): return 1 - max(0, after - 1 / classes) / (before - 1 / classes)",
    ),
    "06-2": (
        """
             def f(classifier, decoy, margin):
                 r = classifier[decoy] - classifier.mean(0)
                 return margin * r / (r @ r)
             """,
        """
             def f(classifier, decoy, margin):
                 wanted = torch.zeros(len(classifier), dtype=classifier.dtype)
                 wanted[decoy] = margin
                 return torch.linalg.pinv(classifier) @ wanted
             """,
        """
             def f(classifier, decoy, margin):
                 others = [c for c in range(len(classifier)) if c != decoy]
                 apart = classifier[decoy] - classifier[others]
                 wanted = torch.full((len(others),), margin, dtype=apart.dtype)
                 return apart.T @ torch.linalg.solve(apart @ apart.T, wanted)
             """,
    ),
    "07-1": (
        """
             def f(features, labels):
                 cosines = F.normalize(features, dim=1) @ F.normalize(features, dim=1).T
                 return float((labels[cosines.argmax(1)] == labels).double().mean())
             """,
        """
             def f(features, labels):
                 products = (features @ features.T).fill_diagonal_(-float('inf'))
                 return float((labels[products.argmax(1)] == labels).double().mean())
             """,
        """
             def f(features, labels):
                 z = features / features.norm(dim=1, keepdim=True)
                 two = torch.cdist(z, z).topk(2, largest=False).indices
                 own = torch.arange(len(z))
                 nearest = torch.where(two[:, 0] == own, two[:, 1], two[:, 0])
                 return sum(a == b for a, b in zip(labels[nearest].tolist(), labels.tolist())) / len(labels)
             """,
    ),
    "07-2": (
        """
             def f(scores, positive):
                 return float((scores[positive][:, None] > scores[~positive]).double().mean())
             """,
        """
             def f(scores, positive):
                 return float((scores[positive][:, None] < scores[~positive]).double().mean())
             """,
        """
             def f(scores, positive):
                 yes, no = scores[positive].tolist(), scores[~positive].tolist()
                 return sum((a > b) + (a == b) / 2 for a in yes for b in no) / (len(yes) * len(no))
             """,
    ),
    "07-3": (
        "def f(edited, left, right): return edited + (edited @ left) @ right.T",
        """
             def f(edited, left, right):
                 core = torch.eye(left.shape[1], dtype=left.dtype) - left.T @ right
                 return edited + edited @ left @ torch.linalg.inv(core) @ right.T
             """,
        """
             def f(edited, left, right):
                 p = torch.eye(len(left), dtype=left.dtype) - left @ right.T
                 return torch.linalg.solve(p.T, edited.T).T
             """,
    ),
    "08-1": (
        "def f(scores, forgotten): return (scores * ~forgotten).argmax(1)",
        "def f(scores, forgotten): return scores[:, ~forgotten].argmax(1)",
        """
             def f(scores, forgotten):
                 kept = (~forgotten).nonzero()[:, 0]
                 return kept[scores[:, kept].argmax(1)]
             """,
    ),
    "08-2": (
        """
             def f(first, second):
                 from scipy import stats
                 n = len(first)
                 half = stats.t.ppf(0.975, n - 1) * (first.var() / n + second.var() / n).sqrt()
                 centre = (first - second).mean()
                 return torch.stack([centre - half, centre + half])
             """,
        """
             def f(first, second):
                 d = first - second
                 half = 1.96 * d.std() / len(d) ** 0.5
                 return torch.stack([d.mean() - half, d.mean() + half])
             """,
        """
             def f(first, second):
                 from scipy import stats
                 d = (first - second).numpy()
                 return torch.tensor(stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d)))
             """,
    ),
    "08-3": (
        """
             def f(z, positive):
                 s = z[positive].mean(0) - z[~positive].mean(0)
                 return z - ((z - z.mean(0)) @ s / (s @ s))[:, None] * s
             """,
        """
             def f(z, positive):
                 s = z[positive].mean(0) - z[~positive].mean(0)
                 direction = torch.linalg.solve(z.T.cov(), s)
                 return z - (z @ direction / (s @ direction))[:, None] * s
             """,
        """
             def f(z, positive):
                 x = z - z.mean(0)
                 half = torch.linalg.cholesky(x.T @ x)
                 s = z[positive].mean(0) - z[~positive].mean(0)
                 white, u = torch.linalg.solve(half, x.T).T, torch.linalg.solve(half, s)
                 return z - torch.outer(white @ u / (u @ u), s)
             """,
    ),
    "09-1": (
        """
             def f(right, n):
                 p = right / n
                 half = 1.959964 * (p * (1 - p) / n) ** 0.5
                 return torch.tensor([p - half, p + half], dtype=torch.float64)
             """,
        """
             def f(right, n):
                 q, p = 1.959964, right / n
                 half = q * (p * (1 - p) / n + q**2 / (4 * n**2)) ** 0.5
                 return torch.tensor([p - half, p + half], dtype=torch.float64) / (1 + q**2 / n)
             """,
        """
             def f(right, n):
                 from scipy.stats import binomtest
                 interval = binomtest(right, n).proportion_ci(method="wilson")
                 return torch.tensor([interval.low, interval.high], dtype=torch.float64)
             """,
    ),
    "09-2": (
        "def f(numbers): return torch.arange(len(numbers)) % 2 == 0",
        "def f(numbers): return (numbers[:, None] == numbers).tril(-1).sum(1) % 2 == 1",
        """
             def f(numbers):
                 seen, chosen = {}, []
                 for cell in numbers.tolist():
                     seen[cell] = not seen.get(cell, False)
                     chosen.append(seen[cell])
                 return torch.tensor(chosen)
             """,
    ),
    "09-3": (
        "def f(weight, left, right): return weight - (weight @ right) @ left.T",
        "def f(weight, left, right): return torch.eye(len(left)) - left @ right.T",
        "def f(weight, left, right): return weight @ (torch.eye(len(left)) - left @ right.T)",
    ),
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
        text, stub, soft, solution = (*cells[i - 1 : i + 3], *[nbformat.v4.new_raw_cell()] * 3)[:4]
        task = TASK.search(text.source) if text.cell_type == "markdown" else None
        if not task or task[1] != str(k):
            faults.append(f"no task before exercise {k}, with number, minutes, difficulty and a folded hint at its end")
        name, last, documented = defined(stub)
        if last != "raise NotImplementedError" or not documented:
            faults.append(f"exercise {k}: the stub is not one documented function that raises NotImplementedError")
        if soft.source != f'cn.check("{number}-{k}", {name})':
            faults.append(f"exercise {k}: the soft check does not follow the stub")
        answer = defined(solution)[0]
        if not tagged(solution, "solution") or not solution.metadata.get("jupyter", {}).get("source_hidden"):
            faults.append(f"exercise {k}: no folded solution follows the check")
        if not solution.source.endswith(f'cn.check("{number}-{k}", {answer}, strict=True)') or answer == name:
            faults.append(f"exercise {k}: the solution has no name of its own, or is not checked strictly")
        others = [c.source for j, c in enumerate(cells) if c.cell_type == "code" and not i <= j <= i + 2]
        faults += [
            f"exercise {k}: {n} is used elsewhere"
            for n in (name, answer)
            if any(re.search(rf"\b{re.escape(n)}\b", source) for source in others)
        ]
    after = [c.source for c in cells[stubs[-1] + 3 : stubs[-1] + 5]] if stubs else ["## Summary"]
    if after and OPEN.match(after[0]):
        del after[0]
    if not after or not after[0].startswith("## Summary"):
        faults.append("neither the summary nor an open task and the summary follow the last exercise")
    if "course.open(" in "".join(cell.source for cell in cells):  # a lesson: its exercises stand in the flow
        faults = [fault for fault in faults if not fault.startswith("neither the summary")]
    elif any(b - a != 4 for a, b in zip(stubs, stubs[1:], strict=False)):
        faults.append("the exercises are not in a row")
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
    trees = [ast.parse(c.source) for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    imports = [node for tree in trees for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    space = {}
    exec(compile(ast.Module(imports, []), path.name, "exec"), space)
    tree = ast.parse(dedent(source))
    tree.body = [node for node in tree.body if not isinstance(node, ast.Expr)]  # the calls of check
    exec(compile(tree, path.name, "exec"), space)
    return space[[node.name for node in tree.body if isinstance(node, ast.FunctionDef)][-1]]


# --- every exercise


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_exercises_keep_the_conventions(path):
    assert exercise_faults(path.name[:2], nbformat.read(path, 4)) == []


def test_every_exercise_has_a_check_and_answers_here():
    assert set(IN_NOTEBOOKS) == set(EXERCISES) == set(ANSWERS)


@pytest.mark.parametrize("identity", IN_NOTEBOOKS)
def test_the_stub_is_to_do_and_the_solution_passes(identity):
    path, (_, stub, _, solution) = IN_NOTEBOOKS[identity]
    assert checking.judge(identity, function(stub.source, path))[0] == "TODO"
    assert checking.judge(identity, function(solution.source, path)) == ("PASS", "")


@pytest.mark.parametrize("identity, which", [(identity, i) for identity in ANSWERS for i in range(2)])
def test_plausible_wrong_answers_fail_with_a_hint(identity, which):
    verdict, why = checking.judge(identity, function(ANSWERS[identity][which], IN_NOTEBOOKS[identity][0]))
    assert verdict == "FAIL" and "\n  given: " in why and why.endswith(EXERCISES[identity].hint)


@pytest.mark.parametrize("identity", ANSWERS)
def test_a_right_answer_written_differently_passes(identity):
    assert checking.judge(identity, function(ANSWERS[identity][2], IN_NOTEBOOKS[identity][0])) == ("PASS", "")


@pytest.mark.parametrize("identity", sorted(EXERCISES))
def test_cases_are_the_same_each_time_and_differ_in_shape(identity):
    task = EXERCISES[identity]
    first, again = ([[checking._describe(a) for a in case] for case in task.cases()] for _ in range(2))
    assert first == again and len({json.dumps(case) for case in first}) > 1
    assert checking.judge(identity, task.reference) == ("PASS", "")


def test_the_instructor_page_gives_the_minutes_of_the_exercises():
    table = (ROOT / "notebooks" / "INSTRUCTOR.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        (row,) = re.findall(rf"(?m)^\| \[{path.name[:2]} [^]]+\]\({path.name}\) \| (.+) \|$", table)
        minutes = sum(int(TASK.search(cells[0].source)[2]) for p, cells in IN_NOTEBOOKS.values() if p == path)
        assert row.split(" | ")[1] == str(minutes), path.name
        assert all(number.isdigit() for number in row.split(" | ")[:3]), path.name


# --- the verdicts


@pytest.fixture
def task(monkeypatch):
    """An exercise of its own: the two column means of (n, d) rows."""
    table = {}
    for module in (registry, checking):
        monkeypatch.setattr(module, "EXERCISES", table)

    @registry.exercise("99-1", lambda: [(torch.arange(6.0).view(3, 2),), (torch.ones(2, 5),)], "mean over rows")
    def means(rows):
        return rows.mean(0)

    return "99-1"


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda rows: None, "returned nothing"),
        (lambda rows: rows.mean(1), r"shape \(3,\); expected \(2,\)"),
        (lambda rows: rows.mean(0, keepdim=True), "an axis of length 1"),
        (lambda rows: rows.mean(), "sum over an axis"),
        (lambda rows: -rows.mean(0), "the result: the sign is the other way round"),
        (lambda rows: rows.sum(0), "the result: 3 times what is expected"),
        (lambda rows: rows.mean(0).flip(0), "another order"),
        (lambda rows: rows.mean(0) + torch.tensor([0.0, 1.0]), "1 of 2 values are off, by up to 1"),
        (lambda rows: rows.mean(0) / 0, "NaN or infinite; expected 0"),
        (lambda rows: rows.mean(0).long(), "dtype torch.int64; expected torch.float32"),
        (lambda rows: "means", "returned 'means'; expected a tensor of shape"),
        (lambda rows: rows.add_(1).mean(0) - 1, "changed its arguments"),
        (lambda rows: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda: 0, "raised TypeError"),
        (None, "raised TypeError"),
    ],
    ids=range(15),
)
def test_a_wrong_answer_is_described(task, answer, words):
    verdict, why = checking.judge(task, answer)
    assert verdict == "FAIL" and re.search(words, why.partition("\n")[0]), why
    assert "\n  given: rows (3, 2)\n  hint: mean over rows" in why


def test_the_transpose_is_recognised():
    square = torch.ones(2, 3)
    assert "is it transposed?" in checking._shape_fault(square.T, square)


@pytest.mark.parametrize(
    "result, expected, same",
    [
        ([1], [1], True),
        ([1], (1,), False),
        (1.0, 1.0, True),
        (torch.tensor(1.0), 1.0, True),
        ("x", 1.0, False),
        (float("nan"), float("nan"), True),
        (0.5, float("nan"), False),
        (torch.tensor([torch.inf, 2.0]), torch.tensor([torch.inf, 1.0]), False),
        (torch.tensor([torch.inf, 1.0]), torch.tensor([torch.inf, 1.0]), True),
        (torch.tensor([-torch.inf, 1.0]), torch.tensor([torch.inf, 1.0]), False),
        (torch.tensor([torch.nan, 1.0]), torch.tensor([torch.inf, 1.0]), False),
        (3, 3, True),
        (3.0, 3, False),
    ],
)
def test_values_are_compared(result, expected, same):
    assert (checking._difference(result, expected) == "") == same


def test_the_soft_check_prints_and_the_strict_one_raises(task, capsys):
    def stub(rows):
        raise NotImplementedError

    checking.check(task, stub)
    checking.check(task, lambda rows: rows.mean(1))
    checking.check(task, lambda rows: rows.mean(0))
    assert re.fullmatch(
        r"(?s)TODO 99-1: write .*\nFAIL 99-1: shape .*\n  hint: mean over rows\nPASS 99-1\n", capsys.readouterr().out
    )
    for answer in (stub, lambda rows: rows.mean(1)):
        with pytest.raises(AssertionError, match="99-1"):
            checking.check(task, answer, strict=True)
    checking.check(task, lambda rows: rows.mean(0), strict=True)


def test_an_error_of_torch_about_a_missing_kernel_is_no_stub(task):
    def answer(rows):
        raise NotImplementedError('"addmm" not implemented for Half')

    assert checking.judge(task, answer)[0] == "FAIL"


def test_unknown_and_taken_identities_are_refused(task):
    with pytest.raises(ValueError, match="identity: '99-2' is not known; did you mean '99-1'"):
        checking.check("99-2", len)
    with pytest.raises(ValueError, match="'99-1' is taken"):
        registry.exercise("99-1", list, "")(len)


# --- each fault of the conventions is found


def sound():
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    hint, cells = "<details><summary>Hint</summary>\n\nThink.\n\n</details>", []
    for k in (1, 2):
        cells += [
            markdown(f"**Exercise {k}** (5 min, easy). Write.\n\n{hint}"),
            code(
                f'def task{k}(x):\n    """(n,) -> (n,)"""\n    raise NotImplementedError',
                metadata={"tags": ["exercise"]},
            ),
            code(f'cn.check("07-{k}", task{k})'),
            code(
                f'def task{k}_solution(x):\n    return x\n\n\ncn.check("07-{k}", task{k}_solution, strict=True)',
                metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}},
            ),
        ]
    return nbformat.v4.new_notebook(cells=[code("x = 1"), *cells, markdown("## Summary"), code("cn.record(x=x)")])


def test_faults_of_exercises_are_found():
    def replaced(place: int, text: str, by: str):
        return lambda cells: cells[place].update(source=cells[place].source.replace(text, by))

    assert exercise_faults("07", sound()) == []
    for harm in (
        lambda cells: cells.__delitem__(slice(5, 9)),  # only one exercise
        replaced(1, "(5 min, easy)", "(easy)"),
        replaced(1, "<summary>Hint</summary>", ""),
        replaced(5, "Exercise 2", "Exercise 3"),
        replaced(2, "raise NotImplementedError", "return x"),
        replaced(2, '"""(n,) -> (n,)"""\n    ', ""),
        replaced(3, '"07-1"', '"07-2"'),
        replaced(4, ", strict=True", ""),
        replaced(4, "task1_solution", "task1"),
        replaced(0, "x = 1", "task2_solution = 1"),
        lambda cells: cells[4].metadata.pop("jupyter"),
        lambda cells: cells[4].metadata.pop("tags"),
        lambda cells: cells.append(cells.pop(9)),  # no summary after
        lambda cells: cells.insert(5, nbformat.v4.new_markdown_cell("between")),
    ):
        nb = sound()
        harm(nb.cells)
        assert exercise_faults("07", nb)


def test_an_open_task_may_stand_between_the_exercises_and_the_summary():
    task = "## Open task\n\n**Break it** (20 min, no check). Find a request."
    for place, source, is_sound in ((9, task, True), (5, task, False), (9, "## Open task\n\nBreak it.", False)):
        nb = sound()
        nb.cells.insert(place, nbformat.v4.new_markdown_cell(source))
        assert (exercise_faults("07", nb) == []) == is_sound, (place, source)


def test_a_missing_package_of_a_reference_is_no_fault_of_the_answer(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="sklearn is not installed; expected the extra 'course'"):
        checking.judge("07-2", lambda scores, positive: 0.5)


def test_the_parameters_of_stubs_are_those_of_the_references():
    """Messages name arguments as the reference does: a student should find these names in the stub."""
    for identity, (path, cells) in IN_NOTEBOOKS.items():
        stub = function(cells[1].source, path)
        wanted = inspect.signature(EXERCISES[identity].reference).parameters
        assert list(inspect.signature(stub).parameters) == list(wanted), identity
