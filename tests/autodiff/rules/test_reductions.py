"""Reductions and cumulative functions at ties, at NaN, on nothing, and where they are refused."""

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import DetachError, InPlaceError, NoRuleError

NAN = np.nan


def gradient(f, x):
    return tg.grad(f)(np.asarray(x, dtype=float))


def check(f, x, expected):
    np.testing.assert_allclose(gradient(f, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (np.max, [0, 0.5, 0, 0.5]),
        (np.amax, [0, 0.5, 0, 0.5]),
        (np.nanmax, [0, 0.5, 0, 0.5]),
        (np.maximum.reduce, [0, 0.5, 0, 0.5]),
        (np.fmax.reduce, [0, 0.5, 0, 0.5]),
        (np.min, [0.5, 0, 0.5, 0]),
        (np.nanmin, [0.5, 0, 0.5, 0]),
        (np.minimum.reduce, [0.5, 0, 0.5, 0]),
        (np.fmin.reduce, [0.5, 0, 0.5, 0]),
        (np.ptp, [-0.5, 0.5, -0.5, 0.5]),
    ],
)
def test_ties_share_equally(f, expected) -> None:
    check(f, [1.0, 3.0, 1.0, 3.0], expected)
    check(lambda x: f(np.stack([x, x]), axis=-1)[0], [1.0, 3.0, 1.0, 3.0], expected)


def test_a_range_of_equal_entries_has_gradient_zero() -> None:
    check(np.ptp, [2.0, 2.0, 2.0], [0, 0, 0])


def test_where_takes_entries_out_of_a_tie() -> None:
    mask = np.array([True, True, False, False])
    check(lambda x: np.max(x, where=mask, initial=-1.0), [1.0, 3.0, 1.0, 3.0], [0, 1, 0, 0])


@pytest.mark.parametrize("f", [np.max, np.nanmax, np.maximum.reduce])
def test_an_initial_value_that_wins_leaves_nothing_for_the_entries(f) -> None:
    check(lambda x: f(x, initial=9.0), [1.0, 3.0], [0, 0])


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (np.nansum, [1, 0, 1]),
        (np.nanmean, [0.5, 0, 0.5]),
        (np.nanprod, [4, 0, 2]),
        (np.nanmax, [0, 0, 1]),
        (np.nanmin, [1, 0, 0]),
        (np.nanvar, [-1, 0, 1]),
        (np.nanstd, [-0.5, 0, 0.5]),
        (np.nanmedian, [0.5, 0, 0.5]),
        (lambda x: np.nanquantile(x, 0.25), [0.75, 0, 0.25]),
        (lambda x: np.sum(np.nancumsum(x)), [3, 0, 1]),
        (lambda x: np.sum(np.nancumprod(x)), [1 + 1 + 4, 0, 2]),
        (np.fmax.reduce, [0, 0, 1]),
    ],
)
def test_nan_entries_receive_nothing(f, expected) -> None:
    check(f, [2.0, NAN, 4.0], expected)


@pytest.mark.parametrize("f", [np.nanvar, np.nanstd, np.nanprod, np.nanmean])
def test_nan_entries_stay_out_of_second_derivatives(f) -> None:
    second = gradient(lambda x: np.sum(tg.grad(f)(x) * np.array([1.0, 5.0, 3.0])), [2.0, NAN, 4.0])
    assert np.all(np.isfinite(second))
    assert second[1] == 0


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom")
@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(
    "f",
    [
        np.nansum, np.nanmean, np.nanvar, np.nanstd, np.nanprod, np.nanmax, np.nanmin, np.nanmedian,
        lambda x, axis: np.nanquantile(x, 0.3, axis=axis),
    ],
)  # fmt: skip
def test_a_row_of_nothing_but_nan(f) -> None:
    x = np.array([[1.0, 3.0], [NAN, NAN]])
    found = gradient(lambda x: np.sum(f(x, axis=1)[:1]), x)
    assert np.all(found[1] == 0)
    assert np.any(found[0] != 0)
    assert np.all(gradient(lambda x: np.sum(f(x, axis=1)), x)[1] == 0)


def test_a_deviation_of_zero_gives_zero() -> None:
    check(np.std, [2.0, 2.0], [0, 0])
    check(np.nanstd, [2.0, 2.0, NAN], [0, 0, 0])


@pytest.mark.parametrize("n_zeros", [0, 1, 2, 3])
@pytest.mark.parametrize("f", [np.prod, np.multiply.reduce, np.nanprod])
def test_products_with_zeros(f, n_zeros) -> None:
    x = np.array([2.0, 3.0, 5.0, 7.0])
    x[:n_zeros] = 0.0
    first = [np.prod(np.delete(x, i)) for i in range(4)]
    check(f, x, first)
    second = [
        [0.0 if i == j else np.prod(np.delete(x, [i, j])) for j in range(4)] for i in range(4)
    ]
    found = [gradient(lambda x, i=i: tg.grad(f)(x)[i], x) for i in range(4)]
    np.testing.assert_allclose(found, second)
    third = gradient(lambda x: tg.grad(lambda x: tg.grad(f)(x)[0])(x)[1], x)
    np.testing.assert_allclose(third, [0, 0, x[3], x[2]])


_PRODUCTS = [np.cumprod, np.multiply.accumulate, np.nancumprod]


