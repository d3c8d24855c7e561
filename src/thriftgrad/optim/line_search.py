"""Full-batch gradient descent that finds the length of each step by trying."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from thriftgrad.autodiff import no_grad
from thriftgrad.errors import ConfigError, LineSearchError
from thriftgrad.optim._checks import (
    ParameterLike,
    check_gradient,
    check_writable,
    count,
    label,
    number,
    parameter_list,
)
from thriftgrad.optim.clip import joint_norm
from thriftgrad.optim.full_batch import FullBatch

LossAndGradients = Callable[[], tuple[Any, Sequence[NDArray[Any] | None] | None]]


class SearchStep(NamedTuple):
    """What one step of a line search came to.

    Attributes:
        loss: at the parameters as they now are.
        step: the length t that was accepted; 0 where the gradient is zero.
        trials: how many lengths were tried.
        gradient_norm: joint Euclidean norm of the gradients at the start of the step.
    """

    loss: float
    step: float
    trials: int
    gradient_norm: float


class LineSearch:
    """Gradient descent with Armijo backtracking: no learning rate, and the loss never rises.

        t = start, start * reduction, start * reduction², ...
        until  loss(p - t g) <= loss(p) - decrease * t * ‖g‖²

    For a loss that is a function of the parameters alone: the full batch, and no random dropout.
    A trial costs one forward pass, which records nothing. A step keeps one copy of the parameters.

    Args:
        parameters: what to train; any iterable. One that appears twice is kept once.
        start: the first length tried in every step, > 0.
        reduction: what a length that fails is multiplied by, in (0, 1).
        decrease: the part of the decrease promised by the slope that is enough, in (0, 1).
        trials: how many lengths to try before giving up.

    Raises:
        ConfigError: something that is not a parameter, or a value outside its range.

    Example:
        >>> from thriftgrad.autodiff import Parameter
        >>> w = Parameter(np.array([4.0, -2.0]), name="w")
        >>> def loss():
        ...     return np.sum(w**2)
        >>> def loss_and_gradients():
        ...     value = loss()
        ...     value.backward()
        ...     return value, None
        >>> search = LineSearch([w])
        >>> search.step(loss_and_gradients, loss)
        SearchStep(loss=0.0, step=0.5, trials=2, gradient_norm=8.94...)
        >>> w.value.tolist()
        [0.0, 0.0]

    Sources: Armijo, "Minimization of functions having Lipschitz continuous first partial
    derivatives", 1966; Nocedal and Wright, "Numerical Optimization", 2nd edition, 2006,
    algorithm 3.1.
    """

    def __init__(
        self,
        parameters: Iterable[ParameterLike],
        *,
        start: float = 1.0,
        reduction: float = 0.5,
        decrease: float = 1e-4,
        trials: int = 50,
    ) -> None:
        self.parameters = parameter_list(parameters, type(self).__name__)
        self.start = number("start", start, 0.0, ends="()")
        self.reduction = number("reduction", reduction, 0.0, 1.0, "()")
        self.decrease = number("decrease", decrease, 0.0, 1.0, "()")
        self.trials = count("trials", trials)

    @overload
    def step(self, loss_and_gradients: FullBatch) -> SearchStep: ...
    @overload
    def step(self, loss_and_gradients: LossAndGradients, loss: Callable[[], Any]) -> SearchStep: ...
    def step(
        self,
        loss_and_gradients: FullBatch | LossAndGradients,
        loss: Callable[[], Any] | None = None,
    ) -> SearchStep:
        """Take one step downhill, in place.

        A trial whose loss is NaN or infinite counts as too long, and NumPy's floating-point
        warnings are silent while one is made: overshooting is what trials are for.

        Args:
            loss_and_gradients: called once. Returns the loss and the gradients, in the order of
                `self.parameters`; or the loss and None, if it has left the gradients on `.grad`,
                which is cleared for it beforehand. A parameter whose gradient is None stays put.
                The arrays must stay as they are until the step is over. Or a `FullBatch`, which
                is both functions, and much the faster where the data is large.
            loss: called for each trial, under `no_grad`. Returns the loss at the parameters'
                present values. Left out with a `FullBatch`.

        Returns:
            The new loss, the length, the trials and the gradient's norm. Afterwards `.grad` holds
            the gradients of the start of this step, however they were given.

        Raises:
            LineSearchError: no length was enough, or the loss or a gradient is not finite at the
                start. The parameters are then what they were, bit for bit, as they are if `loss`
                raises.
            ConfigError: a loss that is not one number, gradients that do not match, or one function
                without the other.
        """
        batch = loss_and_gradients if isinstance(loss_and_gradients, FullBatch) else None
        if (loss is None) == (batch is None):
            raise ConfigError(
                "LineSearch.step takes the functions loss_and_gradients and loss, or a FullBatch alone; "
                f"got a {type(loss_and_gradients).__name__} and {loss!r}"
            )
        both = loss_and_gradients if batch is None else batch.loss_and_gradients
        for position, parameter in enumerate(self.parameters):
            check_writable(parameter, position)
            parameter.grad = None
        before, gradients = self._evaluate(both)  # type: ignore[arg-type]
        norm = self._checked_norm(before, gradients)
        if norm == 0:
            return SearchStep(before, 0.0, 0, 0.0)

        moving = [
            (parameter, parameter.value.copy(), gradient)
            for parameter, gradient in zip(self.parameters, gradients, strict=True)
            if gradient is not None
        ]
        accepted = False
        length, after = self.start, before
        if batch is not None:
            batch.toward(self.parameters)
        try:
            for trial in range(1, self.trials + 1):
                length = self.start * self.reduction ** (trial - 1)
                with no_grad(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                    for parameter, origin, gradient in moving:
                        np.multiply(gradient, -length, out=parameter.value)
                        np.add(origin, parameter.value, out=parameter.value)
                        parameter.touch()
                    after = _scalar(loss() if batch is None else batch.after(length))  # type: ignore
                enough = before - self.decrease * length * norm * norm
                accepted = math.isfinite(after) and after <= enough
                if accepted:
                    return SearchStep(after, length, trial, norm)
        finally:
            if not accepted:
                for parameter, origin, _ in moving:
                    parameter.value[...] = origin
        raise LineSearchError(
            f"no step was short enough in {self.trials} trials, from {self.start:g} down to "
            f"{length:g}: the loss is {before!r} at the start and {after!r} at the last trial. "
            "Check that the loss is the same function in every call (no dropout, no new batch) and "
            "that the gradients are its own; raise trials or lower start if steps must be shorter "
            "still; if the loss has stopped falling to rounding error, stop here"
        )

    def _evaluate(
        self, loss_and_gradients: Callable[[], Any]
    ) -> tuple[float, list[NDArray[Any] | None]]:
        returned = loss_and_gradients()
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ConfigError(
                f"loss_and_gradients() returned a {type(returned).__name__}; expected the pair "
                "(loss, gradients), or (loss, None) with the gradients on .grad"
            )
        loss, given = returned
        if given is None:
            given = [parameter.grad for parameter in self.parameters]
            if all(gradient is None for gradient in given):
                raise ConfigError(
                    "loss_and_gradients() returned None for gradients and left none on .grad; "
                    "call backward() on the loss in it, or return the gradients; give a FullBatch the "
                    "model whose parameters are searched"
                )
        elif not isinstance(given, list | tuple) or len(given) != len(self.parameters):
            size = f" of {len(given)}" if hasattr(given, "__len__") else ""
            raise ConfigError(
                f"loss_and_gradients() returned gradients as a {type(given).__name__}{size}; "
                f"expected a list of {len(self.parameters)}, one for each parameter"
            )
        gradients = list(given)
        for position, parameter in enumerate(self.parameters):
            gradient = gradients[position]
            if gradient is not None:
                check_gradient(parameter, position, gradient)
                # The gradient of ½‖p‖² is p itself, and a trial would overwrite it.
                if np.may_share_memory(gradient, parameter.value):
                    gradients[position] = gradient.copy()
            parameter.grad = gradients[position]
        return _scalar(loss), gradients

    def _checked_norm(self, loss: float, gradients: list[NDArray[Any] | None]) -> float:
        if not math.isfinite(loss):
            raise LineSearchError(
                f"the loss is {loss!r} at the start, so no step can be seen to lower it; "
                "check the data and the starting values for NaN and infinity"
            )
        for position, gradient in enumerate(gradients):
            if gradient is not None and not np.all(np.isfinite(gradient)):
                raise LineSearchError(
                    f"the gradient of {label(self.parameters[position], position)} has NaN or "
                    "infinite entries; check where the loss is not differentiable"
                )
        present = [gradient for gradient in gradients if gradient is not None]
        return float(joint_norm(present)) if present else 0.0


def _scalar(loss: Any) -> float:
    number = loss.item() if getattr(loss, "size", 1) == 1 and hasattr(loss, "item") else loss
    if not isinstance(number, int | float):
        raise ConfigError(f"the loss is {loss!r}; expected one real number")
    return float(number)
