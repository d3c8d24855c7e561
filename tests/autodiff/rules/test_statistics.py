"""Order statistics at ties and NaN; averages, covariances, histograms at their edges."""

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import NoRuleError

METHODS = [
    "inverted_cdf", "averaged_inverted_cdf", "closest_observation", "interpolated_inverted_cdf",
    "hazen", "weibull", "linear", "median_unbiased", "normal_unbiased", "lower", "higher",
    "midpoint", "nearest",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("f", [np.quantile, np.nanquantile, np.percentile, np.nanpercentile])
def test_the_gradient_gives_the_quantile_back(f, method) -> None:
    """A quantile is homogeneous: ⟨gradient, data⟩ is the quantile itself, for any q and method."""
    unit = 100.0 if "percentile" in f.__name__ else 1.0
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4, 7, 10):
        x = rng.permutation(n) * 1.3 - 2.0
        for q in (0.0, 0.1, 0.25, 1 / 3, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0):
            value, g = tg.value_and_grad(lambda x, q=q: f(x, q * unit, method=method))(x)
            assert np.sum(g * x) == pytest.approx(value, abs=1e-12)
            assert np.sum(g) == pytest.approx(1.0)
            single = x.astype(np.float32)
            value, g = tg.value_and_grad(lambda x, q=q: f(x, q * unit, method=method))(single)
            assert np.sum(g * single) == pytest.approx(value, abs=1e-5)


def test_equal_entries_are_taken_in_their_order() -> None:
    x = np.array([2.0, 1.0, 2.0, 1.0])  # sorted: entries 1, 3, 0, 2
    np.testing.assert_array_equal(tg.grad(np.median)(x), [0.5, 0, 0, 0.5])
    np.testing.assert_array_equal(tg.grad(np.nanmedian)(x), [0.5, 0, 0, 0.5])
    found = tg.grad(lambda x: np.quantile(x, 0.8, method="higher"))(x)
    np.testing.assert_array_equal(found, [0, 0, 1, 0])


def test_a_weighted_quantile_selects_an_entry() -> None:
    x, w = np.array([3.0, 1.0, 2.0, 2.0]), np.array([1.0, 1.0, 1.0, 5.0])
    g_x, g_w = tg.grad(
        lambda x, w: np.quantile(x, 0.5, weights=w, method="inverted_cdf"), argnums=(0, 1)
    )(x, w)
    np.testing.assert_array_equal(g_x, [0, 0, 0, 1])
    np.testing.assert_array_equal(g_w, np.zeros(4))


def test_the_slope_by_q() -> None:
    x = np.array([0.0, 1.0, 10.0])
    slope = tg.grad(lambda q, method="linear": np.quantile(x, q, method=method))
    assert slope(0.25) == 2.0
    assert slope(0.5) == 18.0  # at a data point, that to its right
    assert slope(0.0) == 2.0
    assert slope(1.0) == 18.0  # but where there is none
    assert tg.grad(lambda q: np.percentile(x, q))(25.0) == pytest.approx(0.02)
    for method in ("nearest", "lower", "inverted_cdf", "midpoint"):
        assert slope(0.3, method=method) == 0.0
    assert slope(0.01, method="hazen") == 0.0  # before the first entry


def test_the_mixed_derivative_by_data_and_q() -> None:
    x = np.array([5.0, 1.0, 2.0])
    mixed = tg.grad(lambda q: tg.grad(lambda x: np.quantile(x, q))(x)[2])(0.25)
    assert mixed == pytest.approx(2.0)
    other = tg.grad(lambda x: tg.grad(lambda q: np.quantile(x, q))(0.25))(x)
    np.testing.assert_allclose(other, [0, -2, 2])


def test_places_need_not_fit_into_the_precision_of_the_data() -> None:
    x = np.arange(5000, dtype=np.float16) / np.float16(1e3)
    x = x[np.argsort(x, kind="stable")]
    found = tg.grad(lambda x: np.quantile(x, 0.9, method="lower"))(x)
    assert found.dtype == np.float16
    assert np.sum(found) == 1
    assert abs(int(np.argmax(found)) - 4499) < 5


