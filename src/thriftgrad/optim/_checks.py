"""Checks of what a person gives to an optimiser or a schedule: numbers and lists of parameters."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thriftgrad.errors import ConfigError


class ParameterLike(Protocol):
    """What an optimiser needs of a parameter: an array to change, its gradient, a name."""

    grad: NDArray[Any] | None

    @property
    def value(self) -> NDArray[Any]:
        """The array that an update writes into."""

    @property
    def name(self) -> str:
        """What messages and saved states call it; may be empty."""

    def touch(self) -> None:
        """Note that the value has been written into."""


def number(name: str, given: object, low: float, high: float = math.inf, ends: str = "[)") -> float:
    """Return `given` as a Python float if it lies between `low` and `high`.

    A Python float, because NumPy lets it take on the type of the array it meets; a NumPy scalar
    would turn a float32 parameter into float64.

    Raises:
        ConfigError: `given` is not a real number, or lies outside the interval.
    """
    if isinstance(given, Real) and not isinstance(given, bool):
        value = float(given)
        above = value >= low if ends[0] == "[" else value > low
        below = value <= high if ends[1] == "]" else value < high
        if above and below:
            return value
    raise ConfigError(
        f"{name} = {given!r}: expected a number in {ends[0]}{low:g}, {high:g}{ends[1]}"
    )


def count(name: str, given: object, low: int = 1) -> int:
    """Return `given` as a Python int if it is a whole number of at least `low`.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(given, Integral) and not isinstance(given, bool) and int(given) >= low:
        return int(given)
    raise ConfigError(f"{name} = {given!r}: expected a whole number of at least {low}")


def parameter_list(given: Iterable[ParameterLike], owner: str) -> list[ParameterLike]:
    """Return the parameters in order, each once: a weight used in two layers is one weight.

    Raises:
        ConfigError: nothing was given, or something that is not a floating-point parameter.
    """
    # A tensor can be iterated over, so a lone parameter would otherwise be taken for its rows.
    if hasattr(given, "grad") or not isinstance(given, Iterable):
        raise ConfigError(
            f"{owner}: parameters is a {type(given).__name__}; expected a list of parameters, "
            "such as model.parameters() or [parameter]"
        )
    found: dict[int, ParameterLike] = {}
    for position, item in enumerate(given):
        if not all(hasattr(item, needed) for needed in ("value", "grad", "name")):
            raise ConfigError(
                f"{owner}: parameters[{position}] is a {type(item).__name__}; expected a Parameter "
                "(wrap an array as Parameter(array, name=...))"
            )
        dtype = getattr(item.value, "dtype", None)
        if dtype is None or not np.issubdtype(dtype, np.floating):
            held = f"{dtype} values" if dtype else f"a {type(item.value).__name__}"
            raise ConfigError(
                f"{owner}: {label(item, position)} holds {held}; expected an array of a "
                "floating-point type"
            )
        found.setdefault(id(item), item)
    if not found:
        raise ConfigError(f"{owner}: the list of parameters is empty; there is nothing to train")
    return list(found.values())


def label(parameter: ParameterLike, position: int) -> str:
    """Name a parameter in a message."""
    return f"parameter {parameter.name!r}" if parameter.name else f"parameter number {position}"


def check_writable(parameter: ParameterLike, position: int) -> None:
    """Refuse a parameter whose array cannot be changed in place.

    Raises:
        ConfigError: the array is read-only.
    """
    value = parameter.value
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        raise ConfigError(
            f"{label(parameter, position)} holds a read-only array, and an update writes into it; "
            "give the parameter a copy of the array"
        )


def check_gradient(parameter: ParameterLike, position: int, gradient: object) -> None:
    """Refuse a gradient that is not an array like the parameter's own.

    Raises:
        ConfigError: not an array, or of another shape or type.
    """
    value, name = parameter.value, label(parameter, position)
    numpy_only = isinstance(value, np.ndarray)
    if not hasattr(gradient, "dtype") or (
        numpy_only and not isinstance(gradient, np.ndarray | np.generic)
    ):
        raise ConfigError(
            f"the gradient of {name} is a {type(gradient).__name__}; expected an array"
        )
    given = (gradient.shape, gradient.dtype)  # type: ignore[attr-defined]
    if given != (value.shape, value.dtype):
        raise ConfigError(
            f"the gradient of {name} has shape {given[0]} and type {given[1]}; "
            f"expected {value.shape} and {value.dtype}, as its value"
        )
