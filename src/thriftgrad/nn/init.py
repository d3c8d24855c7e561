"""Initial values of parameters: functions of a shape, a source of random numbers, and a dtype.

A weight has the shape (in, out), so that its fan-in is the length of its first axis; a shape (in,)
is a weight with a single output. Numbers are drawn in float64 whatever the dtype: one seed gives
the same model in every precision, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from thriftgrad.errors import ConfigError

Rng = int | np.random.Generator | None
"""A seed, a generator, or None for numbers that differ from run to run."""

Init = Callable[[tuple[int, ...], np.random.Generator, np.dtype[Any]], NDArray[Any]]
"""What layers call for the initial values of a parameter."""


def zeros(shape: tuple[int, ...], rng: Rng = None, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return zeros; `rng` is there so that every initialiser is called alike.

    Raises:
        ConfigError: a dtype that is not floating-point.

    Example:
        >>> zeros((3,))
        array([0., 0., 0.], dtype=float32)
    """
    return np.zeros(shape, _floating(dtype))


def standard_normal(
    shape: tuple[int, ...], rng: Rng = None, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """Draw from N(0, 1), whatever the shape.

    Raises:
        ConfigError: a dtype that is not floating-point, or `rng` is neither seed nor generator.

    Example:
        >>> standard_normal((2,), rng=0).round(3)
        array([ 0.126, -0.132], dtype=float32)
    """
    return generator(rng).standard_normal(shape).astype(_floating(dtype))


def normal(shape: tuple[int, ...], rng: Rng = None, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Draw from N(0, 1/fan_in), which keeps the variance of what passes through a linear layer.

    LeCun, Bottou, Orr, Müller (1998), Efficient BackProp, section 4.6.

    Raises:
        ConfigError: a shape that is not that of a weight, a dtype that is not floating-point, or
            `rng` is neither seed nor generator.

    Example:
        >>> round(float(normal((400, 1000), rng=0).std()), 3)
        0.05
    """
    fan_in, _ = _fans(shape, "normal")
    return _scaled(generator(rng).standard_normal(shape), sqrt(1 / fan_in), dtype)


def glorot_uniform(
    shape: tuple[int, ...], rng: Rng = None, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """Draw from U(−a, a) with a = √(6 / (fan_in + fan_out)), for layers before tanh and sigmoid.

    The variance, 2 / (fan_in + fan_out), is a compromise between keeping that of the activations
    and that of the gradients. Glorot, Bengio (2010), Understanding the difficulty of training deep
    feedforward neural networks, equation 16.

    Raises:
        ConfigError: a shape that is not that of a weight, a dtype that is not floating-point, or
            `rng` is neither seed nor generator.

    Example:
        >>> round(float(glorot_uniform((400, 200), rng=0).max()), 3)
        0.1
    """
    fan_in, fan_out = _fans(shape, "glorot_uniform")
    return _scaled(generator(rng).uniform(-1, 1, shape), sqrt(6 / (fan_in + fan_out)), dtype)


def kaiming_normal(
    shape: tuple[int, ...], rng: Rng = None, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """Draw from N(0, 2/fan_in), for layers before ReLU, which halves the second moment.

    He, Zhang, Ren, Sun (2015), Delving deep into rectifiers, equation 10.

    Raises:
        ConfigError: a shape that is not that of a weight, a dtype that is not floating-point, or
            `rng` is neither seed nor generator.

    Example:
        >>> round(float(kaiming_normal((200, 1000), rng=0).std()), 3)
        0.1
    """
    fan_in, _ = _fans(shape, "kaiming_normal")
    return _scaled(generator(rng).standard_normal(shape), sqrt(2 / fan_in), dtype)


def generator(rng: Rng) -> np.random.Generator:
    """Return the generator that `rng` is or is the seed of; one of its own kind for None.

    Raises:
        ConfigError: it is neither a seed nor a generator.
    """
    try:
        if isinstance(rng, bool):
            raise TypeError
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise ConfigError(
            f"rng must be a seed of at least 0 or a numpy.random.Generator; got {rng!r}"
        ) from None


def _fans(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    if len(shape) not in (1, 2) or 0 in shape:
        raise ConfigError(
            f"init.{name} takes the shape of a weight, (in, out) or (in,), and was given {shape}; "
            f"init.zeros and init.standard_normal take any shape"
        )
    return shape[0], shape[1] if len(shape) == 2 else 1


def _scaled(draws: NDArray[Any], scale: float, dtype: DTypeLike) -> NDArray[Any]:
    draws *= scale
    return draws.astype(_floating(dtype), copy=False)


def _floating(dtype: DTypeLike) -> np.dtype[Any]:
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise ConfigError(f"a parameter's dtype must be floating-point; got {dtype}")
    return dtype
