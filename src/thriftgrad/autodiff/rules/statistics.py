"""Derivatives of order statistics, averages, covariances and histograms.

A quantile is an interpolation between two entries of the sorted data; these receive the cotangent in
the proportion of the interpolation. Among equal entries the two are taken in the order of NumPy's
stable sort. With respect to q, a quantile is piecewise linear for the methods that interpolate (at
a data point the slope is the one to its right) and a step for the others, which gives 0; so is one
with weights, by which weights receive 0.

The counts of a histogram are steps too, but for the weights they sum up. The edges of its bins move
with the least and greatest entry, unless the call itself gives them or a range.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from thriftgrad.autodiff.adjoint import Array, describe, unbroadcast
from thriftgrad.autodiff.registry import composed, defvjp
from thriftgrad.autodiff.rules.indexing import scatter
from thriftgrad.autodiff.rules.reductions import (
    Axis,
    axes_of,
    divided,
    present,
    rows,
    shared,
    spread,
    unrows,
)
from thriftgrad.autodiff.rules.sorting import index_along, stable_order
from thriftgrad.autodiff.tensor import primitive
from thriftgrad.errors import NoRuleError

# Order statistics


def _quantile(f: Callable[..., Any], unit: int) -> None:
    """Declare the rule for a function of q between 0 and `unit`."""
    defvjp(
        f,
        constants=["weights"],
        a=lambda g, a, axis, q, method, keepdims, weights: _entries(
            g, a, f, axis, q, method, weights
        ),
        q=lambda g, a, axis, q, method, weights: _Places(f, a, axis, q, method, weights).to_q(
            g, unit
        ),
    )


defvjp(np.median, a=lambda g, a, axis, keepdims: _entries(g, a, np.median, axis))
defvjp(np.nanmedian, a=lambda g, a, axis, keepdims: _entries(g, a, np.nanmedian, axis))
_quantile(np.quantile, 1)
_quantile(np.nanquantile, 1)
_quantile(np.percentile, 100)
_quantile(np.nanpercentile, 100)

_PLAIN = (np.median, np.quantile, np.percentile)
"""Those that do not pass over NaN: their places are the same for all rows."""

_PLOTTING = {
    "linear": (1.0, 1.0),
    "interpolated_inverted_cdf": (0.0, 1.0),
    "hazen": (0.5, 0.5),
    "weibull": (0.0, 0.0),
    "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8),
}
"""Methods that interpolate, by the α and β of Hyndman and Fan (The American Statistician 50, 1996):
the quantile q of n numbers is at place (n + 1 − α − β)·q + α − 1 among them, counted from 0."""

# Averages and covariances


def _average(
    a: Any,
    axis: Axis = None,
    weights: Any = None,
    returned: bool = False,
    *,
    keepdims: Any = np._NoValue,
) -> Any:
    if weights is None and not returned:
        return np.mean(a, axis=axis, keepdims=keepdims)
    return weighted_average(a, axis, weights, returned, keepdims=keepdims)


@primitive
def weighted_average(
    a: Any, axis: Axis, weights: Any, returned: bool, *, keepdims: Any = np._NoValue
) -> Any:
    """Return `np.average`, of which without weights only the shape of the data need be kept."""
    average: Any = np.average
    return average(a, axis, weights, returned, keepdims=keepdims)


composed(np.average, _average)
defvjp(
    weighted_average,
    a=lambda g, a, axis, weights, returned, keepdims: _average_entries(
        g[0] if returned else g, a, axis, weights, keepdims
    ),
    weights=lambda g, a, axis, weights, returned, keepdims: _average_weights(
        g, a, axis, weights, returned, keepdims
    ),
)
defvjp(
    np.cov,
    m=lambda g, m, y, rowvar, bias, ddof, fweights, aweights: _covariance(
        g, m, y, rowvar, bias, ddof, fweights, aweights
    )[0],
    y=lambda g, m, y, rowvar, bias, ddof, fweights, aweights: _covariance(
        g, m, y, rowvar, bias, ddof, fweights, aweights
    )[1],
)
defvjp(
    np.corrcoef,
    x=lambda g, ans, x, y, rowvar: _correlation(g, ans, x, y, rowvar)[0],
    y=lambda g, ans, x, y, rowvar: _correlation(g, ans, x, y, rowvar)[1],
)

# Histograms

defvjp(
    np.bincount,
    "x, weights=None, minlength=0",
    weights=lambda g, x, minlength: g[x],
)
defvjp(
    np.histogram,
    a=lambda g, ans, a, bins, range, density: (
        None if _edges_given(bins, range) else _edges(_to_edges(g, ans, density), a)
    ),
    weights=lambda g, ans, a, density, weights: _to_weights(g[0], ans, a, density, weights),
)
defvjp(
    np.histogram_bin_edges,
    constants=["weights"],  # which NumPy does not look at
    a=lambda g, a, bins, range: None if _edges_given(bins, range) else _edges(g, a),
)


def _entries(g: Array, a: Array, f: Callable[..., Any], *asked: Any) -> Array:
    """Return the cotangent of the data of an order statistic."""
    if not np.size(a):
        return np.zeros_like(g, shape=np.shape(a))
    return _Places(f, a, *asked).to_entries(g)


class _Places:
    """Where the quantiles of `a` are: between which entries, and which part of the way.

    It asks the function itself, `f`, for the same quantiles of 0, 1, 2, ..., which are places. All
    arrays here have the axes that were kept first, and the quantiles along the last.
    """

    def __init__(
        self,
        f: Any,
        a: Array,
        axis: Axis,
        q: Any = None,
        method: str = "linear",
        weights: Any = None,
    ) -> None:
        asked = {} if q is None else {"q": q, "method": method}
        _refuse_scrambled(f, np.ndim(a), axis, q, weights)
        self.a_shape, self.axis, self.q = np.shape(a), axis, q
        self.x = rows(a, axis)
        *kept, n = self.x.shape
        self.shape = (1 if q is None else np.size(q), *kept)
        self.order = stable_order(self.x, -1)
        # NumPy finds a place in the precision of the data, as far as that goes.
        real = np.finfo(self.x.dtype)
        dtype = real.dtype if n < 2**real.nmant else np.dtype(float)
        self.count: Any = n
        self.found: Any = True
        if weights is None and f in _PLAIN:
            place = np.reshape(f(np.arange(n, dtype=dtype), **asked), (*[1] * len(kept), -1))
        else:
            ranks = np.argsort(self.order, axis=-1).astype(dtype)
            if f not in _PLAIN:
                here = present(self.x)
                self.count = np.sum(here, axis=-1, keepdims=True)
                self.found = self.count > 0
                # A row of nothing but NaN has no quantiles; for it, any will do.
                absent = np.logical_and(self.found, np.logical_not(here))
                ranks = np.where(absent, np.nan, ranks)
            if weights is not None:
                asked["weights"] = weights
            place = self._last(f(unrows(ranks, self.a_shape, axis), axis=axis, **asked))
        self.low = np.clip(np.floor(place), 0, np.maximum(self.count - 2, 0)).astype(int)
        self.high = np.minimum(self.low + 1, np.maximum(self.count - 1, 0))
        self.part = place - self.low
        self.slopes = weights is None and method in _PLOTTING
        self.method = method

    def to_entries(self, g: Array) -> Array:
        """Return the cotangent of the data."""
        g = np.where(self.found, self._last(g), 0)
        part = self.part.astype(g.dtype)
        values = np.concatenate([g * (1 - part), g * part], axis=-1)
        places = np.concatenate([self.low, self.high], axis=-1)
        entries = index_along(np.take_along_axis(self.order, places, axis=-1), self.x.shape, -1)
        return unrows(scatter(values, entries, self.x.shape), self.a_shape, self.axis)

    def to_q(self, g: Array, unit: int) -> Array:
        """Return the cotangent of q, of which `unit` is the whole."""
        if not self.slopes:
            return np.zeros_like(g, shape=np.shape(self.q))
        alpha, beta = _PLOTTING[self.method]
        slope = self.count + 1 - alpha - beta
        place = slope * np.reshape(self.q, -1) / unit + alpha - 1
        inside = np.logical_and(place >= 0, place <= self.count - 1)
        low, high = (
            np.take_along_axis(self.x, np.take_along_axis(self.order, i, axis=-1), axis=-1)
            for i in (self.low, self.high)
        )
        rate = np.where(self.found & inside, (high - low) * (slope / unit), 0)
        return np.reshape(
            np.sum(self._last(g) * rate, axis=tuple(range(len(self.shape) - 1))),
            np.shape(self.q),
        )

    def _last(self, values: Array) -> Array:
        """Bring the axes of q, which come first in a result, together to the end."""
        return np.moveaxis(np.reshape(values, self.shape), 0, -1)


def _refuse_scrambled(f: Any, rank: int, axis: Axis, q: Any, weights: Any) -> None:
    """Refuse a call whose result NumPy gives with its axes in a wrong order."""
    several = isinstance(axis, tuple) and 1 < len(axis) < rank
    if f not in _PLAIN and several and weights is None and np.ndim(q) > 1:
        raise NoRuleError(
            f"{describe(f)} was called with q of {np.ndim(q)} axes and axis={axis!r}, for which NumPy "
            f"puts the axes of the result in a wrong order; pass np.ravel(q) and reshape the result"
        )


def _average_entries(g: Array, a: Array, axis: Axis, weights: Any, keepdims: Any) -> Array:
    shape = np.shape(a)
    g = spread(g, shape, axis, keepdims)
    if weights is None:
        return divided(g, prod(shape[i] for i in axes_of(axis, len(shape))) or 1)
    weights = _aligned(weights, shape, axis)
    return g * weights / np.sum(weights, axis=axis, keepdims=True)


def _average_weights(
    g: Any, a: Array, axis: Axis, weights: Array, returned: bool, keepdims: Any
) -> Array:
    shape = np.shape(a)
    g, of_total = g if returned else (g, None)
    aligned = _aligned(weights, shape, axis)
    total = np.sum(aligned, axis=axis, keepdims=True)
    average = np.sum(a * aligned, axis=axis, keepdims=True) / total
    each = spread(g, shape, axis, keepdims) * (a - average) / total
    if returned:
        each = each + spread(of_total, shape, axis, keepdims)
    if np.shape(weights) == shape:
        return each
    axes = axes_of(axis, len(shape))
    each = np.reshape(unbroadcast(each, aligned.shape), [shape[i] for i in sorted(axes)])
    return np.transpose(each, np.argsort(np.argsort(axes)))


def _aligned(weights: Any, shape: tuple[int, ...], axis: Axis) -> Array:
    """Return weights, which may be given along the reduced axes alone, in as many axes as the data."""
    if np.shape(weights) == shape:
        return weights
    axes = axes_of(axis, len(shape))
    weights = np.transpose(weights, np.argsort(axes))
    return np.reshape(weights, [n if i in axes else 1 for i, n in enumerate(shape)])


def _covariance(
    g: Array, m: Array, y: Any, rowvar: bool, bias: bool, ddof: Any, fweights: Any, aweights: Any
) -> tuple[Array, Any]:
    """Return the cotangents of both sets of variables.

    With deviations X in rows the covariance is X·diag(w)·Xᴴ/n. That X has lost its mean needs no care:
    the sum of its weighted deviations is 0, whatever the mean.
    """
    count = g.shape[0] if g.ndim else 1
    if not count:
        return np.zeros_like(m), None if y is None else np.zeros_like(y)
    other = None if y is None else _variables(y, rowvar, 1)
    own = count if other is None else count - other.shape[0]
    x = _variables(m, rowvar, own)
    if other is not None:
        x = np.concatenate([x, other])
    freedom, weights = _freedom(x.shape[1], bias, ddof, fweights, aweights)
    deviation = x - np.average(x, axis=1, weights=weights, keepdims=True)
    weighted = np.conjugate(deviation) if weights is None else np.conjugate(deviation) * weights
    g = np.reshape(g, (count, count))
    back = np.matmul(g + np.conjugate(g).T, weighted) / freedom
    # What brought the data into rows takes the cotangents out of them.
    return (
        np.reshape(_variables(back[:own], rowvar or np.ndim(m) < 2, own), np.shape(m)),
        None
        if y is None
        else np.reshape(_variables(back[own:], rowvar or np.ndim(y) < 2, 1), np.shape(y)),
    )


def _correlation(g: Array, ans: Array, x: Array, y: Any, rowvar: bool) -> tuple[Array, Any]:
    """Return the cotangents of both sets of variables, by that of their covariance."""
    covariance = np.cov(x, y, rowvar)
    n = covariance.shape[0] if covariance.ndim else 1
    g, ans, covariance = (np.reshape(each, (n, n)) for each in (g, ans, covariance))
    variance = np.real(covariance[np.arange(n), np.arange(n)])
    deviation = np.sqrt(variance)
    both = np.real(np.sum(g * ans + g.T * ans.T, axis=1)) / (2 * variance)
    g = g / deviation / np.expand_dims(deviation, 1) - np.where(np.eye(n, dtype=bool), both, 0)
    return _covariance(g, x, y, rowvar, False, None, None, None)


def _variables(m: Array, rowvar: bool, count: int) -> Array:
    """Return the data that `np.cov` was given with a row for each variable."""
    m = np.reshape(m, (1, -1)) if np.ndim(m) < 2 else m
    # Some versions of NumPy leave a single row as it is, which then is a single variable.
    return m if rowvar or m.shape[0] == count == 1 else np.transpose(m)


def _freedom(n: int, bias: bool, ddof: Any, fweights: Any, aweights: Any) -> tuple[Any, Any]:
    """Return what `np.cov` divides n observations by, and their weights, if any."""
    ddof = int(not bias) if ddof is None else ddof
    if fweights is None and aweights is None:
        return max(n - ddof, 0), None
    weights = np.ones(n)
    for each in (fweights, aweights):
        weights = weights if each is None else weights * each
    total = np.sum(weights)
    if aweights is not None:
        ddof = ddof * np.sum(weights * aweights) / total
    return max(total - ddof, 0.0), weights


def _edges_given(bins: Any, range: Any) -> bool:
    return range is not None or np.ndim(bins) > 0


def _to_edges(g: Sequence[Array], ans: Sequence[Array], density: Any) -> Array:
    """Return the cotangent of the edges: a density is divided by the widths of the bins."""
    if not density:
        return g[1]
    share = g[0] * ans[0] / (ans[1][1:] - ans[1][:-1])
    nothing = np.zeros_like(share[:1])
    return g[1] + np.concatenate([share, nothing]) - np.concatenate([nothing, share])


def _edges(g: Array, a: Array) -> Array:
    """Return the cotangent of the data, whose least and greatest entry the edges lie between."""
    if not np.size(a):
        return np.zeros_like(g, shape=np.shape(a))
    way = np.linspace(0, 1, g.shape[0], dtype=g.dtype)
    least = shared(np.sum(g * (1 - way)), a == np.min(a), None)
    return least + shared(np.sum(g * way), a == np.max(a), None)


def _to_weights(g: Array, ans: Sequence[Array], a: Any, density: Any, weights: Array) -> Array:
    counts, edges = ans
    bins = edges.shape[0] - 1
    # All bins but the last are open at their right end.
    place = np.minimum(np.searchsorted(edges[:-1], a, side="right") - 1, bins - 1)
    inside = np.logical_and(place >= 0, np.less_equal(a, edges[-1]))
    if density:
        total = np.sum(weights, where=inside)
        g = (g / (edges[1:] - edges[:-1]) - np.sum(g * counts)) / total
    return np.where(inside, g[np.maximum(place, 0)], 0)
