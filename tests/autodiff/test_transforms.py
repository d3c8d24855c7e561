"""grad, value_and_grad, vjp."""

import threading
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.autodiff.tensor import Tensor
from thriftgrad.errors import ConfigError, DetachError, DifferentiationError


def test_the_gradient_has_the_shape_of_the_argument() -> None:
    p = {"W": {"hidden": np.ones((3, 2)), "output": np.ones(2)}, "b": [0.5, (np.float32(2.0),)]}

    def f(p, x):
        h = np.tanh(x @ p["W"]["hidden"] + p["b"][0])
        return np.sum(h @ p["W"]["output"]) * p["b"][1][0]

    value, g = tg.value_and_grad(f)(p, np.ones((4, 3)))
    assert value == f(p, np.ones((4, 3)))
    assert g["W"]["hidden"].shape == (3, 2)
    assert isinstance(g["b"][0], float)
    assert g["b"][1][0].dtype == np.float32


def test_argnums() -> None:
    def f(x, y, z):
        return x * y * y * z

    assert tg.grad(f, argnums=1)(2.0, 3.0, 5.0) == 60.0
    assert tg.grad(f, argnums=-1)(2.0, 3.0, 5.0) == 18.0
    assert tg.grad(f, argnums=(2, 0))(2.0, 3.0, 5.0) == (18.0, 45.0)
    assert tg.grad(f, argnums=(0,))(2.0, 3.0, 5.0) == (45.0,)


@pytest.mark.parametrize("argnums", [3, -4, (0, 3), (0, 0), (0, -3), "x", True])
def test_bad_argnums(argnums) -> None:
    with pytest.raises(ConfigError, match="argnums"):
        tg.grad(lambda x, y, z: x * y * z, argnums=argnums)(1.0, 2.0, 3.0)


def test_has_aux() -> None:
    def f(x):
        y = np.square(x)
        return np.sum(y), {"y": y, "n": 3, "label": "squares"}

    x = np.array([1.0, 2.0])
    (value, aux), g = tg.value_and_grad(f, has_aux=True)(x)
    assert value == 5.0
    assert type(aux["y"]) is np.ndarray
    assert aux["n"] == 3
    np.testing.assert_array_equal(g, [2.0, 4.0])
    g, aux = tg.grad(f, has_aux=True)(x)
    assert aux["label"] == "squares"
    _, pullback, aux = tg.vjp(f, has_aux=True)(x)
    np.testing.assert_array_equal(pullback(2.0), [4.0, 8.0])
    with pytest.raises(DifferentiationError, match="pair"):
        tg.grad(lambda x: x * x, has_aux=True)(1.0)


def test_keyword_arguments_pass_through() -> None:
    assert tg.grad(lambda x, *, k: k * x * x)(3.0, k=2.0) == 12.0


def test_a_pullback_can_be_called_again() -> None:
    x = np.array([0.1, 0.2, 0.3])
    y, pullback = tg.vjp(np.tanh)(x)
    rows = [pullback(e) for e in np.eye(3)]
    np.testing.assert_allclose(rows, np.diag(1 - y * y))


def test_vjp_of_a_tree() -> None:
    value, pullback = tg.vjp(lambda x: {"a": x * 2, "b": (np.sum(x), 7.0)})(np.ones(3))
    assert value["b"][1] == 7.0
    np.testing.assert_array_equal(
        pullback({"a": np.array([1.0, 0.0, 0.0]), "b": (10.0, 5.0)}), [12.0, 10.0, 10.0]
    )
    with pytest.raises(DifferentiationError, match="structure"):
        pullback({"a": np.ones(3)})
    with pytest.raises(DifferentiationError, match=r"shape \(2,\).*\(3,\)"):
        pullback({"a": np.ones(2), "b": (1.0, 1.0)})


def test_higher_derivatives() -> None:
    f = np.sin
    expected = [np.sin, np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x), np.sin]
    for derivative in expected:
        assert f(0.7) == pytest.approx(derivative(0.7), abs=1e-12)
        f = tg.grad(f)


def test_no_perturbation_confusion() -> None:
    """d/dx [x · d/dy (x + y)] is 1, whatever runs inside what (Siskind and Pearlmutter 2005)."""
    assert tg.grad(lambda x: x * tg.grad(lambda y: x + y)(1.0))(1.0) == 1.0
    assert tg.grad(lambda x: x * tg.grad(lambda y: x * y)(2.0))(3.0) == 6.0
    inner = tg.grad(lambda x: tg.grad(lambda y: x * x * y * y)(x))
    assert inner(2.0) == pytest.approx(6 * 2.0**2)


