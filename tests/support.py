"""Small things that tests of several rooms use."""

from types import SimpleNamespace
from typing import Any


def stand_in(value: Any, grad: Any = None, name: str = "") -> SimpleNamespace:
    """Return the least that an optimiser takes for a parameter."""
    return SimpleNamespace(value=value, grad=grad, name=name, touch=lambda: None)
