"""Activations: their derivatives, what they do far from 0, and the dtypes that they keep."""

import numpy as np
import pytest
import scipy.special

import thriftgrad as tg
from thriftgrad import nn
from thriftgrad.errors import DataError

ALL = {
    "sigmoid": nn.sigmoid,
    "relu": nn.relu,
    "tanh": nn.tanh,
    "softmax": nn.softmax,
    "log_softmax": nn.log_softmax,
}
every = pytest.mark.parametrize("function", ALL.values(), ids=ALL)
FLOATS = [np.float16, np.float32, np.float64]


@every
@pytest.mark.parametrize("shape", [(5,), (3, 4), (0, 2), (2, 3, 2)])
def test_derivatives(function, shape, check_derivatives):
    check_derivatives(function, np.random.default_rng(0).normal(size=shape) * 2)


@pytest.mark.parametrize("function", [nn.softmax, nn.log_softmax])
@pytest.mark.parametrize("axis", [0, 1, -2, (0, 2)])
def test_derivatives_along_an_axis(function, axis, check_derivatives):
    x = np.random.default_rng(1).normal(size=(2, 3, 2))
    check_derivatives(lambda x: function(x, axis), x)
    check_derivatives(lambda x: function(x, axis=axis), x)


@every
def test_third_derivative_of_nested_grads(function):
    direction = np.array([0.3, -1.0, 0.7])

    def along(t):
        return np.sum(function(np.array([0.2, -0.4, 0.9]) + t * direction) * [1.0, 2.0, -1.0])

    second = tg.grad(tg.grad(along))
    difference = (second(1e-5) - second(-1e-5)) / 2e-5
    assert tg.grad(second)(0.0) == pytest.approx(difference, rel=1e-6, abs=1e-8)


# What each is at z = (-10000, 0, 10000), and the gradient of its sum weighted by (1, 2, 4).
FAR = {
    "sigmoid": ([0, 0.5, 1], [0, 0.5, 0]),
    "relu": ([0, 0, 10_000], [0, 0, 4]),
    "tanh": ([-1, 0, 1], [0, 2, 0]),
    "softmax": ([0, 0, 1], [0, 0, 0]),
    "log_softmax": ([-20_000, -10_000, 0], [1, 2, -3]),
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("dtype", FLOATS)
def test_far_from_zero(name, dtype):
    z = np.array([-10_000, 0, 10_000], dtype)
    expected, slope = FAR[name]
    weights = np.array([1, 2, 4], dtype)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        value = ALL[name](z)
        gradient = tg.grad(lambda z: np.sum(ALL[name](z) * weights))(z)
        curvature = tg.grad(lambda z: np.sum(tg.grad(lambda z: np.sum(ALL[name](z)))(z)))(z)
    np.testing.assert_array_equal(value, np.array(expected, dtype))
    np.testing.assert_array_equal(gradient, np.array(slope, dtype))
    assert value.dtype == gradient.dtype == curvature.dtype == dtype
    assert np.isfinite(curvature).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nn.sigmoid, scipy.special.expit),
        (nn.softmax, lambda z: scipy.special.softmax(z, axis=-1)),
        (nn.log_softmax, lambda z: scipy.special.log_softmax(z, axis=-1)),
    ],
)
def test_values_to_the_last_digits(ours, theirs, dtype):
    z = np.random.default_rng(2).uniform(-20, 20, (50, 7)).astype(dtype)
    exact = theirs(z.astype(np.longdouble))
    # The exponent itself, up to 40, is rounded, and so is a logarithm close to 0.
    eps = np.finfo(dtype).eps
    atol = 4 * eps if ours is nn.log_softmax else 0
    np.testing.assert_allclose(ours(z), exact, rtol=40 * eps, atol=atol)


