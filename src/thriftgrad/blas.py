"""What is known of the BLAS behind NumPy's matrix products."""

from functools import cache
from typing import Any

import numpy as np


@cache
def has_small_kernels() -> bool:
    """Tell whether it is an OpenBLAS with kernels for small matrices, as it has for AVX-512.

    They take float32 products of up to 10⁶ multiplications, so that it pays to cut one that is larger.
    """
    try:
        found: Any = np.show_config(mode="dicts")
        library = found["Build Dependencies"]["blas"]["name"]
        extensions = found["SIMD Extensions"]
    except (KeyError, TypeError):
        return False
    names = [*extensions.get("baseline", ()), *extensions.get("found", ())]
    return "openblas" in library and any(n == "X86_V4" or n.startswith("AVX512") for n in names)
