"""The compiled step: a function recorded once, and run as plain NumPy in one block of memory."""

import sys
from inspect import signature
from types import ModuleType

from thriftgrad.compile.compiled import Compiled, compile
from thriftgrad.compile.memory import Memory

__all__ = ["Compiled", "Memory", "compile"]


class _Room(ModuleType):
    # `thriftgrad.compile` is this room, and what a person calls to compile a function.
    __call__ = staticmethod(compile)


sys.modules[__name__].__class__ = _Room
__signature__ = signature(compile)  # for help() and `tg.compile?`
__doc__ = compile.__doc__ or __doc__
