"""Derivatives of reductions.

Where several entries share a maximum or minimum, each receives an equal part.
"""

from math import prod
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import RULES, defvjp

Axis = int | tuple[int, ...] | None

defvjp(
    np.sum,
    a=lambda g, a_shape, axis, keepdims, initial, where: _chosen(
        _spread(g, a_shape, axis, keepdims), where
    ),
)
defvjp(
    np.mean,
    a=lambda g, a_shape, axis, keepdims, where: _chosen(
        _spread(g, a_shape, axis, keepdims) / _count(a_shape, axis, where), where
    ),
)
defvjp(
    np.var,
    a=lambda g, a, axis, ddof, keepdims, where, correction: _var(
        _spread(g, a.shape, axis, keepdims), a, axis, ddof, where, correction
    ),
)
defvjp(
    np.std,
    a=lambda g, ans, a, axis, ddof, keepdims, where, correction: _var(
        _spread(_over_twice(g, ans), a.shape, axis, keepdims), a, axis, ddof, where, correction
    ),
)
defvjp(
    np.prod,
    a=lambda g, a, axis, keepdims, initial, where: _prod(
        _spread(g, a.shape, axis, keepdims), a, axis, initial, where
    ),
)
for _extreme in (np.max, np.min):
    defvjp(
        _extreme,
        a=lambda g, ans, a, axis, keepdims, initial, where: _shared(
            _spread(g, a.shape, axis, keepdims),
            a == _spread(ans, a.shape, axis, keepdims),
            axis,
            where,
        ),
    )
RULES[np.amax] = RULES[np.max]
RULES[np.amin] = RULES[np.min]


def _spread(g: Array, shape: tuple[int, ...], axis: Axis, keepdims: bool | None) -> Array:
    """Give back, with length one, the axes that the reduction took away.

    Repeating the entries along them is left to the engine.
    """
    if keepdims or axis is None:
        return g
    kept = list(shape)
    for i in axis if isinstance(axis, tuple) else (axis,):
        kept[i] = 1
    return g.reshape(kept)


def _chosen(g: Array, where: Any) -> Array:
    """Keep what `where=` let into the reduction."""
    return g if where is None or where is True else np.where(where, g, 0)


def _count(shape: tuple[int, ...], axis: Axis, where: Any) -> Any:
    """Return how many entries each result was made of."""
    if where is None or where is True:
        axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        return prod(shape[i] for i in axes)
    return np.sum(np.broadcast_to(where, shape), axis=axis, keepdims=True)


def _var(g: Array, a: Array, axis: Axis, ddof: Any, where: Any, correction: Any) -> Array:
    freedom = _count(np.shape(a), axis, where) - (ddof if correction is None else correction)
    kept = True if where is None else where
    deviation = a - np.mean(a, axis=axis, keepdims=True, where=kept)
    return _chosen(g * (np.conjugate(deviation) * 2) / freedom, where)


def _over_twice(g: Array, ans: Array) -> Array:
    """Return g/(2·ans), and 0 at a standard deviation of 0, where there is no derivative."""
    return np.where(ans == 0, 0, g / np.where(ans == 0, 1, 2 * ans))


def _prod(g: Array, a: Array, axis: Axis, initial: Any, where: Any) -> Array:
    """Multiply g by the product of all other entries, by which no entry needs to be divided by."""
    shape = np.shape(a)
    rank = len(shape)
    axes = tuple(range(rank)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(i % rank for i in axes)
    order = [*(i for i in range(rank) if i not in axes), *axes]
    x = a if where is None or where is True else np.where(where, a, 1)
    x = np.transpose(x, order)
    kept = x.shape[: rank - len(axes)]
    flat = np.reshape(x, (*kept, prod(x.shape[len(kept) :])))
    others = np.reshape(
        _products_before(flat) * _products_before(flat[..., ::-1])[..., ::-1], x.shape
    )
    back = np.transpose(others, np.argsort(order))
    return _chosen(g * back if initial is None else g * (back * initial), where)


def _products_before(x: Array) -> Array:
    """Return, along the last axis, the product of all entries before each one.

    By doubling: log₂ n multiplications of whole arrays, each with a derivative of its own.
    """
    one = np.ones_like(x[..., :1])
    result = np.concatenate([one, x[..., :-1]], axis=-1)
    step = 1
    while step < x.shape[-1]:
        ones = np.broadcast_to(one, (*one.shape[:-1], step))
        result = result * np.concatenate([ones, result[..., :-step]], axis=-1)
        step *= 2
    return result


def _shared(g: Array, mask: Array, axis: Axis, where: Any) -> Array:
    if where is not None and where is not True:
        mask = mask & where
    # With `initial` the extreme may be none of the entries; then nobody receives anything.
    ties = np.maximum(np.sum(mask, axis=axis, keepdims=True, dtype=g.dtype), 1)
    return np.where(mask, g / ties, 0)
