"""A model's outputs, loss and accuracy on data, one batch in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thriftgrad.autodiff import Tensor, no_grad
from thriftgrad.data import batches
from thriftgrad.errors import ConfigError
from thriftgrad.nn import Module

Array = NDArray[Any]


class Scores(NamedTuple):
    """What `evaluate` has found.

    Attributes:
        loss: mean over the examples.
        accuracy: part of the examples classified right, from 0 to 1, or NaN.
    """

    loss: float
    accuracy: float


def evaluate(
    model: Module,
    data: tuple[Any, Any],
    *,
    loss: Callable[[Any, Any], Any],
    batch_size: int = 128,
) -> Scores:
    """Return a model's loss and accuracy on examples (x, y).

        loss = (sum over batches of size * loss(model(x), y)) / n

    which is the loss of all examples at once where `loss` is a mean over the examples of a batch.
    An accuracy there is where outputs are scores of shape (n, classes) and y has integer labels or
    one-hot rows; elsewhere it is NaN. The model is in evaluation mode meanwhile, and nothing is
    recorded.

    Args:
        model: what to evaluate.
        data: x and y of one length, of any kind that `fit` takes.
        loss: takes the model's output and y of a batch; returns a scalar.
        batch_size: how many examples to have in memory at once.

    Raises:
        DataError: x and y are empty, differ in length, or hold something other than numbers.
        ConfigError: `loss` does not return a scalar.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> model = tg.nn.Sequential(tg.nn.Linear(2, 3, rng=0))
        >>> x, y = np.ones((4, 2), np.float32), np.zeros(4, int)
        >>> 0 <= tg.train.evaluate(model, (x, y), loss=tg.nn.cross_entropy).accuracy <= 1
        True
    """
    forward: Any = model
    total = right = 0.0
    n = 0
    with model.evaluating(), no_grad():
        for x, y in batches(*data, size=batch_size):
            outputs = forward(x)
            total += len(x) * scalar(loss(outputs, y))
            right += count_right(outputs, y)
            n += len(x)
    return Scores(total / n, right / n)


def predict(model: Module, x: Any, batch_size: int = 128) -> Array:
    """Return a model's outputs for all rows of x as one plain array.

    The model is in evaluation mode meanwhile, and nothing is recorded.

    Args:
        model: what to evaluate.
        x: inputs, one row an example, of any kind that `fit` takes.
        batch_size: how many examples to have in memory at once.

    Raises:
        DataError: x is empty, or holds something other than numbers.

    Example:
        >>> import numpy as np, thriftgrad as tg
        >>> model = tg.nn.Sequential(tg.nn.Linear(2, 3, rng=0))
        >>> tg.train.predict(model, np.ones((5, 2), np.float32)).shape
        (5, 3)
    """
    forward: Any = model
    with model.evaluating(), no_grad():
        return np.concatenate([_plain(forward(part)) for part in batches(x, size=batch_size)])


def scalar(loss: Any) -> float:
    """Return a loss as a Python number.

    Raises:
        ConfigError: it is not a real scalar.
    """
    check_scalar(loss)
    return float(loss.item())


def check_scalar(loss: Any) -> None:
    """Refuse a loss that is not a real scalar.

    Raises:
        ConfigError: it is something else.
    """
    if np.shape(loss) != () or not hasattr(loss, "dtype") or loss.dtype.kind != "f":
        kind = type(loss).__name__
        shape = f" of shape {np.shape(loss)}" if hasattr(loss, "shape") else ""
        raise ConfigError(
            f"loss(outputs, y) returned a {kind}{shape}; expected a real scalar, such as "
            f"np.mean(...) of what it has for each example"
        )


def count_right(outputs: Any, y: Array) -> float:
    """Return how many rows of scores are highest at their label; NaN where that means nothing."""
    right = hits(outputs, y, y.ndim == 2 and rows_are_one_hot(y))
    return right if isinstance(right, float) else float(np.count_nonzero(right))


def hits(outputs: Any, y: Array, one_hot: bool) -> Any:
    """Return for each row of scores whether it is highest at its label; NaN where that means nothing."""
    scores = _plain(outputs)
    if getattr(scores, "ndim", None) != 2 or scores.shape[1] < 2:  # or several outputs
        return math.nan
    if y.ndim == 1 and y.dtype.kind in "iu":
        labels = y
    elif one_hot and y.shape == scores.shape:
        labels = np.argmax(y, axis=1)
    else:
        return math.nan
    return np.argmax(scores, axis=1) == labels


def rows_are_one_hot(y: Array) -> bool:
    """Say whether each row has one 1, and else 0."""
    return bool(np.all((y == 0) | (y == 1)) and np.all(np.sum(y, axis=1) == 1))


def _plain(outputs: Any) -> Array:
    array: Array = outputs.value if isinstance(outputs, Tensor) else outputs
    return array
