"""The house rules: which package imports which, how long a file is, what is public, what an import loads."""

import ast
import inspect
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT
from helpers import python

import clipnull as cn

PACKAGE = ROOT / "clipnull"
MAY_IMPORT = {  # "core": the files at the top of clipnull/ and methods/; it reaches `forecasting` in one lazy call
    "core": "core",
    "datasets": "core datasets",
    "index": "core index",
    "forecasting": "core datasets index forecasting",
    "audits": "core datasets index forecasting audits",
    "interop": "core datasets index forecasting interop",
    "bench": "core datasets index forecasting audits interop bench",
    "course": "core datasets index forecasting audits interop course",
    "commands": "core datasets index forecasting audits interop bench course commands",
}
LAZY = {("unlearning", "forecasting"), ("__main__", "commands")}
HEAVY = "torch open_clip numpy scipy PIL IPython seaborn matplotlib sklearn papermill nbformat"


def package_of(module: str) -> str:
    """The package of `module`, "audits" for "audits.probes"; "core" for the files at the top and the methods."""
    first = module.partition(".")[0]
    return first if first in MAY_IMPORT else "core"


def imports(module: str, path: Path) -> set[str]:
    """The modules of clipnull that a file imports, anywhere but under `if TYPE_CHECKING`, without "clipnull."."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    imported = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").partition(".")[0] == "clipnull"):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").removeprefix("clipnull").strip(".").split(".")]
            for alias in node.names:
                full, outer = ".".join(filter(None, [*base, alias.name])), ".".join(filter(None, base))
                imported.add(full if full in MODULES else outer)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return imported - {"", module}


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
IMPORTS = {module: imports(module, path) for module, path in MODULES.items() if module}


def test_a_package_imports_only_what_it_may():
    for module, imported in IMPORTS.items():
        allowed = MAY_IMPORT[package_of(module)].split()
        for other in imported:
            if (module, package_of(other)) not in LAZY:
                assert package_of(other) in allowed, f"{module} imports {other}; expected some of {allowed}"


def test_no_import_comes_back():
    assert set(TopologicalSorter(IMPORTS).static_order()) <= {*MODULES}  # raises CycleError for a circle, lazy or not


def test_no_file_is_long():
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert not {module: n for module, n in lines.items() if n > 500}, "expected at most 500 lines a file"


def test_no_function_of_the_library_keeps_its_results():
    for module, path in MODULES.items():
        if package_of(module) in ("course", "commands"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = {getattr(node, "id", None), getattr(node, "attr", None)}
            if isinstance(node, ast.ImportFrom | ast.Import):
                words |= {alias.name.rpartition(".")[2] for alias in node.names}
            assert not words & {"lru_cache", "cache"}, f"{module}, line {node.lineno}: a cache, which hides state"
            assert not isinstance(node, ast.Global), f"{module}, line {node.lineno}: a global that changes"


# --- the public surface


def test_few_names_are_public():
    assert len(cn.__all__) <= 20 and sorted(cn.__all__) == list(cn.__all__)
    assert all(getattr(cn, name) is not None for name in cn.__all__) and re.fullmatch(r"\d+\.\d+\.\d+", cn.__version__)


@pytest.mark.parametrize("name", cn.__all__)
def test_what_is_public_is_documented(name):
    """A first sentence, every parameter, and an example that runs (as a doctest)."""
    thing = getattr(cn, name)
    text = inspect.cleandoc(thing.__doc__ or "")
    assert re.match(r"[^\n]+(\n[^\n]+)?[.:](\n|$| )", text) and ">>> " in text
    parameters = inspect.signature(thing).parameters if inspect.isroutine(thing) or inspect.isclass(thing) else {}
    missing = [p for p in parameters if not re.search(rf"\b{p}\b", text)]
    assert name == "Methods" or not missing, f"{name}: its docstring says nothing of {missing}"


# --- what an import loads

LOADED = f"print([name for name in '{HEAVY}'.split() if name in sys.modules])"


def test_to_import_clipnull_loads_nothing_heavy():
    assert python(f"import sys, clipnull; dir(clipnull); {LOADED}").strip() == "[]"


@pytest.mark.slow
def test_to_load_a_model_loads_neither_jupyter_nor_figures():
    loaded = python(f"import sys, clipnull as cn; cn.load(device='cpu').embed_texts(['a dog']); {LOADED}")
    assert not {"IPython", "seaborn", "matplotlib", "sklearn", "papermill"} & set(ast.literal_eval(loaded))
