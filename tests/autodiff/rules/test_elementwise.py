"""Elementwise derivatives at kinks, poles and the ends of the number range."""

import math
import warnings

import numpy as np
import pytest

import thriftgrad as tg

INF = math.inf
NAN = math.nan


def derivatives(function, *args, dtype=None):
    """Return the derivative with respect to each argument that is a float."""
    args = [np.asarray(a, dtype) if dtype else a for a in args]
    found = tg.grad(lambda *xs: np.sum(function(*xs)), argnums=tuple(range(len(args))))(*args)
    return [float(g) for g in found]


# The table of the module's docstring, line by line; no warning is allowed here.
CONVENTIONS = [
    (np.absolute, (0.0,), (0.0,)),
    (np.absolute, (-0.0,), (0.0,)),
    (np.fabs, (0.0,), (0.0,)),
    (np.hypot, (0.0, 0.0), (0.0, 0.0)),
    (np.hypot, (0.0, -2.0), (0.0, -1.0)),
    (np.arctan2, (0.0, 0.0), (0.0, 0.0)),
    (np.sign, (0.0,), (0.0,)),
    (np.sign, (3.0,), (0.0,)),
    (np.copysign, (0.0, -1.0), (0.0, 0.0)),
    (np.copysign, (2.0, -1.0), (-1.0, 0.0)),
    (np.copysign, (-2.0, -0.0), (1.0, 0.0)),
    (np.power, (0.0, 0.0), (0.0, 0.0)),
    (np.power, (-2.0, 0.0), (0.0, None)),
    (np.power, (0.0, 1.0), (1.0, 0.0)),
    (np.power, (0.0, 2.0), (0.0, 0.0)),
    (np.power, (0.0, 1.5), (0.0, 0.0)),
    (np.float_power, (0.0, 0.0), (0.0, 0.0)),
    (np.float_power, (0.0, 2.0), (0.0, 0.0)),
    (np.maximum, (1.0, 1.0), (0.5, 0.5)),
    (np.minimum, (1.0, 1.0), (0.5, 0.5)),
    (np.fmax, (1.0, 1.0), (0.5, 0.5)),
    (np.fmin, (1.0, 1.0), (0.5, 0.5)),
    (np.fmax, (NAN, 1.0), (0.0, 1.0)),
    (np.fmin, (1.0, NAN), (1.0, 0.0)),
    (np.clip, (1.0, 1.0, 2.0), (1.0, 0.0, 0.0)),
    (np.clip, (2.0, 1.0, 2.0), (1.0, 0.0, 0.0)),
    (np.clip, (0.0, 1.0, 2.0), (0.0, 1.0, 0.0)),
    (np.clip, (3.0, 1.0, 2.0), (0.0, 0.0, 1.0)),
    (np.clip, (0.0, 2.0, 1.0), (0.0, 0.0, 1.0)),  # NumPy: the upper bound wins over the lower
    (np.clip, (1.5, 2.0, 1.0), (0.0, 0.0, 1.0)),
    (np.clip, (3.0, 2.0, 1.0), (0.0, 0.0, 1.0)),
    (np.clip, (0.0, 2.0, 2.0), (0.0, 1.0, 0.0)),
    (np.clip, (3.0, 2.0, 2.0), (0.0, 0.0, 1.0)),
    (np.logaddexp, (-INF, -INF), (0.0, 0.0)),
    (np.logaddexp, (-INF, 1.0), (0.0, 1.0)),
    (np.logaddexp, (INF, 1.0), (1.0, 0.0)),
    (np.logaddexp, (INF, -INF), (1.0, 0.0)),
    (np.logaddexp, (INF, INF), (1.0, 1.0)),
    (np.logaddexp2, (-INF, -INF), (0.0, 0.0)),
    (np.logaddexp2, (INF, 1.0), (1.0, 0.0)),
    (np.remainder, (6.0, 2.0), (1.0, -3.0)),
    (np.remainder, (-6.5, 2.0), (1.0, 4.0)),
    (np.fmod, (6.0, 2.0), (1.0, -3.0)),
    (np.fmod, (-6.5, 2.0), (1.0, 3.0)),
    (np.fmod, (1.0, 0.1), (1.0, -9.0)),  # 1.0 / 0.1 rounds up to 10
    (np.heaviside, (0.0, 0.5), (0.0, 1.0)),
    (np.heaviside, (1.0, 0.5), (0.0, 0.0)),
    (np.nextafter, (1.0, 2.0), (1.0, 0.0)),
    (np.ldexp, (0.0, 3), (8.0, None)),
    (np.nan_to_num, (NAN,), (0.0,)),
    (np.nan_to_num, (INF,), (0.0,)),
    (np.nan_to_num, (2.0,), (1.0,)),
    (np.real_if_close, (2.0,), (1.0,)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "args", "expected"), CONVENTIONS)
