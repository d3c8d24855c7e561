"""Derivatives of elementwise functions.

A rule may name the result `ans` where that is cheaper to keep or to compute with than the argument.
At points without a derivative: that of |x| at 0 is 0; where the two arguments of a maximum or minimum
are equal each receives half; that of x**y with respect to y is 0 where x is 0.
"""

import math

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import defvjp
from thriftgrad.autodiff.tensor import cast

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
    y=lambda g, ans, x: _log_or_zero(g, ans, x),
)
defvjp(
    np.float_power,
    x=lambda g, x, y: g * (y * _one_less(x, y)),
    y=lambda g, ans, x: _log_or_zero(g, ans, x),
)
defvjp(np.remainder, x=lambda g: g, y=lambda g, x, y: -g * np.floor_divide(x, y))
defvjp(np.fmod, x=lambda g: g, y=lambda g, x, y: -g * np.trunc(x / y))
defvjp(np.divmod, x=lambda g: g[1], y=lambda g, x, y: -g[1] * np.floor_divide(x, y))
defvjp(np.modf, x=lambda g: g[0])
defvjp(cast, x=lambda g: g)

# Exponentials and logarithms

defvjp(np.exp, x=lambda g, ans: g * ans)
defvjp(np.exp2, x=lambda g, ans: g * (ans * math.log(2)))
defvjp(np.expm1, x=lambda g, ans: g * (ans + 1))
defvjp(np.log, x=lambda g, x: g / x)
defvjp(np.log2, x=lambda g, x: g / (x * math.log(2)))
defvjp(np.log10, x=lambda g, x: g / (x * math.log(10)))
defvjp(np.log1p, x=lambda g, x: g / (x + 1))
defvjp(np.logaddexp, x=lambda g, ans, x: g * _share(x, ans), y=lambda g, ans, y: g * _share(y, ans))
defvjp(
    np.logaddexp2,
    x=lambda g, ans, x: g * np.exp2(x - ans),
    y=lambda g, ans, y: g * np.exp2(y - ans),
)

# Roots

defvjp(np.sqrt, x=lambda g, ans: g / (2 * ans))
defvjp(np.cbrt, x=lambda g, ans: g / (3 * ans * ans))

# Circular and hyperbolic functions

defvjp(np.sin, x=lambda g, x: g * np.cos(x))
defvjp(np.cos, x=lambda g, x: -g * np.sin(x))
defvjp(np.tan, x=lambda g, ans: g * (1 + ans * ans))
defvjp(np.arcsin, x=lambda g, x: g / np.sqrt((1 - x) * (1 + x)))
defvjp(np.arccos, x=lambda g, x: -g / np.sqrt((1 - x) * (1 + x)))
defvjp(np.arctan, x=lambda g, x: g / (1 + x * x))
defvjp(
    np.arctan2,
    x=lambda g, x, y: g * (y / (x * x + y * y)),
    y=lambda g, x, y: g * (-x / (x * x + y * y)),
)
defvjp(np.hypot, x=lambda g, ans, x: g * (x / ans), y=lambda g, ans, y: g * (y / ans))
defvjp(np.sinh, x=lambda g, x: g * np.cosh(x))
defvjp(np.cosh, x=lambda g, x: g * np.sinh(x))
defvjp(np.tanh, x=lambda g, ans: g * (1 - ans * ans))
defvjp(np.arcsinh, x=lambda g, x: g / np.sqrt(x * x + 1))
defvjp(np.arccosh, x=lambda g, x: g / np.sqrt((x - 1) * (x + 1)))
defvjp(np.arctanh, x=lambda g, x: g / ((1 - x) * (1 + x)))
defvjp(np.deg2rad, x=lambda g: g * (math.pi / 180))
defvjp(np.radians, x=lambda g: g * (math.pi / 180))
defvjp(np.rad2deg, x=lambda g: g * (180 / math.pi))
defvjp(np.degrees, x=lambda g: g * (180 / math.pi))

# Absolute values and choices

defvjp(np.absolute, x=lambda g, ans, x: g * _direction(x, ans))
defvjp(np.fabs, x=lambda g, x: g * np.sign(x))
defvjp(np.copysign, x=lambda g, ans, x: g * (np.sign(x) * np.sign(ans)))
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
    x=lambda g, x, y: _winner(g, np.logical_not(x <= y), x == y),
    y=lambda g, x, y: _winner(g, np.logical_not(y <= x), x == y),
)
defvjp(
    np.fmin,
    x=lambda g, x, y: _winner(g, np.logical_not(x >= y), x == y),
    y=lambda g, x, y: _winner(g, np.logical_not(y >= x), x == y),
)
defvjp(
    np.where,
    "condition, x=None, y=None",
    constants=("condition",),
    x=lambda g, condition: np.where(condition, g, 0),
    y=lambda g, condition: np.where(condition, 0, g),
)
defvjp(
    np.clip,
    "a, a_min=None, a_max=None, out=None, min=None, max=None",
    a=lambda g, ans, a: np.where(ans == a, g, 0),
    a_min=lambda g, a, a_min: np.where(a < a_min, g, 0),
    a_max=lambda g, a, a_max: np.where(a > a_max, g, 0),
    min=lambda g, a, min: np.where(a < min, g, 0),
    max=lambda g, a, max: np.where(a > max, g, 0),
)
defvjp(np.nan_to_num, x=lambda g, x, nan, posinf, neginf: np.where(np.isfinite(x), g, 0))

# Complex numbers: the gradient of a real function of x + iy is ∂/∂x − i∂/∂y

defvjp(np.conjugate, x=lambda g: np.conjugate(g))
defvjp(np.real, val=lambda g: g)
defvjp(np.imag, val=lambda g: -1j * g)


def _one_less(x: Array, y: Array) -> Array:
    """Return x**(y − 1), and 1 where y is 0: there the factor y makes the product 0, even at x = 0."""
    if isinstance(y, int | float):
        return x if y == 2 else x ** (y - 1 if y else 1)
    return x ** np.where(y == 0, 1, y - 1)


def _log_or_zero(g: Array, ans: Array, x: Array) -> Array:
    return g * (ans * np.log(np.where(x == 0, 1, x)))


def _share(x: Array, ans: Array) -> Array:
    """Return exp(x − ans), and 0 rather than exp(−∞ + ∞) where both arguments are −∞."""
    return np.exp(x - np.where(np.isfinite(ans), ans, 0))


def _direction(x: Array, ans: Array) -> Array:
    """Return conj(x)/|x|, and 0 at 0."""
    if _is_complex(x):
        return np.conjugate(x) / np.where(ans == 0, 1, ans)
    return np.sign(x)


def _winner(g: Array, wins: Array, tied: Array) -> Array:
    return np.where(wins, g, np.where(tied, g * 0.5, 0))


def _is_complex(x: Array) -> bool:
    return isinstance(x, complex) or (hasattr(x, "dtype") and x.dtype.kind == "c")
