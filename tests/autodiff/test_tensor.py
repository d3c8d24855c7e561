"""Tensor and Parameter: recording, and refusing what would go wrong in silence."""

import copy
import gc
import math
import operator
import pickle
import warnings
import weakref
from collections import deque, namedtuple
from fractions import Fraction

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import (
    DetachError,
    DifferentiationError,
    FreedTapeError,
    InPlaceError,
    NoRuleError,
)


def test_a_graph_you_can_hold() -> None:
    x = np.arange(6.0).reshape(2, 3)
    w = tg.Parameter(np.ones((3, 2)), name="w")
    t = np.tanh(x @ w)
    t.backward(np.ones_like(t.value))
    np.testing.assert_allclose(w.grad, x.T @ (1 - np.tanh(x @ np.ones((3, 2))) ** 2))


def test_gradients_accumulate_until_dropped() -> None:
    w = tg.Parameter(2.0, name="w")
    for times in (1, 2, 3):
        (w * w).backward()
        assert w.grad == 4.0 * times
    w.grad = None
    (w * w * w).backward()
    assert w.grad == 12.0


def test_a_second_sweep_needs_the_tape() -> None:
    w = tg.Tensor(np.ones(2))
    loss = np.sum(w * w)
    loss.backward(retain=True)
    loss.backward()
    np.testing.assert_array_equal(w.grad, [4.0, 4.0])
    with pytest.raises(FreedTapeError, match="retain=True"):
        loss.backward()
    np.testing.assert_array_equal(w.grad, [4.0, 4.0])


def test_a_shared_trunk_is_freed_too() -> None:
    w = tg.Tensor(3.0)
    trunk = w * w
    one, two = trunk * 2.0, trunk * 5.0
    one.backward()
    with pytest.raises(FreedTapeError):
        two.backward()
    assert w.grad == 12.0


def test_a_cotangent_has_the_shape_of_its_tensor() -> None:
    t = tg.Tensor(np.ones((2, 3))) * 2.0
    with pytest.raises(DifferentiationError, match=r"needs a scalar.*\(2, 3\)"):
        t.backward()
    with pytest.raises(DifferentiationError, match=r"\(3,\).*\(2, 3\)"):
        t.backward(np.ones(3))
    with pytest.raises(DifferentiationError, match="complex"):
        (tg.Tensor(1.0) * 1j).backward()
    with pytest.raises(DifferentiationError, match="complex gradient"):
        t.backward(np.ones((2, 3)) * 1j)
    with pytest.raises(DetachError, match="plain cotangent"):
        t.backward(tg.Tensor(np.ones((2, 3))))
    with tg.no_grad():
        t.backward(tg.Tensor(np.ones((2, 3))))
    with pytest.raises(DifferentiationError, match=r"\(3,\).*\(2,\)"):
        tg.Tensor(np.ones(2)).grad = np.ones(3)


def test_backward_inside_a_transform_is_refused() -> None:
    with pytest.raises(DifferentiationError, match="return the tensor"):
        tg.grad(lambda x: (x * x).backward())(1.0)


def test_a_chain_of_100_000_operations() -> None:
    t = w = tg.Tensor(np.ones(2))
    for _ in range(100_000):
        t = t * 1.0
    np.sum(t).backward()
    np.testing.assert_array_equal(w.grad, [1.0, 1.0])
    del t  # nor does letting go of a tape that was never swept recurse
    t = tg.Tensor(1.0)
    for _ in range(100_000):
        t = t + 1.0
    del t


def test_no_rule_asked_for_it_so_it_is_gone() -> None:
    """The tape keeps residuals, not results: tanh needs its output, a sum a shape, + nothing."""
    import weakref

    w = tg.Tensor(np.ones(100))
    kept, dropped = np.tanh(w), w + 1.0
    references = [weakref.ref(kept.value), weakref.ref(dropped.value)]
    both = np.sum(kept) + np.sum(dropped)
    del kept, dropped
    assert references[0]() is not None
    assert references[1]() is None
    both.backward()
    assert references[0]() is None


@pytest.mark.parametrize("value", [3, np.arange(3), [1, 2], True, "text", None, np.array(["a"])])
def test_values_without_derivative(value) -> None:
    for kind in (tg.Tensor, tg.Parameter):
        with pytest.raises(DifferentiationError, match="dtype"):
            kind(value)


def test_a_tensor_of_a_tensor() -> None:
    with pytest.raises(DetachError, match="value"):
        tg.Tensor(tg.Tensor(1.0))


# What would cut the gradient off


