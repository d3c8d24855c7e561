"""What the tests of this folder share: derivatives by central differences, in float64."""

import numpy as np
import pytest

import thriftgrad as tg


def central(function, x, step=1e-5):
    """Return the gradient of a scalar function of one array, entry by entry."""
    gradient = np.zeros(np.shape(x))
    for index in np.ndindex(np.shape(x)):
        ahead, behind = np.array(x), np.array(x)
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient


def replaced(args, i, value):
    return [*args[:i], value, *args[i + 1 :]]


@pytest.fixture
def check_derivatives():
    """Compare first and second derivatives of a function in all its arguments with differences."""

    def check(function, *args):
        rng = np.random.default_rng(7)
        output = np.asarray(function(*args))
        weights = 1 + rng.random(output.shape)
        argnums = range(len(args))

        def scalar(*args):
            return np.sum(function(*args) * weights)

        gradients = tg.grad(scalar, tuple(argnums))(*args)
        directions = [rng.normal(size=np.shape(a)) for a in args]

        def slope(*args):
            parts = tg.grad(scalar, tuple(argnums))(*args)
            return sum(np.sum(p * d) for p, d in zip(parts, directions, strict=True))

        seconds = tg.grad(slope, tuple(argnums))(*args)
        for i in argnums:
            first = central(lambda v, i=i: scalar(*replaced(args, i, v)), args[i])
            np.testing.assert_allclose(gradients[i], first, rtol=1e-6, atol=1e-8)
            second = central(lambda v, i=i: slope(*replaced(args, i, v)), args[i])
            np.testing.assert_allclose(seconds[i], second, rtol=1e-6, atol=1e-7)

    return check
