"""Methods of ufuncs: what they are made of, ties, infinities, and what is refused."""

import operator

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.autodiff.registry import RULES, Rule
from thriftgrad.autodiff.rules.cumulative import accumulated
from thriftgrad.errors import InPlaceError, NoRuleError

X = np.array([1.5, 0.5, 2.0, 3.0])


def binary_with_rule():
    return [
        f for f in RULES
        if isinstance(f, np.ufunc) and f.nin == 2 and f.signature is None and f.nout == 1
        and isinstance(RULES[f], Rule) and getattr(np, f.__name__, None) is f and f is not np.ldexp
    ]  # fmt: skip


@pytest.mark.parametrize("f", binary_with_rule(), ids=operator.attrgetter("__name__"))
def test_outer_is_the_function_itself(f) -> None:
    def total(h):
        return lambda a, b: np.sum(h(a, b) * np.arange(6.0).reshape(2, 3))

    a, b = np.array([1.2, 2.3]), np.array([0.7, 1.9, 3.1])
    found = tg.grad(total(f.outer), argnums=(0, 1))(a, b)
    expected = tg.grad(total(lambda a, b: f(a[:, None], b)), argnums=(0, 1))(a, b)
    for g, h in zip(found, expected, strict=True):
        np.testing.assert_allclose(g, h)


@pytest.mark.parametrize("f", binary_with_rule(), ids=operator.attrgetter("__name__"))
def test_accumulate_is_a_loop(f) -> None:
    weights = np.array([1.0, 10.0, 3.0, 2.0])

    def loop(x):
        y = x[0]
        total = y * weights[0]
        for i in range(1, 4):
            y = f(y, x[i])
            total = total + y * weights[i]
        return total

    found = tg.grad(lambda x: np.sum(f.accumulate(x) * weights))(X)
    np.testing.assert_allclose(found, tg.grad(loop)(X))
    second = tg.grad(lambda x: np.sum(tg.grad(lambda x: np.sum(f.accumulate(x) * weights))(x)))(X)
    np.testing.assert_allclose(second, tg.grad(lambda x: np.sum(tg.grad(loop)(x)))(X), atol=1e-12)


def test_a_new_rule_for_a_ufunc_is_one_for_its_methods() -> None:
    rule = RULES[np.multiply]
    try:
        tg.defvjp(np.multiply, x=lambda g, y: 0 * g, y=lambda g, x: 7 * g)
        ones = np.ones(3)
        assert list(tg.grad(lambda x: np.sum(np.multiply.outer(ones, x)))(ones)) == [21, 21, 21]
        assert list(tg.grad(lambda x: np.multiply.accumulate(x)[-1])(ones)) == [0, 0, 7]
    finally:
        RULES[np.multiply] = rule


def test_the_first_axis_is_the_default() -> None:
    x = np.ones((2, 3))
    assert tg.vjp(np.add.reduce)(x)[0].shape == (3,)
    _, pull = tg.vjp(np.add.reduce)(x)
    np.testing.assert_array_equal(pull(np.arange(3.0)), [[0, 1, 2], [0, 1, 2]])


@pytest.mark.parametrize("f", [np.logaddexp, np.logaddexp2])
def test_log_of_sum_with_infinities(f) -> None:
    np.testing.assert_allclose(
        tg.grad(f.reduce)(np.array([-np.inf, 2.0, 2.0, -np.inf])), [0, 0.5, 0.5, 0]
    )
    np.testing.assert_array_equal(tg.grad(f.reduce)(np.array([-np.inf, -np.inf])), [0, 0])


def test_log_of_sum_is_stable_and_its_gradient_is_softmax() -> None:
    x = np.array([1000.0, 1001.0, 999.0])
    softmax = np.exp(x - 1001) / np.sum(np.exp(x - 1001))
    np.testing.assert_allclose(tg.grad(np.logaddexp.reduce)(x), softmax)
    np.testing.assert_allclose(tg.grad(lambda x: np.logaddexp.accumulate(x)[-1])(x), softmax)


def test_ties_share_within_each_part_of_reduceat() -> None:
    x = np.array([2.0, 2.0, 1.0, 2.0])
    found = tg.grad(lambda x: np.sum(np.maximum.reduceat(x, [0, 2, 1]) * [1.0, 10.0, 100.0]))(x)
    np.testing.assert_array_equal(found, [0.5, 0.5 + 50, 10, 50])


@pytest.mark.parametrize("f", [np.add, np.multiply, np.maximum])
def test_reduceat_with_no_parts(f) -> None:
    empty = np.array([], dtype=int)
    assert list(tg.grad(lambda x: np.sum(f.reduceat(x, empty)))(X)) == [0, 0, 0, 0]


def test_hypot_of_zeros_has_gradient_zero() -> None:
    np.testing.assert_array_equal(tg.grad(np.hypot.reduce)(np.zeros(3)), np.zeros(3))


def test_tests_of_a_tensor_are_constant() -> None:
    t = tg.Tensor(X)
    assert np.greater.outer(t, t).dtype == bool
    assert not isinstance(np.less.outer(t, X), tg.Tensor)
    assert np.logical_and.reduce(t)


def test_at_is_refused_as_a_write() -> None:
    for call in (
        lambda t: np.add.at(t, [0], 1.0),
        lambda t: np.add.at(np.zeros(4), [0], t[0]),
        lambda t: np.negative.at(t, [0]),
    ):
        with pytest.raises(InPlaceError, match=r"\.at is not differentiated: it writes"):
            call(tg.Tensor(X))


@pytest.mark.parametrize("f", [np.power, np.arctan2])
def test_what_numpy_gets_wrong_is_refused(f) -> None:
    with pytest.raises(NoRuleError, match=r"reduce is not differentiated.*accumulate"):
        tg.grad(f.reduce)(X)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda t: np.subtract.reduce(t, initial=2.0), "initial=2.0"),
        (lambda t: np.subtract.reduce(t, initial=2.0, where=[True, False, True, True]), "initial"),
        (lambda t: np.add.outer(t, t, where=np.eye(4, dtype=bool).tolist()), "where="),
        (lambda t: np.subtract.reduceat(t, [0, 1]), r"np\.subtract\.reduceat has no rule"),
        (lambda t: np.divmod.reduce(t), None),
    ],
)
def test_keywords_that_are_refused_are_named(call, word) -> None:
    with pytest.raises((NoRuleError, ValueError), match=word):
        call(tg.Tensor(X))


@pytest.mark.parametrize("f", [np.maximum, np.minimum, np.fmax, np.fmin])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_running_extremes_have_owners(f, axis) -> None:
    rng = np.random.default_rng(0)
    x, g = rng.permutation(60).reshape(6, 10) * 1.0, rng.normal(size=(6, 10))
    from_rule = accumulated(f, g, x, f.accumulate(x, axis=axis), axis)
    found = tg.vjp(lambda x: f.accumulate(x, axis=axis))(x)[1](g)
    np.testing.assert_allclose(found, from_rule, rtol=1e-12, atol=1e-12)
