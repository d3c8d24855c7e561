"""Checking gradients against the values of the function that they are gradients of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad import tree
from thriftgrad.autodiff import grad
from thriftgrad.check.compared import Compared, reference, summarise
from thriftgrad.check.diagnosis import Case, diagnose
from thriftgrad.check.differences import measure, random_direction
from thriftgrad.check.given import Analytic
from thriftgrad.check.probe import Probe
from thriftgrad.check.problem import Problem
from thriftgrad.check.report import Block, Report
from thriftgrad.errors import ConfigError, DifferentiationError

Array = NDArray[Any]

ALL = 1000
"""Up to so many entries in all, every one is compared."""

DIRECTIONS = 4
"""Beyond that, a block is compared along so many random directions, ..."""

PROBED = 4
"""... at so many of its largest entries and so many random ones, ..."""

SMALL = 16
"""... unless it has no more entries than that."""

UNEXPLAINED = "none of the known mistakes explains these differences"
HINT = (
    "; if the function computes with data, pass x and y as arguments, so that single examples can be "
    "looked at"
)

_PLURAL = {"complex step": "complex steps", "differences": "differences"}


def gradients(
    function: Callable[..., Any],
    args: Sequence[Any],
    *,
    analytic: Any = None,
    argnums: int | Sequence[int] = 0,
    second_order: bool = False,
    directions: int | None = None,
    tolerance: float = 1e-6,
    rng: int | np.random.Generator = 0,
) -> Report:
    """Compare a gradient with differences of the function's values.

        n = (f(x + h) − f(x − h)) / 2h, extrapolated to h = 0, or Im f(x + ih) / h

    for every entry, with steps chosen entry by entry, in float64 whatever the type of the arguments.
    Complex steps are taken where the function allows them and they agree with differences. Each n
    comes with an estimate e of its own error, and an entry a of the gradient passes where

        |a − n| ≤ tolerance·(|a| + |n|) + 4e

    Where there are more than 1,000 entries, each block is compared along random directions and at its
    largest and some random entries instead. Entries at which the function has a kink, such as a ReLU
    at 0, are told apart from errors. What is wrong is tried against the mistakes that people make.

    Gill, Murray, Wright (1981), Practical optimization, section 8.6; Squire, Trapp (1998), Using
    complex variables to estimate derivatives of real functions.

    Args:
        function: takes arrays, Python floats, or trees of these (dict, list, tuple, modules), and
            returns a scalar.
        args: the arguments, a tuple.
        analytic: what to check: gradients written by hand, as a callable with the same arguments that
            returns a tree shaped like the argument (a tuple of such for several argnums), or as such
            a tree. None for the gradient that thriftgrad makes of `function`.
        argnums: which arguments the gradient is for, one or several, as in `thriftgrad.grad`.
        second_order: check gradients of gradients too, along random directions v: the product H·v
            with the Hessian against differences of the gradient. Only where `analytic` is None, and
            not for complex arguments, which are refused.
        directions: compare along so many random directions a block, however few entries it has.
        tolerance: relative difference to allow.
        rng: seed or generator of the directions.

    Returns:
        The report; `report.raise_if_wrong()` for use in tests.

    Raises:
        ConfigError: arguments that do not fit together.
        DifferentiationError: an argument without derivative, a complex one with `second_order`, or
            a function that returns no scalar, another value when called again, or that writes into
            its arguments.
        NonFiniteError: the function is NaN or infinite at the arguments.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> from thriftgrad import check
        >>> def loss(p, x, y):
        ...     return np.mean((np.tanh(x @ p["w"]) - y) ** 2)
        >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 3.0]]), np.zeros(3)
        >>> args = ({"w": np.array([0.5, -1.0])}, x, y)
        >>> check.gradients(loss, args).ok
        True
        >>> def by_hand(p, x, y):
        ...     t = np.tanh(x @ p["w"])
        ...     return {"w": x.T @ (t - y) * 2 / len(y)}
        >>> check.gradients(loss, args, analytic=by_hand).diagnosis
        'missing derivative of the activation'
    """
    _check_options(analytic, second_order, directions, tolerance)
    rng = np.random.default_rng(rng)
    problem = Problem(function, args, argnums)
    if analytic is None:
        given = Analytic(grad(function, problem.argnums), problem)
    else:
        given = Analytic(analytic, problem, rng)
    references = [reference(a) for a in given.here]
    probe = Probe(problem, references, tolerance, rng)
    some = directions is not None or problem.size > ALL
    blocks, seen = [], []
    for k in range(len(problem.variables)):
        if given.problems[k]:
            compared = Compared(given.here[k], given.precisions[k], tolerance)
        elif some and problem.variables[k].x.size > (SMALL if directions is None else 0):
            compared = _along_directions(probe, given, k, directions or DIRECTIONS, rng)
        else:
            compared = _all_entries(probe, given, k)
        method = "complex step" if probe.analytic_in[k] else "differences"
        block = summarise(problem.variables[k], compared, max(references, default=0.0), method)
        block.problem = given.problems[k]
        blocks.append(block)
        seen.append(compared)
    if second_order:
        blocks += _second_order(problem, directions or 2, tolerance, rng)
    first = blocks[: len(problem.variables)]
    findings, unexplained = [], UNEXPLAINED
    if not all(block.ok for block in first):
        case = Case(problem, given, probe, first, seen, rng)
        findings = diagnose(case)
        if given.function is not None and case.batch() is None:
            unexplained += HINT
    against = "against " + " and ".join(sorted({_PLURAL[block.method] for block in blocks}))
    return Report(problem.name, against, blocks, findings, problem.calls, tolerance, unexplained)


def _all_entries(probe: Probe, given: Analytic, k: int) -> Compared:
    analytic = given.here[k]
    compared = Compared(analytic, given.precisions[k], probe.tolerance)
    for i in range(analytic.size):
        _compare_entry(probe, compared, k, i)
    return compared


def _compare_entry(probe: Probe, compared: Compared, k: int, i: int) -> bool:
    found = probe.entry(k, i)
    if not found.jump and compared.differs(i, found):
        found = probe.entry_again(k, i)
    return compared.add(i, found)


def _along_directions(
    probe: Probe, given: Analytic, k: int, directions: int, rng: np.random.Generator
) -> Compared:
    """Compare along random directions, at the largest entries, and at random ones.

    An error in a single entry changes every direction. Where it does so and the entries that were
    looked at are right, halving the direction finds the one.
    """
    analytic, scale = given.here[k], probe.problem.variables[k].scale
    compared = Compared(analytic, given.precisions[k], probe.tolerance)
    wrong: Array | None = None
    for _ in range(directions):
        v = random_direction(scale, rng)
        found = probe.direction(k, v)
        if not found.jump and compared.differs_along(v, found):
            found = probe.direction_again(k, v)
        if compared.add_direction(v, found):
            wrong = v
    sizes = np.where(np.isfinite(analytic), np.abs(analytic), np.inf)
    count = min(PROBED, analytic.size)
    largest = np.argpartition(sizes, -count)[-count:].tolist()
    chosen = {*largest, *rng.integers(analytic.size, size=count).tolist()}
    missed = [not _compare_entry(probe, compared, k, i) for i in sorted(chosen)]
    if wrong is not None and all(missed):
        _compare_entry(probe, compared, k, _locate(probe, compared, k, wrong))
    return compared


def _locate(probe: Probe, compared: Compared, k: int, direction: Array) -> int:
    """Return an entry that is wrong, given a direction along which the gradient is."""
    where = np.flatnonzero(direction)
    while len(where) > 1:
        halves = np.array_split(where, 2)
        off = []
        for half in halves:
            v = np.zeros_like(direction)
            v[half] = direction[half]
            off.append(compared.excess_along(v, probe.direction(k, v)))
        where = halves[int(np.argmax(off))]
    return int(where[0])


def _second_order(
    problem: Problem, directions: int, tolerance: float, rng: np.random.Generator
) -> list[Block]:
    """Compare H·v, the gradient of ⟨∇f, v⟩, with differences of ∇f along v."""
    if any(v.is_complex for v in problem.variables):
        raise DifferentiationError("second_order: complex arguments cannot be checked")
    argnums = tuple(problem.positions)
    first = grad(problem.function, argnums)
    sums = [
        Compared(np.empty(0), float(np.finfo(np.float64).eps), tolerance) for _ in problem.variables
    ]

    def flat(gradient: Any) -> list[Array]:
        return [np.asarray(leaf, np.float64).reshape(-1) for leaf in tree.flatten(gradient)[0]]

    def gradient(changes: dict[int, Array]) -> Array:
        with np.errstate(all="ignore"):
            return np.concatenate(flat(first(*problem.arguments(changes))))

    middle = gradient({})
    eps = float(np.finfo(np.float64).eps)
    noise = 16 * eps * (np.abs(middle) + float(np.max(np.abs(middle), initial=0.0)))
    for _ in range(directions):
        v = [random_direction(variable.scale, rng) for variable in problem.variables]
        leaves = [variable.leaf(d) for variable, d in zip(problem.variables, v, strict=True)]

        def product(*args: Any, leaves: list[Any] = leaves) -> Any:
            gradient = tree.flatten(first(*args))[0]
            return sum(np.sum(g * d) for g, d in zip(gradient, leaves, strict=True))

        def line(t: float, v: list[Array] = v) -> Array:
            return gradient({k: x.x + t * v[k] for k, x in enumerate(problem.variables)})

        analytic = flat(grad(product, argnums)(*problem.args))
        tries = [measure(line, middle, eps**0.2 * 8.0**-i, noise) for i in range(-1, 8)]
        errors = np.stack([np.nan_to_num(m.error, nan=np.inf) for m in tries])
        best = np.argmin(errors, axis=0)
        entries = np.arange(middle.size)
        numeric = np.stack([m.value for m in tries])[best, entries]
        error = errors[best, entries]
        kink = np.asarray(tries[-1].kink) & (error > tolerance * np.abs(tries[-1].jump))
        start = 0
        for k, a in enumerate(analytic):
            stop = start + a.size
            part = slice(start, stop)
            sums[k].extend(a, numeric[part], error[part], kink[part])
            start = stop
    scale = max((reference(c.analytic) for c in sums), default=0.0)
    blocks = []
    for variable, compared in zip(problem.variables, sums, strict=True):
        block = summarise(variable, compared, scale, "differences")
        block.name = f"(H·v){variable.name}"
        blocks.append(block)
    return blocks


def _check_options(
    analytic: Any, second_order: bool, directions: int | None, tolerance: float
) -> None:
    if second_order and analytic is not None:
        raise ConfigError(
            "second_order differentiates the gradient that thriftgrad makes of the function, so that "
            "it cannot be had with analytic="
        )
    if directions is not None and (not isinstance(directions, int) or directions < 1):
        raise ConfigError(
            f"directions={directions!r}: expected a whole number of at least 1, or None"
        )
    if not 0 < tolerance < 1:
        raise ConfigError(f"tolerance={tolerance!r}: expected a number between 0 and 1")
