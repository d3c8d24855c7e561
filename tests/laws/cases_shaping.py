"""Calls of the table shaping that `cases_core` does not make."""

import numpy as np
from laws.harness import case, complex_, distinct, real
from numpy.lib.stride_tricks import sliding_window_view

from thriftgrad.autodiff.rules.shaping import fold, overlap_add, pad_by_order, pad_linearly

MOVING = [
    case(np.rollaxis, real(2, 3, 4), 2),
    case(np.rollaxis, real(2, 3, 4), 0, 3),
    case(np.rollaxis, real(2, 3, 4), -1, -2),
    case(np.rollaxis, real(2, 3, 4, 5), 1, 3),
    case(np.roll, real(3, 4), 2),
    case(np.roll, real(3, 4), 1, axis=-1),
    case(np.roll, real(3, 4), (1, -2), axis=(0, 1)),
    case(np.roll, complex_(3, 4), (1, 1), axis=1),
    *(case(np.flip, real(2, 3, 4), axis=axis) for axis in (None, 1, (0, -1))),
    case(np.fliplr, real(3, 4)),
    case(np.flipud, real(3, 4)),
    *(case(np.rot90, real(3, 4), k) for k in (0, 1, 2, 3, -1)),
    case(np.rot90, real(2, 3, 4), axes=(2, 1)),
    case(np.ravel, real(3, 4), order="F"),
]

SEVERAL = [
    *(
        case(f, real(*shape), _name=f"{f.__name__} {shape}")
        for f in (np.atleast_1d, np.atleast_2d, np.atleast_3d)
        for shape in ((), (3,), (2, 3))
    ),
    case(np.atleast_1d, real(), real(3)),
    case(np.atleast_2d, real(3), np.ones(2), real()),
    case(np.atleast_3d, real(2, 3), real(4)),
    case(np.broadcast_arrays, real(3, 1), real(4), real()),
    case(np.broadcast_arrays, real(3)),
    case(np.meshgrid, real(3), real(4), real(2)),
    case(np.meshgrid, real(3), real(4), indexing="ij"),
    case(np.meshgrid, real(3), real(4), real(), sparse=True, copy=False),
    case(np.meshgrid, real(3)),
    case(np.ix_, real(3), np.arange(2), real(4)),
]

REPEATING = [
    case(np.tile, real(3), 4),
    case(np.tile, real(2, 3), (2, 1, 2)),
    case(np.tile, real(2, 3), 2),
    case(np.tile, real(2, 3, 1), (3, 2)),
    case(np.tile, real(), (2, 3)),
    case(np.tile, real(3), 0),
    case(np.repeat, real(2, 3), 3),
    case(np.repeat, real(2, 3), 2, axis=-1),
    case(np.repeat, real(2, 3), [2], axis=0),
    case(np.repeat, real(2, 3), [1, 0, 3], axis=1),
    case(np.repeat, real(2, 2), np.array([1, 0, 3, 2])),
    case(np.repeat, real(), 3),
    case(np.resize, real(2, 3), (4, 4)),
    case(np.resize, real(2, 3), 4),
    case(sliding_window_view, real(6), 3),
    case(sliding_window_view, real(4, 5), (2, 3)),
    case(sliding_window_view, real(4, 5, 2), 2, axis=-2),
    case(sliding_window_view, real(4, 5), (2, 3), axis=(1, 0)),
    case(sliding_window_view, real(7), (2, 3), axis=(0, 0)),
    case(overlap_add, real(4, 3), (6,), 3),
]

DIAGONALS = [
    *(case(np.diag, real(3), k) for k in (-1, 0, 2)),
    *(case(np.diag, real(*shape), k) for shape in ((3, 4), (4, 2)) for k in (-2, 0, 1, 3)),
    case(np.diagflat, real(2, 2), 1),
    case(np.diagonal, real(3, 4)),
    case(np.diagonal, real(2, 3, 4), -1, 2, 0),
    case(np.diagonal, real(2, 3, 4), offset=1, axis1=-1, axis2=1),
    case(np.diagonal, real(3, 4), offset=7),
    case(np.trace, real(3, 3)),
    case(np.trace, complex_(4, 3), offset=-1),
    case(np.trace, real(2, 3, 4), 1, axis1=0, axis2=2),
    *(case(f, real(3, 4), k) for f in (np.tril, np.triu) for k in (-1, 0, 1)),
    case(np.tril, real(2, 3, 3)),
    case(np.triu, real(3)),
]

_WIDTHS = ((1, 2), (0, 3))
_LONG = ((5, 7), (0, 9))
MARGINS = [
    case(pad_by_order, distinct(3, 2), 2, "maximum"),
    case(pad_linearly, real(3, 2), 2, "linear_ramp", end_values=3.0),
    case(np.pad, real(3, 2), 2),
    case(np.pad, real(3, 2), (1, 2), constant_values=3.0),
    case(np.pad, real(3, 2), [[1], [2]]),
    *(
        [case(np.pad, real(3, 2), {-1: (1, 2), 0: 1}, "edge")]
        if np.lib.NumpyVersion(np.__version__) >= "2.4.0"
        else []
    ),
    *(
        case(np.pad, real(3, 4), widths, mode, _name=f"pad {mode} {widths}")
        for mode in ("constant", "edge", "reflect", "symmetric", "wrap", "linear_ramp", "mean")
        for widths in (_WIDTHS, _LONG)
    ),
    *(
        case(np.pad, real(n, 2), ((5, 4), (1, 1)), mode, reflect_type=kind, _name=f"pad {kind} {mode} {n}")
        for mode in ("reflect", "symmetric")
        for kind in ("even", "odd")
        for n in (1, 2, 3, 4)
    ),
    case(np.pad, complex_(3), (4, 3), "reflect", reflect_type="odd"),
    case(fold, real(2, 6, 2), [2, 1, 0, 1, 2, 0], 1, (2, 1)),
    *(
        case(np.pad, distinct(3, 4), _WIDTHS, mode, stat_length=length, _name=f"pad {mode} {length}")
        for mode in ("mean", "median", "maximum", "minimum")
        for length in (None, 2, ((1, 3), (9, 2)))
    ),
    case(np.pad, complex_(3), 2, "linear_ramp", end_values=(1.0, 2.0)),
    case(np.pad, real(2, 3), _WIDTHS, "linear_ramp", end_values=((1.0, 2.0), (3.0, 4.0))),
    *(
        case(
            lambda a, values: np.pad(a, _WIDTHS, constant_values=values),
            real(2, 3), real(*shape), _name=f"pad with values {shape}",
        )
        for shape in ((), (1,), (2,), (2, 1), (1, 2), (2, 2))
    ),
    *(
        case(
            lambda a, values: np.pad(a, _WIDTHS, "linear_ramp", end_values=values),
            real(2, 3), real(*shape), _name=f"pad to values {shape}",
        )
        for shape in ((), (2,), (2, 2))
    ),
]  # fmt: skip

CASES = [*MOVING, *SEVERAL, *REPEATING, *DIAGONALS, *MARGINS]
