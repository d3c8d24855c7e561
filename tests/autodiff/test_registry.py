"""Giving rules, and what is said when one does not fit."""

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.autodiff.registry import constant, refuse
from thriftgrad.errors import DetachError, NoRuleError

pytestmark = pytest.mark.usefixtures("rules_put_back")


def test_a_rule_of_ones_own() -> None:
    @tg.primitive
    def norm_and_direction(x, scale=1.0, *, power=2):
        n = np.sqrt(np.sum(x**power))
        return n * scale, x / n

    tg.defvjp(norm_and_direction, x=lambda g, x, ans, scale, power: g[0] * scale * ans[1])
    n, direction = norm_and_direction(np.array([3.0, 4.0]))
    assert (float(n), direction.tolist()) == (5.0, [0.6, 0.8])
    g = tg.grad(lambda x: norm_and_direction(x, 10.0)[0])(np.array([3.0, 4.0]))
    np.testing.assert_allclose(g, [6.0, 8.0])
    with pytest.raises(NoRuleError, match="'scale'"):
        tg.grad(lambda s: norm_and_direction(np.ones(2), s)[0])(1.0)


def test_a_rule_can_be_replaced() -> None:
    tg.defvjp(np.sign, x=lambda g: g)  # the straight-through estimator
    assert tg.grad(np.sign)(0.3) == 1.0
    assert tg.grad(lambda x: np.sum(np.sign(x)))(np.ones(2)).tolist() == [1.0, 1.0]


def test_several_cotangents_at_once() -> None:
    @tg.primitive
    def product(a, b):
        return a * b

    calls = []

    def both(g, a, b):
        calls.append(1)
        return g * b, g * a

    tg.defvjp(product, joint=(("a", "b"), both))
    assert tg.grad(product, argnums=(0, 1))(2.0, 3.0) == (3.0, 2.0)
    assert tg.grad(lambda b: product(2.0, b=b))(3.0) == 2.0
    assert len(calls) == 2


def test_rules_that_do_not_fit_say_so() -> None:
    @tg.primitive
    def f(x):
        return x * 1.0

    tg.defvjp(f, x=lambda g, y: g)
    with pytest.raises(NoRuleError, match=r"asks for 'y'.*one of x"):
        tg.grad(f)(1.0)
    tg.defvjp(f, z=lambda g: g)
    with pytest.raises(NoRuleError, match=r"given for z.*are x"):
        tg.grad(f)(1.0)


def test_a_primitive_without_rule() -> None:
    @tg.primitive
    def f(x):
        return x * 1.0

    assert f(2.0) == 2.0
    with pytest.raises(NoRuleError, match="f has no rule"):
        tg.grad(f)(1.0)


def test_constants_and_refusals() -> None:
    @tg.primitive
    def f(x):
        return x * 1.0

    constant(f)
    assert tg.grad(lambda x: x * f(x))(3.0) == 3.0
    refuse("it is only here to be refused", f)
    with pytest.raises(NoRuleError, match="only here to be refused"):
        tg.grad(f)(1.0)


def test_keywords_that_a_rule_does_not_know() -> None:
    @tg.primitive
    def f(x, mode="plain", scale=None):
        return x * (2.0 if mode == "double" else 1.0)

    tg.defvjp(f, x=lambda g: g)
    assert tg.grad(lambda x: f(x, mode="plain"))(1.0) == 1.0
    with pytest.raises(NoRuleError, match=r"mode='double'"):
        tg.grad(lambda x: f(x, mode="double"))(1.0)


def test_lists_of_arrays_reach_a_primitive() -> None:
    @tg.primitive
    def total(arrays):
        return sum(np.sum(a) for a in arrays)

    tg.defvjp(
        total, arrays=lambda g, arrays_shape, position: np.broadcast_to(g, arrays_shape[position])
    )
    ga, gb = tg.grad(lambda a, b: total([a, np.ones(2), b]), argnums=(0, 1))(np.ones(2), 3.0)
    assert (ga.tolist(), gb) == ([1.0, 1.0], 1.0)


def test_a_list_where_one_array_belongs() -> None:
    @tg.primitive
    def f(x):
        return np.asarray(x) * 1.0

    tg.defvjp(f, x=lambda g: g)
    for call in (lambda t: f([t, t]), lambda t: f([t, 1.0]), lambda t: f(x=(t, 2.0))):
        with pytest.raises((NoRuleError, DetachError), match=r"np\.stack"):
            tg.grad(lambda t, call=call: np.sum(call(t)))(1.0)


def test_rules_that_return_nothing_or_a_python_number() -> None:
    @tg.primitive
    def stop(x):
        return x * 1.0

    @tg.primitive
    def constant_slope(x):
        return np.sum(x)

    tg.defvjp(stop, x=lambda g: None)
    tg.defvjp(constant_slope, x=lambda g: 3.0)
    assert tg.grad(lambda x: stop(x * 2.0) + x)(1.0) == 1.0
    assert tg.grad(lambda x: stop(x) * 1.0)(1.0) == 0.0
    np.testing.assert_array_equal(
        tg.grad(lambda x: constant_slope(x * 2.0))(np.ones(2)), [6.0, 6.0]
    )
