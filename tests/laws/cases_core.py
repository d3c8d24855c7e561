"""Calls of the tables elementwise, reductions, shaping, joining, indexing and contraction."""

import operator

import numpy as np
from laws.harness import (
    above_one,
    case,
    complex_,
    distinct,
    inside,
    positive,
    real,
)  # fmt: skip

from thriftgrad.autodiff.rules.elementwise import chosen
from thriftgrad.autodiff.rules.indexing import scatter
from thriftgrad.autodiff.tensor import cast

MASK = np.array([[True, False, True, True], [False, True, True, False], [True, True, False, True]])

ELEMENTWISE = [
    *(case(f, real(3, 4), real(4)) for f in (np.add, np.subtract, np.multiply, np.divide)),
    *(case(f, complex_(3, 1), complex_(4)) for f in (np.add, np.subtract, np.multiply, np.divide)),
    case(np.multiply, real(3), complex_(3)),
    case(np.add, 2.0, real(2, 3)),
    case(np.divide, real(2, 3), 2),
    *(case(f, real(3, 4)) for f in (np.negative, np.positive, np.square, np.exp, np.exp2, np.expm1)),
    *(case(f, complex_(3)) for f in (np.negative, np.square, np.exp, np.expm1, np.sin, np.cosh)),
    case(np.reciprocal, real(3)),
    case(np.power, positive(3, 4), real(4)),
    case(np.power, real(3, 4), 3),
    case(np.power, real(3, 4), 2),
    case(np.power, real(3, 4), 0),
    case(np.power, 2.0, real(3)),
    case(np.power, complex_(3), 3),
    case(np.float_power, positive(3), real(3), _single=False),
    case(operator.pow, real(3), 2),
    case(np.remainder, real(3, 4), positive(4)),
    case(np.fmod, real(3, 4), positive(4)),
    case(np.divmod, real(3, 4), positive(4)),
    case(np.modf, real(3, 4)),
    case(cast, real(3), np.float64, _single=False),
    *(case(f, positive(3, 4)) for f in (np.log, np.log2, np.log10, np.log1p, np.sqrt, np.cbrt)),
    *(case(f, complex_(3)) for f in (np.log, np.sqrt)),
    case(np.logaddexp, real(3, 4), real(4)),
    case(np.logaddexp2, real(3, 4), real(4)),
    *(case(f, inside(3, 4)) for f in (np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan)),
    *(case(f, inside(3, 4)) for f in (np.sinh, np.cosh, np.tanh, np.arcsinh, np.arctanh)),
    case(np.arccosh, above_one(3, 4)),
    case(np.arctan2, real(3, 4), real(4)),
    case(np.hypot, real(3, 4), real(4)),
    *(case(f, real(3)) for f in (np.deg2rad, np.radians, np.rad2deg, np.degrees)),
    case(np.absolute, real(3, 4)),
    case(np.absolute, complex_(3)),
    case(np.fabs, real(3)),
    case(np.copysign, real(3), np.array([1.0, -1.0, 1.0])),
    *(case(f, distinct(3, 4), above_one(4)) for f in (np.maximum, np.minimum, np.fmax, np.fmin)),
    case(np.where, MASK, real(3, 4), real(4)),
    case(chosen, real(3, 4), MASK),
    case(chosen, complex_(3, 4), MASK),
    case(np.clip, real(3, 4), -0.5, 0.5),
    case(np.clip, real(3, 4), -positive(4).draw(np.random.default_rng(0)), positive(4)),
    case(np.clip, real(3, 4), None, real(4)),
    case(np.nan_to_num, real(3)),
    *(case(f, complex_(3)) for f in (np.conjugate, np.real, np.imag)),
]  # fmt: skip

_AXES = ({}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 2)})
REDUCTIONS = [
    *(
        case(f, real(2, 3, 4), **axes)
        for f in (np.sum, np.mean, np.var, np.std, np.prod)
        for axes in _AXES
    ),
    *(
        case(f, distinct(2, 3, 4), **axes)
        for f in (np.max, np.min, np.amax, np.amin)
        for axes in _AXES
    ),
    *(case(f, real(3, 4), axis=1, where=MASK) for f in (np.sum, np.mean, np.var, np.std, np.prod)),
    case(np.max, distinct(3, 4), axis=1, where=MASK, initial=-100.0),
    case(np.sum, real(3, 4), initial=5.0),
    case(np.prod, real(3, 4), axis=0, initial=5.0),
    case(np.var, real(3, 4), axis=0, ddof=1),
    case(np.std, real(3, 4), ddof=2),
    *(case(f, complex_(3, 4), axis=0) for f in (np.sum, np.mean, np.var, np.std, np.prod)),
]

