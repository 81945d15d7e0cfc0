"""open_clip, loaded without PyTorch's compiler, which takes longer to load than all the rest.

torchvision asks the compiler for a name and timm marks five functions with it, so that both load it, for models that
nobody may compile. Here the name and the marks are theirs when somebody uses them; `torch.compile` works as ever.
"""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

from torch import _compile, compiler

UTILS = "torch._dynamo.utils"


@contextlib.contextmanager
def compiler_put_off() -> Iterator[None]:
    """What is imported meanwhile finds the compiler without loading it: its utilities, and the mark `disable`."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    utils, disable = ModuleType(UTILS), compiler.disable

    def found(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(UTILS) is utils:
            del sys.modules[UTILS]
        return getattr(import_module(UTILS), name)

    def supported(device: Any) -> bool:
        return found("is_compile_supported")(device)

    def mark(fn: Any = None, recursive: bool = True, **options: Any) -> Callable[..., Any]:
        if isinstance(fn, FunctionType) and not options:
            return _compile._disable_dynamo(fn, recursive)
        return disable(fn, recursive, **options)

    utils.__dict__.update(is_compile_supported=supported, __getattr__=found)
    sys.modules[UTILS], compiler.disable = utils, mark
    try:
        yield
    finally:
        compiler.disable = disable
        if sys.modules.get(UTILS) is utils:
            del sys.modules[UTILS]


with compiler_put_off(), warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which open_clip brings
    import open_clip as open_clip
