"""What is known of the BLAS behind NumPy's matrix products."""

from functools import cache
from typing import Any

import numpy as np

SMALL = 10**6
"""Multiplications of a float32 product up to which OpenBLAS takes its kernels for small matrices."""


@cache
def has_small_kernels() -> bool:
    """Tell whether it is an OpenBLAS with kernels for small matrices, as it has for AVX-512.

    They take float32 products of up to `SMALL` multiplications, so that it pays to cut a larger one.
    """
    try:
        found: Any = np.show_config(mode="dicts")
        library = found["Build Dependencies"]["blas"]["name"]
        extensions = found["SIMD Extensions"]
    except (KeyError, TypeError):
        return False
    names = [*extensions.get("baseline", ()), *extensions.get("found", ())]
    return "openblas" in library and any(n == "X86_V4" or n.startswith("AVX512") for n in names)
