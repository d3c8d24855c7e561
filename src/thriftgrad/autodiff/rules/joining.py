"""Derivatives of functions that join arrays or take them apart.

Of a joined array each part receives its own piece of the cotangent; of one that was taken apart the
pieces are joined again.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import composed, defvjp
from thriftgrad.autodiff.rules.indexing import scatter
from thriftgrad.autodiff.rules.shaping import along
from thriftgrad.autodiff.tensor import Tensor

Shape = tuple[int, ...]

# Joining

defvjp(
    np.concatenate,
    "arrays, axis=0, out=None, dtype=None, casting='same_kind'",
    sequences=("arrays",),
    arrays=lambda g, arrays_shape, axis: _pieces(g, arrays_shape, axis),
)
defvjp(np.stack, sequences=("arrays",), arrays=lambda g, axis: list(np.moveaxis(g, axis, 0)))
defvjp(np.hstack, sequences=("tup",), tup=lambda g, tup_shape: _hstacked(g, tup_shape))
defvjp(np.vstack, sequences=("tup",), tup=lambda g, tup_shape: _pieces(g, tup_shape, 0, _row))
defvjp(np.dstack, sequences=("tup",), tup=lambda g, tup_shape: _pieces(g, tup_shape, 2, _deep))
defvjp(
    np.column_stack,
    sequences=("tup",),
    tup=lambda g, tup_shape: _pieces(g, tup_shape, 1, _column),
)
defvjp(
    np.append,
    joint=(
        ("arr", "values"),
        lambda g, arr_shape, values_shape, axis: _pieces(g, (arr_shape, values_shape), axis),
    ),
)
composed(np.block, lambda arrays: _block(arrays))

# Taking apart

for _split in (np.split, np.array_split):
    defvjp(
        _split,
        ary=lambda g, ary_shape, indices_or_sections, axis: _rejoined(
            g, ary_shape, indices_or_sections, axis
        ),
    )
defvjp(
    np.hsplit,
    ary=lambda g, ary_shape, indices_or_sections: _rejoined(
        g, ary_shape, indices_or_sections, min(1, len(ary_shape) - 1)
    ),
)
defvjp(
    np.vsplit,
    ary=lambda g, ary_shape, indices_or_sections: _rejoined(g, ary_shape, indices_or_sections, 0),
)
defvjp(
    np.dsplit,
    ary=lambda g, ary_shape, indices_or_sections: _rejoined(g, ary_shape, indices_or_sections, 2),
)
if hasattr(np, "unstack"):  # from NumPy 2.1 on
    defvjp(np.unstack, x=lambda g, axis: np.stack(g, axis=axis))

# Putting in and taking out

defvjp(
    np.insert,
    arr=lambda g, arr_shape, obj, values_shape, axis: np.reshape(
        g[np.insert(np.ones(arr_shape, bool), obj, np.zeros(_shape(values_shape), bool), axis)],
        arr_shape,
    ),
    values=lambda g, arr_shape, obj, values_shape, axis: _inserted(
        g, arr_shape, obj, _shape(values_shape), axis
    ),
)
defvjp(np.delete, arr=lambda g, arr_shape, obj, axis: _undeleted(g, arr_shape, obj, axis))


def _pieces(
    g: Array,
    shapes: Sequence[Any],
    axis: int | None,
    form: Callable[[Shape], Shape] = lambda shape: shape,
) -> list[Array]:
    """Return the parts of g that belong to the arrays of these shapes, each in its array's shape.

    `form` is the shape in which an array of some shape is joined, if that is another one.
    """
    own = [_shape(shape) for shape in shapes]
    if axis is None:
        lengths, axis = [prod(shape) for shape in own], 0
    else:
        lengths, axis = [form(shape)[axis] for shape in own], axis % g.ndim
    ends = [0, *accumulate(lengths)]
    parts = [g[along(axis, slice(*between))] for between in pairwise(ends)]
    return [
        part if part.shape == shape else np.reshape(part, shape)
        for part, shape in zip(parts, own, strict=True)
    ]


def _shape(shape: Any) -> Shape:
    """Return a shape as such. That of a list of numbers arrives as a tuple of its numbers' shapes."""
    if shape and isinstance(shape[0], tuple):
        return (len(shape), *_shape(shape[0]))
    return shape  # type: ignore[no-any-return]


def _hstacked(g: Array, shapes: Sequence[Any]) -> list[Array]:
    if len(_shape(shapes[0])) > 1:
        return _pieces(g, shapes, 1)
    return _pieces(g, shapes, 0, lambda shape: shape or (1,))


def _block(arrays: Any) -> Array:
    """Join nested lists of arrays from the inside out, the innermost along the last axis."""
    values = _mapped(lambda a: a.value if isinstance(a, Tensor) else a, arrays)
    np.block(values)  # its own errors say best what does not fit
    depth, inner = 0, arrays
    while isinstance(inner, list):
        depth, inner = depth + 1, inner[0]
    ranks: list[int] = []
    _mapped(lambda a: ranks.append(np.ndim(a)), arrays)
    rank = max(depth, *ranks)

    def joined(part: Any, axis: int) -> Array:
        if isinstance(part, list):
            return np.concatenate([joined(each, axis + 1) for each in part], axis=axis)
        return np.reshape(part, (1,) * (rank - np.ndim(part)) + np.shape(part))

    return joined(arrays, -depth)


def _mapped(function: Callable[[Any], Any], nested: Any) -> Any:
    if isinstance(nested, list):
        return [_mapped(function, each) for each in nested]
    return function(nested)


def _row(shape: Shape) -> Shape:
    return shape if len(shape) > 1 else (1, *(shape or (1,)))


def _column(shape: Shape) -> Shape:
    return shape if len(shape) > 1 else (*(shape or (1,)), 1)


def _deep(shape: Shape) -> Shape:
    return shape if len(shape) > 2 else (*_row(shape), 1)


def _rejoined(g: Sequence[Array], shape: Shape, where: Any, axis: int) -> Array:
    axis %= len(shape)
    joined = np.concatenate(g, axis=axis)
    if joined.shape == shape:
        return joined
    # Indices that run backwards make pieces overlap.
    origins = np.concatenate(np.split(np.arange(shape[axis]), where))
    return scatter(joined, along(axis, origins), shape)


def _inserted(g: Array, shape: Shape, where: Any, own: Shape, axis: int | None) -> Array:
    """Let `np.insert` insert the values' numbers: they show where each value came to stand."""
    size = prod(own)
    numbers = np.insert(np.full(shape, -1), where, np.arange(size).reshape(own), axis)
    new = numbers >= 0
    return np.reshape(scatter(g[new], numbers[new], (size,)), own)


def _undeleted(g: Array, shape: Shape, where: Any, axis: int | None) -> Array:
    kept = np.zeros(prod(shape), bool)
    kept[np.ravel(np.delete(np.arange(kept.size).reshape(shape), where, axis))] = True
    return scatter(np.ravel(g), kept.reshape(shape), shape)
