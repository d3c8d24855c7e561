"""Tables of derivatives, one for each NumPy topic. Importing this package fills the registry."""

from thriftgrad.autodiff.rules import (
    constants,
    contraction,
    cumulative,
    elementwise,
    indexing,
    joining,
    linalg,
    reductions,
    refused,
    shaping,
    signal,
    sorting,
    statistics,
    ufunc_methods,
)

__all__ = [
    "constants",
    "contraction",
    "cumulative",
    "elementwise",
    "indexing",
    "joining",
    "linalg",
    "reductions",
    "refused",
    "shaping",
    "signal",
    "sorting",
    "statistics",
    "ufunc_methods",
]
