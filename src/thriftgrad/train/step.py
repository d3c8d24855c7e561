"""One training step: from a batch to updated weights, compiled, plainly or by a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thriftgrad.autodiff import Tensor
from thriftgrad.autodiff.recording import require
from thriftgrad.errors import ConfigError, NonFiniteError, RecordError
from thriftgrad.nn import Module
from thriftgrad.optim import Optimizer
from thriftgrad.train._diagnosis import all_finite, finite, values_of, where
from thriftgrad.train.evaluate import check_scalar, count_right, hits

if TYPE_CHECKING:
    from thriftgrad.compile.replay import Kernels
    from thriftgrad.memory import Plan

Array = NDArray[Any]
Loss = Callable[[Any, Any], Any]
Step = Callable[[Array, Array], tuple[float, float]]
"""One update of the weights from a batch (x, y); returns its mean loss and how many were right."""
_RECORDINGS = 10
"""So many are made in any case: for two sizes of batches, and for settings that a callback changes."""
WORTH_RECORDING = 100
"""Steps that save what a recording takes: 60 to 240 were measured, for networks of 30 to 700,000 weights."""


def make_step(
    model: Module,
    loss: Loss,
    optimizer: Optimizer,
    plan: Plan | None = None,
    *,
    compile: bool | None = False,
    kernels: Kernels = "numpy",
    one_hot: bool = False,
    ahead: float = math.inf,
    say: Callable[[str], None] = lambda how: None,
) -> Step:
    """Return the function that makes one update of the weights from a batch (x, y).

    It is plain, or goes by a plan. `compile` says whether a plain one is compiled, None: if it can be,
    and `ahead`, the number of steps to come, makes it worth while; `kernels`, with which kernels;
    `one_hot`, whether y has rows that are one-hot, all of them. `say` is told how steps are made, once
    that is known.
    """
    if plan is not None:
        say("eager, by the plan for its memory")
        return _planned(model, loss, optimizer, plan)
    step = _plain(model, loss, optimizer, one_hot)
    if compile is False:
        say("eager, as compile=False asks")
        return _counted(step)
    if compile is None and ahead < WORTH_RECORDING:
        say(f"eager, as {ahead} steps are too few to be worth a recording")
        return _counted(step)
    return _compiled(step, kernels, compile is True, say)


def _plain(model: Module, loss: Loss, optimizer: Optimizer, one_hot: bool) -> Callable[..., Any]:
    """Return the step as it is made plainly, and recorded: it returns the loss, and who was right."""
    parameters = model.named_parameters()
    forward: Any = model

    def bad_loss(value: Any, x: Array, outputs: Any) -> NonFiniteError:
        """Say where that began."""
        return NonFiniteError(f"the loss is {float(value)}: {where(model, x, outputs)}")

    def step(x: Array, y: Array) -> tuple[Any, Any]:
        outputs = forward(x)
        objective = _objective(loss, outputs, y)
        value = objective.value
        require(np.isfinite(value), bad_loss, value, x, values_of(outputs))
        objective.backward()
        _check_gradients(parameters, value)
        optimizer.step()
        _let_go(parameters)
        return value, hits(outputs, y, one_hot)

    step.__name__ = "training_step"
    return step


def _counted(step: Callable[..., Any]) -> Step:
    """Return a step that gives numbers."""

    def counted(x: Array, y: Array) -> tuple[float, float]:
        # The checks of loss, gradients and weights say more than NumPy's warnings would.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value, right = step(x, y)
        return float(value), right if type(right) is float else float(np.count_nonzero(right))

    return counted


def _compiled(
    step: Callable[..., Any], kernels: Kernels, required: bool, say: Callable[[str], None]
) -> Step:
    """Return the step compiled; unless that is required, as it is from the first time it cannot be."""
    from thriftgrad.compile import compile

    run: Any = compile(step, kernels=kernels)
    recordings = steps = 0

    def either(x: Array, y: Array) -> Any:
        nonlocal run, recordings, steps
        if run is step:
            return step(x, y)
        cannot: Any = None
        try:
            result = run(x, y)
        except Exception as error:
            # A model may well fail on stand-ins alone; what fails without them says so better.
            if required or not (run.failed or isinstance(error, RecordError)):
                raise
            cannot = str(error) or type(error).__name__
        if cannot:  # here, so that an error of the plain step is told without the other
            result, run = step(x, y), step
            say(f"eager, as it cannot be recorded: {cannot}")
            return result
        steps += 1
        if run.recordings != recordings:
            recordings = run.recordings
            if recordings == 1:
                say("compiled" if kernels == "numpy" else "compiled, with Numba's kernels")
            elif not required and recordings > max(_RECORDINGS, steps // 10):
                run = step
                say(
                    f"eager, as it cannot be recorded for long: {recordings} recordings in {steps} "
                    f"steps, since something that model or loss can reach changes all the time"
                )
        return result

    return _counted(either)


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
            result = _objective(loss, outputs, y)
            value = float(result.value)
            if not math.isfinite(value):
                raise NonFiniteError(f"the loss is {value}: {where(model, x, outputs)}")
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


def _objective(loss: Loss, outputs: Any, y: Array) -> Tensor:
    """Return the loss.

    Raises:
        ConfigError: it is not a scalar that records.
    """
    objective = loss(outputs, y)
    check_scalar(objective)
    if not isinstance(objective, Tensor):
        raise ConfigError(
            "loss(outputs, y) returned a plain number, which records nothing; expected a "
            "thriftgrad.Tensor: compute it from the model's output by NumPy's functions, without "
            ".value or .item()"
        )
    return objective


def _let_go(parameters: list[tuple[str, Any]]) -> None:
    """Drop all gradients, those of parameters that the optimiser does not hold included."""
    for _, parameter in parameters:
        parameter.grad = None


def _check_gradients(parameters: list[tuple[str, Any]], value: Any) -> None:
    # From the loss backwards, which is the order in which gradients go wrong.
    found = [(name, p.grad) for name, p in reversed(parameters) if p.grad is not None]
    names = [name for name, _ in found]

    def bad_gradient(value: Any, *gradients: Array) -> NonFiniteError:
        """Say which one it is."""
        bad = next(n for n, g in zip(names, gradients, strict=True) if not finite(g))
        return NonFiniteError(
            f"the loss is {float(value):.6g}, but the gradient of {bad} is not finite"
        )

    gradients = [gradient for _, gradient in found]
    require(all_finite(gradients), bad_gradient, value, *gradients)
