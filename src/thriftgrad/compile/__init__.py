"""The compiled step: a function recorded once, and run as plain NumPy in one block of memory."""

import sys
from types import ModuleType
from typing import Any

from thriftgrad.compile.compiled import Compiled, compile
from thriftgrad.compile.memory import Memory

__all__ = ["Compiled", "Memory", "compile"]


class _Room(ModuleType):
    # `thriftgrad.compile` is this room, and what a person calls to compile a function.
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return compile(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