def test_sigmoid_keeps_its_digits_far_below_zero():
    z = np.linspace(-87, 0, 1000, dtype=np.float32)
    np.testing.assert_allclose(nn.sigmoid(z), 1 / (1 + np.exp(-z.astype(float))), rtol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
def test_sigmoid_far_out_is_0_and_1_without_a_warning(dtype):
    z = np.array([-np.inf, -60_000, 60_000, np.inf, np.nan], dtype)
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(nn.sigmoid(z), [0, 0, 1, 1, np.nan])


def test_sigmoid_uses_the_range_of_float16():
    z = np.linspace(-16, 0, 50).astype(np.float16)
    exact = (1 / (1 + np.exp(-z.astype(float)))).astype(np.float16)
    np.testing.assert_allclose(nn.sigmoid(z), exact, atol=6e-8, rtol=1e-3)
    assert (nn.sigmoid(z) > 0).all()


def test_relu_has_slope_zero_at_zero():
    assert tg.grad(nn.relu)(0.0) == 0.0
    assert tg.grad(nn.relu)(-0.0) == 0.0


def test_tanh_is_that_of_numpy():
    assert nn.tanh is np.tanh


@every
@pytest.mark.parametrize("dtype", FLOATS)
def test_float_dtypes_are_kept(function, dtype):
    z = np.linspace(-2, 2, 6).astype(dtype).reshape(2, 3)
    assert function(z).dtype == dtype
    loss = np.sum(function(x := tg.Tensor(z)))
    assert loss.dtype == dtype
    loss.backward()
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("function", [nn.sigmoid, nn.softmax, nn.log_softmax])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, bool])
def test_integers_become_float64_before_anything_can_wrap_around(function, dtype):
    z = np.array([0, 1, 255 if dtype == np.uint8 else 127]).astype(dtype)
    assert function(z).dtype == np.float64
    np.testing.assert_array_equal(function(z), function(z.astype(float)))


def test_lists_and_numbers_are_taken():
    assert nn.sigmoid(0) == 0.5
    assert nn.sigmoid([0.0, 0.0]).tolist() == [0.5, 0.5]
    assert nn.softmax([1, 1]).tolist() == [0.5, 0.5]
    assert isinstance(nn.sigmoid(0.3), np.float64)


@pytest.mark.parametrize("function", [nn.sigmoid, nn.softmax, nn.log_softmax])
def test_complex_numbers_are_refused(function):
    with pytest.raises(DataError, match="complex128"):
        function(np.ones(3, complex))


@every
def test_arguments_are_not_written_to(function):
    z = np.linspace(-1, 1, 4)
    z.flags.writeable = False
    kept = z.copy()
    np.sum(function(x := tg.Tensor(z))).backward()
    np.testing.assert_array_equal(z, kept)
    assert x.grad.shape == z.shape


@pytest.mark.parametrize("name", set(ALL))
def test_the_tape_keeps_the_output_alone(name):
    y = ALL[name](tg.Tensor(np.linspace(-1, 1, 6).reshape(2, 3)))
    ((_, _, residuals),) = y.node.edges
    arrays = [r for r in residuals if isinstance(r, np.ndarray)]
    assert len(arrays) == 1
    assert arrays[0] is y.value


def test_minus_infinity_masks_an_entry_out():
    z = np.array([0.0, -np.inf, 0.0])
    assert nn.softmax(z).tolist() == [0.5, 0.0, 0.5]
    assert nn.log_softmax(z)[1] == -np.inf


def test_nan_is_passed_on():
    for function in ALL.values():
        assert np.isnan(function(np.array([np.nan, 1.0]))[0])


@pytest.mark.parametrize("function", [nn.softmax, nn.log_softmax])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_short_rows_are_as_few(function, dtype):
    x = 30 * np.random.default_rng(0).normal(size=(2050, 10)).astype(dtype)
    g = np.random.default_rng(1).normal(size=x.shape).astype(dtype)

    def value_and_slopes(x, g):
        value, pull = tg.vjp(function)(x)
        second = tg.grad(lambda x: np.sum(tg.vjp(function)(x)[1](g) * g))(x)
        return value, pull(g), second

    whole = value_and_slopes(x, g)
    parts = [value_and_slopes(x[i : i + 25], g[i : i + 25]) for i in range(0, len(x), 25)]
    for one, other in zip(whole, zip(*parts, strict=True), strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(
            one, np.concatenate(other), rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-5
        )
