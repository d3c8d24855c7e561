"""Derivatives of elementwise functions.

A rule may name the result `ans` where that is cheaper to keep or to compute with than the argument.
Formulas are written so that no intermediate overflows or vanishes where the derivative does not.

A derivative that is infinite, as that of √x at 0, comes out as infinity, with the warning that NumPy
gives for 1/0; as everywhere in NumPy, 0·∞ in a chain of products is NaN, and only `np.where` *before*
such a function keeps it out. At a point without a derivative this is what comes instead of NaN:

    |x|, hypot(x, y), sign(z), arctan2(x, y)     0 at 0 and at (0, 0), for complex numbers too
    copysign(x, y)                               0 with respect to x at 0
    x**y                                         0 with respect to x where y is 0, and with respect
                                                 to y where x is 0
    maximum, minimum, fmax, fmin                 half for each of two equal arguments
    clip(x, lo, hi)                              all for x at a bound; where lo ≥ hi, for the one
                                                 that NumPy's minimum(maximum(x, lo), hi) takes
    logaddexp(x, y)                              1 for an argument that is ∞, 0 for one that is −∞
    remainder, fmod, divmod                      as if the quotient stayed what it is
    floor, ceil, trunc, rint, round, sign(x),    0 at the steps too
    floor_divide, heaviside
    nan_to_num                                   0 where something was replaced

A negative number to a power that is to be differentiated stays NaN, with NumPy's warning: there is no
such function next to it. √0 has the derivative ∞, so that of np.sqrt(np.sum(x**2)) at 0 is NaN; that
of np.linalg.norm is 0 there.
"""

import math

import numpy as np
from numpy._core import umath

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.recording import whole
from thriftgrad.autodiff.registry import defvjp
from thriftgrad.autodiff.tensor import cast, primitive


@primitive
@whole
def chosen(x: Array, mask: Array) -> Array:
    """Return `np.where(mask, x, 0)`, on large arrays in a tenth of the time.

    np.where takes a branch at every entry. A product takes none, but makes NaN of an infinite entry
    that is not chosen; then np.where does the work, as it does on small arrays.
    """
    if np.size(x) > _LARGE:
        with np.errstate(all="ignore"):
            product = x * mask
            if np.isfinite(np.sum(product)):
                return product
    return np.where(mask, x, 0)


_LARGE = 16384
defvjp(chosen, x=lambda g, mask: chosen(g, mask))

# Arithmetic

defvjp(np.add, x=lambda g: g, y=lambda g: g)
defvjp(np.subtract, x=lambda g: g, y=lambda g: -g)
defvjp(np.multiply, x=lambda g, y: g * y, y=lambda g, x: g * x)
defvjp(np.divide, x=lambda g, y: g / y, y=lambda g, ans, y: -g * ans / y)
defvjp(np.negative, x=lambda g: -g)
defvjp(np.positive, x=lambda g: g)
defvjp(np.reciprocal, x=lambda g, ans: -g * ans * ans)
defvjp(np.square, x=lambda g, x: g * (2 * x))
defvjp(
    np.power,
    x=lambda g, x, y: g * (y * _one_less(x, y)),
    y=lambda g, ans, x: g * _times_log(ans, x),
)
defvjp(
    np.float_power,
    x=lambda g, x, y: g * (y * _one_less(x, y)),
    y=lambda g, ans, x: g * _times_log(ans, x),
)
defvjp(np.remainder, x=lambda g: g, y=lambda g, x, y: -g * np.floor_divide(x, y))
defvjp(np.fmod, x=lambda g: g, y=lambda g, x, y: -g * _whole_quotient(x, y))
defvjp(np.divmod, x=lambda g: g[1], y=lambda g, x, y: -g[1] * np.floor_divide(x, y))
defvjp(np.modf, x=lambda g: g[0])
defvjp(np.frexp, x=lambda g, ans: np.ldexp(g[0], -ans[1]))
defvjp(np.ldexp, x=lambda g, y: np.ldexp(g, y))
defvjp(np.nextafter, x=lambda g: g, y=lambda g: np.zeros_like(g))
defvjp(cast, x=lambda g: g)
if hasattr(np, "astype"):  # NumPy 2.1
    defvjp(np.astype, x=lambda g, copy: g)

# Exponentials and logarithms

