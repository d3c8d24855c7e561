"""One training step: from a batch to updated weights, plainly or by a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.autodiff import Tensor
from thriftgrad.errors import ConfigError, NonFiniteError
from thriftgrad.nn import Module
from thriftgrad.optim import Optimizer
from thriftgrad.train._diagnosis import finite, where
from thriftgrad.train.evaluate import count_right, scalar

if TYPE_CHECKING:
    from thriftgrad.memory import Plan

Array = NDArray[Any]
Loss = Callable[[Any, Any], Any]
Step = Callable[[Array, Array], tuple[float, float]]
"""One update of the weights from a batch (x, y); returns its mean loss and how many were right."""


def make_step(model: Module, loss: Loss, optimizer: Optimizer, plan: Plan | None = None) -> Step:
    """Return the function that makes one update of the weights from a batch (x, y)."""
    return (
        _plain(model, loss, optimizer) if plan is None else _planned(model, loss, optimizer, plan)
    )


def _plain(model: Module, loss: Loss, optimizer: Optimizer) -> Step:
    parameters = model.named_parameters()
    forward: Any = model

    def step(x: Array, y: Array) -> tuple[float, float]:
        # The checks below say more than NumPy's warnings would.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            outputs = forward(x)
            objective, value = _objective(loss, model, x, y, outputs)
            objective.backward()
            _check_gradients(parameters, value)
        optimizer.step()
        _let_go(parameters)
        return value, count_right(outputs, y)

    return step


def _planned(model: Module, loss: Loss, optimizer: Optimizer, plan: Plan) -> Step:
    from thriftgrad.memory.chain import stages_of
    from thriftgrad.memory.execute import executor

    parameters = model.named_parameters()
    names = {id(parameter): name for name, parameter in parameters}
    trained = {id(parameter) for parameter in optimizer.parameters}
    during = plan.chain.update == "during backward"
    value = right = math.nan

    def apply(parameter: Any) -> None:
        if id(parameter) in trained:
            _check_gradients([(names[id(parameter)], parameter)], value)
            optimizer.apply(parameter)

    run = executor(plan.schedule, stages_of(model), apply=apply if during else None)

    def step(x: Array, y: Array) -> tuple[float, float]:
        def objective(outputs: Any) -> Tensor:
            nonlocal value, right
            result, value = _objective(loss, model, x, y, outputs)
            right = count_right(outputs, y)
            return result

        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            try:
                run(x, objective)
                if during:
                    optimizer.end_step()
                else:
                    _check_gradients(parameters, value)
                    optimizer.step()
            except BaseException:
                with suppress(ConfigError):  # what was updated, if anything, was a step
                    optimizer.end_step()
                raise
            finally:
                _let_go(parameters)
        return value, right

    return step


def _objective(loss: Loss, model: Module, x: Array, y: Array, outputs: Any) -> tuple[Tensor, float]:
    """Return the loss as a tensor and as a number.

    Raises:
        ConfigError: it is not a scalar that records.
        NonFiniteError: it is NaN or infinite; the message says where that began.
    """
    objective = loss(outputs, y)
    value = scalar(objective)
    if not isinstance(objective, Tensor):
        raise ConfigError(
            f"loss(outputs, y) returned a {type(objective).__name__}, which records nothing; expected "
            f"a thriftgrad.Tensor: compute it from the model's output by NumPy's functions, without "
            f".value or .item()"
        )
    if not math.isfinite(value):
        raise NonFiniteError(f"the loss is {value}: {where(model, x, outputs)}")
    return objective, value


def _let_go(parameters: list[tuple[str, Any]]) -> None:
    """Drop all gradients, those of parameters that the optimiser does not hold included."""
    for _, parameter in parameters:
        parameter.grad = None


def _check_gradients(parameters: list[tuple[str, Any]], value: float) -> None:
    # From the loss backwards, which is the order in which gradients go wrong.
    for name, parameter in reversed(parameters):
        if parameter.grad is not None and not finite(parameter.grad):
            raise NonFiniteError(
                f"the loss is {value:.6g}, but the gradient of {name} is not finite"
            )
