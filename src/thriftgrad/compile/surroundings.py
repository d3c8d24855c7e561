"""What a recorded function looks up: settings, switches and other objects outside of it.

A recording holds for the values that these had. They are found where a Python function can get at them:
in its closure, its defaults, the globals that it names, the object it is bound to, its arguments, and in
whatever these hold, classes and modules of the person's included. At every run they are compared: numbers,
texts and small arrays by value, all else by identity. An object says in `live_in_programs` which of its
attributes a program asks for anew and need not be compared.

Libraries are taken to keep nothing in their globals or classes that changes. What is in a large array may
change where the program reads the array itself. Of one that it does not read, whose entries can have been
computed with while recording, some are compared.
"""

from __future__ import annotations

import random
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import getattr_static
from operator import is_, itemgetter
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any
from zlib import crc32

import numpy as np

from thriftgrad.autodiff import Tensor
from thriftgrad.compile.stand_in import StandIn
from thriftgrad.errors import RecordError

MOST = 10_000
"""Objects that are looked into."""
SMALL = 4_096
"""Bytes of an array whose entries are all compared at every run."""
SAMPLED = 64
"""Entries that are compared of a larger one, so that a look takes a microsecond or two."""


class Surroundings:
    """What a function can look up, as it is now.

    Attributes:
        places: where that is.
        arrays: those that it can get at.
        samples: of the large ones among them, how to read some entries, and what these are.
    """

    def __init__(self, *roots: Any) -> None:
        self.places: list[Place] = []
        self.arrays: list[Any] = []
        self.samples: list[tuple[Any, Callable[[], bytes], bytes]] = []
        self._once: list[tuple[Callable[[], Any], Any, str]] = [_drawing(random._inst)]
        seen: dict[int, Any] = {}  # with the objects, as an id means something while one lives
        queue = list(roots)
        for each in queue:
            if id(each) in seen or isinstance(each, _NOTHING_INSIDE):
                continue
            seen[id(each)] = each
            if len(seen) > MOST:
                warnings.warn(
                    f"a compiled function reaches more than {MOST:,} objects; a change of those beyond "
                    f"is not noticed",
                    RuntimeWarning,
                    stacklevel=5,
                )
                break
            if isinstance(each, Iterator) and type(each).__module__ in ("builtins", "itertools"):
                raise RecordError(
                    f"a function that is compiled can reach a {type(each).__name__}, which cannot be seen to "
                    f"move on, and runs of the program would not move it; call next() outside, and pass "
                    f"what it gives as an argument"
                )
            if isinstance(each, random.Random | np.random.RandomState):
                self._once.append(_drawing(each))
            elif isinstance(each, np.ndarray):
                self.arrays.append(each)
                if each.nbytes > SMALL:
                    self._once.append(
                        (partial(_sum_of, each), _sum_of(each), "entries of an array")
                    )
                    read = _sampled(each)
                    self.samples.append((each, read, read()))
            for place in _places(each):
                self.places.append(place)
                queue += place.values
            queue += _parts(each)

    def leave_out(self, arrays: Sequence[Any]) -> None:
        """Compare no entries of what a program reads itself."""
        self.samples = [
            each
            for each in self.samples
            if not any(np.may_share_memory(each[0], array) for array in arrays)
        ]

    def same(self) -> bool:
        """Tell whether all is as it was."""
        if any(read() != then for _, read, then in self.samples):
            return False
        for place in self.places:
            # First what is there at all, as to ask a defaultdict for a key is to put it there.
            if place.size is not None and len(place.owner) != place.size:
                return False
            if place.in_order and list(place.owner) != list(place.names):
                return False
            try:
                now = place.read(place.owner)
            except (LookupError, AttributeError, ValueError):
                return False
            if len(now) != len(place.values):
                return False
            if not all(map(is_, now, place.values)) and not _all_equal(now, place.values):
                return False
        return True

    def check_unchanged(self) -> None:
        """Refuse a function that has changed something, as a run of its program would not.

        Raises:
            RecordError: it has; all is as it was before.
        """
        found = [what for read, then, what in self._once if read() != then]
        for changed in (*found, *(place.changed() for place in self.places)):
            if changed is not None:
                self.restore()
                raise RecordError(
                    f"a function that is compiled changes {changed}, which runs of the program would not; "
                    f"return the value and keep it outside"
                )

    def changed(self) -> str | None:
        """Return what has changed first, in words, or None for nothing that can be named."""
        return next((what for place in self.places if (what := place.changed()) is not None), None)

    def restore(self) -> None:
        """Make all as it was."""
        for place in self.places:
            place.restore()


