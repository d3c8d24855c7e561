"""The harness itself: a wrong rule is caught, whatever is wrong with it."""

import numpy as np
import pytest
from laws import test_laws as laws
from laws.harness import case, complex_, real

import thriftgrad as tg

PLANTED = {
    "sign": dict(x=lambda g, y: -g * y, y=lambda g, x: g * x),
    "the other argument": dict(x=lambda g, x: g * x, y=lambda g, y: g * y),
    "factor": dict(x=lambda g, y: g * y, y=lambda g, x: g * x * 1.0001),
    "detached second order": dict(
        x=lambda g, y: g * y, y=lambda g, x: g * (x.value if isinstance(x, tg.Tensor) else x)
    ),
    "conjugate": dict(x=lambda g, y: g * np.conj(y), y=lambda g, x: g * x),
    "writes": dict(x=lambda g, y: g * y, y=lambda g, x: np.multiply(g, x, out=_scribble(x))),
}
CAUGHT_BY = {
    "sign": laws.test_first_derivative,
    "the other argument": laws.test_first_derivative,
    "factor": laws.test_first_derivative,
    "detached second order": laws.test_second_derivative,
    "conjugate": laws.test_first_derivative,
    "writes": laws.test_memory_order_does_not_matter_and_nothing_is_written,
}


def _scribble(x):
    return x if isinstance(x, np.ndarray) and x.flags.writeable else None


pytestmark = pytest.mark.usefixtures("rules_put_back")


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_caught(fault: str) -> None:
    sample = complex_(3) if fault == "conjugate" else real(3)
    line = case(np.multiply, sample, sample)
    CAUGHT_BY[fault](line)
    tg.defvjp(np.multiply, **PLANTED[fault])
    with pytest.raises((AssertionError, ValueError)):
        CAUGHT_BY[fault](line)
