"""Derivatives of products of whole arrays.

Each is linear in each argument, so the adjoint contracts the cotangent with the other argument over
the axes that the other one kept. `vdot`, `vecdot` and `vecmat` conjugate their first argument, and
what comes back to it is conjugated in turn.
"""

from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array, unbroadcast
from thriftgrad.autodiff.registry import constant, defvjp

defvjp(
    np.matmul,
    x=lambda g, x_shape, y: _matmul_left(g, x_shape, y),
    y=lambda g, x, y_shape: _matmul_right(g, x, y_shape),
)
defvjp(
    np.dot,
    "a, b, out=None",
    a=lambda g, a_shape, b: _left(g, a_shape, b, _dot_axes(a_shape, np.shape(b))),
    b=lambda g, a, b_shape: _right(g, a, b_shape, _dot_axes(np.shape(a), b_shape)),
)
defvjp(
    np.inner,
    "a, b",
    a=lambda g, a_shape, b: _left(g, a_shape, b, _inner_axes(a_shape, np.shape(b))),
    b=lambda g, a, b_shape: _right(g, a, b_shape, _inner_axes(np.shape(a), b_shape)),
)
defvjp(
    np.vdot,
    "a, b",
    a=lambda g, a_shape, b: np.conjugate(np.reshape(g * b, a_shape)),
    b=lambda g, a, b_shape: np.reshape(g * np.conjugate(a), b_shape),
)
defvjp(
    np.outer,
    a=lambda g, a_shape, b: np.reshape(np.matmul(g, np.ravel(b)), a_shape),
    b=lambda g, a, b_shape: np.reshape(np.matmul(np.ravel(a), g), b_shape),
)
defvjp(
    np.tensordot,
    a=lambda g, a_shape, b, axes: _left(g, a_shape, b, _pairs(axes, a_shape, np.shape(b))),
    b=lambda g, a, b_shape, axes: _right(g, a, b_shape, _pairs(axes, np.shape(a), b_shape)),
)
defvjp(
    np.einsum,
    "*operands, out=None, optimize=False, dtype=None, order='K', casting='safe'",
    operands=lambda g, operands, position, optimize: _einsum(g, operands, position, optimize),
)
constant(np.einsum_path)
defvjp(
    np.vecdot,
    x=lambda g, y: np.conjugate(np.expand_dims(g, -1) * y),
    y=lambda g, x: np.expand_dims(g, -1) * np.conjugate(x),
)
if hasattr(np, "matvec"):  # from NumPy 2.2 on
    defvjp(
        np.matvec,
        x=lambda g, y: np.expand_dims(g, -1) * np.expand_dims(y, -2),
        y=lambda g, x: np.matmul(np.expand_dims(g, -2), x)[..., 0, :],
    )
    defvjp(
        np.vecmat,
        x=lambda g, y: np.conjugate(np.matmul(y, np.expand_dims(g, -1))[..., 0]),
        y=lambda g, x: np.conjugate(np.expand_dims(x, -1)) * np.expand_dims(g, -2),
    )
defvjp(
    np.kron,
    a=lambda g, a_shape, b: np.reshape(
        np.tensordot(*_blocks(g, a_shape, b, np.shape(b), inside=True)), a_shape
    ),
    b=lambda g, a, b_shape: np.reshape(
        np.tensordot(*_blocks(g, np.shape(a), a, b_shape, inside=False)), b_shape
    ),
)
defvjp(
    np.cross,
    a=lambda g, a_shape, b, axisa, axisb, axisc, axis: _crossed(
        g, a_shape, b, *((axisa, axisb, axisc) if axis is None else (axis,) * 3)
    ),
    b=lambda g, a, b_shape, axisa, axisb, axisc, axis: _crossed(
        -g, b_shape, a, *((axisb, axisa, axisc) if axis is None else (axis,) * 3)
    ),
)

Axes = tuple[Sequence[int], Sequence[int]]

