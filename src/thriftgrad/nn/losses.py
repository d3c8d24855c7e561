"""Losses: how far predictions are from what was wanted.

All but `nll` are means over the batch, so that gradients, and with them learning rates, do not grow
with its size.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from thriftgrad.autodiff import defvjp, primitive
from thriftgrad.autodiff.recording import require
from thriftgrad.errors import DataError
from thriftgrad.nn.activations import as_floating, largest, softmax, total

Array = Any


def mse(predictions: Array, targets: Array) -> Array:
    """Return the mean squared error, over batch and outputs.

    (1/N) Σ (pᵢ − tᵢ)², where N counts all entries.

    Args:
        predictions: of any shape.
        targets: of the same shape; nothing is broadcast.

    Raises:
        DataError: the shapes differ, or nothing is in them.

    Example:
        >>> float(mse(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]])))
        2.0
    """
    _check_pair(predictions, targets, "mse")
    return _mse(predictions, targets)


@primitive
def _mse(predictions: Array, targets: Array) -> Array:
    return _mean(np.square(predictions - targets))


def _mean(x: Array) -> Array:
    if type(x) is np.ndarray and x.dtype.char in "fd":
        return np.add.reduce(x, axis=None) / x.size  # a third of the time, of few entries
    return np.mean(x)


def _slope(g: Array, predictions: Array, targets: Array) -> Array:
    error = predictions - targets
    return error * (g * (2 / prod(_shape(error))))


defvjp(
    _mse,
    predictions=_slope,
    targets=lambda g, predictions, targets: _slope(g, targets, predictions),
)


def squared_error(predictions: Array, targets: Array) -> Array:
    """Return half the squared error, summed over outputs, mean over the batch.

    (1/2B) Σ (pᵢ − tᵢ)², where B is the length of the first axis. With the half, the gradient of one
    example is simply p − t.

    Args:
        predictions: (batch, ...).
        targets: of the same shape; nothing is broadcast.

    Raises:
        DataError: the shapes differ, there is no batch axis, or nothing is in it.

    Example:
        >>> float(squared_error(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]])))
        2.0
    """
    _check_pair(predictions, targets, "squared_error")
    shape = _shape(predictions)
    if not shape:
        raise DataError("squared_error: the predictions are a single number; expected (batch, ...)")
    return np.sum(np.square(predictions - targets)) * (0.5 / shape[0])


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the mean cross-entropy of labels under softmax(logits).

    The mean over the batch of `nll`, as one recorded call that keeps the logits and the labels.

    Args:
        logits: (batch, classes), any real numbers.
        labels: integers (batch,), each a class; or rows (batch, classes), one-hot or any
            non-negative numbers that sum to 1.

    Raises:
        DataError: labels that do not fit the logits.

    Example:
        >>> logits = np.log(np.array([[0.25, 0.75], [0.25, 0.75]]))
        >>> float(cross_entropy(logits, np.array([0, 1])).round(4))
        0.837
        >>> float(cross_entropy(logits, np.array([[1, 0], [0, 1]])).round(4))
        0.837
    """
    logits, labels = _checked(logits, labels, "cross_entropy")
    if labels.size == 0:
        raise DataError("cross_entropy: the batch is empty, and a mean of nothing has no value")
    return _cross_entropy(logits, labels)


def nll(logits: Array, labels: Array) -> Array:
    """Return the negative log-likelihood of each example: log Σⱼ exp(zⱼ) − z_label.

    For rows of probabilities t it is Σᵢ tᵢ·(log Σⱼ exp(zⱼ) − zᵢ).

    Args:
        logits: (batch, classes), any real numbers. More axes before the last are welcome.
        labels: integers (batch,), each a class; or rows (batch, classes), one-hot or any
            non-negative numbers that sum to 1.

    Returns:
        (batch,).

    Raises:
        DataError: labels that do not fit the logits.

    Example:
        >>> nll(np.array([[3.0, 3.0], [0.0, 10_000.0]]), np.array([1, 0])).tolist()
        [0.6931471805599453, 10000.0]
    """
    logits, labels = _checked(logits, labels, "nll")
    return _nll(logits, labels)


@primitive
def _nll(logits: Array, labels: Array) -> Array:
    shifted = logits - largest(logits)
    if _are_rows(labels, logits):
        wanted = np.sum(shifted * labels, axis=-1)
        mass = np.sum(labels, axis=-1)
    else:
        wanted = shifted[_at(labels)]
        mass = 1
    np.exp(shifted, out=shifted)
    return np.log(np.squeeze(total(shifted), -1)) * mass - wanted


@primitive
def _cross_entropy(logits: Array, labels: Array) -> Array:
    return _mean(_nll(logits, labels))