@pytest.mark.parametrize(
    "coerce",
    [
        float, int, complex, math.sin, operator.index, np.array, np.asarray,
        lambda t: np.array([t, t]), lambda t: np.array([[1.0, 2.0], [t, t]]),
        lambda t: np.zeros(3).__setitem__(slice(0, 2), t), lambda t: np.ones(3)[t], np.float64,
    ],
)  # fmt: skip
def test_coercions_that_would_detach(coerce) -> None:
    t = tg.Tensor(0.5) * 2.0
    with pytest.raises(DetachError, match=r"\.value|\.item\(\)"):
        coerce(t)


def test_assigning_one_entry_is_refused_too() -> None:
    """NumPy puts its own words around ours here."""
    with pytest.raises(ValueError, match="array element") as caught:
        np.zeros(3)[0] = tg.Tensor(0.5) * 2.0
    assert isinstance(caught.value.__cause__, DetachError)


def test_the_ways_out_are_explicit() -> None:
    t = tg.Tensor(0.5) * 2.0
    assert t.item() == 1.0
    assert type(t.item()) is float
    assert float(t.value) == 1.0
    assert f"{t:.2f}" == "1.00"
    with tg.no_grad():
        assert float(t) == 1.0
        assert np.array([t, t]).tolist() == [1.0, 1.0]
    assert bool(t > 0.5)
    assert tg.Tensor([1.0, 2.0]).item(1) == 2.0


# Writes


def test_writes_are_refused() -> None:
    t = tg.Tensor(np.ones(3))
    with pytest.raises(InPlaceError, match=r"np\.where"):
        t[0] = 1.0
    with pytest.raises(InPlaceError, match="out="):
        np.add(t, 1.0, out=t)
    with pytest.raises(InPlaceError, match="out="):
        np.add(t, 1.0, out=np.zeros(3))
    with pytest.raises(InPlaceError, match="out="):
        np.add(np.ones(3), 1.0, out=t)
    with pytest.raises(InPlaceError, match="out="):
        np.sum(t, out=np.zeros(()))
    with pytest.raises(InPlaceError, match="out="):
        np.sum(t, None, None, np.zeros(()))
    a = np.ones(3)
    with pytest.raises(InPlaceError, match="out="):
        a += t
    np.testing.assert_array_equal(a, np.ones(3))
    with pytest.raises(InPlaceError):
        t.fill(0.0)


def test_augmented_assignment_makes_a_new_tensor() -> None:
    t = w = tg.Tensor(2.0)
    t *= 3.0
    assert w.value == 2.0
    t.backward()
    assert w.grad == 3.0


# Unknown calls


def test_an_unknown_function_is_refused_by_name() -> None:
    t = tg.Tensor(np.ones(3))
    unknown = np.frompyfunc(lambda x: x, 1, 1)
    with pytest.raises(NoRuleError, match="defvjp"):
        unknown(t)
    with pytest.raises(InPlaceError, match=r"np\.add\.at"):
        np.add.at(t, [0], 1.0)


def test_an_unknown_keyword_is_refused_by_name() -> None:
    a, b = tg.Tensor(np.ones((3, 3))), np.ones((3, 3))
    with pytest.raises(NoRuleError, match="axes="):
        np.matmul(a, b, axes=[(0, 1), (0, 1), (0, 1)])
    with pytest.raises(TypeError, match="unexpected keyword"):
        np.sum(a, axes=1)


def test_a_tensor_where_no_gradient_can_flow() -> None:
    with pytest.raises(NoRuleError, match="ddof"):
        np.std(tg.Tensor(np.ones(3)), ddof=tg.Tensor(1.0))
    with pytest.raises(TypeError):
        np.sum(tg.Tensor(np.ones(3)), axis=tg.Tensor(0.0))


# Types


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.complex64])
def test_the_dtype_is_kept(dtype) -> None:
    w = tg.Parameter(np.ones((2, 2), dtype), name="w")
    x = np.ones((3, 2), dtype)
    t = np.exp(x @ w * 0.5) / 3 - np.log(2.0)
    assert (x @ w * 0.5).dtype == dtype
    np.sum(np.real(t)).backward()
    assert w.grad.dtype == dtype


def test_a_python_number_promotes_nothing() -> None:
    """In plain code 3.0 * 2.0 is a Python float, which leaves float32 alone; so it is when traced."""
    x = np.ones(3, np.float32)

    def f(s):
        y = (s * 2.0 + 1.0) * x
        assert y.dtype == np.float32
        return np.sum(y)

    value, g = tg.value_and_grad(f)(3.0)
    assert value.dtype == np.float32
    assert (type(g), g) == (float, 6.0)


