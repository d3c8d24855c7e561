"""Calls of the tables reductions, cumulative and ufunc_methods."""

import numpy as np
from laws.harness import Drawn, above_one, case, complex_, distinct, positive, real

from thriftgrad.autodiff.registry import RULES, Rule

MASK = np.array([[True, False, True, True], [False, True, True, False], [True, True, False, True]])
_AXES = ({}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (-1, 0)}, {"keepdims": True})


def holes(*shape: int) -> Drawn:
    """Distinct numbers and, among them, NaN."""

    def draw(rng):
        x = distinct(*shape).draw(rng)
        x.flat[1::5] = np.nan
        return x

    return Drawn(draw, f"holes{shape}")


def zeros(*shape: int) -> Drawn:
    """Numbers of which some are 0: none, one, two or more in a row of four."""

    def draw(rng):
        x = real(*shape).draw(rng)
        x.flat[4::5] = 0.0
        x.flat[9::6] = 0.0
        return x

    return Drawn(draw, f"zeros{shape}")


def mean_of(x):
    return np.mean(x, axis=1, keepdims=True)


_PLAIN = (np.sum, np.mean, np.var, np.std, np.prod)
_NAN = (np.nansum, np.nanmean, np.nanvar, np.nanstd, np.nanprod)

REDUCTIONS = [
    *(case(f, real(2, 3, 4), **axes) for f in _PLAIN for axes in _AXES),
    *(case(f, real(2, 3, 4), axis=()) for f in (np.sum, np.mean, np.prod)),
    *(case(f, real(3, 4), axis=1, where=MASK) for f in _PLAIN),
    *(case(f, real(2, 3, 4), axis=(0, 2), where=MASK[0], keepdims=True) for f in _PLAIN),
    *(case(f, real(3, 4), dtype=np.float64, _single=False) for f in _PLAIN),
    *(case(f, complex_(3, 4), axis=0) for f in _PLAIN),
    *(case(f, zeros(5, 4), **axes) for f in (np.prod, np.nanprod) for axes in ({}, {"axis": 1})),
    *(case(f, real(3, 4), initial=5.0) for f in (np.sum, np.prod)),
    case(np.prod, real(3, 4), axis=0, initial=5.0, where=MASK),
    *(case(f, real(3, 4), axis=0, **k) for f in (np.var, np.std, np.nanvar, np.nanstd)
      for k in ({"ddof": 1}, {"ddof": 0.5}, {"correction": 1})),
    *(case(f, real(3, 4), axis=1, ddof=1, where=MASK) for f in (np.var, np.std, np.nanvar, np.nanstd)),
    *(case(lambda a, m, f=f, **k: f(a, axis=1, mean=m, **k), real(3, 4), real(3, 1),
           _name=f"{f.__name__} with a mean", **k)
      for f in (np.var, np.std) for k in ({}, {"keepdims": True}, {"where": MASK, "ddof": 1})),
    *(case(lambda a, f=f: f(a, axis=1, mean=mean_of(a)), real(3, 4), _name=f"{f.__name__} of its mean")
      for f in (np.var, np.std, np.nanvar, np.nanstd)),
    *(case(lambda a, m, f=f: f(a, axis=1, mean=m), holes(3, 4), real(3, 1),
           _name=f"{f.__name__} with a mean") for f in (np.nanvar, np.nanstd)),
    *(case(f, distinct(2, 3, 4), **axes)
      for f in (np.max, np.min, np.amax, np.amin, np.ptp, np.nanmax, np.nanmin) for axes in _AXES),
    *(case(f, distinct(3, 4), axis=1, where=MASK, initial=start)
      for f, start in ((np.max, -100.0), (np.max, 0.5), (np.min, 100.0), (np.nanmin, 0.5))),
    *(case(f, complex_(3, 4), axis=0) for f in (np.max, np.min, np.ptp)),
    *(case(f, holes(2, 3, 4), **axes) for f in (*_NAN, np.nanmax, np.nanmin) for axes in _AXES),
    *(case(f, holes(3, 4), axis=1, where=MASK) for f in _NAN),
    *(case(f, holes(3, 4), initial=5.0) for f in (np.nansum, np.nanprod)),
    *(case(f, complex_(3, 4), axis=0) for f in _NAN),
]  # fmt: skip

