"""Functions whose results carry no gradient: comparisons, tests, counts, indices, step functions."""

import numpy as np
from numpy._core import umath

from thriftgrad.autodiff.registry import constant

# Comparisons and tests
constant(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)
constant(np.logical_and, np.logical_or, np.logical_xor, np.logical_not)
constant(np.isfinite, np.isinf, np.isnan, np.isneginf, np.isposinf, np.isreal, np.iscomplex)
constant(np.isclose, np.allclose, np.array_equal, np.array_equiv, np.all, np.any, np.signbit)
constant(np.iscomplexobj, np.isrealobj, np.isin, np.isnat)

# Step functions
constant(np.floor, np.ceil, np.trunc, np.rint, np.fix, np.round, np.around)
constant(np.floor_divide, np.spacing)

if hasattr(np, "in1d"):  # until NumPy 2.4
    constant(vars(np)["in1d"])

# Integers, which have no derivative
constant(np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert, np.left_shift, np.right_shift)
constant(np.gcd, np.lcm, np.packbits, np.unpackbits)
if hasattr(np, "bitwise_count"):
    constant(np.bitwise_count)

# Indices and counts
constant(np.argmax, np.argmin, np.argsort, np.argpartition, np.nonzero, np.flatnonzero, np.argwhere)
constant(np.searchsorted, np.count_nonzero, np.digitize, np.lexsort, np.nanargmax, np.nanargmin)
constant(np.unravel_index, np.ravel_multi_index)

# What an array is, rather than what it holds
constant(
    np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.min_scalar_type, np.common_type
)
constant(np.shares_memory, np.may_share_memory)

# New arrays that take only their shape and type from another
constant(np.zeros_like, np.ones_like, np.empty_like, vars(umath)["_ones_like"])

# New arrays that take only their kind from another, by like=
constant(np.zeros, np.ones, np.empty, np.eye, np.identity, np.tri, np.fromfunction)
constant(np.frombuffer, np.fromfile, np.fromiter, np.fromstring, np.loadtxt, np.genfromtxt)

# Text
constant(np.array2string, np.array_repr, np.array_str)