@dataclass(frozen=True)
class Place:
    """Some values that an owner holds, and how to read and write them.

    Attributes:
        owner: what holds them.
        names: what they are called there.
        values: they themselves, as they were.
        read: returns them as they are now, given the owner.
        kind: what they are, for a message.
        size: how many the owner has, of which these may be some; None where that tells nothing.
        in_order: whether it matters in which order the owner has them.
    """

    owner: Any
    names: Sequence[Any]
    values: tuple[Any, ...]
    read: Callable[[Any], Any]
    kind: str
    size: int | None = None
    in_order: bool = False

    def changed(self) -> str | None:
        """Return what has changed, in words, or None."""
        try:
            now = tuple(self.read(self.owner))
        except (LookupError, AttributeError, ValueError):
            return f"what is in a {type(self.owner).__name__}"
        for name, a, b in zip(self.names, now, self.values, strict=False):
            if a is not b and not _all_equal((a,), (b,)):
                return f"{self.kind} {name!r}"
        if self.size is None and len(now) != len(self.values):
            return f"the length of {self.kind}"
        if self.size is not None and len(self.owner) != self.size:
            for name in self._left_behind():
                return f"{self.kind} {name!r}"
        return None

    def _left_behind(self) -> list[Any]:
        """Return where a function has left stand-ins in a dict."""
        inner = {n: v.value if isinstance(v, Tensor) else v for n, v in self.owner.items()}
        return [n for n, v in inner.items() if isinstance(v, StandIn) and n not in self.names]

    def restore(self) -> None:
        """Make the values what they were."""
        if self.size is not None:
            for name in self._left_behind():
                del self.owner[name]
        with suppress(LookupError, AttributeError, ValueError):
            now = self.read(self.owner)
            if len(now) == len(self.values) and all(map(is_, now, self.values)):
                return
        if isinstance(self.owner, np.ndarray):
            (entries,) = self.values
            if entries != self.owner.tobytes():
                then = np.frombuffer(entries, self.owner.dtype).reshape(self.owner.shape)
                self.owner[...] = then
        elif isinstance(self.owner, tuple):
            for cell, value in zip(self.owner, self.values, strict=True):
                cell.cell_contents = value
        elif isinstance(self.owner, list | deque):
            self.owner.clear()
            self.owner.extend(self.values)
        elif isinstance(self.owner, set):
            self.owner.clear()
            self.owner.update(self.values)
        elif isinstance(self.owner, dict):
            self.owner.update(zip(self.names, self.values, strict=True))
        else:
            for name, value in zip(self.names, self.values, strict=True):
                setattr(self.owner, name, value)


_NOTHING_INSIDE = (
    *(str, bytes, int, float, complex, type(None), ModuleType, CodeType),
    *(np.generic, np.ufunc, np.dtype, np.random.Generator, Tensor),
)


def _places(each: Any) -> Iterator[Place]:
    """Yield where `each` holds values that may become other ones."""
    if isinstance(each, dict):
        yield from _of_dict(each, tuple(each), "the key", len(each), in_order=True)
    elif isinstance(each, list):
        yield Place(each, range(len(each)), tuple(each), _contents, "a list")
    elif isinstance(each, deque | set):
        kind = f"a {type(each).__name__}"
        yield Place(each, range(len(each)), tuple(each), tuple, kind)
    elif isinstance(each, np.ndarray):
        if each.nbytes <= SMALL:
            yield Place(each, ("entries",), (each.tobytes(),), _entries_of, "an array's")
    elif isinstance(each, type):
        if not _is_library(each.__module__):
            names = tuple(n for n in vars(each) if n not in _OF_EVERY_CLASS)
            values = tuple(map(vars(each).__getitem__, names))
            yield Place(each, names, values, partial(_of_class, names), "the attribute")
    elif isinstance(each, FunctionType):
        if not _is_library(each.__module__):
            cells = _cells(each)
            if cells:
                values = tuple(_contents_of_cells(tuple(cells.values())))
                owner = tuple(cells.values())
                yield Place(owner, tuple(cells), values, _contents_of_cells, "the variable")
            parts = ("__code__", "__defaults__", "__kwdefaults__")
            values = tuple(_attributes(parts, each))
            yield Place(each, parts, values, partial(_attributes, parts), "the attribute")
            yield from _of_globals(each, cells)
    elif not _is_base(type(each)) and not isinstance(each, tuple):
        slots = ("__class__", *(n for n in _slots(type(each)) if hasattr(each, n)))
        values = tuple(getattr(each, name) for name in slots)
        yield Place(each, slots, values, partial(_attributes, slots), "the attribute")
    attributes = None if _is_base(type(each)) else getattr(each, "__dict__", None)
    if isinstance(attributes, dict):  # subclasses of dict and list may have some as well
        live = getattr(type(each), "live_in_programs", ())
        names = tuple(n for n in attributes if n not in live)
        yield from _of_dict(attributes, names, "the attribute", len(attributes))


def _of_globals(function: FunctionType, cells: dict[str, CellType]) -> Iterator[Place]:
    """Yield the globals that a function names, and those of the person's modules that it names them of."""
    wanted = sorted(_named(function.__code__))
    scopes = [function.__globals__]
    held = [*_contents_of_cells(tuple(cells.values())), *map(sys.modules.get, wanted)]
    for scope in scopes:
        names = tuple(n for n in wanted if n in scope)
        if names:
            yield from _of_dict(scope, names, "the global")
        held += [scope[name] for name in names]
        for module in held:
            if isinstance(module, ModuleType) and not _is_library(module.__name__):
                inner = vars(module)
                if not any(inner is known for known in scopes):
                    scopes.append(inner)
        held.clear()