_LETTERS = ascii_uppercase + ascii_lowercase
"""In the order in which einsum sorts the indices of a result that is only implied."""


def _matmul_left(g: Array, shape: tuple[int, ...], y: Array) -> Array:
    if np.ndim(y) == 1:
        return g * y if len(shape) == 1 else np.expand_dims(g, -1) * y
    if len(shape) == 1:
        return np.squeeze(np.matmul(y, np.expand_dims(g, -1)), -1)
    return np.matmul(g, np.swapaxes(y, -1, -2))


def _matmul_right(g: Array, x: Array, shape: tuple[int, ...]) -> Array:
    if np.ndim(x) == 1:
        return g * x if len(shape) == 1 else np.expand_dims(x, -1) * np.expand_dims(g, -2)
    if len(shape) == 1:
        return np.squeeze(np.matmul(np.swapaxes(x, -1, -2), np.expand_dims(g, -1)), -1)
    if len(shape) == 2 and np.ndim(x) > 2:
        # One product over all rows of the stack, rather than a stack of products to be summed.
        x, g = np.reshape(x, (-1, np.shape(x)[-1])), np.reshape(g, (-1, g.shape[-1]))
    return np.matmul(np.swapaxes(x, -1, -2), g)


def _left(g: Array, shape: tuple[int, ...], b: Array, axes: Axes) -> Array:
    """Return the cotangent of a in tensordot(a, b, axes)."""
    over_a, over_b = axes
    free_a = [i for i in range(len(shape)) if i not in over_a]
    free_b = [i for i in range(np.ndim(b)) if i not in over_b]
    whole = np.tensordot(g, b, (range(len(free_a), len(free_a) + len(free_b)), free_b))
    # Its axes are those that a kept, then those that b gave up in b's order.
    came_from = [*free_a, *(over_a[over_b.index(j)] for j in sorted(over_b))]
    return np.transpose(whole, [came_from.index(i) for i in range(len(shape))])


def _right(g: Array, a: Array, shape: tuple[int, ...], axes: Axes) -> Array:
    """Return the cotangent of b in tensordot(a, b, axes)."""
    over_a, over_b = axes
    free_a = [i for i in range(np.ndim(a)) if i not in over_a]
    free_b = [i for i in range(len(shape)) if i not in over_b]
    whole = np.tensordot(a, g, (free_a, range(len(free_a))))
    came_from = [*(over_b[over_a.index(j)] for j in sorted(over_a)), *free_b]
    return np.transpose(whole, [came_from.index(i) for i in range(len(shape))])


def _dot_axes(a: tuple[int, ...], b: tuple[int, ...]) -> Axes:
    if not a or not b:  # a number times an array
        return [], []
    return [len(a) - 1], [max(len(b) - 2, 0)]


def _inner_axes(a: tuple[int, ...], b: tuple[int, ...]) -> Axes:
    return ([], []) if not a or not b else ([len(a) - 1], [len(b) - 1])


def _pairs(axes: Any, a: tuple[int, ...], b: tuple[int, ...]) -> Axes:
    """Return `tensordot`'s axes as two lists of non-negative numbers."""
    if isinstance(axes, int | np.integer):
        return list(range(len(a) - int(axes), len(a))), list(range(int(axes)))
    over_a, over_b = (np.atleast_1d(part).tolist() for part in axes)
    return [i % len(a) for i in over_a], [i % len(b) for i in over_b]