@pytest.mark.parametrize("zeros", [[], [0], [3], [1, 2], [0, 1, 3]])
@pytest.mark.parametrize(
    "f", [*_PRODUCTS, *([np.cumulative_prod] if hasattr(np, "cumulative_prod") else [])]
)
def test_cumulative_products_with_zeros(f, zeros) -> None:
    x = np.array([2.0, 3.0, 5.0, 7.0])
    x[zeros] = 0.0
    weights = np.array([1.0, 10.0, 100.0, 1000.0])

    def by_hand(x):
        total = 0.0
        for i in range(4):
            total = total + weights[i] * np.prod(x[: i + 1])
        return total

    def by_rule(x):
        return np.sum(f(x) * weights)

    np.testing.assert_allclose(gradient(by_rule, x), gradient(by_hand, x))
    for i in range(4):
        np.testing.assert_allclose(
            gradient(lambda x, i=i: tg.grad(by_rule)(x)[i], x),
            gradient(lambda x, i=i: tg.grad(by_hand)(x)[i], x),
        )


def test_a_running_maximum_halves_at_each_tie() -> None:
    check(lambda x: np.maximum.accumulate(x)[-1], [1.0, 1.0, 0.0, 1.0], [0.25, 0.25, 0, 0.5])


@pytest.mark.parametrize(
    "f",
    [
        np.sum, np.prod, np.cumsum, np.cumprod, np.nansum, np.nanprod, np.nancumsum, np.nancumprod,
        np.add.reduce, np.multiply.reduce, np.logaddexp.reduce, np.hypot.reduce, np.add.accumulate,
        np.subtract.accumulate, lambda x: np.max(x, initial=0.0),
    ],
)  # fmt: skip
def test_nothing_has_a_gradient_of_nothing(f) -> None:
    assert gradient(lambda x: np.sum(f(x)), np.zeros(0)).shape == (0,)
    assert gradient(lambda x: np.sum(f(x)), np.zeros((0, 3))).shape == (0, 3)
    assert gradient(lambda x: np.sum(f(x.T)), np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom")
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("f", [np.mean, np.var, np.std, np.median, np.nanmean, np.nanmedian])
def test_the_mean_of_nothing_has_a_gradient_of_nothing(f) -> None:
    assert gradient(f, np.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    "f", [np.sum, np.mean, np.prod, np.max, np.cumsum, np.cumprod, np.median, np.ptp, np.nansum]
)
def test_a_python_number_is_taken(f) -> None:
    expected = 0.0 if f is np.ptp else 1.0
    assert tg.grad(lambda x: np.sum(f(x)))(2.0) == expected


def test_a_number_is_reduced_along_the_axis_that_it_has_not() -> None:
    assert tg.grad(lambda x: np.sum(x, axis=0))(2.0) == 1.0
    assert tg.grad(np.add.reduce)(2.0) == 1.0
    assert tg.grad(lambda x: np.prod(x, axis=0))(np.array(3.0)) == 1.0


def test_a_mean_that_was_computed_before_counts_as_given() -> None:
    x = np.array([1.0, 2.0, 6.0])
    check(lambda t: np.var(t, mean=x[:1]), x, 2 * (x - 1) / 3)
    check(lambda t: np.std(t, mean=np.mean(t, keepdims=True)), x, gradient(np.std, x))


def test_freedom_follows_correction_as_it_does_ddof() -> None:
    x = np.array([1.0, 2.0, 6.0])
    check(lambda t: np.var(t, correction=1), x, gradient(lambda t: np.var(t, ddof=1), x))


@pytest.mark.parametrize("f", [np.sum, np.prod, np.mean, np.var, np.cumsum, np.cumprod])
def test_dtype_casts_there_and_back(f) -> None:
    x = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    found = tg.grad(lambda t: np.sum(f(t, dtype=np.float64)))(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, gradient(lambda t: np.sum(f(t)), x), rtol=1e-6)


def test_out_is_refused() -> None:
    with pytest.raises(InPlaceError, match="out="):
        tg.grad(lambda x: np.sum(x, out=np.zeros(())))(np.ones(2))
    with pytest.raises(InPlaceError, match="out="):
        tg.grad(lambda x: np.add.reduce(x, out=np.zeros(())))(np.ones(2))


@pytest.mark.parametrize("f", [np.sum, np.prod, np.max, np.nansum, np.add.reduce])
def test_a_start_that_is_a_tensor_is_refused(f) -> None:
    with pytest.raises((NoRuleError, DetachError, ValueError)):
        tg.grad(lambda x: f(x, initial=x[0]))(np.ones(2))
    with pytest.raises((NoRuleError, DetachError, ValueError)):
        tg.grad(lambda x: f(np.ones(2), initial=x[0]))(np.ones(2))


@pytest.mark.filterwarnings("ignore:overflow")  # in np.nanmean itself
@pytest.mark.parametrize(
    "f", [np.mean, np.nanmean, np.average, np.max, lambda x: np.mean(x, where=x > 0)]
)
def test_half_precision_counts_beyond_its_range(f) -> None:
    found = tg.grad(f)(np.ones(70000, np.float16))
    np.testing.assert_array_equal(found, np.float16(1 / 70000))


@pytest.mark.parametrize("f", [np.var, np.std, np.nanvar, np.nanstd])
def test_half_precision_deviations_beyond_its_range(f) -> None:
    x = np.arange(70000) % 2
    found = tg.grad(f)(x.astype(np.float16))
    np.testing.assert_allclose(found, tg.grad(f)(x.astype(np.float32)), rtol=1e-2)
