"""The reference of the book: every public name with its signature and docstring, as Markdown."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from .. import __version__
from ..edit import FORMAT, VERSION
from ..methods import METHODS
from .metrics import MIME

HEAD = """# Reference

The public names of clipnull: what stands behind the chapters. `import clipnull as cn` costs nothing until a name is
used.
"""
LISTS = ("Parameters", "Attributes", "Returns", "Raises", "Warns", "Yields")


def reference(package: str = "clipnull") -> str:
    """A page of Markdown on all names in the `__all__` of a package whose docstrings are in numpydoc style."""
    module = importlib.import_module(package)
    parts = [HEAD]
    for name in module.__all__:
        thing = getattr(module, name)
        parts.append(f"## `cn.{name}`\n\n{_signature(name, thing)}{_docstring(thing)}")
        for own, member in sorted(vars(thing).items()) if inspect.isclass(thing) else ():
            function = getattr(member, "__func__", member)  # of a class method
            if not own.startswith("_") and inspect.isfunction(function) and function.__doc__:
                parts.append(f"### `{name}.{own}`\n\n{_signature(own, function)}{_docstring(function)}")
    return "\n".join(parts)


def stability(package: str = "clipnull") -> str:
    """The page on version 1.0: what is stable of the package, what may change, how to cite."""
    told = {
        "VERSION": __version__,
        "NAMES": ", ".join(f"`cn.{name}`" for name in importlib.import_module(package).__all__),
        "METHODS": ", ".join(f"`{name}`" for name in METHODS),
        "FORMAT": FORMAT,
        "PATCH": VERSION,
        "MIME": MIME,
    }
    page = Path(__file__).with_name("stable.md").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda found: told[found[1]], page)


def _signature(name: str, thing: Any) -> str:
    """The call as code; nothing for what is not called."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return ""
    signature = inspect.signature(thing)
    kept = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    gives = inspect.Signature.empty if inspect.isclass(thing) else signature.return_annotation
    lines = [f"{name}{signature.replace(parameters=kept, return_annotation=gives)}"]
    if len(lines[0]) > 100:
        lines = [f"{name}(", *(f"    {p}," for p in kept), f"){lines[0].rpartition(')')[2]}"]
    return "```python\n" + "\n".join(lines) + "\n```\n\n"


def _docstring(thing: Any) -> str:
    text = f"\n{inspect.getdoc(thing) or ''}\n"
    head, *rest = re.split(r"\n(\w[\w ]*)\n-{3,}\n", text)
    parts = [_prose(head)]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        if title == "Examples":
            parts.append(f"**{title}**\n\n```pycon\n{body.strip()}\n```\n")
        else:
            parts.append(f"**{title}**\n\n{_terms(body) if title in LISTS else _prose(body)}")
    return "\n".join(parts)


def _terms(body: str) -> str:
    """Terms at the margin, each with what is indented below it, as a list."""
    entries: list[list[str]] = []
    for line in body.strip().splitlines():
        if line.startswith(" ") and entries:
            entries[-1].append(line.strip())
        elif line.strip():
            entries.append([line.strip()])
    return "".join(f"- `{term}`{': ' if told else ''}{_prose(' '.join(told)).strip()}\n" for term, *told in entries)


def _prose(text: str) -> str:
    """Text in which nothing but `code` is markup."""
    parts = re.split(r"(`[^`]+`)", text.strip())
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_\[\]<>|$#])", r"\\\1", p) for p in parts) + "\n"
