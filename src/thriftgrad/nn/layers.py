"""Layers with parameters or state. Any other callable on arrays is a layer too: `np.tanh`."""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from thriftgrad.autodiff import Parameter, defvjp, primitive
from thriftgrad.autodiff.recording import uniform
from thriftgrad.blas import SMALL, has_small_kernels
from thriftgrad.errors import ConfigError, DataError
from thriftgrad.nn.init import Init, Rng, generator, glorot_uniform, zeros
from thriftgrad.nn.module import Module

Array = Any


class Linear(Module):
    """An affine map of the last axis: y = x·W + b.

    Weights are float32 unless asked otherwise: half the memory of float64 and twice the speed, and
    data sets of images are float32 as well. An input of another dtype gives what NumPy promotes the
    two to.

    Args:
        inputs: length of the last axis of x.
        outputs: length of the last axis of y.
        bias: whether there is a b.
        init: how W is drawn; called as init(shape, generator, dtype). The default is by Glorot and
            Bengio (2010), which see.
        bias_init: how b is drawn, after W and from the same generator.
        rng: seed or generator. Two layers of one shape and seed start out with equal weights.
        dtype: of the parameters.

    Attributes:
        weight: parameter (inputs, outputs).
        bias: parameter (outputs,), or None.

    Raises:
        ConfigError: sizes below 1, a dtype that is not floating-point, an `rng` that is neither
            seed nor generator, or an `init` that returns another shape.
        DataError: when called, an input whose last axis is not `inputs` long.

    Example:
        >>> layer = Linear(3, 2, rng=0)
        >>> layer(np.ones((5, 3), np.float32)).shape
        (5, 2)
        >>> layer
        Linear  weight (3, 2), bias (2,)  8 parameters, 32 bytes
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        init: Init = glorot_uniform,
        bias_init: Init = zeros,
        rng: Rng = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        inputs, outputs = _size(inputs, "inputs"), _size(outputs, "outputs")
        source = generator(rng)
        self.weight = _parameter("weight", (inputs, outputs), init, source, dtype)
        self.bias = _parameter("bias", (outputs,), bias_init, source, dtype) if bias else None

    def __call__(self, x: Array) -> Array:
        """Return x·W + b."""
        return linear(x, self.weight, self.bias)


@primitive
def linear(x: Array, weight: Array, bias: Array = None) -> Array:
    """Return x·W + b, as one recorded call that adds b in place.

    Args:
        x: (..., inputs), with any number of leading axes, or none.
        weight: (inputs, outputs).
        bias: (outputs,), or None for no bias.

    Returns:
        (..., outputs).

    Raises:
        DataError: shapes that do not fit.

    Example:
        >>> linear(np.array([1.0, 2.0]), np.eye(2), np.array([10.0, 20.0]))
        array([11., 22.])
    """
    try:
        inputs, outputs = weight.shape
        fits = x.shape[-1] == inputs and (bias is None or bias.shape == (outputs,))
    except (AttributeError, IndexError, ValueError):  # a list, a number, another number of axes
        fits = False
    if not fits:
        _check_shapes(x, weight, bias)
    result = _product(x, weight)
    if bias is None:
        return result
    if result.dtype != bias.dtype:
        return result + bias
    result += bias
    return result


def _check_shapes(x: Array, weight: Array, bias: Array) -> None:
    if np.ndim(weight) != 2 or (bias is not None and np.shape(bias) != weight.shape[1:]):
        raise DataError(
            f"linear: a weight of shape {np.shape(weight)} with a bias of shape {np.shape(bias)}; "
            f"expected (inputs, outputs) and (outputs,)"
        )
    if np.shape(x)[-1:] != weight.shape[:1]:
        given = f"an input of shape {np.shape(x)}"
        if np.ndim(x) == 0 and not hasattr(x, "shape"):
            given = f"a {type(x).__name__} as an input"
        raise DataError(
            f"linear: {given} for a weight of shape {weight.shape}; "
            f"expected (..., {weight.shape[0]}): for images x.reshape(len(x), -1) makes rows"
        )


def _rows(x: Array) -> Array:
    return x if getattr(x, "ndim", 0) == 2 else np.reshape(x, (-1, np.shape(x)[-1]))


defvjp(
    linear,
    x=lambda g, weight: np.matmul(g, weight.T),
    # One product over the rows of all leading axes, rather than a stack of products to be summed.
    weight=lambda g, x: _product_of_transpose(_rows(x), _rows(g)),
    bias=lambda g: _sum_of_rows(g),
)


def _sum_of_rows(g: Array) -> Array:
    if type(g) is np.ndarray and g.ndim == 2 and g.dtype.char in "fd":
        return np.dot(_ones(len(g), g.dtype), g)  # a third of the time of a sum
    return g  # the engine sums over the axes that b was broadcast along


def _ones(length: int, dtype: np.dtype[Any]) -> Array:
    return _few_ones(length, dtype) if length <= 1024 else np.ones(length, dtype)


@lru_cache(maxsize=16)
def _few_ones(length: int, dtype: np.dtype[Any]) -> Array:
    ones = np.ones(length, dtype)
    ones.flags.writeable = False
    return ones


def _product(x: Array, y: Array) -> Array:
    """Return x·y; for some sizes by parts, which the BLAS has quicker kernels for."""
    parts = _parts(x, y, len(y))
    if parts == 1 or x.shape[0] * y.shape[1] > 32 * y.shape[0]:
        return np.matmul(x, y)
    length = y.shape[0] // parts
    left = x.reshape(-1, parts, length).transpose(1, 0, 2)
    sums = np.matmul(left, y.reshape(parts, length, -1))
    result = np.empty(sums.shape[1:], sums.dtype)
    np.dot(_ones(parts, sums.dtype), sums.reshape(parts, -1), out=result.reshape(-1))
    return result


def _product_of_transpose(x: Array, y: Array) -> Array:
    """Return xᵀ·y; for some sizes by parts, which the BLAS has quicker kernels for."""
    parts = _parts(x, y, x.shape[-1])
    if parts == 1:
        return np.matmul(x.T, y)
    rows, columns = x.shape[1], y.shape[1]
    result = np.empty((rows, columns), x.dtype)
    left = x.reshape(len(x), parts, rows // parts).transpose(1, 2, 0)
    np.matmul(left, y, out=result.reshape(parts, rows // parts, columns))
    return result


def _parts(x: Array, y: Array, length: int) -> int:
    """Return into how many parts of an axis of this length a product is cut; 1 for leaving it whole.

    OpenBLAS takes its kernels for small matrices up to 10⁶ multiplications, in float32.
    """
    if type(x) is not np.ndarray or type(y) is not np.ndarray or x.ndim != 2 or y.ndim != 2:
        return 1
    work = x.size * y.shape[1]
    if not SMALL < work <= 8 * SMALL or x.dtype != np.float32 or y.dtype != np.float32:
        return 1
    if not (x.flags.c_contiguous and y.flags.c_contiguous and has_small_kernels()):
        return 1
    return next(
        (n for n in (4, 8) if length % n == 0 and work <= n * SMALL and length >= 96 * n), 1
    )


class Dropout(Module):
    """While training, zero a random share of the entries and scale up the rest; else do nothing.

    y = x·m / (1 − rate) with m drawn anew in every call, 0 with probability `rate`, else 1. The
    expectation of y is x, so that evaluation (`model.eval()`) needs no scaling. The tape keeps m as
    one byte an entry. Masks do not depend on the dtype of x.

    Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov (2014), Dropout: a simple way to
    prevent neural networks from overfitting.

    Args:
        rate: share of entries to drop, 0 <= rate < 1.
        rng: seed or generator.

    Attributes:
        rate: as given.
        rng: the generator. Its state is part of the state of a training run.

    Raises:
        ConfigError: a rate outside its range, or an `rng` that is neither seed nor generator.

    Example:
        >>> layer = Dropout(0.5, rng=0)
        >>> layer(np.ones(6, np.float32))
        array([2., 2., 2., 0., 0., 0.], dtype=float32)
        >>> layer.eval()(np.ones(6, np.float32))
        array([1., 1., 1., 1., 1., 1.], dtype=float32)
    """

    def __init__(self, rate: float, rng: Rng = None) -> None:
        if not 0 <= rate < 1:
            raise ConfigError(f"Dropout: rate must be in 0 <= rate < 1; got {rate!r}")
        self.rate = float(rate)
        self.rng = generator(rng)

    def __call__(self, x: Array) -> Array:
        """Return x with some entries dropped, or x itself in evaluation."""
        if not self.training or self.rate == 0:
            return x
        keep = uniform(self.rng, np.shape(x), np.float32) >= self.rate
        return _kept(x, keep, 1 / (1 - self.rate))

    def _describe(self) -> str:
        return f"Dropout({self.rate})"


@primitive
def _kept(x: Array, keep: Array, scale: float) -> Array:
    result = x * scale
    result *= keep
    return result


defvjp(_kept, x=lambda g, keep, scale: _kept(g, keep, scale))


def _parameter(
    name: str,
    shape: tuple[int, ...],
    init: Init,
    source: np.random.Generator,
    dtype: DTypeLike,
) -> Parameter:
    value = np.asarray(init(shape, source, np.dtype(dtype)), dtype)
    if value.shape != shape:
        raise ConfigError(
            f"Linear: the initialiser of {name} was asked for shape {shape} and returned "
            f"{value.shape}"
        )
    return Parameter(value, name=name)


def _size(size: int, name: str) -> int:
    try:
        whole = operator.index(size)
    except TypeError:
        whole = 0
    if whole < 1 or isinstance(size, bool):
        raise ConfigError(f"Linear: {name} must be a whole number of at least 1; got {size!r}")
    return whole
