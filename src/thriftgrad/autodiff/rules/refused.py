"""Functions that are not differentiated, each with the reason and the way out that the error prints.

With these, every function that NumPy hands to other array types is in some table. What NumPy puts on a
list only once it is imported, from parts of it that hardly any program uses, is classified when the
list is walked: see `refuse_rare_parts`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy._core import umath

from thriftgrad.autodiff.registry import RULES, refuse


def _there(*names: str) -> Iterator[Callable[..., Any]]:
    """Return the functions of these names that the installed NumPy has."""
    return (getattr(np, name) for name in names if hasattr(np, name))


# Making arrays of anything. NumPy hands these on only because of like=.

refuse(
    "with like= it makes an array of anything, and out of a list of tensors the gradient would be lost; "
    "use a tensor as it is, np.copy(t) for a copy of it, np.stack or np.concatenate for several, and "
    "np.asarray(x) without like= for constants",
    *_there("array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "require"),
)

refuse(
    "with like= it would take tensors among its numbers as constants; leave like= out where there are "
    "none, and write start + step * np.arange(n), or np.broadcast_to(t, shape), where there are",
    *(np.arange, np.full),
)

# Writing to files

refuse(
    "what is written to a file has no gradient; pass tensor.value to say that this is meant",
    *(np.save, np.savez, np.savez_compressed, np.savetxt),
)

# Sets of values

refuse(
    "equal values are merged, and which of them the gradient belongs to is not defined; select entries "
    "by a mask instead, such as a[np.isin(a, b)], or sort them by np.sort",
    *_there("intersect1d", "setdiff1d", "setxor1d", "union1d"),
)

# Counting in several dimensions

refuse(
    "its counts are steps, and its sums of weights can be had by np.bincount, which is differentiable: "
    "np.bincount(np.ravel_multi_index(cells, shape), weights, minlength)",
    *(np.histogram2d, np.histogramdd),
)

# What tensors cannot hold

refuse(
    "it works on dates, which have no derivative and which no tensor holds; pass plain arrays",
    *(np.busday_count, np.busday_offset, np.is_busday, np.datetime_as_string),
)

_TEXT = "it works on text, which has no derivative and which no tensor holds; pass plain arrays"
_FIELDS = (
    "it works on structured arrays, and a tensor has no fields; keep a dict of tensors, one for each "
    "field"
)

# A ufunc without a single loop for numbers is one for strings.
refuse(_TEXT, *(f for f in vars(umath).values() if isinstance(f, np.ufunc) and not f.types))


def refuse_rare_parts(functions: set[Callable[..., Any]]) -> None:
    """Refuse those of `functions` that belong to np.strings, np.char and np.lib.recfunctions.

    NumPy lists them when these modules have been imported, which takes long enough not to be done for
    the sake of an error message.
    """
    for function in functions - RULES.keys():
        module = getattr(function, "__module__", "")
        if module in ("numpy.strings", "numpy.char"):
            refuse(_TEXT, function)
        elif module == "numpy.lib.recfunctions":
            refuse(_FIELDS, function)
        elif module.startswith("numpy.polynomial"):
            refuse(
                "np.polynomial makes plain arrays of coefficients; write the sum of powers, or use "
                "np.polyval, np.vander or np.einsum",
                function,
            )
