"""Calls of the tables sorting and statistics."""

import numpy as np
from laws.harness import Drawn, case, complex_, distinct, positive, real

from thriftgrad.autodiff.rules.sorting import put_along
from thriftgrad.autodiff.rules.statistics import weighted_average

MASK = np.array([[True, False, True, True], [False, True, True, False], [True, True, False, True]])
ROWS = np.array([0, 2, 2, 1])


def holes(*shape: int) -> Drawn:
    """Distinct numbers and, among them, NaN."""

    def draw(rng):
        x = distinct(*shape).draw(rng)
        x.flat[1::5] = np.nan
        return x

    return Drawn(draw, f"holes{shape}")


PAD = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0])  # zeros that stay 0 when data move


SORTING = [
    *(case(np.sort, distinct(2, 3, 4), **k) for k in ({}, {"axis": 0}, {"axis": -2}, {"axis": None})),
    case(np.sort, distinct(3, 4), kind="stable"),
    case(np.sort, distinct(3, 4), stable=True),
    case(np.sort, complex_(3, 4), axis=0),
    case(lambda a: np.sort(a)[:, :-1], holes(3, 4), _name="sort with NaN"),
    case(np.sort_complex, complex_(2, 5)),
    case(np.sort_complex, distinct(5), _single=False),
    *(case(np.partition, distinct(3, 12), 4, **k) for k in ({}, {"axis": None}, {"kind": "introselect"})),
    *(case(np.partition, distinct(9, 3), kth, axis=0) for kth in (2, [1, 6], -1)),
    # Another precision may put the parts in another order.
    case(np.partition, distinct(400), 200, _single=False),
    case(np.unique, distinct(3, 4)),
    case(np.unique, distinct(6), return_inverse=True, return_counts=True),
    case(np.unique, distinct(4, 3), axis=0),
    case(np.unique, distinct(3, 4), axis=-1, return_index=True),
    *(case(f, distinct(3, 4)) for f in (np.unique_all, np.unique_counts, np.unique_inverse,
                                           np.unique_values)),
]  # fmt: skip

SELECTION = [
    case(np.take, real(3, 4), [0, 2, 2]),
    *(case(np.take, real(3, 4), index, axis=axis)
      for index in (1, -1, ROWS, np.array([[0, -1], [2, 0]])) for axis in (0, 1, -1)),
    *(case(np.take, real(3, 4), [-7, 5, 2], mode=mode, **k)
      for mode in ("wrap", "clip") for k in ({}, {"axis": 1})),
    case(np.take_along_axis, real(3, 4), np.array([[0, 3, 3], [1, 1, 0], [2, 3, -1]]), axis=1),
    case(np.take_along_axis, real(3, 4), np.array([[0, 2, 2, 1]]), axis=0),
    case(np.take_along_axis, real(3, 4), np.array([[0, 1]]), axis=-1),
    case(np.take_along_axis, real(3, 4), np.array([11, 3, 3]), axis=None),
    case(np.choose, np.array([0, 1, 2, 1]), [real(4), real(3, 1), real()]),
    case(np.choose, np.array([0, 1, 2, 1]), real(3, 4)),
    *(case(np.choose, np.array([0, -1, 5, 1]), [real(4), np.ones(4), real(4)], mode=mode)
      for mode in ("wrap", "clip")),
    case(np.compress, [True, False, True], real(3, 4), axis=0),
    case(np.compress, [0, 1], real(3, 4), axis=-1),
    case(np.compress, [True, False, False, False, True], real(3, 4)),
    case(np.extract, MASK, real(3, 4)),
    case(np.select, [MASK, ~MASK[:1], MASK[:, :1]], [real(3, 4), real(4), real(3, 1)], real(3, 4)),
    case(np.select, [MASK, MASK[:, ::-1]], [real(3, 4), np.ones(4)], 2.0),
    case(lambda *v: np.select([MASK, MASK[:, ::-1]], [v[0], v[1]], default=v[2]),
         real(3, 4), real(4), real(), _name="select default"),
    *(case(lambda x, conditions=conditions, functions=functions: np.piecewise(
          x, conditions(x), functions), real(7), _name=f"piecewise {i}")
      for i, (conditions, functions) in enumerate([
          (lambda x: [x < 0, x >= 0], [np.exp, np.sin]),
          (lambda x: [x < -0.5, x < 0.5], [np.exp, lambda t: t**3, np.cos]),
          (lambda x: x < 0, [lambda t: t * np.sum(t), 3.0]),
          (lambda x: [x < 0], [lambda t: 1.0, np.square]),
      ])),
    case(lambda x: np.piecewise(x, [x < 0, x >= 0], [np.exp, np.square]), real(), _name="piecewise of one"),
    case(lambda x: np.piecewise(x, [x < 0, x > 0.5], [np.exp, np.sin, np.square]), real(3, 4),
         _name="piecewise of a matrix"),
    case(np.piecewise, real(5), [np.arange(5) < 3], [lambda x, p: x**p, lambda x, p: p * x], 3),
    case(np.trim_zeros, real(4)),
    *(case(lambda x, k=k: np.trim_zeros(x * PAD, **k), real(7), _name=f"trim_zeros {k}")
      for k in ({}, {"trim": "f"}, {"trim": "B"})),
]  # fmt: skip
if np.lib.NumpyVersion(np.__version__) >= "2.2.0":
    SELECTION += [
        case(lambda x, k=k: np.trim_zeros(x * np.outer(PAD[1:], PAD), **k), real(6, 7),
             _name=f"trim_zeros of a matrix {k}")
        for k in ({}, {"trim": "f", "axis": 1}, {"trim": "b", "axis": (0, 1)})
    ]  # fmt: skip

