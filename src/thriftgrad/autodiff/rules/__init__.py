"""Tables of derivatives, one for each NumPy topic. Importing this package fills the registry."""

from thriftgrad.autodiff.rules import (
    constants,
    contraction,
    elementwise,
    indexing,
    joining,
    reductions,
    shaping,
)

__all__ = [
    "constants",
    "contraction",
    "elementwise",
    "indexing",
    "joining",
    "reductions",
    "shaping",
]
