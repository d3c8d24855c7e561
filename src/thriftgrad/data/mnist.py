"""MNIST, which comes with the package, so that a first training run needs no download."""

from importlib.resources import as_file, files

import numpy as np
from numpy.typing import DTypeLike

from thriftgrad.data.dataset import Dataset
from thriftgrad.data.files import load


def mnist(dtype: DTypeLike = np.float32, one_hot: bool = False, flatten: bool = True) -> Dataset:
    """Return MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 × 28 pixels.

    Pixels are `byte / 255`, from 0 (paper) to 1 (ink), of shape (n, 784), or (n, 28, 28) with
    `flatten=False`. Labels are int64 of shape (n,), or rows of `dtype` of shape (n, 10) with
    `one_hot=True`. In float32 the images take 220 MB.

    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86 (11), 1998. The data are under CC BY-SA 3.0; see
    LICENSE-MNIST.md.

    Raises:
        ConfigError: `dtype` is not a floating-point type.

    Example:
        >>> from thriftgrad.data import mnist
        >>> (x_train, y_train), (x_test, y_test) = mnist()
        >>> x_train.shape, x_test.shape, y_train[:5]
        ((60000, 784), (10000, 784), array([5, 0, 4, 1, 9]))

    """
    with as_file(files("thriftgrad.data") / "mnist.npz") as path:
        return load(path, dtype=dtype, one_hot=one_hot, flatten=flatten)
