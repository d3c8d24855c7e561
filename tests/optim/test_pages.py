"""The memory that a step frees is at hand for the next step."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other libraries learn otherwise"
)

_STEP = """
import resource, tracemalloc
if {tracing}: tracemalloc.start()
import numpy as np
import thriftgrad.optim

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(30_000, np.float32) for _ in range(100)]  # 12 MB, each from the heap
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults(), tracemalloc.get_traced_memory()[1] if {tracing} else 0)
"""


def _measured(tracing: bool = False) -> tuple[int, int]:
    """Return the page faults of a second step, and the traced peak, in a process of its own."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    code = _STEP.format(tracing=tracing)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    faults, peak = run.stdout.split()
    return int(faults), int(peak)


def test_freed_pages_are_kept_for_the_next_step():
    # By NumPy alone it is some 3,000, unless the system's pages are large.
    assert _measured()[0] < 300


def test_what_makes_the_library_learn_is_in_no_measured_peak():
    assert _measured(tracing=True)[1] < 30_000_000
