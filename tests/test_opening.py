"""open_clip is loaded without PyTorch's compiler, and who needs the compiler has it."""

import sys
from types import ModuleType

import pytest
import torch

from clipnull.opening import UTILS, compiler_put_off


@pytest.fixture
def unloaded(monkeypatch):
    """As in a process that has not loaded the compiler; its utilities, once imported, know one device."""
    for name in [UTILS, "torch._dynamo"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    real = ModuleType(UTILS)
    real.is_compile_supported, real.counters = (lambda device: device == "abacus"), {}
    return lambda: monkeypatch.setitem(sys.modules, UTILS, real)


def test_names_of_the_compiler_are_given_when_they_are_used(unloaded):
    disable = torch.compiler.disable
    with compiler_put_off():
        from torch._dynamo.utils import is_compile_supported

        stand_in = sys.modules[UTILS]

        @torch.compiler.disable
        def marked(x):
            return x

        assert marked.__wrapped__ is not None and "torch._dynamo" not in sys.modules
    assert torch.compiler.disable is disable and UTILS not in sys.modules
    unloaded()
    assert is_compile_supported("abacus") and not is_compile_supported("cpu")
    assert stand_in.counters == {} and not hasattr(stand_in, "__path__")


def test_what_is_loaded_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", ModuleType("torch._dynamo"))
    before = sys.modules.get(UTILS), torch.compiler.disable
    with compiler_put_off():
        assert (sys.modules.get(UTILS), torch.compiler.disable) == before
