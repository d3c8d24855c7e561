"""How many threads matrix products take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_ASKED_FOR = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let matrix products run on one thread inside, unless the environment asks for a number.

    At the size of these networks a second thread gains little; and where anything else runs on the
    machine, the threads wait for each other so long that a step takes many times as long.
    """
    if any(name in os.environ for name in _ASKED_FOR):
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
