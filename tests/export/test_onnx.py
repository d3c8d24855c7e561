"""ONNX files: onnxruntime computes what the model does, and what cannot be said in ONNX is refused."""

import functools
import sys

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import ConfigError, MissingExtraError
from thriftgrad.export.onnx import _UFUNCS
from thriftgrad.nn import Dropout, Linear, Module, Sequential

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)


def ran(model, path, *batches, **options):
    """Export the model, and return what onnxruntime makes of each batch."""
    tg.export.onnx(model, path, **options)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    return [session.run(["output"], {"input": x})[0] for x in batches]


def agrees(model, path, shape, dtype, **options):
    batches = [RNG.normal(size=(n, *shape)).astype(dtype) for n in (1, 7)]
    for x, theirs in zip(batches, ran(model, path, *batches, **options), strict=True):
        with model.evaluating(), np.errstate(invalid="ignore"):
            ours = model(x)
        ours = getattr(ours, "value", ours)
        assert theirs.dtype == ours.dtype == dtype
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_of_everything(dtype, tmp_path):
    linear = functools.partial(Linear, dtype=dtype)
    model = Sequential(
        linear(6, 5, rng=0, bias_init=tg.nn.init.normal),
        tg.nn.relu,
        Dropout(0.5, rng=0),
        Sequential(linear(5, 8, bias=False, rng=1), Sequential(np.tanh, tg.nn.sigmoid)),
        lambda x: x.reshape(len(x), 2, 4),
        lambda x: np.transpose(x, (0, 2, 1)),
        linear(2, 3, rng=2),
        tg.nn.log_softmax,
        lambda x: x[:, ::-1, 1:],
        tg.nn.softmax,
        np.sin,
    )
    agrees(model, tmp_path / "model.onnx", (6,), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", sorted(_UFUNCS))
def test_ufuncs(name, dtype, tmp_path):
    function = getattr(np, name, None) or getattr(pytest.importorskip("scipy.special"), name)
    model = Sequential(Linear(3, 4, rng=0, dtype=dtype), lambda x: x.reshape(-1, 2, 2), function)
    agrees(model, tmp_path / "model.onnx", (3,), dtype)


def test_flattened_images_and_the_names(tmp_path):
    path = tmp_path / "model.onnx"
    model = Sequential(Flatten(), Linear(12, 2, rng=0))
    with pytest.raises(ConfigError, match=r"layer 0 \(Flatten\) comes before the first Linear"):
        tg.export.onnx(model, path)
    agrees(model, path, (3, 4), np.float32, input_shape=(3, 4))
    graph = onnx.load(path).graph
    assert [a.name for a in graph.initializer] == ["0.shape", "1.weight", "1.bias"]
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        4,
    ]


def test_a_layer_that_is_there_twice_is_kept_once(tmp_path):
    shared = Linear(4, 4, rng=0)
    model = Sequential(shared, np.tanh, shared)
    agrees(model, tmp_path / "model.onnx", (4,), np.float32)
    names = [a.name for a in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert names == ["0.weight", "0.bias"] == list(model.state_dict())


def test_one_layer_none_at_all_and_a_model_on_plain_arrays(tmp_path):
    layer = Linear(3, 2, rng=0)
    agrees(layer, tmp_path / "one.onnx", (3,), np.float32)
    agrees(Sequential(Dropout(0.5)), tmp_path / "none.onnx", (3,), np.float32, input_shape=(3,))
    arrays = tg.tree.map(lambda p: p.value, layer)
    agrees(arrays, tmp_path / "arrays.onnx", (3,), np.float32)


def test_exporting_changes_nothing(tmp_path):
    model = Sequential(Linear(3, 3, rng=0), Dropout(0.5, rng=0))
    before = model.state_dict(), model[1].rng.bit_generator.state, model.training
    tg.export.onnx(model, tmp_path / "model.onnx")
    np.testing.assert_equal(
        (model.state_dict(), model[1].rng.bit_generator.state, model.training), before
    )


class OwnCall(Linear):
    def __call__(self, x):
        return super().__call__(x) * 2


class OwnModule(Module):
    def __call__(self, x):
        return x + 1


class Flatten(Module):
    def __call__(self, x):
        assert not self.training
        return x.reshape(len(x), -1)


REFUSED = {
    "arithmetic": (lambda x: x * 2.0, "may only move entries"),
    "comparison": (lambda x: np.where(x == 0, 1.0, x), "may only move entries"),
    "branch": (lambda x: x if x[0, 0] else -x, "may only move entries"),
    "sorting": (lambda x: np.sort(x, axis=1), "may only move entries"),
    "rectifying": (lambda x: np.maximum(x, 0), "may only move entries"),
    "numbers of its own": (lambda x: np.pad(x, ((0, 0), (1, 1))), "it put in np.int64"),
    "numbers treated apart": (np.nan_to_num, "treats some numbers otherwise"),
    "whole batch": (np.ravel, "array of shape"),
    "other examples": (lambda x: x[::-1], "from one example to another"),
    "size of the batch": (lambda x: x[:, : len(x)], "not do the same to a batch"),
    "an unknown ufunc": (np.cbrt, r"np\.cbrt\) cannot be exported.*no operator"),
    "a module": (OwnModule(), r"OwnModule\) cannot be exported.*__call__ of its own may only move"),
    "a subclass": (
        OwnCall(4, 4),
        r"OwnCall\) cannot be exported.*__call__ of its own may only move",
    ),
    "too few inputs": (Linear(5, 2), "takes 5 inputs and would be given examples of shape"),
}


@pytest.mark.parametrize(("layer", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_exported_is_named_and_leaves_no_file(layer, message, tmp_path):
    model = Sequential(Linear(3, 4, rng=0), Sequential(np.tanh, layer))
    with pytest.raises(ConfigError, match=rf"layer 1\.1 .*{message}"):
        tg.export.onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_exported(tmp_path):
    mixed = Sequential(Linear(3, 4, dtype=np.float32), Linear(4, 3, dtype=np.float64))
    for model, message in [
        (mixed, "several types, float32 and float64"),
        (Linear(3, 2, dtype=np.longdouble), "ONNX does not calculate with"),
        (np.tanh, "model is a ufunc"),
        (Sequential(np.tanh), "no Linear that would tell the shape"),
    ]:
        with pytest.raises(ConfigError, match=message):
            tg.export.onnx(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("shape", [784, (0,), ("a",), (2.0,)])
def test_the_shape_of_an_example_is_checked(shape, tmp_path):
    with pytest.raises(ConfigError, match=r"input_shape = .* as in"):
        tg.export.onnx(Sequential(np.tanh), tmp_path / "model.onnx", input_shape=shape)


def test_without_onnx_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"thriftgrad\[onnx\]"):
        tg.export.onnx(Linear(3, 2), tmp_path / "model.onnx")
