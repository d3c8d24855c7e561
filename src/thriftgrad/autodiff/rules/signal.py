"""Derivatives of functions of sampled signals and of polynomials.

Differences, integrals, convolution and interpolation; a few functions of one number that go with
them; the functions that apply a person's function; and polynomials, held as their coefficients from
the highest power down. Where a formula is short it stands in the table. The others are written out
below it in simpler calls, and `pulled` differentiates those.

At points without a derivative: at a sample of `interp` the slope is that of the piece to the right,
and the angle of 0 has the derivative 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array, unbroadcast
from thriftgrad.autodiff.registry import defvjp, refuse
from thriftgrad.autodiff.rules.shaping import along, pulled
from thriftgrad.autodiff.tensor import primitive

Shape = tuple[int, ...]

# Differences and integrals are linear in the samples, whose values are not kept for that reason

defvjp(
    np.diff,
    a=lambda g, a_shape, n, axis, prepend: _undiffed(g, n, axis, a_shape, _width(prepend, axis)),
    prepend=lambda g, n, axis, prepend_shape: _undiffed(g, n, axis, prepend_shape, 0),
    append=lambda g, n, axis, append_shape: _undiffed(g, n, axis, append_shape, None),
)
defvjp(
    np.ediff1d,
    ary=lambda g, ary_shape, to_begin: _unstepped(g, ary_shape, to_begin),
    to_end=lambda g, to_end_shape: np.reshape(g[g.size - math.prod(to_end_shape) :], to_end_shape),
    to_begin=lambda g, to_begin_shape: np.reshape(g[: math.prod(to_begin_shape)], to_begin_shape),
)
defvjp(
    np.gradient,
    f=lambda g, f_shape, varargs, axis, edge_order: pulled(
        lambda f: _slopes(f, varargs, axis, edge_order), _zeros(g, f_shape), _all(g)
    ),
    varargs=lambda g, f, varargs, axis, edge_order, position: pulled(
        lambda spacing: _slopes(
            f, (*varargs[:position], spacing, *varargs[position + 1 :]), axis, edge_order
        ),
        varargs[position],
        _all(g),
    ),
)
defvjp(
    np.trapezoid,
    y=lambda g, y_shape, x, dx, axis: np.expand_dims(g, axis) * _weights(g, y_shape, x, dx, axis),
    x=lambda g, y, x, dx, axis: pulled(lambda x: _trapezoid(y, x, dx, axis), x, g),
    dx=lambda g, y, x, dx, axis: pulled(lambda dx: _trapezoid(y, x, dx, axis), dx, g),
)

# Convolution: the cotangent of one signal correlates g with the other

defvjp(
    np.convolve,
    a=lambda g, a_shape, v, mode: _correlated(g, a_shape, v),
    v=lambda g, a, v_shape, mode: _correlated(g, v_shape, a),
)
defvjp(
    np.correlate,
    a=lambda g, a_shape, v, mode: _correlated(
        g, a_shape, np.conjugate(np.ravel(v)[::-1]), math.prod(a_shape) < np.size(v)
    ),
    v=lambda g, a, v_shape, mode: np.reshape(
        np.conjugate(_correlated(g, v_shape, a, np.size(a) < math.prod(v_shape)))[::-1], v_shape
    ),
)
defvjp(
    np.interp,
    x=lambda g, x, xp, fp, left, right, period: pulled(
        lambda x: _interp(x, xp, fp, left, right, period), x, g
    ),
    xp=lambda g, x, xp, fp, left, right, period: pulled(
        lambda xp: _interp(x, xp, fp, left, right, period), xp, g
    ),
    fp=lambda g, x, xp, fp_shape, left, right, period: pulled(
        lambda fp: _interp(x, xp, fp, left, right, period), _zeros(g, fp_shape), g
    ),
    left=lambda g, x, xp, fp, left, right, period: pulled(
        lambda left: _interp(x, xp, fp, left, right, period), left, g
    ),
    right=lambda g, x, xp, fp, left, right, period: pulled(
        lambda right: _interp(x, xp, fp, left, right, period), right, g
    ),
    period=lambda g, x, xp, fp, left, right, period: pulled(
        lambda period: _interp(x, xp, fp, left, right, period), period, g
    ),
)

# Functions of one number


@primitive
def sinc_derivative(t: Array, order: int) -> Array:
    """Return the derivative of sin(t)/t of an order, by its series where the closed form cancels.

    With s₀ = sin(t)/t, the derivatives are sₙ = (sin(t + nπ/2) − n·sₙ₋₁)/t.
    """
    near = np.absolute(t) < _sinc_limit(order)
    with np.errstate(all="ignore"):  # what the closed form makes of small arguments is not used
        sine, cosine = np.sin(t), np.cos(t)
        closed = sine / t
        for n in range(1, order + 1):
            turned = cosine if n % 2 else sine
            closed = ((turned if n % 4 < 2 else -turned) - n * closed) / t
    result = np.asarray(closed)
    if np.any(near):
        small = np.asarray(t)[near]
        square = small * small
        first = (order + 1) // 2
        series = np.zeros_like(small)
        for k in range(first + (12 if order < 2 else 14 + order), first - 1, -1):
            factor = (-1) ** k * math.perm(2 * k, order) / math.factorial(2 * k + 1)
            series *= square
            series += factor
        result[near] = series * small if order % 2 else series
    return result[()]


def _sinc_limit(order: int) -> float:
    """Return where the closed form of a derivative of sin(t)/t begins to lose no digits that count."""
    return 1.0 if order < 2 else order + 1.0


@primitive
def i0_derivative(x: Array, order: int) -> Array:
    """Return the derivative of the Bessel function I₀ of an order.

    It is the integral of cosh(x·cos θ), or sinh for odd orders, times cosⁿθ, over a quarter turn. The
    integrand is periodic and smooth, so the trapezoidal rule is exact to rounding: its error is about
    I₂₅₆(x).
    """
    steps = 64
    function = np.sinh if order % 2 else np.cosh
    total = np.zeros_like(x)
    for i in range(steps):  # at a quarter turn the cosine is 0
        cosine = math.cos(i * math.pi / (2 * steps))
        total = total + function(x * cosine) * (cosine**order / (2 * steps if i == 0 else steps))
    return total + (0.5 / steps if order == 0 else 0.0)


defvjp(np.sinc, x=lambda g, x: g * (math.pi * sinc_derivative(math.pi * x, 1)))
defvjp(np.i0, x=lambda g, x: g * i0_derivative(x, 1))
defvjp(sinc_derivative, t=lambda g, t, order: g * sinc_derivative(t, order + 1))
defvjp(i0_derivative, x=lambda g, x, order: g * i0_derivative(x, order + 1))
defvjp(np.angle, z=lambda g, z, deg: g * (_turn(z) * (180 / math.pi if deg else 1)))
defvjp(np.unwrap, p=lambda g, discont, axis, period: g)

# Functions that apply a function

defvjp(
    np.apply_along_axis,
    arr=lambda g, func1d, axis, arr, args: _along_axis(g, func1d, axis, arr, args),
)
defvjp(
    np.apply_over_axes,
    a=lambda g, func, a, axes: pulled(lambda a: _over_axes(func, a, axes), a, g),
)

# Polynomials

defvjp(
    np.polyval,
    p=lambda g, p_shape, x: _by_powers(g, x, p_shape),
    x=lambda g, p, x: g * np.polyval(_polyder(p), x),
)
defvjp(
    np.polyadd,
    a1=lambda g, a1_shape: _lowest(g, a1_shape),
    a2=lambda g, a2_shape: _lowest(g, a2_shape),
)
defvjp(
    np.polysub,
    a1=lambda g, a1_shape: _lowest(g, a1_shape),
    a2=lambda g, a2_shape: _lowest(-g, a2_shape),
)
defvjp(
    np.polymul,
    a1=lambda g, a1_shape, a2: _multiplied(g, a1_shape, a2),
    a2=lambda g, a1, a2_shape: _multiplied(g, a2_shape, a1),
)
defvjp(
    np.polydiv,
    u=lambda g, u, v: pulled(lambda u: _polydiv(u, v, g[1].size), u, g),
    v=lambda g, u, v: pulled(lambda v: _polydiv(u, v, g[1].size), v, g),
)
defvjp(
    np.polyder,
    p=lambda g, p_shape, m: pulled(lambda p: _polyder(p, m), _zeros(g, p_shape), g),
)
defvjp(
    np.polyint,
    p=lambda g, p_shape, m, k: pulled(lambda p: _polyint(p, m, k), _zeros(g, p_shape), g),
    k=lambda g, p, m, k: pulled(lambda k: _polyint(p, m, k), k, g),
)
# p(r) = 0 holds while a coefficient changes: dr = −r**i·dpᵢ / p′(r)
defvjp(
    np.roots,
    p=lambda g, ans, p: _by_powers(-g / np.polyval(_polyder(p), ans), ans, np.shape(p)),
)
defvjp(np.poly, seq_of_zeros=lambda g, seq_of_zeros: pulled(_poly, seq_of_zeros, g))
refuse(
    "it scales its columns and drops small singular values; solve V = np.vander(x, deg + 1) for the "
    "coefficients in the open: np.linalg.solve(V.T @ V, V.T @ y)",
    np.polyfit,
)
defvjp(np.vander, constants=("N",), x=lambda g, x, increasing: _unpowered(g, x, increasing))


# Small things


def _zeros(g: Any, shape: Shape) -> Array:
    """Return where to take the derivative of a linear function: anywhere."""
    return np.zeros_like(g[0] if isinstance(g, (list, tuple)) else g, shape=shape)


def _all(g: Any) -> Any:
    return g if isinstance(g, (list, tuple)) else [g]


# Differences and integrals


def _width(prepended: Any, axis: int) -> int:
    if prepended is None:
        return 0
    return np.shape(prepended)[axis] if np.ndim(prepended) else 1


def _undiffed(g: Array, n: int, axis: int, shape: Shape, start: int | None) -> Array:
    """Return the cotangent of what stands at `start`, or at the end, in the array that is differed.

    The adjoint of a difference is the difference the other way, zeros standing outside.
    """
    if not g.shape:  # only the difference of order 0, the number itself, has no axis
        return g
    if not g.shape[axis]:
        return np.zeros_like(g, shape=shape)
    margin = list(g.shape)
    margin[axis] = n
    zeros = np.zeros_like(g, shape=tuple(margin))
    whole = (-1) ** n * np.diff(np.concatenate([zeros, g, zeros], axis=axis), n, axis)
    length = shape[axis] if shape else 1
    start = whole.shape[axis] - length if start is None else start
    return whole[along(axis % g.ndim, slice(start, start + length))]


def _unstepped(g: Array, shape: Shape, to_begin: Any) -> Array:
    start = 0 if to_begin is None else np.size(to_begin)
    steps = max(math.prod(shape) - 1, 0)
    return np.reshape(_undiffed(g[start : start + steps], 1, 0, (math.prod(shape),), 0), shape)


def _slopes(f: Array, varargs: Sequence[Any], axis: Any, edge_order: int) -> list[Array]:
    """Return `np.gradient` along each axis, by the formula for uneven spacing.

    Even spacing has a shorter formula of the same value. But with respect to coordinates that happen
    to be even, only the derivative of the long one is right.
    """
    rank = np.ndim(f)
    axes = range(rank) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    spacings = varargs or (1.0,)
    if len(spacings) == 1:
        spacings = tuple(spacings) * len(axes)
    return [_slope(f, d, i % rank, edge_order) for i, d in zip(axes, spacings, strict=True)]


def _slope(f: Array, spacing: Any, axis: int, edge_order: int) -> Array:
    f = np.moveaxis(f, axis, -1)
    if np.ndim(spacing):
        step = np.diff(spacing)
    else:
        step = np.real(np.ones_like(f, shape=(f.shape[-1] - 1,))) * spacing
    rise = (f[..., 1:] - f[..., :-1]) / step
    if f.shape[-1] == 2:
        first = last = rise
    else:
        before, after = step[:-1], step[1:]
        both = before + after
        inner = (rise[..., :-1] * after + rise[..., 1:] * before) / both
        first, last = rise[..., :1], rise[..., -1:]
        if edge_order == 2:
            bend = (rise[..., 1:] - rise[..., :-1]) / both
            first = first - (bend * before)[..., :1]
            last = last + (bend * after)[..., -1:]
        first = np.concatenate([first, inner], axis=-1)
    return np.moveaxis(np.concatenate([first, last], axis=-1), -1, axis)


def _weights(g: Array, shape: Shape, x: Any, dx: Any, axis: int) -> Array:
    """Return what each sample counts for in `np.trapezoid`: half of the steps to its neighbours."""
    axis %= len(shape)
    count = max(shape[axis] - 1, 0)
    one = np.ones_like(g, shape=(count, *(1,) * (len(shape) - axis - 1)))
    half = _steps(x, dx, axis, len(shape)) * (one * 0.5)
    axis -= len(shape)
    outside = list(half.shape)
    outside[axis] = shape[axis] - count
    zero = np.zeros_like(half, shape=tuple(outside))
    return np.concatenate([half, zero], axis=axis) + np.concatenate([zero, half], axis=axis)


def _trapezoid(y: Array, x: Any, dx: Any, axis: int) -> Array:
    axis %= y.ndim
    ends = y[along(axis, slice(1, None))] + y[along(axis, slice(None, -1))]
    return np.sum(ends * _steps(x, dx, axis, y.ndim) / 2.0, axis=axis)


def _steps(x: Any, dx: Any, axis: int, rank: int) -> Any:
    if x is None:
        return dx
    steps = np.diff(x, axis=axis if np.ndim(x) > 1 else -1)
    return np.reshape(steps, (-1, *(1,) * (rank - axis - 1))) if np.ndim(x) == 1 else steps


# Convolution


def _correlated(g: Array, shape: Shape, other: Array, backwards: bool = False) -> Array:
    """Return the cotangent of a signal of `shape` that was convolved with `other`.

    The length of g tells the mode: it is the middle part of the full product that NumPy returned.
    Where `correlate` exchanges its arguments it counts that part from the other end.
    """
    other = np.ravel(other)
    own = math.prod(shape)
    full, shorter = own + other.size - 1, min(own, other.size)
    start = 0 if g.size == full else shorter - 1
    if g.size == max(own, other.size):  # mode "same"
        start -= shorter // 2
    start = max(start, 0)
    if backwards:
        start = full - start - g.size
    margins = [np.zeros_like(g, shape=(n,)) for n in (start, full - start - g.size)]
    whole = np.concatenate([margins[0], g, margins[1]])
    return np.reshape(np.convolve(whole, other[::-1], "valid"), shape)


# Interpolation


def _interp(x: Any, xp: Any, fp: Any, left: Any, right: Any, period: Any) -> Array:
    xp, fp = np.reshape(xp, -1), np.reshape(fp, -1)
    if period is not None:
        period = np.absolute(period)
        x, xp = np.remainder(x, period), np.remainder(xp, period)
        order = np.argsort(xp)
        xp, fp = xp[order], fp[order]
        xp = np.concatenate([xp[-1:] - period, xp, xp[:1] + period])
        fp = np.concatenate([fp[-1:], fp, fp[:1]])
        left = right = None
    last = len(xp) - 1
    piece = np.clip(np.searchsorted(xp, x, side="right") - 1, 0, max(last - 1, 0))
    after = np.minimum(piece + 1, last)
    run = xp[after] - xp[piece]
    slope = (fp[after] - fp[piece]) / np.where(run == 0, 1.0, run)
    y = fp[piece] + slope * (x - xp[piece])
    y = np.where(x < xp[0], fp[0] if left is None else left, y)
    return np.where(x > xp[last], fp[last] if right is None else right, y)


# Functions of one number


def _turn(z: Array) -> Array:
    """Return the derivative of the angle of z: −i/z, and 0 for real numbers."""
    if np.iscomplexobj(z):
        return np.where(z == 0, 0, -1j / np.where(z == 0, 1, z))
    return np.zeros_like(z)


# Functions that apply a function: it is traced on each piece of the input by itself


def _along_axis(
    g: Array, func1d: Callable[..., Any], axis: int, arr: Array, args: tuple[Any, ...]
) -> Array:
    axis %= np.ndim(arr)
    lines = np.moveaxis(arr, axis, -1)
    shape = lines.shape
    results = range(axis, axis + g.ndim - len(shape) + 1)
    g = np.moveaxis(g, results, range(-len(results), 0))
    count = math.prod(shape[:-1])
    its_g = np.reshape(g, (count, *g.shape[len(shape) - 1 :]))
    parts = []
    for i, line in enumerate(np.split(np.reshape(lines, (count, shape[-1])), count)):
        part = pulled(lambda x: _stacked(func1d(x, *args)), np.reshape(line, -1), its_g[i])
        parts.append(_zeros(g, shape[-1:]) if part is None else part)
    return np.moveaxis(np.reshape(np.stack(parts), shape), -1, axis)


def _stacked(result: Any) -> Any:
    """Return a result as one array, as `apply_along_axis` does with a list."""
    return np.stack([_stacked(r) for r in result]) if isinstance(result, (list, tuple)) else result


def _over_axes(func: Callable[..., Any], a: Array, axes: Any) -> Array:
    rank = np.ndim(a)
    for axis in np.atleast_1d(axes).tolist():
        axis %= rank
        reduced = func(a, axis)
        a = reduced if np.ndim(reduced) == rank else np.expand_dims(reduced, axis)
    return a


# Polynomials


def _by_powers(g: Array, x: Any, shape: Shape) -> Array:
    """Return the cotangent of coefficients: Σ g·xⁱ, the highest power first."""
    if not shape[0]:
        return np.zeros_like(g, shape=shape)
    parts = []
    for _ in range(shape[0]):
        parts.append(unbroadcast(g, shape[1:]))
        g = g * x
    return np.stack(parts[::-1])


def _lowest(g: Array, shape: Shape) -> Array:
    return np.reshape(g[g.size - math.prod(shape) :], shape)


def _multiplied(g: Array, shape: Shape, other: Any) -> Array:
    """Return the cotangent of a factor. `polymul` drops leading zeros; they come back as zeros."""
    missing = math.prod(shape) + np.size(other) - 1 - g.size
    return _correlated(np.concatenate([np.zeros_like(g, shape=(missing,)), g]), shape, other)


def _polyder(p: Any, m: int = 1) -> Array:
    for _ in range(m):
        powers = np.arange(len(p) - 1, 0, -1, dtype=getattr(p, "dtype", float))
        p = np.multiply(p[:-1], np.reshape(powers, (-1, *(1,) * (np.ndim(p) - 1))))
    return p


def _polyint(p: Array, m: int, k: Any) -> Array:
    constants = np.broadcast_to(
        np.reshape(0.0 if k is None else k, -1), m if np.size(k) == 1 else np.size(k)
    )
    for i in range(m):
        p = p / np.arange(len(p), 0, -1, dtype=p.dtype)
        p = np.concatenate([p, constants[i : i + 1]])
    return p


def _polydiv(u: Array, v: Array, remaining: int) -> tuple[Array, Array]:
    """Divide by hand, and keep as many coefficients of the remainder as NumPy did."""
    rest, v = np.reshape(u, -1), np.reshape(v, -1)
    count = rest.size - v.size + 1
    quotient = []
    for _ in range(count):
        digit = rest[:1] / v[:1]
        quotient.append(digit)
        rest = np.concatenate([rest[1 : v.size] - digit * v[1:], rest[v.size :]])
    if count < 1:
        return np.zeros_like(rest, shape=(1,)), rest[rest.size - remaining :]
    # What the division took away is zero to NumPy, which keeps it while it is not quite
    lost = np.zeros_like(rest, shape=(max(remaining - rest.size, 0),))
    return np.concatenate(quotient), np.concatenate([lost, rest])[-remaining:]


def _poly(zeros: Array) -> Array:
    """Multiply out ∏(x − z), or take Leverrier's way to the characteristic polynomial of a matrix."""
    one = np.ones_like(zeros, shape=(1,))
    if np.ndim(zeros) == 1:
        product = one
        for i in range(len(zeros)):
            product = np.concatenate([product, one * 0]) - zeros[i] * np.concatenate(
                [one * 0, product]
            )
        return product
    identity = np.eye(len(zeros), dtype=zeros.dtype)
    power, coefficients = zeros, [one[0]]
    for k in range(1, len(zeros) + 1):
        coefficients.append(-np.trace(power) / k)
        power = zeros @ (power + coefficients[-1] * identity)
    return np.stack(coefficients)


def _unpowered(g: Array, x: Array, increasing: bool) -> Array:
    """Return the cotangent of x for powers 0, 1, 2, ... of it: each is i·xⁱ⁻¹."""
    g = g if increasing else g[:, ::-1]
    powers = np.arange(1, max(g.shape[1], 1), dtype=g.dtype)
    slopes = np.vander(x, len(powers), increasing=True) * powers
    return np.sum(g[:, 1:] * slopes, axis=1)
