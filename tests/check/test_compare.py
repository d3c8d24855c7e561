"""The same gradient from JAX, PyTorch and autograd, where they are installed."""

import numpy as np
import pytest
from numpy import tanh

import thriftgrad as tg
from thriftgrad import check, nn
from thriftgrad.errors import ConfigError

LIBRARIES = ["autograd", "jax", "torch"]
SCALE = np.array([1.0, 0.5])


def softmax(z):
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


def loss(p, x, y):
    h = tanh(np.maximum(x @ p["w"] + p["b"], 0.0)) * SCALE[1]
    q = softmax(h @ p["v"])
    return -np.mean(np.log(q[np.arange(len(y)), y])) + 0.1 * np.sum(p["w"] ** 2) + np.std(h)


def arguments():
    rng = np.random.default_rng(0)
    p = {
        "w": rng.normal(size=(3, 4)),
        "b": rng.normal(size=4).astype(np.float32),
        "v": rng.normal(size=(4, 3)),
    }
    return p, rng.normal(size=(5, 3)), rng.integers(0, 3, 5)


@pytest.fixture(params=LIBRARIES)
def library(request):
    pytest.importorskip(request.param)
    return request.param


def test_they_agree(library):
    report = check.compare(loss, arguments(), with_=library).raise_if_wrong()
    assert [block.entries for block in report.blocks] == [4, 12, 12]
    assert report.against == f"against {library}"
    assert max(block.difference for block in report.blocks) < 1e-14


def test_a_wrong_gradient_is_seen(library):
    wrong = lambda p, x, y: {k: 1.0 + 0 * v for k, v in p.items()}
    assert not check.compare(loss, arguments(), with_=library, analytic=wrong).ok


def test_closures_and_several_arguments(library):
    data = np.linspace(0, 1, 4)

    def scaled(w):
        return np.sum(w * data)

    f = lambda a, b: scaled(a) * b
    assert check.compare(f, (np.ones(4), 2.0), with_=library, argnums=(0, 1)).ok


def test_functions_of_numpy_itself(library):
    assert check.compare(np.sum, (np.ones(3),), with_=library).ok


def test_complex_arguments(library):
    z = np.array([1 + 2j, -0.5j])
    assert check.compare(lambda z: np.sum(np.abs(z) ** 2), (z,), with_=library).ok


def test_what_the_library_does_not_have(library):
    with pytest.raises(ConfigError, match="interp" if library != "jax" else "cannot be run|einsum"):
        check.compare(
            (lambda x: np.sum(np.interp(x, SCALE[::-1], SCALE)))
            if library != "jax"
            else (lambda x: float(np.sum(x)) + np.sum(x)),
            (np.linspace(0.6, 0.9, 3),),
            with_=library,
            analytic=np.ones(3),
        )


def test_what_is_not_plain_numpy(library):
    sigmoid = nn.sigmoid
    with pytest.raises(ConfigError, match=r"nn\.activations\.sigmoid"):
        check.compare(lambda x: np.sum(sigmoid(x)), (np.ones(3),), with_=library)


class Line:
    """A model as a class: arrays and helper methods in self."""

    def __init__(self):
        self.offset = np.linspace(0, 1, 5)

    def predict(self, w, x):
        self.last = np.tanh(x @ w) + self.offset
        return self.last

    def loss(self, w, x):
        return np.mean(self.predict(w, x) ** 2)

    def through_thriftgrad(self, w, x):
        return np.sum(tg.nn.sigmoid(x @ w))


def test_methods(library):
    line = Line()
    args = np.arange(3.0), np.ones((5, 3))
    assert check.compare(line.loss, args, with_=library).ok
    assert isinstance(line.last, tg.Tensor)  # and nothing of the other library
    with pytest.raises(ConfigError, match=r"calls thriftgrad\.nn\.activations\.sigmoid"):
        check.compare(line.through_thriftgrad, args, with_=library)


def test_functions_reached_through_thriftgrad(library):
    args = (np.ones(3),)
    for function in (
        lambda x: np.sum(tg.nn.relu(x)),
        lambda x: np.sum(nn.sigmoid(x)),
        lambda x: tg.grad(np.sum)(x)[0] * np.sum(x),
    ):
        with pytest.raises(ConfigError, match=r"calls thriftgrad\."):
            check.compare(function, args, with_=library)
    layer = nn.Linear(3, 2, rng=0)
    with pytest.raises(ConfigError, match="calls a Linear of thriftgrad"):
        check.compare(lambda x: np.sum(layer(x)), args, with_=library)


def test_primitives(library):
    cube = tg.primitive(lambda x: np.power(x, 3.0))
    tg.defvjp(cube, x=lambda g, x: g * 3 * x**2)
    assert check.compare(lambda x: np.sum(cube(x)), (np.ones(2),), with_=library).ok


def test_mistakes_are_not_looked_for(library):
    report = check.compare(np.sum, (np.ones(3),), with_=library, analytic=np.zeros(3))
    assert not report.ok
    assert "known mistakes" not in str(report)


def test_nothing_of_the_callers_is_changed(library):
    before = dict(loss.__globals__)
    check.compare(loss, arguments(), with_=library)
    assert loss.__globals__["np"] is np
    assert before.keys() == loss.__globals__.keys()
    if library == "jax":
        import jax

        assert not jax.config.jax_enable_x64


def test_an_unknown_library():
    with pytest.raises(ConfigError, match="'autograd', 'jax', 'torch'"):
        check.compare(loss, arguments(), with_="numpy")


def test_a_library_that_is_not_installed(monkeypatch):
    def missing(name):
        raise ImportError(name)

    import sys

    monkeypatch.setattr(sys.modules["thriftgrad.check.compare"], "import_module", missing)
    with pytest.raises(ImportError, match="pip install jax"):
        check.compare(loss, arguments(), with_="jax")
