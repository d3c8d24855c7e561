"""How the ratio of a wrong δ to the right one depends on the pre-activation z.

The right δ has the factor σ'(z). For each mistake and each activation σ the ratio is a known function
r(z), and a few measurements at z, z + st, ... tell which of them it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Function = Callable[[Any], Any]


class Activation(NamedTuple):
    """An activation: its value, its derivative, and the derivative in terms of the value."""

    value: Function
    derivative: Function
    of_value: Function


def _sigmoid(z: Any) -> Any:
    return 0.5 + 0.5 * np.tanh(0.5 * z)


ACTIVATIONS = {
    "sigmoid": Activation(_sigmoid, lambda z: 0.25 / np.cosh(0.5 * z) ** 2, lambda y: y * (1 - y)),
    "tanh": Activation(np.tanh, lambda z: 1 / np.cosh(z) ** 2, lambda y: 1 - y * y),
    "softplus": Activation(lambda z: np.logaddexp(z, 0.0), _sigmoid, lambda y: -np.expm1(-y)),
}


class Mistake(NamedTuple):
    """A mistake with an activation: r(z) for it, and what is said of it."""

    ratio: Callable[[Activation], Function]
    evidence: str


_ONE_EXAMPLE = "for one example, as a parameter is moved, analytic / numeric runs like "

MISTAKES = {
    "missing derivative of the activation": Mistake(
        lambda s: lambda z: 1 / s.derivative(z),
        _ONE_EXAMPLE + "1/σ'(z) for σ = {activation}",
    ),
    "derivative taken of the activation instead of the pre-activation": Mistake(
        lambda s: lambda z: s.derivative(s.value(z)) / s.derivative(z),
        _ONE_EXAMPLE + "σ'(σ(z))/σ'(z) for σ = {activation}",
    ),
    "derivative in terms of the activation taken of the pre-activation": Mistake(
        lambda s: lambda z: s.of_value(z) / s.derivative(z),
        _ONE_EXAMPLE + "g(z)/σ'(z) for σ = {activation}, where g(σ(z)) = σ'(z)",
    ),
    "derivative of the activation applied once too often": Mistake(
        lambda s: s.derivative,
        _ONE_EXAMPLE + "σ'(z) for σ = {activation}",
    ),
}

# Up to where the slope of the activation, or of its derivative, is a tenth of the largest or more.
_OPEN = {"sigmoid": 3.6, "tanh": 1.8, "softplus": 3.6}
_GRID = np.linspace(-9.0, 9.0, 3601)


def explains(steps: Array, ratios: Array) -> list[tuple[str, str]]:
    """Return the mistakes and activations for which r(z + s·step) = ratio has a solution z, s.

    Args:
        steps: the first is 0.
        ratios: of the analytic to the numeric gradient, at each step.
    """
    # A ratio that hardly changes could be anything: two unknowns fit its value and its slope.
    change = float(np.ptp(ratios))
    if change <= 1e-2 * np.max(np.abs(ratios)):
        return []
    found = []
    turns = steps / steps[1]
    for kind, mistake in MISTAKES.items():
        for name, activation in ACTIVATIONS.items():
            with np.errstate(all="ignore"):
                ratio = mistake.ratio(activation)
                starts, seconds = _roots(ratio, ratios[0]), _roots(ratio, ratios[1])
                if any(
                    _fits(ratio, z + (w - z) * turns, ratios, change, _OPEN[name])
                    for z in starts
                    for w in seconds
                ):
                    found.append((kind, name))
    return found


def _fits(ratio: Function, z: Array, ratios: Array, change: float, limit: float) -> bool:
    """Tell whether r(z) are the ratios, which says something only where not every z is saturated.

    Far out each r is a constant and an exponential, and so are the ratios of many other mistakes.
    """
    unsaturated = np.abs(z) <= limit
    if not unsaturated.any():
        return False
    apart = np.abs(ratio(z) - ratios)
    smaller = min(change, float(np.max(np.abs(ratios[unsaturated]))))
    return bool(np.all(apart <= 1e-5 * change) and np.all(apart[unsaturated] <= 1e-5 * smaller))


def _roots(function: Function, wanted: float) -> list[float]:
    """Return where the function has the wanted value: crossings on a grid, refined by halving."""
    above = function(_GRID) > wanted
    roots = []
    for i in np.flatnonzero(above[1:] != above[:-1]):
        low, high = float(_GRID[i]), float(_GRID[i + 1])
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if (function(middle) > wanted) == above[i] else (low, middle)
        roots.append((low + high) / 2)
    return roots