_ALONG = ({}, {"axis": 0}, {"axis": -1}, {"axis": 1})
CUMULATIVE = [
    *(case(f, real(2, 3, 4), **k) for f in (np.cumsum, np.cumprod) for k in _ALONG),
    *(case(f, zeros(5, 4), **k) for f in (np.cumprod, np.nancumprod) for k in ({}, {"axis": 1})),
    *(case(f, holes(3, 4), **k) for f in (np.nancumsum, np.nancumprod) for k in ({}, {"axis": 0})),
    *(case(f, complex_(3, 4), axis=1) for f in (np.cumsum, np.cumprod)),
    *(case(f, real(5), dtype=np.float64, _single=False) for f in (np.cumsum, np.cumprod)),
    *(case(f, real(1)) for f in (np.cumsum, np.cumprod)),
    *(case(f, real()) for f in (np.cumsum, np.cumprod)),
]
if hasattr(np, "cumulative_sum"):
    CUMULATIVE += [
        *(case(f, x, **k) for f in (np.cumulative_sum, np.cumulative_prod)
          for x, k in [(real(4), {}), (zeros(9), {"include_initial": True}), (real(3, 4), {"axis": 0}),
                       (zeros(5, 4), {"axis": -1, "include_initial": True}),
                       (real(2, 3, 4), {"axis": -2, "include_initial": True})]),
    ]  # fmt: skip

_BINARY = [
    f for f, rule in RULES.items()
    if isinstance(f, np.ufunc) and f.nin == 2 and f.signature is None and isinstance(rule, Rule)
    and f is getattr(np, f.__name__, None)
]  # fmt: skip
_WIDENS = {np.float_power: {"_single": False}}


def _samples(f):
    """Where f is smooth: the second argument does not make the first one irrelevant."""
    if f in (np.maximum, np.minimum, np.fmax, np.fmin, np.nextafter):
        return distinct
    return positive


def _integer_second(f):
    return f in (np.ldexp,)


METHODS = [
    *(case(f.outer, _samples(f)(2, 3), above_one(4), **_WIDENS.get(f, {}))
      for f in _BINARY if not _integer_second(f)),
    *(case(f.outer, _samples(f)(), _samples(f)(2, 2), **_WIDENS.get(f, {}))
      for f in _BINARY if not _integer_second(f)),
    *(case(f.outer, real(2, 3), np.array([1, 2, 3])) for f in _BINARY if _integer_second(f)),
    case(np.power.outer, real(3), np.array([0, 1, 2]), _single=False),
    case(np.multiply.outer, real(3), 2.0),
    case(np.multiply.outer, complex_(2), complex_(3)),
    *(case(f.accumulate, _samples(f)(4, 3), _name=f"{f.__name__}.accumulate {k}", **k, **_WIDENS.get(f, {}))
      for f in _BINARY if isinstance(RULES.get(f.accumulate), Rule) for k in ({}, {"axis": 1}, {"axis": -2})),
    *(case(f.accumulate, real(2, 7), axis=1) for f in (np.add, np.multiply, np.subtract, np.logaddexp)),
    case(np.multiply.accumulate, zeros(5, 4), axis=1),
    case(np.multiply.accumulate, complex_(5)),
    *(case(f.reduce, _samples(f)(4, 3), **k, **_WIDENS.get(f, {}))
      for f in _BINARY if isinstance(RULES.get(f.reduce), Rule)
      for k in ({}, {"axis": 1}, {"axis": -1, "keepdims": True})),
    *(case(f.reduce, positive(4), axis=None) for f in (np.subtract, np.divide)),
    *(case(f.reduce, real(2, 3, 4), **k)
      for f in (np.add, np.multiply, np.logaddexp, np.logaddexp2, np.hypot)
      for k in ({"axis": None}, {"axis": (0, -1)}, {"axis": None, "keepdims": True}, {"axis": ()})),
    *(case(f.reduce, real(3, 4), axis=1, where=MASK, initial=1.5)
      for f in (np.add, np.multiply, np.logaddexp, np.logaddexp2, np.hypot)),
    *(case(f.reduce, real(3, 4), axis=0, where=MASK)
      for f in (np.add, np.multiply, np.logaddexp, np.logaddexp2, np.hypot)),
    *(case(f.reduce, distinct(3, 4), axis=1, where=MASK, initial=start)
      for f, start in ((np.maximum, -9.0), (np.minimum, 0.1), (np.fmax, 0.1), (np.fmin, 9.0))),
    *(case(f.reduce, holes(3, 4), axis=1) for f in (np.fmax, np.fmin)),
    case(np.multiply.reduce, zeros(5, 4), axis=1),
    case(np.logaddexp.reduce, real(3, 400)),
    *(case(f.reduceat, _samples(f)(5, 6), indices, **k)
      for f in (np.add, np.multiply, np.maximum, np.minimum, np.fmax, np.fmin, np.logaddexp,
                np.logaddexp2, np.hypot)
      for indices, k in (([0, 2, 3], {}), ([3, 1, 0, 4, 4], {"axis": 1}),
                         (np.array([1, 4]), {"axis": -2}))),
    case(np.multiply.reduceat, zeros(5, 4), [0, 2, 1, 3], axis=1),
    case(np.add.reduceat, real(5), [2], dtype=np.float64, _single=False),
]  # fmt: skip

CASES = [*REDUCTIONS, *CUMULATIVE, *METHODS]