defvjp(np.exp, x=lambda g, ans: g * ans)
defvjp(np.exp2, x=lambda g, ans: g * (ans * math.log(2)))
defvjp(np.expm1, x=lambda g, ans: g * (ans + 1))
defvjp(np.log, x=lambda g, x: g / x)
defvjp(np.log2, x=lambda g, x: g / (x * math.log(2)))
defvjp(np.log10, x=lambda g, x: g / (x * math.log(10)))
defvjp(np.log1p, x=lambda g, x: g / (x + 1))
defvjp(
    np.logaddexp,
    x=lambda g, ans, x: g * np.exp(_behind(x, ans)),
    y=lambda g, ans, y: g * np.exp(_behind(y, ans)),
)
defvjp(
    np.logaddexp2,
    x=lambda g, ans, x: g * np.exp2(_behind(x, ans)),
    y=lambda g, ans, y: g * np.exp2(_behind(y, ans)),
)

# Roots

defvjp(np.sqrt, x=lambda g, ans: g / (2 * ans))
defvjp(np.cbrt, x=lambda g, ans: g / (3 * ans * ans))

# Circular and hyperbolic functions

defvjp(np.sin, x=lambda g, x: g * np.cos(x))
defvjp(np.cos, x=lambda g, x: -g * np.sin(x))
defvjp(np.tan, x=lambda g, ans: g * (1 + ans * ans))
defvjp(np.arcsin, x=lambda g, x: g / (np.sqrt(1 - x) * np.sqrt(1 + x)))
defvjp(np.arccos, x=lambda g, x: -g / (np.sqrt(1 - x) * np.sqrt(1 + x)))
defvjp(np.arctan, x=lambda g, x: _over_one_plus_square(g, x))
defvjp(
    np.arctan2,
    x=lambda g, x, y: g * _over_squares(y, x),
    y=lambda g, x, y: -g * _over_squares(x, y),
)
defvjp(
    np.hypot,
    x=lambda g, ans, x: g * (x / _not_zero(ans)),
    y=lambda g, ans, y: g * (y / _not_zero(ans)),
)
defvjp(np.sinh, x=lambda g, x: g * np.cosh(x))
defvjp(np.cosh, x=lambda g, x: g * np.sinh(x))
defvjp(np.tanh, x=lambda g, ans: g * (1 - ans * ans))
defvjp(np.arcsinh, x=lambda g, x: g / _root_of_one_plus_square(x))
defvjp(np.arccosh, x=lambda g, x: g / (np.sqrt(x - 1) * np.sqrt(x + 1)))
defvjp(np.arctanh, x=lambda g, x: g / (1 - x) / (1 + x))
defvjp(np.deg2rad, x=lambda g: g * (math.pi / 180))
defvjp(np.radians, x=lambda g: g * (math.pi / 180))
defvjp(np.rad2deg, x=lambda g: g * (180 / math.pi))
defvjp(np.degrees, x=lambda g: g * (180 / math.pi))

# Absolute values and choices

defvjp(np.absolute, x=lambda g, x: g * _direction(x))
defvjp(np.fabs, x=lambda g, x: g * np.sign(x))
defvjp(np.sign, x=lambda g, x: _turned(g, x))
defvjp(
    np.copysign,
    x=lambda g, ans, x: g * (np.sign(x) * np.sign(ans)),
    y=lambda g: np.zeros_like(g),
)
defvjp(np.heaviside, x=lambda g: np.zeros_like(g), y=lambda g, x: np.where(x == 0, g, 0))
defvjp(
    np.maximum,
    x=lambda g, x, y: _winner(g, x > y, x == y),
    y=lambda g, x, y: _winner(g, y > x, x == y),
)
defvjp(
    np.minimum,
    x=lambda g, x, y: _winner(g, x < y, x == y),
    y=lambda g, x, y: _winner(g, y < x, x == y),
)
defvjp(
    np.fmax,
    x=lambda g, x, y: _winner(g, np.logical_or(x > y, np.isnan(y)), x == y),
    y=lambda g, x, y: _winner(g, np.logical_or(y > x, np.isnan(x)), x == y),
)
defvjp(
    np.fmin,
    x=lambda g, x, y: _winner(g, np.logical_or(x < y, np.isnan(y)), x == y),
    y=lambda g, x, y: _winner(g, np.logical_or(y < x, np.isnan(x)), x == y),
)
defvjp(
    np.where,
    "condition, x=None, y=None",
    constants=("condition",),
    x=lambda g, condition: chosen(g, np.not_equal(condition, 0)),
    y=lambda g, condition: chosen(g, np.equal(condition, 0)),
)
defvjp(
    np.clip,
    "a, a_min=None, a_max=None, out=None, min=None, max=None",
    a=lambda g, ans, a: chosen(g, ans == a),
    a_min=lambda g, ans, a, a_min: chosen(g, _raised(ans, a, a_min)),
    a_max=lambda g, ans, a, a_min, min: chosen(g, _lowered(ans, a, a_min, min)),
    min=lambda g, ans, a, min: chosen(g, _raised(ans, a, min)),
    max=lambda g, ans, a, a_min, min: chosen(g, _lowered(ans, a, a_min, min)),
)
defvjp(  # what the method of an array with tensors for bounds calls
    vars(umath)["clip"],
    "a, min, max",
    a=lambda g, ans, a: chosen(g, ans == a),
    min=lambda g, ans, a, min: chosen(g, _raised(ans, a, min)),
    max=lambda g, ans, a, min: chosen(g, _lowered(ans, a, None, min)),
)
defvjp(np.nan_to_num, x=lambda g, x, nan, posinf, neginf: _where_finite(g, x))

