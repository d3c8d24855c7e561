"""Small things that tests of several rooms use."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def stand_in(value: Any, grad: Any = None, name: str = "") -> SimpleNamespace:
    """Return the least that an optimiser takes for a parameter."""
    return SimpleNamespace(value=value, grad=grad, name=name, touch=lambda: None)


def step_of(model: Any, optimizer: Any, loss: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return a training step as a person writes it."""

    def step(x, y):
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value

    return step
