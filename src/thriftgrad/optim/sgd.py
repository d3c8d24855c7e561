"""Stochastic gradient descent, with momentum."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import ConfigError
from thriftgrad.optim._checks import ParameterLike, number
from thriftgrad.optim.base import Optimizer
from thriftgrad.optim.schedules import Rate


class SGD(Optimizer):
    """Step against the gradient, or against a decaying sum of past gradients.

        g = gradient + weight_decay * p
        v = momentum * v + g                       (v starts at 0)
        p = p - lr * v                             (Nesterov: p - lr * (g + momentum * v))

    The learning rate multiplies the velocity as a whole and momentum is not dampened, as in
    PyTorch. State: one array like the parameter, `"momentum"`, and none at all without momentum.

    Args:
        parameters: what to train.
        lr: learning rate, >= 0, or a schedule of it (see `thriftgrad.optim.schedules`).
        momentum: the part of the velocity that survives a step, in [0, 1).
        nesterov: look one step of momentum ahead; needs momentum.
        weight_decay: pull towards zero, added to the gradient, >= 0.
        clip_norm: shorten the gradients to this joint norm first; None for no clipping.

    Raises:
        ConfigError: a value outside its range, or Nesterov without momentum.

    Example:
        >>> from thriftgrad.autodiff import Parameter
        >>> w = Parameter(np.array([1.0, -2.0]), name="w")
        >>> optimizer = SGD([w], lr=0.1, momentum=0.5)
        >>> for _ in range(2):
        ...     w.grad = np.array([1.0, 0.0])
        ...     optimizer.step()
        >>> w.value.round(6).tolist()
        [0.75, -2.0]

    Sources: momentum is Polyak, "Some methods of speeding up the convergence of iteration
    methods", 1964; Nesterov, "A method for solving the convex programming problem with convergence
    rate O(1/k²)", 1983; both in this form, Sutskever, Martens, Dahl and Hinton, "On the importance
    of initialization and momentum in deep learning", ICML 2013.
    """

    hyperparameters = ("momentum", "nesterov", "weight_decay")
    elementwise = True

    def __init__(
        self,
        parameters: Iterable[ParameterLike],
        lr: Rate,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        self.momentum = number("momentum", momentum, 0.0, 1.0)
        self.nesterov = bool(nesterov)
        self.weight_decay = number("weight_decay", weight_decay, 0.0)
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov=True with momentum = 0: expected a momentum in (0, 1)")
        super().__init__(parameters, lr, clip_norm=clip_norm)

    def init(self, value: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the velocity at rest, or nothing without momentum."""
        return {"momentum": np.zeros_like(value)} if self.momentum else {}

    def update(
        self,
        value: NDArray[Any],
        gradient: NDArray[Any],
        state: Mapping[str, NDArray[Any]],
        lr: float,
        step: int,
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Return the parameter and velocity after one step; see the class for the formula."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * value
        if not self.momentum:
            return value - lr * gradient, {}
        velocity = self.momentum * state["momentum"] + gradient
        direction = gradient + self.momentum * velocity if self.nesterov else velocity
        return value - lr * direction, {"momentum": velocity}

    def update_in_place(
        self,
        value: NDArray[Any],
        gradient: NDArray[Any],
        state: Mapping[str, NDArray[Any]],
        lr: float,
        step: int,
    ) -> None:
        """Do what `update` says in the arrays that it is given."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * value
        direction = gradient
        if self.momentum:
            velocity = state["momentum"]
            velocity *= self.momentum
            velocity += gradient
            direction = gradient + self.momentum * velocity if self.nesterov else velocity
        value -= lr * direction