def _einsum(g: Array, operands: Sequence[Any], position: int, optimize: Any) -> Array:
    """Return the cotangent of the operand at `position` in a call of einsum.

    It is an einsum of g with the other operands. An index that only this operand had was summed, and
    comes back through a vector of ones; one that it had twice meant its diagonal, and comes back
    through an identity matrix.
    """
    inputs, output, arrays, places = _einsum_terms(operands)
    own = places.index(position)
    factors: list[Any] = [g]
    terms = [output]
    for i, (term, array) in enumerate(zip(inputs, arrays, strict=True)):
        if i != own:
            factors.append(array)
            terms.append(term)
    free = (c for c in _LETTERS if c not in "".join([*inputs, output]))
    known = set("".join(terms))
    target = ""
    for label, length in zip(inputs[own], np.shape(arrays[own]), strict=True):
        if label in target:
            twin = next(free)
            factors.append(np.eye(length, dtype=g.dtype))
            terms.append(label + twin)
            label = twin
        elif label not in known:
            factors.append(np.ones_like(g, shape=(length,)))
            terms.append(label)
        target += label
    # A path that was chosen for the call does not fit this product.
    optimize = optimize if isinstance(optimize, bool | str) else bool(optimize)
    return np.einsum(f"{','.join(terms)}->{target}", *factors, optimize=optimize)


def _einsum_terms(
    operands: Sequence[Any],
) -> tuple[list[str], str, list[Any], list[int]]:
    """Return the index letters of each array and of the result, the arrays, and their positions.

    Both of einsum's notations are understood; an ellipsis becomes letters, and so does an output that
    is only implied.
    """
    if isinstance(operands[0], str):
        left, arrow, output = operands[0].replace(" ", "").partition("->")
        inputs = left.split(",")
        places = list(range(1, len(operands)))
        given = output if arrow else None
    else:
        places = list(range(0, len(operands) - 1, 2))
        inputs = [_letters(operands[i + 1]) for i in places]
        given = _letters(operands[-1]) if len(operands) % 2 else None
    arrays = [operands[i] for i in places]
    free = [c for c in _LETTERS if c not in "".join([*inputs, given or ""])]
    hidden = [np.ndim(a) - len(t) + 3 for t, a in zip(inputs, arrays, strict=True) if "..." in t]
    broadcast = "".join(free[: max(hidden, default=0)])
    expanded = []
    for term, array in zip(inputs, arrays, strict=True):
        count = np.ndim(array) - len(term) + 3
        expanded.append(term.replace("...", broadcast[len(broadcast) - count :]))
    if given is None:
        letters = "".join(inputs).replace(".", "")
        given = "..." * bool(hidden) + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1)
        )
    return expanded, given.replace("...", broadcast), arrays, places


def _letters(indices: Sequence[Any]) -> str:
    """Return einsum's other notation, a list of numbers, in letters."""
    return "".join("..." if i is Ellipsis else _LETTERS[i] for i in indices)


def _blocks(
    g: Array, a_shape: tuple[int, ...], other: Array, b_shape: tuple[int, ...], *, inside: bool
) -> tuple[Array, Array, Axes]:
    """Return what `tensordot` needs to sum the blocks of a Kronecker product, or over all blocks.

    Each axis of the product is an axis of a, which counts blocks, and one of b inside of a block.
    """
    rank = max(len(a_shape), len(b_shape))
    of_a, of_b = ((1,) * (rank - len(s)) + tuple(s) for s in (a_shape, b_shape))
    blocks = np.reshape(g, [n for pair in zip(of_a, of_b, strict=True) for n in pair])
    summed = range(int(inside), 2 * rank, 2)
    return blocks, np.reshape(other, of_b if inside else of_a), (summed, range(rank))


def _crossed(
    g: Array, shape: tuple[int, ...], b: Array, axisa: int, axisb: int, axisc: int
) -> Array:
    """Return b × g, which is the cotangent of a in a × b; in two dimensions the third is zero."""
    b = np.moveaxis(b, axisb, -1)
    own, other = shape[axisa], b.shape[-1]
    if own == other == 2:  # the product is a number, along the third axis
        g = np.expand_dims(g, -1) * np.array([0, 0, 1], g.dtype)
    else:
        g = np.moveaxis(g, axisc, -1)
    if other == 2:
        b = np.concatenate([b, np.zeros_like(b[..., :1])], axis=-1)
    lengths = list(shape)
    lengths.append(lengths.pop(axisa))
    return np.moveaxis(unbroadcast(np.cross(b, g)[..., :own], tuple(lengths)), -1, axisa)
