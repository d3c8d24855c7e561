"""Derivatives of reductions.

A reduction repeats its cotangent along the axes that it took away, and weighs it there by what each
entry had to do with the result. Where several entries share a maximum or minimum, each receives an
equal part. The functions that pass over NaN are the plain ones with a narrower `where=`, so a NaN
receives 0; where a plain maximum or minimum is NaN, nobody receives anything. A standard deviation
of 0 has no derivative, and gives 0.

The helpers without an underscore serve other tables too.
"""

from collections.abc import Callable
from functools import wraps
from math import prod
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import RULES, defvjp
from thriftgrad.autodiff.tape import Pull

Axis = int | tuple[int, ...] | None


def _variance(
    var: Callable[..., Any], std: Callable[..., Any], taken: Callable[[Array, Any], Any]
) -> None:
    """Declare the rules for a variance and its root, of the entries that `taken(a, where)` masks."""

    def of_var(
        g: Array,
        a: Array,
        axis: Axis,
        ddof: Any,
        keepdims: bool | None,
        where: Any,
        mean: Any,
        correction: Any,
    ) -> Array:
        g = spread(g, np.shape(a), axis, keepdims)
        return _var(g, a, axis, ddof, taken(a, where), mean, correction)

    def of_std(
        g: Array,
        ans: Array,
        a: Array,
        axis: Axis,
        ddof: Any,
        keepdims: bool | None,
        where: Any,
        mean: Any,
        correction: Any,
    ) -> Array:
        return of_var(_over_twice(g, ans), a, axis, ddof, keepdims, where, mean, correction)

    defvjp(var, a=of_var, mean=_negative(of_var))
    defvjp(std, a=of_std, mean=_negative(of_std))


def _negative(pull: Pull) -> Pull:
    @wraps(pull)  # which passes on the names of the residuals
    def negative(*args: Any) -> Any:
        return -pull(*args)

    return negative


defvjp(
    np.sum,
    a=lambda g, a_shape, axis, keepdims, initial, where: within(
        spread(g, a_shape, axis, keepdims), where
    ),
)
defvjp(
    np.mean,
    a=lambda g, a_shape, axis, keepdims, where: _mean(
        spread(g, a_shape, axis, keepdims), a_shape, axis, where
    ),
)
_variance(np.var, np.std, lambda a, where: where)
defvjp(
    np.prod,
    a=lambda g, a, axis, keepdims, initial, where: product(
        spread(g, np.shape(a), axis, keepdims), a, axis, initial, where
    ),
)
for _extreme in (np.max, np.min, np.nanmax, np.nanmin):
    # A NaN equals nothing, so that there is nothing to add for those that pass over it.
    defvjp(
        _extreme,
        a=lambda g, ans, a, axis, keepdims, initial, where: shared(
            spread(g, np.shape(a), axis, keepdims),
            a == spread(ans, np.shape(a), axis, keepdims),
            *(axis, where),
        ),
    )
RULES[np.amax] = RULES[np.max]
RULES[np.amin] = RULES[np.min]
defvjp(
    np.ptp,
    a=lambda g, a, axis, keepdims: _ptp(spread(g, np.shape(a), axis, keepdims), a, axis),
)

# Those that pass over NaN

defvjp(
    np.nansum,
    a=lambda g, a, axis, keepdims, initial, where: within(
        spread(g, np.shape(a), axis, keepdims), present(a, where)
    ),
)
defvjp(
    np.nanmean,
    a=lambda g, a, axis, keepdims, where: _mean(
        spread(g, np.shape(a), axis, keepdims), np.shape(a), axis, present(a, where)
    ),
)
_variance(np.nanvar, np.nanstd, lambda a, where: present(a, where))
defvjp(
    np.nanprod,
    a=lambda g, a, axis, keepdims, initial, where: product(
        spread(g, np.shape(a), axis, keepdims), a, axis, initial, present(a, where)
    ),
)


def axes_of(axis: Axis, rank: int) -> tuple[int, ...]:
    """Return the axes that `axis` names, as numbers from 0."""
    if axis is None:
        return tuple(range(rank))
    if not rank:  # NumPy lets a number be reduced along an axis 0 that it has not
        return ()
    return tuple([int(i) % rank for i in (axis if isinstance(axis, tuple) else (axis,))])


def spread(g: Array, shape: tuple[int, ...], axis: Axis, keepdims: bool | None) -> Array:
    """Give back, with length one, the axes that the reduction took away.

    Repeating the entries along them is left to the engine.
    """
    if keepdims or axis is None:
        return g
    kept = list(shape)
    for i in axes_of(axis, len(shape)):
        kept[i] = 1
    return g.reshape(kept)


