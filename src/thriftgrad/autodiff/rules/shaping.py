"""Derivatives of functions that move entries about: the adjoint moves them back.

An entry that the function repeats receives the sum of what comes back to its copies; one that it
leaves out receives zero. Most adjoints are the opposite move, in one call. Two general ways serve the
rest. `moved_back` lets the function move the entries' numbers in place of the entries, which shows
where each came from. `pulled` traces a definition of the function in simpler calls and sweeps
that; NumPy's own function still computes the result.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from thriftgrad.autodiff.adjoint import Array
from thriftgrad.autodiff.registry import composed, constant, defvjp
from thriftgrad.autodiff.rules.indexing import scatter
from thriftgrad.autodiff.tape import sweep
from thriftgrad.autodiff.tensor import Tensor, new_level, primitive, traced
from thriftgrad.errors import NoRuleError

Shape = tuple[int, ...]
Widths = list[tuple[int, int]]

# The same entries in another shape or order. NumPy 2.0 calls the new shape `newshape`.

defvjp(
    np.reshape,
    "a, shape=None, order='C', newshape=None, copy=None",
    constants=("shape", "newshape", "copy"),
    a=lambda g, a_shape, order: (
        g.reshape(a_shape) if order == "C" else np.reshape(g, a_shape, order=_kept(order))
    ),
)
defvjp(np.ravel, a=lambda g, a_shape, order: np.reshape(g, a_shape, order=_kept(order)))
defvjp(np.transpose, a=lambda g, axes: np.transpose(g, _inverse(axes)))
defvjp(np.swapaxes, "a, axis1, axis2", a=lambda g, axis1, axis2: np.swapaxes(g, axis1, axis2))
defvjp(np.moveaxis, a=lambda g, source, destination: np.moveaxis(g, destination, source))
defvjp(np.rollaxis, a=lambda g, axis, start: np.transpose(g, _unrolled(g.ndim, axis, start)))
defvjp(np.matrix_transpose, x=lambda g: np.matrix_transpose(g))
defvjp(np.expand_dims, a=lambda g, a_shape, axis: g.reshape(a_shape))
defvjp(np.squeeze, a=lambda g, a_shape, axis: g.reshape(a_shape))
defvjp(np.copy, a=lambda g: g)
defvjp(np.roll, a=lambda g, shift, axis: np.roll(g, np.negative(shift), axis))
defvjp(np.flip, m=lambda g, axis: np.flip(g, axis))
defvjp(np.fliplr, m=lambda g: np.fliplr(g))
defvjp(np.flipud, m=lambda g: np.flipud(g))
defvjp(np.rot90, m=lambda g, k, axes: np.rot90(g, -k, axes))

# Several arrays at once, each for itself. One array given to `atleast_nd` comes back bare.

for _at_least in (np.atleast_1d, np.atleast_2d, np.atleast_3d):
    defvjp(
        _at_least,
        arys=lambda g, arys_shape, position: np.reshape(
            g[position] if len(arys_shape) > 1 else g, arys_shape[position]
        ),
    )
defvjp(np.broadcast_arrays, args=lambda g, position: g[position])
defvjp(
    np.meshgrid,
    constants=("copy",),
    xi=lambda g, xi_shape, sparse, indexing, position: _off_grid(g, xi_shape, indexing, position),
)
defvjp(np.ix_, args=lambda g, args_shape, position: np.reshape(g[position], args_shape[position]))

# Repeating. What the engine does after every rule is all that `broadcast_to` needs.


@primitive
def overlap_add(windows: Array, shape: Shape, window_shape: Any, axis: Any = None) -> Array:
    """Return zeros of `shape` with each window added where `sliding_window_view` took it from."""
    axes = np.atleast_1d(range(len(shape)) if axis is None else axis).tolist()
    result = np.zeros_like(windows, shape=shape)
    for place in np.ndindex(*np.atleast_1d(window_shape).tolist()):
        start = [0] * len(shape)
        for i, step in zip(axes, place, strict=True):
            start[i] += step
        here = tuple(slice(s, s + n) for s, n in zip(start, windows.shape, strict=False))
        result[here] += windows[(..., *place)]
    return result


defvjp(np.broadcast_to, array=lambda g, shape: g)
defvjp(np.tile, A=lambda g, A_shape, reps: _untiled(g, A_shape, reps))
defvjp(np.repeat, a=lambda g, a_shape, repeats, axis: _unrepeated(g, a_shape, repeats, axis))
defvjp(
    np.resize,
    a=lambda g, a_shape, new_shape: moved_back(g, a_shape, lambda a: np.resize(a, new_shape)),
)
defvjp(
    sliding_window_view,
    "x, window_shape, axis=None, *, subok=False, writeable=False",
    constants=("writeable",),
    x=lambda g, x_shape, window_shape, axis: overlap_add(g, x_shape, window_shape, axis),
)
defvjp(
    overlap_add,
    windows=lambda g, window_shape, axis: sliding_window_view(g, window_shape, axis),
)

# Diagonals and triangles

defvjp(
    np.diagonal,
    a=lambda g, a_shape, offset, axis1, axis2: _on_diagonal(g, a_shape, offset, axis1, axis2),
)
defvjp(
    np.trace,
    a=lambda g, a_shape, offset, axis1, axis2: _on_diagonal(
        np.expand_dims(g, -1), a_shape, offset, axis1, axis2
    ),
)
defvjp(
    np.diag,
    v=lambda g, v_shape, k: (
        np.diagonal(g, k) if len(v_shape) == 1 else _on_diagonal(g, v_shape, k, 0, 1)
    ),
)
defvjp(np.diagflat, v=lambda g, v_shape, k: np.reshape(np.diagonal(g, k), v_shape))
defvjp(np.tril, m=lambda g, k: np.tril(g, k))
defvjp(np.triu, m=lambda g, k: np.triu(g, k))
constant(np.tril_indices_from, np.triu_indices_from, np.diag_indices_from)

# Margins: NumPy pads one axis after the other, so that the later axes own the corners


@primitive
def fold(g: Array, origins: Sequence[int], axis: int, width: tuple[int, int]) -> Array:
    """Return the middle of an axis with each entry of its margins added to that which it repeats.

    Margins are narrow as a rule, and slice by slice this takes a tenth of what `scatter` takes.
    """
    before, after = width
    stop = g.shape[axis] - after
    result = g[along(axis, slice(before, stop))].copy()
    for i in (*range(before), *range(stop, g.shape[axis])):
        result[along(axis, origins[i])] += g[along(axis, i)]
    return result


defvjp(fold, g=lambda g, origins, axis: g[along(axis, origins)])


def _pad(array: Any, pad_width: Any, mode: Any = "constant", **options: Any) -> Any:
    if callable(mode):
        raise NoRuleError(
            "np.pad with a function for a mode lets it write into the array, which thriftgrad cannot "
            "differentiate; pad with np.concatenate"
        )
    if mode in ("median", "maximum", "minimum"):
        return pad_by_order(array, pad_width, mode, **options)
    return pad_linearly(array, pad_width, mode, **options)


@primitive
def pad_by_order(array: Any, pad_width: Any, mode: str, *, stat_length: Any = None) -> Any:
    """Return `np.pad` in a mode for which the derivative depends on the entries."""
    pad: Any = np.pad
    return pad(array, pad_width, mode, stat_length=stat_length)


@primitive
def pad_linearly(
    array: Any,
    pad_width: Any,
    mode: str,
    *,
    constant_values: Any = None,
    end_values: Any = None,
    stat_length: Any = None,
    reflect_type: Any = None,
) -> Any:
    """Return `np.pad` in a mode that is linear, so that the shape is all that need be kept."""
    options = {
        "constant_values": constant_values,
        "end_values": end_values,
        "stat_length": stat_length,
        "reflect_type": reflect_type,
    }
    given = {name: value for name, value in options.items() if value is not None}
    pad: Any = np.pad
    return pad(array, pad_width, mode, **given)


composed(np.pad, _pad)
defvjp(
    pad_by_order,
    array=lambda g, array, pad_width, mode, stat_length: pulled(
        lambda a: _padded(a, pad_width, mode, stat_length, 0), array, g
    ),
)
defvjp(
    pad_linearly,
    array=lambda g, array_shape, pad_width, mode, stat_length, reflect_type: _unpadded(
        g, array_shape, pad_width, mode, stat_length, reflect_type
    ),
    constant_values=lambda g, array_shape, pad_width: _margins(g, array_shape, pad_width),
    end_values=lambda g, array_shape, pad_width, mode, end_values: pulled(
        lambda ends: _padded(np.zeros_like(g, shape=array_shape), pad_width, mode, None, ends),
        end_values,
        g,
    ),
)


# The two general ways


def moved_back(g: Array, shape: Shape, move: Callable[[Any], Any]) -> Array:
    """Return the cotangent of an array of `shape` whose entries `move` moves, repeats or drops."""
    size = prod(shape)
    if not size:
        return np.zeros_like(g, shape=shape)
    origins = move(np.arange(size).reshape(shape))
    return np.reshape(scatter(np.ravel(g), np.ravel(origins), (size,)), shape)


def pulled(function: Callable[[Any], Any], x: Array, g: Any) -> Array | None:
    """Return g·∂y/∂x of y = `function(x)`, which is written in calls that have rules.

    Where y is several arrays, g is a sequence in step with them. None stands for zero.
    """
    tensor, leaf = traced(x, new_level())
    y = function(tensor)
    pairs = zip(y, g, strict=True) if isinstance(g, (list, tuple)) else [(y, g)]
    roots = [
        (each.node, its)
        for each, its in pairs
        if isinstance(each, Tensor) and each.level == tensor.level
    ]
    return sweep(roots).get(leaf)  # type: ignore[arg-type]


# Axes and orders


def _inverse(axes: Sequence[int] | None) -> Sequence[int] | None:
    """Return the permutation that undoes `np.transpose(a, axes)`."""
    if axes is None:
        return None
    back = [0] * len(axes)
    for to, axis in enumerate(axes):
        back[axis] = to
    return back


def _unrolled(rank: int, axis: int, start: int) -> Sequence[int] | None:
    """Return the permutation that undoes `np.rollaxis(a, axis, start)`."""
    order = list(range(rank))
    axis, start = axis % rank, start + rank if start < 0 else start
    order.insert(start - (axis < start), order.pop(axis))
    return _inverse(order)


def _kept(order: str) -> Literal["C", "F"]:
    if order not in ("C", "F"):
        raise NoRuleError(
            f"order={order!r} reads entries in the order of their memory, which the derivative of a "
            f"reshape does not know; use order='C' or 'F'"
        )
    return order  # type: ignore[return-value]


def along(axis: int, index: Any) -> tuple[Any, ...]:
    """Return what indexes `axis`, counted from the front, and takes all of the others."""
    return (*(slice(None),) * axis, index)


# Repeated entries


def _off_grid(g: Sequence[Array], shapes: Sequence[Shape], indexing: str, position: int) -> Array:
    own = 1 - position if indexing == "xy" and position < 2 <= len(shapes) else position
    part = g[position]
    return np.reshape(
        np.sum(part, axis=tuple(i for i in range(part.ndim) if i != own)), shapes[position]
    )


def _untiled(g: Array, shape: Shape, reps: Any) -> Array:
    counts = np.atleast_1d(reps).tolist()
    rank = max(len(shape), len(counts))
    lengths = [1] * (rank - len(shape)) + list(shape)
    counts = [1] * (rank - len(counts)) + counts
    tiles = [n for pair in zip(counts, lengths, strict=True) for n in pair]
    return np.reshape(np.sum(np.reshape(g, tiles), axis=tuple(range(0, 2 * rank, 2))), shape)


def _unrepeated(g: Array, shape: Shape, repeats: Any, axis: int | None) -> Array:
    if axis is None or not shape:
        return np.reshape(_unrepeated(g, (prod(shape),), repeats, 0), shape)
    axis %= len(shape)
    counts = np.atleast_1d(repeats)
    if len(counts) == 1:
        copies = (*shape[: axis + 1], int(counts[0]), *shape[axis + 1 :])
        return np.sum(np.reshape(g, copies), axis=axis + 1)
    return scatter(g, along(axis, np.repeat(np.arange(shape[axis]), counts)), shape)


# Diagonals


def _on_diagonal(g: Array, shape: Shape, offset: int, axis1: int, axis2: int) -> Array:
    """Return zeros of `shape` with the last axis of g laid on a diagonal.

    In a matrix of m columns that is written row after row, the diagonal is every (m+1)-th entry.
    """
    rank = len(shape)
    axis1, axis2 = axis1 % rank, axis2 % rank
    rows, columns = shape[axis1], shape[axis2]
    others = [n for i, n in enumerate(shape) if i not in (axis1, axis2)]
    start = offset if offset >= 0 else -offset * columns
    length = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    place = slice(start, start + length * (columns + 1), columns + 1)
    flat = scatter(g, (..., place), (*others, rows * columns))
    return np.moveaxis(np.reshape(flat, (*others, rows, columns)), (-2, -1), (axis1, axis2))


# Margins


def _unpadded(
    g: Array,
    shape: Shape,
    pad_width: Any,
    mode: Any,
    stat_length: Any,
    reflect_type: str | None,
) -> Array | None:
    if mode in ("linear_ramp", "mean"):
        nothing = np.zeros_like(g, shape=shape)
        return pulled(lambda a: _padded(a, pad_width, mode, stat_length, 0), nothing, g)
    widths = _widths(pad_width, len(shape))
    if mode in ("constant", "empty"):
        return g[tuple(slice(w, w + n) for (w, _), n in zip(widths, shape, strict=True))]
    for axis in reversed(range(len(shape))):
        if any(widths[axis]):
            g = _folded(g, axis, shape[axis], widths[axis], mode, reflect_type == "odd")
    return g


def _widths(pad_width: Any, rank: int) -> Widths:
    if isinstance(pad_width, dict):
        widths: Widths = [(0, 0)] * rank
        for axis, width in pad_width.items():
            widths[axis] = width if isinstance(width, tuple) else (width, width)
        return widths
    return [(before, after) for before, after in np.broadcast_to(pad_width, (rank, 2)).tolist()]


def _folded(
    g: Array, axis: int, length: int, width: tuple[int, int], mode: Any, odd: bool
) -> Array:
    """Fold the margins of one axis back onto the entries that they are copies of.

    An odd reflection about an edge e makes 2e − x of x. Whatever the number of reflections, a margin
    is the entry that an even reflection shows there, once more or less, and the two edges a number of
    times; what padding makes of unit vectors tells how many.
    """
    origins = np.pad(np.arange(length), width, mode).tolist()
    if not odd:
        return fold(g, origins, axis, width)
    edges = sorted({0, length - 1})
    inside = np.ones(length)
    inside[edges] = 0
    column = (-1, *(1,) * (g.ndim - axis - 1))

    def shares(of: Any) -> Any:
        return np.reshape(np.pad(of, width, mode, reflect_type="odd").astype(g.dtype), column)

    back = fold(g * shares(inside), origins, axis, width)
    for edge in edges:
        unit = np.zeros(length)
        unit[edge] = 1
        total = np.sum(g * shares(unit), axis=axis, keepdims=True)
        back = back + scatter(total, along(axis, slice(edge, edge + 1)), back.shape)
    return back


def _padded(x: Array, pad_width: Any, mode: str, stat_length: Any, end_values: Any) -> Array:
    """Pad with ramps or statistics, in simpler calls."""
    rank = np.ndim(x)
    ends, lengths = _sides(end_values, rank), _sides(stat_length, rank)
    for axis, widths in enumerate(_widths(pad_width, rank)):
        n = x.shape[axis]
        last = slice(n - 1, n)
        margins = []
        for side, width in enumerate(widths):
            if mode == "linear_ramp":
                edge = x[along(axis, last if side else slice(0, 1))]
                steps = np.arange(width) / max(width, 1)
                steps = np.reshape(steps[::-1] if side else steps, (-1, *(1,) * (rank - axis - 1)))
                margins.append(ends[axis][side] * (1 - steps) + edge * steps)
            else:
                count = lengths[axis][side]
                count = n if count is None else min(count, n)
                chunk = x[along(axis, slice(n - count, n) if side else slice(0, count))]
                shape = (*x.shape[:axis], width, *x.shape[axis + 1 :])
                margins.append(np.broadcast_to(_STATISTICS[mode](chunk, axis), shape))
        x = np.concatenate([margins[0], x, margins[1]], axis=axis)
    return x


def _sides(values: Any, rank: int) -> Any:
    """Return what belongs before and after each axis; Python numbers, which do not widen floats."""
    pairs = np.broadcast_to(values, (rank, 2))
    return pairs if isinstance(pairs, Tensor) else pairs.tolist()


def _median(x: Array, axis: int) -> Array:
    n = x.shape[axis]
    middle = np.argsort(x, axis=axis)[along(axis, [(n - 1) // 2, n // 2])]
    places = list(np.ogrid[tuple(slice(k) for k in middle.shape)])
    places[axis] = middle
    return np.mean(x[tuple(places)], axis=axis, keepdims=True)


_STATISTICS: dict[str, Callable[[Any, int], Any]] = {
    "mean": lambda x, axis: np.mean(x, axis=axis, keepdims=True),
    "median": _median,
    "maximum": lambda x, axis: np.max(x, axis=axis, keepdims=True),
    "minimum": lambda x, axis: np.min(x, axis=axis, keepdims=True),
}


def _margins(g: Array, shape: Shape, pad_width: Any) -> Array:
    """Return, for each axis, the sums of g over the margin before it and over that after it."""
    sums: list[Array] = []
    for axis, (before, _) in reversed(list(enumerate(_widths(pad_width, len(shape))))):
        cuts = [0, before, before + shape[axis], g.shape[axis]]
        first, g, last = (g[along(axis, slice(*cut))] for cut in pairwise(cuts))
        sums = [np.sum(first), np.sum(last), *sums]
    return np.reshape(np.stack(sums), (len(shape), 2))
