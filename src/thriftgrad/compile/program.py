"""A recorded function as a straight-line program: calls in single-assignment form, and what simplifies it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

Array = Any


@dataclass(eq=False)
class Variable:
    """A value of a program: an array, or a Python number.

    Attributes:
        shape: of the array; () for a number.
        dtype: of the array; that of float, complex, int or bool for a number.
        strides: of the array that was seen while recording.
        number: whether it is a Python number, which promotes no array.
        scalar: whether NumPy gave a scalar and not an array.
        constant: the value of all its entries, where that is one and the same in every run; else None.
        base: the variable whose memory it shares, if it is a view.
        hint: what a person may call it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] = ()
    number: bool = False
    scalar: bool = False
    constant: Any = None
    base: Variable | None = None
    hint: str = ""

    @property
    def nbytes(self) -> int:
        """The bytes that its entries take."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def root(self) -> Variable:
        """The variable whose memory this one lies in."""
        v = self
        while v.base is not None:
            v = v.base
        return v

    @property
    def c_strides(self) -> tuple[int, ...]:
        """The strides of these entries in the order of C."""
        strides = []
        step = self.dtype.itemsize
        for length in reversed(self.shape):
            strides.append(step)
            step *= length
        return tuple(reversed(strides))

    @property
    def is_flat(self) -> bool:
        """Whether the entries follow each other in the order of C."""
        steps = zip(self.strides, self.c_strides, self.shape, strict=True)
        return 0 in self.shape or all(s == c or n == 1 for s, c, n in steps)

    @property
    def packed(self) -> tuple[int, ...]:
        """Strides without gaps, in the order of axes that was seen; else those of C."""
        if 0 in self.shape or len(self.strides) != len(self.shape) or self.is_flat:
            return self.c_strides
        step = self.dtype.itemsize
        for k in sorted(range(len(self.shape)), key=lambda k: (self.strides[k], -k)):
            if self.shape[k] > 1:
                if self.strides[k] != step:
                    return self.c_strides
                step *= self.shape[k]
        return self.strides

    @property
    def layout(self) -> tuple[Any, ...]:
        """What two arrays must agree in for one to be computed in the memory of the other."""
        return self.shape, self.dtype, self.strides


@dataclass(eq=False)
class Call:
    """`results = function(*args, **kwargs)`, with variables in the place of arrays.

    Attributes:
        kind: "call"; "view", whose results share memory with what it was given; "number", of Python
            numbers; "require", which raises what its keyword `complaint` makes of the other arguments,
            unless the first is true.
        errors: how floating-point errors are handled, where the function had said so by `np.errstate`.
        recomputed: whether it makes again what a call before it has made.
        in_bands: whether it is a product that is made some rows at a time, for an update that uses them up.
        rerun: which second run of a function under `checkpoint` it belongs to; 0 for none. Calls of two
            such runs are never taken for one, or nothing would be recomputed.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Variable, ...]
    kind: str = "call"
    errors: dict[str, str] | None = None
    recomputed: bool = False
    rerun: int = 0
    in_bands: bool = False

    @property
    def operands(self) -> list[Variable]:
        """The variables among the arguments, wherever they are."""
        return list(variables(self.args)) + list(variables(self.kwargs))

    @property
    def result(self) -> Variable:
        """The result of a call that has one."""
        (only,) = self.results
        return only


@dataclass(eq=False)
class Input:
    """A value that comes from outside at each run.

    Attributes:
        variable: it, in the program.
        name: what the argument of the program is called.
        fetch: returns it; or None for what the person passes, in order.
        final: the variable whose value is written into it at the end; None if it is only read.
        wrote: what is told, with the array, once it has been written into.
        outside: whether it is one and the same array, neither passed nor a parameter's nor an optimiser's.
    """

    variable: Variable
    name: str
    fetch: Callable[[], Any] | None
    final: Variable | None = None
    wrote: Callable[[Any], None] | None = None
    outside: bool = False


@dataclass(eq=False)
class Program:
    """What a recording gives: inputs, calls in order, results.

    `outputs` are returned as fresh arrays; `gradients` are left at leaves (as fresh arrays, or None).
    """

    inputs: list[Input]
    calls: list[Call]
    outputs: list[Variable]
    gradients: list[tuple[Any, Variable | None]] = field(default_factory=list)
    afterwards: list[Callable[[], None]] = field(default_factory=list)

    @property
    def writes(self) -> list[Input]:
        """The inputs that are written into."""
        return [each for each in self.inputs if each.final is not None]

    @property
    def ends(self) -> list[Variable]:
        """The variables that a run is for."""
        finals = [each.final for each in self.inputs if each.final is not None]
        return [*self.outputs, *finals, *(v for _, v in self.gradients if v is not None)]


def leaves(value: Any) -> Iterator[Any]:
    """Yield what is in arguments: lists, tuples, dicts and slices are looked into."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, slice):
        yield from leaves((value.start, value.stop, value.step))
    else:
        yield value


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return arguments with `change(leaf)` in the place of each of their leaves."""
    if isinstance(value, list | tuple):
        items = [mapped(each, change) for each in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: mapped(each, change) for key, each in value.items()}
    if isinstance(value, slice):
        return slice(*(mapped(v, change) for v in (value.start, value.stop, value.step)))
    return change(value)


def variables(value: Any) -> Iterator[Variable]:
    """Yield the variables in arguments."""
    return (each for each in leaves(value) if isinstance(each, Variable))


