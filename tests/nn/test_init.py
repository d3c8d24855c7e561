"""Initial values: their distributions, scales, seeds and dtypes."""

import numpy as np
import pytest
import scipy.stats

from thriftgrad.errors import ConfigError
from thriftgrad.nn import init

RANDOM = [init.standard_normal, init.normal, init.glorot_uniform, init.kaiming_normal]
SHAPE = (120, 500)


@pytest.mark.parametrize(
    ("function", "distribution"),
    [
        (init.standard_normal, scipy.stats.norm(0, 1)),
        (init.normal, scipy.stats.norm(0, 120**-0.5)),
        (init.kaiming_normal, scipy.stats.norm(0, (2 / 120) ** 0.5)),
        (
            init.glorot_uniform,
            scipy.stats.uniform(-((6 / 620) ** 0.5), 2 * (6 / 620) ** 0.5),
        ),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_distribution_is_the_one_named(function, distribution, seed):
    values = function(SHAPE, seed, np.float64).ravel()
    # By the Dvoretzky-Kiefer-Wolfowitz inequality the right distribution fails with p < 1e-6, and
    # a scale that is off by 3 % or more always does.
    bound = np.sqrt(np.log(2 / 1e-6) / (2 * values.size))
    assert scipy.stats.kstest(values, distribution.cdf).statistic < bound
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / np.sqrt(values.size)
    # The variance to five standard errors, from the fourth moment.
    spread = np.sqrt((distribution.stats("k") + 2) / values.size)
    assert values.var() == pytest.approx(distribution.var(), rel=5 * float(spread))


def test_fan_in_is_the_first_axis():
    wide = init.normal((10, 4000), 0, np.float64)
    assert wide.std() == pytest.approx(10**-0.5, rel=0.03)
    vector = init.normal((4000,), 0, np.float64)
    assert vector.std() == pytest.approx(4000**-0.5, rel=0.06)


def test_the_variance_of_what_passes_a_layer_is_kept():
    x = np.random.default_rng(0).normal(size=(200, 300))
    assert (x @ init.normal((300, 300), 1, np.float64)).var() == pytest.approx(1, rel=0.05)
    rectified = np.maximum(x @ init.kaiming_normal((300, 300), 2, np.float64), 0)
    assert (rectified**2).mean() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("function", RANDOM)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_seed_gives_the_same_values_in_every_precision(function, dtype):
    values = function((20, 30), 3, dtype)
    assert values.dtype == dtype
    assert values.shape == (20, 30)
    np.testing.assert_array_equal(values, function((20, 30), 3, np.float64).astype(dtype))


@pytest.mark.parametrize("function", RANDOM)
def test_seeds_and_generators(function):
    first = function((5, 4), 3)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, function((5, 4), np.random.default_rng(3)))
    assert not np.array_equal(first, function((5, 4), 4))
    source = np.random.default_rng(3)
    assert not np.array_equal(function((5, 4), source), function((5, 4), source))
    assert not np.array_equal(function((5, 4)), function((5, 4)))


def test_zeros():
    for dtype in (np.float32, np.float64):
        value = init.zeros((3, 2), None, dtype)
        assert value.dtype == dtype
        assert not value.any()


@pytest.mark.parametrize("function", [*RANDOM, init.zeros])
def test_a_dtype_must_be_floating_point(function):
    with pytest.raises(ConfigError, match="int64"):
        function((3, 2), 0, np.int64)


@pytest.mark.parametrize("function", RANDOM)
@pytest.mark.parametrize("rng", [-1, 1.5, "0", True])
def test_what_is_neither_seed_nor_generator(function, rng):
    with pytest.raises(ConfigError, match="seed"):
        function((3, 2), rng)


@pytest.mark.parametrize("function", RANDOM[1:])
@pytest.mark.parametrize("shape", [(), (3, 2, 2), (0, 2)])
def test_a_shape_that_is_not_that_of_a_weight(function, shape):
    with pytest.raises(ConfigError, match=f"init.{function.__name__}"):
        function(shape, 0)
    assert init.standard_normal(shape, 0).shape == shape
