"""Derivatives of the methods of ufuncs: `np.add.reduce`, `np.multiply.outer`, ...

A method applies its ufunc many times, so its derivative is made of the ufunc's own rule, whichever it
is at the time:

- `outer` is the ufunc on the first argument with one more axis for each of the second;
- `accumulate` is told about in the table of cumulative functions;
- `reduce` is the last entry of `accumulate`. For sums, products, extremes and a few more there is a
  shorter way, where tied extremes share equally and all axes and keywords are understood;
- `reduceat` is there for the same few;
- `at` writes in place and is refused.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array, unbroadcast
from thriftgrad.autodiff.registry import RULES, Constant, Rule, constant, defvjp, refuse
from thriftgrad.autodiff.rules import constants, elementwise  # noqa: F401 - fill the registry first
from thriftgrad.autodiff.rules.cumulative import accumulated, accumulated_sum, by_rule
from thriftgrad.autodiff.rules.indexing import scatter
from thriftgrad.autodiff.rules.reductions import (
    Axis,
    axes_of,
    product,
    products_of_others,
    shared,
    spread,
    within,
)
from thriftgrad.autodiff.tensor import primitive
from thriftgrad.errors import InPlaceError

_REDUCE = "array, axis=0, dtype=None, out=None, keepdims=False, initial=None, where=True"
_ACCUMULATE = "array, axis=0, dtype=None, out=None"
_REDUCEAT = "array, indices, axis=0, dtype=None, out=None"
_OUTER = "A, B, out=None, where=True, casting='same_kind', order='K', dtype=None, subok=True"

_EXTREMES = (np.maximum, np.minimum, np.fmax, np.fmin)
_BY_RESULT = (np.logaddexp, np.logaddexp2, np.hypot)
"""Those that may be reduced in any order and whose derivative by x depends on x and the result only:
it is the same whether the other argument is one entry or all other entries."""


def outer(f: np.ufunc) -> None:
    """Declare the rule for `f.outer`, by that for f."""
    defvjp(
        f.outer,
        _OUTER,
        A=lambda g, A, B: _outer(f, g, A, B, 0),
        B=lambda g, A, B: _outer(f, g, A, B, 1),
    )


def accumulate(f: np.ufunc) -> None:
    """Declare the rule for `f.accumulate`, by that for f."""
    defvjp(
        f.accumulate,
        _ACCUMULATE,
        array=lambda g, ans, array, axis: accumulated(f, g, array, ans, axis),
    )


def _running(f: np.ufunc) -> None:
    """Declare the rule for a running maximum or minimum: where nothing ties, each has one owner."""
    defvjp(
        f.accumulate,
        _ACCUMULATE,
        array=lambda g, ans, array, axis: _to_owners(
            f, g, array, ans, axis, owners(array, ans, axis)
        ),
    )


@primitive
def owners(x: Array, y: Array, axis: int) -> Any:
    """Return the place in the flat array x of each of its running extremes y; None if some tie."""
    if not np.size(x):
        return None
    places = np.moveaxis(np.arange(np.size(x)).reshape(np.shape(x)), axis, 0)
    x, y = np.moveaxis(x, axis, 0), np.moveaxis(y, axis, 0)
    if np.any(x[1:] == y[:-1]) or np.any(np.isnan(y)):
        return None
    n = len(x)
    last = np.arange(n).reshape(n, *(1,) * (x.ndim - 1)) * np.ones(x.shape, int)
    last[1:][y[1:] == y[:-1]] = 0
    np.maximum.accumulate(last, axis=0, out=last)
    return np.moveaxis(np.take_along_axis(places, last, axis=0), 0, axis)


constant(owners)


def _to_owners(f: np.ufunc, g: Array, x: Array, y: Array, axis: int, places: Any) -> Array:
    if places is None:
        return accumulated(f, g, x, y, axis)
    return np.reshape(scatter(np.ravel(g), np.ravel(places), (np.size(x),)), np.shape(x))


def reduce(f: np.ufunc) -> None:
    """Declare the rule for `f.reduce`, by that for f."""
    defvjp(
        f.reduce,
        _REDUCE,
        array=lambda g, array, axis, keepdims: _fold(f, g, array, axis),
    )


for _f, _known in list(RULES.items()):
    if not isinstance(_f, np.ufunc) or _f.signature is not None or _f.nin != 2:
        continue
    if isinstance(_known, Constant):
        constant(_f.outer, _f.reduce, _f.accumulate, _f.reduceat)
    elif isinstance(_known, Rule):
        outer(_f)
        if _f.nout == 1 and _known.vjps.keys() == {"x", "y"}:
            accumulate(_f)
            reduce(_f)

defvjp(
    np.add.accumulate,
    _ACCUMULATE,
    array=lambda g, array_shape, axis: accumulated_sum(g, array_shape, axis),
)
defvjp(
    np.add.reduce,
    _REDUCE,
    array=lambda g, array_shape, axis, keepdims, initial, where: within(
        spread(g, array_shape, axis, keepdims), where
    ),
)
defvjp(
    np.add.reduceat,
    _REDUCEAT,
    array=lambda g, array_shape, indices, axis: _reduceat_sum(g, array_shape, indices, axis),
)
defvjp(
    np.multiply.reduce,
    _REDUCE,
    array=lambda g, array, axis, keepdims, initial, where: product(
        spread(g, np.shape(array), axis, keepdims), array, axis, initial, where
    ),
)
defvjp(
    np.multiply.reduceat,
    _REDUCEAT,
    array=lambda g, array, indices, axis: _reduceat_product(g, array, indices, axis),
)


def _extreme(f: np.ufunc) -> None:
    defvjp(
        f.reduce,
        _REDUCE,
        array=lambda g, ans, array, axis, keepdims, initial, where: shared(
            spread(g, np.shape(array), axis, keepdims),
            array == spread(ans, np.shape(array), axis, keepdims),
            *(axis, where),
        ),
    )
    defvjp(
        f.reduceat,
        _REDUCEAT,
        array=lambda g, ans, array, indices, axis: _reduceat_extreme(g, ans, array, indices, axis),
    )


def _by_result(f: np.ufunc) -> None:
    defvjp(
        f.reduce,
        _REDUCE,
        array=lambda g, ans, array, axis, keepdims, initial, where: _reduced(
            f,
            spread(g, np.shape(array), axis, keepdims),
            spread(ans, np.shape(array), axis, keepdims),
            *(array, where),
        ),
    )
    defvjp(
        f.reduceat,
        _REDUCEAT,
        array=lambda g, ans, array, indices, axis: _reduceat(
            lambda g, y, x: by_rule(f, 0, g, (y, x, None)), g, ans, array, indices, axis
        ),
    )


for _f in _EXTREMES:
    _extreme(_f)
    _running(_f)
for _f in _BY_RESULT:
    _by_result(_f)

refuse(
    "on some processors NumPy's own result is not f(f(x0, x1), x2), ...; take the last entry of "
    "accumulate instead",
    np.power.reduce,
    np.arctan2.reduce,
)
refuse(
    "it writes into its first argument, where a derivative may still need the old values; add, "
    "multiply, ... on new arrays instead (np.where, np.bincount with weights=, indexing)",
    *(f.at for f in vars(np).values() if isinstance(f, np.ufunc) and f.signature is None),
    error=InPlaceError,
)


def _outer(f: np.ufunc, g: Array, a: Array, b: Array, position: int) -> Array:
    """Return the cotangent of one argument of `f.outer(a, b)`, by the rule for f.

    The result is as large as the arguments are not: where that rule wants it, it is computed anew.
    """
    stretched = np.shape(a) + (1,) * np.ndim(b)
    x = np.reshape(a, stretched) if np.ndim(b) else a
    wanted = RULES[f].vjps["xy"[position]].__code__.co_varnames  # type: ignore[union-attr]
    part = by_rule(f, position, g, (f(x, b) if "ans" in wanted else None, x, b))
    return part if position else np.reshape(unbroadcast(part, stretched), np.shape(a))


def _reduced(f: np.ufunc, g: Array, y: Array, x: Array, where: Any) -> Array:
    # In place of what `where` leaves out, something that has a finite share.
    x = x if where is True else np.where(where, x, y)
    return within(by_rule(f, 0, g, (y, x, None)), where)


def _fold(f: np.ufunc, g: Array, x: Array, axis: Axis) -> Array:
    axes = axes_of(axis, np.ndim(x))
    if not axes:
        return g
    (along,) = axes  # NumPy itself refuses to fold along several unless their order is free
    g = np.reshape(g, [1 if i == along else n for i, n in enumerate(np.shape(x))])
    before = [n - (i == along) for i, n in enumerate(np.shape(x))]
    g = np.concatenate([np.zeros_like(g, shape=before), g], axis=along)
    return accumulated(f, g, x, f.accumulate(x, axis=along), along)


# reduceat: result i is made of the entries from indices[i] to before indices[i + 1], or of the first
# alone where that is none. The rules take all those parts, one after another, as the first axis.


def _reduceat(
    pull: Callable[[Array, Array, Array], Array],
    g: Array,
    ans: Array,
    x: Array,
    indices: Any,
    axis: int,
) -> Array:
    """Give each entry of each part what `pull` makes of its g, the part's result, and the entry."""
    x, g, ans = (np.moveaxis(each, axis, 0) for each in (x, g, ans))
    source, part, _ = _parts(indices, x.shape[0])
    return np.moveaxis(scatter(pull(g[part], ans[part], x[source]), source, x.shape), 0, axis)