_METHODS = (
    "inverted_cdf", "averaged_inverted_cdf", "closest_observation", "interpolated_inverted_cdf",
    "hazen", "weibull", "linear", "median_unbiased", "normal_unbiased", "lower", "higher",
    "midpoint", "nearest",
)  # fmt: skip
_AXES = ({}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (-1, 0)}, {"keepdims": True})
_QUANTILES = (
    (np.quantile, 1.0),
    (np.percentile, 100.0),
    (np.nanquantile, 1.0),
    (np.nanpercentile, 100.0),
)
WEIGHTS = np.array([[1.0, 2.0, 0.0, 1.0], [0.5, 0.5, 3.0, 1.0], [2.0, 1.0, 1.0, 1.0]])


def level(whole: float, counts: tuple[int, ...], *shape: int) -> Drawn:
    """Quantiles between the kinks and steps that these numbers of entries have, by any method."""
    kinks = [
        (k - a) / (n + 1 - a - b)
        for n in counts
        for k in range(n + 2)
        for a, b in ((0, 0), (0, 1), (1, 1), (0.5, 0.5), (0.5, 1.5), (1 / 3, 1 / 3), (3 / 8, 3 / 8))
    ]
    q = np.linspace(0.02, 0.98, 1921)
    q = q[np.min(np.abs(q[:, None] - kinks), axis=1) > 0.004]
    return Drawn(lambda rng: whole * rng.choice(q, size=shape), f"level{shape}")