# Complex numbers: the gradient of a real function of x + iy is ∂/∂x − i∂/∂y

defvjp(np.conjugate, x=lambda g: np.conjugate(g))
defvjp(np.real, val=lambda g: g)
defvjp(np.imag, val=lambda g: g * -1j)  # in this order a float64 scalar stays NumPy's
defvjp(np.real_if_close, a=lambda g, tol: g)

# Numbers in a row, each of which is (1 − t)·start + t·stop for a t of its own

defvjp(
    np.linspace,
    start=lambda g, num, endpoint, axis: _at_start(g, num, endpoint, axis),
    stop=lambda g, num, endpoint, axis: _at_stop(g, num, endpoint, axis),
)
defvjp(
    np.logspace,
    start=lambda g, ans, num, endpoint, base, axis: (
        _at_start(g * ans, num, endpoint, axis) * np.log(base)
    ),
    stop=lambda g, ans, num, endpoint, base, axis: (
        _at_stop(g * ans, num, endpoint, axis) * np.log(base)
    ),
)
defvjp(
    np.geomspace,
    start=lambda g, ans, start, num, endpoint, axis: (
        _at_start(g * ans, num, endpoint, axis) / start
    ),
    stop=lambda g, ans, stop, num, endpoint, axis: _at_stop(g * ans, num, endpoint, axis) / stop,
)
defvjp(np.full_like, constants=("a",), fill_value=lambda g: g)

# np.emath: complex results for real arguments outside of a function's domain

defvjp(np.emath.sqrt, x=lambda g, ans: g / (2 * ans))
defvjp(np.emath.log, x=lambda g, x: g / x)
defvjp(np.emath.log2, x=lambda g, x: g / (x * math.log(2)))
defvjp(np.emath.log10, x=lambda g, x: g / (x * math.log(10)))
defvjp(
    np.emath.logn,
    n=lambda g, ans, n: -g * ans / (n * np.emath.log(n)),
    x=lambda g, n, x: g / (x * np.emath.log(n)),
)
defvjp(
    np.emath.power,
    x=lambda g, x, p: g * (p * np.emath.power(x, np.where(p == 0, 1, p - 1))),
    p=lambda g, ans, x: g * np.where(x == 0, 0, ans * np.emath.log(np.where(x == 0, 1, x))),
)
defvjp(np.emath.arcsin, x=lambda g, x: g / _cosine_of_arcsine(x))
defvjp(np.emath.arccos, x=lambda g, x: -g / _cosine_of_arcsine(x))
defvjp(np.emath.arctanh, x=lambda g, x: g / (1 - x) / (1 + x))


def _one_less(x: Array, y: Array) -> Array:
    """Return x**(y − 1), and 1 where y is 0: there the factor y makes the product 0, even at x = 0."""
    if isinstance(y, int | float | complex):
        return x if y == 2 else x ** (y - 1 if y else 1)
    return x ** np.where(y == 0, 1, y - 1)


def _times_log(ans: Array, x: Array) -> Array:
    """Return x**y·log(x), and 0 where x is 0."""
    if isinstance(x, int | float) and x > 0:
        return ans * math.log(x)  # a Python number, which widens nothing
    zero = x == 0
    return np.where(zero, 0, ans) * np.log(np.where(zero, 1, x))


def _whole_quotient(x: Array, y: Array) -> Array:
    """Return the whole number n with fmod(x, y) = x − n·y.

    That is x/y rounded towards zero but for the rounding of x/y itself, which `floor_divide` avoids.
    """
    return np.sign(x) * np.sign(y) * np.floor_divide(np.fabs(x), np.fabs(y))


def _behind(x: Array, ans: Array) -> Array:
    """Return x − ans for x ≤ ans, with ∞ − ∞ = 0 and −∞ − (−∞) = −∞."""
    most = np.finfo(ans.dtype).max
    return np.minimum(x, most) - np.clip(ans, -most, most)