def _reduceat_sum(g: Array, shape: tuple[int, ...], indices: Any, axis: int) -> Array:
    source, part, _ = _parts(indices, shape[axis])
    rows = np.moveaxis(g, axis, 0)[part]
    n = shape[axis]
    return np.moveaxis(scatter(rows, source, (n, *rows.shape[1:])), 0, axis)


def _reduceat_extreme(g: Array, ans: Array, x: Array, indices: Any, axis: int) -> Array:
    _, part, first = _parts(indices, np.shape(x)[axis])

    def share(g: Array, y: Array, x: Array) -> Array:
        ties = np.add.reduceat(x == y, first, dtype=g.dtype)
        return np.where(x == y, g / np.maximum(ties, 1)[part], 0)

    return _reduceat(share, g, ans, x, indices, axis)


def _reduceat_product(g: Array, x: Array, indices: Any, axis: int) -> Array:
    # Each part is a row of a table, filled up with ones to the length of the longest.
    x, g = np.moveaxis(x, axis, -1), np.moveaxis(g, axis, -1)
    source, part, first = _parts(indices, x.shape[-1])
    place = np.arange(len(source)) - first[part]
    width = int(place.max(initial=-1)) + 1
    table = np.zeros((len(first), width), dtype=int)
    filled = np.zeros((len(first), width), dtype=bool)
    table[part, place], filled[part, place] = source, True
    others = products_of_others(np.where(filled, x[..., table], 1))
    values = np.where(filled, g[..., None] * others, 0)
    return np.moveaxis(scatter(values, (..., table), x.shape), -1, axis)


def _parts(indices: Any, n: int) -> tuple[Any, Any, Any]:
    """Return each entry's place in x, the part it belongs to, and where each part starts."""
    start = np.reshape(indices, -1).astype(int)
    stop = np.concatenate([start[1:], [n]])
    length = np.where(stop > start, stop - start, 1)
    first = np.cumsum(length) - length
    part = np.repeat(np.arange(len(start)), length)
    return np.arange(len(part)) - (first - start)[part], part, first
