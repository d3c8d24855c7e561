"""A scalar function of real numbers: a person's function and arguments, ready to be probed.

Arguments are trees (dicts, lists, tuples, modules) with arrays of any floating-point type at their
leaves. Everything is evaluated in float64, whatever the type, since differences of float32 values say
next to nothing about a derivative. Each leaf of an argument that is varied is a `Variable`: a block
of the gradient, laid out as one vector of real numbers.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad import tree
from thriftgrad.autodiff import Tensor, no_grad
from thriftgrad.check.differences import precision
from thriftgrad.errors import ConfigError, DifferentiationError, NonFiniteError

Array = NDArray[Any]


@dataclass
class Variable:
    """A leaf of an argument that is varied.

    Attributes:
        name: where it is, as Python writes it: `params['w']`.
        kind: the type to hand to the function: `np.ndarray`, `np.generic`, `float` or `complex`.
        shape: of the leaf.
        is_complex: whether each entry is two coordinates, the real and the imaginary part.
        x: the coordinates as a vector of float64.
    """

    name: str
    kind: type
    shape: tuple[int, ...]
    is_complex: bool
    x: Array

    @cached_property
    def scale(self) -> Array:
        """What counts as a large change of each coordinate."""
        typical = float(np.sqrt(np.mean(self.x * self.x))) if self.x.size else 0.0
        return np.maximum(np.abs(self.x), typical or 1.0)

    def leaf(self, x: Array) -> Any:
        """Return the leaf that has the coordinates `x`, which may be complex for a complex step."""
        if self.is_complex:
            x = x[0::2] + 1j * x[1::2]
        shaped = x.reshape(self.shape)
        if self.kind is np.ndarray:
            return shaped
        return shaped[()] if self.kind is np.generic else shaped.item()

    def coordinates(self, gradient: Array) -> Array:
        """Return a gradient of this leaf's shape as ∂f/∂coordinate; that of z = x + iy is ∂x − i∂y."""
        flat = np.asarray(gradient).reshape(-1)
        if not self.is_complex:
            return np.real(flat).astype(np.float64)
        pairs = np.stack([np.real(flat), -np.imag(flat)], axis=1)
        return pairs.reshape(-1).astype(np.float64)

    def index(self, coordinate: int) -> tuple[Any, ...]:
        """Return the index of a coordinate in the leaf; a complex entry's ends in 're' or 'im'."""
        entry, part = divmod(coordinate, 2) if self.is_complex else (coordinate, 0)
        index: tuple[Any, ...] = tuple(int(i) for i in np.unravel_index(entry, self.shape))
        return (*index, ("re", "im")[part]) if self.is_complex else index


class Problem:
    """A function with arguments in float64, and the leaves of them that are varied.

    Attributes:
        function, args, argnums: the call, and which positions are varied; one int or several.
        variables: the leaves that are varied.
        calls: how often the function was called.
    """

    def __init__(
        self, function: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int]
    ) -> None:
        if not isinstance(args, tuple | list):
            raise ConfigError(
                f"args is a {type(args).__name__}; expected a tuple of the arguments: (x,) for one"
            )
        self.calls = 0
        self.function = function
        self.argnums = _whole(argnums)
        self.args = [tree.map(in_double, a) for a in args]
        self.positions = _positions(self.argnums, len(args))
        self.variables: list[Variable] = []
        self._trees: dict[int, tuple[list[Any], Any]] = {}
        self._homes: list[tuple[int, int]] = []
        names = _argument_names(function, len(args))
        for position in self.positions:
            leaves, structure = tree.flatten(self.args[position])
            self._trees[position] = leaves, structure
            for i, (leaf, path) in enumerate(
                zip(leaves, tree.paths(self.args[position], names[position]), strict=True)
            ):
                self.variables.append(_variable(leaf, path))
                self._homes.append((position, i))
        if not self.variables:
            raise ConfigError(
                f"argnums={argnums!r} picks arguments without any numbers in them; the gradient has "
                f"no entries"
            )

    @property
    def name(self) -> str:
        """What the function is called."""
        return getattr(self.function, "__name__", None) or type(self.function).__name__

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return sum(v.x.size for v in self.variables)

    def arguments(self, changes: Mapping[int, Array] | None = None) -> list[Any]:
        """Return the arguments with some variables, by number, put elsewhere."""
        if not changes:
            return list(self.args)
        changed: dict[int, list[Any]] = {}
        for k, x in changes.items():
            position, i = self._homes[k]
            leaves = changed.setdefault(position, list(self._trees[position][0]))
            leaves[i] = self.variables[k].leaf(x)
        args = list(self.args)
        for position, leaves in changed.items():
            args[position] = tree.unflatten(self._trees[position][1], leaves)
        return args

    def __call__(self, changes: Mapping[int, Array] | None = None) -> Any:
        """Return the function's value, a NumPy number."""
        # Values far out may overflow, or leave the domain of a logarithm: that is for the caller to
        # see in the result.
        with np.errstate(all="ignore"), no_grad():
            self.calls += 1
            value = self.function(*self.arguments(changes))
        return plain(value)

    def refuse_writes(self, args: Sequence[Any], by: str) -> None:
        """Compare copies of the arguments that were given away with the arguments themselves.

        Raises:
            DifferentiationError: they differ.
        """
        for mine, theirs in zip(self.args, args, strict=True):
            for a, b in zip(tree.flatten(mine)[0], tree.flatten(theirs)[0], strict=True):
                if isinstance(a, np.ndarray) and not np.array_equal(
                    a, b, equal_nan=a.dtype.kind in "fc"
                ):
                    raise DifferentiationError(
                        f"{by} writes into its arguments; it has no derivative by its values, "
                        f"since each call changes the point that the next one is made at: let it "
                        f"work on copies"
                    )

    def at(self, args: Sequence[Any]) -> Problem:
        """Return the same problem with other arguments."""
        return Problem(self.function, args, self.argnums)

    def along(self, k: int, direction: Array) -> Callable[[float], Any]:
        """Return the function's values along a line in one variable, as a function of the step."""
        x = self.variables[k].x
        return lambda t: self({k: x + t * direction})

    def along_all(self, directions: Sequence[Array]) -> Callable[[float], Any]:
        """Return the function's values along a line in all variables."""
        return lambda t: self(
            {
                k: v.x + t * d
                for k, (v, d) in enumerate(zip(self.variables, directions, strict=True))
            }
        )

    def entry(self, k: int, i: int) -> Callable[[float], Any]:
        """Return the function's values along one coordinate of a variable."""
        x = self.variables[k].x

        def moved(t: Any) -> Any:
            there = x + 0 * t if isinstance(t, complex) else x.copy()
            there[i] += t
            return self({k: there})

        return moved

    def checked_value(self) -> Any:
        """Return the value at the arguments, having looked whether it is fit to be differenced.

        Raises:
            DifferentiationError: it is no real scalar, differs between two calls, or the function
                writes into its arguments.
            NonFiniteError: it is NaN or infinite.
        """
        private = self.at(copied(self.args))
        value = private()
        number = isinstance(value, np.ndarray | np.generic | float | int)
        if not number or np.shape(value) != () or np.result_type(value).kind not in "fiub":
            array = isinstance(value, np.ndarray) and value.shape
            kind = f"an array of shape {value.shape}" if array else repr(value)
            raise DifferentiationError(
                f"{self.name} returned {kind}; only a real scalar has a gradient: reduce it by "
                f"np.sum or np.mean"
            )
        if not np.isfinite(value):
            raise NonFiniteError(
                f"{self.name} is {float(value)} at the arguments given; differences of it say nothing"
            )
        self.refuse_writes(private.args, self.name)
        again = self()
        if abs(again - value) > precision(value) ** (2 / 3) * max(abs(value), abs(again)):
            raise DifferentiationError(
                f"{self.name} gave {float(value)!r} and then {float(again)!r} for the same arguments; "
                f"a function that draws random numbers (dropout: model.eval()) or keeps state cannot "
                f"be checked by its values"
            )
        return value


