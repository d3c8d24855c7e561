"""The gradient that is to be checked: a callable's, or one given as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad import tree
from thriftgrad.check.differences import precision
from thriftgrad.check.problem import Problem, copied, plain
from thriftgrad.errors import ConfigError

Array = NDArray[Any]

_AWAY = 0.01
"""How far from the arguments, relative to their size, a gradient is asked for beforehand."""


class Analytic:
    """An analytic gradient, and what it is at the arguments of a problem.

    A callable is first asked for the gradient at two other places, with one set of arrays that is
    changed in place, as training does it. Code that keeps values of an earlier call is then wrong at
    the arguments themselves, where it can be seen.

    Args:
        source: a callable with the function's arguments, or a gradient.
        problem: the problem that it is for.
        rng: for the other places; None not to ask there, since the code keeps nothing.

    Attributes:
        function: the callable, or None.
        raw: for each variable, the gradient as it was given.
        here: the same as coordinates, zeros where the shape is wrong.
        problems: for each variable what is wrong with the shape, or "".
        precisions: rounding unit of each gradient's type.
        before: the problem at the first place it was asked at, and what came back; or None.

    Raises:
        ConfigError: a gradient that is no tree like the arguments that it is for.
    """

    def __init__(
        self, source: Any, problem: Problem, rng: np.random.Generator | None = None
    ) -> None:
        self.function: Callable[..., Any] | None = source if callable(source) else None
        self.before: tuple[Problem, list[Array]] | None = None
        if self.function is None:
            self.raw = _leaves(source, problem)
        elif rng is None:
            self.raw = self.at(problem)
        else:
            self.raw = self._after_other_calls(problem, rng)
        variables = problem.variables
        self.problems = [
            ""
            if g.shape == v.shape
            else f"the gradient has shape {g.shape}, the parameter has {v.shape}"
            for g, v in zip(self.raw, variables, strict=True)
        ]
        self.here = [
            v.coordinates(g) if not bad else np.zeros(v.x.size)
            for g, v, bad in zip(self.raw, variables, self.problems, strict=True)
        ]
        self.precisions = [precision(g) for g in self.raw]

    def at(self, problem: Problem) -> list[Array]:
        """Return the callable's gradient at the arguments of a problem, as it comes."""
        return self._call(problem, copied(problem.args))

    def coordinates_at(self, problem: Problem) -> list[Array] | None:
        """Return the callable's gradient as coordinates; None if there is none to be had there."""
        if self.function is None:
            return None
        try:
            raw = self.at(problem)
        except Exception:  # a person's code at arguments that it was not written for
            return None
        if any(g.shape != v.shape for g, v in zip(raw, problem.variables, strict=True)):
            return None
        return [v.coordinates(g) for g, v in zip(raw, problem.variables, strict=True)]

    def _call(self, problem: Problem, args: Sequence[Any]) -> list[Array]:
        assert self.function is not None
        with np.errstate(all="ignore"):
            # Code that keeps what its forward pass computed has to see that pass first.
            problem.function(*args)
            return [np.array(g) for g in _leaves(self.function(*args), problem)]

    def _after_other_calls(self, problem: Problem, rng: np.random.Generator) -> list[Array]:
        args = copied(problem.args)
        variables = [v.x + _AWAY * rng.normal(size=v.x.size) * v.scale for v in problem.variables]
        moved = problem.arguments(dict(enumerate(variables)))
        data = [
            a if i in problem.positions else tree.map(lambda leaf: _nudged(leaf, rng), a)
            for i, a in enumerate(problem.args)
        ]
        for place in (moved, data):
            args = [_write(a, b) for a, b in zip(args, place, strict=True)]
            try:
                found = self._call(problem, args)
            except Exception:  # a place outside of the domain; nothing is lost by not asking there
                continue
            if self.before is None:
                self.before = problem.at(copied(args)), found
        args = [_write(a, b) for a, b in zip(args, problem.args, strict=True)]
        found = self._call(problem, args)
        name = getattr(self.function, "__name__", "the gradient")
        problem.refuse_writes(args, name)
        return found


def _leaves(gradient: Any, problem: Problem) -> list[Array]:
    """Return the leaves of a gradient, one for each variable."""
    parts = [gradient] if isinstance(problem.argnums, int) else gradient
    wanted = [problem.args[i] for i in problem.positions]
    if not isinstance(parts, tuple | list) or len(parts) != len(wanted):
        raise ConfigError(
            f"the gradient is a {type(gradient).__name__}; expected a tuple of {len(wanted)}, one for "
            f"each of argnums={problem.argnums!r}"
        )
    found: list[Array] = []
    for part, argument in zip(parts, wanted, strict=True):
        paths, expected = tree.paths(part), tree.paths(argument)
        if paths != expected:
            raise ConfigError(
                f"the gradient is a tree with {_listed(paths)}; expected one shaped like the "
                f"argument, with {_listed(expected)}"
            )
        found += [np.asarray(plain(leaf)) for leaf in tree.flatten(part)[0]]
    return found


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(path or "a single array" for path in paths[:6])
    return f"{len(paths)} arrays: {shown}{', ...' if len(paths) > 6 else ''}"


def _write(old: Any, new: Any) -> Any:
    """Return the tree `new`, with its arrays in the memory of those of `old` where they fit."""

    def write(a: Any, b: Any) -> Any:
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape:
            a[...] = b
            return a
        return b

    return tree.map(write, old, new)


def _nudged(leaf: Any, rng: np.random.Generator) -> Any:
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind != "f" or not leaf.size:
        return leaf
    scale = np.full(leaf.shape, float(np.sqrt(np.mean(leaf * leaf))))
    return leaf + _AWAY * rng.normal(size=leaf.shape) * scale
