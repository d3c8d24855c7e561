"""Schedules: the learning rate as a function of the step count.

Each function here returns a `Schedule`, which an optimiser calls with the number of steps taken so
far (0 for the first step). Any callable of that shape will do in its place; a `Schedule` also
prints as the call that made it and can be written into a run's configuration.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thriftgrad.errors import ConfigError
from thriftgrad.optim._checks import count, number

Rate = float | Callable[[int], float]


def constant(lr: float) -> "Schedule":
    """Keep one learning rate: rate(n) = lr.

    Raises:
        ConfigError: `lr` is not a number >= 0.

    Example:
        >>> constant(0.1)(1000)
        0.1
    """
    return Schedule(_constant, {"lr": number("lr", lr, 0.0)})


def exponential_decay(lr: float, factor: float, steps: int = 1) -> "Schedule":
    """Multiply the learning rate by `factor` over every `steps` steps, smoothly.

        rate(n) = lr * factor ** (n / steps)

    Raises:
        ConfigError: `lr` < 0, `factor` outside (0, 1], or `steps` < 1.

    Example:
        >>> rate = exponential_decay(0.8, factor=0.5, steps=10)
        >>> rate(0), rate(10), rate(20)
        (0.8, 0.4, 0.2)
    """
    return Schedule(
        _exponential_decay,
        {
            "lr": number("lr", lr, 0.0),
            "factor": number("factor", factor, 0.0, 1.0, "(]"),
            "steps": count("steps", steps),
        },
    )


def step_decay(lr: float, boundaries: Sequence[int], factor: float = 0.1) -> "Schedule":
    """Multiply the learning rate by `factor` at each boundary.

        rate(n) = lr * factor ** (how many boundaries are <= n)

    Raises:
        ConfigError: `lr` < 0, `factor` outside (0, 1], or boundaries that do not rise.

    Example:
        >>> rate = step_decay(0.8, boundaries=[100, 150], factor=0.5)
        >>> rate(99), rate(100), rate(150)
        (0.8, 0.4, 0.2)
    """
    steps = [count("boundaries", boundary) for boundary in boundaries]
    if sorted(set(steps)) != steps:
        raise ConfigError(f"boundaries = {steps}: expected step counts that rise")
    return Schedule(
        _step_decay,
        {
            "lr": number("lr", lr, 0.0),
            "boundaries": steps,
            "factor": number("factor", factor, 0.0, 1.0, "(]"),
        },
    )


def cosine(lr: float, steps: int, final: float = 0.0) -> "Schedule":
    """Fall from `lr` to `final` along half a cosine, and stay there.

        rate(n) = final + (lr - final) * (1 + cos(π min(n, steps) / steps)) / 2

    Raises:
        ConfigError: `lr` or `final` < 0, or `steps` < 1.

    Example:
        >>> rate = cosine(0.5, steps=100)
        >>> rate(0), rate(50), rate(100), rate(1000)
        (0.5, 0.25, 0.0, 0.0)

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR
    2017, equation 5, without restarts.
    """
    return Schedule(
        _cosine,
        {
            "lr": number("lr", lr, 0.0),
            "steps": count("steps", steps),
            "final": number("final", final, 0.0),
        },
    )


def warmup(then: Rate, steps: int) -> "Schedule":
    """Rise in a straight line over the first `steps` steps, then follow another schedule.

        rate(n) = then(0) * (n + 1) / steps   for n < steps,   then(n - steps) afterwards

    Args:
        then: the learning rate, or schedule of it, to arrive at.
        steps: length of the rise; the first step already has a rate above zero.

    Raises:
        ConfigError: `then` is neither a number >= 0 nor callable, or `steps` < 1.

    Example:
        >>> rate = warmup(cosine(0.5, steps=100), steps=4)
        >>> [rate(n) for n in (0, 1, 3, 4, 54, 104)]
        [0.125, 0.25, 0.5, 0.5, 0.25, 0.0]
        >>> warmup(0.5, steps=4)
        warmup(then=constant(lr=0.5), steps=4)

    Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017,
    section 2.2.
    """
    return Schedule(
        _warmup,
        {"then": then if callable(then) else constant(then), "steps": count("steps", steps)},
    )


@dataclass(frozen=True, repr=False)
class Schedule:
    """A learning rate as a function of the step count, which knows the call that made it.

    Example:
        >>> rate = cosine(0.5, steps=100)
        >>> rate
        cosine(lr=0.5, steps=100, final=0.0)
        >>> describe(rate)
        {'schedule': 'cosine', 'lr': 0.5, 'steps': 100, 'final': 0.0}
    """

    rule: Callable[..., float]
    arguments: dict[str, Any]

    def __call__(self, step: int) -> float:
        """Return the learning rate of step number `step`, counted from 0."""
        return self.rule(step, **self.arguments)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.name}({arguments})"

    @property
    def name(self) -> str:
        """The public function that makes this schedule."""
        return self.rule.__name__.removeprefix("_")


def describe(rate: Rate) -> Any:
    """Return a learning rate, or a schedule of it, as plain data that JSON can hold.

    A callable that is not from this module is described by its name alone.

    Example:
        >>> describe(warmup(0.5, steps=4))
        {'schedule': 'warmup', 'then': {'schedule': 'constant', 'lr': 0.5}, 'steps': 4}
    """
    if isinstance(rate, Schedule):
        arguments = {
            name: describe(value) if callable(value) else value
            for name, value in rate.arguments.items()
        }
        return {"schedule": rate.name, **arguments}
    if callable(rate):
        # Of an object that is not a function, its class: an address would differ in each run.
        named = rate if hasattr(rate, "__qualname__") else type(rate)
        return {"callable": f"{named.__module__}.{named.__qualname__}"}
    return rate


# The formulas, as functions of the module so that a schedule can be pickled.


def _constant(step: int, lr: float) -> float:
    return lr


def _exponential_decay(step: int, lr: float, factor: float, steps: int) -> float:
    return float(lr * factor ** (step / steps))


def _step_decay(step: int, lr: float, boundaries: Sequence[int], factor: float) -> float:
    return float(lr * factor ** sum(boundary <= step for boundary in boundaries))


def _cosine(step: int, lr: float, steps: int, final: float) -> float:
    return final + (lr - final) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def _warmup(step: int, then: Callable[[int], float], steps: int) -> float:
    return then(0) * (step + 1) / steps if step < steps else then(step - steps)
