"""One line in a table makes every test of a rule.

A `Case` is a call: a function, sample arguments, keywords. From it come the forward test, first and
second derivatives against central differences, dtype, memory order and mutation tests. Tables live in
`cases_*.py` beside this file, a table for each table of rules; a law walks them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import thriftgrad as tg
from thriftgrad.autodiff.adjoint import describe
from thriftgrad.autodiff.tensor import Tensor

Sample = Callable[[np.random.Generator], Any]


@dataclass
class Case:
    """A call whose derivatives are checked.

    `args` holds samples, functions that draw an argument from a generator, and plain values, which are
    passed as they are. Every argument drawn by a sample, in a list too, is differentiated.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    second: bool = True  # whether second derivatives exist and are checked
    single: bool = True  # whether the function takes float32
    tolerance: float = 1e-6
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or describe(self.function)

    def draw(self, seed: int = 0) -> tuple[Any, ...]:
        rng = np.random.default_rng([seed, *self.name.encode()])
        return tuple(_draw(a, rng) for a in self.args)

    def call(self, *args: Any) -> Any:
        return self.function(*args, **self.kwargs)


def case(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Case:
    """A line of a table. Options of the case itself start with an underscore."""
    options = {k[1:]: kwargs.pop(k) for k in list(kwargs) if k.startswith("_")}
    return Case(function, args, kwargs, **options)


class Drawn:
    """An argument to be drawn; what a table writes as `real(3, 4)`."""

    def __init__(self, draw: Sample, text: str) -> None:
        self.draw, self.text = draw, text

    def __repr__(self) -> str:
        return self.text


def _drawn(make: Callable[[np.random.Generator, tuple[int, ...]], Any]) -> Callable[..., Drawn]:
    def sample(*shape: int) -> Drawn:
        return Drawn(lambda rng: make(rng, shape), f"{make.__name__}{shape}")

    sample.__name__ = make.__name__
    return sample


@_drawn
def real(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Normal numbers, none of them close to zero, where many functions have a kink."""
    x = rng.normal(size=shape)
    return np.asarray(x + np.copysign(0.1, x))


@_drawn
def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.asarray(rng.uniform(0.5, 2.0, size=shape))


@_drawn
def inside(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Numbers well inside (−1, 1)."""
    return np.asarray(rng.uniform(0.1, 0.8, size=shape) * rng.choice([-1, 1], size=shape))


@_drawn
def unit(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Numbers well inside (0, 1)."""
    return np.asarray(rng.uniform(0.1, 0.9, size=shape))


@_drawn
def above_one(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.asarray(rng.uniform(1.2, 3.0, size=shape))


@_drawn
def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Numbers no two of which are close, for what sorts or selects."""
    n = math.prod(shape)
    return np.asarray(rng.permutation(n).reshape(shape) * 0.7 + 0.3 - 0.35 * n)


@_drawn
def complex_(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))


@_drawn
def square(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Matrices that are well conditioned."""
    return rng.normal(size=shape) + 3.0 * np.eye(shape[-2], shape[-1])


@_drawn
def spd(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Symmetric positive definite matrices."""
    a = rng.normal(size=shape)
    return a @ np.swapaxes(a, -1, -2) + 2.0 * np.eye(shape[-1])


def _draw(argument: Any, rng: np.random.Generator) -> Any:
    if isinstance(argument, Drawn):
        return argument.draw(rng)
    if isinstance(argument, (list, tuple)):
        return type(argument)(_draw(a, rng) for a in argument)
    return argument


def active(case: Case) -> list[int]:
    """Return the positions of the arguments that are differentiated."""

    def has_drawn(a: Any) -> bool:
        return isinstance(a, Drawn) or (isinstance(a, (list, tuple)) and any(map(has_drawn, a)))

    return [i for i, a in enumerate(case.args) if has_drawn(a)]


def outputs(result: Any) -> list[Any]:
    """Return the arrays of a result that carry a gradient."""
    parts = result if isinstance(result, (list, tuple)) else [result]
    return [p for p in parts if isinstance(p, Tensor) or np.asarray(p).dtype.kind in "fc"]


def weighted(case: Case) -> Callable[..., Any]:
    """Return the case as a function to one real number, by fixed random weights."""

    def scalar(*args: Any) -> Any:
        total: Any = 0.0
        for i, out in enumerate(outputs(case.call(*args))):
            rng = np.random.default_rng([7, i])
            shape = np.shape(out)
            weights = rng.uniform(0.5, 1.5, size=shape)
            dtype = out.dtype if hasattr(out, "dtype") else np.dtype(float)
            if dtype.kind == "c":
                weights = weights * np.exp(1j * rng.uniform(0, 6, size=shape))
            total = total + np.real(np.sum(out * weights.astype(dtype)))
        return total

    return scalar


def gradients(case: Case, function: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, ...]:
    return tg.grad(function, argnums=tuple(active(case)))(*args)


def inner(tree: Any, direction: Any) -> Any:
    """Return Re Σ g·v over arrays in step, which is the change of a function along v."""
    if isinstance(tree, (list, tuple)):
        return sum(inner(t, d) for t, d in zip(tree, direction, strict=True))
    return np.real(np.sum(tree * direction))


def direction_like(tree: Any, rng: np.random.Generator) -> Any:
    if isinstance(tree, (list, tuple)):
        return type(tree)(direction_like(t, rng) for t in tree)
    v = rng.normal(size=np.shape(tree))
    if np.iscomplexobj(tree):
        v = v + 1j * rng.normal(size=np.shape(tree))
    return np.asarray(v)


def moved(tree: Any, direction: Any, h: float) -> Any:
    if isinstance(tree, (list, tuple)):
        return type(tree)(moved(t, d, h) for t, d in zip(tree, direction, strict=True))
    return tree + h * direction


def slope(function: Callable[..., Any], args: Sequence[Any], along: dict[int, Any]) -> float:
    """Return the derivative of `function` along a direction, by central differences.

    Two steps and Richardson's extrapolation: the error is of the fourth order in the step.
    """

    def difference(h: float) -> float:
        ends = []
        for sign in (1, -1):
            there = [moved(a, along[i], sign * h) if i in along else a for i, a in enumerate(args)]
            ends.append(float(function(*there)))
        return (ends[0] - ends[1]) / (2 * h)

    h = 1e-3
    return (4 * difference(h / 2) - difference(h)) / 3


def assert_slope_matches(
    case: Case, function: Callable[..., Any], args: Sequence[Any], seed: int
) -> None:
    """Check every argument's gradient of a scalar function against differences of it."""
    found = gradients(case, function, args)
    rng = np.random.default_rng(seed)
    for g, i in zip(found, active(case), strict=True):
        v = direction_like(args[i], rng)
        numeric = slope(function, args, {i: v})
        analytic = float(inner(g, v))
        assert abs(analytic - numeric) <= case.tolerance * max(1.0, abs(numeric)), (
            f"{case.name}, argument {i}: the rule gives {analytic!r}, differences give {numeric!r}"
        )