def test_closures_over_outer_values() -> None:
    w = tg.Parameter(np.array([1.0, 2.0]), name="w")

    def penalty(x):
        return np.sum(tg.grad(lambda x: np.sum(w * x**3))(x) ** 2)

    x = np.array([0.5, -1.0])
    out = penalty(x)
    assert isinstance(out, Tensor)
    out.backward()
    np.testing.assert_allclose(w.grad, 2 * w.value * 9 * x**4)


def test_a_function_of_nothing_has_gradient_zero() -> None:
    assert tg.grad(lambda x: 3.0)(2.0) == 0.0
    np.testing.assert_array_equal(tg.grad(lambda x: np.sum(np.floor(x)))(np.ones(3)), np.zeros(3))
    _, g = tg.value_and_grad(lambda p: np.sum(p["a"]))({"a": np.ones(2), "b": np.ones(3)})
    np.testing.assert_array_equal(g["b"], np.zeros(3))


@pytest.mark.parametrize(
    ("f", "x", "words"),
    [
        (lambda x: x * 2, np.ones(3), r"shape \(3,\).*np\.sum"),
        (lambda x: np.sum(x, keepdims=True), np.ones(3), r"shape \(1,\)"),
        (lambda x: np.sum(x) * 1j, np.ones(3), "complex"),
        (lambda x: None, 1.0, "NoneType"),
        (lambda x: (x, x), 1.0, "tuple.*has_aux"),
    ],
)
def test_the_value_must_be_a_real_scalar(f, x, words) -> None:
    with pytest.raises(DifferentiationError, match=words):
        tg.grad(f)(x)


@pytest.mark.parametrize("x", [3, True, np.arange(3), np.bool_(True), "abc", np.array(["a"])])
def test_integers_and_other_things_have_no_derivative(x) -> None:
    with pytest.raises(DifferentiationError, match="argument 0"):
        tg.grad(np.sum)(x)


def test_the_message_names_the_leaf() -> None:
    with pytest.raises(DifferentiationError, match=r"\['layers'\]\[1\]"):
        tg.grad(lambda p: 0.0)({"layers": [1.0, 2]})


def test_an_exception_leaves_no_state_behind() -> None:
    def broken(x):
        np.sum(x * 2)
        raise RuntimeError("no")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="no"):
            tg.grad(broken)(1.0)
        with pytest.raises(RuntimeError, match="no"), tg.no_grad():
            broken(tg.Tensor(1.0))
    assert tg.grad(tg.grad(np.exp))(0.0) == 1.0
    t = tg.Tensor(2.0)
    (t * t).backward()
    assert t.grad == 4.0


def test_a_leaked_tensor_is_a_constant_elsewhere() -> None:
    leaked = []

    def leak(x):
        leaked.append(x * 2)
        return x * x

    tg.grad(leak)(3.0)
    assert tg.grad(lambda y: y * y)(5.0) == 10.0
    result = tg.grad(lambda y: y * leaked[0])(5.0)
    assert result.value == 6.0


def test_eight_threads_get_1600_right_answers_of_1600() -> None:
    right = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for i in range(200):
            x = rng.normal(size=3)
            nested = tg.grad(lambda x: np.sum(tg.grad(lambda y: np.sum(np.sin(y) * x))(x)))(x)
            with tg.no_grad() if i % 2 else nullcontext():
                again = tg.grad(lambda x: np.sum(x**3))(x)
            if np.allclose(nested, np.cos(x) - x * np.sin(x)) and np.allclose(again, 3 * x**2):
                right.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(right) == 1600


def test_threads_that_share_a_parameter_lose_no_gradient() -> None:
    w = tg.Parameter(1.0, name="w")

    def work() -> None:
        for _ in range(200):
            (w * 2.0).backward()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert w.grad == 3200.0


def test_inputs_keep_their_memory_to_themselves() -> None:
    """No gradient shares memory with an input, with another gradient, or with a given cotangent."""
    x, y = np.ones(3), np.ones(3)
    gx, gy = tg.grad(lambda x, y: np.sum(x + y), argnums=(0, 1))(x, y)
    assert not np.shares_memory(gx, gy)
    seed = np.ones(3)
    _, pullback = tg.vjp(lambda x, y: (x + 0.0) + y, argnums=(0, 1))(x, y)
    gx, gy = pullback(seed)
    gx[:] = 5
    np.testing.assert_array_equal(gy, np.ones(3))
    np.testing.assert_array_equal(seed, np.ones(3))
    (g,) = (tg.grad(lambda x: np.sum(np.reshape(x, (3, 1))))(x),)
    assert g.flags.writeable


# The transforms that follow from vjp


def quadratic(a):
    return lambda x: np.sum(x @ a * x) / 2


