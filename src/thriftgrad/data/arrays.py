"""What people hold their data in, made into something that batches can be cut from.

Nothing here imports the libraries whose objects it takes: a pandas frame is known by its `to_numpy`,
a SciPy sparse matrix by its `tocsr`, whatever else there is by NumPy's own protocols.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import DataError

Array = NDArray[Any]

_NUMBERS = "fciubV"
"""Kinds of dtype that can be learnt from; V is a record of such fields."""


def as_rows(data: Any, name: str) -> Array:
    """Return `data` as something with a shape, a dtype, and rows to take by slices and indices.

    Arrays, memory maps and other array types that have NumPy's dtypes are returned as they are, so
    that data on disk stay there. Sparse matrices become CSR, whose rows can be taken; `batches`
    makes plain arrays of a batch of them. Data frames, series, lists and all else that NumPy can
    read become arrays; a frame whose columns differ in type takes the type that NumPy promotes
    these to.

    Args:
        data: what was given.
        name: what to call it in messages.

    Raises:
        DataError: it has no first axis; it is a masked array; or it, or a column of it, which is
            named, holds something other than numbers.

    Example:
        >>> as_rows([[1, 2.5], [3, 4]], "x")
        array([[1. , 2.5],
               [3. , 4. ]])
    """
    if isinstance(data, np.ma.MaskedArray):
        raise DataError(
            f"{name} is a masked array, whose mask would be ignored; fill it ({name}.filled(0)) or "
            f"leave out the examples that are masked"
        )
    # Asked of the class: a frame answers with its columns to whatever it is asked itself.
    kind = type(data)
    if hasattr(kind, "tocsr"):
        rows = data.tocsr()
    elif hasattr(kind, "to_numpy"):
        rows = _from_frame(data, name)
    elif isinstance(getattr(data, "dtype", None), np.dtype):
        rows = data
    else:
        try:
            rows = np.asarray(data)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} is a {kind.__name__} that makes no array: {error}") from error
    if rows.dtype.kind not in _NUMBERS:
        raise DataError(f"{name} is a {kind.__name__} of {rows.dtype}; expected numbers")
    if not rows.shape:
        raise DataError(
            f"{name} is a {kind.__name__}; expected an array, a data frame or a list with one entry "
            f"for each example"
        )
    return rows  # type: ignore[no-any-return]


def _from_frame(frame: Any, name: str) -> Array:
    rows: Array = frame.to_numpy()
    if rows.dtype.kind in _NUMBERS or not hasattr(type(frame), "items") or rows.ndim < 2:
        return rows
    # Columns of numbers, too, come as objects where pandas has no common type for them: bool and
    # float, say.
    columns = [(label, np.asarray(column)) for label, column in frame.items()]
    bad = [
        f"{label!r} ({column.dtype})"
        for label, column in columns
        if column.dtype.kind not in _NUMBERS
    ]
    if bad:
        raise DataError(
            f"{name} is a {type(frame).__name__} with columns that are not all numbers: "
            f"{', '.join(bad)}; drop them, fill in what is missing, or encode them as numbers, as "
            f"pandas.get_dummies does"
        )
    return np.column_stack([column for _, column in columns])
