"""Which random generators a function can reach.

What runs again must draw again what it drew before. The generators are therefore looked for where a
Python function can get at them: among its arguments, in its closure, its defaults, the globals that its
code names, the object it is bound to; and in whatever these hold. What belongs to the standard library,
to NumPy and to other installed packages is followed through the objects that it was given, and its own
globals are left alone. Attributes that a class names in `leads_to_no_generator` are left alone as well.
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property, partial
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np

from thriftgrad.autodiff import Parameter, Tensor

MOST = 100_000


def bit_generators(*roots: Any) -> list[np.random.BitGenerator]:
    """Return the source of every `np.random.Generator` that is reached from `roots`, each once.

    Takes some tens of microseconds for a function of a few lines, and a few microseconds for each object
    beyond. After 100,000 objects the search ends with a RuntimeWarning.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> def noisy(x, draw=rng.normal):
        ...     return x + draw()
        >>> bit_generators([np.tanh, noisy]) == [rng.bit_generator]
        True
    """
    found: dict[int, np.random.BitGenerator] = {}
    seen: dict[int, Any] = {}  # the objects themselves, lest a new one takes the address of an old
    stack = list(roots)
    while stack:
        value = stack.pop()
        if type(value) in _NOTHING_INSIDE or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, np.random.Generator):
            source = value.bit_generator
            found[id(source)] = source
        elif len(seen) > MOST:
            warnings.warn(
                f"a function that may run again reaches more than {MOST:,} objects, and random generators "
                f"were looked for in these only; pass the generators that it uses as arguments",
                RuntimeWarning,
                stacklevel=4,
            )
            break
        else:
            stack.extend(inside(value))
    return list(found.values())


_NOTHING_INSIDE = {
    *(
        int,
        float,
        complex,
        bool,
        str,
        bytes,
        bytearray,
        type(None),
        type(...),
        type(NotImplemented),
    ),
    *(
        range,
        slice,
        np.float64,
        np.float32,
        np.dtype,
        np.ufunc,
        Tensor,
        Parameter,
        ModuleType,
        CodeType,
    ),
}
_SEQUENCES = (list, tuple, set, frozenset, deque)


def inside(value: Any) -> Iterable[Any]:
    """Return what `value` holds, one step deep."""
    if isinstance(value, FunctionType):
        return _inside_function(value)
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, _SEQUENCES):
        return value
    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.dtype.hasobject else ()
    if isinstance(value, MethodType):
        return value.__self__, value.__func__
    if isinstance(value, BuiltinMethodType | MethodWrapperType):
        return (value.__self__,)
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if isinstance(value, staticmethod | classmethod):
        return (value.__func__,)
    if isinstance(value, property):
        return value.fget, value.fset
    if isinstance(value, cached_property):
        return (value.func,)
    if isinstance(value, type):
        return [
            each
            for kind in value.__mro__
            if _is_own(kind.__module__)
            for each in tuple(vars(kind).values())
        ]
    return _inside_object(value)


def _inside_function(function: FunctionType) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    if _is_own(function.__globals__.get("__name__")):
        yield from _named(function.__code__, function.__globals__)


def _named(code: CodeType, scope: Mapping[str, Any]) -> Iterator[Any]:
    """Return the globals that `code` names, and what it may take from modules among them."""
    modules = []
    for name in code.co_names:
        value = scope.get(name)
        if isinstance(value, ModuleType):
            modules.append(value)
        elif value is not None:
            yield value
    for module in modules:  # and those it finds in them
        if _is_own(module.__name__):
            for name in code.co_names:
                value = vars(module).get(name)
                if isinstance(value, ModuleType):
                    if value not in modules:
                        modules.append(value)
                elif value is not None:
                    yield value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named(constant, scope)


def _inside_object(value: Any) -> Iterator[Any]:
    kind = type(value)
    own = _is_own(kind.__module__)
    if not own and _is_base(kind.__module__) and kind is not SimpleNamespace:
        return  # locks, loggers, files: they lead far, and to no generator
    alone = getattr(kind, "leads_to_no_generator", ())
    with suppress(AttributeError, TypeError):
        held = dict(object.__getattribute__(value, "__dict__"))
        yield from (each for name, each in held.items() if name not in alone)
    for each in kind.__mro__:
        slots = vars(each).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            slot = vars(each).get(_mangled(name, each))
            try:
                yield slot.__get__(value, kind)  # type: ignore[union-attr]
            except AttributeError:  # not assigned yet, or no slot of its own (__dict__)
                continue
    if own:
        yield kind


def _mangled(name: str, kind: type) -> str:
    private = name.startswith("__") and not name.endswith("__")
    return f"_{kind.__name__.lstrip('_')}{name}" if private else name


@cache
def _is_own(module: Any) -> bool:
    """Tell whether a module is the person's: its globals are looked into."""
    if not isinstance(module, str) or _is_base(module) or module.split(".")[0] == "thriftgrad":
        return False
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


@cache
def _is_base(module: Any) -> bool:
    root = str(module).split(".")[0]
    return root == "numpy" or root in sys.stdlib_module_names