def test_operators_with_arrays_on_the_left() -> None:
    t = tg.Tensor(np.array([1.0, 2.0, 3.0]))
    a = np.array([2.0, 2.0, 2.0])
    for f in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.matmul,
              operator.mod, operator.floordiv, operator.lt, operator.ge, operator.eq, operator.ne):  # fmt: skip
        for left, right in ((a, t), (t, a), (2.0, t), (t, 2.0), (np.float64(2.0), t), (t, t)):
            if f is operator.matmul and (np.ndim(left) == 0 or np.ndim(right) == 0):
                continue
            plain = f(*(v.value if isinstance(v, tg.Tensor) else v for v in (left, right)))
            traced = f(left, right)
            traced = traced.value if isinstance(traced, tg.Tensor) else traced
            np.testing.assert_array_equal(traced, plain)
    q, _ = divmod(t, 2.0)
    np.testing.assert_array_equal(q.value, [0.0, 1.0, 1.0])
    np.testing.assert_array_equal((-abs(+t)).value, [-1.0, -2.0, -3.0])


def test_methods_are_numpys_functions() -> None:
    value = np.array([[3.0, -1.0, 2.0], [0.5, 4.0, -2.0]])
    t = tg.Tensor(value)
    for name, args in [
        ("sum", (0,)), ("mean", ()), ("max", (1,)), ("min", ()), ("std", ()), ("var", (0,)), ("prod", ()),
        ("clip", (0.0, 1.0)), ("swapaxes", (0, 1)), ("squeeze", ()), ("ravel", ()), ("flatten", ()),
        ("reshape", (3, 2)), ("reshape", ((3, 2),)), ("transpose", ()), ("transpose", (1, 0)),
        ("transpose", ((1, 0),)), ("argmax", ()), ("argmin", (1,)), ("round", (1,)), ("conj", ()), ("all", ()),
        ("any", ()), ("copy", ()), ("dot", (np.ones(3),)), ("astype", (np.float32,)), ("argsort", ()),
    ]:  # fmt: skip
        traced = getattr(t, name)(*args)
        traced = traced.value if isinstance(traced, tg.Tensor) else traced
        np.testing.assert_array_equal(traced, getattr(value, name)(*args), err_msg=name)
    assert t.T.shape == (3, 2)
    assert t.mT.shape == (3, 2)
    assert (t.shape, t.ndim, t.size, t.nbytes, len(t)) == ((2, 3), 2, 6, 48, 2)
    assert [row.value.tolist() for row in t] == value.tolist()
    with pytest.raises(TypeError, match="0-d"):
        iter(tg.Tensor(1.0))


def test_comparisons_are_plain_arrays() -> None:
    t = tg.Tensor(np.array([1.0, 2.0]))
    assert type(t > 1.5) is np.ndarray
    assert type(np.argmax(t)) is np.int64
    assert t[t > 1.5].value.tolist() == [2.0]
    assert type(t.astype(int)) is np.ndarray


# no_grad


def test_no_grad_makes_constants() -> None:
    w = tg.Parameter(np.ones(3), name="w")
    with tg.no_grad():
        y = np.sum(w * 2.0)
        parts = np.stack([w, w])
    assert isinstance(y, tg.Tensor)
    assert parts.shape == (2, 3)
    with pytest.raises(DifferentiationError, match="no_grad"):
        y.backward()
    z = np.sum(w * y)
    z.backward()
    np.testing.assert_array_equal(w.grad, [6.0, 6.0, 6.0])


def test_grad_works_inside_no_grad() -> None:
    with tg.no_grad():
        assert tg.grad(lambda x: x * x)(3.0) == 6.0
    assert tg.grad(lambda x: x * cut(x))(3.0) == 9.0


def cut(x):
    with tg.no_grad():
        return x * x


def test_no_grad_nests_and_restores() -> None:
    w = tg.Parameter(1.0, name="w")
    with tg.no_grad():
        with tg.no_grad():
            pass
        assert (w * 2.0).node is None
    assert (w * 2.0).node is not None


# Parameter


def test_a_parameter_owns_its_array() -> None:
    a = np.ones(3)
    w = tg.Parameter(a, name="w")
    w.value[...] = 5.0
    np.testing.assert_array_equal(a, np.ones(3))
    w.value = a
    w.value += 1.0
    np.testing.assert_array_equal(a, np.ones(3))


def test_a_parameter_takes_a_new_value() -> None:
    w = tg.Parameter(np.ones(3), name="w")
    w.grad = np.ones(3)
    w.value = np.zeros(3)
    assert w.grad is not None
    w.value = np.zeros((2, 2), np.float32)
    assert w.grad is None
    np.sum(w * 2.0).backward()
    assert w.grad.shape == (2, 2)
    with pytest.raises(DifferentiationError, match="'w'"):
        w.value = np.arange(3)