def replaced(value: Any, change: Callable[[Variable], Any]) -> Any:
    """Return arguments with `change(variable)` in the place of each variable."""
    return mapped(value, lambda leaf: change(leaf) if isinstance(leaf, Variable) else leaf)


def is_literal(v: Variable, inputs: Container[Variable]) -> bool:
    """Tell whether a variable is one number, the same in all runs, and none of the inputs."""
    return v.constant is not None and v.shape == () and v not in inputs


def users_of(program: Program) -> dict[Variable, list[Call]]:
    """Return, for each variable that is read, the calls that read it, each once."""
    users: dict[Variable, list[Call]] = {}
    for call in program.calls:
        for v in dict.fromkeys(call.operands):
            users.setdefault(v, []).append(call)
    return users


def makers_of(program: Program) -> dict[Variable, Call]:
    """Return the call that makes each variable that is no input."""
    return {v: call for call in program.calls for v in call.results}


# Calls that have no name in NumPy


def converted(a: Array, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any = "K") -> Array:
    """Return `a` repeated to `shape`, in `dtype`, as an array of its own."""
    return np.broadcast_to(a, shape).astype(dtype, order=order)


def with_entries(a: Array, index: Any, value: Array) -> Array:
    """Return `a` with `a[index] = value`."""
    result = np.array(a)
    result[index] = value
    return result


def after(a: Array, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Array:
    """Return `a` as it is after `function(a, ...)`, which writes into it."""
    result = np.array(a)
    function(result, *args, **kwargs)
    return result


def drawn(generator: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return numbers drawn uniformly from [0, 1)."""
    return generator.random(shape, dtype=dtype)


# Making it smaller


def simplified(program: Program) -> Program:
    """Return a program with the same results and effects, without calls that it can do without.

    What depends on constants alone is computed now, what is computed twice is computed once, and what
    nobody asks for is left out.
    """
    return needed(_with_known(program, _find_repeated(program.calls)))


def needed(program: Program) -> Program:
    """Return a program without the calls that nobody asks for."""
    alive = set(program.ends)
    calls = []
    for call in reversed(program.calls):
        if call.kind == "require" or not alive.isdisjoint(call.results):
            alive.update(call.operands)
            calls.append(call)
    calls.reverse()
    inputs = [
        each
        for each in program.inputs
        if each.fetch is None or each.final is not None or each.variable in alive
    ]
    return Program(inputs, calls, program.outputs, program.gradients, program.afterwards)


def _find_repeated(calls: Sequence[Call]) -> dict[Variable, Variable]:
    """Return, for each variable that another one is equal to, that other one.

    A constant needs no call, so one that only constants are equal to goes as well.
    """
    first: dict[Any, Call] = {}
    same: dict[Variable, Variable] = {}

    def known(variable: Variable) -> Variable:
        return same.get(variable, variable)

    for call in calls:
        call.args = replaced(call.args, known)
        call.kwargs = replaced(call.kwargs, known)
        for result in call.results:
            result.base = None if result.base is None else known(result.base)
        if call.kind == "require" or call.function is drawn:
            continue
        identity = _identity_of(call)
        if identity is not None:
            same[call.result] = identity
            continue
        try:
            key = _key((call.function, call.kind, call.args, call.kwargs, call.errors, call.rerun))
            key = key, tuple((v.shape, v.dtype, v.strides) for v in call.results)
            earlier = first.setdefault(key, call)
        except TypeError:  # an argument that has no hash
            continue
        if earlier is not call:
            same.update(zip(call.results, earlier.results, strict=True))
    return same


def _identity_of(call: Call) -> Variable | None:
    """Return the operand that the call returns unchanged, if that can be seen from its arguments."""
    if call.function in (np.multiply, np.divide, operator.mul) and len(call.args) == 2:
        x, y = call.args
        if call.function is not np.divide and _is_one(x):
            x, y = y, x
        if (
            isinstance(x, Variable)
            and _is_one(y)
            and x.layout == call.result.layout
            and x.dtype.kind != "c"  # where (inf + 1j) * 1 is inf + nan j
            and (x.number, x.scalar) == (call.result.number, call.result.scalar)
        ):
            return x
    if call.kind == "view" and isinstance(call.args[0], Variable):
        x = call.args[0]
        if call.function is np.reshape and x.layout == call.result.layout:
            return x
    return None


def _is_one(value: Any) -> bool:
    if isinstance(value, Variable):
        value = value.constant
    return value is not None and not isinstance(value, np.ndarray | str) and bool(value == 1)


def _with_known(program: Program, same: dict[Variable, Variable]) -> Program:
    def known(variable: Variable) -> Variable:
        while variable in same:
            variable = same[variable]
        return variable

    for each in program.inputs:
        each.final = None if each.final is None else known(each.final)
    gradients = [(leaf, None if v is None else known(v)) for leaf, v in program.gradients]
    outputs = [known(v) for v in program.outputs]
    return Program(program.inputs, program.calls, outputs, gradients, program.afterwards)


def _key(value: Any) -> Any:
    """Return something to compare arguments by; 1, 1.0 and True are three different things."""
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_key, value))
    if isinstance(value, dict):
        return tuple((key, _key(each)) for key, each in value.items())
    if isinstance(value, slice):
        return slice, _key((value.start, value.stop, value.step))
    if isinstance(value, float | complex):
        return type(value), repr(value)  # which tells 0.0 and -0.0 apart
    hash(value)
    return type(value), value
