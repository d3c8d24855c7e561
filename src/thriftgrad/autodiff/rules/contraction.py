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
from thriftgrad.autodiff.registry import composed, constant, defvjp
from thriftgrad.autodiff.tensor import primitive

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

# A sum of products of one array needs its shape, one of two each time the other array. So that no more
# is kept, a call of einsum goes to a primitive by the number of its arrays. `form` is the call without
# them, each array's place marked by None.


def _einsum_of(*operands: Any, **options: Any) -> Any:
    places = _einsum_places(operands)
    arrays = [operands[i] for i in places]
    form = tuple([None if i in places else each for i, each in enumerate(operands)])
    if len(arrays) == 1:
        return einsum_one(arrays[0], form, options)
    if len(arrays) == 2:
        return einsum_two(arrays[0], arrays[1], form, options)
    return einsum_many(arrays, form, options)


@primitive
def einsum_one(x: Array, form: Sequence[Any], options: Any) -> Array:
    """Return `np.einsum` of one array."""
    return _einsum_call(form, [x], options)


@primitive
def einsum_two(x: Array, y: Array, form: Sequence[Any], options: Any) -> Array:
    """Return `np.einsum` of two arrays."""
    return _einsum_call(form, [x, y], options)


@primitive
def einsum_many(arrays: Sequence[Array], form: Sequence[Any], options: Any) -> Array:
    """Return `np.einsum` of any number of arrays."""
    return _einsum_call(form, arrays, options)


composed(np.einsum, _einsum_of)
defvjp(
    einsum_one,
    x=lambda g, x_shape, form, options: _einsum(g, [None], [x_shape], 0, form, options),
)
defvjp(
    einsum_two,
    x=lambda g, x_shape, y, form, options: _einsum(
        g, [None, y], [x_shape, np.shape(y)], 0, form, options
    ),
    y=lambda g, x, y_shape, form, options: _einsum(
        g, [x, None], [np.shape(x), y_shape], 1, form, options
    ),
)
defvjp(
    einsum_many,
    arrays=lambda g, arrays, position, form, options: _einsum(
        g, arrays, [np.shape(array) for array in arrays], position, form, options
    ),
)

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


def _einsum_places(operands: Sequence[Any]) -> range:
    """Return where among its operands a call of einsum, in either notation, has its arrays."""
    if operands and isinstance(operands[0], str):
        return range(1, len(operands))
    return range(0, len(operands) - 1, 2)


def _einsum_call(form: Sequence[Any], arrays: Sequence[Any], options: Any) -> Array:
    waiting = iter(arrays)
    operands = [next(waiting) if each is None else each for each in form]
    return np.einsum(*operands, **options)


def _einsum(
    g: Array,
    arrays: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    own: int,
    form: Sequence[Any],
    options: Any,
) -> Array:
    """Return the cotangent of the array that is the `own`-th of a call of einsum.

    It is an einsum of g with the other operands. An index that only this operand had was summed, and
    comes back through a vector of ones; one that it had twice meant its diagonal, and comes back
    through an identity matrix.
    """
    inputs, output = _einsum_terms(form, [len(shape) for shape in shapes])
    factors: list[Any] = [g]
    terms = [output]
    for i, (term, array) in enumerate(zip(inputs, arrays, strict=True)):
        if i != own:
            factors.append(array)
            terms.append(term)
    free = (c for c in _LETTERS if c not in "".join([*inputs, output]))
    known = set("".join(terms))
    target = ""
    for label, length in zip(inputs[own], shapes[own], strict=True):
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
    optimize = options.get("optimize", False)
    optimize = optimize if isinstance(optimize, bool | str) else bool(optimize)
    return np.einsum(f"{','.join(terms)}->{target}", *factors, optimize=optimize)


def _einsum_terms(form: Sequence[Any], ranks: Sequence[int]) -> tuple[list[str], str]:
    """Return the index letters of each array and of the result.

    Both of einsum's notations are understood; an ellipsis becomes letters, and so does an output that
    is only implied.
    """
    if isinstance(form[0], str):
        left, arrow, output = form[0].replace(" ", "").partition("->")
        inputs = left.split(",")
        given = output if arrow else None
    else:
        inputs = [_letters(form[i + 1]) for i in _einsum_places(form)]
        given = _letters(form[-1]) if len(form) % 2 else None
    free = [c for c in _LETTERS if c not in "".join([*inputs, given or ""])]
    hidden = [rank - len(t) + 3 for t, rank in zip(inputs, ranks, strict=True) if "..." in t]
    broadcast = "".join(free[: max(hidden, default=0)])
    expanded = []
    for term, rank in zip(inputs, ranks, strict=True):
        count = rank - len(term) + 3
        expanded.append(term.replace("...", broadcast[len(broadcast) - count :]))
    if given is None:
        letters = "".join(inputs).replace(".", "")
        given = "..." * bool(hidden) + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1)
        )
    return expanded, given.replace("...", broadcast)


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