def rows(x: Array, axis: Axis) -> Array:
    """Join the axes that are reduced into one, the last."""
    rank = np.ndim(x)
    taken = axes_of(axis, rank)
    x = np.transpose(x, _kept_first(taken, rank))
    kept = x.shape[: rank - len(taken)]
    return np.reshape(x, (*kept, prod(x.shape[len(kept) :])))


def unrows(x: Array, shape: tuple[int, ...], axis: Axis) -> Array:
    """Undo `rows` of an array of `shape`."""
    order = _kept_first(axes_of(axis, len(shape)), len(shape))
    back = sorted(order, key=order.__getitem__)
    return np.transpose(np.reshape(x, [shape[i] for i in order]), back)


def within(g: Array, where: Any) -> Array:
    """Keep what `where=` let into the reduction."""
    return g if where is None or where is True else np.where(where, g, 0)


def divided(g: Array, count: Any) -> Array:
    """Return g/count in the precision of g; half precision has no counts beyond 65504."""
    if g.dtype.itemsize > 2:
        return g / count
    return g * np.divide(1.0, count).astype(g.dtype)


def present(a: Array, where: Any = None) -> Array:
    """Return a mask of the entries that a function which passes over NaN takes in."""
    here = np.logical_not(np.isnan(a))
    return here if where is None or where is True else np.logical_and(here, where)


def shared(g: Array, mask: Array, axis: Axis, where: Any = None) -> Array:
    """Divide g equally among the entries in `mask`."""
    if where is not None and where is not True:
        mask = np.logical_and(mask, where)
    # With `initial` the extreme may be none of the entries; then nobody receives anything.
    dtype = np.promote_types(g.dtype, np.float32)
    ties = np.maximum(np.sum(mask, axis=axis, keepdims=True, dtype=dtype), 1)
    return np.where(mask, divided(g, ties), 0)


def product(g: Array, a: Array, axis: Axis, initial: Any = None, where: Any = None) -> Array:
    """Multiply g by the product of all other entries, by which no entry needs to be divided by."""
    x = rows(a if where is None or where is True else np.where(where, a, 1), axis)
    others = unrows(products_of_others(x), np.shape(a), axis)
    return within(g * others if initial is None else g * (others * initial), where)


def products_of_others(x: Array) -> Array:
    """Return, along the last axis, the product of all entries but each one."""
    return _products_before(x) * _products_before(x[..., ::-1])[..., ::-1]


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


def _mean(g: Array, shape: tuple[int, ...], axis: Axis, where: Any) -> Array:
    count = _count(g, shape, axis, where)
    count = count or 1 if isinstance(count, int) else np.maximum(count, 1)
    return within(divided(g, count), where)


def _var(
    g: Array, a: Array, axis: Axis, ddof: Any, where: Any, mean: Any, correction: Any
) -> Array:
    count = _count(g, np.shape(a), axis, where)
    freedom = count - (ddof if correction is None else correction)
    freedom = max(freedom, 0) if isinstance(count, int) else np.maximum(freedom, 0)
    # What `where` leaves out may be NaN, and 0·NaN would come through in a second derivative.
    a = within(a, where)
    if mean is None:
        mean = np.mean(a, axis=axis, keepdims=True, where=True if where is None else where)
    return within(divided(g * (np.conjugate(a - mean) * 2), freedom), where)


def _count(g: Array, shape: tuple[int, ...], axis: Axis, where: Any) -> Any:
    """Return how many entries each result was made of, in the precision of g or, if low, in single."""
    if where is None or where is True:
        return prod(shape[i] for i in axes_of(axis, len(shape)))
    real = np.promote_types(np.finfo(g.dtype).dtype, np.float32)
    return np.sum(np.broadcast_to(where, shape), axis=axis, keepdims=True, dtype=real)


def _over_twice(g: Array, ans: Array) -> Array:
    """Return g/(2·ans), and 0 at a standard deviation of 0, where there is no derivative."""
    return np.where(ans == 0, 0, g / np.where(ans == 0, 1, 2 * ans))


def _ptp(g: Array, a: Array, axis: Axis) -> Array:
    greatest = a == np.max(a, axis=axis, keepdims=True)
    least = a == np.min(a, axis=axis, keepdims=True)
    return shared(g, greatest, axis) - shared(g, least, axis)


def _kept_first(taken: tuple[int, ...], rank: int) -> list[int]:
    """Return the order of axes in which those that are reduced come last."""
    return [*(i for i in range(rank) if i not in taken), *taken]
