"""Calls of the table elementwise that are rare, complex, or at the edge of a domain."""

import numpy as np
from laws.harness import above_one, case, complex_, inside, positive, real
from numpy._core import umath

NEW = hasattr(np, "cumulative_sum")  # NumPy 2.1 has two more names for the bounds of clip

_COMPLEX = [
    *(
        case(f, complex_(3, 2))
        for f in (
            np.positive, np.reciprocal, np.absolute, np.sign, np.exp2, np.log2, np.log10, np.log1p,
            np.cos, np.tan, np.arcsin, np.arccos, np.arctan, np.sinh, np.tanh, np.arcsinh,
            np.arccosh, np.arctanh, np.nan_to_num,
        )
    ),
    case(np.power, complex_(3), complex_(2, 1)),
    case(np.power, complex_(3), real(3)),
    case(np.power, positive(3), complex_(3)),
    case(np.power, 2.0, complex_(3)),
    case(np.power, complex_(3), 1.5 + 0.5j),
    case(np.float_power, complex_(3), complex_(3), _single=False),
    case(np.where, np.array([True, False, True]), complex_(3), real(3)),
    case(np.real, real(3)),
    case(np.conjugate, real(3)),
    case(np.real_if_close, real(3)),
    case(np.real_if_close, complex_(3)),
]  # fmt: skip

_RARE = [
    case(np.power, positive(3, 4), np.array([0, 1, 2, 3]), _single=False),
    case(np.float_power, real(3), 3, _single=False),
    case(np.fmod, real(3, 4), real(4)),
    case(np.remainder, real(3, 4), real(4)),
    case(np.frexp, real(3, 4)),
    case(np.ldexp, real(3, 4), np.array([-3, 0, 1, 5])),
    case(np.nextafter, real(3), real(3)),
    case(np.sign, real(3)),
    case(np.copysign, real(3), real(3)),
    case(np.heaviside, real(3), real(3)),
    case(np.logaddexp, real(3), 0.0),
    case(np.hypot, 1.0, real(3)),
    case(np.arctan2, 1.0, real(3)),
    case(umath.clip, real(3, 4), -0.5, 0.5),
    case(umath.clip, real(3, 4), -positive(4).draw(np.random.default_rng(0)), positive(4)),
    *(
        [case(np.clip, real(3, 4), **bound) for bound in ({"min": -0.3}, {"max": 0.3})]
        if NEW
        else []
    ),
    *(case(f, real(3)) for f in (np.arctan, np.arcsinh, np.tanh)),
]

# Above, below and inside of the interval in which the functions are real.
_EMATH = [
    *(
        case(f, sample)
        for f in (np.emath.sqrt, np.emath.log, np.emath.log2, np.emath.log10)
        for sample in (real(3), complex_(3))
    ),
    *(
        case(f, sample)
        for f in (np.emath.arcsin, np.emath.arccos, np.emath.arctanh)
        for sample in (inside(3), real(3), above_one(3), complex_(3))
    ),
    case(np.emath.logn, above_one(3), real(3)),
    case(np.emath.logn, 3.0, positive(3)),
    case(np.emath.power, real(3), real(3)),
    case(np.emath.power, positive(3), real(3)),
]

_ROWS = [
    case(np.linspace, real(), real(), 5),
    case(np.linspace, real(2, 1), real(3), num=4, endpoint=False, axis=1),
    case(np.linspace, real(), 3.0, num=1),
    case(np.linspace, complex_(2), real(2), num=3, dtype=complex, _single=False),
    case(np.logspace, real(), real(3), 4),
    case(
        np.logspace, real(2, 1), real(3), 4, base=np.array([2.0, 3.0, 4.0]), axis=-1, _single=False
    ),
    case(np.geomspace, positive(), positive(), 4),
    case(np.geomspace, positive(3), positive(2, 1), 4, endpoint=False, axis=1),
    case(np.full_like, real(2, 2), real()),
    *([case(np.astype, real(3), np.float64, _single=False)] if hasattr(np, "astype") else []),
]

CASES = [*_COMPLEX, *_RARE, *_EMATH, *_ROWS]
