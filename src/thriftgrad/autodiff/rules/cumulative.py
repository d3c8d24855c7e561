"""Derivatives of functions that accumulate along an axis.

Accumulating a function f means y₀ = x₀ and yⱼ = f(yⱼ₋₁, xⱼ). What reaches yⱼ directly and through all
that comes after it,

    sⱼ = gⱼ + ∂f/∂y(yⱼ, xⱼ₊₁) · sⱼ₊₁,

then goes on to xⱼ as ∂f/∂x(yⱼ₋₁, xⱼ) · sⱼ. So the rule for accumulating f is made of the rule for f,
and is right where that one is: a product of factors some of which are 0 needs no division, and a
running maximum that ties halves its cotangent at every tie, as `np.maximum` does.
"""

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import RULES, defvjp
from thriftgrad.autodiff.rules.reductions import present, within

defvjp(np.cumsum, a=lambda g, a_shape, axis: accumulated_sum(g, a_shape, axis))
defvjp(np.cumprod, a=lambda g, ans, a, axis: accumulated(np.multiply, g, a, ans, axis))
defvjp(
    np.nancumsum,
    a=lambda g, a, axis: within(accumulated_sum(g, np.shape(a), axis), present(a)),
)
defvjp(
    np.nancumprod,
    a=lambda g, ans, a, axis: within(
        accumulated(np.multiply, g, np.where(present(a), a, 1), ans, axis), present(a)
    ),
)
if hasattr(np, "cumulative_sum"):  # NumPy 2.1
    defvjp(
        np.cumulative_sum,
        x=lambda g, x_shape, axis, include_initial: accumulated_sum(
            _without_initial(g, axis, include_initial), x_shape, axis
        ),
    )
    defvjp(
        np.cumulative_prod,
        x=lambda g, ans, x, axis, include_initial: accumulated(
            np.multiply,
            _without_initial(g, axis, include_initial),
            x,
            _without_initial(ans, axis, include_initial),
            axis,
        ),
    )


def accumulated_sum(g: Array, shape: tuple[int, ...], axis: int | None) -> Array:
    """Return the sums of g from each entry to the end: each entry is in all later results."""
    g = np.moveaxis(g, 0 if axis is None or not shape else axis, 0)
    sums = np.cumsum(g[::-1], axis=0)[::-1]
    return np.reshape(sums, shape) if axis is None or not shape else np.moveaxis(sums, 0, axis)


def accumulated(f: np.ufunc, g: Array, x: Array, y: Array, axis: int | None) -> Array:
    """Return the cotangent of x, where y accumulates f along `axis` of x and has the cotangent g."""
    shape = np.shape(x)
    if axis is None or not shape:
        return np.reshape(accumulated(f, g, np.ravel(x), np.ravel(y), 0), shape)
    g, x, y = (np.moveaxis(array, axis, 0) for array in (g, x, y))
    call = (y[1:], y[:-1], x[1:])
    total = _discounted(g, by_rule(f, 0, np.ones_like(g[1:]), call))
    own = np.concatenate([total[:1], by_rule(f, 1, total[1:], call)])
    return np.moveaxis(own, 0, axis)


def by_rule(f: np.ufunc, position: int, g: Array, call: tuple[Array, ...]) -> Array:
    """Return what the rule for f makes of g for one argument in the call `(ans, x, y)`."""
    pull, pick = RULES[f].ready.vjp(position)  # type: ignore[union-attr]
    return pull(g, *pick(call))


def _discounted(g: Array, ratio: Array) -> Array:
    """Solve sⱼ = gⱼ + ratioⱼ·sⱼ₊₁ along the first axis.

    By doubling: s holds the sums of the next 1, 2, 4, ... terms, and the ratio what these are worth
    that many places before. It takes log₂ n steps, each with a derivative of its own.
    """
    n = g.shape[0]
    s, step = g, 1
    while step < n:
        s = np.concatenate([s[:-step] + ratio * s[step:], s[-step:]])
        ratio = ratio[:-step] * ratio[step:]
        step *= 2
    return s


def _without_initial(g: Array, axis: int | None, included: bool) -> Array:
    return np.moveaxis(np.moveaxis(g, axis or 0, 0)[1:], 0, axis or 0) if included else g