def in_double(leaf: Any) -> Any:
    """Return a leaf with its floating-point numbers as a plain float64 array; others as they are."""
    leaf = plain(leaf)
    kind = getattr(getattr(leaf, "dtype", None), "kind", "")
    if kind and kind in "fc":
        leaf = leaf.astype(np.float64 if kind == "f" else np.complex128)
    return leaf


def plain(value: Any) -> Any:
    """Return the array in a tensor; anything else as it is."""
    while isinstance(value, Tensor):
        value = value.value
    return value


def copied(args: Sequence[Any]) -> list[Any]:
    """Return arguments with copies of their arrays, to give away."""
    return [
        tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, a)
        for a in args
    ]


def _variable(leaf: Any, name: str) -> Variable:
    dtype = getattr(leaf, "dtype", None) or np.result_type(type(leaf)) if _numeric(leaf) else None
    if dtype is None or dtype.kind not in "fc":
        given = f"an array of {dtype}" if isinstance(leaf, np.ndarray) else repr(leaf)
        raise DifferentiationError(
            f"{name} is {given}, which has no derivative; pass floating-point numbers, or choose "
            f"other arguments by argnums"
        )
    kind = next(k for k in (np.ndarray, np.generic, float, complex) if isinstance(leaf, k))
    flat = np.asarray(leaf).reshape(-1)
    x = np.stack([flat.real, flat.imag], axis=1).reshape(-1) if dtype.kind == "c" else flat.copy()
    return Variable(name, kind, np.shape(leaf), dtype.kind == "c", x)


def _numeric(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | float | complex)


def _whole(argnums: Any) -> int | tuple[int, ...]:
    """Return argnums as Python's own integers; NumPy's will do as well."""
    try:
        return operator.index(argnums)
    except TypeError:
        pass
    try:
        return tuple(operator.index(i) for i in argnums)
    except TypeError:
        raise ConfigError(
            f"argnums={argnums!r}: expected a whole number, or several in a tuple"
        ) from None


def _positions(argnums: int | Sequence[int], given: int) -> list[int]:
    positions = [argnums] if isinstance(argnums, int) else list(argnums)
    if not positions or any(not -given <= i < given for i in positions):
        raise ConfigError(f"argnums={argnums!r} does not fit a call with {given} arguments")
    positions = [i % given for i in positions]
    if len(set(positions)) < len(positions):
        raise ConfigError(f"argnums={argnums!r} names an argument twice")
    return positions


def _argument_names(function: Callable[..., Any], given: int) -> list[str]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # many functions written in C have no signature
        parameters = []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in plain]
    return [*names, *(f"args[{i}]" for i in range(len(names), given))]
