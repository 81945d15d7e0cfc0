"""The house rules: who imports whom, how long a module is, what is public, what an import loads."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from helpers import python

import clipnull as cn

PACKAGE = ROOT / "clipnull"
FILES = sorted(PACKAGE.rglob("*.py"))
# A module imports only from those before it.
LIBRARY = """
errors memory jobs files markup wording projections clean sources quiet stored listed layouts padding models adapters
requests prompts prototypes subspace gates applying patches edit pictures images listing datasets archives data
methods.cells methods.nullspace methods.residual methods.ridge methods.oblique methods.neuron methods.gated methods
embedding occlusion heads exporting shards storing collateral evaluate bootstrap budgets pseudo predicting aiming
unlearning forecasting rows geometry
auditing audits.findings audits.case audits.probing audits.languages audits.wordings audits.retrieving audits.traces
audits.surviving audits.deep audits vectors tables rewriting switching answering bench bounds validation speed
index_speed device_speed materials rivals contest sequences standings cards drawn plots reporting results paper
"""
COURSE = """
course course.metrics course.profiles course.formulas course.notebooks course.warm course.run course.goldens
course.seeds course.editions course.exercises.registry course.exercises.spaces course.exercises.edits
course.exercises.audits course.exercises course.checking course.panel course.demo course.reference
course.printed course.pages course.book course.slides course.booklet course.colab course.quiz course.leaderboard
"""
LIBRARY, COURSE = LIBRARY.split(), COURSE.split()
ORDER = [
    *LIBRARY,
    *COURSE,
    "console",
    "commands.executing",
    "commands.teaching",
    "commands.measuring",
    "commands.inspecting",
    "commands.indexing",
    "commands",
    "cli",
    "__main__",
]
HEAVY = ["torch", "open_clip", "IPython", "seaborn", "matplotlib", "sklearn"]


def name_of(path: Path) -> str:
    """ "methods.cells" for clipnull/methods/cells.py, "methods" for its __init__.py, "" for that of clipnull."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imports(source: str, package: str = "") -> set[str]:
    """What a module in `package` imports of clipnull, anywhere in its text but under `if TYPE_CHECKING`.

    A module by its name; a name of the package itself as "clipnull.name".
    """
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
            found.update(name.removeprefix("clipnull.") for name in named if name.partition(".")[0] == "clipnull")
        elif isinstance(node, ast.ImportFrom):
            above = ["clipnull", *filter(None, package.split("."))]
            base = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            if base.partition(".")[0] == "clipnull":
                for alias in node.names:
                    full = f"{base}.{alias.name}".removeprefix("clipnull.")
                    inside = base.removeprefix("clipnull").lstrip(".")
                    found.add(full if full in ORDER else inside or f"clipnull.{alias.name}")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("from .edit import Edit", "", {"edit"}),
        ("from . import plots, data", "", {"plots", "data"}),
        ("def f():\n from clipnull.data import Images", "", {"data"}),
        ("import clipnull.models", "", {"models"}),
        ("import clipnull as cn", "", {"clipnull"}),
        ("from clipnull.course import run, nothing", "", {"course.run", "course"}),
        ("from ..errors import expect", "methods", {"errors"}),
        ("from .cells import Cells", "methods", {"methods.cells"}),
        ("from . import gated, ridge", "methods", {"methods.gated", "methods.ridge"}),
        ("from .. import __version__", "course", {"clipnull.__version__"}),
        ("from ...files import written", "course.exercises", {"files"}),
        ("from .methods import METHODS", "", {"methods"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n from .plots import show", "", set()),
        ("if TYPE_CHECKING:\n from .plots import show\nelse:\n from .data import Images", "", {"data"}),
        ("import torch.nn\nfrom torch import nn", "", set()),
    ],
)
def test_imports_are_recognised(source, package, found):
    assert imports(source, package) == found


@pytest.mark.parametrize("path", FILES, ids=lambda path: name_of(path) or "clipnull")
def test_a_module_imports_only_from_those_before_it(path):
    name = name_of(path)
    found = imports(path.read_text(encoding="utf-8"), name if path.name == "__init__.py" else name.rpartition(".")[0])
    if not name:
        assert not found, "clipnull/__init__.py is lazy: __init__.pyi says where names are"
        return
    assert name in ORDER, f"{name} has no place in the order: add it to LIBRARY or COURSE"
    late = found - {"clipnull.__version__"} - set(ORDER[: ORDER.index(name)])
    assert not late, f"{name} imports {late}; expected only what comes before it in the order"