def test_jvp_is_the_transpose_of_vjp() -> None:
    rng = np.random.default_rng(0)
    x, v = {"a": rng.normal(size=3), "b": 2.0}, {"a": rng.normal(size=3), "b": 0.5}

    def f(p):
        return {"y": np.outer(np.sin(p["a"]), p["a"]) * p["b"], "z": np.sum(p["a"])}

    g = {"y": rng.normal(size=(3, 3)), "z": 0.3}
    _, pullback = tg.vjp(f)(x)
    _, pushforward = tg.jvp(f)(x)
    back, forward = pullback(g), pushforward(v)
    assert np.sum(back["a"] * v["a"]) + back["b"] * v["b"] == pytest.approx(
        np.sum(forward["y"] * g["y"]) + forward["z"] * g["z"]
    )
    with pytest.raises(DifferentiationError):
        pushforward({"a": np.ones(2), "b": 1.0})


def test_jvp_of_several_arguments() -> None:
    value, pushforward, aux = tg.jvp(lambda x, y: (x * y, "aux"), argnums=(0, 1), has_aux=True)(
        2.0, 3.0
    )
    assert (value, aux) == (6.0, "aux")
    assert pushforward((1.0, 10.0)) == 23.0


def test_jacobian_shapes_and_values() -> None:
    x = np.arange(6.0).reshape(2, 3)
    w = np.arange(12.0).reshape(3, 4)
    by_x, by_w = tg.jacobian(np.matmul, argnums=(0, 1))(x, w)
    assert by_x.shape == (2, 4, 2, 3)
    np.testing.assert_array_equal(by_x, np.einsum("ik,lj->ijkl", np.eye(2), w))
    np.testing.assert_array_equal(by_w, np.einsum("il,jk->ijlk", x, np.eye(4)))
    assert tg.jacobian(lambda x: x * 3.0)(2.0) == 3.0
    assert tg.jacobian(lambda x: x[:0])(np.ones(3)).shape == (0, 3)
    tree_of_trees = tg.jacobian(lambda p: {"s": p["a"] * p["b"]})({"a": np.ones(2), "b": 3.0})
    np.testing.assert_array_equal(tree_of_trees["s"]["a"], 3 * np.eye(2))
    np.testing.assert_array_equal(tree_of_trees["s"]["b"], np.ones(2))
    j, aux = tg.jacobian(lambda x: (x * x, 7), has_aux=True)(np.ones(2))
    assert aux == 7
    assert j.dtype == np.float64
    assert tg.jacobian(np.exp)(np.ones(2, np.float32)).dtype == np.float32


def test_jacobian_of_complex_functions() -> None:
    z = np.array([1 + 2j, 3 - 1j])
    np.testing.assert_allclose(tg.jacobian(np.square)(z), np.diag(2 * z))
    with pytest.raises(DifferentiationError, match=r"np\.real and np\.imag"):
        tg.jacobian(lambda x: x * 1j)(np.ones(2))


def test_hessian_and_hvp_agree() -> None:
    rng = np.random.default_rng(1)
    x, v = rng.normal(size=4), rng.normal(size=4)

    def f(x):
        return np.sum(np.sin(x) * x[::-1] ** 2)

    h = tg.hessian(f)(x)
    np.testing.assert_allclose(h, h.T)
    np.testing.assert_allclose(tg.hvp(f)(x, v), h @ v)
    a = rng.normal(size=(4, 4))
    np.testing.assert_allclose(tg.hessian(quadratic(a))(x), (a + a.T) / 2)
    third = tg.jacobian(tg.hessian(lambda x: np.sum(x**3)))(x)
    np.testing.assert_allclose(third, 6 * np.einsum("ij,jk->ijk", np.eye(4), np.eye(4)))


def test_hessian_of_trees_and_several_arguments() -> None:
    def f(p, q):
        return np.sum(p["a"] ** 2) * q + p["b"] * q**2

    p, q = {"a": np.array([1.0, 2.0]), "b": 3.0}, 5.0
    by_p, by_q = tg.hessian(f, argnums=(0, 1))(
        p, q
    )  # shaped like the gradient; at each leaf, again
    np.testing.assert_allclose(by_p["a"][0]["a"], 10 * np.eye(2))
    np.testing.assert_allclose(by_p["a"][1], [2.0, 4.0])
    assert by_p["b"][1] == 10.0
    np.testing.assert_allclose(by_q[0]["a"], [2.0, 4.0])
    assert by_q[1] == 6.0
    assert tg.hvp(f, argnums=1)(p, q, 2.0) == 12.0
    hv = tg.hvp(f, argnums=(0, 1))(p, q, ({"a": np.zeros(2), "b": 1.0}, 1.0))
    assert hv[1] == 10.0 + 6.0
    product, aux = tg.hvp(lambda x: (x**3, "aux"), has_aux=True)(2.0, 1.0)
    assert (product, aux) == (12.0, "aux")
    with pytest.raises(DifferentiationError, match="shaped like the argument"):
        tg.hvp(lambda x: np.sum(x**2))(np.ones(3), np.ones(2))