def test_conventions(function, args, expected) -> None:
    for i, wanted in enumerate(expected):
        if wanted is not None:
            found = tg.grad(function, argnums=i)(*args)
            assert found == wanted
            assert type(found) is float


@pytest.mark.parametrize(
    "function", [np.floor, np.ceil, np.trunc, np.rint, np.round, np.around, np.fix, np.spacing]
)
def test_steps_have_no_gradient(function) -> None:
    assert tg.grad(lambda x: x * function(x))(2.0) == function(2.0)


def test_floor_divide_is_a_step_in_both() -> None:
    assert tg.grad(lambda x, y: x + y + x // y, argnums=(0, 1))(6.0, 2.0) == (1.0, 1.0)


def test_complex_conventions() -> None:
    z = np.array([0j, 3 + 4j])
    np.testing.assert_allclose(tg.grad(lambda z: np.sum(np.abs(z)))(z), [0, 0.6 - 0.8j])
    np.testing.assert_allclose(tg.grad(lambda z: np.sum(np.real(np.sign(z))))(z)[0], 0)
    # sign(z) = exp(i·angle): moving outwards changes nothing, moving across does.
    g = tg.grad(lambda z: np.real(np.sign(z)))(3 + 4j)
    assert np.real(g * (3 + 4j)) == pytest.approx(0.0)
    assert np.real(g * 1j * (3 + 4j)) == pytest.approx(-0.8)


def test_nan_to_num_of_a_complex_number_looks_at_both_parts() -> None:
    def f(z):
        out = np.nan_to_num(z, posinf=1.0)
        return np.sum(2 * np.real(out) + 3 * np.imag(out))

    z = np.array([complex(NAN, 1), complex(1, INF), 1 + 1j])
    np.testing.assert_array_equal(tg.grad(f)(z), [-3j, 2, 2 - 3j])


# Infinite derivatives come with the warning of the division in them.
POLES = [
    (np.sqrt, 0.0, INF),
    (np.cbrt, 0.0, INF),
    (np.arcsin, 1.0, INF),
    (np.arcsin, -1.0, INF),
    (np.arccos, 1.0, -INF),
    (np.arccosh, 1.0, INF),
    (np.arctanh, 1.0, INF),
    (np.log, 0.0, INF),
    (np.log2, 0.0, INF),
    (np.log10, 0.0, INF),
    (np.log1p, -1.0, INF),
    (np.reciprocal, 0.0, -INF),
]


@pytest.mark.parametrize(("function", "x", "expected"), POLES)
def test_poles_are_infinite_and_warn(function, x, expected) -> None:
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert tg.grad(lambda x: function(x))(np.float64(x)) == expected


def test_power_at_a_pole() -> None:
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert tg.grad(np.power)(np.float64(0.0), 0.5) == INF
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert tg.grad(np.power, argnums=1)(np.float64(0.0), -1.0) == 0.0


def test_the_exponent_of_a_negative_number_has_no_derivative() -> None:
    assert tg.grad(np.power)(-2.0, 3.0) == 12.0
    with pytest.warns(RuntimeWarning, match="invalid value"):
        assert math.isnan(tg.grad(np.power, argnums=1)(-2.0, 3.0))


FAR = [
    (np.tanh, (1000.0,), (0.0,)),
    (np.tanh, (-1000.0,), (0.0,)),
    (np.exp, (-1000.0,), (0.0,)),
    (np.expm1, (-1000.0,), (0.0,)),
    (np.logaddexp, (1e4, -1e4), (1.0, 0.0)),
    (np.logaddexp, (1e4, 1e4), (0.5, 0.5)),
    (np.logaddexp, (-1e4, -1e4), (0.5, 0.5)),
    (np.logaddexp2, (1e4, -1e4), (1.0, 0.0)),
    (np.logaddexp, (1e300, -1e308), (1.0, 0.0)),
    (np.hypot, (3e300, 4e300), (0.6, 0.8)),
    (np.hypot, (3e-300, 4e-300), (0.6, 0.8)),
    (np.arctan2, (1e-200, 1e-200), (5e199, -5e199)),
    (np.arctan2, (1e200, 1e200), (5e-201, -5e-201)),
    (np.arctan2, (0.0, -1.0), (-1.0, 0.0)),
    (np.arctan, (1e200,), (0.0,)),
    (np.arctan, (1e100,), (1e-200,)),
    (np.arcsinh, (1e300,), (1e-300,)),
    (np.arcsinh, (-1e300,), (1e-300,)),
    (np.arccosh, (1e300,), (1e-300,)),
    (np.sqrt, (1e-300,), (5e149,)),
    (np.cbrt, (1e-300,), (1e200 / 3,)),
    (np.absolute, (5e-324,), (1.0,)),
    (np.divide, (1e200, 1e200), (1e-200, -1e-200)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "args", "expected"), FAR)
def test_nothing_overflows_on_the_way(function, args, expected) -> None:
    assert derivatives(function, *args) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("x", [1e200 + 1e200j, -1e200 + 1j])
@pytest.mark.parametrize("function", [np.arctan, np.arctanh, np.arcsin, np.arcsinh, np.arccosh])
def test_nor_far_out_in_the_complex_plane(function, x) -> None:
    assert np.isfinite(tg.grad(lambda z: np.real(function(z)))(x))


HALF = [
    (np.tanh, (20.0,), (0.0,)),
    (np.hypot, (300.0, 400.0), (0.6, 0.8)),  # 300² is infinite
    (np.arctan2, (3e-4, 4e-4), (1600.0, -1200.0)),  # (3e-4)² is close to nothing
    (np.arctan, (1000.0,), (1e-6,)),
    (np.logaddexp, (3e4, -3e4), (1.0, 0.0)),
    (np.arcsinh, (1000.0,), (1e-3,)),
    (np.power, (3.0, 2.0), (6.0, 9 * math.log(3))),
    (np.degrees, (1.0,), (180 / math.pi,)),
    (np.log2, (2.0,), (1 / (2 * math.log(2)),)),
    (np.fmod, (7.0, 2.0), (1.0, -3.0)),
    (np.nextafter, (1.0, 2.0), (1.0, 0.0)),
]


@pytest.mark.parametrize(("function", "args", "expected"), HALF)
def test_half_precision(function, args, expected) -> None:
    args = [np.float16(a) for a in args]
    found = tg.grad(function, argnums=tuple(range(len(args))))(*args)
    assert [g.dtype for g in found] == [np.float16] * len(args)
    np.testing.assert_allclose(np.array(found, float), expected, rtol=5e-3, atol=2e-7)


def test_frexp_in_half_precision() -> None:
    g = tg.grad(lambda x: np.frexp(x)[0])(np.float16(6.0))
    assert (g, g.dtype) == (0.125, np.float16)


@pytest.mark.parametrize("exponent", [2, 3, 0, 0.5, -1, 1])
def test_a_number_for_an_exponent_widens_nothing(exponent) -> None:
    """Not even on the way: what a rule computes is seen by its own tensors."""
    widths = set()
    x = np.array([1.0, 2.0], np.float32)

    def first(x):
        g = tg.grad(lambda x: np.sum(x**exponent))(x)
        widths.add(g.dtype)
        return np.sum(g)

    assert tg.grad(first)(x).dtype == np.float32
    assert widths == {np.dtype(np.float32)}


@pytest.mark.parametrize("base", [2, 2.0, 0.0])
def test_nor_does_a_number_for_a_base(base) -> None:
    y = np.array([1.0, 2.0], np.float32)
    g = tg.grad(lambda y: np.sum(base**y))(y)
    assert g.dtype == np.float32
    np.testing.assert_allclose(g, base**y * (math.log(base) if base else 0), rtol=1e-6)


def test_second_derivatives_at_far_places() -> None:
    second = tg.grad(tg.grad(np.tanh))
    assert second(1000.0) == 0.0
    assert tg.grad(tg.grad(lambda x: np.logaddexp(x, 0.0)))(0.0) == 0.25
    assert tg.grad(tg.grad(lambda x: np.logaddexp(x, 0.0)))(1e4) == 0.0
    assert tg.grad(tg.grad(lambda x: np.hypot(x, 0.0)))(2.0) == 0.0
    assert tg.grad(tg.grad(lambda x: np.hypot(x, 2.0)))(0.0) == 0.5


def test_clipping_by_a_method_with_tensors_for_bounds() -> None:
    x = np.array([-2.0, 0.5, 3.0])
    low, high = tg.grad(lambda low, high: np.sum(x.clip(low, high) ** 2), argnums=(0, 1))(-1.0, 2.0)
    assert (low, high) == (-2.0, 4.0)


def test_emath_leaves_the_real_line() -> None:
    g = tg.grad(lambda x: np.imag(np.emath.sqrt(x)))(-4.0)
    assert g == pytest.approx(-0.25)  # √x = i·√(−x)
    assert tg.grad(lambda x: np.real(np.emath.log(x)))(-4.0) == pytest.approx(-0.25)


def test_steps_of_rows_of_numbers() -> None:
    start, stop = tg.grad(lambda a, b: np.linspace(a, b, 5)[1], argnums=(0, 1))(0.0, 1.0)
    assert (start, stop) == (0.75, 0.25)
    with pytest.raises(tg.errors.NoRuleError, match="retstep"):
        tg.grad(lambda a: np.linspace(a, 1.0, 5, retstep=True)[0][1])(0.0)


def test_no_rule_warns_where_its_function_does_not() -> None:
    x = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for f in (np.sin, np.cos, np.exp, np.tanh, np.arctan, np.arcsinh, np.absolute, np.sign):
            assert np.isfinite(tg.grad(lambda x, f=f: np.sum(f(x)))(x)).all()


def test_a_clamp_before_an_infinite_slope_is_not_nan() -> None:
    """√max(x, 0): at x < 0 the slope of the root is infinite and the share of x is none of it."""
    for times in (1, 20_000):  # small and large arrays go different ways
        x = np.tile([-1.0, 4.0], times)
        with np.errstate(divide="ignore"):
            for clamp in (
                lambda x: np.maximum(x, 0.0),
                lambda x: np.clip(x, 0.0, None),
                lambda x: np.where(x > 0, x, 0.0),
            ):
                g = tg.grad(lambda x, clamp=clamp: np.sum(np.sqrt(clamp(x))))(x)
                np.testing.assert_array_equal(g, np.tile([0.0, 0.25], times))


def test_large_arrays_choose_as_small_ones_do() -> None:
    rng = np.random.default_rng(0)
    x, y, c = rng.normal(size=(3, 20_000)).round(1)  # with many ties
    for f in (
        np.maximum,
        np.minimum,
        lambda x, y: np.where(x > y, x, y),
        lambda x, y: np.clip(x, -0.5, y),
    ):
        whole = tg.grad(lambda x, y, f=f: np.sum(c * f(x, y)), argnums=(0, 1))(x, y)
        parts = [
            tg.grad(lambda x, y, f=f, i=i: np.sum(c[i : i + 100] * f(x, y)), argnums=(0, 1))(
                x[i : i + 100], y[i : i + 100]
            )
            for i in range(0, 20_000, 100)
        ]
        for k in (0, 1):
            np.testing.assert_array_equal(whole[k], np.concatenate([part[k] for part in parts]))


def test_arctangents_at_the_ends_of_the_range() -> None:
    x = np.array([1e-200, 1.0, 1e200])
    pull = tg.vjp(np.arctan)(x)[1]
    np.testing.assert_allclose(pull(np.array([1.0, 1.0, 1e300])), [1.0, 0.5, 1e-100])
    by_y = tg.grad(lambda y: np.sum(np.arctan2(y, x)))(x)
    np.testing.assert_allclose(by_y, 0.5 / x)
    integers = np.array([2**31 - 1, 3], np.int32)
    by_y = tg.grad(lambda y: np.sum(np.arctan2(y, integers)))(np.ones(2))
    np.testing.assert_allclose(by_y, integers / (1.0 + integers.astype(float) ** 2))
    assert tg.grad(lambda y: np.arctan2(y, 2))(1.0) == pytest.approx(0.4)