def test_a_result_that_numpy_scrambles_is_refused() -> None:
    q = np.array([[0.1, 0.2], [0.3, 0.4]])
    with pytest.raises(NoRuleError, match=r"np\.nanquantile.*np\.ravel\(q\)"):
        tg.grad(lambda x: np.sum(np.nanquantile(x, q, axis=(0, 1))))(np.ones((2, 3, 4)))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda t: np.median(t, overwrite_input=True), "overwrite_input=True"),
        (lambda t: np.quantile(t, 0.5, overwrite_input=True), "overwrite_input=True"),
        (lambda t: np.cov(np.ones((2, 3)), aweights=t), "'aweights'"),
        (lambda t: np.histogram(np.ones(3), bins=t), "'bins'"),
        (lambda t: np.histogram2d(t, t), "histogram2d"),
    ],
)
def test_what_is_refused_is_named(call, word) -> None:
    with pytest.raises(NoRuleError, match=word):
        call(tg.Tensor([1.0, 2.0, 3.0]))


def test_covariance_is_that_of_the_formula() -> None:
    x = np.random.default_rng(0).normal(size=(3, 6))

    def by_hand(x):
        deviation = x - np.mean(x, axis=1, keepdims=True)
        return deviation @ deviation.T / 5

    weights = np.arange(9.0).reshape(3, 3)
    found = tg.grad(lambda x: np.sum(np.cov(x) * weights))(x)
    np.testing.assert_allclose(found, tg.grad(lambda x: np.sum(by_hand(x) * weights))(x))


def test_a_correlation_does_not_see_scale_or_place() -> None:
    x = np.random.default_rng(0).normal(size=(3, 6))
    found = tg.grad(lambda x: np.corrcoef(x)[0, 1])(x)
    np.testing.assert_allclose(np.sum(found, axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(np.sum(found * x, axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(tg.grad(np.corrcoef)(x[0]), np.zeros(6))


def test_the_count_that_an_average_returns_is_constant() -> None:
    found = tg.grad(lambda x: np.sum(np.average(x, returned=True)[1]))(np.ones(3))
    np.testing.assert_array_equal(found, np.zeros(3))


def test_counts_are_constant_and_edges_are_not() -> None:
    x = np.array([0.0, 1.0, 4.0])
    counts, edges = np.histogram(tg.Tensor(x), bins=2)
    assert not isinstance(counts, tg.Tensor)
    np.testing.assert_array_equal(counts, [2, 1])
    np.testing.assert_array_equal(edges.value, [0, 2, 4])
    found = tg.grad(lambda x: np.histogram(x, bins=2)[1][1])(x)
    np.testing.assert_array_equal(found, [0.5, 0, 0.5])
    found = tg.grad(lambda x: np.sum(np.histogram(x, bins=[0.0, 2.0, 4.0])[1] * 1.0))(x)
    np.testing.assert_array_equal(found, np.zeros(3))


def test_a_histogram_counts_what_lies_on_its_edges_as_numpy_does() -> None:
    x = np.array([-1.0, 0.0, 1.0, 2.0, 3.0, 9.0])
    _, pull = tg.vjp(lambda w: np.histogram(x, bins=[0.0, 1.0, 3.0], weights=w)[0])(np.ones(6))
    np.testing.assert_array_equal(pull(np.array([1.0, 10.0])), [0, 1, 10, 10, 10, 0])


def test_bincount_sends_each_weight_its_bin() -> None:
    found = tg.vjp(lambda w: np.bincount([2, 0, 2], weights=w, minlength=5))(np.ones(3))[1]
    np.testing.assert_array_equal(found(np.arange(5.0)), [2, 0, 2])


@pytest.mark.parametrize("f", [np.cov, np.corrcoef])
@pytest.mark.parametrize("shape", [(0, 3), (0, 0)])
def test_covariance_of_no_variables(f, shape) -> None:
    assert tg.grad(lambda x: np.sum(f(x)))(np.ones(shape)).shape == shape
