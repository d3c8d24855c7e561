"""Derivatives of functions that join arrays: each array receives its own part of the cotangent.

`position` is the place of the array in the sequence.
"""

from collections.abc import Sequence

import numpy as np

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import defvjp

defvjp(
    np.concatenate,
    "arrays, axis=0, out=None, dtype=None, casting='same_kind'",
    arrays=lambda g, arrays_shape, axis, position: _part(g, arrays_shape, axis, position),
)
defvjp(np.stack, arrays=lambda g, axis, position: _layer(g, axis, position))


def _part(g: Array, shapes: Sequence[tuple[int, ...]], axis: int | None, position: int) -> Array:
    if axis is None:
        sizes = [int(np.prod(shape)) for shape in shapes]
        start = sum(sizes[:position])
        return np.reshape(g[start : start + sizes[position]], shapes[position])
    start = sum(shape[axis] for shape in shapes[:position])
    return g[_along(g, axis, slice(start, start + shapes[position][axis]))]


def _layer(g: Array, axis: int, position: int) -> Array:
    return g[_along(g, axis, position)]


def _along(g: Array, axis: int, index: int | slice) -> tuple[int | slice, ...]:
    return (slice(None),) * (axis % g.ndim) + (index,)
