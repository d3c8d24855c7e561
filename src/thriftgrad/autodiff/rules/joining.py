"""Derivatives of functions that join arrays or take them apart.

Of a joined array each part receives its own piece of the cotangent; of one that was taken apart the
pieces are joined again. `position` is the place of an array in the sequence.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import defvjp, refuse
from thriftgrad.autodiff.rules.indexing import scatter
from thriftgrad.autodiff.rules.shaping import along

Shape = tuple[int, ...]

# Joining

defvjp(
    np.concatenate,
    "arrays, axis=0, out=None, dtype=None, casting='same_kind'",
    arrays=lambda g, arrays_shape, axis, position: _piece(g, arrays_shape, axis, position),
)
defvjp(np.stack, arrays=lambda g, axis, position: g[along(axis % g.ndim, position)])
defvjp(np.hstack, tup=lambda g, tup_shape, position: _hstacked(g, tup_shape, position))
defvjp(np.vstack, tup=lambda g, tup_shape, position: _piece(g, tup_shape, 0, position, _row))
defvjp(np.dstack, tup=lambda g, tup_shape, position: _piece(g, tup_shape, 2, position, _deep))
defvjp(
    np.column_stack, tup=lambda g, tup_shape, position: _piece(g, tup_shape, 1, position, _column)
)
defvjp(
    np.append,
    arr=lambda g, arr_shape, values_shape, axis: _piece(g, (arr_shape, values_shape), axis, 0),
    values=lambda g, arr_shape, values_shape, axis: _piece(g, (arr_shape, values_shape), axis, 1),
)
refuse(
    "its nested lists hide the arrays from the tape; join rows by np.hstack (or np.concatenate with "
    "axis=-1) and then the rows by np.vstack (or axis=-2)",
    np.block,
)

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


def _piece(
    g: Array,
    shapes: Sequence[Any],
    axis: int | None,
    position: int,
    form: Callable[[Shape], Shape] | None = None,
) -> Array:
    """Return the part of g that belongs to the array at `position`, in that array's shape.

    `form` is the shape in which an array of some shape is joined, if that is another one.
    """
    own = _shape(shapes[position])
    if axis is None:
        start = sum(prod(_shape(shape)) for shape in shapes[:position])
        return np.reshape(g[start : start + prod(own)], own)
    form = form or _shape
    start = sum(form(_shape(shape))[axis] for shape in shapes[:position])
    part = g[along(axis % g.ndim, slice(start, start + form(own)[axis]))]
    return part if form is _shape else np.reshape(part, own)


def _shape(shape: Any) -> Shape:
    """Return a shape as such. That of a list of numbers arrives as a tuple of its numbers' shapes."""
    if shape and isinstance(shape[0], tuple):
        return (len(shape), *_shape(shape[0]))
    return shape  # type: ignore[no-any-return]


def _hstacked(g: Array, shapes: Sequence[Any], position: int) -> Array:
    if len(_shape(shapes[0])) > 1:
        return _piece(g, shapes, 1, position)
    return _piece(g, shapes, 0, position, lambda shape: shape or (1,))


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
