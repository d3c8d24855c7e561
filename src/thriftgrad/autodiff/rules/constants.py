"""Functions whose results carry no gradient: comparisons, tests, counts, indices, step functions."""

import numpy as np

from thriftgrad.autodiff.registry import constant

# Comparisons and tests
constant(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)
constant(np.logical_and, np.logical_or, np.logical_xor, np.logical_not)
constant(np.isfinite, np.isinf, np.isnan, np.isneginf, np.isposinf, np.isreal, np.iscomplex)
constant(np.isclose, np.allclose, np.array_equal, np.array_equiv, np.all, np.any, np.signbit)
constant(np.iscomplexobj, np.isrealobj)

# Step functions
constant(np.sign, np.floor, np.ceil, np.trunc, np.rint, np.fix, np.round, np.floor_divide)
constant(np.heaviside, np.spacing)

# Indices and counts
constant(np.argmax, np.argmin, np.argsort, np.argpartition, np.nonzero, np.flatnonzero, np.argwhere)
constant(np.searchsorted, np.count_nonzero, np.digitize, np.lexsort, np.nanargmax, np.nanargmin)
constant(np.bincount, np.histogram, np.unravel_index, np.ravel_multi_index)

# What an array is, rather than what it holds
constant(
    np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.min_scalar_type, np.common_type
)
constant(np.shares_memory, np.may_share_memory)

# New arrays that take only their shape and type from another
constant(np.zeros_like, np.ones_like, np.empty_like)

# Text
constant(np.array2string, np.array_repr, np.array_str)