STATISTICS = [
    *(case(f, distinct(2, 3, 4), **k) for f in (np.median, np.nanmedian) for k in _AXES),
    *(case(f, distinct(5)) for f in (np.median, np.nanmedian)),
    *(case(f, distinct(1)) for f in (np.median, np.nanmedian)),
    *(case(np.nanmedian, holes(2, 3, 4), **k) for k in _AXES),
    *(case(f, distinct(2, 3, 2), level(u, (2, 4, 12), *q), **k)
      for f, u in _QUANTILES for k in _AXES for q in ((), (3,), (2, 2))
      if len(q) < 2 or k != {"axis": (-1, 0)} or f in (np.quantile, np.percentile)),
    *(case(f, holes(3, 4), level(u, (2, 3, 9), 3), **k)
      for f, u in _QUANTILES[2:] for k in ({}, {"axis": 0}, {"axis": 1, "keepdims": True})),
    *(case(f, distinct(3, 7), level(u, (7,), 4), axis=1, method=method, _name=f"{f.__name__} {method}")
      for f, u in _QUANTILES for method in _METHODS),
    *(case(f, holes(3, 6), level(u, (4, 5), 4), axis=1, method=method, _name=f"{f.__name__} {method} holes")
      for f, u in _QUANTILES[2:] for method in _METHODS),
    *(case(f, distinct(3, 4), [0.0, 0.3 * u, u], axis=0) for f, u in _QUANTILES),
    *(case(f, distinct(3, 4), 0.4 * u, weights=w, method="inverted_cdf", **k, _name=f"weighted {f.__name__}")
      for f, u in _QUANTILES
      for w, k in ((WEIGHTS, {}), (WEIGHTS, {"axis": 1}), (WEIGHTS[0], {"axis": 1}),
                   (WEIGHTS.T, {"axis": (1, 0), "keepdims": True}))
      if k != {"axis": 1} or w.ndim == 2 or not f.__name__.startswith("nan")),  # NumPy's own IndexError
    *(case(f, distinct(3, 4), [0.4 * u, 0.7 * u], axis=0, weights=WEIGHTS, method="inverted_cdf")
      for f, u in _QUANTILES),
    *(case(np.average, real(2, 3, 4), **k) for k in (*_AXES, {"axis": 1, "returned": True})),
    *(case(lambda a, w, k=k: np.average(a, weights=w, **k), real(2, 3, 4), positive(*shape),
           _name=f"average {shape} {k}")
      for shape, k in [((2, 3, 4), {}), ((2, 3, 4), {"axis": 1}), ((3,), {"axis": 1}),
                       ((4, 2), {"axis": (2, 0)}), ((2, 3), {"axis": (0, 1), "keepdims": True}),
                       ((2, 3, 4), {"axis": (0, -1), "returned": True}),
                       ((4,), {"axis": -1, "returned": True}),
                       ((2, 3, 4), {"returned": True})]),
    case(np.average, real(3, 4), 0, positive(3)),
    case(weighted_average, real(3, 4), 0, positive(3), False),
    case(put_along, real(2, 3), np.array([[1, 0, 2], [2, 1, 0]]), 1),
    case(np.average, complex_(3, 4), 0, positive(3)),
    *(case(np.cov, x, _single=False, **k)
      for x in (real(3, 5), complex_(3, 5))
      for k in ({}, {"rowvar": False}, {"bias": True}, {"ddof": 0}, {"fweights": np.array([1, 2, 1, 3, 1])},
                {"aweights": np.array([0.5, 1.0, 2.0, 1.0, 1.0])},
                {"fweights": np.array([1, 2, 1, 3, 1]), "aweights": np.array([0.5, 1.0, 2.0, 1.0, 1.0])},
                {"aweights": np.array([0.5, 1.0, 2.0, 1.0, 1.0]), "ddof": 0}) if k.get("rowvar", True)),
    case(np.cov, real(5, 3), rowvar=False, _single=False),
    case(np.cov, real(4, 4), rowvar=False, _single=False),
    case(np.cov, real(5, 1), rowvar=False, _single=False),
    case(np.cov, real(5), rowvar=False, _single=False),
    case(np.cov, real(5), _single=False),
    case(np.cov, real(5), real(5), _single=False),
    case(np.cov, real(5, 2), real(5), rowvar=False, _single=False),
    case(np.cov, real(4, 4), real(4, 4), rowvar=False, _single=False),
    case(np.cov, real(5, 1), real(5, 1), rowvar=False, _single=False),
    case(np.cov, real(1, 5), real(1, 5), _single=False),
    case(np.cov, real(2, 5), real(3, 5), _single=False),
    case(np.cov, complex_(5), complex_(5), _single=False),
    case(np.corrcoef, real(3, 5), _single=False),
    case(np.corrcoef, real(5, 3), rowvar=False, _single=False),
    case(np.corrcoef, real(5), real(5), _single=False),
    case(np.corrcoef, real(2, 5), real(3, 5), _single=False),
    case(np.corrcoef, complex_(3, 5), _single=False),
    case(np.corrcoef, complex_(5), complex_(5), _single=False),
]  # fmt: skip

DATA = np.array([0.1, 0.4, 0.4, 1.7, 2.9, 3.0, 5.0])
HISTOGRAMS = [
    case(np.bincount, np.array([0, 2, 2, 5]), real(4), _single=False),
    case(lambda w: np.bincount(np.array([0, 2, 2]), weights=w, minlength=9), real(3),
         _name="bincount minlength", _single=False),
    *(case(lambda w, k=k: np.histogram(DATA, weights=w, **k), positive(7), _name=f"histogram weights {k}")
      for k in ({}, {"bins": 3, "density": True}, {"bins": 4, "range": (0.4, 3.0)},
                {"bins": [0.0, 0.4, 3.0, 4.0]}, {"bins": [0.4, 1.0, 3.0], "density": True})),
    *(case(np.histogram, distinct(9), **k)
      for k in ({}, {"bins": 3, "density": True}, {"bins": 3, "range": (-2, 2), "density": True},
                {"bins": "sturges"})),
    case(lambda a, w: np.histogram(a, weights=w, bins=3, density=True), distinct(9), positive(9),
         _name="histogram of both"),
    *(case(np.histogram_bin_edges, distinct(9), **k) for k in ({}, {"bins": "fd"}, {"range": (-2, 2)})),
]  # fmt: skip

CASES = [*SORTING, *SELECTION, *STATISTICS, *HISTOGRAMS]
