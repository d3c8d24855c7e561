"""Derivatives of sorting and selection: what moved entries moves their cotangents back.

Where equal entries could be told apart only by their order, the derivative takes the order of NumPy's
stable sort: the first of the equal entries in the argument is the first in the result, and it is what
`np.unique` selects. An index or a mask is no value and receives nothing.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.recording import whole
from thriftgrad.autodiff.registry import constant, defvjp, refuse
from thriftgrad.autodiff.rules.indexing import scatter
from thriftgrad.autodiff.tensor import primitive
from thriftgrad.autodiff.transforms import vjp
from thriftgrad.errors import InPlaceError


def _if_known(function: Callable[..., Any], *names: str) -> list[str]:
    """Return those parameters that the function has in this version of NumPy."""
    return [name for name in names if name in inspect.signature(function).parameters]


# Sorting


@primitive
@whole
def stable_order(a: Array, axis: int) -> Any:
    """Return `np.argsort(a, axis, kind="stable")`.

    NumPy's other sort takes a fraction of the time, and where no two entries are equal the order is
    the same.
    """
    order = np.argsort(a, axis=axis)
    ordered = np.moveaxis(np.take_along_axis(a, order, axis=axis), axis, 0)
    # The entries stand in order, and if they rise from each to the next there is no NaN either.
    if ordered.dtype.kind == "c" or not np.all(ordered[:-1] < ordered[1:]):
        return np.argsort(a, axis=axis, kind="stable")
    return order


constant(stable_order)


@primitive
def put_along(values: Array, order: Any, axis: int) -> Array:
    """Undo `np.take_along_axis(x, order, axis)` for an `order` that names each place once."""
    result = np.empty_like(values)
    np.put_along_axis(result, order, values, axis=axis)
    return result


defvjp(put_along, values=lambda g, order, axis: np.take_along_axis(g, order, axis=axis))
defvjp(np.sort, a=lambda g, a, axis, kind, stable: _unsorted(g, a, axis))
defvjp(np.sort_complex, a=lambda g, a: _unsorted(g, a, -1))
defvjp(
    np.partition,
    # The order within the parts is NumPy's own affair; the sorted result says what went where.
    a=lambda g, ans, a, axis, kind: _unsorted(_in_order(g, ans, axis), a, axis),
)
defvjp(
    np.unique,
    constants=["return_index", "return_inverse", "return_counts", *_if_known(np.unique, "sorted")],
    ar=lambda g, ans, ar, axis, equal_nan: _first_of_equals(g, ans, ar, axis, equal_nan),
)
for _unique in (np.unique_all, np.unique_counts, np.unique_inverse):
    defvjp(_unique, x=lambda g, ans, x: _first_of_equals(g, ans, x, None, False))
defvjp(np.unique_values, x=lambda g, ans, x: _first_of_equals(g, ans, x, None, False))

# Selection by index

defvjp(
    np.take,
    a=lambda g, a_shape, indices, axis, mode: _taken(g, a_shape, indices, axis, mode),
)
defvjp(
    np.take_along_axis,
    arr=lambda g, arr_shape, indices, axis: _added_along(g, arr_shape, indices, axis),
)
defvjp(
    np.choose,
    constants=["a"],
    choices=lambda g, a, choices_shape, mode, position: np.where(
        np.equal(_in_range(a, len(choices_shape), mode), position), g, 0
    ),
)
defvjp(
    np.trim_zeros,
    constants=_if_known(np.trim_zeros, "axis"),
    filt=lambda g, filt, trim: _untrimmed(g, filt, trim),
)

# Selection by condition

defvjp(
    np.compress,
    a=lambda g, condition, a_shape, axis: _taken(g, a_shape, np.flatnonzero(condition), axis),
)
defvjp(
    np.extract,
    constants=["condition"],
    arr=lambda g, condition, arr_shape: _taken(g, arr_shape, np.flatnonzero(condition), None),
)
defvjp(
    np.select,
    choicelist=lambda g, condlist, position: np.where(_first_true(condlist, position), g, 0),
    default=lambda g, condlist: np.where(_first_true(condlist, len(condlist)), g, 0),
)
defvjp(
    np.piecewise,
    x=lambda g, x, condlist, funclist, args: _pieces(g, x, condlist, funclist, args),
)

# Writing

refuse(
    "it writes into its first argument, where a derivative may still need the old values; build a new "
    "array instead, with np.where, np.select, np.concatenate or np.stack (np.full_like on an array goes "
    "by np.copyto: multiply np.ones_like by the tensor)",
    *(np.put, np.place, np.putmask, np.copyto, np.put_along_axis, np.fill_diagonal),
    error=InPlaceError,
)


def _unsorted(g: Array, a: Array, axis: int | None) -> Array:
    """Permute g as sorting `a` did, backwards."""
    if axis is None:
        return np.reshape(_unsorted(g, np.ravel(a), 0), np.shape(a))
    return put_along(g, stable_order(a, axis), axis)


def _in_order(g: Array, a: Array, axis: int | None) -> Array:
    """Permute g as sorting `a` does."""
    axis = -1 if axis is None else axis
    return np.take_along_axis(g, stable_order(a, axis), axis=axis)


def _first_of_equals(g: Any, ans: Any, x: Array, axis: int | None, equal_nan: bool) -> Array:
    if isinstance(ans, tuple):
        g, ans = g[0], ans[0]
    first = np.unique(x, return_index=True, axis=axis, equal_nan=equal_nan)[1]
    if axis is None:  # some of these functions leave their result unsorted
        g = _in_order(g, ans, 0)
    return _taken(g, np.shape(x), first, axis)


def _taken(
    g: Array, shape: tuple[int, ...], indices: Any, axis: int | None, mode: str = "raise"
) -> Array:
    """Add g up where `np.take` found its entries."""
    if axis is None:
        return np.reshape(_taken(g, (prod(shape),), indices, 0, mode), shape)
    if not shape:  # NumPy lets a number be taken from along an axis 0 that it has not
        return np.reshape(_taken(g, (1,), indices, 0, mode), ())
    axis %= len(shape)
    return scatter(g, (*[slice(None)] * axis, _in_range(indices, shape[axis], mode)), shape)


def _in_range(indices: Any, n: int, mode: str) -> Any:
    if mode == "raise":
        return indices
    return np.remainder(indices, n) if mode == "wrap" else np.clip(indices, 0, n - 1)


def _added_along(g: Array, shape: tuple[int, ...], indices: Any, axis: int | None) -> Array:
    """Add g up where `np.take_along_axis` found its entries."""
    if axis is None:
        return np.reshape(scatter(g, indices, (prod(shape),)), shape)
    return scatter(g, index_along(indices, shape, axis), shape)


def index_along(indices: Any, shape: tuple[int, ...], axis: int) -> tuple[Any, ...]:
    """Return the index with which an array of `shape` is read as `np.take_along_axis` reads it."""
    index: list[Any] = list(np.ogrid[tuple([slice(n) for n in shape])])
    index[axis] = indices
    return tuple(index)


def _untrimmed(g: Array, filt: Array, trim: str) -> Array:
    found = np.argwhere(filt)
    from_front = "f" in trim.lower() and len(found) > 0
    start = [
        int(found[:, i].min()) if from_front and g.shape[i] < n else 0
        for i, n in enumerate(np.shape(filt))
    ]
    index = tuple([slice(i, i + n) for i, n in zip(start, g.shape, strict=True)])
    return scatter(g, index, np.shape(filt))


def _first_true(conditions: Sequence[Any], position: int) -> Any:
    """Return where the condition at `position` holds and none before it does."""
    none_before = np.logical_not(reduce(np.logical_or, conditions[:position], False))
    if position == len(conditions):
        return none_before
    return np.logical_and(conditions[position], none_before)


def _pieces(
    g: Array, x: Array, conditions: Any, functions: Sequence[Any], args: Sequence[Any]
) -> Array:
    """Send g back through each function, at the entries where it had the last word."""
    x = np.reshape(x, np.shape(x))
    alone = np.isscalar(conditions) or (
        not isinstance(conditions[0], (list, np.ndarray)) and x.ndim > 0
    )
    masks = list(np.array([conditions] if alone else conditions, dtype=bool))
    if len(masks) < len(functions):
        masks.append(_first_true(masks, len(masks)))
    total = np.zeros_like(x)
    for mask, function in reversed(list(zip(masks, functions, strict=True))):
        if callable(function):
            _, back = vjp(_of_one(function, args))(x[mask])
            total = total + scatter(back(np.reshape(g, x.shape)[mask]), mask, x.shape)
        g = np.where(mask, 0, g)
    return total


def _of_one(function: Callable[..., Any], args: Sequence[Any]) -> Callable[[Array], Array]:
    return lambda piece: np.broadcast_to(function(piece, *args), piece.shape)
