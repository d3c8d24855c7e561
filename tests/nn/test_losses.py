"""Losses: against their formulas, their derivatives, extreme logits, and inputs in error."""

import numpy as np
import pytest
import scipy.special

import thriftgrad as tg
from thriftgrad import nn
from thriftgrad.errors import DataError, NoRuleError

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)) * 3
LABELS = np.array([0, 3, 1, 1, 2, 0])
ONE_HOT = np.eye(4)[LABELS]
SOFT = RNG.dirichlet(np.ones(4), size=6)


def by_formula(logits, rows):
    return -(rows * scipy.special.log_softmax(logits, axis=-1)).sum(axis=-1)


# ---- squared errors


def test_mse_and_squared_error_are_their_formulas():
    p, t = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3))
    assert nn.mse(p, t) == pytest.approx(((p - t) ** 2).sum() / 15)
    assert nn.squared_error(p, t) == pytest.approx(0.5 * ((p - t) ** 2).sum() / 5)


@pytest.mark.parametrize("loss", [nn.mse, nn.squared_error])
@pytest.mark.parametrize("shape", [(4,), (3, 2), (2, 2, 2)])
def test_squared_errors_have_both_derivatives(loss, shape, check_derivatives):
    check_derivatives(loss, RNG.normal(size=shape), RNG.normal(size=shape))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int64])
@pytest.mark.parametrize("shape", [(), (1, 1), (7, 3), (300, 100)])
def test_mse_is_numpys_mean_to_the_last_bit(dtype, shape):
    p, t = (np.random.default_rng(0).normal(size=(2, *shape)) * 30).astype(dtype)
    ours, theirs = nn.mse(p, t), np.mean(np.square(p - t))
    assert (ours, type(ours)) == (theirs, type(theirs))


def test_the_gradient_of_squared_error_of_one_example_is_the_difference():
    p, t = np.array([[1.0, 5.0]]), np.array([[0.5, 7.0]])
    np.testing.assert_array_equal(tg.grad(nn.squared_error)(p, t), p - t)


@pytest.mark.parametrize("loss", [nn.mse, nn.squared_error])
def test_nothing_is_broadcast(loss):
    column, flat = np.ones((5, 1)), np.ones(5)
    with pytest.raises(DataError, match=r"\(5, 1\) and targets of shape \(5,\).*reshape"):
        loss(column, flat)
    with pytest.raises(DataError, match="reshape"):
        loss(tg.Tensor(flat), column)
    with pytest.raises(DataError, match="one target for every prediction"):
        loss(column, np.ones((4, 1)))
    with pytest.raises(DataError, match="empty"):
        loss(np.ones((0, 3)), np.ones((0, 3)))


def test_squared_error_needs_a_batch():
    with pytest.raises(DataError, match="single number"):
        nn.squared_error(np.float64(1), np.float64(2))
    assert nn.mse(np.float64(1), np.float64(3)) == 4


# ---- cross-entropy


@pytest.mark.parametrize("rows", [ONE_HOT, SOFT, ONE_HOT.astype(int), ONE_HOT.astype(bool)])
def test_rows_against_the_formula(rows):
    np.testing.assert_allclose(nn.nll(LOGITS, rows), by_formula(LOGITS, rows), rtol=1e-12)
    assert nn.cross_entropy(LOGITS, rows) == pytest.approx(by_formula(LOGITS, rows).mean())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.int64])
def test_integers_mean_one_hot_rows(dtype):
    labels = LABELS.astype(dtype)
    np.testing.assert_allclose(nn.nll(LOGITS, labels), by_formula(LOGITS, ONE_HOT), rtol=1e-12)
    assert nn.cross_entropy(LOGITS, labels) == nn.nll(LOGITS, labels).mean()
    np.testing.assert_allclose(
        tg.grad(nn.cross_entropy)(LOGITS, labels),
        tg.grad(nn.cross_entropy)(LOGITS, ONE_HOT),
        rtol=1e-12,
        atol=1e-17,
    )


def test_the_gradient_is_probabilities_minus_labels():
    expected = (scipy.special.softmax(LOGITS, axis=-1) - ONE_HOT) / len(LABELS)
    np.testing.assert_allclose(tg.grad(nn.cross_entropy)(LOGITS, LABELS), expected, atol=1e-16)


@pytest.mark.parametrize("loss", [nn.cross_entropy, nn.nll])
@pytest.mark.parametrize("labels", [LABELS, ONE_HOT, SOFT], ids=["integers", "one-hot", "soft"])
def test_derivatives(loss, labels, check_derivatives):
    check_derivatives(lambda logits: loss(logits, labels), LOGITS)


def test_rows_that_sum_to_one_only_nearly_have_the_derivative_of_their_formula(check_derivatives):
    rows = SOFT * (1 + 9e-4 * RNG.uniform(-1, 1, size=(6, 1)))
    np.testing.assert_allclose(nn.nll(LOGITS, rows), by_formula(LOGITS, rows), rtol=1e-12)
    check_derivatives(lambda logits: nn.cross_entropy(logits, rows), LOGITS)