def test_parameters_copy_and_pickle_and_tensors_do_not() -> None:
    w = tg.Parameter(np.arange(3.0), name="w")
    for again in (copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert again.name == "w"
        np.testing.assert_array_equal(again.value, w.value)
        assert not np.shares_memory(again.value, w.value)
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises(DetachError, match="value"):
            duplicate(w * 2.0)


def test_only_leaves_keep_gradients() -> None:
    t = tg.Tensor(1.0) * 2.0
    assert t.grad is None
    with pytest.raises(DifferentiationError, match="leaf"):
        t.grad = 1.0


def test_representations() -> None:
    assert repr(tg.Tensor([1.0, 2.0])) == "Tensor([1., 2.], dtype=float64)"
    assert repr(tg.Parameter(np.ones((3, 2), np.float32), name="w")) == (
        "Parameter('w', shape=(3, 2), dtype=float32)"
    )
    seen = []
    tg.grad(tg.grad(lambda x: seen.append(repr(x)) or x * x))(1.0)
    assert seen == ["Tensor(1., dtype=float64)"]


# What would go wrong in silence


def test_results_that_cannot_carry_a_gradient() -> None:
    w = tg.Tensor(np.zeros(2))
    table = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=object)
    for call in (
        lambda: table @ w,
        lambda: np.concatenate([w, table[0]]),
        lambda: w.astype(object),
    ):
        with pytest.raises(DetachError, match=r"object.*astype\(float\)"):
            call()
    with pytest.raises(TypeError):
        w * Fraction(1, 2)


def test_arrays_with_an_arithmetic_of_their_own() -> None:
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    with pytest.raises(DifferentiationError, match=r"MaskedArray.*np\.asarray"):
        tg.grad(np.mean)(masked)
    with pytest.raises(DetachError, match="MaskedArray"):
        tg.Tensor(np.ones(2)) - masked
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's own advice against them
        matrix = np.ones((2, 2)).view(np.matrix)
        with pytest.raises(DetachError, match="matrix"):
            tg.Tensor(np.ones((2, 2))) * matrix
    mapped = np.ones(3).view(np.memmap)
    np.sum(tg.Tensor(np.ones(3)) * mapped).backward()


def test_a_parameter_changed_before_the_backward_pass() -> None:
    d, g = tg.Parameter([2.0], name="d"), tg.Parameter([3.0], name="g")
    score = np.sum(d * (g * 1.5))
    one, two = score * 1.0, score * -1.0
    one.backward(retain=True)
    tg.optim.SGD([d], lr=0.1).step()
    with pytest.raises(InPlaceError, match="changed in place"):
        two.backward()
    w = tg.Parameter(np.ones((2, 2)), name="w")
    loss = np.sum((np.ones((1, 2)) @ w.T) @ w)  # w is held as a view, too
    w.touch()
    with pytest.raises(InPlaceError, match="changed in place"):
        loss.backward()
    np.sum(w * w).backward()
    linear = np.sum(np.ones((1, 2)) @ w)  # nothing of w is needed for its own gradient
    w.touch()
    linear.backward()


def test_gradients_of_forks_keep_to_themselves() -> None:
    a, b = tg.Tensor(np.array([1.5, 2.5])), tg.Tensor(np.array([0.5, 0.7]))
    np.sum(np.modf(a)[0] + np.modf(b)[0]).backward()
    assert a.grad is not b.grad
    seed = np.ones(2)
    np.modf(b)[0].backward(seed)
    assert not np.shares_memory(b.grad, seed)


def test_no_grad_in_interleaved_generators() -> None:
    def frames(n):
        with tg.no_grad():
            yield from range(n)

    a, b = frames(2), frames(3)
    next(a), next(b)
    list(a), list(b)
    w = tg.Parameter(1.0, name="w")
    (w * 2.0).backward()
    assert w.grad == 2.0


def test_a_tensor_as_a_mask() -> None:
    t = tg.Tensor(np.ones(3))
    with pytest.raises(NoRuleError, match="t > 0"):
        np.sin(np.ones(3), where=t)


def test_sequences_of_other_kinds() -> None:
    t = tg.Tensor(np.ones(2))
    assert np.stack(deque([t, t])).shape == (2, 2)
    Pair = namedtuple("Pair", "a b")
    assert np.concatenate(Pair(t, t)).shape == (4,)


def test_training_leaves_nothing_for_the_garbage_collector() -> None:
    model = tg.nn.Sequential(tg.nn.Linear(3, 2, rng=0), np.tanh)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            g = tg.grad(lambda m: np.sum(m(np.ones((4, 3), np.float32))))(model)
            dead = weakref.ref(model(np.ones((4, 3), np.float32)).value)
            model.parameters()
        inside = weakref.ref(g[0].weight)
        del g
        assert inside() is None
        assert dead() is None
    finally:
        gc.enable()