def test_elementwise_grad_nests() -> None:
    x = np.linspace(-1.0, 1.0, 5)
    f = np.tanh
    for derivative in (lambda t: 1 - t**2, lambda t: -2 * t * (1 - t**2)):
        f = tg.elementwise_grad(f)
        np.testing.assert_allclose(f(x), derivative(np.tanh(x)), atol=1e-15)


def test_holomorphic_grad() -> None:
    z = 0.3 + 0.7j
    for f, derivative in ((np.exp, np.exp), (np.sin, np.cos), (lambda z: z**3, lambda z: 3 * z**2)):
        assert tg.holomorphic_grad(f)(z) == pytest.approx(derivative(z))
    assert tg.holomorphic_grad(tg.holomorphic_grad(np.exp))(z) == pytest.approx(np.exp(z))
    with pytest.raises(DifferentiationError, match="complex scalar"):
        tg.holomorphic_grad(np.abs)(z)
    with pytest.raises(DifferentiationError, match="real argument"):
        tg.holomorphic_grad(lambda x: x * 1j)(1.0)


def test_the_complex_convention() -> None:
    """The gradient of a real u(x + iy) is ∂u/∂x − i·∂u/∂y."""
    z = 2.0 + 3.0j
    assert tg.grad(lambda z: np.real(z * z))(z) == pytest.approx(2 * z)
    assert tg.grad(lambda z: np.abs(z) ** 2)(z) == pytest.approx(2 * np.conj(z))
    assert tg.grad(np.imag)(z) == pytest.approx(-1j)
    assert tg.grad(lambda x: np.abs(x + 1j * x) ** 2)(3.0) == pytest.approx(12.0)


def test_transforms_close_over_outer_tensors() -> None:
    def outer(a):
        h = tg.hessian(lambda x: a * np.sum(x**3))(np.array([1.0, 2.0]))
        j = tg.jacobian(lambda x: a * x)(np.ones(2))
        _, push = tg.jvp(lambda x: a * x * x)(3.0)
        return np.sum(h) + np.sum(j) + push(1.0) + tg.hvp(lambda x: a * x**2)(1.0, 1.0)

    assert tg.grad(outer)(2.0) == pytest.approx(18.0 + 2.0 + 6.0 + 2.0)


# Results through which a gradient would be lost


def test_a_tensor_kept_beyond_the_end_of_its_transform() -> None:
    def f(x):
        kept = []
        tg.grad(lambda y: kept.append(y * x) or y * y)(1.0)
        return kept[0] * x

    with pytest.raises(DifferentiationError, match="has_aux=True"):
        tg.value_and_grad(f)(3.0)


@dataclass
class Result:
    y: object


def test_a_result_that_is_no_tree_of_arrays() -> None:
    for f in (
        lambda x: Result(x * 2),
        lambda x: "text",
        lambda x: np.array([x, None], dtype=object),
    ):
        with pytest.raises((DifferentiationError, DetachError)):
            tg.vjp(f)(1.0)
    value, aux = tg.vjp(lambda x: (x * 2, Result(3)), has_aux=True)(1.0)[::2]
    assert (value, aux.y) == (2.0, 3)


def test_the_model_itself_in_place_of_the_argument() -> None:
    model = tg.nn.Sequential(tg.nn.Linear(2, 1, rng=0))
    x = np.ones((3, 2), np.float32)
    with pytest.raises(DifferentiationError, match=r"lambda m: loss\(m\)"):
        tg.grad(lambda m: np.sum(model(x)))(model)
    with pytest.raises(DifferentiationError, match="itself"):
        tg.grad(lambda m: np.sum(m(x)) * np.sum(model[0].weight))(model)
    other = tg.Parameter(2.0, name="other")
    assert tg.grad(lambda m: np.sum(m(x)) * other.value)(model)[0].bias.tolist() == [6.0]


def test_complex_hessian_products_and_integer_outputs() -> None:
    z, v = np.array([1 + 2j, 3 - 1j]), np.array([0.5 - 1j, 2j])

    def u(z):
        return np.sum(np.real(z * z * np.conj(z)))

    h = 1e-6
    numeric = (tg.grad(u)(z + h * v) - tg.grad(u)(z - h * v)) / (2 * h)
    np.testing.assert_allclose(tg.hvp(u)(z, v), numeric, rtol=1e-7)
    value, push = tg.jvp(lambda a: {"y": a * 2, "n": 3})(np.ones(2))
    assert push(np.ones(2))["y"].tolist() == [2.0, 2.0]
    assert (value["n"], push(np.ones(2))["n"]) == (3, 0)
    assert tg.grad(lambda x, y: x * y, argnums=np.int64(1))(2.0, 3.0) == 2.0
