"""The packaged MNIST is the original, byte for byte, and comes in the form that was asked for."""

import hashlib
import struct
from importlib.resources import files

import numpy as np
import pytest

from thriftgrad.data import Dataset, Split, mnist, one_hot
from thriftgrad.errors import ConfigError, DataError

MD5_OF_IDX = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}


@pytest.fixture(scope="module")
def dataset():
    return mnist()


def test_equals_the_original_idx_files_once_scaling_is_undone(dataset):
    (x_train, y_train), (x_test, y_test) = dataset
    x_train, x_test = x_train.reshape(-1, 28, 28), x_test.reshape(-1, 28, 28)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    for name, array in arrays.items():
        values = array * 255 + 0.5 if array.dtype == np.float32 else array
        digest = hashlib.md5(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape))
        digest.update(values.astype(np.uint8).tobytes())
        assert digest.hexdigest() == MD5_OF_IDX[name], name


def test_defaults(dataset):
    train, test = dataset
    assert train.x.shape == (60000, 784)
    assert test.x.shape == (10000, 784)
    assert train.x.dtype == np.float32
    assert train.x.min() == 0.0
    assert train.x.max() == 1.0
    assert train.y.shape == (60000,)
    assert train.y.dtype == np.int64
    assert train.x.flags.c_contiguous
    assert train.x.flags.writeable
    assert dataset.validation is None
    assert dataset.classes == 10
    assert repr(dataset) == (
        "Dataset(train=60000 × 784 float32, test=10000 × 784 float32, classes=10)"
    )


def test_one_hot_in_the_images_own_shape(dataset):
    other = mnist(dtype="float16", one_hot=True, flatten=False)
    assert other.test.x.shape == (10000, 28, 28)
    assert other.test.x.dtype == other.test.y.dtype == np.float16
    assert (other.test.y.argmax(axis=1) == dataset.test.y).all()
    assert (other.test.y.sum(axis=1) == 1).all()
    assert other.classes == 10


@pytest.mark.parametrize("dtype", [np.int32, "complex64", bool, "no such type", object])
def test_dtype_is_a_float_type(dtype):
    with pytest.raises(ConfigError, match="floating-point"):
        mnist(dtype=dtype)


def test_the_licence_comes_along():
    assert "CC BY-SA 3.0" in (files("thriftgrad.data") / "LICENSE-MNIST.md").read_text("utf-8")


def test_repr_shows_a_validation_split():
    pair = Split(np.zeros((2, 3)), np.zeros(2, int))
    assert "validation=2 × 3 float64" in repr(Dataset(pair, pair, pair, classes=1))


def test_one_hot_by_hand():
    assert one_hot(np.array([1, 0, 2], np.uint8), 3, np.float64).tolist() == [
        [0, 1, 0],
        [1, 0, 0],
        [0, 0, 1],
    ]


@pytest.mark.parametrize(
    ("labels", "classes", "error", "said"),
    [
        ([0, 3], 3, DataError, "label 3 does not fit 3 classes"),
        ([-1, 0], 3, DataError, "counted from 0"),
        ([0.5], 3, DataError, "one-dimensional integers"),
        ([[0]], 3, DataError, "one-dimensional integers"),
        ([True], 3, DataError, "one-dimensional integers"),
        ([0], 0, ConfigError, "at least 1"),
        ([0], 2.0, ConfigError, "whole number"),
    ],
)
def test_one_hot_refuses(labels, classes, error, said):
    with pytest.raises(error, match=said):
        one_hot(labels, classes)