def test_more_axes_and_none(check_derivatives):
    logits, labels = RNG.normal(size=(2, 3, 4)), RNG.integers(0, 4, size=(2, 3))
    flat = nn.nll(logits.reshape(6, 4), labels.reshape(6))
    np.testing.assert_allclose(nn.nll(logits, labels), flat.reshape(2, 3))
    assert nn.cross_entropy(logits, labels) == pytest.approx(flat.mean())
    check_derivatives(lambda z: nn.cross_entropy(z, labels), logits)
    check_derivatives(lambda z: nn.nll(z, 2), logits[0, 0])


def test_third_derivative():
    direction = RNG.normal(size=LOGITS.shape)
    second = tg.grad(tg.grad(lambda t: nn.cross_entropy(LOGITS + t * direction, LABELS)))
    difference = (second(1e-5) - second(-1e-5)) / 2e-5
    assert tg.grad(second)(0.0) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_extreme_logits(dtype):
    logits = np.array([[-10_000, 0, 10_000], [10_000, 10_000, -10_000], [0, 0, 0]], dtype)
    labels = np.array([0, 1, 2])
    rows = np.eye(3, dtype=dtype)[labels]
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        for each in (labels, rows):
            np.testing.assert_allclose(
                nn.nll(logits, each), [20_000, np.log(2), np.log(3)], rtol=1e-3
            )
            loss, gradient = tg.value_and_grad(nn.cross_entropy)(logits, each)
            assert loss.dtype == gradient.dtype == dtype
            expected = (scipy.special.softmax(logits.astype(float), axis=-1) - rows) / 3
            np.testing.assert_allclose(
                gradient, expected, atol=1e-3 if dtype == np.float16 else 1e-7
            )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", [LABELS, ONE_HOT, ONE_HOT.astype(int)])
def test_the_loss_and_gradient_have_the_dtype_of_the_logits(dtype, labels):
    logits = LOGITS.astype(dtype)
    loss, gradient = tg.value_and_grad(nn.cross_entropy)(logits, labels)
    assert loss.dtype == gradient.dtype == dtype
    assert nn.nll(logits, labels).dtype == dtype
    targets = RNG.normal(size=LOGITS.shape).astype(dtype)
    for other in (nn.mse, nn.squared_error):
        loss, gradient = tg.value_and_grad(other)(logits, targets)
        assert loss.dtype == gradient.dtype == dtype


def test_one_call_is_recorded_and_labels_stay_integers():
    logits = tg.Tensor(LOGITS)
    loss = nn.cross_entropy(logits, LABELS)
    ((parent, _, residuals),) = loss.node.edges
    assert parent is logits.node
    assert all(kept is expected for kept, expected in zip(residuals, (LOGITS, LABELS), strict=True))


@pytest.mark.parametrize("loss", [nn.cross_entropy, nn.nll])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.astype(float), r"dtype float64.*astype\(int\)"),
        (LABELS > 0, r"dtype bool.*astype\(int\)"),
        (LABELS[:5], r"shape \(5,\) do not fit logits of shape \(6, 4\)"),
        (LABELS[:, None], r"shape \(6, 1\) do not fit"),
        (LABELS + 1, r"1 of 6 labels lie outside 0\.\.3, the first is 4"),
        (LABELS - 1, r"2 of 6 labels lie outside 0\.\.3, the first is -1"),
        (ONE_HOT * 2 - 1, "non-negative numbers that sum to 1"),
        (np.add(ONE_HOT, [0.5, -0.5, 0, 0]), "go down to -0.5"),
        (ONE_HOT * 2, "sums from 2 to 2"),
        (np.zeros((6, 4)), "sums from 0 to 0"),
        (np.full((6, 4), np.nan), "non-negative"),
    ],
)
def test_labels_in_error(loss, labels, message):
    for logits in (LOGITS, tg.Tensor(LOGITS)):
        with pytest.raises(DataError, match=f"{loss.__name__}: .*{message}"):
            loss(logits, labels)


def test_an_empty_batch_has_no_mean():
    with pytest.raises(DataError, match="empty"):
        nn.cross_entropy(np.ones((0, 4)), np.ones(0, int))
    assert nn.nll(np.ones((0, 4)), np.ones(0, int)).shape == (0,)


def test_logits_without_classes():
    with pytest.raises(DataError, match=r"shape \(3, 0\)"):
        nn.nll(np.ones((3, 0)), np.zeros(3, int))


def test_no_gradient_flows_to_labels_and_none_is_lost_in_silence():
    with pytest.raises(NoRuleError, match="labels"):
        nn.cross_entropy(LOGITS, tg.Tensor(SOFT))
    with tg.no_grad():
        teacher = nn.softmax(tg.Tensor(LOGITS))
    assert tg.grad(nn.cross_entropy)(LOGITS, teacher).max() < 1e-15