def test_the_library_never_imports_the_course():
    for path in FILES:
        name = name_of(path)
        if name in LIBRARY:
            assert not any(m.startswith("course") for m in imports(path.read_text(encoding="utf-8"), name)), name
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    from_course = {
        alias.name
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("course")
        for alias in node.names
    }
    assert from_course == {"check", "record"}


def test_the_order_names_what_is_there():
    assert {*ORDER, ""} == {name_of(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: name_of(path) or "clipnull")
def test_no_module_is_long(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, f"{path.relative_to(ROOT)} has {lines} lines; expected at most 300"


def test_no_module_bears_the_name_of_an_exported_one():
    """Else `import clipnull.unlearn as U` gives a function, or `cn.unlearn` a module."""
    assert not {name_of(path).rpartition(".")[2] for path in FILES} & set(cn.__all__)


def test_every_module_can_be_imported_by_its_name():
    assert all(getattr(cn, name) is not None for name in cn.__all__)  # all lazy names are there
    for name in ORDER[:-1]:  # __main__ runs
        scope = {}
        exec(f"import clipnull.{name} as M", scope)
        assert isinstance(scope["M"], ModuleType) and scope["M"].__name__ == f"clipnull.{name}"


# --- nothing hidden


@pytest.mark.parametrize("name", LIBRARY)
def test_no_function_of_the_library_keeps_its_results(name):
    source = Path(importlib.import_module(f"clipnull.{name}").__file__).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        words = {getattr(node, "id", None), getattr(node, "attr", None)}
        if isinstance(node, ast.ImportFrom | ast.Import):
            words |= {alias.name.rpartition(".")[2] for alias in node.names}
        assert not words & {"lru_cache", "cache"}, f"{name}, line {node.lineno}: a cache, which hides state"
        assert not isinstance(node, ast.Global), f"{name}, line {node.lineno}: a global that changes"


# --- the public surface


def test_few_names_are_public():
    assert len(cn.__all__) <= 24 and sorted(cn.__all__) == list(cn.__all__)
    assert set(cn.__all__) <= set(dir(cn)) and re.fullmatch(r"\d+\.\d+\.\d+", cn.__version__)


def sections(text: str) -> dict[str, str]:
    """The sections of a docstring in numpydoc style by their titles."""
    parts = re.split(r"\n(\w[\w ]*)\n-{3,}\n", f"\n{inspect.cleandoc(text)}\n")
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", cn.__all__)
def test_what_is_public_is_documented(name):
    thing = getattr(cn, name)
    text = thing.__doc__ or ""
    head, found = inspect.cleandoc(text).splitlines()[0], sections(text)
    assert head and head.endswith((".", ":")), f"{name}: its first line is {head!r}; expected a sentence"
    assert ">>> " in found.get("Examples", ""), f"{name}: expected a section Examples with code that runs"
    parameters = [p.name for p in inspect.signature(thing).parameters.values()] if inspect.isroutine(thing) else []
    if inspect.isroutine(thing):
        wanted = (
            {"Parameters", "Returns"}
            if inspect.signature(thing).return_annotation not in (None, "None")
            else {"Parameters"}
        )
        assert wanted <= found.keys(), f"{name}: has sections {list(found)}; expected {wanted}"
    elif inspect.isclass(thing):
        assert {"Parameters", "Attributes"} & found.keys(), f"{name}: expected a section Parameters or Attributes"
        parameters = list(inspect.signature(thing).parameters)
    told = " ".join(line for line in "\n".join(found.values()).splitlines() if line and not line.startswith(" "))
    missing = [p for p in parameters if not re.search(rf"\b{p}\b", told)]
    assert not missing, f"{name}: its docstring says nothing of {missing}"


# --- what an import loads

IMPORTED = f"""
import sys
import clipnull
heavy = {HEAVY}
print([name for name in heavy if name in sys.modules])
"""

USED = f"""
import sys
import clipnull as cn
cn.load(device="cpu").embed_texts(["a dog"])
print([name for name in {HEAVY} if name in sys.modules])
"""


def test_to_import_clipnull_loads_nothing_heavy():
    assert python(IMPORTED).strip() == "[]"


@pytest.mark.slow
def test_to_load_a_model_loads_neither_jupyter_nor_figures():
    assert python(USED).strip() == "['torch', 'open_clip']"
