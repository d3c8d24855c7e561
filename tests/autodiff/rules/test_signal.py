"""Signals and polynomials at kinks and edges, and what is refused."""

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.autodiff.rules.signal import i0_derivative, sinc_derivative
from thriftgrad.errors import DetachError, NoRuleError


def test_interp_at_a_sample_takes_the_piece_to_the_right() -> None:
    xp, fp = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 5.0])
    slope = tg.grad(lambda x: np.interp(x, xp, fp))
    assert [slope(x) for x in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0)] == [0, 1, 1, 4, 4, 0]


def test_interp_over_a_jump() -> None:
    """Two samples at one place make a jump; on either side the slope is its own."""
    xp, fp = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.0, 1.0, 5.0, 7.0])
    slope = tg.grad(lambda x: np.interp(x, xp, fp))
    assert [slope(x) for x in (0.5, 1.5)] == [1, 2]


def test_angle_of_zero() -> None:
    assert tg.grad(lambda z: np.angle(z))(0j) == 0
    assert tg.grad(lambda z: np.angle(z))(-2.0) == 0


def test_sinc_at_zero_to_the_fourth_derivative() -> None:
    f, found = np.sinc, []
    for _ in range(4):
        f = tg.grad(f)
        found.append(f(0.0))
    expected = [0, -(np.pi**2) / 3, 0, np.pi**4 / 5]
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("order", range(6))
def test_derivatives_of_sinc_agree_where_the_two_forms_meet(order) -> None:
    t = (order + 1.0 if order > 1 else 1.0) * np.array([1 - 1e-9, 1 + 1e-9])
    below, above = sinc_derivative(t, order)
    assert below == pytest.approx(above, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("order", range(4))
def test_derivatives_of_i0(order) -> None:
    special = pytest.importorskip("scipy.special")
    x = np.array([-30.0, -3.0, 0.0, 1e-3, 0.5, 7.99, 8.01, 100.0, 650.0])
    np.testing.assert_allclose(
        i0_derivative(x, order), special.ivp(0, x, order), rtol=1e-12, atol=1e-15
    )


def test_gradient_with_respect_to_coordinates_that_are_even() -> None:
    """NumPy takes a shorter formula there, of the same value but not the same derivative."""
    x, f = np.arange(5.0), np.array([1.0, -2.0, 0.5, 3.0, 1.0])
    uneven = x + np.array([0.0, 1e-7, -1e-7, 0.0, 0.0])
    here, there = (tg.grad(lambda x: np.sum(np.gradient(f, x) ** 2))(at) for at in (x, uneven))
    np.testing.assert_allclose(here, there, rtol=1e-4)
    assert np.all(here != 0)


def test_shortened_polynomials() -> None:
    """`polymul` drops leading zeros; a coefficient that was dropped has its effect on the rest."""
    found = tg.grad(lambda a: np.sum(np.polymul(a, [1.0, 2.0])))(np.array([0.0, 3.0]))
    np.testing.assert_array_equal(found, [2, 3])
    u = np.array([1.0, 3.0, 2.0])
    _, remainder = np.polydiv(u, np.array([1.0, 1.0]))
    assert remainder.shape == (1,)
    found = tg.grad(lambda u: np.sum(np.polydiv(u, np.array([1.0, 1.0]))[1]))(u)
    np.testing.assert_array_equal(found, [1, -1, 1])


def test_polyfit_is_refused_with_a_remedy() -> None:
    x, y = np.arange(5.0), np.array([0.0, 1.0, 4.0, 9.0, 17.0])
    with pytest.raises(NoRuleError, match=r"np\.linalg\.solve\(V\.T @ V, V\.T @ y\)"):
        tg.grad(lambda y: np.sum(np.polyfit(x, y, 2)))(y)
    V = np.vander(x, 3)
    np.testing.assert_allclose(np.linalg.solve(V.T @ V, V.T @ y), np.polyfit(x, y, 2))


def test_functions_that_see_plain_arrays_do_not_lose_gradients() -> None:
    """A function that is applied must not take a tensor along in secret."""
    w = tg.Tensor(2.0)
    x = tg.Tensor(np.ones((2, 3)))
    with pytest.raises(DetachError):
        np.apply_along_axis(lambda v: v * w, 0, x)
    with pytest.raises(DetachError):
        np.vectorize(lambda v: v * 2.0)(x)
    with pytest.raises(NoRuleError, match="has no rule"):
        np.frompyfunc(lambda v: v * 2.0, 1, 1)(x)
    with pytest.raises(DetachError):
        np.apply_along_axis(np.multiply, 0, x.value, w)
    with pytest.raises(NoRuleError, match="no derivative with respect to 'args'"):
        np.apply_along_axis(np.multiply, 0, x, w)


def test_applied_functions_may_ignore_their_argument() -> None:
    x = np.ones((2, 3))
    assert not np.any(tg.grad(lambda a: np.sum(np.apply_along_axis(lambda v: 1.0, 0, a)))(x))


def test_second_derivative_through_applied_functions() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]])

    def f(a):
        return np.sum(np.apply_along_axis(lambda v: v**3, 1, a))

    found = tg.grad(lambda a: np.sum(tg.grad(f)(a)))(x)
    np.testing.assert_allclose(found, 6 * x)


def test_empty_signals() -> None:
    none = np.zeros(0)
    for function in (np.diff, np.ediff1d, np.trapezoid, np.unwrap, np.sinc, np.i0, np.poly):
        found = tg.grad(lambda a, f=function: np.sum(f(a)))(none)
        assert found.shape == (0,)
    assert tg.grad(lambda a: np.sum(np.diff(a)))(np.ones(1)).tolist() == [0]
    assert tg.grad(lambda a: np.sum(np.interp(a, [0.0, 1.0], [0.0, 1.0])))(none).shape == (0,)
    assert tg.grad(lambda p: np.sum(np.roots(p)))(np.ones(1)).tolist() == [0]
    assert tg.grad(lambda x: np.sum(np.vander(x, 0)))(np.ones(2)).tolist() == [0, 0]
