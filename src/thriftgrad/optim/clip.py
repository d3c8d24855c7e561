"""Clipping: shorten a set of gradients whose joint length is out of proportion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import ConfigError
from thriftgrad.optim._checks import number


def clip_by_norm(
    gradients: Sequence[NDArray[Any]], max_norm: float
) -> tuple[list[NDArray[Any]], np.float64]:
    """Scale gradients so that their joint Euclidean norm is at most `max_norm`.

        norm = sqrt(sum of all squared entries);  each g becomes g * min(1, max_norm / norm)

    The direction is kept. Nothing is changed in place, shapes and types are kept, and gradients
    that are short enough come back bit for bit. The norm neither overflows nor underflows on
    entries whose squares would.

    An infinite or NaN entry makes the norm infinite or NaN and every clipped entry NaN: a bad
    gradient stays visible everywhere, where a plain division by infinity would have turned the
    good entries into silent zeros.

    Args:
        gradients: arrays of any shapes and floating-point types, at least one.
        max_norm: the greatest norm allowed, > 0.

    Returns:
        The clipped gradients, in order, and the norm before clipping.

    Raises:
        ConfigError: `max_norm` is not a positive number, or there are no gradients.

    Example:
        >>> clipped, norm = clip_by_norm([np.array([3.0]), np.array([[4.0]])], max_norm=1.0)
        >>> float(norm), [g.tolist() for g in clipped]
        (5.0, [[0.6...], [[0.8]]])

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
    ICML 2013, algorithm 1.
    """
    max_norm = number("max_norm", max_norm, 0.0, ends="()")
    if not gradients:
        raise ConfigError("clip_by_norm: the list of gradients is empty")
    norm = joint_norm(gradients)
    factor = clip_factor(norm, max_norm)
    return [scaled(gradient, factor) for gradient in gradients], norm


def joint_norm(gradients: Sequence[NDArray[Any]]) -> np.float64:
    """Euclidean norm of all entries of all gradients: the norm of their norms."""
    return _norm(np.stack([_norm(gradient) for gradient in gradients]))


def clip_factor(norm: np.float64, max_norm: float) -> NDArray[np.float64]:
    """Return what to multiply by: 1 for short gradients, NaN for a norm that is not finite."""
    return np.where(np.isfinite(norm), max_norm / np.maximum(norm, max_norm), np.nan)


def scaled(gradient: NDArray[Any], factor: NDArray[np.float64]) -> NDArray[Any]:
    """Multiply in the gradient's own type: a float64 factor would widen a float32 gradient."""
    return gradient * factor.astype(gradient.dtype)  # type: ignore[no-any-return]


def _norm(x: NDArray[Any]) -> np.float64:
    # Dividing by the largest entry first keeps every square within [0, 1].
    peak = np.max(np.abs(x), initial=0)
    scale = np.where((peak > 0) & np.isfinite(peak), peak, np.ones_like(peak))
    with np.errstate(over="ignore"):  # only beside an infinite entry, where the answer is infinite
        total = np.sum(np.square(x / scale), dtype=np.float64)
    return scale * np.sqrt(total)  # type: ignore[no-any-return]
