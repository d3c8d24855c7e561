"""Adam and AdamW: steps scaled by running averages of the gradient and of its square."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import ConfigError
from thriftgrad.optim._checks import ParameterLike, label, number
from thriftgrad.optim.base import Optimizer
from thriftgrad.optim.schedules import Rate


class Adam(Optimizer):
    """Step by the gradient's running mean over the root of its running square.

        g = gradient + weight_decay * p
        m = β1 m + (1 - β1) g                      (m and v start at 0)
        v = β2 v + (1 - β2) g²
        p = p - lr / (1 - β1ᵗ) * m / (sqrt(v) / sqrt(1 - β2ᵗ) + eps)

    t counts the updates of this parameter, from 1: one that had no gradient for a while (a frozen
    layer) is corrected for the averages it really has. `eps` stands outside the corrected root, as
    in PyTorch. State: two arrays like the parameter, `"mean"` and `"square"`.

    Args:
        parameters: what to train.
        lr: learning rate, >= 0, or a schedule of it (see `thriftgrad.optim.schedules`).
        betas: β1 and β2, how much of each average survives a step, in [0, 1).
        eps: keeps the division finite, > 0.
        weight_decay: pull towards zero, added to the gradient, >= 0.
        clip_norm: shorten the gradients to this joint norm first; None for no clipping.

    Raises:
        ConfigError: a value outside its range, or an `eps` that is zero in a parameter's type.

    Example:
        >>> from thriftgrad.autodiff import Parameter
        >>> w = Parameter(np.array([1.0, -2.0]), name="w")
        >>> optimizer = Adam([w], lr=0.1)
        >>> w.grad = np.array([100.0, -0.01])
        >>> optimizer.step()
        >>> w.value.round(4).tolist()
        [0.9, -1.9]

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.
    """

    hyperparameters = ("betas", "eps", "weight_decay")
    elementwise = True

    def __init__(
        self,
        parameters: Iterable[ParameterLike],
        lr: Rate = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ConfigError(f"betas = {betas!r}: expected two numbers in [0, 1)")
        self.betas = (
            number("betas[0]", betas[0], 0.0, 1.0),
            number("betas[1]", betas[1], 0.0, 1.0),
        )
        self.eps = number("eps", eps, 0.0, ends="()")
        self.weight_decay = number("weight_decay", weight_decay, 0.0)
        super().__init__(parameters, lr, clip_norm=clip_norm)
        for position, parameter in enumerate(self.parameters):
            dtype = parameter.value.dtype
            smallest = (1 - self.betas[1]) ** 0.5  # what eps is multiplied by in the first step
            if dtype.type(self.eps * smallest) == 0:
                least = float(np.finfo(dtype).smallest_subnormal) / smallest
                raise ConfigError(
                    f"eps = {self.eps} is zero in the {dtype} of {label(parameter, position)} where "
                    f"it is multiplied by sqrt(1 - β2), and a zero gradient would divide by it; "
                    f"expected {least:.3g} or more"
                )

    def init(self, value: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the two averages of no gradients."""
        return {"mean": np.zeros_like(value), "square": np.zeros_like(value)}

    def update(
        self,
        value: NDArray[Any],
        gradient: NDArray[Any],
        state: Mapping[str, NDArray[Any]],
        lr: float,
        step: int,
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Return the parameter and averages after one step; see the class for the formula."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * value
        return self._move(value, gradient, state, lr, step)

    def _move(
        self,
        value: NDArray[Any],
        gradient: NDArray[Any],
        state: Mapping[str, NDArray[Any]],
        lr: float,
        step: int,
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        beta1, beta2 = self.betas
        mean = beta1 * state["mean"] + (1 - beta1) * gradient
        square = beta2 * state["square"] + (1 - beta2) * np.square(gradient)
        rate, eps = self._corrected(lr, step)
        return value - rate * (mean / (np.sqrt(square) + eps)), {"mean": mean, "square": square}

    def _corrected(self, lr: float, step: int) -> tuple[float, float]:
        """Return the factor and the ε of a step that divides once: lr' m / (sqrt(v) + ε')."""
        beta1, beta2 = self.betas
        root = (1 - beta2 ** (step + 1)) ** 0.5
        return lr / (1 - beta1 ** (step + 1)) * root, self.eps * root

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
        self._move_in_place(value, gradient, state, lr, step)

    def _move_in_place(
        self,
        value: NDArray[Any],
        gradient: NDArray[Any],
        state: Mapping[str, NDArray[Any]],
        lr: float,
        step: int,
        kept: float = 1.0,
    ) -> None:
        beta1, beta2 = self.betas
        mean, square = state["mean"], state["square"]
        part = np.multiply(gradient, 1 - beta1, out=np.empty_like(gradient))
        mean *= beta1
        mean += part
        np.square(gradient, out=part)
        part *= 1 - beta2
        square *= beta2
        square += part
        rate, eps = self._corrected(lr, step)
        np.sqrt(square, out=part)
        part += eps
        np.divide(mean, part, out=part)
        part *= rate
        if kept != 1:
            value *= kept
        value -= part


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter itself and stays out of the averages.

        p = p * (1 - lr * weight_decay), then the step of Adam on the plain gradient

    Arguments, state and errors are those of `Adam`; `weight_decay` is 0.01 unless told, as in
    PyTorch.

    Example:
        >>> from thriftgrad.autodiff import Parameter
        >>> w = Parameter(np.array([1.0, 1.0]), name="w")
        >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.5)
        >>> w.grad = np.array([0.0, 3.0])
        >>> optimizer.step()
        >>> w.value.round(4).tolist()
        [0.95, 0.85]

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2.
    """

    def __init__(
        self,
        parameters: Iterable[ParameterLike],
        lr: Rate = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(
            parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay, clip_norm=clip_norm
        )

    def update(
        self,
        value: NDArray[Any],
        gradient: NDArray[Any],
        state: Mapping[str, NDArray[Any]],
        lr: float,
        step: int,
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Return the parameter and averages after one step; see the class for the formula."""
        if self.weight_decay:
            value = value * (1 - lr * self.weight_decay)
        return self._move(value, gradient, state, lr, step)

    def update_in_place(
        self,
        value: NDArray[Any],
        gradient: NDArray[Any],
        state: Mapping[str, NDArray[Any]],
        lr: float,
        step: int,
    ) -> None:
        """Do what `update` says in the arrays that it is given."""
        self._move_in_place(value, gradient, state, lr, step, 1 - lr * self.weight_decay)
