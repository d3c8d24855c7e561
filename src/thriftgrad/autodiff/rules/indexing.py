"""Derivatives of indexing: what was read from a place is added up there."""

import operator
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.recording import whole
from thriftgrad.autodiff.registry import defvjp
from thriftgrad.autodiff.tensor import primitive


@primitive
def scatter(values: Array, index: Any, shape: tuple[int, ...]) -> Array:
    """Return zeros of `shape` with `values` added at `index`; repeated indices add up."""
    known = all(_is_known(part) for part in (index if isinstance(index, tuple) else (index,)))
    return (_scattered if known else _scattered_whole)(values, index, shape)


def _scattered(values: Array, index: Any, shape: tuple[int, ...]) -> Array:
    result = np.zeros_like(values, shape=shape)
    if _repeats(index) and not _distinct(index, shape):
        np.add.at(result, index, values)
    else:
        result[index] = values
    return result


@whole
def _scattered_whole(values: Array, index: Any, shape: tuple[int, ...]) -> Array:
    # A recorder cannot look at an index that is another one in the next run.
    return _scattered(values, index, shape)


def _is_known(part: Any) -> bool:
    """Tell whether a part of an index is what it is, and does not stand for something."""
    return isinstance(part, np.ndarray) or not hasattr(part, "__array_ufunc__")


_BASIC = (int, np.integer, slice, type(None), type(Ellipsis))

defvjp(operator.getitem, "a, index", a=lambda g, a_shape, index: scatter(g, index, a_shape))
defvjp(tuple, "a", a=lambda g: np.stack(g))  # what iterating does: all rows, by one node
defvjp(scatter, values=lambda g, index: g[index])


def _distinct(index: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether `index`, if it is a row of integers along one axis, names no place twice.

    A look costs little, and what adds at repeated places several times what plain writing does.
    """
    axis = 0
    if isinstance(index, tuple):
        axis = len(index) - 1
        if not all(type(part) is slice and part == slice(None) for part in index[:axis]):
            return False
        index = index[axis]
    index = np.asarray(index)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        return False
    seen = np.zeros(shape[axis], bool)
    seen[index] = True
    return int(np.count_nonzero(seen)) == int(index.size)


def _repeats(index: Any) -> bool:
    """Tell whether `index` may name an entry twice: only arrays of integers can."""
    if isinstance(index, _BASIC):
        return False
    if isinstance(index, tuple):
        return any(_repeats(part) for part in index)
    return np.asarray(index).dtype.kind != "b"
