"""Layers: what they compute, their derivatives, and inputs in error."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad import nn, tree
from thriftgrad.errors import ConfigError, DataError

# ---- linear


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 4, 3), (0, 3), (2, 0, 3), (1, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_its_formula_and_has_both_derivatives(shape, bias, check_derivatives):
    rng = np.random.default_rng(0)
    args = [rng.normal(size=s) for s in (shape, (3, 2), (2,))][: 2 + bias]
    expected = args[0] @ args[1] + (args[2] if bias else 0)
    np.testing.assert_allclose(nn.linear(*args), expected, rtol=1e-14)
    check_derivatives(nn.linear, *args)


def test_linear_has_the_gradients_of_the_composed_operations():
    rng = np.random.default_rng(1)
    x, w, b = rng.normal(size=(2, 4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)

    def loss(layer):
        return lambda *args: np.sum(np.sin(layer(*args)))

    ours = tg.grad(loss(nn.linear), (0, 1, 2))(x, w, b)
    composed = tg.grad(loss(lambda x, w, b: x @ w + b), (0, 1, 2))(x, w, b)
    for one, other in zip(ours, composed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_linear_is_one_node_and_keeps_input_and_weight_alone():
    layer, x = nn.Linear(3, 2, rng=0), np.ones((5, 3), np.float32)
    y = layer(x)
    assert {id(edge[0]) for edge in y.node.edges} == {id(p.node) for p in layer.parameters()}
    kept = [r for edge in y.node.edges for r in edge[2]]
    assert kept == [x]  # data need no gradient, so that not even the weight is kept
    y = layer(tg.Tensor(x))
    kept = {id(r) for edge in y.node.edges for r in edge[2]}
    assert kept == {id(x), id(layer.weight.value)}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_linear_keeps_the_dtype_gradients_included(dtype):
    layer = nn.Linear(3, 2, rng=0, dtype=dtype)
    x = tg.Tensor(np.ones((5, 3), dtype))
    y = layer(x)
    assert y.dtype == dtype
    np.sum(y).backward()
    assert {t.grad.dtype for t in (x, layer.weight, layer.bias)} == {np.dtype(dtype)}


def test_linear_promotes_as_numpy_does():
    w, b = np.ones((3, 2), np.float32), np.ones(2, np.float64)
    x = np.full((5, 3), 0.1, np.float32)
    assert nn.linear(x, w, b).dtype == np.float64
    assert nn.linear(x, w).dtype == np.float32
    assert nn.linear(np.ones((5, 3), np.uint8), w).dtype == np.float32
    assert nn.linear(np.ones((5, 3), int), np.ones((3, 2), int), np.full(2, 0.5)).tolist()[0] == [
        3.5,
        3.5,
    ]
    gradient = tg.grad(lambda w: np.sum(nn.linear(x, w, b)))(w)
    assert gradient.dtype == np.float32


def test_linear_writes_into_none_of_its_arguments():
    args = [np.ones((5, 3)), np.ones((3, 2)), np.ones(2)]
    for a in args:
        a.flags.writeable = False
    tensors = [tg.Tensor(a) for a in args]
    np.sum(nn.linear(*tensors)).backward()
    grads = [t.grad for t in tensors]
    assert not any(np.shares_memory(g, a) for g in grads for a in args)


def test_linear_adds_the_bias_without_a_second_array():
    layer, x = nn.Linear(1, 1000, rng=0), np.ones((500, 1), np.float32)
    with tg.no_grad():
        y = layer(x)
        tracemalloc.start()
        try:
            layer(x)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert y.nbytes <= peak < 1.1 * y.nbytes


def test_a_vectors_bias_gradient_is_not_an_alias():
    w, b, cotangent = tg.Parameter(np.ones((3, 2))), tg.Parameter(np.zeros(2)), np.ones(2)
    nn.linear(np.ones(3), w, b).backward(cotangent)
    b.grad[...] = 7
    assert cotangent.tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(5, 4), (4,), (), (3, 5)])
def test_an_input_that_does_not_fit(shape):
    with pytest.raises(DataError, match=r"expected \(\.\.\., 3\)"):
        nn.Linear(3, 2)(np.ones(shape))


def test_weights_and_biases_that_do_not_fit():
    x = np.ones((5, 3))
    for weight, bias in [(np.ones(3), None), (np.ones((3, 2)), np.ones(3))]:
        with pytest.raises(DataError, match=r"\(inputs, outputs\)"):
            nn.linear(x, weight, bias)
    with pytest.raises(DataError, match="bias"):
        nn.linear(x, np.ones((3, 2)), np.ones((5, 2)))  # would broadcast
    with pytest.raises(DataError, match="bias"):
        nn.linear(x, np.ones((3, 1)), np.ones(4))  # would broadcast, and widen the output


# ---- Linear


def test_linear_draws_weights_then_biases_from_one_generator():
    layer = nn.Linear(4, 3, bias_init=nn.init.standard_normal, rng=5)
    source = np.random.default_rng(5)
    np.testing.assert_array_equal(layer.weight.value, nn.init.glorot_uniform((4, 3), source))
    np.testing.assert_array_equal(layer.bias.value, nn.init.standard_normal((3,), source))
    assert nn.Linear(4, 3, rng=5).bias.value.tolist() == [0, 0, 0]
    assert nn.Linear(4, 3, rng=5).weight.dtype == np.float32
    given = nn.Linear(4, 3, init=nn.init.kaiming_normal, rng=5, dtype=np.float64)
    np.testing.assert_array_equal(
        given.weight.value, nn.init.kaiming_normal((4, 3), 5, dtype=np.float64)
    )
    assert given.bias.dtype == np.float64


def test_linear_without_bias():
    layer = nn.Linear(4, 3, bias=False, rng=0)
    assert layer.bias is None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    np.testing.assert_array_equal(layer(np.eye(4, dtype=np.float32)).value, layer.weight.value)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (-1, 3), (2.0, 3), (True, 3), ("3", 3)])
def test_sizes_in_error(sizes):
    with pytest.raises(ConfigError, match="whole number"):
        nn.Linear(*sizes)


def test_an_initialiser_that_returns_another_shape():
    with pytest.raises(ConfigError, match=r"weight was asked for shape \(3, 2\).*\(2, 3\)"):
        nn.Linear(3, 2, init=lambda shape, rng, dtype: np.zeros(shape[::-1]))
    with pytest.raises(ConfigError, match="floating-point"):
        nn.Linear(3, 2, dtype=int)


# ---- dropout


def test_dropout_zeroes_its_share_and_scales_the_rest():
    n, rate = 40_000, 0.3
    y = nn.Dropout(rate, rng=0)(np.ones(n))
    assert set(np.unique(y)) == {0, 1 / (1 - rate)}
    # Five standard errors of a binomial share.
    assert (y == 0).mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / n))


def test_dropout_draws_anew_each_time_and_the_same_from_one_seed():
    x = np.ones((20, 20), np.float32)
    one, other = nn.Dropout(0.5, rng=3), nn.Dropout(0.5, rng=np.random.default_rng(3))
    first = one(x)
    np.testing.assert_array_equal(first, other(x))
    assert not np.array_equal(first, one(x))
    np.testing.assert_array_equal(first, nn.Dropout(0.5, rng=3)(x.astype(float)))


def test_dropout_does_nothing_in_evaluation_or_at_rate_zero():
    x = np.ones((3, 2))
    layer = nn.Dropout(0.5, rng=0)
    before = layer.rng.bit_generator.state
    assert layer.eval()(x) is x
    assert nn.Dropout(0, rng=0)(x) is x
    assert layer.rng.bit_generator.state == before
    assert layer.train()(x) is not x


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dropout_has_the_gradient_of_its_mask_and_keeps_one_byte_an_entry(dtype):
    x = tg.Tensor(np.full((30, 4), 3, dtype))
    y = nn.Dropout(0.25, rng=1)(x)
    ((_, _, residuals),) = y.node.edges
    kept = [r for r in residuals if isinstance(r, np.ndarray)]
    assert [(k.dtype, k.shape) for k in kept] == [(np.dtype(bool), (30, 4))]
    y.backward(np.ones_like(y.value))
    assert y.dtype == x.grad.dtype == dtype
    np.testing.assert_array_equal(x.grad * 3, y.value)


def test_dropout_has_both_derivatives(check_derivatives):
    x = np.random.default_rng(0).normal(size=(4, 3))
    check_derivatives(lambda x: nn.Dropout(0.5, rng=2)(x) ** 2, x)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_rates_in_error(rate):
    with pytest.raises(ConfigError, match="rate"):
        nn.Dropout(rate)


def test_dropout_copies_go_on_from_the_same_state():
    layer, x = nn.Dropout(0.5, rng=0), np.ones(50)
    layer(x)
    twins = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    expected = layer(x)
    for twin in twins:
        np.testing.assert_array_equal(twin(x), expected)


def test_dropout_inside_a_traced_model_uses_up_the_models_own_generator():
    model = nn.Sequential(nn.Linear(3, 50, rng=0), nn.Dropout(0.5, rng=1))
    before = model[1].rng.bit_generator.state
    gradient = tg.grad(lambda m: np.sum(m(np.ones((1, 3), np.float32))))(model)
    assert model[1].rng.bit_generator.state != before
    assert set(np.unique(gradient[0].bias)) == {0, 2}
    assert len(tree.flatten(model)[0]) == 2


@pytest.mark.parametrize("shape", [(2, 50, 784), (100, 1, 784), (60_000,)])
def test_only_products_of_matrices_are_cut(shape, monkeypatch):
    monkeypatch.setattr(nn.layers, "has_small_kernels", lambda: True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    weight, bias = rng.normal(size=(shape[-1], 30)).astype(np.float32), np.ones(30, np.float32)
    y, pull = tg.vjp(nn.linear, argnums=(0, 1, 2))(x, weight, bias)
    np.testing.assert_allclose(y, x @ weight + 1, rtol=1e-5, atol=1e-3)
    gradients = pull(np.ones_like(y))
    assert [each.shape for each in gradients] == [x.shape, weight.shape, bias.shape]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(100, 784, 30), (128, 768, 64), (7, 5, 3)])
def test_products_in_parts_are_the_products(rows, inputs, outputs, dtype, monkeypatch):
    monkeypatch.setattr(nn.layers, "has_small_kernels", lambda: True)
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(rows, inputs)), rng.normal(size=(rows, outputs))
    layer = nn.Linear(inputs, outputs, rng=1, bias_init=nn.init.standard_normal, dtype=dtype)
    weight, bias = layer.weight.value.astype(float), layer.bias.value.astype(float)
    arguments = [each.astype(dtype) for each in (x, weight, bias, g)]
    y, pull = tg.vjp(nn.linear, argnums=(0, 1, 2))(*arguments[:3])
    expected = x @ weight + bias, g @ weight.T, x.T @ g, g.sum(axis=0)
    for ours, theirs in zip((y, *pull(arguments[3])), expected, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        assert ours.base is None
        tolerance = 1e-6 if dtype == np.float32 else 1e-14
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


def test_a_list_is_an_input() -> None:
    layer = nn.Linear(2, 1, rng=0)
    assert layer([1.0, 2.0]).item() == layer(np.array([1.0, 2.0])).item()
    assert layer([[1.0, 2.0]]).shape == (1, 1)
    for x in ([1.0, 2.0], [[1.0, 2.0]], [[0.5, 1.0], [0.5, 1.0]]):
        layer.weight.grad = None
        np.sum(layer(x)).backward()
        np.testing.assert_array_equal(layer.weight.grad, [[1.0], [2.0]])


@pytest.mark.parametrize(("x", "kind"), [(None, "NoneType"), ("text", "str"), (1.5, "float")])
def test_what_is_no_array_is_named(x, kind) -> None:
    with pytest.raises(
        DataError, match=rf"linear: a {kind} as an input for a weight of shape \(2, 1\)"
    ):
        nn.Linear(2, 1, rng=0)(x)