def _over_one_plus_square(g: Array, x: Array) -> Array:
    if _is_complex(x):
        return g / (1 + 1j * x) / (1 - 1j * x)
    return _over_real_one_plus_square(g, x)


@whole
def _over_real_one_plus_square(g: Array, x: Array) -> Array:
    with np.errstate(over="ignore"):
        squared = 1 + x * x
    if _in_range(squared):
        return g / squared
    h = np.hypot(x, 1)
    return g / h / h


def _root_of_one_plus_square(x: Array) -> Array:
    return np.sqrt(1 + 1j * x) * np.sqrt(1 - 1j * x) if _is_complex(x) else np.hypot(x, 1)


def _at_start(g: Array, num: int, endpoint: bool, axis: int) -> Array:
    t = np.linspace(0, 1, num, endpoint=endpoint, dtype=g.dtype)
    return np.tensordot(1 - t, np.moveaxis(g, axis, 0), axes=1)


def _at_stop(g: Array, num: int, endpoint: bool, axis: int) -> Array:
    t = np.linspace(0, 1, num, endpoint=endpoint, dtype=g.dtype)
    return np.tensordot(t, np.moveaxis(g, axis, 0), axes=1)


def _cosine_of_arcsine(x: Array) -> Array:
    """Return √(1 − x²) as it is just above the real line, where x + 0j is."""
    return np.conjugate(np.emath.sqrt(np.conjugate(1 - x))) * np.emath.sqrt(1 + x)


def _over_squares(x: Array, y: Array) -> Array:
    """Return x/(x² + y²), and 0 at (0, 0), although a square may be too large or small for a number."""
    return _over_squares_in_range(x, y)


@whole
def _over_squares_in_range(x: Array, y: Array) -> Array:
    if _is_real(x) and _is_real(y):
        with np.errstate(over="ignore", under="ignore"):
            squared = x * x + y * y
        if _in_range(squared):
            return x / squared
    h = _not_zero(np.hypot(x, y))
    return x / h / h


def _in_range(squared: Array) -> bool:
    """Tell whether all these are numbers that no rounding at the ends of the range has touched."""
    limits = np.finfo(squared.dtype if hasattr(squared, "dtype") else float)
    least = limits.tiny / limits.eps
    return bool(np.all(np.logical_and(np.greater(squared, least), np.less(squared, np.inf))))


def _not_zero(h: Array) -> Array:
    """Return h, and 1 where it is 0: where it divides what is 0 too, the quotient is to be 0."""
    return np.where(h == 0, 1, h)


def _direction(x: Array) -> Array:
    """Return conj(x)/|x|, and 0 at 0."""
    return np.conjugate(x) / _not_zero(np.abs(x)) if _is_complex(x) else np.sign(x)


def _turned(g: Array, x: Array) -> Array:
    """Return the cotangent of z in z/|z|: what turns z and not what lengthens it; 0 for a real z."""
    if not _is_complex(x):
        return np.zeros_like(g)
    ans, length = np.sign(x), np.abs(x)
    across = (g - np.conjugate(ans) * np.real(g * ans)) / _not_zero(length)
    return np.where(length == 0, 0, across)


def _winner(g: Array, wins: Array, tied: Array) -> Array:
    if np.size(g) > _LARGE:
        return chosen(g, wins) + chosen(g * 0.5, tied)
    return np.where(wins, g, np.where(tied, g * 0.5, 0))


def _raised(ans: Array, a: Array, low: Array) -> Array:
    """Tell where clip(a, low, ...) gave `low`."""
    return np.logical_and(a < low, ans == low)


def _lowered(ans: Array, a: Array, a_min: Array, min: Array) -> Array:
    """Tell where clip gave its upper bound, whichever of two names the lower one was given by."""
    low = min if a_min is None else a_min
    above = ans < a
    return above if low is None else np.logical_or(above, np.logical_and(ans < low, ans != a))


def _where_finite(g: Array, x: Array) -> Array:
    """Return g where x is finite, else 0; real and imaginary parts each on their own."""
    if not _is_complex(x):
        return np.where(np.isfinite(x), g, 0)
    real = np.where(np.isfinite(np.real(x)), np.real(g), 0)
    return real + 1j * np.where(np.isfinite(np.imag(x)), np.imag(g), 0)


def _is_real(x: Array) -> bool:
    """Tell whether x is made of floating-point numbers, neither a list nor integers."""
    return isinstance(x, float) or (hasattr(x, "dtype") and x.dtype.kind == "f")


def _is_complex(x: Array) -> bool:
    return isinstance(x, complex) or (hasattr(x, "dtype") and x.dtype.kind == "c")
