"""Calls of the table joining that `cases_core` does not make."""

import numpy as np
from laws.harness import case, complex_, real

JOINING = [
    *(
        case(
            lambda a, axis=axis, other=other: np.concatenate([other, a, other], axis=axis),
            real(2, 3),
            _single=False,
            _name=f"concatenate with lists, axis={axis}",
        )
        for axis, other in ((1, [[1.0], [2.0]]), (0, [[1.0, 2.0, 3.0]]), (None, [4.0]))
    ),
    *(
        case(f, [real(3), real(3)], _name=f"{f.__name__} of vectors")
        for f in (np.hstack, np.vstack, np.dstack, np.column_stack)
    ),
    *(
        case(f, (real(2, 3), np.ones((2, 3)), complex_(2, 3)), _name=f"{f.__name__} of matrices")
        for f in (np.hstack, np.vstack, np.dstack, np.column_stack)
    ),
    *(
        case(f, [real(2, 3, 2), real(2, 3, 2)], _name=f"{f.__name__} of blocks")
        for f in (np.hstack, np.vstack, np.dstack, np.column_stack)
    ),
    *(
        case(f, real(2, 3), _name=f"{f.__name__} of rows")
        for f in (np.hstack, np.vstack, np.dstack)
    ),
    case(np.hstack, [real(), real(3), 2.0]),
    case(np.vstack, [real(), real(1)]),
    case(np.dstack, [real(), real(1)]),
    case(np.column_stack, [real(2), real(2, 3), real(2)]),
    case(np.append, real(2, 3), real(2)),
    case(np.append, real(2, 3), real(1, 3), axis=0),
    case(np.append, real(2, 3), [[1.0], [2.0]], axis=-1, _single=False),
    case(np.append, [1.0, 2.0], real(2), _single=False),
]

SPLITTING = [
    *(case(f, real(4, 6), 2) for f in (np.split, np.array_split, np.hsplit, np.vsplit)),
    case(np.split, real(4, 6), [1, 4], axis=-1),
    case(np.split, real(6), [4, 2]),  # pieces that overlap
    case(np.split, real(6), [-2, 3, 9]),
    case(np.array_split, real(7, 2), 3),
    case(np.hsplit, real(6), [2]),
    case(np.dsplit, real(2, 3, 4), [1, 3]),
    *(
        [case(np.unstack, real(3, 2)), case(np.unstack, real(3, 2, 4), axis=-1)]
        if hasattr(np, "unstack")
        else []
    ),
]

EDITING = [
    case(np.insert, real(2, 3), 1, real(), axis=1),
    case(np.insert, real(2, 3), 1, real(2), axis=1),
    case(np.insert, real(2, 3), [0, 3, 3], real(2, 3), axis=-1),
    case(np.insert, real(2, 3), [0, 5], real(2)),
    case(np.insert, real(4), slice(1, 3), real()),
    *(
        [case(np.insert, real(4), np.array([True, False, False, True]), real(2))]
        if np.lib.NumpyVersion(np.__version__) >= "2.2.0"  # before, booleans were numbers
        else []
    ),
    case(np.delete, real(2, 3), 1, axis=1),
    case(np.delete, real(2, 3), [0, 0, -1]),
    case(np.delete, real(6), slice(None, None, 2)),
    case(np.delete, real(3, 2), [True, False, True], axis=0),
]

CASES = [
    case(np.block, [[real(2, 3), real(2, 1)], [real(4)]]),
    case(np.block, [real(2), real(3)]),
    *JOINING,
    *SPLITTING,
    *EDITING,
]