@primitive
def _surplus(logits: Array, labels: Array) -> Array:
    """Return softmax(logits) minus the labels as rows, without making these: what `_nll` pulls."""
    result = softmax(logits)
    if _are_rows(labels, logits):
        result *= np.sum(labels, axis=-1, keepdims=True)
        result -= labels
    else:
        result[_at(labels)] -= 1
    return result


defvjp(
    _nll,
    logits=lambda g, logits, labels: _surplus(logits, labels) * np.expand_dims(g, -1),
)
defvjp(
    _cross_entropy,
    logits=lambda g, logits, labels: _surplus(logits, labels) * (g / prod(logits.shape[:-1])),
)
defvjp(
    _surplus,
    logits=lambda g, logits, labels: _softmax_pull(g * _mass(labels, logits), softmax(logits)),
)


def _softmax_pull(g: Array, probabilities: Array) -> Array:
    return probabilities * (g - np.sum(g * probabilities, axis=-1, keepdims=True))


def _mass(labels: Array, logits: Array) -> Array:
    return np.sum(labels, axis=-1, keepdims=True) if _are_rows(labels, logits) else 1


def _are_rows(labels: Array, logits: Array) -> bool:
    return bool(labels.ndim == logits.ndim)


def _at(labels: Array) -> tuple[Array, ...]:
    """Return the index that picks from each row of logits the entry that its label names."""
    return (*_places(labels.shape), labels)


@lru_cache(maxsize=16)
def _places(shape: tuple[int, ...]) -> tuple[Array, ...]:
    return np.indices(shape, sparse=True)


def _checked(logits: Array, labels: Array, name: str) -> tuple[Array, Array]:
    """Return both as arrays, labels either as integers or as rows in the dtype of the logits."""
    logits = as_floating(logits)
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise DataError(f"{name}: the logits have shape {logits.shape}; expected (batch, classes)")
    if labels.shape == logits.shape:
        return logits, _checked_rows(labels, name).astype(logits.dtype, copy=False)
    batch, classes = logits.shape[:-1], logits.shape[-1]
    if labels.shape != batch:
        raise DataError(
            f"{name}: labels of shape {labels.shape} do not fit logits of shape {logits.shape}; "
            f"expected integers of shape {batch} or rows of shape {logits.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{name}: labels of shape {labels.shape} have dtype {labels.dtype}; a label is an "
            f"integer: labels.astype(int) if that is what these mean"
        )
    if labels.size:
        inside = np.logical_and(np.min(labels) >= 0, np.max(labels) < classes)
        require(inside, _labels_outside, labels, logits.shape, name)
    return logits, labels


def _labels_outside(labels: Array, shape: tuple[int, ...], name: str) -> DataError:
    """Return what is said of labels that are no class."""
    classes = shape[-1]
    outside = labels[(labels < 0) | (labels >= classes)]
    return DataError(
        f"{name}: {outside.size} of {labels.size} labels lie outside 0..{classes - 1}, the "
        f"first is {outside.flat[0]}; logits of shape {shape} are for {classes} classes"
    )


def _checked_rows(labels: Array, name: str) -> Array:
    sums = np.sum(labels, axis=-1, dtype=np.float64)
    fine = np.logical_and(np.all(labels >= 0), np.all(np.abs(sums - 1) < 1e-3))
    require(fine, _not_probabilities, labels, sums, name)
    return labels


def _not_probabilities(labels: Array, sums: Array, name: str) -> DataError:
    """Return what is said of rows that are no probabilities."""
    return DataError(
        f"{name}: labels of the shape of the logits, {labels.shape}, are read as one row of "
        f"probabilities per example: non-negative numbers that sum to 1. These go down to "
        f"{labels.min():.4g} and the sums from {sums.min():.4g} to {sums.max():.4g}"
    )


def _check_pair(predictions: Array, targets: Array, name: str) -> None:
    given, wanted = _shape(predictions), _shape(targets)
    if given != wanted:
        raise DataError(
            f"{name}: predictions of shape {given} and targets of shape {wanted} differ, and "
            f"broadcasting them would compare every prediction with several targets; reshape one, "
            f"such as targets.reshape({given})"
            if prod(given) == prod(wanted)
            else f"{name}: predictions of shape {given} and targets of shape {wanted} differ; "
            f"expected one target for every prediction"
        )
    if prod(given) == 0:
        raise DataError(f"{name}: predictions of shape {given} are empty; their mean has no value")


def _shape(x: Array) -> tuple[int, ...]:
    shape: tuple[int, ...] = x.shape if hasattr(x, "shape") else np.shape(x)
    return shape