def _of_dict(
    owner: dict[Any, Any],
    names: tuple[Any, ...],
    kind: str,
    size: int | None = None,
    *,
    in_order: bool = False,
) -> Iterator[Place]:
    values = tuple(map(owner.__getitem__, names))
    read = itemgetter(*names) if len(names) > 1 else partial(_entries, names)
    yield Place(owner, names, values, read, kind, size, in_order)


def _entries(names: Sequence[Any], owner: dict[Any, Any]) -> Any:
    return [owner[name] for name in names]


def _attributes(names: Sequence[str], owner: Any) -> Any:
    return [getattr(owner, name) for name in names]


def _contents(owner: list[Any]) -> Any:
    return owner


def _entries_of(array: Any) -> Any:
    return (array.tobytes(),)


def _of_class(names: Sequence[str], owner: type) -> Any:
    return [vars(owner)[name] for name in names]


_OF_EVERY_CLASS = set(vars(type("_", (), {}))) | {"__annotations__", "_abc_impl"}


def _sampled(array: Any) -> Callable[[], bytes]:
    """Return what reads the first entries of an array, and others at equal distances, to the last."""
    entries = np.unique(
        [
            *range(min(SAMPLED // 4, array.size)),
            *np.linspace(0, array.size - 1, SAMPLED).astype(int),
        ]
    )
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    return lambda: flat[entries].tobytes()


def _sum_of(array: Any) -> int:
    return crc32(np.ascontiguousarray(array).data.cast("B"))


def _drawing(source: Any) -> tuple[Callable[[], Any], Any, str]:
    """Return how to see whether a generator has drawn, and what it does then, in words."""

    def state() -> Any:
        return repr(source.getstate() if isinstance(source, random.Random) else source.get_state())

    return state, state(), f"the state of a {type(source).__name__}, by draws"


def _cells(function: FunctionType) -> dict[str, CellType]:
    """Return the closure of a function, without names that are bound later."""
    cells = {}
    for cell, name in zip(function.__closure__ or (), function.__code__.co_freevars, strict=True):
        with suppress(ValueError):
            _ = cell.cell_contents
            cells[name] = cell
    return cells


def _contents_of_cells(owner: tuple[CellType, ...]) -> Any:
    return [cell.cell_contents for cell in owner]


def _parts(each: Any) -> list[Any]:
    """Return what `each` holds for good."""
    if isinstance(each, tuple | frozenset):
        return list(each)
    if isinstance(each, partial):
        return [each.func, *each.args, each.keywords]
    if isinstance(each, property):
        return [each.fget]
    if isinstance(each, cached_property):
        return [each.func]
    if isinstance(each, staticmethod | classmethod):
        return [each.__func__]
    if isinstance(each, type):
        return [k for k in (*each.__bases__, type(each)) if not _is_library(k.__module__)]
    if isinstance(each, weakref.ref):
        return [each()]
    if isinstance(each, MethodType):
        return [each.__func__, each.__self__]
    if isinstance(each, BuiltinMethodType):
        return [each.__self__]
    if isinstance(each, FunctionType):
        given = [*(each.__defaults__ or ()), *(each.__kwdefaults__ or {}).values()]
        cells = _contents_of_cells(tuple(_cells(each).values()))
        return [*given, *cells, vars(each)]
    call = type(each).__call__ if callable(each) else None
    found = [call] if isinstance(call, FunctionType) else []
    return [*found, type(each), getattr_static(each, "__wrapped__", None)]


def _named(code: CodeType) -> set[str]:
    """Return the names that a function looks up, those in functions inside it included."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_named, inner))


def _all_equal(now: Any, then: Sequence[Any]) -> bool:
    return len(now) == len(then) and all(map(_is_equal, now, then))


def _is_equal(a: Any, b: Any) -> bool:
    if a is b or type(a) is not type(b):
        return a is b
    if isinstance(a, float | complex):
        return repr(a) == repr(b)  # which tells 0.0 and -0.0 apart, and no NaN from another
    return isinstance(a, str | bytes | int) and a == b


def _slots(kind: type) -> list[str]:
    declared = [vars(each).get("__slots__", ()) for each in kind.__mro__]
    names = [name for s in declared for name in ([s] if isinstance(s, str) else s)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _is_library(module: str | None) -> bool:
    root = (module or "").partition(".")[0]
    if root in ("numpy", "scipy", "thriftgrad") or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _is_base(kind: type) -> bool:
    """Tell whether objects of this kind lead far, and to nothing of the person's: locks, files, ..."""
    root = kind.__module__.partition(".")[0]
    if kind is SimpleNamespace or root == "collections":  # UserDict, ChainMap
        return False
    return root in sys.stdlib_module_names or root == "numpy"
