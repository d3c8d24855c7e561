"""Derivatives by differences of a function's values, each with an estimate of its own error.

The slope of f along a line is measured by central differences with two steps, t and t/2, from which
Richardson's extrapolation removes the error of second order. The same five values tell how far to
trust the result: the two differences disagree by the truncation error, the jump between the slopes
to the left and to the right fails to halve with the step where f is not smooth, and rounding errors
of f are amplified by 1/t. The step is chosen entry by entry to make the sum of the three small. A jump
that stays the same down to the smallest steps is a kink.

Gill, Murray, Wright (1981), Practical optimization, section 8.6, on choosing steps;
Moré, Wild (2011), Estimating computational noise;
Squire, Trapp (1998), Using complex variables to estimate derivatives of real functions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Line = Callable[[Any], Any]
"""A function's values along a line, by the step from the point in question."""

_SHRINK, _GROW = 16.0, 8.0
_SMALLEST = 1e-10
_LARGEST = 0.5
_TRIES = 14


class Values(NamedTuple):
    """What is known of a function's values where it is probed.

    Attributes:
        middle: the value at the point itself.
        noise: by how much values are off, absolutely.
        eps: the rounding unit of their type.
    """

    middle: float
    noise: float
    eps: float


class Slope(NamedTuple):
    """A measured derivative.

    Attributes:
        value: the derivative, or at a kink the mean of the slopes on both sides.
        error: estimate of the error of `value`.
        jump: at a kink, by how much the slope changes there; else 0.
    """

    value: float
    error: float
    jump: float = 0.0


class Measured(NamedTuple):
    """What five values say, for one function or, entry by entry, for an array of them."""

    value: Any
    truncation: Any
    roughness: Any
    rounding: Any
    jump: Any
    jump_coarse: Any

    @property
    def error(self) -> Any:
        """The three kinds of error together."""
        return self.truncation + self.roughness + self.rounding

    @property
    def kink(self) -> Any:
        """Whether the slope jumps by as much over half the step, which no smooth function does."""
        steady = np.abs(self.jump - self.jump_coarse) <= 0.25 * np.abs(self.jump_coarse)
        return steady & (np.abs(self.jump) > 16 * self.rounding)


def measure(line: Line, middle: Any, t: float, noise: Any) -> Measured:
    """Return what the values at 0, ±t/2 and ±t say; `middle` is that at 0, `noise` their error."""
    with np.errstate(all="ignore"):
        right, left, right_half, left_half = (
            np.asarray(line(step), np.float64) for step in (t, -t, t / 2, -t / 2)
        )
        coarse = (right - left) / (2 * t)
        fine = (right_half - left_half) / t
        jump_coarse = (right - 2 * middle + left) / t
        jump = (right_half - 2 * middle + left_half) / (t / 2)
        return Measured(
            value=fine + (fine - coarse) / 3,
            truncation=np.abs(fine - coarse) / 3,
            roughness=np.abs(jump - jump_coarse / 2),
            rounding=4 * noise / t,
            jump=jump,
            jump_coarse=jump_coarse,
        )


def slope(line: Line, values: Values, scale: float, good: Callable[[float], float]) -> Slope:
    """Return the derivative of a function of the step at 0, with steps chosen for it.

    Args:
        line: the function.
        values: what is known of its values.
        scale: a step that is a large change; the first one tried is 7e-4 of it.
        good: the error that will do, given the derivative.
    """
    t = values.eps**0.2 * scale
    best = Slope(math.nan, math.inf)
    seen: set[float] = set()
    while t not in seen and len(seen) < _TRIES:
        seen.add(t)
        m = measure(line, values.middle, t, values.noise)
        # The step itself is rounded when it is added to the point.
        rounding = float(m.rounding) + values.eps * scale / t * abs(float(m.value))
        bend = float(m.truncation) + float(m.roughness)
        if not math.isfinite(bend):
            t /= _SHRINK  # over the edge of the domain
        else:
            if bend + rounding < best.error:
                best = Slope(float(m.value), bend + rounding)
            if m.value == 0 and bend == 0:
                # Nothing changes at all. What rounding swallows may still have a slope: beside
                # numbers of order 1 along the way, or beside the value, a change below eps is lost.
                if best.value:
                    return best
                lost = values.eps * max(1.0, abs(values.middle)) / t
                return Slope(0.0, max(best.error, lost))
            if best.error <= good(best.value):
                return best
            if rounding > bend:
                if t * _GROW > _LARGEST * max(scale, 1.0):
                    return best
                t *= _GROW
            else:
                t /= _SHRINK
        if t < _SMALLEST * scale:
            if math.isfinite(bend) and m.kink:
                return Slope(float(m.value), rounding, float(m.jump))
            return best
    return best


def second_opinion(
    line: Line, values: Values, scale: float, good: Callable[[float], float]
) -> Slope:
    """Return `slope` with an error that covers the results from other first steps.

    For a function whose values are less exact than they seem, the two differences of one measurement
    can agree by chance. Those of three measurements do not.
    """
    slopes = [slope(line, values, scale * factor, good) for factor in (1.0, 0.6, 2.3)]
    for found in slopes:
        if found.jump:
            return found
    best = min(slopes, key=lambda s: s.error)
    spread = max(abs(s.value - best.value) for s in slopes)
    return Slope(best.value, max(best.error, spread))


def look(line: Line, middle: Any, scale: float) -> Values:
    """Return what is to be known of a function's values, by a table of differences.

    Differences of order k ≥ 3 of values at equal and tiny steps are all rounding error; multiplied by
    √((k!)² / (2k)!) each order estimates its standard deviation.
    """
    eps = precision(middle)
    floor = eps * abs(float(middle))
    for step in (4096 * eps * scale, 64 * math.sqrt(eps) * scale):
        values = np.array([float(line(step * i)) for i in range(-3, 4)])
        # Where nothing at all changes, the function may round its arguments to a coarser type; the
        # second step is longer than float32's rounding unit.
        if np.isfinite(values).all() and np.ptp(values) > 0:
            found = []
            for order in range(1, 7):
                values = np.diff(values)
                if order >= 3:
                    weight = math.factorial(order) ** 2 / math.factorial(2 * order)
                    found.append(math.sqrt(weight * float(np.mean(values * values))))
            return Values(float(middle), max(floor, float(np.median(found))), eps)
    return Values(float(middle), floor, eps)


def precision(value: Any) -> float:
    """Return the rounding unit of a value's type; an integer is as good as a float64."""
    dtype = np.result_type(value)
    return float(np.finfo(dtype if dtype.kind in "fc" else np.float64).eps)


def complex_step(line: Line) -> float | None:
    """Return Im f(x + ih)/h, exact to rounding where f is analytic; None where f takes no complex.

    Nothing is subtracted, so that h can be as small as 1e-100, and no error is left.
    """
    h = 1e-100
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy only warns when it drops an imaginary part
            value = line(complex(0, h))
    except Exception:  # whatever a person's code raises: it does not take complex numbers
        return None
    if (
        not isinstance(value, complex | np.generic | np.ndarray)
        or np.result_type(value).kind != "c"
    ):
        return None
    found = float(np.imag(value)) / h
    return found if math.isfinite(found) else None


def random_direction(scale: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return a direction in which every coordinate moves, by about its scale divided by √n."""
    direction = rng.normal(size=scale.shape) * scale
    return np.asarray(direction / math.sqrt(max(scale.size, 1)))