SHAPING = [
    case(np.reshape, real(3, 4), (2, 6)),
    case(np.reshape, real(3, 4), (2, -1), order="F"),
    case(np.ravel, real(3, 4)),
    case(np.transpose, real(2, 3, 4)),
    case(np.transpose, real(2, 3, 4), (1, -1, 0)),
    case(np.swapaxes, real(2, 3, 4), 0, 2),
    case(np.moveaxis, real(2, 3, 4), [0, 1], [-1, 0]),
    case(np.expand_dims, real(3, 4), (0, 2)),
    case(np.squeeze, real(3, 1, 4, 1)),
    case(np.squeeze, real(3, 1, 4, 1), axis=1),
    case(np.broadcast_to, real(3, 1), (2, 3, 4)),
    case(np.copy, real(3)),
    *([case(np.matrix_transpose, real(2, 3, 4))] if hasattr(np, "matrix_transpose") else []),
]

JOINING = [
    case(np.concatenate, [real(2, 3), real(1, 3), real(4, 3)]),
    case(np.concatenate, (real(2, 3), np.ones((2, 2))), axis=-1),
    case(np.concatenate, [real(2, 3), real(4)], axis=None),
    case(np.concatenate, real(2, 3, 4), axis=1),
    case(np.stack, [real(2, 3), real(2, 3)], axis=-1),
    case(np.stack, [real(2), np.ones(2), real(2)]),
]

_ROWS = np.array([0, 2, 2, 1, -1])
INDEXING = [
    *(
        case(operator.getitem, real(3, 4), index, _name=f"getitem {index!r}")
        for index in (
            1, -1, slice(None, None, -1), (slice(1, 3), 2), (Ellipsis, None, 0), _ROWS,
            (_ROWS, np.array([1, 1, 1, 0, 2])), (slice(None), [0, 0, 3]), MASK, (MASK[:, 0], 2), (),
        )
    ),
    case(scatter, real(5, 4), _ROWS, (3, 4)),
    case(scatter, real(2, 4), slice(0, 2), (3, 4)),
]  # fmt: skip

_MATMUL = [((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 2)), ((3, 4), (4, 2)), ((5, 3, 4), (4, 2)),
           ((3, 4), (5, 4, 2)), ((5, 3, 4), (5, 4, 2)), ((5, 1, 3, 4), (2, 4, 2)), ((5, 3, 4), (4,)),
           ((4,), (5, 4, 2))]  # fmt: skip
CONTRACTION = [
    *(case(np.matmul, real(*a), real(*b), _name=f"matmul {a} {b}") for a, b in _MATMUL),
    case(np.matmul, complex_(3, 4), complex_(4, 2)),
    *(
        case(np.dot, real(*a), real(*b), _name=f"dot {a} {b}")
        for a, b in [*_MATMUL[:4], ((2, 3, 4), (5, 4, 2)), ((2, 3, 4), (4,)), ((), (3, 2)), ((2,), ())]
    ),
    *(
        case(np.inner, real(*a), real(*b), _name=f"inner {a} {b}")
        for a, b in [((4,), (4,)), ((3, 4), (4,)), ((2, 3, 4), (5, 4)), ((), (3,))]
    ),
    case(np.vdot, real(2, 3), real(3, 2)),
    case(np.vdot, complex_(3), complex_(3)),
    case(np.outer, real(2, 3), real(4)),
    case(np.tensordot, real(2, 3, 4), real(3, 4, 5)),
    case(np.tensordot, real(2, 3, 4), real(5), axes=0),
    case(np.tensordot, real(2, 3, 4), real(4, 5, 2), axes=([2, 0], [0, 2])),
    case(np.tensordot, real(2, 3), real(3, 5), axes=(1, 0)),
    *(
        case(np.einsum, text, *(real(*shape) for shape in shapes), _name=f"einsum {text}")
        for text, *shapes in [
            ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("ij->ji", (2, 3)), ("ij->", (2, 3)),
            ("ii", (3, 3)), ("ii->i", (3, 3)), ("iij->j", (3, 3, 2)), ("ijj->i", (2, 3, 3)), ("i,i,i->", (3,), (3,), (3,)),
            ("...ij,...jk->...ik", (2, 3, 4), (4, 5)), ("i...,...->i...", (3, 2), (5, 2)), ("...", (2, 3)),
            ("ij,kl->il", (2, 3), (3, 4)), ("b...,bc...->c...", (2, 3), (2, 4, 3)), ("...i->...", (2, 3)), ("ba", (2, 3)),
        ]
    ),
    case(np.einsum, real(2, 3), [0, 1], real(3, 4), [1, 2], [0, 2], _name="einsum of lists"),
    case(np.einsum, real(2, 3), [0, 1], real(3, 4), [1, 2], _name="einsum of lists, implicit"),
    case(np.einsum, "ij,jk->ik", complex_(2, 3), complex_(3, 4), _name="einsum complex"),
]  # fmt: skip

CASES = [*ELEMENTWISE, *REDUCTIONS, *SHAPING, *JOINING, *INDEXING, *CONTRACTION]
